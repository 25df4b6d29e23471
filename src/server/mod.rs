//! Floor 8: assembly of the process.

pub mod answers;
pub mod command;
pub mod host;
pub mod run;
