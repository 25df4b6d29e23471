//! Runs: messages of one publisher that follow each other on one subject, routed in one go.
//!
//! Each receiver gets what it would have got one by one, in the same order. What is decided once for all of them is
//! what cannot change in between: nobody else is served while a run is routed.

use std::rc::Rc;

use crate::base::ids::{AccountId, ConnectionId, LinkId};
use crate::broker::Broker;
use crate::broker::byte_queue::Pushed;
use crate::broker::link::{Forward, Source};
use crate::broker::match_list::MatchList;
use crate::broker::outbox::Outbox;
use crate::broker::router::{Publisher, RouteCache, Turn, withholds};
use crate::broker::subscription::{Sink, Subscription};
use crate::protocol::message::MessageRun;
use crate::protocol::nats::encode;

impl Broker {
    /// Messages of a run on the subject of before that may be routed in one go: 1 = each alone.
    #[inline]
    pub fn run_max(&self, account: AccountId, cache: &RouteCache, turn: &Turn) -> usize {
        let account = self.accounts.get(account.index());
        match account.and_then(|account| cache.current(account)) {
            Some(list) if list.groups.is_empty() && list.takes_runs() && !self.tight.get() => {
                turn.run_max(list)
            }
            _ => 1,
        }
    }

    /// As `publish_again` for each message of a run no longer than `run_max` allows, which was asked just before.
    #[inline]
    pub fn publish_run(
        &mut self,
        publisher: &Publisher,
        run: &MessageRun<'_>,
        cache: &RouteCache,
        turn: &mut Turn,
    ) {
        debug_assert!(cache.subject == run.subject);
        let Some(list) = cache.list.as_deref() else { return };
        let no_echo = self.no_echo(publisher);
        turn.spend(run.len() * (1 + list.plain.len()));
        self.deliver_run(run, cache, list, no_echo, turn);
        if !list.links.is_empty() {
            self.forward_run(publisher, no_echo, run, &list.links);
            self.note_link_work(&list.links, run.len() * list.most_behind());
        }
        self.remove_expired(turn);
    }

    /// Delivers a run to the plain subscriptions of this shard.
    #[inline]
    fn deliver_run(
        &mut self,
        run: &MessageRun<'_>,
        cache: &RouteCache,
        list: &MatchList,
        no_echo: Option<ConnectionId>,
        turn: &mut Turn,
    ) {
        debug_assert!(list.takes_runs());
        match &list.plain[..] {
            [] => {}
            [subscription] => {
                self.deliver_run_by(subscription, cache.head.len(), run, no_echo, turn, |outbox| {
                    outbox.push_run(&cache.head, run)
                });
            }
            many => {
                let mut frame = std::mem::take(&mut self.frame);
                frame.begin();
                for subscription in many {
                    let sid = subscription.sid();
                    let head_size = encode::message_head_size(run.subject, sid);
                    self.deliver_run_by(subscription, head_size, run, no_echo, turn, |outbox| {
                        outbox.push_framed_run(&mut frame, run, sid)
                    });
                }
                self.frame = frame;
            }
        }
    }

    /// The rules of delivery around a way to push a run: one message after the other where they might tell them
    /// apart.
    #[inline]
    fn deliver_run_by(
        &mut self,
        subscription: &Rc<Subscription>,
        head_size: usize,
        run: &MessageRun<'_>,
        no_echo: Option<ConnectionId>,
        turn: &mut Turn,
        push: impl FnOnce(&Outbox) -> Pushed,
    ) {
        let Sink::Client { outbox, .. } = &subscription.sink else { return };
        if subscription.max() > 0 || !outbox.takes_run(head_size, run) {
            for message in run.messages() {
                self.deliver(subscription, &message, no_echo, turn);
            }
            return;
        }
        if !withholds(subscription, outbox, run.subject, no_echo, turn) && turn.push(outbox, push) {
            subscription.delivered.set(subscription.delivered.get() + run.len() as u64);
        }
    }

    /// One copy of a run to each link that has plain interest.
    fn forward_run(
        &mut self,
        publisher: &Publisher,
        no_echo: Option<ConnectionId>,
        run: &MessageRun<'_>,
        links: &[LinkId],
    ) {
        let source = Source::of(publisher, no_echo);
        for link in links {
            let mut rest = *run;
            while let Some(message) = rest.messages().next() {
                let sink = &self.links[link.index()].sink;
                let mut taken = sink.forward_run(&source, &rest);
                if taken == 0 {
                    sink.forward(&Forward::plain(source, message));
                    taken = 1;
                }
                rest = rest.after(taken);
            }
            self.counters.forwarded += run.len() as u64;
        }
    }

    /// `publish_forwarded` for each message of a run to plain subscriptions, no longer than `run_max` allows, whose
    /// subject and account are those of the message before it that came with this cache.
    pub fn publish_forwarded_run(
        &mut self,
        source: &Source,
        run: &MessageRun<'_>,
        cache: &RouteCache,
        turn: &mut Turn,
    ) {
        debug_assert!(cache.subject == run.subject);
        let Some(list) = cache.list.as_deref() else { return };
        turn.spend(run.len() * (1 + list.plain.len()));
        self.deliver_run(run, cache, list, source.no_echo, turn);
        self.remove_expired(turn);
    }
}

#[cfg(test)]
mod tests;
