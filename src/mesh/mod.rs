//! Floor 6: the links between the shards of one server.
//!
//! Per ordered pair of shards there are two lanes. The interest lane carries changes of interest and is
//! written at once; the message lane carries batches and is written before anything goes to a socket.
//! Whoever handles a peer's bytes first applies all interest that waits and delivers all messages that
//! wait. So nothing can overtake what caused it, over any number of shards and also through the clients
//! themselves: a subscription is in every lane before the subscriber's next command runs, a message is in
//! its lanes before its publisher is told PONG, and both are taken before any later command runs anywhere.
//! Where a lane is full, SUB, UNSUB and PING wait for room (`Broker::interest_congestion`, `fence`).
//!
//! No deadlock: only readers wait for room on a lane; drains never wait. What a drain itself must send (a
//! queue message that looks for another member, a pause) is staged when there is no room.

mod frame;
mod inbound;
mod lanes;
mod outbound;

pub use lanes::{LaneEnds, Lanes, lanes};

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use crate::base::histogram::{DurationHistogram, Durations};
use crate::base::ids::{ClientKey, LinkId};
use crate::base::ring::Signal;
use crate::base::turn_clock::TurnClock;
use crate::broker::outbox::Resumable;
use crate::broker::router::{RouteCache, Turn, pace_target};
use crate::broker::{Broker, BrokerHandle};
use crate::protocol::message::Tail;
use inbound::Inbound;
use lanes::{Batch, Note};
use outbound::{Outbound, ShardLink};

/// One shard's side of all its lanes.
pub struct Mesh {
    broker: BrokerHandle,
    peers: Vec<Peer>,
    inbound_waiting: Signal,
    /// Something was appended that no flush has seen.
    dirty: Rc<Cell<bool>>,
    /// Something waits for room on a lane.
    waiting: Rc<Cell<bool>>,
    resumable: Rc<Resumable>,
    clock: Rc<TurnClock>,
    /// For each batch that came: from the turn in which its first message was read to the one here that took
    /// it.
    transits: DurationHistogram,
    counters: RefCell<MeshCounters>,
    /// Scratch space for a run of messages.
    tails: RefCell<Vec<Tail>>,
}

struct Peer {
    link: LinkId,
    outbound: Rc<Outbound>,
    inbound: RefCell<Inbound>,
    /// Where its last message went here.
    route: RefCell<RouteCache>,
}

impl Peer {
    /// Asks a publisher over there to wait for the consumer that its messages reached, if it should.
    fn pause(&self, publisher: Option<ClientKey>, turn: &mut Turn) {
        if let (Some(client), Some((outbox, _))) = (publisher, pace_target(turn, Instant::now))
            && outbox.note_paced(self.link, client)
        {
            self.outbound.push_note(Note::Pace { client, paused: true });
        }
    }
}

/// What the lanes of this shard did since it started.
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

/// How full the lanes of this shard are.
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
        let waiting = Rc::<Cell<bool>>::default();
        let peers = ends
            .peers
            .into_iter()
            .map(|end| {
                let outbound =
                    Outbound::new(end.source, dirty.clone(), waiting.clone(), clock.clone());
                let outbound = Rc::new(outbound);
                let link = broker.borrow_mut().link_open(Box::new(ShardLink(outbound.clone())));
                let inbound = RefCell::new(Inbound::new(end.target));
                Peer { link, outbound, inbound, route: RefCell::default() }
            })
            .collect();
        Self {
            broker,
            peers,
            inbound_waiting: ends.inbound_waiting,
            dirty,
            waiting,
            resumable,
            clock,
            transits: DurationHistogram::default(),
            counters: RefCell::default(),
            tails: RefCell::default(),
        }
    }

    /// Takes what other shards sent, if they said that there is something.
    pub fn catch_up(&self) {
        if self.inbound_waiting.is_raised() {
            self.drain();
        }
    }

    fn apply_all(&self, broker: &mut Broker) {
        for peer in &self.peers {
            let mut inbound = peer.inbound.borrow_mut();
            let mut applied = 0;
            while let Some(note) = inbound.next_note() {
                applied += 1;
                match note {
                    Note::Interest(change) => broker.link_interest(peer.link, &change),
                    Note::Pace { client, paused } => broker.link_pace(client, paused),
                }
            }
            if applied > 0 {
                self.counters.borrow_mut().interest_in += applied;
                inbound.wake_waiting_source();
            }
        }
    }

    /// One end of a turn: take what other shards sent, then send what this turn produced. Returns whether
    /// anything moved.
    pub fn end_of_turn(&self) -> bool {
        let drained = self.inbound_waiting.is_raised() && self.drain();
        self.resume_publishers();
        self.flush() || drained
    }

    /// Pushes what was produced for other shards, as far as there is room.
    pub fn flush(&self) -> bool {
        if !self.dirty.replace(false) && !self.waiting.get() {
            return false;
        }
        self.waiting.set(false);
        let mut moved = false;
        for peer in &self.peers {
            moved |= peer.outbound.flush();
            if peer.outbound.waits_for_room() {
                self.waiting.set(true);
            }
        }
        moved
    }

    /// Whether sleeping now would leave a message behind. What a peer pushes after the last drain raises the signal.
    pub fn has_work(&self) -> bool {
        let may_flush = self.dirty.get() || self.waiting.get();
        !self.resumable.borrow().is_empty()
            || self.inbound_waiting.is_raised()
            || (may_flush && self.peers.iter().any(|peer| peer.outbound.can_flush()))
    }

    /// Snapshots all message lanes, applies all interest, then delivers up to the snapshots: interest that
    /// was published before a message is in force when the message is delivered. The signal is lowered
    /// before the snapshots, so a batch that comes after them raises it again.
    fn drain(&self) -> bool {
        self.inbound_waiting.take();
        let waiting: usize =
            self.peers.iter().map(|peer| peer.inbound.borrow_mut().snapshot()).sum();
        let mut broker = self.broker.borrow_mut();
        self.apply_all(&mut broker);
        if waiting == 0 {
            return false;
        }
        let mut counters = self.counters.borrow_mut();
        let mut tails = self.tails.borrow_mut();
        for peer in &self.peers {
            let mut inbound = peer.inbound.borrow_mut();
            let batches = inbound.snapshot_taken();
            let mut route = peer.route.borrow_mut();
            for _ in 0..batches {
                let Some(Batch { bytes, read_at }) = inbound.next_batch() else { break };
                counters.batches_in += 1;
                self.transits.record(self.clock.began().saturating_duration_since(read_at));
                self.clock.set_read_elsewhere(Some(read_at));
                // A run of one publisher's messages is settled at its end.
                let (mut turn, mut publisher) = (Turn::default(), None);
                frame::for_each(&bytes, &mut tails, |part| match part {
                    frame::Part::One(forward, same) => {
                        counters.messages_in += 1;
                        if !same {
                            peer.pause(publisher, &mut turn);
                            publisher = forward.source.publisher;
                        }
                        broker.publish_forwarded(peer.link, forward, same, &mut route, &mut turn);
                    }
                    frame::Part::Run(source, run) => {
                        counters.messages_in += run.len() as u64;
                        broker.publish_forwarded_run(source, &run, &mut route, &mut turn);
                    }
                });
                peer.pause(publisher, &mut turn);
                inbound.give_back(bytes);
            }
            if batches > 0 {
                inbound.wake_waiting_source();
            }
        }
        self.clock.set_read_elsewhere(None);
        true
    }

    fn resume_publishers(&self) {
        let publishers = std::mem::take(&mut *self.resumable.borrow_mut());
        for publisher in publishers {
            let outbound = &self.peers[publisher.link.index()].outbound;
            outbound.push_note(Note::Pace { client: publisher.client, paused: false });
            outbound.wake();
        }
    }

    pub fn transits(&self) -> Durations {
        self.transits.durations()
    }

    pub fn peer_count(&self) -> usize {
        self.peers.len()
    }

    /// What stands on the lanes into this shard, and what waits here for room.
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
