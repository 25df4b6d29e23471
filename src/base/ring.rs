//! The means by which shards reach each other: a bounded SPSC ring, a watermark and two one-bit
//! signals.
//!
//! The ring is `rtrb` under our names. The signals are here because atomics are confined to this
//! file, `counters`, `log` and `net::doorbell`. Each says which store pairs with which load.

use std::sync::Arc;

use super::ring_parts::{AtomicBool, AtomicU64, Ordering, fence, rtrb};

/// The end that pushes.
pub struct RingSource<T> {
    producer: rtrb::Producer<T>,
}

/// The end that pops.
pub struct RingTarget<T> {
    consumer: rtrb::Consumer<T>,
}

/// A ring of `capacity` slots.
pub(crate) fn ring<T>(capacity: usize) -> (RingSource<T>, RingTarget<T>) {
    let (producer, consumer) = rtrb::RingBuffer::new(capacity);
    (RingSource { producer }, RingTarget { consumer })
}

impl<T> RingSource<T> {
    /// Appends an item.
    ///
    /// # Errors
    /// Returns the item if the ring is full; the caller keeps it and tries again.
    pub fn push(&mut self, item: T) -> Result<(), T> {
        self.producer.push(item).map_err(|rtrb::PushError::Full(item)| item)
    }

    /// Returns the number of pushes that cannot fail; more slots may be free by the time of the
    /// push.
    pub fn free_slots(&self) -> usize {
        self.producer.slots()
    }

    pub fn is_full(&self) -> bool {
        self.producer.is_full()
    }
}

impl<T> RingTarget<T> {
    pub fn pop(&mut self) -> Option<T> {
        self.consumer.pop().ok()
    }

    /// Returns the number of items visible now. Every push that happened before the call is
    /// counted.
    pub fn ready_count(&self) -> usize {
        self.consumer.slots()
    }

    pub fn is_empty(&self) -> bool {
        self.consumer.is_empty()
    }

    /// Returns true once the other end is gone; whatever it pushed is still there, and visible.
    pub fn is_abandoned(&self) -> bool {
        let is_abandoned = self.consumer.is_abandoned();
        // Pairs with the release with which the other end drops its reference after its last push.
        fence(Ordering::Acquire);
        is_abandoned
    }
}

/// "Something is waiting for you": raised by any shard, lowered by one.
///
/// `raise` is a Release exchange after a ring push, `take` an Acquire exchange before the rings are
/// read: who lowers the signal sees the pushes of all who raised it. (With a store, a second raise
/// would hide the first: the taker would read only the second's value and need not see the first's
/// push.) A push that comes after the taker's exchange raises it again, so nothing is missed; at
/// worst a taker finds the rings already empty.
#[derive(Clone, Default)]
pub struct Signal {
    raised: Arc<AtomicBool>,
}

impl Signal {
    pub fn raise(&self) {
        self.raised.swap(true, Ordering::Release);
    }

    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }

    /// Lowers the signal; true if it was raised.
    pub fn take(&self) -> bool {
        // A plain load first: the answer is usually no, and a load keeps the cache line shared.
        self.raised.load(Ordering::Relaxed) && self.raised.swap(false, Ordering::AcqRel)
    }
}

/// A number that one shard raises and all others read: everything up to it has been done.
///
/// `raise` is a Release store, `value` an Acquire load: who reads a number sees every push, on
/// whatever ring, that came before it was raised to that number or a higher one.
#[derive(Clone, Default)]
pub struct Watermark {
    value: Arc<Line>,
}

/// On a cache line of its own: its neighbours would be written by other threads.
#[derive(Default)]
#[repr(align(128))]
struct Line(AtomicU64);

impl Watermark {
    /// Raises the number to `value`. To be called by one thread only.
    pub fn raise(&self, value: u64) {
        self.value.0.store(value, Ordering::Release);
    }

    pub fn value(&self) -> u64 {
        self.value.0.load(Ordering::Acquire)
    }
}

/// Several such numbers that the same shard raises, on one cache line.
#[derive(Clone)]
pub struct Watermarks<const COUNT: usize> {
    values: Arc<Lines<COUNT>>,
}

#[repr(align(128))]
struct Lines<const COUNT: usize>([AtomicU64; COUNT]);

impl<const COUNT: usize> Default for Watermarks<COUNT> {
    fn default() -> Self {
        Self { values: Arc::new(Lines(std::array::from_fn(|_| AtomicU64::default()))) }
    }
}

impl<const COUNT: usize> Watermarks<COUNT> {
    /// As `Watermark::raise`.
    pub fn raise(&self, index: usize, value: u64) {
        self.values.0[index].store(value, Ordering::Release);
    }

    /// As `Watermark::value`.
    pub fn value(&self, index: usize) -> u64 {
        self.values.0[index].load(Ordering::Acquire)
    }
}

/// The parked flag of a shard. A sleeper that announces sleep, looks once more, and only then
/// sleeps, never misses a push.
///
/// The sleeper stores `parked`, fences, and reads the rings. A waker pushes to a ring, fences, and
/// reads `parked`. Both fences are SeqCst, so in their one order either the sleeper's fence comes
/// second and its look finds the push, or the waker's comes second and finds `parked` set. Release
/// and Acquire alone would allow both to read the old value, on x86 too (the store may wait in the
/// store buffer).
#[derive(Clone, Default)]
pub struct ParkFlag {
    parked: Arc<AtomicBool>,
}

impl ParkFlag {
    /// Announces sleep. The caller must check everything it sleeps for once more after this.
    pub fn announce(&self) {
        self.parked.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Takes the announcement back. Cheap if there was none.
    pub fn retract(&self) {
        if self.parked.load(Ordering::Relaxed) {
            // An exchange like the wakers', so that each comes before or after this: a plain store
            // would do, but loom takes a store and another thread's exchange for unordered.
            self.parked.swap(false, Ordering::Relaxed);
        }
    }

    /// Called by another shard after its pushes; returns true if the caller has to ring the
    /// doorbell. Of many callers one gets true per sleep.
    pub fn must_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        // A compare-exchange, so that a late waker writes nothing: every false written here answers
        // an announcement.
        self.parked.load(Ordering::Relaxed)
            && self
                .parked
                .compare_exchange(true, false, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_ring_gives_the_item_back() {
        let (mut source, mut target) = ring(2);
        assert_eq!(source.push(1), Ok(()));
        assert_eq!(source.push(2), Ok(()));
        assert_eq!(source.push(3), Err(3));
        assert_eq!(target.ready_count(), 2);
        assert_eq!(target.pop(), Some(1));
        assert_eq!(source.push(3), Ok(()));
        assert_eq!((target.pop(), target.pop(), target.pop()), (Some(2), Some(3), None));
    }

    #[test]
    fn an_abandoned_ring_still_holds_what_was_pushed() {
        let (mut source, mut target) = ring(1);
        assert!(!target.is_abandoned());
        assert_eq!(source.push(1), Ok(()));
        drop(source);
        assert!(target.is_abandoned());
        assert_eq!(target.pop(), Some(1));
    }

    #[test]
    fn one_waker_per_sleep() {
        let flag = ParkFlag::default();
        assert!(!flag.must_wake());
        flag.announce();
        assert!(flag.must_wake());
        assert!(!flag.must_wake());
    }
}
