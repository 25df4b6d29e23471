//! Fills monitoring's snapshots from what this shard owns, in bounded steps: each call examines no
//! more than the `SNAPSHOT_*` limits allow, returns the place to continue from, and lets the shard
//! work in between.

use std::collections::BTreeMap;

use super::core::Shard;
use super::describe::{account_totals, details, numbers, subscription_details};
use super::pages::{AccountPlace, ListPlace, Page, SubscriptionFilter, SubscriptionPlace};
use super::speaker::Speaker;
use crate::base::ids::{AccountId, ClientKey};
use crate::base::limits::{
    SNAPSHOT_DETAILS_PER_TURN, SNAPSHOT_ENTRIES_PER_TURN, SNAPSHOT_FANOUT_LOOKS_MAX,
    SNAPSHOT_LOOKS_PER_TURN,
};
use crate::broker::Broker;
use crate::broker::subscription::Subscription;
use crate::client::session::ClientSession;
use crate::monitor::closed::PackedConnection;
use crate::monitor::snapshot::{
    AccountTotals, ConnectionDetails, ConnectionFilter, ConnectionRow, LaneSummary,
    OperationTotals, ShardSummary, SubscriptionDetails, TableSummary,
};

/// What one turn may still examine.
struct Slice {
    entries_left: usize,
    looks_left: usize,
}

impl Default for Slice {
    fn default() -> Self {
        Self { entries_left: SNAPSHOT_ENTRIES_PER_TURN, looks_left: SNAPSHOT_LOOKS_PER_TURN }
    }
}

impl Slice {
    /// Takes one entry; false if the turn's share is used up.
    fn take_entry(&mut self) -> bool {
        let may = self.entries_left > 0 && self.looks_left > 0;
        self.entries_left -= usize::from(may);
        may
    }

    /// Visits a client's subscriptions from a bucket on, as far as the turn's share reaches.
    /// Returns the bucket to continue from; None at the end.
    fn walk(
        &mut self,
        broker: &Broker,
        client: ClientKey,
        from: usize,
        mut visit: impl FnMut(&Subscription),
    ) -> Option<usize> {
        let Self { entries_left, looks_left } = self;
        if *entries_left == 0 {
            return Some(from);
        }
        broker.walk_subscriptions(client, from, looks_left, |subscription| {
            visit(subscription);
            *entries_left -= 1;
            *entries_left > 0
        })
    }
}

/// Returns the counts of some accounts' tables, from an account's id on.
fn table_page(broker: &Broker, with_fanout: bool, from: usize) -> Page<TableSummary> {
    let mut items = Vec::new();
    let mut looks = 0;
    let mut next = from;
    let count = broker.account_count();
    while next < count && items.len() < SNAPSHOT_ENTRIES_PER_TURN && looks < SNAPSHOT_LOOKS_PER_TURN
    {
        let account = AccountId(u32::try_from(next).expect("ids of accounts fit"));
        let counts = broker.table_counts(account);
        let (fanout, looked) = match with_fanout {
            true => broker.fanout(account, SNAPSHOT_FANOUT_LOOKS_MAX),
            false => Default::default(),
        };
        looks += looked;
        next += 1;
        items.push(TableSummary {
            subscriptions: counts.subscriptions,
            cached: counts.cached,
            inserts: counts.inserts,
            removes: counts.removes,
            matches: counts.matches,
            cache_hits: counts.cache_hits,
            fanout_subjects: fanout.subjects,
            fanout_total: fanout.total,
            fanout_largest: fanout.largest,
        });
    }
    Page { items, next: (next < count).then_some(next) }
}

impl Shard {
    /// Returns the numbers of this shard, except those of its tables (`table_page`).
    pub(crate) fn summary(&self) -> ShardSummary {
        let broker = self.broker.borrow();
        let (counters, depth) = (self.mesh.counters(), self.mesh.depth());
        let totals = &self.recorded.outboxes;
        let (pending_bytes, pending_bytes_largest) = self.recorded.pending_bytes.get();
        let clients = &self.clients.counters;
        let operations = &self.connections.operations;
        ShardSummary {
            shard: self.id.index(),
            is_awake: self.loads.is_awake(self.id),
            connections: self.connection_count(),
            in_messages: clients.in_messages.get(),
            in_bytes: clients.in_bytes.get(),
            out_messages: totals.messages.get(),
            out_bytes: totals.bytes.get(),
            slow_consumers: clients.slow_consumers.get(),
            stale_connections: clients.stale_connections.get(),
            stalls: totals.stalls.get(),
            dropped: totals.dropped.get(),
            pending_bytes,
            pending_bytes_largest,
            turns: self.recorded.turns.get(),
            moved_in: self.recorded.moved_in.get(),
            turn_durations: self.recorded.clock.turns.durations(),
            queued_durations: totals.queued.durations(),
            lane_durations: self.mesh.transits(),
            operations: OperationTotals {
                reads: operations.reads.totals(),
                writes: operations.writes.totals(),
                polls: operations.polls.totals(),
            },
            lanes: LaneSummary {
                batches_in: counters.batches_in,
                messages_in: counters.messages_in,
                batches_out: counters.batches_out,
                wakes: counters.wakes,
                stalls: counters.stalls,
                interest_in: counters.interest_in,
                waiting_batches: depth.batches,
                waiting_interest: depth.notes,
                staged_bytes: depth.staged_bytes,
            },
            queue_members_gone: broker.counters.queue_members_gone,
            unanswered: broker.counters.unanswered,
            system_dropped: self.system_dropped(),
            jetstream: self.jetstream.borrow().as_ref().map(|place| Box::new(place.summary())),
            ..ShardSummary::default()
        }
    }

    /// Returns the tables of accounts from this id on, in the order of ids; with the fan-out of
    /// cached subjects only on request.
    pub(crate) fn table_page(&self, with_fanout: bool, from: usize) -> Page<TableSummary> {
        table_page(&self.broker.borrow(), with_fanout, from)
    }

    /// Returns the connections from `from` on that pass the filter.
    pub(crate) fn connection_page(
        &self,
        filter: &ConnectionFilter,
        from: usize,
    ) -> Page<ConnectionRow> {
        let broker = self.broker.borrow();
        let mut items = Vec::new();
        let next = self.walk_sessions(from, SNAPSHOT_ENTRIES_PER_TURN, |place, session| {
            let facts = session.facts();
            let passes = filter.id.is_none_or(|id| id == facts.id.0)
                && filter.account.as_ref().is_none_or(|account| account == facts.account)
                && filter.user.as_ref().is_none_or(|user| user == facts.user);
            // A connection that is about to end has left the broker already.
            if passes && !session.is_detached() {
                let count = broker.subscription_count(facts.key);
                items.push(ConnectionRow { numbers: numbers(&facts, count), place });
            }
        });
        Page { items, next }
    }

    /// Describes the connections at these places, if they are still the ones named, without their
    /// subscriptions. `from` and the returned place are indexes into `wanted`.
    pub(crate) fn details_page(
        &self,
        wanted: &[(usize, u64)],
        from: usize,
    ) -> Page<ConnectionDetails> {
        let broker = self.broker.borrow();
        let registry = self.registry.borrow();
        let mut items = Vec::new();
        let end = wanted.len().min(from.saturating_add(SNAPSHOT_DETAILS_PER_TURN));
        for (place, id) in wanted.get(from..end).unwrap_or_default() {
            let Some(entry) = registry.get(*place) else { continue };
            let Speaker::Client(session) = &entry.speaker;
            let session = session.borrow();
            if session.id().0 == *id && !session.is_detached() {
                let facts = session.facts();
                items.push(details(&facts, broker.subscription_count(facts.key)));
            }
        }
        Page { items, next: (end < wanted.len()).then_some(end) }
    }

    /// Returns the subscriptions of the connections at these places, one connection after the
    /// other, if they are still the ones named.
    pub(crate) fn list_page(
        &self,
        wanted: &[(usize, u64)],
        from: ListPlace,
    ) -> Page<SubscriptionDetails, ListPlace> {
        let broker = self.broker.borrow();
        let registry = self.registry.borrow();
        let mut items = Vec::new();
        let mut slice = Slice::default();
        let mut bucket = from.bucket;
        for (index, (place, id)) in wanted.iter().enumerate().skip(from.index) {
            let start = std::mem::take(&mut bucket);
            if !slice.take_entry() {
                return Page { items, next: Some(ListPlace { index, bucket: start }) };
            }
            let Some(entry) = registry.get(*place) else { continue };
            let Speaker::Client(session) = &entry.speaker;
            let session = session.borrow();
            if session.id().0 != *id || session.is_detached() {
                continue;
            }
            let key = session.facts().key;
            let stopped = slice.walk(&broker, key, start, |subscription| {
                items.push(subscription_details(*id, subscription));
            });
            if let Some(bucket) = stopped {
                return Page { items, next: Some(ListPlace { index, bucket }) };
            }
        }
        Page { items, next: None }
    }

    /// Returns the subscriptions of this shard's clients from `from` on, with their accounts.
    pub(crate) fn subscription_page(
        &self,
        filter: &SubscriptionFilter,
        from: SubscriptionPlace,
    ) -> Page<(String, SubscriptionDetails), SubscriptionPlace> {
        let broker = self.broker.borrow();
        let registry = self.registry.borrow();
        let mut items = Vec::new();
        let mut slice = Slice::default();
        let mut bucket = from.bucket;
        for connection in from.connection..registry.capacity() {
            let start = std::mem::take(&mut bucket);
            if !slice.take_entry() {
                let next = SubscriptionPlace { connection, bucket: start };
                return Page { items, next: Some(next) };
            }
            let Some(entry) = registry.get(connection) else { continue };
            let Speaker::Client(session) = &entry.speaker;
            let session = session.borrow();
            let facts = session.facts();
            let other = filter.account.as_ref().is_some_and(|account| account != facts.account);
            if other || session.is_detached() {
                continue;
            }
            let stopped = slice.walk(&broker, facts.key, start, |subscription| {
                if filter.passes(subscription) {
                    let details = subscription_details(facts.id.0, subscription);
                    items.push((facts.account.to_owned(), details));
                }
            });
            if let Some(bucket) = stopped {
                return Page { items, next: Some(SubscriptionPlace { connection, bucket }) };
            }
        }
        Page { items, next: None }
    }

    /// Returns the closed connections from number `from` on, oldest first.
    pub(crate) fn closed_page(&self, from: usize) -> Page<PackedConnection> {
        let closed = self.recorded.closed.borrow();
        let items: Vec<PackedConnection> =
            closed.iter().skip(from).take(SNAPSHOT_ENTRIES_PER_TURN).cloned().collect();
        let next = from + items.len();
        Page { items, next: (next < closed.len()).then_some(next) }
    }

    /// Returns open connections and their messages by account, and the totals of closed ones.
    pub(crate) fn account_page(
        &self,
        from: AccountPlace,
    ) -> Page<(String, AccountTotals), AccountPlace> {
        let closed = &self.recorded.closed_totals.borrow().list;
        let rest = closed.get(from.closed..).unwrap_or_default();
        if !rest.is_empty() {
            let items = rest[..rest.len().min(SNAPSHOT_ENTRIES_PER_TURN)].to_vec();
            let closed = from.closed + items.len();
            return Page { items, next: Some(AccountPlace { closed, connection: 0 }) };
        }
        let mut sums: BTreeMap<String, AccountTotals> = BTreeMap::new();
        let next = self.walk_sessions(from.connection, SNAPSHOT_ENTRIES_PER_TURN, |_, session| {
            let facts = session.facts();
            let totals = AccountTotals { connections: 1, ..account_totals(&facts, false) };
            sums.entry(facts.account.to_owned()).or_default().add(&totals);
        });
        let next = next.map(|connection| AccountPlace { connection, ..from });
        Page { items: sums.into_iter().collect(), next }
    }

    fn walk_sessions(
        &self,
        from: usize,
        entries_max: usize,
        mut visit: impl FnMut(usize, &ClientSession),
    ) -> Option<usize> {
        let registry = self.registry.borrow();
        let end = registry.capacity().min(from.saturating_add(entries_max));
        for place in from..end {
            if let Some(entry) = registry.get(place) {
                let Speaker::Client(session) = &entry.speaker;
                visit(place, &session.borrow());
            }
        }
        (end < registry.capacity()).then_some(end)
    }
}

#[cfg(test)]
#[path = "snapshot/tests.rs"]
mod tests;
