//! The authentication of one configuration, with what outlives a reload: account ids and counts.

use std::collections::BTreeSet;
use std::sync::Arc;

use rpds::{HashTrieMapSync, HashTrieSetSync, VectorSync};

use super::account::Account;
use super::account_imports::AccountImports;
use super::account_jwt::{self, AccountJwt};
use super::authenticator::{AuthError, Authenticator, Surroundings};
use super::imports::{KnownAccounts, Renewed};
use super::mapping::Mappings;
use super::trust::Trust;
use crate::base::counters::Gauge;
use crate::base::ids::AccountId;
use crate::config::operator_options::ResolverOptions;
use crate::config::options::Options;

/// Immutable and shared by all shards; a reload derives a new one from the old, and so does an account
/// that appears or changes. Cheap to clone.
#[derive(Clone)]
pub struct AuthState {
    pub authenticator: Authenticator,
    accounts: HashTrieMapSync<Arc<str>, AccountFacts>,
    /// The accounts of this configuration by id; None for accounts that are gone.
    by_id: VectorSync<Option<Arc<Account>>>,
    imports: Arc<AccountImports>,
    /// In operator mode: the accounts that want to import from one, by its name.
    importers: HashTrieMapSync<Arc<str>, HashTrieSetSync<Arc<str>>>,
    /// Chooses among the destinations of mappings.
    cluster_name: Option<Arc<str>>,
    /// Counts the states that followed each other.
    pub(crate) version: u64,
}

#[derive(Clone)]
struct AccountFacts {
    id: AccountId,
    connections: Gauge,
}

/// An account that a reload or a new JWT has brought, and what to tell about that.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// Accounts that clients may be in, and that are different now.
    pub changed: BTreeSet<Arc<str>>,
    /// For the log, as errors.
    pub problems: Vec<String>,
    /// Accounts whose imports are to be built anew at a time, in seconds since 1970.
    pub rechecks: Vec<(i64, Arc<str>)>,
}

impl Applied {
    fn take(&mut self, name: &str, renewed: Renewed) {
        let Renewed { problems, recheck_at, .. } = renewed;
        self.problems.extend(problems);
        self.rechecks.extend(recheck_at.map(|at| (at, name.into())));
    }
}

impl AuthState {
    /// Compiles the authentication of `options`. Accounts that `previous` knew keep their ids, so
    /// that clients who stay keep their subscriptions. In operator mode those that it knew stay.
    ///
    /// # Errors
    /// If the options are wrong; the text says what an operator has to change.
    pub fn build(options: &Options, previous: Option<&Self>) -> Result<Self, AuthError> {
        let verify_and_map = options.tls.as_ref().is_some_and(|tls| tls.verify_and_map);
        let cluster_name = options.cluster_name.as_deref();
        let websocket = options.websocket.port.map(|_| &options.websocket);
        let domain = options.jetstream.domain.as_deref();
        let domain = domain.filter(|_| options.jetstream.is_enabled);
        let surroundings = Surroundings { verify_and_map, cluster_name, websocket, domain };
        let mut authenticator = Authenticator::build(&options.auth, surroundings)?;
        let mut importers = HashTrieMapSync::new_sync();
        if let Some(previous) = previous.filter(|_| authenticator.trust().is_some()) {
            let operator = &options.auth.operator;
            let is_memory = |trust: &Trust| trust.resolver == ResolverOptions::Memory;
            let in_memory = authenticator.trust().is_some_and(|trust| is_memory(trust));
            let stays = |name: &str| !in_memory || operator.preloads.contains_key(name);
            authenticator.keep_accounts_of(&previous.authenticator, stays);
            importers = previous.importers.clone();
        }
        let accounts = previous.map(|state| state.accounts.clone());
        let mut state = Self {
            accounts: accounts.unwrap_or_else(HashTrieMapSync::new_sync),
            by_id: VectorSync::new_sync(),
            imports: Arc::default(),
            importers,
            cluster_name: cluster_name.map(Arc::from),
            version: previous.map_or(0, |state| state.version + 1),
            authenticator,
        };
        let all: Vec<Arc<Account>> = state.authenticator.accounts().iter().cloned().collect();
        all.into_iter().for_each(|account| state.place(account));
        let id = |name: &str| state.accounts[name].id;
        let imports = state.authenticator.imports();
        let imports = AccountImports::new(imports, state.authenticator.accounts(), id);
        state.imports = Arc::new(imports);
        assert_eq!(state.id(state.authenticator.accounts().global()), AccountId::GLOBAL);
        Ok(state)
    }

    /// Gives an account an id, unless it has one, and makes it known by that.
    fn place(&mut self, account: Arc<Account>) {
        if !self.accounts.contains_key(&account.name) {
            let id = AccountId(u32::try_from(self.accounts.size()).expect("few accounts"));
            let facts = AccountFacts { id, connections: Gauge::default() };
            self.accounts.insert_mut(account.name.clone(), facts);
        }
        let index = self.accounts[&account.name].id.index();
        while self.by_id.len() <= index {
            self.by_id.push_back_mut(None);
        }
        assert!(self.by_id.set_mut(index, Some(account)));
    }

    /// Takes over JWTs of accounts in operator mode: new accounts, or new claims of known ones.
    /// `now` is in seconds since 1970.
    pub(crate) fn apply(&mut self, jwts: Vec<AccountJwt>, now: i64) -> Applied {
        let mut applied = Applied::default();
        self.version += 1;
        let names: Vec<Arc<str>> =
            jwts.into_iter().map(|jwt| self.apply_claims(jwt, &mut applied)).collect();
        // All of them are there now, so those that import from each other find each other.
        self.renew_imports(&names, true, now, &mut applied);
        applied
    }

    /// Returns true if an account that is known wants to import from this one.
    pub(crate) fn is_imported(&self, exporter: &str) -> bool {
        self.importers.contains_key(exporter)
    }

    /// Returns the accounts that want to import something.
    pub(crate) fn all_importers(&self) -> Vec<Arc<str>> {
        let all: BTreeSet<Arc<str>> =
            self.importers.values().flat_map(|importers| importers.iter().cloned()).collect();
        all.into_iter().collect()
    }

    /// Builds imports anew whose activations have ended.
    pub(crate) fn recheck(&mut self, names: &[Arc<str>], now: i64) -> Applied {
        let mut applied = Applied::default();
        self.version += 1;
        self.renew_imports(names, false, now, &mut applied);
        applied
    }

    fn apply_claims(&mut self, jwt: AccountJwt, applied: &mut Applied) -> Arc<str> {
        let options = account_jwt::options_of(&jwt.claims);
        let name: Arc<str> = options.name.as_str().into();
        let known = self.authenticator.accounts().get(&name).cloned();
        applied.changed.extend(known.as_ref().map(|_| name.clone()));
        let old_claims = known.as_ref().and_then(|known| known.jwt.clone());
        for exporter in old_claims.iter().flat_map(|old| &old.claims.account.imports) {
            self.note_import(&exporter.account, &name, false);
        }
        for exporter in &options.imports {
            self.note_import(&exporter.account, &name, true);
        }
        let cluster = self.cluster_name.clone();
        let mappings =
            Mappings::compile_each(&options.mappings, &name, cluster.as_deref(), |error| {
                applied.problems.push(error.to_string());
            });
        let is_system = self.authenticator.trust().is_some_and(|trust| trust.is_system(&name));
        let account = Account {
            name: name.clone(),
            is_system,
            limits: options.limits,
            mappings,
            jetstream: options.jetstream,
            trace: options.trace,
            jwt: Some(Arc::new(jwt)),
        };
        self.replace(account);
        name
    }

    fn note_import(&mut self, exporter: &str, importer: &Arc<str>, imports: bool) {
        let mut all = self.importers.get(exporter).cloned().unwrap_or_default();
        match imports {
            true => all.insert_mut(importer.clone()),
            false => {
                all.remove_mut(importer);
            }
        }
        match all.is_empty() {
            true => {
                self.importers.remove_mut(exporter);
            }
            false => self.importers.insert_mut(exporter.into(), all),
        }
    }

    fn replace(&mut self, account: Account) {
        let account = Arc::new(account);
        self.authenticator.accounts_mut().0.insert(account.clone());
        self.place(account);
    }

    /// Builds what these accounts export and import anew, and what others import from them. If
    /// `has_new_claims`, those others are affected even where the exports are the same.
    fn renew_imports(
        &mut self,
        names: &[Arc<str>],
        has_new_claims: bool,
        now: i64,
        applied: &mut Applied,
    ) {
        let mut others: BTreeSet<Arc<str>> = BTreeSet::new();
        for name in names {
            let renewed = self.renew_account(name, now);
            if (renewed.exports_changed || has_new_claims)
                && let Some(importers) = self.importers.get(name)
            {
                others.extend(importers.iter().cloned());
            }
            self.finish(name, renewed, applied);
        }
        // Those of the same call may have been built before what they import.
        for name in others {
            let renewed = self.renew_account(&name, now);
            self.finish(&name, renewed, applied);
        }
    }

    fn renew_account(&mut self, name: &str, now: i64) -> Renewed {
        let Some(jwt) = self.authenticator.accounts().get(name).and_then(|a| a.jwt.clone()) else {
            return Renewed::default();
        };
        let options = account_jwt::options_of(&jwt.claims);
        let (accounts, imports) = self.authenticator.accounts_mut();
        imports.renew_account(&options, &KnownAccounts { accounts, now })
    }

    /// Makes the shards see what an account imports now.
    fn finish(&mut self, name: &Arc<str>, renewed: Renewed, applied: &mut Applied) {
        let Some(account) = self.authenticator.accounts().get(name).cloned() else { return };
        let is_complete = renewed.problems.is_empty();
        let was_complete = account.jwt.as_ref().is_none_or(|jwt| jwt.is_complete);
        if renewed.imports_changed || is_complete != was_complete {
            applied.changed.insert(name.clone());
            // Another value, so that its clients are reviewed.
            let mut account = Account::clone(&account);
            account.jwt = account.jwt.map(|jwt| Arc::new(jwt.completed(is_complete)));
            self.replace(account);
        }
        let mut all = AccountImports::clone(&self.imports);
        let id = |name: &str| self.accounts[name].id;
        all.renew(name, self.authenticator.imports(), self.authenticator.accounts(), id);
        self.imports = Arc::new(all);
        applied.take(name, renewed);
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
