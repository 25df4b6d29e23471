//! The monitoring port: every endpoint under a known load, compared with nats-server's if
//! `NATS_SERVER` names one.
//!
//! The expected values below were taken from nats-server.

mod support;

#[path = "monitor/arguments.rs"]
mod arguments;
#[path = "monitor/metrics.rs"]
mod metrics;
#[path = "monitor/names.rs"]
mod names;
#[path = "monitor/secrets.rs"]
mod secrets;
#[path = "monitor/tools.rs"]
mod tools;
#[path = "monitor/who.rs"]
mod who;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Instant;

use midge::testing::base::limits::{HTTP_CONNECTIONS_MAX, HTTP_HEAD_BYTES_MAX};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use rustix::time::Timespec;

use serde_json::Value;
use support::raw_client::{Fill, RawClient};
use support::server::Server;
use support::{WAIT_MAX, allow_open_files};

const MIDGE: &str = env!("CARGO_BIN_EXE_midge");

/// A server with its monitoring port.
struct Monitored {
    server: Server,
    http: SocketAddr,
}

impl Monitored {
    fn start(config: &str) -> Self {
        let arguments = ["--shards", "2", "--no-pin"];
        Self::start_program(Path::new(MIDGE), &arguments, config)
    }

    fn start_program(program: &Path, arguments: &[&str], config: &str) -> Self {
        let config = format!("http: \"127.0.0.1:-1\"\n{config}");
        let server = Server::start(program, arguments, &config).expect("the server starts");
        let http = server
            .log()
            .wait_for(0, WAIT_MAX, |line| {
                let text = line.split_once("Starting http monitor on ")?.1;
                // More may follow in a line of JSON.
                text.split('"').next()?.trim().parse().ok()
            })
            .expect("the log names the monitoring port");
        Self { server, http }
    }

    fn get(&self, path: &str) -> Answer {
        get(self.http, path)
    }

    fn json(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert_eq!(answer.header("content-type"), Some("application/json"), "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{path}");
        serde_json::from_str(&answer.body).expect("an endpoint answers JSON")
    }

    /// Asks until the answer is as stated.
    fn json_when(&self, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let value = self.json(path);
            if holds(&value) {
                return value;
            }
            assert!(
                Instant::now() < deadline,
                "{path} never came to what was waited for: {value:#}"
            );
        }
    }

    /// Returns a client that has sent CONNECT and got its PONG.
    fn client(&self, name: &str) -> RawClient {
        let mut client = RawClient::connect(self.server.address()).expect("the server listens");
        let connect = format!(
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"name\":\"{name}\",\"lang\":\"test\",\"version\":\"1.2.3\"}}\r\n"
        );
        client.send(connect.as_bytes()).expect("the server reads");
        client.round_trip().expect("the server answers");
        client
    }
}

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer has a head");
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let headers = lines.filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_ascii_lowercase(), value.to_owned()))
        });
        Self {
            status: status.expect("a status line"),
            headers: headers.collect(),
            body: body.to_owned(),
        }
    }
}

/// Sends `bytes` and reads until the server closes.
fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut client = RawClient::connect(address).expect("the monitoring port listens");
    client.send(bytes).expect("the server reads");
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        match client.fill(deadline) {
            Fill::Grown => {}
            Fill::Closed => return client.unread().to_vec(),
            Fill::TimedOut => panic!("no end: {}", String::from_utf8_lossy(client.unread())),
        }
    }
}

fn get(address: SocketAddr, path: &str) -> Answer {
    // HTTP/1.0: nothing is chunked, and the end of the answer is the end of the connection.
    let request = format!("GET {path} HTTP/1.0\r\nHost: test\r\n\r\n");
    Answer::parse(&exchange(address, request.as_bytes()))
}

/// Two subscribers, one of them in a queue group, ten messages to the first, and one client that
/// left.
struct Load {
    subscriber: RawClient,
    _queue_member: RawClient,
    publisher: RawClient,
}

fn load(monitored: &Monitored) -> Load {
    let mut subscriber = monitored.client("subscriber");
    subscriber.send(b"SUB foo.> 1\r\nSUB once 2\r\nUNSUB 2 5\r\n").unwrap();
    subscriber.round_trip().unwrap();
    let mut queue_member = monitored.client("member");
    queue_member.send(b"SUB bar workers 7\r\n").unwrap();
    queue_member.round_trip().unwrap();
    let mut publisher = monitored.client("publisher");
    for _ in 0..10 {
        publisher.send(b"PUB foo.a 5\r\nhello\r\n").unwrap();
    }
    publisher.round_trip().unwrap();
    let deadline = Instant::now() + WAIT_MAX;
    let mut lines = 0;
    while lines < 20 {
        let line = subscriber.take_line(deadline).expect("ten messages arrive");
        lines += usize::from(!line.starts_with(b"PING"));
    }
    monitored.client("leaver").close();
    Load { subscriber, _queue_member: queue_member, publisher }
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn set(names: &str) -> BTreeSet<&str> {
    names.split_whitespace().collect()
}

const VARZ: &str = "server_id server_name version proto go host port max_connections ping_interval \
    ping_max http_host http_port http_base_path https_port auth_timeout max_control_line max_payload \
    max_pending cluster gateway leaf mqtt websocket jetstream tls_timeout write_deadline start now uptime \
    mem cores gomaxprocs cpu connections total_connections routes remotes leafnodes in_msgs in_bytes \
    in_client_msgs in_client_bytes out_msgs out_bytes out_client_msgs out_client_bytes slow_consumers \
    stale_connections stalled_clients subscriptions http_req_stats config_load_time config_digest \
    feature_flags system_account slow_consumer_stats stale_connection_stats disk_io_wait_stats";

const CONNECTION: &str = "cid kind type ip port start last_activity rtt uptime idle pending_bytes in_msgs \
    out_msgs in_bytes out_bytes subscriptions name lang version";

#[test]
fn varz_counts_the_load() {
    let monitored = Monitored::start("");
    let _load = load(&monitored);
    let varz = monitored.json_when("/varz", |varz| varz["connections"] == 3);
    for (name, value) in [
        ("in_msgs", 10u64),
        ("in_bytes", 50),
        ("in_client_msgs", 10),
        ("out_msgs", 10),
        ("out_bytes", 50),
        ("out_client_bytes", 50),
        ("total_connections", 4),
        ("subscriptions", 3),
        ("slow_consumers", 0),
        ("max_payload", 1 << 20),
        ("ping_interval", 120_000_000_000),
    ] {
        assert_eq!(varz[name], value, "{name}");
    }
    assert_eq!(varz["http_port"], monitored.http.port());
    assert_eq!(varz["port"], monitored.server.address().port());
    assert!(varz["mem"].as_u64().unwrap() > 1 << 20);
    assert!(varz["http_req_stats"]["/varz"].as_u64().unwrap() >= 1);
    let mut expected = set(VARZ);
    expected.insert("midge");
    assert_eq!(keys(&varz), expected);
    let shards = varz["midge"]["shards"].as_array().unwrap();
    assert_eq!(shards.len(), 2);
    let sum: u64 = shards.iter().map(|shard| shard["out_msgs"].as_u64().unwrap()).sum();
    assert_eq!(sum, 10);
    assert!(varz["midge"].get("late_shards").is_none());
    let congestion = |whose: &str| varz["midge"]["congestion"][whose].as_str().unwrap();
    let paced = congestion("host").starts_with("bbr");
    assert!(!paced || ["cubic", "reno"].contains(&congestion("local_peers")), "{varz}");
    assert!(paced || congestion("local_peers") == congestion("host"), "{varz}");
}

#[test]
fn connz_shows_open_and_closed_connections() {
    let monitored = Monitored::start("");
    let load = load(&monitored);
    let connz = monitored.json_when("/connz?state=all", |connz| connz["total"] == 4);
    assert_eq!(keys(&connz), set("server_id now num_connections total offset limit connections"));
    let all = connz["connections"].as_array().unwrap();
    assert_eq!(keys(&all[0]), set(CONNECTION));
    let ids: Vec<u64> = all.iter().map(|one| one["cid"].as_u64().unwrap()).collect();
    assert_eq!(ids, [5, 6, 7, 8]);
    assert_eq!(all[0]["port"], load.subscriber.local_port());
    assert_eq!(all[0]["out_msgs"], 10);
    assert_eq!(all[0]["out_bytes"], 50);
    assert_eq!(all[2]["in_msgs"], 10);
    assert_eq!(all[3]["reason"], "Client Closed");
    assert!(all[3]["stop"].is_string());

    let names = |path: &str| -> Vec<String> {
        let connz = monitored.json(path);
        let all = connz["connections"].as_array().unwrap().clone();
        all.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("/connz"), ["subscriber", "member", "publisher"]);
    assert_eq!(names("/connz?state=closed"), ["leaver"]);
    assert_eq!(names("/connz?sort=msgs_from&limit=1"), ["publisher"]);
    assert_eq!(names("/connz?sort=bytes_to&limit=1"), ["subscriber"]);
    assert_eq!(names("/connz?sort=subs&limit=2"), ["subscriber", "member"]);
    assert_eq!(names("/connz?offset=2"), ["publisher"]);
    assert!(names("/connz?offset=9223372036854775807").is_empty());
    assert_eq!(names("/connz?limit=9223372036854775807&offset=-3").len(), 3);
    assert_eq!(names("/connz?cid=6"), ["member"]);
    assert_eq!(names("/connz?cid=8&state=all"), ["leaver"]);
    assert!(names("/connz?cid=999").is_empty());
    assert_eq!(names("/connz?acc=$G").len(), 3);
    // As nats-server.
    let unknown = monitored.json("/connz?acc=nobody");
    assert_eq!((&unknown["connections"], &unknown["server_id"]), (&Value::Null, &"".into()));
    assert!(names("/connz?user=nobody").is_empty());
    for sort in ["cid", "start", "pending", "last", "idle", "uptime", "rtt"] {
        assert_eq!(names(&format!("/connz?sort={sort}")).len(), 3, "{sort}");
    }
    for sort in ["stop", "reason"] {
        assert_eq!(names(&format!("/connz?sort={sort}&state=closed")), ["leaver"]);
    }

    let subjects = monitored.json("/connz?subs=1&cid=6");
    assert_eq!(subjects["connections"][0]["subscriptions_list"], serde_json::json!(["bar"]));
    let details = monitored.json("/connz?subs=detail&cid=6");
    let expected =
        serde_json::json!([{"subject":"bar","qgroup":"workers","sid":"7","msgs":0,"cid":6}]);
    assert_eq!(details["connections"][0]["subscriptions_list_detail"], expected);
    // In a fixed order, however they lie in the table: by sid as text.
    let mut sorted = monitored.client("sorted");
    let lines: String = (1..=20).rev().map(|sid| format!("SUB s.{sid} {sid}\r\n")).collect();
    sorted.send(lines.as_bytes()).unwrap();
    sorted.round_trip().unwrap();
    let mut expected: Vec<String> = (1..=20).map(|sid| sid.to_string()).collect();
    expected.sort_unstable();
    let sids = |list: &Value| -> Vec<String> {
        let list = list.as_array().unwrap().iter();
        list.map(|one| one["sid"].as_str().unwrap().to_owned()).collect()
    };
    let details = monitored.json("/connz?subs=detail&sort=subs&limit=1");
    assert_eq!(sids(&details["connections"][0]["subscriptions_list_detail"]), expected);
    let subsz = monitored.json("/subsz?subs=1");
    assert_eq!(sids(&subsz["subscriptions_list"])[3..], expected);
    let ids: Vec<&Value> =
        subsz["subscriptions_list"].as_array().unwrap().iter().map(|one| &one["cid"]).collect();
    assert!(ids.is_sorted_by_key(|id| id.as_u64()));
    let subjects = monitored.json("/connz?subs=1&sort=subs&limit=1");
    let first = &subjects["connections"][0]["subscriptions_list"];
    assert_eq!((&first[0], &first[1]), (&"s.1".into(), &"s.10".into()));
    sorted.close();
    let details = monitored.json("/connz?subs=detail&cid=5");
    let list = details["connections"][0]["subscriptions_list_detail"].as_array().unwrap().clone();
    assert!(list.iter().any(|one| one["subject"] == "once" && one["max"] == 5));
    assert_eq!(monitored.json("/connz?auth=1&cid=5")["connections"][0]["name_tag"], "$G");
}

/// At first it is the time to the CONNECT, as in nats-server: nobody is sent a PING because
/// somebody looks.
#[test]
fn a_round_trip_time_is_estimated_at_connect_and_measured_by_the_first_ping() {
    let monitored = Monitored::start("");
    let _silent = RawClient::connect(monitored.server.address()).unwrap();
    let mut client = monitored.client("measured");
    let connz = monitored.json_when("/connz", |connz| connz["num_connections"] == 2);
    let connections = connz["connections"].as_array().unwrap();
    let (named, silent): (Vec<&Value>, Vec<&Value>) =
        connections.iter().partition(|one| one["name"] == "measured");
    assert_eq!(silent[0]["rtt"], "0s");
    let estimate = named[0]["rtt"].as_str().unwrap().to_owned();
    assert!(estimate.ends_with('s') && estimate != "0s", "{estimate}");
    let path = format!("/connz?cid={}", named[0]["cid"]);
    let again = monitored.json(&path)["connections"][0].clone();
    assert_eq!((&again["rtt"], &again["pending_bytes"]), (&estimate.clone().into(), &0.into()));
    let deadline = Instant::now() + WAIT_MAX;
    assert_eq!(client.take_line(deadline).as_deref(), Some(&b"PING\r\n"[..]));
    client.send(b"PONG\r\n").unwrap();
    monitored.json_when(&path, |connz| connz["connections"][0]["rtt"] != estimate.as_str());
}

/// PING and PONG do not count as activity: a client that only keeps its connection alive is idle.
#[test]
fn activity_is_messages_and_subscriptions() {
    let monitored = Monitored::start("");
    let mut client = monitored.client("idle");
    let path = "/connz?cid=5";
    // With all its digits, so that times compare as texts.
    let activity = || {
        let connz = monitored.json(path);
        let text = connz["connections"][0]["last_activity"].as_str().unwrap().replace('Z', "");
        let (time, fraction) = text.split_once('.').unwrap_or((&text, ""));
        format!("{time}.{fraction:0<9}")
    };
    let at_rest = |client: &mut RawClient| {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let before = activity();
            client.round_trip().unwrap();
            if activity() == before {
                return before;
            }
            assert!(Instant::now() < deadline, "a PING counts as activity");
        }
    };
    for (bytes, what) in [
        (&b"SUB foo 1\r\n"[..], "a subscription"),
        (b"PUB bar 0\r\n\r\n", "a message"),
        (b"UNSUB 2\r\n", "an end of a subscription"),
    ] {
        let before = at_rest(&mut client);
        client.send(bytes).unwrap();
        client.round_trip().unwrap();
        assert!(activity() > before, "{what} is no activity");
    }
    let mut other = monitored.client("other");
    let before = at_rest(&mut client);
    other.send(b"PUB foo 2\r\nhi\r\n").unwrap();
    other.round_trip().unwrap();
    monitored.json_when(path, |_| activity() > before);
}

/// Two clients that did something one after the other have different times, and these do not
/// change.
#[test]
fn the_time_of_an_activity_is_its_own_and_stays() {
    let monitored = Monitored::start("");
    let mut clients = ["first", "second"].map(|name| monitored.client(name));
    for client in &mut clients {
        client.send(b"PUB foo 0\r\n\r\n").unwrap();
        client.round_trip().unwrap();
    }
    let seen = |connz: &Value| {
        let connections = connz["connections"].as_array().unwrap().clone();
        let of = |one: &Value| (one["name"].clone(), one["last_activity"].clone());
        connections.iter().map(of).collect::<Vec<_>>()
    };
    let path = "/connz?sort=last";
    let at_once = seen(&monitored.json(path));
    assert_eq!(at_once[0].0, "second", "{at_once:?}");
    assert_ne!(at_once[0].1, at_once[1].1);
    let later = monitored.json_when(path, |connz| {
        let mut idle = connz["connections"].as_array().unwrap().iter().map(|one| &one["idle"]);
        idle.all(|idle| idle.as_str().is_some_and(|text| text >= "2s"))
    });
    assert_eq!(seen(&later), at_once);
}

/// As nats-server 2.15.3.
#[test]
fn a_total_counts_what_was_asked_for_before_offset_and_limit() {
    let monitored = Monitored::start(ACCOUNTS);
    let log_in = |user: &str, password: &str| {
        let mut client = RawClient::connect(monitored.server.address()).unwrap();
        let connect = format!(
            "CONNECT {{\"verbose\":false,\"user\":\"{user}\",\"pass\":\"{password}\",\"name\":\"{user}\"}}\r\n"
        );
        client.send(connect.as_bytes()).unwrap();
        client.round_trip().unwrap();
        client
    };
    let _open = [log_in("ann", "planted-secret-1"), log_in("bob", "planted-secret-2")];
    for _ in 0..2 {
        log_in("ann", "planted-secret-1").close();
    }
    monitored.json_when("/connz?state=all", |connz| connz["total"] == 4);
    for (arguments, total, shown) in [
        ("user=ann", 1, 1),
        ("user=nobody", 0, 0),
        ("mqtt_client=x", 0, 0),
        ("acc=A", 1, 1),
        ("acc=A&user=bob", 0, 0),
        ("acc=A&cid=99", 0, 0),
        ("cid=5", 1, 1),
        ("cid=5&user=ann", 1, 1),
        ("cid=5&user=bob", 0, 0),
        ("cid=5&mqtt_client=x", 0, 0),
        ("state=closed&user=ann", 2, 2),
        ("state=closed&user=bob", 0, 0),
        ("state=closed&acc=A&user=bob", 0, 0),
        ("state=closed&acc=B&cid=7", 0, 0),
        ("state=closed&mqtt_client=x", 0, 0),
        ("state=all&user=ann", 3, 3),
        ("state=all&acc=A&user=bob", 0, 0),
        ("state=all&acc=B&cid=5", 0, 0),
        ("state=all&cid=7", 1, 1),
        ("state=all&cid=7&user=bob", 0, 0),
        ("limit=1", 2, 1),
        ("state=all&limit=1&offset=1", 4, 1),
    ] {
        let connz = monitored.json(&format!("/connz?{arguments}"));
        assert_eq!(connz["total"], total, "{arguments}");
        assert_eq!(connz["num_connections"], shown, "{arguments}");
    }
}

/// What tools ask for whose base address ends with a slash, and what concerns only Go.
#[test]
fn repeated_slashes_threads_and_variables_are_answered() {
    let monitored = Monitored::start("");
    assert!(monitored.json("//varz")["server_id"].is_string());
    assert!(monitored.json("//connz?limit=1")["connections"].is_array());
    let threads = monitored.get("/stacksz");
    assert_eq!(threads.status, 200);
    assert_eq!(threads.header("content-type"), Some("text/plain; charset=utf-8"));
    for name in ["shard-0 ", "shard-1 "] {
        let listed = threads.body.lines().filter(|line| line.starts_with(name)).count();
        assert_eq!(listed, 1, "{name}: {}", threads.body);
    }
    let variables = monitored.json("/debug/vars");
    assert_eq!(variables["cmdline"], serde_json::json!(["midge"]));
    assert!(variables["memstats"]["Sys"].as_u64().unwrap() > 1 << 20);
}

#[test]
fn reasons_of_closed_connections_are_shown_and_old_ones_forgotten() {
    let monitored = Monitored::start("max_closed_clients: 2\nmax_payload: 100");
    for _ in 0..3 {
        monitored.client("early").close();
    }
    // Their ends must come before the others': it takes time for a close to arrive.
    monitored.json_when("/connz", |connz| connz["num_connections"] == 0);
    let mut breaker = monitored.client("breaker");
    breaker.send(b"PUB a 101\r\n").unwrap();
    while breaker.fill(Instant::now() + WAIT_MAX) == Fill::Grown {}
    monitored.json_when("/connz", |connz| connz["num_connections"] == 0);
    let mut confused = monitored.client("confused");
    confused.send(b"XYZ\r\n").unwrap();
    while confused.fill(Instant::now() + WAIT_MAX) == Fill::Grown {}
    let path = "/connz?state=closed&sort=reason";
    let closed = monitored.json_when(path, |connz| {
        connz["connections"]
            .as_array()
            .is_some_and(|all| all.len() == 2 && all.iter().all(|one| one["name"] != "early"))
    });
    let reasons: Vec<&str> = closed["connections"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["reason"].as_str())
        .collect();
    assert_eq!(reasons, ["Maximum Message Payload Exceeded", "Protocol Violation"]);
}

#[test]
fn subscriptions_are_counted_listed_and_tested() {
    let monitored = Monitored::start("");
    let _load = load(&monitored);
    let subsz = monitored.json("/subsz");
    let expected = set(
        "server_id now num_subscriptions num_cache num_inserts num_removes num_matches cache_hit_rate \
         max_fanout avg_fanout total offset limit",
    );
    assert_eq!(keys(&subsz), expected);
    assert_eq!(subsz["num_subscriptions"], 3);
    assert_eq!(subsz["num_inserts"], 3);
    assert_eq!(subsz["total"], 0);
    let listed = monitored.json("/subscriptionsz?subs=1");
    assert_eq!(listed["total"], 3);
    assert_eq!(listed["subscriptions_list"].as_array().unwrap().len(), 3);
    let tested = monitored.json("/subsz?subs=1&test=foo.x.y");
    assert_eq!(tested["total"], 1);
    let expected = serde_json::json!([{
        "account": "$G", "account_tag": "$G", "subject": "foo.>", "sid": "1", "msgs": 10, "cid": 5
    }]);
    assert_eq!(tested["subscriptions_list"], expected);
    assert_eq!(
        monitored.json("/subsz?subs=1&limit=1&offset=2")["subscriptions_list"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert!(monitored.json("/subsz?subs=1&acc=nobody").get("subscriptions_list").is_none());
}

#[test]
fn ten_thousand_subscriptions_are_listed_in_parts() {
    let monitored = Monitored::start("");
    let mut client = monitored.client("many");
    let lines: String = (0..10_000).map(|sid| format!("SUB many.{sid} {sid}\r\n")).collect();
    client.send(lines.as_bytes()).unwrap();
    client.round_trip().unwrap();
    let listed = monitored.json("/subsz?subs=1&limit=20000");
    let list = listed["subscriptions_list"].as_array().unwrap();
    let subjects: BTreeSet<&str> = list.iter().filter_map(|one| one["subject"].as_str()).collect();
    assert_eq!(subjects.len(), 10_000);
    assert_eq!(listed["total"], 10_000);
    assert_eq!(
        monitored.json("/subsz?subs=1")["subscriptions_list"].as_array().unwrap().len(),
        1024
    );
    let connz = monitored.json("/connz?subs=1");
    assert_eq!(connz["connections"][0]["subscriptions_list"].as_array().unwrap().len(), 10_000);
}

const ACCOUNTS: &str = "accounts: {A: {users: [{user: ann, password: planted-secret-1}]}, \
     B: {users: [{user: bob, password: planted-secret-2}]}}";

#[test]
fn accounts_are_told_apart_and_no_endpoint_tells_a_secret() {
    let monitored = Monitored::start(ACCOUNTS);
    let mut ann = RawClient::connect(monitored.server.address()).unwrap();
    ann.send(b"CONNECT {\"verbose\":false,\"user\":\"ann\",\"pass\":\"planted-secret-1\",\"name\":\"ann-1\",\"lang\":\"test\"}\r\nSUB x 1\r\nPUB x 3\r\nabc\r\n").unwrap();
    ann.send(b"PING\r\n").unwrap();
    let deadline = Instant::now() + WAIT_MAX;
    while ann.take_line(deadline).expect("a PONG") != b"PONG\r\n" {}
    let mut stranger = RawClient::connect(monitored.server.address()).unwrap();
    stranger.send(b"CONNECT {\"verbose\":false,\"user\":\"bob\",\"pass\":\"planted-secret-3\",\"auth_token\":\"planted-secret-4\"}\r\n").unwrap();
    while stranger.fill(deadline) == Fill::Grown {}

    let path = "/connz?auth=1&state=all&subs=detail";
    let connz = monitored.json_when(path, |connz| connz["total"] == 2);
    let open = &connz["connections"][0];
    assert_eq!(open["authorized_user"], "ann");
    assert_eq!(open["account"], "A");
    let closed = &connz["connections"][1];
    assert_eq!(closed["reason"], "Authentication Failure");
    assert_eq!(monitored.json("/connz?acc=A")["num_connections"], 1);
    assert_eq!(monitored.json("/connz?acc=B")["num_connections"], 0);
    assert_eq!(monitored.json("/connz?user=ann")["num_connections"], 1);
    assert_eq!(monitored.json("/subsz?acc=A")["num_subscriptions"], 1);
    assert_eq!(monitored.json("/subsz?acc=B")["num_subscriptions"], 0);
    let names = monitored.json("/accountz")["accounts"].as_array().unwrap().clone();
    assert!(["A", "B", "$G", "$SYS"].iter().all(|name| names.contains(&Value::from(*name))));
    let detail = monitored.json("/accountz?acc=A")["account_detail"].clone();
    assert_eq!(detail["client_connections"], 1);
    assert_eq!(detail["subscriptions"], 1);
    let accstatz = monitored.json("/accstatz");
    let stats = accstatz["account_statz"].as_array().unwrap();
    assert_eq!(stats.len(), 1);
    assert_eq!(stats[0]["acc"], "A");
    assert_eq!(stats[0]["received"]["msgs"], 1);
    assert_eq!(stats[0]["sent"]["bytes"], 3);
    assert_eq!(monitored.json("/accstatz?unused=1")["account_statz"].as_array().unwrap().len(), 4);

    for path in ENDPOINTS.iter().chain(&["/", "/dashboard", "/metrics", path, "/healthz"]) {
        let body = monitored.get(path).body;
        assert!(!body.contains("planted"), "{path}: {body}");
    }
}

/// nats-server reports the same file in this way: weights are accumulated, and the rest of 100
/// keeps the subject.
#[test]
fn mappings_of_an_account_are_shown() {
    let config = r#"accounts: { APP: { users: [{user: ann, password: planted}], mappings: {
        orders: orders.v2, "a.*": "b.$1",
        w: [{destination: w1, weight: 30%}, {destination: w2, weight: 50%}],
        c: [{destination: c1, weight: 100%, cluster: east}] } } }"#;
    let monitored = Monitored::start(config);
    let told = monitored.json("/accountz?acc=APP")["account_detail"]["mappings"].clone();
    let expected = serde_json::json!({
        "a.*": [{"subject": "b.$1", "weight": 100}],
        "c": [
            {"subject": "c", "weight": 100},
            {"subject": "c1", "weight": 100, "cluster": "east"},
        ],
        "orders": [{"subject": "orders.v2", "weight": 100}],
        "w": [
            {"subject": "w", "weight": 20},
            {"subject": "w1", "weight": 50},
            {"subject": "w2", "weight": 100},
        ],
    });
    assert_eq!(told, expected);
    let global = monitored.json("/accountz?acc=$G");
    assert_eq!(global["account_detail"].get("mappings"), None);
}

/// As in nats-server: while the last clients are sent away, no new ones should be sent here.
#[test]
fn in_lame_duck_mode_the_server_is_not_healthy() {
    let monitored = Monitored::start("lame_duck_grace_period: 25s");
    let client = monitored.client("last");
    assert_eq!(monitored.get("/healthz").status, 200);
    monitored.server.signal(rustix::process::Signal::USR2).unwrap();
    let told = monitored
        .server
        .log()
        .wait_for(0, WAIT_MAX, |line| line.contains("Entering lame duck mode").then_some(()));
    assert!(told.is_some());
    let deadline = Instant::now() + WAIT_MAX;
    while monitored.get("/healthz").status == 200 {
        assert!(Instant::now() < deadline, "it is healthy on and on");
    }
    let error = "failed to be ready for connections after 1ms: server";
    let plain = format!(r#"{{"status":"error","error":"{error}"}}"#);
    let detailed =
        format!(r#"{{"status":"error","errors":[{{"type":"CONNECTION","error":"{error}"}}]}}"#);
    for (path, body) in [
        ("/healthz", &plain),
        ("/healthz?js-server-only=true", &plain),
        ("/healthz?js-enabled-only=1", &plain),
        ("/healthz?details=1", &detailed),
    ] {
        let answer = monitored.get(path);
        assert_eq!((answer.status, &answer.body), (500, body), "{path}");
    }
    // Bad arguments are reported first.
    assert_eq!(monitored.get("/healthz?stream=x").status, 400);
    for text in [&format!("Healthcheck failed: \"{error}\""), "Healthcheck failed: 1 errors"] {
        let line =
            |line: &str| line.contains("[WRN]").then(|| line.contains(text)).filter(|is| *is);
        assert!(monitored.server.log().wait_for(0, WAIT_MAX, line).is_some(), "{text}");
    }
    drop(client);
}

const ENDPOINTS: [&str; 14] = [
    "/varz",
    "/connz",
    "/connz?subs=detail&auth=1",
    "/connz?subs=1&state=closed",
    "/connz?state=all",
    "/subsz",
    "/subsz?subs=1&acc=$G&test=foo.b",
    "/routez",
    "/leafz",
    "/gatewayz",
    "/accountz",
    "/accountz?acc=$G",
    "/accstatz?unused=1",
    "/jsz?accounts=true",
];

/// Path, status and, if it is short, body.
const ANSWERS: [(&str, u16, &str); 26] = [
    ("/healthz", 200, r#"{"status":"ok"}"#),
    ("/healthz?js-enabled-only=true", 200, r#"{"status":"ok"}"#),
    ("/healthz?js-server-only=true", 200, r#"{"status":"ok"}"#),
    ("/healthz?details=1", 200, r#"{"status":"ok"}"#),
    (
        "/healthz?stream=x",
        400,
        r#"{"status":"error","error":"\"account\" must not be empty when checking stream health"}"#,
    ),
    (
        "/healthz?details=1&stream=x",
        400,
        r#"{"status":"error","errors":[{"type":"BAD_REQUEST","error":"\"account\" must not be empty when checking stream health"}]}"#,
    ),
    (
        "/connz?limit=x",
        400,
        r#"Error decoding int for 'limit': strconv.Atoi: parsing "x": invalid syntax"#,
    ),
    (
        "/connz?limit=99999999999999999999",
        400,
        r#"Error decoding int for 'limit': strconv.Atoi: parsing "99999999999999999999": value out of range"#,
    ),
    (
        "/connz?offset=1.5",
        400,
        r#"Error decoding int for 'offset': strconv.Atoi: parsing "1.5": invalid syntax"#,
    ),
    (
        "/connz?cid=-1",
        400,
        r#"Error decoding uint64 for 'cid': strconv.ParseUint: parsing "-1": invalid syntax"#,
    ),
    (
        "/connz?cid=18446744073709551616",
        400,
        r#"Error decoding uint64 for 'cid': strconv.ParseUint: parsing "18446744073709551616": value out of range"#,
    ),
    (
        "/connz?subs=maybe",
        400,
        r#"Error decoding boolean for 'subs': strconv.ParseBool: parsing "maybe": invalid syntax"#,
    ),
    (
        "/connz?auth=2",
        400,
        r#"Error decoding boolean for 'auth': strconv.ParseBool: parsing "2": invalid syntax"#,
    ),
    ("/connz?sort=zz", 400, "invalid sorting option: zz"),
    ("/connz?sort=stop", 400, "sort by stop only valid on closed connections"),
    ("/connz?sort=reason", 400, "sort by reason only valid on closed connections"),
    ("/connz?state=zz", 400, "Error decoding state for zz"),
    ("/subsz?test=a.*", 400, "invalid test subject, must be valid publish subject: a.*"),
    ("/accountz?acc=nope", 400, "Account nope does not exist"),
    ("/jsz?leader-only=1", 400, "filtered response: not leader"),
    (
        "/jsz?accounts=zz",
        400,
        r#"Error decoding boolean for 'accounts': strconv.ParseBool: parsing "zz": invalid syntax"#,
    ),
    (
        "/gatewayz?accs=zz",
        400,
        r#"Error decoding boolean for 'accs': strconv.ParseBool: parsing "zz": invalid syntax"#,
    ),
    ("/raftz", 404, "No Raft nodes registered"),
    ("/ipqueuesz", 200, "{}"),
    ("/nope", 404, "404 page not found\n"),
    ("/varz/", 404, "404 page not found\n"),
];

fn check_answers(monitored: &Monitored) {
    for (path, status, body) in ANSWERS {
        let answer = monitored.get(path);
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{path}");
    }
}

#[test]
fn refusals_and_short_answers_are_those_of_nats_server() {
    check_answers(&Monitored::start(""));
}

/// Collects the type of each field by its path; list elements share one path.
fn shape(path: &str, value: &Value, into: &mut BTreeMap<String, &'static str>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    };
    into.insert(path.to_owned(), kind);
    match value {
        Value::Array(all) => all.iter().for_each(|one| shape(&format!("{path}[]"), one, into)),
        Value::Object(fields) => {
            for (name, one) in fields {
                shape(&format!("{path}.{name}"), one, into);
            }
        }
        _ => {}
    }
}

#[test]
fn fields_and_types_are_those_of_nats_server() {
    let Some(program) = std::env::var_os("NATS_SERVER").map(PathBuf::from) else {
        eprintln!("NATS_SERVER is not set: compared with the recorded tables only");
        return;
    };
    let theirs = Monitored::start_program(&program, &[], "");
    let ours = Monitored::start("");
    check_answers(&theirs);
    let loads = [load(&theirs), load(&ours)];
    for path in ENDPOINTS {
        let shapes = [&theirs, &ours].map(|monitored| {
            let waited = |connz: &Value| connz["total"] == 1 || connz["total"] == 4;
            let value = match path {
                "/connz?subs=1&state=closed" | "/connz?state=all" => {
                    monitored.json_when(path, waited)
                }
                _ => monitored.json(path),
            };
            let mut fields = BTreeMap::new();
            shape("", &value, &mut fields);
            fields.retain(|name, _| {
                // Fields that only Midge has; the build's own; services that come with the system
                // account; and the requests made so far.
                !name.starts_with(".midge")
                    && !name.starts_with(".git_commit")
                    && !name.starts_with(".account_detail.imports")
                    && !name.starts_with(".http_req_stats.")
            });
            fields
        });
        assert_eq!(shapes[1], shapes[0], "{path}: ours, then theirs");
    }
    drop(loads);
}

#[test]
fn the_base_path_comes_before_everything() {
    let monitored = Monitored::start("http_base_path: \"/nats\"");
    assert_eq!(monitored.get("/varz").status, 404);
    assert_eq!(monitored.json("/nats/varz")["http_base_path"], "/nats");
    let root = monitored.get("/nats");
    assert_eq!(root.status, 200);
    assert!(root.body.contains("href=\"/nats/dashboard\""), "{}", root.body);
    assert_eq!(
        monitored.get("/nats/dashboard").header("content-type"),
        Some("text/html; charset=utf-8")
    );
}

#[test]
fn pipelined_and_bodyless_requests_are_answered_in_order() {
    let monitored = Monitored::start("");
    let bytes = exchange(
        monitored.http,
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nHEAD /varz HTTP/1.1\r\nHost: a\r\n\r\n\
          GET /nope HTTP/1.0\r\n\r\n",
    );
    let text = String::from_utf8(bytes).unwrap();
    let statuses: Vec<&str> =
        text.split("HTTP/1.1 ").skip(1).filter_map(|answer| answer.lines().next()).collect();
    assert_eq!(statuses, ["200 OK", "200 OK", "404 Not Found"]);
    assert!(!text.contains("server_id"), "HEAD has no body: {text}");
    assert_eq!(
        Answer::parse(&exchange(monitored.http, b"POST / HTTP/1.1\r\nHost: a\r\n\r\n")).status,
        405
    );
    assert_eq!(Answer::parse(&exchange(monitored.http, b"\x16\x03\x01\x00\x00")).status, 400);
    let endless = [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; HTTP_HEAD_BYTES_MAX]].concat();
    assert_eq!(Answer::parse(&exchange(monitored.http, &endless)).status, 431);
    // What proxies and single sign-on add: nats-server accepts a megabyte.
    let cookie = "x".repeat(60 << 10);
    let large = format!(
        "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\nCookie: {cookie}\r\n\r\n"
    );
    assert_eq!(Answer::parse(&exchange(monitored.http, large.as_bytes())).status, 200);
}

/// Sends requests without end and reads the answers, until the server closes.
fn pipeline_without_end(address: SocketAddr) -> JoinHandle<usize> {
    let stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let requests = b"GET /varz HTTP/1.1\r\nHost: a\r\n\r\n".repeat(200);
        let (mut unsent, mut answers) = (Vec::new(), 0);
        let mut chunk = vec![0; 64 << 10];
        loop {
            if unsent.is_empty() {
                unsent.extend_from_slice(&requests);
            }
            match (&stream).write(&unsent) {
                Ok(size) => drop(unsent.drain(..size)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return answers,
            }
            match (&stream).read(&mut chunk) {
                Ok(0) => return answers,
                Ok(size) => {
                    answers += memchr::memmem::find_iter(&chunk[..size], b" 200 OK").count()
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let mut polled = [PollFd::new(&stream, PollFlags::IN)];
                    // A second at most: then it is tried again.
                    let _ = poll(&mut polled, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }));
                }
                Err(_) => return answers,
            }
        }
    })
}

#[test]
fn a_connection_that_pipelines_without_end_stops_neither_the_port_nor_the_end_of_the_server() {
    for signal in [Signal::TERM, Signal::INT, Signal::USR2] {
        let mut monitored = Monitored::start("");
        let greedy: Vec<_> = (0..3).map(|_| pipeline_without_end(monitored.http)).collect();
        for _ in 0..20 {
            assert_eq!(monitored.get("/healthz").status, 200);
        }
        monitored.server.signal(signal).unwrap();
        let ended = monitored.server.wait_for_exit(WAIT_MAX);
        assert!(ended.is_some(), "{signal:?} is not obeyed");
        for greedy in greedy {
            assert!(greedy.join().unwrap() > 0, "it was answered too");
        }
    }
}

fn resident_bytes(process: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/statm")).unwrap();
    let pages: u64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

fn open_files(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

#[test]
fn half_sent_requests_hold_neither_memory_nor_the_port() {
    const CLIENTS: usize = 5_000;
    allow_open_files(CLIENTS + 100);
    let monitored = Monitored::start("");
    monitored.json("/varz");
    let process = monitored.server.process_id();
    let (before, files_before) = (resident_bytes(process), open_files(process));
    let head = [b"GET /varz HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 7_000]].concat();
    let mut open = Vec::new();
    for index in 0..CLIENTS {
        let mut client = RawClient::connect(monitored.http).unwrap();
        // A connection that was displaced already may refuse the bytes.
        let _ = client.send(&head);
        open.push(client);
        if index % 200 == 199 {
            // It came last: by now all before it have been accepted.
            assert_eq!(monitored.get("/healthz").status, 200);
            let files = open_files(process);
            let most = files_before + HTTP_CONNECTIONS_MAX + 1;
            assert!(files <= most, "{files} open files after {index} clients");
        }
    }
    let grown = resident_bytes(process).saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes for half-sent requests");
    // They end by themselves.
    let mut last = open.pop().unwrap();
    while last.fill(Instant::now() + WAIT_MAX) == Fill::Grown {}
    assert!(last.is_closed());
}

#[test]
fn the_ports_file_names_the_monitoring_port() {
    let directory = std::env::temp_dir().join(format!("midge-ports-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let monitored = Monitored::start(&format!("ports_file_dir: \"{}\"", directory.display()));
    let path = directory.join(format!("midge_{}.ports", monitored.server.process_id()));
    let deadline = Instant::now() + WAIT_MAX;
    let text = loop {
        match std::fs::read_to_string(&path) {
            Ok(text) if text.ends_with('}') => break text,
            _ => assert!(Instant::now() < deadline, "no {}", path.display()),
        }
    };
    drop(monitored);
    let _ = std::fs::remove_dir_all(&directory);
    let ports: Value = serde_json::from_str(&text).unwrap();
    assert!(ports["monitoring"][0].as_str().unwrap().starts_with("http://127.0.0.1:"), "{text}");
}

#[test]
fn a_taken_monitoring_port_ends_the_start() {
    let monitored = Monitored::start("");
    let config = format!("http: \"{}\"", monitored.http);
    let Err(error) = Server::start(Path::new(MIDGE), &["--shards", "1", "--no-pin"], &config)
    else {
        panic!("two servers share a monitoring port");
    };
    let expected = format!(
        "can't listen to the monitor port: listen tcp {}: bind: address already in use",
        monitored.http
    );
    assert!(error.contains(&expected), "{error}");
}

/// What an account exports and imports is told, in nats-server's fields.
#[test]
fn exports_and_imports_are_told() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/imports.conf");
    let config = std::fs::read_to_string(path).expect("it is part of the repository");
    let monitored = Monitored::start(&config);
    let detail = |account: &str| {
        monitored.json(&format!("/accountz?acc={account}"))["account_detail"].clone()
    };
    let holds = |told: &Value, wanted: &str| {
        let wanted: Value = serde_json::from_str(wanted).expect("JSON");
        let told = told.as_array().expect("a list");
        assert!(told.contains(&wanted), "{wanted} is not in {told:?}");
    };
    let exporter = detail("P");
    holds(
        &exporter["exports"],
        r#"{"subject":"ask.*","type":"service","response_type":"Streamed","approved_accounts":["C","Q"]}"#,
    );
    holds(&exporter["exports"], r#"{"subject":"st.>","type":"stream"}"#);
    let importer = detail("C");
    holds(
        &importer["imports"],
        r#"{"subject":"st.*.*","account":"P","local_subject":"here.*.*","type":"stream","invalid":false,"share":false,"tracking":false}"#,
    );
    holds(
        &importer["imports"],
        r#"{"subject":"ask.*","account":"P","to":"my.*","local_subject":"my.*","type":"service","invalid":false,"share":true,"tracking":false}"#,
    );
}
