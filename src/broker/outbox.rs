//! The outgoing bytes of one NATS client: messages framed into its queue.
//!
//! A message is framed for its receiver: with the subscription's sid, and with headers only where
//! the client reads them. Bounds, pacing and the writer's side are the queue's.

use std::cell::{Cell, OnceCell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::auth::permissions::Permissions;
use crate::auth::replies::ReplyTable;
use crate::base::ids::ConnectionId;
use crate::base::pool::BufferPool;
use crate::broker::byte_queue::{ByteQueue, Counted, Pushed};
use crate::broker::fan_out_frame::FanOutFrame;
use crate::broker::trace::Trace;
use crate::protocol::message::{Message, MessageRun};
use crate::protocol::nats::encode;

/// The way in which messages are framed for a receiver.
pub enum Framing<'a> {
    /// A single message, for this receiver alone.
    Own,
    /// The same head for each message, followed by its tail.
    Head(&'a [u8]),
    /// Once for all receivers with the same sid.
    Shared(&'a mut FanOutFrame),
}

/// The reply subjects a client was given and may answer to.
pub struct ReplyTracker {
    pub permissions: Arc<Permissions>,
    pub table: RefCell<ReplyTable>,
}

/// Observers of the messages that are queued for a client.
#[derive(Default)]
struct Observers {
    /// Present when this client may answer requests to subjects that no list allows.
    replies: Option<Rc<ReplyTracker>>,
    /// Present when what is sent is to be traced.
    trace: Option<Rc<Trace>>,
}

/// The outgoing messages of one client.
pub struct Outbox {
    queue: ByteQueue,
    pub id: ConnectionId,
    /// True if the receiver takes HMSG.
    pub headers: Cell<bool>,
    /// True if there is an observer.
    observed: Cell<bool>,
    observers: OnceCell<Box<RefCell<Observers>>>,
}

const _: () = assert!(
    size_of::<Outbox>() + 2 * size_of::<usize>() <= 320,
    "with the counts of its Rc it fills one of the allocator's sizes: every connection has one"
);

impl Deref for Outbox {
    type Target = ByteQueue;

    #[inline]
    fn deref(&self) -> &ByteQueue {
        &self.queue
    }
}

impl Outbox {
    pub fn new(id: ConnectionId, pool: Rc<BufferPool>, pending_bytes_max: usize) -> Self {
        Self {
            queue: ByteQueue::new(pool, pending_bytes_max),
            id,
            headers: Cell::new(false),
            observed: Cell::new(false),
            observers: OnceCell::new(),
        }
    }

    /// True if messages of so many bytes can be pushed in one piece: there is no danger of the
    /// bound, and nobody looks at single messages.
    #[inline]
    pub fn takes_run(&self, size: usize) -> bool {
        self.queue.has_room(size) && !self.observed.get()
    }

    /// Queues messages for the subscription `sid`.
    #[inline(always)]
    pub fn push(&self, run: &MessageRun<'_>, sid: &[u8], framing: Framing<'_>) -> Pushed {
        match framing {
            Framing::Own => self.push_own(run.first(), sid),
            Framing::Head(head) => {
                let size = head.len() * run.len() + run.tail_bytes();
                self.queue.push(size, || size, counted(run), |chunk| encode::run(chunk, head, run))
            }
            Framing::Shared(frame) => match frame.get(run, sid) {
                Some(bytes) => {
                    let size = bytes.len();
                    self.queue.push(
                        size,
                        || size,
                        counted(run),
                        |chunk| {
                            encode::copy_payload(chunk, bytes);
                        },
                    )
                }
                None => self.push_own(run.first(), sid),
            },
        }
    }

    /// Frames a message where it goes.
    #[inline]
    fn push_own(&self, message: &Message<'_>, sid: &[u8]) -> Pushed {
        let headers = self.headers.get();
        let body_bytes = if headers { message.body.len() } else { message.payload().len() };
        self.queue.push(
            encode::message_size(message, sid.len()),
            || framed_size(message, sid, headers),
            Counted { messages: 1, body_bytes },
            |chunk| encode::message(chunk, message, sid, headers),
        )
    }

    /// Queues protocol bytes other than messages: INFO, PONG, +OK, -ERR.
    pub fn push_bytes(&self, bytes: &[u8]) -> Pushed {
        let pushed = self.queue.push_bytes(bytes);
        if pushed == Pushed::Queued
            && self.observed.get()
            && let Some(observers) = self.observers.get()
            && let Some(trace) = &observers.borrow().trace
        {
            trace.sent(bytes);
        }
        pushed
    }

    pub fn push_error(&self, text: &str) {
        let mut line = Vec::with_capacity(text.len() + 10);
        encode::error(&mut line, text);
        self.push_bytes(&line);
    }

    pub fn set_reply_tracker(&self, tracker: Option<Rc<ReplyTracker>>) {
        self.change_observer(tracker.is_some(), |observers| observers.replies = tracker);
    }

    pub fn set_trace(&self, trace: Option<Rc<Trace>>) {
        self.change_observer(trace.is_some(), |observers| observers.trace = trace);
    }

    fn change_observer(&self, is_there: bool, change: impl FnOnce(&mut Observers)) {
        if is_there || self.observers.get().is_some() {
            let mut observers = self.observers.get_or_init(Box::default).borrow_mut();
            change(&mut observers);
            self.observed.set(observers.replies.is_some() || observers.trace.is_some());
        }
    }

    /// True if `observe` is to be called for each message queued.
    #[inline]
    pub fn is_observed(&self) -> bool {
        self.observed.get()
    }

    /// The subscription `sid` got the last message that it may have.
    #[cold]
    pub fn observe_end(&self, sid: &[u8], max: u64) {
        let observers = self.observers.get().map(|observers| observers.borrow());
        if let Some(trace) = observers.as_ref().and_then(|observers| observers.trace.as_ref()) {
            trace.expired(sid, max);
        }
    }

    /// A message was queued for the client.
    #[cold]
    pub fn observe(&self, message: &Message<'_>, sid: &[u8]) {
        let Some(observers) = self.observers.get() else { return };
        let observers = observers.borrow();
        if let Some(trace) = &observers.trace {
            trace.delivered(message, sid, self.headers.get());
        }
        if message.reply.is_empty() {
            return;
        }
        if let Some(tracker) = &observers.replies {
            let table = &mut tracker.table.borrow_mut();
            tracker.permissions.note_delivery(message.reply, table, Instant::now());
        }
    }
}

/// Messages without headers, as they are counted for a receiver.
#[inline]
fn counted(run: &MessageRun<'_>) -> Counted {
    Counted { messages: run.len(), body_bytes: run.body_bytes() }
}

/// The size of a message as its receiver gets it.
#[cold]
fn framed_size(message: &Message<'_>, sid: &[u8], headers: bool) -> usize {
    let mut framed = Vec::new();
    encode::message(&mut framed, message, sid, headers);
    framed.len()
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::base::limits::CHUNK_BYTES;
    use crate::protocol::nats::error::CloseReason;

    fn outbox(pending_bytes_max: usize) -> Outbox {
        Outbox::new(
            ConnectionId(7),
            Rc::new(BufferPool::new(&CHUNK_BYTES, 1 << 20)),
            pending_bytes_max,
        )
    }

    fn message<'a>(body: &'a [u8], size_text: &'a [u8]) -> Message<'a> {
        Message::without_headers(b"s", b"", body, size_text)
    }

    fn push(outbox: &Outbox, message: Message<'_>) -> Pushed {
        outbox.push(&MessageRun::one(message), b"1", Framing::Own)
    }

    fn take(outbox: &Outbox) -> Option<Option<Vec<u8>>> {
        let future = std::pin::pin!(outbox.next_chunk());
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(chunk) => Some(chunk),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_fan_out_frame_gives_each_receiver_its_own_sid() {
        let outbox = outbox(1 << 20);
        let (mut frame, mut expected) = (FanOutFrame::default(), Vec::new());
        for body in [&b"one"[..], b"eight..."] {
            let size = body.len().to_string().into_bytes();
            let message = message(body, &size);
            frame.begin();
            for sid in ["1", "1", "1", "22", "1", "22", "22", "", ""] {
                let framing = Framing::Shared(&mut frame);
                let pushed = outbox.push(&MessageRun::one(message), sid.as_bytes(), framing);
                assert_eq!(pushed, Pushed::Queued);
                encode::message(&mut expected, &message, sid.as_bytes(), false);
            }
        }
        assert_eq!(take(&outbox), Some(Some(expected)));
    }

    #[test]
    fn bytes_come_out_in_order_whatever_the_chunks() {
        let outbox = outbox(64 << 20);
        let mut expected = Vec::new();
        for index in 0..3000usize {
            let body = vec![b'a' + (index % 26) as u8; index % 700];
            let size = body.len().to_string().into_bytes();
            let message = message(&body, &size);
            assert_ne!(push(&outbox, message), Pushed::Closed);
            encode::message(&mut expected, &message, b"1", false);
        }
        assert_eq!(outbox.pending_bytes(), expected.len());
        let mut sent = Vec::new();
        while let Some(Some(chunk)) = take(&outbox) {
            sent.extend_from_slice(&chunk);
            outbox.send_progressed(chunk.len(), Instant::now());
            outbox.send_ends(chunk);
        }
        assert_eq!(sent, expected);
        assert_eq!(outbox.pending_bytes(), 0);
    }

    #[test]
    fn a_message_past_the_bound_closes_and_discards() {
        let outbox = outbox(1000);
        let body = vec![b'x'; 400];
        let size = *b"400";
        let message = message(&body, &size);
        assert_eq!(push(&outbox, message), Pushed::Queued);
        assert_eq!(push(&outbox, message), Pushed::QueuedPace);
        assert_eq!(push(&outbox, message), Pushed::Overflow);
        assert_eq!(outbox.close_reason(), Some(CloseReason::SlowConsumerPendingBytes));
        assert_eq!(push(&outbox, message), Pushed::Closed);
        assert_eq!(outbox.pending_bytes(), 0);
        assert_eq!(take(&outbox), Some(None));
    }

    #[test]
    fn an_error_is_still_sent_after_close() {
        let outbox = outbox(1000);
        outbox.push_error("Stale Connection");
        outbox.close(CloseReason::StaleConnection);
        assert_eq!(take(&outbox), Some(Some(b"-ERR 'Stale Connection'\r\n".to_vec())));
        assert_eq!(take(&outbox), Some(None));
    }
}
