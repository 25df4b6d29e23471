//! Frames as a layer of a connection: bounds first, then what comes back.

use std::rc::Rc;

use super::*;
use crate::base::limits::{OPENED_BYTES, READ_BUFFER_BYTES};
use crate::base::pool::BufferPool;
use crate::protocol::websocket::mask;

const BINARY: u8 = 0x82;
const DEFLATED: u8 = 0xc2;
const PING: u8 = 0x89;
const CLOSE: u8 = 0x88;

const LET_IN: FrameLimits = FrameLimits { inflated_bytes_max: 1 << 20, is_let_in: true };
const STRANGER: FrameLimits = FrameLimits { is_let_in: false, ..LET_IN };

struct Peer {
    frames: Frames,
    framed: ReadBuffer,
    input: ReadBuffer,
    deflaters: Deflaters,
}

impl Peer {
    fn new(deflates: bool) -> Self {
        let settings = FrameSettings { needs_mask: true, deflates, ..FrameSettings::default() };
        let pool = |classes: &'static [usize]| Rc::new(BufferPool::new(classes, 1 << 20));
        Self {
            frames: Frames::new(Upgrade { answer: Vec::new(), settings }),
            framed: ReadBuffer::new(pool(&READ_BUFFER_BYTES)),
            input: ReadBuffer::new(pool(&OPENED_BYTES)),
            deflaters: Deflaters::default(),
        }
    }

    /// Reads these bytes, and has a session handle everything as it comes. Returns what the session
    /// got, and the most that was there for it at once.
    fn read(&mut self, bytes: &[u8], limits: FrameLimits) -> (Vec<u8>, usize) {
        self.framed.extend(bytes);
        let (mut all, mut most) = (Vec::new(), 0);
        loop {
            let decoded =
                self.frames.decode(&mut self.framed, &mut self.input, limits, &self.deflaters);
            most = most.max(self.input.bytes().len());
            all.extend_from_slice(self.input.bytes());
            self.input.consume(self.input.bytes().len());
            if decoded == Decoded::All {
                return (all, most);
            }
        }
    }

    fn held_bytes(&self) -> usize {
        self.frames.message.as_ref().map_or(0, |message| message.held.capacity())
    }

    fn sent(&mut self) -> Vec<u8> {
        let mut sent = Vec::new();
        self.frames.take_outgoing(&mut sent);
        sent
    }
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [1, 2, 3, 4];
    let mut bytes = Vec::new();
    // The header of a server's frame, with the bit that says that there is a mask.
    frame::append_data_header(&mut bytes, true, true, false, payload.len());
    bytes[0] = first;
    bytes[1] |= 0x80;
    bytes.extend_from_slice(&key);
    let start = bytes.len();
    bytes.extend_from_slice(payload);
    mask::apply(&mut bytes[start..], key, 0);
    bytes
}

fn deflated(plain: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Deflater::new().deflate(plain, &mut bytes);
    bytes
}

/// A message cut into frames of so many bytes.
fn fragments(message: &[u8], size: usize) -> Vec<Vec<u8>> {
    let count = message.len().div_ceil(size);
    let piece = |(index, piece): (usize, &[u8])| {
        let first = if index == 0 { 0x42 } else { 0 };
        frame(first | if index + 1 == count { 0x80 } else { 0 }, piece)
    };
    message.chunks(size).enumerate().map(piece).collect()
}

#[test]
fn a_deflated_message_inflates_to_as_much_as_it_may_and_no_more() {
    let limits = FrameLimits { inflated_bytes_max: 1000, ..LET_IN };
    for (size, fits) in [(999, true), (1000, true), (1001, false), (1 << 20, false)] {
        let mut peer = Peer::new(true);
        let (got, most) = peer.read(&frame(DEFLATED, &deflated(&vec![b'x'; size])), limits);
        assert_eq!(peer.frames.failure(), (!fits).then_some(FrameFailure::TooLarge), "{size}");
        if fits {
            assert_eq!(got.len(), size);
        }
        assert!(most <= 1000, "{most}");
    }
}

/// The vector of the advisories: few bytes stand for very many.
#[test]
fn a_flood_of_deflated_messages_is_inflated_no_faster_than_the_session_takes_it() {
    let mut peer = Peer::new(true);
    let one = frame(DEFLATED, &deflated(&vec![b'x'; 1 << 20]));
    let (got, most) = peer.read(&one.repeat(16), LET_IN);
    assert_eq!((got.len(), peer.frames.failure()), (16 << 20, None));
    assert!(most <= OPENED_PER_STEP_BYTES + (8 << 10), "{most} bytes at once");
    assert_eq!(peer.deflaters.inflaters.borrow().len(), 1);
}

#[test]
fn an_unfinished_message_of_a_stranger_is_held_up_to_its_bound() {
    let mut random = fastrand::Rng::with_seed(1);
    let plain: Vec<u8> = (0..20_000).map(|_| random.u8(b'a'..=b'z')).collect();
    let message = deflated(&plain);
    assert!(message.len() > 2 * DEFLATED_HELD_BYTES_MAX);
    for (limits, is_let_in) in [(STRANGER, false), (LET_IN, true)] {
        let mut peer = Peer::new(true);
        let mut got = Vec::new();
        for fragment in fragments(&message, 100) {
            got.extend(peer.read(&fragment, limits).0);
            assert!(peer.held_bytes() <= 2 * DEFLATED_HELD_BYTES_MAX + 100);
            let has_own =
                peer.frames.message.as_ref().is_some_and(|message| message.inflater.is_some());
            assert!(is_let_in || !has_own);
        }
        let failure = (!is_let_in).then_some(FrameFailure::TooLarge);
        assert_eq!(peer.frames.failure(), failure);
        assert_eq!(got == plain, is_let_in);
        assert!(peer.frames.message.is_none());
    }
}

#[test]
fn pings_that_nobody_reads_the_answers_to_hold_no_more_than_their_bound() {
    let mut peer = Peer::new(false);
    for index in 0..10_000_u32 {
        peer.read(&frame(PING, format!("ping {index}").as_bytes()), STRANGER);
        assert!(peer.frames.pongs.len() <= PONG_BYTES_MAX);
    }
    assert!(peer.sent().ends_with(b"ping 9999"), "the newest is answered");
}

#[test]
fn a_close_frame_is_answered_after_what_came_before_and_nothing_after_it_is_read() {
    let mut peer = Peer::new(false);
    let mut bytes = frame(BINARY, b"PING\r\n");
    bytes.extend(frame(CLOSE, b"\x03\xe8bye"));
    bytes.extend(frame(BINARY, b"PUB x 0\r\n\r\n"));
    let (got, _) = peer.read(&bytes, LET_IN);
    assert_eq!(got, b"PING\r\n");
    assert!(peer.frames.peer_closed());
    assert!(peer.read(&frame(BINARY, b"more"), LET_IN).0.is_empty());
    let mut last = Vec::new();
    peer.frames.finish(CloseReason::ClientClosed, &mut last);
    assert_eq!(last, b"\x88\x05\x03\xe8bye");
}

#[test]
fn what_breaks_the_protocol_is_told_in_the_last_frame() {
    let mut peer = Peer::new(false);
    let (got, _) = peer.read(&[frame(BINARY, b"PING\r\n"), vec![0x83, 0x80]].concat(), LET_IN);
    assert_eq!(got, b"PING\r\n");
    let failure = peer.frames.failure().expect("it is broken");
    assert_eq!(failure.to_string(), "unknown opcode 3");
    let mut last = Vec::new();
    peer.frames.finish(CloseReason::ReadError, &mut last);
    assert_eq!(last, b"\x88\x12\x03\xeaunknown opcode 3");
    let mut none = Vec::new();
    Peer::new(false).frames.finish(CloseReason::SlowConsumerPendingBytes, &mut none);
    assert!(none.is_empty(), "its socket takes nothing");
}

#[test]
fn what_is_sent_comes_back_whatever_the_peer_likes() {
    let mut random = fastrand::Rng::with_seed(2);
    for size in [1, 64, 65, 4096, 4097, 20_000, 64 << 10] {
        let plain: Vec<u8> = (0..size).map(|_| random.u8(b'a'..=b'p')).collect();
        for (deflates, frame_bytes_max, splits_deflated) in [
            (false, None, true),
            (false, Some(4096), true),
            (true, None, true),
            (true, Some(4096), true),
            (true, Some(4096), false),
        ] {
            let settings =
                FrameSettings { needs_mask: false, deflates, frame_bytes_max, splits_deflated };
            let mut frames = Frames::new(Upgrade { answer: Vec::new(), settings });
            let mut bytes = Vec::new();
            frames.seal(&plain, &Deflaters::default(), &mut bytes);
            assert!(bytes.len() <= frames.sealed_size_max(plain.len()));
            let (mut lengths, mut rest) = (Vec::new(), bytes.clone());
            let mut reader = FrameReader::new(false, true);
            while !rest.is_empty() {
                let (part, taken) = reader.next(&mut rest, usize::MAX).expect("good frames");
                if let Part::Data { payload, .. } = part {
                    lengths.push(payload.len());
                }
                rest.drain(..taken);
            }
            if let Some(max) = frame_bytes_max
                && (!deflates || splits_deflated)
            {
                assert!(lengths.iter().all(|length| *length <= max), "{lengths:?}");
            }
            let mut peer = Peer::new(true);
            peer.frames.reader = FrameReader::new(false, true);
            assert_eq!(peer.read(&bytes, LET_IN).0, plain);
            // Nothing is held of what was sent.
            assert!(!frames.has_outgoing());
            frames.finish(CloseReason::ServerShutdown, &mut bytes);
            assert!(bytes.ends_with(b"Server Shutdown"));
        }
    }
}

#[test]
fn corrupt_data_ends_the_connection() {
    let mut peer = Peer::new(true);
    peer.read(&frame(DEFLATED, &[0xff; 100]), STRANGER);
    assert_eq!(peer.frames.failure(), Some(FrameFailure::Corrupt(Corrupt)));
}
