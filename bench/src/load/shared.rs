//! The state that all threads of a throughput run share.

use crate::load::tracker::Tracker;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A counter on cache lines of its own, so that threads do not slow each other down by counting.
#[repr(align(128))]
#[derive(Default)]
pub struct Counter(pub AtomicU64);

/// Returns the sum of all counters.
pub fn total(counters: &[Counter]) -> u64 {
    // Relaxed: statistics; each thread returns its exact number.
    counters.iter().map(|counter| counter.0.load(Ordering::Relaxed)).sum()
}

pub struct Shared {
    pub published: Vec<Counter>,
    pub delivered: Vec<Counter>,
    pub stop: AtomicBool,
    /// Set if a connection failed: nobody waits for messages that cannot come.
    pub abandon: AtomicBool,
    pub messages_per_publisher: Option<u64>,
    pub raw: bool,
    pub queue: bool,
    /// Set once, when every publisher is done: the number of messages each has written.
    pub published_final: OnceLock<Vec<u64>>,
}

impl Shared {
    pub fn publishing_done(&self) -> bool {
        self.published_final.get().is_some()
    }

    /// Returns the number of messages that a subscriber (for a queue group: all of its members)
    /// should get.
    pub fn expected_of(&self, tracker: &Tracker) -> u64 {
        let published = self.published_final.get().map_or(&[][..], Vec::as_slice);
        match tracker {
            Tracker::Order(tracker) => tracker.expected_count(published),
            Tracker::Group(_) => published.iter().sum(),
            // Without stamps there is only one subject, as `throughput::run` ensures.
            Tracker::Number(_) => published.iter().sum(),
        }
    }

    /// Returns the number of messages so far, for this subscriber or its group.
    pub fn received_for(&self, index: usize, received: u64) -> u64 {
        if !self.queue {
            return received;
        }
        self.delivered[index].0.store(received, Ordering::Relaxed);
        total(&self.delivered)
    }
}
