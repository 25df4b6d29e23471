//! What a shard records for monitoring alone.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use hashbrown::HashMap;

use crate::base::turn_clock::TurnClock;
use crate::broker::outbox_totals::OutboxTotals;
use crate::monitor::closed::ClosedConnections;
use crate::monitor::snapshot::AccountTotals;

/// What a shard records for monitoring alone.
pub(crate) struct Recorded {
    pub outboxes: Rc<OutboxTotals>,
    pub(super) clock: Rc<TurnClock>,
    pub turns: Cell<u64>,
    /// Connections that other shards gave away, after they had subscribed or published there.
    pub(super) moved_in: Cell<u64>,
    /// All pending bytes, and those of the connection with most, as of the last tick.
    pub pending_bytes: Cell<(u64, u64)>,
    pub(super) closed: RefCell<ClosedConnections>,
    /// Totals of connections that have ended.
    pub(super) closed_totals: RefCell<ClosedTotals>,
}

impl Recorded {
    pub(crate) fn new(clock: Rc<TurnClock>) -> Self {
        Self {
            outboxes: Rc::new(OutboxTotals::new(clock.clone())),
            clock,
            turns: Cell::new(0),
            moved_in: Cell::new(0),
            pending_bytes: Cell::default(),
            closed: RefCell::default(),
            closed_totals: RefCell::default(),
        }
    }
}

/// Totals of connections that have ended, by account. Accounts are only ever added, so a place in
/// the list stays valid.
#[derive(Default)]
pub(super) struct ClosedTotals {
    pub(super) list: Vec<(String, AccountTotals)>,
    places: HashMap<String, usize>,
}

impl ClosedTotals {
    pub(super) fn add(&mut self, account: &str, totals: &AccountTotals) {
        let Self { list, places } = self;
        let place = places.entry_ref(account).or_insert_with(|| {
            list.push((account.to_owned(), AccountTotals::default()));
            list.len() - 1
        });
        list[*place].1.add(totals);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_of_ended_connections_are_summed_by_account_in_places_that_stay() {
        let mut totals = ClosedTotals::default();
        let one = AccountTotals { in_messages: 1, ..AccountTotals::default() };
        for name in ["A", "B", "A", "C", "A"] {
            totals.add(name, &one);
        }
        let sums: Vec<_> =
            totals.list.iter().map(|(name, sum)| (&**name, sum.in_messages)).collect();
        assert_eq!(sums, [("A", 3), ("B", 1), ("C", 1)]);
    }
}
