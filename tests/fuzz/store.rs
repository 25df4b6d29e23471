//! A store's files as somebody changed them: whatever they hold, a start reads them and says what is lost.

use std::cell::RefCell;
use std::future::{Future, poll_fn};

use fastrand::Rng;
use midge::testing::protocol::headers;
use midge::testing::storage::check::LaneReport;
use midge::testing::storage::consumer_state::ConsumerChange;
use midge::testing::storage::disk::{Access, Disk, SECTOR_BYTES};
use midge::testing::storage::frame::{LaneSeed, StoreId};
use midge::testing::storage::journal::Urgency;
use midge::testing::storage::memory_disk::MemoryDisk;
use midge::testing::storage::record::{ConsumerId, StreamId};
use midge::testing::storage::recovery::JournalPlace;
use midge::testing::storage::replay::{Accepted, Replayed, replay};
use midge::testing::storage::store::checkpoint::keep_checkpoints;
use midge::testing::storage::store::loading::load;
use midge::testing::storage::store::{Store, StoreError};
use midge::testing::storage::stream::expectations::{Expected, GroupMessage};
use midge::testing::storage::stream::{NewMessage, StreamLimits};

use super::mutate::choose;

pub type Files = Vec<(String, Vec<u8>)>;

pub fn place() -> JournalPlace {
    let seed = LaneSeed::new(StoreId([7; 16]), 0);
    JournalPlace { folder: "lane-0".into(), seed, file_bytes: 16 * SECTOR_BYTES as u64 }
}

fn read(disk: &MemoryDisk) -> Replayed {
    disk.run(replay(disk, &place())).expect("the folder is there")
}

/// The files of some stores, each with all kinds of records in several files.
pub fn stores() -> Vec<Files> {
    (0..8).map(|seed| store(&mut Rng::with_seed(seed))).collect()
}

fn store(random: &mut Rng) -> Files {
    let disk = MemoryDisk::new(1);
    disk.run(disk.make_folder("lane-0")).expect("no fault is set");
    let Ok(store) = Store::start(disk.clone(), place(), read(&disk)) else {
        unreachable!("it is new");
    };
    let lane = store.lane().clone();
    let store = RefCell::new(store);
    let (mut commit, mut spare) = (Box::pin(lane.commit()), Box::pin(lane.keep_spare()));
    let mut checkpoints = Box::pin(keep_checkpoints(&store));
    let limits = StreamLimits {
        duplicate_window_ns: 1000,
        has_times_to_live: true,
        has_rollups: true,
        messages_per_subject_max: random.u64(0..4),
        ..StreamLimits::default()
    };
    let created = store.borrow_mut().create_stream(random.u64(0..9), limits, b"details");
    let stream = created.expect("there is room").value;
    let created = store.borrow_mut().create_consumer(stream, 0, b"details");
    let consumer = created.expect("there is room").value;
    for step in 0..random.u64(20..60) {
        let mut store = store.borrow_mut();
        let mut block = Vec::new();
        if random.bool() {
            let name = choose(random, &["Nats-Msg-Id", "Nats-TTL", "Nats-Rollup"]);
            let value = choose(random, &["1", "sub"]);
            headers::append(&mut block, name.as_bytes(), value.as_bytes());
        }
        let payload = vec![b'p'; random.usize(0..3000)];
        let subject = choose(random, &["a", "a.b", "b"]).as_bytes();
        let new = NewMessage { time_ns: step as i64, subject, headers: &block, payload: &payload };
        let sequence = random.u64(0..step + 1);
        match random.u8(0..8) {
            0 => {
                let _ = store.delete(stream, sequence).expect("it works");
            }
            1 => {
                let member = GroupMessage { new, expected: Expected::default() };
                let _ = store.append_group(stream, &[member, member]).expect("it works");
            }
            2 => {
                let change = ConsumerChange::Delivered {
                    stream_sequence: sequence,
                    time_ns: 3,
                    needs_ack: true,
                };
                let rides = Urgency::Rides;
                let _ = store.change_consumer(stream, consumer, change, rides).expect("it works");
            }
            3 if step % 16 == 0 => {
                store.purge(stream, Some(b"a.*"), 0, 2).expect("it works");
                while store.purge_some(stream, 100).expect("it works").is_none() {}
            }
            _ => drop(store.append(stream, new).expect("it works")),
        }
        if step % 16 == 9 {
            store.request_checkpoint();
        }
        drop(store);
        let mut durable = Box::pin(lane.durable(lane.last_commit()));
        lane.flush();
        let run = poll_fn(|context| {
            assert!(commit.as_mut().poll(context).is_pending());
            assert!(spare.as_mut().poll(context).is_pending());
            assert!(checkpoints.as_mut().poll(context).is_pending());
            durable.as_mut().poll(context)
        });
        disk.run(run).expect("no fault is set");
    }
    let names = disk.file_names();
    names
        .into_iter()
        .map(|name| (name.clone(), disk.contents(&name).expect("it is there")))
        .collect()
}

/// Changes bytes anywhere: no checksum fits any more but by chance.
pub fn damage(random: &mut Rng, files: &mut Files) {
    for _ in 0..random.usize(1..4) {
        let other = choose(random, files).1.clone();
        let sector = |random: &mut Rng, bytes: &[u8]| {
            let count = (bytes.len() / SECTOR_BYTES).max(1);
            random.usize(0..count) * SECTOR_BYTES
        };
        let index = random.usize(0..files.len());
        if files.len() > 1 && random.u8(0..16) == 0 {
            files.remove(index);
            continue;
        }
        let bytes = &mut files[index].1;
        let at = sector(random, bytes);
        let end = (at + SECTOR_BYTES).min(bytes.len());
        match random.u8(0..6) {
            0 => bytes.truncate(random.usize(0..=bytes.len())),
            1 => bytes.extend((0..random.usize(1..9000)).map(|byte| byte as u8)),
            2 => bytes[at..end].fill(random.u8(..)),
            3 => {
                let from = sector(random, &other);
                let length = (end - at).min(other.len().saturating_sub(from));
                bytes[at..at + length].copy_from_slice(&other[from..from + length]);
            }
            4 => bytes.clone_from(&other),
            _ if bytes.is_empty() => {}
            // Near the beginning of a sector, where something is.
            _ => {
                let near = (at + random.usize(0..200)).min(bytes.len() - 1);
                bytes[near] ^= 1 << random.u8(0..8);
            }
        }
    }
}

/// Reads the files as a start does; if nothing is lost, or that is accepted, goes on with them.
pub fn check(files: &Files) {
    let disk = MemoryDisk::new(2);
    disk.run(disk.make_folder("lane-0")).expect("no fault is set");
    let total: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    for (name, bytes) in files {
        disk.run(disk.open(name, Access::Create)).expect("no fault is set");
        disk.set_contents(name, bytes.clone());
    }
    let mut replayed = read(&disk);
    disk.run(replayed.verify(&disk, &place())).expect("no fault is set");
    let held: usize = replayed.streams.iter().map(|(_, held)| held.stream.memory_bytes()).sum();
    // A block's room is doubled as it grows, and a stream's head costs as much as a few messages.
    assert!(held <= 16 * total + (1 << 16), "{held} bytes of memory for {total}");
    replayed.streams.iter().for_each(|(_, held)| held.stream.check_invariants());
    let mut report =
        LaneReport { lane: 0, replayed: Some(replayed), accepted: Accepted::default() };
    assert!(!report.to_string().is_empty());
    let accepted = report.to_accept();
    let mut replayed = report.replayed.take().expect("it was just put there");
    replayed.accept(&accepted);
    let Ok(store) = Store::start(disk.clone(), place(), replayed) else { return };
    go_on(&disk, store);
    let mut replayed = read(&disk);
    replayed.accept(&accepted);
    replayed.streams.iter().for_each(|(_, held)| held.stream.check_invariants());
    let (damage, unfit) = (&replayed.recovered.damage, &replayed.unfit);
    let is_whole = replayed.is_whole() || replayed.is_used_up();
    assert!(is_whole, "after a start: {damage:?} {:?} {unfit:?}", replayed.lost);
}

/// Asks once more where something has to be loaded or has to go first.
fn ask<T>(
    disk: &MemoryDisk,
    store: &RefCell<Store<MemoryDisk>>,
    id: StreamId,
    mut question: impl FnMut(&mut Store<MemoryDisk>) -> Result<T, StoreError>,
) -> Option<T> {
    for _ in 0..1000 {
        let result = question(&mut store.borrow_mut());
        match result {
            Err(StoreError::NotLoaded(needed)) => {
                disk.run(load(store, id, needed)).expect("no fault is set");
            }
            Err(StoreError::Purging) => finish(disk, store, id),
            result => return result.ok(),
        }
    }
    panic!("a question is never answered");
}

fn finish(disk: &MemoryDisk, store: &RefCell<Store<MemoryDisk>>, id: StreamId) {
    while let Some(None) = ask(disk, store, id, |store| store.purge_some(id, 1000)) {}
}

/// Uses each stream and each consumer once, and takes a checkpoint. Limits and numbers may be anything: what is
/// answered is not looked at.
fn go_on(disk: &MemoryDisk, store: Store<MemoryDisk>) {
    let lane = store.lane().clone();
    let store = RefCell::new(store);
    let ids: Vec<StreamId> = store.borrow().streams().iter().map(|(id, _)| id).collect();
    for id in ids {
        finish(disk, &store, id);
        let new = NewMessage { time_ns: 1, subject: b"a", headers: b"", payload: b"later" };
        let appended = ask(disk, &store, id, |store| store.append(id, new));
        ask(disk, &store, id, |store| store.expire_some(id, i64::MAX, 1000));
        ask(disk, &store, id, |store| store.delete(id, 1));
        ask(disk, &store, id, |store| store.purge(id, Some(b"a.*"), 0, 1));
        finish(disk, &store, id);
        let mut store = store.borrow_mut();
        let consumers =
            store.streams().get(id).map(|held| held.consumers.keys().copied().collect());
        let consumers: Vec<ConsumerId> = consumers.unwrap_or_default();
        for consumer in consumers {
            let sequence = appended.as_ref().and_then(|answer| answer.value.as_ref().ok().copied());
            let stream_sequence = sequence.unwrap_or(1);
            let delivered =
                ConsumerChange::Delivered { stream_sequence, time_ns: 3, needs_ack: true };
            let acked = ConsumerChange::Acked { stream_sequence };
            for change in [delivered, delivered, acked] {
                drop(store.change_consumer(id, consumer, change, Urgency::Commits));
            }
        }
        drop(store.create_consumer(id, 0, b""));
        store.settle(id);
    }
    drop(store.borrow_mut().create_stream(1, StreamLimits::default(), b""));
    store.borrow_mut().request_checkpoint();
    let (mut commit, mut spare) = (Box::pin(lane.commit()), Box::pin(lane.keep_spare()));
    let mut checkpoints = Box::pin(keep_checkpoints(&store));
    lane.flush();
    // Until nothing is left to do.
    disk.run_steps(
        poll_fn(|context| {
            assert!(commit.as_mut().poll(context).is_pending());
            assert!(spare.as_mut().poll(context).is_pending());
            assert!(checkpoints.as_mut().poll(context).is_pending());
            std::task::Poll::<()>::Pending
        }),
        100_000,
    );
    assert!(lane.stopped().is_none() && lane.durable_commit() == lane.last_commit());
}
