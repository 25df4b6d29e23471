//! The command line: flags, help, signals sent to another process.

pub mod args;
pub mod argv_secrets;
pub mod flags;
pub mod help;
pub mod signal_command;
