//! The lines that the server writes to a client: MSG, HMSG, -ERR and the fixed ones.
//!
//! Each function appends to a chunk that has room: `message_size` says how much a message takes.

use crate::base::few_bytes;
use crate::protocol::headers;
use crate::protocol::message::{Message, MessageRun};

pub(crate) const PING: &[u8] = b"PING\r\n";
pub(crate) const PONG: &[u8] = b"PONG\r\n";
pub(crate) const OK: &[u8] = b"+OK\r\n";

/// Bytes below which a copy of any alignment stays off the slow path described at `copy_payload`.
pub(crate) const COPY_STEP_BYTES: usize = 2000;

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Whole cache lines within `COPY_STEP_BYTES`.
const ALIGNED_STEP_BYTES: usize = COPY_STEP_BYTES / LINE_BYTES * LINE_BYTES;

/// An upper bound of the bytes `message` takes for a subscription with a sid of `sid_size` bytes.
#[inline]
pub(crate) fn message_size(message: &Message<'_>, sid_size: usize) -> usize {
    // "HMSG " + 4 blanks + two sizes of at most 10 digits + 2 × CRLF.
    message.subject.len() + sid_size + message.reply.len() + message.body.len() + 40
}

/// Appends `MSG` or, for a receiver that takes headers, `HMSG`. A receiver without header support
/// gets the payload alone.
#[inline]
pub(crate) fn message(out: &mut Vec<u8>, message: &Message<'_>, sid: &[u8], headers: bool) {
    if !message.tail.is_empty() {
        message_head(out, message.subject, sid);
        copy_payload(out, message.tail);
        return;
    }
    let with_headers = headers && !message.headers.is_empty();
    out.extend_from_slice(if with_headers { b"HMSG " } else { b"MSG " });
    out.extend_from_slice(message.subject);
    out.push(b' ');
    out.extend_from_slice(sid);
    out.push(b' ');
    if !message.reply.is_empty() {
        out.extend_from_slice(message.reply);
        out.push(b' ');
    }
    let body = if with_headers {
        out.extend_from_slice(message.header_size_text);
        out.push(b' ');
        out.extend_from_slice(message.size_text);
        message.body
    } else if message.headers.is_empty() {
        out.extend_from_slice(message.size_text);
        message.body
    } else {
        let payload = message.payload();
        decimal(out, payload.len());
        payload
    };
    out.extend_from_slice(b"\r\n");
    copy_payload(out, body);
    out.extend_from_slice(b"\r\n");
}

/// Appends a MSG for each message of a run that has tails; `head` is all that comes before the tail
/// of each.
#[inline]
pub(crate) fn run(out: &mut Vec<u8>, head: &[u8], run: &MessageRun<'_>) {
    if run.len() == 1 {
        out.extend_from_slice(head);
        return copy_payload(out, run.first().tail);
    }
    if !has_few_bytes(run) {
        for tail in run.tails() {
            out.extend_from_slice(head);
            copy_payload(out, tail);
        }
        return;
    }
    let size = head.len() * run.len() + run.tail_bytes();
    few_bytes::append_pairs(out, size, run.tails().map(|tail| (head, tail)));
}

/// Bytes of a tail up to which it is cheaper to clear its place first than to call for its copy.
const FEW_BYTES: usize = 256;

/// True if the tails of a run are short enough, by and large, for `few_bytes::append_pairs`.
#[inline]
pub(crate) fn has_few_bytes(run: &MessageRun<'_>) -> bool {
    run.tail_bytes() <= run.len() * FEW_BYTES
}

/// Bytes that `message_head` appends.
#[inline]
pub(crate) fn message_head_size(subject: &[u8], sid: &[u8]) -> usize {
    b"MSG   ".len() + subject.len() + sid.len()
}

/// Appends everything before the tail of a MSG without headers.
#[inline]
pub(crate) fn message_head(out: &mut Vec<u8>, subject: &[u8], sid: &[u8]) {
    out.extend_from_slice(b"MSG ");
    out.extend_from_slice(subject);
    out.push(b' ');
    out.extend_from_slice(sid);
    out.push(b' ');
}

/// `-ERR 'text'`.
pub(crate) fn error(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(b"-ERR '");
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"'\r\n");
}

/// The status message a requester gets when nobody listens. Source: nats-server sendNoResponders.
pub(crate) fn no_responders(out: &mut Vec<u8>, reply: &[u8], sid: &[u8], subject: &[u8]) {
    let mut block = Vec::new();
    headers::status(&mut block, headers::NO_RESPONDERS, &[(b"Nats-Subject", subject)]);
    out.extend_from_slice(b"HMSG ");
    out.extend_from_slice(reply);
    out.push(b' ');
    out.extend_from_slice(sid);
    // Headers, and all in all.
    for _ in 0..2 {
        out.push(b' ');
        decimal(out, block.len());
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&block);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number in decimal.
#[inline]
pub(crate) fn decimal(out: &mut Vec<u8>, value: usize) {
    if value < 10 {
        out.push(b'0' + value as u8);
        return;
    }
    let mut digits = [0u8; 20];
    let mut position = digits.len();
    let mut rest = value;
    while rest > 0 {
        position -= 1;
        digits[position] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&digits[position..]);
}

/// Appends a payload in steps that stay below the size at which glibc's memcpy turns to `rep
/// movsb`.
///
/// On Zen 3 and 4 that instruction is an order of magnitude slower when source and target differ by
/// a few bytes modulo a page, and re-framing PUB to MSG between page-aligned buffers lands exactly
/// there. The opaque rest keeps the optimiser from merging the steps into one large copy again.
#[inline]
pub fn copy_payload(out: &mut Vec<u8>, payload: &[u8]) {
    if payload.len() <= COPY_STEP_BYTES {
        out.extend_from_slice(payload);
        return;
    }
    // Steps that begin and end on cache lines of the target: no store is split in two.
    let to_line = (out.as_ptr().addr() + out.len()).wrapping_neg() % LINE_BYTES;
    let (head, after) = payload.split_at(to_line);
    out.extend_from_slice(head);
    let mut rest = std::hint::black_box(after);
    while rest.len() > ALIGNED_STEP_BYTES {
        let (step, after) = rest.split_at(ALIGNED_STEP_BYTES);
        out.extend_from_slice(step);
        rest = std::hint::black_box(after);
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(message: &Message<'_>, headers: bool) -> String {
        let mut out = Vec::new();
        super::message(&mut out, message, b"7", headers);
        assert!(out.len() <= message_size(message, 1));
        String::from_utf8(out).expect("test messages are text")
    }

    #[test]
    fn messages_are_framed_as_the_receiver_asked() {
        let plain = Message::without_headers(b"a.b", b"", b"hello", b"005");
        assert_eq!(encoded(&plain, true), "MSG a.b 7 005\r\nhello\r\n");
        let with_reply = Message { reply: b"r", ..plain };
        assert_eq!(encoded(&with_reply, false), "MSG a.b 7 r 005\r\nhello\r\n");
        let in_one_piece = Message { tail: b"r 005\r\nhello\r\n", ..with_reply };
        assert_eq!(encoded(&in_one_piece, true), encoded(&with_reply, true));
        let with_headers = Message { headers: b"he", header_size_text: b"02", ..with_reply };
        assert_eq!(encoded(&with_headers, true), "HMSG a.b 7 r 02 005\r\nhello\r\n");
        assert_eq!(encoded(&with_headers, false), "MSG a.b 7 r 3\r\nllo\r\n");
    }

    #[test]
    fn no_responders_counts_its_own_bytes() {
        let mut out = Vec::new();
        no_responders(&mut out, b"inbox.1", b"9", b"svc.x");
        let text = String::from_utf8(out).expect("text");
        assert_eq!(text, "HMSG inbox.1 9 37 37\r\nNATS/1.0 503\r\nNats-Subject: svc.x\r\n\r\n\r\n");
    }

    #[test]
    fn decimals_and_long_payloads_are_exact() {
        for value in [0, 9, 10, 99, 100, 1_048_576, usize::MAX] {
            let mut out = Vec::new();
            decimal(&mut out, value);
            assert_eq!(out, value.to_string().as_bytes());
        }
        for size in [0, 1, 1999, 2000, 2001, 4000, 65_537] {
            let payload: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let mut out = b"x".to_vec();
            copy_payload(&mut out, &payload);
            assert_eq!(out[1..], payload[..]);
        }
    }
}
