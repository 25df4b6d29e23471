//! Runs every workload against both servers in turning order, so that a drift of the host hits both alike.

use crate::Failure;
use crate::cli::{LoginArguments, Workload};
use crate::compare::relay_process;
use crate::host::interrupt;
use crate::host::process_finder::listener_process;
use crate::host::spawn::StartedServer;
use crate::load::{latency, throughput};
use crate::output::progress::Progress;
use crate::output::result::RunResult;
use crate::units::CoreList;
use crate::wire::address::ServerUrl;
use crate::wire::connection::Dialer;

/// One of the two servers.
#[derive(Clone, Debug)]
pub struct Contestant {
    pub name: String,
    pub server: Server,
}

#[derive(Clone, Debug)]
pub enum Server {
    /// Started fresh for each run, so that no run inherits another's memory.
    Command(String),
    /// Already running; nobody pins it.
    Url(String),
}

impl Server {
    /// A URL has a scheme and no blanks; everything else is a command line.
    pub fn parse(text: &str) -> Server {
        if text.contains("://") && !text.contains(char::is_whitespace) {
            Server::Url(text.to_string())
        } else {
            Server::Command(text.to_string())
        }
    }

    pub fn text(&self) -> &str {
        match self {
            Server::Command(text) | Server::Url(text) => text,
        }
    }
}

pub struct ComparePlan {
    pub contestants: [Contestant; 2],
    pub workloads: Vec<Workload>,
    pub rounds: u32,
    pub pin_server: CoreList,
    pub pin_load: CoreList,
    pub login: LoginArguments,
    /// Run each throughput workload through the raw relay as well.
    pub relay: bool,
}

/// All runs, in the order they were made. An interrupt ends it early with what there is.
///
/// # Errors
/// When a server cannot be started or a workload not be run at all.
pub fn run(plan: &ComparePlan, progress: &Progress) -> Result<Vec<RunResult>, Failure> {
    let mut runs: Vec<RunResult> = Vec::new();
    for (number, workload) in plan.workloads.iter().enumerate() {
        let ceiling = match workload {
            Workload::Throughput(arguments) if plan.relay => {
                progress.set_prefix("raw relay");
                let plan_of_load = arguments.plan(&plan.pin_load);
                relay_process::ceiling(&plan_of_load, &plan.pin_server, progress)?
            }
            _ => None,
        };
        for round in 0..plan.rounds {
            let mut order = [0, 1];
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                if interrupt::requested() {
                    progress.set_prefix("");
                    return Ok(runs);
                }
                let contestant = &plan.contestants[index];
                progress.set_prefix(&format!(
                    "workload {} of {}, round {} of {}, {}",
                    number + 1,
                    plan.workloads.len(),
                    round + 1,
                    plan.rounds,
                    contestant.name
                ));
                let mut result = run_once(plan, contestant, workload, progress)?;
                result.side = contestant.name.clone();
                result.round = round;
                result.position = runs.len() as u32;
                if let Some(ceiling) = &ceiling {
                    relay_process::add_share(&mut result, ceiling);
                }
                for warning in &result.warnings {
                    let mark = if result.valid { "warning" } else { "INVALID" };
                    progress.say(&format!("{mark}: {warning}"));
                }
                runs.push(result);
            }
        }
        if let Some(mut ceiling) = ceiling {
            ceiling.position = runs.len() as u32;
            runs.push(ceiling);
        }
    }
    progress.set_prefix("");
    Ok(runs)
}

fn run_once(
    plan: &ComparePlan,
    contestant: &Contestant,
    workload: &Workload,
    progress: &Progress,
) -> Result<RunResult, Failure> {
    // Kept to the end of the run: dropping it ends the server.
    let started;
    let (dialer, process): (Dialer, Result<u32, String>) = match &contestant.server {
        Server::Command(command_line) => {
            started = StartedServer::start(command_line, &plan.pin_server)?;
            let url = ServerUrl { address: started.address.clone(), user: None, password: None };
            // What was started may be a wrapper; who listens is the server.
            let process = listener_process(&url.address).unwrap_or(started.process_id());
            (plan.login.dialer(&url)?, Ok(process))
        }
        Server::Url(url) => {
            let url = ServerUrl::parse(url)?;
            let process = listener_process(&url.address);
            (plan.login.dialer(&url)?, process)
        }
    };
    match workload {
        Workload::Throughput(arguments) => {
            throughput::run(&dialer, &arguments.plan(&plan.pin_load), process, progress)
        }
        Workload::Latency(arguments) => {
            latency::run(&dialer, &arguments.plan(&plan.pin_load), process, progress)
        }
    }
}
