//! Floor 6: what the server tells about itself: the answers of the monitoring port.
//!
//! Pure: snapshots of shards and facts of the server go in, bytes come out. How requests arrive and how
//! snapshots are gathered is the business of `server::answers::http` and `shard::snapshot`. Names and types
//! of all JSON fields are nats-server's (server/monitor.go), because tools decode them strictly.

pub mod accounts;
pub mod closed;
pub mod connz;
pub mod dashboard;
pub mod endpoints;
pub mod http;
pub mod metrics;
pub mod others;
pub mod query;
pub mod requested;
pub mod snapshot;
pub mod subsz;
pub mod text;
pub mod varz;
