//! Operator mode as plain data: whom the server trusts, and where the JWTs of accounts are found.
//! Their meaning is decided in `auth`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::base::limits::CACHED_ACCOUNTS_DEFAULT;
use crate::config::secret::{Place, Secret};

/// Empty = the server is not in operator mode.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OperatorOptions {
    pub operators: Vec<OperatorJwt>,
    /// Keys that are trusted without an operator's JWT.
    pub trusted_keys: Vec<String>,
    /// None = as the operator's JWT says.
    pub resolver: Option<ResolverOptions>,
    /// Shared, because there may be many.
    pub preloads: Arc<HashMap<String, PreloadedAccount>>,
    /// The only accounts that may log in; empty = all.
    pub pinned_accounts: Vec<String>,
    /// The JWT of the user that stands in for clients without one.
    pub default_sentinel: Option<Secret>,
}

impl OperatorOptions {
    /// Returns true if clients log in by JWTs.
    pub fn is_on(&self) -> bool {
        !self.operators.is_empty() || !self.trusted_keys.is_empty()
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct OperatorJwt {
    pub jwt: String,
    /// Its place in the file, for errors.
    pub place: Place,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct PreloadedAccount {
    pub jwt: Arc<str>,
    /// Its place in the file, for errors.
    pub place: Place,
}

/// The place where the JWTs of accounts are found.
#[derive(Clone, Debug, PartialEq)]
pub enum ResolverOptions {
    /// Only those that are preloaded or pushed.
    Memory,
    /// A web server; the account's key is appended.
    Url(String),
    Directory(DirectoryOptions),
}

#[derive(Clone, Debug, PartialEq)]
pub struct DirectoryOptions {
    pub path: PathBuf,
    pub kind: DirectoryKind,
    /// The most accounts; 0 = any number.
    pub accounts_max: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub enum DirectoryKind {
    /// All accounts.
    Full { delete: Deletion },
    /// Those used last.
    Cache {
        /// None = as long as there is room.
        ttl: Option<Duration>,
    },
}

/// The fate of the file of an account that is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// Nothing is deleted.
    Refused,
    Renamed,
    Removed,
}

impl DirectoryOptions {
    /// Returns nats-server's default for a cache, where the file gives no limit.
    pub(super) fn accounts_max_of(kind: &DirectoryKind, limit: i64) -> usize {
        match (kind, usize::try_from(limit).unwrap_or(0)) {
            (DirectoryKind::Cache { .. }, 0) => CACHED_ACCOUNTS_DEFAULT,
            (_, limit) => limit,
        }
    }
}
