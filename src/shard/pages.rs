//! Long answers of a shard come in pages: their shape, the places to go on from, and what is asked for.

use crate::broker::subscription::Subscription;
use crate::protocol::subject;

/// A part of a list with the place to go on from; none = that was the end.
#[derive(Clone, Debug)]
pub(crate) struct Page<T, P = usize> {
    pub items: Vec<T>,
    pub next: Option<P>,
}

/// How far a walk over all subscriptions got.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SubscriptionPlace {
    pub(super) connection: usize,
    pub(super) bucket: usize,
}

/// How far the lists of some connections' subscriptions got.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ListPlace {
    /// In the list of connections that are asked for.
    pub(super) index: usize,
    pub(super) bucket: usize,
}

/// How far a walk for the accounts' totals got: first what ended connections did, then the open ones.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AccountPlace {
    pub(super) closed: usize,
    pub(super) connection: usize,
}

/// Which subscriptions are asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct SubscriptionFilter {
    pub account: Option<String>,
    /// Only those that a message to this subject would reach.
    pub subject: Option<String>,
    /// Only those that some message could reach that this filter matches too.
    pub overlaps: Option<String>,
    /// Only those whose messages this filter matches too; a subject stands for a message to it.
    pub within: Option<String>,
}

impl SubscriptionFilter {
    pub(super) fn passes(&self, subscription: &Subscription) -> bool {
        let filter = subscription.filter();
        let reached = |tested: &String| subject::matches(filter, tested.as_bytes());
        let overlaps = |other: &String| subject::overlap(filter, other.as_bytes());
        let within = |outer: &String| match subject::has_wildcard(outer.as_bytes()) {
            true => subject::is_subset(filter, outer.as_bytes()),
            false => subject::matches(filter, outer.as_bytes()),
        };
        self.subject.as_ref().is_none_or(reached)
            && self.overlaps.as_ref().is_none_or(overlaps)
            && self.within.as_ref().is_none_or(within)
    }
}
