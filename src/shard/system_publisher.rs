//! Publishes the server's own messages on one shard: at once, or in order once their receivers keep
//! up.
//!
//! Waiting messages are bounded in bytes. Past the bound they are dropped and counted, like any
//! message to a slow consumer: nobody can be made to wait for them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use crate::base::ids::AccountId;
use crate::base::limits::{SYSTEM_WAITING_BYTES_MAX, SYSTEM_WAITING_PER_TURN_MAX};
use crate::broker::link::Congestion;
use crate::broker::service::{Published, ServicePublisher};
use crate::broker::{Broker, BrokerHandle};
use crate::protocol::message::Message;
use crate::protocol::subject;

struct WaitingMessage {
    account: AccountId,
    subject: Box<str>,
    payload: Box<[u8]>,
}

impl WaitingMessage {
    fn size(&self) -> usize {
        size_of::<Self>() + self.subject.len() + self.payload.len()
    }
}

/// The server's own messages on one shard.
#[derive(Default)]
pub(super) struct SystemPublisher {
    publisher: RefCell<ServicePublisher>,
    waiting: RefCell<VecDeque<WaitingMessage>>,
    waiting_bytes: Cell<usize>,
    /// What the first of them waits for.
    congestion: RefCell<Option<Congestion>>,
    waker: Cell<Option<Waker>>,
    dropped: Cell<u64>,
}

impl SystemPublisher {
    /// Publishes a message. It is dropped if its subject is not valid; if a receiver has no room it
    /// waits, and so do those after it.
    pub(super) fn publish(
        &self,
        broker: &mut Broker,
        account: AccountId,
        subject: &str,
        payload: &[u8],
    ) {
        if !subject::is_sendable(subject.as_bytes()) {
            return;
        }
        if self.waiting.borrow().is_empty() {
            match self.publish_now(broker, account, subject, payload) {
                Published::Delivered | Published::NoInterest => return,
                Published::Congested(congestion) => {
                    self.congestion.replace(Some(congestion));
                }
                Published::ReadFirst => unreachable!("it has no mailbox"),
            }
        }
        let message = WaitingMessage { account, subject: subject.into(), payload: payload.into() };
        let bytes = self.waiting_bytes.get() + message.size();
        // One always finds room: an answer may be long.
        if bytes > SYSTEM_WAITING_BYTES_MAX && self.waiting_bytes.get() > 0 {
            self.dropped.set(self.dropped.get() + 1);
            return;
        }
        self.waiting_bytes.set(bytes);
        self.waiting.borrow_mut().push_back(message);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn publish_now(
        &self,
        broker: &mut Broker,
        account: AccountId,
        subject: &str,
        payload: &[u8],
    ) -> Published {
        let size = payload.len().to_string();
        let message = Message::without_headers(subject.as_bytes(), b"", payload, size.as_bytes());
        broker.publish_service(&mut self.publisher.borrow_mut(), account, &message)
    }

    /// Waits until the first waiting message may be published.
    pub(super) async fn wait_for_room(&self) {
        poll_fn(|context| {
            if !self.waiting.borrow().is_empty() {
                return Poll::Ready(());
            }
            self.waker.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
        let congestion = self.congestion.take();
        if let Some(Congestion { gate, until }) = congestion {
            gate.reached(until).await;
        }
    }

    /// Publishes some of the waiting messages, as far as there is room.
    pub(super) fn publish_some(&self, broker: &BrokerHandle) {
        let mut broker = broker.borrow_mut();
        for _ in 0..SYSTEM_WAITING_PER_TURN_MAX {
            let Some(message) = self.waiting.borrow_mut().pop_front() else { return };
            let WaitingMessage { account, subject, payload } = &message;
            if let Published::Congested(congestion) =
                self.publish_now(&mut broker, *account, subject, payload)
            {
                self.congestion.replace(Some(congestion));
                self.waiting.borrow_mut().push_front(message);
                return;
            }
            self.waiting_bytes.set(self.waiting_bytes.get() - message.size());
        }
    }

    /// Returns the number of messages dropped so far.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.get()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::rc::Rc;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::broker::service::{Reach, ServiceInterest};

    /// A service that takes nothing represents any congestion.
    #[test]
    fn messages_without_room_wait_in_order_and_within_their_bound() {
        let broker: BrokerHandle = Rc::new(RefCell::new(Broker::new(1)));
        let mailbox = Rc::default();
        let interest = ServiceInterest::all(AccountId::GLOBAL, b"news.*", Reach::OwnShard);
        let _subscription = broker.borrow_mut().subscribe_service(interest, &mailbox);
        let publisher = SystemPublisher::default();
        let payload = vec![b'x'; 64 << 10];
        let mut published = 0;
        while publisher.dropped() == 0 {
            let subject = format!("news.{published}");
            publisher.publish(&mut broker.borrow_mut(), AccountId::GLOBAL, &subject, &payload);
            published += 1;
        }
        assert!(publisher.waiting_bytes.get() <= SYSTEM_WAITING_BYTES_MAX);
        assert!(publisher.waiting_bytes.get() > SYSTEM_WAITING_BYTES_MAX / 2);
        let mut context = Context::from_waker(Waker::noop());
        assert!(pin!(publisher.wait_for_room()).poll(&mut context).is_pending());
        let (mut heard, mut turns) = (0, 0);
        while let Some(mut letters) = mailbox.take() {
            while let Some(letter) = letters.next_letter() {
                assert_eq!(letter.message.subject, format!("news.{heard}").as_bytes());
                heard += 1;
            }
            drop(letters);
            if pin!(publisher.wait_for_room()).poll(&mut context) == Poll::Ready(()) {
                publisher.publish_some(&broker);
            }
            turns += 1;
        }
        assert_eq!(heard, published - 1, "all but the one that found no room to wait");
        assert!(turns > 1 && publisher.waiting_bytes.get() == 0 && mailbox.dropped() == 0);
    }
}
