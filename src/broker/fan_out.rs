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

use crate::base::ids::{ConnectionId, LinkId};
use crate::base::limits::WORK_UNIT_BYTES;
use crate::broker::link::{Forward, Source};
use crate::broker::match_list::{ListBuilder, MatchList};
use crate::protocol::message::Message;

/// The outcome of routing a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Routed {
    /// To somebody at least, here or over a link.
    Delivered,
    Nobody,
    /// There is more to do: `Turn::unfinished` holds it.
    Unfinished,
}

impl Routed {
    #[inline]
    pub(super) fn new(delivered: bool) -> Self {
        if delivered { Self::Delivered } else { Self::Nobody }
    }
}

/// A message that came over a link, and whom it is for.
#[derive(Clone, Copy)]
pub(super) struct Via<'a> {
    pub from: LinkId,
    pub plain: bool,
    pub hops: u8,
    /// The link behind which its publisher is; none = on this shard.
    pub home: Option<LinkId>,
    /// Groups of which one member here is to have it.
    pub queues: &'a [&'a [u8]],
}

impl<'a> Via<'a> {
    /// The message as it came.
    pub(super) fn forward(&self, passage: &Passage<'a>) -> Forward<'a> {
        let Self { plain, hops, home, queues, .. } = *self;
        let Passage { source, message, .. } = *passage;
        Forward { source, message, plain, hops, home, queues }
    }
}

/// A message with all that its routing needs to know.
#[derive(Clone, Copy)]
pub(super) struct Passage<'a> {
    pub message: Message<'a>,
    pub source: Source,
    /// The connection that published it, if that is one of this shard.
    pub connection: Option<ConnectionId>,
    /// None = it was published here.
    pub via: Option<Via<'a>>,
    /// Its publisher is to be told if nobody listens.
    pub tells_nobody: bool,
}

/// How far a list was walked.
#[derive(Default)]
pub(super) struct Progress {
    /// Plain subscriptions that had their turn.
    pub plain: usize,
    /// Groups that had theirs.
    pub group: usize,
    /// State of the next group: where asking began, and how many were asked.
    pub asked: Option<(usize, usize)>,
    /// Links of members that were picked, with the places of their groups.
    pub picks: SmallVec<[(LinkId, u32); 4]>,
    /// Bytes of the names of those groups.
    pub picked_bytes: usize,
    /// Places, for a message that came over a link, of the groups of which nobody here took it.
    pub unserved: SmallVec<[u32; 4]>,
    /// Links with plain interest have their copy.
    pub forwarded: bool,
    pub delivered: bool,
}

pub(super) enum Stage {
    /// Its receivers are looked for; none = from the start.
    Matching(Option<Box<ListBuilder>>),
    Delivering(Rc<MatchList>, Box<Progress>),
    /// Nobody listens: the receivers of its reply are looked for, to find its publisher among them.
    MatchingReply(Option<Box<ListBuilder>>),
    /// How many of them were looked at.
    FindingPublisher(Rc<MatchList>, usize),
}

/// The rest of a message on its way.
pub struct FanOut {
    owned: OwnedMessage,
    source: Source,
    connection: Option<ConnectionId>,
    /// All of `Via` but the queues.
    via: Option<(LinkId, bool, u8, Option<LinkId>)>,
    tells_nobody: bool,
    pub(super) stage: Stage,
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
    /// Behind the message, one after the other.
    queue_sizes: Vec<u32>,
}

impl OwnedMessage {
    fn new(message: &Message<'_>, queues: &[&[u8]]) -> Self {
        let parts = [
            message.subject,
            message.reply,
            message.header_size_text,
            message.size_text,
            message.body,
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
            queue_sizes: queues.iter().map(|queue| queue.len() as u32).collect(),
        }
    }

    fn view(&self) -> (Message<'_>, Vec<&[u8]>) {
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
        let queues = self.queue_sizes.iter().map(|size| take(*size as usize)).collect();
        let message =
            Message { subject, reply, headers, body, header_size_text, size_text, tail: b"" };
        (message, queues)
    }
}

impl FanOut {
    pub(super) fn new(passage: &Passage<'_>, stage: Stage) -> Box<Self> {
        let queues = passage.via.map_or(&[][..], |via| via.queues);
        Box::new(Self {
            owned: OwnedMessage::new(&passage.message, queues),
            source: passage.source,
            connection: passage.connection,
            via: passage.via.map(|via| (via.from, via.plain, via.hops, via.home)),
            tells_nobody: passage.tells_nobody,
            stage,
        })
    }

    /// Bytes it holds.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.owned.bytes.capacity()
    }

    pub(super) fn connection(&self) -> Option<ConnectionId> {
        self.connection
    }

    /// Its publisher is gone: nobody is told anything, and its key may soon mean another.
    pub(super) fn orphan(&mut self) {
        self.source.publisher = None;
        self.tells_nobody = false;
    }

    /// Calls `route` with the message.
    pub(super) fn with_passage<T>(&self, route: impl FnOnce(&Passage<'_>) -> T) -> T {
        let (message, queues) = self.owned.view();
        let via = self.via.map(|(from, plain, hops, home)| Via {
            from,
            plain,
            hops,
            home,
            queues: &queues,
        });
        route(&Passage {
            message,
            source: self.source,
            connection: self.connection,
            via,
            tells_nobody: self.tells_nobody,
        })
    }
}

/// Units of work that a delivery of this message takes.
#[inline]
pub(super) fn delivery_work(message: &Message<'_>) -> usize {
    1 + message.body.len() / WORK_UNIT_BYTES
}

#[cfg(test)]
mod tests;
