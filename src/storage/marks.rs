//! The headers of a message that a stream itself acts on: its id, its time to live, a rollup, a
//! marker.
//!
//! They are stored in the message alone: a replay reads them again, as does recovery of a stream
//! from its messages. A value that is not allowed counts as absent; [`time_to_live`] and [`rollup`]
//! report it to publishers before.

use crate::config::go_text::{SignedDuration, parse_duration};
use crate::protocol::headers::FIRST_LINE;

pub(crate) const ID: &[u8] = b"Nats-Msg-Id";
pub(crate) const TIME_TO_LIVE: &[u8] = b"Nats-TTL";
pub(crate) const ROLLUP: &[u8] = b"Nats-Rollup";
pub(crate) const MARKER: &[u8] = b"Nats-Marker-Reason";

const SECOND_NS: i64 = 1_000_000_000;

/// The time for which a message stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeToLive {
    /// For ever, in spite of any limit of age.
    Never,
    /// Nanoseconds from its time on; at least a second.
    Nanoseconds(i64),
}

/// The older messages that a message replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rollup {
    /// All older messages of its subject.
    Subject,
    /// All older messages.
    All,
}

/// The marks in the headers of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks<'headers> {
    pub id: Option<&'headers [u8]>,
    pub time_to_live: Option<TimeToLive>,
    pub rollup: Option<Rollup>,
    /// The message stands for a subject that ended: see
    /// [`super::stream::StreamLimits::marker_ttl_ns`].
    pub is_marker: bool,
}

impl<'headers> Marks<'headers> {
    /// The first of several headers of one name counts.
    pub fn read(block: &'headers [u8]) -> Self {
        let mut marks = Self::default();
        let (mut ttl, mut rolls) = (None, None);
        for (name, value) in headers(block) {
            match name {
                ID => marks.id = marks.id.or(Some(value)),
                TIME_TO_LIVE => ttl = ttl.or(Some(value)),
                ROLLUP => rolls = rolls.or(Some(value)),
                MARKER => marks.is_marker = true,
                _ => {}
            }
        }
        marks.time_to_live = ttl.and_then(time_to_live);
        marks.rollup = rolls.and_then(rollup);
        marks
    }
}

/// The names and values of a block, in order, without empty ones: one pass finds all marks. Blanks
/// before a value are no part of it, and those behind it are, as in nats-server.
pub(crate) fn headers(block: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = block.strip_prefix(FIRST_LINE).unwrap_or_default();
    std::iter::from_fn(move || {
        let colon = memchr::memchr(b':', rest)?;
        let (name, after) = (&rest[..colon], &rest[colon + 1..]);
        let end = memchr::memmem::find(after, b"\r\n")?;
        rest = &after[end + 2..];
        let blanks = after.iter().take_while(|byte| **byte == b' ').count();
        Some((name, &after[blanks.min(end)..end]))
    })
    .filter(|(name, value)| !name.is_empty() && !value.is_empty())
}

/// The first value of the header of this name, in its exact case.
#[cfg(test)]
pub(super) fn find<'block>(block: &'block [u8], name: &[u8]) -> Option<&'block [u8]> {
    headers(block).find(|(other, _)| *other == name).map(|(_, value)| value)
}

/// The value of a `Nats-TTL`: `never`, a number of seconds, or a duration as Go writes it, without
/// its parts of a second. `None` where it is neither, or shorter than a second. Source: nats-server
/// server/stream.go parseMessageTTL.
pub(crate) fn time_to_live(value: &[u8]) -> Option<TimeToLive> {
    if value.eq_ignore_ascii_case(b"never") {
        return Some(TimeToLive::Never);
    }
    let text = std::str::from_utf8(value).ok()?;
    let seconds = match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse().ok()?,
        false => {
            let SignedDuration(nanoseconds) = parse_duration(text).ok()?;
            nanoseconds / SECOND_NS
        }
    };
    (seconds > 0).then(|| TimeToLive::Nanoseconds(seconds.saturating_mul(SECOND_NS)))
}

/// The value of a `Nats-Rollup`; `None` where it is not a known one.
pub(crate) fn rollup(value: &[u8]) -> Option<Rollup> {
    match value {
        _ if value.eq_ignore_ascii_case(b"sub") => Some(Rollup::Subject),
        _ if value.eq_ignore_ascii_case(b"all") => Some(Rollup::All),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_live_are_those_that_the_peer_takes() {
        let seconds = |count: i64| Some(TimeToLive::Nanoseconds(count * SECOND_NS));
        for (text, expected) in [
            ("1", seconds(1)),
            ("90", seconds(90)),
            ("1.9s", seconds(1)),
            ("1m30s", seconds(90)),
            ("1h", seconds(3600)),
            ("NEVER", Some(TimeToLive::Never)),
            ("0", None),
            ("500ms", None),
            ("-1", None),
            ("-5s", None),
            ("junk", None),
            ("", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(time_to_live(text.as_bytes()), expected, "{text}");
        }
        let longest = time_to_live(i64::MAX.to_string().as_bytes());
        assert_eq!(longest, Some(TimeToLive::Nanoseconds(i64::MAX)));
    }

    #[test]
    fn first_header_of_a_name_counts_and_names_have_their_case() {
        let block = b"NATS/1.0\r\nNats-Msg-Id: a\r\nNats-Msg-Id: b\r\nnats-ttl: 5\r\nNats-Rollup: SUB\r\n\r\n";
        let marks = Marks::read(block);
        assert_eq!((marks.id, marks.time_to_live), (Some(&b"a"[..]), None));
        assert_eq!((marks.rollup, marks.is_marker), (Some(Rollup::Subject), false));
        let marks = Marks::read(b"NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\nNats-TTL: 2s\r\n\r\n");
        assert!(marks.is_marker && marks.time_to_live.is_some());
        assert_eq!(Marks::read(b""), Marks::default());
    }
}
