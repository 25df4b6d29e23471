//! Pages of a shard's long answers: their shape, the places to continue from, and their filters.

use crate::broker::subscription::Subscription;
use crate::protocol::subject;

/// Part of a list, with the place to continue from; None = the end.
#[derive(Clone, Debug)]
pub(crate) struct Page<T, P = usize> {
    pub items: Vec<T>,
    pub next: Option<P>,
}

/// The position of a walk over all subscriptions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SubscriptionPlace {
    pub(super) connection: usize,
    pub(super) bucket: usize,
}

/// The position in the lists of some connections' subscriptions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ListPlace {
    /// Index in the list of requested connections.
    pub(super) index: usize,
    pub(super) bucket: usize,
}

/// The position of a walk for the accounts' totals: first those of ended connections, then the open
/// ones.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AccountPlace {
    pub(super) closed: usize,
    pub(super) connection: usize,
}

/// A filter for subscriptions.
#[derive(Clone, Debug, Default)]
pub(crate) struct SubscriptionFilter {
    pub account: Option<String>,
    /// Only those that a message to this subject would reach.
    pub subject: Option<String>,
    /// Only those with some subject in common with this filter.
    pub overlaps: Option<String>,
    /// Only those whose every subject this filter matches too; a literal subject means a message to
    /// it.
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
