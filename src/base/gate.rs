//! A single-threaded "wait until a number is reached": the only local wait primitive of a shard.
//!
//! The number only grows. Whoever makes progress calls `advance_to`; a waiter is woken once the
//! number is at least the one it waits for, those who wait for less and for longer first. Where many
//! would be woken for what is enough for a few, `admit` wakes some and leaves the others for the next
//! time. Dropping a waiting future takes its waiter away.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// A number that grows, and the tasks that wait for it.
#[derive(Default)]
pub struct Gate {
    value: Cell<u64>,
    /// By the number waited for, and a number for each of those who wait for the same.
    /// Taken out while it is looked at and put back: nothing else runs in between.
    waiters: Cell<BTreeMap<(u64, u64), Waker>>,
}

/// The place of one who waits, taken away when this is dropped.
struct Place<'a> {
    gate: &'a Gate,
    key: Option<(u64, u64)>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.gate.with_waiters(|waiters| waiters.remove(&key));
        }
    }
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
        if value > self.value.get() {
            self.value.set(value);
            self.wake(usize::MAX);
        }
    }

    pub fn advance_by(&self, amount: u64) {
        self.advance_to(self.value.get().saturating_add(amount));
    }

    /// Raises the number by one, and wakes at most `count` of the waiters that it satisfies. The others
    /// wait for the next call: there must be one while `has_waiters`.
    pub fn admit(&self, count: usize) {
        self.value.set(self.value.get().saturating_add(1));
        self.wake(count);
    }

    /// True if somebody waits that was not woken.
    pub fn has_waiters(&self) -> bool {
        self.with_waiters(|waiters| !waiters.is_empty())
    }

    /// Opens the gate for every wait, present and future: what was waited for no longer exists.
    pub fn open_for_good(&self) {
        self.advance_to(u64::MAX);
    }

    fn wake(&self, count: usize) {
        for _ in 0..count {
            let value = self.value.get();
            let ready = self.with_waiters(|waiters| {
                let first = waiters.first_entry()?;
                (first.key().0 <= value).then(|| first.remove())
            });
            match ready {
                Some(waker) => waker.wake(),
                None => return,
            }
        }
    }

    fn with_waiters<T>(&self, look: impl FnOnce(&mut BTreeMap<(u64, u64), Waker>) -> T) -> T {
        let mut waiters = self.waiters.take();
        let found = look(&mut waiters);
        // An empty map may hold memory, and there is a gate for each connection.
        if !waiters.is_empty() {
            self.waiters.set(waiters);
        }
        found
    }

    fn poll_reached(&self, until: u64, place: &mut Place<'_>, context: &Context<'_>) -> Poll<()> {
        if self.value.get() >= until {
            return Poll::Ready(());
        }
        self.with_waiters(|waiters| {
            if let Some(waker) = place.key.and_then(|key| waiters.get_mut(&key)) {
                waker.clone_from(context.waker());
                return;
            }
            let last = waiters.range((until, 0)..=(until, u64::MAX)).next_back();
            let key = (until, last.map_or(0, |(key, _)| key.1 + 1));
            waiters.insert(key, context.waker().clone());
            place.key = Some(key);
        });
        Poll::Pending
    }

    /// Waits until the number is at least `until`.
    pub async fn reached(&self, until: u64) {
        let mut place = Place { gate: self, key: None };
        poll_fn(|context| self.poll_reached(until, &mut place, context)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct CountedWake(AtomicUsize);

    impl Wake for CountedWake {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One that waits for a gate, and how often it was woken.
    struct Waiter<'a> {
        wait: Pin<Box<dyn Future<Output = ()> + 'a>>,
        wakes: Arc<CountedWake>,
    }

    impl<'a> Waiter<'a> {
        fn new(gate: &'a Gate, until: u64) -> Self {
            let wait = Box::pin(gate.reached(until));
            Self { wait, wakes: Arc::default() }
        }

        fn poll(&mut self) -> Poll<()> {
            let waker = Waker::from(self.wakes.clone());
            self.wait.as_mut().poll(&mut Context::from_waker(&waker))
        }

        fn wakes(&self) -> usize {
            self.wakes.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_gate_wakes_exactly_those_it_satisfies() {
        let gate = Gate::new();
        let (mut near, mut far) = (Waiter::new(&gate, 5), Waiter::new(&gate, 9));
        assert!(far.poll().is_pending() && near.poll().is_pending() && near.poll().is_pending());
        gate.advance_by(5);
        assert_eq!((near.wakes(), far.wakes()), (1, 0));
        assert!(near.poll().is_ready() && far.poll().is_pending());
        gate.open_for_good();
        assert_eq!(far.wakes(), 1);
        gate.advance_by(7);
        assert!(far.poll().is_ready() && Waiter::new(&gate, u64::MAX).poll().is_ready());
    }

    #[test]
    fn who_no_longer_waits_leaves_nothing_behind() {
        let gate = Gate::new();
        let mut waiters: Vec<Waiter<'_>> = (0..10).map(|_| Waiter::new(&gate, 1)).collect();
        assert!(waiters.iter_mut().all(|waiter| waiter.poll().is_pending()));
        drop(waiters.drain(3..));
        let (mut late, left) = (Waiter::new(&gate, 1), waiters.len());
        assert!(late.poll().is_pending());
        assert_eq!(gate.with_waiters(|waiters| waiters.len()), left + 1);
        gate.advance_by(1);
        assert!(waiters.iter().chain([&late]).all(|waiter| waiter.wakes() == 1));
        assert!(!gate.has_waiters());
    }

    #[test]
    fn some_are_admitted_at_a_time_in_the_order_in_which_they_came_and_none_is_forgotten() {
        let gate = Gate::new();
        let mut waiters: Vec<Waiter<'_>> = (0..10).map(|_| Waiter::new(&gate, 1)).collect();
        assert!(waiters.iter_mut().all(|waiter| waiter.poll().is_pending()));
        let mut woken = Vec::new();
        while gate.has_waiters() {
            gate.admit(4);
            // Who comes meanwhile is behind all others.
            if woken.is_empty() {
                waiters.push(Waiter::new(&gate, 2));
                assert!(waiters[10].poll().is_pending());
            }
            woken.push(waiters.iter().map(Waiter::wakes).sum::<usize>());
            assert!(
                waiters.iter().map(Waiter::wakes).is_sorted_by(|before, after| before >= after)
            );
        }
        assert_eq!(woken, [4, 8, 11]);
        assert!(waiters.iter_mut().all(|waiter| waiter.poll().is_ready()));
    }
}
