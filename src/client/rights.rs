//! What one client may do, made of what its identity allows and of the server's own limits.

use std::rc::Rc;
use std::sync::Arc;

use crate::auth::account::Account;
use crate::auth::permissions::Permissions;
use crate::broker::outbox::ReplyTracker;
use crate::config::options::LimitOptions;

/// The rights of one client.
pub(super) struct Rights {
    pub permissions: Arc<Permissions>,
    /// Present where it may answer requests to subjects that no list allows.
    pub replies: Option<Rc<ReplyTracker>>,
    /// Its account has subject mappings.
    pub has_mappings: bool,
    pub subscriptions_max: usize,
    /// Of a filter; 0 = unlimited.
    pub subject_tokens_max: u32,
}

impl Rights {
    /// Of somebody who is nobody yet.
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

    /// What holds while nobody was found to be there: the server's limits, the global account's mappings.
    pub(super) fn take_server_limits(&mut self, limits: &LimitOptions, global: &Account) {
        self.subscriptions_max = unlimited_if_zero(limits.subscriptions_max);
        let tokens_max = u32::try_from(limits.subject_tokens_max);
        self.subject_tokens_max = tokens_max.unwrap_or(u32::MAX);
        self.has_mappings = !global.mappings.is_empty();
    }

    /// The same in an account.
    pub(super) fn take_limits(&mut self, limits: &LimitOptions, account: &Account) {
        self.take_server_limits(limits, account);
        let of_account = account.limits.subscriptions_max.unwrap_or(usize::MAX);
        self.subscriptions_max = self.subscriptions_max.min(of_account);
    }
}

/// The server's own limit of subscriptions; an account's limit of 0 means none at all.
fn unlimited_if_zero(max: usize) -> usize {
    if max == 0 { usize::MAX } else { max }
}
