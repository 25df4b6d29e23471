//! Names in a file that cannot be part of a subject or a line: they forge nothing.

use std::time::Instant;

use super::support::WAIT_MAX;
use super::support::raw_client::RawClient;
use super::{Monitored, get};

/// Literal line ends, in a quoted key.
const CONFIG: &str = "accounts: {\n\
    \"A B\": { users: [{user: blank, password: x}] }\n\
    \"C\r\nMSG evil 1 2\r\nhi\": { users: [{user: lines, password: x}] }\n\
    \"T\tAB\": { users: [{user: tab, password: x}] }\n\
    \"D.E\": { users: [{user: sound, password: x}] }\n\
    SYS: { users: [{user: sys, password: x}] }\n\
    }\nsystem_account: SYS\n";

fn log_in(monitored: &Monitored, user: &str) -> RawClient {
    let mut client = RawClient::connect(monitored.server.address()).unwrap();
    let connect = format!("CONNECT {{\"verbose\":false,\"user\":\"{user}\",\"pass\":\"x\"}}\r\n");
    client.send(connect.as_bytes()).unwrap();
    client.round_trip().unwrap();
    client
}

/// nats-server publishes such events, and so allows forged lines.
#[test]
fn an_account_name_with_blanks_or_line_ends_makes_no_event_and_no_line() {
    let monitored = Monitored::start(CONFIG);
    let mut system = log_in(&monitored, "sys");
    system.send(b"SUB $SYS.ACCOUNT.> 1\r\nSUB $SYS.SERVER.ACCOUNT.> 1b\r\nSUB evil 2\r\n").unwrap();
    system.round_trip().unwrap();
    for user in ["blank", "lines", "tab", "sound"] {
        log_in(&monitored, user).close();
    }
    // Every line belongs to a message whose subject is one of the last client's, or to its JSON.
    let deadline = Instant::now() + WAIT_MAX;
    let mut told = 0;
    while told < 4 {
        let line = String::from_utf8(system.take_message_line(deadline)).unwrap();
        if line.starts_with('{') {
            continue;
        }
        let fields: Vec<&str> = line.trim_end().split(' ').collect();
        assert_eq!((fields[0], fields.len()), ("MSG", 4), "{line:?}");
        assert!(fields[1].contains(".D.E."), "{line:?}");
        told += 1;
    }
    let warnings = monitored.server.log().lines();
    for name in ["\"A B\"", "\"C\\r\\nMSG evil 1 2\\r\\nhi\"", "\"T\\tAB\""] {
        let told =
            warnings.iter().filter(|line| line.contains(&format!("Account name {name} has")));
        assert_eq!(told.count(), 1, "{name}: {warnings:#?}");
    }
}

#[test]
fn no_name_ends_a_line_of_the_metrics() {
    let monitored = Monitored::start(&format!("server_name: \"s\\rt\"\n{CONFIG}"));
    let body = get(monitored.http, "/metrics").body;
    assert!(!body.contains('\r'), "{body}");
    for line in body.lines() {
        assert!(line.starts_with("midge_") || line.starts_with('#'), "{line:?}");
    }
    assert!(body.contains("midge_account_connections{account=\"A B\"} 0"), "{body}");
    assert!(body.contains("server_name=\"s\\\\rt\""), "{body}");
    let parsed = openmetrics_parser::openmetrics::parse_openmetrics(&body);
    parsed.unwrap_or_else(|error| panic!("{error:?}\n{body}"));
}
