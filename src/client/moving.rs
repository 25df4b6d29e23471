//! Moves a client to another shard: its session is taken apart into values, and put together again
//! from them.
//!
//! A client moves before its first subscription or message, or later. If it has subscriptions these
//! are handed over first (`broker::handover`): the other shard keeps what it delivers to them until
//! the client comes. What it has published is in the lanes to its receivers when it leaves, and
//! their shards may take it (`ClientSession::move_as_asked`, and the flush before its values are
//! handed over): by the rules in `mesh`, nothing that it publishes from then on is delivered before
//! that, on whatever shard. Besides there are its identity, its rights and its counts.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::context::ClientContext;
use super::guest::{Guest, GuestSubscription, HandoverOrder};
use super::hosted::Hosted;
use super::publishing::AskedMove;
use super::rights::Rights;
use super::session::ClientSession;
use crate::auth::authenticator::ConnectionType;
use crate::auth::permissions::Permissions;
use crate::base::ids::{AccountId, ConnectionId, ShardId};
use crate::base::limits::HANDOVER_PENDING_BYTES_MAX;
use crate::broker::byte_queue::Sent;
use crate::broker::handed_over::Handover;
use crate::broker::outbox::Outbox;
use crate::net::session::{Step, Wait};
use crate::peer::login::Stage;
use crate::peer::state::PeerState;
use crate::peer::who::log_peer;
use crate::protocol::nats::encode;
use crate::protocol::nats::error::CloseReason;
use crate::protocol::nats::parser::{Parser, ParserLimits};

/// A client's session on its way to another shard.
pub struct MovingClient {
    peer: PeerState,
    account: AccountId,
    permissions: Arc<Permissions>,
    has_mappings: bool,
    subscriptions_max: usize,
    subject_tokens_max: u32,
    limits: ParserLimits,
    parser: Parser,
    first_pong_sent: bool,
    knows_of_lame_duck: bool,
    /// True if it moves after its first subscription or message.
    is_later: bool,
    /// Messages that its subscriptions were sent, by sid.
    delivered: Vec<(Box<[u8]>, u64)>,
    /// Messages and bytes that it was sent, and times that its producers were asked to wait.
    sent: Sent,
    /// Bytes pushed since its writer ended.
    unsent: Vec<u8>,
    /// Why it was closed, if it was closed since then.
    closed: Option<CloseReason>,
}

impl MovingClient {
    /// Returns true if it moves because it was asked to: it was placed before.
    pub fn is_later(&self) -> bool {
        self.is_later
    }

    pub fn id(&self) -> ConnectionId {
        self.peer.id
    }
}

impl ClientSession {
    /// Asks the client to move to another shard. It does so when its next bytes are handled, if it
    /// may then.
    pub fn ask_to_move(&mut self, target: ShardId) {
        if self.is_settled && !self.is_bound && !self.is_handed_over() {
            let publishing = self.publishing.get_or_insert_default();
            publishing.asked = Some(AskedMove { target, handover: None, has_begun: false });
        }
    }

    /// Takes back that it was asked to move, unless it is about to.
    pub fn forget_move(&mut self) {
        if !self.is_handed_over()
            && let Some(publishing) = &mut self.publishing
        {
            publishing.asked = None;
        }
    }

    /// Makes a client that was asked to move say something: one that only listens would not move.
    pub fn rouse(&mut self) {
        let is_waiting = self.asked_move().is_some_and(|asked| asked.handover.is_none());
        if is_waiting && self.peer.keep_alive.ask(Instant::now()) {
            self.outbox.push_bytes(encode::PING);
        }
    }

    /// Returns the move that the client was asked for.
    #[inline]
    pub(super) fn asked_move(&self) -> Option<&AskedMove> {
        self.publishing.as_ref()?.asked.as_ref()
    }

    /// Returns true from the beginning of a handover of its subscriptions on.
    fn is_handed_over(&self) -> bool {
        self.asked_move().is_some_and(|asked| asked.handover.is_some())
    }

    /// Returns true if it may move now, or might soon: not while anything that it began is
    /// unfinished.
    pub fn may_move(&self) -> bool {
        let publishing = self.publishing.as_ref();
        let broker = self.context.broker.borrow();
        self.is_settled
            && !self.is_bound
            && !self.is_handed_over()
            && matches!(self.peer.way(), ConnectionType::Standard)
            && matches!(self.peer.login.stage(), Stage::Fresh | Stage::Connected)
            && self.rights.replies.is_none()
            && publishing.is_none_or(|mine| mine.turn.unfinished.is_none())
            && (broker.has_no_subscriptions(self.key)
                || self.outbox.pending_bytes() <= HANDOVER_PENDING_BYTES_MAX
                    && broker.can_hand_over(self.key))
    }

    /// Returns the step by which the client moves as it was asked to, unless it may not move now.
    /// What it has published must be in the lanes first, as for a PONG.
    #[cold]
    pub(super) fn move_as_asked(&mut self) -> Option<Step> {
        let asked = self.publishing.as_mut()?.asked.as_mut()?;
        let target = asked.target;
        if let Some(handover) = &asked.handover {
            if !handover.has_ended() {
                return Some(wait_for_end(handover));
            }
            asked.has_begun = true;
            return Some(Step::Leave(target));
        }
        if asked.has_begun {
            // It could not leave.
            self.forget_move();
            return None;
        }
        let has_subscriptions = !self.context.broker.borrow().has_no_subscriptions(self.key);
        if has_subscriptions && !self.context.handovers.is_free() {
            return None;
        }
        if !self.may_move() {
            self.forget_move();
            return None;
        }
        let congestion = self.context.broker.borrow().fence();
        if let Some(congestion) = congestion {
            return Some(Step::WaitFor(Wait::for_room(congestion)));
        }
        let handover = match has_subscriptions {
            true => Some(self.begin_handover(target)?),
            false => None,
        };
        let asked = self.publishing.as_mut()?.asked.as_mut()?;
        let Some(handover) = handover else {
            asked.has_begun = true;
            return Some(Step::Move(target));
        };
        let wait = wait_for_end(&handover);
        asked.handover = Some(handover);
        Some(wait)
    }

    /// Begins the handover of its subscriptions; None = that of another client goes on.
    fn begin_handover(&self, target: ShardId) -> Option<Rc<Handover>> {
        let ticket = self.context.handovers.begin()?;
        let mut broker = self.context.broker.borrow_mut();
        let handover = broker.begin_leaving(self.key, ticket);
        let mut subscriptions = Vec::new();
        broker.for_each_subscription(self.key, |subscription| {
            let (filter, sid) = (subscription.filter().into(), subscription.sid().into());
            subscriptions.push(GuestSubscription { filter, sid });
        });
        let guest = Guest {
            id: self.id(),
            account: self.account,
            permissions: self.rights.permissions.clone(),
            headers: self.limits.headers,
            subscriptions,
        };
        (self.context.give)(target, HandoverOrder::Host(Box::new(guest)));
        Some(handover)
    }

    /// Closes a client for which messages were kept by these rights, if it has others now: a reload
    /// came between.
    pub fn close_unless_rights_are(&self, permissions: &Permissions) {
        if self.rights.permissions.options() != permissions.options() {
            log_peer!(info, self, "Closed by the reload: its permissions have changed");
            self.outbox.close(CloseReason::ClientClosed);
        }
    }

    /// Takes the session apart and leaves the shard. The connection's tasks must have ended.
    pub fn take_apart(self) -> MovingClient {
        let is_later = self.asked_move().is_some_and(|asked| asked.has_begun);
        let Self { context, mut peer, outbox, key, account, rights, limits, parser, .. } = self;
        let handover = self.publishing.and_then(|mine| mine.asked?.handover);
        let mut broker = context.broker.borrow_mut();
        let mut delivered = Vec::new();
        match &handover {
            Some(handover) => {
                broker.for_each_subscription(key, |subscription| {
                    delivered.push((subscription.sid().into(), subscription.delivered.get()));
                });
                broker.note_moved(handover);
            }
            None => assert!(broker.has_no_subscriptions(key), "they are not handed over"),
        }
        broker.detach(key);
        drop(broker);
        outbox.add_to_totals();
        if let Some(at) = outbox.take_delivered_at() {
            peer.traffic.note_activity(at);
        }
        MovingClient {
            is_later,
            delivered,
            sent: outbox.counted(),
            account,
            permissions: rights.permissions,
            has_mappings: rights.has_mappings,
            subscriptions_max: rights.subscriptions_max,
            subject_tokens_max: rights.subject_tokens_max,
            limits,
            parser,
            first_pong_sent: self.first_pong_sent,
            knows_of_lame_duck: self.knows_of_lame_duck,
            unsent: outbox.take_queued(),
            closed: outbox.close_reason(),
            peer,
        }
    }

    /// Puts the session together on another shard. Sends what the last shard left unsent, then what
    /// was kept for it here. `hosted`: present if it has subscriptions.
    pub fn put_together(
        moving: MovingClient,
        hosted: Option<Hosted>,
        context: Rc<ClientContext>,
    ) -> Self {
        let MovingClient { mut peer, account, permissions, limits, parser, .. } = moving;
        // The other shard counted its own: look again.
        peer.login.account_changes = context.account_changes.get().wrapping_sub(1);
        let (key, outbox) = match hosted {
            Some(Hosted { key, outbox, .. }) => (key, outbox),
            None => {
                assert!(moving.delivered.is_empty(), "nobody subscribed for it here");
                let pending_bytes_max = context.options.borrow().limits.pending_bytes_max;
                let pool = context.chunk_pool.clone();
                let outbox = Rc::new(Outbox::new(peer.id, pool, pending_bytes_max));
                outbox.headers.set(limits.headers);
                let mut broker = context.broker.borrow_mut();
                let key = broker.attach(AccountId::GLOBAL, outbox.clone());
                broker.set_account(key, account);
                (key, outbox)
            }
        };
        outbox.continue_counts(moving.sent);
        let broker = context.broker.borrow();
        moving.delivered.iter().for_each(|(sid, count)| broker.add_delivered(key, sid, *count));
        drop(broker);
        let mut session = Self {
            peer,
            outbox,
            key,
            account,
            rights: Rights {
                permissions,
                replies: None,
                has_mappings: moving.has_mappings,
                subscriptions_max: moving.subscriptions_max,
                subject_tokens_max: moving.subject_tokens_max,
            },
            limits,
            parser,
            publishing: None,
            trace: None,
            first_pong_sent: moving.first_pong_sent,
            knows_of_lame_duck: moving.knows_of_lame_duck,
            is_settled: true,
            is_bound: false,
            last_subscriptions: None,
            context,
        };
        session.track_replies();
        session.tell_facts(&mut session.context.broker.borrow_mut());
        session.renew_trace();
        if !moving.unsent.is_empty() {
            session.outbox.put_first(moving.unsent);
        }
        // If this shard is not in lame duck mode yet, the client is told with all others here.
        session.tell_of_lame_duck();
        if let Some(reason) = moving.closed {
            session.outbox.close(reason);
        }
        session
    }
}

/// Returns the wait until all shards have ended their parts of a handover.
fn wait_for_end(handover: &Handover) -> Step {
    let gate = handover.ended.clone();
    Step::WaitFor(Wait::Gate { gate, until: 1, at_most: None })
}
