//! `/accountz` and `/accstatz`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::snapshot::{AccountTotals, TableSummary};
use super::subsz::TableReport;
use super::varz::ServerFacts;
use crate::auth::account::Account;
use crate::auth::account_jwt::AccountJwt;
use crate::auth::import_subject::ImportSubject;
use crate::auth::jwt::token;
use crate::auth::mapping::ToldDestination;
use crate::config::import_options::{LatencyOptions, ResponseType};

/// Fields and order as nats-server's `Accountz`.
#[derive(Debug, Serialize)]
pub(crate) struct Accountz {
    server_id: String,
    now: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_account: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    accounts: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_detail: Option<AccountReport>,
}

/// Fields and order as nats-server's `AccountInfo`.
#[derive(Debug, Serialize)]
pub(crate) struct AccountReport {
    account_name: String,
    update_time: String,
    #[serde(skip_serializing_if = "is_false")]
    is_system: bool,
    expired: bool,
    complete: bool,
    jetstream_enabled: bool,
    leafnode_connections: u32,
    client_connections: usize,
    subscriptions: usize,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    mappings: BTreeMap<String, Vec<MapDestination>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    exports: Vec<ToldExport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    imports: Vec<ToldImport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer_key: Option<String>,
    name_tag: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decoded_jwt: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    revoked_user: BTreeMap<String, String>,
    sublist_stats: TableReport,
}

/// Fields and order as nats-server's `MapDest`.
#[derive(Debug, Serialize)]
struct MapDestination {
    subject: String,
    weight: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
}

/// Fields and order as nats-server's `ExtExport`, as far as this server has them.
#[derive(Debug, Serialize)]
struct ToldExport {
    subject: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_latency: Option<ToldLatency>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    approved_accounts: Vec<String>,
}

/// Fields and order as nats-server's `jwt.ServiceLatency`.
#[derive(Debug, Serialize)]
struct ToldLatency {
    sampling: Sampling,
    results: String,
}

/// A percentage, or `headers`.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Sampling {
    Percent(u8),
    Headers(&'static str),
}

impl ToldLatency {
    fn new(latency: &LatencyOptions) -> Self {
        let sampling = match latency.sampling {
            0 => Sampling::Headers("headers"),
            percent => Sampling::Percent(percent),
        };
        Self { sampling, results: latency.subject.clone() }
    }
}

/// Fields and order as nats-server's `ExtImport`, as far as this server has them.
#[derive(Debug, Serialize)]
struct ToldImport {
    subject: String,
    account: String,
    /// Of a service.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    local_subject: String,
    #[serde(rename = "type")]
    kind: &'static str,
    invalid: bool,
    share: bool,
    tracking: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency: Option<ToldLatency>,
}

const USER_INFO: &str = "$SYS.REQ.USER.INFO";

/// Returns the services that the system account offers to others.
fn system_exports() -> Vec<ToldExport> {
    let offered = [
        ("$SYS.REQ.ACCOUNT.*.CONNZ", "Streamed"),
        ("$SYS.REQ.ACCOUNT.*.STATZ", "Streamed"),
        ("$SYS.REQ.USER.*.INFO", "Singleton"),
    ];
    let export = |(subject, response_type): (&str, _)| ToldExport {
        subject: subject.to_owned(),
        kind: "service",
        response_type: Some(response_type),
        service_latency: None,
        approved_accounts: Vec::new(),
    };
    offered.map(export).into()
}

/// What an account exports by its own configuration.
fn own_exports(facts: &ServerFacts, account: &Account) -> Vec<ToldExport> {
    let exports = facts.auth.authenticator.exports_of(&account.name);
    let told = exports.iter().map(|export| ToldExport {
        subject: export.subject.clone(),
        kind: if export.response_type.is_some() { "service" } else { "stream" },
        response_type: export.response_type.map(|response_type| match response_type {
            ResponseType::Singleton => "Singleton",
            ResponseType::Streamed => "Streamed",
            ResponseType::Chunked => "Chunked",
        }),
        service_latency: export.latency.as_ref().map(ToldLatency::new),
        approved_accounts: export.approved.clone(),
    });
    told.collect()
}

/// What an account imports by its own configuration.
fn own_imports(facts: &ServerFacts, account: &Account) -> Vec<ToldImport> {
    let told = |exporter: &str, subject: &ImportSubject, share: Option<bool>| {
        let text = |subject: &[u8]| String::from_utf8_lossy(subject).into_owned();
        ToldImport {
            subject: text(subject.remote()),
            account: exporter.to_owned(),
            to: share.map(|_| text(subject.local())),
            local_subject: text(subject.local()),
            kind: if share.is_some() { "service" } else { "stream" },
            invalid: false,
            share: share.unwrap_or_default(),
            tracking: false,
            latency: None,
        }
    };
    let authenticator = &facts.auth.authenticator;
    let streams = authenticator.streams_of(&account.name);
    let services = authenticator.services_of(&account.name);
    let streams = streams.iter().map(|import| told(&import.exporter, &import.subject, None));
    let services = services.iter().map(|import| ToldImport {
        latency: import.export.latency.as_ref().map(ToldLatency::new),
        ..told(&import.exporter, &import.subject, Some(import.share))
    });
    streams.chain(services).collect()
}

/// Returns an account's access to the system account, as the imports that it would be in
/// nats-server.
fn system_imports(account: &Account, system: &Account) -> Vec<ToldImport> {
    let import = |service: String, local: &str| ToldImport {
        subject: service,
        account: system.name.to_string(),
        to: Some(local.to_owned()),
        local_subject: local.to_owned(),
        kind: "service",
        invalid: false,
        share: local == USER_INFO,
        tracking: false,
        latency: None,
    };
    let name = &account.name;
    let mut imports = vec![import(format!("$SYS.REQ.USER.{name}.INFO"), USER_INFO)];
    if !account.is_system {
        let connz = format!("$SYS.REQ.ACCOUNT.{name}.CONNZ");
        imports.push(import(connz.clone(), "$SYS.REQ.ACCOUNT.PING.CONNZ"));
        imports.push(import(connz, "$SYS.REQ.SERVER.PING.CONNZ"));
        let statz = format!("$SYS.REQ.ACCOUNT.{name}.STATZ");
        imports.push(import(statz, "$SYS.REQ.ACCOUNT.PING.STATZ"));
    }
    imports
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Returns the 400 text for an account that is not configured.
pub(crate) fn unknown_account(name: &str) -> String {
    format!("Account {name} does not exist")
}

fn empty(facts: &ServerFacts) -> Accountz {
    let system = facts.auth.authenticator.accounts().system();
    Accountz {
        server_id: facts.info.server_id.clone(),
        now: facts.now_text(),
        system_account: system.map(|account| account.name.to_string()),
        accounts: Vec::new(),
        account_detail: None,
    }
}

/// Answers `/accountz` with all names.
pub(crate) fn accountz(facts: &ServerFacts) -> Accountz {
    let accounts = facts.auth.authenticator.accounts().iter();
    Accountz {
        accounts: accounts.map(|account| account.name.to_string()).collect(),
        ..empty(facts)
    }
}

/// Answers `/accountz` with one account.
pub(crate) fn account_detail(
    facts: &ServerFacts,
    account: &Account,
    table: &TableSummary,
) -> Accountz {
    let report = account_report(facts, account, table);
    Accountz { account_detail: Some(report), ..empty(facts) }
}

/// Returns the part of `/accountz` that describes an account.
pub(crate) fn account_report(
    facts: &ServerFacts,
    account: &Account,
    table: &TableSummary,
) -> AccountReport {
    let system = facts.auth.authenticator.accounts().system();
    let mut exports = own_exports(facts, account);
    if account.is_system {
        exports.extend(system_exports());
    }
    let mut imports = own_imports(facts, account);
    imports.extend(system.into_iter().flat_map(|system| system_imports(account, system)));
    let jwt = account.jwt.as_deref();
    AccountReport {
        account_name: account.name.to_string(),
        update_time: super::text::timestamp(facts.config_loaded),
        is_system: account.is_system,
        expired: jwt.is_some_and(|jwt| jwt.is_expired(seconds(facts.now.1))),
        complete: jwt.is_none_or(|jwt| jwt.is_complete),
        jetstream_enabled: false,
        leafnode_connections: 0,
        client_connections: facts.auth.connections(account).value(),
        subscriptions: table.subscriptions,
        mappings: mappings(account),
        exports,
        imports,
        jwt: jwt.map(|jwt| jwt.text.to_string()),
        issuer_key: jwt.map(|jwt| jwt.claims.common.issuer.clone()),
        name_tag: account.given_name().to_owned(),
        tags: jwt.map(|jwt| jwt.claims.account.tags.clone()).unwrap_or_default(),
        decoded_jwt: jwt.and_then(|jwt| token::claims_of(&jwt.text)),
        revoked_user: jwt.map(revoked_users).unwrap_or_default(),
        sublist_stats: table.into(),
    }
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Returns until when the JWTs of users are revoked.
fn revoked_users(jwt: &AccountJwt) -> BTreeMap<String, String> {
    let revoked = jwt.claims.account.revocations.iter();
    let time = |seconds: i64| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    };
    revoked.map(|(key, until)| (key.clone(), super::text::timestamp(time(*until)))).collect()
}

/// Returns an account's mappings by source.
fn mappings(account: &Account) -> BTreeMap<String, Vec<MapDestination>> {
    let destination = |told: &ToldDestination| MapDestination {
        subject: told.subject.clone(),
        weight: told.weight_end,
        cluster: told.cluster.clone(),
    };
    let all = account.mappings.told();
    all.map(|(source, told)| {
        (String::from_utf8_lossy(source).into_owned(), told.iter().map(destination).collect())
    })
    .collect()
}

/// Fields and order as nats-server's `AccountStatz`.
#[derive(Debug, Serialize)]
pub(crate) struct AccountStatz {
    server_id: String,
    now: String,
    account_statz: Vec<AccountStat>,
}

/// Fields and order as nats-server's `AccountStat`.
#[derive(Debug, Serialize)]
pub(crate) struct AccountStat {
    acc: String,
    name: String,
    conns: usize,
    leafnodes: u32,
    total_conns: usize,
    num_subscriptions: usize,
    sent: Traffic,
    received: Traffic,
    slow_consumers: u64,
}

#[derive(Debug, Serialize)]
struct Traffic {
    msgs: u64,
    bytes: u64,
    gateways: Volume,
    routes: Volume,
    leafs: Volume,
}

#[derive(Debug, Default, Serialize)]
struct Volume {
    msgs: u64,
    bytes: u64,
}

fn traffic(msgs: u64, bytes: u64) -> Traffic {
    let none = Volume::default;
    Traffic { msgs, bytes, gateways: none(), routes: none(), leafs: none() }
}

/// Answers `/accstatz`: accounts with clients, or all of them with `unused`; only the `wanted`
/// ones, if any are named. Totals and tables are by name.
pub(crate) fn accstatz(
    facts: &ServerFacts,
    unused: bool,
    wanted: &[String],
    totals: &BTreeMap<String, AccountTotals>,
    tables: &BTreeMap<String, TableSummary>,
) -> AccountStatz {
    let is_wanted =
        |account: &Account| wanted.is_empty() || wanted.iter().any(|name| **name == *account.name);
    let stat = |account: &Account| {
        let name: &str = &account.name;
        let total = totals.get(name).copied().unwrap_or_default();
        AccountStat {
            acc: name.to_owned(),
            name: name.to_owned(),
            conns: total.connections,
            leafnodes: 0,
            total_conns: total.connections,
            num_subscriptions: tables.get(name).map_or(0, |table| table.subscriptions),
            sent: traffic(total.out_messages, total.out_bytes),
            received: traffic(total.in_messages, total.in_bytes),
            slow_consumers: total.slow_consumers,
        }
    };
    let accounts = facts.auth.authenticator.accounts().iter();
    AccountStatz {
        server_id: facts.info.server_id.clone(),
        now: facts.now_text(),
        account_statz: accounts
            .filter(|account| is_wanted(account))
            .map(|account| stat(account))
            .filter(|stat| unused || stat.conns > 0)
            .collect(),
    }
}

impl AccountStatz {
    pub(crate) fn is_empty(&self) -> bool {
        self.account_statz.is_empty()
    }

    /// Returns the first account of the answer and its number of clients.
    pub(crate) fn into_first(self) -> Option<(AccountStat, usize)> {
        let first = self.account_statz.into_iter().next()?;
        let connections = first.conns;
        Some((first, connections))
    }
}
