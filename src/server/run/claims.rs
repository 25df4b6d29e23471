//! Answers requests about the JWTs of accounts: pushes, look-ups, lists, deletions.
//!
//! Unlike nats-server's, a resolver stores only what it would accept at a login: a JWT that no
//! trusted operator signed never replaces a good one.

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::auth::account_jwt::AccountJwt;
use crate::auth::jwt::token::{Kind, Token};
use crate::auth::nkey::{KeyKind, is_public_key};
use crate::auth::trust::{BadAccount, Trust};
use crate::server::run::running::Server;
use crate::system::claims::{ClaimsAnswer, ClaimsRequest};

/// The claims of a request to delete accounts.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Deletion {
    #[serde(rename = "iss")]
    issuer: String,
    #[serde(rename = "sub")]
    subject: String,
    nats: Deleted,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Deleted {
    accounts: Option<Vec<String>>,
}

fn failed(account: &str, description: String) -> ClaimsAnswer {
    tracing::error!("{description}");
    ClaimsAnswer::Failed { account: account.to_owned(), description }
}

fn done(account: &str, message: impl Into<String>) -> ClaimsAnswer {
    let message = message.into();
    tracing::debug!("{message} - {account}");
    ClaimsAnswer::Done { account: account.to_owned(), message }
}

impl Server<'_> {
    /// Answers a request with this body.
    pub(super) fn answer_claims(&mut self, request: ClaimsRequest, body: &[u8]) -> ClaimsAnswer {
        let Some(trust) = self.auth.authenticator.trust().cloned() else {
            return ClaimsAnswer::Silence;
        };
        let text = String::from_utf8_lossy(body);
        match request {
            ClaimsRequest::Update(account) => {
                self.update_claims(&trust, account.as_deref(), text.trim())
            }
            ClaimsRequest::Lookup(account) => {
                let found = self.account_source.fetch(&account);
                ClaimsAnswer::Raw(vec![found.map_or(Vec::new(), |jwt| jwt.as_bytes().to_vec())])
            }
            ClaimsRequest::List => {
                let Some(store) = &self.account_source.store else { return ClaimsAnswer::Silence };
                let mut names: Vec<String> = store.names().cloned().collect();
                names.sort();
                ClaimsAnswer::List(names)
            }
            ClaimsRequest::Pack => self.pack_claims(body),
            ClaimsRequest::Delete => self.delete_claims(&trust, text.trim()),
        }
    }

    fn update_claims(&mut self, trust: &Trust, account: Option<&str>, text: &str) -> ClaimsAnswer {
        let (is_memory, is_full) = match &self.account_source.store {
            None => (true, false),
            Some(store) => (false, store.is_full_store()),
        };
        let verb = match (is_memory, is_full) {
            (true, _) => "jwt update error",
            (_, true) => "jwt update resulted in error",
            (_, false) => "jwt update cache resulted in error",
        };
        if is_memory && text.is_empty() {
            return failed(account.unwrap_or(""), format!("{verb} - request body is empty"));
        }
        let jwt = match trust.accept_account(text) {
            Ok(jwt) => jwt,
            Err(BadAccount::Jwt(error)) => {
                return failed(account.unwrap_or("n/a"), format!("{verb} - {error}"));
            }
            Err(BadAccount::Issues(issues)) if is_full => {
                let issues = issues.listed();
                let text = format!("jwt validation failed - validation errors: [{issues}]");
                return failed(account.unwrap_or("n/a"), text);
            }
            Err(error) => return failed(account.unwrap_or("n/a"), format!("{verb} - {error}")),
        };
        let name = jwt.claims.common.subject.clone();
        if account.is_some_and(|account| account != name) {
            let account = account.unwrap_or("");
            return failed(account, format!("{verb} - subject does not match jwt content"));
        }
        let is_known = self.auth.authenticator.accounts().get(&name).is_some();
        if !is_full && !is_known {
            return done(
                &name,
                if is_memory { "jwt update skipped" } else { "jwt update cache skipped" },
            );
        }
        if let Some(store) = &mut self.account_source.store
            && let Err(error) = store.save(&name, text)
        {
            return failed(&name, format!("{verb} - {error}"));
        }
        if is_known || self.auth.is_imported(&name) {
            self.apply_new_claims(trust, jwt);
        }
        done(&name, if is_memory || is_full { "jwt updated" } else { "jwt updated cache" })
    }

    /// Applies new claims together with the accounts that they import from.
    fn apply_new_claims(&mut self, trust: &Trust, jwt: AccountJwt) {
        let mut found = std::collections::HashMap::new();
        for import in &jwt.claims.account.imports {
            let source = &mut self.account_source;
            // Imports from accounts that are missing are left out, and named in the log.
            let _ = source.look_up(&import.account, &self.auth, trust, &mut found);
        }
        found.insert(jwt.claims.common.subject.clone(), jwt);
        self.apply_accounts(found.into_values().collect());
    }

    /// Gives all JWTs, one message each, and an empty one; only that if the requester's hash says
    /// that it has the same.
    fn pack_claims(&mut self, hash: &[u8]) -> ClaimsAnswer {
        let Some(store) = &mut self.account_source.store else { return ClaimsAnswer::Silence };
        let mut names: Vec<String> = store.names().cloned().collect();
        names.sort();
        let mut own_hash = [0_u8; 32];
        let mut messages = Vec::new();
        for name in names {
            let Some(jwt) = store.fetch(&name) else { continue };
            for (own, byte) in own_hash.iter_mut().zip(Sha256::digest(&jwt)) {
                *own ^= byte;
            }
            messages.push(format!("{name}|{jwt}").into_bytes());
        }
        if own_hash == *hash {
            messages.clear();
        }
        messages.push(Vec::new());
        ClaimsAnswer::Raw(messages)
    }

    fn delete_claims(&mut self, trust: &Trust, text: &str) -> ClaimsAnswer {
        let system = trust.system_account.as_deref();
        let Some(store) = &mut self.account_source.store else { return ClaimsAnswer::Silence };
        let decoded = Token::decode(text).and_then(|token| match token.kind {
            Kind::Generic => token.into_claims::<Deletion>(),
            _ => Ok(Deletion::default()),
        });
        let deletion = match decoded {
            Ok(deletion) => deletion,
            Err(error) => {
                return failed("", format!("delete accounts request by  failed - {error}"));
            }
        };
        let is_key = |name: &String| is_public_key(name, KeyKind::Account);
        let reason = match &deletion.nats.accounts {
            _ if !store.may_delete() => "delete must be enabled in server config",
            _ if deletion.subject != deletion.issuer => "not self signed",
            _ if !trust.trusts(&deletion.issuer) => "not trusted",
            Some(names) if names.iter().any(|name| Some(&**name) == system) => {
                "not allowed to delete system account"
            }
            Some(names) if names.iter().all(is_key) => "",
            _ => "malformed request",
        };
        if !reason.is_empty() {
            let by = &deletion.subject;
            return failed("", format!("delete accounts request by {by} failed - {reason}"));
        }
        let names = deletion.nats.accounts.unwrap_or_default();
        let mut errors = Vec::new();
        for name in &names {
            errors.extend(store.delete(name).err().map(|error| error.to_string()));
        }
        let accounts = self.auth.authenticator.accounts();
        let known = names.iter().filter_map(|name| accounts.get(name)?.jwt.clone());
        let deleted: Vec<AccountJwt> = known.map(|jwt| jwt.deleted()).collect();
        self.apply_accounts(deleted);
        let count = names.len() - errors.len();
        if errors.is_empty() {
            return done("", format!("deleted {count} accounts"));
        }
        let (failures, texts) = (errors.len(), errors.join("\n"));
        failed("", format!("deleted {count} accounts, failed for {failures} - {texts}"))
    }
}
