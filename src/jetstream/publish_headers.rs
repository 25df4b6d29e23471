//! The headers of a published message that a stream acts on.
//!
//! Names are in their exact case, and an empty value is none. Source: nats-server server/stream.go.

use crate::protocol::headers::FIRST_LINE;
use crate::storage::marks::{self, headers};

/// The headers that decide whether a message is taken, as its publisher wrote them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked<'a> {
    pub stream: Option<&'a [u8]>,
    pub last_sequence: Option<u64>,
    pub last_sequence_of_subject: Option<u64>,
    /// The subject of that, if it is not the message's own.
    pub subject: Option<&'a [u8]>,
    pub last_id: Option<&'a [u8]>,
    pub id: Option<&'a [u8]>,
    pub time_to_live: Option<&'a [u8]>,
    pub rollup: Option<&'a [u8]>,
    pub increment: Option<&'a [u8]>,
    pub schedule: Option<&'a [u8]>,
    pub schedule_next: Option<&'a [u8]>,
    pub scheduler: Option<&'a [u8]>,
    pub source: Option<&'a [u8]>,
    pub batch: Option<&'a [u8]>,
    pub has_request_info: bool,
}

impl<'a> Asked<'a> {
    pub(super) fn read(block: &'a [u8]) -> Self {
        let mut asked = Self::default();
        for (name, value) in headers(block) {
            let target = match name {
                b"Nats-Expected-Stream" => &mut asked.stream,
                b"Nats-Expected-Last-Sequence" => {
                    asked.last_sequence.get_or_insert(number(value));
                    continue;
                }
                b"Nats-Expected-Last-Subject-Sequence" => {
                    asked.last_sequence_of_subject.get_or_insert(number(value));
                    continue;
                }
                b"Nats-Expected-Last-Subject-Sequence-Subject" => &mut asked.subject,
                b"Nats-Expected-Last-Msg-Id" => &mut asked.last_id,
                marks::ID => &mut asked.id,
                marks::TIME_TO_LIVE => &mut asked.time_to_live,
                marks::ROLLUP => &mut asked.rollup,
                b"Nats-Incr" => &mut asked.increment,
                b"Nats-Schedule" => &mut asked.schedule,
                b"Nats-Schedule-Next" => &mut asked.schedule_next,
                b"Nats-Scheduler" => &mut asked.scheduler,
                b"Nats-Stream-Source" => &mut asked.source,
                b"Nats-Batch-Id" => &mut asked.batch,
                b"Nats-Request-Info" => {
                    asked.has_request_info = true;
                    continue;
                }
                _ => continue,
            };
            target.get_or_insert(value);
        }
        asked
    }
}

/// The number of an expected sequence; what is none is a sequence that no message has.
fn number(value: &[u8]) -> u64 {
    let digits = value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| digits);
    text.and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}

/// True for the value of a `Nats-Incr` that is a number.
pub(super) fn is_increment(value: &[u8]) -> bool {
    let digits = value.strip_prefix(b"+").or(value.strip_prefix(b"-")).unwrap_or(value);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

/// The block as it is stored: without a status in its first line, and without the headers that
/// describe a requester to a service. `None` = as it is.
pub(super) fn to_be_stored(block: &[u8], has_request_info: bool) -> Option<Vec<u8>> {
    if block.starts_with(FIRST_LINE) && !has_request_info {
        return None;
    }
    let end = memchr::memmem::find(block, b"\r\n")?;
    let mut stored = FIRST_LINE.to_vec();
    let mut rest = &block[end + 2..];
    while let Some(end) = memchr::memmem::find(rest, b"\r\n") {
        let (line, after) = rest.split_at(end + 2);
        if !line.starts_with(b"Nats-Request-Info:") {
            stored.extend_from_slice(line);
        }
        rest = after;
    }
    // A block that holds nothing any more is none.
    if stored.len() <= FIRST_LINE.len() + 2 { Some(Vec::new()) } else { Some(stored) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_value_of_a_name_counts_and_numbers_are_digits() {
        let block = b"NATS/1.0\r\nNats-Expected-Last-Sequence: 7\r\nNats-Expected-Last-Sequence: 8\r\n\
            Nats-Expected-Last-Subject-Sequence: -1\r\nNats-Msg-Id:a \r\nnats-incr: 1\r\nNats-Rollup: \r\n\r\n";
        let asked = Asked::read(block);
        assert_eq!(
            (asked.last_sequence, asked.last_sequence_of_subject),
            (Some(7), Some(u64::MAX))
        );
        assert_eq!((asked.id, asked.increment, asked.rollup), (Some(&b"a "[..]), None, None));
        assert!(
            is_increment(b"+5") && is_increment(b"0") && !is_increment(b"+") && !is_increment(b"x")
        );
    }

    #[test]
    fn status_and_requesters_are_not_stored() {
        assert_eq!(to_be_stored(b"NATS/1.0\r\na: b\r\n\r\n", false), None);
        let stored = to_be_stored(b"NATS/1.0 503 Foo\r\na: b\r\n\r\n", false);
        assert_eq!(stored.as_deref(), Some(&b"NATS/1.0\r\na: b\r\n\r\n"[..]));
        let stored = to_be_stored(b"NATS/1.0\r\nNats-Request-Info: {}\r\na: b\r\n\r\n", true);
        assert_eq!(stored.as_deref(), Some(&b"NATS/1.0\r\na: b\r\n\r\n"[..]));
        let stored = to_be_stored(b"NATS/1.0\r\nNats-Request-Info: {}\r\n\r\n", true);
        assert_eq!(stored.as_deref(), Some(&b""[..]));
    }
}
