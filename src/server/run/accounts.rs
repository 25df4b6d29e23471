//! Accounts in operator mode: looked up for logins, handed to all shards, built anew when an
//! activation ends.
//!
//! The main thread is the only one that changes accounts. Many logins are answered with one new
//! state, since each state goes to every shard.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use crate::auth::account_jwt::AccountJwt;
use crate::auth::state::{Applied, AuthState};
use crate::config::options::Options;
use crate::peer::login::unix_seconds;
use crate::server::run::account_source::AccountSource;
use crate::server::run::all_shards::order_all;
use crate::server::run::running::Server;
use crate::shard::{AccountRequest, ShardOrder};

impl Server<'_> {
    /// Looks up the accounts of logins, and lets these continue.
    pub(super) fn look_up_accounts(&mut self, requests: Vec<AccountRequest>) {
        let Some(trust) = self.auth.authenticator.trust().cloned() else { return };
        let mut found = HashMap::new();
        let mut outcomes: HashMap<Arc<str>, Arc<str>> = HashMap::new();
        for request in &requests {
            outcomes.entry(request.account.clone()).or_insert_with(|| {
                let source = &mut self.account_source;
                let looked_up = source.look_up(&request.account, &self.auth, &trust, &mut found);
                looked_up.err().unwrap_or_default().into()
            });
        }
        self.apply_accounts(found.into_values().collect());
        for request in requests {
            let why = outcomes[&request.account].clone();
            let shard = &self.shards.handles[request.shard.index()];
            shard.give(ShardOrder::AccountLookedUp(request.login, why));
        }
    }

    /// Makes new claims those of all shards.
    pub(super) fn apply_accounts(&mut self, jwts: Vec<AccountJwt>) {
        if jwts.is_empty() {
            return;
        }
        for jwt in &jwts {
            let claims = &jwt.claims.common;
            tracing::debug!("Updating account claims: {}/{}", claims.subject, claims.name);
        }
        let mut state = AuthState::clone(&self.auth);
        let applied = state.apply(jwts, unix_seconds());
        self.adopt_accounts(state, applied);
    }

    /// Builds imports anew whose activations have ended.
    pub(super) fn recheck_accounts(&mut self) {
        let now = unix_seconds();
        let due = self.account_source.take_due(now);
        if due.is_empty() {
            return;
        }
        let mut state = AuthState::clone(&self.auth);
        let applied = state.recheck(&due, now);
        self.adopt_accounts(state, applied);
    }

    fn adopt_accounts(&mut self, state: AuthState, applied: Applied) {
        applied.problems.iter().for_each(|problem| tracing::error!("{problem}"));
        self.account_source.schedule(&applied);
        let auth = Arc::new(state);
        self.auth = auth.clone();
        self.live.lock().unwrap_or_else(PoisonError::into_inner).auth = auth.clone();
        if !applied.changed.is_empty() {
            order_all(&self.shards, |done| ShardOrder::ApplyAccounts {
                auth: auth.clone(),
                review: Some(done),
            });
            let accounts = auth.authenticator.accounts();
            let changed = applied.changed.iter().filter_map(|name| accounts.get(name));
            self.close_newest_of(&auth, changed);
        } else {
            for shard in &self.shards.handles {
                shard.give(ShardOrder::ApplyAccounts { auth: auth.clone(), review: None });
            }
        }
    }

    /// Prepares the accounts of a reload: those in memory have the claims that are preloaded now.
    ///
    /// # Errors
    /// If a preload is no JWT of an account.
    pub(super) fn reload_accounts(
        &self,
        options: &Options,
        state: &mut AuthState,
    ) -> Result<Option<AccountSource>, String> {
        let Some(trust) = state.authenticator.trust().cloned() else { return Ok(None) };
        let mut source = AccountSource::new(options, &trust)?;
        source.keep_rechecks_of(&self.account_source);
        let now = unix_seconds();
        let mut renewed = Vec::new();
        for account in state.authenticator.accounts().iter() {
            let Some(known) = &account.jwt else { continue };
            let text = source.fetch(&account.name).filter(|text| *text != known.text);
            let Some(text) = text else { continue };
            match trust.verify_account(&text, now) {
                Ok(jwt) => renewed.push(jwt),
                Err(why) => tracing::error!("Account [{}]: {why}", account.name),
            }
        }
        source.begin(state, &trust)?;
        let accounts = state.authenticator.accounts();
        let mut known = self.auth.authenticator.accounts().iter();
        if known.any(|known| accounts.get(&known.name).is_none()) {
            let applied = state.recheck(&state.all_importers(), now);
            source.schedule(&applied);
        }
        if !renewed.is_empty() {
            let applied = state.apply(renewed, now);
            applied.problems.iter().for_each(|problem| tracing::error!("{problem}"));
            source.schedule(&applied);
        }
        Ok(Some(source))
    }
}
