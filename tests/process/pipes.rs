//! Pipes in place of files: one for each file that a configuration names. The server waits for none
//! of them, and obeys signals.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;

use super::support::WAIT_MAX;
use super::support::certificates::Authority;
use super::support::server::{Directory, Server};
use super::{MIDGE, command, start_command};

fn make_pipe(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

fn started_with(directory: Directory, file: &str) -> Server {
    let mut command = Command::new(MIDGE);
    command.args(["-p", "-1", "--shards", "1", "--no-pin", "-c"]).arg(directory.join(file));
    Server::start_command(command, directory).unwrap_or_else(|text| panic!("{text}"))
}

/// Checks that a reload is refused with these words, and that the server then ends when told to.
fn is_refused_and_ends(mut server: Server, words: &str) {
    let from = server.log().line_count();
    server.signal(Signal::HUP).unwrap();
    let refused = server.log().wait_for(from, WAIT_MAX, |line| {
        line.contains("Failed to reload server configuration").then(|| line.contains(words))
    });
    assert_eq!(refused, Some(true), "{words}: {:#?}", server.log().lines());
    server.signal(Signal::TERM).unwrap();
    let status = server.wait_for_exit(WAIT_MAX).expect("SIGTERM is obeyed");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_pipe_in_the_place_of_a_configuration_file_stops_no_signal() {
    for file in ["main.conf", "included.conf"] {
        let directory = Directory::new().unwrap();
        std::fs::write(directory.join("main.conf"), "include included.conf").unwrap();
        std::fs::write(directory.join("included.conf"), "listen: \"127.0.0.1:-1\"").unwrap();
        let path = directory.join(file);
        let server = started_with(directory, "main.conf");
        std::fs::remove_file(&path).unwrap();
        make_pipe(&path);
        is_refused_and_ends(server, "is a pipe");
    }
}

#[test]
fn a_pipe_in_the_place_of_a_certificate_or_a_log_file_stops_no_signal() {
    let authority = Authority::new("test");
    let pair = authority.issue_local();
    for (name, words) in [("cert.pem", "is a pipe"), ("key.pem", "is a pipe"), ("server.log", "")] {
        let directory = Directory::new().unwrap();
        std::fs::write(directory.join("cert.pem"), &pair.certificate_pem).unwrap();
        std::fs::write(directory.join("key.pem"), &pair.key_pem).unwrap();
        let place = directory.display().to_string();
        let tls = format!(
            "listen: \"127.0.0.1:-1\"\ntls {{ cert_file: \"{place}/cert.pem\", key_file: \"{place}/key.pem\" }}\n"
        );
        std::fs::write(directory.join("main.conf"), &tls).unwrap();
        let path = directory.join(name);
        let main = directory.join("main.conf");
        let server = started_with(directory, "main.conf");
        // The previous one stays in use.
        let _ = std::fs::remove_file(&path);
        make_pipe(&path);
        if name == "server.log" {
            std::fs::write(main, format!("{tls}log_file: \"{place}/server.log\"\n")).unwrap();
        }
        is_refused_and_ends(server, words);
    }
}

#[test]
fn a_pipe_that_nobody_reads_is_refused_as_a_pid_file() {
    let directory = Directory::new().unwrap();
    let path = directory.join("server.pid");
    make_pipe(&path);
    let mut command = command(MIDGE);
    command.arg("-P").arg(&path);
    let mut server = Server::spawn(command, directory).unwrap();
    let status = server.wait_for_exit(WAIT_MAX).expect("it does not wait");
    assert_eq!(status.code(), Some(1));
    let expected = format!("Could not write pidfile: open {}: ", path.display());
    assert!(server.log().lines().iter().any(|line| line.contains(&expected)));
}

/// As with a shell's `-c <(...)`: read once, while nothing runs yet.
#[test]
fn a_configuration_may_come_through_a_pipe_at_the_start() {
    let directory = Directory::new().unwrap();
    let path = directory.join("main.conf");
    make_pipe(&path);
    let from = path.clone();
    let writer = std::thread::spawn(move || {
        let mut pipe = std::fs::OpenOptions::new().write(true).open(from).unwrap();
        pipe.write_all(b"listen: \"127.0.0.1:-1\"\nserver_name: by_pipe\n").unwrap();
    });
    let mut command = command(MIDGE);
    command.arg("-c").arg(&path);
    let server = start_command(command);
    writer.join().unwrap();
    assert!(server.log().lines().iter().any(|line| line.contains("by_pipe")));
    is_refused_and_ends(server, "is a pipe");
    drop(directory);
}
