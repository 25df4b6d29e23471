//! Shadow subscriptions: the entries that a client's subscription has in the tables of exporting
//! accounts, one for each stream import that it overlaps.
//!
//! A shadow's interest is announced to other shards like that of any subscription. A filter may
//! overlap any number of imports, so shadows are added some per turn and only while the interest
//! lanes have room; until all are there, none of the client's further commands is executed. Shadows
//! are removed together with their subscription. A reload adds and removes shadows as if the client
//! subscribed now.
//!
//! Invariants: a shadow is in exactly one table, and only the subscription that it belongs to
//! refers to it. Whoever removes a subscription from its table must remove its shadows, because the
//! two hold references to each other.

use std::rc::Rc;
use std::sync::Arc;

use super::Broker;
use super::link::Congestion;
use super::subscription::{ImportSink, Sink, Subscription};
use super::turn::Turn;
use crate::auth::account_imports::{AccountImports, Look, WantedStream};
use crate::base::ids::{AccountId, ClientKey};
use crate::base::limits::SUBSCRIPTION_WORK;

/// Units of work for examining some imports.
const LOOK_WORK: usize = 4;

/// A subscription whose shadows are being added.
pub(super) struct Importing {
    owner: Rc<Subscription>,
    /// The next of its account's imports to examine.
    next: usize,
    /// The imports that `next` refers to; a reload replaces them.
    imports: Arc<AccountImports>,
}

/// The progress in adding a subscription's shadows.
pub enum Imported {
    All,
    /// The turn is over.
    Some,
    /// An interest lane has no room: the wait for it.
    NoRoom(Congestion),
}

impl Broker {
    /// Takes over the imports of a new configuration. Existing subscriptions follow when their
    /// clients are reviewed.
    pub fn set_imports(&mut self, imports: Arc<AccountImports>) {
        self.imports = imports;
    }

    /// Notes a new subscription, for `go_on_importing` to add its shadows.
    #[inline]
    pub(super) fn begin_importing(
        &mut self,
        client: ClientKey,
        account: AccountId,
        owner: &Rc<Subscription>,
    ) {
        if self.imports.streams_of(account).is_some() {
            let (owner, imports) = (owner.clone(), self.imports.clone());
            self.clients[client.index()].importing =
                Some(Box::new(Importing { owner, next: 0, imports }));
        }
    }

    /// Adds shadows of the client's last subscription, as far as this turn allows.
    #[inline]
    pub fn go_on_importing(&mut self, client: ClientKey, turn: &mut Turn) -> Imported {
        match self.clients[client.index()].importing.take() {
            Some(importing) => self.import_more(client, importing, turn),
            None => Imported::All,
        }
    }

    #[cold]
    fn import_more(
        &mut self,
        client: ClientKey,
        mut importing: Box<Importing>,
        turn: &mut Turn,
    ) -> Imported {
        if !Arc::ptr_eq(&importing.imports, &self.imports) {
            // A reload replaced the imports: start again.
            self.drop_shadows(&importing.owner);
            (importing.next, importing.imports) = (0, self.imports.clone());
        }
        let account = self.clients[client.index()].account;
        let imports = importing.imports.clone();
        let Some(streams) = imports.streams_of(account) else { return Imported::All };
        loop {
            if importing.owner.is_removed() {
                return Imported::All;
            }
            if turn.is_over() {
                self.clients[client.index()].importing = Some(importing);
                return Imported::Some;
            }
            if let Some(congestion) = self.interest_congestion() {
                self.clients[client.index()].importing = Some(importing);
                return Imported::NoRoom(congestion);
            }
            turn.spend(LOOK_WORK);
            match streams.look(importing.owner.filter(), &mut importing.next) {
                Look::End => return Imported::All,
                Look::Nothing => {}
                Look::Wanted(wanted) => {
                    turn.spend(SUBSCRIPTION_WORK);
                    self.add_shadow(&importing.owner, wanted);
                }
            }
        }
    }

    fn add_shadow(&mut self, owner: &Rc<Subscription>, wanted: WantedStream<'_>) {
        let WantedStream { exporter, import, filter } = wanted;
        self.ensure_account(exporter);
        let sink = ImportSink { owner: owner.clone(), exporter, import: import.clone() };
        let sink = Sink::Import(Rc::new(sink));
        let shadow = Rc::new(Subscription::new(&filter, owner.queue(), owner.sid(), sink, 1));
        owner.add_shadow(shadow.clone());
        self.add_to_table(exporter, &shadow);
        self.count_interest(exporter, &shadow, true);
    }

    /// Removes all shadows of a subscription.
    #[inline]
    pub(super) fn drop_shadows(&mut self, owner: &Subscription) {
        if owner.shadow_count() > 0 {
            owner.take_shadows().into_iter().for_each(|shadow| self.drop_shadow(&shadow));
        }
    }

    #[cold]
    fn drop_shadow(&mut self, shadow: &Rc<Subscription>) {
        let Sink::Import(sink) = &shadow.sink else { return };
        self.remove_from_table(sink.exporter, shadow);
        self.count_interest(sink.exporter, shadow, false);
    }

    /// Adds and removes shadows of a subscription as the current imports demand. Those that stay
    /// are not touched.
    pub(super) fn renew_shadows(&mut self, client: ClientKey, owner: &Rc<Subscription>) {
        let state = &mut self.clients[client.index()];
        if state.importing.as_ref().is_some_and(|importing| Rc::ptr_eq(&importing.owner, owner)) {
            state.importing = None;
        }
        let (account, imports) = (state.account, self.imports.clone());
        let mut wanted: Vec<WantedStream<'_>> = Vec::new();
        if let Some(streams) = imports.streams_of(account) {
            let mut place = 0;
            loop {
                match streams.look(owner.filter(), &mut place) {
                    Look::Wanted(found) => wanted.push(found),
                    Look::Nothing => {}
                    Look::End => break,
                }
            }
        }
        for shadow in owner.take_shadows() {
            let stands_for = |wanted: &WantedStream<'_>| match &shadow.sink {
                Sink::Import(sink) => {
                    sink.exporter == wanted.exporter
                        && sink.import == *wanted.import
                        && *wanted.filter == *shadow.filter()
                }
                _ => false,
            };
            match wanted.iter().position(stands_for) {
                Some(index) => {
                    wanted.swap_remove(index);
                    owner.add_shadow(shadow);
                }
                None => self.drop_shadow(&shadow),
            }
        }
        wanted.into_iter().for_each(|wanted| self.add_shadow(owner, wanted));
    }
}

#[cfg(test)]
#[path = "importing/tests.rs"]
mod tests;
