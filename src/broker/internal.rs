//! How a service inside the server uses the broker: it subscribes with a mailbox and publishes like
//! a client that has no connection.
//!
//! A mailbox appends and returns, like every sink: the service takes the messages out in its own
//! task and answers from there. It holds at most `MAILBOX_MESSAGES_MAX` messages and
//! `MAILBOX_BYTES_MAX` bytes; what comes beyond is dropped and counted.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::Broker;
use super::fan_out::{FanOut, Stage};
use super::match_list::MatchList;
use super::passage::{Origin, Passage, Routed};
use super::subscription::{Sink, Subscription};
use super::turn::Turn;
use crate::base::ids::{AccountId, ConnectionId};
use crate::base::limits::{MAILBOX_BYTES_MAX, MAILBOX_MESSAGES_MAX};
use crate::protocol::message::{Message, MessageRun};

/// A message that waits for its service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Where it was published, and where an answer goes.
    pub account: AccountId,
    /// The connection that published it, if that is one of this shard.
    pub publisher: Option<ConnectionId>,
    pub subject: Vec<u8>,
    pub reply: Vec<u8>,
    pub headers: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Delivery {
    fn size(&self) -> usize {
        self.subject.len() + self.reply.len() + self.headers.len() + self.payload.len()
    }
}

/// Messages for one service on one shard, oldest first.
#[derive(Default)]
pub struct Mailbox {
    waiting: RefCell<VecDeque<Delivery>>,
    waiting_bytes: Cell<usize>,
    waker: RefCell<Option<Waker>>,
    dropped: Cell<u64>,
}

impl Mailbox {
    /// Takes the oldest message out.
    pub fn take(&self) -> Option<Delivery> {
        let delivery = self.waiting.borrow_mut().pop_front()?;
        self.waiting_bytes.set(self.waiting_bytes.get() - delivery.size());
        Some(delivery)
    }

    /// Ready when there is a message to take; else the task is woken by the next one.
    pub fn poll_ready(&self, context: &Context<'_>) -> Poll<()> {
        if !self.waiting.borrow().is_empty() {
            return Poll::Ready(());
        }
        *self.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }

    /// Messages that found no room so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// False if there was no room.
    fn put(&self, delivery: Delivery) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        let bytes = self.waiting_bytes.get() + delivery.size();
        if waiting.len() >= MAILBOX_MESSAGES_MAX || bytes > MAILBOX_BYTES_MAX {
            self.dropped.set(self.dropped.get() + 1);
            return false;
        }
        self.waiting_bytes.set(bytes);
        waiting.push_back(delivery);
        drop(waiting);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
        true
    }
}

/// Which messages an internal subscription gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Those published on this shard: the same service subscribes on every shard, and a message is
    /// answered where its publisher is. No other shard hears of the interest.
    OwnShard,
    /// Those of the whole server: the service lives on this shard alone.
    Server,
}

/// The sink of an internal subscription.
pub struct InternalSink {
    account: AccountId,
    reach: Reach,
    mailbox: Rc<Mailbox>,
}

/// The fate of a message that the server itself published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    Delivered,
    NoInterest,
    /// Another shard wants it but does not keep up: it went nowhere, and is counted.
    Congested,
}

impl Broker {
    /// Subscribes a service of this shard. Internal subscriptions last as long as the broker and
    /// belong to no client; monitoring does not count them.
    pub fn subscribe_internal(
        &mut self,
        account: AccountId,
        filter: &[u8],
        reach: Reach,
        mailbox: &Rc<Mailbox>,
    ) {
        self.ensure_account(account);
        let sink = InternalSink { account, reach, mailbox: mailbox.clone() };
        let sink = Sink::Internal(Rc::new(sink));
        let subscription = Rc::new(Subscription::new(filter, b"", b"", sink, 1));
        self.add_to_table(account, &subscription);
        if reach == Reach::Server {
            self.count_interest(account, &subscription, true);
        }
    }

    /// Puts a message into a service's mailbox.
    #[cold]
    pub(super) fn deliver_internal(
        &mut self,
        subscription: &Subscription,
        message: &Message<'_>,
        turn: &Turn,
    ) -> bool {
        let Sink::Internal(sink) = &subscription.sink else { return false };
        // Without a publisher it came from another shard, where the same service has it already.
        if sink.reach == Reach::OwnShard && turn.publisher.is_none() {
            return false;
        }
        subscription.delivered.set(subscription.delivered.get() + 1);
        sink.mailbox.put(Delivery {
            account: sink.account,
            publisher: turn.publisher,
            subject: message.subject.to_vec(),
            reply: message.reply.to_vec(),
            headers: message.headers.to_vec(),
            payload: message.payload().to_vec(),
        })
    }

    /// True if anybody but the server's own services would get a message on `subject`.
    pub fn is_wanted(&mut self, account: AccountId, subject: &[u8]) -> bool {
        let Some(state) = self.accounts.get_mut(account.index()) else { return false };
        match state.matched(account, subject, &mut self.turn_work_max.clone()) {
            Ok(list) => wants(&list),
            // So many are not all services.
            Err(_) => true,
        }
    }

    /// Publishes a message of the server itself. Services do not hear each other this way. What
    /// takes more than a turn is done behind, in the order in which it was published.
    pub fn publish_internal(&mut self, account: AccountId, message: &Message<'_>) -> Published {
        if !self.is_wanted(account, message.subject) {
            return Published::NoInterest;
        }
        let origin = Origin::server(account);
        let passage = Passage::new(message, &origin, None);
        if self.backlog.has_fan_outs() {
            return self.publish_behind(&passage);
        }
        let mut budget = self.turn_work_max;
        let Ok(list) =
            self.accounts[account.index()].matched(account, message.subject, &mut budget)
        else {
            return self.publish_behind(&passage);
        };
        if self.congestion_of(&list, message.body.len()).is_some() {
            self.counters.internal_dropped += 1;
            return Published::Congested;
        }
        let mut turn = Turn::new(self.turn_work_max);
        if self.route_in_parts(&origin, &MessageRun::one(*message), &list, &mut turn)
            == Routed::Unfinished
            && let Some(fan_out) = turn.unfinished
        {
            self.backlog.push_fan_out(fan_out);
        }
        Published::Delivered
    }

    /// Leaves a message of the server to those that go on behind, if there is room among them.
    fn publish_behind(&mut self, passage: &Passage<'_>) -> Published {
        let fan_out = FanOut::new(passage, Stage::Matching(None));
        if !self.backlog.has_room(&fan_out) {
            self.counters.internal_dropped += 1;
            return Published::Congested;
        }
        self.backlog.push_fan_out(fan_out);
        Published::Delivered
    }
}

fn wants(list: &MatchList) -> bool {
    let is_internal = |subscription: &Rc<Subscription>| {
        matches!(subscription.sink, Sink::Internal(_)) || subscription.is_removed()
    };
    !(list.plain.iter().all(is_internal) && list.groups.is_empty() && list.links.is_empty())
}

#[cfg(test)]
#[path = "internal/tests.rs"]
mod tests;
