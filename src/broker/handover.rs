//! The handover of a client with subscriptions from one shard to another, so that each message
//! reaches it exactly once and in order.
//!
//! The client leaves shard A and comes to shard B; every shard is a source of its messages. B
//! subscribes for the client too, and withholds everything from it. When B's interest is in every
//! lane, B sends `Switch` to all shards, like a message. A shard cuts its messages where it takes
//! `Switch`, B where it sends it: what is published there before the cut is delivered by A, what is
//! published after it by B. It says so with `Cut` on its message lanes to both. A delivers from a
//! source until its cut, B from there on; what B delivers waits until A is done.
//!
//! # Why this is exact
//!
//! - *Nothing is lost.* A's interest is in force everywhere until the end. `Switch` was pushed
//!   after B's interest, so a shard that takes it has applied that, and what it publishes after its
//!   cut goes to B.
//! - *Nothing is doubled.* A message of a source is before its cut or after it, for both.
//! - *Order.* Say that `n` comes after `m`, by whatever cause, and `m` was published after the cut
//!   of its shard. Then `m` comes after `Switch`, and so does `n`: by the rules in `mesh` its shard
//!   has taken `Switch` before it published `n`, which thus is after the cut as well. So no message
//!   that A delivers comes after one that B delivers, and the client gets all of A's first.
//!
//! A message to very many may be under way to its receivers, over several turns, when its shard
//! cuts. It may have been to A and never come to B. It counts as published before the cut: its
//! further copies are marked as `Late`, and go to the client by way of A. Once no such message is
//! left the shard says `End` to A and B. When all shards have, A hands the client over.
//!
//! There is one handover at a time on a server (`HandoverTicket`): a `Late` message thus is about
//! the only cut that has not ended. A handover goes on to its end even if its client is gone.

use std::cell::Cell;
use std::hash::BuildHasher;
use std::rc::Rc;

use super::Broker;
use super::handed_over::{Handover, Side, Stage};
use super::link::{Mark, Source, Target};
use super::subscription::Subscription;
use crate::auth::permissions::DeliveryFilter;
use crate::base::counters::HandoverTicket;
use crate::base::ids::{AccountId, ClientKey, ConnectionId, LinkId};
use crate::base::limits::{HANDOVER_SUBSCRIPTIONS_MAX, MOVED_KEYS_MAX};
use crate::broker::frame;
use crate::broker::link::{Congestion, Unheard};
use crate::protocol::message::{Message, MessageRun};

/// The cuts of a shard, and clients that have moved from it.
#[derive(Default)]
pub(super) struct Cuts {
    /// Held by every message on its way that began after the last cut.
    began: Rc<()>,
    /// The cut that has not ended, as older messages are on their way.
    open: Option<OpenCut>,
    /// Handovers in which this shard is one of the two.
    handovers: Vec<Rc<Handover>>,
    /// Clients that moved, oldest first: with their account, and their place on the other shard.
    moved: Vec<(ClientKey, AccountId, LinkId, ClientKey)>,
}

struct OpenCut {
    connection: ConnectionId,
    leaves: Option<LinkId>,
    comes: Option<LinkId>,
    /// Held by the messages that are older.
    older: Rc<()>,
}

impl Cuts {
    /// Returns the token of a message that begins now.
    pub(super) fn token(&self) -> Rc<()> {
        self.began.clone()
    }

    /// True if a message with this token began before the last cut.
    pub(super) fn is_older(&self, token: &Rc<()>) -> bool {
        !Rc::ptr_eq(token, &self.began)
    }

    /// True if a cut can end now.
    pub(super) fn can_end(&self) -> bool {
        self.open.as_ref().is_some_and(|cut| Rc::strong_count(&cut.older) == 1)
    }

    fn find(&self, connection: ConnectionId, side: Side) -> Option<&Rc<Handover>> {
        self.handovers.iter().find(|one| one.connection == connection && one.side == side)
    }

    /// The account of a client that moved from here, and its place now.
    pub(super) fn moved(&self, client: ClientKey) -> Option<(AccountId, LinkId, ClientKey)> {
        let (_, account, link, key) = self.moved.iter().rfind(|moved| moved.0 == client)?;
        Some((*account, *link, *key))
    }
}

/// Bytes that the messages of a handover take on a lane, at most.
const CONTROL_BYTES: usize = 4 * (frame::HEAD_BYTES + size_of::<ConnectionId>());

impl Broker {
    /// True if a client's subscriptions can be handed over: few, plain, without a maximum, and none
    /// that stands for others or has yet to come or to go.
    pub fn can_hand_over(&self, client: ClientKey) -> bool {
        let state = &self.clients[client.index()];
        state.subscriptions.len() <= HANDOVER_SUBSCRIPTIONS_MAX
            && state.leaving.is_none()
            && state.importing.is_none()
            && state.review.is_none()
            && !self.links.is_empty()
            && self.imports.streams_of(state.account).is_none()
            && self.imports.services_of(state.account).is_empty()
            && state.subscriptions.iter().all(Subscription::can_be_handed_over)
            && self.cuts.handovers.iter().all(|other| other.client != client)
    }

    /// Begins a handover of this client to another shard, which is to be told: from here on the
    /// client may not do anything.
    pub fn begin_leaving(&mut self, client: ClientKey, ticket: HandoverTicket) -> Rc<Handover> {
        let handover = self.begin_handover(client, Side::Leaving, Some(ticket));
        for subscription in self.clients[client.index()].subscriptions.iter() {
            subscription.set_handover(Some(handover.clone()));
        }
        handover
    }

    /// Begins the other side of a handover, for a client that was just attached.
    pub fn begin_coming(&mut self, client: ClientKey) -> Rc<Handover> {
        self.begin_handover(client, Side::Coming, None)
    }

    fn begin_handover(
        &mut self,
        client: ClientKey,
        side: Side,
        ticket: Option<HandoverTicket>,
    ) -> Rc<Handover> {
        let handover = Rc::new(Handover {
            connection: self.clients[client.index()].outbox.id,
            client,
            side,
            sources: vec![Cell::new(Stage::Before); 1 + self.links.len()],
            ended: Rc::default(),
            successor: Cell::default(),
            ticket: Cell::new(ticket),
        });
        self.cuts.handovers.push(handover.clone());
        handover
    }

    /// Subscribes for a client that comes. `interest_congestion` was asked before.
    pub fn subscribe_coming(
        &mut self,
        handover: &Rc<Handover>,
        filter: &[u8],
        sid: &[u8],
        deny: Option<DeliveryFilter>,
    ) {
        self.subscribe(handover.client, filter, b"", sid, deny);
        let hash = self.hasher.hash_one(sid);
        let state = &self.clients[handover.client.index()];
        let subscription = state.subscriptions.find(hash, |other| other.sid() == sid);
        subscription.expect("it was just added").set_handover(Some(handover.clone()));
    }

    /// The room to wait for before `send_switch`: it goes to all shards at once.
    pub fn switch_congestion(&self) -> Option<Congestion> {
        self.links.iter().find_map(|link| link.sink.message_congestion(CONTROL_BYTES))
    }

    /// Tells all shards to cut, and cuts here. The flush that follows pushes it to all lanes: there
    /// is room. `from`: the shard that the client leaves.
    pub fn send_switch(&mut self, handover: &Handover, from: LinkId) {
        for index in 0..self.links.len() {
            let link = LinkId(u32::try_from(index).expect("few links"));
            self.send_mark(Mark::Switch, handover.connection, Some(handover.client), from, link);
        }
        self.cut(handover.connection, Some(from), None);
    }

    fn send_mark(
        &mut self,
        mark: Mark,
        connection: ConnectionId,
        publisher: Option<ClientKey>,
        home: LinkId,
        link: LinkId,
    ) {
        let source = Source { account: AccountId::GLOBAL, publisher, no_echo: None, share: 0 };
        let target = Target { plain: false, mark, home: Some(home), ..Target::PLAIN };
        let id = connection.0.to_le_bytes();
        let message = Message::without_headers(&id, b"", b"", b"0");
        self.links[link.index()].sink.forward(&source, &target, &MessageRun::one(message));
    }

    /// Takes a message of a handover that came over a link.
    #[cold]
    pub fn take_mark(
        &mut self,
        link: LinkId,
        source: &Source,
        target: &Target<'_>,
        message: &Message<'_>,
    ) {
        let id = message.subject.try_into().expect("the id of a connection");
        let connection = ConnectionId(u64::from_le_bytes(id));
        match target.mark {
            Mark::None | Mark::Late => unreachable!("an ordinary message"),
            Mark::Switch => {
                if target.home.is_none()
                    && let Some(handover) = self.cuts.find(connection, Side::Leaving)
                {
                    handover.successor.set(source.publisher.map(|client| (link, client)));
                }
                self.cut(connection, target.home, Some(link));
            }
            Mark::Cut => self.source_reached(connection, Some(link), Stage::Cut),
            Mark::End => self.source_reached(connection, Some(link), Stage::Ended),
        }
    }

    /// What is published here from now on goes to a client by way of the shard that it comes to;
    /// none = this one.
    fn cut(&mut self, connection: ConnectionId, leaves: Option<LinkId>, comes: Option<LinkId>) {
        assert!(self.cuts.open.is_none(), "one handover at a time");
        let older = std::mem::take(&mut self.cuts.began);
        self.tell_both(connection, leaves, comes, Mark::Cut);
        self.cuts.open = Some(OpenCut { connection, leaves, comes, older });
        self.end_cut();
    }

    /// Ends the cut if no message is on its way any more that began before it.
    pub(super) fn end_cut(&mut self) {
        if self.cuts.can_end()
            && let Some(OpenCut { connection, leaves, comes, .. }) = self.cuts.open.take()
        {
            self.tell_both(connection, leaves, comes, Mark::End);
        }
    }

    fn tell_both(
        &mut self,
        connection: ConnectionId,
        leaves: Option<LinkId>,
        comes: Option<LinkId>,
        mark: Mark,
    ) {
        for link in [leaves, comes] {
            match link {
                Some(link) => self.send_mark(mark, connection, None, link, link),
                None if mark == Mark::Cut => self.source_reached(connection, None, Stage::Cut),
                None => self.source_reached(connection, None, Stage::Ended),
            }
        }
    }

    fn source_reached(&mut self, connection: ConnectionId, from: Option<LinkId>, stage: Stage) {
        let place = self.cuts.handovers.iter().position(|one| one.connection == connection);
        let place = place.expect("a handover goes on to its end");
        if !self.cuts.handovers[place].reached(from, stage) {
            return;
        }
        let handover = self.cuts.handovers.swap_remove(place);
        if handover.side == Side::Coming && self.client(handover.client).is_some() {
            let state = &self.clients[handover.client.index()];
            state.subscriptions.iter().for_each(|subscription| subscription.set_handover(None));
        }
        drop(handover.ticket.take());
        handover.ended.advance_to(1);
    }

    /// A client whose handover has ended leaves: from now on others find it where it went.
    pub fn note_moved(&mut self, handover: &Handover) {
        let Some((link, key)) = handover.successor.get() else { return };
        let account = self.clients[handover.client.index()].account;
        if self.cuts.moved.len() >= MOVED_KEYS_MAX {
            self.cuts.moved.remove(0);
        }
        self.cuts.moved.push((handover.client, account, link, key));
    }

    /// Tells a requester that has moved, by way of its shard, that nobody got its request.
    pub(super) fn tell_moved(&mut self, unheard: &Unheard, link: LinkId, client: ClientKey) {
        let unheard = Unheard { client, share: Source::WHOLE, ..unheard.clone() };
        if !self.links[link.index()].sink.unheard(unheard) {
            self.counters.unanswered += 1;
        }
    }

    /// Calls `visit` with each subscription of a client that may be handed over.
    pub fn for_each_subscription(&self, client: ClientKey, visit: impl FnMut(&Rc<Subscription>)) {
        self.clients[client.index()].subscriptions.iter().for_each(visit);
    }

    /// Adds to the count of a subscription what it was sent on another shard.
    pub fn add_delivered(&self, client: ClientKey, sid: &[u8], count: u64) {
        let state = &self.clients[client.index()];
        if let Some(own) =
            state.subscriptions.find(self.hasher.hash_one(sid), |own| own.sid() == sid)
        {
            own.delivered.set(own.delivered.get() + count);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::base::counters::Handovers;
    use crate::base::limits::{CHUNK_BYTES, PENDING_BYTES_MAX};
    use crate::base::pool::BufferPool;
    use crate::broker::link::tests::Ear;
    use crate::broker::outbox::Outbox;
    use crate::broker::turn::Turn;

    /// Hands a client of this shard over to the one behind the link. Returns its key here.
    fn hand_over(broker: &mut Broker, link: LinkId, successor: ClientKey) -> ClientKey {
        let pool = Rc::new(BufferPool::new(&CHUNK_BYTES, 1 << 20));
        let connection = ConnectionId(7);
        let outbox = Rc::new(Outbox::new(connection, pool, PENDING_BYTES_MAX));
        let client = broker.attach(AccountId::GLOBAL, outbox);
        broker.subscribe(client, b"inbox", b"", b"1", None);
        let handovers = Handovers::default();
        let ticket = handovers.begin().expect("there is no other");
        assert!(handovers.begin().is_none() && broker.can_hand_over(client));
        let handover = broker.begin_leaving(client, ticket);
        assert!(!broker.can_hand_over(client));
        for (mark, home) in [(Mark::Switch, None), (Mark::Cut, Some(link)), (Mark::End, Some(link))]
        {
            assert!(!handover.has_ended() && !handovers.is_free());
            let publisher = Some(successor);
            let source = Source { account: AccountId::GLOBAL, publisher, no_echo: None, share: 0 };
            let target = Target { plain: false, mark, home, ..Target::PLAIN };
            let id = connection.0.to_le_bytes();
            let message = Message::without_headers(&id, b"", b"", b"0");
            broker.take_mark(link, &source, &target, &message);
        }
        assert!(handover.has_ended() && handovers.is_free());
        broker.note_moved(&handover);
        broker.detach(client);
        client
    }

    #[test]
    fn a_requester_that_has_moved_is_told_by_way_of_its_shard_that_nobody_listens() {
        let mut broker = Broker::reproducible(1);
        let told = Rc::<RefCell<Vec<Unheard>>>::default();
        let link = broker.link_open(Box::new(Ear(told.clone())));
        let first = hand_over(&mut broker, link, ClientKey(40));
        let unheard = |client: ClientKey, share| Unheard {
            account: AccountId::GLOBAL,
            client,
            share,
            subject: b"ask".to_vec(),
            reply: b"inbox".to_vec(),
        };
        let half = Source::WHOLE / 2;
        broker.link_unheard(&unheard(first, half), &mut Turn::default());
        assert_eq!(*told.borrow(), [], "somebody may have got the other half");
        broker.link_unheard(&unheard(first, half), &mut Turn::default());
        assert_eq!(*told.borrow(), [unheard(ClientKey(40), Source::WHOLE)]);
        // The next one in its place is somebody else.
        let second = hand_over(&mut broker, link, ClientKey(41));
        assert_eq!(second.index(), first.index());
        broker.link_unheard(&unheard(second, Source::WHOLE), &mut Turn::default());
        assert_eq!(told.borrow()[1].client, ClientKey(41));
        // Only so many are remembered.
        for _ in 0..MOVED_KEYS_MAX {
            hand_over(&mut broker, link, ClientKey(42));
        }
        broker.link_unheard(&unheard(second, Source::WHOLE), &mut Turn::default());
        assert_eq!(told.borrow().len(), 2);
    }
}
