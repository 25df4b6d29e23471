//! A set of filters with their subscriptions, found by hash and text.

use super::Slot;
use super::chunks::Chunks;
use super::line_table::LineTable;
use super::short_bytes::ShortBytes;
use super::slot_list::SlotList;

pub struct Filters<V> {
    /// Dense: a removed entry's place is taken by the last one.
    entries: Chunks<Entry<V>>,
    /// Every entry by the hash of its filter.
    by_hash: LineTable,
}

struct Entry<V> {
    filter: ShortBytes,
    list: SlotList<V>,
}

const _: () = assert!(size_of::<Entry<u64>>() == 48, "the memory per subscription rests on this");

impl<V> Filters<V> {
    pub fn new() -> Filters<V> {
        Filters { entries: Chunks::new(), by_hash: LineTable::new() }
    }

    /// Adds a value; tells also whether the filter is new.
    pub fn insert(&mut self, hash: u32, filter: &[u8], value: V) -> (Slot, bool) {
        if let Some(entry) = self.find(hash, |text| text == filter) {
            return (self.entries.get_mut(entry).list.insert(value), false);
        }
        let (list, slot) = SlotList::new(value);
        let entry = self.entries.push(Entry { filter: ShortBytes::new(filter), list });
        self.by_hash.insert(hash, entry);
        (slot, true)
    }

    /// Takes a value out; tells also whether the filter went with it. `hash_of` gives any filter's hash.
    pub fn remove(
        &mut self,
        filter: &[u8],
        slot: Slot,
        hash_of: impl Fn(&[u8]) -> u32,
    ) -> Option<(V, bool)> {
        let hash = hash_of(filter);
        let entry = self.find(hash, |text| text == filter)?;
        let list = &mut self.entries.get_mut(entry).list;
        if !list.is_only(slot) {
            return list.remove(slot).map(|value| (value, false));
        }
        self.by_hash.remove(hash, entry);
        let removed = self.entries.swap_remove(entry);
        let moved = self.entries.len() as u32;
        if moved != entry {
            let hash = hash_of(self.entries.get(entry).filter.as_slice());
            self.by_hash.renumber(hash, moved, entry);
        }
        Some((removed.list.into_only(), true))
    }

    /// The values of the filter with this hash for whose text `is_it` holds.
    #[inline]
    pub fn values(&self, hash: u32, is_it: impl Fn(&[u8]) -> bool) -> &[V] {
        self.find(hash, is_it).map_or(&[], |entry| self.entries.get(entry).list.values())
    }

    /// Loads what the first step of a lookup reads. The result means nothing; it is there to be waited for.
    #[inline]
    pub fn touch_line(&self, hash: u32) -> u32 {
        self.by_hash.touch(hash)
    }

    /// Loads what the second step reads, if the first one finds something where it begins to look.
    #[inline]
    pub fn touch_entry(&self, hash: u32) -> u32 {
        let entry = self.by_hash.first_in_line(hash);
        self.entries.try_get(entry).map_or(0, |Entry { filter, list }| {
            // The two parts may lie in two cache lines.
            filter.touch() ^ list.touch()
        })
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[V])> {
        self.entries.iter().map(|entry| (entry.filter.as_slice(), entry.list.values()))
    }

    /// How many different filters there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[inline]
    fn find(&self, hash: u32, is_it: impl Fn(&[u8]) -> bool) -> Option<u32> {
        self.by_hash.find(hash, |entry| is_it(self.entries.get(entry).filter.as_slice()))
    }
}

#[cfg(test)]
impl<V> Filters<V> {
    pub fn check_invariants(&self, hash_of: impl Fn(&[u8]) -> u32) {
        assert_eq!(self.by_hash.len(), self.entries.len());
        for (index, (filter, values)) in self.iter().enumerate() {
            assert_eq!(self.find(hash_of(filter), |text| text == filter), Some(index as u32));
            assert!(!values.is_empty());
        }
    }
}
