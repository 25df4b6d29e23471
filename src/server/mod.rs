//! Floor 8: the process.

pub mod args;
pub mod flags;
pub mod help;
