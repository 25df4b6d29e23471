//! The broker's background work, which belongs to no connection's turn: a part of it is done at the
//! end of each turn of its shard.
//!
//! - Messages that go to many, of services of the server and of clients that are gone: one after
//!   the other.
//! - Subscriptions of clients that are gone, and those that reached their maximum. Other shards are
//!   told, so they wait for room on the interest lanes: what is staged there stays short.
//! - The contents of long matched lists, which are dropped.
//! - Watches of interest that may have changed.
//!
//! Subscriptions that wait here get no further message: their connection is closed, or they are
//! marked as removed.

use std::collections::VecDeque;
use std::rc::Rc;

use super::Broker;
use super::fan_out::FanOut;
use super::link::Congestion;
use super::passage::Routed;
use super::subscription::Subscription;
use super::turn::Turn;
use crate::base::gate::Gate;
use crate::base::ids::ClientKey;
use crate::base::limits::{
    ADOPTED_FAN_OUT_BYTES_MAX, SUBSCRIPTION_WORK, WAITING_FAN_OUT_BYTES_MAX,
};
use crate::base::table::Entries;

/// Parts of a turn: each kind of work gets one.
const KINDS: usize = 5;

/// Work that waits for the ends of turns.
pub(super) struct Backlog {
    fan_outs: VecDeque<Box<FanOut>>,
    fan_out_bytes: usize,
    /// Counts those that are done.
    done: Rc<Gate>,
    /// The wait of the first of them: another shard has no room for it.
    fan_out_waits: Option<Congestion>,
    /// Clients that are gone and have subscriptions left.
    leaving: VecDeque<ClientKey>,
    /// Work that clients that go, and services that publish, may still do themselves in this turn
    /// of the shard.
    pub(super) turn_left: usize,
}

impl Backlog {
    pub(super) fn new(turn_work_max: usize) -> Self {
        Self {
            fan_outs: VecDeque::new(),
            fan_out_bytes: 0,
            done: Rc::default(),
            fan_out_waits: None,
            leaving: VecDeque::new(),
            turn_left: turn_work_max,
        }
    }

    pub(super) fn has_fan_outs(&self) -> bool {
        !self.fan_outs.is_empty()
    }

    /// `is_leaving`: a client has subscriptions on their way out.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn check_invariants(&self, is_leaving: impl Fn(ClientKey) -> bool) {
        let bytes: usize = self.fan_outs.iter().map(|fan_out| fan_out.bytes()).sum();
        assert_eq!(self.fan_out_bytes, bytes, "bytes of messages that wait");
        let distinct: std::collections::HashSet<_> = self.leaving.iter().copied().collect();
        assert_eq!(distinct.len(), self.leaving.len(), "a client leaves once");
        assert!(distinct.into_iter().all(is_leaving));
    }

    /// Counts what was done at once.
    pub(super) fn spend(&mut self, work: usize) {
        self.turn_left = self.turn_left.saturating_sub(work);
    }

    fn has_ready_fan_outs(&self) -> bool {
        let waits = self.fan_out_waits.as_ref();
        self.has_fan_outs() && waits.is_none_or(|waits| waits.gate.value() >= waits.until)
    }

    pub(super) fn has_room(&self, fan_out: &FanOut) -> bool {
        self.fan_out_bytes + fan_out.bytes() <= WAITING_FAN_OUT_BYTES_MAX
    }

    /// The wait for more room than there is.
    pub(super) fn room(&self) -> Congestion {
        Congestion { gate: self.done.clone(), until: self.done.value() + 1 }
    }

    pub(super) fn push_fan_out(&mut self, fan_out: Box<FanOut>) {
        self.fan_out_bytes += fan_out.bytes();
        self.fan_outs.push_back(fan_out);
    }
}

/// The progress in dropping the subscriptions of a client.
pub enum Dropped<W> {
    All,
    /// The turn is over.
    Some,
    /// Other shards must be told, and there is no room for it: what to wait for.
    NoRoom(W),
}

/// Subscriptions on their way out.
pub(super) type Leaving = Box<Entries<Rc<Subscription>>>;

impl Broker {
    /// Takes over a message whose publisher is gone before everybody had it. Past the bound it ends
    /// here: there is nobody who could wait.
    pub fn adopt(&mut self, mut fan_out: Box<FanOut>) {
        let bytes = self.backlog.fan_out_bytes + fan_out.bytes();
        if bytes > ADOPTED_FAN_OUT_BYTES_MAX && self.backlog.has_fan_outs() {
            self.counters.orphans_dropped += 1;
            return;
        }
        fan_out.orphan();
        self.backlog.push_fan_out(fan_out);
    }

    /// Does a part of what is to be done behind. False if there was nothing to do.
    pub fn work_off(&mut self) -> bool {
        self.backlog.turn_left = self.turn_work_max;
        if !self.has_ready_work() {
            return false;
        }
        self.end_cut();
        let part = (self.turn_work_max / KINDS).max(1);
        let mut turn = Turn::new(part);
        self.go_on_with_fan_outs(&mut turn);
        let mut work = turn.work();
        let kinds =
            [Self::drop_leaving, Self::drop_expired, Self::drop_leftovers, Self::look_at_watches];
        for kind in kinds {
            let mut budget = part;
            kind(self, &mut budget);
            work += part - budget;
        }
        self.note_turn_work(work);
        true
    }

    /// True if there is work to do now.
    pub fn has_ready_work(&self) -> bool {
        let waits_for_room = !self.backlog.leaving.is_empty()
            || !self.expired.is_empty()
            || !self.departed.borrow().is_empty();
        self.backlog.has_ready_fan_outs()
            || !self.shared.leftovers.is_empty()
            || !self.watches.is_at_rest()
            || self.cuts.can_end()
            || (waits_for_room && self.has_interest_reserve())
    }

    fn go_on_with_fan_outs(&mut self, turn: &mut Turn) {
        if !self.backlog.has_ready_fan_outs() {
            return;
        }
        while let Some(fan_out) = self.backlog.fan_outs.pop_front() {
            let bytes = fan_out.bytes();
            turn.publisher = fan_out.connection();
            match self.resume(fan_out, turn) {
                Routed::Delivered | Routed::Nobody => {
                    self.backlog.fan_out_bytes -= bytes;
                    self.backlog.done.advance_by(1);
                }
                Routed::Unfinished => {
                    let left = turn.unfinished.take().expect("an unfinished message is left");
                    self.backlog.fan_outs.push_front(left);
                    self.backlog.fan_out_waits = turn.congestion.take();
                    return;
                }
            }
            if turn.is_over() {
                return;
            }
        }
    }

    fn drop_leaving(&mut self, budget: &mut usize) {
        while let Some(client) = self.backlog.leaving.pop_front() {
            match self.drop_some(client, budget, Self::behind_all) {
                Dropped::All => self.remove_client(client),
                Dropped::Some => return self.backlog.leaving.push_back(client),
                Dropped::NoRoom(()) => return self.backlog.leaving.push_front(client),
            }
        }
    }

    /// Takes subscriptions that reached their maximum, and those of services that let go of them,
    /// out of everything that knows them.
    pub(super) fn drop_expired(&mut self, budget: &mut usize) {
        while *budget > 0 && !(self.expired.is_empty() && self.departed.borrow().is_empty()) {
            if !self.has_interest_reserve() {
                return;
            }
            let departed = self.departed.borrow_mut().pop();
            match departed.or_else(|| self.expired.pop()) {
                Some(subscription) if subscription.client().is_none() => {
                    self.forget_service(&subscription);
                }
                Some(subscription) => self.forget(&subscription),
                None => return,
            }
            *budget = budget.saturating_sub(SUBSCRIPTION_WORK + self.take_change_work());
        }
    }

    fn drop_leftovers(&mut self, budget: &mut usize) {
        self.shared.leftovers.drop_some(budget);
    }

    /// Drops subscriptions of a client for so much work: all that it has when this begins. Nothing
    /// may be subscribed for it before all are gone.
    /// `wait`: the room that it needs before each.
    fn drop_some<W>(
        &mut self,
        client: ClientKey,
        budget: &mut usize,
        wait: impl Fn(&Self) -> Option<W>,
    ) -> Dropped<W> {
        let state = &mut self.clients[client.index()];
        let account = state.account;
        if state.leaving.is_none() {
            if state.subscriptions.is_empty() {
                return Dropped::All;
            }
            let all = std::mem::take(&mut state.subscriptions);
            state.expired_count = 0;
            state.review = None;
            state.importing = None;
            state.leaving = Some(Box::new(all.into_iter()));
        }
        loop {
            if *budget == 0 {
                return Dropped::Some;
            }
            if let Some(wait) = wait(self) {
                return Dropped::NoRoom(wait);
            }
            let leaving = &mut self.clients[client.index()].leaving;
            let Some(subscription) = leaving.as_mut().and_then(|leaving| leaving.next()) else {
                *leaving = None;
                return Dropped::All;
            };
            let count = 1 + subscription.shadow_count();
            self.withdraw(account, &subscription);
            *budget = budget.saturating_sub(SUBSCRIPTION_WORK * count + self.take_change_work());
        }
    }

    /// Drops every subscription of a client before its second CONNECT, as far as its turn may. What
    /// is left is for the next call; until then it may not do anything else.
    pub fn unsubscribe_all(&mut self, client: ClientKey, turn: &mut Turn) -> Dropped<Congestion> {
        let room = turn.room();
        let mut budget = room;
        let dropped = self.drop_some(client, &mut budget, Self::interest_congestion);
        turn.spend(room - budget);
        dropped
    }

    /// Removes a client and all its subscriptions: at once where they are few, else behind.
    pub fn detach(&mut self, client: ClientKey) {
        if let Some(pace) = &self.clients[client.index()].pace {
            pace.resumed.open_for_good();
        }
        let left = self.backlog.turn_left;
        let mut budget = left;
        match self.drop_some(client, &mut budget, Self::behind_all) {
            Dropped::All => self.remove_client(client),
            Dropped::Some | Dropped::NoRoom(()) => self.backlog.leaving.push_back(client),
        }
        self.backlog.turn_left = budget;
        self.note_turn_work(left - budget);
    }

    /// Some = a subscription that no client waits for stays, as there is no room to tell others.
    fn behind_all(&self) -> Option<()> {
        (!self.has_interest_reserve()).then_some(())
    }

    fn remove_client(&mut self, client: ClientKey) {
        let state = self.clients.remove(client.index());
        debug_assert!(state.subscriptions.is_empty() && state.leaving.is_none());
    }
}
