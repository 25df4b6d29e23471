//! The frames of one WebSocket connection as a layer of its codec: framed bytes in, a session's
//! bytes out, and back. Pure, no I/O.
//!
//! Bounds. Plain payload goes to the session as it comes. A deflated message is inflated piece by
//! piece, and no further than the session may hold; what has come of an unfinished one is held as
//! it is up to `DEFLATED_HELD_BYTES_MAX`, and only a peer that was let in may go beyond that, with
//! an inflater of its own. Answers to pings are held up to `PONG_BYTES_MAX`; past it the oldest
//! give way, as RFC 6455, 5.5.3 allows.

use std::cell::RefCell;
use std::fmt;

use crate::base::limits::{
    DEFLATED_HELD_BYTES_MAX, DEFLATED_PIECE_BYTES, INFLATERS_KEPT_MAX, OPENED_PER_STEP_BYTES,
    PONG_BYTES_MAX,
};
use crate::net::read_buffer::ReadBuffer;
use crate::protocol::nats::error::CloseReason;
use crate::protocol::websocket::close;
use crate::protocol::websocket::deflate::{Corrupt, Deflater, Inflater};
use crate::protocol::websocket::frame::{self, FrameFault, FrameReader, HEADER_BYTES_MAX, Part};

/// Bytes up to which what is sent at a time is not deflated. Source: nats-server
/// wsCompressThreshold.
const PLAIN_BYTES_MAX: usize = 64;

/// What the two sides of a connection have agreed on.
#[derive(Clone, Debug, Default)]
pub struct FrameSettings {
    /// True if the peer must mask its frames.
    pub needs_mask: bool,
    /// True if messages may be deflated.
    pub deflates: bool,
    /// Most bytes of a frame that the peer is sent; None = any number.
    pub frame_bytes_max: Option<usize>,
    /// True if a deflated message may take several frames.
    pub splits_deflated: bool,
}

/// The end of an upgrade: the answer to it, and what follows.
pub struct Upgrade {
    /// Sent as it is, before the first frame.
    pub answer: Vec<u8>,
    pub settings: FrameSettings,
}

/// What a session lets its peer's frames hold.
#[derive(Clone, Copy, Debug)]
pub struct FrameLimits {
    /// Bytes that a deflated message may inflate to.
    pub inflated_bytes_max: usize,
    /// True if the peer may have an inflater of its own.
    pub is_let_in: bool,
}

/// Why a peer's frames cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameFailure {
    Fault(FrameFault),
    /// A message inflates to more than it may, or too much of it is held.
    TooLarge,
    Corrupt(Corrupt),
}

impl fmt::Display for FrameFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(formatter),
            Self::TooLarge => formatter.write_str("maximum payload exceeded"),
            Self::Corrupt(corrupt) => corrupt.fmt(formatter),
        }
    }
}

impl From<FrameFault> for FrameFailure {
    fn from(fault: FrameFault) -> Self {
        Self::Fault(fault)
    }
}

impl FrameFailure {
    fn close_payload(self) -> Vec<u8> {
        let status = match self {
            Self::Fault(_) => close::PROTOCOL_ERROR,
            Self::TooLarge => close::TOO_BIG,
            Self::Corrupt(_) => close::INVALID_DATA,
        };
        close::payload(status, &self.to_string())
    }
}

/// What the connections of one shard use in turn.
#[derive(Default)]
pub struct Deflaters {
    inflaters: RefCell<Vec<Inflater>>,
    deflater: RefCell<Option<Deflater>>,
}

impl Deflaters {
    fn take_inflater(&self) -> Inflater {
        self.inflaters.borrow_mut().pop().unwrap_or_else(Inflater::new)
    }

    fn give_back(&self, mut inflater: Inflater) {
        let mut inflaters = self.inflaters.borrow_mut();
        if inflaters.len() < INFLATERS_KEPT_MAX {
            inflater.reset();
            inflaters.push(inflater);
        }
    }

    fn deflate(&self, plain: &[u8], target: &mut Vec<u8>) {
        let mut deflater = self.deflater.borrow_mut();
        deflater.get_or_insert_with(Deflater::new).deflate(plain, target);
    }
}

/// A deflated message that has not been inflated to its end.
#[derive(Debug, Default)]
struct Deflated {
    inflater: Option<Inflater>,
    /// Bytes that came and are not inflated.
    held: Vec<u8>,
    /// Bytes of `held` that are inflated.
    taken: usize,
    /// Bytes that it has inflated to.
    inflated_bytes: usize,
    /// True once its last bytes are in `held`.
    is_whole: bool,
    /// True if `held` has the bytes that complete it.
    is_completed: bool,
}

/// How far decoding went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Everything that is there.
    All,
    /// There is more, but the session goes first.
    Some,
}

/// The frames of one connection.
pub struct Frames {
    reader: FrameReader,
    settings: FrameSettings,
    /// Bytes to be sent as they are, before any frame.
    answer: Vec<u8>,
    /// Frames that answer pings.
    pongs: Vec<u8>,
    message: Option<Box<Deflated>>,
    /// The payload of the frame that ends the connection, if that is decided.
    closing: Option<Vec<u8>>,
    /// True once the peer has closed: nothing it sends is looked at any more.
    peer_closed: bool,
    failure: Option<FrameFailure>,
}

impl Frames {
    pub fn new(upgrade: Upgrade) -> Self {
        let Upgrade { answer, settings } = upgrade;
        Self {
            reader: FrameReader::new(settings.needs_mask, settings.deflates),
            settings,
            answer,
            pongs: Vec::new(),
            message: None,
            closing: None,
            peer_closed: false,
            failure: None,
        }
    }

    /// Returns true if the peer has said that it sends no more.
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Returns why nothing more can be read.
    pub fn failure(&self) -> Option<FrameFailure> {
        self.failure
    }

    pub fn has_outgoing(&self) -> bool {
        !self.answer.is_empty() || !self.pongs.is_empty()
    }

    /// Decodes what `framed` holds into `input`, some of it at a time. After a failure, or once the
    /// peer has closed, there is nothing more.
    pub fn decode(
        &mut self,
        framed: &mut ReadBuffer,
        input: &mut ReadBuffer,
        limits: FrameLimits,
        deflaters: &Deflaters,
    ) -> Decoded {
        if self.peer_closed || self.failure.is_some() {
            framed.consume(framed.bytes().len());
            return Decoded::All;
        }
        match self.decode_some(framed, input, limits, deflaters) {
            Ok(decoded) => decoded,
            Err(failure) => {
                self.failure = Some(failure);
                self.closing = Some(failure.close_payload());
                self.message = None;
                framed.consume(framed.bytes().len());
                Decoded::All
            }
        }
    }

    fn decode_some(
        &mut self,
        framed: &mut ReadBuffer,
        input: &mut ReadBuffer,
        limits: FrameLimits,
        deflaters: &Deflaters,
    ) -> Result<Decoded, FrameFailure> {
        let mut room = OPENED_PER_STEP_BYTES;
        loop {
            if self.message.is_some()
                && self.inflate(input, limits, deflaters, &mut room)? == Decoded::Some
            {
                return Ok(Decoded::Some);
            }
            let (part, taken) = self.reader.next(framed.bytes_mut(), DEFLATED_PIECE_BYTES)?;
            match part {
                Part::Incomplete => {
                    framed.consume(taken);
                    framed.expect(self.reader.wanted());
                    return Ok(Decoded::All);
                }
                Part::Data { payload, deflated: false, .. } => {
                    let payload = &framed.bytes()[payload];
                    input.append(payload);
                    room = room.saturating_sub(payload.len());
                }
                Part::Data { payload, deflated: true, is_last } => {
                    let message = self.message.get_or_insert_default();
                    message.held.extend_from_slice(&framed.bytes()[payload]);
                    message.is_whole = is_last;
                }
                Part::Ping(payload) => {
                    let payload = &framed.bytes()[payload];
                    if self.pongs.len() + HEADER_BYTES_MAX + payload.len() > PONG_BYTES_MAX {
                        self.pongs.clear();
                    }
                    frame::append_pong(&mut self.pongs, payload);
                }
                Part::Pong => {}
                Part::Close(payload) => {
                    self.closing = Some(close::answer_to(&framed.bytes()[payload])?);
                    self.peer_closed = true;
                    framed.consume(framed.bytes().len());
                    return Ok(Decoded::All);
                }
            }
            framed.consume(taken);
            if room == 0 && !framed.bytes().is_empty() {
                return Ok(Decoded::Some);
            }
        }
    }

    /// Inflates what is held of a message, until `room` is used up.
    fn inflate(
        &mut self,
        input: &mut ReadBuffer,
        limits: FrameLimits,
        deflaters: &Deflaters,
        room: &mut usize,
    ) -> Result<Decoded, FrameFailure> {
        let Some(message) = self.message.as_deref_mut() else { return Ok(Decoded::All) };
        let Deflated { inflater, held, taken, inflated_bytes, is_whole, is_completed } = message;
        if inflater.is_none() && !*is_whole {
            if held.len() <= DEFLATED_HELD_BYTES_MAX {
                return Ok(Decoded::All);
            }
            if !limits.is_let_in {
                return Err(FrameFailure::TooLarge);
            }
        }
        let inflater = inflater.get_or_insert_with(|| deflaters.take_inflater());
        let mut output = [0; 8 << 10];
        loop {
            if *room == 0 {
                return Ok(Decoded::Some);
            }
            let (used, made) =
                inflater.inflate(&held[*taken..], &mut output).map_err(FrameFailure::Corrupt)?;
            if used + made == 0 && *taken < held.len() {
                return Err(FrameFailure::Corrupt(Corrupt));
            }
            *taken += used;
            *inflated_bytes += made;
            if *inflated_bytes > limits.inflated_bytes_max {
                return Err(FrameFailure::TooLarge);
            }
            input.append(&output[..made]);
            *room = room.saturating_sub(made);
            if made == output.len() || *taken < held.len() {
                continue;
            }
            held.clear();
            *taken = 0;
            if !*is_whole {
                return Ok(Decoded::All);
            }
            if *is_completed {
                break;
            }
            held.extend_from_slice(Inflater::end());
            *is_completed = true;
        }
        if let Some(inflater) = message.inflater.take() {
            deflaters.give_back(inflater);
        }
        self.message = None;
        Ok(Decoded::All)
    }

    /// Appends what must be sent before anything else.
    pub fn take_outgoing(&mut self, target: &mut Vec<u8>) {
        target.extend_from_slice(&std::mem::take(&mut self.answer));
        target.extend_from_slice(&std::mem::take(&mut self.pongs));
    }

    /// Returns an upper bound, but for very few chunks, of what `take_outgoing` and `seal` append.
    pub(crate) fn sealed_size_max(&self, plain_bytes: usize) -> usize {
        let frames = match self.settings.frame_bytes_max {
            Some(max) => plain_bytes.div_ceil(max) + 1,
            None => 1,
        };
        let payload = match self.settings.deflates {
            true => Deflater::size_max(plain_bytes),
            false => plain_bytes,
        };
        self.answer.len() + self.pongs.len() + payload + frames * HEADER_BYTES_MAX
    }

    /// Appends a chunk as one message, or as several if the peer likes frames short.
    pub fn seal(&self, plain: &[u8], deflaters: &Deflaters, target: &mut Vec<u8>) {
        let FrameSettings { deflates, frame_bytes_max, splits_deflated, .. } = self.settings;
        if deflates && plain.len() > PLAIN_BYTES_MAX {
            let mut deflated = Vec::new();
            deflaters.deflate(plain, &mut deflated);
            let frame_bytes_max = frame_bytes_max.filter(|_| splits_deflated);
            let frame_bytes_max = frame_bytes_max.unwrap_or(deflated.len()).max(1);
            let count = deflated.len().div_ceil(frame_bytes_max);
            for (index, piece) in deflated.chunks(frame_bytes_max).enumerate() {
                let (is_first, is_last) = (index == 0, index + 1 == count);
                frame::append_data_header(target, is_first, is_last, true, piece.len());
                target.extend_from_slice(piece);
            }
            return;
        }
        for piece in plain.chunks(frame_bytes_max.unwrap_or(plain.len()).max(1)) {
            frame::append_data_header(target, true, true, false, piece.len());
            target.extend_from_slice(piece);
        }
    }

    /// Appends the frame that ends the connection, if the peer is told.
    pub fn finish(&mut self, reason: CloseReason, target: &mut Vec<u8>) {
        let is_broken = matches!(
            reason,
            CloseReason::WriteError
                | CloseReason::SlowConsumerPendingBytes
                | CloseReason::SlowConsumerWriteDeadline
        );
        if is_broken {
            return;
        }
        self.take_outgoing(target);
        if let Some(payload) = self.closing.take().or_else(|| close::payload_for(reason)) {
            frame::append_close(target, &payload);
        }
    }
}

#[cfg(test)]
mod tests;
