//! Messages that leave once what they report is on disk: acknowledgements, answers, advisories,
//! republished messages.
//!
//! A message that waits for a commit leaves behind all that were pushed before it and wait for one.
//! Those that wait for none, of streams in memory for example, leave by themselves. The bytes lie
//! in chunks that are used again: there is no allocation per message.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use crate::base::ids::AccountId;
use crate::base::limits::{LEAVING_BYTES_MAX, LEAVING_CHUNK_BYTES, LEAVING_PER_TURN_MAX};
use crate::broker::BrokerHandle;
use crate::broker::link::Congestion;
use crate::broker::service::{Published, ServicePublisher};
use crate::protocol::message::Message;
use crate::protocol::subject;
use crate::storage::position::CommitNumber;

/// Chunks that are kept for later messages.
const SPARE_CHUNKS_MAX: usize = 4;

/// A message to be published.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outgoing<'a> {
    pub subject: &'a [u8],
    /// Empty = none.
    pub reply: &'a [u8],
    /// A whole block, or nothing.
    pub headers: &'a [u8],
    pub payload: &'a [u8],
}

/// The sizes of a message whose parts lie in the first chunk.
#[derive(Clone, Copy, Debug)]
struct Head {
    after: CommitNumber,
    account: AccountId,
    subject: u32,
    reply: u32,
    headers: u32,
    payload: u32,
}

impl Head {
    fn size(&self) -> usize {
        (self.subject + self.reply + self.headers + self.payload) as usize
    }

    /// The message, from its bytes.
    fn message<'a>(&self, bytes: &'a [u8], digits: &'a mut [Digits; 2]) -> Message<'a> {
        let (subject, rest) = bytes.split_at(self.subject as usize);
        let (reply, body) = rest.split_at(self.reply as usize);
        let headers = &body[..self.headers as usize];
        let [header_digits, body_digits] = digits;
        Message {
            subject,
            reply,
            headers,
            body,
            header_size_text: if headers.is_empty() {
                b""
            } else {
                header_digits.of(headers.len())
            },
            size_text: body_digits.of(body.len()),
            tail: &[],
        }
    }
}

/// Room for the digits of a number.
#[derive(Default)]
struct Digits([u8; 20]);

impl Digits {
    fn of(&mut self, mut number: usize) -> &[u8] {
        let mut at = self.0.len();
        loop {
            at -= 1;
            self.0[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return &self.0[at..];
            }
        }
    }
}

/// Messages in the order in which they leave.
#[derive(Default)]
struct Queue {
    heads: VecDeque<Head>,
    chunks: VecDeque<Vec<u8>>,
    /// The place in the first chunk at which the next message begins.
    read_at: usize,
    spare: Vec<Vec<u8>>,
    bytes: usize,
}

impl Queue {
    /// The chunk that takes a message of that size.
    fn chunk(&mut self, size: usize) -> &mut Vec<u8> {
        let has_room = |chunk: &Vec<u8>| chunk.len() + size <= chunk.capacity();
        if !self.chunks.back().is_some_and(has_room) {
            let spare = self.spare.pop().filter(|_| size <= LEAVING_CHUNK_BYTES);
            let bytes = LEAVING_CHUNK_BYTES.max(size);
            self.chunks.push_back(spare.unwrap_or_else(|| Vec::with_capacity(bytes)));
        }
        self.chunks.back_mut().expect("there is one now")
    }

    fn push(
        &mut self,
        after: CommitNumber,
        account: AccountId,
        message: &Outgoing<'_>,
        write_payload: impl FnOnce(&mut Vec<u8>),
        payload_bytes_max: usize,
    ) {
        let Outgoing { subject, reply, headers, payload } = *message;
        let known = subject.len() + reply.len() + headers.len() + payload.len();
        let chunk = self.chunk(known + payload_bytes_max);
        let start = chunk.len();
        for part in [subject, reply, headers, payload] {
            chunk.extend_from_slice(part);
        }
        let before = chunk.len();
        write_payload(chunk);
        let size = |bytes: usize| u32::try_from(bytes).expect("no message is that large");
        let payload = size(payload.len() + chunk.len() - before);
        self.bytes += chunk.len() - start;
        self.heads.push_back(Head {
            after,
            account,
            subject: size(subject.len()),
            reply: size(reply.len()),
            headers: size(headers.len()),
            payload,
        });
    }

    /// The first message: its sizes and bytes.
    fn front(&mut self) -> Option<(Head, &[u8])> {
        let head = *self.heads.front()?;
        while self.chunks.front().is_some_and(|chunk| self.read_at == chunk.len()) {
            let mut chunk = self.chunks.pop_front()?;
            self.read_at = 0;
            if self.spare.len() < SPARE_CHUNKS_MAX && chunk.capacity() <= LEAVING_CHUNK_BYTES {
                chunk.clear();
                self.spare.push(chunk);
            }
        }
        let chunk = self.chunks.front().expect("the message lies in it");
        Some((head, &chunk[self.read_at..][..head.size()]))
    }

    fn pop(&mut self) {
        let Some(head) = self.heads.pop_front() else { return };
        self.read_at += head.size();
        self.bytes -= head.size();
        if self.heads.is_empty() {
            // The last chunk is filled from its beginning again.
            self.chunks.truncate(1);
            self.chunks.iter_mut().for_each(Vec::clear);
            self.read_at = 0;
        }
    }
}

/// The queues, and the publisher of what leaves them.
#[derive(Default)]
pub(crate) struct Leaving {
    /// Wait for commits, whose numbers rise.
    waiting: RefCell<Queue>,
    /// Wait for nothing.
    free: RefCell<Queue>,
    publisher: RefCell<ServicePublisher>,
    waker: Cell<Option<Waker>>,
    /// Counts the messages that left.
    left: Cell<u64>,
    /// The last commit that is durable, once the store stopped: later ones never come.
    stopped_at: Cell<Option<CommitNumber>>,
}

impl Leaving {
    pub(crate) fn push(&self, after: CommitNumber, account: AccountId, message: &Outgoing<'_>) {
        self.push_with(after, account, message, 0, |_| {});
    }

    /// Pushes a message whose payload goes on with what `write` appends, at most so many bytes.
    pub(crate) fn push_with(
        &self,
        after: CommitNumber,
        account: AccountId,
        message: &Outgoing<'_>,
        bytes_max: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        if self.stopped_at.get().is_some_and(|last| after > last) {
            return;
        }
        if after == CommitNumber(0) {
            self.free.borrow_mut().push(after, account, message, write, bytes_max);
        } else {
            let mut waiting = self.waiting.borrow_mut();
            let last = waiting.heads.back().map_or(after, |head| head.after.max(after));
            waiting.push(last, account, message, write, bytes_max);
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The store stopped: what waits for a commit behind `last` never leaves. The rest still does,
    /// refusals among it.
    pub(crate) fn stop(&self, last: CommitNumber) {
        let mut waiting = self.waiting.borrow_mut();
        let is_in_time = |head: &Head| head.after <= last;
        assert!(!waiting.heads.front().is_some_and(is_in_time), "what may leave left before");
        *waiting = Queue::default();
        self.stopped_at.set(Some(last));
    }

    /// True while so much waits that nothing more is to be made.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.borrow().bytes + self.free.borrow().bytes > LEAVING_BYTES_MAX
    }

    /// The commit that the first message waits for; 0 = some may leave now.
    fn next(&self) -> Option<CommitNumber> {
        if !self.free.borrow().heads.is_empty() {
            return Some(CommitNumber(0));
        }
        self.waiting.borrow().heads.front().map(|head| head.after)
    }

    /// Ready with the commit that the first message waits for, unless that is the one that is
    /// known; else the task is woken when there is a message.
    pub(crate) fn poll_next(
        &self,
        known: Option<CommitNumber>,
        context: &Context<'_>,
    ) -> Poll<CommitNumber> {
        match self.next() {
            Some(next) if Some(next) != known => Poll::Ready(next),
            _ => {
                self.waker.set(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }

    /// Publishes some of the messages that may leave. Returns what the next has to wait for, if it
    /// finds no room.
    pub(crate) fn publish_some(
        &self,
        broker: &BrokerHandle,
        durable: CommitNumber,
    ) -> Option<Congestion> {
        let mut left = LEAVING_PER_TURN_MAX;
        for queue in [&self.free, &self.waiting] {
            let mut queue = queue.borrow_mut();
            while left > 0
                && let Some((head, bytes)) = queue.front()
                && head.after <= durable
            {
                let mut digits = <[Digits; 2]>::default();
                let message = head.message(bytes, &mut digits);
                if subject::is_sendable(message.subject) {
                    let publisher = &mut self.publisher.borrow_mut();
                    let published =
                        broker.borrow_mut().publish_service(publisher, head.account, &message);
                    match published {
                        Published::Delivered | Published::NoInterest => {}
                        Published::Congested(congestion) => return Some(congestion),
                        Published::ReadFirst => unreachable!("it has no mailbox"),
                    }
                }
                queue.pop();
                self.left.set(self.left.get() + 1);
                left -= 1;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::broker::Broker;
    use crate::broker::mailbox::Mailbox;
    use crate::broker::service::{Reach, ServiceInterest};

    #[test]
    fn messages_leave_in_order_behind_their_commits() {
        let broker: BrokerHandle = Rc::new(RefCell::new(Broker::new(1)));
        let mailbox: Rc<Mailbox> = Rc::default();
        let interest = ServiceInterest::all(AccountId::GLOBAL, b"r.>", Reach::OwnShard);
        let _subscription = broker.borrow_mut().subscribe_service(interest, &mailbox);
        let leaving = Leaving::default();
        let push = |after, subject: &str| {
            let subject = subject.as_bytes();
            let message = Outgoing { subject, payload: b"p", ..Outgoing::default() };
            leaving.push_with(CommitNumber(after), AccountId::GLOBAL, &message, 1, |out| {
                out.push(b'!');
            });
        };
        push(5, "r.1");
        push(3, "r.2");
        push(0, "r.3");
        push(7, "r.4");
        let heard = |durable| {
            assert!(leaving.publish_some(&broker, CommitNumber(durable)).is_none());
            let mut heard = Vec::new();
            while let Some(mut letters) = mailbox.take() {
                while let Some(letter) = letters.next_letter() {
                    assert_eq!(letter.message.payload(), b"p!");
                    heard.push(String::from_utf8(letter.message.subject.to_vec()).unwrap());
                }
            }
            heard
        };
        assert_eq!(heard(4), ["r.3"], "the others wait for commits 5 and 7");
        assert_eq!(heard(6), ["r.1", "r.2"]);
        assert_eq!(heard(7), ["r.4"]);
        assert!(leaving.next().is_none() && !leaving.is_full());
        // A disk that failed keeps nobody from hearing so.
        push(9, "r.5");
        push(0, "r.6");
        leaving.stop(CommitNumber(8));
        push(9, "r.7");
        push(8, "r.8");
        push(0, "r.9");
        let mut all = heard(8);
        all.sort();
        assert_eq!(all, ["r.6", "r.8", "r.9"]);
        assert!(leaving.next().is_none());
    }
}
