//! The values of a client that its next shard needs before it comes, and the orders about it.

use std::sync::Arc;

use crate::auth::permissions::Permissions;
use crate::base::ids::{AccountId, ConnectionId, ShardId};

/// A client with subscriptions that another shard is to receive messages for, until it comes.
pub struct Guest {
    pub id: ConnectionId,
    pub account: AccountId,
    /// The rights by which it subscribed.
    pub permissions: Arc<Permissions>,
    /// True if it takes HMSG.
    pub headers: bool,
    pub subscriptions: Vec<GuestSubscription>,
}

/// A plain subscription of such a client.
pub struct GuestSubscription {
    pub filter: Box<[u8]>,
    pub sid: Box<[u8]>,
}

/// An order about a client that is to come to another shard.
pub enum HandoverOrder {
    /// Receive messages for it.
    Host(Box<Guest>),
    /// It will not come: its connection has ended.
    Withdraw(ConnectionId),
}

/// Gives an order to a shard. Orders to one shard are carried out in the order given.
pub(crate) type GiveOrder = dyn Fn(ShardId, HandoverOrder);
