//! The raw relay as a process of its own on the server's cores, and a server's share of the relay's
//! rate.

use crate::Failure;
use crate::findings::kinds;
use crate::findings::result::{Better, RunResult};
use crate::host::interrupt;
use crate::host::spawn::spawn_pinned;
use crate::load::layout::Layout;
use crate::units::CoreList;
use crate::wire::address::{Address, WebSocket};
use crate::wire::connection::Dialer;
use crate::wire::credentials::Credentials;
use crate::wire::frames;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Name of the relay's side in results.
pub const SIDE: &str = "raw relay";

/// A server may be slightly faster than the relay, which writes each read out at once. A larger
/// share means that something else was slow.
const SHARE_MAX: f64 = 1.5;

/// A running relay; ended when dropped.
pub struct RelayProcess {
    child: Child,
    port: u16,
}

impl RelayProcess {
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    pub fn dialer(&self) -> Dialer {
        Dialer {
            address: Address::Tcp {
                host: "127.0.0.1".to_string(),
                port: self.port,
                tls: false,
                web: WebSocket::No,
            },
            credentials: Credentials::None,
            subscriber_credentials: None,
            tls: None,
            raw: true,
            shards: None,
            echo: true,
            headers: false,
            congestion: None,
            monitor_port: None,
        }
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        interrupt::disown_child(self.child.id());
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a relay for a workload's frames. `None` if a relay, which parses nothing, cannot do it:
/// several subjects that are shared out among subscribers.
///
/// # Errors
/// If the relay cannot be started.
/// When the relay cannot be started.
pub fn start(
    layout: &Layout,
    seed: u64,
    pin_server: &CoreList,
) -> Result<Option<RelayProcess>, Failure> {
    let shared_out = layout.subject_count > 1 && layout.subscriber_count > 1;
    if shared_out && !layout.wildcard && layout.queue.is_none() {
        return Ok(None);
    }
    let (frame, _) = frames::frame(&layout.subjects()[0], None, layout.payload_size, seed);
    let program = std::env::current_exe()?;
    let mut command = Command::new(&program);
    command.args(["relay", "--frame-size", &frame.len().to_string()]);
    if layout.queue.is_some() {
        command.arg("--queue");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let child = spawn_pinned(command, pin_server, &program.to_string_lossy())?;
    let mut relay = RelayProcess { child, port: 0 };
    let stdout =
        relay.child.stdout.take().ok_or_else(|| Failure::new("the relay has no output"))?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    relay.port =
        line.trim().parse().map_err(|_| Failure::new("the relay did not say which port it has"))?;
    Ok(Some(relay))
}

/// Adds the share of the relay's rate to a server's figures.
pub fn add_share(result: &mut RunResult, ceiling: &RunResult) {
    if !ceiling.valid {
        result.warn("without its share of the raw relay, whose own run is not valid".to_string());
        return;
    }
    if let (Some(own), Some(most)) =
        (result.value("messages_per_second"), ceiling.value("messages_per_second"))
        && most > 0.0
    {
        result.figure("share_of_relay_rate", own / most, "", Better::Higher);
        if own > SHARE_MAX * most {
            result.warn(format!(
                "{:.1} times the rate of the raw relay, which parses nothing: the host was not the same for \
                 both, measure again",
                own / most
            ));
        }
    }
    if result.kind == kinds::THROUGHPUT
        && let (Some(own), Some(least)) =
            (result.value("server_cpu_us_per_message"), ceiling.value("server_cpu_us_per_message"))
        && own > 0.0
    {
        result.figure("share_of_relay_cpu", least / own, "", Better::Higher);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rate: f64) -> RunResult {
        let mut run = RunResult::new("throughput", "x");
        run.figure("messages_per_second", rate, "1/s", Better::Higher);
        run
    }

    #[test]
    fn a_relay_that_could_not_run_is_no_ceiling() {
        let (mut server, mut relay) = (run(100.0), run(50.0));
        add_share(&mut server, &relay);
        assert_eq!(server.value("share_of_relay_rate"), Some(2.0));
        assert!(server.warnings[0].contains("2.0 times the rate of the raw relay"));
        let mut server = run(100.0);
        relay.invalidate("no core".to_string());
        add_share(&mut server, &relay);
        assert_eq!(server.value("share_of_relay_rate"), None);
        assert!(server.warnings[0].contains("not valid"));
    }
}
