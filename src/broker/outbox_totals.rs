//! The sums over all outboxes of a shard, and the common rule for slow peers.

use std::cell::Cell;
use std::rc::Rc;

use crate::base::histogram::DurationHistogram;
use crate::base::turn_clock::TurnClock;

/// Sums over all outboxes of a shard, closed ones included. A message is counted here when its send
/// begins, or at the end of its connection: reading the sum costs nothing per connection or
/// message.
pub struct OutboxTotals {
    pub(super) clock: Rc<TurnClock>,
    /// For each chunk the kernel took in full: since the turn in which its first bytes were read,
    /// on this shard or another, or made.
    pub queued: DurationHistogram,
    pub messages: Cell<u64>,
    pub bytes: Cell<u64>,
    /// Times a producer was asked to wait.
    pub stalls: Cell<u64>,
    /// `no_fast_producer_stall`: producers never wait, and a peer with more than three quarters of
    /// the bound pending misses messages.
    pub drops_for_slow: Cell<bool>,
    /// Messages that were dropped so.
    pub dropped: Cell<u64>,
}

impl OutboxTotals {
    pub fn new(clock: Rc<TurnClock>) -> Self {
        Self {
            clock,
            queued: DurationHistogram::default(),
            messages: Cell::new(0),
            bytes: Cell::new(0),
            stalls: Cell::new(0),
            drops_for_slow: Cell::new(false),
            dropped: Cell::new(0),
        }
    }
}
