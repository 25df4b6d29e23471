//! Planted secrets: what is given on the command line, in a file or by a client is in no log line,
//! no answer of the monitoring port, no error text and no place that other users of the host can
//! see.

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::raw_client::RawClient;
use support::server::{Directory, Server};

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

/// Every endpoint of the monitoring port, with as much detail as can be requested.
const ENDPOINTS: [&str; 19] = [
    "/",
    "/varz",
    "/connz?auth=1&subs=detail&state=all",
    "/connz?state=closed&auth=true",
    "/connz?state=closed&subs=1&auth=1&sort=stop",
    "/subsz?subs=1",
    "/routez?subs=1",
    "/leafz?subs=1",
    "/gatewayz",
    "/accountz",
    "/accountz?acc=A",
    "/accountz?acc=$G",
    "/accstatz?unused=1",
    "/healthz",
    "/jsz",
    "/raftz",
    "/ipqueuesz",
    "/metrics",
    "/dashboard",
];

/// Returns the server's configuration file; another mark means other passwords.
fn config(mark: &str, hash: &str) -> String {
    format!(
        "trace_verbose: true\nhttp: \"127.0.0.1:-1\"\nserver_tags: [seen]\n\
         accounts {{ A {{ users: [ {{user: alice, password: \"planted-{mark}\"}}, \
         {{user: bob, password: \"{hash}\"}} ] }} }}"
    )
}

/// Sends a client's first line; returns the client and all it is told until PONG or the end.
fn log_in(server: &Server, login: &str) -> (RawClient, String) {
    let mut client = RawClient::connect(server.address()).expect("the server listens");
    client.send(format!("{login}\r\nPING\r\n").as_bytes()).expect("sent");
    let deadline = Instant::now() + WAIT_MAX;
    let mut said = Vec::new();
    while let Some(line) = client.take_line(deadline) {
        let ends = line == b"PONG\r\n";
        said.extend(line);
        if ends {
            break;
        }
    }
    (client, String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn secrets_of_files_and_clients_are_shown_nowhere() {
    let hash = bcrypt::hash("planted-hash", 4).expect("cost 4 is allowed");
    let server = Server::midge(2, &config("one", &hash));
    let mut shown: Vec<(String, String)> = Vec::new();
    let logins = [
        r#"CONNECT {"user":"alice","pass":"planted-one","name":"seen"}"#,
        r#"CONNECT {"user":"bob","pass":"planted-hash","auth_token":"planted-token"}"#,
        r#"CONNECT {"user":"alice","pass":"planted-wrong"}"#,
        r#"CONNECT {"user":"nobody","pass":"planted-wrong"}"#,
        r#"CONNECT {"auth_token":"planted-wrong"}"#,
        r#"CONNECT {"jwt":"planted-jwt","sig":"planted-sig"}"#,
        r#"CONNECT {"PASS":"planted","Auth_Token":"planted","user":"alice"}"#,
        // Broken in various ways: the error must not quote it.
        r#"CONNECT {"user":"alice","pass":planted}"#,
        r#"CONNECT {"user":"alice","pass":"planted"#,
        r#"CONNECT {"pass":["planted"]}"#,
        r#"CONNECT "planted""#,
        r#"connect {"pass":"planted","pass":"planted"} planted"#,
    ];
    let mut clients = Vec::new();
    for login in logins {
        let (client, said) = log_in(&server, login);
        shown.push((login.into(), said));
        clients.push(client);
    }
    let logged_in = shown.iter().filter(|(_, said)| said.contains("PONG")).count();
    assert_eq!(logged_in, 2, "{shown:?}");

    let reload = |config: &str, expected: &str| {
        let start = server.log().line_count();
        server.rewrite_config(config).expect("the file can be written");
        server.signal(Signal::HUP).expect("the server runs");
        let is_it = |line: &str| line.contains(expected).then_some(());
        let said = server.log().wait_for(start, WAIT_MAX, is_it);
        assert!(said.is_some(), "no {expected:?}\n{}", server.log().lines().join("\n"));
    };
    reload(&config("two", &hash), "Reloaded server configuration");
    // An error in a file is reported without what stands beside it.
    for broken in [
        "authorization { user: a, password: planted, token: planted }",
        "authorization { users: [ planted ] }",
        "authorization { users: { planted: planted } }",
        "authorization { user: a, password: [planted] }",
        "authorization { users: [ {nkey: planted} ] }",
        "authorization { users: [ {user: a, password: planted, permissions: \"planted\"} ] }",
        "accounts { A { users: [ {user: a, password: planted}, {user: a, password: planted} ] } }",
    ] {
        reload(&format!("trace_verbose: true\n{broken}"), "Failed to reload server configuration");
    }
    for endpoint in ENDPOINTS {
        let body = server.monitor_get(endpoint).expect("an answer");
        shown.push((endpoint.into(), String::from_utf8_lossy(&body).into_owned()));
    }
    let knows_bob = |text: &str| text.contains("\"authorized_user\": \"bob\"");
    assert!(shown.iter().any(|(_, body)| knows_bob(body)), "the endpoints tell of users at all");
    for file in ["cmdline", "environ", "comm"] {
        let path = format!("/proc/{}/{file}", server.process_id());
        let bytes = std::fs::read(&path).unwrap_or_default();
        shown.push((path, String::from_utf8_lossy(&bytes).into_owned()));
    }
    let log = server.log().lines().join("\n");
    assert!(log.contains("[REDACTED]") && log.contains("<<- [CONNECT "), "it was traced:\n{log}");
    shown.push(("log".into(), log));
    for (place, text) in shown {
        let line = text.lines().find(|line| line.contains("planted") || line.contains(&hash));
        assert_eq!(line, None, "{place}");
    }
}

/// A broken file at start and under test: its error is reported without its secrets.
#[test]
fn a_file_that_is_refused_does_not_show_its_secrets() {
    for broken in [
        "authorization { token: planted, user: planted }",
        "authorization { user: a, password: 'planted }",
        "authorization { user: a, password: \"planted\\q\" }",
        "authorization { token: planted",
        "no_auth_user: a\nauthorization { token: planted }",
        "tls { cert_file: x, key_file: y }\nauthorization { token: planted }",
    ] {
        let directory = Directory::new().expect("a directory");
        let path = directory.join("server.conf");
        std::fs::write(&path, broken).expect("a file");
        for test in [true, false] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_midge"));
            command.arg("-c").arg(&path).stdin(Stdio::null());
            command.args(if test { &["-t"][..] } else { &["-D", "-V"] });
            let output = command.output().expect("it can be started");
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{broken}: {text}");
            assert!(!text.contains("planted"), "{broken}: {text}");
        }
    }
}
