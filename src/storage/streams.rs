//! The streams of a lane in memory: they apply the journal's records after a start, and are noted
//! for checkpoints.
//!
//! Streams are noted some at a time while others change. Each is noted as of a commit: it includes
//! all records of commits before that one, and none of later ones. A replay skips records that are
//! already included.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};

use super::block::{BLOCK_BYTES_FULL, NotLoaded, NotedBlock};
use super::cache::Cache;
use super::consumer_state::ConsumerState;
use super::frame::LaneSeed;
use super::manifest::Entry;
use super::position::CommitNumber;
use super::record::{AppendedHead, Change, ConsumerId, Record, StreamId, members};
use super::stream::noted::NotedIndex;
use super::stream::{NewMessage, Purge, SEQUENCE_MAX, Stream, StreamLimits};

/// The highest id. Ids count up from 0 and never get this far.
const ID_MAX: u64 = u64::MAX >> 1;

/// A value that must not leave before a commit is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    pub value: T,
    pub after: CommitNumber,
}

/// A consumer.
#[derive(Debug)]
pub struct HeldConsumer {
    pub state: ConsumerState,
    /// The bytes that the owner keeps with it.
    pub details: Vec<u8>,
    /// Changed since a checkpoint noted it.
    is_changed: bool,
}

impl HeldConsumer {
    pub(super) fn new(state: ConsumerState, details: &[u8]) -> Self {
        Self { state, details: details.to_vec(), is_changed: true }
    }
}

/// A stream with its consumers.
#[derive(Debug)]
pub struct HeldStream {
    pub stream: Stream,
    /// The bytes that the owner keeps with it.
    pub details: Vec<u8>,
    pub consumers: BTreeMap<ConsumerId, HeldConsumer>,
    pub(super) purge: Option<Purge>,
    /// The commit of the last change.
    pub(super) changed: CommitNumber,
    /// The last sequence as of each commit that is not durable yet.
    pub(super) under_way: VecDeque<(CommitNumber, u64)>,
    pub(super) durable_sequence: u64,
    /// Answers leave, and messages may be seen, before they are durable, by the store's
    /// `SyncInterval`.
    pub(super) is_buffered: bool,
    /// The restored state includes records of commits before this one.
    pub(super) as_of: CommitNumber,
    /// It may have changed since a checkpoint noted it.
    is_changed: bool,
    /// Consumers that were deleted since a checkpoint noted the stream.
    gone_consumers: Vec<ConsumerId>,
    /// Messages that were lost with their blocks.
    pub(super) lost: Vec<LostBlock>,
    /// Some of them were lost since a checkpoint noted the stream.
    has_new_lost: bool,
    /// Lost blocks that the journal does not know of yet, by their bases.
    pub(super) unwritten_lost: Vec<(u64, LostBlock)>,
}

/// Messages that were lost with a block, whose segment is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostBlock {
    pub first: u64,
    pub last: u64,
    pub segment: u64,
}

/// The part of a stream that a checkpoint has to store.
#[derive(Debug)]
pub(super) struct NotedHeld {
    pub id: StreamId,
    /// Entries of the manifest, without those of the blocks.
    pub entries: Vec<Vec<u8>>,
    pub blocks: Vec<NotedBlock>,
    pub index: NotedIndex,
    /// Segments that are kept because of lost blocks.
    pub lost_segments: Vec<u64>,
}

/// Messages that were durable and are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    pub stream: StreamId,
    pub first: u64,
    pub last: u64,
}

/// The streams of a lane.
#[derive(Debug)]
pub struct Streams {
    pub(super) streams: BTreeMap<StreamId, HeldStream>,
    pub(super) next_stream: u64,
    pub(super) next_consumer: u64,
    /// The seed for hashes of subjects: parts of the hashes are stored with blocks.
    pub(super) hash_seed: u64,
    /// The size in bytes past which a block of a stream is complete.
    pub(super) block_bytes: usize,
    lane: u32,
    /// Streams and consumers that were deleted before this commit are gone, and their records have
    /// no effect.
    pub(super) walked: CommitNumber,
    /// Streams that were deleted since the last checkpoint noted those.
    pub(super) gone: Vec<StreamId>,
    pub(super) cache: Cache,
}

/// The reason why a record of the journal is not applied; nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotApplied {
    /// This program does not understand it, or it does not fit the records before.
    Unfit(&'static str),
    /// This block has to be loaded first.
    NotLoaded(NotLoaded),
}

impl From<&'static str> for NotApplied {
    fn from(what: &'static str) -> Self {
        Self::Unfit(what)
    }
}

impl From<NotLoaded> for NotApplied {
    fn from(needed: NotLoaded) -> Self {
        Self::NotLoaded(needed)
    }
}

/// The place that [`Streams::note_some`] reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotedTo {
    /// The last stream that was looked at.
    Stream(StreamId),
    /// This stream, which is next, has to be settled first.
    Unsettled(StreamId),
    End,
}

impl Streams {
    pub(super) fn new(seed: LaneSeed, block_bytes: Option<usize>) -> Self {
        let lane = seed.lane();
        Self {
            streams: BTreeMap::new(),
            next_stream: StreamId::first_of(lane).0,
            next_consumer: 0,
            hash_seed: seed.of_store(),
            block_bytes: block_bytes.unwrap_or(BLOCK_BYTES_FULL),
            lane,
            walked: CommitNumber(0),
            gone: Vec::new(),
            cache: Cache::default(),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (StreamId, &HeldStream)> {
        self.streams.iter().map(|(id, held)| (*id, held))
    }

    /// Those behind a stream, or all.
    pub fn iter_after(
        &self,
        after: Option<StreamId>,
    ) -> impl Iterator<Item = (StreamId, &HeldStream)> {
        let begin = after.map_or(Unbounded, Excluded);
        self.streams.range((begin, Unbounded)).map(|(id, held)| (*id, held))
    }

    pub fn get(&self, id: StreamId) -> Option<&HeldStream> {
        self.streams.get(&id)
    }

    /// The stream, for a change.
    pub(super) fn get_mut(&mut self, id: StreamId) -> Option<&mut HeldStream> {
        let held = self.streams.get_mut(&id)?;
        held.is_changed = true;
        Some(held)
    }

    pub(super) fn new_stream(&self, limits: StreamLimits, first_sequence: u64) -> Stream {
        let mut stream = Stream::new(limits, first_sequence, self.hash_seed);
        stream.set_block_bytes(self.block_bytes);
        stream
    }

    /// Deletes a stream; false where there is none.
    pub(super) fn remove(&mut self, id: StreamId) -> bool {
        let removed = self.streams.remove(&id);
        if !removed.as_ref().is_some_and(HeldStream::is_memory) {
            self.gone.push(id);
        }
        removed.is_some()
    }

    /// Notes streams behind `after`, all or those that changed, as of a commit: at most `noted_max`
    /// of them, after a look at `looked_at_max`. Blocks in the segments `given_up` are to be stored
    /// anew.
    pub(super) fn note_some(
        &mut self,
        after: Option<StreamId>,
        all: bool,
        as_of: CommitNumber,
        given_up: &BTreeSet<u64>,
        (noted_max, looked_at_max): (usize, usize),
        noted: &mut Vec<NotedHeld>,
    ) -> NotedTo {
        let begin = after.map_or(Unbounded, Excluded);
        let range = self.streams.range_mut((begin, Unbounded)).take(looked_at_max);
        let mut last = NotedTo::End;
        for (id, held) in range {
            if noted.len() >= noted_max {
                return last;
            }
            if held.is_memory() {
                last = NotedTo::Stream(*id);
                continue;
            }
            if (all || held.is_changed) && !held.stream.is_settled() {
                return if noted.is_empty() { NotedTo::Unsettled(*id) } else { last };
            }
            last = NotedTo::Stream(*id);
            if all || held.is_changed {
                noted.push(held.note(*id, all, as_of, given_up));
            }
        }
        last
    }

    /// Applies a record of the journal as it was applied when it was written, unless the state
    /// includes it. The removals that it causes have to be done before the next one.
    pub(super) fn apply(
        &mut self,
        record: Record<'_>,
        commit: CommitNumber,
        lost: &mut Vec<Lost>,
    ) -> Result<(), NotApplied> {
        let id = record.stream;
        let unfit = |what| Err(NotApplied::Unfit(what));
        if id.0 > ID_MAX {
            return unfit("an id that no stream has");
        }
        // Even if its creation is lost, an id is not used again.
        if id.is_of(self.lane) {
            self.next_stream = self.next_stream.max(id.0 + 1);
        }
        match self.streams.get(&id) {
            Some(held) if commit < held.as_of => return Ok(()),
            None if commit < self.walked => return Ok(()),
            _ => {}
        }
        match record.change {
            Change::StreamCreated { first_sequence, limits, details } => {
                let stream = self.new_stream(limits, first_sequence);
                let held = HeldStream::new(stream, details, commit);
                let before = self.streams.insert(id, held);
                return before.map_or(Ok(()), |_| unfit("a stream is created twice"));
            }
            Change::StreamDeleted => {
                let was_there = self.remove(id);
                return match was_there {
                    true => Ok(()),
                    false => unfit("a stream that is not there is deleted"),
                };
            }
            _ => {}
        }
        let next_consumer = self.next_consumer;
        let held = self.get_mut(id).ok_or("a record of a stream that is not there")?;
        held.changed = commit;
        match record.change {
            Change::StreamCreated { .. } | Change::StreamDeleted => {}
            Change::StreamUpdated { limits, details } => {
                let before = held.stream.limits();
                if limits.is_memory != before.is_memory || limits.is_async != before.is_async {
                    return unfit("a stream changes its storage");
                }
                held.stream.set_limits(limits);
                held.details = details.to_vec();
            }
            Change::Appended(head, rest) => {
                held.stream.ready(head.parts(rest).1)?;
                held.reach(id, head.sequence, 1, lost)?;
                held.stream.take(new_message(head, rest));
            }
            Change::Grouped(messages) => {
                let group = || members(messages).flatten();
                for (head, rest) in group() {
                    held.stream.ready(head.parts(rest).1)?;
                }
                let first = group().next().map_or(0, |(head, _)| head.sequence);
                let follows = |((head, _), index): ((AppendedHead, &[u8]), u64)| {
                    head.sequence.checked_sub(first) == Some(index)
                };
                if !group().zip(0..).all(follows) {
                    return unfit("a group with a gap");
                }
                held.reach(id, first, group().count() as u64, lost)?;
                held.stream.take_group(group().map(|it| new_message(it.0, it.1)));
            }
            Change::Deleted { sequence } => {
                if !held.stream.delete(sequence)? && !held.has_lost(sequence) {
                    return unfit("a message that is not there is deleted");
                }
            }
            Change::Purged { before, keep, filter } => {
                held.stream.last_id()?;
                let filter = (!filter.is_empty()).then_some(filter);
                held.purge = Some(held.stream.purge(filter, before, keep));
            }
            Change::Expired { before } => held.stream.drop_aged(before),
            Change::BlockLost { base, first, last, segment } => {
                if held.stream.block_mut(base).is_some() {
                    held.lose(LostBlock { first, last, segment }, base);
                }
                held.unwritten_lost.retain(|(other, _)| *other != base);
            }
            Change::ConsumerCreated { consumer, .. } if consumer.0 > ID_MAX => {
                return unfit("an id that no consumer has");
            }
            Change::ConsumerCreated { consumer, start_after, details } => {
                let state = ConsumerState::starting_after(start_after);
                let before = held.consumers.insert(consumer, HeldConsumer::new(state, details));
                self.next_consumer = next_consumer.max(consumer.0 + 1);
                return before.map_or(Ok(()), |_| unfit("a consumer is created twice"));
            }
            Change::ConsumerUpdated { consumer, details } => {
                held.replay_consumer(consumer)?.details = details.to_vec();
            }
            Change::ConsumerDeleted { consumer } => {
                let was_there = held.remove_consumer(consumer);
                return match was_there {
                    true => Ok(()),
                    false => unfit("a consumer that is not there is deleted"),
                };
            }
            Change::ConsumerChanged { consumer, change } => {
                if !held.replay_consumer(consumer)?.state.apply(change) {
                    return unfit("a consumer's change changes nothing");
                }
            }
        }
        Ok(())
    }
}

/// The message of a record.
fn new_message(head: AppendedHead, rest: &[u8]) -> NewMessage<'_> {
    let (subject, headers, payload) = head.parts(rest);
    NewMessage { time_ns: head.time_ns, subject, headers, payload }
}

/// A record of the journal in one piece.
fn encoded(stream: StreamId, change: Change<'_>) -> Vec<u8> {
    let (head, rest) = Record { stream, change }.encode();
    [head.as_slice(), rest].concat()
}

impl HeldStream {
    pub(super) fn new(stream: Stream, details: &[u8], commit: CommitNumber) -> Self {
        Self {
            stream,
            details: details.to_vec(),
            consumers: BTreeMap::new(),
            purge: None,
            changed: commit,
            under_way: VecDeque::new(),
            durable_sequence: 0,
            is_buffered: false,
            as_of: CommitNumber(0),
            is_changed: true,
            gone_consumers: Vec::new(),
            lost: Vec::new(),
            has_new_lost: false,
            unwritten_lost: Vec::new(),
        }
    }

    /// The consumer, for a change.
    pub(super) fn consumer_mut(&mut self, id: ConsumerId) -> Option<&mut HeldConsumer> {
        let consumer = self.consumers.get_mut(&id)?;
        consumer.is_changed = true;
        Some(consumer)
    }

    /// Deletes a consumer; false where there is none.
    pub(super) fn remove_consumer(&mut self, id: ConsumerId) -> bool {
        self.gone_consumers.push(id);
        self.consumers.remove(&id).is_some()
    }

    /// Messages that were lost with their blocks; the stream goes on without them.
    pub fn lost(&self) -> &[LostBlock] {
        &self.lost
    }

    fn has_lost(&self, sequence: u64) -> bool {
        self.lost.iter().any(|lost| (lost.first..=lost.last).contains(&sequence))
    }

    /// The entries that a manifest needs for the stream: all of it, or the changes since it was
    /// noted last.
    fn note(
        &mut self,
        stream: StreamId,
        all: bool,
        as_of: CommitNumber,
        given_up: &BTreeSet<u64>,
    ) -> NotedHeld {
        self.is_changed = false;
        let noted = self.stream.note(all, given_up);
        let (limits, details) = (*self.stream.limits(), self.details.as_slice());
        let created = Change::StreamCreated { first_sequence: 0, limits, details };
        let (created, purge) = (encoded(stream, created), self.purge.as_ref().map(Purge::encode));
        let head = Entry::Stream {
            stream,
            as_of,
            facts: noted.facts,
            purge: purge.as_deref().unwrap_or_default(),
            created: &created,
        };
        let mut entries = vec![head.encode()];
        let gone = noted.gone.into_iter().map(|base| Entry::BlockGone { stream, base }.encode());
        entries.extend(gone);
        for consumer in std::mem::take(&mut self.gone_consumers) {
            entries.push(Entry::ConsumerGone { stream, consumer }.encode());
        }
        for (consumer, held) in &mut self.consumers {
            if std::mem::replace(&mut held.is_changed, false) || all {
                let (consumer, details) = (*consumer, held.details.as_slice());
                let created = Change::ConsumerCreated { consumer, start_after: 0, details };
                let (created, state) = (encoded(stream, created), held.state.encode());
                let entry = Entry::Consumer { stream, created: &created, state: &state };
                entries.push(entry.encode());
            }
        }
        let says_lost = std::mem::replace(&mut self.has_new_lost, false) || all;
        for LostBlock { first, last, segment } in self.lost.iter().copied().filter(|_| says_lost) {
            entries.push(Entry::Lost { stream, first, last, segment }.encode());
        }
        let lost_segments = self.lost.iter().map(|lost| lost.segment).collect();
        NotedHeld { id: stream, entries, blocks: noted.blocks, index: noted.index, lost_segments }
    }

    /// True if nothing of it is ever written.
    pub(super) fn is_memory(&self) -> bool {
        self.stream.limits().is_memory
    }

    /// The last sequence that may be seen: later messages are not durable.
    pub fn durable_sequence(&self) -> u64 {
        self.durable_sequence
    }

    /// True while a purge or other removals are under way: the stream takes nothing, and reads of
    /// it see half of the change.
    pub fn is_purging(&self) -> bool {
        self.purge.is_some() || !self.stream.is_settled()
    }

    /// An answer about the stream as it is now.
    pub fn answer<T>(&self, value: T) -> Answer<T> {
        Answer { value, after: self.told_after() }
    }

    /// An answer to a publisher.
    pub(super) fn answer_publisher<T>(&self, value: T) -> Answer<T> {
        let is_async = self.stream.limits().is_async;
        Answer { value, after: if is_async { CommitNumber(0) } else { self.told_after() } }
    }

    fn told_after(&self) -> CommitNumber {
        if self.is_buffered { CommitNumber(0) } else { self.changed }
    }

    /// Goes on with `count` messages from a sequence on; missing messages before it are lost.
    fn reach(
        &mut self,
        id: StreamId,
        sequence: u64,
        count: u64,
        lost: &mut Vec<Lost>,
    ) -> Result<(), &'static str> {
        let next = self.stream.totals().last_sequence + 1;
        if sequence < next {
            return Err("a sequence is used twice");
        }
        if sequence > SEQUENCE_MAX || count > SEQUENCE_MAX - sequence + 1 {
            return Err("a sequence that no message has");
        }
        if sequence > next {
            lost.push(Lost { stream: id, first: next, last: sequence - 1 });
            self.stream.lose_before(sequence);
        }
        Ok(())
    }

    /// Notes that a block is lost with all messages in it.
    pub(super) fn lose(&mut self, lost: LostBlock, base: u64) {
        self.lost.push(lost);
        self.has_new_lost = true;
        self.unwritten_lost.push((base, lost));
        self.is_changed = true;
        self.stream.lose_block(base);
    }

    fn replay_consumer(&mut self, id: ConsumerId) -> Result<&mut HeldConsumer, &'static str> {
        self.consumer_mut(id).ok_or("a record of a consumer that is not there")
    }

    /// Notes a change that goes with a commit.
    pub(super) fn change(&mut self, commit: CommitNumber) {
        self.changed = commit;
        let last = self.stream.totals().last_sequence;
        match self.under_way.back_mut() {
            Some((same, sequence)) if *same == commit => *sequence = last,
            _ => self.under_way.push_back((commit, last)),
        }
    }
}
