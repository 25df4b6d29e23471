//! The answer to a query for connections, with nats-server's fields in its order.

use std::time::Instant;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::super::snapshot::{ConnectionDetails, SubscriptionDetails};
use super::super::subsz::SubscriptionReport;
use super::super::text;
use super::super::varz::ServerFacts;
use super::list::Described;
use super::options::{ConnzOptions, Subscriptions};
use crate::auth::account::GLOBAL_ACCOUNT_NAME;
use crate::auth::{certificate, tls_map};
use crate::net::tls_config::public_key_id;
use crate::protocol::nats::error::CloseReason;

/// Fields and order as nats-server's `Connz`.
#[derive(Debug, Serialize)]
pub(crate) struct Connz {
    server_id: String,
    now: String,
    num_connections: usize,
    total: usize,
    offset: usize,
    limit: usize,
    /// None if the account asked for does not exist.
    connections: Option<Vec<ConnectionReport>>,
}

/// Fields and order as nats-server's `ConnInfo`.
#[derive(Debug, Serialize)]
struct ConnectionReport {
    cid: u64,
    kind: &'static str,
    #[serde(rename = "type")]
    protocol: &'static str,
    ip: String,
    port: u16,
    start: String,
    last_activity: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    rtt: String,
    uptime: String,
    idle: String,
    pending_bytes: usize,
    in_msgs: u64,
    out_msgs: u64,
    in_bytes: u64,
    out_bytes: u64,
    #[serde(skip_serializing_if = "is_zero")]
    stalls: u64,
    subscriptions: usize,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    lang: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    version: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    tls_version: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    tls_cipher_suite: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tls_peer_certs: Vec<CertificateReport>,
    #[serde(skip_serializing_if = "is_false")]
    tls_first: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    authorized_user: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    account: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subscriptions_list: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subscriptions_list_detail: Vec<SubscriptionReport>,
    #[serde(skip_serializing_if = "String::is_empty")]
    name_tag: String,
}

/// Fields and order as nats-server's `TLSPeerCert`. Made on the thread that answers: hashing is too
/// slow for shards.
#[derive(Debug, Serialize)]
struct CertificateReport {
    #[serde(skip_serializing_if = "String::is_empty")]
    subject: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    spki_sha256: String,
    cert_sha256: String,
}

impl CertificateReport {
    fn new(der: &[u8]) -> Self {
        let subject = certificate::subject(der).unwrap_or_default();
        Self {
            subject: tls_map::subject_text(&subject),
            spki_sha256: public_key_id(der).unwrap_or_default(),
            cert_sha256: data_encoding::HEXLOWER.encode(&Sha256::digest(der)),
        }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

struct Ended {
    stopped: Instant,
    reason: CloseReason,
}

/// Answers `/connz`. `total` is the number of connections that pass the filters, before offset and
/// limit.
pub(crate) fn connz(
    facts: &ServerFacts,
    options: &ConnzOptions,
    total: usize,
    described: Vec<Described>,
) -> Connz {
    let connections: Vec<ConnectionReport> = described
        .into_iter()
        .map(|one| match one {
            Described::Open(details) => report(facts, options, *details, None),
            Described::Closed(closed) => {
                let ended = Ended { stopped: closed.stopped, reason: closed.reason };
                report(facts, options, closed.details, Some(ended))
            }
        })
        .collect();
    Connz {
        server_id: facts.info.server_id.clone(),
        now: facts.now_text(),
        num_connections: connections.len(),
        total,
        offset: options.offset,
        limit: options.limit,
        connections: Some(connections),
    }
}

/// Returns nats-server's answer for an account that does not exist.
pub(crate) fn unknown_account(facts: &ServerFacts, options: &ConnzOptions) -> Connz {
    Connz {
        server_id: String::new(),
        now: facts.now_text(),
        num_connections: 0,
        total: 0,
        offset: options.offset,
        limit: options.limit,
        connections: None,
    }
}

fn report(
    facts: &ServerFacts,
    options: &ConnzOptions,
    details: ConnectionDetails,
    ended: Option<Ended>,
) -> ConnectionReport {
    let numbers = &details.numbers;
    let until = ended.as_ref().map_or(facts.now.0, |ended| ended.stopped);
    let (ip, port) =
        details.address.map_or_else(Default::default, |(ip, port)| (ip.to_string(), port));
    let is_closed = ended.is_some();
    let is_global = details.account == GLOBAL_ACCOUNT_NAME;
    let tls = details.tls.as_ref();
    let when_auth = |text: &str| if options.auth { text.to_owned() } else { String::new() };
    let mut list = details.subscription_list;
    list.sort_by(SubscriptionDetails::in_order);
    let (mut subscriptions_list, mut subscriptions_list_detail) = (Vec::new(), Vec::new());
    match options.subscriptions {
        Subscriptions::Count => {}
        Subscriptions::Subjects => {
            subscriptions_list = list.into_iter().map(|one| one.subject).collect();
        }
        Subscriptions::Details => {
            let account = is_closed.then_some(&details.account);
            let report = |one| SubscriptionReport::new(one, account.cloned());
            subscriptions_list_detail = list.into_iter().map(report).collect();
        }
    }
    ConnectionReport {
        cid: numbers.id,
        kind: "Client",
        protocol: details.way.client_type(),
        ip,
        port,
        start: facts.timestamp_of(numbers.started),
        last_activity: facts.timestamp_of(numbers.last_activity),
        stop: ended.as_ref().map(|ended| facts.timestamp_of(ended.stopped)),
        reason: ended.as_ref().map(|ended| ended.reason.text()),
        rtt: text::round_trip(numbers.rtt.unwrap_or_default()),
        uptime: text::uptime(until.saturating_duration_since(numbers.started)),
        idle: text::uptime(until.saturating_duration_since(numbers.last_activity)),
        pending_bytes: numbers.pending_bytes,
        in_msgs: numbers.in_messages,
        out_msgs: numbers.out_messages,
        in_bytes: numbers.in_bytes,
        out_bytes: numbers.out_bytes,
        stalls: numbers.stalls,
        subscriptions: numbers.subscriptions,
        tls_version: tls.map_or("", |tls| tls.version),
        tls_cipher_suite: tls.map_or_else(String::new, |tls| tls.cipher_suite.clone()),
        tls_peer_certs: tls.filter(|_| options.auth).map_or_else(Vec::new, |tls| {
            tls.peer_certificates.iter().map(|der| CertificateReport::new(der)).collect()
        }),
        tls_first: tls.is_some_and(|tls| tls.is_first),
        authorized_user: when_auth(&details.user),
        account: when_auth(if is_global { "" } else { &details.account }),
        subscriptions_list,
        subscriptions_list_detail,
        // Empty for closed clients of the global account, as in nats-server.
        name_tag: when_auth(if is_closed && is_global { "" } else { &details.account }),
        name: details.name,
        lang: details.lang,
        version: details.version,
    }
}
