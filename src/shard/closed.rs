//! Records for monitoring: connections that ended, and consumers that missed their write deadline.

use std::time::Instant;

use super::core::Shard;
use super::describe::{account_totals, details, last_subscription};
use crate::base::limits::{CLOSED_BYTES_MAX, CLOSED_BYTES_PER_SHARD_MIN};
use crate::broker::late_send::SendCheck;
use crate::client::session::ClientSession;
use crate::monitor::snapshot::{AccountTotals, ClosedConnection};
use crate::protocol::nats::error::CloseReason;

impl Shard {
    /// Records a connection that has ended.
    pub(super) fn record_closed(&self, session: &ClientSession) {
        session.outbox().add_to_totals();
        if session.is_not_upgraded() {
            return;
        }
        let now = Instant::now();
        let facts = session.facts();
        let reason = session.outbox().close_reason().unwrap_or(CloseReason::ClientClosed);
        self.system.ended(&mut self.broker.borrow_mut(), &self.clients, &facts, reason);
        let slow = matches!(
            reason,
            CloseReason::SlowConsumerPendingBytes | CloseReason::SlowConsumerWriteDeadline
        );
        let mut totals = self.recorded.closed_totals.borrow_mut();
        totals.add(facts.account, &account_totals(&facts, slow));
        let remembered_max = self.closed_max();
        if remembered_max == 0 {
            return;
        }
        let id = facts.id.0;
        let last = session.last_subscriptions();
        let mut described = details(&facts, last.map_or(0, |last| last.count));
        // Counts what a slow consumer did not take, which is what an operator wants to know.
        described.numbers.pending_bytes += session.outbox().written_off().1;
        let kept = last.map_or(&[][..], |last| &last.kept);
        described.subscription_list = kept.iter().map(|kept| last_subscription(id, kept)).collect();
        let last = ClosedConnection { details: described, stopped: now, reason };
        let share = CLOSED_BYTES_MAX / self.shard_count();
        let bytes_max = share.max(CLOSED_BYTES_PER_SHARD_MIN);
        let mut closed = self.recorded.closed.borrow_mut();
        closed.remember(last, self.system.epoch(), remembered_max, bytes_max);
    }

    fn shard_count(&self) -> usize {
        self.mesh.peer_count() + 1
    }

    /// Logs and counts a missed write deadline: each one of a client that stays counts like one
    /// that is closed for it.
    #[cold]
    pub(super) fn note_send(&self, session: &ClientSession, check: SendCheck) {
        session.log_late_send(check);
        if matches!(check, SendCheck::Late { .. }) {
            let slow = &self.clients.counters.slow_consumers;
            slow.set(slow.get() + 1);
            let facts = session.facts();
            let once = AccountTotals { slow_consumers: 1, ..AccountTotals::default() };
            self.recorded.closed_totals.borrow_mut().add(facts.account, &once);
        }
    }

    /// Returns the number of closed connections that this shard remembers: twice its share of the
    /// configured number, because connections are not spread evenly; all of a small number.
    fn closed_max(&self) -> usize {
        /// Below this number every shard remembers all.
        const SMALL: usize = 64;
        let wanted = self.clients.options.borrow().limits.closed_connections_max;
        let share = wanted.div_ceil(self.shard_count());
        wanted.min((share * 2).max(SMALL))
    }
}
