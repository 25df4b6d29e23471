//! Promises of the broker's modules, looked at all at once: for tests and simulators, after each step.
//! A look costs as much as there is, and is not in a release build.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::link::Source;
use super::subscription::{Sink, Subscription};
use super::{AccountState, Broker, ClientState};
use crate::base::ids::{AccountId, ClientKey};
use crate::base::limits::UNHEARD_REQUESTS_MAX;
use crate::protocol::subject;

/// Own subscriptions by account, filter and queue.
type Counts = HashMap<(AccountId, Vec<u8>, Vec<u8>), u32>;

impl Broker {
    /// # Panics
    /// A promise is broken.
    pub fn check_invariants(&self) {
        let mut counts = Counts::new();
        for (index, client) in &self.clients {
            self.check_client(index, client, &mut counts);
        }
        self.check_interest(&counts);
        for (id, account) in self.accounts.iter() {
            self.check_account(id, account);
        }
        let cached: usize = self.accounts.iter().map(|(_, account)| account.cache.bytes()).sum();
        assert_eq!(cached, self.shared.cached_bytes.used(), "bytes of all caches");
        self.check_expired();
        self.backlog.check_invariants(|client| {
            self.clients.get(client.index()).is_some_and(|client| client.leaving.is_some())
        });
        assert!(self.unheard.waiting.len() <= UNHEARD_REQUESTS_MAX);
        assert!(self.unheard.waiting.iter().all(|unheard| unheard.share < Source::WHOLE));
    }

    /// A client's subscriptions are in the table, found by their sid; where they are leaving, there are no others.
    fn check_client(&self, index: usize, client: &ClientState, counts: &mut Counts) {
        let mut expired_count = 0;
        for subscription in client.subscriptions.iter() {
            let hash = self.hash_of_sid(subscription.sid());
            let found = client.subscriptions.find(hash, |other| other.sid() == subscription.sid());
            assert!(found.is_some_and(|found| Rc::ptr_eq(found, subscription)), "one for each sid");
            assert_eq!(subscription.client(), Some(ClientKey(index as u32)));
            assert!(subscription.is_in_table());
            expired_count += u32::from(subscription.is_removed());
            if !self.links.is_empty() {
                let (filter, queue) = (subscription.filter().into(), subscription.queue().into());
                *counts.entry((client.account, filter, queue)).or_default() += 1;
                subscription.for_each_shadow(|shadow| {
                    let Sink::Import(sink) = &shadow.sink else { unreachable!("it is a shadow") };
                    let (filter, queue) = (shadow.filter().into(), shadow.queue().into());
                    *counts.entry((sink.exporter, filter, queue)).or_default() += 1;
                });
            }
            subscription.for_each_shadow(|shadow| assert!(shadow.is_in_table()));
        }
        assert_eq!(client.expired_count, expired_count, "those at their maximum");
        if client.leaving.is_some() {
            assert!(client.subscriptions.is_empty(), "nothing is subscribed before all are gone");
            assert!(client.review.is_none());
        }
    }

    /// What the links were told of is what there is; those on their way out are still counted.
    fn check_interest(&self, counts: &Counts) {
        for ((account, filter, queue), count) in counts {
            let counted = self.interest.count(*account, filter, queue);
            assert!(counted >= *count, "{counted} of {count} are counted");
        }
        let leaving = self.clients.iter().any(|(_, client)| client.leaving.is_some());
        if !leaving && !self.has_services() {
            assert_eq!(self.interest.len(), counts.len(), "interest that nobody has");
            let total: u64 = counts.values().map(|count| u64::from(*count)).sum();
            assert_eq!(self.interest.total(), total, "interest that nobody has");
        }
        for link in &self.links {
            for (account, subscription) in link.subscriptions.iter() {
                assert!(subscription.is_in_table(), "{account:?}");
                assert!(!subscription.is_removed());
                assert!(subscription.weight() > 0, "interest that ended");
            }
        }
    }

    /// Services of the server subscribe too, and are no clients.
    fn has_services(&self) -> bool {
        let (mut found, accounts) = (false, self.accounts.iter());
        accounts.for_each(|(_, account)| {
            account.table.for_each(|_, other| {
                found |= matches!(other.sink, Sink::Service(_) | Sink::Answers(_))
            });
        });
        found
    }

    /// The table holds what clients, links and services have, and no other; a cached list is what a look at the
    /// table would find.
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
        account.cache.for_each(|literal, list| {
            let (mut plain, mut size) = (HashSet::new(), 0);
            account.table.for_each_match(literal, |subscription: &Rc<Subscription>| {
                assert!(subject::matches(subscription.filter(), literal));
                if matches!(subscription.sink, Sink::Request(_) | Sink::Answers(_)) {
                    return;
                }
                let is_link = matches!(subscription.sink, Sink::Link(_));
                if subscription.queue().is_empty() && !is_link {
                    plain.insert(Rc::as_ptr(subscription));
                }
                size += usize::from(!is_link || !subscription.queue().is_empty());
            });
            let listed: HashSet<_> = list.plain.iter().map(Rc::as_ptr).collect();
            assert_eq!(plain, listed, "a cached list is exact");
            assert_eq!(list.size(), size, "a cached list is exact");
        });
    }

    /// Those that reached their maximum get nothing more, and none of them is forgotten.
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
