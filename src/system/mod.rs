//! Floor 7: the server's own subjects, `$SYS.>`: what is asked there, and what the server tells there.
//!
//! Pure: subjects and bytes of requests, and facts of the server go in, subjects and JSON come out. How
//! requests arrive is the business of `broker::service` and `shard::system`, who answers them that of
//! `server::system_service`. Names and types of all JSON fields are nats-server's (server/events.go), because
//! tools decode them strictly.

pub(crate) mod answer;
pub(crate) mod events;
pub(crate) mod filter;
pub(crate) mod request;
pub(crate) mod schedule;
pub(crate) mod server_info;
