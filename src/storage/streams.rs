//! The streams of a lane as they are held, and how they are made anew from its journal.
//!
//! [`replay`] applies each record as it was applied when it was written. Where the journal is damaged it goes on behind
//! what is lost, and says which messages of which streams that is. Somebody may accept the loss (`check`).

use std::collections::{BTreeMap, VecDeque};
use std::io;

use super::consumer_state::ConsumerState;
use super::disk::Disk;
use super::frame::records;
use super::position::{CommitNumber, Position};
use super::record::{AppendedHead, Change, ConsumerId, Record, StreamId};
use super::recovery::{Damage, JournalPlace, Recovered, recover};
use super::stream::{NewMessage, Purge, Stream};

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
    /// The owner's.
    pub details: Vec<u8>,
}

/// A stream with its consumers.
#[derive(Debug)]
pub struct HeldStream {
    pub stream: Stream,
    /// The owner's.
    pub details: Vec<u8>,
    pub consumers: BTreeMap<ConsumerId, HeldConsumer>,
    pub(super) purge: Option<Purge>,
    /// The commit of the last change.
    pub(super) changed: CommitNumber,
    /// The last sequence as of each commit that is not durable yet.
    pub(super) under_way: VecDeque<(CommitNumber, u64)>,
    pub(super) durable_sequence: u64,
}

/// Messages that were durable and are not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    pub stream: StreamId,
    pub first: u64,
    pub last: u64,
}

/// The streams of a lane.
#[derive(Debug, Default)]
pub struct Streams {
    pub(super) streams: BTreeMap<StreamId, HeldStream>,
    pub(super) next_stream: u64,
    pub(super) next_consumer: u64,
    /// For hashes of subjects.
    pub(super) hash_seed: u64,
}

/// A journal's contents.
#[derive(Debug)]
pub struct Replayed {
    pub streams: Streams,
    pub recovered: Recovered,
    /// Records that were replayed.
    pub record_count: u64,
    pub lost: Vec<Lost>,
    /// Records that say nothing this program understands, or that do not fit what came before.
    pub unfit: Vec<(CommitNumber, &'static str)>,
}

/// Damage that somebody agreed to: it is met again at each start, and is no reason to stop there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedDamage {
    pub file: u64,
    pub lost: (CommitNumber, CommitNumber),
}

impl From<&Damage> for AcceptedDamage {
    fn from(damage: &Damage) -> Self {
        Self { file: damage.file, lost: damage.lost }
    }
}

impl AcceptedDamage {
    /// True if the damage loses nothing beyond this. The same loss may show in another form the next time.
    fn covers(&self, damage: &Damage) -> bool {
        let loses_something = damage.lost.0 < damage.lost.1;
        let is_within = self.lost.0 <= damage.lost.0 && damage.lost.1 <= self.lost.1;
        is_within && (loses_something || self.file == damage.file)
    }
}

impl Replayed {
    /// Takes accepted damage as told. With the last of it goes what follows from it: lost messages, and records that do
    /// not fit any more.
    pub fn accept(&mut self, accepted: &[AcceptedDamage]) {
        let damage = &mut self.recovered.damage;
        let before = damage.len();
        damage.retain(|damage| !accepted.iter().any(|accepted| accepted.covers(damage)));
        if before > 0 && damage.is_empty() {
            self.lost.clear();
            self.unfit.clear();
        }
    }

    /// True if nothing that was durable is missing.
    pub fn is_whole(&self) -> bool {
        self.recovered.damage.is_empty() && self.unfit.is_empty() && self.lost.is_empty()
    }
}

/// Reads a lane's journal and makes of it what was stored. `hash_seed`: random; see [`Stream::new`].
///
/// # Errors
/// As those of [`recover`].
pub async fn replay<D: Disk>(
    disk: &D,
    place: &JournalPlace,
    start: Position,
    hash_seed: u64,
) -> io::Result<Replayed> {
    let mut streams = Streams { hash_seed, ..Streams::default() };
    let (mut record_count, mut lost, mut unfit) = (0, Vec::new(), Vec::new());
    let recovered = recover(disk, place, start, |commit, body| {
        for record in records(body) {
            record_count += 1;
            let result = match Record::decode(record) {
                Some(record) => streams.apply(record, commit, &mut lost),
                None => Err("a record of no known form"),
            };
            if let Err(what) = result {
                unfit.push((commit, what));
            }
        }
    })
    .await?;
    Ok(Replayed { streams, recovered, record_count, lost, unfit })
}

impl Streams {
    pub fn iter(&self) -> impl Iterator<Item = (StreamId, &HeldStream)> {
        self.streams.iter().map(|(id, held)| (*id, held))
    }

    pub fn get(&self, id: StreamId) -> Option<&HeldStream> {
        self.streams.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: StreamId) -> Option<&mut HeldStream> {
        self.streams.get_mut(&id)
    }

    /// Applies a record of the journal as it was applied when it was written.
    fn apply(
        &mut self,
        record: Record<'_>,
        commit: CommitNumber,
        lost: &mut Vec<Lost>,
    ) -> Result<(), &'static str> {
        let id = record.stream;
        match record.change {
            Change::StreamCreated { first_sequence, limits, details } => {
                self.next_stream = self.next_stream.max(id.0 + 1);
                let stream = Stream::new(limits, first_sequence, self.hash_seed);
                let held = HeldStream::new(stream, details, commit);
                let before = self.streams.insert(id, held);
                return before.map_or(Ok(()), |_| Err("a stream is created twice"));
            }
            Change::StreamDeleted => {
                let before = self.streams.remove(&id);
                return before.map(|_| ()).ok_or("a stream that is not there is deleted");
            }
            _ => {}
        }
        let held = self.streams.get_mut(&id).ok_or("a record of a stream that is not there")?;
        held.changed = commit;
        match record.change {
            Change::StreamCreated { .. } | Change::StreamDeleted => {}
            Change::StreamUpdated { limits, details } => {
                if limits.is_memory != held.stream.limits().is_memory {
                    return Err("a stream changes its storage");
                }
                held.stream.set_limits(limits);
                held.details = details.to_vec();
            }
            Change::Appended(head, rest) => held.replay_append(id, head, rest, lost)?,
            Change::Deleted { sequence } => {
                if !held.stream.delete(sequence) {
                    return Err("a message that is not there is deleted");
                }
            }
            Change::Purged { before, keep, filter } => {
                let filter = (!filter.is_empty()).then_some(filter);
                let mut purge = held.stream.purge(filter, before, keep);
                while !held.stream.purge_some(&mut purge, usize::MAX) {}
            }
            Change::Expired { before } => drop(held.stream.drop_before(before)),
            Change::ConsumerCreated { consumer, start_after, details } => {
                self.next_consumer = self.next_consumer.max(consumer.0 + 1);
                let state = ConsumerState::starting_after(start_after);
                let details = details.to_vec();
                let before = held.consumers.insert(consumer, HeldConsumer { state, details });
                return before.map_or(Ok(()), |_| Err("a consumer is created twice"));
            }
            Change::ConsumerUpdated { consumer, details } => {
                held.replay_consumer(consumer)?.details = details.to_vec();
            }
            Change::ConsumerDeleted { consumer } => {
                let before = held.consumers.remove(&consumer);
                return before.map(|_| ()).ok_or("a consumer that is not there is deleted");
            }
            Change::ConsumerChanged { consumer, change } => {
                if !held.replay_consumer(consumer)?.state.apply(change) {
                    return Err("a consumer's change changes nothing");
                }
            }
        }
        Ok(())
    }
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
        }
    }

    /// The last sequence that may be seen: later messages are not durable.
    pub fn durable_sequence(&self) -> u64 {
        self.durable_sequence
    }

    /// An answer about the stream as it is now.
    pub fn answer<T>(&self, value: T) -> Answer<T> {
        Answer { value, after: self.changed }
    }

    fn replay_append(
        &mut self,
        id: StreamId,
        head: AppendedHead,
        rest: &[u8],
        lost: &mut Vec<Lost>,
    ) -> Result<(), &'static str> {
        let next = self.stream.totals().last_sequence + 1;
        if head.sequence < next {
            return Err("a sequence is used twice");
        }
        if head.sequence > next {
            lost.push(Lost { stream: id, first: next, last: head.sequence - 1 });
            self.stream.lose_before(head.sequence);
        }
        let (subject, headers, payload) = head.parts(rest);
        let new = NewMessage { time_ns: head.time_ns, subject, headers, payload };
        self.stream.append(new).map(drop).map_err(|_| "a message that was taken is refused")
    }

    fn replay_consumer(&mut self, id: ConsumerId) -> Result<&mut HeldConsumer, &'static str> {
        self.consumers.get_mut(&id).ok_or("a record of a consumer that is not there")
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
