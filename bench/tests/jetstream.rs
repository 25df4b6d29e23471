//! JetStream runs: what a server loses, doubles or refuses is found, whatever it acknowledges.

mod support;

use clap::Parser;
use midge_bench::findings::result::RunResult;
use midge_bench::host::spawn::StartedServer;
use midge_bench::jetstream;
use midge_bench::kill;
use midge_bench::kill::arguments::KillArguments;
use midge_bench::progress::Progress;
use midge_bench::units::{CoreList, split_command_line};
use midge_bench::wire::connection::Dialer;
use midge_bench::workload::Workload;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use support::dialer;

/// A mistake of the server, made once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// The message with this sequence is acknowledged and not stored.
    Forget(u64),
    /// Its acknowledgement comes twice.
    AcknowledgeTwice(u64),
    Refuse(u64),
    /// It is never delivered.
    Skip(u64),
    DeliverTwice(u64),
    /// Its acknowledgement by a consumer is not heard.
    Deaf(u64),
    /// A get of any key returns the value of the first.
    WrongValue,
    /// It is stored with other bytes.
    Corrupt(u64),
}

/// One stream, one consumer, in memory.
struct State {
    fault: Fault,
    stream: String,
    messages: Vec<(u64, String, Vec<u8>)>,
    last_sequence: u64,
    next: usize,
    delivered: u64,
    unacknowledged: BTreeSet<u64>,
    /// Messages that were asked for: inbox and number.
    asked: Vec<(String, u64)>,
    /// Subscriptions by the text before their wildcard.
    subscriptions: BTreeMap<String, (String, TcpStream)>,
}

struct FakeJetStream {
    port: u16,
}

impl FakeJetStream {
    fn start(fault: Fault) -> FakeJetStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State {
            fault,
            stream: String::new(),
            messages: Vec::new(),
            last_sequence: 0,
            next: 0,
            delivered: 0,
            unacknowledged: BTreeSet::new(),
            asked: Vec::new(),
            subscriptions: BTreeMap::new(),
        }));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (state, stream) = (Arc::clone(&state), stream.unwrap());
                // A client that goes away ends its thread.
                std::thread::spawn(move || serve(stream, &state).is_ok());
            }
        });
        FakeJetStream { port }
    }

    fn dialer(&self) -> Dialer {
        dialer(self.port)
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    writer.write_all(
        b"INFO {\"server_name\":\"fake\",\"version\":\"0\",\"max_payload\":1048576}\r\n",
    )?;
    let mut reader = BufReader::with_capacity(256 * 1024, stream);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["PING"] => {
                let _in_order_with_messages = state.lock().unwrap();
                writer.write_all(b"PONG\r\n")?;
            }
            ["SUB", subject, sid] => {
                let prefix = subject.trim_end_matches('*').to_string();
                let subscription = (sid.to_string(), writer.try_clone()?);
                state.lock().unwrap().subscriptions.insert(prefix, subscription);
            }
            ["PUB", subject, reply, size] => {
                let mut payload = vec![0; size.parse::<usize>().unwrap() + 2];
                reader.read_exact(&mut payload)?;
                payload.truncate(payload.len() - 2);
                state.lock().unwrap().take(subject, reply, payload);
            }
            ["PUB", subject, size] => {
                let mut payload = vec![0; size.parse::<usize>().unwrap() + 2];
                reader.read_exact(&mut payload)?;
                state.lock().unwrap().acknowledge(subject);
            }
            _ => {}
        }
    }
}

impl State {
    fn take(&mut self, subject: &str, reply: &str, payload: Vec<u8>) {
        let Some(operation) = subject.strip_prefix("$JS.API.") else {
            return self.store(subject, reply, payload);
        };
        let words: Vec<&str> = operation.split('.').collect();
        let answer = match words.as_slice() {
            ["STREAM", "CREATE", name] => {
                self.stream = name.to_string();
                "{}".to_string()
            }
            ["STREAM", "INFO", _] => format!(
                "{{\"state\":{{\"messages\":{},\"last_seq\":{}}}}}",
                self.messages.len(),
                self.last_sequence
            ),
            ["CONSUMER", "INFO", ..] => format!(
                "{{\"num_pending\":{},\"num_ack_pending\":{}}}",
                self.messages.len() - self.next,
                self.unacknowledged.len()
            ),
            ["CONSUMER", "MSG", "NEXT", ..] => {
                let body: serde_json::Value = serde_json::from_slice(&payload).unwrap();
                self.asked.push((reply.to_string(), body["batch"].as_u64().unwrap()));
                return self.deliver();
            }
            ["DIRECT", "GET", _, key @ ..] => return self.get(&key.join("."), reply),
            _ => "{\"type\":\"io.nats.jetstream.api.v1.other\"}".to_string(),
        };
        self.send(reply, None, answer.as_bytes());
    }

    fn store(&mut self, subject: &str, reply: &str, mut payload: Vec<u8>) {
        let sequence = self.last_sequence + 1;
        if self.fault == Fault::Refuse(sequence) {
            self.fault = Fault::None;
            return self.send(
                reply,
                None,
                b"{\"error\":{\"code\":503,\"err_code\":10077},\"seq\":0}",
            );
        }
        self.last_sequence = sequence;
        if self.fault == Fault::Corrupt(sequence) {
            payload[0] ^= 1;
        }
        if self.fault != Fault::Forget(sequence) {
            self.messages.retain(|(_, other, _)| !subject.starts_with("$KV.") || other != subject);
            self.messages.push((sequence, subject.to_string(), payload));
        }
        let answer = format!("{{\"stream\":\"{}\",\"seq\":{sequence}}}", self.stream);
        for _ in 0..1 + u32::from(self.fault == Fault::AcknowledgeTwice(sequence)) {
            self.send(reply, None, answer.as_bytes());
        }
        self.deliver();
    }

    fn deliver(&mut self) {
        while self.next < self.messages.len() && !self.asked.is_empty() {
            let (sequence, subject, payload) = self.messages[self.next].clone();
            self.next += 1;
            if self.fault == Fault::Skip(sequence) {
                continue;
            }
            self.unacknowledged.insert(sequence);
            for _ in 0..1 + u32::from(self.fault == Fault::DeliverTwice(sequence)) {
                self.delivered += 1;
                let reply = format!("$JS.ACK.S.C.1.{sequence}.{}.7.0", self.delivered);
                let inbox = self.asked[0].0.clone();
                self.send_as(&inbox, &subject, Some(&reply), b"", &payload);
            }
            self.asked[0].1 -= 1;
            self.asked.retain(|(_, count)| *count > 0);
        }
    }

    fn acknowledge(&mut self, subject: &str) {
        let sequence = subject.split('.').nth(5).unwrap().parse().unwrap();
        if self.fault != Fault::Deaf(sequence) {
            self.unacknowledged.remove(&sequence);
        }
    }

    fn get(&mut self, key: &str, reply: &str) {
        let found = self
            .messages
            .iter()
            .find(|(_, subject, _)| self.fault == Fault::WrongValue || subject == key);
        let payload = found.map(|(_, _, payload)| payload.clone()).unwrap_or_default();
        self.send_as(reply, reply, None, b"NATS/1.0\r\nNats-Sequence: 1\r\n\r\n", &payload);
    }

    fn send(&mut self, subject: &str, reply: Option<&str>, payload: &[u8]) {
        self.send_as(subject, subject, reply, b"", payload);
    }

    /// Sends to the subscription of `inbox` what was published to `subject`.
    fn send_as(
        &mut self,
        inbox: &str,
        subject: &str,
        reply: Option<&str>,
        headers: &[u8],
        payload: &[u8],
    ) {
        let found = self.subscriptions.iter_mut().find(|(prefix, _)| inbox.starts_with(*prefix));
        let Some((_, (sid, stream))) = found else { return };
        let reply = reply.map_or(String::new(), |reply| format!("{reply} "));
        let size = headers.len() + payload.len();
        let head = match headers.is_empty() {
            true => format!("MSG {subject} {sid} {reply}{size}\r\n"),
            false => format!("HMSG {subject} {sid} {reply}{} {size}\r\n", headers.len()),
        };
        // A client that has gone does not concern the others.
        let _ = stream.write_all(&[head.as_bytes(), headers, payload, b"\r\n"].concat());
    }
}

fn run_at(dialer: &Dialer, words: &str) -> RunResult {
    let text = format!("jetstream {words} --pacer sleep --core-taken-max 1");
    assert!(!split_command_line(&text).unwrap().is_empty());
    let Workload::JetStream(arguments) = Workload::parse(&text).unwrap() else {
        panic!("{text} is another workload")
    };
    arguments.check().unwrap();
    let plan = arguments.plan(&CoreList::default());
    jetstream::run::run(dialer, &plan, Err("not asked".into()), &Progress::new(true)).unwrap()
}

fn run(fault: Fault, words: &str) -> RunResult {
    run_at(&FakeJetStream::start(fault).dialer(), words)
}

const SHORT: &str = "--warmup 0s --duration 200ms";

#[track_caller]
fn assert_fault(result: &RunResult, expected: &str) {
    assert!(!result.valid, "nothing was found");
    let found = result.faults.iter().any(|fault| fault.contains(expected));
    assert!(found, "{expected:?} is not in {:?}", result.faults);
}

#[test]
fn a_faultless_server_gives_valid_runs_of_every_kind_it_knows() {
    for words in [
        format!("publish --in-flight 20 {SHORT}"),
        format!("publish --in-flight 20 --verify {SHORT}"),
        format!("publish-sync --clients 3 {SHORT}"),
        format!("publish-open --rate 500 --late-limit 10s {SHORT}"),
        format!("kv-put --clients 3 --subjects 7 {SHORT}"),
        format!("kv-get --clients 3 --subjects 7 {SHORT}"),
        format!("mixed --in-flight 20 {SHORT}"),
        "consume --messages 3000 --batch 100".to_string(),
        "consume --messages 3000 --batch 100 --clients 3".to_string(),
        "fetch --messages 3000 --batch 70".to_string(),
        "ordered --messages 3000".to_string(),
    ] {
        let result = run(Fault::None, &words);
        assert!(result.valid, "{words}: {:?}", result.faults);
        let counts = result.counts.unwrap();
        assert!(counts.all_good() && counts.received > 0, "{words}: {counts:?}");
        assert!(result.value("messages_per_second").unwrap() > 0.0, "{words}");
        assert_eq!(result.durability, "durability unknown", "{words}");
    }
}

#[test]
fn a_message_acknowledged_and_not_stored_is_found() {
    let publish = format!("publish --in-flight 20 {SHORT}");
    assert_fault(&run(Fault::Forget(5), &publish), "1 are lost");
}

#[test]
fn an_answer_that_comes_twice_and_a_refusal_are_found() {
    let publish = format!("publish --in-flight 20 {SHORT}");
    assert_fault(&run(Fault::AcknowledgeTwice(5), &publish), "1 answers came twice");
    assert_fault(&run(Fault::Refuse(5), &publish), "1 requests were refused: {\"error\"");
}

#[test]
fn bytes_that_changed_are_found_by_reading_back() {
    let publish = format!("publish --in-flight 20 --verify {SHORT}");
    assert_fault(&run(Fault::Corrupt(5), &publish), "1 lost");
}

#[test]
fn a_value_of_another_key_is_found() {
    let get = format!("kv-get --subjects 7 {SHORT}");
    assert_fault(&run(Fault::WrongValue, &get), "are wrong");
}

#[test]
fn a_message_consumed_twice_and_an_unheard_acknowledgement_are_found() {
    let consume = "consume --messages 500 --batch 100";
    assert_fault(&run(Fault::DeliverTwice(5), consume), "1 twice");
    let unheard = run(Fault::Deaf(5), consume);
    assert_fault(&unheard, "0 messages pending and 1 without an acknowledgement");
}

#[test]
fn a_message_that_is_never_delivered_is_lost() {
    assert_fault(&run(Fault::Skip(5), "consume --messages 500"), "1 messages were never consumed");
}

#[test]
fn a_server_without_jetstream_is_reported() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"INFO {}\r\n").unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|size| size > 0) {
            if line.starts_with("PING") {
                stream.write_all(b"PONG\r\n").unwrap();
            }
            if let Some(reply) = line.strip_prefix("PUB $JS.API.INFO ") {
                let reply = reply.split(' ').next().unwrap();
                let headers = "NATS/1.0 503\r\n\r\n";
                let size = headers.len();
                let answer = format!("HMSG {reply} 1 {size} {size}\r\n{headers}\r\n");
                stream.write_all(answer.as_bytes()).unwrap();
            }
            line.clear();
        }
    });
    let Workload::JetStream(arguments) = Workload::parse("jetstream publish").unwrap() else {
        panic!("it is another workload")
    };
    let plan = arguments.plan(&CoreList::default());
    let progress = Progress::new(true);
    let outcome = jetstream::run::run(&dialer(port), &plan, Err(String::new()), &progress);
    let failure = outcome.err().map(|failure| failure.to_string()).unwrap_or_default();
    assert!(failure.contains("has no JetStream"), "{failure}");
}

/// With `NATS_SERVER` in the environment. Confirmed acknowledgements are left out: nats-server
/// forgets some.
#[test]
fn a_real_server_that_is_killed_keeps_what_it_acknowledged() {
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: KillArguments,
    }
    let Ok(program) = std::env::var("NATS_SERVER") else { return };
    let server = format!("'{program}' -a 127.0.0.1 -p {{port}} -js -sd {{store}}");
    let flags = ["kill", "--server", &server, "--rounds", "2", "--consumers", "0"];
    let Line { arguments } = Line::parse_from(flags.into_iter().chain(["--alive", "300ms"]));
    let report = kill::rounds::run(&arguments, &Progress::new(true)).unwrap();
    assert!(report.faults.is_empty(), "{:?}", report.faults);
    assert!(report.kills == 2 && report.acknowledged > 0, "{report:?}");
    let elsewhere = KillArguments { server: "x -p {port}".to_string(), ..arguments };
    let refused = kill::rounds::run(&elsewhere, &Progress::new(true)).unwrap_err().to_string();
    assert!(refused.contains("{store}"), "{refused}");
}

/// With `NATS_SERVER` in the environment: the real one, file and memory storage.
#[test]
fn every_kind_of_work_is_whole_on_a_real_server() {
    let Ok(program) = std::env::var("NATS_SERVER") else { return };
    let line = format!("'{program}' -a 127.0.0.1 -p {{port}} -m {{monitor}} -js -sd {{store}}");
    let server = StartedServer::start(&line, &CoreList::default(), None).unwrap();
    let midge_bench::wire::address::Address::Tcp { port, .. } = server.address else {
        panic!("a started server listens on TCP")
    };
    let dialer = Dialer { monitor_port: server.monitor_port, ..dialer(port) };
    for words in [
        format!("publish --streams 3 --clients 2 --subjects 5 --verify {SHORT}"),
        format!("publish --storage memory --verify {SHORT}"),
        format!("publish-sync --clients 3 {SHORT}"),
        format!("publish-open --rate 500 --late-limit 10s {SHORT}"),
        format!("kv-put --clients 3 --subjects 7 --streams 2 {SHORT}"),
        format!("kv-get --clients 3 --subjects 7 --streams 2 {SHORT}"),
        format!("mixed --in-flight 20 --clients 2 --consumers 2 {SHORT}"),
        "consume --messages 3000 --batch 100 --clients 3 --streams 2".to_string(),
        "consume --messages 3000 --ack none".to_string(),
        "fetch --messages 3000 --batch 70".to_string(),
        "ordered --messages 3000 --clients 2".to_string(),
        "push --messages 3000".to_string(),
        "push --messages 3000 --clients 3".to_string(),
    ] {
        let result = run_at(&dialer, &words);
        assert!(result.valid, "{words}: {:?}", result.faults);
        assert!(!result.durability.contains("unknown"), "{words}: {}", result.durability);
    }
}
