//! Floor 8: assembly of the process.

pub mod args;
pub mod argv_secrets;
pub mod bootstrap;
pub mod error_text;
pub mod files;
pub mod flags;
pub mod help;
pub mod host;
pub mod identity;
pub mod log_writer;
pub mod panic_hook;
pub mod process;
pub mod reload;
pub mod signal_command;
pub mod signals;
#[cfg(test)]
mod temporary;
pub mod unix_socket;
