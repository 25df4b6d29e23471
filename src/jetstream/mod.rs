//! Floor 7: JetStream. Streams over the store, their consumers, and the API that clients manage
//! them with.
//!
//! Everything here belongs to one shard and sees two things of it: its broker, from which messages
//! and requests come into mailboxes, and its store. Nothing here knows which shard that is.

mod account;
mod advisories;
mod ages;
mod api;
pub(crate) mod consumer;
mod consumer_advisories;
pub(crate) mod consumer_checks;
pub(crate) mod consumer_config;
mod consumer_details;
mod consumer_ledger;
mod consumer_letters;
mod consumer_rules;
mod consumer_start;
mod consumers;
mod delivery;
mod details;
mod direct_get;
mod directory;
pub(crate) mod engine;
pub(crate) mod error;
pub(crate) mod figures;
pub(crate) mod host;
mod ingest;
mod interest;
pub(crate) mod json;
mod leaving;
mod message_request;
pub(crate) mod names;
mod publish_headers;
mod reads;
pub(crate) mod report;
mod rules;
mod stream;
pub(crate) mod stream_checks;
pub(crate) mod stream_config;
mod stream_limits;
pub(crate) mod versioning;

pub(crate) use versioning::API_LEVEL;
