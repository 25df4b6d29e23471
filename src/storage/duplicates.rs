//! The ids of a stream's latest messages, by which a message that comes twice is taken only once.
//!
//! An id is kept as a hash of 128 bits, with keys that no peer can learn, so that no two ids are
//! mistaken for each other. At most [`DUPLICATE_IDS_MAX`] are kept; past that the oldest is
//! forgotten early and counted, and a message that comes with it again is taken again.
//!
//! Ids are not stored by themselves: a replay, and recovery of a stream from its messages, adds
//! them again.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use crate::base::limits::DUPLICATE_IDS_MAX;
use crate::base::table::Table;

/// The number of old ids that are looked at, to be forgotten, for each new one. More than one, so
/// that the ids of a past load are forgotten during a lesser one.
const FORGOTTEN_AT_ONCE_MAX: usize = 4;

/// Entries of a piece of the queue: it grows by pieces, and growth moves no more entries than
/// these.
const PIECE_ENTRIES: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct IdHash([u64; 2]);

struct Known {
    id: IdHash,
    end_ns: i64,
    sequence: u64,
}

/// The ids of a stream.
pub(crate) struct Duplicates {
    keys: [RandomState; 2],
    known: Table<Known>,
    /// All known ids with the ends of their windows, in the order in which they came, and some
    /// forgotten ones.
    order: VecDeque<Vec<(i64, IdHash)>>,
    /// Entries of the first piece that were removed.
    done: usize,
    forgotten: u64,
}

impl std::fmt::Debug for Duplicates {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} ids", self.len())
    }
}

impl Default for Duplicates {
    fn default() -> Self {
        Self {
            keys: [RandomState::new(), RandomState::new()],
            known: Table::new(),
            order: VecDeque::new(),
            done: 0,
            forgotten: 0,
        }
    }
}

impl Duplicates {
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Ids that were forgotten before their time.
    #[cfg(test)]
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Approximate bytes of memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.known.len() * 2 * size_of::<Known>()
            + self.order.len() * PIECE_ENTRIES * size_of::<(i64, IdHash)>()
    }

    /// The sequence of the message with this id, if one came within the window.
    pub(crate) fn find(&self, id: &[u8], now_ns: i64) -> Option<u64> {
        let id = self.hash(id);
        let known = self.known.find(id.0[0], |known| known.id == id)?;
        (known.end_ns > now_ns).then_some(known.sequence)
    }

    /// Notes the id of a message that was taken at `now_ns`, to be known for the window from then
    /// on.
    pub(crate) fn insert(&mut self, id: &[u8], sequence: u64, now_ns: i64, window_ns: i64) {
        let (id, end_ns) = (self.hash(id), now_ns.saturating_add(window_ns));
        match self.known.find_mut(id.0[0], |known| known.id == id) {
            Some(known) => *known = Known { id, end_ns, sequence },
            None => {
                let known = Known { id, end_ns, sequence };
                self.known.insert_unique(id.0[0], known, |known| known.id.0[0]);
            }
        }
        match self.order.back_mut().filter(|piece| piece.len() < PIECE_ENTRIES) {
            Some(piece) => piece.push((end_ns, id)),
            None => {
                // The first piece of a stream with few ids grows as it needs to.
                let capacity = if self.order.is_empty() { 0 } else { PIECE_ENTRIES };
                let mut piece = Vec::with_capacity(capacity);
                piece.push((end_ns, id));
                self.order.push_back(piece);
            }
        }
        self.forget(now_ns, FORGOTTEN_AT_ONCE_MAX);
    }

    /// The end of the oldest id's window.
    pub(crate) fn first_end_ns(&self) -> Option<i64> {
        let (end_ns, _) = self.order.front()?.get(self.done)?;
        Some(*end_ns)
    }

    /// Forgets ids that are out of the window, looking at no more than `ids_max`; true if there may
    /// be more.
    pub(crate) fn forget(&mut self, now_ns: i64, ids_max: usize) -> bool {
        for _ in 0..ids_max {
            let Some(&(end_ns, id)) = self.order.front().and_then(|piece| piece.get(self.done))
            else {
                return false;
            };
            let is_out = end_ns <= now_ns;
            if !is_out && self.known.len() <= DUPLICATE_IDS_MAX {
                return false;
            }
            self.done += 1;
            if self.done == PIECE_ENTRIES
                || self.order.len() == 1 && self.done == self.order[0].len()
            {
                self.order.pop_front();
                self.done = 0;
            }
            // Unless it came again since.
            let is_it = |known: &Known| known.id == id && known.end_ns == end_ns;
            if self.known.remove(id.0[0], is_it).is_some() {
                self.known.shrink(id.0[0], |known| known.id.0[0]);
                self.forgotten += u64::from(!is_out);
            }
        }
        true
    }

    fn hash(&self, id: &[u8]) -> IdHash {
        IdHash([self.keys[0].hash_one(id), self.keys[1].hash_one(id)])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use fastrand::Rng;

    use super::*;

    #[test]
    fn ids_are_known_for_exactly_the_window() {
        for seed in 0..20 {
            let mut random = Rng::with_seed(seed);
            let (mut ids, mut twin) = (Duplicates::default(), HashMap::new());
            let (mut now_ns, window_ns) = (1000, random.i64(50..400));
            for sequence in 0..20_000_u64 {
                now_ns += random.i64(0..3);
                let id = random.u32(0..500).to_string();
                let expected = twin
                    .get(&id)
                    .filter(|(time_ns, _): &&(i64, u64)| time_ns + window_ns > now_ns)
                    .map(|(_, sequence)| *sequence);
                assert_eq!(ids.find(id.as_bytes(), now_ns), expected, "seed {seed}");
                if expected.is_none() {
                    ids.insert(id.as_bytes(), sequence, now_ns, window_ns);
                    twin.insert(id, (now_ns, sequence));
                }
            }
            assert!(ids.len() <= 500);
            while ids.forget(now_ns + window_ns, 100) {}
            assert!(ids.len() == 0 && ids.order.is_empty());
            assert_eq!(ids.forgotten(), 0);
        }
    }

    #[test]
    fn past_the_bound_the_oldest_id_is_forgotten_and_counted() {
        let mut ids = Duplicates::default();
        let id = |number: usize| number.to_le_bytes();
        for number in 0..DUPLICATE_IDS_MAX {
            ids.insert(&id(number), number as u64, 0, 1);
        }
        assert_eq!((ids.len(), ids.forgotten()), (DUPLICATE_IDS_MAX, 0));
        assert_eq!(ids.find(&id(0), 0), Some(0));
        ids.insert(&id(DUPLICATE_IDS_MAX), 7, 0, 1);
        assert_eq!((ids.len(), ids.forgotten()), (DUPLICATE_IDS_MAX, 1));
        assert_eq!(ids.find(&id(0), 0), None);
        assert_eq!(ids.find(&id(1), 0), Some(1));
    }

    #[test]
    fn one_id_that_comes_takes_a_bounded_number_of_old_ones_away() {
        let mut ids = Duplicates::default();
        for number in 0..5000_usize {
            ids.insert(&number.to_le_bytes(), 1, 0, 10);
        }
        ids.insert(b"later", 2, 1000, 10);
        assert_eq!(ids.len(), 5001 - FORGOTTEN_AT_ONCE_MAX);
    }
}
