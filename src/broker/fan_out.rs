//! A message on its way to so many that one turn is too short: what is left of it, and how it goes
//! on.
//!
//! Its receivers are fixed when they are all found, before the first of them gets it. Those that
//! leave meanwhile are skipped, and a maximum counts as always. Who publishes it does nothing else
//! until it is done: it reads no further command, so it is sent no PONG, and its messages keep
//! their order. Others publish in between: to those receivers that have not had it yet, their
//! messages come first.

use std::rc::Rc;

use smallvec::SmallVec;

use crate::base::ids::{AccountId, ConnectionId};
use crate::broker::link::{Mark, Target};
use crate::broker::match_list::{ListBuilder, MatchList};
use crate::broker::passage::{Origin, Passage, Progress};
use crate::protocol::message::Message;

pub(super) enum Stage {
    /// Its receivers are being found; none = from the start.
    Matching(Option<Box<ListBuilder>>),
    Delivering(Rc<MatchList>, Box<Progress>),
    /// Nobody listens: the receivers of its reply are looked for, to find its publisher among them.
    MatchingReply(Option<Box<ListBuilder>>),
    /// With the number of receivers that were examined.
    FindingPublisher(Rc<MatchList>, usize),
}

/// The rest of a message on its way.
pub struct FanOut {
    owned: OwnedMessage,
    /// Without the queues, what it is routed by and what it passed.
    origin: Origin<'static>,
    passed: SmallVec<[u32; 4]>,
    connection: Option<ConnectionId>,
    pub(super) stage: Stage,
    /// Its copy for another account, while that is not delivered everywhere.
    pub(super) crossing: Option<Box<UnfinishedCrossing>>,
    /// Counts it among those that began before the next cut of this shard.
    began: Rc<()>,
}

/// A message that crosses and is not everywhere yet.
pub(crate) struct UnfinishedCrossing {
    pub(super) fan_out: Box<FanOut>,
    pub(super) end: CrossingEnd,
}

/// The work that remains once a message that crossed is delivered.
#[derive(Clone, Copy)]
pub(super) enum CrossingEnd {
    /// A request in the table of its exporter; none = it has no reply.
    Request {
        exporter: AccountId,
        number: Option<u64>,
    },
    Answer {
        exporter: AccountId,
        number: u64,
        is_last: bool,
    },
}

/// A message and queue names in memory of their own.
struct OwnedMessage {
    bytes: Vec<u8>,
    subject_size: usize,
    reply_size: usize,
    header_text_size: usize,
    size_text_size: usize,
    body_size: usize,
    headers_size: usize,
    route_size: usize,
    /// Behind the message, one after the other.
    queue_sizes: Vec<u32>,
}

impl OwnedMessage {
    fn new(message: &Message<'_>, target: &Target<'_>) -> Self {
        let queues = target.queues;
        let parts = [
            message.subject,
            message.reply,
            message.header_size_text,
            message.size_text,
            message.body,
            target.route,
        ];
        let queue_bytes: usize = queues.iter().map(|queue| queue.len()).sum();
        let size: usize = parts.iter().map(|part| part.len()).sum();
        let mut bytes = Vec::with_capacity(size + queue_bytes);
        parts.iter().chain(queues).for_each(|part| bytes.extend_from_slice(part));
        Self {
            bytes,
            subject_size: message.subject.len(),
            reply_size: message.reply.len(),
            header_text_size: message.header_size_text.len(),
            size_text_size: message.size_text.len(),
            body_size: message.body.len(),
            headers_size: message.headers.len(),
            route_size: target.route.len(),
            queue_sizes: queues.iter().map(|queue| queue.len() as u32).collect(),
        }
    }

    fn view(&self) -> (Message<'_>, &[u8], Vec<&[u8]>) {
        let mut rest = &self.bytes[..];
        let mut take = |size: usize| {
            let (taken, after) = rest.split_at(size);
            rest = after;
            taken
        };
        let subject = take(self.subject_size);
        let reply = take(self.reply_size);
        let header_size_text = take(self.header_text_size);
        let size_text = take(self.size_text_size);
        let body = take(self.body_size);
        let headers = &body[..self.headers_size];
        let route = take(self.route_size);
        let queues = self.queue_sizes.iter().map(|size| take(*size as usize)).collect();
        let message =
            Message { subject, reply, headers, body, header_size_text, size_text, tail: b"" };
        (message, route, queues)
    }
}

impl FanOut {
    pub(super) fn new(passage: &Passage<'_>, stage: Stage, began: Rc<()>) -> Box<Self> {
        let Origin { source, from, target, tells_nobody } = passage.origin;
        Box::new(Self {
            owned: OwnedMessage::new(&passage.message, &target),
            origin: Origin {
                source,
                from,
                target: Target { queues: &[], route: &[], passed: &[], ..target },
                tells_nobody,
            },
            passed: SmallVec::from_slice(target.passed),
            connection: passage.connection,
            stage,
            crossing: None,
            began,
        })
    }

    /// Bytes it holds.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.owned.bytes.capacity()
    }

    pub(super) fn connection(&self) -> Option<ConnectionId> {
        self.connection
    }

    /// Returns the token of the cut that it began before.
    pub(super) fn began(&self) -> &Rc<()> {
        &self.began
    }

    /// It began here before the last cut: its further copies say so.
    pub(super) fn mark_late(&mut self) {
        if self.origin.from.is_none() {
            self.origin.target.mark = Mark::Late;
        }
    }

    /// Its publisher is gone: nobody is told anything, and its key may soon mean another.
    pub(super) fn orphan(&mut self) {
        self.origin.source.publisher = None;
        self.origin.tells_nobody = false;
        if let Some(crossing) = &mut self.crossing {
            crossing.fan_out.orphan();
        }
    }

    /// Calls `go_on` with the message.
    pub(super) fn with_passage<T>(&self, go_on: impl FnOnce(&Passage<'_>) -> T) -> T {
        let (message, route, queues) = self.owned.view();
        let passed = &self.passed[..];
        let target = Target { queues: &queues, route, passed, ..self.origin.target };
        let origin = Origin { target, ..self.origin };
        go_on(&Passage { message, origin, connection: self.connection })
    }
}

#[cfg(test)]
mod tests;
