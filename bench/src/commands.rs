//! What each command does, from flags to the written result.

use crate::Failure;
use crate::cli::{
    Command, CommandLine, CompareArguments, LatencyArguments, OutputArguments, RelayArguments,
    Single, TargetArguments, ThroughputArguments, Workload, WorkloadLine,
};
use crate::compare::rounds::{self, ComparePlan, Contestant, Server};
use crate::compare::statistics;
use crate::host::environment::Environment;
use crate::host::process_finder::listener_process;
use crate::host::{interrupt, pin};
use crate::load::{latency, throughput};
use crate::output::console;
use crate::output::document::{Document, Side};
use crate::output::progress::Progress;
use crate::output::result::RunResult;
use crate::relay::{self, RelayPlan};
use crate::units::{CoreList, split_command_line};
use crate::wire::address::ServerUrl;
use crate::wire::connection::Dialer;
use clap::Parser;
use std::io::Write;

/// Whether the figures may be used.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    Bad,
}

/// # Errors
/// When the command cannot be carried out.
pub fn run(line: CommandLine) -> Result<Verdict, Failure> {
    match line.command {
        Command::Throughput(single) => run_throughput(&single),
        Command::Latency(single) => run_latency(&single),
        Command::Compare(arguments) => run_compare(&arguments),
        Command::Relay(arguments) => run_relay(&arguments),
    }
}

fn run_throughput(single: &Single<ThroughputArguments>) -> Result<Verdict, Failure> {
    let pin_load = single.workload.time.pin_load.clone().unwrap_or_default();
    let progress = prepare(&single.output, &pin_load)?;
    let (dialer, process) = target(&single.target)?;
    let plan = single.workload.plan(&pin_load);
    let result = throughput::run(&dialer, &plan, process, &progress)?;
    finish_single(&single.target, &single.output, &pin_load, result, &progress)
}

fn run_latency(single: &Single<LatencyArguments>) -> Result<Verdict, Failure> {
    let pin_load = single.workload.time.pin_load.clone().unwrap_or_default();
    let progress = prepare(&single.output, &pin_load)?;
    let (dialer, process) = target(&single.target)?;
    let plan = single.workload.plan(&pin_load);
    let result = latency::run(&dialer, &plan, process, &progress)?;
    finish_single(&single.target, &single.output, &pin_load, result, &progress)
}

fn run_compare(arguments: &CompareArguments) -> Result<Verdict, Failure> {
    let pin_load = arguments.pin_load.clone().unwrap_or_default();
    let pin_server = arguments.pin_server.clone().unwrap_or_default();
    let progress = prepare(&arguments.output, &pin_load)?;
    if arguments.name_a == arguments.name_b {
        return Err(Failure::new("the two servers need different names: --name-a, --name-b"));
    }
    let plan = ComparePlan {
        contestants: [
            Contestant { name: arguments.name_a.clone(), server: Server::parse(&arguments.a) },
            Contestant { name: arguments.name_b.clone(), server: Server::parse(&arguments.b) },
        ],
        workloads: workloads(arguments)?,
        rounds: arguments.rounds,
        pin_server: pin_server.clone(),
        pin_load: pin_load.clone(),
        login: arguments.login.clone(),
        relay: !arguments.no_floor,
    };
    let environment = Environment::collect(&pin_load.to_string(), &pin_server.to_string());
    let mut document = Document::new(environment);
    document.runs = rounds::run(&plan, &progress)?;
    for contestant in &plan.contestants {
        let run = document.runs.iter().find(|run| run.side == contestant.name);
        document.sides.push(Side {
            name: contestant.name.clone(),
            server: contestant.server.text().to_string(),
            version: run.map_or(String::new(), |run| run.server_version.clone()),
        });
    }
    document.comparisons =
        statistics::compare(&document.runs, &arguments.name_a, &arguments.name_b, 1);
    publish(&document, &arguments.output, &progress)
}

/// The workloads of `--run` and of the trailing subcommand, with the durations of the whole.
fn workloads(arguments: &CompareArguments) -> Result<Vec<Workload>, Failure> {
    let mut workloads = Vec::new();
    for text in &arguments.run {
        let line = WorkloadLine::try_parse_from(split_command_line(text)?)
            .map_err(|error| Failure::new(format!("--run \"{text}\": {error}")))?;
        let own_duration = text.contains("--duration");
        workloads.push((line.workload, own_duration));
    }
    workloads.extend(arguments.workload.clone().map(|workload| (workload, false)));
    if workloads.is_empty() {
        return Err(Failure::new(
            "compare what? Give a workload, as in: compare --a .. --b .. throughput --payload 16",
        ));
    }
    let adjusted = workloads.into_iter().map(|(mut workload, own_duration)| {
        if let (Some(duration), false) = (arguments.duration, own_duration) {
            match &mut workload {
                Workload::Throughput(arguments) => arguments.time.duration = duration,
                Workload::Latency(arguments) => arguments.time.duration = duration,
            }
        }
        workload
    });
    Ok(adjusted.collect())
}

fn run_relay(arguments: &RelayArguments) -> Result<Verdict, Failure> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", arguments.port))?;
    println!("{}", listener.local_addr()?.port());
    std::io::stdout().flush()?;
    let plan = RelayPlan { frame_size: arguments.frame_size, queue: arguments.queue };
    relay::serve(&listener, plan)?;
    Ok(Verdict::Good)
}

/// Signal handlers, the load's cores for this thread and all it starts, and the progress display.
fn prepare(output: &OutputArguments, pin_load: &CoreList) -> Result<Progress, Failure> {
    interrupt::install()?;
    if !pin_load.0.is_empty() {
        pin::pin_thread_to_set(pin_load)?;
    }
    Ok(Progress::new(output.quiet))
}

fn target(arguments: &TargetArguments) -> Result<(Dialer, Result<u32, String>), Failure> {
    let url = ServerUrl::parse(&arguments.server)?;
    let process = match arguments.server_pid {
        Some(process) => Ok(process),
        None => listener_process(&url.address),
    };
    Ok((arguments.login.dialer(&url)?, process))
}

fn finish_single(
    target: &TargetArguments,
    output: &OutputArguments,
    pin_load: &CoreList,
    result: RunResult,
    progress: &Progress,
) -> Result<Verdict, Failure> {
    let mut document = Document::new(Environment::collect(&pin_load.to_string(), ""));
    let server = ServerUrl::parse(&target.server)?.address.to_string();
    let version = result.server_version.clone();
    document.sides.push(Side { name: String::new(), server, version });
    document.runs.push(result);
    publish(&document, output, progress)
}

/// Writes and prints a document. Invalid runs make the verdict bad.
fn publish(
    document: &Document,
    output: &OutputArguments,
    progress: &Progress,
) -> Result<Verdict, Failure> {
    progress.clear();
    if let Some(folder) = &output.output {
        crate::output::files::write(document, folder)?;
        progress.say(&format!("written to {}", folder.display()));
    }
    console::print(document, output.format)?;
    Ok(if document.all_valid() { Verdict::Good } else { Verdict::Bad })
}
