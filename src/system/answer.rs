//! Answers to requests: the envelope around monitoring's data, and what only `$SYS` reports.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use super::server_info::ServerInfo;
use crate::base::time_text::timestamp;
use crate::config::auth_options::{PermissionOptions, SubjectPermissionOptions};
use crate::protocol::nats::error::quoted;
use crate::protocol::nats::handshake::Info;

/// The contents of an answer, beside the server's own description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// JSON of any shape.
    Data(Vec<u8>),
    /// Done; there is nothing to report.
    Done,
    /// The request could not be read.
    BadRequest(String),
    /// The request was read but cannot be answered. If an answer would have had data, it says null,
    /// as nats-server's does.
    Failed { text: String, has_null_data: bool },
}

impl Outcome {
    /// Serializes data. It cannot fail: plain values always serialize.
    pub(crate) fn data(value: &impl Serialize) -> Self {
        Self::Data(json(value))
    }

    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self::Failed { text: text.into(), has_null_data: true }
    }

    pub(crate) fn refused(text: impl Into<String>) -> Self {
        Self::Failed { text: text.into(), has_null_data: false }
    }
}

/// Serializes to JSON. It cannot fail: plain values always serialize.
pub(crate) fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain values always serialize")
}

#[derive(Serialize)]
struct ApiError<'a> {
    code: u16,
    description: &'a str,
}

/// Fields and order as nats-server's `ServerAPIResponse`.
pub(crate) fn envelope(server: &ServerInfo, outcome: &Outcome) -> Vec<u8> {
    let mut text = b"{\"server\":".to_vec();
    text.extend(json(server));
    let error = match outcome {
        Outcome::Done => None,
        Outcome::Data(data) => {
            text.extend_from_slice(b",\"data\":");
            compact(data, &mut text);
            None
        }
        Outcome::BadRequest(description) => Some(ApiError { code: 400, description }),
        Outcome::Failed { text: description, has_null_data } => {
            if *has_null_data {
                text.extend_from_slice(b",\"data\":null");
            }
            Some(ApiError { code: 500, description })
        }
    };
    if let Some(error) = error {
        text.extend_from_slice(b",\"error\":");
        text.extend(json(&error));
    }
    text.push(b'}');
    text
}

/// Appends JSON without blanks between its parts.
fn compact(json: &[u8], target: &mut Vec<u8>) {
    let mut in_text = false;
    let mut escaped = false;
    for byte in json {
        if !in_text && byte.is_ascii_whitespace() {
            continue;
        }
        let ends_or_begins = *byte == b'"' && !escaped;
        escaped = in_text && *byte == b'\\' && !escaped;
        in_text ^= ends_or_begins;
        target.push(*byte);
    }
}

/// Returns an answer with the fields and order of nats-server's `ServerID`: the only one without an
/// envelope.
pub(crate) fn identity(info: &Info) -> Vec<u8> {
    #[derive(Serialize)]
    struct ServerId<'a> {
        name: &'a str,
        host: &'a str,
        id: &'a str,
    }
    json(&ServerId { name: &info.server_name, host: &info.host, id: &info.server_id })
}

/// A number of messages and of their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Volume {
    pub msgs: u64,
    pub bytes: u64,
}

/// The numbers in `STATSZ`.
#[derive(Clone, Debug)]
pub(crate) struct StatsFacts {
    pub started: SystemTime,
    pub memory_bytes: u64,
    pub core_count: usize,
    pub shard_count: usize,
    pub cpu_percent: f64,
    pub connections: usize,
    pub connections_total: u64,
    pub active_accounts: usize,
    pub subscriptions: usize,
    pub sent: Volume,
    pub received: Volume,
    pub slow_consumers: u64,
    pub stale_connections: u64,
    pub stalls: u64,
}

/// Fields and order as nats-server's `ServerStatsMsg`.
#[derive(Serialize)]
struct StatsMessage<'a> {
    server: &'a ServerInfo,
    statsz: Stats,
}

#[derive(Serialize)]
struct Stats {
    start: String,
    mem: u64,
    cores: usize,
    cpu: f64,
    connections: usize,
    total_connections: u64,
    active_accounts: usize,
    subscriptions: usize,
    sent: Volume,
    sent_to_clients: Volume,
    received: Volume,
    received_from_clients: Volume,
    slow_consumers: u64,
    #[serde(skip_serializing_if = "ByKind::is_zero")]
    slow_consumer_stats: ByKind,
    #[serde(skip_serializing_if = "is_zero")]
    stale_connections: u64,
    #[serde(skip_serializing_if = "ByKind::is_zero")]
    stale_connection_stats: ByKind,
    #[serde(skip_serializing_if = "is_zero")]
    stalled_clients: u64,
    active_servers: u32,
    gomaxprocs: usize,
}

#[derive(Default, Serialize)]
struct ByKind {
    clients: u64,
    routes: u64,
    gateways: u64,
    leafs: u64,
}

impl ByKind {
    fn is_zero(&self) -> bool {
        self.clients == 0
    }
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

pub(crate) fn stats(server: &ServerInfo, facts: &StatsFacts) -> Vec<u8> {
    json(&StatsMessage {
        server,
        statsz: Stats {
            start: timestamp(facts.started),
            mem: facts.memory_bytes,
            cores: facts.core_count,
            cpu: facts.cpu_percent,
            connections: facts.connections,
            total_connections: facts.connections_total,
            active_accounts: facts.active_accounts,
            subscriptions: facts.subscriptions,
            sent: facts.sent,
            sent_to_clients: facts.sent,
            received: facts.received,
            received_from_clients: facts.received,
            slow_consumers: facts.slow_consumers,
            slow_consumer_stats: ByKind { clients: facts.slow_consumers, ..ByKind::default() },
            stale_connections: facts.stale_connections,
            stale_connection_stats: ByKind {
                clients: facts.stale_connections,
                ..ByKind::default()
            },
            stalled_clients: facts.stalls,
            active_servers: 1,
            gomaxprocs: facts.shard_count,
        },
    })
}

/// Fields and order as nats-server's `UserInfo`.
#[derive(Serialize)]
pub(crate) struct UserInfo {
    user: String,
    account: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    account_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    permissions: Option<PermissionReport>,
}

#[derive(Serialize)]
struct PermissionReport {
    publish: SubjectReport,
    subscribe: SubjectReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    responses: Option<ResponseReport>,
}

#[derive(Serialize)]
struct SubjectReport {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deny: Vec<String>,
}

#[derive(Serialize)]
struct ResponseReport {
    max: i64,
    #[serde(serialize_with = "nanoseconds")]
    ttl: Option<Duration>,
}

/// Writes nanoseconds; -1 = unlimited, as in nats-server.
fn nanoseconds<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    let count = value.map_or(-1, |value| i64::try_from(value.as_nanos()).unwrap_or(i64::MAX));
    to.serialize_i64(count)
}

impl From<Option<&SubjectPermissionOptions>> for SubjectReport {
    fn from(options: Option<&SubjectPermissionOptions>) -> Self {
        let sorted = |list: Option<&Vec<String>>| {
            let mut list = list.cloned().unwrap_or_default();
            list.sort_unstable();
            list
        };
        Self {
            allow: sorted(options.and_then(|options| options.allow.as_ref())),
            deny: sorted(options.and_then(|options| options.deny.as_ref())),
        }
    }
}

impl UserInfo {
    /// The account comes with the name that its owner gave it.
    pub(crate) fn new(
        user: &str,
        (account, account_name): (&str, &str),
        permissions: Option<&PermissionOptions>,
    ) -> Self {
        let report = permissions.map(|permissions| PermissionReport {
            publish: permissions.publish.as_ref().into(),
            subscribe: permissions.subscribe.as_ref().into(),
            responses: permissions.allow_responses.as_ref().map(|responses| ResponseReport {
                max: responses.messages_max.map_or(-1, i64::from),
                ttl: responses.expires,
            }),
        });
        Self {
            user: user.to_owned(),
            account: account.to_owned(),
            account_name: account_name.to_owned(),
            permissions: report,
        }
    }
}

/// The profiles that Go's runtime has.
const PROFILES: [&str; 7] =
    ["allocs", "block", "cpu", "goroutine", "heap", "mutex", "threadcreate"];

/// Returns an answer with the fields and order of nats-server's `ProfilezStatus`: there is no Go
/// program to profile.
pub(crate) fn profile(name: &str) -> Outcome {
    #[derive(Serialize)]
    struct Profile {
        profile: Option<String>,
        error: String,
    }
    let error = match name {
        "" => "Profile name not specified".into(),
        name if PROFILES.contains(&name) => format!(
            "Profile {} not supported: only nats-server has profiles of this kind",
            quoted(name.as_bytes())
        ),
        name => format!("Profile {} not found", quoted(name.as_bytes())),
    };
    Outcome::data(&Profile { profile: None, error })
}

/// Returns an answer with the fields and order of nats-server's `ExpvarzStatus`. Of Go's memory
/// statistics only the one that exists without Go: memory from the system. The command line is the
/// program alone, since arguments can hold secrets.
pub(crate) fn variables(memory_bytes: u64, program: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Variables<'a> {
        memstats: BTreeMap<&'static str, u64>,
        cmdline: [&'a str; 1],
    }
    let memstats = BTreeMap::from([("Sys", memory_bytes)]);
    json(&Variables { memstats, cmdline: [program] })
}

#[cfg(test)]
#[path = "answer/tests.rs"]
mod tests;
