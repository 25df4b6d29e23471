//! Bounded messages to one service of the server, in the layout of the lanes' batches: no
//! allocation per message, and buffers that are used again.
//!
//! A mailbox appends and returns, like every sink. It is full at `LETTERS_MAX` messages or
//! `LETTER_BYTES_MAX` bytes; its publishers then wait at a gate until at most half of that is left.
//! Messages that are under way when it becomes full still find room: `LATE_LETTERS_MAX` and
//! `LATE_LETTER_BYTES_MAX`. Beyond that a message is dropped, counted and treated as declined: a
//! requester is told that nobody listens, unless the service answers those that find no room.
//!
//! A service takes everything that waits at that moment. Messages that come meanwhile are for its
//! next turn, so that services that answer each other leave the turn to others.
//!
//! Invariants: `count` and `bytes` are sums over what was put and not yet read by
//! `Letters::next_letter`, or given up with it; the last of `batches` is the only one that grows.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::byte_queue::{RemotePublisher, Resumable};
use super::frame::{self, Cursor, Last};
use super::link::{Congestion, Source, Target};
use crate::base::gate::Gate;
use crate::base::ids::{AccountId, ConnectionId, ShardId};
use crate::base::limits::{
    BATCH_BYTES, LATE_LETTER_BYTES_MAX, LATE_LETTERS_MAX, LETTER_BYTES_MAX, LETTERS_MAX,
};
use crate::protocol::message::Message;

/// Frames of a mailbox stay on their shard: whatever shard they name is this one.
const HERE: ShardId = ShardId(0);

/// Empty buffers that a mailbox keeps.
const SPARE_BATCHES_MAX: usize = 2;

/// Messages for one service on one shard, oldest first.
#[derive(Default)]
pub struct Mailbox {
    batches: RefCell<VecDeque<Vec<u8>>>,
    spare: RefCell<Vec<Vec<u8>>>,
    last: RefCell<Last>,
    count: Cell<usize>,
    bytes: Cell<usize>,
    waker: Cell<Option<Waker>>,
    /// Counts the times that a full mailbox was half empty again.
    emptied: Rc<Gate>,
    /// True from the moment it is full until it is half empty.
    is_pacing: Cell<bool>,
    /// Publishers on other shards that were told to pause, and where it is said that they may go
    /// on.
    paced_remote: RefCell<BTreeSet<RemotePublisher>>,
    resumable: OnceCell<Rc<Resumable>>,
    dropped: Cell<u64>,
    /// Requests that found no room, by account and reply subject: for a service that answers them.
    refused: RefCell<Option<Vec<Refused>>>,
}

/// A request that found no room: its account, and the subject of its answer.
pub(crate) type Refused = (AccountId, Box<[u8]>);

/// A message in the hands of its service.
#[derive(Clone, Copy, Debug)]
pub struct Letter<'a> {
    /// The account in which it was published, and to which an answer goes.
    pub account: AccountId,
    /// The connection that published it, if that is one of this shard.
    pub publisher: Option<ConnectionId>,
    /// The subject it was routed by, if that is not the one it shows; else empty.
    pub route: &'a [u8],
    pub message: Message<'a>,
}

impl Mailbox {
    /// Takes all that waits; None = nothing does.
    pub fn take(self: &Rc<Self>) -> Option<Letters> {
        let batches = self.batches.take();
        self.last.borrow_mut().forget();
        (!batches.is_empty()).then(|| Letters {
            mailbox: self.clone(),
            batches,
            cursor: Cursor::default(),
            before: Cursor::default(),
        })
    }

    /// Ready when there is a message to take; else the task is woken by the next one.
    pub fn poll_ready(&self, context: &Context<'_>) -> Poll<()> {
        if !self.batches.borrow().is_empty() {
            return Poll::Ready(());
        }
        self.waker.set(Some(context.waker().clone()));
        Poll::Pending
    }

    /// Messages that found no room so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// True if its publishers are to wait.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.is_pacing.get()
    }

    /// The wait for room; None = there is room.
    pub fn congestion(&self) -> Option<Congestion> {
        self.is_full()
            .then(|| Congestion { gate: self.emptied.clone(), until: self.emptied.value() + 1 })
    }

    /// Messages that wait, those included that the service has taken and not read.
    pub fn len(&self) -> usize {
        self.count.get()
    }

    /// True if no message waits.
    pub fn is_empty(&self) -> bool {
        self.count.get() == 0
    }

    /// Bytes that wait.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Appends a message; false = there is no room even for what comes late.
    pub(super) fn put(
        &self,
        account: AccountId,
        publisher: Option<ConnectionId>,
        route: &[u8],
        message: &Message<'_>,
    ) -> bool {
        // The frame has a place for a connection, and here it means who published it.
        let source = Source { account, publisher: None, no_echo: publisher, share: 0 };
        let target = Target { route, ..Target::PLAIN };
        let size = frame::size(&target, message);
        if self.count.get() >= LETTERS_MAX + LATE_LETTERS_MAX
            || self.bytes.get() + size > LETTER_BYTES_MAX + LATE_LETTER_BYTES_MAX
        {
            self.dropped.set(self.dropped.get() + 1);
            return self.note_refused(account, message.reply);
        }
        let mut batches = self.batches.borrow_mut();
        let mut last = self.last.borrow_mut();
        let has_room = |batch: &Vec<u8>| batch.len() + size <= BATCH_BYTES;
        if !batches.back().is_some_and(has_room) {
            let spare = self.spare.borrow_mut().pop();
            batches.push_back(spare.unwrap_or_else(|| Vec::with_capacity(BATCH_BYTES.max(size))));
            last.forget();
        }
        let batch = batches.back_mut().expect("there is one now");
        let before = batch.len();
        frame::append(batch, &source, &target, message, HERE, &mut last);
        self.count.set(self.count.get() + 1);
        self.bytes.set(self.bytes.get() + batch.len() - before);
        if self.count.get() >= LETTERS_MAX || self.bytes.get() >= LETTER_BYTES_MAX {
            self.is_pacing.set(true);
        }
        drop(batches);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        true
    }

    /// Notes requests that find no room from now on, in place of declining them.
    pub fn note_refusals(&self) {
        self.refused.replace(Some(Vec::new()));
    }

    #[cold]
    fn note_refused(&self, account: AccountId, reply: &[u8]) -> bool {
        let mut refused = self.refused.borrow_mut();
        let Some(list) = refused.as_mut().filter(|list| list.len() < LATE_LETTERS_MAX) else {
            return false;
        };
        if reply.is_empty() {
            return false;
        }
        list.push((account, reply.into()));
        true
    }

    /// The requests that found no room since the last call.
    pub fn take_refused(&self) -> Vec<Refused> {
        self.refused.borrow_mut().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Remembers a publisher behind a link that was told to pause until it is in `resumable`; false
    /// if it was told already.
    pub fn note_paced(&self, publisher: RemotePublisher, resumable: &Rc<Resumable>) -> bool {
        // A second one is of the same shard: the same.
        let _ = self.resumable.set(resumable.clone());
        self.paced_remote.borrow_mut().insert(publisher)
    }

    /// Lets all go on that wait for room.
    fn let_go(&self) {
        if let Some(resumable) = self.resumable.get() {
            resumable.borrow_mut().extend(self.paced_remote.take());
        }
    }

    /// So much was read, or given up.
    fn taken(&self, count: usize, bytes: usize) {
        self.count.set(self.count.get() - count);
        self.bytes.set(self.bytes.get() - bytes);
        let is_half_empty =
            self.count.get() <= LETTERS_MAX / 2 && self.bytes.get() <= LETTER_BYTES_MAX / 2;
        if is_half_empty && self.is_pacing.take() {
            self.emptied.advance_by(1);
            self.let_go();
        }
    }

    /// Checks what this file promises. `taken`: the messages in the hands of its service.
    ///
    /// # Panics
    /// A promise is broken.
    #[cfg(any(test, debug_assertions))]
    pub fn check_invariants(&self, taken: Option<&Letters>) {
        let (mut count, mut bytes) = taken.map_or((0, 0), Letters::left);
        let batches = self.batches.borrow();
        for batch in batches.iter() {
            let (frames, size) = left_of(batch, Cursor::default());
            assert!(frames > 0, "an empty batch");
            assert!(frames == 1 || size <= BATCH_BYTES, "a batch beyond its size");
            count += frames;
            bytes += size;
        }
        assert_eq!(self.count.get(), count, "messages that wait");
        assert_eq!(self.bytes.get(), bytes, "bytes that wait");
        assert!(count <= LETTERS_MAX + LATE_LETTERS_MAX, "past the bound");
        assert!(bytes <= LETTER_BYTES_MAX + LATE_LETTER_BYTES_MAX, "past the bound");
        let is_at_bound = count >= LETTERS_MAX || bytes >= LETTER_BYTES_MAX;
        let is_half_empty = count <= LETTERS_MAX / 2 && bytes <= LETTER_BYTES_MAX / 2;
        match self.is_pacing.get() {
            true => assert!(!is_half_empty, "publishers wait though there is room"),
            false => {
                assert!(!is_at_bound, "no publisher waits for a full mailbox");
                let paced = self.paced_remote.borrow();
                assert!(paced.is_empty(), "nobody lets publishers on other shards go on");
            }
        }
        let waker = self.waker.take();
        assert!(batches.is_empty() || waker.is_none(), "its service sleeps");
        self.waker.set(waker);
        let spare = self.spare.borrow();
        assert!(spare.len() <= SPARE_BATCHES_MAX, "too many spare buffers");
        let is_spare = |batch: &Vec<u8>| batch.is_empty() && batch.capacity() <= BATCH_BYTES;
        assert!(spare.iter().all(is_spare), "a spare buffer that is not empty, or too large");
    }

    /// Publishers on other shards that wait for room here.
    #[cfg(any(test, debug_assertions))]
    pub fn paced_remote(&self) -> Vec<RemotePublisher> {
        self.paced_remote.borrow().iter().copied().collect()
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.emptied.open_for_good();
        self.let_go();
    }
}

/// The messages that a service has taken, oldest first. What is left when it is dropped is given
/// up.
pub struct Letters {
    mailbox: Rc<Mailbox>,
    batches: VecDeque<Vec<u8>>,
    /// In the first of them.
    cursor: Cursor,
    /// Where the message began that was read last.
    before: Cursor,
}

impl Letters {
    /// The next message; None = that was all.
    pub fn next_letter(&mut self) -> Option<Letter<'_>> {
        while self.batches.front().is_some_and(|batch| self.cursor.is_at_end(batch)) {
            let mut batch = self.batches.pop_front()?;
            self.cursor = Cursor::default();
            let mut spare = self.mailbox.spare.borrow_mut();
            if spare.len() < SPARE_BATCHES_MAX && batch.capacity() <= BATCH_BYTES {
                batch.clear();
                spare.push(batch);
            }
        }
        let batch = self.batches.front()?;
        let before = self.cursor;
        self.before = before;
        let (source, target, message) = frame::next(batch, HERE, &mut self.cursor);
        self.mailbox.taken(1, self.cursor.bytes_since(&before));
        Some(Letter {
            account: source.account,
            publisher: source.no_echo,
            route: target.route,
            message,
        })
    }

    /// Has the message that was read last read once more.
    pub fn again(&mut self) {
        let bytes = self.cursor.bytes_since(&self.before);
        if bytes > 0 {
            self.mailbox.count.set(self.mailbox.count.get() + 1);
            self.mailbox.bytes.set(self.mailbox.bytes.get() + bytes);
            self.cursor = self.before;
        }
    }
}

#[cfg(any(test, debug_assertions))]
impl Letters {
    /// Messages that were not read, and their bytes.
    fn left(&self) -> (usize, usize) {
        let cursors = std::iter::once(self.cursor).chain(std::iter::repeat(Cursor::default()));
        let left = self.batches.iter().zip(cursors).map(|(batch, cursor)| left_of(batch, cursor));
        left.fold((0, 0), |sum, (count, bytes)| (sum.0 + count, sum.1 + bytes))
    }
}

/// Messages of a batch from `cursor` on, and their bytes.
#[cfg(any(test, debug_assertions))]
fn left_of(batch: &[u8], mut cursor: Cursor) -> (usize, usize) {
    let (mut count, start) = (0, cursor);
    while !cursor.is_at_end(batch) {
        frame::next(batch, HERE, &mut cursor);
        count += 1;
    }
    (count, cursor.bytes_since(&start))
}

impl Drop for Letters {
    fn drop(&mut self) {
        while self.next_letter().is_some() {}
    }
}
