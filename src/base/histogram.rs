//! Histograms of durations on `hdrhistogram`, with fixed buckets: cheap enough to record into for
//! every send.
//!
//! One thread records; others get a copy, `Durations`. Recording never allocates and never
//! overflows: durations beyond the range count in the last bucket.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use hdrhistogram::Histogram;

/// Durations up to this many nanoseconds are reported as one bucket.
const FIRST_BOUND_NS: u64 = 1 << FIRST_OCTAVE;
const FIRST_OCTAVE: u32 = 10;

/// Powers of two above the first bound that are reported apart: up to 2^33 ns, 8.6 seconds.
const OCTAVES: usize = 23;

/// Number of reported buckets, two per power of two. The last one takes everything longer.
pub(crate) const BUCKETS: usize = 1 + OCTAVES * 2 + 1;

/// Resolution at the short end, in nanoseconds.
const LOWEST_NS: u64 = 64;

/// End of the range: one power of two past the last reported bound.
const HIGHEST_NS: u64 = (1 << (FIRST_OCTAVE + OCTAVES as u32 + 1)) - 1;

/// Sixteen recorded buckets per power of two: each either ends at a reported bound or does not
/// contain one.
const SIGNIFICANT_DIGITS: u8 = 1;

fn empty() -> Histogram<u64> {
    let made = Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS);
    made.expect("the lowest is at least 1, the highest at least twice that")
}

/// One shard's histogram: about three KiB.
#[derive(Debug)]
pub struct DurationHistogram {
    /// Holds each duration less one nanosecond: recorded buckets end just before a bound, and
    /// reported ones include theirs.
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
        // The sum may wrap around; whoever scrapes it takes that for a restart.
        self.sum_ns.set(self.sum_ns.get().wrapping_add(ns));
    }

    pub fn durations(&self) -> Durations {
        Durations { counts: self.counts.borrow().clone(), sum_ns: self.sum_ns.get() }
    }
}

/// A copy of a histogram, or a sum of several.
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

    /// Returns the number of durations in each reported bucket; `upper_bound_ns` has their bounds.
    pub fn told_counts(&self) -> [u64; BUCKETS] {
        let mut told = [0; BUCKETS];
        for recorded in self.counts.iter_recorded() {
            let longest_ns = recorded.value_iterated_to().saturating_add(1);
            told[bucket_of(longest_ns)] += recorded.count_since_last_iteration();
        }
        told
    }

    /// Returns a bound in nanoseconds that `per_mille` thousandths of all durations do not pass, at
    /// most a sixteenth above the longest of them; None = nothing was recorded.
    pub fn bound_ns_of(&self, per_mille: u32) -> Option<u64> {
        if self.counts.is_empty() {
            return None;
        }
        let longest = self.counts.value_at_quantile(f64::from(per_mille) / 1000.0);
        // Durations past the last bound are only known to be longer than it.
        Some(self.counts.highest_equivalent(longest).saturating_add(1).min(last_bound_ns()))
    }
}

fn last_bound_ns() -> u64 {
    FIRST_BOUND_NS << OCTAVES
}

/// Returns the inclusive upper bound of a reported bucket; None for the last one, which has none.
pub(crate) fn upper_bound_ns(index: usize) -> Option<u64> {
    if index + 1 >= BUCKETS {
        return None;
    }
    // An even index has a power of two as its bound, an odd one the middle between two.
    let base = FIRST_BOUND_NS << (index / 2);
    Some(if index.is_multiple_of(2) { base } else { base / 2 * 3 })
}

fn bucket_of(ns: u64) -> usize {
    // A bound belongs to its own bucket, hence one less.
    let below = ns.saturating_sub(1);
    if below < FIRST_BOUND_NS {
        return 0;
    }
    let octave = below.ilog2();
    let upper_half = below >> (octave - 1) & 1;
    let index = 1 + (octave - FIRST_OCTAVE) as usize * 2 + upper_half as usize;
    index.min(BUCKETS - 1)
}

/// Converts to whole nanoseconds, saturating.
#[inline]
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
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
                // The same through a histogram: nothing is reported on the wrong side of a bound.
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

    /// A bound is never below the durations it bounds, and only a little above them.
    #[test]
    fn the_bound_of_all_durations_is_just_above_the_longest() {
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

    /// All buckets exist from the start, whatever is recorded.
    #[test]
    fn it_always_takes_three_kib() {
        let histogram = DurationHistogram::default();
        let distinct = histogram.counts.borrow().distinct_values();
        assert!(distinct * size_of::<u64>() <= 3400, "{distinct}");
        for shift in 0..64 {
            histogram.record(Duration::from_nanos(u64::MAX >> shift));
        }
        assert_eq!(histogram.counts.borrow().distinct_values(), distinct);
    }
}
