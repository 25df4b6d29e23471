//! Message tracing: records of where a message goes, for the subject that its publisher names.
//!
//! A traced message takes the walk through its list that every message to queue groups takes, one
//! subscription after the other, and each is noted with the reason why it did not get it. If the
//! message is only traced, nobody gets it. The shard where it was published and every shard that it
//! was forwarded to make a note of their part; a thread off the shards puts the notes together.
//! Messages that are not traced pay nothing for this.
//!
//! Invariant: `waiting_bytes` is the size of all notes in `finished`.
//!
//! Source of the behaviour: nats-server server/msgtrace.go, server/client.go deliverMsg.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use hashbrown::HashMap;

use super::Broker;
use super::fan_out::{FanOut, Stage};
use super::link::{Target, Traced};
use super::outbox::Outbox;
use super::passage::{Origin, Passage, Routed};
use super::subscription::{ImportSink, Sink, Subscription};
use super::turn::Turn;
use crate::base::ids::{AccountId, ConnectionId, LinkId};
use crate::base::limits::{
    OPEN_TRACES_MAX, TRACE_BYTES_MAX, TRACE_EVENTS_MAX, TRACE_OPEN_SECONDS_MAX,
};
use crate::protocol::message::{Message, MessageRun};

/// The header that names the subject for the records of a message.
pub(crate) const DESTINATION: &str = "Nats-Trace-Dest";
/// The value of that header in a message that is not to be traced: no subject.
pub(crate) const DISABLED: &[u8] = b"trace disabled";

const NO_ECHO: &str = "Not delivered because of no echo";
const DENIED: &str = "Not delivered because subscription denies this subject";
const SUBSCRIPTION_CLOSED: &str = "Not delivered because subscription is closed";
const CLIENT_CLOSED: &str = "Not delivered because client is closed";
const DROPPED_FOR_SLOW: &str =
    "Not delivered because fast producer not stalled and consumer is slow";

/// A traced message as its publisher's session describes it.
#[derive(Debug)]
pub struct Ingress {
    pub at: SystemTime,
    /// The publisher's account; the records are published there.
    pub account: AccountId,
    pub destination: Vec<u8>,
    pub only: bool,
    pub connection: ConnectionId,
    /// The publisher's name.
    pub name: String,
    /// The subject before any mapping.
    pub subject: Vec<u8>,
    pub headers: Vec<u8>,
    /// Bytes of headers and payload.
    pub size: usize,
    /// The subject that a mapping made of it.
    pub mapped: Option<Vec<u8>>,
    /// The reason why it was refused.
    pub error: Option<String>,
}

/// Something that happened to a traced message.
#[derive(Debug)]
pub enum TraceEvent {
    /// It went to an account that imports it, under a subject there.
    StreamImport { account: AccountId, to: Vec<u8> },
    /// It went to an account that exports a service.
    ServiceImport { account: AccountId, from: Vec<u8>, to: Vec<u8> },
    /// It went to a client, unless there is an error.
    Egress {
        connection: ConnectionId,
        account: AccountId,
        filter: Vec<u8>,
        /// Empty = no queue group.
        queue: Vec<u8>,
        error: Option<&'static str>,
    },
}

impl Ingress {
    /// A message that is only traced, for tests and simulators.
    pub fn only(account: AccountId, message: &Message<'_>) -> Self {
        Self {
            at: SystemTime::now(),
            account,
            destination: b"trace.to".to_vec(),
            only: true,
            connection: ConnectionId(5),
            name: String::new(),
            subject: message.subject.to_vec(),
            headers: message.headers.to_vec(),
            size: message.body.len(),
            mapped: None,
            error: None,
        }
    }
}

impl TraceEvent {
    fn bytes(&self) -> usize {
        let texts = match self {
            Self::StreamImport { to, .. } => to.len(),
            Self::ServiceImport { from, to, .. } => from.len() + to.len(),
            Self::Egress { filter, queue, .. } => filter.len() + queue.len(),
        };
        size_of::<(SystemTime, Self)>() + texts
    }
}

/// The part of a message's trace that happened on one shard.
#[derive(Debug)]
pub struct TraceNote {
    /// The link behind which the message was published; none = on this shard.
    pub home: Option<LinkId>,
    /// The number of the trace on that shard.
    pub number: u32,
    /// Present in the note of the shard where it was published.
    pub ingress: Option<Box<Ingress>>,
    pub events: Vec<(SystemTime, TraceEvent)>,
    /// Shards to which the message was forwarded from here: each makes a note.
    pub forwarded: usize,
}

impl TraceNote {
    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        let ingress = self.ingress.as_ref().map_or(0, |ingress| {
            ingress.headers.len() + ingress.subject.len() + ingress.destination.len()
        });
        let events: usize = self.events.iter().map(|(_, event)| event.bytes()).sum();
        size_of::<Self>() + size_of::<Ingress>() + ingress + events
    }
}

/// A part that is not complete.
struct Open {
    since: Instant,
    ingress: Option<Box<Ingress>>,
    events: Vec<(SystemTime, TraceEvent)>,
    forwarded: usize,
}

/// The traces of one shard.
#[derive(Default)]
pub(super) struct Traces {
    last_number: u32,
    open: HashMap<(Option<LinkId>, u32), Open>,
    finished: VecDeque<TraceNote>,
    finished_bytes: usize,
    /// Notes that found no room.
    dropped: u64,
}

impl Traces {
    /// Notes something that happened to a message. Past the bound it is left out.
    fn note(&mut self, target: &Target<'_>, traced: Traced, event: TraceEvent) {
        if let Some(open) = self.open_part(target.home, traced.number)
            && open.events.len() < TRACE_EVENTS_MAX
        {
            open.events.push((SystemTime::now(), event));
        }
    }

    /// The part of a trace on this shard; none = there are too many.
    fn open_part(&mut self, home: Option<LinkId>, number: u32) -> Option<&mut Open> {
        if self.open.len() >= OPEN_TRACES_MAX && !self.open.contains_key(&(home, number)) {
            return None;
        }
        Some(self.open.entry((home, number)).or_insert_with(|| Open {
            since: Instant::now(),
            ingress: None,
            events: Vec::new(),
            forwarded: 0,
        }))
    }

    fn finish(&mut self, home: Option<LinkId>, number: u32) {
        let Some(open) = self.open.remove(&(home, number)) else { return };
        let Open { ingress, events, forwarded, .. } = open;
        let note = TraceNote { home, number, ingress, events, forwarded };
        let bytes = note.bytes();
        if self.finished_bytes + bytes > TRACE_BYTES_MAX {
            self.dropped += 1;
            return;
        }
        self.finished_bytes += bytes;
        self.finished.push_back(note);
    }

    /// Finishes parts that were begun long ago: their messages ended before everybody had them.
    pub(super) fn finish_old(&mut self, now: Instant) {
        let age = |open: &Open| now.saturating_duration_since(open.since).as_secs();
        let old = self.open.iter().filter(|(_, open)| age(open) >= TRACE_OPEN_SECONDS_MAX);
        let old: Vec<(Option<LinkId>, u32)> = old.map(|(key, _)| *key).collect();
        old.into_iter().for_each(|(home, number)| self.finish(home, number));
    }

    #[cfg(any(test, debug_assertions))]
    pub(super) fn check_invariants(&self) {
        let bytes: usize = self.finished.iter().map(TraceNote::bytes).sum();
        assert_eq!(self.finished_bytes, bytes, "bytes of notes that wait");
        assert!(self.finished_bytes <= TRACE_BYTES_MAX && self.open.len() <= OPEN_TRACES_MAX);
    }
}

/// The reason why a subscription of this shard does not get a message.
fn hindrance(
    subscription: &Subscription,
    outbox: &Outbox,
    subject: &[u8],
    origin: &Origin<'_>,
) -> Option<&'static str> {
    if origin.source.no_echo.is_some_and(|connection| connection == outbox.id) {
        Some(NO_ECHO)
    } else if subscription.denies(subject) {
        Some(DENIED)
    } else if subscription.is_removed() {
        Some(SUBSCRIPTION_CLOSED)
    } else {
        outbox.is_closing().then_some(CLIENT_CLOSED)
    }
}

impl Broker {
    /// Publishes a message that is traced.
    #[cold]
    pub fn publish_traced(
        &mut self,
        origin: &Origin<'_>,
        message: &Message<'_>,
        ingress: Ingress,
        turn: &mut Turn,
    ) -> Routed {
        let only = ingress.only;
        let number = self.begin_trace(ingress);
        let target = Target { trace: Some(Traced { number, only }), ..origin.target };
        let origin = Origin { target, ..*origin };
        self.route_traced(&origin, message, turn)
    }

    /// Ends the trace of a message that was refused, or that the weights of a mapping dropped.
    #[cold]
    pub fn trace_undelivered(&mut self, ingress: Ingress) {
        let number = self.begin_trace(ingress);
        self.traces.finish(None, number);
    }

    fn begin_trace(&mut self, ingress: Ingress) -> u32 {
        let number = self.traces.last_number.wrapping_add(1);
        self.traces.last_number = number;
        if let Some(open) = self.traces.open_part(None, number) {
            open.ingress = Some(Box::new(ingress));
        }
        number
    }

    /// Routes a traced message to everybody who wants it.
    pub(super) fn route_traced(
        &mut self,
        origin: &Origin<'_>,
        message: &Message<'_>,
        turn: &mut Turn,
    ) -> Routed {
        let id = origin.source.account;
        let room = turn.room();
        let mut budget = room;
        let found = self.accounts[id.index()].matched(id, origin.routed_by(message), &mut budget);
        turn.spend(room - budget);
        match found {
            Ok(list) => self.route_in_parts(origin, &MessageRun::one(*message), &list, turn),
            Err(builder) => {
                let passage = Passage::new(message, origin, turn.publisher);
                let stage = Stage::Matching(Some(builder));
                turn.unfinished = Some(FanOut::new(&passage, stage, self.cuts.token()));
                Routed::Unfinished
            }
        }
    }

    /// A traced message has been to everybody on this shard. A message that crossed to another
    /// account is a part of the one that it was before.
    #[cold]
    pub(super) fn end_of_traced(&mut self, origin: &Origin<'_>, traced: Traced) {
        let has_crossed = origin.from.is_none() && !origin.target.passed.is_empty();
        if !has_crossed {
            self.traces.finish(origin.target.home, traced.number);
        }
    }

    /// A traced message went over so many links.
    pub(super) fn note_forwarded(&mut self, target: &Target<'_>, count: usize) {
        if let Some(traced) = target.trace
            && let Some(open) = self.traces.open_part(target.home, traced.number)
        {
            open.forwarded += count;
        }
    }

    /// Notes that a traced request crosses to the account that exports the service.
    #[cold]
    pub(super) fn note_crossing(
        &mut self,
        target: &Target<'_>,
        account: AccountId,
        from: &[u8],
        to: &[u8],
    ) {
        let (from, to) = (from.to_vec(), to.to_vec());
        if let Some(traced) = target.trace {
            self.traces.note(target, traced, TraceEvent::ServiceImport { account, from, to });
        }
    }

    /// Delivers a traced message to one subscription of this shard unless it may not have it, and
    /// notes the outcome. One that is only traced is not delivered, but counts as if it were.
    #[cold]
    pub(super) fn deliver_traced(
        &mut self,
        subscription: &Rc<Subscription>,
        traced: Traced,
        message: &Message<'_>,
        origin: &Origin<'_>,
        turn: &mut Turn,
    ) -> bool {
        match &subscription.sink {
            Sink::Client { .. } => {
                let receiver = subscription.clone();
                self.deliver_noting(subscription, &receiver, traced, message, origin, turn)
            }
            Sink::Import(sink) => {
                self.deliver_traced_import(subscription, sink, traced, message, origin, turn)
            }
            Sink::Service(sink) if traced.only => {
                !subscription.is_removed() && sink.would_take(message, origin.from.is_some())
            }
            _ => self.deliver_alone(subscription, &MessageRun::one(*message), origin, turn),
        }
    }

    fn deliver_traced_import(
        &mut self,
        shadow: &Rc<Subscription>,
        sink: &ImportSink,
        traced: Traced,
        message: &Message<'_>,
        origin: &Origin<'_>,
        turn: &mut Turn,
    ) -> bool {
        if shadow.is_removed() || !sink.passes(message.subject, origin.target.passed) {
            return false;
        }
        let mut to = Vec::new();
        match sink.import.subject.is_same() || !origin.target.route.is_empty() {
            true => to.extend_from_slice(message.subject),
            false => sink.import.subject.to_local(message.subject, &mut to),
        }
        let account = self.account_of(&sink.owner).unwrap_or(sink.exporter);
        let event = TraceEvent::StreamImport { account, to: to.clone() };
        self.traces.note(&origin.target, traced, event);
        if sink.import.allow_trace {
            let shown = Message { subject: &to, ..*message };
            let origin_here = Origin { target: Target { route: b"", ..origin.target }, ..*origin };
            return self.deliver_noting(shadow, &sink.owner, traced, &shown, &origin_here, turn);
        }
        traced.only || self.deliver_alone(shadow, &MessageRun::one(*message), origin, turn)
    }

    /// Delivers to the client behind `receiver`, and notes it with the filter of `listed`: another
    /// subscription if an import stands between.
    fn deliver_noting(
        &mut self,
        listed: &Rc<Subscription>,
        receiver: &Rc<Subscription>,
        traced: Traced,
        message: &Message<'_>,
        origin: &Origin<'_>,
        turn: &mut Turn,
    ) -> bool {
        let Sink::Client { outbox, .. } = &receiver.sink else { return false };
        // Another shard delivers it, and notes that.
        if receiver.is_handed_over(origin.from, origin.target.mark) {
            return false;
        }
        let mut error = hindrance(receiver, outbox, message.subject, origin);
        let mut delivered = error.is_none();
        if delivered && !traced.only {
            delivered = self.deliver_alone(receiver, &MessageRun::one(*message), origin, turn);
            if delivered && !Rc::ptr_eq(listed, receiver) {
                listed.delivered.set(listed.delivered.get() + 1);
            }
            if !delivered {
                let reason = if outbox.is_closing() { CLIENT_CLOSED } else { DROPPED_FOR_SLOW };
                error = Some(reason);
            }
        }
        let event = TraceEvent::Egress {
            connection: outbox.id,
            account: self.account_of(receiver).unwrap_or(origin.source.account),
            filter: listed.filter().to_vec(),
            queue: listed.queue().to_vec(),
            error,
        };
        self.traces.note(&origin.target, traced, event);
        delivered
    }

    fn account_of(&self, subscription: &Subscription) -> Option<AccountId> {
        let client = self.clients.get(subscription.client()?.index())?;
        Some(client.account)
    }

    /// True if there are notes for the thread that puts them together.
    #[inline]
    pub fn has_trace_notes(&self) -> bool {
        !self.traces.finished.is_empty()
    }

    /// Takes the oldest note.
    pub fn next_trace_note(&mut self) -> Option<TraceNote> {
        let note = self.traces.finished.pop_front()?;
        self.traces.finished_bytes -= note.bytes();
        Some(note)
    }

    /// Notes of this shard that found no room.
    pub fn traces_dropped(&self) -> u64 {
        self.traces.dropped
    }
}
