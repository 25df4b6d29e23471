//! Floor 7: the links between the shards of one server.
//!
//! Per ordered pair of shards there are two lanes. The interest lane carries changes of interest
//! and is written at once; the message lane carries batches and is written before anything goes to
//! a socket. Whoever handles a peer's bytes first applies all interest that waits and delivers all
//! messages that wait. So nothing can overtake what caused it, over any number of shards and also
//! through the clients themselves: a subscription is in every lane before the subscriber's next
//! command runs, a message is in its lanes before its publisher is told PONG, and both are taken
//! before any later command runs anywhere. Where a lane is full, SUB, UNSUB, PING and what would be
//! forwarded wait for room (`Broker::interest_congestion`, `fence`, `message_congestion`).
//!
//! # Order over three shards
//!
//! Say that message `n` was published after the publisher of `m` had been told PONG, or after
//! somebody had heard `m`. Then no shard delivers `n` before `m`, whatever shards they were
//! published on. Three rules bring it about.
//!
//! 1. *A batch has a stamp, the time just before its push, and counts only once its shard is done.*
//!    A flush pushes to all lanes, then raises the shard's watermark to its newest stamp, and only
//!    then tells anybody. A batch whose stamp is above its source's watermark is not taken
//!    (`Inbound::look`). So who takes a copy of `m` on one shard knows that the copies for all
//!    other shards lie in their lanes: both the pushes and the watermark happened before. A flush
//!    comes before each send, so the same holds for who was told PONG, and for who heard `m` on the
//!    shard where it was published. Hence all pushes of `m` happened before `n` was published, and
//!    `stamp(m) < stamp(n)`, as a clock that all threads share moves on between them.
//! 2. *A drain looks twice.* What the first look found may be delivered; what only the second look
//!    found is a warning: it bounds what may be delivered to stamps below the oldest of it. If `n`
//!    was found by the first look, the second look finds `m`, as all pushes of `m` happened before
//!    that of `n`. Either it was found by the first look too, then the merge by stamps delivers it
//!    first; or only by the second, then its stamp is below that of `n` and holds `n` back.
//! 3. *All that was there is delivered.* A drain repeats this until all that its first look found
//!    is delivered: only after it a peer's bytes are published, which may be a consequence of any
//!    of it. It ends: what holds a batch back was stamped before it and pushed after the first
//!    look, and each source can have stamped one such flush.
//!
//! Nothing stays behind on the way to a lane that the rules would have to know of: a message is
//! routed only when all lanes that it needs have room (`Broker::message_congestion`), so that its
//! flush pushes all of its copies. What a drain itself sends on, a queue message that looks for
//! another member, has no such promise: where it finds no room it is staged (`passed_on`), and its
//! stamp is that of its last push. Interest needs no stamps: what is applied early is what somebody
//! wants, and a note is in its lane before the messages that follow from it.
//!
//! No deadlock: only readers wait for room on a lane; drains never wait. What a drain itself must
//! send (a queue message that looks for another member, a note that nobody got a request) is staged
//! when there is no room. Where such notes pile up for a shard, what that shard sends does not
//! count as delivered until it has taken some: so those who ask wait, and notes are always taken.
//! The same holds where messages pile up that are to be passed on (`passed_on` says why no circle
//! of shards then waits for itself).
//!
//! Messages under way count until they are delivered. A lane takes no more bytes than a part of what
//! a consumer behind it may have pending (`Mesh::set_pending_bytes_max`), so that its publishers
//! are slowed before it is cut; and no more work than some turns (`LANE_WORK_MAX`), so that whoever
//! publishes behind a drain waits that long, however many receivers each message has. For that
//! interest in a filter has a weight, the number of its subscriptions to the nearest power of two.
//! Only whether there is room depends on it, and so when a message is routed: never what is routed
//! before what, so the rules above hold as they do for slots and bytes.

mod inbound;
mod lanes;
mod outbound;
mod passed_on;
mod under_way;

pub use lanes::{LaneEnds, Lanes, lanes};

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use hashbrown::HashMap;

use crate::base::gate::Gate;
use crate::base::histogram::{DurationHistogram, Durations};
use crate::base::ids::{ClientKey, LinkId};
use crate::base::limits::{
    BATCH_BYTES, LANE_BYTES_MIN, LANE_WORK_MAX, MESSAGE_LANE_SLOTS, PENDING_BYTES_MAX,
    SUBSCRIPTION_WORK, pace_bytes,
};
use crate::base::ring::{Signal, Watermark};
use crate::base::turn_clock::TurnClock;
use crate::broker::byte_queue::{RemotePublisher, Resumable};
use crate::broker::fan_out::FanOut;
use crate::broker::frame;
use crate::broker::link::{Congestion, Mark};
use crate::broker::passage::{Origin, Routed};
use crate::broker::route_cache::RouteCache;
use crate::broker::turn::{Turn, pace_target};
use crate::broker::{Broker, BrokerHandle};
use crate::protocol::message::Tail;
use inbound::Inbound;
use lanes::{Batch, Note};
use outbound::{Outbound, ShardLink, Shared, Stamp};

/// One shard's side of all its lanes.
pub struct Mesh {
    broker: BrokerHandle,
    peers: Vec<Peer>,
    inbound_waiting: Signal,
    /// Values that the outbound lanes share.
    shared: Rc<Shared>,
    /// The stamp up to which everything was pushed.
    complete: Watermark,
    resumable: Rc<Resumable>,
    clock: Rc<TurnClock>,
    /// For each batch that came: from the turn in which its first message was read to the one here
    /// that took it.
    transits: DurationHistogram,
    counters: RefCell<MeshCounters>,
    /// Scratch space for a run of messages.
    tails: RefCell<Vec<Tail>>,
    /// The work of drains in this turn.
    turn: RefCell<Turn>,
    /// A drain has begun and is not done.
    is_draining: Cell<bool>,
    open: RefCell<Option<OpenBatch>>,
    /// Counts the drains that are done.
    drained: Rc<Gate>,
}

struct Peer {
    link: LinkId,
    outbound: Rc<Outbound>,
    inbound: RefCell<Inbound>,
    /// The route of its last message on this shard.
    route: RefCell<RouteCache>,
    /// For each publisher over there that was asked to pause: the consumers and services here that
    /// it waits for. Gone once none is left.
    paused: RefCell<HashMap<ClientKey, usize>>,
}

impl Peer {
    /// Asks a publisher over there to wait for the consumer or the service that its messages
    /// reached, if it should, and if there is room to ask: else its next messages do.
    fn pause(&self, publisher: Option<ClientKey>, turn: &mut Turn, resumable: &Rc<Resumable>) {
        let (consumer, mailbox) = (pace_target(turn, Instant::now), turn.take_full());
        let Some(client) = publisher else { return };
        if (consumer.is_none() && mailbox.is_none()) || !self.outbound.takes_note() {
            return;
        }
        let for_consumer = consumer.is_some_and(|(outbox, _)| outbox.note_paced(self.link, client));
        let paced = RemotePublisher { link: self.link, client };
        let for_service = mailbox.is_some_and(|mailbox| mailbox.note_paced(paced, resumable));
        let added = usize::from(for_consumer) + usize::from(for_service);
        if added == 0 {
            return;
        }
        // Each time: its key may be that of another client by now.
        self.outbound.push_note(Note::Pace { client, paused: true });
        *self.paused.borrow_mut().entry(client).or_default() += added;
    }

    /// Notes that one of those for which a publisher over there waits has room again. It goes on
    /// once all have.
    fn resume(&self, client: ClientKey) {
        let mut paused = self.paused.borrow_mut();
        if let Some(count) = paused.get_mut(&client)
            && *count > 1
        {
            *count -= 1;
            return;
        }
        paused.remove(&client);
        self.outbound.push_resume(client);
        self.outbound.wake();
    }
}

/// A batch of which some was delivered.
struct OpenBatch {
    /// Index of the peer it came from.
    peer: usize,
    batch: Batch,
    cursor: frame::Cursor,
    /// The publisher of the last message.
    publisher: Option<ClientKey>,
    /// The rest of the last message.
    unfinished: Option<Box<FanOut>>,
}

/// Delivers the parts of an open batch.
struct Delivery<'a> {
    peer: &'a Peer,
    resumable: &'a Rc<Resumable>,
    broker: &'a mut Broker,
    turn: &'a mut Turn,
    route: &'a mut RouteCache,
    publisher: &'a mut Option<ClientKey>,
    unfinished: &'a mut Option<Box<FanOut>>,
    messages_in: u64,
}

impl Delivery<'_> {
    /// Delivers as many messages of a part as may be delivered in one go.
    #[inline]
    fn deliver(&mut self, part: &frame::Part<'_>) -> frame::Taken {
        let frame::Part { source, target, run } = *part;
        // A run of one publisher's messages is settled at its end.
        if !run.repeats() {
            self.peer.pause(*self.publisher, self.turn, self.resumable);
            if matches!(target.mark, Mark::Switch | Mark::Cut | Mark::End) {
                *self.publisher = None;
                self.turn.spend(1);
                self.broker.take_mark(self.peer.link, source, target, run.first());
                return frame::Taken { messages: 1, goes_on: !self.turn.is_over() };
            }
            // Of another shard is the key of one who is passed on: it would name somebody else.
            *self.publisher = source.publisher.filter(|_| target.hops == 0);
        }
        let Self { peer, broker, turn, route, .. } = self;
        let count = match run.len() {
            1 => 1,
            all => broker.run_max(source.account, route, turn).min(all),
        };
        self.messages_in += count as u64;
        let origin = Origin::link(peer.link, source, target);
        if broker.publish(&origin, &run.up_to(count), route, turn) == Routed::Unfinished {
            *self.unfinished = self.turn.unfinished.take();
        }
        let goes_on = self.unfinished.is_none() && !self.turn.is_over();
        frame::Taken { messages: count, goes_on }
    }
}

/// Counts of this shard's lanes since it started.
#[derive(Clone, Copy, Debug, Default)]
pub struct MeshCounters {
    pub batches_in: u64,
    pub messages_in: u64,
    pub batches_out: u64,
    /// Times another shard had to be woken.
    pub wakes: u64,
    /// Times a batch found its lane full.
    pub stalls: u64,
    pub interest_in: u64,
}

/// The fill of this shard's lanes.
#[derive(Clone, Copy, Debug, Default)]
pub struct LaneDepth {
    pub batches: usize,
    pub notes: usize,
    pub staged_bytes: usize,
}

impl Mesh {
    /// Opens a link to every peer in the broker. Call before the first client attaches.
    pub fn new(
        broker: BrokerHandle,
        ends: LaneEnds,
        resumable: Rc<Resumable>,
        dirty: Rc<Cell<bool>>,
        clock: Rc<TurnClock>,
    ) -> Self {
        let shared = Rc::new(Shared {
            dirty,
            waiting: Cell::new(false),
            tight: broker.borrow().lanes_tight(),
            bytes_max: Cell::new(0),
            work_max: Cell::new(LANE_WORK_MAX),
            passed_on_bytes: Default::default(),
            newest_stamp: Cell::new(0),
            shard: ends.shard,
            lane_clock: ends.clock,
            clock: clock.clone(),
        });
        let peers: Vec<Peer> = ends
            .peers
            .into_iter()
            .map(|end| {
                let outbound = Rc::new(Outbound::new(end.source, shared.clone()));
                let link = broker.borrow_mut().link_open(Box::new(ShardLink(outbound.clone())));
                let inbound = RefCell::new(Inbound::new(end.target));
                Peer {
                    link,
                    outbound,
                    inbound,
                    route: RefCell::default(),
                    paused: RefCell::default(),
                }
            })
            .collect();
        let mesh = Self {
            broker,
            peers,
            inbound_waiting: ends.inbound_waiting,
            shared,
            complete: ends.complete,
            resumable,
            clock,
            transits: DurationHistogram::default(),
            counters: RefCell::default(),
            tails: RefCell::default(),
            turn: RefCell::default(),
            is_draining: Cell::new(false),
            open: RefCell::default(),
            drained: Rc::default(),
        };
        mesh.set_pending_bytes_max(PENDING_BYTES_MAX);
        mesh
    }

    /// Sets what a client may have pending from now on. All that is under way to one shard must
    /// fit, twice, between where its publishers are slowed and where it is cut: once for what is
    /// there when it is to be slowed, and once for what its publishers send before they know.
    pub fn set_pending_bytes_max(&self, pending_bytes_max: usize) {
        let left = pending_bytes_max - pace_bytes(pending_bytes_max);
        let share = left / 4 / self.peers.len().max(1);
        self.shared.bytes_max.set(share.clamp(LANE_BYTES_MIN, MESSAGE_LANE_SLOTS * BATCH_BYTES));
    }

    /// Sets the work that may be under way on one lane, for simulators.
    pub fn set_lane_work_max(&self, work_max: usize) {
        self.shared.work_max.set(work_max);
    }

    /// Takes what other shards sent, if they said that there is something.
    pub fn catch_up(&self) {
        if self.inbound_waiting.is_raised() {
            self.drain();
        }
    }

    /// Owes the notes that are there now.
    fn owe_notes(&self) {
        self.peers.iter().for_each(|peer| peer.inbound.borrow_mut().owe_notes());
    }

    /// Applies the notes that are owed until the turn is over, or has done `work_max`; true = all
    /// of them.
    fn apply_notes(&self, broker: &mut Broker, turn: &mut Turn, work_max: usize) -> bool {
        for peer in &self.peers {
            let mut inbound = peer.inbound.borrow_mut();
            let mut applied = 0;
            while !turn.is_over()
                && turn.work() < work_max
                && let Some(note) = inbound.next_note()
            {
                applied += 1;
                match note {
                    Note::Interest(change) => {
                        broker.link_interest(peer.link, &change);
                        turn.spend(SUBSCRIPTION_WORK + broker.take_change_work());
                    }
                    Note::Pace { client, paused } => {
                        broker.link_pace(client, paused);
                        turn.spend(1);
                    }
                    Note::Unheard(unheard) => broker.link_unheard(&unheard, turn),
                }
            }
            if applied > 0 {
                self.counters.borrow_mut().interest_in += applied as u64;
                inbound.wake_waiting_source();
            }
            if inbound.owes_notes() {
                return false;
            }
        }
        true
    }

    /// One end of a turn: take what other shards sent, then send what this turn produced. Returns
    /// whether anything moved.
    pub fn end_of_turn(&self) -> bool {
        let work_max = self.broker.borrow().turn_work_max();
        self.turn.borrow_mut().begin(work_max);
        let drained = (self.inbound_waiting.is_raised() || self.is_draining.get()) && self.drain();
        self.resume_publishers();
        self.flush() || drained
    }

    /// Pushes what was produced for other shards, as far as there is room.
    pub fn flush(&self) -> bool {
        if !self.shared.dirty.replace(false) && !self.shared.waiting.get() {
            return false;
        }
        self.shared.waiting.set(false);
        let stamp = Stamp::new(Box::new(|| self.shared.stamp()));
        for peer in &self.peers {
            peer.outbound.push_out(&stamp);
        }
        self.complete.raise(self.shared.newest_stamp.get());
        let mut moved = false;
        for peer in &self.peers {
            moved |= peer.outbound.tell_peer();
            if peer.outbound.waits_for_room() {
                self.shared.waiting.set(true);
            }
            if !peer.outbound.holds_deliveries() {
                let mut inbound = peer.inbound.borrow_mut();
                inbound.acknowledge(|class| self.shared.keeps_up(class));
                inbound.tell_source();
            }
        }
        moved
    }

    /// `paced`: publishers on other shards that wait for consumers or services here, once for each
    /// of those.
    ///
    /// # Panics
    /// A promise of the lanes, or of the drain in progress, is broken.
    #[cfg(any(test, debug_assertions))]
    pub fn check_invariants(&self, paced: &[RemotePublisher]) {
        for peer in &self.peers {
            let mut waits: HashMap<ClientKey, usize> = HashMap::new();
            let resumable = self.resumable.borrow();
            for publisher in paced.iter().chain(&*resumable) {
                if publisher.link == peer.link {
                    *waits.entry(publisher.client).or_default() += 1;
                }
            }
            assert_eq!(*peer.paused.borrow(), waits, "publishers that were asked to pause");
            peer.outbound.check_invariants();
            peer.inbound.borrow().check_invariants();
        }
        let staged: usize = self.peers.iter().map(|peer| peer.outbound.passed_on_bytes()).sum();
        let counted: usize = self.shared.passed_on_bytes.iter().map(Cell::get).sum();
        assert_eq!(staged, counted, "bytes of messages to be passed on");
        if self.open.borrow().is_some() {
            assert!(self.is_draining.get(), "a batch is open and no drain goes on");
        }
        // Whoever publishes here waits for the drain to be done.
        assert_eq!(self.is_draining.get(), self.broker.borrow().arrivals().is_some());
    }

    /// True if sleeping now would leave a message behind. What a peer pushes after the last drain
    /// raises the signal.
    pub fn has_work(&self) -> bool {
        let may_flush = self.shared.dirty.get() || self.shared.waiting.get();
        !self.resumable.borrow().is_empty()
            || self.is_draining.get()
            || self.inbound_waiting.is_raised()
            || (may_flush && self.peers.iter().any(|peer| peer.outbound.can_flush()))
    }

    /// Applies all interest and delivers all messages that are there now, by the rules at the top.
    /// Interest is applied between a look and the delivery of what it found: what was published
    /// before a message is in force when that is delivered. The signal is lowered before the first
    /// look, so what comes after it raises it again.
    ///
    /// It stops where this turn's work is done, and goes on in the next; meanwhile nobody here may
    /// publish whose bytes came after what is not applied or delivered yet (`Broker::arrivals`).
    fn drain(&self) -> bool {
        let mut broker = self.broker.borrow_mut();
        let mut turn = self.turn.borrow_mut();
        let is_done = if self.is_draining.get() {
            if self.open.borrow().is_some() {
                // Notes do not wait for a message to very many, nor does it for them.
                let half = (turn.work() + broker.turn_work_max()) / 2;
                self.owe_notes();
                self.apply_notes(&mut broker, &mut turn, half);
            }
            self.deliver_owed(&mut broker, &mut turn)
        } else {
            self.inbound_waiting.take();
            let found = self.peers.iter().map(|peer| peer.inbound.borrow_mut().look_first());
            let found: usize = found.sum();
            self.owe_notes();
            let is_applied = self.apply_notes(&mut broker, &mut turn, usize::MAX);
            if found == 0 && is_applied {
                broker.note_turn_work(turn.work());
                self.end_drain(&mut broker);
                return false;
            }
            self.is_draining.set(true);
            self.deliver_owed(&mut broker, &mut turn)
        };
        broker.note_turn_work(turn.work());
        self.peers.iter().for_each(|peer| peer.inbound.borrow_mut().tell_source());
        self.clock.set_read_elsewhere(None);
        if !is_done {
            let further = u64::from(self.inbound_waiting.is_raised());
            let until = self.drained.value() + 1 + further;
            broker.set_arrivals(Some(Congestion { gate: self.drained.clone(), until }));
            return true;
        }
        self.end_drain(&mut broker);
        if self.peers.iter().any(|peer| peer.inbound.borrow().ready() > 0) {
            self.inbound_waiting.raise();
        }
        true
    }

    fn end_drain(&self, broker: &mut Broker) {
        self.is_draining.set(false);
        broker.set_arrivals(None);
        for peer in &self.peers {
            peer.route.borrow_mut().end_batch();
        }
        self.drained.advance_by(1);
    }

    /// Applies and delivers what the first look of this drain found; true = all of it.
    fn deliver_owed(&self, broker: &mut Broker, turn: &mut Turn) -> bool {
        if turn.is_over() || !self.deliver_open(broker, turn) {
            return false;
        }
        loop {
            // Those of the last look: what it found may be delivered then.
            if !self.apply_notes(broker, turn, usize::MAX) {
                return false;
            }
            if !self.peers.iter().any(|peer| peer.inbound.borrow().owes()) {
                return true;
            }
            // Before further notes are owed: they come again and again, and messages get on.
            if turn.is_over() {
                return false;
            }
            let stamps = self.peers.iter().map(|peer| peer.inbound.borrow_mut().look_again());
            let horizon = stamps.min().unwrap_or(u64::MAX);
            self.owe_notes();
            while let Some(peer) = self.oldest_before(horizon) {
                if turn.is_over() {
                    return false;
                }
                self.open_batch(peer);
                if !self.deliver_open(broker, turn) {
                    return false;
                }
            }
        }
    }

    /// The peer with the oldest batch of those that the first look found, if that was stamped
    /// before `horizon`.
    fn oldest_before(&self, horizon: u64) -> Option<usize> {
        let mut oldest = (horizon, None);
        for (index, peer) in self.peers.iter().enumerate() {
            let stamp = peer.inbound.borrow().oldest_stamp();
            if stamp < oldest.0 {
                oldest = (stamp, Some(index));
            }
        }
        oldest.1
    }

    fn open_batch(&self, peer: usize) {
        let Some(batch) = self.peers[peer].inbound.borrow_mut().next_batch() else { return };
        self.counters.borrow_mut().batches_in += 1;
        self.transits.record(self.clock.began().saturating_duration_since(batch.read_at));
        *self.open.borrow_mut() = Some(OpenBatch {
            peer,
            batch,
            cursor: frame::Cursor::default(),
            publisher: None,
            unfinished: None,
        });
    }

    /// Delivers what is left of the open batch; true = there is nothing left.
    fn deliver_open(&self, broker: &mut Broker, turn: &mut Turn) -> bool {
        let mut slot = self.open.borrow_mut();
        let Some(OpenBatch { peer, batch, cursor, publisher, unfinished }) = slot.as_mut() else {
            return true;
        };
        let peer = &self.peers[*peer];
        self.clock.set_read_elsewhere(Some(batch.read_at));
        if let Some(fan_out) = unfinished.take()
            && broker.resume(fan_out, turn) == Routed::Unfinished
        {
            *unfinished = turn.unfinished.take();
            return false;
        }
        let mut delivery = Delivery {
            peer,
            resumable: &self.resumable,
            broker,
            turn,
            route: &mut peer.route.borrow_mut(),
            publisher,
            unfinished,
            messages_in: 0,
        };
        let mut tails = self.tails.borrow_mut();
        frame::read_on(&batch.bytes, self.shared.shard, cursor, &mut tails, |part| {
            delivery.deliver(part)
        });
        self.counters.borrow_mut().messages_in += delivery.messages_in;
        if unfinished.is_some() || !cursor.is_at_end(&batch.bytes) {
            return false;
        }
        peer.pause(*publisher, turn, &self.resumable);
        let OpenBatch { batch, .. } = slot.take().expect("it was there just now");
        let mut inbound = peer.inbound.borrow_mut();
        inbound.give_back(batch);
        if !peer.outbound.holds_deliveries() {
            inbound.acknowledge(|class| self.shared.keeps_up(class));
        }
        true
    }

    fn resume_publishers(&self) {
        let publishers = std::mem::take(&mut *self.resumable.borrow_mut());
        for publisher in publishers {
            self.peers[publisher.link.index()].resume(publisher.client);
        }
    }

    pub fn transits(&self) -> Durations {
        self.transits.durations()
    }

    pub fn peer_count(&self) -> usize {
        self.peers.len()
    }

    /// The fill of the lanes into this shard, and of what waits here for room.
    pub fn depth(&self) -> LaneDepth {
        let mut depth = LaneDepth::default();
        for peer in &self.peers {
            let (batches, notes) = peer.inbound.borrow().waiting();
            depth.batches += batches;
            depth.notes += notes;
            depth.staged_bytes += peer.outbound.staged_bytes();
        }
        depth
    }

    pub fn counters(&self) -> MeshCounters {
        let mut counters = *self.counters.borrow();
        for peer in &self.peers {
            let own = peer.outbound.counters.get();
            counters.batches_out += own.batches;
            counters.wakes += own.wakes;
            counters.stalls += own.stalls;
        }
        counters
    }
}

#[cfg(test)]
mod tests;
