//! The command line: commands and flags. Their doc comments are the text of `--help`.

use crate::kill::arguments::KillArguments;
use crate::login::LoginArguments;
use crate::output::console::Format;
use crate::stalls::arguments::StallsArguments;
use crate::suite::SuiteName;
use crate::units::{CoreList, parse_duration_above_zero};
use crate::workload::{
    ConnectionsArguments, IdleArguments, JetStreamArguments, LatencyCommand, SweepArguments,
    ThroughputArguments, Workload,
};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Measures any NATS server: open-loop latency, throughput with every message counted, and the
/// server's CPU time and memory.
#[derive(Parser, Debug)]
#[command(name = "midge-bench", version, max_term_width = 100)]
pub struct CommandLine {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// As fast as possible; counts lost, doubled and reordered messages
    Throughput(Single<ThroughputArguments>),
    /// Open loop: latency from the time each message was due
    Latency(Single<LatencyCommand>),
    /// Raises the load to the knee, then reports latency at shares of the maximum
    Sweep(Single<SweepArguments>),
    /// Many idle connections: memory of each, connect rate, latency of a pair beside them
    Connections(Single<ConnectionsArguments>),
    /// Nobody connected: how often the server wakes, and its CPU time
    Idle(Single<IdleArguments>),
    /// JetStream: publishing, consumers of every kind, key-value puts and gets
    #[command(name = "jetstream")]
    JetStream(Single<JetStreamArguments>),
    /// Two servers side by side, interleaved, with confidence intervals
    Compare(CompareArguments),
    /// The noise floor of this host: hiccups, TCP and Unix socket echo
    Floor(FloorCommand),
    /// The longest PING of other clients while one client, a reload or monitoring causes a lot of
    /// work at once
    Stalls(StallsArguments),
    /// Kills a server with JetStream under load, again and again, and looks for every acknowledged
    /// message
    Kill(KillArguments),
    /// Draws result folders again, merging runs of different days
    Report(ReportArguments),
    /// The raw relay as a process of its own (started by the harness)
    #[command(hide = true)]
    Relay(RelayArguments),
}

/// One workload against one server.
#[derive(Args, Debug)]
pub struct Single<W: Args> {
    #[command(flatten)]
    pub target: TargetArguments,
    #[command(flatten)]
    pub workload: W,
    #[command(flatten)]
    pub floor: FloorArguments,
    #[command(flatten)]
    pub output: OutputArguments,
}

#[derive(Args, Debug, Clone)]
pub struct FloorArguments {
    /// Leave out the noise floor and the raw relay
    #[arg(long, help_heading = "Noise floor")]
    pub no_floor: bool,
    /// Duration of each meter of the floor
    #[arg(long, help_heading = "Noise floor", default_value = "1s", value_parser = parse_duration_above_zero, value_name = "TIME")]
    pub floor_duration: Duration,
}

#[derive(Args, Debug)]
pub struct FloorCommand {
    /// Duration of each meter
    #[arg(long, default_value = "5s", value_parser = parse_duration_above_zero, value_name = "TIME")]
    pub duration: Duration,
    /// Cores of the load
    #[arg(long, value_parser = CoreList::parse, value_name = "CORES")]
    pub pin_load: Option<CoreList>,
    /// Cores of the server
    #[arg(long, value_parser = CoreList::parse, value_name = "CORES")]
    pub pin_server: Option<CoreList>,
    #[command(flatten)]
    pub output: OutputArguments,
}

#[derive(Args, Debug)]
pub struct ReportArguments {
    /// Folders (or result.json files) of earlier runs
    #[arg(required = true, value_name = "DIR")]
    pub folders: Vec<PathBuf>,
    /// Write a static site instead: a page for each result in these folders or directly below them,
    /// and an index with trends
    #[arg(long, value_name = "DIR", conflicts_with_all = ["output", "baseline"])]
    pub publish: Option<PathBuf>,
    #[command(flatten)]
    pub output: OutputArguments,
}

#[derive(Args, Debug, Clone)]
pub struct TargetArguments {
    /// nats://host:port, tls://, ws://, wss://, ws-deflate:// (deflated messages), wss-deflate://
    /// or unix:///path, with user:password@ before the host if need be
    #[arg(long, default_value = "nats://127.0.0.1:4222", value_name = "URL")]
    pub server: String,
    /// Process of the server, for CPU time and memory; default: found from the port
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Monitoring port of the server on this host, to read the share of messages that crossed
    /// shards
    #[arg(long, value_name = "PORT")]
    pub monitor: Option<u16>,
    #[command(flatten)]
    pub login: LoginArguments,
}

#[derive(Args, Debug, Clone)]
pub struct OutputArguments {
    /// Folder for result.json, result.csv, *.hlog and report.html
    #[arg(long, help_heading = "Output", value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Format of standard output
    #[arg(long, help_heading = "Output", value_enum, default_value = "table")]
    pub format: Format,
    /// No progress on standard error
    #[arg(long, help_heading = "Output")]
    pub quiet: bool,
    /// Fail when a figure is worse than in this result.json
    #[arg(long, help_heading = "Output", value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// Share of the stored figure by which it may be worse
    #[arg(
        long,
        help_heading = "Output",
        default_value_t = 0.1,
        value_name = "SHARE",
        requires = "baseline"
    )]
    pub worse_max: f64,
}

#[derive(Args, Debug)]
pub struct CompareArguments {
    /// Command line of the first server with {port} in it, or its URL. With {unix} in it the Unix
    /// socket is measured, with {tls_cert}, {tls_key} (and {tls_ca}) TLS, with certificates made
    /// for the occasion. With {together} or {apart}, for --shard-ports, each pair sits on one of
    /// two shards or on both. {monitor} is a free port for monitoring, where the share of messages
    /// that crossed shards and the durability of JetStream are read. {store} is a folder that is
    /// new for each start. {websocket}, {websocket_deflate} and {websocket_tls} are configuration
    /// files, to be given to the server, with a port for WebSocket: that is measured
    #[arg(long, value_name = "COMMAND|URL")]
    pub a: String,
    /// The second server, with which the first is compared
    #[arg(long, value_name = "COMMAND|URL")]
    pub b: String,
    #[arg(long, default_value = "A", value_name = "NAME")]
    pub name_a: String,
    #[arg(long, default_value = "B", value_name = "NAME")]
    pub name_b: String,
    /// Rounds; each runs every server once, in turning order (A B, B A, ...)
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub rounds: u32,
    /// Cores the started servers may use; one core also sets GOMAXPROCS=1
    #[arg(long, value_parser = CoreList::parse, value_name = "CORES")]
    pub pin_server: Option<CoreList>,
    /// Cores of the load, for every workload that does not set its own
    #[arg(long, value_parser = CoreList::parse, value_name = "CORES")]
    pub pin_load: Option<CoreList>,
    /// A workload, such as --run "throughput --payload 16"; may be repeated
    #[arg(long, value_name = "WORKLOAD")]
    pub run: Vec<String>,
    /// Duration of every workload that does not set its own
    #[arg(long, value_parser = parse_duration_above_zero, value_name = "TIME")]
    pub duration: Option<Duration>,
    /// A ready set of workloads
    #[arg(long, value_enum)]
    pub suite: Option<SuiteName>,
    /// Folder on a disk in which {store} is made; default: the system's for temporary files
    #[arg(long, value_name = "DIR")]
    pub store_root: Option<PathBuf>,
    #[command(flatten)]
    pub floor: FloorArguments,
    #[command(flatten)]
    pub login: LoginArguments,
    #[command(flatten)]
    pub output: OutputArguments,
    /// One workload, with the flags of its own command
    #[command(subcommand)]
    pub workload: Option<Workload>,
}

#[derive(Args, Debug)]
pub struct RelayArguments {
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    #[arg(long)]
    pub frame_size: usize,
    #[arg(long)]
    pub queue: bool,
}
