//! WebSocket between a client and its session: the server's own layer, and a client's side of it
//! that frames as it pleases.
//!
//! It draws from a generator of its own, so that runs are the same with it and without.

use fastrand::Rng;
use midge::testing::base::pool::BufferPool;
use midge::testing::net::frames::{
    Decoded, Deflaters, FrameLimits, FrameSettings, Frames, Upgrade,
};
use midge::testing::net::read_buffer::ReadBuffer;
use std::rc::Rc;

/// Bytes of the longest message that is deflated.
const DEFLATED_BYTES_MAX: usize = 4096;

pub struct Wire {
    frames: Frames,
    framed: ReadBuffer,
    deflaters: Deflaters,
    random: Rng,
    deflates: bool,
    pings: usize,
    pongs: usize,
}

impl Wire {
    /// Returns the wire of the connection with that index: one in three has none, one has frames,
    /// and one deflates, too.
    pub fn of(index: usize, pool: &Rc<BufferPool>) -> Option<Self> {
        let deflates = match index % 3 {
            0 => return None,
            kind => kind == 2,
        };
        let frame_bytes_max = index.is_multiple_of(2).then_some(100);
        let settings =
            FrameSettings { needs_mask: true, deflates, frame_bytes_max, splits_deflated: true };
        Some(Self {
            frames: Frames::new(Upgrade { answer: Vec::new(), settings }),
            framed: ReadBuffer::new(pool.clone()),
            deflaters: Deflaters::default(),
            random: Rng::with_seed(index as u64),
            deflates,
            pings: 0,
            pongs: 0,
        })
    }

    /// Carries bytes of the client to the session's input.
    pub fn carry_in(&mut self, bytes: &[u8], input: &mut ReadBuffer, limits: FrameLimits) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = self.random.usize(1..=rest.len().min(DEFLATED_BYTES_MAX));
            let (message, after) = rest.split_at(count);
            rest = after;
            let framed = self.framed_by_client(message);
            let mut unread = &framed[..];
            while !unread.is_empty() {
                let (piece, after) = unread.split_at(self.random.usize(1..=unread.len()));
                unread = after;
                self.framed.extend(piece);
                while self.frames.decode(&mut self.framed, input, limits, &self.deflaters)
                    == Decoded::Some
                {}
                assert_eq!(self.frames.failure(), None);
            }
        }
        let mut pongs = Vec::new();
        self.frames.take_outgoing(&mut pongs);
        // Each is a header of two bytes and one byte of payload.
        self.pongs += pongs.len() / 3;
        assert_eq!(self.pongs, self.pings);
    }

    /// Carries a chunk to the client; returns what it reads.
    pub fn carry_out(&mut self, chunk: &[u8]) -> Vec<u8> {
        let mut framed = Vec::new();
        self.frames.seal(chunk, &self.deflaters, &mut framed);
        let (mut read, mut deflated, mut rest) = (Vec::new(), None, &framed[..]);
        while let [first, second, behind @ ..] = rest {
            let (length, behind) = match second {
                126 => (usize::from(u16::from_be_bytes([behind[0], behind[1]])), &behind[2..]),
                127 => {
                    let length = u64::from_be_bytes(behind[..8].try_into().expect("eight"));
                    (usize::try_from(length).expect("it is here"), &behind[8..])
                }
                short => (usize::from(*short), behind),
            };
            let (payload, behind) = behind.split_at(length);
            rest = behind;
            if first & 0x40 != 0 {
                deflated = Some(Vec::new());
            }
            match &mut deflated {
                None => read.extend_from_slice(payload),
                Some(message) => {
                    message.extend_from_slice(payload);
                    if first & 0x80 != 0 {
                        message.extend_from_slice(&[0, 0, 0xff, 0xff]);
                        let mut plain = Vec::with_capacity(chunk.len() + 1);
                        flate2::Decompress::new(false)
                            .decompress_vec(message, &mut plain, flate2::FlushDecompress::Sync)
                            .expect("it is deflated");
                        read.extend(plain);
                        deflated = None;
                    }
                }
            }
        }
        assert!(rest.is_empty() && deflated.is_none());
        read
    }

    fn framed_by_client(&mut self, message: &[u8]) -> Vec<u8> {
        let is_deflated = self.deflates && self.random.bool();
        let mut payload = message.to_vec();
        if is_deflated {
            payload = Vec::with_capacity(message.len() + 100);
            flate2::Compress::new(flate2::Compression::fast(), false)
                .compress_vec(message, &mut payload, flate2::FlushCompress::Sync)
                .expect("there is room");
            payload.truncate(payload.len() - 4);
        }
        let size = self.random.usize(1..=payload.len());
        let count = payload.len().div_ceil(size);
        let mut bytes = Vec::new();
        for (index, piece) in payload.chunks(size).enumerate() {
            let opcode = if index == 0 { 2 } else { 0 };
            let rsv = if index == 0 && is_deflated { 0x40 } else { 0 };
            let last = if index + 1 == count { 0x80 } else { 0 };
            self.frame(&mut bytes, opcode | rsv | last, piece);
            if self.random.u8(..16) == 0 {
                self.frame(&mut bytes, 0x89, b"?");
                self.pings += 1;
            }
        }
        bytes
    }

    fn frame(&mut self, bytes: &mut Vec<u8>, first: u8, payload: &[u8]) {
        bytes.push(first);
        match u16::try_from(payload.len()) {
            Ok(length) if length <= 125 => bytes.push(0x80 | length as u8),
            Ok(length) => {
                bytes.push(0x80 | 126);
                bytes.extend_from_slice(&length.to_be_bytes());
            }
            Err(_) => {
                bytes.push(0x80 | 127);
                bytes.extend_from_slice(&(payload.len() as u64).to_be_bytes());
            }
        }
        let key = self.random.u32(..).to_be_bytes();
        bytes.extend_from_slice(&key);
        bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    }
}
