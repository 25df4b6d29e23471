//! Seeded fuzzers of everything a stranger can send before and after login, and of the command
//! line.
//!
//! Each takes 20,000 inputs in `cargo test`; `MIDGE_FUZZ_INPUTS=1000000` runs more by hand. A
//! failure prints the command that repeats that single input.

#[path = "fuzz/forge.rs"]
mod forge;
#[path = "fuzz/jwt.rs"]
mod jwt;
#[path = "fuzz/mutate.rs"]
mod mutate;
#[path = "fuzz/store.rs"]
mod store;
#[path = "fuzz/web.rs"]
mod web;

use std::cell::{Cell, RefCell};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use fastrand::Rng;
use midge::testing::auth::state::AuthState;
use midge::testing::base::ids::ConnectionId;
use midge::testing::base::limits::{HTTP_HEAD_BYTES_MAX, READ_BUFFER_BYTES, VERB_BYTES_MAX};
use midge::testing::base::pool::BufferPool;
use midge::testing::broker::Broker;
use midge::testing::broker::outbox::Outbox;
use midge::testing::client::context::ClientContext;
use midge::testing::client::session::ClientSession;
use midge::testing::config::auth_options::Secret;
use midge::testing::config::load;
use midge::testing::config::options::Options;
use midge::testing::config::surroundings::Surroundings;
use midge::testing::monitor::endpoints::plan;
use midge::testing::monitor::http::RequestReader;
use midge::testing::net::listener::Peer;
use midge::testing::net::read_buffer::ReadBuffer;
use midge::testing::net::session::{Session, Step};
use midge::testing::protocol::nats::command::Command;
use midge::testing::protocol::nats::error::ProtocolError;
use midge::testing::protocol::nats::handshake::ConnectOptions;
use midge::testing::protocol::nats::parser::{Parsed, Parser, ParserLimits};
use midge::testing::server::command::args::{Invocation, parse_in};

const INPUTS: u64 = 20_000;

/// Each is signed, and checked several times.
const JWT_INPUTS: u64 = 150;

/// Each is a whole start.
const STORE_INPUTS: u64 = 1_500;

/// Runs one fuzzer over its inputs, or over the one that the environment names.
fn fuzz(name: &str, check: impl Fn(&mut Rng)) {
    fuzz_some(name, INPUTS, check);
}

/// The same with a number of inputs of its own, where the environment names none.
fn fuzz_some(name: &str, inputs: u64, check: impl Fn(&mut Rng)) {
    let number = |variable: &str| {
        std::env::var(variable).ok().map(|text| text.parse::<u64>().expect("a number"))
    };
    let seeds = match number("MIDGE_FUZZ_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MIDGE_FUZZ_INPUTS").unwrap_or(inputs),
    };
    for seed in seeds {
        let run = || check(&mut Rng::with_seed(seed));
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            panic!("MIDGE_FUZZ_SEED={seed} cargo test --test fuzz {name}");
        }
    }
}

const LIMITS: ParserLimits =
    ParserLimits { control_line_bytes_max: 128, payload_bytes_max: 128, headers: true };

/// Bytes that a connection may leave unparsed: a control line with blanks before it, and one
/// payload.
const PENDING_BYTES_MAX: usize =
    2 * LIMITS.control_line_bytes_max + VERB_BYTES_MAX + LIMITS.payload_bytes_max + 8;

/// Commands with their arguments, and the error that ended the stream.
type Reading = (Vec<String>, Option<ProtocolError>);

/// Reads a stream that arrives in pieces ending at `ends`.
fn read(stream: &[u8], ends: &[usize], keeps_state: bool) -> Reading {
    let mut parser = Parser::default();
    let (mut start, mut commands) = (0, Vec::new());
    for end in ends {
        if !keeps_state {
            parser = Parser::default();
        }
        loop {
            let pending = &stream[start..*end];
            match parser.next(pending, &LIMITS) {
                Ok(Parsed::Command { command, consumed }) => {
                    assert!((1..=pending.len()).contains(&consumed));
                    commands.push(shown(&command, pending));
                    start += consumed;
                }
                Ok(Parsed::Skip { consumed }) => {
                    assert!((1..=pending.len()).contains(&consumed));
                    start += consumed;
                }
                Ok(Parsed::Incomplete { needed }) => {
                    assert!(needed > pending.len(), "more is needed than is there");
                    assert!(needed <= PENDING_BYTES_MAX + 1, "waits for {needed} bytes");
                    assert!(pending.len() <= PENDING_BYTES_MAX, "{} bytes kept", pending.len());
                    break;
                }
                Err(error) => return (commands, Some(error)),
            }
        }
    }
    (commands, None)
}

/// Formats a command as its arguments, whatever their place in the buffer.
fn shown(command: &Command, input: &[u8]) -> String {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    match command {
        Command::Publish(publish) => format!(
            "PUB {} {} {} {}",
            text(publish.subject.of(input)),
            text(publish.reply.of(input)),
            publish.header_size,
            text(publish.body.of(input))
        ),
        Command::Subscribe { subject, queue, sid, .. } => {
            let parts = [subject, queue, sid].map(|span| text(span.of(input)));
            format!("SUB {parts:?}")
        }
        Command::Unsubscribe { sid, max, .. } => {
            format!("UNSUB {} {}", text(sid.of(input)), text(max.of(input)))
        }
        Command::Connect { json } => format!("CONNECT {}", text(json.of(input))),
        Command::Info { json } => format!("INFO {}", text(json.of(input))),
        Command::Error { text: words } => format!("-ERR {}", text(words.of(input))),
        Command::Ping | Command::Pong | Command::Ok => format!("{command:?}"),
    }
}

fn check_parser(random: &mut Rng, keeps_state: bool) {
    let stream = mutate::stream(random);
    let whole = read(&stream, &[stream.len()], true);
    let mut ends: Vec<usize> =
        (0..random.usize(..8)).map(|_| random.usize(..=stream.len())).collect();
    ends.sort_unstable();
    ends.push(stream.len());
    let single: Vec<usize> = (0..=stream.len()).collect();
    for ends in [&ends, &single] {
        assert_eq!(read(&stream, ends, keeps_state), whole, "{}", stream.escape_ascii());
    }
}

/// Whatever the pieces in which bytes arrive, the same commands and the same error come out; the
/// parser never takes more than it is given and never keeps more than one command.
#[test]
fn parser() {
    fuzz("parser", |random| check_parser(random, true));
}

/// A parser that forgets between two reads that it was inside a line must be caught.
#[test]
fn canary_a_forgetful_parser_is_caught() {
    let caught = (0..INPUTS).any(|seed| {
        let run = || check_parser(&mut Rng::with_seed(seed), false);
        catch_unwind(AssertUnwindSafe(run)).is_err()
    });
    assert!(caught, "the planted bug went unseen");
}

#[test]
fn connect_json() {
    fuzz("connect_json", |random| {
        let mut json = Vec::new();
        mutate::json(random, &mut json);
        let mut options = ConnectOptions::default();
        if options.merge(&json).is_ok() {
            let once = options.clone();
            options.merge(&json).expect("it was fine the first time");
            assert_eq!(options, once, "saying it twice changes nothing");
        }
    });
}

struct FuzzedFiles(Vec<u8>);

impl Surroundings for FuzzedFiles {
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        match path.ends_with("file.conf") {
            true => Ok(self.0.clone()),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        (name == "HOME").then(|| "4222".into())
    }
}

#[test]
fn flags() {
    fuzz("flags", |random| {
        let program = if random.bool() { "midge" } else { "/usr/bin/nats-server" };
        let arguments = mutate::arguments(random);
        let files = FuzzedFiles(mutate::configuration(random));
        let words = arguments.iter().cloned().map(OsString::from_vec);
        match parse_in(OsStr::new(program), words, &files) {
            Invocation::Refused(refusal) => {
                assert!(refusal.exit_code <= 2);
                assert!(!(refusal.stdout.is_empty() && refusal.stderr.is_empty()), "says why");
            }
            Invocation::Run(start) => {
                midge::testing::config::load::validate(&start.options).expect("what runs is valid");
            }
            _ => {}
        }
    });
}

/// A damaged file of the corpus is either read or refused with a text, the same way twice, and what
/// is read can be judged.
#[test]
fn configuration_files() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let mut corpus: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
        .expect("the corpus is there")
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "conf"))
        .map(|path| (path.display().to_string(), std::fs::read(&path).expect("a file")))
        .collect();
    corpus.sort();
    let (read, refused) = (Cell::new(0u64), Cell::new(0u64));
    fuzz("configuration_files", |random| {
        let mut text = corpus[random.usize(..corpus.len())].1.clone();
        if random.u8(..4) == 0 {
            text.extend_from_slice(&corpus[random.usize(..corpus.len())].1);
        }
        mutate::mutate(random, &mut text);
        let files = FuzzedFiles(text);
        let load = || load::load_file(Path::new("file.conf"), &files, random_is_even(&files.0));
        match load() {
            Ok(loaded) => {
                read.set(read.get() + 1);
                let again = load().expect("it was read before");
                assert_eq!(again.options.config_digest, loaded.options.config_digest);
                // Either outcome is fine, but neither may panic.
                let _ = load::validate(&loaded.options);
                let _ = AuthState::build(&loaded.options, None);
            }
            Err(reason) => {
                refused.set(refused.get() + 1);
                assert!(!reason.trim().is_empty(), "refused without a word");
                assert_eq!(load().err(), Some(reason));
            }
        }
    });
    let (read, refused) = (read.get(), refused.get());
    assert!(read + refused < INPUTS || (read > INPUTS / 20 && refused > INPUTS / 20), "{read}");
}

/// Returns some bit of the text, the same every time.
fn random_is_even(text: &[u8]) -> bool {
    text.len().is_multiple_of(2)
}

/// A shard's clients, with one that subscribes to everything.
struct House {
    context: Rc<ClientContext>,
    pool: Rc<BufferPool>,
}

impl House {
    fn new(auth_required: bool) -> Self {
        let mut options = Options::default();
        options.limits.control_line_bytes_max = LIMITS.control_line_bytes_max;
        options.limits.payload_bytes_max = LIMITS.payload_bytes_max;
        if auth_required {
            options.auth.user = Some("bob".into());
            options.auth.password = Some(Secret::new("secret"));
        }
        let auth = AuthState::build(&options, None).expect("one user");
        let context = Rc::new(ClientContext::plain(
            Rc::new(RefCell::new(Broker::reproducible(1))),
            Arc::new(options),
            Arc::new(auth),
            1,
        ));
        Self { context, pool: Rc::new(BufferPool::new(&READ_BUFFER_BYTES, 1 << 20)) }
    }

    fn enter(&self, id: u64) -> (ClientSession, ReadBuffer) {
        let context = self.context.clone();
        let mut session =
            ClientSession::new(ConnectionId(id), Peer::Unix, context, false, Instant::now());
        session.start();
        (session, ReadBuffer::new(self.pool.clone()))
    }
}

/// Gives the session a piece of input; false once it has closed.
fn say(session: &mut ClientSession, input: &mut ReadBuffer, piece: &[u8]) -> bool {
    input.extend(piece);
    loop {
        match session.receive(input) {
            Step::ReadMore => {
                assert!(
                    input.bytes().len() <= PENDING_BYTES_MAX,
                    "{} bytes kept",
                    input.bytes().len()
                );
                return true;
            }
            // Nobody answers password checks here: the connection makes no progress.
            Step::WaitFor(_) => return true,
            Step::Again | Step::Move(_) | Step::Leave(_) => {}
            Step::ReadMoreWithin(_) | Step::StartTls(_) | Step::StartFrames(_) => {
                panic!("neither TLS nor WebSocket is configured here")
            }
            Step::Close(reason) => {
                session.close(reason);
                return false;
            }
        }
    }
}

fn said(outbox: &Outbox) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let next = std::pin::pin!(outbox.next_chunk());
        match next.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(chunk)) => {
                all.extend_from_slice(&chunk);
                outbox.send_ends(chunk);
            }
            _ => return all,
        }
    }
}

/// Reads what a client is sent as strictly as a client can: whole lines of known verbs, sizes that
/// fit.
fn assert_well_formed(mut bytes: &[u8]) -> usize {
    let mut messages = 0;
    while !bytes.is_empty() {
        let end = memchr::memmem::find(bytes, b"\r\n").expect("every line ends");
        let line = &bytes[..end];
        let shown = line.escape_ascii();
        assert!(!line.iter().any(|byte| matches!(byte, b'\n' | b'\r')), "{shown}");
        bytes = &bytes[end + 2..];
        let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let sized = match words[0] {
            b"MSG" => (4..=5).contains(&words.len()),
            b"HMSG" => (5..=6).contains(&words.len()),
            b"INFO" | b"-ERR" => false,
            _ => {
                assert!(matches!(line, b"PING" | b"PONG" | b"+OK"), "unknown line {shown}");
                false
            }
        };
        assert!(sized || !words[0].ends_with(b"MSG"), "words of {shown}");
        if sized {
            messages += 1;
            assert!(words.iter().all(|word| !word.is_empty()), "empty word in {shown}");
            let size = std::str::from_utf8(words[words.len() - 1]).expect("digits");
            let size: usize = size.parse().expect("a size");
            assert_eq!(&bytes[size..size + 2], b"\r\n", "payload of {shown}");
            bytes = &bytes[size + 2..];
        }
    }
    messages
}

fn in_pieces(random: &mut Rng, stream: &[u8], mut each: impl FnMut(&[u8]) -> bool) {
    let mut rest = stream;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(random.usize(1..=rest.len()));
        rest = after;
        if !each(piece) {
            return;
        }
    }
}

/// For "crash before login" and "memory before login" in SECURITY.md: whatever a stranger sends,
/// nothing panics, little is kept, and nobody else receives a byte of it.
#[test]
fn before_login() {
    fuzz("before_login", |random| {
        let house = House::new(true);
        let (mut stranger, mut input) = house.enter(6);
        let stream = match random.bool() {
            true => mutate::stream(random),
            false => {
                let mut stream = b"CONNECT ".to_vec();
                mutate::json(random, &mut stream);
                stream.extend_from_slice(b"\r\nSUB > 1\r\nPUB a 1\r\nx\r\n");
                stream
            }
        };
        in_pieces(random, &stream, |piece| say(&mut stranger, &mut input, piece));
        assert_eq!(assert_well_formed(&said(stranger.outbox())), 0, "heard a message");
        assert_eq!(house.context.broker.borrow().subscription_total(), 0, "subscribed");
        assert_eq!(stranger.facts().in_messages, 0, "published");
    });
}

/// For "line injection" in SECURITY.md: no subject, reply, sid, queue name or error text makes a
/// line that its receiver takes for something else.
#[test]
fn line_injection() {
    fuzz("line_injection", |random| {
        let house = House::new(false);
        let (mut listener, mut heard) = house.enter(5);
        let hello: &[u8] = match random.bool() {
            true => b"CONNECT {\"verbose\":false,\"headers\":true}\r\nSUB > 1\r\n",
            false => b"CONNECT {\"verbose\":false}\r\nSUB > 1\r\n",
        };
        assert!(say(&mut listener, &mut heard, hello));
        let (mut stranger, mut input) = house.enter(6);
        let mut stream =
            b"CONNECT {\"headers\":true,\"no_responders\":true}\r\nSUB a.> 7\r\n".to_vec();
        stream.extend(mutate::stream(random));
        in_pieces(random, &stream, |piece| say(&mut stranger, &mut input, piece));
        assert_well_formed(&said(stranger.outbox()));
        assert_well_formed(&said(listener.outbox()));
    });
}

/// Returns pipelined and damaged requests.
fn requests(random: &mut Rng) -> Vec<u8> {
    const HEADERS: [&str; 9] = [
        "Host: a\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length: -1\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close, keep-alive\r\n",
        "Expect: 100-continue\r\n",
        "X: \x7f\u{e9}\r\n",
        " folded\r\n",
    ];
    const TARGETS: [&str; 14] = [
        "/",
        "/varz",
        "/connz?limit=1&offset=9223372036854775807&sort=bytes_to&subs=detail",
        "/connz?cid=18446744073709551615&state=ALL&acc=%24G",
        "/subsz?subs=1&test=a.b&limit=-1",
        "/subsz?test=a.%2A;limit=2",
        "/jsz?accounts=1&raft=T&leader-only=0&limit=9",
        "/healthz?js-enabled-only=true&details=1&stream=x",
        "/accountz?acc=%ff",
        "/accstatz?unused=yes",
        "/gatewayz?accs=1&acc_name=%",
        "/metrics",
        "http://a/dashboard",
        "*",
    ];
    let mut bytes = Vec::new();
    for _ in 0..random.usize(1..4) {
        let verb = *mutate::choose(random, &["GET", "GET", "GET", "HEAD", "POST", "get"]);
        let target = *mutate::choose(random, &TARGETS);
        let version = *mutate::choose(random, &["HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0"]);
        bytes.extend_from_slice(format!("{verb} {target} {version}\r\n").as_bytes());
        if random.u8(..) < 230 {
            bytes.extend_from_slice(b"Host: localhost\r\n");
        }
        while random.u8(..) < 60 {
            bytes.extend_from_slice(mutate::choose(random, &HEADERS).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
    }
    if random.bool() {
        mutate::mutate(random, &mut bytes);
    }
    if random.u8(..) < 4 {
        let size = bytes.len() + random.usize(..20_000);
        bytes.resize(size, b'a');
    }
    bytes
}

/// Returns the outcome of a stream of requests that arrived in pieces: answers' statuses, and the
/// end.
fn plan_all(bytes: &[u8], ends: &[usize]) -> (Vec<(String, u16)>, Option<u16>) {
    let mut reader = RequestReader::default();
    let (mut start, mut planned) = (0, Vec::new());
    for end in ends {
        // As in the monitoring thread: one chunk at a time, and no more while there is a head.
        for chunk in bytes[start..*end].chunks(4096) {
            reader.push(chunk);
            loop {
                match reader.next_request() {
                    Ok(Some(request)) => {
                        let path = request.path.clone();
                        let status =
                            plan("/", &request).ask.map_or_else(|answer| answer.status, |_| 200);
                        assert!([200, 400, 404].contains(&status), "{path}: {status}");
                        planned.push((path, status));
                    }
                    Ok(None) => break,
                    Err(refused) => return (planned, Some(refused.response().status)),
                }
            }
            assert!(reader.held() < HTTP_HEAD_BYTES_MAX, "{} bytes are held", reader.held());
        }
        start = *end;
    }
    (planned, None)
}

/// Requests to the monitoring port are the same wherever they are cut, and all are answered.
#[test]
fn http() {
    fuzz("http", |random| {
        let bytes = requests(random);
        let whole = plan_all(&bytes, &[bytes.len()]);
        let mut ends: Vec<usize> =
            (0..random.usize(1..6)).map(|_| random.usize(..=bytes.len())).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let pieces = plan_all(&bytes, &ends);
        assert_eq!(pieces, whole);
    });
}

/// The inputs are not all nonsense: the generators reach deliveries, errors and logins.
#[test]
fn smoke() {
    let (mut commands, mut errors, mut starts, mut logins) = (0, 0, 0, 0);
    let mut answered = 0;
    for seed in 0..2_000 {
        let mut random = Rng::with_seed(seed);
        let stream = mutate::stream(&mut random);
        let (read, error) = read(&stream, &[stream.len()], true);
        commands += read.len();
        errors += u32::from(error.is_some());
        let words = mutate::arguments(&mut random).into_iter().map(OsString::from_vec);
        let files = FuzzedFiles(mutate::configuration(&mut random));
        let invocation = parse_in(OsStr::new("midge"), words, &files);
        starts += u32::from(matches!(invocation, Invocation::Run(_)));
        let bytes = requests(&mut random);
        answered += plan_all(&bytes, &[bytes.len()]).0.iter().filter(|one| one.1 == 200).count();
        let mut json = Vec::new();
        mutate::json(&mut random, &mut json);
        logins += u32::from(ConnectOptions::default().merge(&json).is_ok());
    }
    let reached = (commands, errors, starts, logins);
    assert!(answered > 500, "{answered} requests that an endpoint answers");
    assert!(commands > 1_500 && errors > 300 && starts > 200 && logins > 300, "{reached:?}");
}

/// A start reads whatever the files of a store hold, in memory that their length bounds.
#[test]
fn store_files() {
    let stores = store::stores();
    fuzz_some("store_files", STORE_INPUTS, |random| {
        let mut files = mutate::choose(random, &stores).clone();
        store::damage(random, &mut files);
        store::check(&files);
    });
}

/// The same of records that nobody wrote, with checksums that fit.
#[test]
fn store_records() {
    let stores = store::stores();
    fuzz_some("store_records", STORE_INPUTS, |random| {
        let mut files = mutate::choose(random, &stores).clone();
        forge::forge(random, &mut files);
        store::check(&files);
    });
}

#[test]
fn jwts() {
    fuzz_some("jwts", JWT_INPUTS, jwt::check);
}
