//! Runs every workload against both servers in turning order, so that a drift of the host affects
//! both alike.

use crate::Failure;
use crate::compare::statistics::ROUNDS_MIN;
use crate::findings::result::RunResult;
use crate::host::interrupt;
use crate::host::process_finder::listener_process;
use crate::host::spawn::{self, StartedServer};
use crate::login::LoginArguments;
use crate::progress::Progress;
use crate::relay;
use crate::setting::Setting;
use crate::wire::address::{Address, ServerUrl};
use crate::wire::connection::Dialer;
use crate::workload::Workload;
use std::path::PathBuf;

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
    /// Already running; it is not pinned.
    Url(String),
}

impl Server {
    /// Parses a URL, which has a scheme and no blanks; everything else is a command line.
    pub fn parse(text: &str) -> Server {
        if text.contains("://") && !text.contains(char::is_whitespace) {
            Server::Url(text.to_string())
        } else {
            Server::Command(text.to_string())
        }
    }

    /// Checks how it is written.
    ///
    /// # Errors
    /// If it can never be started or reached.
    pub fn check(&self) -> Result<(), Failure> {
        match self {
            Server::Command(text) => spawn::check_command_line(text),
            Server::Url(text) => ServerUrl::parse(text).map(|_| ()),
        }
    }

    /// Returns the address to be measured; the port of a command line is not known yet.
    ///
    /// # Errors
    /// If its URL is invalid.
    pub fn address(&self) -> Result<Address, Failure> {
        match self {
            Server::Command(text) => Ok(spawn::address_of(text)),
            Server::Url(text) => Ok(ServerUrl::parse(text)?.address),
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
    pub setting: Setting,
    pub login: LoginArguments,
    /// Where the folders of `{store}` are made.
    pub store_root: Option<PathBuf>,
}

/// Returns all runs in the order in which they were made. An interrupt ends them early.
///
/// # Errors
/// If a server cannot be started or a workload cannot be run at all.
pub fn run(plan: &ComparePlan, progress: &Progress) -> Result<Vec<RunResult>, Failure> {
    if (plan.rounds as usize) < ROUNDS_MIN {
        progress.say(&format!("fewer than {ROUNDS_MIN} rounds: too few for a confidence interval"));
    }
    // Whatever cannot be started or logged in to is reported now, not after minutes of measuring
    // the other server.
    for contestant in &plan.contestants {
        let (dialer, _, mut started) = reach(plan, contestant)?;
        let connected = dialer.connect("midge-bench", 0).map(drop);
        connected.map_err(|failure| explained(failure, contestant, started.as_mut()))?;
    }
    let mut runs: Vec<RunResult> = Vec::new();
    runs.extend(plan.setting.measure_floor(progress)?);
    for (number, workload) in plan.workloads.iter().enumerate() {
        let reference = plan.setting.reference(workload, progress)?;
        for fault in reference.iter().flat_map(|reference| &reference.faults) {
            progress.say(&format!("raw relay INVALID: {fault}"));
        }
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
                if let Some(reference) = &reference {
                    relay::process::add_share(&mut result, reference);
                }
                for fault in &result.faults {
                    progress.say(&format!("INVALID: {fault}"));
                }
                runs.push(result);
            }
        }
        runs.extend(reference);
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
    // Kept until the end of the run: dropping it ends the server.
    let (dialer, process, mut started) = reach(plan, contestant)?;
    let result = plan.setting.execute(workload, &dialer, process, progress);
    result.map_err(|failure| explained(failure, contestant, started.as_mut()))
}

/// The means to reach a server, its process, and the server itself if it was started for this.
type Reached = (Dialer, Result<u32, String>, Option<StartedServer>);

fn reach(plan: &ComparePlan, contestant: &Contestant) -> Result<Reached, Failure> {
    match &contestant.server {
        Server::Command(command_line) => {
            let started = StartedServer::start(
                command_line,
                &plan.setting.pin_server,
                plan.store_root.as_deref(),
            )
            .map_err(|failure| explained(failure, contestant, None))?;
            let url = ServerUrl { address: started.address.clone(), user: None, password: None };
            // The started process may be a wrapper; the one that listens is the server.
            let process = listener_process(&url.address).unwrap_or(started.process_id());
            let mut dialer = plan.login.dialer_with(&url, started.certificates.as_ref())?;
            dialer.shards = started.shards;
            dialer.monitor_port = started.monitor_port;
            Ok((dialer, Ok(process), Some(started)))
        }
        Server::Url(url) => {
            let url = ServerUrl::parse(url)?;
            let process = listener_process(&url.address);
            Ok((plan.login.dialer(&url)?, process, None))
        }
    }
}

/// Adds to a failure the name of its server, and that server's last output if it has ended.
fn explained(
    failure: Failure,
    contestant: &Contestant,
    started: Option<&mut StartedServer>,
) -> Failure {
    let failure = match started {
        Some(started) => started.explain(failure),
        None => failure,
    };
    Failure::new(format!("{}: {failure}", contestant.name))
}
