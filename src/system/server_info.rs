//! The `server` object of every answer and event, which says which server it comes from.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;

use crate::base::time_text::timestamp;
use crate::config::options::{FEATURE_FLAGS, Options};
use crate::protocol::nats::handshake::Info;

/// Fields and order as nats-server's `ServerInfo`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ServerInfo {
    name: String,
    host: String,
    id: String,
    ver: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    feature_flags: BTreeMap<&'static str, bool>,
    jetstream: bool,
    flags: u64,
    seq: u64,
    time: String,
}

impl ServerInfo {
    /// `sequence` increases by one with each message that carries it.
    pub(crate) fn new(info: &Info, options: &Options, sequence: u64, now: SystemTime) -> Self {
        Self {
            name: info.server_name.clone(),
            host: info.host.clone(),
            id: info.server_id.clone(),
            ver: info.version.clone(),
            tags: options.server_tags.clone(),
            metadata: options.server_metadata.iter().cloned().collect(),
            feature_flags: FEATURE_FLAGS.into(),
            jetstream: false,
            flags: 0,
            seq: sequence,
            time: timestamp(now),
        }
    }
}
