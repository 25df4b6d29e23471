//! WebSocket as a layer of a connection: an upgrade, frames around what is sent, none around what
//! is read.
//!
//! A client must mask. The key of a connection stays the same: for the server it costs as much as
//! any other.

use crate::Failure;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// Bytes of one frame that is sent.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// The bytes with which a flush of the deflater ends, left out on the wire.
const FLUSH_END: [u8; 4] = [0, 0, 0xff, 0xff];
/// Bytes up to which a message is not deflated.
const PLAIN_BYTES_MAX: usize = 64;

const FINAL_BINARY: u8 = 0x82;
const DEFLATED: u8 = 0x40;
const MASKED: u8 = 0x80;

/// Returns the request for an upgrade.
pub fn request(host: &str, deflates: bool) -> String {
    let extension = match deflates {
        true => {
            "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; \
             client_no_context_takeover\r\n"
        }
        false => "",
    };
    format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: bWlkZ2UtYmVuY2gtMDEyMw==\r\nSec-WebSocket-Version: 13\r\n{extension}\r\n"
    )
}

/// Judges the answer to an upgrade.
///
/// # Errors
/// If the server does not speak WebSocket, or not as it was asked to.
pub fn check_answer(head: &str, deflates: bool) -> Result<(), Failure> {
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("101") {
        return Err(Failure::new(format!("no WebSocket here: the server answers '{status}'")));
    }
    if deflates && !head.to_ascii_lowercase().contains("permessage-deflate") {
        return Err(Failure::new("the server does not deflate: its compression is off"));
    }
    Ok(())
}

/// The layer of one connection.
pub struct Frames {
    key: [u8; 4],
    deflater: Option<Compress>,
    inflater: Option<Decompress>,
    deflated: Vec<u8>,
    /// A frame that the socket has not taken whole, and the part that it took.
    outgoing: Vec<u8>,
    sent: usize,
    /// Bytes that came, and the part that was taken apart.
    incoming: Vec<u8>,
    taken: usize,
    /// Bytes of payload that the frame begun still lacks.
    left: u64,
    is_deflated: bool,
    is_final: bool,
    /// Payload that found no room in the caller's buffer.
    opened: Vec<u8>,
    given: usize,
    is_closed: bool,
}

impl Frames {
    pub fn new(deflates: bool) -> Frames {
        Frames {
            key: [0x6d, 0x69, 0x64, 0x67],
            deflater: deflates.then(|| Compress::new(Compression::fast(), false)),
            inflater: deflates.then(|| Decompress::new(false)),
            deflated: Vec::new(),
            outgoing: Vec::new(),
            sent: 0,
            incoming: Vec::new(),
            taken: 0,
            left: 0,
            is_deflated: false,
            is_final: false,
            opened: Vec::new(),
            given: 0,
            is_closed: false,
        }
    }

    /// Returns true once the server has said that it closes.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Returns what the socket is to take.
    pub fn outgoing(&self) -> &[u8] {
        &self.outgoing[self.sent..]
    }

    /// The socket took so many bytes of `outgoing`.
    pub fn sent(&mut self, count: usize) {
        self.sent += count;
        if self.sent == self.outgoing.len() {
            self.outgoing.clear();
            self.sent = 0;
        }
    }

    /// Frames as many of the bytes as one frame takes, and returns their number. To be called only
    /// while nothing is outgoing.
    pub fn frame(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(FRAME_BYTES_MAX);
        let mut first = FINAL_BINARY;
        let mut payload = &bytes[..count];
        if let Some(deflater) = &mut self.deflater
            && count > PLAIN_BYTES_MAX
        {
            deflate(deflater, payload, &mut self.deflated);
            payload = &self.deflated;
            first |= DEFLATED;
        }
        self.outgoing.push(first);
        match payload.len() {
            short @ 0..=125 => self.outgoing.push(MASKED | short as u8),
            length @ 126..=0xffff => {
                self.outgoing.push(MASKED | 126);
                self.outgoing.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                self.outgoing.push(MASKED | 127);
                self.outgoing.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        self.outgoing.extend_from_slice(&self.key);
        let start = self.outgoing.len();
        self.outgoing.extend_from_slice(payload);
        mask(&mut self.outgoing[start..], self.key);
        count
    }

    /// Takes bytes of the socket.
    pub fn received(&mut self, bytes: &[u8]) {
        if self.taken == self.incoming.len() {
            self.incoming.clear();
            self.taken = 0;
        }
        self.incoming.extend_from_slice(bytes);
    }

    /// Fills the buffer with payload, as far as there is some.
    ///
    /// # Errors
    /// If a message cannot be inflated.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        let mut count = 0;
        loop {
            let rest = &self.opened[self.given..];
            let size = rest.len().min(buffer.len() - count);
            buffer[count..count + size].copy_from_slice(&rest[..size]);
            count += size;
            self.given += size;
            if self.given == self.opened.len() {
                self.opened.clear();
                self.given = 0;
            }
            if count == buffer.len() || !self.open_some(&mut buffer[count..], &mut count)? {
                return Ok(count);
            }
        }
    }

    /// Takes the next piece of a frame apart: plain payload goes to `room`, inflated payload to
    /// `opened`. False = nothing more came.
    fn open_some(&mut self, room: &mut [u8], count: &mut usize) -> Result<bool, Failure> {
        if self.left == 0 && !self.open_header() {
            return Ok(false);
        }
        let rest = &self.incoming[self.taken..];
        let there = usize::try_from(self.left).map_or(rest.len(), |left| left.min(rest.len()));
        if there == 0 && self.left > 0 {
            return Ok(false);
        }
        let Some(inflater) = self.inflater.as_mut().filter(|_| self.is_deflated) else {
            let size = there.min(room.len());
            room[..size].copy_from_slice(&rest[..size]);
            *count += size;
            self.taken += size;
            self.left -= size as u64;
            return Ok(true);
        };
        inflate(inflater, &rest[..there], &mut self.opened)?;
        self.taken += there;
        self.left -= there as u64;
        if self.left == 0 && self.is_final {
            inflate(inflater, &FLUSH_END, &mut self.opened)?;
            inflater.reset(false);
        }
        Ok(true)
    }

    /// Reads a header; a control frame is passed over. False = it is not whole.
    fn open_header(&mut self) -> bool {
        loop {
            let rest = &self.incoming[self.taken..];
            let (Some(&first), Some(&second)) = (rest.first(), rest.get(1)) else { return false };
            let (size, length) = match second {
                126 => match rest.get(2..4) {
                    Some(bytes) => (4, u64::from(u16::from_be_bytes([bytes[0], bytes[1]]))),
                    None => return false,
                },
                127 => match rest.get(2..10).and_then(|bytes| bytes.try_into().ok()) {
                    Some(bytes) => (10, u64::from_be_bytes(bytes)),
                    None => return false,
                },
                short => (2, u64::from(short)),
            };
            if first & 8 == 0 {
                self.is_deflated = match first & 0xf {
                    0 => self.is_deflated,
                    _ => first & DEFLATED != 0,
                };
                self.is_final = first & 0x80 != 0;
                self.taken += size;
                self.left = length;
                if length > 0 {
                    return true;
                }
                continue;
            }
            let end = size + usize::try_from(length).unwrap_or(usize::MAX - size);
            if rest.len() < end {
                return false;
            }
            self.is_closed |= first & 0xf == 8;
            self.taken += end;
        }
    }
}

fn mask(bytes: &mut [u8], key: [u8; 4]) {
    let lane: [u8; 32] = std::array::from_fn(|index| key[index % 4]);
    let (lanes, rest) = bytes.as_chunks_mut::<32>();
    for bytes in lanes {
        bytes.iter_mut().zip(&lane).for_each(|(byte, mask)| *byte ^= mask);
    }
    rest.iter_mut().zip(&lane).for_each(|(byte, mask)| *byte ^= mask);
}

fn deflate(state: &mut Compress, plain: &[u8], target: &mut Vec<u8>) {
    state.reset();
    target.clear();
    target.reserve(plain.len() + plain.len() / 128 + 64);
    let mut rest = plain;
    loop {
        let before = state.total_in();
        state.compress_vec(rest, target, FlushCompress::Sync).expect("there is room");
        rest = &rest[(state.total_in() - before) as usize..];
        if rest.is_empty() && target.len() < target.capacity() {
            break;
        }
        target.reserve(64);
    }
    target.truncate(target.len() - FLUSH_END.len());
}

fn inflate(state: &mut Decompress, deflated: &[u8], target: &mut Vec<u8>) -> Result<(), Failure> {
    let mut rest = deflated;
    loop {
        target.reserve(16 * 1024);
        let before = state.total_in();
        state
            .decompress_vec(rest, target, FlushDecompress::None)
            .map_err(|error| Failure::new(format!("a message cannot be inflated: {error}")))?;
        rest = &rest[(state.total_in() - before) as usize..];
        if rest.is_empty() && target.len() < target.capacity() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Unmasks what a client sent, which then reads as if a server had sent it.
    fn as_served(frame: &[u8]) -> Vec<u8> {
        let size = match frame[1] & 0x7f {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        let mut header = frame[..size].to_vec();
        header[1] &= !MASKED;
        let key = frame[size..size + 4].try_into().expect("four bytes");
        let mut payload = frame[size + 4..].to_vec();
        mask(&mut payload, key);
        [header, payload].concat()
    }

    #[test]
    fn what_is_framed_reads_back_however_it_is_cut() {
        for deflates in [false, true] {
            for length in [1, 64, 65, 126, 4096, 70_000] {
                let plain: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
                let mut sender = Frames::new(deflates);
                let mut wire = vec![0x89, 2, b'h', b'i'];
                let mut framed = 0;
                while framed < plain.len() {
                    framed += sender.frame(&plain[framed..]);
                    wire.extend(as_served(sender.outgoing()));
                    sender.sent(sender.outgoing().len());
                }
                for step in [1, 7, 1000, wire.len()] {
                    let mut receiver = Frames::new(deflates);
                    let mut got = Vec::new();
                    for piece in wire.chunks(step) {
                        receiver.received(piece);
                        let mut room = [0; 100];
                        loop {
                            let count = receiver.read(&mut room).expect("good frames");
                            if count == 0 {
                                break;
                            }
                            got.extend_from_slice(&room[..count]);
                        }
                    }
                    assert_eq!(got.len(), plain.len(), "{deflates}, {length} in {step}");
                    assert!(got == plain);
                }
            }
        }
    }

    #[test]
    fn an_answer_must_be_an_upgrade_as_asked_for() {
        assert!(check_answer("HTTP/1.1 101 Switching Protocols\r\n\r\n", false).is_ok());
        assert!(check_answer("HTTP/1.1 400 Bad Request\r\n\r\n", false).is_err());
        assert!(check_answer("HTTP/1.1 101 x\r\n\r\n", true).is_err());
        let agreed = "HTTP/1.1 101 x\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
        assert!(check_answer(agreed, true).is_ok());
    }
}
