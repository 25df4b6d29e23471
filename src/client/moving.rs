//! Moves a client to another shard before anything it said has had an effect: its session is taken
//! apart into values, and put together again from them.
//!
//! It moves at its first subscription or message at the latest, so it has no subscription, nothing
//! was delivered to it, and nothing it published is in flight: there is only its identity and its
//! rights.

use std::rc::Rc;
use std::sync::Arc;

use super::context::ClientContext;
use super::rights::Rights;
use super::session::ClientSession;
use crate::auth::permissions::Permissions;
use crate::base::ids::AccountId;
use crate::broker::outbox::Outbox;
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
    /// Bytes pushed since its writer ended.
    unsent: Vec<u8>,
    /// Why it was closed, if it was closed since then.
    closed: Option<CloseReason>,
}

impl ClientSession {
    /// Takes the session apart and leaves the shard. The connection's tasks must have ended.
    pub fn take_apart(self) -> MovingClient {
        let Self { context, peer, outbox, key, account, rights, limits, parser, .. } = self;
        let mut broker = context.broker.borrow_mut();
        assert_eq!(broker.subscription_count(key), 0, "a client with subscriptions does not move");
        broker.detach(key);
        drop(broker);
        outbox.add_to_totals();
        MovingClient {
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
        let MovingClient { peer, account, permissions, limits, parser, .. } = moving;
        let pending_bytes_max = context.options.borrow().limits.pending_bytes_max;
        let outbox = Rc::new(Outbox::new(peer.id, context.chunk_pool.clone(), pending_bytes_max));
        outbox.headers.set(limits.headers);
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
