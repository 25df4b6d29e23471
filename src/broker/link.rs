//! A link is where interest comes from and messages go to: another shard, later a route or a
//! leafnode.

use std::rc::Rc;

use bytes::Bytes;

use crate::base::gate::Gate;
use crate::base::ids::{AccountId, ClientKey, ConnectionId, LinkId, ShardId};
use crate::protocol::message::MessageRun;

/// Somebody here began, changed or ended to want a subject.
#[derive(Clone, Debug)]
pub struct InterestChange {
    pub account: AccountId,
    /// Filter, then queue: one shared allocation for all links.
    pub text: Bytes,
    pub filter_len: u32,
    /// Members of the queue group; for plain interest about as many as there are subscriptions; 0 =
    /// gone.
    pub weight: u32,
}

impl InterestChange {
    pub fn new(account: AccountId, filter: &[u8], queue: &[u8], weight: u32) -> Self {
        let mut text = Vec::with_capacity(filter.len() + queue.len());
        text.extend_from_slice(filter);
        text.extend_from_slice(queue);
        let filter_len = u32::try_from(filter.len()).expect("bounded by the control line");
        Self { account, text: Bytes::from(text), filter_len, weight }
    }

    pub fn filter(&self) -> &[u8] {
        &self.text[..self.filter_len as usize]
    }

    pub fn queue(&self) -> &[u8] {
        &self.text[self.filter_len as usize..]
    }
}

/// The origin of a forwarded message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    pub account: AccountId,
    /// Its publisher, by the key on its own shard: a slow consumer on another shard can slow it
    /// down.
    pub publisher: Option<ClientKey>,
    /// The publisher's connection if it asked not to hear itself: a queue message may come home.
    pub no_echo: Option<ConnectionId>,
    /// The part of a request that went this way, if its publisher is to be told when nobody gets it
    /// and nobody on its own shard did; else 0. Parts that nobody got come back (`Unheard`); all of
    /// them make `WHOLE`.
    pub share: u32,
}

impl Source {
    /// All parts of one request.
    pub const WHOLE: u32 = 1 << 31;

    /// The same source with its part of a `share` that is divided among `count` copies.
    pub fn part(self, share: u32, index: usize, count: usize) -> Self {
        let (count, rest) = (count as u32, share % count as u32);
        Self { share: share / count + if index == 0 { rest } else { 0 }, ..self }
    }
}

/// A request, or a part of one, that nobody got where it was forwarded to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unheard {
    pub account: AccountId,
    pub client: ClientKey,
    pub share: u32,
    pub subject: Vec<u8>,
    pub reply: Vec<u8>,
}

/// The place of a message in a client's move to another shard (`handover`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mark {
    #[default]
    None,
    /// It began before the cut of its shard, and comes after it.
    Late,
    /// Tells a shard to cut. Nobody receives it, as all that follow.
    Switch,
    /// The cut of a shard.
    Cut,
    /// No message that began before the cut comes any more.
    End,
}

/// The receivers of a message that goes over a link, at most once per link and message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// True if plain subscriptions over there get it; false for a message that only looks for
    /// another member of a queue group.
    pub plain: bool,
    /// Present if it is traced.
    pub trace: Option<Traced>,
    pub mark: Mark,
    /// Times it already looked for another member.
    pub hops: u8,
    /// The link behind which its publisher is; none = on this shard.
    pub home: Option<LinkId>,
    /// Queue groups of which one member over there was picked.
    pub queues: &'a [&'a [u8]],
    /// The subject it is routed by, if that is not the one it shows; else empty.
    pub route: &'a [u8],
    /// The exports that it passed, if it came from another account.
    pub passed: &'a [u32],
}

/// A message whose way is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traced {
    /// Counts the traces that began on the shard where it was published.
    pub number: u32,
    /// Nobody gets it: its way is found out as if it were delivered.
    pub only: bool,
}

/// The value of `Target::passed` for a message that came from another account and then over a link.
pub(crate) const PASSED_ELSEWHERE: &[u32] = &[u32::MAX - 1];

impl Target<'static> {
    /// Plain subscriptions alone, for a message of this shard.
    pub const PLAIN: Self = Self {
        trace: None,
        mark: Mark::None,
        plain: true,
        hops: 0,
        home: None,
        queues: &[],
        route: &[],
        passed: &[],
    };
}

impl Target<'_> {
    /// True for plain subscriptions to its subject alone.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.plain
            && self.trace.is_none()
            && self.mark == Mark::None
            && self.queues.is_empty()
            && self.hops == 0
            && self.route.is_empty()
            && self.passed.is_empty()
    }
}

/// A shard as the links of another name it; none = itself.
pub(crate) fn link_to(shard: ShardId, own: ShardId) -> Option<LinkId> {
    let index = shard.0 - u16::from(shard.0 > own.0);
    (shard != own).then_some(LinkId(u32::from(index)))
}

/// The shard behind a link of another.
pub(crate) fn shard_behind(link: LinkId, own: ShardId) -> ShardId {
    let index = u16::try_from(link.0).expect("links are as few as shards");
    ShardId(index + u16::from(index >= own.0))
}

/// A wait, mostly for room on a link: until the gate's number is `until`.
#[derive(Clone)]
pub struct Congestion {
    pub gate: Rc<Gate>,
    pub until: u64,
}

/// A link, as the broker needs it. Implementers append and return; they never call the broker.
pub trait LinkSink {
    /// Announces a change of this shard's own interest. Never fails: what finds no room is kept, in
    /// order.
    fn interest_changed(&self, change: &InterestChange);

    /// The room to wait for before a further subscription; None = it may be made now.
    fn interest_congestion(&self) -> Option<Congestion>;

    /// True if there is room to tell of a subscription that goes behind all clients: a part of the
    /// room is left to those by `interest_congestion`. Else the shard gets another turn once there
    /// is some.
    fn has_interest_reserve(&self) -> bool;

    /// Queues messages; a run of more than one is for plain subscriptions alone. Never fails: what
    /// finds no room is kept, in order.
    fn forward(&self, source: &Source, target: &Target<'_>, run: &MessageRun<'_>);

    /// Counts what the messages just forwarded take over there, in units of `TURN_WORK_MAX`.
    fn note_work(&self, work: usize);

    /// Sends what was forwarded so far; what to wait for if not all of it found room.
    fn fence(&self) -> Option<Congestion>;

    /// Tells the shard of a publisher that nobody got its request here. False = it is not told: too
    /// many are waiting to be.
    fn unheard(&self, unheard: Unheard) -> bool;

    /// True if `message_congestion` must be asked before the next message. A link that becomes
    /// tight says so by `Broker::lanes_tight`.
    fn is_tight(&self) -> bool;

    /// The room to wait for before a message of so many bytes, queue names included, is forwarded.
    fn message_congestion(&self, message_bytes: usize) -> Option<Congestion>;
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::RefCell;

    use super::*;

    /// A link that takes everything, and keeps what it was told that nobody got.
    #[derive(Default)]
    pub(in crate::broker) struct Ear(pub Rc<RefCell<Vec<Unheard>>>);

    impl LinkSink for Ear {
        fn interest_changed(&self, _: &InterestChange) {}

        fn interest_congestion(&self) -> Option<Congestion> {
            None
        }

        fn has_interest_reserve(&self) -> bool {
            true
        }

        fn forward(&self, _: &Source, _: &Target<'_>, _: &MessageRun<'_>) {}

        fn fence(&self) -> Option<Congestion> {
            None
        }

        fn unheard(&self, unheard: Unheard) -> bool {
            self.0.borrow_mut().push(unheard);
            true
        }

        fn note_work(&self, _: usize) {}

        fn is_tight(&self) -> bool {
            false
        }

        fn message_congestion(&self, _: usize) -> Option<Congestion> {
            None
        }
    }
}
