//! Every option that `OPTIONS.md` calls live takes effect by a reload, as far as an operator or a
//! client can see it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::support::raw_client::Fill;
use super::*;

/// The place where the effect of an option shows, with a check of it.
enum Effect {
    /// In `/varz`.
    Varz(fn(&Value) -> bool),
    /// In the lines of the log about one conversation.
    Log(fn(&[String]) -> bool),
    /// In a file of the server's directory, by name and content.
    File(fn(&Server) -> (String, String)),
    /// In what the server tells a client with these options in CONNECT. The other two are a text
    /// that it sends and one that it does not.
    Said(&'static str, &'static str, &'static str),
}
use Effect::{File, Log, Said, Varz};

/// Options without an effect that one server shows here.
const UNSEEN: [(&str, &str); 6] = [
    ("resolver_preload", "tests/jwt.rs reloads it"),
    ("resolver_pinned_accounts", "tests/jwt.rs"),
    ("default_sentinel", "tests/jwt.rs"),
    ("no_fast_producer_stall", "tests/slow_consumers.rs reloads it"),
    ("connect_error_reports", "there are no connections to other servers"),
    ("reconnect_error_reports", "there are no connections to other servers"),
];

/// Said only to a client that was let in.
const LET_IN: &str = "PONG";
const REFUSED: &str = "Authorization Violation";

/// Options, lines of a file that set them, and the effect. Two options have two cases.
const CASES: [(&str, &str, Effect); 28] = [
    (
        "client_advertise",
        r#"client_advertise: "10.9.8.7:65""#,
        Said("{}", r#""host":"10.9.8.7","port":65,"#, REFUSED),
    ),
    ("max_connections", "max_connections: 77", Varz(|v| v["max_connections"] == 77)),
    ("max_connections", "max_connections: 78", Varz(|v| v["max_connections"] == 78)),
    ("max_control_line", "max_control_line: 2222", Varz(|v| v["max_control_line"] == 2222)),
    ("max_payload", "max_payload: 5", Said("{}", "Maximum Payload Violation", "Unknown")),
    ("write_deadline", "write_deadline: '3s'", Varz(|v| v["write_deadline"] == 3_000_000_000_u64)),
    ("ping_interval", "ping_interval: '7s'", Varz(|v| v["ping_interval"] == 7_000_000_000_u64)),
    ("ping_max", "ping_max: 9", Varz(|v| v["ping_max"] == 9)),
    ("debug", "debug: true", Log(|lines| shows(lines, "[DBG]"))),
    ("trace", "trace: true", Log(|lines| shows(lines, "<<- MSG_PAYLOAD: [\"hello world\"]"))),
    ("trace_verbose", "trace_verbose: true", Log(|lines| shows(lines, "<<- [PUB a 11]"))),
    (
        "trace_headers",
        "trace_headers: true",
        Log(|lines| shows(lines, "<<- [PUB a 11]") && !shows(lines, "MSG_PAYLOAD")),
    ),
    (
        "max_traced_msg_len",
        "trace: true\nmax_traced_msg_len: 5",
        Log(|lines| shows(lines, "<<- MSG_PAYLOAD: [\"hello...\"]")),
    ),
    ("logtime", "logtime: false", Log(|lines| lines.iter().any(|line| line.contains("] [ERR]")))),
    ("logtime_utc", "logtime_utc: true", Log(|lines| lines.iter().all(|line| is_utc(line)))),
    (
        "logfile",
        "log_file: '$D/log'",
        File(|_| ("log".into(), "Reloaded server configuration".into())),
    ),
    (
        "pidfile",
        "pid_file: '$D/pid'",
        File(|server| ("pid".into(), server.process_id().to_string())),
    ),
    (
        "ports_file_dir",
        "ports_file_dir: '$D'",
        File(|server| {
            let name = format!("midge_{}.ports", server.process_id());
            (name, format!("\"nats://{}\"", server.address()))
        }),
    ),
    (
        "authorization.user",
        "authorization { user: somebody, password: p }",
        Said(r#"{"user":"nobody","pass":"p"}"#, REFUSED, LET_IN),
    ),
    (
        "authorization.password",
        "authorization { user: somebody, password: q }",
        Said(r#"{"user":"somebody","pass":"p"}"#, REFUSED, LET_IN),
    ),
    ("authorization.token", "authorization { token: t }", Said("{}", REFUSED, LET_IN)),
    ("authorization.timeout", "authorization { timeout: 3 }", Varz(|v| v["auth_timeout"] == 3)),
    (
        "authorization.users",
        "authorization { users: [ {user: a, password: p} ] }",
        Said("{}", REFUSED, LET_IN),
    ),
    (
        "authorization.default_permissions",
        "authorization { default_permissions { publish: b }, users: [ {user: a, password: p} ] }",
        Said(r#"{"user":"a","pass":"p"}"#, "Permissions Violation for Publish to \"a\"", REFUSED),
    ),
    (
        "accounts",
        "accounts { A { users: [ {user: a, password: p} ] } }",
        Said("{}", REFUSED, LET_IN),
    ),
    ("server_tags", "server_tags: [x]", Varz(|v| v["tags"][0] == "x")),
    ("server_tags", "server_tags: [y]", Varz(|v| v["tags"][0] == "y")),
    ("server_metadata", "server_metadata { a: b }", Varz(|v| v["metadata"]["a"] == "b")),
];

/// The keys of the rows that a reload changes at once.
fn live_keys() -> Vec<String> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/OPTIONS.md");
    let page = std::fs::read_to_string(page).unwrap();
    let cells = page.lines().map(|line| line.split(" | ").collect::<Vec<_>>());
    let live = cells.filter(|cells| cells.get(4) == Some(&"live"));
    live.map(|cells| cells[0].split('`').nth(1).expect("a key").to_owned()).collect()
}

#[test]
fn every_live_option_has_a_case() {
    let keys = live_keys();
    assert!(keys.len() > 25, "{keys:?}");
    let known = |key: &String| {
        CASES.iter().any(|case| case.0 == key) || UNSEEN.iter().any(|unseen| unseen.0 == key)
    };
    let without: Vec<_> = keys.iter().filter(|key| !known(key)).collect();
    assert!(without.is_empty(), "no case for {without:?}");
    let cases = CASES.iter().map(|case| case.0).chain(UNSEEN.map(|unseen| unseen.0));
    let idle: Vec<_> = cases.filter(|key| !keys.iter().any(|live| live == key)).collect();
    assert!(idle.is_empty(), "not live: {idle:?}");
}

#[test]
fn every_live_option_has_its_effect_after_a_reload() {
    let server = start_with_file();
    for (key, config, effect) in CASES {
        assert!(!holds(&server, &effect), "{key} shows before {config}");
        reload(&server, config);
        wait_until(&format!("the effect of {config}"), || holds(&server, &effect));
        reload(&server, "");
    }
}

/// As nats-server: a ports file goes with the server or the option, a pid file stays.
#[test]
fn a_reload_moves_the_ports_file_and_leaves_the_pid_file() {
    let server = start_with_file();
    let directory = server.directory();
    let ports = format!("midge_{}.ports", server.process_id());
    std::fs::create_dir(directory.join("other")).unwrap();
    let (first, second) = (directory.join(&ports), directory.join("other").join(&ports));
    reload(&server, "pid_file: '$D/one'\nports_file_dir: '$D'");
    wait_until("the first ports file", || first.exists());
    reload(&server, "pid_file: '$D/two'\nports_file_dir: '$D/other'");
    wait_until("the second ports file", || second.exists() && !first.exists());
    assert!(directory.join("one").exists());
    assert!(directory.join("two").exists());
    let start_index = server.log().line_count();
    reload(&server, "pid_file: '/nonexistent/p'\nports_file_dir: '/nonexistent'");
    let said = |text: &str| {
        let find = |line: &str| line.contains(text).then_some(());
        server.log().wait_for(start_index, WAIT_MAX, find).is_some()
    };
    assert!(said("Failed to write pidfile: open /nonexistent/p: no such file or directory"));
    assert!(said(&format!("Error writing ports file (/nonexistent/{ports}): open ")));
    assert!(said("Reloaded: pid_file = /nonexistent/p"));
    assert!(!second.exists());
}

/// A server in a time zone far from UTC, so that it shows which of the two its log has.
fn start_with_file() -> Server {
    let directory = Directory::new().unwrap();
    let file = directory.join("live.conf");
    std::fs::write(&file, BASE).unwrap();
    let mut command = command(MIDGE);
    command.env("TZ", "XXX5").args(["-m", "-1", "-c"]).arg(file);
    match Server::start_command(command, directory) {
        Ok(server) => server,
        Err(text) => panic!("{text}"),
    }
}

const BASE: &str = "max_traced_msg_len: 0\n";

/// Writes a new file and waits until the server has loaded it. The log may be elsewhere by then.
fn reload(server: &Server, config: &str) {
    let before = varz(server)["config_digest"].clone();
    let config = config.replace("$D", &server.directory().display().to_string());
    std::fs::write(server.directory().join("live.conf"), format!("{BASE}{config}\n")).unwrap();
    server.signal(Signal::HUP).unwrap();
    wait_until(&format!("the reload of {config}"), || varz(server)["config_digest"] != before);
}

fn varz(server: &Server) -> Value {
    serde_json::from_slice(&server.monitor_get("/varz").unwrap()).unwrap()
}

fn holds(server: &Server, effect: &Effect) -> bool {
    match effect {
        Varz(holds) => holds(&varz(server)),
        Log(holds) => holds(&talk(server, "{}").1),
        File(expected) => {
            let (name, content) = expected(server);
            let text = std::fs::read_to_string(server.directory().join(name));
            text.is_ok_and(|text| text.contains(&content))
        }
        Said(connect, expected, other) => {
            let said = talk(server, connect).0;
            said.contains(expected) && !said.contains(other)
        }
    }
}

/// Holds a conversation that ends with an error. Returns what the server sent, and its log lines
/// about the client.
fn talk(server: &Server, connect: &str) -> (String, Vec<String>) {
    let start_index = server.log().line_count();
    let mut client = RawClient::connect(server.address()).unwrap();
    let commands = format!("CONNECT {connect}\r\nPING\r\nPUB a 11\r\nhello world\r\nFOO\r\n");
    client.send(commands.as_bytes()).unwrap();
    let deadline = Instant::now() + WAIT_MAX;
    while client.fill(deadline) != Fill::Closed {
        assert!(Instant::now() < deadline, "the server does not close");
    }
    let said = String::from_utf8_lossy(client.unread()).into_owned();
    let who = format!("127.0.0.1:{} - cid:", client.local_port());
    let is_last = |line: &str| (line.contains(&who) && line.contains("[ERR]")).then_some(());
    assert!(server.log().wait_for(start_index, WAIT_MAX, is_last).is_some(), "no line: {said}");
    let lines = server.log().lines().split_off(start_index);
    (said, lines.into_iter().filter(|line| line.contains(&who)).collect())
}

fn shows(lines: &[String], text: &str) -> bool {
    lines.iter().any(|line| line.contains(text))
}

/// Returns true if a line's time is in UTC. The hour may have changed within the last minute.
fn is_utc(line: &str) -> bool {
    let hour = line.split(' ').nth(2).and_then(|time| time.split(':').next());
    let Some(hour) = hour.and_then(|hour| hour.parse::<u64>().ok()) else { return false };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    [now, now - 60].iter().any(|at| at / 3600 % 24 == hour)
}
