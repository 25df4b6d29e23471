//! The consumers of a stream that wait for a message, by their filters. A new message is looked up
//! once, and costs nothing for consumers that wait for others or for nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::filters::Filters;
use crate::broker::subject_table::{Slot, SubjectTable};

/// Waiting consumers, by numbers that their owner gives.
pub(crate) struct Wakes {
    /// Those without a filter.
    unfiltered: BTreeSet<u32>,
    /// The others, with a place for each filter.
    filtered: BTreeMap<u32, Vec<Place>>,
    table: SubjectTable<u32>,
}

/// A filter, and the place of a consumer under it in the table.
type Place = (Box<[u8]>, Slot);

impl Wakes {
    /// The seed is for hashes of filters, which come from peers.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            unfiltered: BTreeSet::new(),
            filtered: BTreeMap::new(),
            table: SubjectTable::new(seed),
        }
    }

    /// True if new messages have to be looked at.
    pub(crate) fn is_empty(&self) -> bool {
        self.unfiltered.is_empty() && self.filtered.is_empty()
    }

    /// True if the subjects of new messages have to be looked at.
    pub(crate) fn has_filtered(&self) -> bool {
        !self.filtered.is_empty()
    }

    /// A consumer waits for the next message.
    pub(crate) fn wait(&mut self, consumer: u32, filters: &Filters) {
        if filters.is_all() {
            self.unfiltered.insert(consumer);
        } else if !self.filtered.contains_key(&consumer) {
            let places = filters.iter().map(|filter| {
                let slot = self.table.insert(filter, consumer);
                (filter.into(), slot)
            });
            let places = places.collect();
            self.filtered.insert(consumer, places);
        }
    }

    /// A consumer waits no longer.
    pub(crate) fn forget(&mut self, consumer: u32) {
        self.unfiltered.remove(&consumer);
        for (filter, slot) in self.filtered.remove(&consumer).unwrap_or_default() {
            self.table.remove(&filter, slot);
        }
    }

    /// Takes some of the consumers that wait for any message.
    pub(crate) fn wake_unfiltered(&mut self, count_max: usize, woken: &mut Vec<u32>) {
        for _ in 0..count_max {
            match self.unfiltered.pop_first() {
                Some(consumer) => woken.push(consumer),
                None => break,
            }
        }
    }

    /// Takes the consumers that wait for a message with this subject.
    pub(crate) fn wake(&mut self, subject: &[u8], woken: &mut Vec<u32>) {
        let before = woken.len();
        self.table.for_each_match(subject, |consumer| woken.push(*consumer));
        for consumer in &woken[before..] {
            for (filter, slot) in self.filtered.remove(consumer).unwrap_or_default() {
                self.table.remove(&filter, slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(list: &[&str]) -> Filters {
        Filters::new(list.iter().map(|filter| filter.as_bytes().into()).collect())
    }

    #[test]
    fn a_message_wakes_those_that_wait_for_it_once() {
        let mut wakes = Wakes::new(1);
        wakes.wait(1, &filters(&[]));
        wakes.wait(2, &filters(&["a.*", "b.1"]));
        wakes.wait(2, &filters(&["a.*", "b.1"]));
        wakes.wait(3, &filters(&["b.>"]));
        wakes.wait(4, &filters(&["c"]));
        wakes.forget(4);
        let mut woken = Vec::new();
        wakes.wake(b"b.1", &mut woken);
        woken.sort_unstable();
        assert_eq!(woken, [2, 3]);
        woken.clear();
        wakes.wake(b"a.1", &mut woken);
        wakes.wake(b"c", &mut woken);
        assert!(woken.is_empty());
        assert!(!wakes.has_filtered() && !wakes.is_empty());
        wakes.wake_unfiltered(5, &mut woken);
        assert_eq!(woken, [1]);
        assert!(wakes.is_empty());
    }
}
