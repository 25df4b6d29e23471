//! The life of the server: start, signals, reload, end.

pub mod bootstrap;
pub mod heartbeat;
pub mod process;
pub mod reload;
pub mod signals;
