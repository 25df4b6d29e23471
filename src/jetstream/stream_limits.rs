//! The limits of a stream as the store holds them.

use super::stream_config::{Discard, PersistMode, StorageKind, StreamConfig};
use crate::storage::stream::StreamLimits;

impl StreamConfig {
    /// The part of the configuration that the store acts on.
    pub(crate) fn limits(&self) -> StreamLimits {
        // -1 stands for none here, 0 there.
        let or_none = |limit: i64| u64::try_from(limit).unwrap_or(0);
        StreamLimits {
            messages_max: or_none(self.messages_max),
            bytes_max: or_none(self.bytes_max),
            age_ns_max: self.age_ns_max.max(0),
            messages_per_subject_max: or_none(self.messages_per_subject_max),
            refuses_new: self.discard == Discard::New,
            refuses_new_per_subject: self.discard_new_per_subject,
            is_memory: self.storage == StorageKind::Memory,
            duplicate_window_ns: self.duplicate_window_ns.max(0),
            has_times_to_live: self.allow_ttl,
            has_rollups: self.allow_rollup && !self.deny_purge,
            marker_ttl_ns: self.marker_ttl_ns.max(0),
            is_async: self.persist_mode == PersistMode::Async,
        }
    }
}
