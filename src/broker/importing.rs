//! Shadow subscriptions: a client's subscription stands for more in the accounts that its own imports streams from.
//!
//! A shadow is a subscription in the exporting account's table, to what of an import the client wants, and its
//! interest travels as any other. As a filter may overlap any number of imports, shadows are made one after the other
//! as far as a turn may and as other shards have room to be told; until all are there the client may not do anything
//! else. They go with their subscription. After a reload they are made what they would be if the client subscribed
//! now.
//!
//! Invariants: a shadow is in one table, and known to the subscription that it stands for and to nobody else. Who
//! takes a subscription out of its table takes its shadows out of theirs: they hold each other.

use std::rc::Rc;
use std::sync::Arc;

use super::Broker;
use super::link::Congestion;
use super::subscription::{ImportSink, Sink, Subscription};
use super::turn::Turn;
use crate::auth::account_imports::{AccountImports, WantedStream};
use crate::base::ids::{AccountId, ClientKey};
use crate::base::limits::SUBSCRIPTION_WORK;

/// A subscription whose shadows are being made.
pub(super) struct Importing {
    owner: Rc<Subscription>,
    /// Where to go on among the imports of its account.
    next: usize,
    /// A reload would find others from here on.
    imports: Arc<AccountImports>,
}

/// How far the shadows of a subscription are made.
pub enum Imported {
    All,
    /// The turn is over.
    Some,
    /// Other shards must be told, and there is no room for it: what to wait for.
    NoRoom(Congestion),
}

impl Broker {
    /// From now on accounts import this. Subscriptions of before are brought up to it as their clients are reviewed.
    pub fn set_imports(&mut self, imports: Arc<AccountImports>) {
        self.imports = imports;
    }

    /// A client subscribed: `go_on_importing` makes the shadows.
    #[inline]
    pub(super) fn begin_importing(
        &mut self,
        client: ClientKey,
        account: AccountId,
        owner: &Rc<Subscription>,
    ) {
        if self.imports.streams_of(account).is_some() {
            let (owner, imports) = (owner.clone(), self.imports.clone());
            self.clients[client.index()].importing = Some(Importing { owner, next: 0, imports });
        }
    }

    /// Makes shadows of what the client subscribed to last, as far as this turn may.
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
        mut importing: Importing,
        turn: &mut Turn,
    ) -> Imported {
        if !Arc::ptr_eq(&importing.imports, &self.imports) {
            // A reload came in between. What is there already is looked at when the client is reviewed.
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
            turn.spend(1);
            let filter = importing.owner.filter();
            let Some((wanted, next)) = streams.next_wanted(filter, importing.next) else {
                return Imported::All;
            };
            if turn.is_over() {
                self.clients[client.index()].importing = Some(importing);
                return Imported::Some;
            }
            if let Some(congestion) = self.interest_congestion() {
                self.clients[client.index()].importing = Some(importing);
                return Imported::NoRoom(congestion);
            }
            turn.spend(SUBSCRIPTION_WORK);
            importing.next = next;
            self.add_shadow(&importing.owner, wanted);
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

    /// Takes all shadows of a subscription out of everything that knows them.
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

    /// Has a subscription stand for what it would stand for if it were made now. Shadows that stay are not touched.
    pub(super) fn renew_shadows(&mut self, client: ClientKey, owner: &Rc<Subscription>) {
        let state = &mut self.clients[client.index()];
        if state.importing.as_ref().is_some_and(|importing| Rc::ptr_eq(&importing.owner, owner)) {
            state.importing = None;
        }
        let (account, imports) = (state.account, self.imports.clone());
        let mut wanted: Vec<WantedStream<'_>> = Vec::new();
        if let Some(streams) = imports.streams_of(account) {
            let mut next = 0;
            while let Some((found, after)) = streams.next_wanted(owner.filter(), next) {
                wanted.push(found);
                next = after;
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
