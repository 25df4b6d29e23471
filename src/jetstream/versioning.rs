//! The level of the API that streams and consumers need, in their metadata.

use std::collections::BTreeMap;

use super::consumer_config::{AckPolicy, ConsumerConfig, PriorityPolicy};
use super::json::timestamp::Timestamp;
use super::stream_config::{PersistMode, StreamConfig};

/// The level of nats-server's API that this server has: clients ask for features by it.
pub(crate) const API_LEVEL: u32 = 5;

/// A header with the lowest level that a request can be answered at.
pub(crate) const REQUIRED_LEVEL_HEADER: &[u8] = b"Nats-Required-Api-Level";

const REQUIRED_LEVEL_KEY: &str = "_nats.req.level";
const SERVER_LEVEL_KEY: &str = "_nats.level";
const SERVER_VERSION_KEY: &str = "_nats.ver";

/// True if a request with this value of [`REQUIRED_LEVEL_HEADER`] can be answered.
pub(crate) fn is_level_met(header_value: &[u8]) -> bool {
    if header_value.is_empty() {
        return true;
    }
    let text = std::str::from_utf8(header_value).unwrap_or("");
    text.parse::<i64>().is_ok_and(|level| level <= i64::from(API_LEVEL))
}

/// The lowest level of the API at which all of a stream's settings are known.
pub(crate) fn required_stream_level(config: &StreamConfig) -> i64 {
    if config.allow_batched {
        return 4;
    }
    let has_level_two = config.allow_counter
        || config.allow_atomic
        || config.allow_schedules
        || config.persist_mode == PersistMode::Async;
    match has_level_two {
        true => 2,
        false => i64::from(config.allow_ttl || config.marker_ttl_ns > 0),
    }
}

/// The same for a consumer.
pub(crate) fn required_consumer_level(config: &ConsumerConfig) -> i64 {
    if config.ack_policy == AckPolicy::FlowControl {
        return 4;
    }
    let has_priorities = config.priority_policy != PriorityPolicy::None
        || config.pinned_ttl_ns != 0
        || !config.priority_groups.is_empty();
    let is_paused = config.pause_until.is_some_and(|until| !Timestamp::is_zero(until));
    i64::from(has_priorities || is_paused)
}

/// Notes the level in metadata that is stored. Values that a client gave for such keys are dropped.
pub(crate) fn set_required_level(metadata: &mut BTreeMap<String, String>, level: i64) {
    remove_server_keys(metadata);
    metadata.insert(REQUIRED_LEVEL_KEY.into(), level.to_string());
}

/// Gives metadata the stored level of `stored`, so that both can be compared.
pub(crate) fn copy_required_level(
    metadata: &mut BTreeMap<String, String>,
    stored: &BTreeMap<String, String>,
) {
    remove_server_keys(metadata);
    match stored.get(REQUIRED_LEVEL_KEY) {
        Some(level) => metadata.insert(REQUIRED_LEVEL_KEY.into(), level.clone()),
        None => metadata.remove(REQUIRED_LEVEL_KEY),
    };
}

/// Adds the facts about the server to metadata for an answer; they are not stored.
pub(crate) fn add_server_facts(metadata: &mut BTreeMap<String, String>, server_version: &str) {
    metadata.insert(SERVER_LEVEL_KEY.into(), API_LEVEL.to_string());
    metadata.insert(SERVER_VERSION_KEY.into(), server_version.into());
}

fn remove_server_keys(metadata: &mut BTreeMap<String, String>) {
    metadata.remove(SERVER_LEVEL_KEY);
    metadata.remove(SERVER_VERSION_KEY);
}
