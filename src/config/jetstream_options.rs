//! The typed options of JetStream: of the server, and of one account.

use std::path::PathBuf;
use std::time::Duration;

/// The `jetstream` block of the configuration file, and the flags that belong to it.
#[derive(Clone, Debug, PartialEq)]
pub struct JetStreamOptions {
    pub is_enabled: bool,
    /// The folder in which the store's own folder lies; None = below the system's for temporary
    /// files.
    pub store_dir: Option<PathBuf>,
    /// Bytes of streams in memory; None = three quarters of the machine's memory.
    pub memory_bytes_max: Option<i64>,
    /// Bytes of streams on disk; None = three quarters of the free space at the start.
    pub store_bytes_max: Option<i64>,
    pub sync: SyncOption,
    /// Shown in INFO and in answers; its prefix is mapped to that of the API.
    pub domain: Option<String>,
    /// Unknown fields of requests are refused.
    pub is_strict: bool,
    /// Shown in monitoring.
    pub unique_tag: Option<String>,
    pub limits: JetStreamLimitOptions,
}

impl Default for JetStreamOptions {
    fn default() -> Self {
        Self {
            is_enabled: false,
            store_dir: None,
            memory_bytes_max: None,
            store_bytes_max: None,
            sync: SyncOption::Unset,
            domain: None,
            is_strict: true,
            unique_tag: None,
            limits: JetStreamLimitOptions::default(),
        }
    }
}

/// The moment at which acknowledgements of stored messages leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncOption {
    /// Not in the file: once the messages are on disk, as with `Always`.
    #[default]
    Unset,
    Always,
    /// At once, as nats-server does with an interval.
    Every(Duration),
}

/// Limits that hold for every account; 0 = none, as in nats-server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JetStreamLimitOptions {
    pub ack_pending_max: i64,
    pub request_batch_max: i64,
    /// Consumers of a stream whose own configuration says nothing; 0 = the default, negative =
    /// unlimited.
    pub default_consumers_max: i64,
    pub duplicate_window: Option<Duration>,
    pub batch: BatchLimitOptions,
}

/// Limits of batches of messages; 0 = the default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BatchLimitOptions {
    pub per_stream_max: i64,
    pub total_max: i64,
    pub messages_max: i64,
    pub timeout: Option<Duration>,
}

/// Limits of an account; -1 = none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JetStreamAccountOptions {
    pub memory_bytes_max: i64,
    pub store_bytes_max: i64,
    pub streams_max: i64,
    /// Of each stream.
    pub consumers_max: i64,
    pub ack_pending_max: i64,
    pub memory_stream_bytes_max: i64,
    pub store_stream_bytes_max: i64,
    /// Each stream has to set its own limit of bytes.
    pub needs_bytes_max: bool,
}

impl Default for JetStreamAccountOptions {
    fn default() -> Self {
        Self {
            memory_bytes_max: -1,
            store_bytes_max: -1,
            streams_max: -1,
            consumers_max: -1,
            ack_pending_max: -1,
            memory_stream_bytes_max: -1,
            store_stream_bytes_max: -1,
            needs_bytes_max: false,
        }
    }
}
