//! A NATS server for tests that misbehaves on request, and the way to a real one if there is one.
#![allow(dead_code, reason = "each test file uses its own part")]

use midge_bench::host::spawn::StartedServer;
use midge_bench::load::layout::Layout;
use midge_bench::load::throughput::ThroughputPlan;
use midge_bench::units::CoreList;
use midge_bench::wire::address::{Address, WebSocket};
use midge_bench::wire::connection::Dialer;
use midge_bench::wire::credentials::Credentials;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The treatment of message number `n`, counted from 0 over all publishers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Deliver,
    Drop,
    Double,
    /// Deliver after the next one.
    Hold,
    /// Do nothing at all for this time, then deliver: a stall like that of a garbage collection.
    Stall(Duration),
}

/// The action for a message, by its number and subject.
pub type Behaviour = Arc<dyn Fn(u64, &str) -> Action + Send + Sync>;

/// The nonce of every connection.
pub const NONCE: &str = "PXoWU7zWAMt75FY";

#[derive(Default)]
struct State {
    subscriptions: Vec<Subscription>,
    message_count: u64,
    held: Option<(String, Vec<u8>)>,
    connects: Vec<serde_json::Value>,
    /// Whose turn it is in each queue group.
    turn: usize,
}

struct Subscription {
    subject: String,
    queue: Option<String>,
    sid: String,
    stream: TcpStream,
}

pub struct FakeServer {
    pub port: u16,
    state: Arc<Mutex<State>>,
}

impl FakeServer {
    pub fn start(behaviour: impl Fn(u64) -> Action + Send + Sync + 'static) -> FakeServer {
        FakeServer::start_seeing(move |number, _| behaviour(number))
    }

    /// Starts a server whose behaviour also depends on the subject.
    pub fn start_seeing(
        behaviour: impl Fn(u64, &str) -> Action + Send + Sync + 'static,
    ) -> FakeServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let behaviour: Behaviour = Arc::new(behaviour);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (state, behaviour) = (Arc::clone(&shared), Arc::clone(&behaviour));
                let stream = stream.unwrap();
                // A client that goes away ends its thread; the tests look at what was counted.
                std::thread::spawn(move || serve(stream, &state, &behaviour).is_ok());
            }
        });
        FakeServer { port, state }
    }

    /// Returns the objects of all CONNECTs so far.
    pub fn connects(&self) -> Vec<serde_json::Value> {
        self.state.lock().unwrap().connects.clone()
    }

    /// Returns the number of messages published so far.
    pub fn message_count(&self) -> u64 {
        self.state.lock().unwrap().message_count
    }

    pub fn dialer(&self) -> Dialer {
        dialer(self.port)
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>, behaviour: &Behaviour) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let info = format!(
        "INFO {{\"server_name\":\"fake\",\"version\":\"0\",\"max_payload\":1048576,\"nonce\":\"{NONCE}\"}}\r\n"
    );
    writer.write_all(info.as_bytes())?;
    let mut reader = BufReader::with_capacity(256 * 1024, stream);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["CONNECT", ..] => {
                let object = serde_json::from_str(line["CONNECT".len()..].trim()).unwrap();
                state.lock().unwrap().connects.push(object);
            }
            ["PING"] => {
                let _in_order_with_messages = state.lock().unwrap();
                writer.write_all(b"PONG\r\n")?;
            }
            ["SUB", subject, rest @ .., sid] => {
                state.lock().unwrap().subscriptions.push(Subscription {
                    subject: subject.to_string(),
                    queue: rest.first().map(ToString::to_string),
                    sid: sid.to_string(),
                    stream: writer.try_clone()?,
                });
            }
            ["PUB", subject, rest @ .., size] => {
                let mut payload = vec![0; size.parse::<usize>().unwrap() + 2];
                reader.read_exact(&mut payload)?;
                let reply = rest.first().map_or(String::new(), |reply| format!("{reply} "));
                let header = format!("{reply}{size}");
                state.lock().unwrap().publish(subject, &header, payload, behaviour);
            }
            _ => {}
        }
    }
}

impl State {
    fn publish(&mut self, subject: &str, header: &str, payload: Vec<u8>, behaviour: &Behaviour) {
        let number = self.message_count;
        self.message_count += 1;
        let frame = [header.as_bytes(), b"\r\n", &payload].concat();
        let action = behaviour(number, subject);
        match action {
            Action::Drop => {}
            Action::Hold => {
                self.held = Some((subject.to_string(), frame));
                return;
            }
            Action::Double => {
                self.deliver(subject, &frame);
                self.deliver(subject, &frame);
            }
            Action::Stall(time) => {
                // The delay is the point of the test; with the lock held nobody else makes progress
                // either.
                std::thread::sleep(time);
                self.deliver(subject, &frame);
            }
            Action::Deliver => self.deliver(subject, &frame),
        }
        if let Some((subject, frame)) = self.held.take() {
            self.deliver(&subject, &frame);
        }
    }

    fn deliver(&mut self, subject: &str, frame: &[u8]) {
        self.turn += 1;
        let matching: Vec<usize> = (0..self.subscriptions.len())
            .filter(|&index| matches(&self.subscriptions[index].subject, subject))
            .collect();
        let (grouped, plain): (Vec<usize>, Vec<usize>) =
            matching.into_iter().partition(|&index| self.subscriptions[index].queue.is_some());
        let picked = (!grouped.is_empty()).then(|| grouped[self.turn % grouped.len()]);
        for index in plain.into_iter().chain(picked) {
            let subscription = &mut self.subscriptions[index];
            let head = format!("MSG {subject} {} ", subscription.sid);
            let bytes = [head.as_bytes(), frame].concat();
            // A subscriber that has gone does not concern the publisher.
            let _ = subscription.stream.write_all(&bytes);
        }
    }
}

fn matches(pattern: &str, subject: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => subject.strip_prefix(start).is_some_and(|rest| !rest.contains('.')),
        None => pattern == subject,
    }
}

pub fn dialer(port: u16) -> Dialer {
    Dialer {
        address: Address::Tcp {
            host: "127.0.0.1".to_string(),
            port,
            tls: false,
            web: WebSocket::No,
        },
        credentials: Credentials::None,
        subscriber_credentials: None,
        tls: None,
        raw: false,
        shards: None,
        echo: true,
        headers: false,
        congestion: None,
        monitor_port: None,
    }
}

/// Returns a layout with subjects of its own, so that leftovers of an earlier run do not receive
/// its messages.
pub fn layout(publisher_count: usize, subscriber_count: usize, payload_size: usize) -> Layout {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Layout {
        publisher_count,
        subscriber_count,
        subject_count: 1,
        wildcard: false,
        queue: None,
        payload_size,
        subject_prefix: format!("bench.test{number}"),
        paired: false,
    }
}

pub fn throughput_plan(layout: Layout, messages_per_publisher: u64) -> ThroughputPlan {
    ThroughputPlan {
        layout,
        warmup: Duration::ZERO,
        duration: Duration::ZERO,
        messages_per_publisher: Some(messages_per_publisher),
        pin_load: CoreList::default(),
        seed: 1,
    }
}

/// The server that the environment variable `NATS_SERVER` names, or the fake one: the test runs
/// with either.
pub enum AnyServer {
    Real(Box<StartedServer>),
    Fake(FakeServer),
}

impl AnyServer {
    pub fn start() -> AnyServer {
        match std::env::var("NATS_SERVER") {
            Ok(program) => {
                let line = format!("'{program}' -a 127.0.0.1 -p {{port}}");
                let server = StartedServer::start(&line, &CoreList::default(), None).unwrap();
                AnyServer::Real(Box::new(server))
            }
            Err(_) => AnyServer::Fake(FakeServer::start(|_| Action::Deliver)),
        }
    }

    pub fn port(&self) -> u16 {
        match self {
            AnyServer::Fake(server) => server.port,
            AnyServer::Real(server) => match &server.address {
                Address::Tcp { port, .. } => *port,
                Address::Unix { .. } => unreachable!("a started server listens on TCP"),
            },
        }
    }

    pub fn dialer(&self) -> Dialer {
        dialer(self.port())
    }
}
