//! Letters to the consumers of a stream: requests for messages, acknowledgements and answers to
//! flow control.

use std::rc::Rc;

use super::api::Request;
use super::consumer::ack_body::{AckKind, NakDelay};
use super::consumer::ack_subject::{AckSubject, FLOW_CONTROL_PREFIX};
use super::consumer::machine::acks::Ack;
use super::consumer::output::Output;
use super::consumer::request::{PriorityRequest, PullRequest};
use super::consumer::status::{self, LAST_CONSUMER, LAST_STREAM};
use super::consumer_ledger::{StateOf, state_of};
use super::consumers::{Consumer, Names, Part};
use super::engine::Engine;
use super::json::decode::{DecodeError, Decoded, Object, Reader, decode};
use super::leaving::Outgoing;
use super::stream::StreamHandle;
use crate::broker::mailbox::Letter;
use crate::broker::service::{Reach, ServiceInterest};
use crate::storage::block::NotLoaded;
use crate::storage::disk::Disk;
use crate::storage::journal::Urgency;
use crate::storage::marks::headers;

pub(super) const NEXT_PREFIX: &[u8] = b"$JS.API.CONSUMER.MSG.NEXT.";

/// A letter by its subject: for which consumer, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind<'a> {
    Next,
    Ack(AckSubject<'a>),
    FlowAnswer,
}

/// Reads the subject of a letter: its consumer's name, and its kind.
fn kind_of(subject: &[u8]) -> Option<(&[u8], Kind<'_>)> {
    if let Some(ack) = AckSubject::parse(subject) {
        return Some((ack.consumer, Kind::Ack(ack)));
    }
    let second = |rest: &[u8], count: usize| memchr::memchr_iter(b'.', rest).count() == count;
    let name = |rest: &'_ [u8]| {
        let start = memchr::memchr(b'.', rest)? + 1;
        let length = memchr::memchr(b'.', &rest[start..]).unwrap_or(rest.len() - start);
        Some((start, length))
    };
    if let Some(rest) = subject.strip_prefix(NEXT_PREFIX).filter(|rest| second(rest, 1)) {
        let (start, length) = name(rest)?;
        return Some((&rest[start..][..length], Kind::Next));
    }
    let rest = subject.strip_prefix(FLOW_CONTROL_PREFIX).filter(|rest| second(rest, 2))?;
    let (start, length) = name(rest)?;
    Some((&rest[start..][..length], Kind::FlowAnswer))
}

/// True if some consumer takes a letter with this subject.
fn is_taken(names: &Names, subject: &[u8]) -> bool {
    match kind_of(subject) {
        Some((name, Kind::Ack(_))) => names.takes_acks(name),
        Some((name, _)) => names.get(name).is_some(),
        None => false,
    }
}

/// The body of a request for messages.
#[derive(Default)]
struct NextRequest {
    batch: i64,
    expires_ns: i64,
    no_wait: bool,
    bytes_max: i64,
    heartbeat_ns: i64,
    group: String,
    id: String,
    min_pending: i64,
    min_ack_pending: i64,
    priority: i64,
}

impl Object for NextRequest {
    const GO_NAME: &'static str = "JSApiConsumerGetNextRequest";
    const FIELDS: &'static [&'static str] = &[
        "expires",
        "batch",
        "max_bytes",
        "no_wait",
        "idle_heartbeat",
        "group",
        "min_pending",
        "min_ack_pending",
        "id",
        "priority",
    ];

    fn read_field(&mut self, field: &'static str, reader: &mut Reader<'_>) -> Decoded {
        match field {
            "expires" => reader.duration(&mut self.expires_ns),
            "batch" => reader.int(&mut self.batch),
            "max_bytes" => reader.int(&mut self.bytes_max),
            "no_wait" => reader.bool(&mut self.no_wait),
            "idle_heartbeat" => reader.duration(&mut self.heartbeat_ns),
            "group" => reader.string(&mut self.group),
            "min_pending" => reader.int(&mut self.min_pending),
            "min_ack_pending" => reader.int(&mut self.min_ack_pending),
            "id" => reader.string(&mut self.id),
            _ => reader.int(&mut self.priority),
        }
    }
}

/// The options of a `-NAK`.
#[derive(Default)]
struct NakOptions {
    delay_ns: i64,
}

impl Object for NakOptions {
    const GO_NAME: &'static str = "ConsumerNakOptions";
    const FIELDS: &'static [&'static str] = &["delay"];

    fn read_field(&mut self, _: &'static str, reader: &mut Reader<'_>) -> Decoded {
        reader.duration(&mut self.delay_ns)
    }
}

/// Reads the body of a request for messages.
fn pull_request(body: &[u8]) -> Result<PullRequest, DecodeError> {
    if let Some(plain) = PullRequest::plain(body) {
        return Ok(plain);
    }
    let mut asked = NextRequest::default();
    decode(body.trim_ascii(), &mut asked)?;
    let priority = PriorityRequest {
        group: asked.group.into_bytes().into(),
        id: asked.id.into_bytes().into(),
        min_pending: asked.min_pending,
        min_ack_pending: asked.min_ack_pending,
        priority: asked.priority,
    };
    Ok(PullRequest {
        batch: asked.batch,
        expires_ns: asked.expires_ns,
        no_wait: asked.no_wait,
        bytes_max: asked.bytes_max,
        heartbeat_ns: asked.heartbeat_ns,
        priority: Some(priority),
    })
}

impl<D: Disk> Engine<D> {
    /// Subscribes to all that is for consumers of a stream. What is for none that is there is
    /// declined: its publisher hears that nobody listens.
    pub(super) fn subscribe_consumers(&self, stream: &StreamHandle) {
        let consumers = &stream.consumers;
        let name = &stream.name;
        let filters = [
            format!("$JS.API.CONSUMER.MSG.NEXT.{name}.*"),
            format!("$JS.ACK.{name}.>"),
            format!("$JS.ACK.*.*.{name}.>"),
            format!("$JS.FC.{name}.>"),
        ];
        let mut broker = self.broker.borrow_mut();
        let mut subscriptions = consumers.subscriptions.borrow_mut();
        for filter in filters {
            let names = Rc::downgrade(&consumers.names);
            let interest = ServiceInterest {
                declines: Some(Box::new(move |message| {
                    !names.upgrade().is_some_and(|names| is_taken(&names, message.subject))
                })),
                ..ServiceInterest::all(stream.account.id, filter.as_bytes(), Reach::Server)
            };
            subscriptions.push(broker.subscribe_service(interest, &consumers.inlet));
        }
    }

    /// Takes a letter for a consumer of the stream.
    ///
    /// # Errors
    /// A block has to be loaded before.
    pub(super) fn take_letter(
        &self,
        stream: &Rc<StreamHandle>,
        letter: &Letter<'_>,
        now_ns: i64,
    ) -> Result<(), NotLoaded> {
        let message = &letter.message;
        let Some((name, kind)) = kind_of(message.subject) else { return Ok(()) };
        let Some(consumer) = stream.consumers.names.get(name) else { return Ok(()) };
        match kind {
            Kind::Next => {
                let is_too_new =
                    !message.headers.is_empty() && !Request::is_level_met(message.headers);
                if is_too_new && !message.reply.is_empty() {
                    let refusal = status::API_LEVEL.to(message.reply);
                    consumer.part.borrow_mut().machine.outputs().push_back(refusal);
                } else {
                    let (reply, body) = (message.reply, message.payload());
                    self.pull(stream, &consumer, reply, body, now_ns)?;
                }
            }
            Kind::Ack(ack) => {
                let (reply, body) = (message.reply, message.payload());
                self.take_ack(stream, &consumer, &ack, reply, body, now_ns)?;
            }
            Kind::FlowAnswer => {
                let last = last_delivered(message.headers);
                let mut part = consumer.part.borrow_mut();
                let Part { machine, memory, .. } = &mut *part;
                let mut store = self.store.borrow_mut();
                let mut state = StateOf::new(&mut store, stream.id, consumer.id, memory);
                machine.flow_answer(message.subject, last, now_ns, &mut state);
            }
        }
        stream.consumers.make_ready(&consumer);
        Ok(())
    }

    /// Takes a request for messages.
    fn pull(
        &self,
        stream: &StreamHandle,
        consumer: &Consumer,
        reply: &[u8],
        body: &[u8],
        now_ns: i64,
    ) -> Result<(), NotLoaded> {
        if reply.is_empty() {
            return Ok(());
        }
        let mut part = consumer.part.borrow_mut();
        let Part { machine, filters, count, memory, .. } = &mut *part;
        let request = match pull_request(body) {
            Ok(request) => request,
            Err(DecodeError(text)) => {
                let headers = status::block_of(&format!("400 Bad Request - {text}"));
                let refusal = Output::Status { to: reply.into(), reply: Box::default(), headers };
                machine.outputs().push_back(refusal);
                return Ok(());
            }
        };
        let store = self.store.borrow();
        let Some(held) = store.streams().get(stream.id) else { return Ok(()) };
        // Only then the number of pending messages decides something.
        if request.no_wait {
            while !count.catch_up(machine, filters, &held.stream)? {}
        }
        let state = state_of(&store, stream.id, consumer.id, memory);
        let is_wanted = |subject: &[u8]| self.has_interest(stream, subject);
        machine.request(reply, request, now_ns, state, is_wanted);
        Ok(())
    }

    fn take_ack(
        &self,
        stream: &StreamHandle,
        consumer: &Consumer,
        ack: &AckSubject<'_>,
        reply: &[u8],
        body: &[u8],
        now_ns: i64,
    ) -> Result<(), NotLoaded> {
        let kind = AckKind::parse(body);
        let asks = match kind {
            AckKind::Next(request) => Some(request),
            _ => None,
        };
        let done = match kind {
            AckKind::Ack | AckKind::Next(_) => Ack::Done,
            AckKind::Progress => Ack::Progress,
            AckKind::Term(reason) => Ack::Term(reason),
            AckKind::Unknown => Ack::Nothing,
            AckKind::Nak(delay) => Ack::Nak(self.delay_of(stream, consumer, delay)),
        };
        let is_done = matches!(done, Ack::Done);
        let is_confirmed = !reply.is_empty() && asks.is_none();
        let urgency = if is_confirmed { Urgency::Commits } else { Urgency::Rides };
        let (is_answered, after) = {
            let mut part = consumer.part.borrow_mut();
            let Part { machine, memory, .. } = &mut *part;
            let mut store = self.store.borrow_mut();
            let mut state = StateOf::new(&mut store, stream.id, consumer.id, memory);
            let is_answered = machine.ack(&ack.delivery, done, now_ns, urgency, &mut state);
            (is_answered, state.after())
        };
        self.counters.acknowledged.add(u64::from(is_answered && is_done));
        if is_confirmed && is_answered {
            let answer = Outgoing { subject: reply, ..Outgoing::default() };
            self.leaving.push(after, stream.account.id, &answer);
        }
        match asks {
            // A block that is not loaded must not have the acknowledgement read twice: it is
            // harmless, for a message that is done stays done.
            Some(request) => self.pull(stream, consumer, reply, request, now_ns),
            None => Ok(()),
        }
    }

    /// The delay that a `-NAK` asks for; `None` = at once.
    fn delay_of(
        &self,
        stream: &StreamHandle,
        consumer: &Consumer,
        delay: NakDelay<'_>,
    ) -> Option<i64> {
        let bad = match delay {
            NakDelay::AtOnce => return None,
            NakDelay::Nanoseconds(delay_ns) => return Some(delay_ns),
            NakDelay::Json(text) => {
                let mut options = NakOptions::default();
                if decode(text, &mut options).is_ok() {
                    return Some(options.delay_ns);
                }
                text
            }
            NakDelay::Bad(text) => text,
        };
        let (account, name) = (&stream.account.name, &stream.name);
        tracing::warn!(
            "JetStream consumer '{account} > {name} > {}' bad NAK delay value: {:?}",
            consumer.name,
            String::from_utf8_lossy(bad)
        );
        None
    }
}

/// The numbers of the last delivery and message that an answer to flow control names.
fn last_delivered(block: &[u8]) -> Option<(u64, u64)> {
    let number = |wanted: &[u8]| {
        let (_, value) = headers(block).find(|(name, _)| *name == wanted)?;
        std::str::from_utf8(value).ok()?.parse::<u64>().ok()
    };
    Some((number(LAST_CONSUMER).unwrap_or(0), number(LAST_STREAM)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_name_a_consumer_and_what_is_asked_of_it() {
        assert_eq!(kind_of(b"$JS.API.CONSUMER.MSG.NEXT.S.c"), Some((&b"c"[..], Kind::Next)));
        assert_eq!(kind_of(b"$JS.FC.S.c.abcd"), Some((&b"c"[..], Kind::FlowAnswer)));
        assert!(matches!(kind_of(b"$JS.ACK.S.c.1.2.3.4.5"), Some((b"c", Kind::Ack(_)))));
        for other in ["$JS.API.CONSUMER.MSG.NEXT.S", "$JS.FC.S.c", "$JS.ACK.S.c.1", "other"] {
            assert_eq!(kind_of(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn bodies_of_requests_are_read_as_nats_server_does() {
        let full = br#" {"batch":5,"expires":7,"no_wait":true,"max_bytes":9,"idle_heartbeat":3,
            "group":"A","id":"x","min_pending":1,"min_ack_pending":2,"priority":4,"other":[]}"#;
        let priority = PriorityRequest {
            group: b"A"[..].into(),
            id: b"x"[..].into(),
            min_pending: 1,
            min_ack_pending: 2,
            priority: 4,
        };
        let expected = PullRequest {
            batch: 5,
            expires_ns: 7,
            no_wait: true,
            bytes_max: 9,
            heartbeat_ns: 3,
            priority: Some(priority),
        };
        assert_eq!(pull_request(full), Ok(expected));
        assert_eq!(pull_request(b"12"), Ok(PullRequest::of(12)));
        assert!(pull_request(b"{\"batch\":\"x\"}").is_err());
    }
}
