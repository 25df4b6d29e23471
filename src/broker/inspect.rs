//! Answers of a shard's routing state to monitoring: counts that are kept anyway, and walks in
//! bounded steps.

use std::rc::Rc;

use super::Broker;
use super::subscription::Subscription;
use crate::base::ids::{AccountId, ClientKey};

/// Counts of one account's table and cache on this shard. Interest behind links is not counted as a
/// subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableCounts {
    pub subscriptions: usize,
    pub inserts: u64,
    pub removes: u64,
    /// Subjects looked up; a publisher that repeats its subject does not look it up again.
    pub matches: u64,
    pub cache_hits: u64,
    /// Subjects in the match cache.
    pub cached: usize,
}

impl TableCounts {
    pub(super) fn added(&mut self, subscription: &Subscription) {
        if subscription.client().is_some() {
            self.subscriptions += 1;
            self.inserts += 1;
        }
    }

    pub(super) fn removed(&mut self, subscription: &Subscription) {
        if subscription.client().is_some() {
            self.subscriptions -= 1;
            self.removes += 1;
        }
    }
}

/// Numbers of subscriptions that the cached subjects reach on this shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fanout {
    pub subjects: u64,
    pub total: u64,
    pub largest: u64,
}

impl Broker {
    /// The ids of accounts that this shard has state for are below this.
    pub fn account_count(&self) -> usize {
        self.accounts.len()
    }

    #[cfg(test)]
    pub(super) fn account_state_count(&self) -> usize {
        self.accounts.0.iter().flatten().count()
    }

    /// Bytes of the match caches, and of what they held and is not dropped yet.
    #[cfg(test)]
    pub(super) fn cached_bytes(&self) -> usize {
        self.shared.cached_bytes.used()
    }

    pub fn table_counts(&self, account: AccountId) -> TableCounts {
        self.accounts.get(account.index()).map_or_else(TableCounts::default, |state| TableCounts {
            cached: state.cache.len(),
            ..state.counts
        })
    }

    /// The fan-out of some cached subjects of an account, and how many subjects were looked at for
    /// it: at most `looks_max`.
    pub fn fanout(&self, account: AccountId, looks_max: usize) -> (Fanout, usize) {
        let mut fanout = Fanout::default();
        let mut looks = 0;
        let Some(state) = self.accounts.get(account.index()) else { return (fanout, looks) };
        for list in state.cache.values().take(looks_max) {
            looks += 1;
            let reached = list.size() as u64;
            fanout.subjects += 1;
            fanout.total += reached;
            fanout.largest = fanout.largest.max(reached);
        }
        (fanout, looks)
    }

    /// Visits a client's subscriptions from the place an earlier walk gave, until `visit` says no
    /// or so many buckets were looked at, full or empty. Gives the place to go on from, or none at
    /// the end. A subscription that comes meanwhile may be missed.
    pub fn walk_subscriptions(
        &self,
        client: ClientKey,
        from: usize,
        looks_left: &mut usize,
        visit: impl FnMut(&Rc<Subscription>) -> bool,
    ) -> Option<usize> {
        self.clients.get(client.index())?.subscriptions.walk(from, looks_left, visit)
    }
}
