//! A workload as it is written, with its flags, and the plan that they make: what a command runs
//! alone, what `compare --run` names and a suite lists.

use crate::Failure;
use crate::load::closed_loop::ClosedLoopPlan;
use crate::load::connections::ConnectionsPlan;
use crate::load::disturbance::Disturbance;
use crate::load::endpoints::Mode;
use crate::load::event_loop::Pacer;
use crate::load::idle::IdlePlan;
use crate::load::latency::LatencyPlan;
use crate::load::layout::Layout;
use crate::load::schedule::Arrival;
use crate::load::sweep::SweepPlan;
use crate::load::throughput::ThroughputPlan;
use crate::units::{
    CoreList, parse_duration, parse_duration_above_zero, parse_rate, parse_size, split_command_line,
};
use clap::{Args, Parser, Subcommand};
use std::time::Duration;

mod jetstream;

pub use jetstream::JetStreamArguments;

/// The workloads that `compare` can run.
#[derive(Subcommand, Debug, Clone)]
pub enum Workload {
    Throughput(ThroughputArguments),
    Latency(LatencyCommand),
    Sweep(SweepArguments),
    Connections(ConnectionsArguments),
    Idle(IdleArguments),
    #[command(name = "jetstream")]
    JetStream(JetStreamArguments),
}

/// The text of `--run`, parsed with the same flags.
#[derive(Parser, Debug)]
#[command(name = "--run", no_binary_name = true)]
struct WorkloadLine {
    #[command(subcommand)]
    workload: Workload,
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
            Workload::JetStream(arguments) => arguments.check(),
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
            Workload::JetStream(arguments) => &arguments.time,
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
            Workload::JetStream(arguments) => &mut arguments.time,
        }
    }
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

impl ShapeArguments {
    fn layout(&self) -> Layout {
        // Letters and digits, new for each run, so that late messages of an earlier run are not
        // taken for ours.
        let tag: String = std::iter::repeat_with(fastrand::alphanumeric).take(8).collect();
        Layout {
            publisher_count: usize::from(self.publishers),
            subscriber_count: usize::from(self.subscribers),
            subject_count: self.subjects as usize,
            wildcard: self.wildcard,
            queue: self.queue.then(|| "group".to_string()),
            payload_size: self.payload,
            subject_prefix: format!("bench.{tag}"),
            paired: false,
        }
    }
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

impl ThroughputArguments {
    pub fn plan(&self, pin_load: &CoreList) -> ThroughputPlan {
        ThroughputPlan {
            layout: self.shape.layout(),
            warmup: self.time.warmup,
            duration: self.time.duration,
            messages_per_publisher: self.messages,
            pin_load: self.time.pin_load.clone().unwrap_or_else(|| pin_load.clone()),
            seed: self.time.seed,
        }
    }
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

impl LatencyArguments {
    pub fn plan(&self, pin_load: &CoreList) -> LatencyPlan {
        let pin_load = self.time.pin_load.clone().unwrap_or_else(|| pin_load.clone());
        let late_limit = self.late_limit.unwrap_or(match self.pacer {
            Pacer::Spin => Duration::from_micros(100),
            Pacer::Sleep => Duration::from_millis(1),
        });
        LatencyPlan {
            layout: self.shape.layout(),
            mode: self.mode,
            rate: self.rate,
            arrival: self.arrival,
            pacer: self.pacer,
            warmup: self.time.warmup,
            duration: self.time.duration,
            load_threads: self.load_threads.map_or(pin_load.0.len().max(1), usize::from),
            pin_load,
            late_limit,
            late_share_max: self.late_share_max,
            seed: self.time.seed,
            beside: self.beside,
            pin_beside: self.pin_beside.clone().unwrap_or_default(),
        }
    }
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

impl LatencyCommand {
    pub fn closed_plan(&self, pin_load: &CoreList) -> ClosedLoopPlan {
        let mut plan = self.open_loop.plan(pin_load);
        if self.shift.is_some() {
            plan.layout.subject_count = plan.layout.subscriber_count;
            plan.layout.paired = true;
        }
        ClosedLoopPlan {
            layout: plan.layout,
            shift: self.shift,
            pacer: plan.pacer,
            warmup: plan.warmup,
            duration: plan.duration,
            pin_load: plan.pin_load,
            load_threads: plan.load_threads,
            seed: plan.seed,
        }
    }
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

impl SweepArguments {
    pub fn plan(&self, pin_load: &CoreList) -> SweepPlan {
        SweepPlan {
            latency: self.latency.plan(pin_load),
            objective: self.objective,
            objective_percentile: self.objective_percentile,
            step_duration: self.step,
        }
    }
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

impl ConnectionsArguments {
    pub fn plan(&self, pin_load: &CoreList) -> ConnectionsPlan {
        ConnectionsPlan {
            connection_count: self.connections,
            subscriptions_each: self.subscriptions,
            probe: self.probe.plan(pin_load),
        }
    }
}

#[derive(Args, Debug, Clone)]
pub struct IdleArguments {
    #[command(flatten)]
    pub time: TimeArguments,
}

impl IdleArguments {
    pub fn plan(&self) -> IdlePlan {
        IdlePlan { settle: self.time.warmup, duration: self.time.duration }
    }
}
