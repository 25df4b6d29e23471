//! Sockets: the only way in and out for bytes. Listeners, connections, TLS, and the run loop with
//! its turns.

pub(crate) mod busy_poll;
pub(crate) mod client_certificate;
pub(crate) mod codec;
pub(crate) mod congestion;
pub(crate) mod connection;
pub(crate) mod doorbell;
mod duplicate;
pub(crate) mod frames;
pub(crate) mod listener;
pub(crate) mod operations;
mod quota;
pub(crate) mod read_buffer;
pub(crate) mod runtime;
pub(crate) mod server_key;
pub(crate) mod session;
pub(crate) mod signatures;
pub(crate) mod tls;
pub(crate) mod tls_config;

/// Shared with the integration tests.
#[cfg(test)]
#[allow(unreachable_pub)]
#[path = "../../tests/support/certificates.rs"]
mod test_certificates;
