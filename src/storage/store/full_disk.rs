//! A disk without room for another byte: messages are refused, changes that make room are taken,
//! and then messages are taken again.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::checkpoint::keep_checkpoints;
use super::*;
use crate::storage::disk::SECTOR_BYTES;
use crate::storage::frame::{LaneSeed, StoreId};
use crate::storage::memory_disk::MemoryDisk;
use crate::storage::replay::replay_with;

const FILE_BYTES: u64 = 64 * SECTOR_BYTES as u64;

const STEPS_MAX: usize = 20_000;

fn place() -> JournalPlace {
    let seed = LaneSeed::new(StoreId([7; 16]), 0);
    JournalPlace { folder: "lane-0".into(), seed, file_bytes: FILE_BYTES }
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// A store with its tasks.
struct House {
    disk: MemoryDisk,
    store: Rc<RefCell<Store<MemoryDisk>>>,
    lane: Rc<Lane<MemoryDisk>>,
    tasks: [Task; 3],
}

impl House {
    fn open(disk: &MemoryDisk) -> Self {
        let replayed = disk.run(replay_with(disk, &place(), Some(4000)));
        let mut replayed = replayed.expect("the folder is there");
        // Everything is in memory from here on.
        disk.run(replayed.verify(disk, &place())).expect("the segments are there");
        let store = Store::start(disk.clone(), place(), replayed).expect("it is whole");
        let (lane, store) = (store.lane().clone(), Rc::new(RefCell::new(store)));
        let (commit, spare, checkpointed) = (lane.clone(), lane.clone(), store.clone());
        let tasks: [Task; 3] = [
            Box::pin(async move { commit.commit().await }),
            Box::pin(async move { spare.keep_spare().await }),
            Box::pin(async move { keep_checkpoints(&checkpointed).await }),
        ];
        Self { disk: disk.clone(), store, lane, tasks }
    }

    /// Runs the tasks and operations of the disk until `act`, which is called in between, says how
    /// it ended.
    fn live<T>(
        &mut self,
        what: &str,
        mut act: impl FnMut(&mut Store<MemoryDisk>, usize) -> Option<T>,
    ) -> T {
        for step in 0..STEPS_MAX {
            for task in &mut self.tasks {
                let polled = task.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                assert!(polled == Poll::Pending, "{what}: {:?}", self.lane.stopped());
            }
            if let Some(end) = act(&mut self.store.borrow_mut(), step) {
                return end;
            }
            self.disk.step();
        }
        panic!(
            "{what} does not come to an end: {} bytes of room, {} files, {:?}",
            self.lane.room(),
            self.lane.file_count(),
            self.lane.shortage()
        );
    }
}

fn message(payload: &[u8]) -> NewMessage<'_> {
    NewMessage { time_ns: 1, subject: b"a", headers: b"", payload }
}

/// Appends to both streams until there is no room. A frame is small beside a file, as usual.
fn fill(store: &mut Store<MemoryDisk>, ids: [StreamId; 2], step: usize) -> Option<()> {
    if store.is_crowded() {
        // Publishers wait, and come again.
        if step.is_multiple_of(64) {
            store.retry();
        }
        let is_short = matches!(store.append(ids[1], message(b"")), Err(StoreError::Short(_)));
        return is_short.then_some(());
    }
    if !step.is_multiple_of(8) && store.lane().durable_commit() < store.lane().last_commit() {
        return None;
    }
    match store.append(ids[step % 2], message(&[7; 900])) {
        Ok(_) => None,
        Err(StoreError::Short(_)) => Some(()),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn full_disk_takes_purges_and_restarts_and_then_messages_again() {
    // The journal's files and a manifest or two have to fit in the end.
    for room in 4..120 {
        let disk = MemoryDisk::new(room);
        disk.run(disk.make_folder("lane-0")).expect("no fault is set");
        let mut house = House::open(&disk);
        let create = |_| {
            let limits = StreamLimits::default();
            house.store.borrow_mut().create_stream(1, limits, b"").expect("there is room").value
        };
        let ids = [0, 1].map(create);
        let consumer = house.store.borrow_mut().create_consumer(ids[0], 0, b"");
        let consumer = consumer.expect("there is room").value;
        // The spare and the reserve are made.
        house.live("the beginning", |_, step| (step > 200).then_some(()));
        disk.set_capacity(disk.used_bytes() + room * SECTOR_BYTES as u64);
        house.live("filling", |store, step| fill(store, ids, step));
        // Acknowledgements go on for a while, and never to the end.
        let mut sequence = 0;
        house.live("acknowledging", |store, _| {
            sequence += 1;
            let change = ConsumerChange::Delivered {
                stream_sequence: sequence,
                time_ns: 1,
                needs_ack: true,
            };
            match store.change_consumer(ids[0], consumer, change, Urgency::Commits) {
                Ok(_) if sequence < 2000 => None,
                Ok(_) | Err(StoreError::Short(_)) => Some(()),
                Err(other) => panic!("{other:?}"),
            }
        });
        if room % 2 == 1 {
            drop(house);
            disk.power_cut();
            house = House::open(&disk);
        }
        let mut left = ids.to_vec();
        house.live("purging", |store, _| {
            if let Some(id) = left.last().copied() {
                match store.purge(id, None, 0, 0) {
                    Ok(()) => drop(left.pop()),
                    // After a start the first file is not there at once.
                    Err(StoreError::Short(_)) => return None,
                    Err(other) => panic!("{other:?}"),
                }
                while store.purge_some(id, 100).expect("it is there").is_none() {}
            }
            let is_durable = store.lane().durable_commit() == store.lane().last_commit();
            (left.is_empty() && is_durable).then_some(())
        });
        let appended = house.live("appending again", |store, step| {
            if step.is_multiple_of(64) {
                store.retry();
            }
            match store.append(ids[1], message(b"later")) {
                Ok(answer) => Some(answer.after),
                Err(StoreError::Short(_)) => None,
                Err(other) => panic!("{other:?}"),
            }
        });
        house.live("the end", |store, _| (appended <= store.lane().durable_commit()).then_some(()));
    }
}
