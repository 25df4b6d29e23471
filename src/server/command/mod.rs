//! The command line: flags, help, signals sent to another process, checks of a store.

pub mod args;
pub mod argv_secrets;
pub mod flags;
pub mod help;
pub mod signal_command;
pub mod store_command;
