//! Moves a client to another shard: its session is taken apart into values, and put together again
//! from them.
//!
//! A client moves before its first subscription or message, or later, while it has no subscription.
//! So nothing is delivered to it. What it has published is in the lanes to its receivers when it
//! leaves, and their shards may take it (`ClientSession::leave_for`, and the flush before its values
//! are handed over): by the rules in `mesh`, nothing that it publishes from then on is delivered
//! before that, on whatever shard. There are only its identity, its rights and its counts.

use std::rc::Rc;
use std::sync::Arc;

use super::context::ClientContext;
use super::rights::Rights;
use super::session::ClientSession;
use crate::auth::permissions::Permissions;
use crate::base::ids::{AccountId, ShardId};
use crate::broker::byte_queue::Sent;
use crate::broker::outbox::Outbox;
use crate::net::session::{Step, Wait};
use crate::peer::login::Stage;
use crate::peer::state::PeerState;
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
}

impl ClientSession {
    /// Asks the client to move to another shard. It does so when its next bytes are handled, if it
    /// may then.
    pub fn ask_to_move(&mut self, target: ShardId) {
        if self.is_settled && !self.is_bound {
            self.wanted_on = Some(target);
        }
    }

    /// Returns true if it may move now, or might soon: not while anything that it began is
    /// unfinished.
    pub fn may_move(&self) -> bool {
        let publishing = self.publishing.as_ref();
        self.is_settled
            && !self.is_bound
            && matches!(self.peer.login.stage(), Stage::Fresh | Stage::Connected)
            && self.rights.replies.is_none()
            && publishing.is_none_or(|mine| mine.turn.unfinished.is_none())
            && self.context.broker.borrow().has_no_subscriptions(self.key)
    }

    /// Returns the step by which the client moves, unless it may not move now. What it has published
    /// must be in the lanes first, as for a PONG.
    #[cold]
    pub(super) fn leave_for(&mut self, target: ShardId) -> Option<Step> {
        if !self.may_move() {
            return None;
        }
        let congestion = self.context.broker.borrow().fence();
        if let Some(congestion) = congestion {
            self.wanted_on = Some(target);
            return Some(Step::WaitFor(Wait::for_room(congestion)));
        }
        self.is_moved = true;
        Some(Step::Move(target))
    }

    /// Takes the session apart and leaves the shard. The connection's tasks must have ended.
    pub fn take_apart(self) -> MovingClient {
        let Self { context, mut peer, outbox, key, account, rights, limits, parser, .. } = self;
        let mut broker = context.broker.borrow_mut();
        assert_eq!(broker.subscription_count(key), 0, "a client with subscriptions does not move");
        broker.detach(key);
        drop(broker);
        outbox.add_to_totals();
        if let Some(at) = outbox.take_delivered_at() {
            peer.traffic.note_activity(at);
        }
        MovingClient {
            is_later: self.is_moved,
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

    /// Puts the session together on another shard, where it stays. Sends what the last shard left
    /// unsent.
    pub fn put_together(moving: MovingClient, context: Rc<ClientContext>) -> Self {
        let MovingClient { mut peer, account, permissions, limits, parser, .. } = moving;
        // The other shard counted its own: look again.
        peer.login.account_changes = context.account_changes.get().wrapping_sub(1);
        let pending_bytes_max = context.options.borrow().limits.pending_bytes_max;
        let outbox = Rc::new(Outbox::new(peer.id, context.chunk_pool.clone(), pending_bytes_max));
        outbox.headers.set(limits.headers);
        outbox.continue_counts(moving.sent);
        let mut broker = context.broker.borrow_mut();
        let key = broker.attach(AccountId::GLOBAL, outbox.clone());
        broker.set_account(key, account);
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
            is_moved: false,
            wanted_on: None,
            last_subscriptions: None,
            context,
        };
        session.track_replies();
        session.tell_facts(&mut session.context.broker.borrow_mut());
        session.renew_trace();
        if !moving.unsent.is_empty() {
            session.outbox.push_bytes(&moving.unsent);
        }
        // If this shard is not in lame duck mode yet, the client is told with all others here.
        session.tell_of_lame_duck();
        if let Some(reason) = moving.closed {
            session.outbox.close(reason);
        }
        session
    }
}
