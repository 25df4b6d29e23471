//! Counters of the whole server that every shard may update: on cold paths only (accept and close),
//! or once a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::base::ids::{ConnectionId, ShardId};

/// The id of the first client connection: nats-server's internal clients take 1 to 4.
const FIRST_CONNECTION_ID: u64 = 5;

/// The load of every shard, for whichever shard places a connection.
#[derive(Clone, Debug)]
pub(crate) struct ShardLoads(Arc<[ShardLoad]>);

#[derive(Debug, Default)]
struct ShardLoad {
    connections: Gauge,
    /// Thousandths of the last second during which the shard's thread ran.
    busy: AtomicUsize,
    is_awake: AtomicBool,
}

impl ShardLoads {
    pub(crate) fn new(count: usize) -> Self {
        Self((0..count).map(|_| ShardLoad::default()).collect())
    }

    /// Returns the shard's number of connections.
    pub(crate) fn of(&self, shard: ShardId) -> &Gauge {
        &self.0[shard.index()].connections
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns the thousandths of the last second during which the shard's thread ran.
    pub(crate) fn busy(&self, shard: ShardId) -> usize {
        self.0[shard.index()].busy.load(Ordering::Relaxed)
    }

    pub(crate) fn set_busy(&self, shard: ShardId, thousandths: usize) {
        self.0[shard.index()].busy.store(thousandths, Ordering::Relaxed);
    }

    /// Expects so many thousandths of work of one shard to be another's from now on, until each looks
    /// at its own again: two shards do not fill a third at the same time.
    pub(crate) fn shift_busy(&self, source: ShardId, target: ShardId, thousandths: usize) {
        let less = |busy: usize| Some(busy.saturating_sub(thousandths));
        let (source, target) = (&self.0[source.index()].busy, &self.0[target.index()].busy);
        // It never fails: the number may always change.
        let _ = source.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        target.fetch_add(thousandths, Ordering::Relaxed);
    }

    /// Returns true if the shard listens for new connections, or is about to.
    pub(crate) fn is_awake(&self, shard: ShardId) -> bool {
        self.0[shard.index()].is_awake.load(Ordering::Relaxed)
    }

    pub(crate) fn set_awake(&self, shard: ShardId) {
        self.0[shard.index()].is_awake.store(true, Ordering::Relaxed);
    }

    /// Returns the shard with the fewest connections; `own` if no other has fewer.
    pub(crate) fn least(&self, own: ShardId) -> ShardId {
        let mut least = own;
        for (index, gauge) in self.0.iter().enumerate() {
            if gauge.connections.value() < self.of(least).value() {
                least = ShardId(u16::try_from(index).expect("few shards"));
            }
        }
        least
    }
}

/// The place for the one handover of a client between shards that goes on at a time.
#[derive(Clone, Debug, Default)]
pub struct Handovers(Arc<AtomicBool>);

/// Held while a handover goes on.
#[derive(Debug)]
pub struct HandoverTicket(Arc<AtomicBool>);

impl Handovers {
    /// Returns true if none goes on, as far as this thread knows.
    pub fn is_free(&self) -> bool {
        !self.0.load(Ordering::Relaxed)
    }

    /// Begins one; None = another goes on. Acquire pairs with the release of the ticket: what the
    /// last handover did is seen.
    pub fn begin(&self) -> Option<HandoverTicket> {
        let begun = self.0.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
        begun.is_ok().then(|| HandoverTicket(self.0.clone()))
    }
}

impl Drop for HandoverTicket {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Limits a rate per second over all shards. One atomic holds both the second (upper half) and the
/// number of requests made in it (lower half), so that no two threads disagree on which second it
/// is.
#[derive(Debug)]
pub(crate) struct RateWindow {
    /// Requests admitted per second; 0 = unlimited.
    max: u32,
    window: AtomicU64,
}

impl RateWindow {
    pub(crate) fn new(max: u32) -> Self {
        Self { max, window: AtomicU64::new(0) }
    }

    /// Asks for one more in this second. None = refused. Otherwise the number of requests refused
    /// in the previous window, reported once, to the first request of a new window; 0 to all
    /// others.
    pub(crate) fn admit(&self, second: u64) -> Option<u32> {
        if self.max == 0 {
            return Some(0);
        }
        let second = second & u64::from(u32::MAX);
        let next = |window: u64| {
            if window >> 32 == second && window as u32 > 0 {
                if window as u32 == u32::MAX { window } else { window + 1 }
            } else {
                second << 32 | 1
            }
        };
        // Relaxed: no other data depends on the number.
        let before = self
            .window
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |window| Some(next(window)));
        let before = before.unwrap_or_else(|unchanged| unchanged);
        let asked = next(before) as u32;
        let opened = asked == 1;
        let refused_before = if opened { (before as u32).saturating_sub(self.max) } else { 0 };
        (asked <= self.max).then_some(refused_before)
    }
}

/// Counters shared by all shards. Relaxed throughout: no other data depends on them.
#[derive(Clone)]
pub(crate) struct ServerCounters {
    inner: Arc<Inner>,
}

struct Inner {
    next_connection_id: AtomicU64,
    connections: AtomicUsize,
    staying: Gauge,
    handovers: Handovers,
    connections_total: AtomicU64,
    system_sequence: AtomicU64,
}

impl Default for ServerCounters {
    fn default() -> Self {
        Self {
            inner: Arc::new(Inner {
                next_connection_id: AtomicU64::new(FIRST_CONNECTION_ID),
                connections: AtomicUsize::new(0),
                staying: Gauge::default(),
                handovers: Handovers::default(),
                connections_total: AtomicU64::new(0),
                system_sequence: AtomicU64::new(0),
            }),
        }
    }
}

impl ServerCounters {
    pub(crate) fn next_connection_id(&self) -> ConnectionId {
        ConnectionId(self.inner.next_connection_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns the sequence number for the next message that the server itself sends.
    pub(crate) fn next_system_sequence(&self) -> u64 {
        self.inner.system_sequence.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts a connection in and returns the number of connections, this one included.
    pub(crate) fn connection_opened(&self) -> usize {
        self.inner.connections_total.fetch_add(1, Ordering::Relaxed);
        self.inner.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn connection_closed(&self) {
        self.inner.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns the number of clients that count for the limit of connections, wherever they are:
    /// neither refused nor about to end.
    pub(crate) fn staying(&self) -> &Gauge {
        &self.inner.staying
    }

    /// Returns the place for handovers of clients between shards.
    pub(crate) fn handovers(&self) -> &Handovers {
        &self.inner.handovers
    }

    pub(crate) fn connections(&self) -> usize {
        self.inner.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn connections_total(&self) -> u64 {
        self.inner.connections_total.load(Ordering::Relaxed)
    }
}

/// A number that any shard may change, such as an account's connections. Relaxed: no other data
/// depends on it.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicUsize>);

impl Gauge {
    /// Counts one in and returns the new number.
    pub fn add(&self) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub fn subtract(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts one out if there are more than `max`, and returns true if it did. Of concurrent
    /// callers, exactly as many get true as there are too many.
    pub fn subtract_above(&self, max: usize) -> bool {
        let fewer = |count: usize| (count > max).then(|| count - 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_ok()
    }

    pub fn value(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bytes that several threads may take, up to a bound, and give back. Relaxed: no other data
/// depends on the number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Budget(Arc<AtomicUsize>);

impl Budget {
    /// Takes `count` bytes and returns true, unless more than `max` would then be taken.
    pub(crate) fn take(&self, count: usize, max: usize) -> bool {
        let taken = |before: usize| before.checked_add(count).filter(|after| *after <= max);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    pub(crate) fn give_back(&self, count: usize) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_window_admits_its_maximum_per_second_and_reports_how_many_it_refused() {
        let window = RateWindow::new(2);
        assert_eq!([0, 0, 0, 0].map(|second| window.admit(second)), [Some(0), Some(0), None, None]);
        assert_eq!([1, 1, 1].map(|second| window.admit(second)), [Some(2), Some(0), None]);
        assert_eq!([9, 9].map(|second| window.admit(second)), [Some(1), Some(0)]);
        assert_eq!(window.admit(10), Some(0));
        let unlimited = RateWindow::new(0);
        assert!((0..100).all(|_| unlimited.admit(5) == Some(0)));
    }

    #[test]
    fn exactly_the_surplus_above_a_maximum_is_counted_out() {
        let gauge = Gauge::default();
        for _ in 0..5 {
            gauge.add();
        }
        let went: Vec<bool> = (0..5).map(|_| gauge.subtract_above(2)).collect();
        assert_eq!(went, [true, true, true, false, false]);
        assert_eq!(gauge.value(), 2);
    }

    #[test]
    fn a_budget_gives_up_to_its_bound_and_no_more() {
        let budget = Budget::default();
        assert!(!budget.take(11, 10));
        assert!(budget.take(10, 10));
        assert!(!budget.take(1, 10));
        assert!(!budget.take(usize::MAX, 10));
        budget.give_back(3);
        assert!(!budget.take(4, 10));
        assert!(budget.take(3, 10));
    }
}
