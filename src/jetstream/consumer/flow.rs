//! Flow control of a push consumer: a window of bytes that are on their way. At half of it the
//! client is asked to answer, at all of it delivery stops; each answer doubles the window. Source:
//! nats-server server/consumer.go needFlowControl, processFlowControl.

use crate::base::limits::{FLOW_WINDOW_BYTES_MAX, FLOW_WINDOW_BYTES_MIN};

/// The window of a consumer.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    window_bytes: usize,
    /// Bytes delivered that no answer covers.
    pending_bytes: usize,
    /// The subject that an answer comes to; empty = nothing was asked.
    question: Vec<u8>,
    /// Bytes that the answer covers.
    asked_bytes: usize,
}

impl Flow {
    pub(crate) fn new() -> Self {
        Self {
            window_bytes: FLOW_WINDOW_BYTES_MIN,
            pending_bytes: 0,
            question: Vec::new(),
            asked_bytes: 0,
        }
    }

    /// True if nothing is delivered before an answer.
    pub(crate) fn is_full(&self) -> bool {
        self.pending_bytes > self.window_bytes
    }

    /// The question that waits for an answer; empty = none.
    pub(crate) fn question(&self) -> &[u8] {
        &self.question
    }

    /// Notes a delivery; true if the client is to be asked now. `at_limit`: the consumer waits for
    /// acknowledgements by flow control.
    pub(crate) fn delivered(&mut self, size: usize, at_limit: bool) -> bool {
        self.pending_bytes += size;
        if self.question.is_empty() {
            return self.pending_bytes > self.window_bytes / 2 || at_limit;
        }
        if self.pending_bytes - self.asked_bytes >= self.window_bytes {
            self.asked_bytes += size;
        }
        false
    }

    pub(crate) fn ask(&mut self, question: Vec<u8>) {
        self.asked_bytes = self.pending_bytes;
        self.question = question;
    }

    /// Takes an answer; false if it is not the one that is waited for.
    pub(crate) fn answered(&mut self, subject: &[u8]) -> bool {
        if self.question.is_empty() || self.question != subject {
            return false;
        }
        self.window_bytes = (self.window_bytes * 2).min(FLOW_WINDOW_BYTES_MAX);
        self.pending_bytes = self.pending_bytes.saturating_sub(self.asked_bytes);
        self.asked_bytes = 0;
        self.question.clear();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_window_asks_and_a_full_one_stops() {
        let mut flow = Flow::new();
        let (mut asked_at, mut count) = (0, 0);
        while !flow.is_full() {
            count += 1;
            if flow.delivered(20_000, false) {
                assert_eq!(asked_at, 0, "asked once");
                asked_at = count;
                flow.ask(b"q".to_vec());
            }
        }
        assert_eq!((asked_at, count), (53, 105));
        assert!(!flow.answered(b"other"));
        assert!(flow.answered(b"q"));
        assert!(!flow.answered(b"q"), "once");
        assert!(!flow.is_full());
        assert_eq!(flow.window_bytes, 2 * FLOW_WINDOW_BYTES_MIN);
    }
}
