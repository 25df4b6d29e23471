//! A message framed once for many receivers.

use crate::protocol::message::{Message, MessageRun};
use crate::protocol::nats::encode;

/// A message framed once for all receivers with the same sid: clients of one program have the same
/// sid for the same subscription.
#[derive(Default)]
pub struct FanOutFrame {
    /// The sid of the last receiver, of whatever message.
    sid: Vec<u8>,
    /// The message as a receiver with this sid gets it; empty = not framed yet.
    bytes: Vec<u8>,
    /// The bytes of a run that come before each tail.
    head: Vec<u8>,
}

impl FanOutFrame {
    /// Receivers from which on framing once is cheaper than framing each.
    pub const RECEIVERS_MIN: usize = 3;

    /// True if a message can be framed once: receivers differ only in their sid, and the copy of
    /// its body is a short one.
    pub fn suits(message: &Message<'_>) -> bool {
        message.headers.is_empty() && message.body.len() <= encode::COPY_STEP_BYTES
    }

    /// Another message comes.
    pub fn begin(&mut self) {
        self.bytes.clear();
    }

    /// The framed run for a receiver with this sid. `begin` comes before each run.
    pub(super) fn get_run(&mut self, run: &MessageRun<'_>, sid: &[u8]) -> &[u8] {
        if self.bytes.is_empty() || self.sid != sid {
            self.sid.clear();
            self.sid.extend_from_slice(sid);
            self.bytes.clear();
            self.head.clear();
            encode::message_head(&mut self.head, run.subject, sid);
            encode::run(&mut self.bytes, &self.head, run);
        }
        &self.bytes
    }

    /// The framed message for a receiver whose sid is that of the one before it.
    #[inline]
    pub(super) fn get(&mut self, message: &Message<'_>, sid: &[u8]) -> Option<&[u8]> {
        if self.sid != sid {
            self.sid.clear();
            self.sid.extend_from_slice(sid);
            self.bytes.clear();
            return None;
        }
        if self.bytes.is_empty() {
            encode::message(&mut self.bytes, message, sid, false);
        }
        Some(&self.bytes)
    }
}
