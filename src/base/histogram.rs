//! Durations counted in fixed buckets, two per power of two: cheap enough to record into for every send.
//!
//! One thread records; others get a `Durations`, a copy. Never allocates while recording, never overflows.

use std::array;
use std::cell::Cell;
use std::time::Duration;

/// Everything up to this many nanoseconds is one bucket.
const FIRST_BOUND_NS: u64 = 1 << FIRST_OCTAVE;
const FIRST_OCTAVE: u32 = 10;

/// Powers of two above the first bound that are told apart: up to 2^33 ns, 8.6 seconds.
const OCTAVES: usize = 23;

/// The last bucket takes everything longer.
pub const BUCKETS: usize = 1 + OCTAVES * 2 + 1;

/// Where a shard counts.
#[derive(Debug)]
pub struct DurationHistogram {
    buckets: [Cell<u64>; BUCKETS],
    sum_ns: Cell<u64>,
}

impl Default for DurationHistogram {
    fn default() -> Self {
        Self { buckets: array::from_fn(|_| Cell::new(0)), sum_ns: Cell::new(0) }
    }
}

impl DurationHistogram {
    #[inline]
    pub fn record(&self, duration: Duration) {
        let ns = nanoseconds(duration);
        let bucket = &self.buckets[bucket_of(ns)];
        bucket.set(bucket.get() + 1);
        // A sum of waits may pass what a number holds; a reader takes that for a restart.
        self.sum_ns.set(self.sum_ns.get().wrapping_add(ns));
    }

    pub fn durations(&self) -> Durations {
        Durations {
            counts: array::from_fn(|index| self.buckets[index].get()),
            sum_ns: self.sum_ns.get(),
        }
    }
}

/// A copy of what was counted, or a sum of such.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durations {
    pub counts: [u64; BUCKETS],
    pub sum_ns: u64,
}

impl Default for Durations {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], sum_ns: 0 }
    }
}

impl Durations {
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn add(&mut self, other: &Self) {
        for (own, others) in self.counts.iter_mut().zip(&other.counts) {
            *own += others;
        }
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
    }

    /// The bound that so many per mille of all durations do not pass; None = nothing was counted.
    pub fn bound_ns_of(&self, per_mille: u64) -> Option<u64> {
        let count = self.count();
        let wanted = (count / 1000 * per_mille + count % 1000 * per_mille / 1000).max(1);
        let mut seen = 0;
        let index = self.counts.iter().position(|counted| {
            seen += counted;
            seen >= wanted
        })?;
        // Of what is longer than the last bound only that much is known.
        Some(upper_bound_ns(index).unwrap_or_else(last_bound_ns))
    }
}

fn last_bound_ns() -> u64 {
    FIRST_BOUND_NS << OCTAVES
}

/// What a bucket's durations do not pass; None = there is no bound.
pub fn upper_bound_ns(index: usize) -> Option<u64> {
    if index + 1 >= BUCKETS {
        return None;
    }
    // 0 and 2 octaves give a power of two, 1 the middle between two.
    let base = FIRST_BOUND_NS << (index / 2);
    Some(if index.is_multiple_of(2) { base } else { base / 2 * 3 })
}

#[inline]
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

    #[test]
    fn every_duration_is_within_the_bounds_of_its_bucket() {
        let bounds: Vec<u64> = (0..BUCKETS - 1).filter_map(upper_bound_ns).collect();
        assert_eq!(bounds[..5], [1024, 1536, 2048, 3072, 4096]);
        assert!(bounds.is_sorted() && bounds.len() == BUCKETS - 1);
        assert_eq!(bounds.last(), Some(&last_bound_ns()));
        for bound in &bounds {
            for ns in [bound - 1, *bound, bound + 1] {
                let expected = bounds.iter().position(|bound| ns <= *bound);
                assert_eq!(bucket_of(ns), expected.unwrap_or(BUCKETS - 1), "{ns}");
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
        assert_eq!(durations.bound_ns_of(1000), Some(3 << 20));
        histogram.record(Duration::MAX);
        histogram.record(Duration::MAX);
        durations.add(&histogram.durations());
        assert_eq!(durations.count(), 202);
        assert_eq!(durations.bound_ns_of(1000), Some(last_bound_ns()));
    }
}
