//! How many operations a shard handed to its driver, and how many came back.
//!
//! Counted here, not read from the ring: monoio does not show its ring, and the kernel's own
//! figures (`/proc/self/fdinfo`) are printed under the lock that the shard needs to submit,
//! together with an entry for every poll in flight. On the epoll driver the same operations are
//! counted.

use std::cell::Cell;

/// One kind of operation. A cancelled one comes back too.
#[derive(Debug, Default)]
pub struct OperationCount {
    submitted: Cell<u64>,
    completed: Cell<u64>,
}

impl OperationCount {
    #[inline]
    pub fn submit(&self) {
        self.submitted.set(self.submitted.get() + 1);
    }

    #[inline]
    pub fn complete(&self) {
        self.completed.set(self.completed.get() + 1);
    }

    /// Submitted, and of these completed.
    pub fn totals(&self) -> (u64, u64) {
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
