//! A hash table that never moves all of its entries at once.
//!
//! It is divided into parts, each a hash table of its own. The number of parts follows the number
//! of entries one by one (linear hashing): a part added at the end takes its share of exactly one
//! older part, and returns it when it is dropped. An insert or a removal thus moves no more than
//! two parts' entries, where a single table of a million that doubles would stop a shard for a
//! tenth of a second. A small table is one part and costs no more than that.
//!
//! Invariants: each entry lies in the part that its hash chooses; `more` is there if and only if
//! there are several parts, and then knows the number of all entries.

use hashbrown::{HashTable, hash_table};

use super::shrink;

/// Mean number of entries per part at which a part is added. A part not yet split since the number
/// of parts last doubled has up to about twice as many.
const PART_LEN_MEAN_MAX: usize = 100;

/// Mean number of entries per part below which a part is dropped. Well below `PART_LEN_MEAN_MAX`,
/// so that small changes back and forth move nothing.
const PART_LEN_MEAN_MIN: usize = 40;

/// The part that a part's entries came from, and return to.
pub(crate) fn parent_of(part_index: usize) -> usize {
    part_index - (part_index + 1).next_power_of_two() / 2
}

/// Returns the part that a hash belongs to when there are `part_count` parts. Chosen by the low
/// bits.
#[inline]
pub(crate) fn part_of(hash: u32, part_count: usize) -> usize {
    let doubled = part_count.next_power_of_two();
    let index = hash as usize & (doubled - 1);
    if index < part_count { index } else { index - doubled / 2 }
}

/// Returns the bits that choose a part: not those by which the parts themselves look up.
#[inline]
fn chooser(hash: u64) -> u32 {
    (hash >> 24) as u32
}

pub(crate) struct Table<T> {
    first: HashTable<T>,
    more: Option<Box<More<T>>>,
}

/// All parts but the first.
struct More<T> {
    parts: Vec<HashTable<T>>,
    /// Entries of all parts, including the first.
    len: usize,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { first: HashTable::new(), more: None }
    }
}

impl<T> Table<T> {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn len(&self) -> usize {
        self.more.as_ref().map_or_else(|| self.first.len(), |more| more.len)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let more = self.more.iter().flat_map(|more| &more.parts);
        std::iter::once(&self.first).chain(more).flatten()
    }

    fn part_count(&self) -> usize {
        1 + self.more.as_ref().map_or(0, |more| more.parts.len())
    }

    fn part(&self, index: usize) -> Option<&HashTable<T>> {
        match index.checked_sub(1) {
            None => Some(&self.first),
            Some(index) => self.more.as_ref()?.parts.get(index),
        }
    }

    fn part_mut(&mut self, index: usize) -> &mut HashTable<T> {
        match (index.checked_sub(1), &mut self.more) {
            (Some(index), Some(more)) => &mut more.parts[index],
            _ => &mut self.first,
        }
    }

    fn home(&self, hash: u64) -> &HashTable<T> {
        let index = part_of(chooser(hash), self.part_count());
        self.part(index).expect("an index below the number of parts")
    }

    fn home_mut(&mut self, hash: u64) -> &mut HashTable<T> {
        let index = part_of(chooser(hash), self.part_count());
        self.part_mut(index)
    }

    pub(crate) fn find(&self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&T> {
        self.home(hash).find(hash, is_it)
    }

    pub(crate) fn find_mut(&mut self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&mut T> {
        self.home_mut(hash).find_mut(hash, is_it)
    }

    /// Adds an entry that must not be there yet. `hash_of` returns an entry's hash.
    pub(crate) fn insert_unique(&mut self, hash: u64, entry: T, hash_of: impl Fn(&T) -> u64) {
        if self.len() >= self.part_count() * PART_LEN_MEAN_MAX {
            self.add_part(&hash_of);
        }
        self.home_mut(hash).insert_unique(hash, entry, hash_of);
        if let Some(more) = &mut self.more {
            more.len += 1;
        }
    }

    /// Returns true if inserting an entry with this hash would move others, and so invalidate
    /// places of `walk`.
    pub(crate) fn moves_on_insert(&self, hash: u64) -> bool {
        let home = self.home(hash);
        home.len() == home.capacity() || self.len() >= self.part_count() * PART_LEN_MEAN_MAX
    }

    /// Takes an entry out. Moves no others; `shrink` may be called afterwards.
    pub(crate) fn remove(&mut self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<T> {
        let entry = self.home_mut(hash).find_entry(hash, is_it).ok()?;
        let (removed, _) = entry.remove();
        if let Some(more) = &mut self.more {
            more.len -= 1;
        }
        Some(removed)
    }

    /// Gives back memory after the removal of an entry with this hash.
    pub(crate) fn shrink(&mut self, hash: u64, hash_of: impl Fn(&T) -> u64) {
        if self.len() < (self.part_count() - 1) * PART_LEN_MEAN_MIN {
            self.drop_part(&hash_of);
        }
        shrink::table(self.home_mut(hash), hash_of);
    }

    fn add_part(&mut self, hash_of: &impl Fn(&T) -> u64) {
        let added = self.part_count();
        let parent = std::mem::take(self.part_mut(parent_of(added)));
        let half = parent.len() / 2;
        let mut parts = [HashTable::with_capacity(half), HashTable::with_capacity(half)];
        for entry in parent {
            let hash = hash_of(&entry);
            let goes_on = part_of(chooser(hash), added + 1) == added;
            parts[usize::from(goes_on)].insert_unique(hash, entry, hash_of);
        }
        let [stays, goes_on] = parts;
        let len = self.len() + stays.len() + goes_on.len();
        *self.part_mut(parent_of(added)) = stays;
        match &mut self.more {
            Some(more) => more.parts.push(goes_on),
            None => self.more = Some(Box::new(More { parts: vec![goes_on], len })),
        }
    }

    fn drop_part(&mut self, hash_of: &impl Fn(&T) -> u64) {
        let dropped = self.more.as_mut().and_then(|more| more.parts.pop());
        let dropped = dropped.expect("there are several parts");
        let parent = self.part_mut(parent_of(self.part_count()));
        for entry in dropped {
            parent.insert_unique(hash_of(&entry), entry, hash_of);
        }
        if let Some(more) = &mut self.more {
            if more.parts.is_empty() {
                self.more = None;
            } else if more.parts.len() < more.parts.capacity() / 4 {
                more.parts.shrink_to(2 * more.parts.len());
            }
        }
    }

    /// Visits entries from the place that an earlier walk returned, until `visit` returns false or
    /// `looks_left` buckets, full or empty, have been examined. Returns the place to continue from;
    /// None at the end. Entries inserted meanwhile may be missed, and so may entries that were
    /// moved.
    pub(crate) fn walk(
        &self,
        from: usize,
        looks_left: &mut usize,
        mut visit: impl FnMut(&T) -> bool,
    ) -> Option<usize> {
        let (mut index, mut bucket) = (from >> BUCKET_BITS, from & ((1 << BUCKET_BITS) - 1));
        while let Some(part) = self.part(index) {
            let place = |bucket: usize| index << BUCKET_BITS | bucket;
            for bucket in bucket..part.num_buckets() {
                if *looks_left == 0 {
                    return Some(place(bucket));
                }
                *looks_left -= 1;
                if let Some(entry) = part.get_bucket(bucket)
                    && !visit(entry)
                {
                    return Some(place(bucket + 1));
                }
            }
            (index, bucket) = (index + 1, 0);
        }
        None
    }
}

/// Bits of a place that hold the bucket within a part; the bits above hold the part.
const BUCKET_BITS: u32 = 32;

impl<T> IntoIterator for Table<T> {
    type Item = T;
    type IntoIter = Entries<T>;

    fn into_iter(self) -> Entries<T> {
        let parts = self.more.map_or_else(Vec::new, |more| more.parts);
        Entries { part: self.first.into_iter(), parts: parts.into_iter() }
    }
}

/// All entries of a consumed table, in no order.
pub(crate) struct Entries<T> {
    part: hash_table::IntoIter<T>,
    parts: std::vec::IntoIter<HashTable<T>>,
}

impl<T> Iterator for Entries<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        loop {
            if let Some(entry) = self.part.next() {
                return Some(entry);
            }
            self.part = self.parts.next()?.into_iter();
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let rest: usize = self.parts.as_slice().iter().map(HashTable::len).sum();
        let left = self.part.len() + rest;
        (left, Some(left))
    }
}

impl<T> ExactSizeIterator for Entries<T> {}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::HashSet;

    use super::*;

    fn spread(number: u32) -> u64 {
        fastrand::Rng::with_seed(u64::from(number)).u64(..)
    }

    fn hash_of(number: &u32) -> u64 {
        spread(*number)
    }

    fn insert(table: &mut Table<u32>, number: u32) {
        table.insert_unique(spread(number), number, hash_of);
    }

    fn remove(table: &mut Table<u32>, number: u32) -> Option<u32> {
        let removed = table.remove(spread(number), |other| *other == number);
        table.shrink(spread(number), hash_of);
        removed
    }

    impl Table<u32> {
        fn check_invariants(&self) {
            let parts: Vec<&HashTable<u32>> =
                (0..self.part_count()).filter_map(|index| self.part(index)).collect();
            assert_eq!(parts.len(), self.part_count());
            assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), self.len());
            for (index, part) in parts.iter().enumerate() {
                for number in *part {
                    assert_eq!(part_of(chooser(hash_of(number)), parts.len()), index);
                }
            }
            assert!(self.len() <= parts.len() * PART_LEN_MEAN_MAX);
            assert!(self.len() >= (parts.len() - 1) * PART_LEN_MEAN_MIN);
            assert_eq!(self.more.is_some(), parts.len() > 1);
        }
    }

    #[test]
    fn a_part_and_its_parent_agree_about_every_hash() {
        for part_count in 1..200 {
            for hash in 0..1_000 {
                let before = part_of(hash, part_count);
                let after = part_of(hash, part_count + 1);
                assert!(before < part_count);
                assert!(
                    before == after || (after == part_count && before == parent_of(part_count))
                );
            }
        }
    }

    #[test]
    fn entries_stay_findable_while_parts_come_and_go() {
        let mut random = fastrand::Rng::with_seed(3);
        let (mut table, mut twin) = (Table::new(), HashSet::new());
        for step in 0..60_000_u32 {
            let number = random.u32(..6_000);
            let is_there = twin.contains(&number);
            assert_eq!(table.find(spread(number), |other| *other == number).is_some(), is_there);
            let grows = step < 20_000 || random.u32(..20) == 0;
            if is_there && !grows {
                assert_eq!(remove(&mut table, number), Some(number));
                twin.remove(&number);
            } else if !is_there && grows {
                insert(&mut table, number);
                twin.insert(number);
            }
            if step % 999 == 0 {
                table.check_invariants();
            }
        }
        let last: Vec<u32> = twin.drain().collect();
        for number in last {
            assert_eq!(remove(&mut table, number), Some(number));
        }
        table.check_invariants();
        assert!(table.is_empty() && table.part_count() == 1);
        assert!(table.first.capacity() <= 64, "{}", table.first.capacity());
    }

    /// Counts the entries moved by the hashes that are asked for: one each.
    #[test]
    fn no_change_moves_more_than_a_few_hundred_entries() {
        const COUNT: u32 = 200_000;
        const MOVED_MAX: usize = 8 * PART_LEN_MEAN_MAX;
        let moved = Cell::new(0);
        let counted = |number: &u32| {
            moved.set(moved.get() + 1);
            spread(*number)
        };
        let mut table = Table::new();
        for number in 0..COUNT {
            table.insert_unique(spread(number), number, counted);
            assert!(moved.take() < MOVED_MAX, "at {number}");
        }
        for number in 0..COUNT {
            assert!(table.remove(spread(number), |other| *other == number).is_some());
            table.shrink(spread(number), counted);
            assert!(moved.take() < MOVED_MAX, "at {number}");
        }
        assert!(table.is_empty());
    }

    #[test]
    fn a_walk_in_steps_visits_each_entry_once() {
        let mut table = Table::new();
        (0..5_000).for_each(|number| insert(&mut table, number));
        let (mut seen, mut from) = (Vec::new(), Some(0));
        while let Some(place) = from {
            let mut looks_left = 37;
            from = table.walk(place, &mut looks_left, |number| {
                seen.push(*number);
                seen.len() % 5 != 0
            });
        }
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..5_000));
        let mut all: Vec<u32> = table.into_iter().collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..5_000));
    }

    #[test]
    fn it_is_said_beforehand_when_an_insert_moves_entries() {
        let mut table = Table::new();
        let all = |table: &Table<u32>| {
            let mut places = Vec::new();
            table.walk(0, &mut usize::MAX.clone(), |number| {
                places.push(*number);
                true
            });
            places
        };
        for number in 0..3_000 {
            let before = all(&table);
            let moves = table.moves_on_insert(spread(number));
            insert(&mut table, number);
            let mut after = all(&table);
            after.retain(|other| *other != number);
            assert!(moves || before == after, "at {number}");
        }
    }
}
