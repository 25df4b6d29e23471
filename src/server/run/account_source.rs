//! Where the JWTs of accounts are found, and which accounts are to be looked at again, and when.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::auth::account_jwt::AccountJwt;
use crate::auth::jwt::claims::AccountClaims;
use crate::auth::state::{Applied, AuthState};
use crate::auth::trust::{BadAccount, Trust};
use crate::base::limits::ACCOUNTS_PER_LOOKUP_MAX;
use crate::config::operator_options::ResolverOptions;
use crate::config::options::Options;
use crate::peer::login::unix_seconds;
use crate::server::host::jwt_store::JwtStore;

/// nats-server's text for an account that no resolver has.
const MISSING: &str = "account missing";

/// Returns true if a JWT was issued after the one that is known.
fn is_newer(known: &str, text: &str) -> bool {
    let issued_at =
        |text: &str| AccountClaims::decode(text).map(|claims| claims.common.issued_at).ok();
    issued_at(text) > issued_at(known)
}

/// The JWTs of accounts, in memory or in a directory, and what is to be done about accounts later.
#[derive(Default)]
pub(super) struct AccountSource {
    preloads: HashMap<String, Arc<str>>,
    /// Present if accounts are kept in a directory.
    pub(super) store: Option<JwtStore>,
    /// Seconds since 1970, with the account whose imports are to be built anew.
    rechecks: BTreeSet<(i64, Arc<str>)>,
}

impl AccountSource {
    /// Reads the preloads, which must be JWTs of accounts.
    ///
    /// # Errors
    /// nats-server's text about the first that is none.
    pub(super) fn new(options: &Options, trust: &Trust) -> Result<Self, String> {
        let mut source = Self::default();
        for (name, preload) in &*options.auth.operator.preloads {
            match trust.verify_account(&preload.jwt, unix_seconds()) {
                Err(BadAccount::Jwt(_)) => {
                    return Err(format!("{}: invalid account JWT", preload.place.0));
                }
                Err(BadAccount::Issues(issues)) => {
                    tracing::warn!("Account [{name}] has validation issues:");
                    issues.all().for_each(|issue| tracing::warn!("  - {issue}"));
                }
                Err(BadAccount::Untrusted | BadAccount::NeedsSigningKey) | Ok(_) => {}
            }
            source.preloads.insert(name.clone(), preload.jwt.clone());
        }
        if let ResolverOptions::Directory(options) = &trust.resolver {
            let refused = |error: io::Error| {
                let path = options.path.display();
                format!("error opening the directory of accounts {path}: {error}")
            };
            let mut store = JwtStore::open(options).map_err(refused)?;
            for (name, text) in std::mem::take(&mut source.preloads) {
                if !is_newer(&store.fetch(&name).unwrap_or_default(), &text) {
                    continue;
                }
                store.save(&name, &text).map_err(|error| format!("{name}: {error}"))?;
            }
            source.store = Some(store);
        }
        Ok(source)
    }

    pub(super) fn fetch(&mut self, name: &str) -> Option<Arc<str>> {
        match &mut self.store {
            None => self.preloads.get(name).cloned(),
            Some(store) => store.fetch(name).map(Arc::from),
        }
    }

    pub(super) fn keep_rechecks_of(&mut self, other: &Self) {
        self.rechecks.clone_from(&other.rechecks);
    }

    pub(super) fn schedule(&mut self, applied: &Applied) {
        self.rechecks.extend(applied.rechecks.iter().cloned());
    }

    /// Returns how long it is until imports have to be built anew, at most `longest`.
    pub(super) fn patience(&self, longest: Duration) -> Duration {
        let Some((at, _)) = self.rechecks.first() else { return longest };
        let seconds = u64::try_from(at.saturating_sub(unix_seconds())).unwrap_or(0);
        longest.min(Duration::from_secs(seconds).max(Duration::from_millis(10)))
    }

    pub(super) fn take_due(&mut self, now: i64) -> Vec<Arc<str>> {
        if let Some(store) = &mut self.store {
            store.sweep(Instant::now());
        }
        let mut due = Vec::new();
        while self.rechecks.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, name)) = self.rechecks.pop_first()
        {
            due.push(name);
        }
        due
    }

    /// Looks an account up, and those that it imports from, as far as they are not known.
    /// `found` gets them.
    ///
    /// # Errors
    /// Why the account itself cannot be used.
    pub(super) fn look_up(
        &mut self,
        name: &str,
        state: &AuthState,
        trust: &Trust,
        found: &mut HashMap<String, AccountJwt>,
    ) -> Result<(), String> {
        let now = unix_seconds();
        let is_good = |name: &str| {
            let known = state.authenticator.accounts().get(name);
            known.is_some_and(|known| known.jwt.as_ref().is_some_and(|jwt| !jwt.is_expired(now)))
        };
        let (mut outcome, mut visited) = (Ok(()), HashSet::new());
        let mut next = vec![name.to_owned()];
        while let Some(name) = next.pop() {
            let is_first = visited.is_empty();
            if visited.len() >= ACCOUNTS_PER_LOOKUP_MAX || !visited.insert(name.clone()) {
                continue;
            }
            if is_good(&name) || found.contains_key(&name) {
                continue;
            }
            let fetched = match self.fetch(&name) {
                None => Err(MISSING.to_owned()),
                Some(text) => match trust.verify_account(&text, now) {
                    Ok(jwt) if jwt.claims.common.subject == name => Ok(jwt),
                    Ok(_) => Err("account validation failed".to_owned()),
                    Err(error) => Err(error.to_string()),
                },
            };
            match fetched {
                Ok(jwt) => {
                    let imports = jwt.claims.account.imports.iter();
                    next.extend(imports.map(|import| import.account.clone()));
                    found.insert(name, jwt);
                }
                Err(why) if is_first => outcome = Err(why),
                Err(_) => {}
            }
        }
        outcome
    }

    /// Returns the first state of a server in operator mode: it knows the system account.
    ///
    /// # Errors
    /// If there is to be one, but it cannot be found.
    pub(super) fn begin(&mut self, state: &mut AuthState, trust: &Trust) -> Result<(), String> {
        let Some(system) = trust.system_account.clone() else { return Ok(()) };
        let mut found = HashMap::new();
        self.look_up(&system, state, trust, &mut found)
            .map_err(|why| format!("error resolving system account: {why}"))?;
        let applied = state.apply(found.into_values().collect(), unix_seconds());
        applied.problems.iter().for_each(|problem| tracing::error!("{problem}"));
        self.schedule(&applied);
        Ok(())
    }
}
