//! Decides who a client is by its JWT, in operator mode.
//!
//! The order of the checks is nats-server's (server/auth.go processClientOrLeafAuthentication), and
//! so are the texts, which go to the debug log alone. Whoever presents a JWT causes its account to
//! be looked up before anything about the client itself is proven.

use super::*;
use crate::auth::jwt::cidr::Cidr;
use crate::auth::jwt::claims::{Scope, UserClaims, UserRights, is_revoked};
use crate::auth::jwt::template::{self, TemplateValues};
use crate::auth::jwt::{times, validate};
use crate::auth::trust::{Trust, compile_permissions};

/// The claims of a user's JWT that matter for as long as the user is connected.
#[derive(Debug)]
pub(crate) struct JwtUser {
    /// The key that signed it.
    pub issuer: Box<str>,
    /// The user's public key.
    pub subject: Box<str>,
    /// Seconds since 1970.
    pub issued_at: i64,
    /// The last second since 1970 at which the user may be connected.
    pub expires: i64,
    pub is_bearer: bool,
    /// The user's own limits; None = none.
    pub subscriptions_max: Option<usize>,
    pub payload_bytes_max: Option<usize>,
    /// The rights are those of the account.
    pub has_default_permissions: bool,
}

/// The reason why a client that was let in by a JWT has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JwtEnd {
    /// The account is gone, or does not admit it any more.
    Refused,
    AccountExpired,
    UserExpired,
    Revoked,
    /// The key that signed for it is gone, or gives other rights now.
    IssuerChanged,
}

/// The result of checking a JWT.
enum Checked {
    Good(Box<Identity>),
    NeedsAccount(Arc<str>),
}

fn refused<T>(text: impl Into<Box<str>>) -> Result<T, Refusal> {
    Err(Refusal::Jwt { text: text.into(), is_error: false })
}

/// Returns a limit of a user's JWT: -1 is none.
fn limit(number: i64) -> Option<usize> {
    usize::try_from(number.min(i64::from(i32::MAX))).ok()
}

impl Authenticator {
    pub(super) fn decide_by_jwt(
        &self,
        trust: &Trust,
        credentials: &Credentials<'_>,
        facts: &ConnectionFacts<'_>,
    ) -> Decision {
        match self.check_jwt(trust, credentials, facts) {
            Ok(Checked::Good(identity)) => Decision::Accepted(*identity),
            Ok(Checked::NeedsAccount(name)) => Decision::NeedsAccount(name),
            Err(refusal) => Decision::Refused(refusal),
        }
    }

    fn check_jwt(
        &self,
        trust: &Trust,
        credentials: &Credentials<'_>,
        facts: &ConnectionFacts<'_>,
    ) -> Result<Checked, Refusal> {
        let own = UserClaims::decode(credentials.jwt.0).ok();
        let Some(user) = own.or_else(|| trust.sentinel.clone()) else {
            return refused("Authentication requires a user JWT");
        };
        if user.user.rights.proxy_required {
            return refused("proxy connection required");
        }
        let issues = validate::user(&user, facts.now);
        if issues.is_blocking() {
            let issues = issues.listed();
            return refused(format!("User JWT no longer valid: &{{Issues:[{issues}]}}"));
        }
        let name = user.account();
        if !trust.admits(name) {
            return refused(format!("Account {name} not listed as operator pinned account"));
        }
        let account = match self.accounts.get(name) {
            Some(account) if !is_expired(account, facts.now) => account.clone(),
            known => match (facts.account_lookup, known) {
                (None, _) => return Ok(Checked::NeedsAccount(name.into())),
                (Some(_), Some(_)) => {
                    return refused("Account JWT lookup error: account expired");
                }
                (Some(why), None) => {
                    return refused(format!("Account JWT lookup error: {why}"));
                }
            },
        };
        self.check_in_account(trust, user, account, credentials, facts)
    }

    fn check_in_account(
        &self,
        trust: &Trust,
        user: UserClaims,
        account: Arc<Account>,
        credentials: &Credentials<'_>,
        facts: &ConnectionFacts<'_>,
    ) -> Result<Checked, Refusal> {
        let Some(jwt) = account.jwt.clone() else {
            return refused("Account JWT not signed by trusted operator");
        };
        if !trust.trusts(&jwt.claims.common.issuer) {
            return refused("Account JWT not signed by trusted operator");
        }
        let rights = match jwt.scope_of(&user.common.issuer) {
            None => return refused("User JWT issuer is not known"),
            Some(None) => user.user.rights.clone(),
            Some(Some(scope)) => rights_of_scope(scope, &user, &jwt.claims)?,
        };
        if rights.proxy_required {
            return refused("proxy connection required");
        }
        if rights.bearer_token && jwt.claims.account.limits.disallow_bearer {
            return refused("Account does not allow bearer tokens");
        }
        check_connection_type(&rights, facts.connection_type)?;
        if !rights.bearer_token {
            check_signature(&user.common.subject, credentials, facts)?;
        }
        let revocations = &jwt.claims.account.revocations;
        if is_revoked(revocations, &user.common.subject, user.common.issued_at) {
            return refused("User authentication revoked");
        }
        let expires = check_source_and_time(trust, &rights, facts)?;
        let own_end = match user.common.expires {
            0 => i64::MAX,
            end => end,
        };
        let own_permissions = compile_permissions(&rights.permissions, account.is_system);
        let has_default_permissions = own_permissions.is_none();
        let permissions = own_permissions
            .or_else(|| jwt.default_permissions.clone())
            .unwrap_or_else(|| Arc::new(Permissions::unrestricted(account.is_system)));
        let user_name: Arc<str> = user.common.subject.as_str().into();
        let jwt = JwtUser {
            issuer: user.common.issuer.into(),
            subject: user.common.subject.into(),
            issued_at: user.common.issued_at,
            expires: expires.min(own_end),
            is_bearer: rights.bearer_token,
            subscriptions_max: limit(rights.subs),
            payload_bytes_max: limit(rights.payload),
            has_default_permissions,
        };
        Ok(Checked::Good(Box::new(Identity {
            login: Login::Jwt,
            user_name,
            account,
            permissions,
            proof: None,
            jwt: Some(Arc::new(jwt)),
        })))
    }

    /// To be called after the account of a client has changed. Returns its identity now, without
    /// checking any signature again. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// If the client has to go.
    pub(crate) fn renew_jwt(
        &self,
        identity: &Identity,
        user: &Arc<JwtUser>,
        now: i64,
    ) -> Result<Identity, JwtEnd> {
        let account = self.accounts.get(&identity.account.name).ok_or(JwtEnd::Refused)?;
        let (Some(before), Some(jwt)) = (&identity.account.jwt, &account.jwt) else {
            return Err(JwtEnd::Refused);
        };
        let is_trusted = |trust: &Arc<Trust>| trust.trusts(&jwt.claims.common.issuer);
        if !self.trust.as_ref().is_some_and(is_trusted) {
            return Err(JwtEnd::Refused);
        }
        if jwt.is_expired(now) {
            return Err(JwtEnd::AccountExpired);
        }
        if user.is_bearer && jwt.claims.account.limits.disallow_bearer {
            return Err(JwtEnd::Refused);
        }
        if is_revoked(&jwt.claims.account.revocations, &user.subject, user.issued_at) {
            return Err(JwtEnd::Revoked);
        }
        if jwt.scope_of(&user.issuer).is_none()
            || jwt.scope_of(&user.issuer) != before.scope_of(&user.issuer)
        {
            return Err(JwtEnd::IssuerChanged);
        }
        let permissions = match (&jwt.default_permissions, user.has_default_permissions) {
            (Some(permissions), true) => permissions.clone(),
            (None, true) => Arc::new(Permissions::unrestricted(account.is_system)),
            (_, false) => identity.permissions.clone(),
        };
        Ok(Identity { account: account.clone(), permissions, ..identity.clone() })
    }
}

fn is_expired(account: &Account, now: i64) -> bool {
    account.jwt.as_ref().is_some_and(|jwt| jwt.is_expired(now))
}

/// Returns the rights of a user whose signing key has a scope: those of its template.
fn rights_of_scope(
    scope: &Scope,
    user: &UserClaims,
    account: &crate::auth::jwt::claims::AccountClaims,
) -> Result<UserRights, Refusal> {
    if !user.has_no_rights() {
        return refused("User JWT is not valid: scoped users require no permissions or limits set");
    }
    let values = TemplateValues {
        user,
        account_name: &account.common.name,
        account_tags: &account.account.tags,
    };
    match template::apply(&scope.template, values) {
        Ok(rights) => Ok(rights),
        Err(_) => refused("User JWT generated invalid permissions"),
    }
}

fn check_connection_type(rights: &UserRights, used: ConnectionType) -> Result<(), Refusal> {
    let (mut bits, mut unknown) = (0, Vec::new());
    for name in &rights.allowed_connection_types {
        match ConnectionType::parse(name) {
            Some(known) => bits |= 1 << known as u8,
            None => unknown.push(name),
        }
    }
    if bits == 0 && !unknown.is_empty() {
        return refused(format!("invalid connection types {unknown:?}"));
    }
    match (ConnectionTypes { bits }).allow(used) {
        true => Ok(()),
        false => refused("Connection type not allowed"),
    }
}

fn check_signature(
    subject: &str,
    credentials: &Credentials<'_>,
    facts: &ConnectionFacts<'_>,
) -> Result<(), Refusal> {
    if credentials.signature.is_empty() {
        return refused("Signature missing");
    }
    match UserKey::parse(subject) {
        Ok(key) if key.verifies(facts.nonce, credentials.signature) => Ok(()),
        _ => refused("Signature not verified"),
    }
}

/// Returns the last second since 1970 at which the user may be connected.
fn check_source_and_time(
    trust: &Trust,
    rights: &UserRights,
    facts: &ConnectionFacts<'_>,
) -> Result<i64, Refusal> {
    let is_within = |source: &String| {
        let range = Cidr::parse(source);
        range.is_some_and(|range| facts.address.is_some_and(|address| range.contains(address)))
    };
    if !rights.src.is_empty() && !rights.src.iter().any(is_within) {
        let address = facts.address.map(|address| address.to_canonical().to_string());
        let address = address.unwrap_or_default();
        let text = format!("Bad src Ip {address}").into();
        return Err(Refusal::Jwt { text, is_error: true });
    }
    let zone = &rights.times_location;
    match times::allowed_for(&rights.times, zone, &trust.local_zone, facts.now) {
        Some(seconds) => Ok(facts.now.saturating_add(seconds)),
        None => Err(Refusal::Jwt { text: "Outside connect times".into(), is_error: true }),
    }
}
