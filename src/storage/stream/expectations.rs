//! The conditions that a publisher sets for its message to be taken, and the check of them.

use std::collections::HashMap;

use super::{AtLimit, Marks, NewMessage, NotLoaded, Stream};
use crate::protocol::subject::has_wildcard;

/// The conditions for a message to be taken; `None` accepts anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected<'parts> {
    /// The sequence of the last message that the stream ever had.
    pub last_sequence: Option<u64>,
    /// A subject, which may have wildcards, and the sequence of its last message; 0: it has none.
    pub last_of: Option<(&'parts [u8], u64)>,
    /// The id of the last message that the stream ever had; empty: it has none.
    pub last_id: Option<&'parts [u8]>,
}

/// The reason why a message is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The last message of the subject is this one; 0: there is none.
    WrongLastOfSubject {
        last: u64,
    },
    WrongLastSequence {
        last: u64,
    },
    /// A message with this id was taken, with this sequence.
    Duplicate {
        sequence: u64,
    },
    /// The id of the last message; empty where it has none.
    WrongLastId {
        id: Box<[u8]>,
    },
    AtLimit(AtLimit),
}

impl From<AtLimit> for Refusal {
    fn from(limit: AtLimit) -> Self {
        Self::AtLimit(limit)
    }
}

/// A message of a group.
#[derive(Clone, Copy, Debug)]
pub struct GroupMessage<'parts> {
    pub new: NewMessage<'parts>,
    /// The conditions to hold before the group.
    pub expected: Expected<'parts>,
}

/// The reason why a group is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRefusal {
    /// The index of the refused message.
    pub index: usize,
    pub refusal: Refusal,
}

impl Stream {
    /// Checks that a message would be taken, or finds the reason why not. Source of the order:
    /// nats-server server/stream.go processJetStreamMsg.
    ///
    /// # Errors
    /// A message that decides it is not in memory.
    pub fn check(
        &mut self,
        new: &NewMessage<'_>,
        expected: &Expected<'_>,
    ) -> Result<Result<(), Refusal>, NotLoaded> {
        self.check_settled()?;
        if let Some(refusal) = self.refuses(new, expected)? {
            return Ok(Err(refusal));
        }
        let limit = self.check_limits(new, &self.limits.marks(new.headers))?;
        Ok(limit.map_or(Ok(()), |limit| Err(limit.into())))
    }

    /// The first condition that does not hold; limits are not looked at.
    ///
    /// # Errors
    /// A message that decides it is not in memory.
    pub fn refuses(
        &self,
        new: &NewMessage<'_>,
        expected: &Expected<'_>,
    ) -> Result<Option<Refusal>, NotLoaded> {
        if let Some((filter, sequence)) = expected.last_of {
            let last = self.last_sequence_of(filter);
            if last != sequence {
                return Ok(Some(Refusal::WrongLastOfSubject { last }));
            }
        }
        if expected.last_sequence.is_some_and(|sequence| sequence != self.last_sequence) {
            return Ok(Some(Refusal::WrongLastSequence { last: self.last_sequence }));
        }
        if let Some(id) = self.limits.marks(new.headers).id
            && let Some(sequence) = self.duplicates.find(id, new.time_ns.max(self.last_time_ns))
        {
            return Ok(Some(Refusal::Duplicate { sequence }));
        }
        if let Some(expected) = expected.last_id {
            let id = self.last_id()?.unwrap_or_default();
            if id != expected {
                return Ok(Some(Refusal::WrongLastId { id: id.into() }));
            }
        }
        Ok(None)
    }

    /// Checks that all messages of a group would be taken, one after the other; changes nothing.
    /// Limits are counted as if messages of the group removed others only at the limit of their
    /// subject. So a group which rolls up may be refused though there would be room.
    ///
    /// # Errors
    /// A message that decides it is not in memory.
    pub fn check_group(
        &self,
        group: &[GroupMessage<'_>],
    ) -> Result<Result<(), GroupRefusal>, NotLoaded> {
        self.check_settled()?;
        let limits = &self.limits;
        let refuse = |index, refusal| Ok(Err(GroupRefusal { index, refusal }));
        if self.last_sequence + group.len() as u64 > super::SEQUENCE_MAX {
            return refuse(0, AtLimit::Sequences.into());
        }
        let (mut messages, mut bytes) = (self.messages, self.bytes);
        let mut counts: HashMap<&[u8], u64> = HashMap::new();
        let mut ids: HashMap<&[u8], u64> = HashMap::new();
        for (index, GroupMessage { new, expected }) in group.iter().enumerate() {
            if let Some(refusal) = self.refuses(new, expected)? {
                return refuse(index, refusal);
            }
            let marks = limits.marks(new.headers);
            let sequence = self.last_sequence + 1 + index as u64;
            if let Some(id) = marks.id
                && let Some(sequence) = ids.insert(id, sequence)
            {
                return refuse(index, Refusal::Duplicate { sequence });
            }
            if !limits.refuses_new {
                continue;
            }
            let before = || self.subjects.get(new.subject).map_or(0, |totals| totals.count);
            let count = counts.entry(new.subject).or_insert_with(before);
            let max = limits.messages_per_subject_max;
            let is_full = max > 0 && *count >= max;
            if is_full && limits.refuses_new_per_subject && marks.rollup.is_none() {
                return refuse(index, AtLimit::MessagesPerSubject.into());
            }
            *count += 1;
            messages += u64::from(!is_full);
            bytes += limits.message_bytes(new.subject, new.headers, new.payload);
            if limits.messages_max > 0 && messages > limits.messages_max {
                return refuse(index, AtLimit::Messages.into());
            }
            if limits.bytes_max > 0 && bytes > limits.bytes_max {
                return refuse(index, AtLimit::Bytes.into());
            }
        }
        Ok(Ok(()))
    }

    /// The sequence of the last message that matches a filter; 0 if there is none. Looks at every
    /// subject of a filter with wildcards.
    pub fn last_sequence_of(&self, filter: &[u8]) -> u64 {
        if !has_wildcard(filter) {
            return self.subjects.get(filter).map_or(0, |totals| totals.last);
        }
        let mut last = 0;
        self.subjects.scan(filter, None, usize::MAX, |_, totals| {
            last = last.max(totals.last);
            true
        });
        last
    }

    /// The id of the last message that the stream ever had.
    ///
    /// # Errors
    /// That message is not in memory.
    pub fn last_id(&self) -> Result<Option<&[u8]>, NotLoaded> {
        Ok(match self.find(self.last_sequence)? {
            Some(last) => Marks::read(last.headers).id,
            None => self.last_id_gone.as_deref(),
        })
    }
}
