//! The raw relay as a process of its own on the server's cores, and the ceiling it shows.

use crate::Failure;
use crate::host::spawn::spawn_pinned;
use crate::load::throughput::{self, ThroughputPlan};
use crate::output::progress::Progress;
use crate::output::result::{Better, RunResult};
use crate::units::CoreList;
use crate::wire::address::Address;
use crate::wire::connection::Dialer;
use crate::wire::credentials::Credentials;
use crate::wire::frames;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// The name of the relay's side in results.
pub const SIDE: &str = "raw relay";

struct RelayProcess(Child);

impl Drop for RelayProcess {
    fn drop(&mut self) {
        // An error means that it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the plan through the relay. `None` when bytes that nobody parses cannot do it: several subjects
/// that different subscribers share out.
///
/// # Errors
/// When the relay cannot be started or reached.
pub fn ceiling(
    plan: &ThroughputPlan,
    pin_server: &CoreList,
    progress: &Progress,
) -> Result<Option<RunResult>, Failure> {
    let layout = &plan.layout;
    if layout.subject_count > 1
        && layout.subscriber_count > 1
        && !layout.wildcard
        && layout.queue.is_none()
    {
        return Ok(None);
    }
    let (frame, _) = frames::frame(&layout.subjects()[0], None, layout.payload_size, plan.seed);
    let program = std::env::current_exe()?;
    let mut command = Command::new(&program);
    command.args(["relay", "--frame-size", &frame.len().to_string()]);
    if layout.queue.is_some() {
        command.arg("--queue");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut relay = RelayProcess(spawn_pinned(command, pin_server, &program.to_string_lossy())?);
    let stdout = relay.0.stdout.take().ok_or_else(|| Failure::new("the relay has no output"))?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let port =
        line.trim().parse().map_err(|_| Failure::new("the relay did not say which port it has"))?;
    let dialer = Dialer {
        address: Address::Tcp { host: "127.0.0.1".to_string(), port, tls: false },
        credentials: Credentials::None,
        tls: None,
        raw: true,
    };
    let mut result = throughput::run(&dialer, plan, Ok(relay.0.id()), progress)?;
    result.side = SIDE.to_string();
    Ok(Some(result))
}

/// Puts the share of the ceiling beside a server's figures.
pub fn add_share(result: &mut RunResult, ceiling: &RunResult) {
    if let (Some(own), Some(most)) =
        (result.value("messages_per_second"), ceiling.value("messages_per_second"))
        && most > 0.0
    {
        result.figure("share_of_relay_rate", own / most, "", Better::Higher);
    }
    if let (Some(own), Some(least)) =
        (result.value("server_cpu_us_per_message"), ceiling.value("server_cpu_us_per_message"))
        && own > 0.0
    {
        result.figure("share_of_relay_cpu", least / own, "", Better::Higher);
    }
}
