//! Bounded bytes to one peer: a queue of pooled chunks, whatever protocol they are of.
//!
//! Many push (by way of a framing such as `Outbox`), one writer task takes chunks and sends them.
//! The queue never waits: past `pending_bytes_max` the peer is a slow consumer, everything queued
//! is thrown away and the connection is aborted. The first push into an idle queue wakes the
//! writer, which runs after the readers that are ready now, so one send carries a whole turn.
//!
//! Invariant: `pending_bytes` = bytes in `buffers` + bytes of the chunk the writer has taken and
//! not yet confirmed by `sent`.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::future::poll_fn;
use std::ops::Deref;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::base::gate::Gate;
use crate::base::ids::{ClientKey, LinkId};
use crate::base::limits::{LARGE_MESSAGE_BYTES, PACE_MOVING_MS, PACE_STUCK_MS, pace_bytes};
use crate::base::pool::BufferPool;
use crate::broker::late_send::{Backlog, LateSend, SendCheck};
use crate::broker::outbox_totals::OutboxTotals;
use crate::protocol::nats::error::CloseReason;

#[derive(Default)]
struct Buffers {
    /// Full chunks, oldest first, each with the turn its first bytes came in.
    ready: VecDeque<(Vec<u8>, Option<Instant>)>,
    /// The chunk that is being filled; newest bytes.
    current: Vec<u8>,
    /// The turn in which the first bytes of `current` came; meaningless while it is empty.
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

/// A publisher on another shard that was told to pause because of this queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RemotePublisher {
    pub link: LinkId,
    pub client: ClientKey,
}

/// Publishers behind links that may go on, for the mesh to tell them.
pub type Resumable = RefCell<Vec<RemotePublisher>>;

/// A peer's queue for those who do not know what is framed into it: its connection, and whoever
/// waits for it.
pub(crate) type QueueHandle = Rc<dyn Deref<Target = ByteQueue>>;

/// The part of a push that monitoring counts.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    pub messages: usize,
    /// Bytes of their bodies as the peer gets them.
    pub body_bytes: usize,
}

/// The messages that a queue has taken for its peer, as monitoring reports them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    messages: u64,
    bytes: u64,
    stalls: u64,
}

/// Fields that few queues need.
#[derive(Default)]
struct Rare {
    /// Publishers behind links that were told to pause, each once.
    paced_remote: BTreeSet<RemotePublisher>,
    /// Present from the time a send missed its deadline until the peer has caught up.
    late: Option<LateSend>,
    /// Chunks and bytes that were given up when the connection was closed.
    written_off: (usize, usize),
    /// Times a producer was asked to wait for this peer.
    stalls: u64,
}

/// The outgoing bytes of one peer.
pub struct ByteQueue {
    pool: Rc<BufferPool>,
    buffers: RefCell<Buffers>,
    pending_bytes: Cell<usize>,
    pending_bytes_max: Cell<usize>,
    pace_bytes: Cell<usize>,
    /// The class of the first chunk after a send: the one that the last send needed.
    class: Cell<u8>,
    close_reason: Cell<Option<CloseReason>>,
    writer: Cell<Option<Waker>>,
    /// True while `writer` is set: reading this is cheaper than taking the waker each time.
    writer_waits: Cell<bool>,
    /// Queued bytes wait: the connection is between plain and TLS.
    held: Cell<bool>,
    /// The writer is to look at what the connection itself has to send.
    poked: Cell<bool>,
    /// The writer is to end, and what is queued stays.
    retired: Cell<bool>,
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
    totals: OnceCell<Rc<OutboxTotals>>,
    /// The part of `out_messages` and `out_bytes` that the totals have.
    totalled: Cell<(u64, u64)>,
    /// True if a send with messages has begun since a tick last looked.
    delivered: Cell<bool>,
    pub out_messages: Cell<u64>,
    pub out_bytes: Cell<u64>,
}

impl ByteQueue {
    pub fn new(pool: Rc<BufferPool>, pending_bytes_max: usize) -> Self {
        Self {
            pool,
            buffers: RefCell::default(),
            pending_bytes: Cell::new(0),
            pending_bytes_max: Cell::new(pending_bytes_max),
            pace_bytes: Cell::new(pace_bytes(pending_bytes_max)),
            class: Cell::new(0),
            close_reason: Cell::new(None),
            writer: Cell::new(None),
            writer_waits: Cell::new(false),
            held: Cell::new(false),
            poked: Cell::new(false),
            retired: Cell::new(false),
            sent: Gate::new(),
            last_sent: Cell::new(Instant::now()),
            send_started: Cell::new(None),
            sending_since: Cell::new(None),
            abort: Cell::new(None),
            rare: OnceCell::new(),
            totals: OnceCell::new(),
            totalled: Cell::default(),
            delivered: Cell::new(false),
            out_messages: Cell::new(0),
            out_bytes: Cell::new(0),
        }
    }

    /// Sets the totals that count this queue from now on; only the first call has an effect.
    pub fn set_totals(&self, totals: Rc<OutboxTotals>) {
        // A second call is of the same shard, whose totals are the same.
        let _ = self.totals.set(totals);
    }

    /// Brings the shard's totals up to date with this queue.
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

    /// Returns what it has taken for its peer.
    pub fn counted(&self) -> Sent {
        let (messages, bytes) = (self.out_messages.get(), self.out_bytes.get());
        Sent { messages, bytes, stalls: self.stalls() }
    }

    /// Queues bytes before all others. Nothing has been sent yet.
    pub fn put_first(&self, bytes: Vec<u8>) {
        if self.is_closing() {
            return;
        }
        let pending = self.pending_bytes.get() + bytes.len();
        if pending > self.pending_bytes_max.get() {
            self.close(CloseReason::SlowConsumerPendingBytes);
            return;
        }
        self.pending_bytes.set(pending);
        self.buffers.borrow_mut().ready.push_front((bytes, None));
        self.wake_writer();
    }

    /// Goes on from the counts of the queue that its peer had on another shard, whose totals have
    /// them.
    pub fn continue_counts(&self, Sent { messages, bytes, stalls }: Sent) {
        self.out_messages.set(self.out_messages.get() + messages);
        self.out_bytes.set(self.out_bytes.get() + bytes);
        let (other_messages, other_bytes) = self.totalled.get();
        self.totalled.set((other_messages + messages, other_bytes + bytes));
        if stalls > 0 {
            self.rare().borrow_mut().stalls += stalls;
        }
    }

    /// Returns the time of the last send with messages, if there was one since `take_delivered_at`.
    /// Later sends without messages may have moved it.
    pub fn delivered_at(&self) -> Option<Instant> {
        let begun = self.send_started.get();
        self.delivered.get().then(|| begun.unwrap_or(self.last_sent.get()))
    }

    /// Returns the time as `delivered_at` does, and forgets it: a send is reported once.
    pub fn take_delivered_at(&self) -> Option<Instant> {
        let at = self.delivered_at();
        self.delivered.set(false);
        at
    }

    /// Returns the time at which this turn began; None for a queue outside of a shard.
    #[inline]
    pub fn turn_began(&self) -> Option<Instant> {
        Some(self.totals.get()?.clock.began())
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

    /// Queues messages, framed as bytes that `append` writes: at most `size_max` of them. `size`
    /// finds out how many exactly, for a peer that is near its bound.
    #[inline(always)]
    pub fn push(
        &self,
        size_max: usize,
        size: impl FnOnce() -> usize,
        counted: Counted,
        append: impl FnOnce(&mut Vec<u8>),
    ) -> Pushed {
        if self.close_reason.get().is_some() {
            return Pushed::Closed;
        }
        let pending = self.pending_bytes.get();
        if pending + size_max > self.pace_bytes.get()
            && let Some(refused) = self.refuse(counted.messages, size_max, size)
        {
            return refused;
        }
        let pending = pending + self.append(size_max, append);
        self.out_messages.set(self.out_messages.get() + counted.messages as u64);
        self.out_bytes.set(self.out_bytes.get() + counted.body_bytes as u64);
        self.pending_bytes.set(pending);
        self.wake_writer();
        if pending > self.pace_bytes.get() { Pushed::QueuedPace } else { Pushed::Queued }
    }

    /// Queues bytes that are no message: they count as pending alone, and are never dropped.
    pub fn push_bytes(&self, bytes: &[u8]) -> Pushed {
        if self.close_reason.get().is_some() {
            return Pushed::Closed;
        }
        let pending = self.pending_bytes.get() + bytes.len();
        if pending > self.pending_bytes_max.get() {
            self.close(CloseReason::SlowConsumerPendingBytes);
            return Pushed::Overflow;
        }
        self.append(bytes.len(), |chunk| chunk.extend_from_slice(bytes));
        self.pending_bytes.set(pending);
        self.wake_writer();
        Pushed::Queued
    }

    /// Gives `append` a chunk with `room` bytes free. Returns the number of bytes it wrote.
    #[inline(always)]
    fn append(&self, room: usize, append: impl FnOnce(&mut Vec<u8>)) -> usize {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.current.capacity() - buffers.current.len() < room {
            self.make_room(&mut buffers, room);
        }
        let before = buffers.current.len();
        if before == 0 {
            buffers.current_since = self.read_at();
        }
        append(&mut buffers.current);
        buffers.current.len() - before
    }

    /// Checks that only a peer with much pending needs. `size_max` is an upper bound of what
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
            // The time of a handshake does not count as time that a message waited.
            self.buffers.borrow_mut().current_since = None;
        }
        self.wake_writer();
    }

    /// Gives the writer an empty chunk, even while bytes are held.
    pub fn poke(&self) {
        self.poked.set(true);
        self.wake_writer();
    }

    /// Has the writer end without a word: the connection goes on elsewhere, with what is queued
    /// from now on.
    pub fn retire(&self) {
        self.retired.set(true);
        self.wake_writer();
    }

    pub fn is_retired(&self) -> bool {
        self.retired.get()
    }

    /// True if nothing is queued, under way, or to be looked at by the writer.
    pub fn is_idle(&self) -> bool {
        self.pending_bytes.get() == 0 && self.send_started.get().is_none() && !self.poked.get()
    }

    /// Takes out what is queued, in order.
    pub fn take_queued(&self) -> Vec<u8> {
        let Buffers { ready, current, .. } = std::mem::take(&mut *self.buffers.borrow_mut());
        let mut all = Vec::new();
        for chunk in ready.into_iter().map(|(chunk, _)| chunk).chain([current]) {
            all.extend_from_slice(&chunk);
            self.pool.give_back(chunk);
        }
        self.pending_bytes.set(self.pending_bytes.get().saturating_sub(all.len()));
        all
    }

    /// For the writer task: the next chunk to send, or `None` once the connection closes and
    /// nothing is left to send, or has retired. After `poke` it is an empty one.
    pub async fn next_chunk(&self) -> Option<Vec<u8>> {
        poll_fn(|context| {
            if self.retired.get() {
                return Poll::Ready(None);
            }
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
        self.rare().borrow_mut().stalls += 1;
        if let Some(totals) = self.totals.get() {
            totals.stalls.set(totals.stalls.get() + 1);
        }
        Some(self.sent.value() + (pending - self.pace_bytes.get() / 2) as u64)
    }

    /// True if so many bytes more stay below the bound.
    #[inline]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.pending_bytes.get() + bytes <= self.pending_bytes_max.get()
    }

    fn drops_for_slow(&self) -> bool {
        self.totals.get().is_some_and(|totals| totals.drops_for_slow.get())
    }

    /// Checks that waiting bytes leave within `deadline`. With `retries` a peer that takes some
    /// bytes may take longer.
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
        self.rare().borrow_mut().paced_remote.insert(publisher)
    }

    /// The publishers that may go on, once the queue has drained enough.
    pub fn take_resumable(&self) -> Option<Vec<RemotePublisher>> {
        let drained = self.is_closing() || self.pending_bytes.get() <= self.pace_bytes.get() / 2;
        let paced = &mut self.rare.get()?.borrow_mut().paced_remote;
        (drained && !paced.is_empty()).then(|| std::mem::take(paced).into_iter().collect())
    }

    /// Checks what this file promises. `taken_bytes`: those that the writer has taken and `sent`
    /// has not confirmed.
    ///
    /// # Panics
    /// A promise is broken.
    #[cfg(any(test, debug_assertions))]
    pub fn check_invariants(&self, taken_bytes: usize) {
        let buffers = self.buffers.borrow();
        let ready: usize = buffers.ready.iter().map(|(chunk, _)| chunk.len()).sum();
        let queued = ready + buffers.current.len();
        assert!(buffers.ready.iter().all(|(chunk, _)| !chunk.is_empty()), "an empty chunk");
        match self.close_reason.get() {
            // What was taken is given up with the rest.
            Some(reason) if reason.discards_pending() => assert_eq!(queued, 0, "given up"),
            _ => assert_eq!(self.pending_bytes.get(), queued + taken_bytes, "pending bytes"),
        }
        assert!(self.pending_bytes.get() <= self.pending_bytes_max.get(), "past the bound");
        let idle = queued == 0 && !self.is_closing();
        let waits = self.writer_waits.get();
        assert!(
            !waits || idle || self.held.get(),
            "the writer sleeps and there is something to send"
        );
        let is_empty = queued + taken_bytes == 0 && !self.is_closing();
        let rare = self.rare.get().map(|rare| rare.borrow());
        let paces = rare.is_some_and(|rare| !rare.paced_remote.is_empty());
        assert!(!(is_empty && paces), "publishers behind links wait for an empty queue");
        assert!(self.totalled.get().0 <= self.out_messages.get());
        assert!(self.totalled.get().1 <= self.out_bytes.get());
    }

    /// Publishers behind links that wait for this queue.
    #[cfg(any(test, debug_assertions))]
    pub fn paced_remote(&self) -> Vec<RemotePublisher> {
        let rare = self.rare.get().map(|rare| rare.borrow());
        rare.map_or_else(Vec::new, |rare| rare.paced_remote.iter().copied().collect())
    }

    fn rare(&self) -> &RefCell<Rare> {
        self.rare.get_or_init(Box::default)
    }

    /// Chunks and bytes that were given up when the connection was closed.
    pub fn written_off(&self) -> (usize, usize) {
        self.rare.get().map_or((0, 0), |rare| rare.borrow().written_off)
    }

    /// Times a producer was asked to wait for this peer.
    pub fn stalls(&self) -> u64 {
        self.rare.get().map_or(0, |rare| rare.borrow().stalls)
    }

    pub fn pending_bytes_max(&self) -> usize {
        self.pending_bytes_max.get()
    }

    pub fn set_abort(&self, abort: Option<Box<dyn Fn()>>) {
        self.abort.set(abort);
    }

    /// Closes the queue for new bytes; the first reason stands. Queued bytes are still sent unless
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

    /// Closes the queue for new bytes; what is queued is sent first, whatever the reason.
    pub fn close_after_sending(&self, reason: CloseReason) {
        if !self.is_closing() {
            self.close_reason.set(Some(reason));
            self.sent.open_for_good();
            self.wake_writer();
        }
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
    use std::future::Future;
    use std::task::Context;

    use super::*;
    use crate::base::limits::CHUNK_BYTES;

    fn queue(pending_bytes_max: usize) -> ByteQueue {
        ByteQueue::new(Rc::new(BufferPool::new(&CHUNK_BYTES, 1 << 20)), pending_bytes_max)
    }

    /// One message of so many bytes.
    fn push(queue: &ByteQueue, size: usize) -> Pushed {
        let counted = Counted { messages: 1, body_bytes: size };
        queue.push(size, || size, counted, |chunk| chunk.resize(chunk.len() + size, b'x'))
    }

    fn take(queue: &ByteQueue) -> Option<Option<Vec<u8>>> {
        let future = std::pin::pin!(queue.next_chunk());
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(chunk) => Some(chunk),
            Poll::Pending => None,
        }
    }

    #[test]
    fn message_that_fits_by_its_exact_size_is_queued_to_the_bound_and_not_beyond() {
        for (exact, expected) in [(999, Pushed::QueuedPace), (1000, Pushed::QueuedPace)] {
            let queue = queue(1000);
            let counted = Counted { messages: 1, body_bytes: 7 };
            let pushed = queue.push(5000, || exact, counted, |chunk| chunk.resize(exact, b'x'));
            assert_eq!((pushed, queue.pending_bytes()), (expected, exact));
            assert_eq!((queue.out_messages.get(), queue.out_bytes.get()), (1, 7));
        }
        let queue = queue(1000);
        assert_eq!(push(&queue, 1001), Pushed::Overflow);
        assert_eq!(queue.close_reason(), Some(CloseReason::SlowConsumerPendingBytes));
        assert_eq!((queue.pending_bytes(), queue.out_messages.get()), (0, 0));
        assert_eq!(push(&queue, 1), Pushed::Closed);
    }

    #[test]
    fn bytes_that_are_no_message_count_as_pending_alone() {
        let queue = queue(1000);
        assert_eq!(queue.push_bytes(b"PING"), Pushed::Queued);
        assert_eq!((queue.pending_bytes(), queue.out_messages.get()), (4, 0));
        assert_eq!(queue.push_bytes(&[b'x'; 996]), Pushed::Queued);
        assert_eq!(queue.push_bytes(b"x"), Pushed::Overflow);
    }

    #[test]
    fn held_bytes_wait_and_a_poke_does_not() {
        let queue = queue(1000);
        queue.hold(true);
        queue.push_bytes(b"PING");
        assert_eq!(take(&queue), None);
        queue.poke();
        assert_eq!(take(&queue), Some(Some(Vec::new())));
        assert_eq!(take(&queue), None);
        queue.hold(false);
        assert_eq!(take(&queue), Some(Some(b"PING".to_vec())));
        queue.hold(true);
        queue.push_bytes(b"PONG");
        queue.poke();
        queue.close(CloseReason::TlsHandshakeFailure);
        assert_eq!(take(&queue), Some(Some(Vec::new())));
        assert_eq!(take(&queue), Some(None));
    }

    #[test]
    fn only_a_moving_consumer_is_paced_for() {
        let queue = queue(4000);
        assert_eq!(push(&queue, 3100), Pushed::QueuedPace);
        let now = Instant::now();
        assert!(queue.pace_target(now).is_some());
        assert!(queue.pace_target(now + Duration::from_millis(PACE_STUCK_MS + 1)).is_none());
    }
}
