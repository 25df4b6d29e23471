//! Counts of this shard's own subscriptions per (account, filter, queue): what the links are told
//! of.

use hashbrown::HashTable;
use std::hash::BuildHasher;

use crate::base::ids::AccountId;
use crate::base::shrink;
use crate::broker::names::Names;

struct Entry {
    /// No sid.
    names: Names,
    account: AccountId,
    count: u32,
}

const _: () = assert!(size_of::<Entry>() <= 32, "there may be as many as subscriptions");

/// This shard's own subscriptions, counted by account, filter and queue.
pub struct InterestCounts {
    entries: HashTable<Entry>,
    hasher: foldhash::fast::RandomState,
}

impl InterestCounts {
    pub fn new() -> Self {
        Self { entries: HashTable::new(), hasher: foldhash::fast::RandomState::default() }
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
    pub fn change(&mut self, account: AccountId, filter: &[u8], queue: &[u8], added: bool) -> u32 {
        let hash = Self::hash(&self.hasher, account, filter, queue);
        let same = |entry: &Entry| {
            entry.account == account
                && entry.names.filter() == filter
                && entry.names.queue() == queue
        };
        if added {
            let rehash = |entry: &Entry| Self::hash_of(&self.hasher, entry);
            let mut entry = self.entries.entry(hash, same, rehash).or_insert_with(|| Entry {
                names: Names::new(filter, queue, b""),
                account,
                count: 0,
            });
            let entry = entry.get_mut();
            entry.count += 1;
            return entry.count;
        }
        let mut entry =
            self.entries.find_entry(hash, same).ok().expect("only counted interest is withdrawn");
        let count = entry.get().count - 1;
        entry.get_mut().count = count;
        if count == 0 {
            entry.remove();
            shrink::table(&mut self.entries, |entry| Self::hash_of(&self.hasher, entry));
        }
        count
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
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
