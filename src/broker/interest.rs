//! Counts of this shard's own subscriptions per account, filter and queue, which are announced over
//! the links.

use std::hash::BuildHasher;

use crate::base::ids::AccountId;
use crate::base::table::Table;
use crate::broker::names::Names;

struct Entry {
    /// No sid.
    names: Names,
    account: AccountId,
    count: u32,
}

const _: () = assert!(size_of::<Entry>() <= 32, "there may be as many as subscriptions");

/// This shard's own subscriptions, counted by account, filter and queue.
pub(crate) struct InterestCounts {
    entries: Table<Entry>,
    hasher: foldhash::fast::RandomState,
}

impl InterestCounts {
    pub(crate) fn new() -> Self {
        Self { entries: Table::new(), hasher: foldhash::fast::RandomState::default() }
    }

    fn hash(
        hasher: &foldhash::fast::RandomState,
        account: AccountId,
        filter: &[u8],
        queue: &[u8],
    ) -> u64 {
        hasher.hash_one((account, filter, queue))
    }

    fn hash_of(hasher: &foldhash::fast::RandomState, entry: &Entry) -> u64 {
        Self::hash(hasher, entry.account, entry.names.filter(), entry.names.queue())
    }

    /// Counts one subscription in or out and gives the new count.
    pub(crate) fn change(
        &mut self,
        account: AccountId,
        filter: &[u8],
        queue: &[u8],
        added: bool,
    ) -> u32 {
        let hash = Self::hash(&self.hasher, account, filter, queue);
        let same = |entry: &Entry| {
            entry.account == account
                && entry.names.filter() == filter
                && entry.names.queue() == queue
        };
        let rehash = |entry: &Entry| Self::hash_of(&self.hasher, entry);
        if let Some(entry) = self.entries.find_mut(hash, same) {
            entry.count = if added { entry.count + 1 } else { entry.count - 1 };
            let count = entry.count;
            if count == 0 {
                self.entries.remove(hash, same);
                self.entries.shrink(hash, rehash);
            }
            return count;
        }
        assert!(added, "only counted interest is withdrawn");
        let entry = Entry { names: Names::new(filter, queue, b""), account, count: 1 };
        self.entries.insert_unique(hash, entry, rehash);
        1
    }

    #[cfg(any(test, debug_assertions))]
    pub(super) fn count(&self, account: AccountId, filter: &[u8], queue: &[u8]) -> u32 {
        let hash = Self::hash(&self.hasher, account, filter, queue);
        let found = self.entries.find(hash, |entry| {
            entry.account == account
                && entry.names.filter() == filter
                && entry.names.queue() == queue
        });
        found.map_or(0, |entry| entry.count)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl Default for InterestCounts {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_from_nothing_to_nothing() {
        let mut counts = InterestCounts::new();
        let account = AccountId::GLOBAL;
        assert_eq!(counts.change(account, b"a", b"", true), 1);
        assert_eq!(counts.change(account, b"a", b"q", true), 1);
        assert_eq!(counts.change(account, b"a", b"", true), 2);
        assert_eq!(counts.change(account, b"a", b"", false), 1);
        assert_eq!(counts.change(account, b"a", b"", false), 0);
        assert_eq!(counts.len(), 1);
    }
}
