//! Planted secrets: what is given on the command line is not left where other users of the host look.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const WAIT_MAX: Duration = Duration::from_secs(20);

#[test]
fn secrets_disappear_from_the_command_line_and_the_server_starts() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_midge"))
        .args(["-a", "127.0.0.1", "-p", "-1", "--shards", "1", "--no-pin"])
        .args(["--user", "planted-user", "--pass=planted-password", "-D"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the server can be started");
    let stderr = child.stderr.take().expect("stderr was asked for as a pipe");
    let deadline = Instant::now() + WAIT_MAX;
    let mut log = String::new();
    for line in BufReader::new(stderr).lines() {
        let line = line.expect("the log is text");
        log.push_str(&line);
        log.push('\n');
        if line.contains("Server is ready") || Instant::now() > deadline {
            break;
        }
    }
    let process = format!("/proc/{}", child.id());
    let command_line = std::fs::read(format!("{process}/cmdline")).unwrap_or_default();
    let environment = std::fs::read(format!("{process}/environ")).unwrap_or_default();
    let name = std::fs::read_to_string(format!("{process}/comm")).unwrap_or_default();
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::INT).expect("the server runs");
    let status = child.wait().expect("the server ends");

    assert!(log.contains("Server is ready"), "{log}");
    assert!(status.success(), "{status}");
    let command_line = String::from_utf8_lossy(&command_line).replace('\0', " ");
    let expected = "--user [REDACTED] --pass=[REDACTED] -D";
    assert!(command_line.trim_end().ends_with(expected), "{command_line}");
    assert_eq!(name.trim(), "midge");
    for place in [command_line.as_str(), &String::from_utf8_lossy(&environment), &log] {
        assert!(!place.contains("planted"), "{place}");
    }
}
