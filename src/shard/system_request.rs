//! A request to the server, received on one shard, on its way to the thread that answers.

use std::sync::Arc;

use crate::base::ids::{AccountId, ShardId};
use crate::config::auth_options::PermissionOptions;

/// One request, with what only this shard knows about its sender.
#[derive(Debug)]
pub(crate) struct SystemRequest {
    /// The shard and the account in which the answer is to be published.
    pub shard: ShardId,
    pub account: AccountId,
    /// The account's name, unless it is the system account.
    pub other_account: Option<Arc<str>>,
    pub subject: Vec<u8>,
    pub reply: Vec<u8>,
    pub headers: Vec<u8>,
    pub payload: Vec<u8>,
    pub requester: Option<Requester>,
}

/// The client that sent the request.
#[derive(Debug)]
pub(crate) struct Requester {
    pub user: String,
    pub account: String,
    /// As its owner calls it.
    pub account_name: String,
    pub permissions: Option<Arc<PermissionOptions>>,
}

impl SystemRequest {
    /// Returns the bytes of the parts whose length a client decides.
    pub(super) fn size(&self) -> usize {
        self.subject.len() + self.reply.len() + self.headers.len() + self.payload.len()
    }
}
