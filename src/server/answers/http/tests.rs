//! Connections that try to monopolise the thread, the memory or the port.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;

use super::*;
use crate::auth::state::AuthState;
use crate::protocol::nats::handshake::Info;

struct Port {
    served: Loop,
    address: SocketAddr,
    /// Dropping it stops the loop.
    stop: Option<UnixStream>,
}

impl Port {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = UnixStream::pair().unwrap();
        let options = Options::default();
        let live = Live {
            auth: Arc::new(AuthState::build(&options, None).unwrap()),
            options: Arc::new(options),
            info: Arc::new(Info::default()),
            config_loaded: SystemTime::UNIX_EPOCH,
            tls: None,
            certificate_ends: None,
            websocket: None,
            is_leaving: false,
        };
        let served = Loop::new(listener, stopped, Arc::new(Mutex::new(live)));
        Self { served, address, stop: Some(stop) }
    }

    fn client(&self, bytes: &[u8]) -> TcpStream {
        let mut client = TcpStream::connect(self.address).unwrap();
        client.write_all(bytes).unwrap();
        client
    }

    /// Makes passes until `done`; requests are answered by `answer`.
    fn pass_until(
        &mut self,
        mut answer: impl FnMut(&Request) -> Response,
        mut done: impl FnMut(&Loop) -> bool,
    ) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !done(&self.served) {
            assert!(self.served.pass(&mut answer), "nobody stopped it");
            assert!(Instant::now() < deadline, "waited in vain");
        }
    }
}

fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
}

/// The pipelining connection has sent all its requests before the first pass.
#[test]
fn a_pipelining_connection_gets_one_answer_a_pass_and_holds_nobody_up() {
    let mut port = Port::new();
    let mut greedy = port.client(&request("/greedy").repeat(2_000));
    let mut other = port.client(&request("/other"));
    let mut answered: Vec<String> = Vec::new();
    while !answered.iter().any(|path| path == "/other") {
        let before = answered.len();
        assert!(port.served.pass(&mut |request| {
            answered.push(request.path.clone());
            Response::text(200, "")
        }));
        assert!(answered.len() <= before + port.served.connections.len().max(1));
        assert!(answered.len() < 100, "the other one is not heard");
    }
    let mut first = [0; 15];
    for client in [&mut greedy, &mut other] {
        client.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK");
    }
    // It stops in the next pass, whatever is waiting.
    drop(port.stop.take());
    assert!(!port.served.pass(&mut |_| panic!("a request is answered after the end")));
}

#[test]
fn every_request_of_a_pipelining_connection_is_answered_in_the_end() {
    const REQUESTS: usize = 500;
    let mut port = Port::new();
    let mut client = port.client(&request("/varz").repeat(REQUESTS));
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        client.read_to_end(&mut text).map(|_| text)
    });
    let count = Cell::new(0);
    let answer = |_: &Request| {
        count.set(count.get() + 1);
        Response::text(200, "ok")
    };
    port.pass_until(answer, |_| count.get() == REQUESTS);
    drop(port);
    let text = String::from_utf8(reader.join().unwrap().unwrap()).unwrap();
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), REQUESTS);
}

#[test]
fn a_large_answer_is_sent_part_by_part_however_fast_it_is_read() {
    const BODY: usize = 24 << 20;
    let mut port = Port::new();
    let mut client = port.client(b"GET / HTTP/1.0\r\n\r\n");
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).unwrap();
        bytes.len()
    });
    let body = vec![b'x'; BODY];
    let (mut passes, mut sent, mut seen) = (0, 0, false);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !(seen && port.served.connections.is_empty()) {
        assert!(port.served.pass(&mut |_| Response::html(body.clone())));
        passes += 1;
        if let Some(connection) = port.served.connections.first() {
            seen = true;
            assert!(connection.sent <= sent + HTTP_SENT_PER_PASS_BYTES);
            sent = connection.sent;
        }
        assert!(Instant::now() < deadline, "it is not sent");
    }
    assert!(passes >= BODY / HTTP_SENT_PER_PASS_BYTES, "{passes}");
    assert!(reader.join().unwrap() > BODY);
}

/// As many answers as fit the bound stay; the next one displaces the one that has waited longest.
#[test]
fn answers_that_nobody_reads_are_bounded_in_bytes() {
    const FITTING: usize = 4;
    let mut port = Port::new();
    let probe = Response::html(Vec::new()).encode(SystemTime::UNIX_EPOCH, false, true).len();
    // The length has more digits than that of an empty body.
    let body = vec![b'x'; HTTP_ANSWERS_BYTES_MAX / FITTING - probe - 7];
    let mut clients = Vec::new();
    for index in 0..FITTING {
        clients.push(port.client(&request("/")));
        port.pass_until(
            |_| Response::html(body.clone()),
            |served| {
                served.connections.iter().filter(|one| !one.unsent.is_empty()).count() == index + 1
            },
        );
    }
    assert_eq!(port.served.unsent_bytes(), HTTP_ANSWERS_BYTES_MAX, "exactly the bound");
    assert_eq!(port.served.connections.len(), FITTING);
    clients.push(port.client(&request("/")));
    let mut answered = false;
    while !answered {
        assert!(port.served.pass(&mut |_| {
            answered = true;
            Response::html(b"x".to_vec())
        }));
        assert!(port.served.unsent_bytes() <= HTTP_ANSWERS_BYTES_MAX);
    }
    // A small answer is sent at once and needs no room afterwards.
    assert_eq!(port.served.connections.len(), FITTING + 1);
    clients.push(port.client(&request("/")));
    let mut answered = false;
    while !answered {
        assert!(port.served.pass(&mut |_| {
            answered = true;
            Response::html(body.clone())
        }));
        assert!(port.served.unsent_bytes() <= HTTP_ANSWERS_BYTES_MAX);
    }
    let mut driven_out = clients.remove(0);
    let mut bytes = Vec::new();
    driven_out.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // What was sent to it before is still there; then it ends early, with a reset or without.
    let end = driven_out.read_to_end(&mut bytes).map_err(|error| error.kind());
    assert!(matches!(end, Ok(_) | Err(ErrorKind::ConnectionReset)), "{end:?}");
    assert!(bytes.len() < body.len());
    assert_eq!(port.served.connections.len(), FITTING + 1);
}

#[test]
fn one_connection_above_the_maximum_displaces_the_one_that_waits_longest() {
    let mut port = Port::new();
    let mut clients = Vec::new();
    for index in 0..=HTTP_CONNECTIONS_MAX {
        let start = Instant::now();
        // Half a request: nothing else ends the connection for seconds.
        clients.push(port.client(b"GET / HTTP/1.1\r\n"));
        let expected = (index + 1).min(HTTP_CONNECTIONS_MAX);
        port.served.connections.iter_mut().for_each(|connection| {
            connection.deadline = Instant::now() + Duration::from_secs(600);
        });
        port.pass_until(
            |_| panic!("there is no request"),
            |served| {
                let newest = served.connections.last();
                served.connections.len() == expected
                    && newest.is_some_and(|one| one.since >= start && one.reader.held() > 0)
            },
        );
    }
    let mut first = clients.remove(0);
    first.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let end = first.read(&mut [0]).map_err(|error| error.kind());
    assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "{end:?}");
    for client in &mut clients {
        client.set_nonblocking(true).unwrap();
        let error = client.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock, "only one had to go");
    }
}

#[test]
fn no_connection_is_accepted_during_a_pause_and_all_are_after_it() {
    let mut port = Port::new();
    let _client = port.client(b"");
    port.served.accept_from = Some(Instant::now() + Duration::from_millis(30));
    let mut passes = 0;
    while port.served.accept_from.is_some() {
        assert!(port.served.connections.is_empty(), "accepted during the pause");
        assert!(port.served.pass(&mut |_| panic!("there is no request")));
        passes += 1;
    }
    port.pass_until(|_| panic!("there is no request"), |served| !served.connections.is_empty());
    assert!(passes < 20, "it does not spin");
}
