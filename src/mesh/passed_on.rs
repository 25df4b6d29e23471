//! Messages that a shard passes on: queue messages that found no member here and look for one
//! elsewhere.
//!
//! A drain makes them, and a drain waits for nobody: what finds no room is staged here. It stays
//! short, because arrivals do not count as delivered while much of what followed from them is
//! staged, so their publishers wait. That alone would let shards wait for each other in a circle.
//! So messages have a class, the number of times that they were passed on, and each class has slots
//! of its own on each lane: what waits in one class waits only for the next to be delivered, and
//! messages of the last are not passed on.

use std::collections::VecDeque;
use std::time::Instant;

use super::lanes::{Batch, CLASSES, LaneClass};
use crate::base::ids::ShardId;
use crate::base::limits::{BATCH_BYTES, PASSED_ON_SLOTS};
use crate::broker::frame;
use crate::broker::link::{Source, Target};
use crate::protocol::message::Message;

/// The messages of one class that wait for room on one lane.
///
/// Invariants: `bytes` is the size of the staged batches; all but the last of them are full.
#[derive(Default)]
pub(super) struct PassedOn {
    staged: VecDeque<Batch>,
    bytes: usize,
    /// Batches pushed since the start.
    pushed: u64,
}

/// For each class from 1 on.
pub(super) type AllPassedOn = [PassedOn; CLASSES - 1];

impl PassedOn {
    /// Appends a message of shard `own` that was read at `read_at`, and returns the bytes that it
    /// takes.
    pub(super) fn append(
        &mut self,
        source: &Source,
        target: &Target<'_>,
        message: &Message<'_>,
        own: ShardId,
        read_at: Instant,
    ) -> usize {
        let size = frame::size(target, message);
        let has_room = |batch: &Batch| batch.bytes.len() + size <= BATCH_BYTES;
        if !self.staged.back().is_some_and(has_room) {
            let class = LaneClass::of(target);
            self.staged.push_back(Batch { bytes: Vec::new(), work: 0, read_at, stamp: 0, class });
        }
        let batch = self.staged.back_mut().expect("there is one now");
        let before = batch.bytes.len();
        frame::append(&mut batch.bytes, source, target, message, own, &mut frame::Last::default());
        let added = batch.bytes.len() - before;
        self.bytes += added;
        added
    }

    /// Takes the next batch, if the peer has delivered so many that there is a slot for it.
    pub(super) fn next(&mut self, delivered: u64) -> Option<Batch> {
        if !self.has_slot(delivered) {
            return None;
        }
        let batch = self.staged.pop_front()?;
        self.bytes -= batch.bytes.len();
        self.pushed += 1;
        Some(batch)
    }

    pub(super) fn has_slot(&self, delivered: u64) -> bool {
        self.pushed - delivered < PASSED_ON_SLOTS as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.staged.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Batches on their way.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn under_way(&self, delivered: u64) -> usize {
        usize::try_from(self.pushed - delivered).expect("no more than slots")
    }

    #[cfg(any(test, debug_assertions))]
    pub(super) fn check_invariants(&self) {
        let sum: usize = self.staged.iter().map(|batch| batch.bytes.len()).sum();
        assert_eq!(self.bytes, sum, "bytes of messages to be passed on");
        assert!(self.staged.iter().all(|batch| !batch.bytes.is_empty()));
    }
}
