//! Promises of the broker's modules, looked at all at once: for tests and simulators, after each
//! step. A look costs as much as there is; release builds have none of this.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::service::Reach;
use super::subscription::Sink;
use super::{AccountState, Broker, ClientState};
use crate::base::ids::{AccountId, LinkId};
use crate::base::limits::INTEREST_WEIGHT_MIN;

/// Own subscriptions by account, filter and queue.
type Counts = HashMap<(AccountId, Vec<u8>, Vec<u8>), u32>;

impl Broker {
    /// Looks at everything.
    ///
    /// # Panics
    /// A promise is broken.
    pub fn check_invariants(&self) {
        self.check_most();
        self.check_interest();
        for (id, account) in self.accounts.iter() {
            self.check_account(id, account);
        }
        self.check_watches();
    }

    /// Leaves out what takes long: whole tables, cached lists and watches.
    ///
    /// # Panics
    /// A promise is broken.
    pub fn check_most(&self) {
        for (index, client) in &self.clients {
            self.check_client(index, client);
        }
        self.check_links();
        let cached: usize = self.accounts.iter().map(|(_, account)| account.cache.bytes()).sum();
        assert_eq!(cached, self.shared.cached_bytes.used(), "bytes of all caches");
        self.check_expired();
        self.backlog.check_invariants(|client| {
            self.clients.get(client.index()).is_some_and(|client| client.leaving.is_some())
        });
        self.unheard.check_invariants();
        self.traces.check_invariants();
        let in_tables: usize = self.accounts.iter().map(|(_, account)| account.table.len()).sum();
        assert_eq!(self.table_total, in_tables, "subscriptions in all tables");
        assert!(self.departed.borrow().iter().all(|subscription| subscription.is_removed()));
    }

    /// A client's subscriptions are in the table, found by their sid; where they are leaving, there
    /// are no others.
    fn check_client(&self, index: usize, client: &ClientState) {
        assert_eq!(client.key.index(), index);
        let mut expired_count = 0;
        for subscription in client.subscriptions.iter() {
            let hash = self.hash_of_sid(subscription.sid());
            let found = client.subscriptions.find(hash, |other| other.sid() == subscription.sid());
            assert!(found.is_some_and(|found| Rc::ptr_eq(found, subscription)), "one for each sid");
            assert_eq!(subscription.client(), Some(client.key));
            assert!(subscription.is_in_table());
            expired_count += u32::from(subscription.is_removed());
            subscription.for_each_shadow(|shadow| assert!(shadow.is_in_table()));
        }
        assert_eq!(client.expired_count, expired_count, "those at their maximum");
        if client.leaving.is_some() {
            assert!(client.subscriptions.is_empty(), "nothing is subscribed before all are gone");
            assert!(client.review.is_none());
        }
    }

    /// The links were told of exactly what is in the tables and not from other links.
    fn check_interest(&self) {
        let mut counts = Counts::new();
        for (id, account) in self.accounts.iter().filter(|_| !self.links.is_empty()) {
            account.table.for_each(|filter, subscription| {
                let is_told = match &subscription.sink {
                    Sink::Link(_) | Sink::Request(_) => false,
                    Sink::Service(sink) => sink.reach == Reach::Server,
                    Sink::Client { .. } | Sink::Answers(_) | Sink::Import(_) => true,
                };
                if is_told {
                    let key = (id, filter.into(), subscription.queue().into());
                    *counts.entry(key).or_default() += 1;
                }
            });
        }
        assert_eq!(self.interest.len(), counts.len(), "filters and queues that are counted");
        for ((account, filter, queue), count) in counts {
            assert_eq!(self.interest.count(account, &filter, &queue), count, "counted interest");
        }
    }

    /// Interest behind a link is in the tables until it ends.
    fn check_links(&self) {
        for link in &self.links {
            for (account, subscription) in link.subscriptions.iter() {
                assert!(subscription.is_in_table(), "{account:?}");
                assert!(!subscription.is_removed());
                assert!(subscription.weight() > 0, "interest that ended");
            }
        }
    }

    /// This shard knows exactly the interest of the shard `behind` a link, once all notes have
    /// come.
    ///
    /// # Panics
    /// It is not.
    pub fn check_link(&self, link: LinkId, behind: &Broker) {
        let known = &self.links[link.index()].subscriptions;
        assert_eq!(known.len(), behind.interest.len(), "interest behind a link");
        for (account, subscription) in known.iter() {
            let (filter, queue) = (subscription.filter(), subscription.queue());
            let (weight, count) =
                (subscription.weight(), behind.interest.count(*account, filter, queue));
            // Told are powers of two from the minimum on, on the way up and down.
            let is_told = match queue.is_empty() {
                true if count < INTEREST_WEIGHT_MIN => count > 0 && weight <= INTEREST_WEIGHT_MIN,
                true => weight / 2 < count && count < weight.saturating_mul(2),
                false => count == weight,
            };
            assert!(is_told, "{count} are behind a link, {weight} are known");
        }
    }

    /// The table holds what clients, links and services have, and no other; a cached list is what a
    /// look at the table would find.
    fn check_account(&self, id: AccountId, account: &AccountState) {
        let of_clients = self.clients.iter().filter(|(_, client)| client.account == id);
        let of_clients = of_clients.map(|(_, client)| {
            client.subscriptions.len() + client.leaving.as_ref().map_or(0, |leaving| leaving.len())
        });
        let of_clients: usize = of_clients.sum();
        assert_eq!(account.counts.subscriptions, of_clients, "subscriptions of clients");
        let of_links = self.links.iter().flat_map(|link| link.subscriptions.iter());
        let (mut of_services, mut of_imports, mut of_crossings) = (0, 0, 0);
        account.table.for_each(|filter, subscription| {
            assert_eq!(filter, subscription.filter());
            of_services += usize::from(matches!(subscription.sink, Sink::Service(_)));
            of_crossings +=
                usize::from(matches!(subscription.sink, Sink::Request(_) | Sink::Answers(_)));
            if let Sink::Import(sink) = &subscription.sink {
                of_imports += 1;
                let mut is_known = false;
                sink.owner.for_each_shadow(|shadow| is_known |= Rc::ptr_eq(shadow, subscription));
                assert!(is_known && sink.owner.is_in_table(), "a shadow of nobody");
            }
        });
        let of_links = of_links.filter(|(other, _)| *other == id).count();
        assert_eq!(
            account.table.len(),
            of_clients + of_links + of_services + of_imports + of_crossings,
            "the table"
        );
        if let Some(responses) = &account.responses {
            responses.check_invariants();
        }
        account.cache.check_invariants();
        account.cache.for_each(|literal, list| list.check_against(&account.table, literal));
        account.table.check_invariants();
    }

    /// Subscriptions at their maximum get nothing more, and each of them is noted to be removed.
    fn check_expired(&self) {
        assert!(self.expired.iter().all(|subscription| subscription.is_removed()));
        let noted: HashSet<_> = self.expired.iter().map(Rc::as_ptr).collect();
        for (_, client) in &self.clients {
            let mut removed = client.subscriptions.iter().filter(|other| other.is_removed());
            assert!(
                removed.all(|other| noted.contains(&Rc::as_ptr(other))),
                "nobody takes it away"
            );
        }
    }
}
