//! The receiving ends of one peer's lanes: batches in the order in which they were pushed, none
//! before its source is done with all that it pushed at the same time.

use std::collections::VecDeque;

use super::lanes::{Batch, CLASSES, LaneClass, Note, TargetEnd};

/// Invariants: stamps in `taken` never go down; the first `ready` of them are no later than what
/// the source said it has completed, and at most one comes behind those. On the lane and in `taken`
/// together there are no more than the lane has slots of all classes: its source waits for what is
/// delivered.
pub(super) struct Inbound {
    end: TargetEnd,
    /// Batches out of the ring, oldest first.
    taken: VecDeque<Batch>,
    /// Number of those that may be delivered as of the last look.
    ready: usize,
    /// Number of batches that the drain's first look found and that are not delivered yet.
    owed: usize,
    /// Number of batches that were there before the last look: only these are delivered before the
    /// next.
    sure: usize,
    /// Notes that are to be applied before what the last look found is delivered.
    owed_notes: usize,
    /// Batches of each class that were delivered since the start, and how many of them count as
    /// delivered for the source.
    delivered: [u64; CLASSES],
    acknowledged: [u64; CLASSES],
    /// The source was not woken for some that were acknowledged.
    is_untold: bool,
}

impl Inbound {
    pub(super) fn new(end: TargetEnd) -> Self {
        Self {
            end,
            taken: VecDeque::new(),
            ready: 0,
            owed: 0,
            sure: 0,
            owed_notes: 0,
            delivered: [0; CLASSES],
            acknowledged: [0; CLASSES],
            is_untold: false,
        }
    }

    #[cfg(any(test, debug_assertions))]
    pub(super) fn check_invariants(&self) {
        assert!(self.taken.iter().is_sorted_by_key(|batch| batch.stamp), "stamps go down");
        assert!(self.sure <= self.ready && self.owed <= self.ready);
        assert!(self.taken.len() <= self.ready + 1, "more than one comes behind");
        let complete = self.end.complete.value();
        let mut ready = self.taken.iter().take(self.ready);
        assert!(ready.all(|batch| batch.stamp <= complete), "taken before its source was done");
    }

    /// Begins a drain: all that is there now will be delivered. Gives the number of batches.
    pub(super) fn look_first(&mut self) -> usize {
        self.look();
        self.owed = self.ready;
        self.owed
    }

    /// Looks for batches that bound what may be delivered of those found before: gives the stamp of
    /// the oldest.
    pub(super) fn look_again(&mut self) -> u64 {
        self.sure = self.ready;
        self.look();
        match self.ready > self.sure {
            true => self.taken[self.sure].stamp,
            false => u64::MAX,
        }
    }

    /// True if something that the drain's first look found is not delivered yet.
    pub(super) fn owes(&self) -> bool {
        self.owed > 0
    }

    /// The stamp of the oldest batch that was there before the last look; the latest of all if
    /// there is none.
    pub(super) fn oldest_stamp(&self) -> u64 {
        match self.sure {
            0 => u64::MAX,
            _ => self.taken[0].stamp,
        }
    }

    /// Takes what is visible now.
    fn look(&mut self) {
        if self.ready == self.taken.len() && self.end.messages.is_empty() {
            return;
        }
        let complete = self.end.complete.value();
        loop {
            if let Some(batch) = self.taken.get(self.ready) {
                if batch.stamp > complete {
                    break;
                }
                self.ready += 1;
            } else if let Some(batch) = self.end.messages.pop() {
                self.taken.push_back(batch);
            } else {
                break;
            }
        }
    }

    /// Batches that may be delivered as of the last look.
    pub(super) fn ready(&self) -> usize {
        self.ready
    }

    /// Batches and notes that wait now.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.taken.len() + self.end.messages.ready_count(), self.end.notes.ready_count())
    }

    /// Owes the notes that are there now, once those owed before are applied, and none that comes
    /// meanwhile: a peer may add them as fast as they are taken, and others wait.
    pub(super) fn owe_notes(&mut self) {
        if self.owed_notes == 0 {
            self.owed_notes = self.end.notes.ready_count();
        }
    }

    /// The next of the notes owed.
    pub(super) fn next_note(&mut self) -> Option<Note> {
        self.owed_notes = self.owed_notes.checked_sub(1)?;
        self.end.notes.pop()
    }

    pub(super) fn owes_notes(&self) -> bool {
        self.owed_notes > 0
    }

    /// The oldest batch of those that were there before the last look.
    pub(super) fn next_batch(&mut self) -> Option<Batch> {
        self.sure = self.sure.checked_sub(1)?;
        self.ready -= 1;
        self.owed = self.owed.saturating_sub(1);
        self.taken.pop_front()
    }

    /// A batch is delivered: sends its emptied buffer home; if there is no room it is freed here.
    pub(super) fn give_back(&mut self, batch: Batch) {
        let Batch { mut bytes, class, .. } = batch;
        self.delivered[class.index()] += 1;
        if class == LaneClass::default() {
            bytes.clear();
            drop(self.end.returned.push(bytes));
        }
    }

    /// Lets the source count as delivered what is, of the classes that may.
    pub(super) fn acknowledge(&mut self, may: impl Fn(usize) -> bool) {
        for class in 0..CLASSES {
            // The source's thread reads it: it is written for something new only.
            if self.acknowledged[class] != self.delivered[class] && may(class) {
                self.acknowledged[class] = self.delivered[class];
                self.end.delivered.raise(class, self.delivered[class]);
                self.is_untold = true;
            }
        }
    }

    /// Wakes the source, if it waits for room, for what was acknowledged since the last time.
    pub(super) fn tell_source(&mut self) {
        if std::mem::take(&mut self.is_untold) {
            self.wake_waiting_source();
        }
    }

    /// There is room again: wakes the source if it waits for some.
    pub(super) fn wake_waiting_source(&self) {
        if self.end.waiting.must_wake() {
            (self.end.wake_source)();
        }
    }
}
