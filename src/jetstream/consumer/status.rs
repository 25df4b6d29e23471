//! The status messages of consumers. Clients compare these texts byte for byte. Source: nats-server
//! server/consumer.go.

use super::output::Output;
use crate::protocol::headers::append;

/// A status line, without its protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(pub &'static str);

pub(crate) const NO_MESSAGES: Status = Status("404 No Messages");
pub(crate) const REQUEST_TIMEOUT: Status = Status("408 Request Timeout");
pub(crate) const REQUESTS_PENDING: Status = Status("408 Requests Pending");
pub(crate) const MAX_WAITING: Status = Status("409 Exceeded MaxWaiting");
pub(crate) const TOO_LARGE: Status = Status("409 Message Size Exceeds MaxBytes");
pub(crate) const BATCH_COMPLETED: Status = Status("409 Batch Completed");
pub(crate) const PUSH_BASED: Status = Status("409 Consumer is push based");
pub(crate) const DELETED: Status = Status("409 Consumer Deleted");
pub(crate) const API_LEVEL: Status = Status("412 Required Api Level");
pub(crate) const PIN_MISMATCH: Status = Status("423 Nats-Pin-Id mismatch");
pub(crate) const WRONG_PIN: Status = Status("423 Nats-Wrong-Pin-Id");
pub(crate) const HEARTBEAT: Status = Status("100 Idle Heartbeat");
pub(crate) const FLOW_CONTROL: Status = Status("100 FlowControl Request");

pub(crate) const LAST_CONSUMER: &[u8] = b"Nats-Last-Consumer";
pub(crate) const LAST_STREAM: &[u8] = b"Nats-Last-Stream";
const STALLED: &[u8] = b"Nats-Consumer-Stalled";
const PENDING_MESSAGES: &[u8] = b"Nats-Pending-Messages";
const PENDING_BYTES: &[u8] = b"Nats-Pending-Bytes";

/// The header block of a status whose text is not known before.
pub(crate) fn block_of(text: &str) -> Vec<u8> {
    format!("NATS/1.0 {text}\r\n\r\n").into_bytes()
}

impl Status {
    pub(crate) fn to(self, receiver: &[u8]) -> Output {
        output(receiver, block_of(self.0))
    }

    /// With the parts of a pull request that were not served.
    pub(crate) fn with_rest(self, receiver: &[u8], messages: i64, bytes: i64) -> Output {
        let mut headers = block_of(self.0);
        append(&mut headers, PENDING_MESSAGES, messages.to_string().as_bytes());
        append(&mut headers, PENDING_BYTES, bytes.to_string().as_bytes());
        output(receiver, headers)
    }
}

/// A sign of life, with the last sequences that were delivered, and the question that a stalled
/// consumer waits for.
pub(crate) fn heartbeat(receiver: &[u8], consumer: u64, stream: u64, stalled: &[u8]) -> Output {
    let mut headers = block_of(HEARTBEAT.0);
    append(&mut headers, LAST_CONSUMER, consumer.to_string().as_bytes());
    append(&mut headers, LAST_STREAM, stream.to_string().as_bytes());
    if !stalled.is_empty() {
        append(&mut headers, STALLED, stalled);
    }
    output(receiver, headers)
}

fn output(receiver: &[u8], headers: Vec<u8>) -> Output {
    Output::Status { to: receiver.into(), reply: Box::default(), headers }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers_of(output: &Output) -> &str {
        let Output::Status { headers, .. } = output else { panic!("{output:?}") };
        std::str::from_utf8(headers).unwrap()
    }

    #[test]
    fn statuses_have_the_bytes_that_clients_compare() {
        assert_eq!(headers_of(&NO_MESSAGES.to(b"i")), "NATS/1.0 404 No Messages\r\n\r\n");
        let timeout = REQUEST_TIMEOUT.with_rest(b"i", 3, 0);
        let expected = "NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 3\r\nNats-Pending-Bytes: 0\r\n\r\n";
        assert_eq!(headers_of(&timeout), expected);
        let stalled = heartbeat(b"i", 5, 9, b"$JS.FC.S.c.abcd");
        let expected = "NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 5\r\nNats-Last-Stream: 9\r\nNats-Consumer-Stalled: $JS.FC.S.c.abcd\r\n\r\n";
        assert_eq!(headers_of(&stalled), expected);
    }
}
