//! A hash table that never moves all its items at once.
//!
//! One big table doubles by moving every item, and at a million items that stops the shard for
//! milliseconds. Here the items lie in segments of about `SEGMENT_ITEMS_MEAN_MAX` items, each a small hash
//! table, and the number of segments follows the number of items one by one (linear hashing): a new last
//! segment takes its share of exactly one older segment, and a segment that is given up returns to it. So
//! one insert or remove moves the items of at most two segments, and memory follows the number of items.

use hashbrown::HashTable;

/// Items per segment, over all segments, at which one more segment is added. A segment not yet split
/// since the number of segments last doubled holds up to twice as many; both 1,600 and 3,200 fill
/// hashbrown's powers of two well.
const SEGMENT_ITEMS_MEAN_MAX: usize = 1_600;

/// Below this mean a segment is given up. Well under the other bound, so that a change back and forth
/// moves nothing.
const SEGMENT_ITEMS_MEAN_MIN: usize = 800;

/// Buckets that are never worth giving back.
const CAPACITY_KEPT: usize = 16;

/// A small item that knows its hash. All 64 bits must be well spread: the low ones, the top ones and bits
/// 32 and up are used apart.
pub trait Bucket: Copy {
    fn hash(&self) -> u64;
}

pub struct GrowingTable<T> {
    /// Never empty.
    segments: Vec<HashTable<T>>,
    item_count: usize,
}

/// The segment whose items a segment's items came from, and return to.
fn parent_of(segment_index: usize) -> usize {
    segment_index - (segment_index + 1).next_power_of_two() / 2
}

#[inline]
fn segment_of(hash: u64, segment_count: usize) -> usize {
    let doubled = segment_count.next_power_of_two();
    let index = (hash >> 32) as usize & (doubled - 1);
    if index < segment_count { index } else { index - doubled / 2 }
}

impl<T: Bucket> GrowingTable<T> {
    pub fn new() -> GrowingTable<T> {
        GrowingTable { segments: vec![HashTable::new()], item_count: 0 }
    }

    pub fn len(&self) -> usize {
        self.item_count
    }

    #[inline]
    pub fn find(&self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&T> {
        self.segments[segment_of(hash, self.segments.len())].find(hash, is_it)
    }

    pub fn find_mut(&mut self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&mut T> {
        let index = segment_of(hash, self.segments.len());
        self.segments[index].find_mut(hash, is_it)
    }

    /// Adds an item; the caller knows that it is not there yet.
    pub fn insert(&mut self, item: T) {
        self.item_count += 1;
        if self.item_count > self.segments.len() * SEGMENT_ITEMS_MEAN_MAX {
            self.add_segment();
        }
        let hash = item.hash();
        let index = segment_of(hash, self.segments.len());
        self.segments[index].insert_unique(hash, item, T::hash);
    }

    pub fn remove(&mut self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<T> {
        let index = segment_of(hash, self.segments.len());
        let segment = &mut self.segments[index];
        let removed = segment.find_entry(hash, is_it).ok()?.remove().0;
        shrink(segment);
        self.item_count -= 1;
        if self.item_count < (self.segments.len() - 1) * SEGMENT_ITEMS_MEAN_MIN {
            self.drop_segment();
        }
        Some(removed)
    }

    fn add_segment(&mut self) {
        let segment_count = self.segments.len() + 1;
        let parent = &mut self.segments[parent_of(segment_count - 1)];
        let mut added = HashTable::with_capacity(parent.len() / 2);
        let leaves = |item: &mut T| segment_of(item.hash(), segment_count) == segment_count - 1;
        for item in parent.extract_if(leaves) {
            added.insert_unique(item.hash(), item, T::hash);
        }
        parent.shrink_to(parent.len(), T::hash);
        self.segments.push(added);
    }

    fn drop_segment(&mut self) {
        let mut dropped = self.segments.pop().expect("there is always a segment");
        assert!(!self.segments.is_empty());
        let parent_index = parent_of(self.segments.len());
        let parent = &mut self.segments[parent_index];
        parent.reserve(dropped.len(), T::hash);
        for item in dropped.drain() {
            parent.insert_unique(item.hash(), item, T::hash);
        }
        if self.segments.capacity() > 4 * self.segments.len() {
            self.segments.shrink_to(2 * self.segments.len());
        }
    }
}

/// Gives memory back once three quarters of it are unused.
fn shrink<T: Bucket>(segment: &mut HashTable<T>) {
    if segment.capacity() > CAPACITY_KEPT && segment.len() < segment.capacity() / 4 {
        segment.shrink_to(2 * segment.len(), T::hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, PartialEq, Debug)]
    struct Number(u64);

    impl Bucket for Number {
        fn hash(&self) -> u64 {
            fastrand::Rng::with_seed(self.0).u64(..)
        }
    }

    fn contains(table: &GrowingTable<Number>, number: u64) -> bool {
        table.find(Number(number).hash(), |found| found.0 == number).is_some()
    }

    #[test]
    fn items_stay_findable_while_segments_come_and_go() {
        let count = 40_000;
        let mut table = GrowingTable::new();
        for number in 0..count {
            table.insert(Number(number));
            assert!(table.segments.len() * SEGMENT_ITEMS_MEAN_MAX >= table.len());
        }
        assert!(table.segments.len() > 20);
        let most = table.segments.iter().map(|segment| segment.len()).max();
        assert!(most < Some(3 * SEGMENT_ITEMS_MEAN_MAX), "{most:?}");
        assert!((0..count).all(|number| contains(&table, number)));
        assert!(!contains(&table, count));

        for number in 0..count {
            let removed = table.remove(Number(number).hash(), |found| found.0 == number);
            assert_eq!(removed, Some(Number(number)));
            assert!(!contains(&table, number));
            if number % 997 == 0 {
                assert!((number + 1..count).all(|rest| contains(&table, rest)));
            }
        }
        assert_eq!(table.len(), 0);
        assert_eq!(table.segments.len(), 1);
        let bytes: usize = table.segments.iter().map(|segment| segment.allocation_size()).sum();
        assert!(bytes < 1024, "{bytes}");
    }

    #[test]
    fn a_segment_and_its_parent_agree_about_every_hash() {
        for segment_count in 1..200 {
            for high in 0..1_000_u64 {
                let before = segment_of(high << 32, segment_count);
                let after = segment_of(high << 32, segment_count + 1);
                assert!(before < segment_count);
                assert!(
                    before == after
                        || (after == segment_count && before == parent_of(segment_count))
                );
            }
        }
    }
}
