//! A message with everything that its routing needs, and the progress of it.

use smallvec::SmallVec;

use super::link::{Source, Target};
use crate::base::ids::{AccountId, ClientKey, ConnectionId, LinkId};
use crate::base::limits::WORK_UNIT_BYTES;
use crate::protocol::message::{Message, MessageRun};

/// The outcome of routing a message, or a run of them.
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

/// The way by which messages came to this shard, and their receivers.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    pub source: Source,
    /// The link they came over; none = they are published here, for everybody.
    pub from: Option<LinkId>,
    /// Their receivers if they came over a link, and the subject they are routed by.
    pub target: Target<'a>,
    /// Their publisher is to be told when nobody gets a request of its own.
    pub tells_nobody: bool,
}

impl<'a> Origin<'a> {
    /// A client of this shard; `no_echo` is its connection if that is not to hear itself.
    #[inline]
    pub fn client(
        account: AccountId,
        client: ClientKey,
        no_echo: Option<ConnectionId>,
        tells_nobody: bool,
    ) -> Self {
        let source = Source { account, publisher: Some(client), no_echo, share: 0 };
        Self { source, from: None, target: Target::PLAIN, tells_nobody }
    }

    /// The server itself.
    pub(super) fn server(account: AccountId) -> Self {
        let source = Source { account, publisher: None, no_echo: None, share: 0 };
        Self { source, from: None, target: Target::PLAIN, tells_nobody: false }
    }

    /// The subject that a message is routed by: mostly its own.
    #[inline]
    pub(super) fn routed_by<'m>(&self, message: &Message<'m>) -> &'m [u8]
    where
        'a: 'm,
    {
        match self.target.route {
            [] => message.subject,
            route => route,
        }
    }

    /// Another shard.
    #[inline]
    pub fn link(from: LinkId, source: &Source, target: &Target<'a>) -> Self {
        Self { source: *source, from: Some(from), target: *target, tells_nobody: false }
    }
}

/// A message with all that its routing needs to know.
#[derive(Clone, Copy)]
pub(super) struct Passage<'a> {
    pub message: Message<'a>,
    /// It tells nobody of a message without a reply.
    pub origin: Origin<'a>,
    /// The connection that published it, if that is one of this shard.
    pub connection: Option<ConnectionId>,
}

impl<'a> Passage<'a> {
    pub(super) fn new(
        message: &Message<'a>,
        origin: &Origin<'a>,
        connection: Option<ConnectionId>,
    ) -> Self {
        let tells_nobody = origin.tells_nobody && !message.reply.is_empty();
        Self { message: *message, origin: Origin { tells_nobody, ..*origin }, connection }
    }

    /// Bytes of it that go over a link, the names of queues left out.
    pub(super) fn size(&self) -> usize {
        self.message.size() + self.origin.target.route.len()
    }
}

/// The progress of a message through its list of receivers.
#[derive(Default)]
pub(super) struct Progress {
    /// Plain subscriptions that had their turn.
    pub plain: usize,
    /// Groups that had their turn.
    pub group: usize,
    /// State of the next group: where asking began, and how many were asked.
    pub asked: Option<(usize, usize)>,
    /// Links of members that were picked, with the places of their groups.
    pub picks: SmallVec<[(LinkId, u32); 4]>,
    /// Bytes of the names of those groups.
    pub picked_bytes: usize,
    /// Places, for a message that came over a link, of the groups of which nobody here took it.
    pub unserved: SmallVec<[u32; 4]>,
    /// Crossings that had their turn.
    pub crossed: usize,
    /// Links with plain interest have their copy.
    pub forwarded: bool,
    pub delivered: bool,
}

/// Units of work that the delivery of these messages to one receiver takes.
#[inline]
pub(super) fn delivery_work(run: &MessageRun<'_>) -> usize {
    run.len() + run.body_bytes() / WORK_UNIT_BYTES
}
