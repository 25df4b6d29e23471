//! The broker's interface for services inside the server: they subscribe with a mailbox and publish
//! like clients that have no connection.
//!
//! A subscription lasts as long as its handle. Services hear each other; what one of them publishes
//! is heard in the next turn of the other (`mailbox`). Nothing that a service publishes is dropped
//! because somebody does not keep up: it is told what to wait for, and publishes again.
//!
//! A service whose own mailbox is full waits for no mailbox: it might be its own, or that of one
//! which waits for it. It is told to read first, keeps what it cannot act on yet, and publishes
//! then. So a service that waits for room also looks at its own mailbox.

use std::cell::RefCell;
use std::rc::Rc;

use super::Broker;
use super::fan_out::{FanOut, Stage};
use super::link::{Congestion, Target};
use super::mailbox::Mailbox;
use super::match_list::MatchList;
use super::passage::{Origin, Passage, Routed};
use super::route_cache::RouteCache;
pub(crate) use super::service_sink::Declines;
pub use super::service_sink::Reach;
use super::service_sink::ServiceSink;
use super::subscription::{Sink, Subscription};
use super::turn::Turn;
use crate::base::ids::AccountId;
use crate::base::limits::WHOLE_WORK_SHARE;
use crate::protocol::message::{Message, MessageRun};

/// The interest of a service.
pub struct ServiceInterest<'a> {
    pub account: AccountId,
    pub filter: &'a [u8],
    /// Empty = no queue group.
    pub queue: &'a [u8],
    pub reach: Reach,
    /// Asked before each message that it would get; it must not use the broker.
    pub declines: Option<Declines>,
}

impl<'a> ServiceInterest<'a> {
    /// All messages on a subject, or on the subjects of a wildcard.
    pub fn all(account: AccountId, filter: &'a [u8], reach: Reach) -> Self {
        Self { account, filter, queue: b"", reach, declines: None }
    }
}

/// Subscriptions whose handles were dropped and that are still in the tables.
pub(super) type Departed = Rc<RefCell<Vec<Rc<Subscription>>>>;

/// A service's subscription, until this is dropped. It gets nothing from then on; the tables forget
/// it, and other shards are told, at the end of the turn.
pub struct ServiceSubscription {
    subscription: Rc<Subscription>,
    departed: Departed,
}

impl Drop for ServiceSubscription {
    fn drop(&mut self) {
        self.subscription.mark_removed();
        self.departed.borrow_mut().push(self.subscription.clone());
    }
}

/// The fate of a message that a service published.
#[must_use]
pub enum Published {
    Delivered,
    NoInterest,
    /// It went nowhere: somebody who wants it does not keep up. It is to be published again once
    /// this wait is over, or once the service's own mailbox is full.
    Congested(Congestion),
    /// It went nowhere: somebody who wants it does not keep up, perhaps because the service itself
    /// does not. It is to be published again once the service has read its own mailbox.
    ReadFirst,
}

/// A service's state as a publisher, kept between its messages.
#[derive(Default)]
pub struct ServicePublisher {
    cache: RouteCache,
    /// The gate's number that it waits for, while messages that came from other shards earlier are
    /// not delivered.
    held_until: Option<u64>,
    /// The mailbox that it reads; none = it hears nothing.
    own: Option<Rc<Mailbox>>,
}

impl ServicePublisher {
    /// For a service that reads `mailbox`.
    pub fn of(mailbox: &Rc<Mailbox>) -> Self {
        Self { own: Some(mailbox.clone()), ..Self::default() }
    }

    fn must_read_first(&self) -> bool {
        self.own.as_ref().is_some_and(|own| own.is_full())
    }
}

impl Broker {
    /// Subscribes a service of this shard. Monitoring does not count it.
    pub fn subscribe_service(
        &mut self,
        interest: ServiceInterest<'_>,
        mailbox: &Rc<Mailbox>,
    ) -> ServiceSubscription {
        let ServiceInterest { account, filter, queue, reach, declines } = interest;
        self.ensure_account(account);
        let sink = ServiceSink { account, reach, declines, mailbox: mailbox.clone() };
        let sink = Sink::Service(Rc::new(sink));
        let subscription = Rc::new(Subscription::new(filter, queue, b"", sink, 1));
        self.add_to_table(account, &subscription);
        if reach == Reach::Server {
            self.count_interest(account, &subscription, true);
        }
        let work = crate::base::limits::SUBSCRIPTION_WORK + self.take_change_work();
        self.backlog.spend(work);
        ServiceSubscription { subscription, departed: self.departed.clone() }
    }

    /// Takes the subscription of a service out of everything that knows it.
    pub(super) fn forget_service(&mut self, subscription: &Rc<Subscription>) {
        let Sink::Service(sink) = &subscription.sink else { return };
        self.remove_from_table(sink.account, subscription);
        if sink.reach == Reach::Server {
            self.count_interest(sink.account, subscription, false);
        }
    }

    /// Puts a message into a service's mailbox.
    #[cold]
    pub(super) fn deliver_to_service(
        &mut self,
        subscription: &Subscription,
        message: &Message<'_>,
        origin: &Origin<'_>,
        turn: &mut Turn,
    ) -> bool {
        let Sink::Service(sink) = &subscription.sink else { return false };
        if subscription.is_removed()
            || !sink.would_take(message, origin.from.is_some())
            || !sink.mailbox.put(sink.account, turn.publisher, origin.target.route, message)
        {
            return false;
        }
        subscription.delivered.set(subscription.delivered.get() + 1);
        turn.note_mailbox(&sink.mailbox);
        true
    }

    /// True if a subscriber other than a service would get a message on `subject`.
    pub fn is_wanted(&mut self, account: AccountId, subject: &[u8]) -> bool {
        let Some(state) = self.accounts.get_mut(account.index()) else { return false };
        let looks_max = (self.turn_work_max / WHOLE_WORK_SHARE).max(1);
        let mut budget = looks_max;
        let found = state.matched(account, subject, &mut budget);
        let is_wanted = match found {
            Ok(list) => wants(&list, &mut budget),
            // So many are not all services.
            Err(_) => true,
        };
        self.backlog.spend(looks_max - budget);
        is_wanted
    }

    /// Publishes a message of a service. What takes more than a turn is done behind, in the order
    /// in which it was published.
    pub fn publish_service(
        &mut self,
        publisher: &mut ServicePublisher,
        account: AccountId,
        message: &Message<'_>,
    ) -> Published {
        self.publish_service_as(publisher, account, b"", message)
    }

    /// Publishes like `publish_service`, but routes by another subject than the one that the
    /// message shows to its receivers.
    pub fn publish_service_as(
        &mut self,
        publisher: &mut ServicePublisher,
        account: AccountId,
        route: &[u8],
        message: &Message<'_>,
    ) -> Published {
        let origin =
            Origin { target: Target { route, ..Target::PLAIN }, ..Origin::server(account) };
        // As of a client: not before what came from other shards, which may be what this answers.
        if let Some(arrivals) = &self.arrivals {
            let until = *publisher.held_until.get_or_insert(arrivals.until);
            if arrivals.gate.value() < until {
                return Published::Congested(Congestion { until, ..arrivals.clone() });
            }
        }
        publisher.held_until = None;
        let run = MessageRun::one(*message);
        let Some(state) = self.accounts.get_mut(account.index()) else {
            return Published::NoInterest;
        };
        let mut turn = Turn::new(self.backlog.turn_left);
        let goes_behind = turn.is_over()
            || self.backlog.has_fan_outs()
            || publisher.cache.renew(account, state, &origin, &run, &mut turn).is_err();
        if goes_behind {
            self.backlog.spend(turn.work());
            return self.publish_behind(&Passage::new(message, &origin, None));
        }
        let list = publisher.cache.list();
        if let Some(list) = list
            && let Some(congestion) = self.congestion_of(list, message.size() + route.len())
        {
            self.backlog.spend(turn.work());
            return Published::Congested(congestion);
        }
        if let Some(congestion) = list.and_then(MatchList::congestion) {
            self.backlog.spend(turn.work());
            return match publisher.must_read_first() {
                true => Published::ReadFirst,
                false => Published::Congested(congestion),
            };
        }
        let routed = self.publish(&origin, &run, &mut publisher.cache, &mut turn);
        publisher.cache.end_batch();
        self.backlog.spend(turn.work());
        self.note_turn_work(turn.work());
        match routed {
            Routed::Nobody => Published::NoInterest,
            Routed::Delivered => Published::Delivered,
            Routed::Unfinished => {
                let left = turn.unfinished.take().expect("an unfinished message is left");
                self.backlog.push_fan_out(left);
                Published::Delivered
            }
        }
    }

    /// Leaves a message of a service to those that go on behind, once there is room among them.
    fn publish_behind(&mut self, passage: &Passage<'_>) -> Published {
        let fan_out = FanOut::new(passage, Stage::Matching(None), self.cuts.token());
        if !self.backlog.has_room(&fan_out) {
            return Published::Congested(self.backlog.room());
        }
        self.backlog.push_fan_out(fan_out);
        Published::Delivered
    }
}

/// Looks at no more than `budget`: so many are not all services.
fn wants(list: &MatchList, budget: &mut usize) -> bool {
    let mut is_service = |subscription: &Rc<Subscription>| {
        let is_left = *budget > 0;
        *budget = budget.saturating_sub(1);
        is_left && (matches!(subscription.sink, Sink::Service(_)) || subscription.is_removed())
    };
    let is_only_plain =
        list.groups.is_empty() && list.links.is_empty() && list.crossings.is_empty();
    !(is_only_plain && list.plain.iter().all(&mut is_service))
}

#[cfg(test)]
#[path = "service/tests.rs"]
pub(super) mod tests;
