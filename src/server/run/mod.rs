//! The life of the server: start, signals, reload, end.

mod announce;
pub(crate) mod bootstrap;
pub(crate) mod heartbeat;
pub(crate) mod process;
pub(crate) mod reload;
pub(crate) mod signals;
