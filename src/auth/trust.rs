//! Operator mode: whose signatures count, compiled from the options.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use tz::TimeZone;

use super::account_jwt::AccountJwt;
use super::jwt::claims::{
    AccountClaims, OperatorClaims, Permissions as PermissionClaims, UserClaims,
};
use super::jwt::token::JwtError;
use super::jwt::validate::{self, Issues};
use super::nkey::{KeyKind, is_public_key};
use super::permissions::Permissions;
use crate::base::time_zone;
use crate::config::auth_options::{
    AuthOptions, PermissionOptions, Secret, SubjectPermissionOptions,
};
use crate::config::operator_options::ResolverOptions;

/// The version that operators may demand, of the nats-server that this server stands for.
const VERSION: [u64; 3] = [2, 15, 3];

/// Whom a server in operator mode trusts.
#[derive(Debug)]
pub(crate) struct Trust {
    /// Keys that sign the JWTs of accounts.
    keys: HashSet<String>,
    /// Those of them whose accounts must sign users with signing keys.
    strict_keys: HashSet<String>,
    /// Accounts that may log in; empty = all.
    pinned: HashSet<String>,
    /// The user that stands in for a missing JWT.
    pub sentinel: Option<UserClaims>,
    pub system_account: Option<Arc<str>>,
    pub resolver: ResolverOptions,
    /// The operators with their JWTs.
    pub operators: Vec<(Arc<str>, OperatorClaims)>,
    /// The zone of times without one.
    pub local_zone: TimeZone,
}

/// The reason why the JWT of an account cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BadAccount {
    Jwt(JwtError),
    /// It is not signed by a trusted key.
    Untrusted,
    /// The operator itself signed it, and wants its signing keys to.
    NeedsSigningKey,
    Issues(Issues),
}

impl fmt::Display for BadAccount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Jwt(error) => error.fmt(formatter),
            Self::NeedsSigningKey => {
                formatter.write_str("operator requires issuer to be a signing key")
            }
            Self::Untrusted | Self::Issues(_) => formatter.write_str("account validation failed"),
        }
    }
}

impl Trust {
    /// Compiles the options; None = the server is not in operator mode.
    ///
    /// # Errors
    /// nats-server's text for the first thing that is wrong.
    pub(super) fn build(options: &AuthOptions) -> Result<Option<Arc<Self>>, String> {
        let operator = &options.operator;
        if !operator.is_on() {
            return match operator.default_sentinel {
                Some(_) => Err("default sentinel requires operators and accounts".into()),
                None => Ok(None),
            };
        }
        let mut operators: Vec<(Arc<str>, OperatorClaims)> = Vec::new();
        for operator in &operator.operators {
            let claims = OperatorClaims::decode(&operator.jwt).map_err(|error| {
                let place = &operator.place.0;
                format!("{place}: error parsing operator JWT: {error}")
            })?;
            operators.push((operator.jwt.as_str().into(), claims));
        }
        let sentinel = operator.default_sentinel.as_ref().map(read_sentinel).transpose()?;
        let system_account = system_account(options, &operators)?;
        let trust = Self {
            resolver: resolver(options, &operators, system_account.is_some())?,
            keys: HashSet::new(),
            strict_keys: HashSet::new(),
            pinned: pinned(options, system_account.as_deref())?,
            sentinel,
            system_account,
            operators,
            local_zone: time_zone::local(),
        };
        if !trust.operators.is_empty() {
            check_alone(options)?;
        }
        Ok(Some(Arc::new(trust.with_keys(options)?)))
    }

    fn with_keys(mut self, options: &AuthOptions) -> Result<Self, String> {
        self.keys.extend(options.operator.trusted_keys.iter().cloned());
        for (_, claims) in &self.operators {
            check_version(claims)?;
            let operator = &claims.operator;
            if operator.strict_signing_key_usage {
                self.strict_keys.extend(operator.signing_keys.iter().cloned());
            } else {
                self.keys.insert(claims.common.subject.clone());
            }
            self.keys.extend(operator.signing_keys.iter().cloned());
        }
        match self.keys.iter().find(|key| !is_public_key(key, KeyKind::Operator)) {
            None => Ok(self),
            Some(key) => {
                Err(format!("trusted Keys {key:?} are required to be a valid public operator nkey"))
            }
        }
    }

    /// Returns true if users of an account may log in at all.
    pub(super) fn admits(&self, account: &str) -> bool {
        self.pinned.is_empty() || self.pinned.contains(account)
    }

    pub(crate) fn trusts(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    /// Decodes an account's JWT, which must be signed by a trusted key. `now` is in seconds since
    /// 1970.
    ///
    /// # Errors
    /// If it cannot be used now.
    pub(crate) fn verify_account(&self, text: &str, now: i64) -> Result<AccountJwt, BadAccount> {
        let jwt = self.accept_account(text)?;
        let issues = validate::account(&jwt.claims, now);
        match issues.is_blocking() {
            true => Err(BadAccount::Issues(issues)),
            false => Ok(jwt),
        }
    }

    /// Does so for a JWT that may have expired.
    ///
    /// # Errors
    /// If it cannot be used at any time.
    pub(crate) fn accept_account(&self, text: &str) -> Result<AccountJwt, BadAccount> {
        let claims = AccountClaims::decode(text).map_err(BadAccount::Jwt)?;
        let issues = validate::account(&claims, 0);
        if issues.is_wrong() {
            return Err(BadAccount::Issues(issues));
        }
        let is_key = is_public_key(&claims.common.subject, KeyKind::Account);
        let issuer = &claims.common.issuer;
        let mut operators = self.operators.iter();
        if operators.any(|(_, operator)| operator.common.subject == *issuer) && !self.trusts(issuer)
        {
            return Err(BadAccount::NeedsSigningKey);
        }
        if !is_key || !self.trusts(issuer) {
            return Err(BadAccount::Untrusted);
        }
        let is_system = self.is_system(&claims.common.subject);
        Ok(AccountJwt {
            text: text.into(),
            own_key_signs: !self.strict_keys.contains(&claims.common.issuer),
            default_permissions: compile_permissions(
                &claims.account.default_permissions,
                is_system,
            ),
            claims: Arc::new(claims),
            is_deleted: false,
            is_complete: true,
        })
    }

    pub(super) fn is_system(&self, account: &str) -> bool {
        self.system_account.as_deref() == Some(account)
    }
}

/// Compiles what claims permit; None = everything. What is not valid permits nothing.
pub(super) fn compile_permissions(
    claims: &PermissionClaims,
    is_system: bool,
) -> Option<Arc<Permissions>> {
    let options = claims.to_options()?;
    let compiled = Permissions::compile(&options, is_system).unwrap_or_else(|_| {
        let nothing = || SubjectPermissionOptions { allow: None, deny: Some(vec![">".into()]) };
        let options = PermissionOptions {
            publish: Some(nothing()),
            subscribe: Some(nothing()),
            allow_responses: None,
        };
        Permissions::compile(&options, is_system).expect("the subject is valid")
    });
    Some(Arc::new(compiled))
}

fn read_sentinel(sentinel: &Secret) -> Result<UserClaims, String> {
    let Ok(user) = UserClaims::decode(sentinel.expose()) else {
        return Err("default sentinel JWT not valid".into());
    };
    // A user without rights of its own may have a signing key that makes it a bearer.
    let is_scoped = !user.user.issuer_account.is_empty() && user.has_no_rights();
    if !user.user.rights.bearer_token && !is_scoped {
        return Err("default sentinel must be a bearer token".into());
    }
    Ok(user)
}

fn system_account(
    options: &AuthOptions,
    operators: &[(Arc<str>, OperatorClaims)],
) -> Result<Option<Arc<str>>, String> {
    let claimed = |claims: &OperatorClaims| claims.operator.system_account.clone();
    match options.system_account.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => {
            let mut named = operators.iter().map(|(_, claims)| claimed(claims));
            let is_named = named.clone().any(|named| !named.is_empty());
            if is_named && !named.any(|named| named == name) {
                return Err("system_account in config and operator JWT must be identical".into());
            }
            Ok(Some(name.into()))
        }
        // With several operators none is asked.
        None => match operators {
            [(_, claims)] if !claimed(claims).is_empty() => Ok(Some(claimed(claims).into())),
            _ => Ok(None),
        },
    }
}

fn resolver(
    options: &AuthOptions,
    operators: &[(Arc<str>, OperatorClaims)],
    has_system_account: bool,
) -> Result<ResolverOptions, String> {
    if let Some(ResolverOptions::Directory(_)) = &options.operator.resolver
        && !has_system_account
    {
        return Err(
            "using nats based account resolver - the system account needs to be specified \
                    in configuration or the operator jwt"
                .into(),
        );
    }
    if let Some(resolver) = &options.operator.resolver {
        return Ok(resolver.clone());
    }
    match operators {
        [(_, claims)] if !claims.operator.account_server_url.is_empty() => {
            Err(crate::config::feature::Feature::Resolvers.refusal())
        }
        [] => Ok(ResolverOptions::Memory),
        _ => Err("operators require an account resolver to be configured".into()),
    }
}

fn pinned(options: &AuthOptions, system: Option<&str>) -> Result<HashSet<String>, String> {
    let mut pinned: HashSet<String> = options.operator.pinned_accounts.iter().cloned().collect();
    if let Some(key) = pinned.iter().find(|key| !is_public_key(key, KeyKind::Account)) {
        return Err(format!("pinned account key {key:?} is not a valid public account nkey"));
    }
    if !pinned.is_empty() {
        // Its users watch over the others.
        pinned.extend(system.map(str::to_owned));
    }
    Ok(pinned)
}

/// Refuses what operators do not go together with.
fn check_alone(options: &AuthOptions) -> Result<(), String> {
    let refused = if !options.accounts.is_empty() {
        "operators do not allow Accounts to be configured directly"
    } else if !options.users.is_empty() || !options.nkeys.is_empty() {
        "operators do not allow users to be configured directly"
    } else if !options.operator.trusted_keys.is_empty() {
        "conflicting options for 'TrustedKeys' and 'TrustedOperators'"
    } else if options.no_auth_user.is_some() {
        "no_auth_user not compatible with Trusted Operator"
    } else {
        return Ok(());
    };
    Err(refused.into())
}

fn check_version(claims: &OperatorClaims) -> Result<(), String> {
    let operator = &claims.common.subject;
    let asserted = &claims.operator.assert_server_version;
    if asserted.is_empty() {
        return Ok(());
    }
    let numbers: Result<Vec<u64>, _> = asserted.split('.').map(str::parse).collect();
    let Some(Ok::<[u64; 3], _>(numbers)) = numbers.ok().map(TryInto::try_into) else {
        return Err(format!(
            "operator {operator} expects version {asserted} got error instead: asserted server \
             version must be of the form <major>.<minor>.<update>"
        ));
    };
    for (name, (wanted, own)) in
        ["major", "minor", "update"].into_iter().zip(numbers.into_iter().zip(VERSION))
    {
        if wanted > own {
            return Err(format!(
                "operator {operator} expected {name} version {wanted} > server {name} version {own}"
            ));
        }
        if wanted < own {
            break;
        }
    }
    Ok(())
}
