//! Events that the server publishes by itself: clients that came, went or were refused, and
//! statistics.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::answer::{Volume, json};
use super::server_info::ServerInfo;
use crate::base::time_text::timestamp;
use crate::protocol::nats::error::quoted;
use crate::protocol::subject;

const CONNECT_TYPE: &str = "io.nats.server.advisory.v1.client_connect";
const DISCONNECT_TYPE: &str = "io.nats.server.advisory.v1.client_disconnect";
const ACCOUNT_CONNECTIONS_TYPE: &str = "io.nats.server.advisory.v1.account_connections";

/// Published in the account that the refused client would have been in.
pub(crate) const ACCOUNT_AUTH_ERROR: &str = "$SYS.ACCOUNT.CLIENT.AUTH.ERR";

pub(crate) fn connect_subject(account: &str) -> String {
    format!("$SYS.ACCOUNT.{account}.CONNECT")
}

pub(crate) fn disconnect_subject(account: &str) -> String {
    format!("$SYS.ACCOUNT.{account}.DISCONNECT")
}

pub(crate) fn auth_error_subject(server_id: &str) -> String {
    format!("$SYS.SERVER.{server_id}.CLIENT.AUTH.ERR")
}

pub(crate) fn stats_subject(server_id: &str) -> String {
    format!("$SYS.SERVER.{server_id}.STATSZ")
}

pub(crate) fn lame_duck_subject(server_id: &str) -> String {
    format!("$SYS.SERVER.{server_id}.LAMEDUCK")
}

pub(crate) fn shutdown_subject(server_id: &str) -> String {
    format!("$SYS.SERVER.{server_id}.SHUTDOWN")
}

/// Returns the old subject and the new one: the event is published on both.
pub(crate) fn account_connections_subjects(account: &str) -> [String; 2] {
    [format!("$SYS.SERVER.ACCOUNT.{account}.CONNS"), format!("$SYS.ACCOUNT.{account}.SERVER.CONNS")]
}

/// Returns the warning for an account whose name cannot be part of a subject, so that events about
/// its clients cannot be published.
pub(crate) fn unsendable_account(account: &str) -> Option<String> {
    let is_sendable = subject::is_sendable(account.as_bytes());
    (!is_sendable).then(|| {
        format!(
            "Account name {} has a blank or a line end: no events are published of its clients",
            quoted(account.as_bytes())
        )
    })
}

/// A client as described in an event.
#[derive(Clone, Debug)]
pub(crate) struct ClientFacts<'a> {
    pub id: u64,
    pub client_type: &'static str,
    pub started: SystemTime,
    pub host: String,
    pub account: &'a str,
    pub user: &'a str,
    pub name: &'a str,
    pub lang: &'a str,
    pub version: &'a str,
    pub rtt: Option<Duration>,
    /// Messages from the client, and to it.
    pub received: Volume,
    pub sent: Volume,
}

/// Fields and order as nats-server's `TypedEvent`.
#[derive(Serialize)]
struct Typed {
    #[serde(rename = "type")]
    kind: &'static str,
    id: String,
    timestamp: String,
}

impl Typed {
    fn new(kind: &'static str, now: SystemTime) -> Self {
        Self { kind, id: nuid::next().to_string(), timestamp: timestamp(now) }
    }
}

/// Fields and order as nats-server's `ClientInfo`.
#[derive(Serialize)]
struct ClientInfo<'a> {
    start: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    host: &'a str,
    id: u64,
    acc: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    user: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    lang: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    ver: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    rtt: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<String>,
    name_tag: &'a str,
    kind: &'static str,
    client_type: &'static str,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl<'a> ClientInfo<'a> {
    fn new(facts: &'a ClientFacts<'a>, stopped: Option<SystemTime>) -> Self {
        // As in nats-server, the round-trip time is included only if there is a stop.
        let rtt = stopped.and(facts.rtt).unwrap_or_default();
        Self {
            start: timestamp(facts.started),
            host: &facts.host,
            id: facts.id,
            acc: facts.account,
            user: facts.user,
            name: facts.name,
            lang: facts.lang,
            ver: facts.version,
            rtt: u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX),
            stop: stopped.map(timestamp),
            name_tag: facts.account,
            kind: "Client",
            client_type: facts.client_type,
        }
    }
}

/// Fields and order as nats-server's `ConnectEventMsg`.
pub(crate) fn connected(server: &ServerInfo, client: &ClientFacts<'_>, now: SystemTime) -> Vec<u8> {
    #[derive(Serialize)]
    struct Event<'a> {
        #[serde(flatten)]
        typed: Typed,
        server: &'a ServerInfo,
        client: ClientInfo<'a>,
    }
    let client = ClientInfo::new(client, None);
    json(&Event { typed: Typed::new(CONNECT_TYPE, now), server, client })
}

/// Fields and order as nats-server's `DisconnectEventMsg`: a client that went or was refused.
pub(crate) fn disconnected(
    server: &ServerInfo,
    client: &ClientFacts<'_>,
    reason: &str,
    now: SystemTime,
) -> Vec<u8> {
    #[derive(Serialize)]
    struct Event<'a> {
        #[serde(flatten)]
        typed: Typed,
        server: &'a ServerInfo,
        client: ClientInfo<'a>,
        sent: Volume,
        received: Volume,
        reason: &'a str,
    }
    json(&Event {
        typed: Typed::new(DISCONNECT_TYPE, now),
        server,
        client: ClientInfo::new(client, Some(now)),
        // As seen from the client.
        sent: client.received,
        received: client.sent,
        reason,
    })
}

/// Fields and order as nats-server's `AccountNumConns`; `account` serializes as its `AccountStat`.
pub(crate) fn account_connections(
    server: &ServerInfo,
    account: &impl Serialize,
    now: SystemTime,
) -> Vec<u8> {
    #[derive(Serialize)]
    struct Event<'a, A> {
        #[serde(flatten)]
        typed: Typed,
        server: &'a ServerInfo,
        #[serde(flatten)]
        account: &'a A,
    }
    json(&Event { typed: Typed::new(ACCOUNT_CONNECTIONS_TYPE, now), server, account })
}

#[cfg(test)]
#[path = "events/tests.rs"]
mod tests;
