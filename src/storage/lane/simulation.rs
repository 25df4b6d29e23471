//! Histories of a lane over the faulty disk: appends, checkpoints, failed writes, a full disk, ends
//! of the process and of the power, several generations each. The law: recovery returns the first
//! records that were appended, in order and unchanged, and no acknowledged one is missing.
//!
//! `MIDGE_STORE_SEEDS=100000 cargo test --lib lane::simulation` runs more of them,
//! `MIDGE_STORE_SEED=n` one.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use fastrand::Rng;

use super::super::frame::{HEADER_BYTES, StoreId, records};
use super::super::memory_disk::{Faults, MemoryDisk};
use super::super::recovery::recover;
use super::*;
use crate::storage::frame::LaneSeed;
use crate::storage::seeds;

/// Mistakes that the oracle has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plant {
    AcknowledgedBeforeTheBarrier,
    DurableWriteIsNot,
    FolderNotSynced,
    TornFrameTaken,
    LastFrameBelieved,
}

const SECTOR: u64 = 4096;

fn place() -> JournalPlace {
    let seed = LaneSeed::new(StoreId([7; 16]), 0);
    JournalPlace { folder: "lane-0".into(), seed, file_bytes: 8 * SECTOR }
}

/// A record that was appended.
struct Record {
    commit: CommitNumber,
    bytes: Vec<u8>,
}

/// A history, with everything that it should have left.
struct History {
    random: Rng,
    disk: MemoryDisk,
    plant: Option<Plant>,
    /// The position where recovery begins, and the number of records that a checkpoint covers by
    /// then.
    start: Position,
    floor: usize,
    records: Vec<Record>,
    /// The number of records, from the first on, that were acknowledged.
    acknowledged: usize,
    made: u64,
}

type Task<'lane> = Pin<Box<dyn Future<Output = ()> + 'lane>>;

impl History {
    fn new(seed: u64, plant: Option<Plant>) -> Self {
        let disk = MemoryDisk::new(seed);
        disk.run(disk.make_folder("lane-0")).expect("no fault is set");
        Self {
            random: Rng::with_seed(seed ^ 0x1A4E),
            disk,
            plant,
            start: Lane::<MemoryDisk>::first_position(&place()),
            floor: 0,
            records: Vec::new(),
            acknowledged: 0,
            made: 0,
        }
    }

    fn faults(&mut self) -> Faults {
        let mut one_of = |often: u32| if self.random.bool() { often } else { 0 };
        let mut faults = Faults {
            failed_writes: one_of(12),
            failed_syncs: one_of(12),
            failed_names: one_of(12),
            ..Faults::default()
        };
        faults.is_buffered = self.random.bool();
        faults.has_lying_writes = self.plant == Some(Plant::DurableWriteIsNot);
        faults.has_lying_folders = self.plant == Some(Plant::FolderNotSynced);
        faults
    }

    /// Reads the journal and compares it with the history, which goes on from the records found.
    fn recover(&mut self) -> Result<Recovered, String> {
        let mut found: Vec<Record> = Vec::new();
        let visit = |commit, body: &[u8]| {
            found.extend(records(body).map(|bytes| Record { commit, bytes: bytes.to_vec() }));
        };
        let mut recovered = self
            .disk
            .run(recover(&self.disk, &place(), self.start, visit))
            .map_err(|error| format!("recovery: {error}"))?;
        if !recovered.damage.is_empty() {
            return Err(format!("damage without a fault of the medium: {:?}", recovered.damage));
        }
        if let (Some(Plant::TornFrameTaken), Some(torn)) = (self.plant, recovered.torn) {
            let bytes = self.disk.contents(&place().file_name(torn.file)).expect("it was read");
            let body = &bytes[torn.offset as usize + HEADER_BYTES..];
            let commit = recovered.position.next;
            let is_real = |record: &&[u8]| !record.is_empty();
            found.extend(
                records(body)
                    .take_while(is_real)
                    .map(|bytes| Record { commit, bytes: bytes.to_vec() }),
            );
        }
        if self.plant == Some(Plant::LastFrameBelieved) {
            recovered.last = None;
        }
        for (index, record) in found.iter().enumerate() {
            match self.records.get(self.floor + index) {
                None => return Err(format!("record {index} of recovery was never appended")),
                Some(expected) if expected.bytes != record.bytes => {
                    return Err(format!("record {index} of recovery was appended otherwise"));
                }
                Some(_) => {}
            }
        }
        let count = self.floor + found.len();
        if count < self.acknowledged {
            return Err(format!("{} were acknowledged, {count} are there", self.acknowledged));
        }
        self.records.truncate(self.floor);
        self.records.extend(found);
        Ok(recovered)
    }

    fn append(&mut self, lane: &Lane<MemoryDisk>) {
        self.made += 1;
        let longest = if self.random.u8(0..8) == 0 { 10_000 } else { 300 };
        let length = self.random.usize(8..=longest);
        let mut bytes = vec![self.made as u8; length];
        bytes[..8].copy_from_slice(&self.made.to_le_bytes());
        let urgency = if self.random.u8(0..4) == 0 { Urgency::Rides } else { Urgency::Commits };
        match lane.append(&[&bytes[..3], &bytes[3..]], urgency) {
            Ok(commit) => self.records.push(Record { commit, bytes }),
            Err(refused) => assert!(matches!(refused, Refused::Stopped(_)), "{refused:?}"),
        }
    }

    /// Acknowledges the commits that are durable.
    fn acknowledge(&mut self, lane: &Lane<MemoryDisk>) {
        let durable = match self.plant {
            Some(Plant::AcknowledgedBeforeTheBarrier) => lane.last_commit(),
            _ => lane.durable_commit(),
        };
        let count = self.records.partition_point(|record| record.commit <= durable);
        self.acknowledged = self.acknowledged.max(count);
    }

    fn checkpoint(&mut self, lane: &Lane<MemoryDisk>) {
        // Taken at a moment in which nothing is open or under way.
        if let Some(position) =
            lane.position().filter(|_| lane.last_commit() == lane.durable_commit())
        {
            self.start = position;
            self.floor = self.records.len();
            lane.retire(position);
        }
    }

    /// One life of the process; returns the number of commits that became durable in it.
    fn live(&mut self, steps: u64, is_calm: bool) -> Result<u64, String> {
        let recovered = self.recover()?;
        if !is_calm {
            let faults = self.faults();
            self.disk.set_faults(faults);
            if self.random.u8(0..4) == 0 {
                let room = self.random.u64(0..20) * SECTOR;
                self.disk.set_capacity(self.disk.used_bytes() + room);
            }
        }
        let lane = Lane::start(self.disk.clone(), place(), &recovered);
        let before = lane.durable_commit();
        let mut tasks: [Task<'_>; 2] = [Box::pin(lane.commit()), Box::pin(lane.keep_spare())];
        let mut is_done = [false; 2];
        for _ in 0..steps {
            for (task, is_done) in tasks.iter_mut().zip(&mut is_done) {
                *is_done = *is_done || poll(task).is_ready();
            }
            self.acknowledge(&lane);
            // The moment after a failed write is the one to end in.
            let has_failed = lane.state.borrow().used.back().is_some_and(|used| used.is_bad);
            if has_failed && self.random.u8(0..4) == 0 {
                break;
            }
            match self.random.u8(0..16) {
                // Without pacing, records may pile up: now and then they do.
                0..6 if !lane.is_crowded() || self.random.u8(0..8) == 0 => self.append(&lane),
                6 => self.checkpoint(&lane),
                7 => lane.retry_spare(),
                8 => lane.flush(),
                _ => {
                    self.disk.step();
                }
            }
        }
        if is_calm {
            lane.flush();
            let mut waiting = Box::pin(lane.durable(lane.last_commit()));
            for _ in 0..1000 {
                tasks.iter_mut().for_each(|task| assert!(poll(task).is_pending()));
                if let Poll::Ready(result) = poll(&mut waiting) {
                    result.map_err(|stopped| stopped.to_string())?;
                    break;
                }
                self.disk.step();
            }
            self.acknowledge(&lane);
            if self.acknowledged < self.records.len() {
                return Err("a disk without faults does not make everything durable".into());
            }
        }
        Ok(lane.durable_commit().0 - before.0)
    }

    fn end(&mut self) {
        match self.random.u8(0..3) {
            0 => self.disk.kill(),
            _ => self.disk.power_cut(),
        }
        self.disk.set_faults(Faults::default());
        self.disk.set_capacity(u64::MAX);
    }
}

fn poll<F: Future + ?Sized>(task: &mut Pin<Box<F>>) -> Poll<F::Output> {
    task.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

fn run(seed: u64, plant: Option<Plant>) -> Result<u64, String> {
    let mut history = History::new(seed, plant);
    let mut commits = 0;
    for _ in 0..history.random.u64(2..7) {
        let steps = history.random.u64(10..300);
        commits += history.live(steps, false)?;
        history.end();
    }
    commits += history.live(100, true)?;
    history.end();
    history.recover()?;
    Ok(commits)
}

#[test]
fn every_history_keeps_what_was_acknowledged() {
    let seeds = seeds::all(300);
    let (mut commits, count) = (0, seeds.end - seeds.start);
    for seed in seeds {
        match run(seed, None) {
            Ok(more) => commits += more,
            Err(reason) => {
                panic!("MIDGE_STORE_SEED={seed} cargo test --lib lane::simulation: {reason}")
            }
        }
    }
    assert!(commits > 20 * count, "{count} histories have only {commits} commits");
}

#[test]
fn each_planted_mistake_is_found() {
    for plant in [
        Plant::AcknowledgedBeforeTheBarrier,
        Plant::DurableWriteIsNot,
        Plant::FolderNotSynced,
        Plant::TornFrameTaken,
        Plant::LastFrameBelieved,
    ] {
        let found = (0..100).find_map(|seed| run(seed, Some(plant)).err().map(|why| (seed, why)));
        let (seed, why) = found.unwrap_or_else(|| panic!("{plant:?} went unseen"));
        println!("{plant:?}: seed {seed}: {why}");
    }
}

/// Damages a file of a store that is at rest.
fn disturb(history: &mut History) {
    let random = &mut history.random;
    let names = history.disk.file_names();
    let name = &names[random.usize(0..names.len())];
    let mut bytes = history.disk.contents(name).expect("it is there");
    let sectors = bytes.len() / SECTOR as usize;
    if sectors == 0 {
        return;
    }
    let sector = |random: &mut Rng| SECTOR as usize * random.usize(0..sectors);
    match random.u8(0..6) {
        0..=2 => {
            let place = random.usize(0..bytes.len());
            bytes[place] ^= 1 << random.u8(0..8);
        }
        3 => {
            let (from, to) = (sector(random), sector(random));
            bytes.copy_within(from..from + SECTOR as usize, to);
        }
        4 => {
            let place = sector(random);
            bytes[place..place + SECTOR as usize].fill(random.u8(..));
        }
        _ => bytes.truncate(random.usize(0..bytes.len())),
    }
    history.disk.set_contents(name, bytes);
}

/// Checks a history whose files were damaged. Recovery returns only records that were appended.
/// Each acknowledged one is there, or is reported as lost, or was at the end, where nothing shows
/// that it ever existed. Returns the number of reported losses.
fn run_disturbed(seed: u64) -> Result<u64, String> {
    let mut history = History::new(seed, None);
    let reads = history.random.bool();
    for _ in 0..history.random.u64(1..4) {
        history.live(150, true)?;
        history.end();
    }
    for _ in 0..history.random.u64(1..4) {
        disturb(&mut history);
    }
    if reads {
        let faults = Faults { latent_sectors: 6, rotten_bits: 6, ..Faults::default() };
        history.disk.set_faults(faults);
    }
    let mut found: Vec<Record> = Vec::new();
    let visit = |commit, body: &[u8]| {
        found.extend(records(body).map(|bytes| Record { commit, bytes: bytes.to_vec() }));
    };
    let recovered = history
        .disk
        .run(recover(&history.disk, &place(), history.start, visit))
        .map_err(|error| format!("recovery: {error}"))?;
    let is_lost = |commit: CommitNumber| {
        recovered.damage.iter().any(|damage| damage.lost.0 <= commit && commit < damage.lost.1)
    };
    let last = found.last().map_or(CommitNumber(0), |record| record.commit);
    let mut rest = found.iter().peekable();
    let mut named = 0;
    for expected in &history.records[history.floor..history.acknowledged] {
        let is_there = rest.next_if(|record| record.bytes == expected.bytes).is_some();
        if !is_there && is_lost(expected.commit) {
            named += 1;
        } else if !is_there && expected.commit <= last {
            return Err(format!("{:?} is lost in silence: {recovered:?}", expected.commit));
        }
    }
    match rest.next() {
        Some(record) => Err(format!("a record of {:?} was never appended so", record.commit)),
        None => Ok(named),
    }
}

#[test]
fn damage_is_named_and_confined() {
    let count = seeds::count(300);
    let mut named = 0;
    for seed in 0..count {
        match run_disturbed(seed) {
            Ok(more) => named += more,
            Err(reason) => panic!("seed {seed}: {reason}"),
        }
    }
    assert!(named > count / 4, "only {named} lost records were named");
}

#[test]
fn seed_runs_the_same_way_twice() {
    for seed in 0..20 {
        assert_eq!(run(seed, None), run(seed, None), "seed {seed}");
    }
}
