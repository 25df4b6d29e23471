//! The server's own subjects, `$SYS.>`: requests that it answers, and events that it publishes.
//!
//! Pure: subjects and bytes of requests, and facts about the server go in, subjects and JSON come
//! out. Requests arrive through `broker::service` and `shard::system`, and are answered by
//! `server::answers::system_service`. Names and types of all JSON fields are nats-server's
//! (server/events.go), because tools decode them strictly.

pub(crate) mod answer;
pub(crate) mod claims;
pub(crate) mod events;
pub(crate) mod filter;
pub(crate) mod latency;
pub(crate) mod request;
pub(crate) mod schedule;
pub(crate) mod server_info;
pub(crate) mod trace;
