//! The server's own subjects, `$SYS.>`, as a real client library sees them, on 1 and 3 shards.
//!
//! Comparisons with the monitoring port are made at the same moment. The shapes themselves are
//! checked against nats-server's own types by scripts/interop.

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::{Client, ConnectOptions, Event, Message, Subscriber};
use futures_util::StreamExt;
use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;

use support::WAIT_MAX;
use support::raw_client::{Fill, RawClient};
use support::server::Server;

const SHARD_COUNTS: [usize; 2] = [1, 3];

const CONFIG: &str = r#"
http: "127.0.0.1:-1"
server_name: tested
server_tags: ["az:1"]
accounts {
    SYS: { users: [{ user: sys, password: sys }] }
    A: { users: [{ user: a, password: a }] }
    B: { users: [{ user: b, password: b, permissions: { publish: { deny: "secret" } } }] }
}
system_account: SYS
"#;

const PING: &str = "$SYS.REQ.SERVER.PING";

/// A server with its monitoring port and a client of the system account.
struct Observed {
    server: Server,
    http: SocketAddr,
    system: Client,
    id: String,
}

impl Observed {
    async fn start(shard_count: usize, config: &str) -> Self {
        println!("on {shard_count} shards");
        let server = Server::midge(shard_count, config);
        let http = server
            .log()
            .wait_for(0, WAIT_MAX, |line| {
                line.split_once("Starting http monitor on ")?.1.trim().parse().ok()
            })
            .expect("the log names the monitoring port");
        let system = connect(&server, "sys").await;
        let id = system.server_info().server_id;
        Self { server, http, system, id }
    }

    async fn ask(&self, subject: &str, body: &str) -> Value {
        request(&self.system, subject, body).await.expect("the server answers")
    }

    async fn ping(&self, name: &str, body: &str) -> Value {
        self.ask(&format!("{PING}.{name}"), body).await
    }

    async fn own(&self, name: &str, body: &str) -> Value {
        self.ask(&format!("$SYS.REQ.SERVER.{}.{name}", self.id), body).await
    }

    fn http(&self, path: &str) -> Value {
        let mut stream = TcpStream::connect(self.http).expect("the monitoring port listens");
        stream.set_read_timeout(Some(WAIT_MAX)).expect("not zero");
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("the server reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the server answers and closes");
        let body = answer.split_once("\r\n\r\n").expect("an answer has a head").1;
        serde_json::from_str(body).expect("JSON")
    }

    /// Connects clients of an account, enough to be on every shard.
    async fn clients(&self, user: &str, count: usize) -> Vec<Client> {
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(connect(&self.server, user).await);
        }
        clients
    }
}

fn options(user: &str) -> ConnectOptions {
    ConnectOptions::with_user_and_password(user.into(), user.into())
        .name(user)
        .request_timeout(Some(WAIT_MAX))
}

async fn connect(server: &Server, user: &str) -> Client {
    let client = options(user).connect(server.address().to_string()).await;
    client.expect("the server accepts")
}

/// Sends a request; None = nobody answers it.
async fn request(client: &Client, subject: &str, body: &str) -> Option<Value> {
    let payload = body.to_owned().into_bytes().into();
    match client.request(subject.to_owned(), payload).await {
        Ok(message) => Some(serde_json::from_slice(&message.payload).expect("JSON")),
        Err(error) if error.kind() == RequestErrorKind::NoResponders => None,
        Err(error) => panic!("{subject}: {error}"),
    }
}

async fn next(subscriber: &mut Subscriber) -> Message {
    let message = timeout(WAIT_MAX, subscriber.next()).await.expect("a message in time");
    message.expect("the subscription is open")
}

/// Returns the next event on a subject that ends with `end`.
async fn event(subscriber: &mut Subscriber, end: &str) -> Value {
    loop {
        let message = next(subscriber).await;
        if message.subject.ends_with(end) {
            return serde_json::from_slice(&message.payload).expect("JSON");
        }
    }
}

/// Subscribes, and waits until the whole server knows: the library's own flush does not.
async fn subscribe(client: &Client, subject: &str) -> Subscriber {
    let subscriber = client.subscribe(subject.to_owned()).await.expect("connected");
    // An answer comes after the interest is in force.
    let inbox = client.new_inbox();
    let mut own = client.subscribe(inbox.clone()).await.expect("connected");
    client.publish(inbox, "".into()).await.expect("connected");
    next(&mut own).await;
    subscriber
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn connection_ids(connz: &Value) -> Vec<u64> {
    let connections = connz["connections"].as_array().expect("a list");
    connections.iter().filter_map(|connection| connection["cid"].as_u64()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sys_and_the_monitoring_port_give_the_same_answers() {
    for shard_count in SHARD_COUNTS {
        let observed = Observed::start(shard_count, CONFIG).await;
        let clients = observed.clients("a", 6).await;
        let mut sink = subscribe(&clients[0], "work").await;
        clients[5].publish("work", "12345".into()).await.expect("connected");
        next(&mut sink).await;
        for (name, path) in [
            ("VARZ", "/varz"),
            ("SUBSZ", "/subsz"),
            ("CONNZ", "/connz"),
            ("ROUTEZ", "/routez"),
            ("GATEWAYZ", "/gatewayz"),
            ("LEAFZ", "/leafz"),
            ("ACCOUNTZ", "/accountz"),
            ("JSZ", "/jsz"),
            ("IPQUEUESZ", "/ipqueuesz"),
        ] {
            let expected = observed.http(path);
            for answer in [observed.ping(name, "").await, observed.own(name, "{}").await] {
                assert_eq!(keys(&answer), BTreeSet::from(["data", "server"]), "{name}");
                assert_eq!(keys(&answer["data"]), keys(&expected), "{name}");
                let server = &answer["server"];
                assert_eq!(server["id"], *observed.id, "{name}");
                assert_eq!((&server["name"], &server["ver"]), (&"tested".into(), &"2.15.3".into()));
                assert_eq!(server["tags"][0], "az:1");
            }
        }
        let varz = observed.ping("VARZ", "").await;
        let http = observed.http("/varz");
        for key in ["connections", "total_connections", "max_payload", "system_account", "port"] {
            assert_eq!(varz["data"][key], http[key], "{key}");
        }
        assert_eq!(varz["data"]["connections"], 7);
        assert_eq!(varz["data"]["http_req_stats"]["/varz"], 1, "requests over $SYS do not count");
        let connz = observed.ping("CONNZ", r#"{"auth":true,"sort":"msgs_from","limit":3}"#).await;
        let http = observed.http("/connz?auth=1&sort=msgs_from&limit=3");
        assert_eq!(connection_ids(&connz["data"]), connection_ids(&http));
        assert_eq!(connz["data"]["num_connections"], 3);
        let accounts = observed.http("/accountz");
        assert_eq!(observed.ping("ACCOUNTZ", "").await["data"]["accounts"], accounts["accounts"]);
        let one = observed.http("/accountz?acc=A");
        let asked = observed.ask("$SYS.REQ.ACCOUNT.A.INFO", "").await;
        assert_eq!(asked["data"]["client_connections"], 6);
        assert_eq!(keys(&asked["data"]), keys(&one["account_detail"]));
        let healthy = observed.own("HEALTHZ", "").await;
        assert_eq!(healthy["data"], serde_json::json!({"status": "ok", "status_code": 200}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_returns_the_statistics_and_who_answers() {
    for shard_count in SHARD_COUNTS {
        let observed = Observed::start(shard_count, CONFIG).await;
        let _clients = observed.clients("a", 5).await;
        let mut sequences = Vec::new();
        for subject in [PING.to_owned(), format!("{PING}.STATSZ")] {
            let answer = observed.ask(&subject, "").await;
            let stats = &answer["statsz"];
            assert_eq!(stats["connections"], 6);
            assert_eq!(stats["total_connections"], 6);
            assert_eq!(stats["active_accounts"], 2);
            assert_eq!(stats["gomaxprocs"], shard_count);
            assert!(stats["received"]["msgs"].as_u64() >= Some(1), "{stats}");
            sequences.push(answer["server"]["seq"].as_u64().expect("a number"));
        }
        assert!(sequences[0] < sequences[1], "{sequences:?}");
        let identity = observed.ping("IDZ", "").await;
        let expected =
            serde_json::json!({"name": "tested", "host": "127.0.0.1", "id": observed.id});
        assert_eq!(identity, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered_once_however_many_shards_and_listeners_there_are() {
    let observed = Observed::start(3, CONFIG).await;
    let others = observed.clients("sys", 8).await;
    let mut listeners = Vec::new();
    for other in &others {
        listeners.push(subscribe(other, "$SYS.REQ.>").await);
    }
    let mut answers = subscribe(&observed.system, "answers").await;
    for _ in 0..10 {
        let ask = observed.system.publish_with_reply(format!("{PING}.IDZ"), "answers", "".into());
        ask.await.expect("connected");
    }
    for listener in &mut listeners {
        for _ in 0..10 {
            next(listener).await;
        }
    }
    // The last request is answered last.
    let last = observed.system.publish_with_reply(PING, "answers", "".into());
    last.await.expect("connected");
    let mut count = 0;
    loop {
        let answer: Value = serde_json::from_slice(&next(&mut answers).await.payload).unwrap();
        if answer.get("statsz").is_some() {
            break;
        }
        count += 1;
    }
    assert_eq!(count, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_get_nats_servers_errors_and_filters_choose_servers() {
    let observed = Observed::start(3, CONFIG).await;
    let error = async |name: &str, body: &str| {
        let mut answer = observed.ping(name, body).await;
        let has_data = answer.get("data").is_some();
        let error = answer["error"].take();
        let text = error["description"].as_str().expect("a text").to_owned();
        (error["code"].as_u64().expect("a number"), has_data, text)
    };
    let bad = |text: &str| (400, false, text.to_owned());
    let failed = |text: &str| (500, true, text.to_owned());
    let text = "invalid character 'x' looking for beginning of value";
    assert_eq!(error("VARZ", "xx").await, bad(text));
    assert_eq!(error("STATSZ", "xx").await, bad(text));
    let text = "json: cannot unmarshal string into Go struct field ConnzEventOptions.ConnzOptions.limit of type int";
    assert_eq!(error("CONNZ", r#"{"limit":"x"}"#).await, bad(text));
    assert_eq!(error("CONNZ", r#"{"sort":"zz"}"#).await, failed("invalid sorting option: zz"));
    let text = "Account nope does not exist";
    assert_eq!(error("ACCOUNTZ", r#"{"account":"nope"}"#).await, failed(text));
    let text = "invalid test subject, must be valid publish subject: a.*";
    assert_eq!(error("SUBSZ", r#"{"test":"a.*"}"#).await, failed(text));
    let sick = observed.ping("HEALTHZ", r#"{"stream":"x"}"#).await;
    assert_eq!(sick["data"]["status_code"], 400);
    // Requests meant for other servers: this one stays silent, and answers the next.
    let mut answers = subscribe(&observed.system, "answers").await;
    for filter in [
        r#"{"server_name":"nope"}"#,
        r#"{"server_name":"test","exact_match":true}"#,
        r#"{"tags":["az:2"]}"#,
        r#"{"cluster":"c"}"#,
        r#"{"host":"10."}"#,
        r#"{"domain":"d"}"#,
        r#"{"server_name":"test","tags":["az:1"],"host":"127"}"#,
    ] {
        let body = filter.to_owned().into_bytes().into();
        let ask = observed.system.publish_with_reply(format!("{PING}.ACCOUNTZ"), "answers", body);
        ask.await.expect("connected");
    }
    assert!(request(&observed.system, &format!("{PING}.IDZ"), "").await.is_some());
    let only = next(&mut answers).await;
    assert!(serde_json::from_slice::<Value>(&only.payload).unwrap()["data"].is_object());
    let end = observed.system.publish("answers", "end".into());
    end.await.expect("connected");
    assert_eq!(&next(&mut answers).await.payload[..], b"end");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_come_go_and_are_refused_are_reported() {
    for shard_count in SHARD_COUNTS {
        let observed = Observed::start(shard_count, CONFIG).await;
        let mut events = subscribe(&observed.system, "$SYS.ACCOUNT.>").await;
        let mut old = subscribe(&observed.system, "$SYS.SERVER.ACCOUNT.A.CONNS").await;
        let server_events = format!("$SYS.SERVER.{}.>", observed.id);
        let mut server_events = subscribe(&observed.system, &server_events).await;
        let client = connect(&observed.server, "a").await;
        let came = event(&mut events, "A.CONNECT").await;
        assert_eq!(came["type"], "io.nats.server.advisory.v1.client_connect");
        assert_eq!(came["server"]["id"], *observed.id);
        assert_eq!(came["client"]["id"], client.server_info().client_id);
        assert_eq!((&came["client"]["acc"], &came["client"]["user"]), (&"A".into(), &"a".into()));
        assert_eq!(came["client"]["kind"], "Client");
        let count = event(&mut events, "A.SERVER.CONNS").await;
        assert_eq!((&count["acc"], &count["conns"]), (&"A".into(), &1.into()));
        assert_eq!(event(&mut old, "CONNS").await["conns"], 1);
        let mut sink = subscribe(&client, "a").await;
        client.publish("a", "12345".into()).await.expect("connected");
        next(&mut sink).await;
        client.drain().await.expect("connected");
        let went = event(&mut events, "A.DISCONNECT").await;
        assert_eq!(went["type"], "io.nats.server.advisory.v1.client_disconnect");
        assert_eq!(went["client"]["id"], came["client"]["id"]);
        assert_eq!(went["client"]["start"], came["client"]["start"]);
        // The round trip of `subscribe`, and the message.
        assert_eq!(went["sent"], serde_json::json!({"msgs": 2, "bytes": 5}));
        assert_eq!(went["received"], went["sent"]);
        assert!(went["reason"].as_str().is_some_and(|text| !text.is_empty()));
        assert_eq!(event(&mut events, "A.SERVER.CONNS").await["conns"], 0);
        let wrong = ConnectOptions::with_user_and_password("a".into(), "wrong".into());
        wrong.connect(observed.server.address().to_string()).await.expect_err("a wrong password");
        let refused = event(&mut server_events, "CLIENT.AUTH.ERR").await;
        assert_eq!(refused["reason"], "Authentication Failure");
        assert_eq!(
            (&refused["client"]["acc"], &refused["client"]["user"]),
            (&"$G".into(), &"a".into())
        );
        let went = event(&mut events, "$G.DISCONNECT").await;
        assert_eq!(went["client"]["id"], refused["client"]["id"]);
        // Published without a request.
        let stats = event(&mut server_events, "STATSZ").await;
        assert_eq!(stats["statsz"]["active_accounts"], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_without_a_reply_brings_the_statistics_to_everybody() {
    let observed = Observed::start(3, CONFIG).await;
    let others = observed.clients("sys", 6).await;
    let mut listeners = Vec::new();
    for other in &others {
        listeners.push(subscribe(other, "$SYS.SERVER.*.STATSZ").await);
    }
    observed.system.publish(PING, "".into()).await.expect("connected");
    for listener in &mut listeners {
        assert_eq!(event(listener, "STATSZ").await["statsz"]["connections"], 7);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_kicked_or_sent_away_by_its_number() {
    for shard_count in SHARD_COUNTS {
        let observed = Observed::start(shard_count, CONFIG).await;
        let mut events = subscribe(&observed.system, "$SYS.ACCOUNT.A.DISCONNECT").await;
        for _ in 0..4 {
            let (heard, mut hear) = mpsc::unbounded_channel();
            let client = options("a")
                .event_callback(move |event| {
                    // The test may be over.
                    let _ = heard.send(event);
                    async {}
                })
                .connect(observed.server.address().to_string())
                .await
                .expect("the server accepts");
            subscribe(&client, "a").await;
            let id = client.server_info().client_id;
            let body = format!(r#"{{"cid":{id}}}"#);
            let answer = observed.own("LDM", &body).await;
            assert_eq!(keys(&answer), BTreeSet::from(["server"]), "{answer}");
            let said = async { while hear.recv().await != Some(Event::LameDuckMode) {} };
            timeout(WAIT_MAX, said).await.expect("the client is told");
            let answer = observed.own("KICK", &body).await;
            assert_eq!(keys(&answer), BTreeSet::from(["server"]), "{answer}");
            // The library reconnects, and may be gone before the next one is kicked.
            let went = loop {
                let went = event(&mut events, "DISCONNECT").await;
                if went["client"]["id"] == id {
                    break went;
                }
            };
            assert_eq!(went["reason"], "Kicked");
        }
        for (name, text) in
            [("KICK", "no such client or leafnode id"), ("LDM", "no such client id")]
        {
            let answer = observed.own(name, r#"{"cid":999999}"#).await;
            let expected = serde_json::json!({"code": 500, "description": text});
            assert_eq!(answer["error"], expected);
            assert_eq!(answer.get("data"), None);
        }
    }
}

/// As in nats-server: unreadable requests of these kinds, and those about an account without
/// clients, get no answer at all.
#[tokio::test(flavor = "multi_thread")]
async fn some_requests_are_met_with_silence() {
    let observed = Observed::start(3, CONFIG).await;
    let inbox = observed.system.new_inbox();
    let mut answers = subscribe(&observed.system, &inbox).await;
    let own = |name: &str| format!("$SYS.REQ.SERVER.{}.{name}", observed.id);
    let count = "$SYS.REQ.ACCOUNT.NSUBS";
    let mut silent: Vec<(String, &str)> = Vec::new();
    for name in ["KICK", "LDM"] {
        for body in ["", "x", r#"{"cid":"5"}"#, r#"{"cid":-1}"#] {
            silent.push((own(name), body));
        }
    }
    for body in ["", "{}", r#"{"acc":"NOPE","subject":"a"}"#, r#"{"acc":"A","subject":"a"}"#] {
        silent.push((count.into(), body));
    }
    let answered = (own("KICK"), r#"{"cid":999999}"#);
    for (subject, body) in silent.iter().chain([&answered]) {
        let reply = inbox.clone();
        let body = body.as_bytes().to_vec().into();
        let sent = observed.system.publish_with_reply(subject.clone(), reply, body).await;
        sent.expect("connected");
    }
    // Requests of one client are answered in order: the first answer is to the last of them.
    let answer: Value = serde_json::from_slice(&next(&mut answers).await.payload).expect("JSON");
    assert_eq!(answer["error"]["description"], "no such client or leafnode id");
    // The log has a thread of its own: the answer may be here before the lines are.
    let mut told = Vec::new();
    support::wait_until("a log line for each of them", || {
        told = observed.server.log().lines();
        told.retain(|line| {
            line.contains("[ERR] SYSTEM - Error unmarshalling kick client request: ")
        });
        told.len() >= 8
    });
    assert_eq!(told.len(), 8, "{told:?}");
    assert!(told[0].ends_with("request: unexpected end of JSON input"), "{told:?}");
    assert!(told[1].ends_with("invalid character 'x' looking for beginning of value"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_can_be_requested_and_its_failure_is_reported() {
    let observed = Observed::start(3, CONFIG).await;
    let path = observed.server.directory().join("server.conf");
    let before = std::fs::read_to_string(&path).expect("the server's file");
    let with_account =
        before.replace("    B: {", "    C: { users: [{user: c, password: c}] }\n    B: {");
    std::fs::write(&path, &with_account).expect("writable");
    let answer = observed.own("RELOAD", "").await;
    assert_eq!(keys(&answer), BTreeSet::from(["server"]), "{answer}");
    // The new account has what every account has.
    let newcomer = connect(&observed.server, "c").await;
    let info = request(&newcomer, "$SYS.REQ.USER.INFO", "").await.expect("an answer");
    assert_eq!(info["data"]["account"], "C");
    std::fs::write(&path, before.replace("server_name: tested", "max_subs: 7")).expect("writable");
    let answer = observed.own("RELOAD", "").await;
    assert_eq!(answer["error"]["code"], 500);
    let text = answer["error"]["description"].as_str().expect("a text");
    assert!(text.contains("config reload not supported for"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_user_can_ask_who_it_is() {
    for shard_count in SHARD_COUNTS {
        let observed = Observed::start(shard_count, CONFIG).await;
        for user in ["sys", "a", "b"] {
            for client in observed.clients(user, 4).await {
                let info = request(&client, "$SYS.REQ.USER.INFO", "").await.expect("an answer");
                assert_eq!(info["data"]["user"], user);
                assert_eq!(info["server"]["id"], *observed.id);
                let denied = &info["data"]["permissions"]["publish"]["deny"];
                let expected =
                    if user == "b" { serde_json::json!(["secret"]) } else { Value::Null };
                assert_eq!(*denied, expected);
            }
        }
    }
    let open = Server::midge(3, "");
    let client = async_nats::connect(open.address().to_string()).await.expect("open");
    let info = request(&client, "$SYS.REQ.USER.INFO", "").await.expect("an answer");
    let expected = serde_json::json!({"user": "", "account": "$G", "account_name": "$G"});
    assert_eq!(info["data"], expected);
    assert_eq!(request(&client, PING, "").await, None, "a plain server has no system user");
}

/// SECURITY.md: every API subject from a stranger's account.
#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_account_reaches_nothing_but_itself() {
    for shard_count in SHARD_COUNTS {
        let observed = Observed::start(shard_count, CONFIG).await;
        let victims = observed.clients("b", 4).await;
        let strangers = observed.clients("a", 4).await;
        let (mut heard, mut answers) = (Vec::new(), Vec::new());
        for stranger in &strangers {
            heard.push(subscribe(stranger, "$SYS.>").await);
            answers.push(subscribe(stranger, "answers").await);
        }
        let own = ["$SYS.REQ.ACCOUNT.PING.CONNZ", "$SYS.REQ.SERVER.PING.CONNZ"];
        let others = ["$SYS.REQ.ACCOUNT.PING.STATZ", "$SYS.REQ.USER.INFO"];
        let victim = victims[0].server_info().client_id;
        let body = format!(
            r#"{{"cid":{victim},"acc":"B","account":"B","accounts":["B"],"auth":true,"include_unused":true}}"#
        );
        for filter in midge::testing::system::request::system_account_filters(&observed.id) {
            for name in ["A", "B", "SYS", "PING"] {
                let subject = filter.replace('*', name);
                if own.contains(&&*subject) || others.contains(&&*subject) {
                    continue;
                }
                for stranger in &strangers {
                    let body = body.clone().into();
                    let ask = stranger.publish_with_reply(subject.clone(), "answers", body);
                    ask.await.expect("connected");
                }
            }
        }
        for stranger in &strangers {
            for subject in own {
                let answer = first_answer(stranger, subject, &body).await;
                assert_eq!(connection_ids(&answer["data"]), [0; 0], "by its number");
                let by_name = r#"{"acc":"B","user":"b","auth":true}"#;
                let answer = first_answer(stranger, subject, by_name).await;
                assert_eq!(connection_ids(&answer["data"]), [0; 0], "by its user");
                let answer = first_answer(stranger, subject, r#"{"acc":"B","auth":true}"#).await;
                let connections = answer["data"]["connections"].as_array().expect("a list");
                assert_eq!(connections.len(), 4);
                assert!(connections.iter().all(|one| one["account"] == "A"), "{answer}");
            }
            let statz = first_answer(stranger, others[0], &body).await;
            let accounts = statz["data"]["account_statz"].as_array().expect("a list");
            let names: Vec<_> = accounts.iter().map(|one| &one["acc"]).collect();
            assert_eq!(names, ["A"]);
            let info = first_answer(stranger, others[1], &body).await;
            assert_eq!(info["data"]["account"], "A");
        }
        // Nobody was harmed, and the victims received nothing.
        for victim in &victims {
            subscribe(victim, "still.here").await;
        }
        assert_eq!(observed.ping("CONNZ", r#"{"acc":"B"}"#).await["data"]["num_connections"], 4);
        // Nothing but their own messages reached the strangers.
        for subject in ["$SYS.END", "answers"] {
            strangers[0].publish(subject, "end".into()).await.expect("connected");
        }
        for listener in &mut answers {
            assert_eq!(&next(listener).await.payload[..], b"end");
        }
        for listener in &mut heard {
            let mut message = next(listener).await;
            while message.subject.as_str() != "$SYS.END" {
                assert!(message.subject.contains(".REQ.") || message.subject.contains(".DEBUG."));
                assert!(
                    message.payload.starts_with(b"{\"cid\"")
                        || message.payload.starts_with(b"{\"acc\"")
                );
                message = next(listener).await;
            }
        }
    }
}

/// Returns the server's answer, when other members of the account receive the request too but do
/// not answer.
async fn first_answer(client: &Client, subject: &str, body: &str) -> Value {
    request(client, subject, body).await.expect("the server answers")
}

/// If nobody else listens, a stranger is told that there are no responders.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_told_that_nobody_answers() {
    let observed = Observed::start(3, CONFIG).await;
    let stranger = connect(&observed.server, "a").await;
    let allowed = midge::testing::system::request::OTHER_ACCOUNTS_SUBJECTS;
    for filter in midge::testing::system::request::system_account_filters(&observed.id) {
        let subject = filter.replace('*', "A");
        if !allowed.contains(&&*subject) {
            assert_eq!(request(&stranger, &subject, "").await, None, "{subject}");
        }
    }
    for subject in [format!("{PING}.NOPE"), "$SYS.REQ.ACCOUNT.A.NOPE".into()] {
        assert_eq!(request(&observed.system, &subject, "").await, None, "{subject}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_system_account_nobody_answers() {
    let server = Server::midge(3, "no_system_account: true");
    let client = async_nats::connect(server.address().to_string()).await.expect("open");
    for subject in ["$SYS.REQ.USER.INFO", "$SYS.REQ.SERVER.PING.CONNZ", PING] {
        assert_eq!(request(&client, subject, "").await, None, "{subject}");
    }
}

/// Whoever subscribes to it is told that the server ends, before being disconnected.
#[test]
fn the_end_of_the_server_is_announced_on_every_shard() {
    for shard_count in SHARD_COUNTS {
        for (signal, name) in [(Signal::TERM, "SHUTDOWN"), (Signal::USR2, "LAMEDUCK")] {
            let config =
                format!("{CONFIG}\nlame_duck_duration: \"30s\"\nlame_duck_grace_period: \"1s\"");
            let mut server = Server::midge(shard_count, &config);
            let mut listeners = Vec::new();
            for _ in 0..6 {
                let mut client = RawClient::connect(server.address()).expect("the server listens");
                let hello = b"CONNECT {\"verbose\":false,\"user\":\"sys\",\"pass\":\"sys\"}\r\n";
                client.send(hello).expect("the server reads");
                client
                    .send(b"SUB $SYS.SERVER.*.SHUTDOWN 1\r\nSUB $SYS.SERVER.*.LAMEDUCK 2\r\n")
                    .expect("the server reads");
                client.round_trip().expect("the server answers");
                listeners.push(client);
            }
            server.signal(signal).expect("the server runs");
            for client in &mut listeners {
                let deadline = std::time::Instant::now() + WAIT_MAX;
                let line = client.take_message_line(deadline);
                let line = String::from_utf8_lossy(&line).into_owned();
                assert!(line.starts_with("MSG $SYS.SERVER.N") && line.contains(name), "{line}");
                let payload = client.take_message_line(deadline);
                let payload: Value = serde_json::from_slice(&payload).expect("JSON");
                assert_eq!(payload["name"], "tested");
            }
            if name == "LAMEDUCK" {
                server.signal(Signal::INT).expect("the server runs");
            }
            for client in &mut listeners {
                let deadline = std::time::Instant::now() + WAIT_MAX;
                while client.fill(deadline) == Fill::Grown {}
                assert!(client.is_closed());
            }
            assert!(server.wait_for_exit(Duration::from_secs(10)).is_some());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_are_counted_over_all_shards() {
    let observed = Observed::start(3, CONFIG).await;
    let clients = observed.clients("a", 5).await;
    for client in &clients {
        subscribe(client, "work.*").await;
    }
    let count = async |subject: &str| {
        let body = format!(r#"{{"acc":"A","subject":"{subject}"}}"#);
        observed.ask("$SYS.REQ.ACCOUNT.NSUBS", &body).await
    };
    // A dropped subscription may not be gone yet: only those that are kept are counted.
    let mut kept = Vec::new();
    for client in &clients {
        kept.push(subscribe(client, "kept.*").await);
    }
    assert_eq!(count("kept.one").await, 5);
    assert_eq!(count("kept.>").await, 5);
    assert_eq!(count("kept.one.two").await, 0);
    assert_eq!(count("").await, 0);
    // The name of the group is in Base64.
    let mut member =
        clients[0].queue_subscribe("kept.one", "crew".into()).await.expect("connected");
    subscribe(&clients[0], "any").await;
    let body = r#"{"acc":"A","subject":"kept.one","queue":"Y3Jldw=="}"#;
    assert_eq!(observed.ask("$SYS.REQ.ACCOUNT.NSUBS", body).await, 1);
    member.unsubscribe().await.expect("connected");
    let text = r#"{"filter_subject":"kept.x","acc":"A"}"#;
    let connz = observed.ping("CONNZ", text).await;
    assert_eq!(connz["data"]["num_connections"], 5);
    // A number that is not a state, which no connection has.
    let none = observed.ping("CONNZ", r#"{"state":5}"#).await;
    assert_eq!(
        (&none["data"]["total"], &none["data"]["connections"]),
        (&0.into(), &Value::Array(vec![]))
    );
    let text = r#"{"filter_subject":"nothing","acc":"A"}"#;
    let connz = observed.ping("CONNZ", text).await;
    assert_eq!(
        (&connz["data"]["num_connections"], &connz["data"]["total"]),
        (&0.into(), &0.into())
    );
    let unknown = observed.ask("$SYS.REQ.ACCOUNT.NOPE.CONNZ", "").await;
    assert_eq!(
        (&unknown["data"]["connections"], &unknown["data"]["server_id"]),
        (&Value::Null, &"".into())
    );
}
