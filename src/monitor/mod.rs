//! The answers of the monitoring port.
//!
//! Pure: snapshots of shards and facts about the server go in, bytes come out. Requests arrive
//! through `server::answers::http`, snapshots are gathered by `shard::snapshot`. Names and types of
//! all JSON fields are nats-server's (server/monitor.go), because tools decode them strictly.

pub(crate) mod accounts;
pub(crate) mod closed;
pub(crate) mod connz;
pub(crate) mod dashboard;
pub(crate) mod endpoints;
pub(crate) mod http;
pub(crate) mod jetstream;
pub(crate) mod jsz;
pub(crate) mod metrics;
pub(crate) mod others;
pub(crate) mod query;
pub(crate) mod requested;
pub(crate) mod snapshot;
pub(crate) mod subsz;
pub(crate) mod text;
pub(crate) mod varz;
mod window;
