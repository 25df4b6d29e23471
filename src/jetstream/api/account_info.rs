//! The request about an account: its limits, and what it uses of them.

use serde::Serialize;

use super::super::directory::Directory;
use super::super::engine::Engine;
use super::super::stream_config::StorageKind;
use super::super::versioning::API_LEVEL;
use super::Reply;
use crate::config::jetstream_options::JetStreamAccountOptions;
use crate::storage::disk::Disk;

/// An account's use and limits, with nats-server's names.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct AccountJson {
    pub memory: u64,
    pub storage: u64,
    pub reserved_memory: u64,
    pub reserved_storage: u64,
    pub streams: usize,
    pub consumers: usize,
    pub limits: LimitsJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    pub api: ApiJson,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct LimitsJson {
    pub max_memory: i64,
    pub max_storage: i64,
    pub max_streams: i64,
    pub max_consumers: i64,
    pub max_ack_pending: i64,
    pub memory_max_stream_bytes: i64,
    pub storage_max_stream_bytes: i64,
    pub max_bytes_required: bool,
}

impl From<&JetStreamAccountOptions> for LimitsJson {
    fn from(limits: &JetStreamAccountOptions) -> Self {
        Self {
            max_memory: limits.memory_bytes_max,
            max_storage: limits.store_bytes_max,
            max_streams: limits.streams_max,
            max_consumers: limits.consumers_max,
            max_ack_pending: limits.ack_pending_max,
            memory_max_stream_bytes: limits.memory_stream_bytes_max,
            storage_max_stream_bytes: limits.store_stream_bytes_max,
            max_bytes_required: limits.needs_bytes_max,
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct ApiJson {
    pub level: u32,
    pub total: u64,
    pub errors: u64,
}

/// Bytes that streams of an account reserve by their limits, in memory and on disk.
pub(crate) fn reserved(directory: &Directory) -> (u64, u64) {
    let (mut memory, mut store) = (0u64, 0u64);
    for stream in directory.streams.borrow().values() {
        let config = stream.config();
        let bytes = u64::try_from(config.bytes_max).unwrap_or(0);
        match config.storage {
            StorageKind::Memory => memory = memory.saturating_add(bytes),
            StorageKind::File => store = store.saturating_add(bytes),
        }
    }
    (memory, store)
}

impl<D: Disk> Engine<D> {
    pub(crate) fn account_json(&self, directory: &Directory) -> AccountJson {
        let (reserved_memory, reserved_storage) = reserved(directory);
        let usage = directory.account.usage();
        let streams = directory.streams.borrow();
        let limits = directory.account.limits.borrow();
        AccountJson {
            memory: usage.memory,
            storage: usage.store,
            reserved_memory,
            reserved_storage,
            streams: streams.len(),
            consumers: streams.values().map(|stream| stream.consumers.shown()).sum(),
            limits: LimitsJson::from(limits.as_ref().unwrap_or(&Default::default())),
            domain: self.settings().domain.clone(),
            api: ApiJson {
                level: API_LEVEL,
                total: directory.api_total.get(),
                errors: directory.api_errors.get(),
            },
        }
    }

    pub(super) fn account_info(&self, directory: &Directory) -> Reply {
        let after = self.store.borrow().lane().last_commit().min(self.listed());
        Reply::new("account_info_response", &self.account_json(directory), after)
    }
}
