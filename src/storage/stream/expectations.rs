//! What a publisher expects of the stream, and whether its message is taken.

use std::collections::HashMap;

use super::{AtLimit, Marks, NewMessage, Search, Stream};
use crate::protocol::subject::{has_wildcard, matches};

/// What must hold for a message to be taken; `None` is anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected<'parts> {
    /// The sequence of the last message that the stream ever had.
    pub last_sequence: Option<u64>,
    /// A subject, which may have wildcards, and the sequence of its last message; 0: it has none.
    pub last_of: Option<(&'parts [u8], u64)>,
    /// The id of the last message that the stream ever had; empty: it has none.
    pub last_id: Option<&'parts [u8]>,
}

/// Why a message is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The last message of the subject is this one; 0: there is none.
    WrongLastOfSubject {
        last: u64,
    },
    WrongLastSequence {
        last: u64,
    },
    /// A message with this id was taken: this one.
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
    /// What must hold before the group.
    pub expected: Expected<'parts>,
}

/// Why a group is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRefusal {
    /// The message that is refused, counted from 0.
    pub index: usize,
    pub refusal: Refusal,
}

impl Stream {
    /// Finds out if a message would be taken; changes nothing. Source of the order: nats-server server/stream.go
    /// processJetStreamMsg.
    ///
    /// # Errors
    /// It would not.
    pub fn check(&self, new: &NewMessage<'_>, expected: &Expected<'_>) -> Result<(), Refusal> {
        self.check_expected(new, expected)?;
        Ok(self.check_limits(new, &self.limits.marks(new.headers))?)
    }

    fn check_expected(&self, new: &NewMessage<'_>, expected: &Expected<'_>) -> Result<(), Refusal> {
        if let Some((filter, sequence)) = expected.last_of {
            let last = self.last_sequence_of(filter);
            if last != sequence {
                return Err(Refusal::WrongLastOfSubject { last });
            }
        }
        if expected.last_sequence.is_some_and(|sequence| sequence != self.last_sequence) {
            return Err(Refusal::WrongLastSequence { last: self.last_sequence });
        }
        if let Some(id) = self.limits.marks(new.headers).id
            && let Some(sequence) = self.duplicates.find(id, new.time_ns)
        {
            return Err(Refusal::Duplicate { sequence });
        }
        let last_id = || self.last_id().unwrap_or_default();
        if expected.last_id.is_some_and(|id| id != last_id()) {
            return Err(Refusal::WrongLastId { id: last_id().into() });
        }
        Ok(())
    }

    /// Finds out if all messages of a group would be taken, one after the other; changes nothing. Limits are counted
    /// as if none of the messages made another one go but at the limit of its subject, so that a group which rolls up
    /// may be refused though there would be room.
    ///
    /// # Errors
    /// One would not.
    pub fn check_group(&self, group: &[GroupMessage<'_>]) -> Result<(), GroupRefusal> {
        let limits = &self.limits;
        if self.last_sequence + group.len() as u64 > super::SEQUENCE_MAX {
            return Err(GroupRefusal { index: 0, refusal: AtLimit::Sequences.into() });
        }
        let (mut messages, mut bytes) = (self.messages, self.bytes);
        let mut counts: HashMap<&[u8], u64> = HashMap::new();
        let mut ids: HashMap<&[u8], u64> = HashMap::new();
        for (index, GroupMessage { new, expected }) in group.iter().enumerate() {
            let refuse = |refusal| Err(GroupRefusal { index, refusal });
            let checked = self.check_expected(new, expected);
            checked.map_err(|refusal| GroupRefusal { index, refusal })?;
            let marks = limits.marks(new.headers);
            let sequence = self.last_sequence + 1 + index as u64;
            if let Some(id) = marks.id
                && let Some(sequence) = ids.insert(id, sequence)
            {
                return refuse(Refusal::Duplicate { sequence });
            }
            if !limits.refuses_new {
                continue;
            }
            let before = || self.subjects.get(new.subject).map_or(0, |totals| totals.count);
            let count = counts.entry(new.subject).or_insert_with(before);
            let max = limits.messages_per_subject_max;
            let is_full = max > 0 && *count >= max;
            if is_full && limits.refuses_new_per_subject && marks.rollup.is_none() {
                return refuse(AtLimit::MessagesPerSubject.into());
            }
            *count += 1;
            messages += u64::from(!is_full);
            bytes += limits.message_bytes(new.subject, new.headers, new.payload);
            if limits.messages_max > 0 && messages > limits.messages_max {
                return refuse(AtLimit::Messages.into());
            }
            if limits.bytes_max > 0 && bytes > limits.bytes_max {
                return refuse(AtLimit::Bytes.into());
            }
        }
        Ok(())
    }

    /// The sequence of the last message that matches a filter; 0: there is none. Looks at every subject of a filter
    /// with wildcards.
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
    pub fn last_id(&self) -> Option<&[u8]> {
        match self.get(self.last_sequence) {
            Some(last) => Marks::read(last.headers).id,
            None => self.last_id_gone.as_deref(),
        }
    }

    /// The last message at or below a sequence that matches a filter, after a look at about `messages_max`: none where
    /// that found nothing and there are no more, or the sequence to go on from.
    pub fn previous(&self, filter: &[u8], through: u64, messages_max: usize) -> Search<'_> {
        let end = self.blocks.partition_point(|block| block.first() <= through);
        let all = self.blocks.range(..end).rev().flat_map(|block| block.messages().rev());
        let older = all.skip_while(|message| message.sequence > through);
        for (index, message) in older.enumerate() {
            if index >= messages_max {
                return Search::GoOn(message.sequence);
            }
            if matches(filter, message.subject) {
                return Search::Found(message);
            }
        }
        Search::Nothing
    }
}
