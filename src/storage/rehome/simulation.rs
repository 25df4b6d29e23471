//! The number of lanes changes again and again on the faulty disk, each time cut short anywhere and
//! tried anew, and the lanes are used in between. The law: all streams are there, in one lane each,
//! as they were.
//!
//! `MIDGE_STORE_SEEDS=10000 cargo test --lib rehome::simulation` runs more of them,
//! `MIDGE_STORE_SEED=n` one.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use fastrand::Rng;

use super::*;
use crate::storage::consumer_state::{ConsumerChange, ConsumerState};
use crate::storage::frame::{LaneSeed, StoreId};
use crate::storage::journal::Urgency;
use crate::storage::memory_disk::{Faults, MemoryDisk};
use crate::storage::record::ConsumerId;
use crate::storage::seeds;
use crate::storage::store::Store;
use crate::storage::store::checkpoint::keep_checkpoints;
use crate::storage::stream::tests::{Kept, kept, random_headers, random_limits};
use crate::storage::stream::{NewMessage, Search, StreamLimits, StreamTotals};
use crate::storage::streams::{HeldStream, LostBlock, Streams};

/// Mistakes that the oracle has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plant {
    OldLanesRemovedFirst,
    HeadNotSynced,
    UnstoredNotCopied,
}

const FILE_BYTES: u64 = 16 * SECTOR_BYTES as u64;

/// A stream as it was.
#[derive(Clone, Debug, PartialEq)]
struct Expected {
    limits: StreamLimits,
    totals: StreamTotals,
    details: Vec<u8>,
    messages: Vec<Kept>,
    consumers: Vec<(ConsumerId, ConsumerState, Vec<u8>)>,
}

impl Expected {
    fn of(held: &HeldStream) -> Self {
        let (mut messages, mut from) = (Vec::new(), 0);
        while let Ok(Search::Found(message)) = held.stream.next(b">", from, usize::MAX) {
            from = message.sequence + 1;
            messages.push(kept(message));
        }
        let consumers = held.consumers.iter();
        let consumers =
            consumers.map(|(id, held)| (*id, held.state.clone(), held.details.clone())).collect();
        Self {
            limits: *held.stream.limits(),
            totals: held.stream.totals(),
            details: held.details.clone(),
            messages,
            consumers,
        }
    }
}

struct Town {
    random: Rng,
    disk: MemoryDisk,
    plant: Option<Plant>,
    generation: u32,
    lanes: u32,
    block_bytes: usize,
    streams: BTreeMap<StreamId, Expected>,
}

fn places(generation: u32, lanes: u32) -> Vec<JournalPlace> {
    let place = |lane| JournalPlace {
        folder: format!("lane-{lane}.{generation}"),
        seed: LaneSeed::new(StoreId([7; 16]), lane),
        file_bytes: FILE_BYTES,
    };
    (0..lanes).map(place).collect()
}

/// Names a generation of lanes in the head, durably.
async fn switch(
    disk: &MemoryDisk,
    generation: u32,
    lanes: u32,
    plant: Option<Plant>,
) -> io::Result<()> {
    match disk.remove("store.new").await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.open("store.new", Access::Create).await?;
    let mut sector = DiskBuffer::zeroed(SECTOR_BYTES);
    sector.as_mut_slice()[..4].copy_from_slice(&generation.to_le_bytes());
    sector.as_mut_slice()[4..8].copy_from_slice(&lanes.to_le_bytes());
    disk.write(&file, 0, sector).await.0?;
    disk.sync(&file).await?;
    disk.rename("store.new", "store").await?;
    match plant {
        Some(Plant::HeadNotSynced) => Ok(()),
        _ => disk.sync_folder("").await,
    }
}

impl Town {
    fn new(seed: u64, plant: Option<Plant>) -> Self {
        let (disk, mut random) = (MemoryDisk::new(seed), Rng::with_seed(seed ^ 0x0704_E5EE));
        let lanes = random.u32(1..5);
        disk.run(switch(&disk, 0, lanes, None)).expect("no fault is set");
        let block_bytes = random.usize(300..4000);
        Self { random, disk, plant, generation: 0, lanes, block_bytes, streams: BTreeMap::new() }
    }

    fn read(&self, place: &JournalPlace) -> Result<Streams, String> {
        let replayed = replay_with(&self.disk, place, Some(self.block_bytes));
        let mut replayed = self.disk.run(replayed).map_err(|error| error.to_string())?;
        // Everything is in memory from here on.
        self.disk.run(replayed.verify(&self.disk, place)).map_err(|error| error.to_string())?;
        let folder = &place.folder;
        match replayed.is_whole() && replayed.lost_with_blocks().next().is_none() {
            true => Ok(replayed.streams),
            false => {
                let (recovered, blocks) = (&replayed.recovered, replayed.lost_with_blocks());
                let blocks: Vec<(Lost, LostBlock)> = blocks.collect();
                Err(format!(
                    "{folder}: {:?} {:?} {:?} {blocks:?}",
                    recovered.damage, replayed.unfit, replayed.manifest_faults
                ))
            }
        }
    }

    /// Compares all lanes with the streams that were there.
    fn compare(&self) -> Result<(), String> {
        let mut found = BTreeMap::new();
        for place in places(self.generation, self.lanes) {
            for (id, held) in self.read(&place)?.iter() {
                held.stream.check_invariants();
                if found.insert(id, Expected::of(held)).is_some() {
                    return Err(format!("{id:?} is in two lanes"));
                }
            }
        }
        let ids = |streams: &BTreeMap<StreamId, Expected>| {
            streams.keys().copied().collect::<Vec<StreamId>>()
        };
        if ids(&found) != ids(&self.streams) {
            return Err(format!("{:?} instead of {:?}", ids(&found), ids(&self.streams)));
        }
        match found.iter().find(|(id, stream)| self.streams[*id] != **stream) {
            Some((id, stream)) => {
                let before = &self.streams[id];
                Err(format!("{id:?}: {:?} instead of {:?}", stream.totals, before.totals))
            }
            None => Ok(()),
        }
    }

    /// Changes streams of each lane, durably.
    fn live(&mut self) -> Result<(), String> {
        for place in places(self.generation, self.lanes) {
            self.disk.run(self.disk.make_folder(&place.folder)).expect("no fault is set");
            let replayed = replay_with(&self.disk, &place, Some(self.block_bytes));
            let mut replayed = self.disk.run(replayed).map_err(|error| error.to_string())?;
            self.disk
                .run(replayed.verify(&self.disk, &place))
                .map_err(|error| error.to_string())?;
            let store = Store::start(self.disk.clone(), place, replayed);
            let store = RefCell::new(store.map_err(|_| "a lane is not whole".to_owned())?);
            for _ in 0..self.random.usize(0..40) {
                self.change(&mut store.borrow_mut());
                if self.random.u8(0..12) == 0 {
                    store.borrow_mut().request_checkpoint();
                }
                if self.random.u8(0..4) == 0 {
                    self.settle(&store);
                }
            }
            self.settle(&store);
            for (id, held) in store.borrow().streams().iter() {
                self.streams.insert(id, Expected::of(held));
            }
            self.disk.power_cut();
        }
        Ok(())
    }

    /// Runs the lane's tasks until everything is durable.
    fn settle(&self, store: &RefCell<Store<MemoryDisk>>) {
        let lane = store.borrow().lane().clone();
        lane.flush();
        let last = lane.last_commit();
        let mut tasks: [Pin<Box<dyn Future<Output = ()> + '_>>; 3] = [
            Box::pin(lane.commit()),
            Box::pin(lane.keep_spare()),
            Box::pin(keep_checkpoints(store)),
        ];
        self.disk.run(poll_fn(|context| {
            for task in &mut tasks {
                assert!(task.as_mut().poll(context).is_pending());
            }
            if lane.durable_commit() >= last { Poll::Ready(()) } else { Poll::Pending }
        }));
    }

    fn change(&mut self, store: &mut Store<MemoryDisk>) {
        let random = &mut self.random;
        let ids: Vec<StreamId> = store.streams().iter().map(|(id, _)| id).collect();
        if ids.is_empty() || (ids.len() < 5 && random.u8(0..12) == 0) {
            let limits = StreamLimits { age_ns_max: 0, is_memory: false, ..random_limits(random) };
            store.create_stream(random.u64(0..9), limits, b"details").expect("there is room");
            return;
        }
        let id = ids[random.usize(0..ids.len())];
        match random.u8(0..16) {
            0 => drop(store.delete(id, random.u64(0..30)).expect("it works")),
            1 => {
                let (before, keep) = (random.u64(0..20), 0);
                store.purge(id, None, before, keep).expect("it works");
            }
            2 => drop(store.create_consumer(id, random.u64(0..9), b"it").expect("it works")),
            3..6 => {
                let held = store.streams().get(id).expect("it is there");
                let Some(consumer) = held.consumers.keys().next().copied() else { return };
                let change = ConsumerChange::Delivered {
                    stream_sequence: random.u64(0..40),
                    time_ns: 3,
                    needs_ack: random.bool(),
                };
                let commits = Urgency::Commits;
                store.change_consumer(id, consumer, change, commits).expect("it works");
            }
            _ => {
                let (headers, payload) = (random_headers(random), vec![7; random.usize(0..600)]);
                let subject = [b'a' + random.u8(0..4)];
                let (subject, headers, payload) = (&subject[..], &headers[..], &payload[..]);
                // Limits may refuse it.
                let new = NewMessage { time_ns: 5, subject, headers, payload };
                drop(store.append(id, new).expect("it works"));
            }
        }
        while store.purge_some(id, 100).expect("it is there").is_none() {}
    }

    /// Changes the number of lanes, by one attempt that ends somewhere; true if it came to its end.
    fn attempt(&mut self, lanes: u32, is_calm: bool) -> Result<bool, String> {
        let (from, to) = (places(self.generation, self.lanes), places(self.generation + 1, lanes));
        let mut one_of = |often: u32| if self.random.bool() { often } else { 0 };
        if !is_calm {
            self.disk.set_faults(Faults {
                failed_writes: one_of(24),
                failed_syncs: one_of(24),
                failed_names: one_of(24),
                ..Faults::default()
            });
        }
        let steps = if is_calm { u64::MAX } else { self.random.u64(0..400) };
        let (disk, plant) = (self.disk.clone(), self.plant);
        let accepted = vec![Accepted::default(); from.len()];
        let (generation, block_bytes) = (self.generation + 1, self.block_bytes);
        let work = async {
            copy_streams(&disk, &from, &to, &accepted, Some(block_bytes)).await?;
            if plant == Some(Plant::UnstoredNotCopied) {
                for place in &to {
                    let number = segment::next_number(place.seed.lane(), []);
                    let own = |name: &String| {
                        segment::number_of(name).is_some_and(|found| found >= number)
                    };
                    for name in disk.list(&place.folder).await?.iter().filter(|name| own(name)) {
                        disk.remove(&format!("{}/{name}", place.folder)).await?;
                    }
                    disk.sync_folder(&place.folder).await?;
                }
            }
            if plant == Some(Plant::OldLanesRemovedFirst) {
                remove_lanes(&disk, &from).await?;
            }
            switch(&disk, generation, lanes, plant).await?;
            remove_lanes(&disk, &from).await?;
            Ok(())
        };
        let result: Option<Result<(), RehomeError>> = self.disk.run_steps(work, steps);
        if let Some(Err(RehomeError::NotWhole(lane))) = result {
            // A failed sync may have been the only fault.
            self.disk.set_faults(Faults::default());
            self.read(&from[lane as usize])?;
        }
        match self.random.bool() {
            true => self.disk.power_cut(),
            false => self.disk.kill(),
        }
        self.disk.set_faults(Faults::default());
        // A start does the same: a rename by a killed process counts, so it has to stay.
        self.disk.run(self.disk.sync_folder("")).expect("no fault is set");
        let head = self.disk.contents("store").ok_or("there is no head")?;
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four"));
        let other = match (word(0), word(4)) {
            (generation, lanes) if generation != self.generation => {
                (self.generation, self.lanes) = (generation, lanes);
                from
            }
            _ => to,
        };
        self.disk.run(remove_lanes(&self.disk, &other)).map_err(|error| error.to_string())?;
        self.compare()?;
        Ok(matches!(result, Some(Ok(()))))
    }
}

/// Returns the number of attempts that were cut short.
fn run(seed: u64, plant: Option<Plant>) -> Result<u64, String> {
    let mut town = Town::new(seed, plant);
    let mut cut = 0;
    for _ in 0..town.random.u64(1..5) {
        town.live()?;
        town.compare()?;
        let lanes = town.random.u32(1..6);
        let generation = town.generation;
        while town.generation == generation {
            let is_calm = town.random.u8(0..4) == 0;
            cut += u64::from(!town.attempt(lanes, is_calm)?);
        }
    }
    town.live()?;
    town.compare()?;
    Ok(cut)
}

#[test]
fn streams_are_as_they_were_whatever_became_of_their_lanes() {
    let seeds = seeds::all(100);
    let (mut cut, count) = (0, seeds.end - seeds.start);
    for seed in seeds {
        match run(seed, None) {
            Ok(more) => cut += more,
            Err(reason) => {
                panic!("MIDGE_STORE_SEED={seed} cargo test --lib rehome::simulation: {reason}")
            }
        }
    }
    assert!(cut >= count, "{count} histories had only {cut} attempts that were cut short");
}

#[test]
fn each_planted_mistake_is_found() {
    for plant in [Plant::OldLanesRemovedFirst, Plant::HeadNotSynced, Plant::UnstoredNotCopied] {
        let found = (0..100).find_map(|seed| run(seed, Some(plant)).err().map(|why| (seed, why)));
        let (seed, why) = found.unwrap_or_else(|| panic!("{plant:?} went unseen"));
        println!("{plant:?}: seed {seed}: {why}");
    }
}
