//! What the service manager is told: ready, alive, stopping.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

const WAIT_MAX: Duration = Duration::from_secs(20);

#[test]
fn the_service_manager_is_told_of_readiness_signs_of_life_and_the_end() {
    let path = std::env::temp_dir().join(format!("midge-notify-{}", std::process::id()));
    let socket = UnixDatagram::bind(&path).expect("a socket can be made");
    socket.set_read_timeout(Some(WAIT_MAX)).expect("the timeout is not zero");
    let mut child = Command::new(env!("CARGO_BIN_EXE_midge"))
        .args(["-a", "127.0.0.1", "-p", "-1", "--shards", "2", "--no-pin"])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "100000")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the server can be started");
    let heard = || {
        let mut datagram = [0; 64];
        let size = socket.recv(&mut datagram).ok()?;
        Some(String::from_utf8_lossy(&datagram[..size]).into_owned())
    };
    let first: Vec<Option<String>> = (0..4).map(|_| heard()).collect();
    let asked = kill_process(Pid::from_child(&child), Signal::INT);
    let mut last = heard();
    while last.as_deref() == Some("WATCHDOG=1") {
        last = heard();
    }
    if asked.is_err() || last.is_none() {
        // It will not end by itself.
        let _ = child.kill();
    }
    let status = child.wait().expect("the server ends");
    let _ = std::fs::remove_file(&path);
    let first: Vec<&str> = first.iter().flatten().map(String::as_str).collect();
    assert_eq!(first, ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"]);
    assert_eq!(last.as_deref(), Some("STOPPING=1"));
    assert!(status.success(), "{status}");
}
