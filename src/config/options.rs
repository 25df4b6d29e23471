//! The typed options of one server, from flags and the configuration file.
//!
//! Every field has its unit in its type or its name. Defaults are nats-server's.

use std::path::PathBuf;
use std::time::Duration;

use crate::base::limits;
use crate::config::advertise::Advertised;
use crate::config::auth_options::AuthOptions;
use crate::config::jetstream_options::JetStreamOptions;
use crate::config::tls_options::TlsOptions;
use crate::config::websocket_options::WebSocketOptions;

/// `payload_bytes_max` if the operator asked for no limit: the largest value of nats-server's
/// 32-bit field.
pub const PAYLOAD_BYTES_UNLIMITED: usize = i32::MAX as usize;

/// Feature flags of parts that this server does not have, with nats-server's defaults: tools list
/// them.
pub(crate) const FEATURE_FLAGS: [(&str, bool); 4] = [
    ("js_ack_fc_v2", false),
    ("js_api_reply_v2", false),
    ("js_raft_delete_range", true),
    ("js_snapshot_sources", false),
];

/// All options of one server. Immutable once the server runs; a reload makes a new value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Shown in INFO; None = the server id.
    pub server_name: Option<String>,
    /// Chooses among the destinations of mappings; there is no cluster yet.
    pub cluster_name: Option<String>,
    pub listen: ListenOptions,
    pub limits: LimitOptions,
    pub keep_alive: KeepAliveOptions,
    pub log: LogOptions,
    pub files: FileOptions,
    pub lame_duck: LameDuckOptions,
    pub shards: ShardOptions,
    pub auth: AuthOptions,
    /// TLS of the client port; None = plain.
    pub tls: Option<TlsOptions>,
    /// True if clients may stay plain although TLS is configured.
    pub allow_non_tls: bool,
    pub websocket: WebSocketOptions,
    pub monitor: MonitorOptions,
    pub jetstream: JetStreamOptions,
    /// Shown in monitoring and used to select servers in `$SYS` requests.
    pub server_tags: Vec<String>,
    /// Shown in monitoring; sorted by key.
    pub server_metadata: Vec<(String, String)>,
    /// `sha256:` and the digest of the parsed file, as nats-server computes it; empty without a
    /// file.
    pub config_digest: String,
}

impl Options {
    /// Returns the time in which a client must log in: the configured time, else 2 s, or with TLS
    /// the handshake's timeout plus one second.
    pub fn auth_timeout(&self) -> Duration {
        self.auth.timeout.unwrap_or_else(|| match &self.tls {
            Some(tls) => tls.timeout() + Duration::from_secs(1),
            None => Duration::from_secs(2),
        })
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct ListenOptions {
    /// An address or a name that resolves to one.
    pub host: String,
    /// 0 = any free port (written `-1` in flags and files).
    pub port: u16,
    /// The address that clients are told in place of the listener's own.
    pub client_advertise: Option<Advertised>,
    pub unix: Option<UnixListenOptions>,
    /// True if a proxy may say, in front of everything else, for whom it speaks.
    pub proxy_protocol: bool,
    /// The congestion control of TCP sockets to peers on this host.
    pub local_congestion: LocalCongestion,
}

/// The congestion control of sockets to peers on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LocalCongestion {
    /// One that does not pace, if the host's does; else the host's.
    #[default]
    Auto,
    Host,
    /// By the kernel's name, as in /proc/sys/net/ipv4/tcp_available_congestion_control.
    Named(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct UnixListenOptions {
    pub path: PathBuf,
    /// Permission bits of the socket file.
    pub mode: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LimitOptions {
    pub control_line_bytes_max: usize,
    /// `PAYLOAD_BYTES_UNLIMITED` = unlimited (written as a negative number).
    pub payload_bytes_max: usize,
    pub pending_bytes_max: usize,
    /// Client connections over all shards; `usize::MAX` = unlimited.
    pub connections_max: usize,
    /// Per connection; 0 = unlimited.
    pub subscriptions_max: usize,
    /// Per subject of a subscription; 0 = unlimited.
    pub subject_tokens_max: usize,
    /// Closed connections remembered for monitoring.
    pub closed_connections_max: usize,
    /// Longest time for one write before the client counts as a slow consumer.
    pub write_deadline: Duration,
    pub write_timeout: WriteTimeoutPolicy,
    /// True if messages for a slow consumer are dropped instead of slowing down their publisher.
    pub no_fast_producer_stall: bool,
    pub no_header_support: bool,
    /// Attempts between two log lines about another server that cannot be reached.
    pub connect_error_reports: i64,
    /// The same for a connection to another server that was lost.
    pub reconnect_error_reports: i64,
}

/// What happens to a client that misses its write deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteTimeoutPolicy {
    /// Close, if it is a client.
    #[default]
    Default,
    Close,
    Retry,
}

/// The HTTP server for monitoring.
#[derive(Clone, Debug, PartialEq)]
pub struct MonitorOptions {
    /// None = the host of the client port.
    pub host: Option<String>,
    /// None = no plain HTTP; 0 = any free port.
    pub port: Option<u16>,
    /// None = no HTTPS; 0 = any free port.
    pub https_port: Option<u16>,
    /// Prefix of every path; starts with `/`.
    pub base_path: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct KeepAliveOptions {
    pub ping_interval: Duration,
    /// Unanswered PINGs before a connection is stale.
    pub ping_max: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LogOptions {
    pub debug: bool,
    pub trace: bool,
    /// True if the system account is traced, too.
    pub trace_verbose: bool,
    /// True if only headers are traced, not payloads.
    pub trace_headers: bool,
    pub timestamp: bool,
    pub timestamp_utc: bool,
    pub file: Option<PathBuf>,
    /// Bytes at which the log file is rotated; 0 = never.
    pub file_bytes_max: u64,
    /// Log files kept, including the current one; 0 = all.
    pub file_count_max: usize,
    /// Payload bytes shown in a trace line; 0 = all.
    pub traced_message_bytes_max: usize,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// nats-server's format.
    #[default]
    Nats,
    /// One JSON object per line.
    Json,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct FileOptions {
    /// The configuration file, if one was given.
    pub config: Option<PathBuf>,
    pub pid: Option<PathBuf>,
    pub ports_dir: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LameDuckOptions {
    pub duration: Duration,
    pub grace_period: Duration,
}

/// Midge's own options on how the process uses cores.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardOptions {
    /// None = one per core this process may use.
    pub count: Option<usize>,
    /// The cores to use, in shard order; None = those of the affinity mask.
    pub cores: Option<Vec<usize>>,
    /// None = pinned if cores are named, or if they are kept from other programs.
    pub pin: Option<bool>,
    /// How long a shard spins before it sleeps; zero = it sleeps at once; None = by what came of late.
    pub busy_poll: Option<Duration>,
    pub io_driver: IoDriver,
    /// The first of a range of additional ports, one per shard, by which a client can choose its
    /// shard; None = off.
    pub ports_base: Option<u16>,
    pub balance: Balance,
}

/// The rule by which a new connection is given a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// The shard chosen by the kernel's hash (SO_REUSEPORT).
    #[default]
    Hash,
    LeastConnections,
    /// Decided at the first subscription or message: one shard as long as one is enough.
    Auto,
    /// For tests: as `Hash`, then each client moves to the next shard at its first subscription or
    /// message.
    NextShard,
    /// For tests: as `NextShard`, and at each tick all clients are asked to move to the next shard.
    Wander,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoDriver {
    /// io_uring; epoll, with one warning, if the kernel or a sandbox refuses it.
    #[default]
    Auto,
    IoUring,
    Epoll,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            host: "0.0.0.0".into(),
            port: 4222,
            client_advertise: None,
            unix: None,
            proxy_protocol: false,
            local_congestion: LocalCongestion::Auto,
        }
    }
}

impl Default for LimitOptions {
    fn default() -> Self {
        Self {
            control_line_bytes_max: limits::CONTROL_LINE_BYTES_MAX,
            payload_bytes_max: limits::PAYLOAD_BYTES_MAX,
            pending_bytes_max: limits::PENDING_BYTES_MAX,
            connections_max: limits::CONNECTIONS_MAX,
            subscriptions_max: 0,
            subject_tokens_max: 0,
            closed_connections_max: 10_000,
            write_deadline: Duration::from_secs(10),
            write_timeout: WriteTimeoutPolicy::Default,
            no_fast_producer_stall: false,
            no_header_support: false,
            connect_error_reports: 3600,
            reconnect_error_reports: 1,
        }
    }
}

impl Default for KeepAliveOptions {
    fn default() -> Self {
        Self { ping_interval: Duration::from_secs(120), ping_max: 2 }
    }
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            debug: false,
            trace: false,
            trace_verbose: false,
            trace_headers: false,
            timestamp: true,
            timestamp_utc: false,
            file: None,
            file_bytes_max: 0,
            file_count_max: 0,
            traced_message_bytes_max: 0,
            format: LogFormat::Nats,
        }
    }
}

impl Default for LameDuckOptions {
    fn default() -> Self {
        Self { duration: Duration::from_secs(120), grace_period: Duration::from_secs(10) }
    }
}

impl Default for ShardOptions {
    fn default() -> Self {
        Self {
            count: None,
            cores: None,
            pin: None,
            busy_poll: None,
            io_driver: IoDriver::Auto,
            ports_base: None,
            balance: Balance::Hash,
        }
    }
}

impl Default for MonitorOptions {
    fn default() -> Self {
        Self { host: None, port: None, https_port: None, base_path: "/".into() }
    }
}
