//! Bounded bytes to one peer: a queue of pooled chunks into which messages are framed.
//!
//! Many push (the router, the session, the ticker), one writer task takes chunks and sends them.
//! The outbox never waits: past `pending_bytes_max` the peer is a slow consumer, everything queued
//! is thrown away and the connection is aborted. The first push into an idle outbox wakes the
//! writer, which runs after the readers that are ready now, so one send carries a whole turn.
//!
//! Invariant: `pending_bytes` = bytes in `buffers` + bytes of the chunk the writer has taken and
//! not yet confirmed by `sent`.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::auth::permissions::Permissions;
use crate::auth::replies::ReplyTable;
use crate::base::gate::Gate;
use crate::base::histogram::DurationHistogram;
use crate::base::ids::{ClientKey, ConnectionId, LinkId};
use crate::base::limits::{LARGE_MESSAGE_BYTES, PACE_MOVING_MS, PACE_STUCK_MS, pace_bytes};
use crate::base::pool::BufferPool;
use crate::base::turn_clock::TurnClock;
use crate::broker::late_send::{Backlog, LateSend, SendCheck};
use crate::broker::trace::Trace;
use crate::protocol::message::{Message, MessageRun};
use crate::protocol::nats::encode;
use crate::protocol::nats::error::CloseReason;

#[derive(Default)]
struct Buffers {
    /// Full chunks, oldest first, each with the turn its first bytes came in.
    ready: VecDeque<(Vec<u8>, Option<Instant>)>,
    /// The chunk that is being filled; newest bytes.
    current: Vec<u8>,
    /// The turn in which the first bytes of `current` came. Means nothing while it is empty.
    current_since: Option<Instant>,
}

/// The outcome of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    Queued,
    /// Queued, and the peer has so much pending that its producers should pause.
    QueuedPace,
    /// Not queued: the connection is closing.
    Closed,
    /// Not queued: this push went past the bound and closed the connection.
    Overflow,
    /// Not queued: the peer lags, and messages for such are dropped instead of slowing their
    /// producers.
    Dropped,
}

/// A publisher on another shard that was told to pause because of this outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemotePublisher {
    pub link: LinkId,
    pub client: ClientKey,
}

/// Publishers behind links that may go on, for the mesh to tell them.
pub type Resumable = RefCell<Vec<RemotePublisher>>;

/// A message framed once for all receivers with the same sid: clients of one program have the same
/// sid for the same subscription.
#[derive(Default)]
pub struct FanOutFrame {
    /// The sid of the last receiver, of whatever message.
    sid: Vec<u8>,
    /// The message as a receiver with this sid gets it; empty = not framed yet.
    bytes: Vec<u8>,
    /// The bytes of a run that come before each tail.
    head: Vec<u8>,
}

impl FanOutFrame {
    /// Receivers from which on framing once is cheaper than framing each.
    pub const RECEIVERS_MIN: usize = 3;

    /// True if a message can be framed once: receivers differ only in their sid, and the copy of
    /// its body is a short one.
    pub fn suits(message: &Message<'_>) -> bool {
        message.headers.is_empty() && message.body.len() <= encode::COPY_STEP_BYTES
    }

    /// Another message comes.
    pub fn begin(&mut self) {
        self.bytes.clear();
    }

    /// The framed run for a receiver with this sid. `begin` comes before each run.
    fn get_run(&mut self, run: &MessageRun<'_>, sid: &[u8]) -> &[u8] {
        if self.bytes.is_empty() || self.sid != sid {
            self.sid.clear();
            self.sid.extend_from_slice(sid);
            self.bytes.clear();
            self.head.clear();
            encode::message_head(&mut self.head, run.subject, sid);
            encode::run(&mut self.bytes, &self.head, run);
        }
        &self.bytes
    }

    /// The framed message for a receiver whose sid is that of the one before it.
    #[inline]
    fn get(&mut self, message: &Message<'_>, sid: &[u8]) -> Option<&[u8]> {
        if self.sid != sid {
            self.sid.clear();
            self.sid.extend_from_slice(sid);
            self.bytes.clear();
            return None;
        }
        if self.bytes.is_empty() {
            encode::message(&mut self.bytes, message, sid, false);
        }
        Some(&self.bytes)
    }
}

/// Sums over all outboxes of a shard, closed ones included. A message is counted here when its send
/// begins, or at the end of its connection: reading the sum costs nothing per connection or
/// message.
pub struct OutboxTotals {
    clock: Rc<TurnClock>,
    /// For each chunk the kernel took in full: since the turn in which its first bytes were read,
    /// on this shard or another, or made.
    pub queued: DurationHistogram,
    pub messages: Cell<u64>,
    pub bytes: Cell<u64>,
    /// Times a producer was asked to wait.
    pub stalls: Cell<u64>,
    /// `no_fast_producer_stall`: producers never wait, and a peer with more than three quarters of
    /// the bound pending misses messages.
    pub drops_for_slow: Cell<bool>,
    /// Messages that were dropped so.
    pub dropped: Cell<u64>,
}

impl OutboxTotals {
    pub fn new(clock: Rc<TurnClock>) -> Self {
        Self {
            clock,
            queued: DurationHistogram::default(),
            messages: Cell::new(0),
            bytes: Cell::new(0),
            stalls: Cell::new(0),
            drops_for_slow: Cell::new(false),
            dropped: Cell::new(0),
        }
    }
}

/// The reply subjects a client was given and may answer to.
pub struct ReplyTracker {
    pub permissions: Arc<Permissions>,
    pub table: RefCell<ReplyTable>,
}

/// Fields that few outboxes need.
#[derive(Default)]
struct Rare {
    paced_remote: Vec<RemotePublisher>,
    /// Present when this client may answer requests to subjects that no list allows.
    replies: Option<Rc<ReplyTracker>>,
    /// Present when what is sent is to be traced.
    trace: Option<Rc<Trace>>,
    /// Present from a send that missed its deadline until the peer has caught up.
    late: Option<LateSend>,
    /// Chunks and bytes that were given up when the connection was closed.
    written_off: (usize, usize),
}

/// The outgoing bytes of one peer.
pub struct Outbox {
    pub id: ConnectionId,
    pool: Rc<BufferPool>,
    buffers: RefCell<Buffers>,
    pending_bytes: Cell<usize>,
    pending_bytes_max: Cell<usize>,
    pace_bytes: Cell<usize>,
    /// The class of the next first chunk: what the last send needed.
    class: Cell<u8>,
    /// True if the receiver takes HMSG.
    pub headers: Cell<bool>,
    close_reason: Cell<Option<CloseReason>>,
    writer: Cell<Option<Waker>>,
    /// True while there is one: a look is cheaper than to take it each time.
    writer_waits: Cell<bool>,
    /// Queued bytes wait: the connection is between plain and TLS.
    held: Cell<bool>,
    /// The writer is to look at what the connection itself has to send.
    poked: Cell<bool>,
    /// Counts bytes the kernel took; opened for good at the end.
    pub sent: Gate,
    /// When the kernel last took bytes; at first the time of the connection's start.
    last_sent: Cell<Instant>,
    /// When the send in flight began.
    send_started: Cell<Option<Instant>>,
    /// The turn in which the first bytes of the chunk that the writer holds were read.
    sending_since: Cell<Option<Instant>>,
    /// Shuts the socket down so that both tasks of the connection wake up.
    abort: Cell<Option<Box<dyn Fn()>>>,
    rare: OnceCell<Box<RefCell<Rare>>>,
    /// `rare` has replies or a trace.
    observed: Cell<bool>,
    totals: OnceCell<Rc<OutboxTotals>>,
    /// How much of `out_messages` and `out_bytes` the totals have.
    totalled: Cell<(u64, u64)>,
    /// A send began that has messages. Who looks at it clears it.
    pub delivered: Cell<bool>,
    pub stalls: Cell<u64>,
    pub out_messages: Cell<u64>,
    pub out_bytes: Cell<u64>,
}

const _: () = assert!(
    size_of::<Outbox>() + 2 * size_of::<usize>() <= 320,
    "with the counts of its Rc it fills one of the allocator's sizes: every connection has one"
);

impl Outbox {
    pub fn new(id: ConnectionId, pool: Rc<BufferPool>, pending_bytes_max: usize) -> Self {
        Self {
            id,
            pool,
            buffers: RefCell::default(),
            pending_bytes: Cell::new(0),
            pending_bytes_max: Cell::new(pending_bytes_max),
            pace_bytes: Cell::new(pace_bytes(pending_bytes_max)),
            class: Cell::new(0),
            headers: Cell::new(false),
            close_reason: Cell::new(None),
            writer: Cell::new(None),
            writer_waits: Cell::new(false),
            held: Cell::new(false),
            poked: Cell::new(false),
            sent: Gate::new(),
            last_sent: Cell::new(Instant::now()),
            send_started: Cell::new(None),
            sending_since: Cell::new(None),
            abort: Cell::new(None),
            rare: OnceCell::new(),
            observed: Cell::new(false),
            totals: OnceCell::new(),
            totalled: Cell::default(),
            delivered: Cell::new(false),
            stalls: Cell::new(0),
            out_messages: Cell::new(0),
            out_bytes: Cell::new(0),
        }
    }

    /// Where this outbox is counted from now on; only the first call counts.
    pub fn set_totals(&self, totals: Rc<OutboxTotals>) {
        // A second call is of the same shard, whose totals are the same.
        let _ = self.totals.set(totals);
    }

    /// Brings the shard's totals up to date with this outbox.
    pub fn add_to_totals(&self) {
        let Some(totals) = self.totals.get() else { return };
        let now = (self.out_messages.get(), self.out_bytes.get());
        let before = self.totalled.replace(now);
        if now.0 != before.0 {
            self.delivered.set(true);
        }
        totals.messages.set(totals.messages.get() + now.0 - before.0);
        totals.bytes.set(totals.bytes.get() + now.1 - before.1);
    }

    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes.get()
    }

    pub fn close_reason(&self) -> Option<CloseReason> {
        self.close_reason.get()
    }

    pub fn is_closing(&self) -> bool {
        self.close_reason.get().is_some()
    }

    /// Frames one message for the subscription `sid`.
    #[inline]
    pub fn push_message(&self, message: &Message<'_>, sid: &[u8]) -> Pushed {
        let room = encode::message_size(message, sid.len());
        if self.close_reason.get().is_some() {
            return Pushed::Closed;
        }
        let pending = self.pending_bytes.get();
        if pending + room > self.pace_bytes.get()
            && let Some(refused) = self.refuse(1, room, || self.framed_size(message, sid))
        {
            return refused;
        }
        let added = {
            let mut buffers = self.buffers.borrow_mut();
            if buffers.current.capacity() - buffers.current.len() < room {
                self.make_room(&mut buffers, room);
            }
            let before = buffers.current.len();
            if before == 0 {
                buffers.current_since = self.read_at();
            }
            encode::message(&mut buffers.current, message, sid, self.headers.get());
            buffers.current.len() - before
        };
        let body = if self.headers.get() { message.body.len() } else { message.payload().len() };
        self.out_messages.set(self.out_messages.get() + 1);
        self.out_bytes.set(self.out_bytes.get() + body as u64);
        self.pending_bytes.set(pending + added);
        self.wake_writer();
        if pending + added > self.pace_bytes.get() { Pushed::QueuedPace } else { Pushed::Queued }
    }

    /// As `push_message` for a message that `FanOutFrame::suits` and that goes to many.
    #[inline]
    pub fn push_framed(
        &self,
        frame: &mut FanOutFrame,
        message: &Message<'_>,
        sid: &[u8],
    ) -> Pushed {
        match frame.get(message, sid) {
            Some(bytes) => self.push_by(bytes.len(), 1, message.body.len(), |chunk| {
                chunk.extend_from_slice(bytes);
            }),
            None => self.push_message(message, sid),
        }
    }

    /// True if a run can be pushed in one piece: it is in no danger of the bound, and nobody looks
    /// at single messages.
    #[inline]
    pub fn takes_run(&self, head_size: usize, run: &MessageRun<'_>) -> bool {
        let size = head_size * run.len() + run.tail_bytes();
        self.pending_bytes.get() + size <= self.pending_bytes_max.get() && !self.observed.get()
    }

    /// `push_behind` for each message of a run; `head` is all that comes before the tail of each.
    #[inline]
    pub fn push_run(&self, head: &[u8], run: &MessageRun<'_>) -> Pushed {
        let size = head.len() * run.len() + run.tail_bytes();
        self.push_by(size, run.len(), run.body_bytes(), |chunk| encode::run(chunk, head, run))
    }

    /// `push_framed` for each message of a run that goes to many.
    #[inline]
    pub fn push_framed_run(
        &self,
        frame: &mut FanOutFrame,
        run: &MessageRun<'_>,
        sid: &[u8],
    ) -> Pushed {
        let bytes = frame.get_run(run, sid);
        self.push_by(bytes.len(), run.len(), run.body_bytes(), |chunk| {
            encode::copy_payload(chunk, bytes);
        })
    }

    /// As `push_message` for a message whose tail lies in one piece; `head` is all that comes
    /// before it.
    #[inline]
    pub fn push_behind(&self, head: &[u8], message: &Message<'_>) -> Pushed {
        self.push_by(head.len() + message.tail.len(), 1, message.body.len(), |chunk| {
            chunk.extend_from_slice(head);
            encode::copy_payload(chunk, message.tail);
        })
    }

    /// Queues messages of `size` bytes in all that `append` writes.
    #[inline(always)]
    fn push_by(
        &self,
        size: usize,
        messages: usize,
        body_size: usize,
        append: impl FnOnce(&mut Vec<u8>),
    ) -> Pushed {
        if self.close_reason.get().is_some() {
            return Pushed::Closed;
        }
        let pending = self.pending_bytes.get() + size;
        if pending > self.pace_bytes.get()
            && let Some(refused) = self.refuse(messages, size, || size)
        {
            return refused;
        }
        {
            let mut buffers = self.buffers.borrow_mut();
            if buffers.current.capacity() - buffers.current.len() < size {
                self.make_room(&mut buffers, size);
            }
            if buffers.current.is_empty() {
                buffers.current_since = self.read_at();
            }
            append(&mut buffers.current);
        }
        self.out_messages.set(self.out_messages.get() + messages as u64);
        self.out_bytes.set(self.out_bytes.get() + body_size as u64);
        self.pending_bytes.set(pending);
        self.wake_writer();
        if pending > self.pace_bytes.get() { Pushed::QueuedPace } else { Pushed::Queued }
    }

    /// The tests that only a peer with much pending needs. `size_max` is an upper bound of what
    /// `size` finds out, the bytes that are to be queued.
    #[cold]
    fn refuse(
        &self,
        messages: usize,
        size_max: usize,
        size: impl FnOnce() -> usize,
    ) -> Option<Pushed> {
        let (pending, max) = (self.pending_bytes.get(), self.pending_bytes_max.get());
        if pending > max / 4 * 3
            && let Some(totals) = self.totals.get()
            && totals.drops_for_slow.get()
        {
            totals.dropped.set(totals.dropped.get() + messages as u64);
            return Some(Pushed::Dropped);
        }
        if pending + size_max <= max || pending + size() <= max {
            return None;
        }
        self.close(CloseReason::SlowConsumerPendingBytes);
        Some(Pushed::Overflow)
    }

    fn framed_size(&self, message: &Message<'_>, sid: &[u8]) -> usize {
        let mut framed = Vec::new();
        encode::message(&mut framed, message, sid, self.headers.get());
        framed.len()
    }

    /// Queues protocol bytes that are no message: INFO, PONG, +OK, -ERR.
    pub fn push_bytes(&self, bytes: &[u8]) -> Pushed {
        if self.close_reason.get().is_some() {
            return Pushed::Closed;
        }
        let pending = self.pending_bytes.get() + bytes.len();
        if pending > self.pending_bytes_max.get() {
            self.close(CloseReason::SlowConsumerPendingBytes);
            return Pushed::Overflow;
        }
        {
            let mut buffers = self.buffers.borrow_mut();
            if buffers.current.capacity() - buffers.current.len() < bytes.len() {
                self.make_room(&mut buffers, bytes.len());
            }
            if buffers.current.is_empty() {
                buffers.current_since = self.read_at();
            }
            buffers.current.extend_from_slice(bytes);
        }
        if self.observed.get()
            && let Some(rare) = self.rare.get()
            && let Some(trace) = &rare.borrow().trace
        {
            trace.sent(bytes);
        }
        self.pending_bytes.set(pending);
        self.wake_writer();
        Pushed::Queued
    }

    pub fn push_error(&self, text: &str) {
        let mut line = Vec::with_capacity(text.len() + 10);
        encode::error(&mut line, text);
        self.push_bytes(&line);
    }

    /// Makes `current` a chunk with `room` bytes free: a larger one while it is small, a further
    /// one after.
    #[cold]
    #[inline(never)]
    fn make_room(&self, buffers: &mut Buffers, room: usize) {
        let used = buffers.current.len();
        if used == 0 {
            let empty = std::mem::replace(
                &mut buffers.current,
                self.pool.take(room, usize::from(self.class.get())),
            );
            self.pool.give_back(empty);
        } else if used + room <= self.pool.class_bytes(self.pool.class_max() - 1) {
            let mut larger = self.pool.take(used + room, self.pool.class_of(used * 4));
            larger.extend_from_slice(&buffers.current);
            self.pool.give_back(std::mem::replace(&mut buffers.current, larger));
        } else {
            let next = self.pool.take(room, self.class_max(room));
            let full = std::mem::replace(&mut buffers.current, next);
            buffers.ready.push_back((full, buffers.current_since));
        }
    }

    /// The largest chunk class worth filling with messages of this size.
    fn class_max(&self, room: usize) -> usize {
        let largest = self.pool.class_max();
        if room >= LARGE_MESSAGE_BYTES { largest } else { largest - 1 }
    }

    /// Reads the clock if nobody did in this turn. Out of line: once per chunk, not per message.
    #[inline(never)]
    fn read_at(&self) -> Option<Instant> {
        Some(self.totals.get()?.clock.read_at())
    }

    #[inline]
    fn wake_writer(&self) {
        if self.writer_waits.replace(false)
            && let Some(waker) = self.writer.take()
        {
            waker.wake();
        }
    }

    fn let_writer_wait(&self, waker: &Waker) {
        self.writer.set(Some(waker.clone()));
        self.writer_waits.set(true);
    }

    /// Holds queued bytes back, or lets them go again; the writer then finds them. A connection
    /// that closes while they are held never sends them.
    pub fn hold(&self, held: bool) {
        self.held.set(held);
        if !held {
            // The time a handshake took is none that a message waited.
            self.buffers.borrow_mut().current_since = None;
        }
        self.wake_writer();
    }

    /// Gives the writer an empty chunk, also while bytes are held.
    pub fn poke(&self) {
        self.poked.set(true);
        self.wake_writer();
    }

    /// For the writer task: the next chunk to send, or `None` once the connection closes and
    /// nothing is left to send. An empty one comes of `poke`.
    pub async fn next_chunk(&self) -> Option<Vec<u8>> {
        poll_fn(|context| {
            if self.poked.get() || self.held.get() {
                if self.poked.replace(false) {
                    return Poll::Ready(Some(Vec::new()));
                }
                if self.is_closing() {
                    return Poll::Ready(None);
                }
                self.let_writer_wait(context.waker());
                return Poll::Pending;
            }
            let mut buffers = self.buffers.borrow_mut();
            let (chunk, since) = match buffers.ready.pop_front() {
                Some(chunk) => chunk,
                None if !buffers.current.is_empty() => {
                    (std::mem::take(&mut buffers.current), buffers.current_since)
                }
                None if self.is_closing() => return Poll::Ready(None),
                None => {
                    self.let_writer_wait(context.waker());
                    return Poll::Pending;
                }
            };
            self.sending_since.set(since);
            self.class.set(self.pool.class_of(chunk.len()) as u8);
            Poll::Ready(Some(chunk))
        })
        .await
    }

    pub fn send_begins(&self, now: Instant) {
        self.send_started.set(Some(now));
        self.add_to_totals();
    }

    /// The kernel took `bytes`.
    pub fn send_progressed(&self, bytes: usize, now: Instant) {
        let pending = self.pending_bytes.get();
        // After an overflow everything pending was written off already.
        self.pending_bytes.set(pending.saturating_sub(bytes));
        self.last_sent.set(now);
        self.sent.advance_by(bytes as u64);
    }

    pub fn send_ends(&self, chunk: Vec<u8>) {
        self.send_started.set(None);
        if let Some(since) = self.sending_since.take()
            && !self.is_closing()
            && let Some(totals) = self.totals.get()
        {
            totals.queued.record(self.last_sent.get().saturating_duration_since(since));
        }
        self.pool.give_back(chunk);
    }

    /// The value of `sent` that a producer should wait for, if it should. A consumer that stands
    /// still is not waited for: it is on its way to be cut and must not slow anyone else down.
    pub fn pace_target(&self, now: Instant) -> Option<u64> {
        let pending = self.pending_bytes.get();
        if self.is_closing() || pending <= self.pace_bytes.get() || self.drops_for_slow() {
            return None;
        }
        let still_ms = now.saturating_duration_since(self.last_sent.get()).as_millis() as u64;
        let nearly_full = pending > self.pending_bytes_max.get() / 4 * 3;
        let patience_ms = if nearly_full { PACE_STUCK_MS } else { PACE_MOVING_MS };
        if still_ms >= patience_ms {
            return None;
        }
        self.stalls.set(self.stalls.get() + 1);
        if let Some(totals) = self.totals.get() {
            totals.stalls.set(totals.stalls.get() + 1);
        }
        Some(self.sent.value() + (pending - self.pace_bytes.get() / 2) as u64)
    }

    fn drops_for_slow(&self) -> bool {
        self.totals.get().is_some_and(|totals| totals.drops_for_slow.get())
    }

    /// Looks whether what waits leaves within `deadline`. With `retries` a peer that takes
    /// something at all may take longer.
    pub fn check_send(&self, now: Instant, deadline: Duration, retries: bool) -> SendCheck {
        let sent = self.sent.value();
        if let Some(rare) = self.rare.get() {
            let late = &mut rare.borrow_mut().late;
            if let Some(attempt) = late {
                let (goes_on, found) = attempt.check(now, deadline, sent, self.backlog());
                if !goes_on {
                    *late = None;
                }
                return found;
            }
        }
        let Some(started) = self.send_started.get() else { return SendCheck::InTime };
        if now.saturating_duration_since(started) <= deadline {
            return SendCheck::InTime;
        }
        if !retries {
            return SendCheck::Failed;
        }
        let has_sent_something = self.last_sent.get() > started;
        let (late, found) = LateSend::begin(now, sent, self.backlog(), has_sent_something);
        self.rare().borrow_mut().late = Some(late);
        found
    }

    /// True from the line in the log about a late send until its recovery.
    pub fn is_late(&self) -> bool {
        let rare = self.rare.get().map(|rare| rare.borrow());
        rare.is_some_and(|rare| rare.late.as_ref().is_some_and(LateSend::was_told))
    }

    fn backlog(&self) -> Backlog {
        let buffers = self.buffers.borrow();
        let in_flight = usize::from(self.send_started.get().is_some());
        let chunks = buffers.ready.len() + usize::from(!buffers.current.is_empty()) + in_flight;
        Backlog { chunks, bytes: self.pending_bytes.get() }
    }

    /// Remembers a publisher behind a link that was told to pause; false if it was told already.
    pub fn note_paced(&self, link: LinkId, client: ClientKey) -> bool {
        let publisher = RemotePublisher { link, client };
        let paced = &mut self.rare().borrow_mut().paced_remote;
        if paced.contains(&publisher) {
            return false;
        }
        paced.push(publisher);
        true
    }

    /// The publishers that may go on, once the outbox has drained enough.
    pub fn take_resumable(&self) -> Option<Vec<RemotePublisher>> {
        let drained = self.is_closing() || self.pending_bytes.get() <= self.pace_bytes.get() / 2;
        let paced = &mut self.rare.get()?.borrow_mut().paced_remote;
        (drained && !paced.is_empty()).then(|| std::mem::take(paced))
    }

    pub fn set_reply_tracker(&self, tracker: Option<Rc<ReplyTracker>>) {
        self.change_observer(tracker.is_some(), |rare| rare.replies = tracker);
    }

    pub fn set_trace(&self, trace: Option<Rc<Trace>>) {
        self.change_observer(trace.is_some(), |rare| rare.trace = trace);
    }

    fn change_observer(&self, is_there: bool, change: impl FnOnce(&mut Rare)) {
        if is_there || self.rare.get().is_some() {
            let mut rare = self.rare().borrow_mut();
            change(&mut rare);
            self.observed.set(rare.replies.is_some() || rare.trace.is_some());
        }
    }

    fn rare(&self) -> &RefCell<Rare> {
        self.rare.get_or_init(Box::default)
    }

    /// True if `observe` is to be called for each message queued.
    #[inline]
    pub fn is_observed(&self) -> bool {
        self.observed.get()
    }

    /// A message was queued for the client.
    #[cold]
    pub fn observe(&self, message: &Message<'_>, sid: &[u8]) {
        let Some(rare) = self.rare.get() else { return };
        let rare = rare.borrow();
        if let Some(trace) = &rare.trace {
            trace.delivered(message, sid, self.headers.get());
        }
        if message.reply.is_empty() {
            return;
        }
        if let Some(tracker) = &rare.replies {
            let table = &mut tracker.table.borrow_mut();
            tracker.permissions.note_delivery(message.reply, table, Instant::now());
        }
    }

    /// Chunks and bytes that were given up when the connection was closed.
    pub fn written_off(&self) -> (usize, usize) {
        self.rare.get().map_or((0, 0), |rare| rare.borrow().written_off)
    }

    pub fn pending_bytes_max(&self) -> usize {
        self.pending_bytes_max.get()
    }

    pub fn set_abort(&self, abort: Option<Box<dyn Fn()>>) {
        self.abort.set(abort);
    }

    /// Closes the outbox for new bytes; the first reason stands. Queued bytes are still sent unless
    /// the reason discards them, in which case the socket is shut down at once.
    pub fn close(&self, reason: CloseReason) {
        if self.is_closing() {
            return;
        }
        self.close_reason.set(Some(reason));
        if reason.discards_pending() {
            let Backlog { chunks, bytes } = self.backlog();
            self.rare().borrow_mut().written_off = (chunks, bytes);
            self.pending_bytes.set(0);
            let buffers = std::mem::take(&mut *self.buffers.borrow_mut());
            buffers.ready.into_iter().for_each(|(chunk, _)| self.pool.give_back(chunk));
            self.pool.give_back(buffers.current);
            self.abort_socket();
        }
        self.sent.open_for_good();
        self.wake_writer();
    }

    /// Wakes both tasks of the connection by shutting its socket down.
    pub fn abort_socket(&self) {
        let abort = self.abort.take();
        if let Some(abort) = &abort {
            abort();
        }
        self.abort.set(abort);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::CHUNK_BYTES;
    use std::task::Context;

    fn outbox(pending_bytes_max: usize) -> Outbox {
        Outbox::new(
            ConnectionId(7),
            Rc::new(BufferPool::new(&CHUNK_BYTES, 1 << 20)),
            pending_bytes_max,
        )
    }

    fn message<'a>(body: &'a [u8], size_text: &'a [u8]) -> Message<'a> {
        Message {
            subject: b"s",
            reply: b"",
            headers: b"",
            body,
            header_size_text: b"",
            size_text,
            tail: b"",
        }
    }

    fn take(outbox: &Outbox) -> Option<Option<Vec<u8>>> {
        let future = std::pin::pin!(outbox.next_chunk());
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(chunk) => Some(chunk),
            Poll::Pending => None,
        }
    }

    use std::future::Future;

    #[test]
    fn a_fan_out_frame_gives_each_receiver_its_own_sid() {
        let outbox = outbox(1 << 20);
        let (mut frame, mut expected) = (FanOutFrame::default(), Vec::new());
        for body in [&b"one"[..], b"eight..."] {
            let size = body.len().to_string().into_bytes();
            let message = message(body, &size);
            frame.begin();
            for sid in ["1", "1", "1", "22", "1", "22", "22", "", ""] {
                assert_eq!(
                    outbox.push_framed(&mut frame, &message, sid.as_bytes()),
                    Pushed::Queued
                );
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
            assert_ne!(outbox.push_message(&message, b"1"), Pushed::Closed);
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
        assert_eq!(outbox.push_message(&message, b"1"), Pushed::Queued);
        assert_eq!(outbox.push_message(&message, b"1"), Pushed::QueuedPace);
        assert_eq!(outbox.push_message(&message, b"1"), Pushed::Overflow);
        assert_eq!(outbox.close_reason(), Some(CloseReason::SlowConsumerPendingBytes));
        assert_eq!(outbox.push_message(&message, b"1"), Pushed::Closed);
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

    #[test]
    fn held_bytes_wait_and_a_poke_does_not() {
        let outbox = outbox(1000);
        outbox.hold(true);
        outbox.push_bytes(b"PING");
        assert_eq!(take(&outbox), None);
        outbox.poke();
        assert_eq!(take(&outbox), Some(Some(Vec::new())));
        assert_eq!(take(&outbox), None);
        outbox.hold(false);
        assert_eq!(take(&outbox), Some(Some(b"PING".to_vec())));
        outbox.hold(true);
        outbox.push_bytes(b"PONG");
        outbox.poke();
        outbox.close(CloseReason::TlsHandshakeFailure);
        assert_eq!(take(&outbox), Some(Some(Vec::new())));
        assert_eq!(take(&outbox), Some(None));
    }

    #[test]
    fn only_a_moving_consumer_is_paced_for() {
        let outbox = outbox(4000);
        let body = vec![b'x'; 3100];
        let size = *b"3100";
        let message = message(&body, &size);
        assert_eq!(outbox.push_message(&message, b"1"), Pushed::QueuedPace);
        let now = Instant::now();
        assert!(outbox.pace_target(now).is_some());
        assert!(outbox.pace_target(now + Duration::from_millis(PACE_STUCK_MS + 1)).is_none());
    }
}
