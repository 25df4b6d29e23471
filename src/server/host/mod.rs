//! The surroundings of the process: cores, files, file-system sockets, log output, resource usage.

pub(crate) mod congestion;
pub(crate) mod error_text;
pub(crate) mod files;
pub(crate) mod identity;
pub(crate) mod jwt_store;
pub(crate) mod log_writer;
pub(crate) mod machine;
pub(crate) mod notify;
pub(crate) mod panic_hook;
pub(crate) mod pinning;
pub(crate) mod process_usage;
#[cfg(test)]
pub(crate) mod temporary;
pub(crate) mod unix_socket;
