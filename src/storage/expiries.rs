//! When the messages of a stream end that say so themselves: some 24 bytes of memory for each of those, none for others.

use std::collections::BTreeSet;

use super::marks::TimeToLive;

/// The messages with a time to live of their own.
#[derive(Debug, Default)]
pub(crate) struct Expiries {
    /// The time of the end in nanoseconds since 1970, and the sequence.
    ends: BTreeSet<(i64, u64)>,
    /// Those that no age ends.
    never: BTreeSet<u64>,
}

impl Expiries {
    pub(crate) fn insert(&mut self, sequence: u64, time_ns: i64, time_to_live: TimeToLive) {
        match time_to_live {
            TimeToLive::Never => self.never.insert(sequence),
            TimeToLive::Nanoseconds(length) => {
                self.ends.insert((time_ns.saturating_add(length), sequence))
            }
        };
    }

    pub(crate) fn remove(&mut self, sequence: u64, time_ns: i64, time_to_live: TimeToLive) {
        match time_to_live {
            TimeToLive::Never => self.never.remove(&sequence),
            TimeToLive::Nanoseconds(length) => {
                self.ends.remove(&(time_ns.saturating_add(length), sequence))
            }
        };
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// True if the limit of age does not hold for this message.
    pub(crate) fn is_never(&self, sequence: u64) -> bool {
        self.never.contains(&sequence)
    }

    /// The end that comes first, and whose it is.
    pub(crate) fn first(&self) -> Option<(i64, u64)> {
        self.ends.first().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len() + self.never.len()
    }
}
