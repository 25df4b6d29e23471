//! Whom a problem concerned: in the log and in `/connz?state=closed`.

use std::time::Instant;

use serde_json::Value;

use super::support::raw_client::RawClient;
use super::{MIDGE, Monitored, WAIT_MAX};

const CONFIG: &str = r#"
max_payload: 100000
max_pending: 1000000
accounts {
  SHOP { users: [{ user: till, password: planted1 }, { user: stock, password: planted2 }] }
}
"#;

fn log_in(monitored: &Monitored, name: &str, user: &str, password: &str) -> RawClient {
    let mut client = RawClient::connect(monitored.server.address()).unwrap();
    let connect = format!(
        "CONNECT {{\"verbose\":false,\"name\":\"{name}\",\"user\":\"{user}\",\"pass\":\"{password}\"}}\r\nPING\r\n"
    );
    client.send(connect.as_bytes()).unwrap();
    client
}

/// Returns the log line with this text, and what it says about the client.
fn line_about(monitored: &Monitored, text: &str) -> Value {
    let found = monitored.server.log().wait_for(0, WAIT_MAX, |line| {
        let value: Value = serde_json::from_str(line).ok()?;
        value["message"].as_str()?.contains(text).then_some(value)
    });
    found.unwrap_or_else(|| panic!("no {text}:\n{}", monitored.server.log().lines().join("\n")))
}

fn address_of(client: &RawClient) -> String {
    format!("127.0.0.1:{}", client.local_port())
}

#[test]
fn a_refused_login_a_protocol_error_and_a_slow_consumer_say_who() {
    let arguments = ["--shards", "2", "--no-pin", "--log-format", "json"];
    let monitored = Monitored::start_program(MIDGE.as_ref(), &arguments, CONFIG);

    let refused = log_in(&monitored, "burglar", "till", "guessed");
    let line = line_about(&monitored, "authentication error");
    assert_eq!(line["level"], "error");
    assert_eq!(line["address"], address_of(&refused));
    assert_eq!(line["name"], "burglar");
    assert_eq!(line["user"], "till");
    assert_eq!(line.get("account"), None, "nobody was let in");
    assert!(line["cid"].is_u64());

    let mut wrong = log_in(&monitored, "clumsy", "till", "planted1");
    wrong.round_trip().unwrap();
    wrong.send(b"FOO\r\n").unwrap();
    let line = line_about(&monitored, "cid:6 - \"clumsy\" - \"SHOP/user:till\"");
    assert_eq!(line["level"], "error");
    assert_eq!(line["cid"], 6);
    assert_eq!(line["address"], address_of(&wrong));
    assert_eq!(line["name"], "clumsy");
    assert_eq!(line["user"], "till");
    assert_eq!(line["account"], "SHOP");

    let mut slow = log_in(&monitored, "sleeper", "stock", "planted2");
    slow.round_trip().unwrap();
    slow.send(b"SUB orders.> 1\r\n").unwrap();
    slow.round_trip().unwrap();
    let mut publisher = log_in(&monitored, "pusher", "till", "planted1");
    publisher.round_trip().unwrap();
    let message = [b"PUB orders.new 60000\r\n".to_vec(), vec![b'x'; 60_000], b"\r\n".to_vec()];
    let message = message.concat();
    let deadline = Instant::now() + WAIT_MAX;
    // The kernel's buffers, which nobody reads, fill first.
    while monitored.json("/varz")["slow_consumers"] == 0 {
        assert!(Instant::now() < deadline, "nobody is slow");
        for _ in 0..50 {
            publisher.send(&message).unwrap();
        }
        publisher.round_trip().unwrap();
    }
    let line = line_about(&monitored, "Slow Consumer Detected: MaxPending of 1000000 Exceeded");
    assert_eq!(line["address"], address_of(&slow));
    assert_eq!(line["name"], "sleeper");
    assert_eq!(line["user"], "stock");
    assert_eq!(line["account"], "SHOP");

    let closed = monitored.json_when("/connz?state=closed&auth=1&subs=1&sort=stop", |connz| {
        connz["connections"].as_array().is_some_and(|list| list.len() == 3)
    });
    let closed = closed["connections"].as_array().unwrap();
    let one = closed.iter().find(|one| one["name"] == "sleeper").unwrap();
    assert_eq!(one["reason"], "Slow Consumer (Pending Bytes)");
    assert_eq!(one["authorized_user"], "stock");
    assert_eq!(one["account"], "SHOP");
    assert_eq!(one["subscriptions_list"], serde_json::json!(["orders.>"]));
    let pending = one["pending_bytes"].as_u64().unwrap();
    assert!((900_000..=1_000_000).contains(&pending), "{pending}");
    let reasons: Vec<_> = closed.iter().map(|one| one["reason"].as_str().unwrap()).collect();
    assert!(reasons.contains(&"Authentication Failure"), "{reasons:?}");
    assert!(reasons.contains(&"Protocol Violation"), "{reasons:?}");

    let log = monitored.server.log().lines().join("\n");
    assert!(!log.contains("planted") && !log.contains("guessed"), "{log}");
}
