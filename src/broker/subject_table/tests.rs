//! The table against a flat list, and against what an adversary would send.

use proptest::prelude::*;

use super::*;

/// What the table must do, in the most obvious way.
#[derive(Default)]
struct FlatList {
    subscriptions: Vec<(Vec<u8>, Slot, u32)>,
}

impl FlatList {
    fn matches(&self, literal: &[u8]) -> Vec<u32> {
        let mut found: Vec<u32> = self
            .subscriptions
            .iter()
            .filter(|(filter, ..)| subject::matches(filter, literal))
            .map(|(.., value)| *value)
            .collect();
        found.sort_unstable();
        found
    }
}

fn matches(table: &SubjectTable<u32>, literal: &[u8]) -> Vec<u32> {
    let mut found = Vec::new();
    table.for_each_match(literal, |value| found.push(*value));
    found.sort_unstable();
    found
}

fn everything(table: &SubjectTable<u32>) -> Vec<(Vec<u8>, u32)> {
    let mut found = Vec::new();
    table.for_each(|filter, value| found.push((filter.to_vec(), *value)));
    found.sort_unstable();
    found
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Vec<u8>),
    Remove(usize),
    /// A filter and a slot that may or may not be in use.
    RemoveAny(Vec<u8>, u32),
    Match(Vec<u8>),
}

fn text(tokens: &'static [&'static str], count: std::ops::Range<usize>) -> BoxedStrategy<Vec<u8>> {
    prop::collection::vec(prop::sample::select(tokens), count)
        .prop_map(|tokens| tokens.join(".").into_bytes())
        .boxed()
}

fn filter() -> impl Strategy<Value = Vec<u8>> {
    text(&["a", "b", "c", "*", "*", ">", "$", "a*", "long-token-over-thirty-bytes-of-text"], 1..6)
        .prop_filter("filters are validated before", |filter| subject::is_valid_filter(filter))
}

fn literal() -> impl Strategy<Value = Vec<u8>> {
    text(&["a", "b", "c", "*", ">", "$", "a*", "", "long-token-over-thirty-bytes-of-text"], 0..7)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => filter().prop_map(Step::Insert),
        2 => any::<usize>().prop_map(Step::Remove),
        1 => (filter(), 0..4_u32).prop_map(|(filter, slot)| Step::RemoveAny(filter, slot)),
        3 => literal().prop_map(Step::Match),
    ];
    prop::collection::vec(step, 1..120)
}

/// Runs the steps on both and compares after each.
fn agree(mut table: SubjectTable<u32>, steps: &[Step]) {
    let mut twin = FlatList::default();
    let mut value_next = 0;
    for step in steps {
        let generation = table.generation();
        match step {
            Step::Insert(filter) => {
                let slot = table.insert(filter, value_next);
                let in_use = |other: &(Vec<u8>, Slot, u32)| other.0 == *filter && other.1 == slot;
                assert!(!twin.subscriptions.iter().any(in_use));
                twin.subscriptions.push((filter.clone(), slot, value_next));
                value_next += 1;
                assert_ne!(table.generation(), generation);
            }
            Step::Remove(_) if twin.subscriptions.is_empty() => {}
            Step::Remove(index) => {
                let index = index % twin.subscriptions.len();
                let (filter, slot, value) = twin.subscriptions.swap_remove(index);
                assert_eq!(table.remove(&filter, slot), Some(value));
                assert_ne!(table.generation(), generation);
            }
            Step::RemoveAny(filter, slot) => {
                let slot = Slot(*slot);
                let index =
                    twin.subscriptions.iter().position(|each| each.0 == *filter && each.1 == slot);
                let expected = index.map(|index| twin.subscriptions.swap_remove(index).2);
                assert_eq!(table.remove(filter, slot), expected);
                assert_eq!(table.generation() != generation, expected.is_some());
            }
            Step::Match(literal) => assert_eq!(matches(&table, literal), twin.matches(literal)),
        }
        assert_eq!(table.len(), twin.subscriptions.len());
        table.check_invariants();
    }
    for literal in ["a", "a.b", "a.*", "a.b.c", "*.*", "a.>", "b.$.a.c", "c.c.c.c.c"] {
        assert_eq!(matches(&table, literal.as_bytes()), twin.matches(literal.as_bytes()));
    }
    let mut expected: Vec<_> =
        twin.subscriptions.iter().map(|each| (each.0.clone(), each.2)).collect();
    expected.sort_unstable();
    assert_eq!(everything(&table), expected);
    for (filter, slot, value) in twin.subscriptions {
        assert_eq!(table.remove(&filter, slot), Some(value));
        table.check_invariants();
    }
    assert!(table.is_empty());
    assert_eq!(everything(&table), []);
}

proptest! {
    #[test]
    fn the_table_agrees_with_a_flat_list(steps in steps(), seed: u64) {
        agree(SubjectTable::new(seed), &steps);
    }

    /// With one bit of hash per token nearly every path is shared and many are equal.
    #[test]
    fn colliding_token_hashes_change_nothing(steps in steps(), seed: u64) {
        let mut table = SubjectTable::new(seed);
        table.wildcards.keep_hash_bits(1);
        agree(table, &steps);
    }

    #[test]
    fn the_shape_of_the_index_does_not_depend_on_history(
        kept in prop::collection::vec(filter(), 1..30),
        passing in prop::collection::vec(filter(), 1..30),
    ) {
        let mut fresh = SubjectTable::new(1);
        let mut used = SubjectTable::new(1);
        let slots: Vec<Slot> = passing.iter().map(|filter| used.insert(filter, 0)).collect();
        for filter in &kept {
            fresh.insert(filter, 1);
            used.insert(filter, 1);
        }
        for (filter, slot) in passing.iter().zip(slots) {
            prop_assert_eq!(used.remove(filter, slot), Some(0));
        }
        prop_assert_eq!(used.wildcards.node_count(), fresh.wildcards.node_count());
    }
}

#[test]
fn a_published_wildcard_is_a_literal() {
    let mut table = SubjectTable::new(0);
    for (value, filter) in ["foo.*", "foo.>", ">", "foo.bar", "*.*"].iter().enumerate() {
        table.insert(filter.as_bytes(), value as u32);
    }
    assert_eq!(matches(&table, b"foo.*"), [0, 1, 2, 4]);
    assert_eq!(matches(&table, b"foo.>"), [0, 1, 2, 4]);
    assert_eq!(matches(&table, b">"), [2]);
    assert_eq!(matches(&table, b"foo.bar"), [0, 1, 2, 3, 4]);
    for literal in ["", ".", "foo.", ".foo", "foo..bar"] {
        assert_eq!(matches(&table, literal.as_bytes()), [0u32; 0], "{literal}");
    }
}

#[test]
fn a_slot_means_nothing_under_another_filter() {
    let mut table = SubjectTable::new(0);
    let slot = table.insert(b"a", 1);
    let second = table.insert(b"a", 2);
    table.insert(b"b", 3);
    assert_eq!(table.remove(b"b", second), None);
    assert_eq!(table.remove(b"c", slot), None);
    assert_eq!(table.remove(b"a", slot), Some(1));
    assert_eq!(table.remove(b"a", slot), None);
    assert_eq!(matches(&table, b"a"), [2]);
    assert_eq!(table.remove(b"a", second), Some(2));
    assert_eq!(table.remove(b"a", second), None);
    assert_eq!(table.len(), 1);
}

#[test]
fn visit_may_match_again() {
    let mut table = SubjectTable::new(0);
    table.insert(b"a.*", 1);
    table.insert(b"a.>", 2);
    table.insert(b"*.b", 3);
    let mut pairs = Vec::new();
    table.for_each_match(b"a.b", |outer| {
        table.for_each_match(b"a.c", |inner| pairs.push((*outer, *inner)));
    });
    pairs.sort_unstable();
    assert_eq!(pairs, [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]);
}

#[test]
fn thousands_of_tokens_neither_recurse_nor_explode() {
    let depth = 4_000;
    let literal = vec!["a"; depth].join(".").into_bytes();
    let mut table = SubjectTable::new(0);
    let mut slots = Vec::new();
    let stars = vec!["*"; depth - 1].join(".");
    let letters = vec!["a"; depth - 1].join(".");
    for prefix in [&stars, &letters] {
        for last in ["a", "b", "*", ">"] {
            let filter = format!("{prefix}.{last}").into_bytes();
            slots.push((table.insert(&filter, slots.len() as u32), filter));
        }
    }
    // The path of the stars and that of the letters, each shared by four filters (of which one, all
    // literal, is in the exact map alone).
    assert!(table.wildcards.node_count() < 2 * depth + 8);
    assert_eq!(matches(&table, &literal), [0, 2, 3, 4, 6, 7]);
    assert_eq!(matches(&table, &literal[2..]), [0u32; 0]);
    for (slot, filter) in slots {
        assert!(table.remove(&filter, slot).is_some());
        table.check_invariants();
    }
    assert_eq!(table.wildcards.node_count(), 0);
}

#[test]
fn a_lone_filter_is_one_node_however_long() {
    let mut table = SubjectTable::new(0);
    table.insert(&vec!["*"; 2_000].join(".").into_bytes(), 0);
    assert_eq!(table.wildcards.node_count(), 1);
    assert_eq!(matches(&table, &vec!["a"; 2_000].join(".").into_bytes()), [0]);
}

#[test]
fn all_mixes_of_star_and_letter_cost_their_number_of_filters() {
    // Ten tokens, each `a` or `*`, in all mixes, then `x`: a subject that ends in `y` walks them all and
    // matches none. The walk is as long as the list of filters, not longer.
    let width = 10;
    let mut table = SubjectTable::new(0);
    for mix in 1..1_u32 << width {
        let tokens = (0..width).map(|bit| if mix >> bit & 1 == 1 { "*." } else { "a." });
        table.insert(format!("{}x", tokens.collect::<String>()).as_bytes(), mix);
    }
    let literal = format!("{}x", "a.".repeat(width));
    assert_eq!(matches(&table, literal.as_bytes()).len(), (1 << width) - 1);
    let miss = format!("{}y", "a.".repeat(width));
    assert_eq!(matches(&table, miss.as_bytes()), [0u32; 0]);
    // A trie: each node is visited once at most.
    assert!(table.wildcards.node_count() <= 2 << width);
    assert_eq!(table.wildcards.candidate_count(miss.as_bytes()), (1 << width) - 1);
}

#[test]
fn many_filters_come_and_go_in_any_order() {
    let mut random = fastrand::Rng::with_seed(3);
    let mut table = SubjectTable::new(random.u64(..));
    let mut live = Vec::new();
    for value in 0..20_000_u32 {
        let wide = random.u32(..8);
        let tail = ["x", "*", ">", "y.z"][random.usize(..4)];
        let filter = format!("site-{wide}.{}.device-{}.{tail}", value % 97, value % 1_013);
        let slot = table.insert(filter.as_bytes(), value);
        live.push((filter, slot, value));
    }
    table.check_invariants();
    random.shuffle(&mut live);
    while let Some((filter, slot, value)) = live.pop() {
        assert_eq!(table.remove(filter.as_bytes(), slot), Some(value));
        if live.len() % 4_000 == 0 {
            table.check_invariants();
            for (filter, _, value) in live.iter().take(50) {
                let literal = filter.replace(['*', '>'], "q");
                assert!(matches(&table, literal.as_bytes()).contains(value), "{filter}");
            }
        }
    }
    assert!(table.is_empty());
    assert_eq!(table.entries.len() + table.exact.len() + table.wildcards.node_count(), 0);
}

impl<V> SubjectTable<V> {
    fn check_invariants(&self) {
        assert_eq!(self.exact.len(), self.entries.len());
        let mut value_count = 0;
        let mut with_wildcards = Vec::new();
        for (index, entry) in self.entries.iter().enumerate() {
            let filter = entry.filter.as_slice();
            assert_eq!(self.find(self.hash(filter), filter), Some(index as u32));
            assert!(!entry.list.values().is_empty());
            value_count += entry.list.values().len();
            if subject::has_wildcard(filter) {
                with_wildcards.push((index as u32, filter));
            }
        }
        assert_eq!(value_count, self.subscription_count);
        self.wildcards.check_invariants(&with_wildcards);
    }
}
