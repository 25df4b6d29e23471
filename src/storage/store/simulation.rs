//! Histories of a store over the faulty disk, against naive twins. Streams and consumers come,
//! change and go and checkpoints are taken while writes fail, the disk fills, and processes and
//! power end. The law: after a start the store is as some number of its changes made it, in order,
//! and no answer that left reported a change beyond them.
//!
//! `MIDGE_STORE_SEEDS=10000 cargo test --lib store::simulation` runs more of them,
//! `MIDGE_STORE_SEED=n` one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use fastrand::Rng;

use super::checkpoint::{Plant as CheckpointPlant, keep_checkpoints};
use super::loading::load;
use super::*;
use crate::storage::frame::{LaneSeed, StoreId};
use crate::storage::manifest::ManifestName;
use crate::storage::memory_disk::{Faults, MemoryDisk};
use crate::storage::replay::{Accepted, AcceptedDamage, replay_into};
use crate::storage::seeds;
use crate::storage::segment::SegmentReader;
use crate::storage::stream::pending::Pending;
use crate::storage::stream::tests::{Kept, TICK_NS, Twin, kept, random_headers, random_limits};
use crate::storage::stream::{Search, Stream};
use crate::storage::streams::{Lost, LostBlock};

/// Mistakes that the oracle has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plant {
    AcknowledgedBeforeTheBarrier,
    RefusedBeforeTheBarrier,
    DuplicateToldBeforeTheBarrier,
    ConfirmedAckRidesAlong,
    DeleteNotWritten,
    PurgeNotWritten,
    FolderNotSynced,
    StaleManifestUsed,
    StaleBlockBelieved,
    InCheckpoint(CheckpointPlant),
}

/// A change that was made.
#[derive(Clone, Debug)]
enum Made {
    Created {
        first_sequence: u64,
        limits: StreamLimits,
    },
    Updated {
        limits: StreamLimits,
    },
    StreamDeleted,
    Appended(Kept),
    Grouped(Vec<Kept>),
    Deleted {
        sequence: u64,
    },
    /// A message was removed because its own time to live was over, or its age with a marker due.
    Ended {
        sequence: u64,
    },
    Purged {
        filter: Option<Vec<u8>>,
        before: u64,
        keep: u64,
    },
    Expired {
        before: u64,
    },
    /// These messages were lost with a block.
    Lost(LostBlock),
    ConsumerCreated {
        consumer: ConsumerId,
        start_after: u64,
    },
    ConsumerDeleted {
        consumer: ConsumerId,
    },
    ConsumerChanged {
        consumer: ConsumerId,
        change: ConsumerChange,
    },
}

/// The contents of the twins.
type World = BTreeMap<StreamId, (Twin, BTreeMap<ConsumerId, ConsumerState>)>;

fn make(world: &mut World, stream: StreamId, made: &Made) {
    if let Made::Created { first_sequence, limits } = made {
        let twin = Twin::new(*limits, *first_sequence, None);
        world.insert(stream, (twin, BTreeMap::new()));
        return;
    }
    let (twin, consumers) = world.get_mut(&stream).expect("the stream was created");
    match made {
        Made::Created { .. } => {}
        Made::Updated { limits } => twin.set_limits(*limits),
        Made::StreamDeleted => drop(world.remove(&stream)),
        Made::Appended(message) => assert!(twin.append(message.clone()).is_ok()),
        Made::Grouped(messages) => {
            twin.put_group(messages.iter().cloned());
        }
        Made::Deleted { sequence } | Made::Ended { sequence } => drop(twin.delete(*sequence)),
        Made::Purged { filter, before, keep } => {
            twin.purge(filter.as_deref(), *before, *keep);
        }
        Made::Expired { before } => {
            let aged = twin.aged(i64::MAX);
            let goes = |sequence: u64| sequence < *before && aged.contains(&sequence);
            twin.messages.retain(|message| !goes(message.sequence));
        }
        Made::Lost(lost) => lose(twin, lost),
        Made::ConsumerCreated { consumer, start_after } => {
            consumers.insert(*consumer, ConsumerState::starting_after(*start_after));
        }
        Made::ConsumerDeleted { consumer } => drop(consumers.remove(consumer)),
        Made::ConsumerChanged { consumer, change } => {
            consumers.get_mut(consumer).expect("it was created").apply(*change);
        }
    }
}

fn lose(twin: &mut Twin, lost: &LostBlock) {
    twin.messages.retain(|message| !(lost.first..=lost.last).contains(&message.sequence));
}

/// Asks a stream until it answers, and loads no more blocks for it than a limit.
fn ask<T>(
    disk: &MemoryDisk,
    streams: &mut Streams,
    id: StreamId,
    mut question: impl FnMut(&mut Stream) -> Result<T, NotLoaded>,
) -> Result<T, String> {
    let reader = SegmentReader::new(disk.clone(), History::place());
    for _ in 0..10_000 {
        let held = streams.streams.get_mut(&id).expect("the stream is there");
        match question(&mut held.stream) {
            Ok(answer) => return Ok(answer),
            Err(needed) => {
                disk.run(streams.load(&reader, id, needed)).expect("no fault is set");
                disk.run(streams.finish(&reader, id)).expect("no fault is set");
            }
        }
    }
    Err("a question is never answered".to_owned())
}

/// Compares a stream with its twin. Of message ids, those known at `now_ns` are compared.
fn compare(
    disk: &MemoryDisk,
    streams: &mut Streams,
    world: &World,
    now_ns: i64,
) -> Result<(), String> {
    let ids: Vec<StreamId> = streams.iter().map(|(id, _)| id).collect();
    if ids != world.keys().copied().collect::<Vec<_>>() {
        return Err(format!("streams {ids:?} instead of {:?}", world.keys()));
    }
    let reader = SegmentReader::new(disk.clone(), History::place());
    for id in ids {
        let (twin, consumers) = &world[&id];
        // The twin has purged everything at once.
        disk.run(streams.finish(&reader, id)).expect("no fault is set");
        let held = streams.get(id).expect("it is there");
        held.stream.check_invariants();
        if held.stream.totals() != twin.totals() {
            let (found, expected) = (held.stream.totals(), twin.totals());
            return Err(format!("{id:?}: {found:?} instead of {expected:?}"));
        }
        let window_ns = held.stream.limits().duplicate_window_ns;
        let states = held.consumers.iter().map(|(id, held)| (id, &held.state));
        if !states.eq(consumers.iter()) {
            return Err(format!("{id:?}: consumers differ"));
        }
        for message in &twin.messages {
            let question = |stream: &mut Stream| Ok(stream.get(message.sequence)?.map(kept));
            let found = ask(disk, streams, id, question)?;
            if found.as_ref() != Some(message) {
                return Err(format!("{id:?}: {found:?} instead of {message:?}"));
            }
        }
        // The id of a message that is gone, or that came with another window, may not be known
        // after a start.
        for message in &twin.messages {
            let Some(name) = marks::find(&message.headers, marks::ID) else { continue };
            let is_latest = twin.duplicate_of(name, now_ns) == Some(message.sequence);
            let end_ns = twin.ids.iter().rfind(|(other, ..)| other == name).map(|found| found.1);
            if !is_latest || end_ns != Some(message.time_ns + window_ns) {
                continue;
            }
            let again = Kept { time_ns: now_ns, ..message.clone() };
            let found = ask(disk, streams, id, |stream| {
                stream.check(&again.new_message(), &Expected::default())
            })?;
            let expected = Err(Refusal::Duplicate { sequence: message.sequence });
            if found != expected && window_ns > 0 {
                return Err(format!("{id:?}: {found:?} instead of {expected:?}"));
            }
        }
    }
    Ok(())
}

struct History {
    random: Rng,
    disk: MemoryDisk,
    plant: Option<Plant>,
    made: Vec<(StreamId, Made)>,
    /// The commit of each of them.
    commits: Vec<CommitNumber>,
    /// Purges under way, each with the number of changes up to it.
    purging: BTreeMap<StreamId, usize>,
    /// Blocks that somebody waits for.
    needed: Vec<(StreamId, NotLoaded)>,
    loads: u64,
    /// The medium loses bytes that are read while the store runs.
    has_media_faults: bool,
    /// The number of blocks that each stream lost, as far as the twins know.
    lost: BTreeMap<StreamId, usize>,
    block_bytes: usize,
    checkpoints: u64,
    /// The number of changes in the base, and the state that they made, as of the last start.
    base: (usize, World),
    /// Answers that wait: the commit they wait for, and the number of changes that they report.
    waiting: Vec<(CommitNumber, usize)>,
    /// The number of changes that were reported.
    told: usize,
    /// The sequences that consumers could see a step ago.
    visible: BTreeMap<StreamId, u64>,
    now_ns: i64,
}

type Task<'lane> = Pin<Box<dyn Future<Output = ()> + 'lane>>;

const STREAMS_MAX: usize = 4;

impl History {
    fn new(seed: u64, plant: Option<Plant>) -> Self {
        let disk = MemoryDisk::new(seed);
        disk.run(disk.make_folder("lane-0")).expect("no fault is set");
        let mut random = Rng::with_seed(seed ^ 0x0057_0FE5);
        let block_bytes = random.usize(300..4000);
        Self {
            random,
            disk,
            plant,
            made: Vec::new(),
            commits: Vec::new(),
            purging: BTreeMap::new(),
            needed: Vec::new(),
            loads: 0,
            has_media_faults: false,
            lost: BTreeMap::new(),
            block_bytes,
            checkpoints: 0,
            base: (0, World::new()),
            waiting: Vec::new(),
            told: 0,
            visible: BTreeMap::new(),
            now_ns: 1000,
        }
    }

    fn place() -> JournalPlace {
        let seed = LaneSeed::new(StoreId([7; 16]), 0);
        JournalPlace { folder: "lane-0".into(), seed, file_bytes: 16 * 4096 }
    }

    /// The state that all changes made.
    fn world(&self) -> World {
        let (count, mut world) = match &self.base {
            (count, world) if *count <= self.made.len() => (*count, world.clone()),
            _ => (0, World::new()),
        };
        self.made[count..].iter().for_each(|(stream, change)| make(&mut world, *stream, change));
        world
    }

    /// Notes a change that was just made.
    fn note(&mut self, store: &Store<MemoryDisk>, id: StreamId, made: Made) {
        self.made.push((id, made));
        self.commits.push(store.lane().last_commit());
    }

    fn read(&self) -> Replayed {
        let place = Self::place();
        let mut streams = Streams::new(place.seed, Some(self.block_bytes));
        // No call needs more than two blocks at a time.
        streams.set_cache(0, 2);
        let replayed = replay_into(&self.disk, &place, streams);
        self.disk.run(replayed).expect("the folder is there")
    }

    fn replay(&mut self) -> Result<Replayed, String> {
        if self.plant == Some(Plant::StaleManifestUsed) {
            self.remove_newest_manifest();
        }
        let mut replayed = self.read();
        if !replayed.is_whole() || !replayed.manifest_faults.is_empty() {
            let Replayed { lost, unfit, manifest_faults, .. } = &replayed;
            let damage = &replayed.recovered.damage;
            return Err(format!(
                "without a fault of the medium: {damage:?} {lost:?} {unfit:?} {manifest_faults:?}"
            ));
        }
        let end = replayed.recovered.position.next;
        let count = self.commits.partition_point(|commit| *commit < end);
        if count < self.told {
            return Err(format!("answers told of {} changes, {count} are there", self.told));
        }
        self.commits.truncate(count);
        self.purging.clear();
        self.made.truncate(count);
        let mut world = self.world();
        self.find_lost(&mut replayed.streams, &mut world)?;
        compare(&self.disk, &mut replayed.streams, &world, self.now_ns)?;
        self.base = (count, world);
        self.waiting.clear();
        self.visible.clear();
        Ok(replayed)
    }

    /// Finds everything that the medium lost, and removes it from the twins, too.
    fn find_lost(&mut self, streams: &mut Streams, world: &mut World) -> Result<(), String> {
        let reader = SegmentReader::new(self.disk.clone(), Self::place());
        if self.has_media_faults {
            self.disk.run(streams.verify(&reader)).expect("no fault is set");
        }
        for id in world.keys().copied().collect::<Vec<_>>() {
            self.disk.run(streams.finish(&reader, id)).expect("no fault is set");
            let Some(held) = streams.get(id) else { continue };
            if !held.lost.is_empty() && !self.has_media_faults {
                return Err(format!("{id:?} lost {:?} without a fault of the medium", held.lost));
            }
            let twin = &mut world.get_mut(&id).expect("it is its key").0;
            held.lost.iter().for_each(|lost| lose(twin, lost));
            self.lost.insert(id, held.lost.len());
        }
        Ok(())
    }

    /// Notes the losses since the last call.
    fn note_lost(&mut self, store: &Store<MemoryDisk>) {
        let lost: usize = store.streams().iter().map(|(_, held)| held.lost.len()).sum();
        assert_eq!(store.figures().lost_blocks, lost as u64, "monitoring shows what is lost");
        for (id, held) in store.streams().iter() {
            let known = self.lost.insert(id, held.lost.len()).unwrap_or(0);
            for lost in held.lost.iter().skip(known) {
                self.note(store, id, Made::Lost(*lost));
            }
        }
    }

    /// Removes the newest manifest, as if it had never been renamed.
    fn remove_newest_manifest(&self) {
        let names = self.disk.file_names();
        let number = |name: &String| {
            let name = ManifestName::parse(name.strip_prefix("lane-0/")?)?;
            (!name.is_temporary).then_some(name)
        };
        if let Some(newest) = names.iter().filter_map(number).max_by_key(|name| name.number) {
            self.disk.run(self.disk.remove(&newest.path(&Self::place()))).expect("it is there");
            self.disk.run(self.disk.sync_folder("lane-0")).expect("no fault is set");
        }
    }

    fn faults(&mut self) -> Faults {
        let mut one_of = |often: u32| if self.random.bool() { often } else { 0 };
        let mut faults = Faults {
            failed_writes: one_of(16),
            failed_syncs: one_of(16),
            failed_names: one_of(16),
            ..Faults::default()
        };
        if self.has_media_faults {
            (faults.latent_sectors, faults.rotten_bits) = (30, 30);
        }
        faults.is_buffered = self.random.bool();
        faults.has_lying_folders = self.plant == Some(Plant::FolderNotSynced);
        faults
    }

    fn live(&mut self, steps: u64) -> Result<(), String> {
        let replayed = self.replay()?;
        let faults = self.faults();
        self.disk.set_faults(faults);
        if self.random.u8(0..4) == 0 {
            let room = self.random.u64(0..40) * 4096;
            self.disk.set_capacity(self.disk.used_bytes() + room);
        }
        let mut store = Store::start(self.disk.clone(), Self::place(), replayed)
            .map_err(|_| "a whole store does not start".to_owned())?;
        if let Some(Plant::InCheckpoint(plant)) = self.plant {
            store.checkpoints.plant = Some(plant);
        }
        store.streams.cache.believes_stale = self.plant == Some(Plant::StaleBlockBelieved);
        store.checkpoints.deltas_max = self.random.u64(0..4);
        let lane = store.lane().clone();
        let store = RefCell::new(store);
        let mut tasks: [Task<'_>; 3] = [
            Box::pin(lane.commit()),
            Box::pin(lane.keep_spare()),
            Box::pin(keep_checkpoints(&store)),
        ];
        let mut is_done = [false; 3];
        let mut loads: Vec<Task<'_>> = Vec::new();
        for _ in 0..steps {
            for (id, needed) in self.needed.drain(..) {
                self.loads += 1;
                let load = load(&store, id, needed);
                // A caller that needs it asks again.
                loads.push(Box::pin(async { drop(load.await) }));
            }
            loads.retain_mut(|load| {
                load.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
            });
            for (task, is_done) in tasks.iter_mut().zip(&mut is_done) {
                let mut context = Context::from_waker(Waker::noop());
                *is_done = *is_done || task.as_mut().poll(&mut context) == Poll::Ready(());
            }
            let mut store = store.borrow_mut();
            store.streams.check_cache();
            self.note_lost(&store);
            self.deliver_answers(&mut store)?;
            match self.random.u8(0..32) {
                0..14 if !store.is_crowded() => self.change(&mut store)?,
                14..16 => lane.flush(),
                16 => lane.retry_spare(),
                17 => store.retry(),
                18..20 => {
                    let result = self.go_on_with_purges(&mut store);
                    self.take_result(result)?;
                }
                20 => self.read_some(&mut store)?,
                _ => {
                    self.disk.step();
                }
            }
        }
        drop((tasks, loads));
        let mut store = store.into_inner();
        self.checkpoints += store.checkpoints.count;
        self.disk.set_faults(Faults::default());
        if lane.stopped().is_none() {
            let mut world = self.world();
            self.find_lost(&mut store.streams, &mut world)?;
            compare(&self.disk, &mut store.streams, &world, self.now_ns)?;
        }
        self.needed.clear();
        match self.random.u8(0..3) {
            0 => self.disk.kill(),
            _ => self.disk.power_cut(),
        }
        self.disk.set_faults(Faults::default());
        self.disk.set_capacity(u64::MAX);
        Ok(())
    }

    /// Lets answers leave whose commit is durable, and checks the messages that consumers may see.
    fn deliver_answers(&mut self, store: &mut Store<MemoryDisk>) -> Result<(), String> {
        let durable = store.lane().durable_commit();
        let told = &mut self.told;
        self.waiting.retain(|(after, changes)| {
            if *after <= durable {
                *told = (*told).max(*changes);
            }
            *after > durable
        });
        let ids: Vec<StreamId> = store.streams().iter().map(|(id, _)| id).collect();
        for id in ids {
            store.settle(id);
            let held = store.streams().get(id).expect("it is there");
            if held.stream.limits().is_async {
                let all = held.stream.totals().last_sequence;
                assert_eq!(held.durable_sequence(), all, "all may be seen");
                continue;
            }
            // The append of a visible message is durable, so it was reported.
            let visible = held.durable_sequence();
            if self.visible.insert(id, visible) == Some(visible) {
                continue;
            }
            let is_it = |(stream, made): &(StreamId, Made)| match made {
                Made::Appended(message) => *stream == id && message.sequence == visible,
                Made::Grouped(messages) => {
                    *stream == id && messages.iter().any(|message| message.sequence == visible)
                }
                _ => false,
            };
            if let Some(index) = self.made.iter().rposition(is_it) {
                self.told = self.told.max(index + 1);
            }
            if visible > held.stream.totals().last_sequence {
                return Err(format!("{id:?}: {visible} is visible and does not exist"));
            }
        }
        Ok(())
    }

    /// Notes an answer: to the change made last, or about the last change of the stream.
    fn wait_for<T>(&mut self, stream: StreamId, answer: &Answer<T>, refused: bool) {
        let is_told_of = |(id, made): &(StreamId, Made)| {
            let rides = matches!(
                made,
                Made::Expired { .. }
                    | Made::Ended { .. }
                    | Made::Lost(_)
                    | Made::ConsumerChanged { .. }
            );
            *id == stream && !rides
        };
        let last = match refused {
            false => self.made.len(),
            true => self.made.iter().rposition(is_told_of).map_or(0, |index| index + 1),
        };
        let leaves_now = match self.plant {
            Some(Plant::AcknowledgedBeforeTheBarrier) => !refused,
            Some(Plant::RefusedBeforeTheBarrier) => refused,
            _ => false,
        };
        let after = if leaves_now { CommitNumber(0) } else { answer.after };
        self.waiting.push((after, last));
    }

    fn change(&mut self, store: &mut Store<MemoryDisk>) -> Result<(), String> {
        self.now_ns += self.random.i64(0..40) * TICK_NS;
        let ids: Vec<StreamId> = store.streams().iter().map(|(id, _)| id).collect();
        let result = match self.random.u8(0..32) {
            0..2 if ids.len() < STREAMS_MAX => self.create(store),
            _ if ids.is_empty() => self.create(store),
            action => {
                let id = ids[self.random.usize(0..ids.len())];
                let result = self.change_stream(store, id, action);
                self.need(id, result)
            }
        };
        self.take_result(result)
    }

    /// Notes the block that a call needed, to be loaded.
    fn need(&mut self, id: StreamId, result: Result<(), StoreError>) -> Result<(), StoreError> {
        if let Err(StoreError::NotLoaded(needed)) = result {
            self.needed.push((id, needed));
        }
        result
    }

    /// Checks that a call was refused for a reason that a store may have.
    fn take_result(&mut self, result: Result<(), StoreError>) -> Result<(), String> {
        match result {
            Ok(())
            | Err(
                StoreError::Purging
                | StoreError::NotLoaded(_)
                | StoreError::Short(_)
                | StoreError::Refused(Refused::Stopped(_)),
            ) => Ok(()),
            Err(other) => Err(format!("{other:?}")),
        }
    }

    /// Compares reads of a stream with those of its twin.
    fn read_some(&mut self, store: &mut Store<MemoryDisk>) -> Result<(), String> {
        let ids: Vec<StreamId> = store.streams().iter().map(|(id, _)| id).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let id = ids[self.random.usize(0..ids.len())];
        let held = store.streams.streams.get_mut(&id).expect("it is there");
        if held.is_purging() && held.stream.check_settled().is_ok() {
            return Ok(());
        }
        let twin = self.world()[&id].0.clone();
        let (from, filter) = (self.random.u64(0..twin.totals().last_sequence + 2), b"a.*");
        let subject = [b'a', b'.', self.random.u8(b'0'..b'4')];
        let mut pending = Pending::new(filter, from);
        let stream = &mut held.stream;
        let result = match self.random.u8(0..5) {
            0 => stream.get(from).map(|found| {
                let expected = twin.messages.iter().find(|message| message.sequence == from);
                found.map(kept).as_ref() == expected
            }),
            1 => stream.last_of(&subject).map(|found| {
                let expected = twin.messages.iter().rfind(|message| message.subject == subject);
                found.map(kept).as_ref() == expected
            }),
            2 => stream.next(filter, from, 100).map(|found| {
                let is_it =
                    |message: &&Kept| message.sequence >= from && message.subject[0] == b'a';
                let expected = twin.messages.iter().find(is_it);
                match found {
                    Search::Found(found) => Some(&kept(found)) == expected,
                    Search::Nothing => expected.is_none(),
                    Search::GoOn(next) => expected.is_none_or(|found| found.sequence >= next),
                }
            }),
            3 => stream.previous(filter, from, 100).map(|found| {
                let is_it =
                    |message: &&Kept| message.sequence <= from && message.subject[0] == b'a';
                let expected = twin.messages.iter().rfind(is_it);
                match found {
                    Search::Found(found) => Some(&kept(found)) == expected,
                    Search::Nothing => expected.is_none(),
                    Search::GoOn(next) => expected.is_none_or(|found| found.sequence <= next),
                }
            }),
            _ => stream.pending(&mut pending, 100).map(|found| {
                let is_it =
                    |message: &&Kept| message.sequence >= from && message.subject[0] == b'a';
                let expected = twin.messages.iter().filter(is_it).count() as u64;
                found.is_none_or(|found| found == expected)
            }),
        };
        match result {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!("{id:?}: what is read from {from} on is another")),
            Err(needed) => {
                self.needed.push((id, needed));
                Ok(())
            }
        }
    }

    /// Random limits of a stream. Where blocks are lost there are no limits of a number: it makes a
    /// difference, unknown to the twins, whether the loss is met before a limit removes others or
    /// after.
    fn limits(&mut self) -> StreamLimits {
        // Of a stream in memory nothing is to survive: the store's tests have those.
        let limits = StreamLimits { is_memory: false, ..random_limits(&mut self.random) };
        match self.has_media_faults {
            false => limits,
            true => StreamLimits {
                messages_max: 0,
                bytes_max: 0,
                messages_per_subject_max: 0,
                ..limits
            },
        }
    }

    fn create(&mut self, store: &mut Store<MemoryDisk>) -> Result<(), StoreError> {
        let limits = self.limits();
        let first_sequence = self.random.u64(0..30);
        let answer = store.create_stream(first_sequence, limits, b"details")?;
        self.note(store, answer.value, Made::Created { first_sequence, limits });
        self.wait_for(answer.value, &answer, false);
        Ok(())
    }

    fn change_stream(
        &mut self,
        store: &mut Store<MemoryDisk>,
        id: StreamId,
        action: u8,
    ) -> Result<(), StoreError> {
        match action {
            0..14 => {
                let message = self.message();
                // A publisher may repeat it before it has its answer.
                for _ in 0..self.random.usize(1..3) {
                    let answer = store.append(id, message.new_message())?;
                    if let Ok(sequence) = answer.value {
                        self.note(store, id, Made::Appended(Kept { sequence, ..message.clone() }));
                    }
                    self.wait_for_append(id, &answer);
                    self.roll_up(store, id)?;
                }
            }
            14..16 => {
                let mut messages: Vec<Kept> =
                    (0..self.random.usize(1..5)).map(|_| self.message()).collect();
                let group: Vec<GroupMessage<'_>> = messages
                    .iter()
                    .map(|message| GroupMessage {
                        new: message.new_message(),
                        expected: Expected::default(),
                    })
                    .collect();
                let answer = store.append_group(id, &group)?;
                if let Ok(first) = answer.value {
                    for (sequence, message) in (first..).zip(&mut messages) {
                        message.sequence = sequence;
                    }
                    self.note(store, id, Made::Grouped(messages));
                }
                let value = answer.value.map_err(|refused| refused.refusal);
                self.wait_for_append(id, &Answer { value, after: answer.after });
            }
            16..19 => {
                let totals = store.streams().get(id).expect("it is there").stream.totals();
                let sequence = self
                    .random
                    .u64(totals.first_sequence.saturating_sub(1)..=totals.last_sequence + 1);
                if self.plant == Some(Plant::DeleteNotWritten) {
                    store.check_quiet(id)?;
                    let held = store.streams.streams.get_mut(&id).expect("it is there");
                    if held.stream.delete(sequence)? {
                        self.note(store, id, Made::Deleted { sequence });
                        self.told = self.made.len();
                    }
                    return Ok(());
                }
                let answer = store.delete(id, sequence)?;
                if answer.value {
                    self.note(store, id, Made::Deleted { sequence });
                }
                self.wait_for(id, &answer, !answer.value);
            }
            19 => self.purge(store, id)?,
            20..22 => self.expire(store, id)?,
            22 => {
                let before = *store.streams().get(id).expect("it is there").stream.limits();
                let limits = StreamLimits {
                    is_memory: before.is_memory,
                    is_async: before.is_async,
                    ..self.limits()
                };
                let answer = store.update_stream(id, limits, b"other details")?;
                self.note(store, id, Made::Updated { limits });
                self.wait_for(id, &answer, false);
            }
            23 if self.random.u8(0..4) == 0 => {
                let answer = store.delete_stream(id)?;
                self.note(store, id, Made::StreamDeleted);
                self.purging.remove(&id);
                self.wait_for(id, &answer, false);
            }
            _ => self.change_consumers(store, id)?,
        }
        Ok(())
    }

    fn message(&mut self) -> Kept {
        let letter = self.random.u8(b'a'..b'e');
        Kept {
            sequence: 0,
            time_ns: self.now_ns,
            subject: vec![letter, b'.', self.random.u8(b'0'..b'4')],
            headers: random_headers(&mut self.random),
            payload: vec![letter; self.random.usize(0..400)],
        }
    }

    fn wait_for_append(&mut self, id: StreamId, answer: &Answer<Result<u64, Refusal>>) {
        if answer.after == CommitNumber(0) {
            // The stream promises nothing.
            return;
        }
        let is_duplicate = matches!(answer.value, Err(Refusal::Duplicate { .. }));
        let leaves_now = is_duplicate && self.plant == Some(Plant::DuplicateToldBeforeTheBarrier);
        let after = if leaves_now { CommitNumber(0) } else { answer.after };
        self.wait_for(id, &Answer { value: (), after }, answer.value.is_err());
    }

    /// Does the rest of a rollup.
    fn roll_up(&mut self, store: &mut Store<MemoryDisk>, id: StreamId) -> Result<(), StoreError> {
        while store.streams().get(id).expect("it is there").is_purging() {
            let refused = store.delete(id, 1);
            assert!(matches!(refused, Err(StoreError::Purging | StoreError::NotLoaded(_))));
            store.purge_some(id, 3)?;
        }
        Ok(())
    }

    /// Removes messages that are too old, one with each call: the twin says what each call writes.
    fn expire(&mut self, store: &mut Store<MemoryDisk>, id: StreamId) -> Result<(), StoreError> {
        for _ in 0..self.random.usize(1..6) {
            let held = store.streams().get(id).expect("it is there");
            if held.is_purging() {
                return Err(StoreError::Purging);
            }
            let (before, _) = held.stream.aged_before(self.now_ns, 1)?;
            let limits = *held.stream.limits();
            let twin = self.world()[&id].0.clone();
            let aged = twin.aged(self.now_ns).into_iter().find(|sequence| *sequence < before);
            let ended = || twin.ended(self.now_ns).first().copied();
            let made = match aged.or_else(ended) {
                None => None,
                Some(_) if aged.is_some() && !limits.has_markers() => {
                    Some(Made::Expired { before })
                }
                Some(sequence) => {
                    let is_short = store.lane().shortage().is_some();
                    let marker = marker_for(&twin, &limits, sequence, self.now_ns);
                    let marker = marker.filter(|_| !is_short);
                    Some(marker.map_or(Made::Ended { sequence }, Made::Appended))
                }
            };
            let count = store.expire_some(id, self.now_ns, 1)?;
            assert_eq!(count, u64::from(made.is_some()), "messages went");
            if let Some(made) = made {
                self.note(store, id, made);
            }
        }
        Ok(())
    }

    fn purge(&mut self, store: &mut Store<MemoryDisk>, id: StreamId) -> Result<(), StoreError> {
        let filter = self.random.bool().then(|| vec![self.random.u8(b'a'..b'e'), b'.', b'>']);
        let last = store.streams().get(id).expect("it is there").stream.totals().last_sequence;
        let (before, keep) = match self.random.u8(0..3) {
            0 => (self.random.u64(0..=last + 2), 0),
            // The number of messages that stay is counted when it begins, with those that are lost
            // meanwhile.
            1 if !self.has_media_faults => (0, self.random.u64(0..5)),
            _ => (0, 0),
        };
        if self.plant == Some(Plant::PurgeNotWritten) {
            store.check_quiet(id)?;
            let held = store.streams.streams.get_mut(&id).expect("it is there");
            held.stream.last_id()?;
            held.purge = Some(held.stream.purge(filter.as_deref(), before, keep));
            self.note(store, id, Made::Purged { filter, before, keep });
            self.told = self.made.len();
            return Ok(());
        }
        store.purge(id, filter.as_deref(), before, keep)?;
        self.note(store, id, Made::Purged { filter, before, keep });
        self.purging.insert(id, self.made.len());
        if self.random.bool() {
            self.go_on_with_purges(store)?;
        }
        Ok(())
    }

    /// Goes on with purges and other removals, or finishes them.
    fn go_on_with_purges(&mut self, store: &mut Store<MemoryDisk>) -> Result<(), StoreError> {
        let (slice, slices) = (self.random.usize(1..20), self.random.usize(1..20));
        let is_purging = |(id, held): (StreamId, &HeldStream)| held.is_purging().then_some(id);
        let ids: Vec<StreamId> = store.streams().iter().filter_map(is_purging).collect();
        for id in ids {
            for _ in 0..slices {
                let refused = store.delete(id, 1);
                if !matches!(refused, Err(StoreError::Purging | StoreError::NotLoaded(_))) {
                    panic!("a stream that is purged takes a change");
                }
                match store.purge_some(id, slice) {
                    Ok(Some(answer)) => {
                        let told = self.purging.remove(&id);
                        self.waiting.extend(told.map(|told| (answer.after, told)));
                        break;
                    }
                    Ok(None) => {}
                    Err(error) => return self.need(id, Err(error)),
                }
            }
        }
        Ok(())
    }

    fn change_consumers(
        &mut self,
        store: &mut Store<MemoryDisk>,
        id: StreamId,
    ) -> Result<(), StoreError> {
        let held = store.streams().get(id).expect("it is there");
        let consumers: Vec<ConsumerId> = held.consumers.keys().copied().collect();
        let action = self.random.u8(0..18);
        if consumers.is_empty() || (action == 0 && consumers.len() < 3) {
            let start_after = self.random.u64(0..10);
            let answer = store.create_consumer(id, start_after, b"consumer")?;
            let consumer = answer.value;
            self.note(store, id, Made::ConsumerCreated { consumer, start_after });
            self.wait_for(id, &answer, false);
            return Ok(());
        }
        let consumer = consumers[self.random.usize(0..consumers.len())];
        if action == 1 {
            let answer = store.delete_consumer(id, consumer)?;
            self.note(store, id, Made::ConsumerDeleted { consumer });
            self.wait_for(id, &answer, false);
            return Ok(());
        }
        let delivered = held.consumers[&consumer].state.delivered().stream;
        let near = self.random.u64(delivered.saturating_sub(6)..delivered + 3);
        let (change, mut urgency) = match action {
            2..9 => {
                let (time_ns, needs_ack) = (self.now_ns, self.random.u8(0..8) > 0);
                let change =
                    ConsumerChange::Delivered { stream_sequence: near, time_ns, needs_ack };
                (change, Urgency::Rides)
            }
            9..14 => (ConsumerChange::Acked { stream_sequence: near }, Urgency::Commits),
            14 => {
                let time_ns = self.now_ns;
                (ConsumerChange::Postponed { stream_sequence: near, time_ns }, Urgency::Rides)
            }
            15 => (ConsumerChange::Restarted { after: near }, Urgency::Commits),
            _ => (ConsumerChange::AckedThrough { stream_sequence: near }, Urgency::Rides),
        };
        let is_confirmed = urgency == Urgency::Commits;
        if self.plant == Some(Plant::ConfirmedAckRidesAlong) {
            urgency = Urgency::Rides;
        }
        let mut answer = store.change_consumer(id, consumer, change, urgency)?;
        if answer.value {
            self.note(store, id, Made::ConsumerChanged { consumer, change });
        }
        if self.plant == Some(Plant::ConfirmedAckRidesAlong) {
            answer.after = CommitNumber(0);
        }
        if is_confirmed && answer.value {
            self.waiting.push((answer.after, self.made.len()));
        } else if is_confirmed {
            // Earlier changes of this consumer are reported, all of them.
            let is_its = |(stream, made): &(StreamId, Made)| match made {
                Made::ConsumerChanged { consumer: other, .. } => {
                    *stream == id && *other == consumer
                }
                _ => false,
            };
            let last = self.made.iter().rposition(is_its).map_or(0, |index| index + 1);
            self.waiting.push((answer.after, last));
        }
        Ok(())
    }
}

/// The marker that stands for a message, if one must and there is room for it.
fn marker_for(twin: &Twin, limits: &StreamLimits, sequence: u64, time_ns: i64) -> Option<Kept> {
    let ended = twin.messages.iter().find(|message| message.sequence == sequence)?;
    let marker = Kept {
        sequence: twin.totals().last_sequence + 1,
        time_ns,
        subject: ended.subject.clone(),
        headers: marker(limits),
        payload: Vec::new(),
    };
    let has_room = twin.clone().append(marker.clone()).is_ok();
    (twin.needs_marker(sequence) && has_room).then_some(marker)
}

/// Returns the numbers of changes that were reported, of checkpoints and of loads.
fn run(seed: u64, plant: Option<Plant>) -> Result<(usize, u64, u64), String> {
    live_some(&mut History::new(seed, plant))
}

fn live_some(history: &mut History) -> Result<(usize, u64, u64), String> {
    for _ in 0..history.random.u64(2..6) {
        let steps = history.random.u64(20..500);
        history.live(steps)?;
    }
    history.replay()?;
    Ok((history.told, history.checkpoints, history.loads))
}

#[test]
fn no_history_takes_back_what_an_answer_told() {
    let seeds = seeds::all(300);
    let (mut told, mut checkpoints, mut loads, count) = (0, 0, 0, seeds.end - seeds.start);
    for seed in seeds {
        match run(seed, None) {
            Ok((more, more_checkpoints, more_loads)) => {
                told += more as u64;
                loads += more_loads;
                checkpoints += more_checkpoints;
            }
            Err(reason) => {
                panic!("MIDGE_STORE_SEED={seed} cargo test --lib store::simulation: {reason}")
            }
        }
    }
    assert!(told > 20 * count, "{count} histories told only of {told} changes");
    assert!(checkpoints > 2 * count, "{count} histories had only {checkpoints} checkpoints");
    assert!(loads > 2 * count, "{count} histories had only {loads} loads");
}

#[test]
fn what_the_medium_loses_while_the_store_runs_is_lost_alone() {
    let seeds = seeds::all(100);
    let (mut lost, count) = (0, seeds.end - seeds.start);
    for seed in seeds {
        let mut history = History::new(seed, None);
        history.has_media_faults = true;
        if let Err(reason) = live_some(&mut history) {
            panic!("MIDGE_STORE_SEED={seed} cargo test --lib store::simulation: {reason}");
        }
        lost += history.lost.values().sum::<usize>();
    }
    assert!(lost as u64 > count / 4, "{count} histories lost only {lost} blocks");
}

#[test]
fn each_planted_mistake_is_found() {
    for plant in [
        Plant::AcknowledgedBeforeTheBarrier,
        Plant::RefusedBeforeTheBarrier,
        Plant::DuplicateToldBeforeTheBarrier,
        Plant::ConfirmedAckRidesAlong,
        Plant::DeleteNotWritten,
        Plant::PurgeNotWritten,
        Plant::FolderNotSynced,
        Plant::StaleManifestUsed,
        Plant::StaleBlockBelieved,
        Plant::InCheckpoint(CheckpointPlant::StoredBeforeItIsDurable),
        Plant::InCheckpoint(CheckpointPlant::SegmentNameNotSynced),
        Plant::InCheckpoint(CheckpointPlant::SegmentNotSynced),
        Plant::InCheckpoint(CheckpointPlant::ManifestNotSynced),
        Plant::InCheckpoint(CheckpointPlant::JournalReleasedBeforeTheManifest),
        Plant::InCheckpoint(CheckpointPlant::NotedBeforeItIsDurable),
        Plant::InCheckpoint(CheckpointPlant::DeletesNotNoted),
        Plant::InCheckpoint(CheckpointPlant::SegmentRemovedBeforeTheManifest),
    ] {
        // Most histories take too few checkpoints for a mistake in one to matter.
        let seeds = match plant {
            Plant::InCheckpoint(CheckpointPlant::StoredBeforeItIsDurable) => 100,
            Plant::InCheckpoint(_) => 500,
            _ => 100,
        };
        let found = (0..seeds).find_map(|seed| run(seed, Some(plant)).err().map(|why| (seed, why)));
        let (seed, why) = found.unwrap_or_else(|| panic!("{plant:?} went unseen"));
        println!("{plant:?}: seed {seed}: {why}");
    }
}

/// Reads all blocks.
fn verify(disk: &MemoryDisk, replayed: &mut Replayed) {
    let reader = SegmentReader::new(disk.clone(), History::place());
    disk.run(replayed.streams.verify(&reader)).expect("no fault is set");
    let ids: Vec<StreamId> = replayed.streams.iter().map(|(id, _)| id).collect();
    for id in ids {
        disk.run(replayed.streams.finish(&reader, id)).expect("no fault is set");
    }
}

fn get(disk: &MemoryDisk, replayed: &mut Replayed, id: StreamId, sequence: u64) -> Option<Kept> {
    let question = |stream: &mut Stream| Ok(stream.get(sequence)?.map(kept));
    ask(disk, &mut replayed.streams, id, question).expect("it answers")
}

fn lost_blocks(replayed: &Replayed) -> Vec<(Lost, LostBlock)> {
    replayed.lost_with_blocks().collect()
}

/// Appends to a new stream until that is durable, and ends with a power cut; returns the stream.
fn go_on(disk: &MemoryDisk, replayed: Replayed) -> StreamId {
    let mut store = Store::start(disk.clone(), History::place(), replayed).expect("it is whole");
    let lane = store.lane().clone();
    let id = store.create_stream(1, StreamLimits::default(), b"").expect("there is room").value;
    let new = NewMessage { time_ns: 5, subject: b"a", headers: b"", payload: b"later" };
    let after = store.append(id, new).expect("there is room").after;
    let (mut commit, mut spare) = (Box::pin(lane.commit()), Box::pin(lane.keep_spare()));
    let mut durable = Box::pin(lane.durable(after));
    disk.run(std::future::poll_fn(|context| {
        assert!(commit.as_mut().poll(context).is_pending());
        assert!(spare.as_mut().poll(context).is_pending());
        durable.as_mut().poll(context)
    }))
    .expect("no fault is set");
    drop((commit, spare, durable));
    disk.power_cut();
    id
}

#[test]
fn damage_is_told_by_stream_and_sequence_and_a_store_goes_on_once_it_is_accepted() {
    let (mut damaged, mut named) = (0, 0);
    for seed in 0..100 {
        let mut history = History::new(seed, None);
        history.live(300).expect("the history is honest");
        history.replay().expect("the history is honest");
        let disk = history.disk.clone();
        let files: Vec<(String, Vec<u8>)> = disk
            .file_names()
            .into_iter()
            .map(|name| (name.clone(), disk.contents(&name).expect("it is there")))
            .filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0))
            .collect();
        if files.is_empty() {
            continue;
        }
        let (name, bytes) = &files[history.random.usize(0..files.len())];
        // Bytes that are not zero: most of a file is zeros.
        let places = std::iter::repeat_with(|| history.random.usize(0..bytes.len()));
        let place = places.into_iter().find(|place| bytes[*place] != 0).expect("there is one");
        disk.damage(name, place as u64, 1 << history.random.u8(0..8));
        let mut replayed = history.read();
        named += replayed.lost.len() + lost_blocks(&replayed).len();
        let damage: Vec<AcceptedDamage> =
            replayed.recovered.damage.iter().map(AcceptedDamage::from).collect();
        let accepted = Accepted { commits: damage, messages: Vec::new() };
        if !accepted.commits.is_empty() {
            damaged += 1;
            let refused = Store::start(disk.clone(), History::place(), replayed);
            replayed = *refused.err().expect("a damaged store does not start");
            replayed.accept(&accepted);
        }
        assert!(replayed.is_whole(), "seed {seed}: {:?}", replayed.unfit);
        let streams_before = replayed.streams.iter().count();
        let id = go_on(&disk, replayed);
        let mut replayed = history.read();
        replayed.accept(&accepted);
        let (damage, unfit) = (&replayed.recovered.damage, &replayed.unfit);
        assert!(replayed.is_whole(), "seed {seed}: {damage:?} {unfit:?}");
        assert_eq!(replayed.streams.iter().count(), streams_before + 1, "seed {seed}");
        let found = get(&disk, &mut replayed, id, 1);
        assert_eq!(found.expect("it was durable").payload, b"later");
    }
    assert!(damaged > 15 && named > 5, "{damaged} were damaged, {named} losses were named");
}

/// Ends a history with a checkpoint, and with nothing under way.
fn settle(history: &mut History) {
    let replayed = history.replay().expect("the history is honest");
    let mut store =
        Store::start(history.disk.clone(), History::place(), replayed).expect("it is whole");
    let lane = store.lane().clone();
    store.request_checkpoint();
    run_until_checkpointed(history, store, &lane);
}

fn run_until_checkpointed(history: &History, store: Store<MemoryDisk>, lane: &Lane<MemoryDisk>) {
    if lane.last_commit() == CommitNumber(0) {
        return;
    }
    let store = RefCell::new(store);
    let mut tasks: [Task<'_>; 3] =
        [Box::pin(lane.commit()), Box::pin(lane.keep_spare()), Box::pin(keep_checkpoints(&store))];
    history.disk.run(std::future::poll_fn(|context| {
        for task in &mut tasks {
            assert!(task.as_mut().poll(context).is_pending());
        }
        match store.borrow().checkpoints.count {
            0 => Poll::Pending,
            _ => Poll::Ready(()),
        }
    }));
    drop(tasks);
    history.disk.power_cut();
}

#[test]
fn damage_of_a_segment_costs_its_block_alone() {
    let (mut named, mut settled) = (0, 0);
    for seed in 0..150 {
        let mut history = History::new(seed, None);
        history.live(300).expect("the history is honest");
        settle(&mut history);
        let replayed = history.replay().expect("the history is honest");
        let world = history.world();
        assert_eq!(replayed.recovered.last, None, "all is in the manifest");
        let names = history.disk.file_names();
        let length_of = |name: &str| history.disk.contents(name).expect("it is there").len();
        let is_segment = |name: &&String| name.contains("segment") && length_of(name) > 0;
        let segments: Vec<&String> = names.iter().filter(is_segment).collect();
        if segments.is_empty() {
            continue;
        }
        settled += 1;
        let name = segments[history.random.usize(0..segments.len())];
        let length = length_of(name);
        match history.random.u8(0..8) {
            0 => history.disk.set_contents(name, Vec::new()),
            _ => {
                let (place, mask) = (history.random.usize(0..length), history.random.u8(1..));
                history.disk.damage(name, place as u64, mask);
            }
        }
        let mut replayed = history.read();
        assert!(replayed.is_whole(), "seed {seed}: a start is possible");
        verify(&history.disk, &mut replayed);
        let lost = lost_blocks(&replayed);
        named += lost.len();
        for (id, (twin, consumers)) in &world {
            let streams = &mut replayed.streams;
            ask(&history.disk, streams, *id, |stream| stream.check_settled()).expect("it settles");
            let held = streams.get(*id).expect("the stream is there");
            assert_eq!(held.consumers.len(), consumers.len(), "seed {seed}");
            assert_eq!(held.stream.totals().last_sequence, twin.totals().last_sequence);
            let is_lost = |sequence: u64| {
                held.lost.iter().any(|lost| (lost.first..=lost.last).contains(&sequence))
            };
            let left: Vec<&Kept> =
                twin.messages.iter().filter(|message| !is_lost(message.sequence)).collect();
            assert_eq!(held.stream.totals().messages, left.len() as u64, "seed {seed}");
            for message in left {
                let found = get(&history.disk, &mut replayed, *id, message.sequence);
                assert_eq!(found.as_ref(), Some(message), "seed {seed}");
            }
        }
        // The loss is remembered, and the segment kept.
        settle_lossy(&mut history);
        let mut replayed = history.read();
        verify(&history.disk, &mut replayed);
        assert_eq!(lost_blocks(&replayed), lost, "seed {seed}");
        let names = history.disk.file_names();
        for (_, block) in lost {
            let kept = format!("{:016}", block.segment);
            assert!(names.iter().any(|name| name.contains("segment") && name.contains(&kept)));
        }
    }
    assert!(named > 40 && settled > 60, "{named} blocks of {settled} segments were lost");
}

/// Does the same as `settle`, but blocks may be lost.
fn settle_lossy(history: &mut History) {
    let replayed = history.read();
    let mut store =
        Store::start(history.disk.clone(), History::place(), replayed).expect("it is whole");
    let lane = store.lane().clone();
    store.request_checkpoint();
    run_until_checkpointed(history, store, &lane);
}

/// Appends that many messages to a new stream while checkpoints are taken when they are due, and
/// ends with a power cut. Returns the stream, the highest number of journal files, and the number
/// of checkpoints.
fn append_many(
    history: &mut History,
    limits: StreamLimits,
    count: u64,
    subject: impl Fn(u64) -> String,
) -> (StreamId, usize, u64) {
    let replayed = history.replay().expect("there is nothing");
    let store = Store::start(history.disk.clone(), History::place(), replayed);
    let store = RefCell::new(store.expect("it is whole"));
    store.borrow_mut().checkpoints.deltas_max = 2;
    let lane = store.borrow().lane().clone();
    let created = store.borrow_mut().create_stream(1, limits, b"");
    let id = created.expect("there is room").value;
    let mut tasks: [Task<'_>; 3] =
        [Box::pin(lane.commit()), Box::pin(lane.keep_spare()), Box::pin(keep_checkpoints(&store))];
    let is_journal = |name: &&String| name.contains("journal");
    let (mut made, mut longest) = (0, 0);
    while made < count || lane.durable_commit() < lane.last_commit() {
        for task in &mut tasks {
            let mut context = Context::from_waker(Waker::noop());
            assert!(task.as_mut().poll(&mut context).is_pending());
        }
        if made < count && !store.borrow().is_crowded() {
            let subject = subject(made);
            let (subject, payload) = (subject.as_bytes(), &[7; 900][..]);
            let new = NewMessage { time_ns: 5, subject, headers: b"", payload };
            let appended = store.borrow_mut().append(id, new);
            match appended {
                Err(StoreError::NotLoaded(needed)) => {
                    history.disk.run(load(&store, id, needed)).expect("no fault is set");
                }
                appended => {
                    assert!(appended.expect("there is room").value.is_ok());
                    made += 1;
                }
            }
        }
        history.disk.step();
        longest = longest.max(history.disk.file_names().iter().filter(is_journal).count());
    }
    drop(tasks);
    history.disk.power_cut();
    (id, longest, store.into_inner().checkpoints.count)
}

#[test]
fn journal_stays_short_and_a_start_reads_no_more_than_it() {
    let mut history = History::new(1, None);
    let limits = StreamLimits::default();
    let (id, longest, checkpoints) = append_many(&mut history, limits, 3000, |_| "a".into());
    assert!(checkpoints > 10, "{checkpoints} checkpoints");
    // Those in use, the spare one, and one that is being made.
    assert!(longest <= JOURNAL_FILES_MAX + 3, "the journal had {longest} files");
    let replayed = history.read();
    assert!(replayed.is_whole());
    let files = replayed.recovered.files.len();
    assert!(files <= JOURNAL_FILES_MAX + 1, "a start reads {files} files");
    assert!(replayed.record_count < 500, "a start reads {} records", replayed.record_count);
    let stream = &replayed.streams.get(id).expect("it is there").stream;
    assert_eq!((stream.totals().messages, stream.totals().last_sequence), (3000, 3000));
    let loaded = stream.blocks_from(0).filter(|block| block.is_loaded() && block.is_complete());
    let in_memory: usize = loaded.map(|block| block.len()).sum();
    assert!(in_memory < 500, "a start has {in_memory} messages in memory");
}

#[test]
fn what_is_deleted_frees_disk_and_memory_whatever_stays_in_between() {
    let mut history = History::new(1, None);
    let limits = StreamLimits { messages_per_subject_max: 1, ..StreamLimits::default() };
    // One of each hundred messages stays.
    let subject = |number: u64| match number % 100 {
        0 => format!("stays.{number}"),
        rest => format!("goes.{}", rest % 10),
    };
    let (id, ..) = append_many(&mut history, limits, 4000, subject);
    for _ in 0..2 {
        settle_lossy(&mut history);
    }
    let replayed = history.read();
    assert!(replayed.is_whole());
    let stream = &replayed.streams.get(id).expect("it is there").stream;
    assert_eq!(stream.totals().messages, 50);
    assert!(stream.memory_bytes() < 200_000, "{} bytes of memory", stream.memory_bytes());
    let names = history.disk.file_names();
    let length = |name: &String| history.disk.contents(name).expect("it is there").len();
    let segments = names.iter().filter(|name| name.contains("segment"));
    let bytes: usize = segments.map(length).sum();
    // Some 50 KB are left of 3.6 MB. Half of a block may be dead, and half of a segment
    // superfluous. The files that the last checkpoint made superfluous are still there.
    let named: u64 = replayed.files.uses.values().map(|segment| segment.bytes).sum();
    assert!(named < 200_000, "{named} bytes of segments are named");
    assert!(bytes < 400_000, "{bytes} bytes of segments");
}
