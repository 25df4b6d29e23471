//! The messages of one stream, and every question about them: a state machine without I/O and without a clock.
//!
//! The same calls in the same order give the same state: that is how a journal of them is replayed. Nothing of it may
//! depend on the time of the machine, on chance or on memory.
//!
//! Messages lie in [`Block`]s, subjects in a [`SubjectIndex`]. What one call does is bounded by what it removes, but
//! for those that say how much they look at: [`Stream::next`] and [`Stream::purge_some`] are called again until they
//! are done. Between two calls of one purge nothing else may change the stream, or a replay would end otherwise.
//! Until `drop_aged` is done it holds its caller: how much that is, `aged_before` bounds.
//!
//! Not here yet: blocks on disk. Until then a stream is as large as its memory. With a limit of more than one message
//! per subject, finding the next message of the subject whose oldest goes passes over the blocks in between.

use std::collections::{HashSet, VecDeque};

use super::block::{BLOCK_BYTES_FULL, Block, Message, SubjectHasher};
use super::duplicates::Duplicates;
use super::expiries::Expiries;
use super::marks::{Marks, Rollup};
use super::subject_index::{SubjectIndex, SubjectTotals};
use crate::base::limits::ROLLED_UP_AT_ONCE_MAX;
use crate::protocol::subject::{has_wildcard, matches};

pub(crate) mod age;
pub(crate) mod expectations;
pub(crate) mod noted;
#[cfg(test)]
pub(super) mod tests;

/// No sequence is above it: whoever purges far past the end would leave none for the messages to come.
pub(crate) const SEQUENCE_MAX: u64 = u64::MAX >> 1;

/// Subjects of a filter up to which each is looked for by itself.
const SUBJECTS_LOOKED_UP_MAX: usize = 16;

/// Subjects looked at to find out whether a filter has so few.
const SUBJECTS_COUNTED_MAX: usize = 256;

/// Limits of a stream; 0 means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamLimits {
    pub messages_max: u64,
    /// By [`StreamLimits::message_bytes`].
    pub bytes_max: u64,
    pub age_ns_max: i64,
    pub messages_per_subject_max: u64,
    /// At a limit new messages are refused, instead of old ones going.
    pub refuses_new: bool,
    /// The same for the limit of a subject; only where `refuses_new` is set.
    pub refuses_new_per_subject: bool,
    /// Bytes are counted as nats-server counts those of memory storage.
    pub is_memory: bool,
    /// How long the id of a message is known: one that comes with the same id within that time is not taken. A change
    /// holds for messages to come.
    pub duplicate_window_ns: i64,
    /// Messages may say how long they stay, and that older ones go: see [`Marks`].
    pub has_times_to_live: bool,
    pub has_rollups: bool,
    /// How long a marker stays: a message that takes the place of the last one of a subject when that is too old, so
    /// that whoever follows the stream hears of it. Only with times to live and rollups; 0: there are no markers.
    pub marker_ttl_ns: i64,
    /// Publishers are answered, and messages may be seen, before they are durable: see [`ASYNC_RISK`].
    pub is_async: bool,
}

/// What an operator is to know of a stream whose answers do not wait for the disk.
#[cfg_attr(not(test), expect(dead_code, reason = "the log says it once servers have JetStream"))]
pub(crate) const ASYNC_RISK: &str = "messages are acknowledged before they are on disk: those of the last \
    milliseconds are lost when the process is killed or the power fails, and their sequences are used again";

impl StreamLimits {
    /// What the headers of a message say, as far as this stream acts on it.
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

    /// True if markers stand for subjects that ended.
    pub fn has_markers(&self) -> bool {
        self.marker_ttl_ns > 0 && self.has_times_to_live && self.has_rollups
    }

    /// The bytes of a message that count against limits and in reports, as nats-server counts them (server/filestore.go
    /// fileStoreMsgSize, server/memstore.go memStoreMsgSize).
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

/// Why a message is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtLimit {
    Messages,
    Bytes,
    MessagesPerSubject,
    /// [`SEQUENCE_MAX`] is used.
    Sequences,
}

/// A message that was taken.
#[derive(Clone, Debug)]
pub struct Appended {
    pub sequence: u64,
    /// What is left to do of its rollup: nothing else may change the stream before.
    pub rollup: Option<Purge>,
}

/// What a search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search<'stream> {
    Found(Message<'stream>),
    Nothing,
    /// Nothing before this sequence: search on from it.
    GoOn(u64),
}

/// A purge under way.
#[derive(Clone, Debug)]
pub struct Purge {
    filter: Vec<u8>,
    /// The next sequence to look at, and the last.
    from: u64,
    through: u64,
    /// Messages that may still go.
    left: u64,
    pub purged: u64,
}

/// Counts of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamTotals {
    pub messages: u64,
    pub bytes: u64,
    /// That of the first message there is; one above `last_sequence` in an empty stream.
    pub first_sequence: u64,
    /// That of the last message there ever was.
    pub last_sequence: u64,
    pub subjects: u64,
    /// Messages missing between the first and the last sequence.
    pub deleted: u64,
}

/// A stream's messages.
#[derive(Debug)]
pub struct Stream {
    limits: StreamLimits,
    hasher: SubjectHasher,
    /// Bytes past which a block is complete.
    block_bytes: usize,
    blocks: VecDeque<Block>,
    /// Blocks that went since a checkpoint noted them, by their base.
    gone: Vec<u64>,
    subjects: SubjectIndex,
    messages: u64,
    bytes: u64,
    last_sequence: u64,
    last_time_ns: i64,
    duplicates: Duplicates,
    expiries: Expiries,
    /// Below this sequence there are only messages that no age ends.
    aged_from: u64,
    /// The id of the last message, if that is gone and had one.
    last_id_gone: Option<Box<[u8]>>,
}

impl Stream {
    /// An empty stream whose first message will have the sequence `first_sequence`. The seed is for hashes of
    /// subjects: no peer may know it.
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
            expiries: Expiries::default(),
            aged_from: 0,
            last_id_gone: None,
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

    pub fn limits(&self) -> &StreamLimits {
        &self.limits
    }

    /// Bytes of memory that messages and subjects take.
    pub fn memory_bytes(&self) -> usize {
        let ends = self.expiries.len() * 24;
        self.blocks.iter().map(Block::memory_bytes).sum::<usize>()
            + self.subjects.bytes()
            + self.duplicates.memory_bytes()
            + ends
    }

    fn first_sequence(&self) -> u64 {
        self.blocks.front().map_or(self.last_sequence + 1, Block::first)
    }

    /// Takes a message, and lets old ones go where a limit or its rollup says so.
    ///
    /// # Errors
    /// It is at a limit that refuses new messages. Source: nats-server server/memstore.go storeRawMsg.
    pub fn append(&mut self, new: NewMessage<'_>) -> Result<Appended, AtLimit> {
        self.check_limits(&new, &self.limits.marks(new.headers))?;
        Ok(self.take(new))
    }

    /// Takes a message that was taken before: whether there was room then, what is lost by now says nothing about.
    pub fn take(&mut self, new: NewMessage<'_>) -> Appended {
        let marks = self.limits.marks(new.headers);
        if marks.rollup == Some(Rollup::All) {
            self.clear();
        }
        let sequence = self.last_sequence + 1;
        let time_ns = new.time_ns.max(self.last_time_ns);
        let NewMessage { subject, headers, payload, .. } = new;
        self.push(&Message { sequence, time_ns, subject, headers, payload });
        self.messages += 1;
        self.bytes += self.limits.message_bytes(subject, headers, payload);
        self.last_sequence = sequence;
        self.last_time_ns = time_ns;
        self.last_id_gone = None;
        self.note_marks(sequence, time_ns, &marks);
        self.subjects.update(subject, |totals| {
            Some(match totals {
                None => SubjectTotals::single(sequence),
                Some(totals) => SubjectTotals { count: totals.count + 1, last: sequence, ..totals },
            })
        });
        let mut rollup = None;
        if marks.rollup == Some(Rollup::Subject) {
            let mut purge = self.purge(Some(subject), sequence, 0);
            let is_done = self.purge_some(&mut purge, ROLLED_UP_AT_ONCE_MAX);
            rollup = (!is_done).then_some(purge);
        }
        self.enforce_per_subject(subject);
        self.enforce();
        Appended { sequence, rollup }
    }

    /// Remembers what a message that was taken says of itself.
    fn note_marks(&mut self, sequence: u64, time_ns: i64, marks: &Marks<'_>) {
        if let Some(id) = marks.id {
            self.duplicates.insert(id, sequence, time_ns, self.limits.duplicate_window_ns);
        }
        if let Some(time_to_live) = marks.time_to_live {
            self.expiries.insert(sequence, time_ns, time_to_live);
        }
    }

    /// Removes all messages.
    fn clear(&mut self) {
        self.last_id_gone = self.last_id().map(Into::into);
        self.gone.extend(self.blocks.drain(..).filter(Block::is_noted).map(|block| block.base()));
        self.subjects.clear();
        self.expiries.clear();
        (self.messages, self.bytes) = (0, 0);
    }

    /// Finds out if a message would be taken; changes nothing.
    ///
    /// # Errors
    /// As those of [`Stream::append`].
    pub fn check_limits(&self, new: &NewMessage<'_>, marks: &Marks<'_>) -> Result<(), AtLimit> {
        let limits = &self.limits;
        if self.last_sequence >= SEQUENCE_MAX {
            return Err(AtLimit::Sequences);
        }
        if !limits.refuses_new {
            return Ok(());
        }
        let of_subject = self.subjects.get(new.subject).map_or(0, |totals| totals.count);
        let per_subject = limits.messages_per_subject_max;
        // One goes for the one that comes, so the other limits hold.
        let is_full = per_subject > 0 && of_subject >= per_subject;
        let replaces = is_full || (marks.is_marker && of_subject > 0);
        if is_full && limits.refuses_new_per_subject && marks.rollup.is_none() {
            return Err(AtLimit::MessagesPerSubject);
        }
        if limits.messages_max > 0 && self.messages >= limits.messages_max && !replaces {
            return Err(AtLimit::Messages);
        }
        let bytes = limits.message_bytes(new.subject, new.headers, new.payload);
        if limits.bytes_max > 0 && self.bytes + bytes > limits.bytes_max {
            let freed = match replaces {
                false => 0,
                true => self.first_of(new.subject).map_or(0, |first| {
                    limits.message_bytes(first.subject, first.headers, first.payload)
                }),
            };
            if freed < bytes {
                return Err(AtLimit::Bytes);
            }
        }
        Ok(())
    }

    fn push(&mut self, message: &Message<'_>) {
        match self.blocks.back_mut() {
            Some(block) if block.has_room(message, self.block_bytes) => block.push(message),
            full => {
                if let Some(block) = full.filter(|block| !block.is_complete()) {
                    block.complete(self.hasher);
                }
                self.blocks.push_back(Block::new(message));
            }
        }
    }

    /// Lets messages of a subject go that are above its limit.
    fn enforce_per_subject(&mut self, subject: &[u8]) {
        let max = self.limits.messages_per_subject_max;
        while max > 0 && self.subjects.get(subject).is_some_and(|totals| totals.count > max) {
            let first = self.first_of(subject).expect("the subject has messages").sequence;
            self.remove(first);
        }
    }

    /// Lets the oldest messages go until the limits of the stream hold.
    fn enforce(&mut self) {
        let limits = self.limits;
        let is_above = |stream: &Self| {
            let is_old = !limits.refuses_new;
            (is_old && limits.messages_max > 0 && stream.messages > limits.messages_max)
                || (is_old && limits.bytes_max > 0 && stream.bytes > limits.bytes_max)
        };
        while is_above(self) {
            self.remove(self.first_sequence());
        }
    }

    /// Takes other limits and enforces them.
    ///
    /// # Panics
    /// They are for another kind of storage, or answers mean another thing: a stream keeps what it has.
    pub fn set_limits(&mut self, limits: StreamLimits) {
        assert!(limits.is_memory == self.limits.is_memory, "a stream keeps its storage");
        assert!(limits.is_async == self.limits.is_async, "a stream keeps what its answers say");
        let has_other_ends = limits.has_times_to_live != self.limits.has_times_to_live;
        self.limits = limits;
        if has_other_ends {
            self.note_ends();
        }
        let max = limits.messages_per_subject_max;
        if max > 0 {
            let mut above = Vec::new();
            self.subjects.scan(b">", None, usize::MAX, |subject, totals| {
                if totals.count > max {
                    above.push(subject.to_vec());
                }
                true
            });
            above.iter().for_each(|subject| self.enforce_per_subject(subject));
        }
        self.enforce();
    }

    /// Goes on with this sequence: those before that are not there are lost.
    pub fn lose_before(&mut self, sequence: u64) {
        self.last_sequence = self.last_sequence.max(sequence.clamp(1, SEQUENCE_MAX) - 1);
    }

    /// Deletes a message; false where there is none.
    pub fn delete(&mut self, sequence: u64) -> bool {
        self.get(sequence).is_some() && {
            self.remove(sequence);
            true
        }
    }

    /// Begins a purge of what matches a filter: of all before the sequence `before` (0: of all), but for the last
    /// `keep`. Source: nats-server server/memstore.go PurgeEx, which knows only one of both at a time.
    ///
    /// Where there is no filter, `before` may be past the end: sequences go on from there.
    pub fn purge(&mut self, filter: Option<&[u8]>, before: u64, keep: u64) -> Purge {
        let filter = filter.unwrap_or(b">");
        let left = match keep {
            0 => u64::MAX,
            _ => self.pending(filter, 0).saturating_sub(keep),
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

    /// Goes on with a purge, looking at about `messages_max` messages; true when it is done.
    pub fn purge_some(&mut self, purge: &mut Purge, messages_max: usize) -> bool {
        let mut looked_at = 0;
        while looked_at < messages_max {
            if purge.left == 0 || purge.from > purge.through {
                return true;
            }
            match self.next(&purge.filter, purge.from, messages_max - looked_at) {
                Search::Nothing => return true,
                Search::GoOn(sequence) => {
                    purge.from = sequence;
                    return false;
                }
                Search::Found(message) if message.sequence > purge.through => return true,
                Search::Found(message) => {
                    let sequence = message.sequence;
                    self.remove(sequence);
                    purge.from = sequence + 1;
                    purge.left -= u64::from(purge.left != u64::MAX);
                    purge.purged += 1;
                    looked_at += 1;
                }
            }
        }
        false
    }

    /// Removes a message that is there.
    fn remove(&mut self, sequence: u64) {
        let index = self.block_of(sequence).expect("the message is there");
        let message = self.blocks[index].get(sequence).expect("the message is there");
        let (subject, headers, payload) = (message.subject, message.headers, message.payload);
        let bytes = self.limits.message_bytes(subject, headers, payload);
        let before = self.subjects.get(subject).expect("the subject has messages");
        let after = (before.count > 1).then(|| {
            let count = before.count - 1;
            let last = match sequence == before.last {
                true => self.last_before(subject, sequence).expect("another is there"),
                false => before.last,
            };
            let first = match (count, sequence <= before.first) {
                // The only one left is the last one, or the one that the last one was removed for.
                (1, _) => last,
                // None is before the next sequence: which one is the first, whoever needs it finds.
                (_, true) => sequence + 1,
                (_, false) => before.first,
            };
            SubjectTotals { count, first, last }
        });
        let subject = subject.to_vec();
        let (marks, time_ns) = (self.limits.marks(headers), message.time_ns);
        if let Some(time_to_live) = marks.time_to_live {
            self.expiries.remove(sequence, time_ns, time_to_live);
        }
        if sequence == self.last_sequence {
            self.last_id_gone = self.last_id().map(Into::into);
        }
        self.subjects.update(&subject, |_| after);
        self.messages -= 1;
        self.bytes -= bytes;
        self.blocks[index].remove(self.hasher, sequence);
        if self.blocks[index].is_empty() {
            self.remove_block(index);
        } else {
            self.merge_around(index);
        }
    }

    pub fn get(&self, sequence: u64) -> Option<Message<'_>> {
        self.blocks[self.block_of(sequence)?].get(sequence)
    }

    /// The last message of a subject.
    pub fn last_of(&self, subject: &[u8]) -> Option<Message<'_>> {
        self.get(self.subjects.get(subject)?.last)
    }

    /// The first message of a subject.
    pub fn first_of(&self, subject: &[u8]) -> Option<Message<'_>> {
        self.next_of(subject, 0)
    }

    /// The first message from `time_ns` on.
    pub fn first_since(&self, time_ns: i64) -> Option<Message<'_>> {
        let is_before =
            |block: &Block| block.messages().next_back().is_some_and(|last| last.time_ns < time_ns);
        let block = self.blocks.get(self.blocks.partition_point(is_before))?;
        block.messages().find(|message| message.time_ns >= time_ns)
    }

    /// The first message from the sequence `from` on that matches the filter, after a look at about `messages_max`.
    pub fn next(&self, filter: &[u8], from: u64, messages_max: usize) -> Search<'_> {
        let certain = |message: Option<_>| message.map_or(Search::Nothing, Search::Found);
        if !has_wildcard(filter) {
            return certain(self.next_of(filter, from));
        }
        if filter == b">" {
            return certain(self.messages_from(from).next());
        }
        if let Some(subjects) = self.few_subjects(filter, from) {
            let each = subjects.iter().filter_map(|subject| self.next_of(subject, from));
            return certain(each.min_by_key(|message| message.sequence));
        }
        for (index, message) in self.messages_from(from).enumerate() {
            if index >= messages_max {
                return Search::GoOn(message.sequence);
            }
            if matches(filter, message.subject) {
                return Search::Found(message);
            }
        }
        Search::Nothing
    }

    /// The subjects of a filter that have messages from a sequence on, if they are few and soon counted.
    fn few_subjects(&self, filter: &[u8], from: u64) -> Option<Vec<Vec<u8>>> {
        let mut subjects = Vec::new();
        let rest = self.subjects.scan(filter, None, SUBJECTS_COUNTED_MAX, |subject, totals| {
            if totals.last >= from {
                subjects.push(subject.to_vec());
            }
            subjects.len() <= SUBJECTS_LOOKED_UP_MAX
        });
        (rest.is_none() && subjects.len() <= SUBJECTS_LOOKED_UP_MAX).then_some(subjects)
    }

    /// Gives the last message of each subject that matches to `visit`, by subject, looking at no more than
    /// `subjects_max` subjects behind `after`; returns the subject to go on after.
    pub fn last_of_each(
        &self,
        filter: &[u8],
        after: Option<&[u8]>,
        subjects_max: usize,
        mut visit: impl FnMut(Message<'_>),
    ) -> Option<Vec<u8>> {
        self.subjects.scan(filter, after, subjects_max, |_, totals| {
            visit(self.get(totals.last).expect("the last message of a subject is there"));
            true
        })
    }

    /// The subjects that match with their totals, as [`SubjectIndex::scan`] gives them.
    pub fn subjects(&self) -> &SubjectIndex {
        &self.subjects
    }

    /// How many messages match a filter from a sequence on. Looks at each subject that matches; for those with
    /// messages on both sides of the sequence, at the counts of the blocks on its shorter side; never at messages but
    /// in one block.
    pub fn pending(&self, filter: &[u8], from: u64) -> u64 {
        if from <= self.first_sequence() && filter == b">" {
            return self.messages;
        }
        let mut count = 0;
        let mut divided_count = 0;
        let mut divided: HashSet<u64> = HashSet::new();
        self.subjects.scan(filter, None, usize::MAX, |subject, totals| {
            if totals.first >= from {
                count += totals.count;
            } else if totals.last >= from {
                divided_count += totals.count;
                divided.insert(self.hasher.hash(subject));
            }
            true
        });
        if divided.is_empty() {
            return count;
        }
        let index = self.block_from(from);
        let is_divided =
            |message: &Message<'_>| divided.contains(&self.hasher.hash(message.subject));
        // Of the block that holds both sides each message is looked at.
        let (within_before, within_after) = self.blocks.get(index).map_or((0, 0), |block| {
            let after = block.messages_from(from).filter(is_divided).count() as u64;
            (block.messages().filter(is_divided).count() as u64 - after, after)
        });
        let sum = |blocks: &mut dyn Iterator<Item = &Block>| {
            blocks.map(|block| block.count_of_set(self.hasher, &divided)).sum::<u64>()
        };
        count
            + if index < self.blocks.len() / 2 {
                divided_count - within_before - sum(&mut self.blocks.range(..index))
            } else {
                within_after + sum(&mut self.blocks.range((index + 1).min(self.blocks.len())..))
            }
    }

    /// The first message of a subject from a sequence on.
    fn next_of(&self, subject: &[u8], from: u64) -> Option<Message<'_>> {
        let totals = self.subjects.get(subject)?;
        if from > totals.last {
            return None;
        }
        if totals.count == 1 {
            return self.get(totals.last);
        }
        let from = from.max(totals.first);
        let hash = self.hasher.hash(subject);
        self.blocks
            .range(self.block_from(from)..)
            .filter(|block| !block.is_complete() || block.count_of(self.hasher, hash) > 0)
            .find_map(|block| block.messages_from(from).find(|message| message.subject == subject))
    }

    /// The sequence of the last message of a subject before a sequence.
    fn last_before(&self, subject: &[u8], sequence: u64) -> Option<u64> {
        let hash = self.hasher.hash(subject);
        let end = self.blocks.partition_point(|block| block.first() < sequence);
        self.blocks
            .range(..end)
            .rev()
            .filter(|block| !block.is_complete() || block.count_of(self.hasher, hash) > 0)
            .find_map(|block| {
                let mut all = block.messages().rev();
                let found =
                    all.find(|message| message.sequence < sequence && message.subject == subject);
                found.map(|message| message.sequence)
            })
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

    fn messages_from(&self, from: u64) -> impl Iterator<Item = Message<'_>> {
        self.blocks.range(self.block_from(from)..).flat_map(move |block| block.messages_from(from))
    }

    /// Asserts what can be told without a twin.
    pub fn check_invariants(&self) {
        self.subjects.check_invariants();
        self.blocks.iter().for_each(Block::check_invariants);
        let count: usize = self.blocks.iter().map(Block::len).sum();
        assert!(count as u64 == self.messages, "messages are miscounted");
        let rises = |(left, right): (&Block, &Block)| left.last() < right.first();
        assert!(self.blocks.iter().zip(self.blocks.iter().skip(1)).all(rises), "blocks overlap");
        let complete = self.blocks.iter().rev().skip(1).all(Block::is_complete);
        assert!(complete, "a block is not complete and not the last");
        self.check_age();
    }
}
