//! Strangers at the port for WebSocket: their requests for an upgrade, their frames, and what these
//! inflate to.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use fastrand::Rng;
use midge::testing::auth::authenticator::ConnectionType;
use midge::testing::base::ids::ConnectionId;
use midge::testing::base::limits::{OPENED_BYTES, OPENED_PER_STEP_BYTES, UPGRADE_HEAD_BYTES_MAX};
use midge::testing::base::pool::BufferPool;
use midge::testing::client::session::ClientSession;
use midge::testing::config::options::Options;
use midge::testing::net::frames::{Decoded, Deflaters, Frames};
use midge::testing::net::listener::Peer;
use midge::testing::net::read_buffer::ReadBuffer;
use midge::testing::net::session::{Session, Step};
use midge::testing::peer::upgrade::WebSocketServer;

use super::{House, PENDING_BYTES_MAX, assert_well_formed, fuzz_some, in_pieces, mutate, said};

/// Some are deflated, and inflate to a million bytes in all.
const WEB_INPUTS: u64 = 3_000;

/// A connection as its reader drives it, without a socket.
struct Web {
    session: ClientSession,
    input: ReadBuffer,
    framed: ReadBuffer,
    frames: Option<Frames>,
    deflaters: Deflaters,
    is_over: bool,
}

impl Web {
    fn new(house: &House, compression: bool) -> Self {
        let mut options = Options::default();
        options.websocket.compression = compression;
        options.websocket.user_cookie = Some("user".into());
        options.websocket.allowed_origins = vec!["http://a".into()];
        let server = WebSocketServer::new(&options.websocket, None, 1).expect("good options");
        *house.context.websocket.borrow_mut() = Some(Arc::new(server));
        let (way, context) = (ConnectionType::Websocket, house.context.clone());
        let mut session =
            ClientSession::of_way(way, ConnectionId(6), Peer::Unix, context, false, Instant::now());
        session.start();
        let opened = Rc::new(BufferPool::new(&OPENED_BYTES, 1 << 20));
        Self {
            session,
            input: ReadBuffer::new(house.pool.clone()),
            framed: ReadBuffer::new(opened),
            frames: None,
            deflaters: Deflaters::default(),
            is_over: false,
        }
    }

    /// Gives it a piece of what its socket brings; false once it is over.
    fn read(&mut self, piece: &[u8]) -> bool {
        match self.frames {
            None => self.input.extend(piece),
            Some(_) => self.framed.extend(piece),
        }
        loop {
            let mut has_more = false;
            if let Some(frames) = &mut self.frames {
                let limits = self.session.frame_limits();
                let decoded =
                    frames.decode(&mut self.framed, &mut self.input, limits, &self.deflaters);
                has_more = decoded == Decoded::Some;
                let bound = OPENED_PER_STEP_BYTES + PENDING_BYTES_MAX + piece.len();
                assert!(self.input.bytes().len() <= bound, "{}", self.input.bytes().len());
                assert!(has_more || self.framed.bytes().len() < 14 + 125, "frames are kept");
            }
            loop {
                match self.session.receive(&mut self.input) {
                    Step::ReadMore => break,
                    Step::WaitFor(_) => return true,
                    Step::Again | Step::Move(_) | Step::Leave(_) => {}
                    Step::StartFrames(upgrade) => {
                        assert!(self.frames.is_none() && self.input.bytes().is_empty());
                        assert!(upgrade.answer.starts_with(b"HTTP/1.1 101 "));
                        self.frames = Some(Frames::new(*upgrade));
                    }
                    Step::ReadMoreWithin(_) | Step::StartTls(_) => panic!("there is no TLS"),
                    Step::Close(reason) => {
                        self.session.close(reason);
                        self.is_over = true;
                        return false;
                    }
                }
            }
            let ended = self.frames.as_ref().is_some_and(|frames| {
                assert!(frames.failure().is_none() || !frames.has_outgoing() || !has_more);
                frames.failure().is_some() || frames.peer_closed()
            });
            if ended {
                self.is_over = true;
                return false;
            }
            if !has_more {
                return true;
            }
        }
    }
}

fn request(random: &mut Rng) -> Vec<u8> {
    let mut text = String::from(
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
    );
    for line in [
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        "Origin: http://a",
        "Nats-No-Masking: true",
        "User-Agent: Mozilla/5.0 Version/1 Safari/1",
        "X-Forwarded-For: ::1",
        "Cookie: user=bob; x=\"y\"",
    ] {
        if random.bool() {
            text.push_str(line);
            text.push_str("\r\n");
        }
    }
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn frame(random: &mut Rng, first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let masked = if random.u8(..16) == 0 { 0 } else { 0x80 };
    // Lengths need not be minimal.
    match (payload.len(), random.u8(..8)) {
        (length @ 0..=125, 1..) => bytes.push(masked | length as u8),
        (length @ 0..=0xffff, 2..) => {
            bytes.push(masked | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        (length, _) => {
            bytes.push(masked | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let key = random.u32(..).to_be_bytes();
    if masked != 0 {
        bytes.extend_from_slice(&key);
        bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    } else {
        bytes.extend_from_slice(payload);
    }
    bytes
}

fn deflated(plain: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(plain.len() + 100);
    flate2::Compress::new(flate2::Compression::fast(), false)
        .compress_vec(plain, &mut bytes, flate2::FlushCompress::Sync)
        .expect("there is room");
    bytes.truncate(bytes.len().saturating_sub(4));
    bytes
}

/// What a stranger sends in one message: good verbs, anything, or few bytes that stand for many.
fn frames(random: &mut Rng) -> Vec<u8> {
    let mut payload = match random.u8(..4) {
        0 => b"CONNECT {\"user\":\"bob\",\"pass\":\"wrong\"}\r\nSUB > 1\r\n".to_vec(),
        1 => vec![b'x'; random.usize(..300_000)],
        2 => vec![b'\n'; random.usize(..300_000)],
        _ => mutate::stream(random),
    };
    let is_deflated = random.u8(..3) == 0;
    if is_deflated {
        payload = deflated(&payload);
    }
    if random.u8(..8) == 0 {
        mutate::mutate(random, &mut payload);
    }
    let count = random.usize(1..=3);
    let size = payload.len().div_ceil(count).max(1);
    let pieces: Vec<Vec<u8>> = payload.chunks(size).map(<[u8]>::to_vec).collect();
    let mut bytes = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let opcode = if index == 0 { 1 + random.u8(..2) } else { 0 };
        let rsv = if index == 0 && is_deflated { 0x40 } else { 0 };
        let last = if index + 1 == pieces.len() { 0x80 } else { 0 };
        bytes.extend(frame(random, opcode | rsv | last, piece));
        if random.u8(..4) == 0 {
            let control = [0x88, 0x89, 0x8a, random.u8(..)][random.usize(..4)];
            let length = random.usize(..130);
            bytes.extend(frame(random, control, &vec![b'p'; length]));
        }
    }
    bytes
}

/// For "memory before login" and "crash before login" in SECURITY.md: upgrade, frames and inflation.
#[test]
fn web_before_login() {
    fuzz_some("web_before_login", WEB_INPUTS, |random| {
        let house = House::new(true);
        let mut web = Web::new(&house, random.u8(..4) > 0);
        let mut head = request(random);
        if random.u8(..4) == 0 {
            mutate::mutate(random, &mut head);
        }
        if random.u8(..64) == 0 {
            head.splice(16..16, vec![b'y'; UPGRADE_HEAD_BYTES_MAX]);
        }
        in_pieces(random, &head, |piece| web.read(piece));
        if web.frames.is_some() && !web.is_over {
            let mut stream = Vec::new();
            for _ in 0..random.usize(..4) {
                stream.extend(frames(random));
            }
            if random.u8(..8) == 0 {
                mutate::mutate(random, &mut stream);
            }
            in_pieces(random, &stream, |piece| web.read(piece));
        }
        let sent = said(web.session.outbox());
        if web.frames.is_some() {
            assert_eq!(assert_well_formed(&sent), 0, "heard a message");
        } else {
            assert!(sent.is_empty() || sent.starts_with(b"HTTP/1.1 4"));
        }
        assert_eq!(house.context.broker.borrow().subscription_total(), 0, "subscribed");
        assert_eq!(web.session.facts().in_messages, 0, "published");
    });
}
