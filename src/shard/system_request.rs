//! What the server was asked on one shard, on its way to the thread that answers.

use std::sync::Arc;

use crate::base::ids::{AccountId, ShardId};
use crate::config::auth_options::PermissionOptions;

/// One request, with what only this shard knows of who asks.
#[derive(Debug)]
pub(crate) struct SystemRequest {
    /// Where the answer is to be published, and in which account.
    pub shard: ShardId,
    pub account: AccountId,
    /// The name of the account unless it is the system account.
    pub other_account: Option<Arc<str>>,
    pub subject: Vec<u8>,
    pub reply: Vec<u8>,
    pub headers: Vec<u8>,
    pub payload: Vec<u8>,
    pub requester: Option<Requester>,
}

/// A client that asks who it is.
#[derive(Debug)]
pub(crate) struct Requester {
    pub user: String,
    pub account: String,
    pub permissions: Option<Arc<PermissionOptions>>,
}

impl SystemRequest {
    /// Bytes of what a client decides the length of.
    pub(super) fn size(&self) -> usize {
        self.subject.len() + self.reply.len() + self.headers.len() + self.payload.len()
    }
}
