//! `/varz`: the server as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::jetstream::{JetStreamReport, VarzJson};
use super::snapshot::{Gathered, ShardSummary};
use super::text;
use crate::auth::authenticator::ConnectionType;
use crate::auth::state::AuthState;
use crate::base::histogram::{Durations, nanoseconds, upper_bound_ns};
use crate::config::options::{Balance, FEATURE_FLAGS, Options, WriteTimeoutPolicy};
use crate::config::tls_options::Verify;
use crate::config::websocket_options::WebSocketOptions;
use crate::peer::upgrade::WebSocketServer;
use crate::protocol::nats::handshake::Info;

/// Facts about the server that do not depend on its shards. One value per answer.
#[derive(Clone)]
pub(crate) struct ServerFacts {
    pub info: Arc<Info>,
    pub options: Arc<Options>,
    pub auth: Arc<AuthState>,
    /// Version of this software, not of the nats-server release that it stands in for.
    pub version: &'static str,
    pub driver: &'static str,
    /// That of the host, and that of sockets to peers on this host.
    pub congestion: [String; 2],
    /// Both clocks at the start, to convert an `Instant` to a time.
    pub started: (Instant, SystemTime),
    pub config_loaded: SystemTime,
    /// Expiry of the client port's first certificate.
    pub certificate_ends: Option<SystemTime>,
    /// The listener for WebSocket clients.
    pub websocket: Option<Arc<WebSocketServer>>,
    pub now: (Instant, SystemTime),
    /// The actual port of the monitoring listener.
    pub monitor_port: u16,
    pub connections_total: u64,
    pub process: ProcessFacts,
    /// Bytes of the disk of JetStream's store: free, and all.
    pub store_disk: Option<(u64, u64)>,
    /// Requests answered so far, by path.
    pub requests: BTreeMap<String, u64>,
}

/// The process as the kernel counts it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProcessFacts {
    pub memory_bytes: u64,
    /// Percent of one core, over about the last second.
    pub cpu_percent: f64,
    pub core_count: usize,
    /// CPU time of each shard's thread, by shard.
    pub shard_cpu: Vec<Duration>,
    /// Share of about the last second that each shard's thread ran, 0 to 1.
    pub shard_busy: Vec<f64>,
    pub open_files: Option<u64>,
}

impl ServerFacts {
    /// Converts an `Instant` to a time.
    pub(crate) fn time_of(&self, moment: Instant) -> SystemTime {
        let (instant, time) = self.started;
        match moment.checked_duration_since(instant) {
            Some(later) => time + later,
            None => time - instant.duration_since(moment),
        }
    }

    pub(crate) fn timestamp_of(&self, moment: Instant) -> String {
        text::timestamp(self.time_of(moment))
    }

    pub(crate) fn now_text(&self) -> String {
        text::timestamp(self.now.1)
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero_port(port: &u16) -> bool {
    *port == 0
}

fn is_zero(value: &usize) -> bool {
    *value == 0
}

/// Fields and order as nats-server's `WebsocketOptsVarz`.
#[derive(Debug, Default, Serialize)]
struct WebSocketVarz {
    #[serde(skip_serializing_if = "String::is_empty")]
    host: String,
    #[serde(skip_serializing_if = "is_zero_port")]
    port: u16,
    #[serde(skip_serializing_if = "String::is_empty")]
    advertise: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    no_auth_user: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    jwt_cookie: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    handshake_timeout: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_timeout: Option<ShortFloat>,
    #[serde(skip_serializing_if = "is_false")]
    no_tls: bool,
    #[serde(skip_serializing_if = "is_false")]
    tls_map: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tls_pinned_certs: Vec<String>,
    #[serde(skip_serializing_if = "is_false")]
    same_origin: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allowed_origins: Vec<String>,
    #[serde(skip_serializing_if = "is_false")]
    compression: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_cert_not_after: Option<String>,
}

/// A number that is written as short as Go does.
#[derive(Debug, Serialize)]
struct ShortFloat(#[serde(serialize_with = "as_short_as_go")] f64);

impl WebSocketVarz {
    fn new(options: &WebSocketOptions, server: &WebSocketServer) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let tls = options.tls.as_ref();
        let pinned = tls.map(|tls| tls.pinned_certificates.iter().cloned().collect());
        let ends = server.tls.as_ref().and_then(|tls| tls.not_after);
        Self {
            host: server.host.clone(),
            port: server.port,
            advertise: options.advertise.as_ref().map_or_else(String::new, |it| it.text.clone()),
            no_auth_user: text(&options.no_auth_user),
            jwt_cookie: text(&options.jwt_cookie),
            handshake_timeout: options.handshake_timeout.map(nanoseconds),
            auth_timeout: options.auth_timeout.map(|timeout| ShortFloat(timeout.as_secs_f64())),
            no_tls: options.no_tls,
            tls_map: tls.is_some_and(|tls| tls.verify_and_map),
            tls_pinned_certs: pinned.unwrap_or_default(),
            same_origin: options.same_origin,
            allowed_origins: options.allowed_origins.clone(),
            compression: options.compression,
            tls_cert_not_after: ends.map(text::timestamp),
        }
    }
}

/// Fields and order as nats-server's `Varz`; `midge` is ours.
#[derive(Debug, Serialize)]
pub(crate) struct Varz {
    server_id: String,
    server_name: String,
    version: String,
    proto: u32,
    go: String,
    host: String,
    port: u16,
    #[serde(skip_serializing_if = "is_false")]
    auth_required: bool,
    #[serde(skip_serializing_if = "is_false")]
    tls_required: bool,
    #[serde(skip_serializing_if = "is_false")]
    tls_verify: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    connect_urls: Vec<String>,
    max_connections: i64,
    #[serde(skip_serializing_if = "is_zero")]
    max_subscriptions: usize,
    ping_interval: u64,
    ping_max: u32,
    http_host: String,
    http_port: u16,
    http_base_path: String,
    https_port: u16,
    #[serde(serialize_with = "as_short_as_go")]
    auth_timeout: f64,
    max_control_line: usize,
    max_payload: usize,
    max_pending: usize,
    cluster: Nothing,
    gateway: Nothing,
    leaf: Nothing,
    mqtt: Nothing,
    websocket: WebSocketVarz,
    jetstream: VarzJson,
    #[serde(serialize_with = "as_short_as_go")]
    tls_timeout: f64,
    write_deadline: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    write_timeout: &'static str,
    start: String,
    now: String,
    uptime: String,
    mem: u64,
    cores: usize,
    gomaxprocs: usize,
    cpu: f64,
    connections: usize,
    total_connections: u64,
    routes: u32,
    remotes: u32,
    leafnodes: u32,
    in_msgs: u64,
    in_bytes: u64,
    in_client_msgs: u64,
    in_client_bytes: u64,
    out_msgs: u64,
    out_bytes: u64,
    out_client_msgs: u64,
    out_client_bytes: u64,
    slow_consumers: u64,
    stale_connections: u64,
    stalled_clients: u64,
    subscriptions: usize,
    http_req_stats: BTreeMap<String, u64>,
    config_load_time: String,
    config_digest: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    feature_flags: BTreeMap<&'static str, bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_account: Option<String>,
    slow_consumer_stats: ByKind,
    stale_connection_stats: ByKind,
    disk_io_wait_stats: DiskWaits,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_cert_not_after: Option<String>,
    midge: MidgeFacts,
}

/// An object whose fields are all left out because the feature is off.
#[derive(Debug, Default, Serialize)]
struct Nothing {}

#[derive(Debug, Default, Serialize)]
struct ByKind {
    clients: u64,
    routes: u64,
    gateways: u64,
    leafs: u64,
}

#[derive(Debug, Default, Serialize)]
struct DiskWaits {
    waiters: u64,
    waits: u64,
    wait_time: u64,
    max_wait_time: u64,
}

/// Facts that only Midge reports.
#[derive(Debug, Serialize)]
struct MidgeFacts {
    version: &'static str,
    driver: &'static str,
    congestion: CongestionFacts,
    /// How connections are given a shard.
    balance: &'static str,
    shards: Vec<ShardFacts>,
    /// Shards that did not answer in time; their numbers are missing from the sums.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    late_shards: Vec<usize>,
    /// `$SYS` requests and events dropped because there was no room.
    system_dropped: u64,
    delivery_latency: LatencyFacts,
    #[serde(skip_serializing_if = "Option::is_none")]
    jetstream: Option<JetStreamNumbers>,
}

/// JetStream and its store. `/jsz` has what nats-server shows of it.
#[derive(Debug, Default, Serialize)]
struct JetStreamNumbers {
    streams: u64,
    consumers: u64,
    memory_bytes: u64,
    file_bytes: u64,
    stored: u64,
    duplicates: u64,
    refused: u64,
    delivered: u64,
    redelivered: u64,
    acknowledged: u64,
    api_requests: u64,
    api_errors: u64,
    commits: u64,
    commit_records: u64,
    commit_bytes: u64,
    commit_latency: LatencyFacts,
    write_failures: u64,
    journal_files: u64,
    checkpoints: u64,
    disk_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_free_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_size_bytes: Option<u64>,
    /// `ok`, `short` (messages are refused for want of space) or `stopped`.
    state: &'static str,
    checkpoint_failing: bool,
    lost_blocks: u64,
}

/// TCP congestion control, which paces what this server sends.
#[derive(Debug, Serialize)]
struct CongestionFacts {
    /// Empty if it cannot be read.
    host: String,
    local_peers: String,
}

/// Time from the turn that read a send's first message until the kernel took the send, since the
/// start. For an interval, subtract the counts at its beginning from those at its end.
#[derive(Debug, Default, Serialize)]
struct LatencyFacts {
    count: u64,
    p50_ns: u64,
    p90_ns: u64,
    p99_ns: u64,
    p999_ns: u64,
    /// Of the buckets that are not empty; 0 = no bound.
    upper_bounds_ns: Vec<u64>,
    counts: Vec<u64>,
}

impl LatencyFacts {
    fn new(durations: &Durations) -> Self {
        let bound = |per_mille| durations.bound_ns_of(per_mille).unwrap_or(0);
        let counts = durations.told_counts().into_iter().enumerate();
        let filled: Vec<(usize, u64)> = counts.filter(|(_, count)| *count > 0).collect();
        Self {
            count: durations.count(),
            p50_ns: bound(500),
            p90_ns: bound(900),
            p99_ns: bound(990),
            p999_ns: bound(999),
            upper_bounds_ns: filled
                .iter()
                .map(|(at, _)| upper_bound_ns(*at).unwrap_or(0))
                .collect(),
            counts: filled.iter().map(|(_, count)| *count).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
struct ShardFacts {
    shard: usize,
    /// Nanoseconds that its thread ran since the start.
    cpu_time: u64,
    /// Share of the last second that it ran, 0 to 1.
    busy: f64,
    /// True if it takes connections; false = it was not needed yet.
    awake: bool,
    connections: usize,
    /// Connections that other shards gave away, after they had subscribed or published there.
    moved_in: u64,
    subscriptions: usize,
    in_msgs: u64,
    in_bytes: u64,
    out_msgs: u64,
    out_bytes: u64,
    pending_bytes: u64,
    slow_consumers: u64,
    stalls: u64,
    turns: u64,
    lanes: LaneFacts,
}

#[derive(Debug, Serialize)]
struct LaneFacts {
    messages_in: u64,
    batches_in: u64,
    batches_out: u64,
    wakes: u64,
    stalls: u64,
    interest_in: u64,
    waiting_batches: usize,
    waiting_interest: usize,
    staged_bytes: usize,
}

/// Writes a whole number without `.0`.
fn as_short_as_go<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    match value.fract() == 0.0 && value.abs() < 1e15 {
        true => serializer.serialize_i64(*value as i64),
        false => serializer.serialize_f64(*value),
    }
}

pub(crate) fn varz(
    facts: &ServerFacts,
    shards: &Gathered<ShardSummary>,
    jetstream: Option<&JetStreamReport>,
) -> Varz {
    let (info, options) = (&facts.info, &facts.options);
    let summaries = || shards.answers.iter().map(|(_, summary)| summary);
    let sum = |of: fn(&ShardSummary) -> u64| summaries().map(of).sum::<u64>();
    let (in_messages, in_bytes) = (sum(|s| s.in_messages), sum(|s| s.in_bytes));
    let (out_messages, out_bytes) = (sum(|s| s.out_messages), sum(|s| s.out_bytes));
    let (slow, stale) = (sum(|s| s.slow_consumers), sum(|s| s.stale_connections));
    let mut queued = Durations::default();
    summaries().for_each(|summary| queued.add(&summary.queued_durations));
    let base_path = &options.monitor.base_path;
    let system = facts.auth.authenticator.accounts().system();
    let tls_timeout = options.tls.as_ref().map_or(Duration::from_secs(2), |tls| tls.timeout());
    let limits = &options.limits;
    let is_secure = options.monitor.https_port.is_some();
    let [host_congestion, local_congestion] = &facts.congestion;
    Varz {
        server_id: info.server_id.clone(),
        server_name: info.server_name.clone(),
        version: info.version.clone(),
        proto: info.proto,
        go: info.go.clone(),
        host: info.host.clone(),
        port: info.port,
        auth_required: facts.auth.authenticator.is_required(ConnectionType::Standard),
        tls_required: options.tls.is_some() && !options.allow_non_tls,
        tls_verify: options.tls.as_ref().is_some_and(|tls| tls.verify == Verify::Required),
        connect_urls: info.connect_urls.clone(),
        max_connections: match limits.connections_max {
            // nats-server shows 0 in the file as -1.
            0 => -1,
            max => i64::try_from(max).unwrap_or(i64::MAX),
        },
        max_subscriptions: limits.subscriptions_max,
        ping_interval: nanoseconds(options.keep_alive.ping_interval),
        ping_max: options.keep_alive.ping_max,
        http_host: options.monitor.host.clone().unwrap_or_else(|| options.listen.host.clone()),
        http_port: if is_secure { 0 } else { facts.monitor_port },
        http_base_path: if base_path == "/" { String::new() } else { base_path.clone() },
        https_port: if is_secure { facts.monitor_port } else { 0 },
        auth_timeout: options.auth_timeout().as_secs_f64(),
        max_control_line: limits.control_line_bytes_max,
        max_payload: limits.payload_bytes_max,
        max_pending: limits.pending_bytes_max,
        cluster: Nothing {},
        gateway: Nothing {},
        leaf: Nothing {},
        mqtt: Nothing {},
        websocket: facts.websocket.as_ref().map_or_else(WebSocketVarz::default, |server| {
            WebSocketVarz::new(&options.websocket, server)
        }),
        jetstream: VarzJson::new(jetstream),
        tls_timeout: tls_timeout.as_secs_f64(),
        write_deadline: nanoseconds(limits.write_deadline),
        write_timeout: match limits.write_timeout {
            WriteTimeoutPolicy::Default => "",
            WriteTimeoutPolicy::Close => "close",
            WriteTimeoutPolicy::Retry => "retry",
        },
        start: text::timestamp(facts.started.1),
        now: facts.now_text(),
        uptime: text::uptime(facts.now.0.saturating_duration_since(facts.started.0)),
        mem: facts.process.memory_bytes,
        cores: facts.process.core_count,
        gomaxprocs: facts.process.shard_cpu.len(),
        cpu: facts.process.cpu_percent,
        connections: summaries().map(|summary| summary.connections).sum(),
        total_connections: facts.connections_total,
        routes: 0,
        remotes: 0,
        leafnodes: 0,
        in_msgs: in_messages,
        in_bytes,
        in_client_msgs: in_messages,
        in_client_bytes: in_bytes,
        out_msgs: out_messages,
        out_bytes,
        out_client_msgs: out_messages,
        out_client_bytes: out_bytes,
        slow_consumers: slow,
        stale_connections: stale,
        stalled_clients: sum(|s| s.stalls),
        subscriptions: summaries().map(|summary| summary.subscriptions).sum(),
        http_req_stats: facts.requests.clone(),
        config_load_time: text::timestamp(facts.config_loaded),
        config_digest: options.config_digest.clone(),
        tags: options.server_tags.clone(),
        metadata: options.server_metadata.iter().cloned().collect(),
        feature_flags: FEATURE_FLAGS.into(),
        system_account: system.map(|account| account.name.to_string()),
        slow_consumer_stats: ByKind { clients: slow, ..ByKind::default() },
        stale_connection_stats: ByKind { clients: stale, ..ByKind::default() },
        disk_io_wait_stats: DiskWaits::default(),
        tls_cert_not_after: facts.certificate_ends.map(text::timestamp),
        midge: MidgeFacts {
            version: facts.version,
            driver: facts.driver,
            congestion: CongestionFacts {
                host: host_congestion.clone(),
                local_peers: local_congestion.clone(),
            },
            balance: match options.shards.balance {
                Balance::Hash => "hash",
                Balance::LeastConnections => "least-connections",
                Balance::Auto => "auto",
                Balance::NextShard => "next-shard",
                Balance::Wander => "wander",
            },
            shards: summaries().map(|summary| shard_facts(facts, summary)).collect(),
            late_shards: shards.late_shards.clone(),
            system_dropped: sum(|s| s.system_dropped),
            delivery_latency: LatencyFacts::new(&queued),
            jetstream: jetstream_numbers(facts, shards),
        },
    }
}

/// Returns the sums of all shards with JetStream.
fn jetstream_numbers(
    facts: &ServerFacts,
    shards: &Gathered<ShardSummary>,
) -> Option<JetStreamNumbers> {
    let mut all = JetStreamNumbers { state: "ok", ..JetStreamNumbers::default() };
    let mut durations = Durations::default();
    let places = || shards.answers.iter().filter_map(|(_, summary)| summary.jetstream.as_ref());
    places().next()?;
    for place in places() {
        let store = &place.store;
        all.streams += store.streams;
        all.consumers += place.consumers;
        all.memory_bytes += place.memory_bytes;
        all.file_bytes += place.store_bytes;
        all.stored += place.stored;
        all.duplicates += place.duplicates;
        all.refused += place.refused;
        all.delivered += place.delivered;
        all.redelivered += place.redelivered;
        all.acknowledged += place.acknowledged;
        all.api_requests += place.api_requests;
        all.api_errors += place.api_errors;
        all.commits += store.commits;
        all.commit_records += store.records;
        all.commit_bytes += store.written_bytes;
        all.write_failures += store.write_failures;
        all.journal_files += store.journal_files;
        all.checkpoints += store.checkpoints;
        all.disk_bytes += store.disk_bytes;
        all.lost_blocks += store.lost_blocks;
        all.checkpoint_failing |= store.is_checkpoint_failing;
        if store.is_stopped {
            all.state = "stopped";
        } else if store.is_short && all.state == "ok" {
            all.state = "short";
        }
        durations.add(&store.commit_durations);
    }
    (all.disk_free_bytes, all.disk_size_bytes) = facts.store_disk.unzip();
    Some(JetStreamNumbers { commit_latency: LatencyFacts::new(&durations), ..all })
}

fn shard_facts(facts: &ServerFacts, summary: &ShardSummary) -> ShardFacts {
    let cpu = facts.process.shard_cpu.get(summary.shard).copied().unwrap_or_default();
    let lanes = &summary.lanes;
    ShardFacts {
        shard: summary.shard,
        cpu_time: nanoseconds(cpu),
        busy: facts.process.shard_busy.get(summary.shard).copied().unwrap_or_default(),
        awake: summary.is_awake,
        connections: summary.connections,
        moved_in: summary.moved_in,
        subscriptions: summary.subscriptions,
        in_msgs: summary.in_messages,
        in_bytes: summary.in_bytes,
        out_msgs: summary.out_messages,
        out_bytes: summary.out_bytes,
        pending_bytes: summary.pending_bytes,
        slow_consumers: summary.slow_consumers,
        stalls: summary.stalls,
        turns: summary.turns,
        lanes: LaneFacts {
            messages_in: lanes.messages_in,
            batches_in: lanes.batches_in,
            batches_out: lanes.batches_out,
            wakes: lanes.wakes,
            stalls: lanes.stalls,
            interest_in: lanes.interest_in,
            waiting_batches: lanes.waiting_batches,
            waiting_interest: lanes.waiting_interest,
            staged_bytes: lanes.staged_bytes,
        },
    }
}
