//! One account's subscriptions on one shard: who wants a subject that was just published.
//!
//! Every distinct filter is one entry, with its text and the values subscribed under it, found by
//! hash. The table knows the shapes of its wildcard filters (`shapes`): where the `*` are, how
//! long, whether `>` ends it. A subject leaves, for each shape, one filter that can match, and
//! `filter_hash` tells its hash at the cost of a few additions. So a match is one lookup for the
//! subject itself and one per shape. The text of what is found decides, and each filter has one
//! shape: nothing is found wrongly or twice, whatever the hashes.
//!
//! Why not a trie: its steps wait for each other, and in a table of a million each is a trip to
//! memory. All lookups here are known before the first begins, and `look_up` starts them together.
//! Wildcards lie apart from the many literal filters, because most lookups are for them: a small
//! map stays in the cache.
//!
//! Bound. A match does one lookup per distinct shape that fits: at most 2^(n+1) for a subject of n
//! tokens, and never more than there are wildcard filters, each of which somebody subscribed.
//! Working out a lookup costs the number of its stars. Nothing is recursive, no filter makes it
//! exponential, and a match allocates nothing once the scratch list has the length of the longest
//! usual subject. That may still be much: a match takes a budget, stops where it is spent, and goes
//! on from there later, whatever was subscribed or unsubscribed in between. What stays is found
//! once.
//!
//! Nothing grows by moving everything: an insert or remove moves a handful of filters, and memory
//! follows the number of filters down as well as up. Filters and subjects come from peers: tokens
//! are hashed with a secret seed.

mod chunks;
mod filter_hash;
mod filters;
mod shape;
mod shapes;
pub(crate) mod short_bytes;
mod slot_list;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::hint::black_box;

use foldhash::SharedSeed;
use foldhash::fast::SeedableRandomState;
use smallvec::SmallVec;

use crate::protocol::subject;
use filter_hash::{FilterHasher, split_token};
use filters::Filters;
use shape::Shape;
use shapes::{Counted, Pin, ShapePlace, Shapes};

/// Lookups started together: more than a processor can have under way, few enough to stay in its
/// cache.
const BATCH_LOOKUP_COUNT: usize = 16;

/// Tokens for which scratch space is kept between matches.
const SCRATCH_TOKENS_MAX: usize = 256;

/// Filters from which on a match expects them out of the cache and spends instructions to load them
/// early.
const EARLY_LOAD_FILTERS_MIN: usize = 20_000;

/// Stars of a shape that cost a match one unit, and bytes of a filter's text: it looks at them one
/// after the other.
const STARS_PER_UNIT: usize = 16;
const TEXT_BYTES_PER_UNIT: usize = 64;

/// Tells apart the subscriptions of one filter. It stays the same until its subscription is
/// removed, and may then be given out again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Slot(u32);

impl Slot {
    /// No slot's number.
    pub const NONE: u32 = u32::MAX;

    pub fn number(self) -> u32 {
        self.0
    }

    /// None for `Slot::NONE`.
    pub fn from_number(number: u32) -> Option<Slot> {
        (number != Self::NONE).then_some(Slot(number))
    }
}

pub struct SubjectTable<V> {
    literals: Filters<V>,
    wildcards: Filters<V>,
    /// The shapes of `wildcards`.
    shapes: Shapes,
    hasher: FilterHasher,
    subscription_count: usize,
    generation: u64,
    /// Kept so that a match allocates nothing.
    scratch: Cell<Vec<u64>>,
}

/// The place where an interrupted match goes on.
#[derive(Default)]
pub struct MatchPlace {
    /// The subject itself was looked up.
    literal_done: bool,
    shape: ShapePlace,
    /// In the list of the filter that comes next.
    slot: u32,
    /// Held from the first stop on.
    pin: Option<Pin>,
}

/// The one filter of a shape that can match a subject.
struct Lookup<'a> {
    hash: u32,
    /// `None`: the subject itself, among the literals.
    shape: Option<(ShapePlace, &'a Shape)>,
}

impl<V> SubjectTable<V> {
    /// An empty table. The seed should be random: the keys of its hash maps come from peers.
    pub fn new(seed: u64) -> SubjectTable<V> {
        let state = SeedableRandomState::with_seed(seed, SharedSeed::global_random());
        SubjectTable {
            literals: Filters::new(),
            wildcards: Filters::new(),
            shapes: Shapes::new(state.clone()),
            hasher: FilterHasher::new(state),
            subscription_count: 0,
            generation: 0,
            scratch: Cell::default(),
        }
    }

    /// Subscribes a value to a filter, which `protocol::subject::is_valid_filter` must have
    /// accepted.
    pub fn insert(&mut self, filter: &[u8], value: V) -> Slot {
        debug_assert!(subject::is_valid_filter(filter));
        self.subscription_count += 1;
        self.generation += 1;
        let (hash, shape) = self.hasher.filter(filter);
        let hash_of = |filter: &[u8]| self.hasher.filter(filter).0;
        if !shape.has_wildcard() {
            return self.literals.insert(hash, filter, value, hash_of).0;
        }
        let (slot, is_new) = self.wildcards.insert(hash, filter, value, hash_of);
        if is_new {
            self.shapes.insert(&shape);
        }
        slot
    }

    /// Takes out the value that `insert` gave this slot for this filter; `None` if there is none.
    pub fn remove(&mut self, filter: &[u8], slot: Slot) -> Option<V> {
        let (hash, shape) = self.hasher.filter(filter);
        let hash_of = |filter: &[u8]| self.hasher.filter(filter).0;
        let value = if shape.has_wildcard() {
            let (value, was_last) = self.wildcards.remove(hash, filter, slot, hash_of)?;
            if was_last {
                self.shapes.remove(&shape);
            }
            value
        } else {
            self.literals.remove(hash, filter, slot, hash_of)?.0
        };
        self.subscription_count -= 1;
        self.generation += 1;
        Some(value)
    }

    /// Calls `visit` with the value of every subscription that a published subject matches, once
    /// each. The subject is literal: its `*` and `>` are ordinary tokens. One with an empty token
    /// matches nothing.
    pub fn for_each_match(&self, literal: &[u8], visit: impl FnMut(&V)) {
        let is_done =
            self.match_some(literal, &mut MatchPlace::default(), &mut usize::MAX.clone(), visit);
        debug_assert!(is_done);
    }

    /// Continues a match from `place`, as far as `budget` goes: a unit for each value and
    /// each lookup, and more for long filters. True at the end; else the same call goes on from
    /// where this one stopped. What is subscribed in between may be visited.
    #[inline]
    pub fn match_some(
        &self,
        literal: &[u8],
        place: &mut MatchPlace,
        budget: &mut usize,
        mut visit: impl FnMut(&V),
    ) -> bool {
        // Taken, not borrowed: `visit` may match again.
        let mut sums = self.scratch.take();
        let is_done = self.match_with(literal, &mut sums, place, budget, &mut visit);
        if sums.capacity() <= SCRATCH_TOKENS_MAX {
            self.scratch.set(sums);
        }
        if !is_done && place.pin.is_none() {
            place.pin = Some(self.shapes.pin());
        }
        is_done
    }

    /// `sums` is scratch space.
    fn match_with(
        &self,
        literal: &[u8],
        sums: &mut Vec<u64>,
        place: &mut MatchPlace,
        budget: &mut usize,
        visit: &mut impl FnMut(&V),
    ) -> bool {
        if !self.hasher.sums(literal, sums) {
            return true;
        }
        let token_count = sums.len() - 1;
        let mut batch: SmallVec<[Lookup<'_>; BATCH_LOOKUP_COUNT]> = SmallVec::new();
        if !place.literal_done {
            batch.push(Lookup { hash: self.hasher.literal(sums), shape: None });
        }
        let fitting = self.shapes.fitting(token_count as u32, place.shape);
        for (at, Counted { shape, wildcards_sum, .. }) in fitting {
            if batch.len() == BATCH_LOOKUP_COUNT {
                if !self.look_up(literal, &batch, place, budget, visit) {
                    return false;
                }
                batch.clear();
            }
            let hash = self.hasher.shaped(shape, *wildcards_sum, sums);
            batch.push(Lookup { hash, shape: Some((at, shape)) });
        }
        self.look_up(literal, &batch, place, budget, visit)
    }

    /// In a big table every lookup is two trips to memory. The first two loops do nothing but send
    /// the processor on all of them at once; the third alone would make them one by one. False
    /// where the budget is spent: `place` is then that of the lookup to go on with.
    fn look_up(
        &self,
        literal: &[u8],
        batch: &[Lookup<'_>],
        place: &mut MatchPlace,
        budget: &mut usize,
        visit: &mut impl FnMut(&V),
    ) -> bool {
        if self.literals.len() + self.wildcards.len() >= EARLY_LOAD_FILTERS_MIN {
            let buckets = batch.iter().map(|lookup| self.filters(lookup).touch_bucket(lookup.hash));
            black_box(buckets.fold(0, |loaded, bucket| loaded ^ bucket));
            let filters = batch.iter().map(|lookup| self.filters(lookup).touch_filter(lookup.hash));
            black_box(filters.fold(0, |loaded, filter| loaded ^ filter));
        }
        for lookup in batch {
            if *budget == 0 {
                return false;
            }
            let stars = lookup.shape.map_or(0, |(_, shape)| shape.stars.len());
            *budget = budget.saturating_sub(1 + stars / STARS_PER_UNIT);
            let is_it = |filter: &[u8]| match lookup.shape {
                None => filter == literal,
                Some((_, shape)) => matches_with_shape(filter, shape, literal),
            };
            if let Some(list) = self.filters(lookup).list(lookup.hash, is_it) {
                // One value at least, so that every call gets on.
                *budget = budget.saturating_sub(literal.len() / TEXT_BYTES_PER_UNIT).max(1);
                if let Some(slot) = list.visit_some(place.slot, budget, visit) {
                    place.slot = slot;
                    if let Some((at, _)) = lookup.shape {
                        place.shape = at;
                    }
                    return false;
                }
            }
            place.slot = 0;
            match lookup.shape {
                None => place.literal_done = true,
                Some((at, _)) => place.shape = at.next(),
            }
        }
        true
    }

    #[inline]
    fn filters(&self, lookup: &Lookup<'_>) -> &Filters<V> {
        if lookup.shape.is_some() { &self.wildcards } else { &self.literals }
    }

    /// Calls `visit` with every filter and value.
    pub fn for_each(&self, mut visit: impl FnMut(&[u8], &V)) {
        for (filter, values) in self.literals.iter().chain(self.wildcards.iter()) {
            values.iter().for_each(|value| visit(filter, value));
        }
    }

    /// The number of subscriptions.
    pub fn len(&self) -> usize {
        self.subscription_count
    }

    pub fn is_empty(&self) -> bool {
        self.subscription_count == 0
    }

    /// Changes the generation: something about the values has changed.
    pub fn touch(&mut self) {
        self.generation += 1;
    }

    /// A number that every insert, every successful remove and `touch` changes.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

#[cfg(any(test, debug_assertions))]
impl<V> SubjectTable<V> {
    /// # Panics
    /// A promise is broken.
    pub(super) fn check_invariants(&self) {
        self.literals.check_invariants(|filter| self.hasher.filter(filter).0);
        self.wildcards.check_invariants(|filter| self.hasher.filter(filter).0);
        let everything = self.literals.iter().chain(self.wildcards.iter());
        assert_eq!(everything.map(|(_, values)| values.len()).sum::<usize>(), self.len());
        assert!(self.literals.iter().all(|(filter, _)| !subject::has_wildcard(filter)));

        let mut shapes = std::collections::HashMap::new();
        for (filter, _) in self.wildcards.iter() {
            *shapes.entry(self.hasher.filter(filter).1).or_default() += 1;
        }
        self.shapes.check_invariants(&shapes);
    }
}

/// True if a filter with wildcards has this shape and matches a subject with no empty token.
#[inline]
fn matches_with_shape(filter: &[u8], shape: &Shape, literal: &[u8]) -> bool {
    let (mut filter, mut literal) = (Some(filter), Some(literal));
    let mut stars = shape.stars.iter().copied().peekable();
    for position in 0..shape.token_count {
        let (Some(filter_text), Some(literal_text)) = (filter, literal) else { return false };
        let (filter_token, filter_rest) = split_token(filter_text);
        let (literal_token, literal_rest) = split_token(literal_text);
        // A subject's own `*` or `>` equals a filter's wildcard, but not under this shape.
        let is_right = if stars.next_if_eq(&position).is_some() {
            filter_token == b"*"
        } else {
            filter_token == literal_token && filter_token != b"*" && filter_token != b">"
        };
        if !is_right {
            return false;
        }
        (filter, literal) = (filter_rest, literal_rest);
    }
    match shape.has_tail {
        true => filter == Some(b">") && literal.is_some(),
        false => filter.is_none() && literal.is_none(),
    }
}
