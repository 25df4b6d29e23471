//! `--balance auto`: connections are served where it is best, which is decided at their first
//! subscription or message, and only monitoring shows it.

mod support;

use std::time::Instant;

use serde_json::Value;

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use support::raw_client::RawClient;
use support::server::Server;
use support::{WAIT_MAX, wait_until};

const AUTO: [&str; 2] = ["--balance", "auto"];

/// Connections that one of two shards may have more than the other.
const AHEAD_MAX: usize = 54;

fn server(shard_count: usize, arguments: &[&str], config: &str) -> Server {
    let config = format!("http: \"127.0.0.1:-1\"\n{config}");
    Server::midge_with(shard_count, &[&AUTO, arguments].concat(), &config)
}

fn client(server: &Server, connect: &str, commands: &str) -> RawClient {
    let mut client = RawClient::connect(server.address()).expect("the server listens");
    client.send(format!("CONNECT {connect}\r\n{commands}").as_bytes()).expect("the server reads");
    client.round_trip().expect("it was let in");
    client
}

const PLAIN: &str = "{\"verbose\":false}";

fn json(server: &Server, path: &str) -> Value {
    let body = server.monitor_get(path).expect("monitoring answers");
    serde_json::from_slice(&body).expect("it is JSON")
}

/// Returns one number of each shard.
fn of_shards(server: &Server, name: &str) -> Vec<u64> {
    let varz = json(server, "/varz");
    let shards = varz["midge"]["shards"].as_array().expect("there are shards");
    shards.iter().map(|shard| shard.pointer(name).and_then(Value::as_u64).expect(name)).collect()
}

fn awake(server: &Server) -> Vec<bool> {
    let varz = json(server, "/varz");
    assert_eq!(varz["midge"]["balance"], "auto");
    let shards = varz["midge"]["shards"].as_array().expect("there are shards");
    shards.iter().map(|shard| shard["awake"].as_bool().expect("awake")).collect()
}

/// Takes one message and its payload.
fn message(client: &mut RawClient) -> (String, String) {
    let deadline = Instant::now() + WAIT_MAX;
    let text = |line: Vec<u8>| String::from_utf8(line).expect("ASCII").trim_end().to_owned();
    let head = text(client.take_message_line(deadline));
    (head, text(client.take_line(deadline).expect("the payload follows")))
}

/// Fills the first shard, so that the next client goes elsewhere.
fn crowd(server: &Server) -> Vec<RawClient> {
    (0..AHEAD_MAX).map(|index| client(server, PLAIN, &format!("SUB idle.{index} 1\r\n"))).collect()
}

#[test]
fn one_shard_serves_all_while_one_is_enough_and_nothing_crosses() {
    let server = server(4, &[], "");
    assert_eq!(awake(&server), [true, false, false, false]);
    let mut service = client(&server, PLAIN, "SUB ask 1\r\n");
    let mut asking: Vec<RawClient> =
        (0..4).map(|index| client(&server, PLAIN, &format!("SUB inbox.{index} 1\r\n"))).collect();
    for (index, requester) in asking.iter_mut().enumerate() {
        requester.send(format!("PUB ask inbox.{index} 1\r\n?\r\n").as_bytes()).expect("it is read");
        assert_eq!(message(&mut service), (format!("MSG ask 1 inbox.{index} 1"), "?".into()));
        service.send(format!("PUB inbox.{index} 1\r\n!\r\n").as_bytes()).expect("it is read");
        assert_eq!(message(requester), (format!("MSG inbox.{index} 1 1"), "!".into()));
    }
    assert_eq!(of_shards(&server, "/connections"), [5, 0, 0, 0]);
    assert_eq!(of_shards(&server, "/lanes/messages_in"), [0, 0, 0, 0]);
    assert_eq!(awake(&server), [true, false, false, false]);
}

#[test]
fn many_connections_use_many_shards_and_each_message_comes_once_and_in_order() {
    for driver in ["io_uring", "epoll"] {
        let server = server(16, &["--io-driver", driver], "");
        let mut clients: Vec<RawClient> = (0..30)
            .map(|index| client(&server, PLAIN, &format!("SUB all 1\r\nSUB own.{index} 2\r\n")))
            .collect();
        let counts = of_shards(&server, "/connections");
        assert_eq!(counts.iter().sum::<u64>(), 30, "{driver} {counts:?}");
        let used: Vec<bool> = counts.iter().map(|count| *count > 0).collect();
        assert_eq!(used, [[true; 5].as_slice(), &[false; 11]].concat(), "{driver} {counts:?}");
        // The next one listens as well: a socket was handed to it before anything was known of that.
        let listening = [[true; 6].as_slice(), &[false; 10]].concat();
        assert_eq!(awake(&server), listening, "{driver}");
        // Each publishes to all, and to the one after it.
        for index in 0..clients.len() {
            let next = (index + 1) % 30;
            let commands = format!("PUB all 2\r\n{index:02}\r\nPUB own.{next} 2\r\n{index:02}\r\n");
            clients[index].send(commands.as_bytes()).expect("it is read");
            for (place, client) in clients.iter_mut().enumerate() {
                assert_eq!(
                    message(client),
                    ("MSG all 1 2".into(), format!("{index:02}")),
                    "{place}"
                );
                if place == next {
                    assert_eq!(
                        message(client),
                        (format!("MSG own.{next} 2 2"), format!("{index:02}"))
                    );
                }
            }
        }
        clients.iter_mut().for_each(|client| client.round_trip().expect("nothing else came"));
        let connz = json(&server, "/connz?limit=100");
        let mut ids: Vec<u64> = connz["connections"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| one["cid"].as_u64().expect("a number"))
            .collect();
        ids.sort_unstable();
        assert_eq!(ids, (5..35).collect::<Vec<u64>>(), "each is seen once, under its own number");
        drop(clients);
        wait_until("all are gone", || json(&server, "/varz")["connections"] == 0);
        assert_eq!(json(&server, "/varz")["total_connections"], 30);
    }
}

#[test]
fn hundred_connections_opened_idle_use_many_shards_once_they_speak_and_pairs_stay_together() {
    let server = server(16, &[], "");
    let mut clients: Vec<RawClient> = (0..100).map(|_| client(&server, PLAIN, "")).collect();
    for round in 0..3 {
        for (index, client) in clients.iter_mut().enumerate() {
            let other = index ^ 1;
            let subscribes =
                if round == 0 { format!("SUB own.{index} 1\r\n") } else { String::new() };
            let commands = format!("{subscribes}PUB own.{other} 1\r\n{round}\r\n");
            client.send(commands.as_bytes()).expect("it is read");
            client.send(b"PING\r\n").expect("it is read");
            let deadline = Instant::now() + WAIT_MAX;
            while client.take_line(deadline).expect("PONG comes") != b"PONG\r\n" {}
        }
    }
    let serving = of_shards(&server, "/in_msgs");
    assert!(serving.iter().filter(|messages| **messages > 0).count() >= 12, "{serving:?}");
    assert_eq!(serving.iter().sum::<u64>(), 300);
    assert_eq!(of_shards(&server, "/lanes/messages_in"), [0; 16]);
}

#[test]
fn connections_that_may_move_leave_descriptors_for_others() {
    let server = server(2, &[], "");
    let limit = Rlimit { current: Some(160), maximum: Some(160) };
    let process = Pid::from_raw(server.process_id().cast_signed());
    prlimit(process, Resource::Nofile, limit).expect("it can be lowered");
    let clients: Vec<RawClient> = (0..100).map(|_| client(&server, PLAIN, "")).collect();
    assert_eq!(of_shards(&server, "/connections").iter().sum::<u64>(), 100);
    drop(clients);
}

/// Before they say anything, too: the shard that accepts alone has no more work with them than others.
#[test]
fn burst_of_connections_that_say_nothing_yet_is_spread() {
    let server = server(2, &[], "");
    let mut clients: Vec<RawClient> = (0..100)
        .map(|_| RawClient::connect(server.address()).expect("the server listens"))
        .collect();
    wait_until("all are counted", || of_shards(&server, "/connections").iter().sum::<u64>() == 100);
    let counts = of_shards(&server, "/connections");
    assert!(counts[1] >= 18, "{counts:?}");
    for client in &mut clients {
        client.send(b"CONNECT {\"verbose\":false}\r\n").expect("the server reads");
        client.round_trip().expect("it is served wherever it is");
    }
    assert_eq!(awake(&server), [true, true]);
}

#[test]
fn publisher_goes_to_the_shard_that_alone_wants_its_first_message() {
    let server = server(2, &[], "");
    let _crowd = crowd(&server);
    let mut far = client(&server, PLAIN, "SUB far 1\r\n");
    assert_eq!(of_shards(&server, "/connections"), [54, 1]);
    // Whatever comes before the PUB in the same read.
    let commands = "SUB mine 1\r\nPUB far 2\r\nhi\r\n";
    let mut publisher = client(&server, PLAIN, commands);
    assert_eq!(message(&mut far), ("MSG far 1 2".into(), "hi".into()));
    assert_eq!(of_shards(&server, "/connections"), [54, 2]);
    assert_eq!(of_shards(&server, "/lanes/messages_in"), [0, 0]);
    publisher.send(b"PUB mine 2\r\nme\r\n").expect("it is read");
    assert_eq!(message(&mut publisher), ("MSG mine 1 2".into(), "me".into()));
    // A publisher whose message is wanted in the crowd goes there.
    let _other = client(&server, PLAIN, "PUB idle.3 2\r\nhi\r\n");
    assert_eq!(of_shards(&server, "/connections"), [55, 2]);
    assert_eq!(of_shards(&server, "/lanes/messages_in"), [0, 0]);
}

/// Everything in one write, so that answers are still on their way when a shard is chosen.
#[test]
fn answers_come_in_order_around_the_move() {
    let server = server(2, &[], "");
    let _crowd = crowd(&server);
    let mut client = RawClient::connect(server.address()).expect("the server listens");
    let commands = "CONNECT {\"verbose\":true,\"protocol\":1}\r\nPING\r\nSUB a 7\r\nPUB a 1\r\nx\r\nPING\r\nUNSUB 7\r\nPING\r\n";
    client.send(commands.as_bytes()).expect("the server reads");
    let deadline = Instant::now() + WAIT_MAX;
    let mut lines = Vec::new();
    while lines.iter().filter(|line| *line == "PONG").count() < 3 {
        let line = client.take_line(deadline).expect("a line comes");
        let line = String::from_utf8(line).expect("ASCII").trim_end().to_owned();
        lines.push(if line.starts_with("INFO ") { "INFO".into() } else { line });
    }
    let expected =
        ["INFO", "+OK", "PONG", "INFO", "+OK", "+OK", "MSG a 7 1", "x", "PONG", "+OK", "PONG"];
    // A message to its own publisher may come before or after the +OK for it.
    let sorted = |lines: &[String]| {
        let mut lines: Vec<String> = lines.to_vec();
        lines[4..8].sort();
        lines
    };
    assert_eq!(sorted(&lines), sorted(&expected.map(String::from)));
    assert_eq!(of_shards(&server, "/connections"), [54, 1]);
}

const USERS: &str = "accounts: {
    ONE: { users: [ { user: a, password: p, permissions: { publish: { allow: [ \"ok.>\" ] } } } ] }
    TWO: { users: [ { user: b, password: p } ] }
}";

fn user(name: &str) -> String {
    format!("{{\"verbose\":false,\"user\":\"{name}\",\"pass\":\"p\"}}")
}

#[test]
fn a_login_goes_along_with_rights_and_account_and_a_reload_finds_it() {
    let server = server(2, &[], USERS);
    let _crowd: Vec<RawClient> =
        (0..AHEAD_MAX).map(|_| client(&server, &user("b"), "SUB ok.x 1\r\n")).collect();
    let mut moved = client(&server, &user("a"), "SUB ok.x 1\r\n");
    moved.send(b"PUB ok.x 1\r\n1\r\n").expect("the server reads");
    assert_eq!(of_shards(&server, "/connections"), [54, 1]);
    assert_eq!(message(&mut moved), ("MSG ok.x 1 1".into(), "1".into()));
    moved.send(b"PUB no 1\r\n1\r\n").expect("the server reads");
    let deadline = Instant::now() + WAIT_MAX;
    let refusal = moved.take_message_line(deadline);
    assert_eq!(refusal, b"-ERR 'Permissions Violation for Publish to \"no\"'\r\n".to_vec());
    let connz = json(&server, "/connz?auth=1&user=a");
    assert_eq!(connz["connections"][0]["account"], "ONE", "{connz}");
    assert_eq!(connz["connections"][0]["subscriptions"], 1);
    let accounts = json(&server, "/accstatz?unused=1");
    let one = accounts["account_statz"].as_array().expect("a list");
    let one = one.iter().find(|account| account["acc"] == "ONE").expect("it is there");
    assert_eq!((one["conns"].as_u64(), one["num_subscriptions"].as_u64()), (Some(1), Some(1)));
    let without = USERS.replace("user: a, password: p", "user: c, password: p");
    let config = format!("http: \"127.0.0.1:-1\"\n{without}");
    server.rewrite_config(&config).expect("it can be written");
    server.signal(Signal::HUP).expect("it runs");
    while moved.take_line(deadline).is_some() {}
    assert!(moved.is_closed(), "its user is gone");
    wait_until("the others are left", || of_shards(&server, "/connections") == [54, 0]);
}

#[test]
fn a_connection_to_a_shards_own_port_stays_there() {
    let base = free_row(2);
    let server = server(2, &["--shard-ports", &base.to_string()], "");
    let mut address = server.address();
    address.set_port(base + 1);
    let mut client = RawClient::connect(address).expect("the shard listens");
    client.send(b"CONNECT {\"verbose\":false}\r\nSUB a 1\r\n").expect("the server reads");
    client.round_trip().expect("it was let in");
    assert_eq!(of_shards(&server, "/connections"), [0, 1]);
}

/// Returns the first of `count` free ports in a row, below those that the kernel hands out.
fn free_row(count: u16) -> u16 {
    let is_free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    let start = 12_000 + (std::process::id() % 15_000) as u16;
    (start..32_000).find(|first| (*first..first + count).all(is_free)).expect("some ports are free")
}
