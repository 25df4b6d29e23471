//! Floor 5: the only way to a socket.

pub mod client_certificate;
pub mod codec;
pub mod connection;
pub mod doorbell;
pub mod listener;
pub mod operations;
mod quota;
pub mod read_buffer;
pub mod runtime;
pub mod server_key;
pub mod session;
pub mod signatures;
pub mod tls;
pub mod tls_config;

/// Shared with the integration tests.
#[cfg(test)]
#[path = "../../tests/support/certificates.rs"]
mod test_certificates;
