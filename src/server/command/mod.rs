//! The command line: flags, help, signals sent to another process, checks of a store.

pub(crate) mod args;
pub(crate) mod argv_secrets;
pub(crate) mod flags;
pub(crate) mod help;
#[cfg(test)]
mod pages;
pub(crate) mod signal_command;
pub(crate) mod store_command;
