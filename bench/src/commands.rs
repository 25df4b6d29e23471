//! Carries out each command, from its flags to the written result.

use crate::Failure;
use crate::cli::{
    Command, CommandLine, CompareArguments, FloorArguments, FloorCommand, OutputArguments,
    RelayArguments, ReportArguments, TargetArguments,
};
use crate::compare::rounds::{self, ComparePlan, Contestant, Server};
use crate::compare::statistics;
use crate::findings::result::RunResult;
use crate::host::environment::Environment;
use crate::host::process_finder::listener_process;
use crate::host::{interrupt, pin, server_process, spawn};
use crate::kill;
use crate::kill::arguments::KillArguments;
use crate::output::document::{Document, Side};
use crate::output::{baseline, console, files, site};
use crate::progress::Progress;
use crate::relay::{self, RelayPlan};
use crate::setting::Setting;
use crate::stalls;
use crate::stalls::arguments::StallsArguments;
use crate::units::{CoreList, split_command_line};
use crate::wire::address::ServerUrl;
use crate::workload::Workload;
use std::io::Write;
use std::time::Duration;

/// The verdict on the figures of a command, from which its exit status follows.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    Bad,
    /// There are fewer figures than were asked for.
    Interrupted,
}

/// Where the figures go, and what they are compared with.
struct Outlet<'a> {
    output: &'a OutputArguments,
    stored: Option<Document>,
    progress: Progress,
}

/// Carries out a command.
///
/// # Errors
/// If that is not possible.
pub fn run(line: CommandLine) -> Result<Verdict, Failure> {
    let (workload, target, floor, output) = match line.command {
        Command::Compare(arguments) => return run_compare(&arguments),
        Command::Floor(arguments) => return run_floor(&arguments),
        Command::Stalls(arguments) => return run_stalls(&arguments),
        Command::Kill(arguments) => return run_kill(&arguments),
        Command::Report(arguments) => return run_report(&arguments),
        Command::Relay(arguments) => return run_relay(&arguments),
        Command::Throughput(one) => {
            (Workload::Throughput(one.workload), one.target, one.floor, one.output)
        }
        Command::Latency(one) => {
            (Workload::Latency(one.workload), one.target, one.floor, one.output)
        }
        Command::Sweep(one) => (Workload::Sweep(one.workload), one.target, one.floor, one.output),
        Command::Connections(one) => {
            (Workload::Connections(one.workload), one.target, one.floor, one.output)
        }
        Command::Idle(one) => (Workload::Idle(one.workload), one.target, one.floor, one.output),
        Command::JetStream(one) => {
            (Workload::JetStream(one.workload), one.target, one.floor, one.output)
        }
    };
    run_single(workload, &target, &floor, &output)
}

/// Runs one workload against one server that is already running.
fn run_single(
    mut workload: Workload,
    target: &TargetArguments,
    floor: &FloorArguments,
    output: &OutputArguments,
) -> Result<Verdict, Failure> {
    workload.check()?;
    let url = ServerUrl::parse(&target.server)?;
    let mut dialer = target.login.dialer(&url)?;
    dialer.monitor_port = target.monitor;
    // A missing server is reported at once, not after the noise floor.
    drop(dialer.connect("midge-bench", 0)?);
    let process = match target.server_pid {
        Some(process) => Ok(process),
        None => listener_process(&url.address),
    };
    let pin_load = workload.time_mut().pin_load.clone().unwrap_or_default();
    // The relay and the floor's meters take the server's place on the server's own cores.
    let pin_server = process.as_ref().ok().and_then(|&id| server_process::allowed_cores(id));
    let setting = Setting {
        pin_load,
        pin_server: pin_server.unwrap_or_default(),
        floor: floor_of(floor),
        congestion: target.login.congestion.clone(),
    };
    let environment =
        Environment::collect(&setting.pin_load.to_string(), &setting.pin_server.to_string());
    let outlet = prepare(output, &setting.pin_load)?;
    let progress = &outlet.progress;
    let mut document = Document::new(environment);
    document.warnings.extend(document.environment.warning(&url.address));
    document.warnings.extend(setting.congestion_note());
    document.runs.extend(setting.measure_floor(progress)?);
    let reference = setting.reference(&workload, progress)?;
    let mut result = setting.execute(&workload, &dialer, process, progress)?;
    if let Some(reference) = &reference {
        relay::process::add_share(&mut result, reference);
    }
    document.sides.push(Side {
        name: String::new(),
        server: url.address.to_string(),
        version: result.server_version.clone(),
    });
    document.runs.push(result);
    document.runs.extend(reference);
    outlet.publish(&document)
}

fn floor_of(arguments: &FloorArguments) -> Option<Duration> {
    (!arguments.no_floor).then_some(arguments.floor_duration)
}

fn run_compare(arguments: &CompareArguments) -> Result<Verdict, Failure> {
    if arguments.name_a == arguments.name_b {
        return Err(Failure::new("the two servers need different names: --name-a, --name-b"));
    }
    let setting = Setting {
        pin_load: arguments.pin_load.clone().unwrap_or_default(),
        pin_server: arguments.pin_server.clone().unwrap_or_default(),
        floor: floor_of(&arguments.floor),
        congestion: arguments.login.congestion.clone(),
    };
    let plan = ComparePlan {
        contestants: [
            Contestant { name: arguments.name_a.clone(), server: Server::parse(&arguments.a) },
            Contestant { name: arguments.name_b.clone(), server: Server::parse(&arguments.b) },
        ],
        workloads: workloads(arguments)?,
        rounds: arguments.rounds,
        setting: setting.clone(),
        login: arguments.login.clone(),
        store_root: arguments.store_root.clone(),
    };
    for contestant in &plan.contestants {
        contestant.server.check()?;
    }
    let environment =
        Environment::collect(&setting.pin_load.to_string(), &setting.pin_server.to_string());
    let outlet = prepare(&arguments.output, &setting.pin_load)?;
    let progress = &outlet.progress;
    let mut document = Document::new(environment);
    for contestant in &plan.contestants {
        let warning = document.environment.warning(&contestant.server.address()?);
        document.warnings.extend(warning);
    }
    document.warnings.dedup();
    document.warnings.extend(setting.congestion_note());
    document.runs = rounds::run(&plan, progress)?;
    if let Some(warning) = incomplete(&plan, &document.runs) {
        progress.say(&warning);
        document.warnings.push(warning);
    }
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
    outlet.publish(&document)
}

/// Describes what is missing from an interrupted comparison.
fn incomplete(plan: &ComparePlan, runs: &[RunResult]) -> Option<String> {
    let wanted = plan.workloads.len() * plan.rounds as usize;
    let made = plan.contestants.each_ref().map(|contestant| {
        let count = runs.iter().filter(|run| run.side == contestant.name).count();
        (contestant.name.as_str(), count)
    });
    let short = interrupt::requested() || made.iter().any(|(_, count)| *count < wanted);
    let made = made.map(|(name, count)| format!("{name} {count} of {wanted} runs"));
    short.then(|| format!("INCOMPLETE: interrupted; made were {}", made.join(", ")))
}

/// Returns the workloads of `--suite`, of `--run` and of the trailing subcommand, with the
/// durations of the whole comparison.
fn workloads(arguments: &CompareArguments) -> Result<Vec<Workload>, Failure> {
    let of_suite = arguments.suite.map_or(&[][..], |suite| suite.workloads());
    let texts = of_suite.iter().copied().chain(arguments.run.iter().map(String::as_str));
    let mut workloads = Vec::new();
    for text in texts {
        let words = split_command_line(text)?;
        let own_duration = words.iter().any(|word| word.starts_with("--duration"));
        let mut workload = Workload::parse(text)?;
        if let (Some(duration), false) = (arguments.duration, own_duration) {
            workload.time_mut().duration = duration;
        }
        workloads.push(workload);
    }
    workloads.extend(arguments.workload.clone());
    workloads.iter().try_for_each(Workload::check)?;
    if workloads.is_empty() {
        return Err(Failure::new(
            "compare what? Give a workload, as in: compare --a .. --b .. throughput --payload 16, \
             or --suite standard",
        ));
    }
    Ok(workloads)
}

fn run_floor(arguments: &FloorCommand) -> Result<Verdict, Failure> {
    let setting = Setting {
        pin_load: arguments.pin_load.clone().unwrap_or_default(),
        pin_server: arguments.pin_server.clone().unwrap_or_default(),
        floor: Some(arguments.duration),
        congestion: None,
    };
    let environment =
        Environment::collect(&setting.pin_load.to_string(), &setting.pin_server.to_string());
    let outlet = prepare(&arguments.output, &setting.pin_load)?;
    let progress = &outlet.progress;
    let mut document = Document::new(environment);
    document.runs.extend(setting.measure_floor(progress)?);
    outlet.publish(&document)
}

fn run_stalls(arguments: &StallsArguments) -> Result<Verdict, Failure> {
    interrupt::install()?;
    if let Some(cores) = &arguments.pin_load {
        pin::pin_thread_to_set(cores)?;
    }
    let plan = arguments.plan();
    for contender in &plan.contenders {
        if !spawn::is_program(&contender.program) {
            return Err(Failure::new(format!("no program {}", contender.program)));
        }
    }
    let runs = stalls::rounds::run(&plan, &Progress::new(arguments.quiet))?;
    let rows = stalls::report::rows(&plan, &runs, arguments.aim.as_secs_f64() * 1e3);
    match arguments.json {
        true => println!("{}", serde_json::to_string_pretty(&rows).map_err(std::io::Error::other)?),
        false => print!("{}", stalls::report::text(&rows)),
    }
    let good = rows.iter().all(|row| {
        matches!(row.judgement, stalls::report::Judgement::Good | stalls::report::Judgement::AsLast)
    });
    Ok(match (interrupt::requested(), good) {
        (true, _) => Verdict::Interrupted,
        (false, true) => Verdict::Good,
        (false, false) => Verdict::Bad,
    })
}

fn run_kill(arguments: &KillArguments) -> Result<Verdict, Failure> {
    interrupt::install()?;
    let report = kill::rounds::run(arguments, &Progress::new(arguments.quiet))?;
    println!(
        "seed {}: {} kills, {} messages acknowledged, {} acknowledgements by consumers confirmed",
        report.seed, report.kills, report.acknowledged, report.confirmed
    );
    for fault in &report.faults {
        println!("BROKEN: {fault}");
    }
    Ok(match (interrupt::requested(), report.faults.is_empty()) {
        (true, _) => Verdict::Interrupted,
        (false, true) => Verdict::Good,
        (false, false) => Verdict::Bad,
    })
}

fn run_report(arguments: &ReportArguments) -> Result<Verdict, Failure> {
    if let Some(target) = &arguments.publish {
        let count = site::publish(&arguments.folders, target)?;
        println!("{count} results: {}", target.join("index.html").display());
        return Ok(Verdict::Good);
    }
    let outlet = Outlet::open(&arguments.output)?;
    let mut documents = Vec::new();
    for folder in &arguments.folders {
        let file = if folder.is_dir() { folder.join("result.json") } else { folder.clone() };
        documents.push(Document::read(&file)?);
    }
    let document = Document::merge(documents)?;
    outlet.publish(&document)
}

fn run_relay(arguments: &RelayArguments) -> Result<Verdict, Failure> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", arguments.port))?;
    println!("{}", listener.local_addr()?.port());
    std::io::stdout().flush()?;
    let plan = RelayPlan { frame_size: arguments.frame_size, queue: arguments.queue };
    relay::serve(&listener, plan)?;
    Ok(Verdict::Good)
}

/// Installs signal handlers, pins this thread and all it starts to the load's cores, and prepares
/// the outlet. Whatever would fail at the end is tried now: minutes of measuring must not be lost
/// to a wrong path.
fn prepare<'a>(output: &'a OutputArguments, pin_load: &CoreList) -> Result<Outlet<'a>, Failure> {
    interrupt::install()?;
    if !pin_load.0.is_empty() {
        pin::pin_thread_to_set(pin_load)?;
    }
    Outlet::open(output)
}

impl<'a> Outlet<'a> {
    fn open(output: &'a OutputArguments) -> Result<Outlet<'a>, Failure> {
        let stored = output.baseline.as_deref().map(Document::read).transpose()?;
        if let Some(folder) = &output.output {
            files::make_folder(folder)?;
        }
        Ok(Outlet { output, stored, progress: Progress::new(output.quiet) })
    }

    /// Writes and prints a document. Invalid runs, and figures worse than the baseline's, make the
    /// verdict bad.
    fn publish(&self, document: &Document) -> Result<Verdict, Failure> {
        self.progress.clear();
        if let Some(folder) = &self.output.output {
            files::write(document, folder)?;
            self.progress.say(&format!("written to {}", folder.display()));
        }
        console::print(document, self.output.format)?;
        let mut good = document.all_valid();
        if let Some(stored) = &self.stored {
            let findings = baseline::check(document, stored, self.output.worse_max);
            for finding in &findings.worse {
                eprintln!("worse than the baseline: {finding}");
            }
            if findings.compared == 0 && !interrupt::requested() {
                return Err(Failure::new("the baseline has no figure in common with this result"));
            }
            eprintln!("{} figures held against the baseline", findings.compared);
            good &= findings.worse.is_empty();
        }
        Ok(match (interrupt::requested(), good) {
            (true, _) => Verdict::Interrupted,
            (false, true) => Verdict::Good,
            (false, false) => Verdict::Bad,
        })
    }
}
