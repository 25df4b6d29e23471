//! One core: a thread with its ring, its broker, its connections and its lanes.
//!
//! `core` is what a shard owns. The files below it each do one thing with that; `run` is the
//! thread.

mod events;
mod jetstream;
mod offload;
pub(crate) mod order;
pub(crate) mod pages;
mod pass;
mod pinning;
mod placement;
mod recorded;
pub(crate) mod records;
mod speaker;
mod spread;
pub(crate) mod system_door;
mod system_publisher;
pub(crate) mod system_request;

mod core;

mod closed;
mod connections;
mod describe;
mod pass_records;
mod snapshot;
mod system;
mod tick;
mod walk;

mod carry_out;
mod run;

pub(crate) use jetstream::JetStreamSeed;
pub(crate) use offload::Offload;
pub(crate) use order::{AccountRequest, AskForAccount, Generation, ShardHandle, ShardOrder};
pub(crate) use run::{ShardSeed, run};
