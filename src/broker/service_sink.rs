//! The sink of a service's subscription: its mailbox.

use std::rc::Rc;

use super::mailbox::Mailbox;
use crate::base::ids::AccountId;
use crate::protocol::message::Message;

/// The messages that a service gets, by where they are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Messages published on this shard: the same service subscribes on every shard, and a message
    /// is answered where its publisher is. No other shard hears of the interest.
    OwnShard,
    /// Messages of the whole server: the service lives on this shard alone.
    Server,
}

/// Returns true for a message that the service does not want: it is routed as if the service were
/// not there.
pub(crate) type Declines = Box<dyn Fn(&Message<'_>) -> bool>;

/// The sink of a service's subscription.
pub struct ServiceSink {
    pub(super) account: AccountId,
    pub(super) reach: Reach,
    pub(super) declines: Option<Declines>,
    pub(super) mailbox: Rc<Mailbox>,
}

impl ServiceSink {
    /// True if the service wants a message. What came from another shard the same service has there
    /// already, unless it lives on one shard alone.
    pub(super) fn would_take(&self, message: &Message<'_>, is_from_elsewhere: bool) -> bool {
        let is_there = self.reach == Reach::OwnShard && is_from_elsewhere;
        !is_there && !self.declines.as_ref().is_some_and(|declines| declines(message))
    }
}
