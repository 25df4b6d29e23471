//! The surroundings of the process: cores, files, sockets of the file system, log output, its own usage.

pub mod error_text;
pub mod files;
pub mod identity;
pub mod log_writer;
pub mod machine;
pub mod notify;
pub mod panic_hook;
pub mod pinning;
pub mod process_usage;
#[cfg(test)]
pub(crate) mod temporary;
pub mod unix_socket;
