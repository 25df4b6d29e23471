//! The cache against looks at the table, and its bounds.

use proptest::prelude::*;

use super::*;
use crate::broker::subject_table::{Slot, SubjectTable};

type Cache = MatchCache<Vec<u32>>;

fn fresh_match(table: &SubjectTable<u32>, literal: &[u8]) -> Vec<u32> {
    let mut found = Vec::new();
    table.for_each_match(literal, |value| found.push(*value));
    found.sort_unstable();
    found
}

#[derive(Clone, Debug)]
enum Step {
    Subscribe(String),
    Unsubscribe(usize),
    Publish(String),
}

fn text(tokens: &'static [&'static str]) -> BoxedStrategy<String> {
    prop::collection::vec(prop::sample::select(tokens), 1..5)
        .prop_map(|tokens| tokens.join("."))
        .boxed()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let filter = text(&["a", "b", "*", ">"])
        .prop_filter("validated before", |filter| subject::is_valid_filter(filter.as_bytes()));
    let step = prop_oneof![
        1 => filter.prop_map(Step::Subscribe),
        1 => any::<usize>().prop_map(Step::Unsubscribe),
        4 => text(&["a", "b", "c", "*", ">", ""]).prop_map(Step::Publish),
    ];
    prop::collection::vec(step, 1..200)
}

fn evict(cache: &mut Cache, filter: &str) {
    if subject::has_wildcard(filter.as_bytes()) {
        cache.evict_matching(filter.as_bytes());
    } else {
        cache.evict_literal(filter.as_bytes());
    }
}

proptest! {
    #[test]
    fn an_answer_from_the_cache_is_what_the_table_says(
        steps in steps(),
        capacity in 0..40_usize,
        seed: u64,
    ) {
        let mut table = SubjectTable::new(seed);
        let bytes_max = if seed % 2 == 0 { 4_000 } else { usize::MAX };
        let mut cache = Cache::new(capacity, CachedBytes::new(bytes_max), seed);
        let mut live: Vec<(String, Slot)> = Vec::new();
        for (number, step) in steps.iter().enumerate() {
            match step {
                Step::Subscribe(filter) => {
                    let slot = table.insert(filter.as_bytes(), number as u32);
                    live.push((filter.clone(), slot));
                    evict(&mut cache, filter);
                }
                Step::Unsubscribe(_) if live.is_empty() => {}
                Step::Unsubscribe(index) => {
                    let (filter, slot) = live.swap_remove(index % live.len());
                    prop_assert!(table.remove(filter.as_bytes(), slot).is_some());
                    evict(&mut cache, &filter);
                }
                Step::Publish(literal) => {
                    let literal = literal.as_bytes();
                    let expected = fresh_match(&table, literal);
                    match cache.get(literal) {
                        Some(answer) => prop_assert_eq!(answer, &expected),
                        None => {
                            let bytes = expected.len() * 50;
                            cache.insert(literal, expected, bytes);
                        }
                    }
                }
            }
            cache.check_invariants();
        }
    }

    #[test]
    fn evict_matching_drops_what_the_filter_matches_and_nothing_else(
        subjects in prop::collection::hash_set(text(&["a", "b", "c", "*", ""]), 1..60),
        filter in text(&["a", "b", "*", ">"]),
    ) {
        prop_assume!(subject::is_valid_filter(filter.as_bytes()));
        let mut cache = MatchCache::new(100, CachedBytes::new(usize::MAX), 1);
        for literal in &subjects {
            cache.insert(literal.as_bytes(), (), 0);
        }
        cache.evict_matching(filter.as_bytes());
        cache.check_invariants();
        for literal in &subjects {
            let matched = subject::matches(filter.as_bytes(), literal.as_bytes());
            prop_assert_eq!(cache.get(literal.as_bytes()).is_none(), matched);
        }
    }
}

fn filled(count: usize, subject_of: impl Fn(usize) -> String) -> MatchCache<usize> {
    let mut cache = MatchCache::new(10_000, CachedBytes::new(usize::MAX), 1);
    for number in 0..count {
        cache.insert(subject_of(number).as_bytes(), number, 0);
    }
    assert_eq!(cache.len(), count);
    cache
}

#[test]
fn a_change_looks_at_its_own_chain_only() {
    let mut cache = filled(5_000, |number| format!("_INBOX.c{}.{number}", number % 1_000));
    cache.evict_matching(b"_INBOX.c7.*");
    assert_eq!(cache.len(), 4_995);
    cache.evict_matching(b"_INBOX.other.*");
    assert_eq!(cache.len(), 4_995);
    cache.evict_matching(b"other.*");
    assert_eq!(cache.len(), 4_995);
    cache.check_invariants();
}

#[test]
fn a_scan_past_the_bound_empties_the_cache() {
    for (count, left) in [
        (MATCH_CACHE_SCAN_MAX - 1, MATCH_CACHE_SCAN_MAX - 1),
        (MATCH_CACHE_SCAN_MAX, MATCH_CACHE_SCAN_MAX),
        (MATCH_CACHE_SCAN_MAX + 1, 0),
    ] {
        for filter in ["a.*.no", "*.no.*"] {
            let mut cache = filled(count, |number| format!("a.b.{number}"));
            cache.evict_matching(filter.as_bytes());
            assert_eq!(cache.len(), left, "{filter}");
            cache.check_invariants();
        }
    }
}

#[test]
fn bytes_compared_for_one_change_are_counted_and_bounded() {
    let long = "x.".repeat(1_000);
    for count in [8, MATCH_CACHE_SCAN_MAX] {
        let mut cache = filled(count, |number| format!("a.b.{long}{number}"));
        let filter = format!("a.b.{}no", "*.".repeat(1_000));
        let Eviction { work, cleared } = cache.evict_matching(filter.as_bytes());
        let compared = (count * filter.len()).min(MATCH_CACHE_SCAN_BYTES_MAX);
        assert!(work >= compared / TOKEN_BYTES_PER_UNIT, "{count}: {work}");
        assert!(
            work <= (compared + filter.len()) / TOKEN_BYTES_PER_UNIT + count,
            "{count}: {work}"
        );
        assert_eq!(cleared.is_some(), count > 8);
        assert_eq!(cache.len(), if count > 8 { 0 } else { count });
    }
}

#[test]
fn a_full_cache_keeps_what_is_asked_for() {
    let mut cache = MatchCache::new(64, CachedBytes::new(usize::MAX), 1);
    for number in 0..64 {
        cache.insert(format!("often.{number}").as_bytes(), number, 0);
    }
    for number in 0..1_000 {
        for often in 0..CLOCK_STEPS_MAX {
            cache.get(format!("often.{often}").as_bytes());
        }
        for _ in 0..2 {
            cache.insert(format!("once.{number}").as_bytes(), number, 0);
        }
        assert_eq!(cache.len(), 64);
    }
    for often in 0..CLOCK_STEPS_MAX {
        assert!(cache.get(format!("often.{often}").as_bytes()).is_some(), "{often}");
    }
    cache.check_invariants();
}

#[test]
fn a_cache_where_all_is_asked_for_still_takes_new_answers() {
    let mut cache = MatchCache::new(100, CachedBytes::new(usize::MAX), 1);
    for number in 0..1_000 {
        let literal = format!("s.{number}");
        cache.insert(literal.as_bytes(), number, 0);
        assert_eq!(cache.get(literal.as_bytes()).is_some(), number < 100, "kept at once if free");
        cache.insert(literal.as_bytes(), number, 0);
        assert_eq!(cache.get(literal.as_bytes()), Some(&number));
        assert!(cache.len() <= 100);
    }
    cache.insert(b"s.999", 5, 0);
    assert_eq!(cache.get(b"s.999"), Some(&5));
    let cleared: Vec<usize> = cache.clear().collect();
    assert_eq!(cleared.len(), 100);
    assert!(cache.is_empty());
    assert_eq!(cache.get(b"s.999"), None);
}

#[test]
fn the_caches_of_a_shard_hold_no_more_bytes_than_they_may() {
    const EACH: usize = 1_000;
    let own = size_of::<Answer<usize>>() + b"s.00".len();
    let shared = CachedBytes::new(10 * (EACH + own));
    let mut caches = [1, 2].map(|seed| MatchCache::new(100, shared.clone(), seed));
    let subject = |number: usize| format!("s.{number:02}").into_bytes();
    for number in 0..9 {
        caches[0].insert(&subject(number), number, EACH);
    }
    // The last one that fits, to the byte.
    caches[0].insert(&subject(9), 9, EACH + 1);
    assert_eq!(caches[0].len(), 9);
    caches[0].insert(&subject(10), 10, EACH);
    assert_eq!((caches[0].len(), shared.used()), (10, 10 * (EACH + own)));
    // Another that comes again takes the place of one; in a cache that has none it finds no
    // room.
    for _ in 0..2 {
        caches[0].insert(&subject(11), 11, EACH);
        caches[1].insert(&subject(12), 12, EACH);
    }
    assert_eq!(caches[0].get(&subject(11)), Some(&11));
    assert_eq!((caches[0].len(), caches[1].len()), (10, 0));
    caches.iter().for_each(MatchCache::check_invariants);
    // What goes makes room for others.
    caches[0].evict_literal(&subject(11));
    caches[1].insert(&subject(12), 12, EACH);
    assert_eq!(caches[1].len(), 1);
    // What is cleared makes room as it is dropped, one by one or all at once.
    let mut cleared = caches[0].clear();
    assert_eq!(shared.used(), 10 * (EACH + own));
    assert!(cleared.next().is_some());
    assert_eq!(shared.used(), 9 * (EACH + own));
    drop(cleared);
    assert_eq!(shared.used(), EACH + own);
    caches.iter().for_each(MatchCache::check_invariants);
}

#[test]
fn an_answer_past_its_bound_is_not_kept() {
    let mut cache = MatchCache::new(100, CachedBytes::new(usize::MAX), 1);
    let own = size_of::<Answer<usize>>() + b"s".len();
    cache.insert(b"s", 1_usize, MATCH_ANSWER_BYTES_MAX - own + 1);
    assert!(cache.is_empty());
    cache.insert(b"s", 1, MATCH_ANSWER_BYTES_MAX - own);
    assert_eq!(cache.len(), 1);
}
