//! The log line about a publisher that a slow consumer holds up, tested on the session itself: over
//! a socket it depends on the machine whether a consumer is slow.

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use midge::testing::auth::state::AuthState;
use midge::testing::base::ids::ConnectionId;
use midge::testing::base::limits::READ_BUFFER_BYTES;
use midge::testing::base::log::{LineFormat, LogSettings, Logger};
use midge::testing::base::pool::BufferPool;
use midge::testing::broker::Broker;
use midge::testing::client::context::ClientContext;
use midge::testing::client::session::ClientSession;
use midge::testing::config::options::Options;
use midge::testing::net::listener::Peer;
use midge::testing::net::read_buffer::ReadBuffer;
use midge::testing::net::session::{Session, Step, Wait};
use tracing_subscriber::layer::SubscriberExt;

const WAIT_MAX: Duration = Duration::from_secs(10);

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn context() -> Rc<ClientContext> {
    let options = Options::default();
    let auth = AuthState::build(&options, None).expect("nobody has to log in");
    Rc::new(ClientContext::plain(
        Rc::new(RefCell::new(Broker::reproducible(1))),
        Arc::new(options),
        Arc::new(auth),
        1,
    ))
}

/// Returns a publisher that has to wait for a subscriber, if the machine is quick enough: a
/// consumer that has not moved for long is not waited for.
fn held_up(context: &Rc<ClientContext>) -> Option<(ClientSession, ReadBuffer)> {
    let pool = Rc::new(BufferPool::new(&READ_BUFFER_BYTES, 1 << 20));
    let enter = |id: u64| {
        let now = Instant::now();
        let mut session =
            ClientSession::new(ConnectionId(id), Peer::Unix, context.clone(), false, now);
        session.start();
        (session, ReadBuffer::new(pool.clone()))
    };
    let ((mut subscriber, mut heard), (mut publisher, mut said)) = (enter(1), enter(2));
    heard.extend(b"SUB a 1\r\n");
    subscriber.receive(&mut heard);
    said.extend(b"CONNECT {\"name\":\"fast\",\"verbose\":false}\r\n");
    let message = [&b"PUB a 600000\r\n"[..], &[b'x'; 600_000], b"\r\n"].concat();
    (0..4).for_each(|_| said.extend(&message));
    let deadline = Instant::now() + WAIT_MAX;
    while Instant::now() < deadline {
        match publisher.receive(&mut said) {
            Step::WaitFor(Wait::Sent { .. }) => return Some((publisher, said)),
            Step::Again => {}
            _ => break,
        }
    }
    None
}

/// Lets time pass as the reader of a connection may, without a sleep.
fn pass(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        std::thread::yield_now();
    }
}

#[test]
fn a_publisher_that_was_held_up_for_long_is_logged() {
    let settings = LogSettings {
        debug: false,
        trace: false,
        timestamp: false,
        utc: true,
        colors: false,
        json: false,
    };
    let lines = Lines::default();
    let logger = Logger::start(Arc::new(LineFormat::new(settings)), lines.clone());
    let subscriber = tracing_subscriber::registry().with(logger.layer());
    tracing::subscriber::with_default(subscriber, || {
        let context = context();
        let deadline = Instant::now() + WAIT_MAX;
        let (mut publisher, mut said) = loop {
            if let Some(found) = held_up(&context) {
                break found;
            }
            assert!(Instant::now() < deadline, "the machine is too slow for this");
        };
        pass(Duration::from_millis(6));
        publisher.receive(&mut said);
    });
    logger.stop();
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let told: Vec<&str> = text.lines().filter(|line| line.contains("stalled")).collect();
    let start = "[WRN] unix:0 - cid:2 - \"fast\" - Producer was stalled for a total of ";
    let (_, rest) = told[0].split_once(start).unwrap_or_else(|| panic!("{text}"));
    let time = rest.strip_suffix("ms - Account:$G").unwrap_or_else(|| panic!("{text}"));
    assert!(time.parse::<u64>().unwrap() >= 6, "{text}");
    assert_eq!(told.len(), 1, "{text}");
}
