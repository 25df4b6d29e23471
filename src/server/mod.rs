//! Floor 8: assembly of the process.

pub mod error_text;
pub mod files;
pub mod host;
pub mod identity;
pub mod log_writer;
pub mod panic_hook;
pub mod signal_command;
pub mod signals;
#[cfg(test)]
mod temporary;
pub mod unix_socket;
