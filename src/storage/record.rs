//! The records of a store's journal: every change of a stream or a consumer, in a form that never
//! changes silently.
//!
//! A record is its kind (one byte), the stream's id (eight), and fields of fixed length,
//! little-endian; a field without a fixed length comes last, or behind its length. A kind or a
//! length that does not fit is damage or a newer program's: [`Record::decode`] returns `None`, and
//! nothing is guessed.
//!
//! Changes are logical: replaying them in order gives the same state. Removals at limits are not
//! written; the same append makes them again. Removals that depend on a clock are written: how far
//! messages expired.

use super::consumer_state::ConsumerChange;
use super::fields::Fields;
use super::stream::StreamLimits;

/// Names a stream for as long as the store exists; never used again. Each lane counts in a range of
/// its own, so that a stream keeps its id in whatever lane it is moved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// The count of stream ids that each lane has; its first is its number times this.
const STREAMS_PER_LANE: u64 = 1_000_000_000_000_000;

impl StreamId {
    /// The first one of a lane.
    pub(crate) fn first_of(lane: u32) -> Self {
        Self(u64::from(lane) * STREAMS_PER_LANE)
    }

    /// True if that lane made the stream, wherever it is now.
    pub(crate) fn is_of(self, lane: u32) -> bool {
        self.0 / STREAMS_PER_LANE == u64::from(lane)
    }

    /// The number of streams that its lane had made before.
    pub(crate) fn count(self) -> u64 {
        self.0 % STREAMS_PER_LANE
    }

    /// True if its lane has hardly an id left.
    pub(crate) fn is_near_the_end(self) -> bool {
        self.count() > STREAMS_PER_LANE / 2
    }
}

/// Names a consumer of a stream; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerId(pub u64);

/// A change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change<'bytes> {
    /// `details` is for the owner, who needs it after a start.
    StreamCreated {
        first_sequence: u64,
        limits: StreamLimits,
        details: &'bytes [u8],
    },
    StreamUpdated {
        limits: StreamLimits,
        details: &'bytes [u8],
    },
    StreamDeleted,
    Appended(AppendedHead, &'bytes [u8]),
    /// Messages that are all taken or none: read them with [`members`].
    Grouped(&'bytes [u8]),
    Deleted {
        sequence: u64,
    },
    /// `filter` is empty for all.
    Purged {
        before: u64,
        keep: u64,
        filter: &'bytes [u8],
    },
    /// Messages below `before` were too old.
    Expired {
        before: u64,
    },
    /// The messages of the block with this base cannot be read from their segment any more, and are
    /// lost.
    BlockLost {
        base: u64,
        first: u64,
        last: u64,
        segment: u64,
    },
    ConsumerCreated {
        consumer: ConsumerId,
        start_after: u64,
        details: &'bytes [u8],
    },
    ConsumerUpdated {
        consumer: ConsumerId,
        details: &'bytes [u8],
    },
    ConsumerDeleted {
        consumer: ConsumerId,
    },
    ConsumerChanged {
        consumer: ConsumerId,
        change: ConsumerChange,
    },
}

impl Change<'_> {
    /// True if messages, consumers or streams are removed by it: on a full disk this makes the room
    /// for later changes.
    pub(crate) fn makes_room(&self) -> bool {
        match self {
            Self::StreamUpdated { .. }
            | Self::StreamDeleted
            | Self::Deleted { .. }
            | Self::Purged { .. }
            | Self::Expired { .. }
            | Self::BlockLost { .. }
            | Self::ConsumerDeleted { .. } => true,
            Self::StreamCreated { .. }
            | Self::Appended(..)
            | Self::Grouped(_)
            | Self::ConsumerCreated { .. }
            | Self::ConsumerUpdated { .. }
            | Self::ConsumerChanged { .. } => false,
        }
    }
}

/// The fields of an appended message; subject, headers and payload follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AppendedHead {
    pub sequence: u64,
    pub time_ns: i64,
    pub subject_bytes: u16,
    pub header_bytes: u32,
}

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'bytes> {
    pub stream: StreamId,
    pub change: Change<'bytes>,
}

/// Bytes of the longest part of fixed length.
const HEAD_BYTES_MAX: usize = 80;

/// The part of a record that has a fixed length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    bytes: [u8; HEAD_BYTES_MAX],
    length: usize,
}

impl Head {
    fn new(kind: u8, stream: StreamId) -> Self {
        let mut head = Self { bytes: [0; HEAD_BYTES_MAX], length: 0 };
        head.put(&[kind]);
        head.put(&stream.0.to_le_bytes());
        head
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    fn put_all(mut self, words: &[u64]) -> Self {
        words.iter().for_each(|word| self.put(&word.to_le_bytes()));
        self
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

const STREAM_CREATED: u8 = 1;
const STREAM_UPDATED: u8 = 2;
const STREAM_DELETED: u8 = 3;
const APPENDED: u8 = 4;
const DELETED: u8 = 5;
const PURGED: u8 = 6;
const EXPIRED: u8 = 7;
const CONSUMER_CREATED: u8 = 8;
const CONSUMER_UPDATED: u8 = 9;
const CONSUMER_DELETED: u8 = 10;
const DELIVERED: u8 = 11;
const DELIVERED_AND_DONE: u8 = 12;
const ACKED: u8 = 13;
const ACKED_THROUGH: u8 = 14;
const GROUPED: u8 = 15;
const BLOCK_LOST: u8 = 16;
const POSTPONED: u8 = 17;
const RESTARTED: u8 = 18;

impl<'bytes> Record<'bytes> {
    /// The record in two parts, to be written one behind the other: no byte of a message is copied
    /// for it.
    pub(crate) fn encode(&self) -> (Head, &'bytes [u8]) {
        let head = |kind| Head::new(kind, self.stream);
        match self.change {
            Change::StreamCreated { first_sequence, limits, details } => {
                let head = head(STREAM_CREATED).put_all(&[first_sequence]);
                (put_limits(head, &limits), details)
            }
            Change::StreamUpdated { limits, details } => {
                (put_limits(head(STREAM_UPDATED), &limits), details)
            }
            Change::StreamDeleted => (head(STREAM_DELETED), &[]),
            Change::Appended(appended, rest) => {
                let mut head = head(APPENDED);
                head.put(&appended.encode());
                (head, rest)
            }
            Change::Grouped(messages) => (head(GROUPED), messages),
            Change::Deleted { sequence } => (head(DELETED).put_all(&[sequence]), &[]),
            Change::Purged { before, keep, filter } => {
                (head(PURGED).put_all(&[before, keep]), filter)
            }
            Change::Expired { before } => (head(EXPIRED).put_all(&[before]), &[]),
            Change::BlockLost { base, first, last, segment } => {
                (head(BLOCK_LOST).put_all(&[base, first, last, segment]), &[])
            }
            Change::ConsumerCreated { consumer, start_after, details } => {
                (head(CONSUMER_CREATED).put_all(&[consumer.0, start_after]), details)
            }
            Change::ConsumerUpdated { consumer, details } => {
                (head(CONSUMER_UPDATED).put_all(&[consumer.0]), details)
            }
            Change::ConsumerDeleted { consumer } => {
                (head(CONSUMER_DELETED).put_all(&[consumer.0]), &[])
            }
            Change::ConsumerChanged { consumer, change } => match change {
                ConsumerChange::Delivered { stream_sequence, time_ns, needs_ack } => {
                    let kind = if needs_ack { DELIVERED } else { DELIVERED_AND_DONE };
                    let words = [consumer.0, stream_sequence, time_ns as u64];
                    (head(kind).put_all(&words), &[])
                }
                ConsumerChange::Acked { stream_sequence } => {
                    (head(ACKED).put_all(&[consumer.0, stream_sequence]), &[])
                }
                ConsumerChange::AckedThrough { stream_sequence } => {
                    (head(ACKED_THROUGH).put_all(&[consumer.0, stream_sequence]), &[])
                }
                ConsumerChange::Postponed { stream_sequence, time_ns } => {
                    let words = [consumer.0, stream_sequence, time_ns as u64];
                    (head(POSTPONED).put_all(&words), &[])
                }
                ConsumerChange::Restarted { after } => {
                    (head(RESTARTED).put_all(&[consumer.0, after]), &[])
                }
            },
        }
    }

    /// `None` where it is no record that this program writes.
    pub(crate) fn decode(bytes: &'bytes [u8]) -> Option<Self> {
        let (&kind, rest) = bytes.split_first()?;
        let mut fields = Fields { rest };
        let stream = StreamId(fields.word()?);
        let consumer = |fields: &mut Fields<'_>| fields.word().map(ConsumerId);
        let change = match kind {
            STREAM_CREATED => Change::StreamCreated {
                first_sequence: fields.word()?,
                limits: limits(&mut fields)?,
                details: fields.all(),
            },
            STREAM_UPDATED => {
                Change::StreamUpdated { limits: limits(&mut fields)?, details: fields.all() }
            }
            STREAM_DELETED => Change::StreamDeleted,
            APPENDED => {
                let (head, rest) = AppendedHead::decode(fields.all())?;
                Change::Appended(head, rest)
            }
            GROUPED => {
                let messages = fields.all();
                let is_whole = !messages.is_empty() && members(messages).all(|it| it.is_some());
                is_whole.then_some(Change::Grouped(messages))?
            }
            DELETED => Change::Deleted { sequence: fields.word()? },
            PURGED => Change::Purged {
                before: fields.word()?,
                keep: fields.word()?,
                filter: fields.all(),
            },
            EXPIRED => Change::Expired { before: fields.word()? },
            BLOCK_LOST => Change::BlockLost {
                base: fields.word()?,
                first: fields.word()?,
                last: fields.word()?,
                segment: fields.word()?,
            },
            CONSUMER_CREATED => Change::ConsumerCreated {
                consumer: consumer(&mut fields)?,
                start_after: fields.word()?,
                details: fields.all(),
            },
            CONSUMER_UPDATED => {
                Change::ConsumerUpdated { consumer: consumer(&mut fields)?, details: fields.all() }
            }
            CONSUMER_DELETED => Change::ConsumerDeleted { consumer: consumer(&mut fields)? },
            DELIVERED | DELIVERED_AND_DONE | ACKED | ACKED_THROUGH | POSTPONED | RESTARTED => {
                let consumer = consumer(&mut fields)?;
                let stream_sequence = fields.word()?;
                let change = match kind {
                    ACKED => ConsumerChange::Acked { stream_sequence },
                    ACKED_THROUGH => ConsumerChange::AckedThrough { stream_sequence },
                    RESTARTED => ConsumerChange::Restarted { after: stream_sequence },
                    POSTPONED => ConsumerChange::Postponed {
                        stream_sequence,
                        time_ns: fields.word()? as i64,
                    },
                    _ => ConsumerChange::Delivered {
                        stream_sequence,
                        time_ns: fields.word()? as i64,
                        needs_ack: kind == DELIVERED,
                    },
                };
                Change::ConsumerChanged { consumer, change }
            }
            _ => return None,
        };
        fields.rest.is_empty().then_some(Self { stream, change })
    }
}

/// Bytes of an [`AppendedHead`].
const APPENDED_BYTES: usize = 8 + 8 + 2 + 4;

/// Bytes before the parts of a group's message: the length of the rest, and its head.
pub(crate) const MEMBER_PREFIX_BYTES: usize = 4 + APPENDED_BYTES;

/// The head of a group: its messages follow, each its [`AppendedHead::member_prefix`], subject,
/// headers and payload.
pub(crate) fn group_head(stream: StreamId) -> Head {
    Head::new(GROUPED, stream)
}

/// The messages of a group. `None` for bytes that are no message, and then it ends.
pub(crate) fn members(messages: &[u8]) -> impl Iterator<Item = Option<(AppendedHead, &[u8])>> {
    let mut rest = messages;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let split = || {
            let (length, after) = rest.split_first_chunk::<4>()?;
            after.split_at_checked(u32::from_le_bytes(*length) as usize)
        };
        let (member, after) = split().unwrap_or_default();
        rest = after;
        Some(AppendedHead::decode(member))
    })
}

impl AppendedHead {
    fn encode(&self) -> [u8; APPENDED_BYTES] {
        let mut bytes = [0; APPENDED_BYTES];
        bytes[..8].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.time_ns.to_le_bytes());
        bytes[16..18].copy_from_slice(&self.subject_bytes.to_le_bytes());
        bytes[18..].copy_from_slice(&self.header_bytes.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut fields = Fields { rest: bytes };
        let head = Self {
            sequence: fields.word()?,
            time_ns: fields.word()? as i64,
            subject_bytes: u16::from_le_bytes(fields.array()?),
            header_bytes: u32::from_le_bytes(fields.array()?),
        };
        let parts = usize::from(head.subject_bytes) + head.header_bytes as usize;
        (parts <= fields.rest.len()).then(|| (head, fields.all()))
    }

    /// The bytes before the parts of a group's message, whose length together is `part_bytes`;
    /// `None` if they are too long.
    pub(crate) fn member_prefix(&self, part_bytes: usize) -> Option<[u8; MEMBER_PREFIX_BYTES]> {
        let length = u32::try_from(part_bytes.checked_add(APPENDED_BYTES)?).ok()?;
        let mut bytes = [0; MEMBER_PREFIX_BYTES];
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes[4..].copy_from_slice(&self.encode());
        Some(bytes)
    }

    /// Subject, headers and payload in the bytes behind the head.
    pub(crate) fn parts<'bytes>(
        &self,
        rest: &'bytes [u8],
    ) -> (&'bytes [u8], &'bytes [u8], &'bytes [u8]) {
        let (subject, rest) = rest.split_at(usize::from(self.subject_bytes));
        let (headers, payload) = rest.split_at(self.header_bytes as usize);
        (subject, headers, payload)
    }
}

fn put_limits(head: Head, limits: &StreamLimits) -> Head {
    let words = [
        limits.messages_max,
        limits.bytes_max,
        limits.age_ns_max as u64,
        limits.messages_per_subject_max,
        limits.duplicate_window_ns as u64,
        limits.marker_ttl_ns as u64,
    ];
    let mut head = head.put_all(&words);
    let flags = [
        limits.refuses_new,
        limits.refuses_new_per_subject,
        limits.is_memory,
        limits.has_times_to_live,
        limits.has_rollups,
        limits.is_async,
    ];
    head.put(&flags.map(u8::from));
    head
}

fn limits(fields: &mut Fields<'_>) -> Option<StreamLimits> {
    Some(StreamLimits {
        messages_max: fields.word()?,
        bytes_max: fields.word()?,
        age_ns_max: fields.word()? as i64,
        messages_per_subject_max: fields.word()?,
        duplicate_window_ns: fields.word()? as i64,
        marker_ttl_ns: fields.word()? as i64,
        refuses_new: fields.flag()?,
        refuses_new_per_subject: fields.flag()?,
        is_memory: fields.flag()?,
        has_times_to_live: fields.flag()?,
        has_rollups: fields.flag()?,
        is_async: fields.flag()?,
    })
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    /// Two messages.
    const GROUP: &[u8] = b"\x1b\0\0\0aaaaaaaabbbbbbbb\x01\0\x02\0\0\0shhpa\
        \x17\0\0\0aaaaaaaabbbbbbbb\x01\0\0\0\0\0s";

    fn examples() -> Vec<Record<'static>> {
        let limits = StreamLimits {
            messages_max: 1,
            bytes_max: 2,
            age_ns_max: 3,
            messages_per_subject_max: 4,
            refuses_new: true,
            refuses_new_per_subject: false,
            is_memory: true,
            duplicate_window_ns: 5,
            has_times_to_live: false,
            has_rollups: true,
            marker_ttl_ns: 6,
            is_async: true,
        };
        let consumer = ConsumerId(8);
        let stream_sequence = 77;
        let changes = [
            ConsumerChange::Delivered { stream_sequence, time_ns: -3, needs_ack: true },
            ConsumerChange::Delivered { stream_sequence, time_ns: 3, needs_ack: false },
            ConsumerChange::Acked { stream_sequence },
            ConsumerChange::AckedThrough { stream_sequence },
            ConsumerChange::Postponed { stream_sequence, time_ns: 4 },
            ConsumerChange::Restarted { after: 5 },
        ];
        let appended =
            AppendedHead { sequence: 9, time_ns: i64::MIN, subject_bytes: 3, header_bytes: 2 };
        let mut all = vec![
            Change::StreamCreated { first_sequence: 5, limits, details: b"{}" },
            Change::StreamUpdated { limits, details: b"" },
            Change::StreamDeleted,
            Change::Appended(appended, b"a.bhhpayload"),
            Change::Appended(appended, b"a.bhh"),
            Change::Grouped(GROUP),
            Change::Deleted { sequence: u64::MAX },
            Change::Purged { before: 3, keep: 0, filter: b"a.>" },
            Change::Expired { before: 4 },
            Change::BlockLost { base: 1, first: 2, last: 3, segment: 4 },
            Change::ConsumerCreated { consumer, start_after: 6, details: b"x" },
            Change::ConsumerUpdated { consumer, details: b"y" },
            Change::ConsumerDeleted { consumer },
        ];
        all.extend(changes.map(|change| Change::ConsumerChanged { consumer, change }));
        all.into_iter().map(|change| Record { stream: StreamId(12), change }).collect()
    }

    fn bytes_of(record: &Record<'_>) -> Vec<u8> {
        let (head, rest) = record.encode();
        [head.as_slice(), rest].concat()
    }

    #[test]
    fn records_read_back() {
        for record in examples() {
            let bytes = bytes_of(&record);
            assert_eq!(Record::decode(&bytes), Some(record));
        }
        let appended = bytes_of(&examples()[3]);
        let Some(Record { change: Change::Appended(head, rest), .. }) = Record::decode(&appended)
        else {
            panic!("it is an append");
        };
        assert_eq!(head.parts(rest), (&b"a.b"[..], &b"hh"[..], &b"payload"[..]));
    }

    #[test]
    fn members_of_a_group_read_back() {
        let parts: Vec<_> = members(GROUP)
            .map(|member| member.expect("it is whole"))
            .map(|(head, rest)| (head.parts(rest), head.member_prefix(rest.len())))
            .collect();
        let lengths = |prefix: Option<[u8; MEMBER_PREFIX_BYTES]>| prefix.map(|bytes| bytes[0]);
        assert_eq!(parts[0].0, (&b"s"[..], &b"hh"[..], &b"pa"[..]));
        assert_eq!(parts[1].0, (&b"s"[..], &b""[..], &b""[..]));
        assert_eq!((lengths(parts[0].1), lengths(parts[1].1)), (Some(27), Some(23)));
        assert_eq!(parts[1].1.expect("it is short"), GROUP[31..][..MEMBER_PREFIX_BYTES]);
        for length in 1..GROUP.len() {
            let is_whole = members(&GROUP[..length]).all(|member| member.is_some());
            assert_eq!(is_whole, length == 31, "{length} bytes");
        }
    }

    #[test]
    fn what_is_no_record_is_none_and_never_a_panic() {
        for record in examples() {
            let bytes = bytes_of(&record);
            for length in 0..bytes.len() {
                let _: Option<Record<'_>> = Record::decode(&bytes[..length]);
            }
            assert_eq!(Record::decode(&bytes[..8]), None, "it has no stream");
        }
        let mut random = Rng::with_seed(1);
        for _ in 0..50_000 {
            let mut bytes = bytes_of(&examples()[random.usize(0..17)]);
            for _ in 0..random.usize(1..4) {
                let at = random.usize(0..bytes.len());
                bytes[at] = random.u8(..);
            }
            if let Some(record) = Record::decode(&bytes) {
                assert_eq!(bytes_of(&record), bytes, "two forms of one record");
            }
        }
        assert_eq!(Record::decode(&[99, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
