//! The life of the server: start, signals, reload, end.

mod account_source;
mod accounts;
mod all_shards;
mod announce;
mod apply_reload;
pub(crate) mod bootstrap;
mod claims;
mod event_loop;
pub(crate) mod heartbeat;
pub(crate) mod jetstream;
mod lifetime;
mod placement;
pub(crate) mod process;
pub(crate) mod reload;
mod running;
pub(crate) mod signals;
mod surplus;
