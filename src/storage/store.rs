//! Streams and consumers over a lane: the answers, and the commit that each has to wait for.
//!
//! There is one state, in memory, and it changes at once; the record of the change is then on its
//! way to the journal. So any statement about the state is true only once the journal has caught
//! up: an [`Answer`] names the commit that it must not leave before. That holds for answers that
//! change nothing, too: a refusal reveals a message that a power cut may still undo.
//!
//! After a start, `replay` rebuilds the state from the manifest and the journal. Where the journal
//! is damaged, it lists the messages that are lost, and [`Store::start`] refuses: going on would
//! bury the damage. A person may accept the loss (`check`). Then the store goes on behind it, and
//! the damaged files stay as they are.
//!
//! Its `checkpoint`s keep the journal short, and so a start.
//!
//! Of a stream in memory nothing is written at all, not even that it is there: its answers wait for
//! nothing, and a start knows nothing of it.
//!
//! Stored messages may not be in memory. A call that needs some of those changes nothing and
//! answers [`StoreError::NotLoaded`]; the caller waits for [`load`](loading::load) and calls again.
//! The removals that a change causes may need some, too: then the change itself is done and
//! answered, and the next change of that stream waits.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::block::NotLoaded;
use super::consumer_state::{ConsumerChange, ConsumerState};
use super::disk::Disk;
use super::figures::StoreFigures;
use super::journal::Urgency;
use super::lane::{Lane, Refused};
use super::marks;
use super::position::CommitNumber;
use super::record::{
    AppendedHead, Change, ConsumerId, MEMBER_PREFIX_BYTES, Record, StreamId, group_head,
};
use super::recovery::JournalPlace;
use super::replay::Replayed;
use super::segment::SegmentReader;
use super::stream::expectations::{Expected, GroupMessage, GroupRefusal, Refusal};
use super::stream::{NewMessage, StreamLimits};
use super::streams::{Answer, HeldConsumer, HeldStream, Streams};
use crate::base::limits::{
    CACHED_BLOCKS_MIN, CACHED_BYTES_MAX, GROUP_MESSAGES_MAX, JOURNAL_FILES_MAX, SHORT_ROOM_SHARE,
    SHORT_ROOM_SHARE_OF_DELETES, TAIL_BYTES_MAX,
};
use crate::config::go_text::{SignedDuration, format_duration};
use crate::protocol::headers;
use checkpoint::Checkpoints;
use loading::Loading;

pub(crate) mod checkpoint;
#[cfg(test)]
mod full_disk;
pub(crate) mod loading;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

/// The number of appended bytes after which the cache is reduced by as much.
const TAIL_BYTES_STEP: usize = 1 << 20;

/// The reason why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    NoSuchStream,
    NoSuchConsumer,
    /// A purge of the stream, or the removals of its last change, are not done: later changes have
    /// to wait.
    Purging,
    /// These messages of the stream have to be loaded first.
    NotLoaded(NotLoaded),
    /// There is no space for more. Deletes and purges are still possible.
    Short(io::ErrorKind),
    /// The subject or the headers are longer than any may be, or the group has too many messages or
    /// none.
    TooLarge,
    Refused(Refused),
}

impl From<NotLoaded> for StoreError {
    fn from(needed: NotLoaded) -> Self {
        Self::NotLoaded(needed)
    }
}

impl From<Refused> for StoreError {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// The streams of a lane, and the lane.
pub struct Store<D: Disk> {
    lane: Rc<Lane<D>>,
    disk: D,
    place: JournalPlace,
    streams: Streams,
    reader: Rc<SegmentReader<D>>,
    loading: Rc<Loading>,
    checkpoints: Checkpoints,
    /// The number of appended bytes past which a checkpoint is due, so that memory can be freed.
    tail_bytes_max: usize,
    sync_interval: SyncInterval,
    /// Blocks of the streams that are lost.
    lost_blocks: u64,
}

/// The moment at which answers leave, for the whole store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncInterval {
    /// Once the changes that they report are on disk.
    #[default]
    Always,
    /// At once, as nats-server does by default. The changes are on their way to the disk all the
    /// same. nats-server leaves them in memory for at most this long, and they never stay that long
    /// here.
    Every(Duration),
}

impl SyncInterval {
    /// The warning for an operator who chooses this interval.
    pub fn risk(self) -> Option<&'static str> {
        match self {
            Self::Always => None,
            Self::Every(_) => Some(SYNC_INTERVAL_RISK),
        }
    }
}

const SYNC_INTERVAL_RISK: &str = "everything is acknowledged before it is on disk: messages, deletes and \
    acknowledgements of the last milliseconds are lost when the process is killed or the power fails, and \
    sequences of messages that were seen are used again";

impl<D: Disk> Store<D> {
    /// Goes on with the replayed streams. The owner runs the tasks of [`Store::lane`] and
    /// [`keep_checkpoints`](checkpoint::keep_checkpoints). The replayed state is not durable before
    /// [`Lane::last_commit`] is: see [`Lane::start`].
    ///
    /// # Errors
    /// Something is lost. The replayed state comes back, to be reported.
    pub fn start(disk: D, place: JournalPlace, replayed: Replayed) -> Result<Self, Box<Replayed>> {
        if !replayed.is_whole() {
            return Err(Box::new(replayed));
        }
        let lane = Rc::new(Lane::start(disk.clone(), place.clone(), &replayed.recovered));
        let mut streams = replayed.streams;
        for held in streams.streams.values_mut() {
            held.change(lane.last_commit());
        }
        let checkpoints = Checkpoints::new(replayed.files, place.seed.lane());
        let ids: Vec<StreamId> = streams.iter().map(|(id, _)| id).collect();
        let lost_blocks = streams.iter().map(|(_, held)| held.lost().len() as u64).sum();
        let mut store = Self {
            reader: Rc::new(SegmentReader::new(disk.clone(), place.clone())),
            lane,
            disk,
            place,
            streams,
            loading: Rc::default(),
            checkpoints,
            tail_bytes_max: TAIL_BYTES_MAX,
            sync_interval: SyncInterval::Always,
            lost_blocks,
        };
        ids.into_iter().for_each(|id| store.write_lost(id));
        Ok(store)
    }

    /// Takes its share of the process's memory, which the lanes divide.
    pub fn share_memory(&mut self, lanes: u32) {
        let lanes = lanes.max(1) as usize;
        self.tail_bytes_max = TAIL_BYTES_MAX / lanes;
        self.streams.set_cache(CACHED_BYTES_MAX / lanes, CACHED_BLOCKS_MIN);
    }

    /// Sets the moment at which answers leave from now on.
    pub fn set_sync_interval(&mut self, sync_interval: SyncInterval) {
        self.sync_interval = sync_interval;
        let is_buffered = self.is_buffered();
        self.streams.streams.values_mut().for_each(|held| held.is_buffered = is_buffered);
    }

    fn is_buffered(&self) -> bool {
        matches!(self.sync_interval, SyncInterval::Every(_))
    }

    fn answer<T>(&self, value: T, commit: CommitNumber) -> Answer<T> {
        let after = if self.is_buffered() { CommitNumber(0) } else { commit };
        Answer { value, after }
    }

    /// True while more waits than the next write takes, or the journal is as long as it may be:
    /// publishers have to be slowed down.
    pub fn is_crowded(&self) -> bool {
        self.lane.is_crowded() || self.lane.file_count() > JOURNAL_FILES_MAX
    }

    /// Tries again to make the files that failed, for want of space for example. Called now and
    /// then while [`StoreError::Short`] is answered.
    pub fn retry(&mut self) {
        self.lane.retry_spare();
        self.request_checkpoint();
    }

    /// The numbers that monitoring shows.
    pub(crate) fn figures(&self) -> StoreFigures {
        let lane = self.lane.figures();
        let uses = self.checkpoints.segment_bytes;
        StoreFigures {
            streams: self.streams.streams.len() as u64,
            disk_bytes: lane.disk_bytes + uses.bytes,
            needed_bytes: uses.needed_bytes,
            checkpoints: self.checkpoints.count,
            is_checkpoint_failing: self.checkpoints.failure.is_some(),
            is_short: self.check_space().is_err(),
            lost_blocks: self.lost_blocks,
            ..lane
        }
    }

    pub fn lane(&self) -> &Rc<Lane<D>> {
        &self.lane
    }

    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Notes the changes that became durable: [`HeldStream::durable_sequence`] rises. Called when
    /// the lane's durable commit rose.
    pub fn settle(&mut self, id: StreamId) {
        let durable = self.lane.durable_commit();
        if let Some(held) = self.streams.streams.get_mut(&id) {
            if held.stream.limits().is_async || held.is_buffered || held.is_memory() {
                held.durable_sequence = held.stream.totals().last_sequence;
            }
            while let Some((_, last)) =
                held.under_way.front().filter(|(commit, _)| *commit <= durable)
            {
                held.durable_sequence = held.durable_sequence.max(*last);
                held.under_way.pop_front();
            }
        }
    }

    /// # Errors
    /// The store is short of space or stopped, or the details are too long.
    pub fn create_stream(
        &mut self,
        first_sequence: u64,
        limits: StreamLimits,
        details: &[u8],
    ) -> Result<Answer<StreamId>, StoreError> {
        let id = StreamId(self.streams.next_stream);
        let commit = match limits.is_memory {
            true => CommitNumber(0),
            false => {
                self.check_space()?;
                let change = Change::StreamCreated { first_sequence, limits, details };
                self.write(id, change, Urgency::Commits)?
            }
        };
        self.streams.next_stream += 1;
        let stream = self.streams.new_stream(limits, first_sequence);
        let mut held = HeldStream::new(stream, details, commit);
        held.is_buffered = self.is_buffered();
        self.streams.streams.insert(id, held);
        Ok(self.answer(id, commit))
    }

    /// # Errors
    /// There is no such stream, it is being purged or messages are to be loaded first, or the store
    /// stopped.
    pub fn update_stream(
        &mut self,
        id: StreamId,
        limits: StreamLimits,
        details: &[u8],
    ) -> Result<Answer<()>, StoreError> {
        self.check_quiet(id)?;
        let change = Change::StreamUpdated { limits, details };
        let commit = self.write(id, change, Urgency::Commits)?;
        let held = self.held(id)?;
        held.stream.set_limits(limits);
        held.details = details.to_vec();
        held.change(commit);
        Ok(self.answer((), commit))
    }

    /// # Errors
    /// There is no such stream, or the store stopped.
    pub fn delete_stream(&mut self, id: StreamId) -> Result<Answer<()>, StoreError> {
        let lost = self.held(id)?.lost().len() as u64;
        let commit = self.write(id, Change::StreamDeleted, Urgency::Commits)?;
        self.streams.remove(id);
        self.lost_blocks -= lost;
        Ok(self.answer((), commit))
    }

    /// Takes a message, or answers why not.
    ///
    /// # Errors
    /// There is no such stream, it is being purged, messages are to be loaded first, the message is
    /// too large, or the store is short of space or stopped.
    pub fn append(
        &mut self,
        id: StreamId,
        new: NewMessage<'_>,
    ) -> Result<Answer<Result<u64, Refusal>>, StoreError> {
        self.append_if(id, new, &Expected::default())
    }

    /// Takes a message if the stream is as expected. If many messages have to go for it, the stream
    /// is purging afterwards, and takes nothing until [`Store::purge_some`] is done.
    ///
    /// # Errors
    /// The same as those of [`Store::append`].
    pub fn append_if(
        &mut self,
        id: StreamId,
        new: NewMessage<'_>,
        expected: &Expected<'_>,
    ) -> Result<Answer<Result<u64, Refusal>>, StoreError> {
        self.check_quiet(id)?;
        self.check_space_for(id)?;
        let held = self.held(id)?;
        if let Err(refusal) = held.stream.check(&new, expected)? {
            return Ok(held.answer_publisher(Err(refusal)));
        }
        held.stream.ready(new.headers)?;
        let head = appended_head(&new, held.stream.totals().last_sequence + 1)?;
        let mut commit = CommitNumber(0);
        if !held.is_memory() {
            let (head, _) = Record { stream: id, change: Change::Appended(head, &[]) }.encode();
            let parts = [head.as_slice(), new.subject, new.headers, new.payload];
            commit = self.write_messages(&parts)?;
        }
        let held = self.held(id)?;
        let sequence = held.stream.take(new);
        held.change(commit);
        Ok(held.answer_publisher(Ok(sequence)))
    }

    /// Takes all messages of a group or none, whatever happens to the disk: they go to it as one
    /// record. Returns the sequence of the first, or the message that is refused and why. Older
    /// messages go as if the whole group came at once: first those that it rolls up, then those
    /// above limits.
    ///
    /// # Errors
    /// The same as those of [`Store::append`], and `TooLarge` where no journal file holds the
    /// group.
    pub fn append_group(
        &mut self,
        id: StreamId,
        group: &[GroupMessage<'_>],
    ) -> Result<Answer<Result<u64, GroupRefusal>>, StoreError> {
        self.check_quiet(id)?;
        self.check_space_for(id)?;
        if !(1..=GROUP_MESSAGES_MAX).contains(&group.len()) {
            return Err(StoreError::TooLarge);
        }
        let held = self.held(id)?;
        if let Err(refusal) = held.stream.check_group(group)? {
            return Ok(held.answer_publisher(Err(refusal)));
        }
        for GroupMessage { new, .. } in group {
            held.stream.ready(new.headers)?;
        }
        let first = held.stream.totals().last_sequence + 1;
        let prefixes: Vec<[u8; MEMBER_PREFIX_BYTES]> = (first..)
            .zip(group)
            .map(|(sequence, GroupMessage { new, .. })| {
                let part_bytes = new.subject.len() + new.headers.len() + new.payload.len();
                let prefix = appended_head(new, sequence)?.member_prefix(part_bytes);
                prefix.ok_or(StoreError::TooLarge)
            })
            .collect::<Result<_, _>>()?;
        let head = group_head(id);
        let mut parts = vec![head.as_slice()];
        for (prefix, GroupMessage { new, .. }) in prefixes.iter().zip(group) {
            parts.extend([prefix, new.subject, new.headers, new.payload]);
        }
        let commit = match held.is_memory() {
            true => CommitNumber(0),
            false => self.write_messages(&parts)?,
        };
        let held = self.held(id)?;
        held.stream.take_group(group.iter().map(|message| message.new));
        held.change(commit);
        Ok(held.answer_publisher(Ok(first)))
    }

    /// Deletes a message; false where there is none.
    ///
    /// # Errors
    /// There is no such stream, it is being purged, or the store stopped.
    pub fn delete(&mut self, id: StreamId, sequence: u64) -> Result<Answer<bool>, StoreError> {
        self.check_quiet(id)?;
        let held = self.held(id)?;
        if held.stream.get(sequence)?.is_none() {
            return Ok(held.answer(false));
        }
        let commit = self.write(id, Change::Deleted { sequence }, Urgency::Commits)?;
        let held = self.held(id)?;
        let deleted = held.stream.delete(sequence);
        assert!(deleted == Ok(true), "the message was there");
        held.change(commit);
        Ok(self.answer(true, commit))
    }

    /// Deletes a message that its consumers have done with; false where there is none. That starts
    /// no commit: it goes with the acknowledgement that made it.
    ///
    /// # Errors
    /// There is no such stream, it is being purged, messages are to be loaded first, or the store
    /// stopped.
    pub fn delete_done(&mut self, id: StreamId, sequence: u64) -> Result<bool, StoreError> {
        self.check_quiet(id)?;
        if self.held(id)?.stream.get(sequence)?.is_none() {
            return Ok(false);
        }
        self.write(id, Change::Deleted { sequence }, Urgency::Rides)?;
        let deleted = self.held(id)?.stream.delete(sequence);
        assert!(deleted == Ok(true), "the message was there");
        Ok(true)
    }

    /// Begins a purge, as `Stream::purge` describes. The stream takes nothing until
    /// [`Store::purge_some`] is done.
    ///
    /// # Errors
    /// There is no such stream, it is being purged already, or the store stopped.
    pub fn purge(
        &mut self,
        id: StreamId,
        filter: Option<&[u8]>,
        before: u64,
        keep: u64,
    ) -> Result<(), StoreError> {
        self.check_quiet(id)?;
        self.held(id)?.stream.last_id()?;
        let change = Change::Purged { before, keep, filter: filter.unwrap_or_default() };
        let commit = self.write(id, change, Urgency::Commits)?;
        let held = self.held(id)?;
        held.purge = Some(held.stream.purge(filter, before, keep));
        held.change(commit);
        Ok(())
    }

    /// Goes on with a purge, or with the removals of another change, and looks at about
    /// `messages_max` messages. Once it is done, answers how many the purge removed.
    ///
    /// # Errors
    /// There is no such stream, or messages are to be loaded first.
    pub fn purge_some(
        &mut self,
        id: StreamId,
        messages_max: usize,
    ) -> Result<Option<Answer<u64>>, StoreError> {
        let held = self.held(id)?;
        let Some(mut purge) = held.purge.take() else {
            let is_done = held.stream.settle(messages_max)?;
            return Ok(is_done.then(|| held.answer(0)));
        };
        let done = held.stream.purge_some(&mut purge, messages_max);
        if done == Ok(true) {
            let _ = held.stream.settle(0);
            return Ok(Some(held.answer(purge.purged)));
        }
        held.purge = Some(purge);
        done?;
        Ok(None)
    }

    /// Removes messages that are too old, by the limit or by their own time to live, after a look
    /// at about `messages_max`; returns how many. That starts no commit, and no answer waits for
    /// it: after a power cut they are too old again. A marker that takes a message's place is
    /// appended like any message.
    ///
    /// # Errors
    /// There is no such stream, it is being purged, messages are to be loaded first, or the store
    /// stopped; unless some went before.
    pub fn expire_some(
        &mut self,
        id: StreamId,
        now_ns: i64,
        messages_max: usize,
    ) -> Result<u64, StoreError> {
        let mut count = 0;
        match self.expire(id, now_ns, messages_max, &mut count) {
            Err(error) if count == 0 => Err(error),
            _ => Ok(count),
        }
    }

    fn expire(
        &mut self,
        id: StreamId,
        now_ns: i64,
        messages_max: usize,
        count: &mut u64,
    ) -> Result<(), StoreError> {
        self.check_quiet(id)?;
        let stream = &mut self.held(id)?.stream;
        stream.forget_ids(now_ns, messages_max);
        let (before, aged) = stream.aged_before(now_ns, messages_max)?;
        if !stream.limits().has_markers() {
            if aged > 0 {
                self.write(id, Change::Expired { before }, Urgency::Rides)?;
            }
            self.held(id)?.stream.drop_aged(before);
            *count += aged;
        } else {
            while let Some(sequence) = self.held(id)?.stream.next_that_ages(before)? {
                self.end(id, sequence, now_ns)?;
                *count += 1;
            }
        }
        while *count < messages_max as u64
            && let Some(sequence) = self.held(id)?.stream.ended(now_ns)?
        {
            self.end(id, sequence, now_ns)?;
            *count += 1;
        }
        Ok(())
    }

    /// Removes a message that is too old, and leaves a marker for it if it was the last of its
    /// subject.
    fn end(&mut self, id: StreamId, sequence: u64, now_ns: i64) -> Result<(), StoreError> {
        self.check_quiet(id)?;
        let stream = &self.held(id)?.stream;
        if stream.needs_marker(sequence)?
            && let Some(ended) = stream.get(sequence)?
        {
            let (subject, headers) = (ended.subject.to_vec(), marker(stream.limits()));
            let new =
                NewMessage { time_ns: now_ns, subject: &subject, headers: &headers, payload: b"" };
            // Its rollup removes the message.
            match self.append(id, new) {
                Ok(Answer { value: Ok(_), .. }) => return Ok(()),
                // There is no room for a marker.
                Ok(_) | Err(StoreError::Short(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.held(id)?.stream.get(sequence)?;
        self.write(id, Change::Deleted { sequence }, Urgency::Rides)?;
        let deleted = self.held(id)?.stream.delete(sequence);
        assert!(deleted == Ok(true), "the message was there");
        Ok(())
    }

    /// # Errors
    /// There is no such stream, or the store is short of space or stopped.
    pub fn create_consumer(
        &mut self,
        stream: StreamId,
        start_after: u64,
        details: &[u8],
    ) -> Result<Answer<ConsumerId>, StoreError> {
        self.check_space_for(stream)?;
        self.held(stream)?;
        let consumer = ConsumerId(self.streams.next_consumer);
        let change = Change::ConsumerCreated { consumer, start_after, details };
        let commit = self.write(stream, change, Urgency::Commits)?;
        self.streams.next_consumer += 1;
        let state = ConsumerState::starting_after(start_after);
        let held = self.held(stream)?;
        held.consumers.insert(consumer, HeldConsumer::new(state, details));
        held.change(commit);
        Ok(self.answer(consumer, commit))
    }

    /// # Errors
    /// There is no such stream or consumer, or the store stopped.
    pub fn update_consumer(
        &mut self,
        stream: StreamId,
        consumer: ConsumerId,
        details: &[u8],
    ) -> Result<Answer<()>, StoreError> {
        self.check_consumer(stream, consumer)?;
        let change = Change::ConsumerUpdated { consumer, details };
        let commit = self.write(stream, change, Urgency::Commits)?;
        let held = self.held(stream)?;
        if let Some(held) = held.consumer_mut(consumer) {
            held.details = details.to_vec();
        }
        held.change(commit);
        Ok(self.answer((), commit))
    }

    /// # Errors
    /// There is no such stream or consumer, or the store stopped.
    pub fn delete_consumer(
        &mut self,
        stream: StreamId,
        consumer: ConsumerId,
    ) -> Result<Answer<()>, StoreError> {
        self.check_consumer(stream, consumer)?;
        let change = Change::ConsumerDeleted { consumer };
        let commit = self.write(stream, change, Urgency::Commits)?;
        let held = self.held(stream)?;
        held.remove_consumer(consumer);
        held.change(commit);
        Ok(self.answer((), commit))
    }

    /// Checks that [`Store::change_consumer`] finds room: a delivery that is not noted would be made
    /// again and again.
    ///
    /// # Errors
    /// The store is short of space.
    pub fn check_consumer_changes(&self) -> Result<(), StoreError> {
        let change = ConsumerChange::Acked { stream_sequence: 0 };
        self.check_room(&Change::ConsumerChanged { consumer: ConsumerId(0), change })
    }

    /// Notes a delivery or an acknowledgement; false where there was nothing to note. `urgency` is
    /// [`Urgency::Commits`] where somebody waits for the answer: mere reading must not wear out the
    /// disk.
    ///
    /// # Errors
    /// There is no such stream or consumer, or the store stopped.
    pub fn change_consumer(
        &mut self,
        stream: StreamId,
        consumer: ConsumerId,
        change: ConsumerChange,
        urgency: Urgency,
    ) -> Result<Answer<bool>, StoreError> {
        self.check_consumer(stream, consumer)?;
        let is_memory = self.held(stream)?.is_memory();
        if !is_memory {
            self.check_room(&Change::ConsumerChanged { consumer, change })?;
        }
        let held = self.held(stream)?;
        let held_consumer = held.consumer_mut(consumer);
        let state = &mut held_consumer.ok_or(StoreError::NoSuchConsumer)?.state;
        // A lane that takes no record has stopped: nobody hears of the state after that.
        let value = state.apply(change);
        if value {
            let commit =
                self.write(stream, Change::ConsumerChanged { consumer, change }, urgency)?;
            if urgency == Urgency::Commits {
                self.held(stream)?.change(commit);
            }
            return Ok(self.answer(value, commit));
        }
        if is_memory {
            return Ok(self.answer(value, CommitNumber(0)));
        }
        if urgency == Urgency::Commits {
            // The change that the answer depends on may wait for the next write.
            self.lane.flush();
        }
        Ok(self.answer(value, self.lane.last_commit()))
    }

    fn held(&mut self, id: StreamId) -> Result<&mut HeldStream, StoreError> {
        self.streams.get_mut(id).ok_or(StoreError::NoSuchStream)
    }

    fn write(
        &self,
        stream: StreamId,
        change: Change<'_>,
        urgency: Urgency,
    ) -> Result<CommitNumber, StoreError> {
        if self.streams.get(stream).is_some_and(HeldStream::is_memory) {
            return Ok(CommitNumber(0));
        }
        self.check_room(&change)?;
        let (head, rest) = Record { stream, change }.encode();
        Ok(self.lane.append(&[head.as_slice(), rest], urgency)?)
    }

    /// Writes the record of a message or a group.
    fn write_messages(&mut self, parts: &[&[u8]]) -> Result<CommitNumber, Refused> {
        let commit = self.lane.append(parts, Urgency::Commits)?;
        let before = self.checkpoints.appended_bytes;
        let appended = before + parts.iter().map(|part| part.len()).sum::<usize>();
        self.checkpoints.appended_bytes = appended;
        if appended / TAIL_BYTES_STEP > before / TAIL_BYTES_STEP {
            self.streams.set_tail(appended);
        }
        if self.checkpoints.appended_bytes > self.tail_bytes_max {
            self.lane.consider_checkpoint();
        }
        Ok(commit)
    }

    /// Refuses changes near the end of the current file, if no further journal file can be made.
    /// Changes that make room are refused later than others.
    fn check_room(&self, change: &Change<'_>) -> Result<(), StoreError> {
        let Some(kind) = self.lane.shortage() else { return Ok(()) };
        let share = match change.makes_room() {
            true => SHORT_ROOM_SHARE_OF_DELETES,
            false => SHORT_ROOM_SHARE,
        };
        match self.lane.room() < self.place.file_bytes / share {
            true => Err(StoreError::Short(kind)),
            false => Ok(()),
        }
    }

    /// Refuses more for a stream while there is no space, unless it is in memory.
    fn check_space_for(&self, id: StreamId) -> Result<(), StoreError> {
        match self.streams.get(id).is_some_and(HeldStream::is_memory) {
            true => Ok(()),
            false => self.check_space(),
        }
    }

    fn check_space(&self) -> Result<(), StoreError> {
        let is_full = self.lane.file_count() > JOURNAL_FILES_MAX;
        let failure = self.checkpoints.failure.filter(|_| is_full);
        let shortage = self.lane.shortage().or(failure);
        shortage.map_or(Ok(()), |kind| Err(StoreError::Short(kind)))
    }

    fn check_quiet(&mut self, id: StreamId) -> Result<(), StoreError> {
        let held = self.held(id)?;
        if held.purge.is_none() {
            held.stream.check_settled()?;
        }
        match held.is_purging() {
            true => Err(StoreError::Purging),
            false => Ok(()),
        }
    }

    fn check_consumer(&mut self, stream: StreamId, id: ConsumerId) -> Result<(), StoreError> {
        match self.held(stream)?.consumers.contains_key(&id) {
            true => Ok(()),
            false => Err(StoreError::NoSuchConsumer),
        }
    }
}

fn appended_head(new: &NewMessage<'_>, sequence: u64) -> Result<AppendedHead, StoreError> {
    Ok(AppendedHead {
        sequence,
        time_ns: new.time_ns,
        subject_bytes: u16::try_from(new.subject.len()).map_err(|_| StoreError::TooLarge)?,
        header_bytes: u32::try_from(new.headers.len()).map_err(|_| StoreError::TooLarge)?,
    })
}

/// The headers of a marker. Source: nats-server server/stream.go.
fn marker(limits: &StreamLimits) -> Vec<u8> {
    let time_to_live = format_duration(SignedDuration(limits.marker_ttl_ns));
    let mut block = Vec::new();
    headers::append(&mut block, marks::MARKER, b"MaxAge");
    headers::append(&mut block, marks::TIME_TO_LIVE, time_to_live.as_bytes());
    headers::append(&mut block, marks::ROLLUP, b"sub");
    block
}
