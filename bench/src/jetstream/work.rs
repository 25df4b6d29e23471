//! The kinds of work, and the numbers that describe one.

use crate::load::event_loop::Pacer;
use crate::load::schedule::Arrival;
use crate::units::{CoreList, number_text, size_text};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Work {
    /// Each publisher has up to --in-flight messages without an acknowledgement
    Publish,
    /// Each publisher waits for the acknowledgement before it sends the next message
    PublishSync,
    /// Open loop: the time from when a message was due to its acknowledgement, at --rate
    PublishOpen,
    /// Pull requests that overlap, as a client library's callback makes them; each message is
    /// acknowledged
    Consume,
    /// Pull requests of --batch messages, one after the other; each message is acknowledged
    Fetch,
    /// Each client reads its whole stream in order, without acknowledgements
    Ordered,
    /// The server pushes, with flow control; several clients form a queue group
    Push,
    /// Key-value puts, each client waiting for its acknowledgement
    KvPut,
    /// Key-value gets by direct requests, each client waiting for its answer
    KvGet,
    /// Publishers as in `publish` and consumers as in `consume` on the same streams
    Mixed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Storage {
    File,
    Memory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum AckPolicy {
    /// Every message is acknowledged
    Explicit,
    /// Nothing is
    None,
}

/// A run as the flags describe it.
#[derive(Clone, Debug)]
pub struct JetStreamPlan {
    pub work: Work,
    /// Publishers, consuming clients, or clients of a bucket.
    pub client_count: usize,
    /// Consuming clients of `mixed`.
    pub consumer_count: usize,
    pub stream_count: usize,
    /// Subjects of each stream, or keys of each bucket.
    pub subject_count: usize,
    pub payload_size: usize,
    pub in_flight: usize,
    /// Messages per second of all publishers, in the open loop.
    pub rate: f64,
    pub arrival: Arrival,
    /// Messages that are stored, in all streams together, before they are consumed.
    pub message_count: u64,
    pub batch: u64,
    pub ack: AckPolicy,
    pub ack_pending_max: u64,
    pub storage: Storage,
    /// Reads everything back after publishing.
    pub verify: bool,
    pub pacer: Pacer,
    pub warmup: Duration,
    pub duration: Duration,
    pub pin_load: CoreList,
    pub load_threads: usize,
    pub late_limit: Duration,
    pub late_share_max: f64,
    pub seed: u64,
}

impl Work {
    /// Returns true if messages are stored first and consumed in the measured time.
    pub fn reads_stored(self) -> bool {
        matches!(self, Work::Consume | Work::Fetch | Work::Ordered | Work::Push)
    }

    pub fn is_key_value(self) -> bool {
        matches!(self, Work::KvPut | Work::KvGet)
    }

    /// Returns true if there are publishers in the measured time.
    pub fn stores(self) -> bool {
        !self.reads_stored() && self != Work::KvGet
    }

    fn name(self) -> &'static str {
        match self {
            Work::Publish => "publish",
            Work::PublishSync => "publish-sync",
            Work::PublishOpen => "publish-open",
            Work::Consume => "consume",
            Work::Fetch => "fetch",
            Work::Ordered => "ordered",
            Work::Push => "push",
            Work::KvPut => "kv-put",
            Work::KvGet => "kv-get",
            Work::Mixed => "mixed",
        }
    }
}

impl JetStreamPlan {
    /// Returns the number of messages or requests that one client may have without an answer.
    pub fn window(&self) -> usize {
        match self.work {
            Work::Publish | Work::Mixed => self.in_flight,
            Work::PublishOpen => usize::MAX,
            _ => 1,
        }
    }

    /// Returns a short form of the workload, with whatever makes figures incomparable.
    pub fn label(&self) -> String {
        let mut label = format!("{} {}", self.work.name(), size_text(self.payload_size as u64));
        let mut add = |text: String| label.push_str(&format!(", {text}"));
        let clients = match self.work {
            Work::Mixed => {
                format!("{} publishers, {} consumers", self.client_count, self.consumer_count)
            }
            _ if self.client_count == 1 => "1 client".to_string(),
            _ => format!("{} clients", self.client_count),
        };
        add(clients);
        match self.work {
            Work::Publish | Work::Mixed => add(format!("{} in flight", self.in_flight)),
            Work::PublishOpen => add(format!("{}/s", number_text(self.rate))),
            _ => {}
        }
        if self.work == Work::PublishOpen && self.arrival == Arrival::Poisson {
            add("poisson".to_string());
        }
        if self.work.reads_stored() {
            add(format!("{} messages", self.message_count));
        }
        if matches!(self.work, Work::Consume | Work::Fetch | Work::Ordered | Work::Mixed) {
            add(format!("batch {}", self.batch));
        }
        if self.ack == AckPolicy::None && self.work != Work::Ordered && !self.work.is_key_value() {
            add("no acknowledgement".to_string());
        }
        if self.stream_count > 1 {
            add(format!("{} streams", self.stream_count));
        }
        if self.work.is_key_value() {
            add(format!("{} keys", self.subject_count));
        } else if self.subject_count > 1 {
            add(format!("{} subjects", self.subject_count));
        }
        if self.storage == Storage::Memory {
            add("memory storage".to_string());
        }
        label
    }
}
