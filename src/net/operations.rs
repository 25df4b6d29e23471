//! Counts the operations that a shard gave to its driver, and those that completed.
//!
//! They are counted here instead of read from the ring: monoio does not expose its ring, and the
//! kernel's own figures (`/proc/self/fdinfo`) are printed under the lock that the shard needs to
//! submit, along with an entry for every poll in flight. The epoll driver is counted in the same
//! way.

use std::cell::Cell;

/// Operations of one kind. A cancelled one completes too.
#[derive(Debug, Default)]
pub(crate) struct OperationCount {
    submitted: Cell<u64>,
    completed: Cell<u64>,
}

impl OperationCount {
    #[inline]
    pub(crate) fn submit(&self) {
        self.submitted.set(self.submitted.get() + 1);
    }

    #[inline]
    pub(crate) fn complete(&self) {
        self.completed.set(self.completed.get() + 1);
    }

    /// Returns the number submitted, and how many of these completed.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.submitted.get(), self.completed.get())
    }
}

/// One per shard, shared by its tasks.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    pub reads: OperationCount,
    pub writes: OperationCount,
    /// Waits for a listener or the doorbell.
    pub polls: OperationCount,
}
