//! The table against a flat list, and against what an adversary would send.

use proptest::prelude::*;

use super::*;

/// The same as the table, in the most obvious way.
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
    assert!(everything(&table).is_empty());
}

proptest! {
    #[test]
    fn the_table_agrees_with_a_flat_list(steps in steps(), seed: u64) {
        agree(SubjectTable::new(seed), &steps);
    }

    /// With one bit of hash every lookup finds half of all filters, and only the text is left to
    /// decide.
    #[test]
    fn colliding_hashes_change_nothing(steps in steps(), seed: u64) {
        let mut table = SubjectTable::new(seed);
        table.hasher.hash_mask = 1 << 31;
        agree(table, &steps);
    }

    /// A filter's own hash and the one worked out from a subject by its shape are the same.
    #[test]
    fn a_subject_leads_to_the_filters_that_match_it(filter in filter(), literal in literal()) {
        let table: SubjectTable<u32> = SubjectTable::new(7);
        let (hash, shape) = table.hasher.filter(&filter);
        let mut sums = Vec::new();
        prop_assume!(table.hasher.sums(&literal, &mut sums));
        prop_assert_eq!(shape.has_wildcard(), subject::has_wildcard(&filter));
        if subject::matches(&filter, &literal) && shape.has_wildcard() {
            prop_assert_eq!(table.hasher.shaped(&shape, filter_hash::wildcards_sum(&shape), &sums), hash);
        }
        if shape.has_wildcard() {
            let expected = subject::matches(&filter, &literal);
            prop_assert_eq!(matches_with_shape(&filter, &shape, &literal), expected);
        } else if filter == literal {
            prop_assert_eq!(table.hasher.literal(&sums), hash);
        }
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
    assert_eq!(matches(&table, &literal), [0, 2, 3, 4, 6, 7]);
    assert_eq!(matches(&table, &literal[2..]), [0u32; 0]);
    // Of the eight, `...a` and `...b` share a shape twice, and once that shape is no wildcard at
    // all.
    assert_eq!(lookup_count(&table, depth), 5);
    assert_eq!(table.scratch.take().capacity(), 0, "a long subject's scratch space is given back");
    for (slot, filter) in slots {
        assert!(table.remove(&filter, slot).is_some());
        table.check_invariants();
    }
    assert!(table.shapes.is_empty());
}

/// Lookups for the shapes that fit a subject of so many tokens.
fn lookup_count(table: &SubjectTable<u32>, token_count: usize) -> usize {
    table.shapes.fitting(token_count as u32, ShapePlace::default()).count()
}

#[test]
fn a_match_looks_up_each_shape_once_however_many_filters_have_it() {
    let mut table = SubjectTable::new(0);
    for value in 0..1_000 {
        for filter in ["a.*.{}", "{}.*.a", "*.{}.>", "a.b.c.{}", "*.*.*.{}"] {
            table.insert(filter.replace("{}", &value.to_string()).as_bytes(), value);
        }
    }
    assert_eq!(lookup_count(&table, 3), 2, "`x.*.y` and `*.x.>`");
    assert_eq!(lookup_count(&table, 4), 2, "`*.*.*.x` and `*.x.>`");
    assert_eq!(lookup_count(&table, 2), 0);
    assert_eq!(matches(&table, b"a.7.8"), [7, 8]);
}

#[test]
fn all_mixes_of_star_and_letter_cost_their_number() {
    // The worst there is: all shapes of ten tokens, one filter each. A subject costs a lookup for
    // each filter, not more, and a subject of another length none.
    let width = 10;
    let mut table = SubjectTable::new(0);
    for mix in 1..1_u32 << width {
        let tokens = (0..width).map(|bit| if mix >> bit & 1 == 1 { "*." } else { "a." });
        table.insert(format!("{}x", tokens.collect::<String>()).as_bytes(), mix);
    }
    let prefix = "a.".repeat(width);
    assert_eq!(matches(&table, format!("{prefix}x").as_bytes()).len(), (1 << width) - 1);
    assert_eq!(matches(&table, format!("{prefix}y").as_bytes()), [0u32; 0]);
    assert_eq!(lookup_count(&table, width + 1), (1 << width) - 1);
    assert_eq!(lookup_count(&table, width), 0);
    assert_eq!(lookup_count(&table, width + 2), 0);
}

#[test]
fn many_filters_come_and_go_in_any_order() {
    let mut random = fastrand::Rng::with_seed(3);
    let mut table = SubjectTable::new(random.u64(..));
    let mut live = Vec::new();
    for value in 0..EARLY_LOAD_FILTERS_MIN as u32 + 5_000 {
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
    assert_eq!(table.literals.len() + table.wildcards.len(), 0);
    assert!(table.shapes.is_empty());
}

/// Matches `literal` with this budget at a time, `between` after each part, and gives the most
/// values visited in one part.
fn match_in_parts<V>(
    table: &mut SubjectTable<V>,
    literal: &[u8],
    budget: usize,
    mut visit: impl FnMut(&V),
    mut between: impl FnMut(&mut SubjectTable<V>),
) -> usize {
    let (mut place, mut visited_max) = (MatchPlace::default(), 0);
    loop {
        let mut visited = 0;
        let is_done = table.match_some(literal, &mut place, &mut budget.clone(), |value| {
            visited += 1;
            visit(value);
        });
        visited_max = visited_max.max(visited);
        if is_done {
            return visited_max;
        }
        between(table);
    }
}

#[test]
fn a_match_in_parts_finds_what_stays_once_whatever_comes_and_goes() {
    let mut random = fastrand::Rng::with_seed(8);
    let tokens = ["a", "b", "*"];
    for _ in 0..400 {
        let mut table = SubjectTable::new(random.u64(..));
        let mut live: Vec<(String, Slot, u32)> = Vec::new();
        let filter = |random: &mut fastrand::Rng| {
            let count = random.usize(1..4);
            let tail = random.usize(..4) == 0;
            let tokens = (0..count).map(|_| tokens[random.usize(..3)]);
            let tokens: Vec<&str> = tokens.chain(tail.then_some(">")).collect();
            tokens.join(".")
        };
        let mut number = 0;
        let mut insert = |table: &mut SubjectTable<u32>, random: &mut fastrand::Rng| {
            let filter = filter(random);
            number += 1;
            (filter.clone(), table.insert(filter.as_bytes(), number), number)
        };
        for _ in 0..random.usize(1..80) {
            live.push(insert(&mut table, &mut random));
        }
        let lasting: Vec<u32> = live.iter().map(|each| each.2).filter(|_| random.bool()).collect();
        let literal = ["a.b.a", "a.b", "b"][random.usize(..3)];
        let before = matches(&table, literal.as_bytes());
        let budget = random.usize(1..6);
        let mut found: Vec<u32> = Vec::new();
        match_in_parts(
            &mut table,
            literal.as_bytes(),
            budget,
            |value| found.push(*value),
            |table| {
                for _ in 0..random.usize(..5) {
                    let goes = random.usize(..live.len().max(1));
                    if random.bool() && live.get(goes).is_some_and(|it| !lasting.contains(&it.2)) {
                        let (filter, slot, value) = live.swap_remove(goes);
                        assert_eq!(table.remove(filter.as_bytes(), slot), Some(value));
                    } else if live.len() < 200 {
                        live.push(insert(table, &mut random));
                    }
                }
                table.check_invariants();
            },
        );
        found.sort_unstable();
        let twice = found.windows(2).find(|pair| pair[0] == pair[1]);
        assert_eq!(twice, None, "a value was found twice");
        let owed = before.iter().filter(|value| lasting.contains(value));
        assert!(owed.clone().all(|value| found.contains(value)), "{before:?} {found:?}");
    }
}

#[test]
fn a_part_of_a_match_looks_at_no_more_than_its_budget() {
    let mut table = SubjectTable::new(0);
    for value in 0..5_000 {
        table.insert(b"a.b", value);
        table.insert(b"a.*", value);
    }
    let mut found = 0;
    let visited_max = match_in_parts(&mut table, b"a.b", 100, |_| found += 1, |_| {});
    assert!(found == 10_000 && visited_max <= 100, "{found}, {visited_max} at a time");

    // All shapes of twelve tokens, and each costs a lookup.
    let mut table = SubjectTable::new(0);
    for mix in 1..1_u32 << 12 {
        let tokens = (0..12).map(|bit| if mix >> bit & 1 == 1 { "*." } else { "a." });
        table.insert(format!("{}x", tokens.collect::<String>()).as_bytes(), mix);
    }
    let subject = format!("{}y", "a.".repeat(12));
    let mut parts = 1;
    match_in_parts(&mut table, subject.as_bytes(), 64, |_| {}, |_| parts += 1);
    assert!(parts >= 64, "{parts}");

    // Long filters cost their stars.
    let mut table = SubjectTable::new(0);
    let subject = vec!["a"; 2_000].join(".");
    for value in 0..64 {
        let mut tokens = vec!["*"; 2_000];
        tokens[value] = "a";
        table.insert(tokens.join(".").as_bytes(), value as u32);
    }
    let (mut found, mut parts) = (0, 1);
    match_in_parts(&mut table, subject.as_bytes(), 512, |_| found += 1, |_| parts += 1);
    assert!(found == 64 && parts >= 64 * 2_000 / STARS_PER_UNIT / 512, "{found} in {parts}");
}
