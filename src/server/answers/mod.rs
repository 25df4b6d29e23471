//! Answers about the server: the monitoring port and the requests under `$SYS`.

pub(crate) mod endpoints;
pub(crate) mod gather;
pub(crate) mod http;
mod stream;
pub(crate) mod system_queue;
pub(crate) mod system_service;
mod traces;
