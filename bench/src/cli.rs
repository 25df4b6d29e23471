//! The command line: commands and flags. Their doc comments are the text of `--help`.

use crate::Failure;
use crate::load::disturbance::Disturbance;
use crate::load::endpoints::Mode;
use crate::load::event_loop::Pacer;
use crate::load::schedule::Arrival;
use crate::stalls::cases::Case;
use crate::units::{
    CoreList, parse_duration, parse_duration_above_zero, parse_rate, parse_size, split_command_line,
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
    /// Two servers side by side, interleaved, with confidence intervals
    Compare(CompareArguments),
    /// The noise floor of this host: hiccups, TCP and Unix socket echo
    Floor(FloorCommand),
    /// The longest PING of other clients while one client, a reload or monitoring causes a lot of
    /// work at once
    Stalls(StallsArguments),
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
    #[command(flatten)]
    pub output: OutputArguments,
}

#[derive(Args, Debug, Clone)]
pub struct TargetArguments {
    /// nats://host:port, tls://host:port or unix:///path, with user:password@ before the host if
    /// need be
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

#[derive(Args, Debug, Clone, Default)]
pub struct LoginArguments {
    /// Congestion control of the load's own TCP sockets, such as cubic; default: the host's
    #[arg(long, help_heading = "Sockets", value_name = "NAME")]
    pub congestion: Option<String>,
    #[arg(long, help_heading = "Login", requires = "password")]
    pub user: Option<String>,
    #[arg(long, help_heading = "Login", requires = "user")]
    pub password: Option<String>,
    #[arg(long, help_heading = "Login", conflicts_with_all = ["user", "nkey", "creds"])]
    pub token: Option<String>,
    /// An nkey seed, or a file that holds one
    #[arg(long, help_heading = "Login", value_name = "SEED|FILE", conflicts_with_all = ["user", "creds"])]
    pub nkey: Option<String>,
    /// A credentials file: user JWT and seed
    #[arg(long, help_heading = "Login", value_name = "FILE", conflicts_with = "user")]
    pub creds: Option<String>,
    /// Authorities that sign the server's certificate; default: those of the system
    #[arg(long, help_heading = "TLS", value_name = "FILE")]
    pub tls_ca: Option<String>,
    #[arg(long, help_heading = "TLS", value_name = "FILE")]
    pub tls_cert: Option<String>,
    #[arg(long, help_heading = "TLS", value_name = "FILE")]
    pub tls_key: Option<String>,
    /// Accept any certificate
    #[arg(long, help_heading = "TLS")]
    pub tls_insecure: bool,
}

#[derive(Args, Debug, Clone)]
pub struct ShapeArguments {
    /// Bytes per message: 16, 1k, 64KiB
    #[arg(long, default_value = "128", value_parser = parse_size, value_name = "SIZE")]
    pub payload: usize,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..), value_name = "N")]
    pub publishers: u16,
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub subscribers: u16,
    /// Number of subjects: publishers cycle over them; subscribers share them out, or all hear the
    /// single one
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000), value_name = "N")]
    pub subjects: u32,
    /// Every subscriber hears all subjects by one wildcard
    #[arg(long)]
    pub wildcard: bool,
    /// Subscribers form one queue group
    #[arg(long)]
    pub queue: bool,
}

#[derive(Args, Debug, Clone)]
pub struct TimeArguments {
    #[arg(long, default_value = "5s", value_parser = parse_duration_above_zero, value_name = "TIME")]
    pub duration: Duration,
    #[arg(long, default_value = "1s", value_parser = parse_duration, value_name = "TIME")]
    pub warmup: Duration,
    /// Cores of the load, such as 1 or 2-5,8
    #[arg(long, value_parser = CoreList::parse, value_name = "CORES")]
    pub pin_load: Option<CoreList>,
    /// Seed of payloads, arrivals and resampling
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Share of the time that other programs may have the server's core (in throughput and the
    /// closed loop also the generator's) before the run is invalid
    #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
    pub core_taken_max: f64,
}

#[derive(Args, Debug, Clone)]
pub struct ThroughputArguments {
    #[command(flatten)]
    pub shape: ShapeArguments,
    #[command(flatten)]
    pub time: TimeArguments,
    /// Exactly that many messages per publisher, instead of a duration
    #[arg(long, value_name = "N")]
    pub messages: Option<u64>,
}

#[derive(Args, Debug, Clone)]
pub struct LatencyArguments {
    #[command(flatten)]
    pub shape: ShapeArguments,
    #[command(flatten)]
    pub time: TimeArguments,
    /// Messages per second of all publishers together: 20000, 20k, 1.5M
    #[arg(long, default_value = "10k", value_parser = parse_rate, value_name = "RATE")]
    pub rate: f64,
    /// publish to subscribe, or request and reply
    #[arg(long, value_enum, default_value = "one-way")]
    pub mode: Mode,
    #[arg(long, value_enum, default_value = "constant")]
    pub arrival: Arrival,
    #[arg(long, value_enum, default_value = "spin")]
    pub pacer: Pacer,
    /// Load threads, each with its share of the connections; default: one per core of --pin-load,
    /// or one
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..), value_name = "N")]
    pub load_threads: Option<u16>,
    /// A send later than this counts against the generator [default: 100us spinning, 1ms sleeping]
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub late_limit: Option<Duration>,
    /// Share of late sends above which the run is invalid
    #[arg(long, default_value_t = 0.01, value_name = "SHARE")]
    pub late_share_max: f64,
    /// A misbehaving client beside the load, on the load's cores at the lowest priority
    #[arg(long, value_enum, value_name = "KIND")]
    pub beside: Option<Disturbance>,
    /// Cores for that client instead. On the server's cores, if there are few: it takes what the
    /// server leaves over
    #[arg(long, value_name = "CORES", value_parser = CoreList::parse, requires = "beside")]
    pub pin_beside: Option<CoreList>,
}

#[derive(Args, Debug, Clone)]
pub struct LatencyCommand {
    #[command(flatten)]
    pub open_loop: LatencyArguments,
    /// With --mode request: each requester has one request in flight and sends the next when the
    /// reply is there. Gives requests per second and round trips; no latency under a given load
    #[arg(long, conflicts_with_all = ["rate", "arrival", "late_limit", "late_share_max"])]
    pub closed_loop: bool,
    /// With --closed-loop and as many responders (--subscribers) as requesters (--publishers): each
    /// requester asks a single responder, and changes to another one at this interval
    #[arg(long, requires = "closed_loop", value_name = "TIME", value_parser = parse_duration_above_zero)]
    pub shift: Option<Duration>,
}

#[derive(Args, Debug, Clone)]
pub struct SweepArguments {
    #[command(flatten)]
    pub latency: LatencyArguments,
    /// The knee is where the percentile of --objective-percentile passes this
    #[arg(long, default_value = "1ms", value_parser = parse_duration_above_zero, value_name = "TIME")]
    pub objective: Duration,
    #[arg(long, default_value_t = 99.0, value_name = "PERCENT")]
    pub objective_percentile: f64,
    /// Duration of each step of the search
    #[arg(long, default_value = "2s", value_parser = parse_duration_above_zero, value_name = "TIME")]
    pub step: Duration,
}

#[derive(Args, Debug, Clone)]
pub struct ConnectionsArguments {
    /// Number of idle connections to open
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub connections: usize,
    /// Number of subscriptions that each of them holds
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub subscriptions: usize,
    #[command(flatten)]
    pub probe: LatencyArguments,
}

#[derive(Args, Debug, Clone)]
pub struct IdleArguments {
    #[command(flatten)]
    pub time: TimeArguments,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Table,
    Json,
    Csv,
}

#[derive(Args, Debug)]
pub struct CompareArguments {
    /// Command line of the first server with {port} in it, or its URL. With {unix} in it the Unix
    /// socket is measured, with {tls_cert}, {tls_key} (and {tls_ca}) TLS, with certificates made
    /// for the occasion. With {together} or {apart}, for --shard-ports, each pair sits on one of
    /// two shards or on both. {monitor} is a free port for monitoring, where the share of messages
    /// that crossed shards is read
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
    pub suite: Option<crate::suite::SuiteName>,
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
pub struct StallsArguments {
    /// Midge's program: a path, or a name on PATH
    #[arg(long, value_name = "PROGRAM")]
    pub midge: PathBuf,
    /// nats-server's program, with which Midge is compared: a path, or a name on PATH
    #[arg(long, value_name = "PROGRAM")]
    pub nats: PathBuf,
    /// Numbers of shards; a Midge is started for each
    #[arg(long, default_value = "1,2,4", value_delimiter = ',', value_name = "LIST", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub shards: Vec<u16>,
    /// Rounds; each runs every server once, in turning order. Medians are reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub rounds: u32,
    /// Only this case; may be repeated
    #[arg(long = "case", value_enum, value_name = "CASE")]
    pub cases: Vec<Case>,
    /// A longest PING up to this is good, whatever nats-server's is
    #[arg(long, default_value = "25ms", value_parser = parse_duration_above_zero, value_name = "TIME")]
    pub aim: Duration,
    /// Multiplies the numbers of subscriptions, connections and accounts of every case
    #[arg(long, default_value_t = 1.0, value_parser = parse_scale, value_name = "FACTOR")]
    pub scale: f64,
    /// Cores the servers may use; one core also sets GOMAXPROCS=1
    #[arg(long, value_parser = CoreList::parse, value_name = "CORES")]
    pub pin_server: Option<CoreList>,
    /// Cores of the load and of the probes
    #[arg(long, value_parser = CoreList::parse, value_name = "CORES")]
    pub pin_load: Option<CoreList>,
    /// JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// No progress on standard error
    #[arg(long)]
    pub quiet: bool,
}

/// The workloads that `compare` can run.
#[derive(Subcommand, Debug, Clone)]
pub enum Workload {
    Throughput(ThroughputArguments),
    Latency(LatencyCommand),
    Sweep(SweepArguments),
    Connections(ConnectionsArguments),
    Idle(IdleArguments),
}

/// The text of `--run`, parsed with the same flags.
#[derive(Parser, Debug)]
#[command(name = "--run", no_binary_name = true)]
struct WorkloadLine {
    #[command(subcommand)]
    workload: Workload,
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

fn parse_scale(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 10.0 => Ok(value),
        _ => Err(format!("'{text}' is no factor above 0 and up to 10")),
    }
}

impl Workload {
    /// Parses the text of `--run`.
    ///
    /// # Errors
    /// If it is not a workload with flags of its own.
    pub fn parse(text: &str) -> Result<Workload, Failure> {
        let line = WorkloadLine::try_parse_from(split_command_line(text)?)
            .map_err(|error| Failure::new(format!("--run \"{text}\": {error}")))?;
        Ok(line.workload)
    }

    /// Checks for contradictions that the parser cannot see.
    ///
    /// # Errors
    /// If there is one.
    pub fn check(&self) -> Result<(), Failure> {
        match self {
            Workload::Latency(arguments)
                if arguments.closed_loop && arguments.open_loop.mode != Mode::Request =>
            {
                Err(Failure::new("--closed-loop is for requests: add --mode request"))
            }
            Workload::Latency(arguments) if arguments.shift.is_some() => {
                let shape = &arguments.open_loop.shape;
                match shape.publishers == shape.subscribers && shape.publishers > 1 {
                    true => Ok(()),
                    false => Err(Failure::new(
                        "--shift needs two or more requesters and as many responders: give \
                         --publishers and --subscribers the same number",
                    )),
                }
            }
            _ => Ok(()),
        }
    }

    pub fn time(&self) -> &TimeArguments {
        match self {
            Workload::Throughput(arguments) => &arguments.time,
            Workload::Latency(arguments) => &arguments.open_loop.time,
            Workload::Sweep(arguments) => &arguments.latency.time,
            Workload::Connections(arguments) => &arguments.probe.time,
            Workload::Idle(arguments) => &arguments.time,
        }
    }

    /// Returns the times of the workload, which a whole comparison may set.
    pub fn time_mut(&mut self) -> &mut TimeArguments {
        match self {
            Workload::Throughput(arguments) => &mut arguments.time,
            Workload::Latency(arguments) => &mut arguments.open_loop.time,
            Workload::Sweep(arguments) => &mut arguments.latency.time,
            Workload::Connections(arguments) => &mut arguments.probe.time,
            Workload::Idle(arguments) => &mut arguments.time,
        }
    }
}
