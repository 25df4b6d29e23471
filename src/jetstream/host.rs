//! The engine's surroundings: the shard that it lives on, or the simulator.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// A task of the host's thread.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Everything that the engine asks of the thread it runs on.
pub(crate) trait Host {
    /// The time of day in nanoseconds since 1970.
    fn now_ns(&self) -> i64;

    fn spawn(&self, task: Task);

    fn sleep(&self, duration: Duration) -> Task;

    /// Ends a slice of work: others get their turn.
    fn yield_turn(&self) -> Task;

    /// Takes what other shards sent, interest above all: messages that are published after it come
    /// later than that.
    fn before_batch(&self);
}

/// The server's settings as far as the engine acts on them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub server_name: String,
    pub server_id: String,
    /// The version that clients are told.
    pub version: String,
    pub domain: Option<String>,
    /// Unknown fields of requests are refused.
    pub is_strict: bool,
    /// Bytes of all streams in memory, and on disk.
    pub memory_bytes_max: i64,
    pub store_bytes_max: i64,
    /// 0 = none.
    pub duplicate_window_ns_max: i64,
    pub ack_pending_max: i64,
    pub request_batch_max: i64,
    /// Negative = unlimited.
    pub default_consumers_max: i64,
    pub payload_bytes_max: usize,
    /// Bytes that an answer of many messages has at most, unless its request says otherwise.
    pub pending_bytes_max: usize,
    /// For monitoring: the store's folder, and the time after which nothing acknowledged is lost; none
    /// = it is on disk by then.
    pub store_folder: String,
    pub sync_interval_ns: Option<u64>,
    pub unique_tag: Option<String>,
}
