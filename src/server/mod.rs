//! Floor 8: assembly of the process.

pub mod args;
pub mod argv_secrets;
pub mod bootstrap;
pub mod error_text;
pub mod files;
pub mod flags;
pub mod gather;
pub mod heartbeat;
pub mod help;
pub mod host;
pub mod identity;
pub mod log_writer;
pub mod monitor_answers;
pub mod monitor_http;
mod monitor_stream;
pub mod notify;
pub mod panic_hook;
pub mod process;
pub mod process_usage;
pub mod reload;
pub mod signal_command;
pub mod signals;
#[cfg(test)]
mod temporary;
pub mod unix_socket;
