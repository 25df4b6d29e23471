//! Answers about the server: the monitoring port and the requests under `$SYS`.

pub mod endpoints;
pub mod gather;
pub mod http;
mod stream;
pub mod system_queue;
pub mod system_service;
