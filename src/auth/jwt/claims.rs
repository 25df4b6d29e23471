//! The claims of operators, accounts, users and activations, as they stand in their JWTs.
//!
//! Names and defaults are those of the format: a number that is absent is 0, and -1 is "unlimited".
//! Of the older form (version 1) the fields that stand elsewhere are moved.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::token::{JwtError, Kind, NO_LIMIT, Token, default_to_no_limits};
use crate::config::auth_options::{
    PermissionOptions, ResponsePermissionOptions, SubjectPermissionOptions,
};

/// The key of a revocation that concerns everybody.
pub(crate) const ALL: &str = "*";

/// Seconds since 1970 by key: whatever was issued until then is revoked.
pub(crate) type Revocations = BTreeMap<String, i64>;

/// Returns true if something about `subject` that was issued at `issued_at` is revoked.
pub(crate) fn is_revoked(revocations: &Revocations, subject: &str, issued_at: i64) -> bool {
    let until = |key: &str| revocations.get(key).is_some_and(|until| *until >= issued_at);
    until(subject) || until(ALL)
}

/// The claims that every JWT has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CommonClaims {
    #[serde(rename = "aud", skip_serializing_if = "String::is_empty")]
    pub audience: String,
    /// Seconds since 1970; 0 = never.
    #[serde(rename = "exp", skip_serializing_if = "is_zero")]
    pub expires: i64,
    #[serde(rename = "jti", skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Seconds since 1970.
    #[serde(rename = "iat", skip_serializing_if = "is_zero")]
    pub issued_at: i64,
    #[serde(rename = "iss", skip_serializing_if = "String::is_empty")]
    pub issuer: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(rename = "nbf", skip_serializing_if = "is_zero")]
    pub not_before: i64,
    #[serde(rename = "sub", skip_serializing_if = "String::is_empty")]
    pub subject: String,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Any JWT: the common claims, what concerns its kind, and what version 1 has outside of that.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Envelope<T> {
    #[serde(flatten)]
    common: CommonClaims,
    nats: T,
    tags: Vec<String>,
    issuer_account: String,
}

fn open<T: Default + for<'de> Deserialize<'de>>(
    token: Token,
    kind: Kind,
) -> Result<(i64, Envelope<T>), JwtError> {
    if token.kind != kind {
        return Err(JwtError::Not(kind));
    }
    Ok((token.version, token.into_claims()?))
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OperatorClaims {
    pub common: CommonClaims,
    pub operator: Operator,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Operator {
    pub signing_keys: Vec<String>,
    pub account_server_url: String,
    pub operator_service_urls: Vec<String>,
    pub system_account: String,
    pub assert_server_version: String,
    pub strict_signing_key_usage: bool,
    pub tags: Vec<String>,
}

impl OperatorClaims {
    /// Decodes an operator's JWT.
    ///
    /// # Errors
    /// If it is no operator's JWT, or not signed by its issuer.
    pub(crate) fn decode(text: &str) -> Result<Self, JwtError> {
        let (version, envelope) = open::<Operator>(Token::decode(text)?, Kind::Operator)?;
        let mut operator = envelope.nats;
        if version == 1 {
            operator.tags = envelope.tags;
        }
        Ok(Self { common: envelope.common, operator })
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct AccountClaims {
    pub common: CommonClaims,
    pub account: AccountBody,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct AccountBody {
    pub imports: Vec<Import>,
    pub exports: Vec<Export>,
    pub limits: AccountLimits,
    #[serde(deserialize_with = "signing_keys")]
    pub signing_keys: BTreeMap<String, Option<Scope>>,
    pub revocations: Revocations,
    pub default_permissions: Permissions,
    pub mappings: BTreeMap<String, Vec<WeightedMapping>>,
    pub authorization: ExternalAuthorization,
    pub trace: Option<Trace>,
    pub cluster_traffic: String,
    pub description: String,
    pub info_url: String,
    pub tags: Vec<String>,
}

impl AccountClaims {
    /// Decodes an account's JWT.
    ///
    /// # Errors
    /// If it is no account's JWT, or not signed by its issuer.
    pub(crate) fn decode(text: &str) -> Result<Self, JwtError> {
        let (version, envelope) = open::<AccountBody>(Token::decode(text)?, Kind::Account)?;
        let mut account = envelope.nats;
        if version == 1 {
            account.tags = envelope.tags;
        }
        Ok(Self { common: envelope.common, account })
    }
}

/// Limits of an account, as far as this server has what they limit.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct AccountLimits {
    pub subs: i64,
    pub data: i64,
    pub payload: i64,
    pub imports: i64,
    pub exports: i64,
    /// Exports may have wildcards.
    pub wildcards: bool,
    pub disallow_bearer: bool,
    pub conn: i64,
    pub leaf: i64,
    #[serde(flatten)]
    pub jetstream: JetStreamLimits,
    pub tiered_limits: BTreeMap<String, JetStreamLimits>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct JetStreamLimits {
    pub mem_storage: i64,
    pub disk_storage: i64,
    pub streams: i64,
    pub consumer: i64,
    pub max_ack_pending: i64,
    pub mem_max_stream_bytes: i64,
    pub disk_max_stream_bytes: i64,
    pub max_bytes_required: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ExportType {
    Stream,
    Service,
}

impl ExportType {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Service => "service",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Export {
    pub name: String,
    pub subject: String,
    #[serde(rename = "type")]
    pub kind: Option<ExportType>,
    pub token_req: bool,
    pub revocations: Revocations,
    pub response_type: String,
    /// Nanoseconds.
    pub response_threshold: i64,
    pub service_latency: Option<Latency>,
    pub account_token_position: u32,
    pub advertise: bool,
    pub allow_trace: bool,
    pub description: String,
    pub info_url: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Latency {
    /// Percent; 0 = those whose headers ask for it.
    #[serde(deserialize_with = "sampling")]
    pub sampling: i64,
    pub results: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Import {
    pub name: String,
    pub subject: String,
    pub account: String,
    pub token: String,
    /// Superseded by `local_subject`.
    pub to: String,
    pub local_subject: String,
    #[serde(rename = "type")]
    pub kind: Option<ExportType>,
    pub share: bool,
    pub allow_trace: bool,
}

impl Default for Scope {
    fn default() -> Self {
        let unlimited =
            UserRights { subs: NO_LIMIT, data: NO_LIMIT, payload: NO_LIMIT, ..Default::default() };
        Self {
            key: String::new(),
            role: String::new(),
            template: unlimited,
            description: String::new(),
        }
    }
}

impl Import {
    /// Returns the subject in the exporting account. The older `to` of a service stands there.
    pub(crate) fn remote(&self) -> &str {
        match self.kind {
            Some(ExportType::Service) if self.local_subject.is_empty() && !self.to.is_empty() => {
                &self.to
            }
            _ => &self.subject,
        }
    }
}

/// A signing key whose users all have the same rights.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Scope {
    pub key: String,
    pub role: String,
    /// Limits that it does not name are none.
    #[serde(deserialize_with = "template")]
    pub template: UserRights,
    pub description: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct WeightedMapping {
    pub subject: String,
    /// Percent; 0 = 100.
    pub weight: u8,
    pub cluster: String,
}

impl WeightedMapping {
    pub(crate) fn percent(&self) -> u8 {
        if self.weight == 0 { 100 } else { self.weight }
    }
}

/// Delegation of logins to a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct ExternalAuthorization {
    pub auth_users: Vec<String>,
    pub allowed_accounts: Vec<String>,
    pub xkey: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Trace {
    #[serde(rename = "dest")]
    pub destination: String,
    pub sampling: i64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct UserClaims {
    pub common: CommonClaims,
    pub user: UserBody,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct UserBody {
    #[serde(flatten)]
    pub rights: UserRights,
    /// The account that the signing key belongs to; empty = the account signed itself.
    pub issuer_account: String,
    pub tags: Vec<String>,
}

/// The rights of a user, by its own JWT or by the template of a signing key.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct UserRights {
    #[serde(flatten)]
    pub permissions: Permissions,
    #[serde(deserialize_with = "sources")]
    pub src: Vec<String>,
    pub times: Vec<TimeRange>,
    pub times_location: String,
    pub subs: i64,
    pub data: i64,
    pub payload: i64,
    pub bearer_token: bool,
    pub proxy_required: bool,
    pub allowed_connection_types: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct TimeRange {
    pub start: String,
    pub end: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Permissions {
    #[serde(rename = "pub")]
    pub publish: SubjectLists,
    #[serde(rename = "sub")]
    pub subscribe: SubjectLists,
    #[serde(rename = "resp")]
    pub responses: Option<ResponsePermission>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct SubjectLists {
    pub allow: Vec<String>,
    pub deny: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct ResponsePermission {
    pub max: i64,
    /// Nanoseconds.
    pub ttl: i64,
}

impl Permissions {
    /// Returns the same as options of a file; None = none are given.
    pub(crate) fn to_options(&self) -> Option<PermissionOptions> {
        let list = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
        let lists = |lists: &SubjectLists| {
            let options =
                SubjectPermissionOptions { allow: list(&lists.allow), deny: list(&lists.deny) };
            (options.allow.is_some() || options.deny.is_some()).then_some(options)
        };
        let (publish, subscribe) = (lists(&self.publish), lists(&self.subscribe));
        let allow_responses = self.responses.as_ref().map(|responses| ResponsePermissionOptions {
            messages_max: u32::try_from(responses.max).ok(),
            expires: u64::try_from(responses.ttl).ok().map(Duration::from_nanos),
        });
        if publish.is_none() && subscribe.is_none() && allow_responses.is_none() {
            return None;
        }
        Some(PermissionOptions { publish, subscribe, allow_responses })
    }
}

impl UserClaims {
    /// Decodes a user's JWT.
    ///
    /// # Errors
    /// If it is no user's JWT, or not signed by its issuer.
    pub(crate) fn decode(text: &str) -> Result<Self, JwtError> {
        let mut token = Token::decode(text)?;
        if token.version == 1 {
            token.default_to_no_limits();
        }
        let (version, envelope) = open::<UserBody>(token, Kind::User)?;
        let mut user = envelope.nats;
        if version == 1 {
            user.tags = envelope.tags;
            user.issuer_account = envelope.issuer_account;
        }
        Ok(Self { common: envelope.common, user })
    }

    /// Returns the account that the user belongs to.
    pub(crate) fn account(&self) -> &str {
        match &*self.user.issuer_account {
            "" => &self.common.issuer,
            account => account,
        }
    }

    /// Returns true if nothing is said about its rights, as a scoped signing key demands.
    pub(crate) fn has_no_rights(&self) -> bool {
        self.user.rights == UserRights::default()
    }
}

/// An exporting account's permission for one other account.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ActivationClaims {
    pub common: CommonClaims,
    pub subject: String,
    pub kind: Option<ExportType>,
    /// The exporting account, if one of its signing keys signed.
    pub issuer_account: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ActivationBody {
    subject: String,
    kind: Option<ExportType>,
    issuer_account: String,
    /// In version 1 the kind of import, in version 2 that of the JWT.
    #[serde(rename = "type")]
    word: String,
}

impl ActivationClaims {
    /// Decodes an activation.
    ///
    /// # Errors
    /// If it is no activation, or not signed by its issuer.
    pub(crate) fn decode(text: &str) -> Result<Self, JwtError> {
        let (version, envelope) = open::<ActivationBody>(Token::decode(text)?, Kind::Activation)?;
        let ActivationBody { subject, mut kind, mut issuer_account, word } = envelope.nats;
        if version == 1 {
            kind = match &*word {
                "stream" => Some(ExportType::Stream),
                "service" => Some(ExportType::Service),
                _ => None,
            };
            issuer_account = envelope.issuer_account;
        }
        Ok(Self { common: envelope.common, subject, kind, issuer_account })
    }
}

/// Reads a list of texts, or one text with commas.
fn sources<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Sources {
        List(Vec<String>),
        Text(String),
    }
    Ok(match Sources::deserialize(deserializer)? {
        Sources::List(list) => list,
        Sources::Text(text) => {
            let parts = text.split(',').map(|part| part.trim().to_lowercase());
            parts.filter(|part| !part.is_empty()).collect()
        }
    })
}

/// Reads a list of keys, some of them with a scope.
fn signing_keys<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Option<Scope>>, D::Error> {
    #[derive(Deserialize)]
    struct Tagged {
        kind: ScopeKind,
        #[serde(flatten)]
        scope: Scope,
    }
    #[derive(Deserialize)]
    enum ScopeKind {
        #[serde(rename = "user_scope")]
        User,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Entry {
        Key(String),
        Scope(Box<Tagged>),
    }
    let entries = Vec::<Entry>::deserialize(deserializer)?;
    let keys = entries.into_iter().map(|entry| match entry {
        Entry::Key(key) => (key, None),
        Entry::Scope(tagged) => {
            let ScopeKind::User = tagged.kind;
            (tagged.scope.key.clone(), Some(tagged.scope))
        }
    });
    Ok(keys.collect())
}

/// Reads a template: other than in a user's claims, an absent limit is none.
fn template<'de, D: Deserializer<'de>>(deserializer: D) -> Result<UserRights, D::Error> {
    let mut fields = serde_json::Map::<String, serde_json::Value>::deserialize(deserializer)?;
    default_to_no_limits(&mut fields);
    serde_json::from_value(fields.into()).map_err(serde::de::Error::custom)
}

/// Reads a percentage, or the word `headers`.
fn sampling<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Sampling {
        Percent(i64),
        Word(String),
    }
    match Sampling::deserialize(deserializer)? {
        Sampling::Percent(percent) => Ok(percent),
        Sampling::Word(word) if word.eq_ignore_ascii_case("headers") => Ok(0),
        Sampling::Word(_) => Err(serde::de::Error::custom("unknown sampling rate")),
    }
}
