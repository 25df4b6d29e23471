//! A hash map from filters to their subscriptions, made for the case that it is not in the
//! processor's caches.
//!
//! A bucket has a tag (a byte of the hash) for each of its filters, and the filters lie side by
//! side outside. A lookup reads one bucket, and then only a filter whose tag is right.
//! `touch_bucket` and `touch_filter` read just that, so that what several lookups need arrives
//! together.
//!
//! The number of buckets follows the number of filters one by one (linear hashing): a new last
//! bucket takes its share of exactly one older bucket, and one that is given up returns to it. So
//! an insert or remove never moves more than two buckets' filters, where one array that doubles
//! would stop the shard for milliseconds at a million; and memory follows the number of filters, up
//! and down.

use std::hint::select_unpredictable;

use super::Slot;
use super::chunks::Chunks;
use super::short_bytes::ShortBytes;
use super::slot_list::SlotList;
use crate::base::table::{parent_of, part_of};

/// Filters of a bucket that have a tag; later ones are found by their text alone.
const TAG_COUNT: usize = 16;

/// Filters per bucket, over all buckets, at which one more is added. A bucket not yet split since
/// the number of buckets last doubled has up to twice as many, which is well below `TAG_COUNT` for
/// nearly all.
const BUCKET_FILTERS_MEAN_MAX: usize = 5;

/// Below this mean a bucket is given up. Well under the other bound, so that a change back and
/// forth moves nothing.
const BUCKET_FILTERS_MEAN_MIN: usize = 3;

/// Set in the tag of every filter.
const TAG_USED: u128 = 0x80808080_80808080_80808080_80808080;
const ONE_EACH: u128 = 0x01010101_01010101_01010101_01010101;

pub(super) struct Filters<V> {
    /// Never empty.
    buckets: Chunks<Bucket<V>>,
    filter_count: usize,
}

struct Bucket<V> {
    /// A byte per filter, the first one's first; 0 past the last.
    tags: [u8; TAG_COUNT],
    /// Exactly as long as needed: nearly all memory of the table is here.
    entries: Box<[Entry<V>]>,
}

struct Entry<V> {
    filter: ShortBytes,
    list: SlotList<V>,
}

const _: () = assert!(size_of::<Entry<u64>>() == 48, "the memory per subscription rests on this");
const _: () = assert!(size_of::<Bucket<u64>>() == 32, "two buckets make a cache line");

#[inline]
fn tag_of(hash: u32) -> u8 {
    (hash >> 25) as u8 | 0x80
}

/// The top bit of each byte that equals the tag. The byte above an equal one may be marked as well:
/// a candidate that its text refuses.
#[inline]
fn equal_tags(tags: &[u8; TAG_COUNT], tag: u8) -> u128 {
    let tags = u128::from_le_bytes(*tags);
    let difference = tags ^ (u128::from(tag) * ONE_EACH);
    difference.wrapping_sub(ONE_EACH) & !difference & TAG_USED & tags
}

#[inline]
fn first_place(equal: u128) -> usize {
    equal.trailing_zeros() as usize / 8
}

impl<V> Filters<V> {
    pub(super) fn new() -> Filters<V> {
        let mut buckets = Chunks::new();
        buckets.push(Bucket::new());
        Filters { buckets, filter_count: 0 }
    }

    /// Adds a value; tells also whether the filter is new. `hash_of` gives any filter's hash.
    pub(super) fn insert(
        &mut self,
        hash: u32,
        filter: &[u8],
        value: V,
        hash_of: impl Fn(&[u8]) -> u32,
    ) -> (Slot, bool) {
        let bucket = self.bucket_mut(hash);
        if let Some(place) = bucket.find(hash, |text| text == filter) {
            return (bucket.entries[place].list.insert(value), false);
        }
        self.filter_count += 1;
        if self.filter_count > self.buckets.len() * BUCKET_FILTERS_MEAN_MAX {
            self.add_bucket(hash_of);
        }
        let (list, slot) = SlotList::new(value);
        self.bucket_mut(hash).push(hash, Entry { filter: ShortBytes::new(filter), list });
        (slot, true)
    }

    /// Takes a value out; tells also whether the filter went with it. `hash_of` gives any filter's
    /// hash.
    pub(super) fn remove(
        &mut self,
        hash: u32,
        filter: &[u8],
        slot: Slot,
        hash_of: impl Fn(&[u8]) -> u32,
    ) -> Option<(V, bool)> {
        let bucket = self.bucket_mut(hash);
        let place = bucket.find(hash, |text| text == filter)?;
        let list = &mut bucket.entries[place].list;
        if !list.is_only(slot) {
            return list.remove(slot).map(|value| (value, false));
        }
        let removed = bucket.remove(place, &hash_of);
        self.filter_count -= 1;
        if self.filter_count < (self.buckets.len() - 1) * BUCKET_FILTERS_MEAN_MIN {
            self.drop_bucket(hash_of);
        }
        Some((removed.list.into_only(), true))
    }

    /// The values of the filter with this hash for whose text `is_it` holds.
    #[inline]
    pub(super) fn list(&self, hash: u32, is_it: impl FnMut(&[u8]) -> bool) -> Option<&SlotList<V>> {
        let bucket = self.bucket(hash);
        bucket.find(hash, is_it).map(|place| &bucket.entries[place].list)
    }

    #[cfg(test)]
    pub(super) fn values(&self, hash: u32, is_it: impl FnMut(&[u8]) -> bool) -> &[V] {
        self.list(hash, is_it).map_or(&[], SlotList::values)
    }

    /// Loads what a lookup reads first. The result means nothing; it is there to be waited for.
    #[inline]
    pub(super) fn touch_bucket(&self, hash: u32) -> u32 {
        u32::from(self.bucket(hash).tags[0])
    }

    /// Loads the filter that a lookup reads then, if there is one.
    #[inline]
    pub(super) fn touch_filter(&self, hash: u32) -> u32 {
        let bucket = self.bucket(hash);
        let equal = equal_tags(&bucket.tags, tag_of(hash));
        // No branch: a wrong guess would wait for the tags before the next lookup's filter is
        // loaded. The very first filter is never far.
        let place = select_unpredictable(equal == 0, 0, first_place(equal));
        let bucket = select_unpredictable(equal == 0, self.buckets.get(0), bucket);
        bucket.entries.get(place).map_or(0, |Entry { filter, list }| {
            // The two parts may lie in two cache lines.
            filter.touch() ^ list.touch()
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &[V])> {
        let entries = self.buckets.iter().flat_map(|bucket| &bucket.entries);
        entries.map(|entry| (entry.filter.as_slice(), entry.list.values()))
    }

    /// The number of different filters.
    pub(super) fn len(&self) -> usize {
        self.filter_count
    }

    #[inline]
    fn bucket(&self, hash: u32) -> &Bucket<V> {
        self.buckets.get(part_of(hash, self.buckets.len()))
    }

    fn bucket_mut(&mut self, hash: u32) -> &mut Bucket<V> {
        let index = part_of(hash, self.buckets.len());
        self.buckets.get_mut(index)
    }

    fn add_bucket(&mut self, hash_of: impl Fn(&[u8]) -> u32) {
        let added = self.buckets.len();
        self.buckets.push(Bucket::new());
        let parent = std::mem::replace(self.buckets.get_mut(parent_of(added)), Bucket::new());
        let mut parts = [Vec::new(), Vec::new()];
        parts.iter_mut().for_each(|part| part.reserve_exact(parent.entries.len()));
        for entry in parent.entries {
            let goes_on = part_of(hash_of(entry.filter.as_slice()), added + 1) == added;
            parts[usize::from(goes_on)].push(entry);
        }
        let [stays, goes_on] = parts.map(|part| Bucket::with_entries(part, &hash_of));
        *self.buckets.get_mut(parent_of(added)) = stays;
        *self.buckets.get_mut(added) = goes_on;
    }

    fn drop_bucket(&mut self, hash_of: impl Fn(&[u8]) -> u32) {
        let dropped = self.buckets.pop().expect("there is always a bucket");
        let parent = self.buckets.get_mut(parent_of(self.buckets.len()));
        let mut entries = std::mem::take(&mut parent.entries).into_vec();
        entries.reserve_exact(dropped.entries.len());
        entries.extend(dropped.entries);
        *parent = Bucket::with_entries(entries, hash_of);
    }
}

impl<V> Bucket<V> {
    fn new() -> Bucket<V> {
        Bucket { tags: [0; TAG_COUNT], entries: Box::default() }
    }

    fn with_entries(entries: Vec<Entry<V>>, hash_of: impl Fn(&[u8]) -> u32) -> Bucket<V> {
        let mut tags = [0; TAG_COUNT];
        for (tag, entry) in std::iter::zip(&mut tags, &entries) {
            *tag = tag_of(hash_of(entry.filter.as_slice()));
        }
        Bucket { tags, entries: entries.into_boxed_slice() }
    }

    #[inline]
    fn find(&self, hash: u32, mut is_it: impl FnMut(&[u8]) -> bool) -> Option<usize> {
        let mut equal = equal_tags(&self.tags, tag_of(hash));
        while equal != 0 {
            let place = first_place(equal);
            if is_it(self.entries[place].filter.as_slice()) {
                return Some(place);
            }
            equal &= equal - 1;
        }
        if self.entries.len() <= TAG_COUNT {
            return None;
        }
        (TAG_COUNT..self.entries.len()).find(|&place| is_it(self.entries[place].filter.as_slice()))
    }

    fn push(&mut self, hash: u32, entry: Entry<V>) {
        let mut entries = std::mem::take(&mut self.entries).into_vec();
        if let Some(tag) = self.tags.get_mut(entries.len()) {
            *tag = tag_of(hash);
        }
        entries.reserve_exact(1);
        entries.push(entry);
        self.entries = entries.into_boxed_slice();
    }

    fn remove(&mut self, place: usize, hash_of: impl Fn(&[u8]) -> u32) -> Entry<V> {
        let mut entries = std::mem::take(&mut self.entries).into_vec();
        let removed = entries.swap_remove(place);
        if let Some(tag) = self.tags.get_mut(entries.len()) {
            *tag = 0;
        }
        if place < TAG_COUNT
            && let Some(moved) = entries.get(place)
        {
            self.tags[place] = tag_of(hash_of(moved.filter.as_slice()));
        }
        self.entries = entries.into_boxed_slice();
        removed
    }
}

#[cfg(any(test, debug_assertions))]
impl<V> Filters<V> {
    pub(super) fn check_invariants(&self, hash_of: impl Fn(&[u8]) -> u32) {
        let mut filter_count = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            for (place, Entry { filter, list }) in bucket.entries.iter().enumerate() {
                let filter = filter.as_slice();
                let hash = hash_of(filter);
                assert_eq!(part_of(hash, self.buckets.len()), index);
                assert_eq!(bucket.find(hash, |text| text == filter), Some(place));
                assert!(bucket.tags.get(place).is_none_or(|&tag| tag == tag_of(hash)));
                assert!(!list.values().is_empty());
            }
            let unused = bucket.tags.get(bucket.entries.len()..).unwrap_or(&[]);
            assert!(unused.iter().all(|&tag| tag == 0));
            filter_count += bucket.entries.len();
        }
        assert_eq!(self.filter_count, filter_count);
        assert!(filter_count <= self.buckets.len() * BUCKET_FILTERS_MEAN_MAX);
        assert!(filter_count >= (self.buckets.len() - 1) * BUCKET_FILTERS_MEAN_MIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(text: &[u8]) -> u32 {
        let seed = text.iter().fold(0_u64, |sum, &byte| sum * 31 + u64::from(byte));
        fastrand::Rng::with_seed(seed).u32(..)
    }

    fn text(number: u32) -> Vec<u8> {
        number.to_string().into_bytes()
    }

    #[test]
    fn filters_stay_findable_while_buckets_come_and_go() {
        let count = 40_000;
        let mut filters = Filters::new();
        for number in 0..count {
            let filter = text(number);
            let inserted = filters.insert(spread(&filter), &filter, number, spread);
            assert_eq!(inserted, (Slot(0), true));
        }
        filters.check_invariants(spread);
        let past_tags = filters.buckets.iter().filter(|bucket| bucket.entries.len() > TAG_COUNT);
        assert!(past_tags.count() * 20 < filters.buckets.len());

        for number in 0..count {
            let filter = text(number);
            let hash = spread(&filter);
            assert_eq!(filters.values(hash, |text| text == filter), [number]);
            assert_eq!(filters.remove(hash, &filter, Slot(0), spread), Some((number, true)));
            assert_eq!(filters.values(hash, |text| text == filter), [0_u32; 0]);
            if number % 5_003 == 0 {
                filters.check_invariants(spread);
            }
        }
        assert_eq!((filters.len(), filters.buckets.len()), (0, 1));
    }

    #[test]
    fn crowded_buckets_agree_with_a_list() {
        // Few different hashes, so that many buckets have more filters than tags.
        let mut random = fastrand::Rng::with_seed(9);
        for round in 0..40 {
            let hashes: Vec<u32> = (0..1 + round % 20).map(|_| random.u32(..)).collect();
            let hash_of = |text: &[u8]| hashes[spread(text) as usize % hashes.len()];
            let mut filters = Filters::new();
            let mut twin: Vec<u32> = Vec::new();
            for number in 0..400 {
                if random.u32(..10) < if number < 200 { 8 } else { 3 } {
                    let filter = text(number);
                    filters.insert(hash_of(&filter), &filter, number, hash_of);
                    twin.push(number);
                } else if !twin.is_empty() {
                    let number = twin.swap_remove(random.usize(..twin.len()));
                    let filter = text(number);
                    let removed = filters.remove(hash_of(&filter), &filter, Slot(0), hash_of);
                    assert_eq!(removed, Some((number, true)));
                }
                assert_eq!(filters.len(), twin.len());
                filters.check_invariants(hash_of);
            }
            let mut found: Vec<u32> = filters.iter().map(|(_, values)| values[0]).collect();
            found.sort_unstable();
            twin.sort_unstable();
            assert_eq!(found, twin);
        }
    }

    #[test]
    fn equal_tags_finds_every_place_and_no_empty_one() {
        let mut random = fastrand::Rng::with_seed(2);
        for _ in 0..10_000 {
            let mut tags = [0; TAG_COUNT];
            let used = random.usize(..=TAG_COUNT);
            tags[..used].fill_with(|| 0x80 | random.u8(..3));
            let tag = 0x80 | random.u8(..3);
            let equal = equal_tags(&tags, tag);
            for (place, &found) in tags.iter().enumerate() {
                let is_marked = equal >> (8 * place + 7) & 1 == 1;
                assert!(is_marked || found != tag, "{tags:?} {tag}");
                assert!(!is_marked || found != 0, "{tags:?} {tag}");
            }
            let first = tags.iter().position(|&found| found == tag);
            assert_eq!(first, (equal != 0).then(|| first_place(equal)), "{tags:?} {tag}");
        }
    }
}
