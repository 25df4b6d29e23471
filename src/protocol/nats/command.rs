//! A parsed command. Arguments are spans of the read buffer, never borrows, so that the session can
//! keep the buffer mutable.

use crate::protocol::message::Message;

/// A range of the parser's input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    pub fn new(start: usize, end: usize) -> Self {
        debug_assert!(start <= end && u32::try_from(end).is_ok());
        Self { start: start as u32, end: end as u32 }
    }

    pub fn of<'a>(&self, input: &'a [u8]) -> &'a [u8] {
        &input[self.start as usize..self.end as usize]
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }
}

/// PUB or HPUB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Publish {
    pub subject: Span,
    pub reply: Span,
    /// Bytes of the body that are headers; 0 for PUB.
    pub header_size: u32,
    /// Headers and payload.
    pub body: Span,
    pub header_size_text: Span,
    pub size_text: Span,
    /// The arguments as they stood on the line, for the protocol trace.
    pub arguments: Span,
}

impl Publish {
    /// The message that was parsed from `input`.
    pub fn message<'a>(&self, input: &'a [u8]) -> Message<'a> {
        let body = self.body.of(input);
        Message {
            subject: self.subject.of(input),
            reply: self.reply.of(input),
            headers: &body[..self.header_size as usize],
            body,
            header_size_text: self.header_size_text.of(input),
            size_text: self.size_text.of(input),
            tail: b"",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Publish(Publish),
    Subscribe {
        subject: Span,
        queue: Span,
        sid: Span,
        arguments: Span,
    },
    /// `max` empty = at once.
    Unsubscribe {
        sid: Span,
        max: Span,
        arguments: Span,
    },
    Connect {
        json: Span,
    },
    Info {
        json: Span,
    },
    Ping,
    Pong,
    /// `+OK`: accepted, ignored.
    Ok,
    /// `-ERR`: closes the connection.
    Error {
        text: Span,
    },
}
