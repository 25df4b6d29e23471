//! What one client may do, from its identity's rights and the server's limits.

use std::rc::Rc;
use std::sync::Arc;

use crate::auth::account::Account;
use crate::auth::permissions::Permissions;
use crate::broker::outbox::ReplyTracker;
use crate::config::options::LimitOptions;

/// The rights of one client.
pub(super) struct Rights {
    pub permissions: Arc<Permissions>,
    /// Present if it may answer requests on subjects that no list allows.
    pub replies: Option<Rc<ReplyTracker>>,
    /// True if its account has subject mappings.
    pub has_mappings: bool,
    pub subscriptions_max: usize,
    /// Per filter; 0 = unlimited.
    pub subject_tokens_max: u32,
}

impl Rights {
    /// Returns the rights of a client that has not logged in.
    pub(super) fn open(
        permissions: Arc<Permissions>,
        limits: &LimitOptions,
        global: &Account,
    ) -> Self {
        let mut rights = Self {
            permissions,
            replies: None,
            has_mappings: false,
            subscriptions_max: 0,
            subject_tokens_max: 0,
        };
        rights.take_server_limits(limits, global);
        rights
    }

    /// Adopts what applies before a login: the server's limits, the global account's mappings.
    pub(super) fn take_server_limits(&mut self, limits: &LimitOptions, global: &Account) {
        self.subscriptions_max = unlimited_if_zero(limits.subscriptions_max);
        let tokens_max = u32::try_from(limits.subject_tokens_max);
        self.subject_tokens_max = tokens_max.unwrap_or(u32::MAX);
        self.has_mappings = !global.mappings.is_empty();
    }

    /// Adopts the limits that apply in an account.
    pub(super) fn take_limits(&mut self, limits: &LimitOptions, account: &Account) {
        self.take_server_limits(limits, account);
        let of_account = account.limits.subscriptions_max.unwrap_or(usize::MAX);
        self.subscriptions_max = self.subscriptions_max.min(of_account);
    }
}

/// Converts the server's limit of subscriptions, where 0 = unlimited; an account's limit of 0 means
/// none at all.
fn unlimited_if_zero(max: usize) -> usize {
    if max == 0 { usize::MAX } else { max }
}
