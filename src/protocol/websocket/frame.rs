//! Frames: the headers of those that a peer sent, and of those that it is sent.
//!
//! A data frame's payload is passed on as it comes, in pieces; only a header and a control frame,
//! which are short, are waited for. So nothing is held here but numbers.
//!
//! Source of what is refused, and of the order: nats-server server/websocket.go wsReadLoop.

use std::fmt;
use std::ops::Range;

use super::mask;

/// Bytes of a control frame's payload. Source: RFC 6455, 5.5.
pub(crate) const CONTROL_BYTES_MAX: usize = 125;

/// Bytes of the longest header that the server writes, without a mask.
pub(crate) const HEADER_BYTES_MAX: usize = 10;

const FINAL: u8 = 0x80;
const DEFLATED: u8 = 0x40;
const RESERVED: u8 = 0x30;
const MASKED: u8 = 0x80;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Why a peer's frames cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameFault {
    ReservedBits,
    NotNegotiated,
    NotMasked,
    ControlTooLong,
    ControlFragmented,
    ControlDeflated,
    MessageInterrupted,
    Continuation,
    Opcode(u8),
    Length,
    ClosePayload,
    CloseStatus(u16),
}

impl fmt::Display for FrameFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::ReservedBits => "RSV2 and RSV3 must be clear",
            Self::NotNegotiated => {
                "compressed frame received without negotiated permessage-deflate"
            }
            Self::NotMasked => "mask bit missing",
            Self::ControlTooLong => "control frame length bigger than maximum allowed of 125 bytes",
            Self::ControlFragmented => "control frame does not have final bit set",
            Self::ControlDeflated => "control frame must not be compressed",
            Self::MessageInterrupted => {
                "new message started before final frame for previous message was received"
            }
            Self::Continuation => "invalid continuation frame",
            Self::Opcode(opcode) => return write!(formatter, "unknown opcode {opcode}"),
            Self::Length => "invalid 64-bit payload length",
            Self::ClosePayload => "close frame payload cannot be 1 byte",
            Self::CloseStatus(status) => {
                return write!(formatter, "invalid close status code {status}");
            }
        })
    }
}

/// The next part of what a peer sent; ranges are of the input, and unmasked there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// More bytes are needed.
    Incomplete,
    /// Payload of a message, or an empty end of one.
    Data {
        payload: Range<usize>,
        deflated: bool,
        /// True if the message ends with it.
        is_last: bool,
    },
    Ping(Range<usize>),
    Pong,
    Close(Range<usize>),
}

/// Reads the frames of one peer.
#[derive(Debug)]
pub(crate) struct FrameReader {
    /// True if the peer must mask.
    needs_mask: bool,
    /// True if messages may be deflated.
    may_deflate: bool,
    /// The data frame whose header was read, until its payload has come.
    frame: Option<DataFrame>,
    /// The message whose last frame has not begun yet: true if it is deflated.
    unfinished: Option<bool>,
}

#[derive(Clone, Copy, Debug)]
struct DataFrame {
    /// Bytes of payload still to come.
    left: u64,
    /// Bytes of payload that came, modulo the length of the key.
    phase: usize,
    key: Option<[u8; 4]>,
    deflated: bool,
    ends_message: bool,
}

impl FrameReader {
    pub(crate) fn new(needs_mask: bool, may_deflate: bool) -> Self {
        Self { needs_mask, may_deflate, frame: None, unfinished: None }
    }

    /// Returns the bytes of payload that the frame begun still lacks.
    pub(crate) fn wanted(&self) -> usize {
        let left = self.frame.as_ref().map_or(0, |frame| frame.left);
        usize::try_from(left).unwrap_or(usize::MAX)
    }

    /// Returns the next part, of at most `deflated_bytes_max` if it is deflated, and the number of
    /// bytes taken for it.
    ///
    /// # Errors
    /// If the bytes break the protocol; nothing can be read after that.
    pub(crate) fn next(
        &mut self,
        input: &mut [u8],
        deflated_bytes_max: usize,
    ) -> Result<(Part, usize), FrameFault> {
        let mut taken = 0;
        if self.frame.is_none() {
            let Some(header) = self.header(input)? else { return Ok((Part::Incomplete, 0)) };
            if header.opcode >= CLOSE {
                return Ok(self.control(&header, input));
            }
            taken = header.size;
            let deflated = match header.opcode {
                CONTINUATION => self.unfinished.unwrap_or_default(),
                _ => header.deflated,
            };
            self.unfinished = (!header.is_final).then_some(deflated);
            self.frame = Some(DataFrame {
                left: header.length,
                phase: 0,
                key: header.key,
                deflated,
                ends_message: header.is_final,
            });
        }
        let frame = self.frame.as_mut().expect("set above if it was not");
        let there = match frame.deflated {
            true => (input.len() - taken).min(deflated_bytes_max),
            false => input.len() - taken,
        };
        let count = usize::try_from(frame.left).map_or(there, |left| left.min(there));
        if count == 0 && frame.left > 0 {
            return Ok((Part::Incomplete, taken));
        }
        let payload = taken..taken + count;
        if let Some(key) = frame.key {
            mask::apply(&mut input[payload.clone()], key, frame.phase);
        }
        frame.left -= count as u64;
        frame.phase = (frame.phase + count) % 4;
        let is_over = frame.left == 0;
        let (deflated, is_last) = (frame.deflated, frame.ends_message && is_over);
        if is_over {
            self.frame = None;
        }
        let taken = payload.end;
        Ok((Part::Data { payload, deflated, is_last }, taken))
    }

    fn control(&self, header: &Header, input: &mut [u8]) -> (Part, usize) {
        let length = usize::try_from(header.length).expect("control frames are short");
        let payload = header.size..header.size + length;
        if input.len() < payload.end {
            return (Part::Incomplete, 0);
        }
        if let Some(key) = header.key {
            mask::apply(&mut input[payload.clone()], key, 0);
        }
        let taken = payload.end;
        match header.opcode {
            CLOSE => (Part::Close(payload), taken),
            PING => (Part::Ping(payload), taken),
            _ => (Part::Pong, taken),
        }
    }

    /// Returns the header that the input begins with; None = it is not whole. What is wrong is
    /// reported with the byte that shows it.
    fn header(&self, input: &[u8]) -> Result<Option<Header>, FrameFault> {
        let Some(first) = input.first() else { return Ok(None) };
        let (is_final, deflated, opcode) = (first & FINAL != 0, first & DEFLATED != 0, first & 0xf);
        if first & RESERVED != 0 {
            return Err(FrameFault::ReservedBits);
        }
        if deflated && !self.may_deflate {
            return Err(FrameFault::NotNegotiated);
        }
        let Some(second) = input.get(1) else { return Ok(None) };
        let (is_masked, short) = (second & MASKED != 0, second & !MASKED);
        if self.needs_mask && !is_masked {
            return Err(FrameFault::NotMasked);
        }
        match opcode {
            CLOSE | PING | PONG => {
                if usize::from(short) > CONTROL_BYTES_MAX {
                    return Err(FrameFault::ControlTooLong);
                }
                if !is_final {
                    return Err(FrameFault::ControlFragmented);
                }
                if deflated {
                    return Err(FrameFault::ControlDeflated);
                }
            }
            TEXT | BINARY => {
                if self.unfinished.is_some() {
                    return Err(FrameFault::MessageInterrupted);
                }
            }
            CONTINUATION => {
                if self.unfinished.is_none() || deflated {
                    return Err(FrameFault::Continuation);
                }
            }
            _ => return Err(FrameFault::Opcode(opcode)),
        }
        let mut rest = &input[2..];
        let length = match short {
            126 => take::<2>(&mut rest).map(|bytes| u64::from(u16::from_be_bytes(bytes))),
            127 => take::<8>(&mut rest).map(u64::from_be_bytes),
            _ => Some(u64::from(short)),
        };
        let Some(length) = length else { return Ok(None) };
        if length >> 63 != 0 {
            return Err(FrameFault::Length);
        }
        let key = match is_masked {
            false => None,
            true => match take::<4>(&mut rest) {
                None => return Ok(None),
                key => key,
            },
        };
        let size = input.len() - rest.len();
        Ok(Some(Header { is_final, deflated, opcode, length, key, size }))
    }
}

struct Header {
    is_final: bool,
    deflated: bool,
    opcode: u8,
    length: u64,
    key: Option<[u8; 4]>,
    /// Bytes of the header.
    size: usize,
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*taken)
}

/// Appends the header of a frame of a binary message.
pub(crate) fn append_data_header(
    target: &mut Vec<u8>,
    is_first: bool,
    is_last: bool,
    deflated: bool,
    length: usize,
) {
    let opcode = if is_first { BINARY } else { CONTINUATION };
    let deflated = if deflated && is_first { DEFLATED } else { 0 };
    append_header(target, opcode | deflated | if is_last { FINAL } else { 0 }, length);
}

/// Appends the answer to a ping.
pub(crate) fn append_pong(target: &mut Vec<u8>, payload: &[u8]) {
    append_control(target, PONG, payload);
}

/// Appends a frame that closes the connection.
pub(crate) fn append_close(target: &mut Vec<u8>, payload: &[u8]) {
    append_control(target, CLOSE, payload);
}

fn append_control(target: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    assert!(payload.len() <= CONTROL_BYTES_MAX, "made here, or taken from such a frame");
    append_header(target, opcode | FINAL, payload.len());
    target.extend_from_slice(payload);
}

fn append_header(target: &mut Vec<u8>, first: u8, length: usize) {
    target.push(first);
    if length <= CONTROL_BYTES_MAX {
        target.push(length as u8);
    } else if let Ok(short) = u16::try_from(length) {
        target.push(126);
        target.extend_from_slice(&short.to_be_bytes());
    } else {
        target.push(127);
        target.extend_from_slice(&(length as u64).to_be_bytes());
    }
}

#[cfg(test)]
mod tests;
