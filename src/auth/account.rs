//! Accounts: isolated subject spaces, immutable once compiled and shared by all shards.

use std::sync::Arc;

use hashbrown::HashMap;

use super::mapping::Mappings;
use crate::config::auth_options::AccountLimitOptions;
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
}

impl Account {
    pub fn is_global(&self) -> bool {
        &*self.name == GLOBAL_ACCOUNT_NAME
    }
}

/// All accounts of one configuration, in the same order on every shard: `$G` first.
#[derive(Clone, Debug)]
pub struct AccountSet {
    accounts: Vec<Arc<Account>>,
    /// Index in `accounts` by name.
    places: HashMap<Arc<str>, usize>,
    system_index: Option<usize>,
}

impl AccountSet {
    /// `accounts` must begin with the global account, and at most one may be the system account.
    pub(super) fn new(accounts: Vec<Arc<Account>>) -> Self {
        assert!(accounts.first().is_some_and(|account| account.is_global()));
        let mut systems = accounts.iter().enumerate().filter(|(_, account)| account.is_system);
        let system_index = systems.next().map(|(index, _)| index);
        assert!(systems.next().is_none(), "there is one system account");
        drop(systems);
        let named = accounts.iter().enumerate();
        let places = named.map(|(place, account)| (account.name.clone(), place)).collect();
        Self { accounts, places, system_index }
    }

    pub fn global(&self) -> &Arc<Account> {
        &self.accounts[0]
    }

    /// Returns the system account; None if the file says `no_system_account`.
    pub fn system(&self) -> Option<&Arc<Account>> {
        self.system_index.map(|index| &self.accounts[index])
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Account>> {
        self.places.get(name).map(|place| &self.accounts[*place])
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.accounts.iter()
    }
}
