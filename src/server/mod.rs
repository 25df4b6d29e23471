//! Assembly of the process: command line, surroundings, run, and answers about the server.

pub(crate) mod answers;
pub(crate) mod command;
pub(crate) mod host;
pub(crate) mod order;
pub(crate) mod run;
