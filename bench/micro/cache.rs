//! The match cache: the cost of a message whose subject was published before.
//!
//! - `cache_hit/1000`: one of 1,000 subjects of five tokens, in random order.
//! - `cache_hit/8192`: one of as many as the cache holds.

use std::hint::black_box;
use std::rc::Rc;

use criterion::Criterion;
use midge::testing::base::limits::MATCH_CACHE_ENTRIES;
use midge::testing::broker::match_cache::{CachedBytes, MatchCache};

use super::cpu_time::CpuTime;
use super::table::Generator;

pub fn bench(criterion: &mut Criterion<CpuTime>) {
    for count in [1_000, MATCH_CACHE_ENTRIES] {
        let mut generator = Generator::new(3, 1_000_000);
        let mut cache =
            MatchCache::new(MATCH_CACHE_ENTRIES, CachedBytes::new(usize::MAX), fastrand::u64(..));
        let mut subjects: Vec<String> = (0..count).map(|_| generator.literal()).collect();
        for (number, subject) in subjects.iter().enumerate() {
            cache.insert(subject.as_bytes(), Rc::new(number), 0);
        }
        fastrand::Rng::with_seed(5).shuffle(&mut subjects);
        // Contiguous, as in a read buffer.
        let mut next = subjects.iter().map(String::as_bytes).cycle();
        criterion.bench_function(&format!("cache_hit/{count}"), |bencher| {
            bencher.iter(|| {
                let subject = next.next().expect("it cycles");
                Rc::clone(cache.get(black_box(subject)).expect("every subject is cached"))
            });
        });
    }
}
