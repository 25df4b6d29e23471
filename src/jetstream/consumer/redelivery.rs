//! Messages that were delivered and may have to be delivered again: when, and in which order.
//!
//! The time of each follows from its entry among the pending ones (`ConsumerState`), so nothing
//! here is durable, and a restart changes no time. Entries of messages that are no longer pending
//! may stay in `due` and in `queue`; whoever comes to one passes it over.
//!
//! Invariants: each pending message with a wait is in `due`, under its own time, or queued; `queued`
//! are the entries of `queue` that count.

use std::collections::{BTreeSet, HashSet, VecDeque};

use super::rules::Rules;
use crate::base::limits::EXHAUSTED_MESSAGES_MAX;
use crate::storage::consumer_state::{ConsumerState, PendingMessage};

/// Entries that no longer count and are passed over in one call.
const STALE_MAX: usize = 64;

/// The schedule of a consumer's redeliveries.
#[derive(Debug, Default)]
pub(crate) struct Redelivery {
    /// The time at which a wait is over, and the stream sequence.
    due: BTreeSet<(i64, u64)>,
    queue: VecDeque<u64>,
    queued: HashSet<u64>,
    /// Messages that were delivered as often as they may be.
    exhausted: BTreeSet<u64>,
    /// Pending messages that were delivered more than once.
    repeated: usize,
    /// The latest time at which any wait was to end.
    last_due_ns: i64,
}

impl Redelivery {
    /// The schedule of a state, with the rules as they are now.
    pub(crate) fn of(state: &ConsumerState, rules: &Rules) -> Self {
        let mut redelivery = Self::default();
        for (sequence, message) in state.pending() {
            redelivery.schedule(*sequence, message, rules);
            redelivery.repeated += usize::from(message.redelivery_count > 0);
        }
        redelivery
    }

    /// The same as of changed rules.
    pub(crate) fn replan(&mut self, state: &ConsumerState, rules: &Rules) {
        self.due.clear();
        for (sequence, message) in state.pending() {
            if !self.queued.contains(sequence) {
                self.schedule(*sequence, message, rules);
            }
        }
    }

    fn schedule(&mut self, sequence: u64, message: &PendingMessage, rules: &Rules) {
        if let Some(due_ns) = due_ns(message, rules) {
            self.due.insert((due_ns, sequence));
            self.last_due_ns = self.last_due_ns.max(due_ns);
        }
    }

    /// The latest time at which any wait was to end.
    pub(crate) fn last_due_ns(&self) -> i64 {
        self.last_due_ns
    }

    /// Messages that count as redelivered.
    pub(crate) fn redelivered(&self) -> usize {
        self.repeated + self.exhausted.len()
    }

    /// Messages that are to be delivered again now.
    pub(crate) fn queued(&self) -> usize {
        self.queued.len()
    }

    /// True if this one was delivered as often as it may be.
    pub(crate) fn is_exhausted(&self, sequence: u64) -> bool {
        self.exhausted.contains(&sequence)
    }

    /// Notes a delivery: `before` is the message's entry before it, `after` the one of now.
    pub(crate) fn delivered(
        &mut self,
        sequence: u64,
        before: Option<PendingMessage>,
        after: &PendingMessage,
        rules: &Rules,
    ) {
        if let Some(before) = before {
            self.unschedule(sequence, &before, rules);
            self.repeated += usize::from(before.redelivery_count == 0);
        }
        self.schedule(sequence, after, rules);
    }

    fn unschedule(&mut self, sequence: u64, message: &PendingMessage, rules: &Rules) {
        self.queued.remove(&sequence);
        if let Some(due_ns) = due_ns(message, rules) {
            self.due.remove(&(due_ns, sequence));
        }
        if self.queued.is_empty() {
            self.queue.clear();
        }
    }

    /// Forgets a message that is done.
    pub(crate) fn done(&mut self, sequence: u64, message: &PendingMessage, rules: &Rules) {
        self.repeated -= usize::from(message.redelivery_count > 0);
        self.unschedule(sequence, message, rules);
    }

    /// Forgets a message that was delivered as often as it may be, but for reports.
    pub(crate) fn exhaust(&mut self, sequence: u64, message: &PendingMessage, rules: &Rules) {
        self.done(sequence, message, rules);
        self.exhausted.insert(sequence);
        if self.exhausted.len() > EXHAUSTED_MESSAGES_MAX {
            self.exhausted.pop_first();
        }
    }

    /// Forgets exhausted messages below a sequence, a few at a time.
    pub(crate) fn forget_below(&mut self, sequence: u64) {
        for _ in 0..STALE_MAX {
            match self.exhausted.first() {
                Some(first) if *first < sequence => self.exhausted.pop_first(),
                _ => return,
            };
        }
    }

    /// A later acknowledgement of a message that was exhausted.
    pub(crate) fn forget(&mut self, sequence: u64) {
        self.exhausted.remove(&sequence);
    }

    /// The message waits anew, with another time.
    pub(crate) fn postponed(
        &mut self,
        sequence: u64,
        before: &PendingMessage,
        after: &PendingMessage,
        rules: &Rules,
    ) {
        if let Some(due_ns) = due_ns(before, rules) {
            self.due.remove(&(due_ns, sequence));
        }
        if !self.queued.contains(&sequence) {
            self.schedule(sequence, after, rules);
        }
    }

    /// Takes a message off the queue.
    pub(crate) fn unqueue(&mut self, sequence: u64) {
        self.queued.remove(&sequence);
    }

    /// Queues a message; false if it is queued already.
    pub(crate) fn enqueue(
        &mut self,
        sequence: u64,
        message: &PendingMessage,
        rules: &Rules,
    ) -> bool {
        if let Some(due_ns) = due_ns(message, rules) {
            self.due.remove(&(due_ns, sequence));
        }
        let is_new = self.queued.insert(sequence);
        if is_new {
            self.queue.push_back(sequence);
        }
        is_new
    }

    /// The first of the queue that is still pending.
    pub(crate) fn first(&mut self, state: &ConsumerState) -> Option<u64> {
        while let Some(sequence) = self.queue.front() {
            if self.queued.contains(sequence) {
                if state.pending().contains_key(sequence) {
                    return Some(*sequence);
                }
                self.queued.remove(sequence);
            }
            self.queue.pop_front();
        }
        None
    }

    /// The next time at which a wait may be over.
    pub(crate) fn next_due_ns(&self) -> i64 {
        self.due.first().map_or(i64::MAX, |(due_ns, _)| *due_ns)
    }

    /// Takes the messages whose wait is over, at most so many, lowest sequence first.
    pub(crate) fn take_due(
        &mut self,
        now_ns: i64,
        count_max: usize,
        state: &ConsumerState,
        rules: &Rules,
    ) -> Vec<u64> {
        let mut found = Vec::new();
        for _ in 0..count_max {
            match self.due.first().copied() {
                Some((due_ns, sequence)) if due_ns <= now_ns => {
                    self.due.pop_first();
                    let message = state.pending().get(&sequence);
                    let is_its = |message| self::due_ns(message, rules) == Some(due_ns);
                    if message.is_some_and(is_its) && !self.queued.contains(&sequence) {
                        found.push(sequence);
                    }
                }
                _ => break,
            }
        }
        found.sort_unstable();
        found
    }

    /// Drops entries of messages that are done, a few at a time: one acknowledgement may end many.
    pub(crate) fn drop_stale(&mut self, state: &ConsumerState) {
        for _ in 0..STALE_MAX {
            match self.due.first() {
                Some((_, sequence)) if !state.pending().contains_key(sequence) => {
                    self.due.pop_first();
                }
                _ => return,
            }
        }
    }

    /// Counts the messages that were delivered more than once, after many went at a time.
    pub(crate) fn lower_repeated(&mut self, count: usize) {
        self.repeated -= count;
    }

    #[cfg(test)]
    pub(crate) fn check_invariants(&self, state: &ConsumerState, rules: &Rules) {
        let repeated = state.pending().values().filter(|message| message.redelivery_count > 0);
        assert_eq!(self.repeated, repeated.count());
        for (sequence, message) in state.pending() {
            let is_queued = self.queued.contains(sequence);
            assert!(!is_queued || self.queue.contains(sequence), "queued, but not in the queue");
            if let Some(due_ns) = due_ns(message, rules) {
                assert!(is_queued || self.due.contains(&(due_ns, *sequence)), "{sequence}");
            }
        }
    }
}

fn due_ns(message: &PendingMessage, rules: &Rules) -> Option<i64> {
    Some(message.time_ns.saturating_add(rules.wait_ns(message.redelivery_count)?))
}
