//! The receiving ends of one peer's lanes.

use super::lanes::{Batch, Note, TargetEnd};

/// See the module's words.
pub struct Inbound {
    end: TargetEnd,
    snapshot: usize,
}

impl Inbound {
    pub fn new(end: TargetEnd) -> Self {
        Self { end, snapshot: 0 }
    }

    /// Remembers how many batches are visible now.
    pub fn snapshot(&mut self) -> usize {
        self.snapshot = self.end.messages.ready_count();
        self.snapshot
    }

    pub fn snapshot_taken(&self) -> usize {
        self.snapshot
    }

    /// Batches and notes that wait now.
    pub fn waiting(&self) -> (usize, usize) {
        (self.end.messages.ready_count(), self.end.notes.ready_count())
    }

    pub fn next_note(&mut self) -> Option<Note> {
        self.end.notes.pop()
    }

    pub fn next_batch(&mut self) -> Option<Batch> {
        self.end.messages.pop()
    }

    /// Sends a batch's emptied buffer home; if there is no room it is freed here.
    pub fn give_back(&mut self, mut bytes: Vec<u8>) {
        bytes.clear();
        drop(self.end.returned.push(bytes));
    }

    /// There is room again: wakes the source if it waits for some.
    pub fn wake_waiting_source(&self) {
        if self.end.waiting.must_wake() {
            (self.end.wake_source)();
        }
    }
}
