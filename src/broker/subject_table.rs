//! One account's subscriptions on one shard: who wants a subject that was just published.
//!
//! Every distinct filter is one entry, with its text and the values subscribed under it. An exact map finds
//! an entry by its text: that is the whole match for filters without wildcards, and how insert and remove
//! find any filter. Filters with wildcards are also in a `WildcardIndex`, which names the candidates for a
//! subject; their text decides. So a wrong delivery would take a wrong `protocol::subject::matches`.
//!
//! Cost. A match hashes the subject once for the exact map and each token once for the index, as deep as
//! filters share that beginning; it allocates nothing. The bound of the index's walk is stated there.
//! Nothing grows by moving everything: an insert or remove moves at most a few thousand small items, and
//! memory follows the number of filters down as well as up. Filters and subjects come from peers: lookups
//! are by keyed hash, and no work is recursive.

mod chunks;
mod growing_table;
pub mod short_bytes;
mod slot_list;
#[cfg(test)]
mod tests;
mod wildcard_index;

use std::hash::{BuildHasher, Hasher};

use foldhash::SharedSeed;
use foldhash::fast::SeedableRandomState;

use crate::protocol::subject;
use chunks::Chunks;
use growing_table::{Bucket, GrowingTable};
use short_bytes::ShortBytes;
use slot_list::SlotList;
use wildcard_index::WildcardIndex;

/// Tells apart the subscriptions of one filter. It stays the same until its subscription is removed, and
/// may then be given out again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Slot(u32);

pub struct SubjectTable<V> {
    /// Dense: a removed entry's place is taken by the last one.
    entries: Chunks<Entry<V>>,
    /// Every entry by the hash of its text.
    exact: GrowingTable<Reference>,
    /// The entries with wildcards.
    wildcards: WildcardIndex,
    hash_state: SeedableRandomState,
    subscription_count: usize,
    generation: u64,
}

struct Entry<V> {
    filter: ShortBytes,
    list: SlotList<V>,
}

const _: () = assert!(size_of::<Entry<u64>>() == 48, "the memory per subscription rests on this");

#[derive(Clone, Copy)]
struct Reference {
    /// The upper half of the filter's hash.
    hash: u32,
    entry: u32,
}

impl Bucket for Reference {
    #[inline]
    fn hash(&self) -> u64 {
        spread(self.hash)
    }
}

/// A hash of 64 well-spread bits from the 32 that are stored.
#[inline]
fn spread(hash: u32) -> u64 {
    let product = u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ (product >> 29)
}

impl<V> SubjectTable<V> {
    /// An empty table. The seed should be random: the keys of its hash maps come from peers.
    pub fn new(seed: u64) -> SubjectTable<V> {
        SubjectTable {
            entries: Chunks::new(),
            exact: GrowingTable::new(),
            wildcards: WildcardIndex::new(seed),
            hash_state: SeedableRandomState::with_seed(seed, SharedSeed::global_random()),
            subscription_count: 0,
            generation: 0,
        }
    }

    /// Subscribes a value to a filter, which `protocol::subject::is_valid_filter` must have accepted.
    pub fn insert(&mut self, filter: &[u8], value: V) -> Slot {
        debug_assert!(subject::is_valid_filter(filter));
        self.subscription_count += 1;
        self.generation += 1;
        let hash = self.hash(filter);
        if let Some(entry) = self.find(hash, filter) {
            return self.entries.get_mut(entry).list.insert(value);
        }
        let (list, slot) = SlotList::new(value);
        let entry = self.entries.push(Entry { filter: ShortBytes::new(filter), list });
        self.exact.insert(Reference { hash, entry });
        if subject::has_wildcard(filter) {
            let entries = &self.entries;
            self.wildcards.insert(entry, filter, |entry| entries.get(entry).filter.as_slice());
        }
        slot
    }

    /// Takes out the value that `insert` gave this slot for this filter; `None` if there is none.
    pub fn remove(&mut self, filter: &[u8], slot: Slot) -> Option<V> {
        let hash = self.hash(filter);
        let entry = self.find(hash, filter)?;
        let list = &mut self.entries.get_mut(entry).list;
        let value = if list.is_only(slot) {
            self.remove_entry(entry, hash, filter)
        } else {
            list.remove(slot)?
        };
        self.subscription_count -= 1;
        self.generation += 1;
        Some(value)
    }

    /// Takes out an entry that has one value. The last entry gets its number.
    fn remove_entry(&mut self, entry: u32, hash: u32, filter: &[u8]) -> V {
        if subject::has_wildcard(filter) {
            let entries = &self.entries;
            self.wildcards.remove(entry, filter, |entry| entries.get(entry).filter.as_slice());
        }
        self.exact
            .remove(spread(hash), |found| found.entry == entry)
            .expect("every entry is in the exact map");
        let removed = self.entries.swap_remove(entry);
        let moved = self.entries.len() as u32;
        if moved != entry {
            let filter = self.entries.get(entry).filter.as_slice();
            let hash = spread(self.hash(filter));
            if subject::has_wildcard(filter) {
                self.wildcards.renumber(moved, entry, filter);
            }
            self.exact
                .find_mut(hash, |found| found.entry == moved)
                .expect("every entry is in the exact map")
                .entry = entry;
        }
        removed.list.into_only()
    }

    /// Calls `visit` with the value of every subscription that a published subject matches, once each.
    /// The subject is literal: its `*` and `>` are ordinary tokens. One with an empty token matches nothing.
    #[inline]
    pub fn for_each_match(&self, literal: &[u8], mut visit: impl FnMut(&V)) {
        if has_empty_token(literal) {
            return;
        }
        // A subject that reads like a wildcard filter finds that filter's entry here and again below.
        if let Some(entry) = self.find(self.hash(literal), literal)
            && !subject::has_wildcard(literal)
        {
            self.entries.get(entry).list.values().iter().for_each(&mut visit);
        }
        self.wildcards.for_each_candidate(literal, |entry| {
            let entry = self.entries.get(entry);
            if subject::matches(entry.filter.as_slice(), literal) {
                entry.list.values().iter().for_each(&mut visit);
            }
        });
    }

    /// Calls `visit` with every filter and value.
    pub fn for_each(&self, mut visit: impl FnMut(&[u8], &V)) {
        for entry in self.entries.iter() {
            for value in entry.list.values() {
                visit(entry.filter.as_slice(), value);
            }
        }
    }

    /// How many subscriptions there are.
    pub fn len(&self) -> usize {
        self.subscription_count
    }

    pub fn is_empty(&self) -> bool {
        self.subscription_count == 0
    }

    /// A number that every insert and every successful remove changes.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    #[inline]
    fn hash(&self, text: &[u8]) -> u32 {
        let mut hasher = self.hash_state.build_hasher();
        hasher.write(text);
        (hasher.finish() >> 32) as u32
    }

    #[inline]
    fn find(&self, hash: u32, filter: &[u8]) -> Option<u32> {
        let found = self.exact.find(spread(hash), |found| {
            found.hash == hash && self.entries.get(found.entry).filter.as_slice() == filter
        });
        found.map(|found| found.entry)
    }
}

#[inline]
fn has_empty_token(literal: &[u8]) -> bool {
    let mut after_dot = true;
    for &byte in literal {
        let is_dot = byte == b'.';
        if is_dot && after_dot {
            return true;
        }
        after_dot = is_dot;
    }
    after_dot
}
