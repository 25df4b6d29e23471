//! Floor 9: assembly of the process.

pub(crate) mod answers;
pub(crate) mod command;
pub(crate) mod host;
pub(crate) mod order;
pub(crate) mod run;
