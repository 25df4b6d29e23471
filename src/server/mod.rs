//! Floor 8: assembly of the process.

pub mod args;
pub mod bootstrap;
pub mod error_text;
pub mod flags;
pub mod help;
pub mod log_writer;
pub mod process;
#[cfg(test)]
mod temporary;
//! Floor 8: the process.
