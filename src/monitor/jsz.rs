//! The answer of `/jsz`.

use serde::Serialize;

use super::http::Response;
use super::jetstream::{AccountDetailJson, ConfigJson, JetStreamReport, LimitsJson, StatsJson};
use super::others::{HealthzOptions, Unhealthy, pretty};
use super::query::Query;
use super::varz::ServerFacts;
use crate::protocol::nats::error::quoted;

/// Accounts of one answer, unless it says otherwise: nats-server's figure.
const ACCOUNTS_PER_PAGE: usize = 1024;

/// The arguments of `/jsz`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JszOptions {
    /// Empty = all accounts.
    pub account: String,
    pub accounts: bool,
    pub streams: bool,
    pub config: bool,
    pub offset: usize,
    pub limit: usize,
}

impl JszOptions {
    /// Reads the arguments.
    ///
    /// # Errors
    /// The text of a 400 answer.
    pub(crate) fn parse(query: &Query) -> Result<Self, String> {
        super::others::check_jsz(query)?;
        let consumers = query.boolean("consumers")? || query.boolean("direct-consumers")?;
        let streams = query.boolean("streams")? || consumers;
        let size = |value: i64, when_none| {
            usize::try_from(value).ok().filter(|size| *size > 0).unwrap_or(when_none)
        };
        Ok(Self {
            account: query.get("acc").to_owned(),
            accounts: query.boolean("accounts")? || streams,
            streams,
            config: query.boolean("config")?,
            offset: size(query.integer("offset")?, 0),
            limit: size(query.integer("limit")?, ACCOUNTS_PER_PAGE),
        })
    }
}

#[derive(Serialize)]
struct Jsz<'a> {
    #[serde(flatten)]
    stats: StatsJson,
    server_id: &'a str,
    now: String,
    #[serde(skip_serializing_if = "is_false")]
    disabled: bool,
    config: ConfigJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<LimitsJson>,
    streams: usize,
    consumers: usize,
    messages: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    account_details: Vec<AccountDetailJson>,
    total: usize,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Answers `/jsz`. No report = there is no JetStream, or its shard does not answer.
pub(crate) fn jsz(facts: &ServerFacts, report: Option<JetStreamReport>) -> Response {
    let disabled = report.is_none();
    let report = report.unwrap_or_default();
    let total = report.stats.accounts;
    pretty(&Jsz {
        stats: report.stats,
        server_id: &facts.info.server_id,
        now: facts.now_text(),
        disabled,
        config: report.config,
        limits: (!disabled).then_some(report.limits),
        streams: report.streams,
        consumers: report.consumers,
        messages: report.messages,
        bytes: report.bytes,
        account_details: report.accounts,
        total,
    })
}

/// The fault of the account or the stream that a health probe names.
pub(crate) fn unhealthy(
    options: &HealthzOptions,
    report: Option<&JetStreamReport>,
) -> Option<Unhealthy> {
    let (account, stream) = (options.account.as_str(), options.stream.as_str());
    let report = report.filter(|_| !account.is_empty())?;
    let Some(found) = report.accounts.iter().find(|one| one.name == account) else {
        let error = format!("JetStream account {} not found", quoted(account.as_bytes()));
        return Some(Unhealthy { kind: "ACCOUNT", error });
    };
    let is_known = stream.is_empty() || found.stream_detail.iter().any(|one| one.name == stream);
    (!is_known).then(|| {
        let (stream, account) = (quoted(stream.as_bytes()), quoted(account.as_bytes()));
        let error = format!("JetStream stream {stream} not found on account {account}");
        Unhealthy { kind: "STREAM", error }
    })
}
