//! Accounts: isolated subject spaces, immutable once compiled and shared by all shards.

use std::sync::Arc;

use rpds::{HashTrieMapSync, VectorSync};

use super::account_jwt::AccountJwt;
use super::mapping::Mappings;
use crate::config::auth_options::{AccountLimitOptions, TraceOptions};
use crate::config::jetstream_options::JetStreamAccountOptions;

/// The account of every client that is not assigned to another.
pub(crate) const GLOBAL_ACCOUNT_NAME: &str = "$G";
/// The system account, unless the file names another.
pub(crate) const SYSTEM_ACCOUNT_NAME: &str = "$SYS";

#[derive(Clone, Debug)]
pub struct Account {
    pub name: Arc<str>,
    /// Receives the server's own events; not bound by some prefixes that are reserved for the
    /// server.
    pub is_system: bool,
    pub limits: AccountLimitOptions,
    pub mappings: Mappings,
    /// None = it has no JetStream.
    pub jetstream: Option<JetStreamAccountOptions>,
    /// Present in operator mode.
    pub(crate) jwt: Option<Arc<AccountJwt>>,
    /// Where traces go that `traceparent` asks for; None = nowhere.
    pub trace: Option<TraceOptions>,
}

impl Account {
    pub fn is_global(&self) -> bool {
        &*self.name == GLOBAL_ACCOUNT_NAME
    }

    /// Returns true if a key is the account's own or one of its signing keys.
    pub(super) fn has_issuer(&self, key: &str) -> bool {
        self.jwt.as_ref().is_some_and(|jwt| jwt.scope_of(key).is_some())
    }

    /// Returns the name that the account's owner gave it; without one, its name here.
    pub(crate) fn given_name(&self) -> &str {
        let name = self.jwt.as_ref().map_or("", |jwt| &jwt.claims.common.name);
        if name.is_empty() { &self.name } else { name }
    }

    /// Returns the account's key, with the name that its owner gave it.
    pub(super) fn label(&self) -> String {
        let name = self.jwt.as_ref().map_or("", |jwt| &jwt.claims.common.name);
        match name.is_empty() {
            true => self.name.to_string(),
            false => format!("{}/{name}", self.name),
        }
    }
}

/// All accounts, in the same order on every shard: `$G` first. Cheap to clone, whatever their
/// number.
#[derive(Clone, Debug)]
pub struct AccountSet {
    global: Arc<Account>,
    system: Option<Arc<str>>,
    by_name: HashTrieMapSync<Arc<str>, Arc<Account>>,
    /// In the order in which they came.
    names: VectorSync<Arc<str>>,
}

impl AccountSet {
    /// `accounts` must begin with the global account, and at most one may be the system account.
    pub(super) fn new(accounts: Vec<Arc<Account>>) -> Self {
        let global = accounts.first().expect("there is the global account").clone();
        assert!(global.is_global());
        let (by_name, names) = (HashTrieMapSync::new_sync(), VectorSync::new_sync());
        let mut set = Self { global, system: None, by_name, names };
        accounts.into_iter().for_each(|account| set.insert(account));
        set
    }

    /// Adds an account, or replaces the one of its name.
    pub(super) fn insert(&mut self, account: Arc<Account>) {
        let name = account.name.clone();
        if account.is_system {
            let known = self.system.replace(name.clone());
            assert!(known.is_none_or(|known| known == name), "there is one system account");
        }
        if account.is_global() {
            self.global = account.clone();
        }
        if !self.by_name.contains_key(&name) {
            self.names.push_back_mut(name.clone());
        }
        self.by_name.insert_mut(name, account);
    }

    pub fn global(&self) -> &Arc<Account> {
        &self.global
    }

    /// Returns the system account; None if the file says `no_system_account`.
    pub fn system(&self) -> Option<&Arc<Account>> {
        self.system.as_ref().and_then(|name| self.by_name.get(name))
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Account>> {
        self.by_name.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.names.iter().filter_map(|name| self.by_name.get(name))
    }
}
