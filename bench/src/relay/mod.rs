//! The raw relay: passes on bytes and parses nothing. No broker can move messages with less work on
//! this host, so its rate is the ceiling with which throughput figures are compared.
//!
//! It speaks just enough of the handshake for the harness's own client to connect. A peer that
//! subscribes gets everything; a peer that sends anything else after the handshake is a publisher,
//! whose bytes are from then on only counted, so that publishers mix at the borders of frames.

pub mod process;

use crate::Failure;
use rustix::event::epoll;
use rustix::net::{RecvFlags, recv};
use std::collections::HashMap;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

const READ_SIZE: usize = 256 * 1024;
const HANDSHAKE_BYTES_MAX: usize = 16 * 1024;
const INFO: &[u8] = b"INFO {\"server_name\":\"relay\",\"version\":\"raw\",\"max_payload\":0}\r\n";

/// How a relay passes bytes on.
#[derive(Clone, Copy, Debug)]
pub struct RelayPlan {
    /// Every frame has exactly this length; reads are cut at its multiples.
    pub frame_size: usize,
    /// Each read goes to one subscriber in turn instead of to all.
    pub queue: bool,
}

enum Role {
    /// In the handshake; with what it has sent so far.
    New(Vec<u8>),
    /// With the start of a frame whose end has not come.
    Publisher(Vec<u8>),
    Subscriber,
}

struct Relay {
    plan: RelayPlan,
    epoll: OwnedFd,
    peers: HashMap<u64, (TcpStream, Role)>,
    /// Keys of the subscribers, in the order in which they came.
    subscribers: Vec<u64>,
    next_subscriber: usize,
    buffer: Vec<u8>,
}

/// Serves until the listener fails. Runs on one thread, since the server in whose place it runs is
/// given one core.
///
/// # Errors
/// If the kernel refuses the listener or the poll.
pub fn serve(listener: &TcpListener, plan: RelayPlan) -> Result<(), Failure> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(std::io::Error::from)?;
    let listener_key = u64::MAX;
    let data = epoll::EventData::new_u64(listener_key);
    epoll::add(&epoll, listener, data, epoll::EventFlags::IN).map_err(std::io::Error::from)?;
    let mut relay = Relay {
        plan,
        epoll,
        peers: HashMap::new(),
        subscribers: Vec::new(),
        next_subscriber: 0,
        buffer: vec![0; READ_SIZE.max(2 * plan.frame_size)],
    };
    let mut ready: Vec<epoll::Event> = Vec::with_capacity(64);
    loop {
        ready.clear();
        match epoll::wait(&relay.epoll, rustix::buffer::spare_capacity(&mut ready), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(std::io::Error::from(error).into()),
        }
        for event in &ready {
            let key = event.data.u64();
            if key == listener_key {
                let (stream, _) = listener.accept()?;
                relay.admit(stream)?;
            } else if !relay.turn(key) {
                relay.drop_peer(key);
            }
        }
    }
}

impl Relay {
    fn admit(&mut self, mut stream: TcpStream) -> Result<(), Failure> {
        stream.set_nodelay(true)?;
        if stream.write_all(INFO).is_ok() {
            let key = stream.as_raw_fd() as u64;
            let data = epoll::EventData::new_u64(key);
            epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN)
                .map_err(std::io::Error::from)?;
            self.peers.insert(key, (stream, Role::New(Vec::new())));
        }
        Ok(())
    }

    fn drop_peer(&mut self, key: u64) {
        // Closing the socket removes it from the poll set.
        self.peers.remove(&key);
        self.subscribers.retain(|&subscriber| subscriber != key);
    }

    /// Handles what one peer has sent. False if it must be dropped.
    fn turn(&mut self, key: u64) -> bool {
        let Some((stream, role)) = self.peers.get_mut(&key) else { return true };
        let held = match role {
            Role::Publisher(tail) => {
                self.buffer[..tail.len()].copy_from_slice(tail);
                tail.len()
            }
            _ => 0,
        };
        let count = match recv(&*stream, &mut self.buffer[held..], RecvFlags::empty()) {
            Ok((0, _)) | Err(_) => return false,
            Ok((count, _)) => count,
        };
        let mut total = held + count;
        if let Role::New(sent) = role {
            sent.extend_from_slice(&self.buffer[..count]);
            let Some(next) = shake_hands(stream, sent) else { return false };
            match next {
                Next::Wait => return true,
                Next::Subscriber => {
                    *role = Role::Subscriber;
                    self.subscribers.push(key);
                    return true;
                }
                Next::Publisher => {
                    total = sent.len();
                    self.buffer[..total].copy_from_slice(sent);
                    *role = Role::Publisher(Vec::new());
                }
            }
        }
        if matches!(role, Role::Subscriber) {
            return answer_ping(stream, &self.buffer[..total]);
        }
        let whole = total - total % self.plan.frame_size;
        if let Role::Publisher(tail) = role {
            tail.clear();
            tail.extend_from_slice(&self.buffer[whole..total]);
        }
        self.hand_on(whole);
        true
    }

    fn hand_on(&mut self, size: usize) {
        if size == 0 || self.subscribers.is_empty() {
            return;
        }
        let mut broken = Vec::new();
        let targets = if self.plan.queue {
            self.next_subscriber = (self.next_subscriber + 1) % self.subscribers.len();
            &self.subscribers[self.next_subscriber..=self.next_subscriber]
        } else {
            &self.subscribers[..]
        };
        for &target in targets {
            let (stream, _) = &mut self.peers.get_mut(&target).expect("a subscriber is a peer");
            if stream.write_all(&self.buffer[..size]).is_err() {
                broken.push(target);
            }
        }
        broken.into_iter().for_each(|key| self.drop_peer(key));
    }
}

enum Next {
    Wait,
    Subscriber,
    Publisher,
}

/// Consumes whole lines of the handshake and answers PING. `None` if the peer is not the harness's
/// client.
fn shake_hands(stream: &mut TcpStream, sent: &mut Vec<u8>) -> Option<Next> {
    let mut subscribes = false;
    loop {
        if sent.starts_with(b"PUB ") {
            return Some(Next::Publisher);
        }
        let Some(end) = memchr::memchr(b'\n', sent) else {
            let next = if subscribes { Next::Subscriber } else { Next::Wait };
            return (sent.len() < HANDSHAKE_BYTES_MAX).then_some(next);
        };
        match &sent[..=end] {
            line if line.starts_with(b"PING") => stream.write_all(b"PONG\r\n").ok()?,
            line if line.starts_with(b"SUB ") => subscribes = true,
            line if line.starts_with(b"CONNECT ") => {}
            _ => return None,
        }
        sent.drain(..=end);
    }
}

/// Answers the PINGs with which a subscriber fences its subscription.
fn answer_ping(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    let count = memchr::memmem::find_iter(bytes, b"PING\r\n").count();
    (0..count).all(|_| stream.write_all(b"PONG\r\n").is_ok())
}
