//! Floor 8: assembly of the process.

pub mod error_text;
pub mod log_writer;
#[cfg(test)]
mod temporary;
