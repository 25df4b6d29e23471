//! Durations counted by `hdrhistogram`, in buckets fixed at the start: cheap enough to record into for every send.
//!
//! One thread records; others get a `Durations`, a copy. Never allocates while recording, never overflows: what is
//! longer than the range counts in its last bucket.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use hdrhistogram::Histogram;

/// Everything up to this many nanoseconds is told as one bucket.
const FIRST_BOUND_NS: u64 = 1 << FIRST_OCTAVE;
const FIRST_OCTAVE: u32 = 10;

/// Powers of two above the first bound that are told apart: up to 2^33 ns, 8.6 seconds.
const OCTAVES: usize = 23;

/// Buckets that are told, two per power of two. The last one takes everything longer.
pub const BUCKETS: usize = 1 + OCTAVES * 2 + 1;

/// Nanoseconds that are counted apart at the short end.
const LOWEST_NS: u64 = 64;

/// The end of the range, one power of two past the last bound.
const HIGHEST_NS: u64 = (1 << (FIRST_OCTAVE + OCTAVES as u32 + 1)) - 1;

/// Sixteen buckets per power of two: each ends at a bound that is told, or does not hold one.
const SIGNIFICANT_DIGITS: u8 = 1;

fn empty() -> Histogram<u64> {
    let made = Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS);
    made.expect("the lowest is at least 1, the highest at least twice that")
}

/// Where a shard counts: about three KiB.
#[derive(Debug)]
pub struct DurationHistogram {
    /// Of durations less one nanosecond: buckets here end before a bound, and the ones that are told end at it.
    counts: RefCell<Histogram<u64>>,
    sum_ns: Cell<u64>,
}

impl Default for DurationHistogram {
    fn default() -> Self {
        Self { counts: RefCell::new(empty()), sum_ns: Cell::new(0) }
    }
}

impl DurationHistogram {
    #[inline]
    pub fn record(&self, duration: Duration) {
        let ns = nanoseconds(duration);
        self.counts.borrow_mut().saturating_record(ns.saturating_sub(1));
        // A sum of waits may pass what a number holds; a reader takes that for a restart.
        self.sum_ns.set(self.sum_ns.get().wrapping_add(ns));
    }

    pub fn durations(&self) -> Durations {
        Durations { counts: self.counts.borrow().clone(), sum_ns: self.sum_ns.get() }
    }
}

/// A copy of what was counted, or a sum of such.
#[derive(Clone, Debug, PartialEq)]
pub struct Durations {
    counts: Histogram<u64>,
    pub sum_ns: u64,
}

impl Default for Durations {
    fn default() -> Self {
        Self { counts: empty(), sum_ns: 0 }
    }
}

impl Durations {
    pub fn count(&self) -> u64 {
        self.counts.len()
    }

    pub fn add(&mut self, other: &Self) {
        self.counts.add(&other.counts).expect("all have one range");
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
    }

    /// How many durations are in each bucket that is told; for its bound see `upper_bound_ns`.
    pub fn told_counts(&self) -> [u64; BUCKETS] {
        let mut told = [0; BUCKETS];
        for recorded in self.counts.iter_recorded() {
            let longest_ns = recorded.value_iterated_to().saturating_add(1);
            told[bucket_of(longest_ns)] += recorded.count_since_last_iteration();
        }
        told
    }

    /// A bound that so many per mille of all durations do not pass, at most a sixteenth above the longest of them;
    /// None = nothing was counted.
    pub fn bound_ns_of(&self, per_mille: u32) -> Option<u64> {
        if self.counts.is_empty() {
            return None;
        }
        let longest = self.counts.value_at_quantile(f64::from(per_mille) / 1000.0);
        // Of what is longer than the last bound only that much is known.
        Some(self.counts.highest_equivalent(longest).saturating_add(1).min(last_bound_ns()))
    }
}

fn last_bound_ns() -> u64 {
    FIRST_BOUND_NS << OCTAVES
}

/// The bound of a bucket that is told, which its durations do not pass; None = there is none.
pub fn upper_bound_ns(index: usize) -> Option<u64> {
    if index + 1 >= BUCKETS {
        return None;
    }
    // 0 and 2 octaves give a power of two, 1 the middle between two.
    let base = FIRST_BOUND_NS << (index / 2);
    Some(if index.is_multiple_of(2) { base } else { base / 2 * 3 })
}

fn bucket_of(ns: u64) -> usize {
    // A bound belongs to its bucket, so what is looked at is one less.
    let below = ns.saturating_sub(1);
    if below < FIRST_BOUND_NS {
        return 0;
    }
    let octave = below.ilog2();
    let upper_half = below >> (octave - 1) & 1;
    let index = 1 + (octave - FIRST_OCTAVE) as usize * 2 + upper_half as usize;
    index.min(BUCKETS - 1)
}

/// Whole nanoseconds, as far as they fit.
#[inline]
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds() -> Vec<u64> {
        (0..BUCKETS - 1).filter_map(upper_bound_ns).collect()
    }

    #[test]
    fn every_duration_is_within_the_bounds_of_its_bucket() {
        let bounds = bounds();
        assert_eq!(bounds[..5], [1024, 1536, 2048, 3072, 4096]);
        assert!(bounds.is_sorted() && bounds.len() == BUCKETS - 1);
        assert_eq!(bounds.last(), Some(&last_bound_ns()));
        for bound in &bounds {
            for ns in [bound - 1, *bound, bound + 1] {
                let expected = bounds.iter().position(|bound| ns <= *bound);
                let expected = expected.unwrap_or(BUCKETS - 1);
                assert_eq!(bucket_of(ns), expected, "{ns}");
                // The same of what was counted: nothing is told on the wrong side of a bound.
                let histogram = DurationHistogram::default();
                histogram.record(Duration::from_nanos(ns));
                assert_eq!(histogram.durations().told_counts()[expected], 1, "{ns}");
            }
        }
        assert_eq!(bucket_of(0), 0);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn shares_are_bounds_and_sums_do_not_overflow() {
        let histogram = DurationHistogram::default();
        assert_eq!(histogram.durations().bound_ns_of(500), None);
        (0..99).for_each(|_| histogram.record(Duration::from_nanos(1500)));
        histogram.record(Duration::from_millis(3));
        let mut durations = histogram.durations();
        assert_eq!(durations.count(), 100);
        assert_eq!(durations.sum_ns, 99 * 1500 + 3_000_000);
        assert_eq!(durations.bound_ns_of(500), Some(1536));
        assert_eq!(durations.bound_ns_of(990), Some(1536));
        let longest = durations.bound_ns_of(1000).unwrap();
        assert!((3_000_000..=3_000_000 / 16 * 17).contains(&longest), "{longest}");
        histogram.record(Duration::MAX);
        histogram.record(Duration::MAX);
        durations.add(&histogram.durations());
        assert_eq!(durations.count(), 202);
        assert_eq!(durations.told_counts()[BUCKETS - 1], 2);
        assert_eq!(durations.told_counts().iter().sum::<u64>(), 202);
        assert_eq!(durations.bound_ns_of(1000), Some(last_bound_ns()));
    }

    /// A bound is never below what it is the bound of, and little above it.
    #[test]
    fn a_share_of_one_is_just_above_the_longest() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..10_000 {
            let ns = random.u64(..) >> random.u32(32..60);
            let histogram = DurationHistogram::default();
            histogram.record(Duration::from_nanos(ns));
            let bound = histogram.durations().bound_ns_of(1000).unwrap();
            let expected = ns.min(last_bound_ns());
            assert!(
                bound >= expected && bound <= expected + (expected / 16).max(LOWEST_NS),
                "{ns}"
            );
        }
    }

    /// Whatever is recorded: the buckets are there from the start.
    #[test]
    fn it_takes_three_kib_for_ever() {
        let histogram = DurationHistogram::default();
        let distinct = histogram.counts.borrow().distinct_values();
        assert!(distinct * size_of::<u64>() <= 3400, "{distinct}");
        for shift in 0..64 {
            histogram.record(Duration::from_nanos(u64::MAX >> shift));
        }
        assert_eq!(histogram.counts.borrow().distinct_values(), distinct);
    }
}
