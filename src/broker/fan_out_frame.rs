//! Messages framed once for many receivers.

use crate::protocol::message::MessageRun;
use crate::protocol::nats::encode;

/// Messages framed once for all receivers with the same sid: clients of one program have the same
/// sid for the same subscription.
#[derive(Default)]
pub struct FanOutFrame {
    /// The sid of the last receiver, of whatever message.
    sid: Vec<u8>,
    /// The bytes that a receiver with this sid gets; empty = not framed yet.
    bytes: Vec<u8>,
    /// The bytes of a run that come before each tail.
    head: Vec<u8>,
}

impl FanOutFrame {
    /// Receivers from which on it is cheaper to frame a single message once than for each.
    const RECEIVERS_MIN: usize = 3;

    /// True if framing once is cheaper for so many receivers, and possible: they differ only in
    /// their sid, and the copies are short ones.
    #[inline]
    pub(super) fn pays(run: &MessageRun<'_>, receivers: usize) -> bool {
        let message = run.first();
        run.len() > 1
            || (receivers >= Self::RECEIVERS_MIN
                && message.headers.is_empty()
                && message.body.len() <= encode::COPY_STEP_BYTES)
    }

    /// Other messages come.
    pub(super) fn begin(&mut self) {
        self.bytes.clear();
    }

    /// The framed messages for a receiver with this sid. None = it is the first with that sid, and
    /// a single message is framed where it goes.
    #[inline]
    pub(super) fn get(&mut self, run: &MessageRun<'_>, sid: &[u8]) -> Option<&[u8]> {
        if self.sid != sid {
            self.sid.clear();
            self.sid.extend_from_slice(sid);
            self.bytes.clear();
            if run.len() == 1 {
                return None;
            }
        }
        if self.bytes.is_empty() {
            self.fill(run);
        }
        Some(&self.bytes)
    }

    fn fill(&mut self, run: &MessageRun<'_>) {
        if run.len() == 1 {
            return encode::message(&mut self.bytes, run.first(), &self.sid, false);
        }
        self.head.clear();
        encode::message_head(&mut self.head, run.subject(), &self.sid);
        encode::run(&mut self.bytes, &self.head, run);
    }
}
