//! A single-threaded "wait until a number is reached": the only local wait primitive of a shard.
//!
//! The number only grows. Whoever makes progress calls `advance_to`; a waiter is woken once the
//! number is at least the one it waits for. Dropping a waiting future is safe: at worst its waker
//! is woken for nothing.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// A number that grows, and the tasks that wait for it.
#[derive(Default)]
pub struct Gate {
    value: Cell<u64>,
    /// Taken out while it is looked at and put back: nothing else runs in between.
    waiters: Cell<Vec<(u64, Waker)>>,
}

impl Gate {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn value(&self) -> u64 {
        self.value.get()
    }

    /// Raises the number to `value` (lower values are ignored) and wakes the waiters it satisfies.
    pub fn advance_to(&self, value: u64) {
        if value <= self.value.get() {
            return;
        }
        self.value.set(value);
        let mut waiters = self.waiters.take();
        let ready: Vec<(u64, Waker)> =
            waiters.extract_if(.., |(until, _)| *until <= value).collect();
        self.waiters.set(waiters);
        ready.into_iter().for_each(|(_, waker)| waker.wake());
    }

    pub fn advance_by(&self, amount: u64) {
        self.advance_to(self.value.get().saturating_add(amount));
    }

    /// Opens the gate for every wait, present and future: what was waited for no longer exists.
    pub fn open_for_good(&self) {
        self.advance_to(u64::MAX);
    }

    pub fn poll_reached(&self, until: u64, context: &mut Context<'_>) -> Poll<()> {
        if self.value.get() >= until {
            return Poll::Ready(());
        }
        let mut waiters = self.waiters.take();
        // A task that polls again has the same waker: one entry is enough for it.
        match waiters.iter_mut().find(|(_, waker)| waker.will_wake(context.waker())) {
            Some(entry) => entry.0 = until,
            None => waiters.push((until, context.waker().clone())),
        }
        self.waiters.set(waiters);
        Poll::Pending
    }

    /// Waits until the number is at least `until`.
    pub async fn reached(&self, until: u64) {
        poll_fn(|context| self.poll_reached(until, context)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    struct CountedWake(AtomicUsize);

    impl Wake for CountedWake {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_gate_wakes_exactly_those_it_satisfies() {
        let gate = Gate::new();
        let near = Arc::new(CountedWake(AtomicUsize::new(0)));
        let far = Arc::new(CountedWake(AtomicUsize::new(0)));
        let near_waker = Waker::from(near.clone());
        let far_waker = Waker::from(far.clone());
        assert!(gate.poll_reached(5, &mut Context::from_waker(&near_waker)).is_pending());
        assert!(gate.poll_reached(9, &mut Context::from_waker(&far_waker)).is_pending());
        gate.advance_by(5);
        assert_eq!(near.0.load(Ordering::Relaxed), 1);
        assert_eq!(far.0.load(Ordering::Relaxed), 0);
        assert!(gate.poll_reached(5, &mut Context::from_waker(&near_waker)).is_ready());
        gate.open_for_good();
        assert_eq!(far.0.load(Ordering::Relaxed), 1);
        gate.advance_by(7);
        assert!(gate.poll_reached(u64::MAX, &mut Context::from_waker(&far_waker)).is_ready());
    }
}
