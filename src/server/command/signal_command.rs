//! `--signal command[=pid|pidfile|prefix*]`: tells a running server to stop, reload and so on.
//!
//! Texts and the order of the checks are nats-server's (server/signal.go). Unlike in nats-server, a
//! running server is found by its exact process name, not by a substring as with `pgrep`: `stop` is
//! SIGKILL, and must not hit a tool whose name merely contains ours.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use crate::base::files::{self, Patience};
use crate::base::limits::PID_FILE_BYTES_MAX;
use crate::server::host::error_text::os_error_text;

/// Bytes of a process name that the kernel keeps.
const PROCESS_NAME_BYTES_MAX: usize = 15;

/// Runs the command. `process_name` is the name under which this server's processes run (the file
/// name of `argv[0]`): it is searched for if no pid is given, and named in messages.
///
/// # Errors
/// nats-server's message; to be printed after `<name>: ` before exiting with 1.
pub(crate) fn run(parameters: &str, process_name: &str) -> Result<(), String> {
    run_in(Path::new("/proc"), parameters, process_name, send)
}

fn send(pid: Pid, signal: Signal) -> Result<(), String> {
    kill_process(pid, signal).map_err(|errno| os_error_text(&errno.into()))
}

fn run_in(
    proc_directory: &Path,
    parameters: &str,
    process_name: &str,
    mut send: impl FnMut(Pid, Signal) -> Result<(), String>,
) -> Result<(), String> {
    let parts: Vec<&str> = parameters.split('=').collect();
    if parts.len() > 2 {
        return Err(format!("invalid signal parameters: [{}]", parts[2..].join(" ")));
    }
    let command = parts[0];
    let expression = parts.get(1).map(|text| pid_file_or_text(text)).unwrap_or_default();
    let (wanted, is_prefix) = match expression.strip_suffix('*') {
        Some(prefix) => (prefix, true),
        None => (expression.as_str(), false),
    };

    let given = if wanted.is_empty() { None } else { Some(parse_pid(wanted)?) };
    let pids = match given {
        Some(pid) if !is_prefix => vec![pid],
        _ => running(proc_directory, process_name)?,
    };
    if pids.len() > 1 && !is_prefix {
        let mut text = format!("multiple {process_name} processes running:");
        for pid in pids {
            text.push_str(&format!("\n{pid}"));
        }
        return Err(text);
    }
    if pids.is_empty() {
        return Err(format!("no {process_name} processes running"));
    }
    let signal = signal_of(command)?;

    let mut failures = String::new();
    for pid in pids {
        if is_prefix && !pid.to_string().starts_with(wanted) {
            continue;
        }
        if let Err(error) = send(pid, signal) {
            failures.push_str(&format!("\nsignal {command:?} {pid}: {error}"));
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

fn signal_of(command: &str) -> Result<Signal, String> {
    match command {
        "stop" => Ok(Signal::KILL),
        "quit" => Ok(Signal::INT),
        "term" => Ok(Signal::TERM),
        "reopen" => Ok(Signal::USR1),
        "reload" => Ok(Signal::HUP),
        "ldm" => Ok(Signal::USR2),
        other => Err(format!("unknown signal {other:?}")),
    }
}

/// Returns the content of the file of that name, else the text itself. A newline after the pid is
/// allowed, although nats-server refuses it.
fn pid_file_or_text(text: &str) -> String {
    match files::read(Path::new(text), PID_FILE_BYTES_MAX, Patience::None) {
        Ok(content) => String::from_utf8_lossy(&content).trim().to_owned(),
        Err(_) => text.to_owned(),
    }
}

/// Parses a process id. Zero and negative numbers mean process groups and are refused.
fn parse_pid(text: &str) -> Result<Pid, String> {
    let number = text.parse::<i32>().ok().filter(|&number| number > 0);
    number.and_then(Pid::from_raw).ok_or_else(|| format!("invalid pid: {text}"))
}

/// Returns the processes of that name except this one, in ascending order.
fn running(proc_directory: &Path, process_name: &str) -> Result<Vec<Pid>, String> {
    let unresolved = |_| "unable to resolve pid, try providing one".to_owned();
    let name = &process_name.as_bytes()[..process_name.len().min(PROCESS_NAME_BYTES_MAX)];
    let mut pids = Vec::new();
    for entry in std::fs::read_dir(proc_directory).map_err(unresolved)? {
        let entry = entry.map_err(unresolved)?;
        let Some(pid) = entry.file_name().to_str().and_then(|text| parse_pid(text).ok()) else {
            continue;
        };
        // A process that has ended meanwhile has no name to compare.
        let Ok(comm) = std::fs::read(entry.path().join("comm")) else { continue };
        if comm.strip_suffix(b"\n").unwrap_or(&comm) == name && pid != rustix::process::getpid() {
            pids.push(pid);
        }
    }
    pids.sort_by_key(|pid| pid.as_raw_nonzero());
    Ok(pids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::host::temporary::TemporaryDirectory;

    /// Makes a fake /proc, so that a test never signals a real process.
    fn proc_with(processes: &[(u32, &str)]) -> TemporaryDirectory {
        let directory = TemporaryDirectory::new();
        std::fs::create_dir(directory.path().join("self")).unwrap();
        for (pid, name) in processes {
            let process = directory.path().join(pid.to_string());
            std::fs::create_dir(&process).unwrap();
            std::fs::write(process.join("comm"), format!("{name}\n")).unwrap();
        }
        directory
    }

    /// Returns the signalled pids and the answer.
    fn run_with(processes: &[(u32, &str)], parameters: &str) -> (Vec<i32>, Result<(), String>) {
        let directory = proc_with(processes);
        let mut signalled = Vec::new();
        let answer = run_in(directory.path(), parameters, "nats-server", |pid, _| {
            signalled.push(pid.as_raw_nonzero().get());
            Ok(())
        });
        (signalled, answer)
    }

    fn error_of(processes: &[(u32, &str)], parameters: &str) -> String {
        let (signalled, answer) = run_with(processes, parameters);
        assert!(signalled.is_empty(), "{parameters}");
        answer.unwrap_err()
    }

    const ONE: &[(u32, &str)] = &[(41, "nats-server"), (42, "nats-server-old"), (43, "bash")];
    const TWO: &[(u32, &str)] = &[(139, "nats-server"), (38, "nats-server")];

    #[test]
    fn errors_are_those_of_nats_server() {
        assert_eq!(error_of(&[], "stop"), "no nats-server processes running");
        assert_eq!(error_of(&[], "bogus"), "no nats-server processes running");
        assert_eq!(error_of(&[], "stop="), "no nats-server processes running");
        assert_eq!(error_of(&[], "stop=*"), "no nats-server processes running");
        assert_eq!(error_of(ONE, "bogus"), "unknown signal \"bogus\"");
        assert_eq!(error_of(ONE, "bogus=99999999"), "unknown signal \"bogus\"");
        assert_eq!(error_of(ONE, "stop=abc"), "invalid pid: abc");
        assert_eq!(error_of(ONE, "stop=abc*"), "invalid pid: abc");
        assert_eq!(error_of(ONE, "stop=a=b=c"), "invalid signal parameters: [b c]");
        let several = "multiple nats-server processes running:\n38\n139";
        assert_eq!(error_of(TWO, "ldm"), several);
        assert_eq!(error_of(TWO, "bogus"), several);
    }

    #[test]
    fn process_groups_are_never_signalled() {
        for parameters in ["stop=0", "stop=-1", "stop=-41", "stop=0*"] {
            assert!(error_of(ONE, parameters).starts_with("invalid pid: "), "{parameters}");
        }
    }

    #[test]
    fn only_a_process_of_exactly_our_name_is_found() {
        assert_eq!(run_with(ONE, "quit"), (vec![41], Ok(())));
    }

    #[test]
    fn a_prefix_picks_among_our_processes() {
        assert_eq!(run_with(TWO, "quit=*"), (vec![38, 139], Ok(())));
        assert_eq!(run_with(TWO, "quit=1*"), (vec![139], Ok(())));
        assert_eq!(run_with(TWO, "quit=9*"), (vec![], Ok(())));
    }

    #[test]
    fn a_pid_and_a_pid_file_name_the_process() {
        assert_eq!(run_with(TWO, "reload=38"), (vec![38], Ok(())));
        let directory = TemporaryDirectory::new();
        let file = directory.path().join("server.pid");
        for content in ["139", "139\n"] {
            std::fs::write(&file, content).unwrap();
            let parameters = format!("reload={}", file.display());
            assert_eq!(run_with(&[], &parameters), (vec![139], Ok(())));
        }
    }

    #[test]
    fn each_command_has_its_signal() {
        for (command, expected) in [
            ("stop", Signal::KILL),
            ("quit", Signal::INT),
            ("term", Signal::TERM),
            ("reopen", Signal::USR1),
            ("reload", Signal::HUP),
            ("ldm", Signal::USR2),
        ] {
            assert_eq!(signal_of(command), Ok(expected));
        }
    }

    #[test]
    fn a_process_that_is_gone_is_reported() {
        // Larger than any pid of the kernel.
        let error = run("stop=99999999", "nats-server").unwrap_err();
        assert_eq!(error, "\nsignal \"stop\" 99999999: no such process");
    }

    #[test]
    fn long_names_are_compared_as_the_kernel_cuts_them() {
        let directory = proc_with(&[(5, "a-very-long-nam")]);
        let found = running(directory.path(), "a-very-long-name-indeed").unwrap();
        assert_eq!(found, [Pid::from_raw(5).unwrap()]);
    }
}
