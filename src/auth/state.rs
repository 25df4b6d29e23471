//! The authentication of one configuration, with what outlives a reload: account ids and counts.

use hashbrown::HashMap;
use std::sync::Arc;

use super::account::Account;
use super::account_imports::AccountImports;
use super::authenticator::{AuthError, Authenticator, Surroundings};
use crate::base::counters::Gauge;
use crate::base::ids::AccountId;
use crate::config::options::Options;

/// Immutable and shared by all shards; a reload derives a new one from the old.
pub struct AuthState {
    pub authenticator: Authenticator,
    accounts: HashMap<Arc<str>, AccountFacts>,
    /// The accounts of this configuration by id; None for accounts that are gone.
    by_id: Vec<Option<Arc<Account>>>,
    imports: Arc<AccountImports>,
}

#[derive(Clone)]
struct AccountFacts {
    id: AccountId,
    connections: Gauge,
}

impl AuthState {
    /// Compiles the authentication of `options`. Accounts that `previous` knew keep their ids, so
    /// that clients who stay keep their subscriptions.
    ///
    /// # Errors
    /// If the options are wrong; the text says what an operator has to change.
    pub fn build(options: &Options, previous: Option<&Self>) -> Result<Self, AuthError> {
        let verify_and_map = options.tls.as_ref().is_some_and(|tls| tls.verify_and_map);
        let surroundings = Surroundings { verify_and_map, cluster_name: None };
        let authenticator = Authenticator::build(&options.auth, surroundings)?;
        let mut accounts = previous.map(|state| state.accounts.clone()).unwrap_or_default();
        for account in authenticator.accounts().iter() {
            if !accounts.contains_key(&account.name) {
                let id = AccountId(u32::try_from(accounts.len()).expect("few accounts"));
                accounts.insert(
                    account.name.clone(),
                    AccountFacts { id, connections: Gauge::default() },
                );
            }
        }
        let mut by_id = vec![None; accounts.len()];
        for account in authenticator.accounts().iter() {
            by_id[accounts[&account.name].id.index()] = Some(account.clone());
        }
        let id = |name: &str| accounts[name].id;
        let imports =
            Arc::new(AccountImports::new(authenticator.imports(), authenticator.accounts(), id));
        let state = Self { authenticator, accounts, by_id, imports };
        assert_eq!(state.id(state.authenticator.accounts().global()), AccountId::GLOBAL);
        Ok(state)
    }

    /// Returns the id of an account of this configuration.
    pub fn id(&self, account: &Account) -> AccountId {
        self.facts(account).id
    }

    /// Returns the account with an id; None once a reload has removed it.
    pub fn account(&self, id: AccountId) -> Option<&Arc<Account>> {
        self.by_id.get(id.index())?.as_ref()
    }

    /// Returns the imports of all accounts.
    pub fn imports(&self) -> &Arc<AccountImports> {
        &self.imports
    }

    /// Returns the count of the account's clients over all shards.
    pub fn connections(&self, account: &Account) -> Gauge {
        self.facts(account).connections.clone()
    }

    fn facts(&self, account: &Account) -> &AccountFacts {
        self.accounts
            .get(&account.name)
            .expect("every account of the configuration was given an id")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::auth_options::AccountOptions;

    #[test]
    fn accounts_keep_their_ids_over_a_reload() {
        let with = |names: &[&str]| {
            let mut options = Options::default();
            options.auth.accounts = names
                .iter()
                .map(|name| AccountOptions { name: (*name).into(), ..Default::default() })
                .collect();
            options
        };
        let first = AuthState::build(&with(&["A", "B"]), None).expect("valid");
        let second = AuthState::build(&with(&["C", "B"]), Some(&first)).expect("valid");
        let account = |state: &AuthState, name| {
            let accounts = state.authenticator.accounts();
            state.id(accounts.get(name).expect("defined"))
        };
        assert_eq!(account(&first, "B"), account(&second, "B"));
        assert_ne!(account(&first, "A"), account(&second, "C"));
        for name in ["C", "B", "$G", "$SYS"] {
            let id = account(&second, name);
            assert_eq!(second.account(id).map(|account| &*account.name), Some(name));
        }
        assert!(second.account(account(&first, "A")).is_none(), "it is gone");
        assert!(first.account(account(&second, "C")).is_none(), "it came later");
    }
}
