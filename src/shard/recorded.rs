//! What a shard remembers for monitoring alone.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use hashbrown::HashMap;

use crate::base::turn_clock::TurnClock;
use crate::broker::outbox_totals::OutboxTotals;
use crate::monitor::closed::ClosedConnections;
use crate::monitor::snapshot::AccountTotals;

/// What a shard remembers for monitoring alone.
pub(crate) struct Recorded {
    pub outboxes: Rc<OutboxTotals>,
    pub(super) clock: Rc<TurnClock>,
    pub turns: Cell<u64>,
    /// As of the last tick: all pending bytes, and those of the connection with most.
    pub pending_bytes: Cell<(u64, u64)>,
    pub(super) closed: RefCell<ClosedConnections>,
    /// Of connections that ended.
    pub(super) closed_totals: RefCell<ClosedTotals>,
}

impl Recorded {
    pub(crate) fn new(clock: Rc<TurnClock>) -> Self {
        Self {
            outboxes: Rc::new(OutboxTotals::new(clock.clone())),
            clock,
            turns: Cell::new(0),
            pending_bytes: Cell::default(),
            closed: RefCell::default(),
            closed_totals: RefCell::default(),
        }
    }
}

/// What connections that ended did, by account. Accounts only come: a place in the list stays what it is.
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
    fn what_ended_connections_did_is_summed_by_account_in_places_that_stay() {
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
