//! Shrinks tables that have become nearly empty, to give their memory back.
//!
//! The work is bounded: a table that still holds many entries keeps its memory until it is small.

use hashbrown::{HashMap, HashTable};
use slab::Slab;

/// Entries that may be moved to shrink one table: some hundredths of a microsecond each, as when it
/// grows.
const MOVED_MAX: usize = 1024;

/// Capacity below which shrinking is not worth it.
const CAPACITY_MIN: usize = 64;

fn is_worth(len: usize, capacity: usize) -> bool {
    capacity > CAPACITY_MIN && len <= MOVED_MAX && len < capacity / 8
}

/// Shrinks the table if that is worth it. To be called after a removal.
#[inline]
pub(crate) fn table<T>(table: &mut HashTable<T>, hash: impl Fn(&T) -> u64) {
    if is_worth(table.len(), table.capacity()) {
        table.shrink_to(2 * table.len(), hash);
    }
}

/// Shrinks the map if that is worth it. To be called after a removal.
#[inline]
pub(crate) fn map<K: Eq + std::hash::Hash, V, S: std::hash::BuildHasher>(
    map: &mut HashMap<K, V, S>,
) {
    if is_worth(map.len(), map.capacity()) {
        map.shrink_to(2 * map.len());
    }
}

/// Gives back the room behind the last entry, which is searched for from the end: for occasional
/// use. Entries keep their keys.
pub(crate) fn slab<T>(slab: &mut Slab<T>) {
    if slab.capacity() > CAPACITY_MIN && slab.len() < slab.capacity() / 4 {
        slab.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearly_empty_tables_shrink() {
        const COUNT: usize = 100_000;
        let hash = |number: &usize| (*number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut numbers = HashTable::new();
        let mut names: HashMap<usize, ()> = HashMap::new();
        let mut places = Slab::new();
        for number in 0..COUNT {
            numbers.insert_unique(hash(&number), number, hash);
            names.insert(number, ());
            places.insert(number);
        }
        for number in (3..COUNT).rev() {
            let entry = numbers.find_entry(hash(&number), |other| *other == number);
            entry.ok().unwrap().remove();
            table(&mut numbers, hash);
            names.remove(&number);
            map(&mut names);
            places.remove(number);
        }
        slab(&mut places);
        assert!(numbers.capacity() <= CAPACITY_MIN, "{}", numbers.capacity());
        assert!(names.capacity() <= CAPACITY_MIN, "{}", names.capacity());
        assert!(places.capacity() <= CAPACITY_MIN, "{}", places.capacity());
        for number in 0..3 {
            assert!(numbers.find(hash(&number), |other| *other == number).is_some());
            assert!(names.contains_key(&number));
            assert_eq!(places[number], number);
        }
    }
}
