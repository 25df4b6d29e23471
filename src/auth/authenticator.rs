//! Decides who a client is: takes CONNECT, facts about the connection and the configuration, and
//! gives an identity or a refusal.
//!
//! The order of the decision is nats-server's: nkey users, then users by certificate or by name,
//! then the token, then the single user. An unknown nkey or name is refused where it is met and
//! never tried as something else. Source of the behaviour: nats-server server/auth.go
//! (processClientOrLeafAuthentication) and server/server.go (configureAccounts).
//!
//! Stricter than nats-server in two ways: a client that names the nkey of the `no_auth_user` must
//! sign for it; and if some user has a bcrypt hash, every refused name or password costs one bcrypt
//! comparison, so that timing does not tell which names exist.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;

use super::account::{Account, AccountSet};
use super::certificate::CertificateNames;
use super::imports::{Imports, ServiceImport, StreamImport, ToldExport};
use super::nkey::UserKey;
use super::password::{self, PasswordJob, PasswordOutcome};
use super::permissions::Permissions;
use super::tls_map::CertificateMap;
use super::trust::Trust;
use crate::config::auth_options::Secret;
use crate::protocol::nats::error::quoted;

mod build;
mod by_jwt;

pub(crate) use build::{AuthError, Surroundings};
pub(crate) use by_jwt::{JwtEnd, JwtUser};

/// The credentials in CONNECT; absent ones are empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credentials<'a> {
    pub user: &'a str,
    pub password: Given<'a>,
    pub token: Given<'a>,
    pub nkey: &'a str,
    pub jwt: Given<'a>,
    /// The nkey's signature of the nonce.
    pub signature: &'a str,
    /// `account` of CONNECT; clients that send it are refused.
    pub account: &'a str,
    /// `new_account` of CONNECT; clients that send it are refused.
    pub new_account: bool,
}

/// A secret that a client gave; `Debug` does not show it.
#[derive(Clone, Copy, Default)]
pub struct Given<'a>(pub &'a str);

impl fmt::Debug for Given<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[REDACTED]")
    }
}

impl Credentials<'_> {
    /// Returns true if there is no name, password or token. An nkey does not count, as in
    /// nats-server: where there are nkey users it was checked before.
    fn are_empty(&self) -> bool {
        self.user.is_empty() && self.password.0.is_empty() && self.token.0.is_empty()
    }
}

/// Facts about a connection that the server knows without the client's word.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionFacts<'a> {
    /// The nonce in this connection's INFO; empty if none was sent.
    pub nonce: &'a [u8],
    /// Names in the verified client certificate.
    pub certificate: Option<&'a CertificateNames>,
    pub connection_type: ConnectionType,
    /// None = it did not come over a network.
    pub address: Option<IpAddr>,
    /// Seconds since 1970.
    pub now: i64,
    /// In operator mode: the account was looked up for this login. The text says why that found
    /// none, if it did not.
    pub account_lookup: Option<&'a str>,
}

/// The way a connection came, by the names of `allowed_connection_types`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionType {
    Standard,
    Websocket,
    Leafnode,
    LeafnodeWebsocket,
    Mqtt,
    MqttWebsocket,
    InProcess,
}

impl ConnectionType {
    /// Parses a name in any letter case.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match &*name.to_ascii_uppercase() {
            "STANDARD" => Self::Standard,
            "WEBSOCKET" => Self::Websocket,
            "LEAFNODE" => Self::Leafnode,
            "LEAFNODE_WS" => Self::LeafnodeWebsocket,
            "MQTT" => Self::Mqtt,
            "MQTT_WS" => Self::MqttWebsocket,
            "IN_PROCESS" => Self::InProcess,
            _ => return None,
        })
    }

    /// In the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Standard,
        Self::Websocket,
        Self::Leafnode,
        Self::LeafnodeWebsocket,
        Self::Mqtt,
        Self::MqttWebsocket,
        Self::InProcess,
    ];

    /// Returns nats-server's name for such clients in monitoring and events.
    pub fn client_type(self) -> &'static str {
        match self {
            Self::Websocket => "websocket",
            Self::Mqtt | Self::MqttWebsocket => "mqtt",
            Self::Standard | Self::Leafnode | Self::LeafnodeWebsocket | Self::InProcess => "nats",
        }
    }
}

/// The connection types that a user may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ConnectionTypes {
    /// One bit per type; 0 = all.
    bits: u8,
}

impl ConnectionTypes {
    fn allow(self, connection_type: ConnectionType) -> bool {
        self.bits == 0 || self.bits & (1 << connection_type as u8) != 0
    }
}

/// The way a client proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// No authentication is configured.
    Open,
    /// The client gave no credentials, and `no_auth_user` stands in.
    NoAuthUser,
    /// One of several users, by name and password.
    User,
    /// One of several users, by certificate.
    Certificate,
    Nkey,
    Token,
    /// The single user of the `authorization` block.
    SingleUser,
    /// By a JWT that its account's operator stands for.
    Jwt,
}

/// Who a client is, and what it may do.
#[derive(Clone, Debug)]
pub struct Identity {
    pub login: Login,
    /// The user's name or public nkey; empty for a token, and if authentication is off.
    pub user_name: Arc<str>,
    pub account: Arc<Account>,
    pub permissions: Arc<Permissions>,
    /// The stored secret that let this client in, by which a reload sees whether it changed.
    proof: Option<Secret>,
    /// Present for a login by JWT.
    pub(crate) jwt: Option<Arc<JwtUser>>,
}

/// The answer to a CONNECT.
#[derive(Debug)]
pub enum Decision {
    Accepted(Identity),
    /// Run the job on a thread that may be slow, then call `resume` with its outcome.
    NeedsPasswordCheck(PasswordJob, PendingLogin),
    /// Look this account up, and decide again once that is done.
    NeedsAccount(Arc<str>),
    Refused(Refusal),
}

/// The result of looking up the user whom a certificate names.
#[derive(Debug, Default)]
pub struct CertificateLookup {
    /// nats-server's lines of the debug log; empty = certificates do not name users.
    pub lines: Vec<String>,
    /// The user found, whatever the decision about it.
    pub user: Option<Arc<str>>,
}

/// A login that waits for its `PasswordJob`.
#[derive(Debug)]
pub struct PendingLogin {
    /// The stored secret that the password is compared with.
    asked: Secret,
    /// The identity if the password is right; or a refusal, whatever the outcome of the job.
    result: Result<Identity, Refusal>,
}

impl PendingLogin {
    fn new(asked: &Secret, result: Result<Identity, Refusal>) -> Self {
        Self { asked: asked.clone(), result }
    }

    /// Returns the account that this login leads to if the password is right; None if it is refused
    /// in any case.
    pub fn account_name(&self) -> Option<&Arc<str>> {
        self.result.as_ref().ok().map(|identity| &identity.account.name)
    }

    /// Returns true if both compare with the same stored secret, so that an outcome for one fits
    /// the other.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        self.asked == other.asked
    }

    /// Ends the login with the outcome of its job.
    ///
    /// # Errors
    /// If the client is refused.
    pub fn resume(self, outcome: PasswordOutcome) -> Result<Identity, Refusal> {
        let identity = self.result?;
        match identity.login {
            _ if outcome.matches => Ok(identity),
            Login::Certificate => Err(Refusal::CertificatePassword),
            _ => Err(Refusal::WrongPassword),
        }
    }
}

/// Why a client was refused. For the log only: on the wire each is an `Authorization Violation`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// CONNECT named an account.
    AccountNamed,
    NoCredentials,
    UnknownNkey,
    BadSignature,
    NoCertificate,
    UnknownCertificate,
    UnknownUser,
    WrongPassword,
    /// Of the user whom the certificate names.
    CertificatePassword,
    WrongToken,
    ConnectionType,
    /// About a JWT, in nats-server's words.
    Jwt {
        text: Box<str>,
        /// nats-server logs it as an error.
        is_error: bool,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::AccountNamed => "CONNECT names an account",
            Self::NoCredentials => "no credentials given",
            Self::UnknownNkey => "unknown nkey",
            Self::BadSignature => "signature missing or not valid",
            Self::NoCertificate => "no client certificate",
            Self::UnknownCertificate => "client certificate names no user",
            Self::UnknownUser => "unknown user",
            Self::WrongPassword => "wrong password",
            Self::CertificatePassword => "CONNECT's password is not that of the certificate's user",
            Self::WrongToken => "wrong token",
            Self::ConnectionType => "connection type not allowed",
            Self::Jwt { text, .. } => text,
        })
    }
}

/// A user of any kind, compiled.
#[derive(Clone, Debug)]
struct User {
    name: Arc<str>,
    /// Empty for nkey users.
    stored: Secret,
    account: Arc<Account>,
    permissions: Arc<Permissions>,
    connection_types: ConnectionTypes,
}

impl User {
    fn identity(&self, login: Login) -> Identity {
        Identity {
            login,
            user_name: self.name.clone(),
            account: self.account.clone(),
            permissions: self.permissions.clone(),
            proof: Some(self.stored.clone()),
            jwt: None,
        }
    }

    fn may_connect(&self, connection_type: ConnectionType) -> Result<(), Refusal> {
        if !self.connection_types.allow(connection_type) {
            return Err(Refusal::ConnectionType);
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum NoAuthUser {
    /// An index of `users`.
    User(usize),
    Nkey(Arc<str>),
    /// Not configured, but implied by a file that only adds system users: `$G`, no restrictions.
    Implied,
}

/// The rules that depend on the way a client comes.
#[derive(Clone, Debug)]
struct Door {
    /// True if authentication is configured.
    required: bool,
    token: Option<User>,
    single_user: Option<User>,
    /// The user for clients without credentials.
    no_auth_user: Option<NoAuthUser>,
    /// True if certificates name users.
    maps_certificates: bool,
}

/// The authentication part of one configuration, compiled; immutable and shared by all shards.
#[derive(Clone, Debug)]
pub struct Authenticator {
    /// Present in operator mode: then there are no other users.
    trust: Option<Arc<Trust>>,
    front: Door,
    /// The door of WebSocket clients, if there is a listener for them.
    websocket: Option<Door>,
    accounts: AccountSet,
    imports: Imports,
    users: Vec<User>,
    user_by_name: HashMap<Arc<str>, usize>,
    nkey_users: HashMap<Arc<str>, (UserKey, User)>,
    /// Present if certificates name users at some door.
    certificates: Option<CertificateMap>,
    /// Compared in place of the hash of a name that does not exist.
    decoy: Option<Secret>,
    open_permissions: Arc<Permissions>,
}

impl Authenticator {
    pub fn accounts(&self) -> &AccountSet {
        &self.accounts
    }

    pub(super) fn imports(&self) -> &Imports {
        &self.imports
    }

    /// Returns the exports of an account.
    pub(crate) fn exports_of(&self, account: &str) -> Vec<ToldExport> {
        self.imports.exports_of(account)
    }

    /// The streams that an account imports.
    pub(crate) fn streams_of(&self, account: &str) -> &[Arc<StreamImport>] {
        self.imports.streams_of(account)
    }

    /// The services that an account imports.
    pub(crate) fn services_of(&self, account: &str) -> &[Arc<ServiceImport>] {
        self.imports.services_of(account)
    }

    fn door(&self, connection_type: ConnectionType) -> &Door {
        match (connection_type, &self.websocket) {
            (ConnectionType::Websocket, Some(door)) => door,
            _ => &self.front,
        }
    }

    /// Returns true if a client that comes this way has to log in; otherwise any verb may come
    /// before CONNECT.
    pub fn is_required(&self, connection_type: ConnectionType) -> bool {
        self.door(connection_type).required
    }

    /// Returns true if some client has to log in.
    pub fn is_required_somewhere(&self) -> bool {
        self.front.required || self.websocket.as_ref().is_some_and(|door| door.required)
    }

    /// Returns `auth_required` of INFO. A client port with a `no_auth_user` does not announce it.
    pub fn is_announced(&self, connection_type: ConnectionType) -> bool {
        let door = self.door(connection_type);
        let stands_in = !matches!(door.no_auth_user, None | Some(NoAuthUser::Implied));
        door.required && !(stands_in && connection_type == ConnectionType::Standard)
    }

    /// Returns true if a verb other than CONNECT may log a client in as `no_auth_user`.
    pub fn has_no_auth_user(&self, connection_type: ConnectionType) -> bool {
        self.door(connection_type).no_auth_user.is_some()
    }

    /// Returns true if INFO needs a nonce.
    pub fn needs_nonce(&self) -> bool {
        !self.nkey_users.is_empty() || self.trust.is_some()
    }

    /// Returns whom the server trusts in operator mode.
    pub(crate) fn trust(&self) -> Option<&Arc<Trust>> {
        self.trust.as_ref()
    }

    /// Takes over those accounts that came by JWT before a reload which `stays` names.
    pub(super) fn keep_accounts_of(&mut self, previous: &Self, stays: impl Fn(&str) -> bool) {
        self.imports = previous.imports.clone();
        for account in previous.accounts.iter().filter(|account| account.jwt.is_some()) {
            match stays(&account.name) {
                true => self.accounts.insert(account.clone()),
                false => self.imports.forget(&account.name),
            }
        }
    }

    pub(super) fn accounts_mut(&mut self) -> (&mut AccountSet, &mut Imports) {
        (&mut self.accounts, &mut self.imports)
    }

    /// Decides about one CONNECT or, with empty credentials, about a client that begins with
    /// another verb.
    #[cfg(test)]
    pub fn decide(&self, credentials: &Credentials<'_>, facts: &ConnectionFacts<'_>) -> Decision {
        self.decide_noting(credentials, facts, &mut CertificateLookup::default())
    }

    /// The same; `lookup` gets what a certificate contributed.
    pub fn decide_noting(
        &self,
        credentials: &Credentials<'_>,
        facts: &ConnectionFacts<'_>,
        lookup: &mut CertificateLookup,
    ) -> Decision {
        if credentials.new_account || !credentials.account.is_empty() {
            return Decision::Refused(Refusal::AccountNamed);
        }
        let door = self.door(facts.connection_type);
        if !door.required {
            return Decision::Accepted(self.open_identity());
        }
        if let Some(trust) = &self.trust {
            return self.decide_by_jwt(trust, credentials, facts);
        }
        if let Some(decision) = self.decide_by_nkey(door, credentials, facts) {
            return decision;
        }
        // An implied user is a user too: where certificates decide, nobody gets in as one without a
        // certificate.
        let has_users =
            !self.users.is_empty() || matches!(door.no_auth_user, Some(NoAuthUser::Implied));
        if let Some(certificates) = &self.certificates
            && door.maps_certificates
            && has_users
        {
            return self.decide_by_certificate(certificates, credentials, facts, lookup);
        }
        if let Some(decision) = self.decide_by_user(door, credentials, facts) {
            return decision;
        }
        if let Some(token) = &door.token {
            return self.check(token, credentials.token.0, Login::Token, facts);
        }
        if let Some(single_user) = &door.single_user {
            if *single_user.name != *credentials.user {
                return self.refuse_name(credentials.user, Refusal::UnknownUser);
            }
            return self.check(single_user, credentials.password.0, Login::SingleUser, facts);
        }
        Decision::Refused(Refusal::NoCredentials)
    }

    fn open_identity(&self) -> Identity {
        Identity {
            login: Login::Open,
            user_name: "".into(),
            account: self.accounts.global().clone(),
            permissions: self.open_permissions.clone(),
            proof: None,
            jwt: None,
        }
    }

    fn decide_by_nkey(
        &self,
        door: &Door,
        credentials: &Credentials<'_>,
        facts: &ConnectionFacts<'_>,
    ) -> Option<Decision> {
        if self.nkey_users.is_empty() {
            return None;
        }
        if credentials.nkey.is_empty() {
            let Some(NoAuthUser::Nkey(nkey)) = &door.no_auth_user else { return None };
            if !credentials.are_empty() {
                return None;
            }
            let (_, user) = self.nkey_users.get(nkey)?;
            return Some(match user.may_connect(facts.connection_type) {
                Ok(()) => Decision::Accepted(user.identity(Login::NoAuthUser)),
                Err(refusal) => Decision::Refused(refusal),
            });
        }
        let Some((key, user)) = self.nkey_users.get(credentials.nkey) else {
            return Some(Decision::Refused(Refusal::UnknownNkey));
        };
        Some(if let Err(refusal) = user.may_connect(facts.connection_type) {
            Decision::Refused(refusal)
        } else if key.verifies(facts.nonce, credentials.signature) {
            Decision::Accepted(user.identity(Login::Nkey))
        } else {
            Decision::Refused(Refusal::BadSignature)
        })
    }

    fn decide_by_certificate(
        &self,
        certificates: &CertificateMap,
        credentials: &Credentials<'_>,
        facts: &ConnectionFacts<'_>,
        lookup: &mut CertificateLookup,
    ) -> Decision {
        let Some(certificate) = facts.certificate else {
            lookup.lines.push("User required in cert, no peer certificates found".into());
            return Decision::Refused(Refusal::NoCertificate);
        };
        let allowed =
            |index: usize| self.users[index].connection_types.allow(facts.connection_type);
        let by_name =
            |name: &str| self.user_by_name.get(name).copied().filter(|&index| allowed(index));
        match certificates.find(certificate, by_name, allowed, &mut lookup.lines) {
            // A user who has a password must give that too.
            Some((index, way)) => {
                let user = &self.users[index];
                let name = quoted(user.name.as_bytes());
                lookup.lines.push(format!("Using {way} for auth [{name}]"));
                lookup.user = Some(user.name.clone());
                self.check(user, credentials.password.0, Login::Certificate, facts)
            }
            None => Decision::Refused(Refusal::UnknownCertificate),
        }
    }

    fn decide_by_user(
        &self,
        door: &Door,
        credentials: &Credentials<'_>,
        facts: &ConnectionFacts<'_>,
    ) -> Option<Decision> {
        match door.no_auth_user {
            Some(NoAuthUser::User(index)) if credentials.are_empty() => {
                let user = &self.users[index];
                return Some(match user.may_connect(facts.connection_type) {
                    Err(refusal) => Decision::Refused(refusal),
                    // nats-server compares the stored text as the password; a hash does not match
                    // itself.
                    Ok(()) if password::is_bcrypt(user.stored.expose()) => {
                        Decision::Refused(Refusal::WrongPassword)
                    }
                    Ok(()) => Decision::Accepted(user.identity(Login::NoAuthUser)),
                });
            }
            Some(NoAuthUser::Implied) if credentials.are_empty() => {
                let login = Login::NoAuthUser;
                return Some(Decision::Accepted(Identity { login, ..self.open_identity() }));
            }
            _ => {}
        }
        if credentials.user.is_empty() || self.users.is_empty() {
            return None;
        }
        Some(match self.user_by_name.get(credentials.user) {
            Some(&index) => {
                self.check(&self.users[index], credentials.password.0, Login::User, facts)
            }
            None => self.refuse_name(credentials.user, Refusal::UnknownUser),
        })
    }

    /// Checks that a known user may use this type of connection and that the secret is right.
    fn check(
        &self,
        user: &User,
        given: &str,
        login: Login,
        facts: &ConnectionFacts<'_>,
    ) -> Decision {
        if let Err(refusal) = user.may_connect(facts.connection_type) {
            return self.refuse_name(&user.name, refusal);
        }
        if password::is_bcrypt(user.stored.expose()) {
            let job = PasswordJob::new(user.stored.clone(), given);
            let pending = PendingLogin::new(&user.stored, Ok(user.identity(login)));
            return Decision::NeedsPasswordCheck(job, pending);
        }
        if password::secrets_equal(user.stored.expose(), given) {
            return Decision::Accepted(user.identity(login));
        }
        match login {
            Login::Token => Decision::Refused(Refusal::WrongToken),
            Login::Certificate => self.refuse_name(&user.name, Refusal::CertificatePassword),
            _ => self.refuse_name(&user.name, Refusal::WrongPassword),
        }
    }

    /// Refuses in the time that a wrong password takes, unless no name was given.
    fn refuse_name(&self, name: &str, refusal: Refusal) -> Decision {
        match &self.decoy {
            // What is compared does not matter, only that it takes the time.
            Some(decoy) if !name.is_empty() => Decision::NeedsPasswordCheck(
                PasswordJob::new(decoy.clone(), name),
                PendingLogin::new(decoy, Err(refusal)),
            ),
            _ => Decision::Refused(refusal),
        }
    }

    /// To be called after a reload. Returns true if the user or nkey that a client named is gone,
    /// or is in another account. Source: nats-server clientHasMovedToDifferentAccount.
    pub fn has_moved(&self, user_name: &str, nkey: &str, account_name: &str) -> bool {
        let user = if !nkey.is_empty() {
            self.nkey_users.get(nkey).map(|(_, user)| user)
        } else if !user_name.is_empty() {
            self.user_by_name.get(user_name).map(|&index| &self.users[index])
        } else {
            return false;
        };
        user.is_none_or(|user| *user.account.name != *account_name)
    }

    /// To be called after a reload. Returns the client's new identity if what let it in before
    /// still would, which spares a bcrypt comparison per connected client. None = decide again with
    /// the credentials it gave.
    pub fn renew(&self, identity: &Identity, connection_type: ConnectionType) -> Option<Identity> {
        let door = self.door(connection_type);
        let user = match identity.login {
            Login::Open => return (!door.required).then(|| self.open_identity()),
            Login::User if !door.maps_certificates => {
                &self.users[*self.user_by_name.get(&identity.user_name)?]
            }
            // If there are users, a name is looked up among them first; a token stands before the
            // single user.
            Login::SingleUser if self.users.is_empty() && door.token.is_none() => {
                door.single_user.as_ref().filter(|user| user.name == identity.user_name)?
            }
            Login::Token if self.users.is_empty() => door.token.as_ref()?,
            _ => return None,
        };
        if !door.required || user.may_connect(connection_type).is_err() {
            return None;
        }
        let is_proven = match &identity.proof {
            Some(proof) => user.stored == *proof,
            None => user.stored.expose().is_empty(),
        };
        is_proven.then(|| user.identity(identity.login))
    }
}

#[cfg(test)]
mod tests;
