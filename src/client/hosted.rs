//! A client that is about to come from another shard: its subscriptions here, and the messages that
//! wait for it.

use std::rc::Rc;
use std::sync::Arc;

use super::context::ClientContext;
use super::guest::{Guest, GuestSubscription};
use crate::auth::permissions::{Permissions, SubscribeRight};
use crate::base::ids::{ClientKey, LinkId};
use crate::base::limits::HOSTED_SUBSCRIBED_MAX;
use crate::broker::Broker;
use crate::broker::byte_queue::RemotePublisher;
use crate::broker::handed_over::Handover;
use crate::broker::link::Congestion;
use crate::broker::outbox::Outbox;
use crate::protocol::nats::error::CloseReason;

/// A client that is about to come from another shard.
pub struct Hosted {
    pub(super) key: ClientKey,
    pub(super) outbox: Rc<Outbox>,
    handover: Rc<Handover>,
    /// The shard that it comes from.
    from: LinkId,
    permissions: Arc<Permissions>,
    /// The subscriptions that are not made yet.
    left: Vec<GuestSubscription>,
    has_switched: bool,
    is_withdrawn: bool,
}

/// The outcome of a step towards the switch.
pub enum HostedStep {
    /// The next step is for the next turn.
    Again,
    WaitFor(Congestion),
    /// All shards are told to cut.
    Switched,
}

impl Hosted {
    pub fn new(guest: Guest, from: LinkId, context: &ClientContext) -> Self {
        let pending_bytes_max = context.options.borrow().limits.pending_bytes_max;
        let outbox = Rc::new(Outbox::new(guest.id, context.chunk_pool.clone(), pending_bytes_max));
        outbox.headers.set(guest.headers);
        let mut broker = context.broker.borrow_mut();
        let key = broker.attach(guest.account, outbox.clone());
        broker.set_account(key, guest.account);
        let handover = broker.begin_coming(key);
        Self {
            key,
            outbox,
            handover,
            from,
            permissions: guest.permissions,
            left: guest.subscriptions,
            has_switched: false,
            is_withdrawn: false,
        }
    }

    pub fn outbox(&self) -> &Rc<Outbox> {
        &self.outbox
    }

    /// Returns the rights by which messages are kept for it.
    pub fn permissions(&self) -> &Arc<Permissions> {
        &self.permissions
    }

    /// Subscribes for the client, some subscriptions at a time, then tells all shards to cut.
    pub fn step(&mut self, broker: &mut Broker) -> HostedStep {
        for _ in 0..HOSTED_SUBSCRIBED_MAX {
            let Some(GuestSubscription { filter, sid }) = self.left.last() else { break };
            if let Some(congestion) = broker.interest_congestion() {
                return HostedStep::WaitFor(congestion);
            }
            let deny = match self.permissions.may_subscribe(filter, None) {
                SubscribeRight::AllowedWithDeliveryFilter(deny) => Some(deny),
                SubscribeRight::Allowed | SubscribeRight::Denied(_) => None,
            };
            broker.subscribe_coming(&self.handover, filter, sid, deny);
            self.left.pop();
        }
        if !self.left.is_empty() {
            return HostedStep::Again;
        }
        if let Some(congestion) = broker.switch_congestion() {
            return HostedStep::WaitFor(congestion);
        }
        broker.send_switch(&self.handover, self.from);
        self.has_switched = true;
        HostedStep::Switched
    }

    /// The client will not come. The handover goes on to its end nevertheless.
    pub fn withdraw(&mut self) {
        self.is_withdrawn = true;
        self.left.clear();
    }

    /// Returns true if it can be dropped: the client does not come, and all shards were told
    /// to cut.
    pub fn is_over(&self) -> bool {
        self.is_withdrawn && self.has_switched
    }

    /// Leaves the broker. Returns publishers on other shards that waited for the client.
    pub fn leave(self, broker: &mut Broker) -> Vec<RemotePublisher> {
        self.outbox.close(CloseReason::ClientClosed);
        broker.detach(self.key);
        self.outbox.take_resumable().unwrap_or_default()
    }
}
