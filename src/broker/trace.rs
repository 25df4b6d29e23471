//! Protocol trace of one connection: the lines and their texts are nats-server's (server/client.go
//! traceMsg, traceInOp, traceOutOp). Only built where the operator asked for it: nothing here is
//! fast.

use crate::protocol::message::Message;
use crate::protocol::nats::encode;
use crate::protocol::nats::error::quoted;

/// Logs one line of a trace, with the fields that say whom it is about.
macro_rules! log_trace {
    ($level:ident, $trace:expr, $($text:tt)+) => {
        tracing::$level!(
            cid = $trace.about.cid,
            address = $trace.about.address.as_str(),
            name = $trace.about.name.as_str(),
            user = $trace.about.user.as_str(),
            account = $trace.about.account.as_str(),
            "{} - {}",
            $trace.label,
            format_args!($($text)+)
        )
    };
}

/// The client that the lines of a trace are about, for a log with separate fields for it.
#[derive(Default)]
pub struct About {
    pub cid: u64,
    pub address: String,
    pub name: String,
    pub user: String,
    pub account: String,
}

/// The form of one connection's trace lines.
pub struct Trace {
    pub about: About,
    /// `ip:port - cid:N - …`
    pub label: String,
    /// Headers are shown, payloads are not.
    pub headers_only: bool,
    /// Bytes of a payload that are shown; 0 = all.
    pub shown_bytes_max: usize,
}

/// The direction of a traced line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    In,
    Out,
}

impl Way {
    fn arrow(self) -> &'static str {
        match self {
            Self::In => "<<-",
            Self::Out => "->>",
        }
    }
}

impl Trace {
    /// `<<- [PUB foo 2]`: a verb and its arguments as they were written.
    pub fn operation(&self, way: Way, verb: &str, arguments: &[u8]) {
        let blank = if arguments.is_empty() { "" } else { " " };
        let arguments = String::from_utf8_lossy(arguments);
        log_trace!(trace, self, "{} [{verb}{blank}{arguments}]", way.arrow());
    }

    /// `<-> [DELSUB 1]`: a subscription is gone.
    pub fn deleted(&self, sid: &[u8]) {
        log_trace!(trace, self, "<-> [DELSUB {}]", String::from_utf8_lossy(sid));
    }

    /// A subscription got the last message that it may have.
    pub fn expired(&self, sid: &[u8], max: u64) {
        let shown = String::from_utf8_lossy(sid);
        log_trace!(debug, self, "Auto-unsubscribe limit of {max} reached for sid '{shown}'");
        self.deleted(sid);
    }

    /// `<<- MSG_PAYLOAD: ["hi"]`; nothing for a message without what is shown.
    pub fn body(&self, way: Way, body: &[u8], header_size: usize) {
        if let Some(shown) = shown(body, header_size, self.headers_only, self.shown_bytes_max) {
            log_trace!(trace, self, "{} MSG_PAYLOAD: [{shown}]", way.arrow());
        }
    }

    /// A message as its receiver gets it.
    pub fn delivered(&self, message: &Message<'_>, sid: &[u8], headers: bool) {
        let mut framed = Vec::new();
        encode::message(&mut framed, message, sid, headers);
        let end = framed.iter().position(|byte| *byte == b'\r').unwrap_or(framed.len());
        let (verb, arguments) = split_verb(&framed[..end]);
        self.operation(Way::Out, &verb, arguments);
        match headers {
            true => self.body(Way::Out, message.body, message.headers.len()),
            false => self.body(Way::Out, message.payload(), 0),
        }
    }

    /// Bytes that are no message. Only those that nats-server shows are.
    pub fn sent(&self, bytes: &[u8]) {
        let line = bytes.strip_suffix(b"\r\n").unwrap_or(bytes);
        match line {
            b"+OK" => self.operation(Way::Out, "OK", b""),
            b"PING" => self.operation(Way::Out, "PING", b""),
            b"PONG" => self.operation(Way::Out, "PONG", b""),
            _ => {
                if let Some(text) = line.strip_prefix(b"-ERR '") {
                    self.operation(Way::Out, "-ERR", text.strip_suffix(b"'").unwrap_or(text));
                }
            }
        }
    }
}

fn split_verb(line: &[u8]) -> (String, &[u8]) {
    let end = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    let arguments = line.get(end + 1..).unwrap_or_default();
    (String::from_utf8_lossy(&line[..end]).into_owned(), arguments)
}

/// The quoted bytes of a trace line, if there are any to show.
fn shown(body: &[u8], header_size: usize, headers_only: bool, bytes_max: usize) -> Option<String> {
    let bytes = match headers_only {
        true => body[..header_size].strip_suffix(b"\r\n\r\n").unwrap_or(&body[..header_size]),
        false => body,
    };
    if bytes.is_empty() {
        return None;
    }
    if bytes_max == 0 || bytes.len() <= bytes_max {
        return Some(quoted(bytes));
    }
    let mut text = quoted(&bytes[..bytes_max]);
    text.insert_str(text.len() - 1, "...");
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_is_quoted_and_cut_as_nats_server_does() {
        let body = b"NATS/1.0\r\nA: b\r\nCc: dd\r\n\r\n0123456789";
        /// Body, header size, headers only, bytes shown, what is shown.
        type Case = (&'static [u8], usize, bool, usize, Option<&'static str>);
        let cases: [Case; 8] = [
            (b"hi", 0, false, 0, Some("\"hi\"")),
            (b"", 0, false, 0, None),
            (b"hello world", 0, false, 5, Some("\"hello...\"")),
            (b"hello", 0, false, 5, Some("\"hello\"")),
            (b"a\"\x01\xff", 0, false, 0, Some("\"a\\\"\\x01\\xff\"")),
            (body, 26, true, 0, Some("\"NATS/1.0\\r\\nA: b\\r\\nCc: dd\"")),
            (body, 26, true, 12, Some("\"NATS/1.0\\r\\nA:...\"")),
            (b"hello", 0, true, 0, None),
        ];
        for (body, header_size, headers_only, bytes_max, expected) in cases {
            assert_eq!(shown(body, header_size, headers_only, bytes_max).as_deref(), expected);
        }
    }
}
