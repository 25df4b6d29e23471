//! The receivers of a publisher's last subject: most publishers repeat a subject.

use std::rc::Rc;

use crate::base::ids::AccountId;
use crate::base::limits::ROUTE_LIST_KEPT_MAX;
use crate::broker::AccountState;
use crate::broker::match_list::{ListBuilder, MatchList};
use crate::broker::passage::Origin;
use crate::broker::subscription::Sink;
use crate::broker::turn::Turn;
use crate::protocol::message::MessageRun;
use crate::protocol::nats::encode;

/// A publisher's last subject and its receivers.
pub struct RouteCache {
    account: AccountId,
    subject: Vec<u8>,
    /// Generation of the table when `list` was had; `STALE` without one.
    generation: u64,
    pub(super) list: Option<Rc<MatchList>>,
    /// The head of its MSG up to the reply, if the subject reaches one plain subscription of this
    /// shard; else empty.
    pub(super) head: Vec<u8>,
}

impl Default for RouteCache {
    fn default() -> Self {
        let account = AccountId::default();
        Self { account, subject: Vec::new(), generation: STALE, list: None, head: Vec::new() }
    }
}

/// The generation of no table: it is to be looked up again.
const STALE: u64 = u64::MAX;

impl RouteCache {
    #[inline(never)]
    fn fill(
        &mut self,
        id: AccountId,
        account: &mut AccountState,
        subject: &[u8],
        turn: &mut Turn,
    ) -> Result<(), Box<ListBuilder>> {
        self.account = id;
        self.subject.clear();
        self.subject.extend_from_slice(subject);
        self.refill(account, turn)
    }

    /// Looks up again what it was last asked for. Err = that takes more than one turn.
    #[inline(never)]
    fn refill(
        &mut self,
        account: &mut AccountState,
        turn: &mut Turn,
    ) -> Result<(), Box<ListBuilder>> {
        self.list = None;
        self.head.clear();
        self.generation = STALE;
        let room = turn.room();
        let mut budget = room;
        let found = account.matched(self.account, &self.subject, &mut budget);
        turn.spend(room - budget);
        let list = found?;
        self.generation = account.table.generation();
        if let [subscription] = &list.plain[..] {
            match &subscription.sink {
                Sink::Import(sink) => sink.message_head(&mut self.head, &self.subject),
                _ => encode::message_head(&mut self.head, &self.subject, subscription.sid()),
            }
        }
        self.list = Some(list);
        Ok(())
    }

    /// The subject it was last asked for; empty = nothing yet.
    #[inline]
    pub fn subject(&self) -> &[u8] {
        &self.subject
    }

    /// The list it holds; it may have changed since.
    pub(super) fn list(&self) -> Option<&MatchList> {
        self.list.as_deref()
    }

    /// Makes this what a run reaches now. Err = that takes more than one turn.
    #[inline]
    pub(super) fn renew(
        &mut self,
        id: AccountId,
        account: &mut AccountState,
        origin: &Origin<'_>,
        run: &MessageRun<'_>,
        turn: &mut Turn,
    ) -> Result<(), Box<ListBuilder>> {
        let subject = origin.routed_by(run.first());
        let is_same = run.repeats() || (self.account == id && self.subject == subject);
        debug_assert!(!is_same || (self.account == id && self.subject == subject));
        if !is_same {
            return self.fill(id, account, subject, turn);
        }
        if self.generation != account.table.generation() {
            return self.refill(account, turn);
        }
        Ok(())
    }

    /// The list it holds, if nothing changed since it was had.
    #[inline]
    pub(super) fn current(&self, account: &AccountState) -> Option<&MatchList> {
        let is_current = self.generation == account.table.generation();
        if is_current { self.list.as_deref() } else { None }
    }

    /// For between two reads: lets go of a list that is not short. It is in the match cache, where
    /// its bytes count.
    #[inline]
    pub fn end_batch(&mut self) {
        if self.list.as_ref().is_some_and(|list| list.size() > ROUTE_LIST_KEPT_MAX) {
            self.list = None;
            self.generation = STALE;
        }
    }
}
