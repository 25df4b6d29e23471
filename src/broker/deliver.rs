//! Delivery on this shard: what is pushed to whom, and what ends with it.

use std::rc::Rc;

use super::Broker;
use super::fan_out_frame::FanOutFrame;
use super::match_list::MatchList;
use super::outbox::{Framing, Outbox};
use super::passage::{Origin, delivery_work};
use super::route_cache::RouteCache;
use super::subscription::{Sink, Subscription};
use super::turn::Turn;
use crate::base::limits::DENIAL_WORK;
use crate::protocol::message::MessageRun;
use crate::protocol::nats::encode;

/// True if a subscription must not have a message on `subject`, all its rules of delivery but the
/// maximum.
#[inline(always)]
fn withholds(
    subscription: &Subscription,
    outbox: &Outbox,
    subject: &[u8],
    origin: &Origin<'_>,
    turn: &mut Turn,
) -> bool {
    let no_echo = origin.source.no_echo;
    if subscription.is_removed()
        || no_echo.is_some_and(|connection| connection == outbox.id)
        || subscription.is_handed_over(origin.from, origin.target.mark)
    {
        return true;
    }
    let denies = subscription.denies(subject);
    if denies {
        turn.spend(DENIAL_WORK);
    }
    denies
}

/// True if nothing about a receiver might tell the messages of a run apart: it has no maximum, is
/// in no danger of its bound, and nobody looks at what it gets.
#[inline(always)]
fn takes_run(subscription: &Subscription, outbox: &Outbox, run: &MessageRun<'_>) -> bool {
    let head_size = encode::message_head_size(run.subject(), subscription.sid());
    subscription.max() == 0 && outbox.takes_run(head_size * run.len() + run.tail_bytes())
}

impl Broker {
    /// Delivers to the plain subscriptions of the list that `cache` holds.
    #[inline]
    pub(super) fn deliver(
        &mut self,
        run: &MessageRun<'_>,
        cache: &RouteCache,
        list: &MatchList,
        origin: &Origin<'_>,
        turn: &mut Turn,
    ) -> bool {
        if cache.head.is_empty() || !run.has_tails() || !origin.target.route.is_empty() {
            return self.fan_out(&list.plain, run, origin, turn);
        }
        turn.spend(delivery_work(run));
        self.deliver_to(&list.plain[0], run, origin, turn, Framing::Head(&cache.head))
    }

    /// Delivers to all plain subscriptions that may have it.
    #[inline]
    pub(super) fn fan_out(
        &mut self,
        subscriptions: &[Rc<Subscription>],
        run: &MessageRun<'_>,
        origin: &Origin<'_>,
        turn: &mut Turn,
    ) -> bool {
        let mut delivered = false;
        turn.spend(subscriptions.len() * delivery_work(run));
        if !FanOutFrame::pays(run, subscriptions.len()) {
            for subscription in subscriptions {
                delivered |= self.deliver_alone(subscription, run, origin, turn);
            }
            return delivered;
        }
        let mut frame = std::mem::take(&mut self.frame);
        frame.begin();
        for subscription in subscriptions {
            let framing = Framing::Shared(&mut frame);
            delivered |= self.deliver_to(subscription, run, origin, turn, framing);
        }
        self.frame = frame;
        delivered
    }

    /// Delivers to one subscription of this shard unless it may not have it.
    #[inline]
    pub(super) fn deliver_alone(
        &mut self,
        subscription: &Rc<Subscription>,
        run: &MessageRun<'_>,
        origin: &Origin<'_>,
        turn: &mut Turn,
    ) -> bool {
        self.deliver_to(subscription, run, origin, turn, Framing::Own)
    }

    /// The rules of delivery around a push: one message after the other where they might tell them
    /// apart.
    #[inline]
    pub(super) fn deliver_to(
        &mut self,
        subscription: &Rc<Subscription>,
        run: &MessageRun<'_>,
        origin: &Origin<'_>,
        turn: &mut Turn,
        framing: Framing<'_>,
    ) -> bool {
        let Sink::Client { outbox, .. } = &subscription.sink else {
            return match &subscription.sink {
                Sink::Import(sink) => {
                    self.deliver_import(subscription, sink, run, origin, turn, framing)
                }
                _ => self.deliver_to_service(subscription, run.first(), origin, turn),
            };
        };
        if run.len() > 1 && !takes_run(subscription, outbox, run) {
            return self.deliver_one_by_one(subscription, run, origin, turn);
        }
        let sid = subscription.sid();
        if withholds(subscription, outbox, run.subject(), origin, turn)
            || !turn.push(outbox, |outbox| outbox.push(run, sid, framing))
        {
            return false;
        }
        if outbox.is_observed() {
            outbox.observe(run.first(), sid);
        }
        let delivered = subscription.delivered.get() + run.len() as u64;
        subscription.delivered.set(delivered);
        if delivered == subscription.max() {
            self.expire(subscription);
        }
        true
    }

    #[cold]
    fn deliver_one_by_one(
        &mut self,
        subscription: &Rc<Subscription>,
        run: &MessageRun<'_>,
        origin: &Origin<'_>,
        turn: &mut Turn,
    ) -> bool {
        let mut delivered = false;
        for message in run.messages() {
            let one = MessageRun::one(message);
            delivered |= self.deliver_alone(subscription, &one, origin, turn);
        }
        delivered
    }

    /// A subscription got the last message that it may have.
    #[cold]
    fn expire(&mut self, subscription: &Rc<Subscription>) {
        subscription.mark_removed();
        if let Sink::Client { outbox, .. } = &subscription.sink {
            outbox.observe_end(subscription.sid(), subscription.max());
        }
        subscription.for_each_shadow(|shadow| shadow.mark_removed());
        if let Some(client) = subscription.client() {
            self.clients[client.index()].expired_count += 1;
        }
        self.expired.push(subscription.clone());
    }

    /// Ends a fan-out, or a part of one: subscriptions that reached their maximum leave the tables
    /// as far as this turn may, and as other shards have room to be told. The others leave behind.
    #[inline]
    pub(super) fn remove_expired(&mut self, turn: &mut Turn) {
        if !self.expired.is_empty() {
            let room = turn.room();
            let mut budget = room;
            self.drop_expired(&mut budget);
            turn.spend(room - budget);
        }
    }
}
