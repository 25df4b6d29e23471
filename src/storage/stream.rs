//! The messages of one stream, and all that is read of them: a state machine without I/O and
//! without a clock.
//!
//! The same calls in the same order give the same state: that is how a journal of them is replayed.
//! The state may not depend on the machine's time, on chance or on memory.
//!
//! Messages lie in [`Block`]s, subjects in a [`SubjectIndex`]. A block's messages may be only on
//! disk. A caller that needs them gets [`NotLoaded`], loads them (`loads`) and asks again; nothing
//! has changed by then. A search that passed other blocks first returns the place to go on from
//! instead, so no call ever needs more than two blocks at a time.
//!
//! The removals that a message causes are [owed] once it was taken. Most are done at once, by
//! [`Stream::settle`], in slices, which may need blocks. Until they are done nothing else may
//! change the stream, or a replay would end in another state. While they wait for a block, every
//! call waits for it too. [`Stream::next`] and [`Stream::purge_some`] bound the messages they look
//! at, too, and are called again until they are done.
//!
//! With a limit of more than one message per subject, the search for the next oldest message of a
//! subject passes over the blocks in between.

use std::collections::{BTreeSet, VecDeque};

use super::block::{BLOCK_BYTES_FULL, Block, Message, NO_END, NotLoaded, SubjectHasher};
use super::duplicates::Duplicates;
use super::marks::{Marks, Rollup};
use super::subject_index::{SubjectIndex, SubjectTotals};
use crate::base::limits::REMOVED_AT_ONCE_MAX;
use noted::StoredIndex;
use owed::Owed;
use removals::Removals;

pub(crate) mod age;
pub(crate) mod expectations;
pub(crate) mod noted;
pub(crate) mod owed;
pub(crate) mod pending;
mod removals;
pub(crate) mod search;
#[cfg(test)]
pub(super) mod tests;

/// The highest sequence. Without this bound a purge far past the end would leave none for later
/// messages.
pub(crate) const SEQUENCE_MAX: u64 = u64::MAX >> 1;

/// Limits of a stream; 0 means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamLimits {
    pub messages_max: u64,
    /// As counted by [`StreamLimits::message_bytes`].
    pub bytes_max: u64,
    pub age_ns_max: i64,
    pub messages_per_subject_max: u64,
    /// At a limit new messages are refused. Otherwise old ones are removed.
    pub refuses_new: bool,
    /// At the limit of a subject, too; only where `refuses_new` is set.
    pub refuses_new_per_subject: bool,
    /// Bytes are counted as nats-server counts those of memory storage.
    pub is_memory: bool,
    /// The time for which the id of a message is remembered: a message with the same id is not
    /// taken meanwhile. A change holds for later messages.
    pub duplicate_window_ns: i64,
    /// Messages may set their own time to live, and may roll up older ones: see [`Marks`].
    pub has_times_to_live: bool,
    pub has_rollups: bool,
    /// The time for which a marker stays. A marker is a message that takes the place of the last
    /// one of a subject when that is too old, so that followers of the stream learn of it. Only
    /// with times to live and rollups; 0: there are no markers.
    pub marker_ttl_ns: i64,
    /// Publishers are answered, and messages may be seen, before they are durable: see
    /// [`ASYNC_RISK`].
    pub is_async: bool,
}

/// The warning for an operator about a stream whose answers do not wait for the disk.
#[cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "no log line says it yet where a stream asks for `persist_mode: async`"
    )
)]
pub(crate) const ASYNC_RISK: &str = "messages are acknowledged before they are on disk: those of the last \
    milliseconds are lost when the process is killed or the power fails, and their sequences are used again";

impl StreamLimits {
    /// The marks in a message's headers, as far as this stream acts on them.
    pub fn marks<'headers>(&self, headers: &'headers [u8]) -> Marks<'headers> {
        let is_heeded = self.duplicate_window_ns > 0 || self.has_times_to_live || self.has_rollups;
        if headers.is_empty() || !is_heeded {
            return Marks::default();
        }
        let all = Marks::read(headers);
        Marks {
            id: all.id.filter(|_| self.duplicate_window_ns > 0),
            time_to_live: all.time_to_live.filter(|_| self.has_times_to_live),
            rollup: all.rollup.filter(|_| self.has_rollups),
            is_marker: all.is_marker && self.has_markers(),
        }
    }

    /// True if subjects whose last message ended get a marker.
    pub fn has_markers(&self) -> bool {
        self.marker_ttl_ns > 0 && self.has_times_to_live && self.has_rollups
    }

    /// The bytes of a message that count against limits and in reports, as nats-server counts them
    /// (server/filestore.go fileStoreMsgSize, server/memstore.go memStoreMsgSize).
    pub fn message_bytes(&self, subject: &[u8], headers: &[u8], payload: &[u8]) -> u64 {
        let bytes = (subject.len() + headers.len() + payload.len()) as u64;
        match (self.is_memory, headers.is_empty()) {
            (true, _) => bytes + 16,
            (false, true) => bytes + 30,
            (false, false) => bytes + 34,
        }
    }
}

/// A message that a stream is to take.
#[derive(Clone, Copy, Debug)]
pub struct NewMessage<'parts> {
    pub time_ns: i64,
    pub subject: &'parts [u8],
    pub headers: &'parts [u8],
    pub payload: &'parts [u8],
}

/// The limit at which a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtLimit {
    Messages,
    Bytes,
    MessagesPerSubject,
    /// [`SEQUENCE_MAX`] is reached.
    Sequences,
}

/// The result of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search<'stream> {
    Found(Message<'stream>),
    Nothing,
    /// Nothing was found before this sequence, or behind it where the search goes backwards: search
    /// on from it.
    GoOn(u64),
}

impl<'stream> From<Option<Message<'stream>>> for Search<'stream> {
    fn from(found: Option<Message<'stream>>) -> Self {
        found.map_or(Self::Nothing, Self::Found)
    }
}

/// A purge under way.
#[derive(Clone, Debug)]
pub struct Purge {
    filter: Vec<u8>,
    /// The next sequence to look at, and the last one.
    from: u64,
    through: u64,
    /// The number of messages that may still be removed.
    left: u64,
    pub purged: u64,
}

/// Counts of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamTotals {
    pub messages: u64,
    pub bytes: u64,
    /// The sequence of the first message there is; one above `last_sequence` in an empty stream.
    pub first_sequence: u64,
    /// The sequence of the last message there ever was.
    pub last_sequence: u64,
    pub subjects: u64,
    /// The number of messages missing between the first and the last sequence.
    pub deleted: u64,
}

/// A stream's messages.
#[derive(Debug)]
pub struct Stream {
    limits: StreamLimits,
    hasher: SubjectHasher,
    /// The size in bytes past which a block is complete.
    block_bytes: usize,
    blocks: VecDeque<Block>,
    /// The bases of blocks that went since a checkpoint noted them.
    gone: Vec<u64>,
    subjects: SubjectIndex,
    messages: u64,
    bytes: u64,
    last_sequence: u64,
    last_time_ns: i64,
    duplicates: Duplicates,
    /// Blocks with messages that end on their own: the time before which none ends, and the block's
    /// base.
    ends: BTreeSet<(i64, u64)>,
    /// Below this sequence there are only messages that never age.
    aged_from: u64,
    /// The id of the last message, if that message is gone and had one.
    last_id_gone: Option<Box<[u8]>>,
    /// The rest of the last change, still to be done.
    owed: Option<Box<Owed>>,
    removals: Removals,
    /// The block behind those that were loaded last, and how many bytes those had.
    pub(super) read_on: (u64, usize),
    stored_index: StoredIndex,
}

impl Stream {
    /// An empty stream whose first message will have the sequence `first_sequence`. The seed is for
    /// hashes of subjects and has to stay hidden from peers.
    pub fn new(limits: StreamLimits, first_sequence: u64, hash_seed: u64) -> Self {
        Self {
            limits,
            hasher: SubjectHasher { seed: hash_seed },
            block_bytes: BLOCK_BYTES_FULL,
            blocks: VecDeque::new(),
            gone: Vec::new(),
            subjects: SubjectIndex::default(),
            messages: 0,
            bytes: 0,
            last_sequence: first_sequence.clamp(1, SEQUENCE_MAX) - 1,
            last_time_ns: i64::MIN,
            duplicates: Duplicates::default(),
            ends: BTreeSet::new(),
            aged_from: 0,
            last_id_gone: None,
            owed: None,
            removals: Removals::default(),
            read_on: (0, 0),
            stored_index: StoredIndex::default(),
        }
    }

    pub fn totals(&self) -> StreamTotals {
        let first_sequence = self.first_sequence();
        StreamTotals {
            messages: self.messages,
            bytes: self.bytes,
            first_sequence,
            last_sequence: self.last_sequence,
            subjects: self.subjects.len() as u64,
            deleted: self.last_sequence + 1 - first_sequence - self.messages,
        }
    }

    /// The time of the first message; `None` where there is none.
    ///
    /// # Errors
    /// The message is not in memory.
    pub fn first_time_ns(&self) -> Result<Option<i64>, NotLoaded> {
        Ok(self.get(self.first_sequence())?.map(|first| first.time_ns))
    }

    /// The time of the last message that there ever was; `None` where there was none.
    pub fn last_time_ns(&self) -> Option<i64> {
        Some(self.last_time_ns).filter(|time_ns| *time_ns != i64::MIN)
    }

    pub fn limits(&self) -> &StreamLimits {
        &self.limits
    }

    /// Bytes of memory that messages and subjects take.
    pub fn memory_bytes(&self) -> usize {
        self.blocks.iter().map(Block::memory_bytes).sum::<usize>()
            + self.subjects.bytes()
            + self.duplicates.memory_bytes()
            + self.ends.len() * 24
    }

    fn first_sequence(&self) -> u64 {
        self.blocks.front().map_or(self.last_sequence + 1, Block::first)
    }

    /// Takes a message, and removes old ones where a limit or its rollup requires it: some at once,
    /// the others are owed.
    ///
    /// # Errors
    /// The message is at a limit that refuses new ones. Source: nats-server server/memstore.go
    /// storeRawMsg.
    ///
    /// # Panics
    /// The stream is not [ready](Self::ready).
    #[cfg(test)]
    pub fn append(&mut self, new: NewMessage<'_>) -> Result<Result<u64, AtLimit>, NotLoaded> {
        let limit = self.check_limits(&new, &self.limits.marks(new.headers))?;
        self.ready(new.headers)?;
        Ok(limit.map_or_else(|| Ok(self.take(new)), Err))
    }

    /// Checks that all that is needed to take a message with these headers is in memory.
    ///
    /// # Errors
    /// Something is not.
    pub fn ready(&self, headers: &[u8]) -> Result<(), NotLoaded> {
        self.check_settled()?;
        match self.blocks.back() {
            Some(last) if !last.is_complete() => last.loaded().map(drop),
            _ if self.limits.marks(headers).rollup == Some(Rollup::All) => self.last_id().map(drop),
            _ => Ok(()),
        }
    }

    /// Takes a message that was taken before. No limit is checked: the messages lost by now say
    /// nothing about the room there was then.
    ///
    /// # Panics
    /// The stream is not [ready](Self::ready).
    pub fn take(&mut self, new: NewMessage<'_>) -> u64 {
        let (sequence, has_rollup) = self.put(&new);
        if self.owed.is_none() && !has_rollup {
            // The usual case: a message or two go, and nothing is noted for it.
            let mut left = REMOVED_AT_ONCE_MAX;
            if self.enforce_of_subject(new.subject, &mut left) == Ok(true)
                && self.enforce(&mut left) == Ok(true)
            {
                return sequence;
            }
        }
        self.owe_for(new.subject, sequence, has_rollup);
        // The rest is done by whoever settles the stream next.
        let _ = self.settle(REMOVED_AT_ONCE_MAX);
        sequence
    }

    /// Takes the messages of a group. The removals that they cause are owed for all together.
    ///
    /// # Panics
    /// The stream is not [ready](Self::ready) for each.
    pub fn take_group<'parts>(&mut self, group: impl Iterator<Item = NewMessage<'parts>>) {
        for new in group {
            let (sequence, has_rollup) = self.put(&new);
            self.owe_for(new.subject, sequence, has_rollup);
        }
        let _ = self.settle(REMOVED_AT_ONCE_MAX);
    }

    /// Puts a message behind the others; returns its sequence, and true if it rolls up its subject.
    fn put(&mut self, new: &NewMessage<'_>) -> (u64, bool) {
        let marks = self.limits.marks(new.headers);
        if marks.rollup == Some(Rollup::All) {
            self.clear();
        }
        let sequence = self.last_sequence + 1;
        let time_ns = new.time_ns.max(self.last_time_ns);
        let NewMessage { subject, headers, payload, .. } = *new;
        self.push(&Message { sequence, time_ns, subject, headers, payload }, &marks);
        self.messages += 1;
        self.bytes += self.limits.message_bytes(subject, headers, payload);
        self.last_sequence = sequence;
        self.last_time_ns = time_ns;
        self.last_id_gone = None;
        if let Some(id) = marks.id {
            self.duplicates.insert(id, sequence, time_ns, self.limits.duplicate_window_ns);
        }
        self.subjects.update(subject, |totals| Some(SubjectTotals::with_another(totals, sequence)));
        (sequence, marks.rollup == Some(Rollup::Subject))
    }

    /// Removes all messages.
    fn clear(&mut self) {
        let last = self.last_id().expect("who removes all messages has loaded the last one");
        self.last_id_gone = last.map(Into::into);
        self.gone.extend(self.blocks.drain(..).filter(Block::is_noted).map(|block| block.base()));
        self.subjects.clear();
        self.ends.clear();
        self.removals.note(self.last_sequence);
        (self.messages, self.bytes) = (0, 0);
    }

    /// Returns the limit at which a message would be refused, if there is one.
    ///
    /// # Errors
    /// The message that would be removed for it is not in memory.
    pub fn check_limits(
        &mut self,
        new: &NewMessage<'_>,
        marks: &Marks<'_>,
    ) -> Result<Option<AtLimit>, NotLoaded> {
        self.check_settled()?;
        let limits = self.limits;
        if self.last_sequence >= SEQUENCE_MAX {
            return Ok(Some(AtLimit::Sequences));
        }
        if !limits.refuses_new {
            return Ok(None);
        }
        let of_subject = self.subjects.get(new.subject).map_or(0, |totals| totals.count);
        let per_subject = limits.messages_per_subject_max;
        // The new message replaces an old one, so the other limits hold.
        let is_full = per_subject > 0 && of_subject >= per_subject;
        let replaces = is_full || (marks.is_marker && of_subject > 0);
        if is_full && limits.refuses_new_per_subject && marks.rollup.is_none() {
            return Ok(Some(AtLimit::MessagesPerSubject));
        }
        if limits.messages_max > 0 && self.messages >= limits.messages_max && !replaces {
            return Ok(Some(AtLimit::Messages));
        }
        let bytes = limits.message_bytes(new.subject, new.headers, new.payload);
        if limits.bytes_max > 0 && self.bytes + bytes > limits.bytes_max {
            let freed = match replaces {
                false => 0,
                true => {
                    let first = self.find_first(new.subject)?;
                    let first = first.map(|first| self.find(first)).transpose()?.flatten();
                    first.map_or(0, |first| {
                        limits.message_bytes(first.subject, first.headers, first.payload)
                    })
                }
            };
            if freed < bytes {
                return Ok(Some(AtLimit::Bytes));
            }
        }
        Ok(None)
    }

    fn push(&mut self, message: &Message<'_>, marks: &Marks<'_>) {
        match self.blocks.back_mut() {
            Some(block) if block.has_room(message, self.block_bytes) => {
                let before = block.end_ns();
                block.push(message, marks);
                if block.end_ns() != before {
                    let index = self.blocks.len() - 1;
                    self.note_end(index, before);
                }
            }
            full => {
                if let Some(block) = full.filter(|block| !block.is_complete()) {
                    block.complete(self.hasher);
                }
                self.blocks.push_back(Block::new(message, marks));
                self.note_end(self.blocks.len() - 1, NO_END);
            }
        }
    }

    /// Notes that a block's end may have changed.
    fn note_end(&mut self, index: usize, before: i64) {
        let (base, after) = (self.blocks[index].base(), self.blocks[index].end_ns());
        self.ends.remove(&(before, base));
        if after != NO_END {
            self.ends.insert((after, base));
        }
    }

    /// Changes the limits. The removals that they require are owed.
    ///
    /// # Panics
    /// The limits are for another kind of storage, or change when answers leave: neither can change
    /// in a stream.
    pub fn set_limits(&mut self, limits: StreamLimits) {
        assert!(limits.is_memory == self.limits.is_memory, "a stream keeps its storage");
        assert!(limits.is_async == self.limits.is_async, "a stream keeps what its answers say");
        let has_other_ends = limits.has_times_to_live != self.limits.has_times_to_live;
        self.limits = limits;
        if has_other_ends {
            self.forget_ends();
        }
        self.owe_for_limits();
        let _ = self.settle(REMOVED_AT_ONCE_MAX);
    }

    /// Goes on with this sequence: missing messages before it are lost.
    pub fn lose_before(&mut self, sequence: u64) {
        self.last_sequence = self.last_sequence.max(sequence.clamp(1, SEQUENCE_MAX) - 1);
    }

    /// Deletes a message; false where there is none.
    ///
    /// # Errors
    /// The message is not in memory.
    pub fn delete(&mut self, sequence: u64) -> Result<bool, NotLoaded> {
        let is_there = self.get(sequence)?.is_some();
        if is_there {
            self.remove(sequence)?;
            let _ = self.settle(REMOVED_AT_ONCE_MAX);
        }
        Ok(is_there)
    }

    /// Begins a purge of the messages that match a filter: of all before the sequence `before` (0:
    /// of all), except for the last `keep`. Source: nats-server server/memstore.go PurgeEx, which
    /// accepts only one of the two at a time.
    ///
    /// Without a filter, `before` may be past the end: sequences go on from there.
    ///
    /// # Panics
    /// The [last id](Self::last_id) is not known: its message is not in memory.
    pub fn purge(&mut self, filter: Option<&[u8]>, before: u64, keep: u64) -> Purge {
        let filter = filter.unwrap_or(b">");
        let left = match keep {
            0 => u64::MAX,
            _ => self.count_of(filter).saturating_sub(keep),
        };
        let through = match before {
            0 => self.last_sequence,
            _ => (before - 1).min(self.last_sequence),
        };
        let mut purge = Purge { filter: filter.to_vec(), from: 0, through, left, purged: 0 };
        if filter == b">" && left == u64::MAX && through == self.last_sequence {
            purge.purged = self.messages;
            purge.left = 0;
            self.clear();
            self.last_sequence = self.last_sequence.max(before.clamp(1, SEQUENCE_MAX) - 1);
        }
        purge
    }

    /// Goes on with a purge, and looks at about `messages_max` messages; true when it is done.
    ///
    /// # Errors
    /// The next message is not in memory.
    pub fn purge_some(
        &mut self,
        purge: &mut Purge,
        messages_max: usize,
    ) -> Result<bool, NotLoaded> {
        let mut left = messages_max;
        if self.owes_recount() && !self.recount(&mut left)? {
            return Ok(false);
        }
        self.find_last()?;
        let mut looked_at = 0;
        while looked_at < messages_max {
            if purge.left == 0 || purge.from > purge.through {
                return Ok(true);
            }
            match self.search(&purge.filter, purge.from, messages_max - looked_at)? {
                Search::Nothing => return Ok(true),
                Search::GoOn(sequence) => {
                    purge.from = sequence;
                    if self.find(sequence).is_ok() {
                        return Ok(false);
                    }
                }
                Search::Found(message) if message.sequence > purge.through => return Ok(true),
                Search::Found(message) => {
                    let sequence = message.sequence;
                    self.remove(sequence)?;
                    purge.from = sequence + 1;
                    purge.left -= u64::from(purge.left != u64::MAX);
                    purge.purged += 1;
                    looked_at += 1;
                    self.find_last()?;
                }
            }
        }
        Ok(false)
    }

    /// Removes a message that is there. If it was the last one of its subject, the search for the
    /// one before is owed.
    ///
    /// # Errors
    /// The message is not in memory, and stays.
    fn remove(&mut self, sequence: u64) -> Result<(), NotLoaded> {
        let index = self.block_of(sequence).expect("the message is there");
        let message = self.blocks[index].loaded()?.get(sequence).expect("the message is there");
        let (subject, headers, payload) = (message.subject, message.headers, message.payload);
        let bytes = self.limits.message_bytes(subject, headers, payload);
        let Some(before) = self.subjects.get(subject) else { return Err(self.distrust()) };
        let is_last = before.count > 1 && sequence == before.last;
        let after = (before.count > 1).then(|| {
            let count = before.count - 1;
            let last = if is_last { sequence - 1 } else { before.last };
            let first = match (count, sequence <= before.first) {
                // The only one left is the last one.
                (1, _) => last,
                // The first one is at or above the next sequence; whoever needs it searches from
                // there.
                (_, true) => sequence + 1,
                (_, false) => before.first,
            };
            SubjectTotals { count, first, last }
        });
        let subject = subject.to_vec();
        if sequence == self.last_sequence {
            self.last_id_gone = Marks::read(headers).id.map(Into::into);
        }
        self.subjects.update(&subject, |_| after);
        self.messages -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
        self.removals.note(sequence);
        self.blocks[index].remove(sequence);
        if self.blocks[index].is_empty() {
            self.remove_block(index);
        } else {
            self.merge_around(index);
        }
        if is_last {
            self.owed_mut().last_of = Some(subject);
        }
        Ok(())
    }

    /// A message; `None` where there is none with that sequence.
    ///
    /// # Errors
    /// The message is not in memory.
    pub fn get(&self, sequence: u64) -> Result<Option<Message<'_>>, NotLoaded> {
        self.check_settled()?;
        self.find(sequence)
    }

    fn find(&self, sequence: u64) -> Result<Option<Message<'_>>, NotLoaded> {
        match self.block_of(sequence) {
            Some(index) => Ok(self.blocks[index].loaded()?.get(sequence)),
            None => Ok(None),
        }
    }

    /// The subjects with their totals; search them with [`SubjectIndex::scan`].
    pub fn subjects(&self) -> &SubjectIndex {
        &self.subjects
    }

    /// The block that may hold a sequence.
    fn block_of(&self, sequence: u64) -> Option<usize> {
        let index = self.block_from(sequence);
        self.blocks.get(index).filter(|block| block.first() <= sequence).map(|_| index)
    }

    /// The first block with a message from a sequence on; the number of blocks where there is none.
    fn block_from(&self, sequence: u64) -> usize {
        self.blocks.partition_point(|block| block.last() < sequence)
    }

    /// Asserts the invariants that can be checked without a twin.
    pub fn check_invariants(&self) {
        self.subjects.check_invariants();
        if !self.owes_recount() {
            let mut count = 0;
            self.subjects.scan(b">", None, usize::MAX, |_, totals| {
                count += totals.count;
                true
            });
            assert!(count == self.messages, "messages of subjects are miscounted");
        }
        self.blocks.iter().for_each(Block::check_invariants);
        let count: usize = self.blocks.iter().map(Block::len).sum();
        assert!(count as u64 == self.messages, "messages are miscounted");
        let rises = |(left, right): (&Block, &Block)| left.last() < right.first();
        assert!(self.blocks.iter().zip(self.blocks.iter().skip(1)).all(rises), "blocks overlap");
        let complete = self.blocks.iter().rev().skip(1).all(Block::is_complete);
        assert!(complete, "a block is not complete and not the last");
        let of_blocks = |block: &Block| (block.end_ns(), block.base());
        let ends = self.blocks.iter().map(of_blocks).filter(|(end_ns, _)| *end_ns != NO_END);
        assert!(ends.collect::<BTreeSet<_>>() == self.ends, "ends are not those of the blocks");
        self.check_age();
    }
}
