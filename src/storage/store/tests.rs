//! The promises of the store, one test each.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use super::*;
use crate::storage::frame::{LaneSeed, StoreId};
use crate::storage::lane::LaneStopped;
use crate::storage::memory_disk::{Faults, MemoryDisk};
use crate::storage::replay::replay;
use crate::storage::stream::{ASYNC_RISK, AtLimit, StreamTotals};

const SECOND_NS: i64 = 1_000_000_000;

/// A store with its tasks.
struct House {
    disk: MemoryDisk,
    store: Store<MemoryDisk>,
    /// `None` once they ended.
    tasks: [Option<Pin<Box<dyn Future<Output = ()>>>>; 2],
}

impl House {
    fn new() -> Self {
        let disk = MemoryDisk::new(1);
        disk.run(disk.make_folder("lane-0")).expect("no fault is set");
        Self::open(&disk)
    }

    fn open(disk: &MemoryDisk) -> Self {
        let seed = LaneSeed::new(StoreId([7; 16]), 0);
        let place = JournalPlace { folder: "lane-0".into(), seed, file_bytes: 16 * 4096 };
        let replayed = disk.run(replay(disk, &place)).expect("the folder is there");
        let store = Store::start(disk.clone(), place, replayed).expect("nothing is lost");
        let (commit, spare) = (store.lane().clone(), store.lane().clone());
        let commit: Pin<Box<dyn Future<Output = ()>>> =
            Box::pin(async move { commit.commit().await });
        let spare: Pin<Box<dyn Future<Output = ()>>> =
            Box::pin(async move { spare.keep_spare().await });
        Self { disk: disk.clone(), store, tasks: [Some(commit), Some(spare)] }
    }

    /// Cuts the power, and starts again.
    fn power_cut(self) -> Self {
        let Self { disk, store, tasks } = self;
        drop((tasks, store));
        disk.power_cut();
        Self::open(&disk)
    }

    /// Runs the tasks until they have nothing left to do.
    fn run_until_idle(&mut self) {
        let tasks = &mut self.tasks;
        let nothing = poll_fn(|context| {
            for task in tasks.iter_mut().flatten() {
                assert!(task.as_mut().poll(context).is_pending());
            }
            Poll::<()>::Pending
        });
        assert!(self.disk.run_steps(nothing, u64::MAX).is_none());
    }

    fn run_until_durable(&mut self, commit: CommitNumber) -> Result<(), LaneStopped> {
        let lane = self.store.lane().clone();
        let mut durable = Box::pin(lane.durable(commit));
        let tasks = &mut self.tasks;
        self.disk.run(poll_fn(|context| {
            for task in tasks.iter_mut() {
                if task.as_mut().is_some_and(|task| task.as_mut().poll(context).is_ready()) {
                    *task = None;
                }
            }
            durable.as_mut().poll(context)
        }))
    }

    fn stream(&mut self, limits: StreamLimits) -> StreamId {
        self.store.create_stream(1, limits, b"").expect("there is room").value
    }

    fn append(&mut self, id: StreamId, new: NewMessage<'_>) -> Result<u64, Refusal> {
        let answer = self.store.append(id, new).expect("there is room");
        self.run_until_durable(answer.after).expect("the disk works");
        answer.value
    }

    fn totals(&self, id: StreamId) -> StreamTotals {
        self.store.streams().get(id).expect("it is there").stream.totals()
    }

    fn last(&self, id: StreamId, subject: &[u8]) -> Option<(u64, Vec<u8>)> {
        let stream = &self.store.streams().get(id).expect("it is there").stream;
        let found = stream.last_of(subject).expect("it is in memory");
        found.map(|message| (message.sequence, message.headers.to_vec()))
    }
}

fn message<'parts>(
    time_ns: i64,
    subject: &'parts [u8],
    headers: &'parts [u8],
) -> NewMessage<'parts> {
    NewMessage { time_ns, subject, headers, payload: b"payload" }
}

fn block(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    headers::append(&mut block, name, value);
    block
}

#[test]
fn full_disk_refuses_messages_and_takes_deletes_and_purges() {
    let mut house = House::new();
    let id = house.stream(StreamLimits::default());
    for time_ns in 0..3 {
        assert!(house.append(id, message(time_ns, b"a", b"")).is_ok());
    }
    // The spare file and the reserves are there.
    house.run_until_idle();
    house.disk.set_capacity(house.disk.used_bytes());
    let mut taken = 0;
    let refused = loop {
        match house.store.append(id, message(5, b"b", b"")) {
            Ok(answer) => house.run_until_durable(answer.after).expect("there is a spare file"),
            Err(error) => break error,
        }
        taken += 1;
    };
    assert!(matches!(refused, StoreError::Short(_)), "{refused:?}");
    assert!(taken > 0);
    assert!(matches!(
        house.store.create_stream(1, StreamLimits::default(), b""),
        Err(StoreError::Short(_))
    ));
    let deleted = house.store.delete(id, 2).expect("deletes need no room");
    house.run_until_durable(deleted.after).expect("there is room for deletes");
    house.store.purge(id, Some(b"b"), 0, 0).expect("purges need no room");
    let purged = house.store.purge_some(id, usize::MAX).expect("it is there").expect("it is done");
    assert_eq!(purged.value, taken);
    house.run_until_durable(purged.after).expect("there is room for purges");
    let mut house = house.power_cut();
    assert_eq!(house.totals(id).messages, 2, "deletes are durable");
    house.disk.set_capacity(u64::MAX);
    assert!(house.append(id, message(6, b"a", b"")).is_ok(), "there is room again");
}

#[test]
fn write_that_fails_twice_stops_the_store_and_all_that_waits_hears_of_it() {
    let mut house = House::new();
    let id = house.stream(StreamLimits::default());
    assert!(house.append(id, message(1, b"a", b"")).is_ok());
    house.disk.set_faults(Faults { failed_writes: 1, ..Faults::default() });
    let answer = house.store.append(id, message(2, b"a", b"")).expect("it is taken");
    let duplicate = house.store.delete(id, 7).expect("it is answered");
    assert_eq!(duplicate.after, answer.after, "it tells of a stream with that message");
    let stopped = house.run_until_durable(answer.after).expect_err("nothing can be written");
    assert_eq!(house.run_until_durable(duplicate.after), Err(stopped.clone()));
    let refused = house.store.delete(id, 1);
    assert_eq!(refused.err(), Some(StoreError::Refused(Refused::Stopped(stopped))));
    house.disk.set_faults(Faults::default());
    // A failed write may have written all of it: the unacknowledged message is there or not.
    assert!((1..=2).contains(&house.power_cut().totals(id).messages));
}

#[test]
fn id_is_known_within_its_window_and_after_a_start() {
    let mut house = House::new();
    let limits = StreamLimits { duplicate_window_ns: 10, ..StreamLimits::default() };
    let id = house.stream(limits);
    let header = block(marks::ID, b"one");
    assert_eq!(house.append(id, message(100, b"a", &header)), Ok(1));
    let duplicate = Err(Refusal::Duplicate { sequence: 1 });
    assert_eq!(house.append(id, message(109, b"b", &header)), duplicate);
    house.store.purge(id, None, 0, 0).expect("it works");
    let purged = house.store.purge_some(id, 10).expect("it works").expect("it is done");
    house.run_until_durable(purged.after).expect("the disk works");
    let mut house = house.power_cut();
    assert_eq!(house.append(id, message(109, b"b", &header)), duplicate, "purges forget none");
    assert_eq!(house.append(id, message(110, b"b", &header)), Ok(2));
    let other = house.stream(StreamLimits::default());
    for sequence in 1..3 {
        assert_eq!(house.append(other, message(0, b"a", &header)), Ok(sequence), "no window");
    }
}

#[test]
fn duplicate_is_told_only_when_the_first_one_is_durable() {
    let mut house = House::new();
    let id = house.stream(StreamLimits { duplicate_window_ns: 10, ..StreamLimits::default() });
    let header = block(marks::ID, b"one");
    let first = house.store.append(id, message(1, b"a", &header)).expect("there is room");
    let second = house.store.append(id, message(2, b"a", &header)).expect("there is room");
    assert_eq!(second.value, Err(Refusal::Duplicate { sequence: 1 }));
    assert_eq!(second.after, first.after);
    assert!(house.store.lane().durable_commit() < second.after);
}

#[test]
fn marker_stands_for_the_last_message_of_a_subject_until_it_ends_itself() {
    let mut house = House::new();
    let limits = StreamLimits {
        age_ns_max: 10 * SECOND_NS,
        has_times_to_live: true,
        has_rollups: true,
        marker_ttl_ns: 2 * SECOND_NS,
        ..StreamLimits::default()
    };
    let id = house.stream(limits);
    let ends = block(marks::TIME_TO_LIVE, b"5s");
    let never = block(marks::TIME_TO_LIVE, b"never");
    for (subject, headers) in [(b"old", &[][..]), (b"old", &[]), (b"ttl", &ends), (b"nev", &never)]
    {
        assert!(house.append(id, message(0, subject, headers)).is_ok());
    }
    let expire = |house: &mut House, now_ns| {
        house.store.expire_some(id, now_ns, 100).expect("the disk works")
    };
    assert_eq!(expire(&mut house, 5 * SECOND_NS - 1), 0);
    assert_eq!(expire(&mut house, 5 * SECOND_NS), 1);
    let marker =
        b"NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\nNats-TTL: 2s\r\nNats-Rollup: sub\r\n\r\n";
    assert_eq!(house.last(id, b"ttl"), Some((5, marker.to_vec())));
    assert_eq!(expire(&mut house, 7 * SECOND_NS), 1, "the marker ends");
    assert_eq!(house.last(id, b"ttl"), None, "a marker leaves none");
    let next = house.store.streams().get(id).expect("it is there").stream.next_end_ns();
    assert_eq!(next, Some(10 * SECOND_NS));
    assert_eq!(expire(&mut house, 10 * SECOND_NS), 2);
    assert_eq!(house.last(id, b"old"), Some((6, marker.to_vec())), "one for both messages");
    let mut house = house.power_cut();
    assert_eq!(house.totals(id).messages, 4, "what only rode along is undone");
    expire(&mut house, 12 * SECOND_NS);
    expire(&mut house, 100 * SECOND_NS);
    assert_eq!(house.last(id, b"nev"), Some((4, never)));
    assert_eq!(house.totals(id).messages, 1);
}

#[test]
fn rollup_takes_what_is_older_and_a_long_one_goes_by_slices() {
    let mut house = House::new();
    let id = house.stream(StreamLimits { has_rollups: true, ..StreamLimits::default() });
    for _ in 0..600 {
        house.store.append(id, message(0, b"many", b"")).expect("there is room");
    }
    house.append(id, message(0, b"other", b"")).expect("there is no limit");
    let rollup = block(marks::ROLLUP, b"sub");
    assert_eq!(house.append(id, message(0, b"many", &rollup)), Ok(602));
    let is_purging =
        |house: &House| house.store.streams().get(id).expect("it is there").is_purging();
    assert!(is_purging(&house) && house.totals(id).messages > 300);
    assert_eq!(house.store.delete(id, 601), Err(StoreError::Purging));
    while house.store.purge_some(id, 100).expect("it works").is_none() {
        assert!(is_purging(&house));
    }
    assert_eq!(house.totals(id).messages, 2);
    let mut house = house.power_cut();
    assert_eq!(house.totals(id).messages, 2);
    let rollup = block(marks::ROLLUP, b"all");
    assert_eq!(house.append(id, message(0, b"new", &rollup)), Ok(603));
    let totals = house.totals(id);
    assert_eq!((totals.messages, totals.first_sequence), (1, 603));
}

#[test]
fn group_is_taken_as_a_whole_or_not_at_all() {
    let mut house = House::new();
    let limits = StreamLimits { messages_max: 4, refuses_new: true, ..StreamLimits::default() };
    let id = house.stream(limits);
    let member = |expected| GroupMessage { new: message(0, b"a", b""), expected };
    let group = [member(Expected::default()); 3];
    let answer = house.store.append_group(id, &group).expect("there is room");
    assert_eq!(answer.value, Ok(1));
    let refused = house.store.append_group(id, &group).expect("there is room");
    assert_eq!(
        refused.value,
        Err(GroupRefusal { index: 1, refusal: Refusal::AtLimit(AtLimit::Messages) })
    );
    assert_eq!(refused.after, answer.after, "a refusal waits for what it tells of");
    let wrong = member(Expected { last_sequence: Some(2), ..Expected::default() });
    let refused = house.store.append_group(id, &[wrong]).expect("there is room");
    assert_eq!(
        refused.value,
        Err(GroupRefusal { index: 0, refusal: Refusal::WrongLastSequence { last: 3 } })
    );
    assert_eq!(house.store.append_group(id, &[]).err(), Some(StoreError::TooLarge));
    let many = vec![member(Expected::default()); GROUP_MESSAGES_MAX + 1];
    assert_eq!(house.store.append_group(id, &many).err(), Some(StoreError::TooLarge));
    assert_eq!(house.totals(id).messages, 3);
    house.run_until_durable(answer.after).expect("the disk works");
    assert_eq!(house.power_cut().totals(id).messages, 3);
}

#[test]
fn async_stream_answers_before_the_disk_and_may_lose_what_it_answered() {
    let mut house = House::new();
    let id = house.stream(StreamLimits { is_async: true, ..StreamLimits::default() });
    house.run_until_durable(house.store.lane().last_commit()).expect("the disk works");
    let answer = house.store.append(id, message(0, b"a", b"")).expect("there is room");
    assert_eq!((answer.value, answer.after), (Ok(1), CommitNumber(0)));
    house.store.settle(id);
    let held = house.store.streams().get(id).expect("it is there");
    assert_eq!(held.durable_sequence(), 1, "it may be seen");
    assert!(ASYNC_RISK.contains("lost"));
    let house = house.power_cut();
    assert_eq!(house.totals(id).messages, 0);
}

#[test]
fn sequences_end_before_they_overflow() {
    let mut house = House::new();
    let id = house.stream(StreamLimits::default());
    house.store.purge(id, None, u64::MAX, 0).expect("it works");
    house.store.purge_some(id, 1).expect("it works").expect("it is done");
    let last = house.totals(id).last_sequence;
    assert_eq!(house.append(id, message(0, b"a", b"")), Ok(last + 1));
    let refused = house.append(id, message(0, b"a", b""));
    assert_eq!(refused, Err(Refusal::AtLimit(AtLimit::Sequences)));
    assert_eq!(house.power_cut().totals(id).last_sequence, last + 1);
}

#[test]
fn with_an_interval_answers_leave_at_once_and_tell_of_what_is_on_its_way() {
    let mut house = House::new();
    let every = SyncInterval::Every(Duration::from_secs(120));
    assert!(every.risk().is_some_and(|text| text.contains("lost")));
    assert_eq!(
        (SyncInterval::default(), SyncInterval::Always.risk()),
        (SyncInterval::Always, None)
    );
    house.store.set_sync_interval(every);
    let at_once = CommitNumber(0);
    let created = house.store.create_stream(1, StreamLimits::default(), b"").expect("room");
    let id = created.value;
    let consumer = house.store.create_consumer(id, 0, b"").expect("room");
    let new = NewMessage { time_ns: 1, subject: b"a", headers: b"", payload: b"x" };
    let appended = house.store.append(id, new).expect("room");
    house.store.settle(id);
    assert_eq!(house.store.streams().get(id).map(HeldStream::durable_sequence), Some(1));
    let change = ConsumerChange::Delivered { stream_sequence: 1, time_ns: 1, needs_ack: true };
    let commits = Urgency::Commits;
    let delivered = house.store.change_consumer(id, consumer.value, change, commits);
    let deleted = house.store.delete(id, 1).expect("it is there");
    let after = [created.after, consumer.after, appended.after, deleted.after];
    assert_eq!((after, delivered.expect("it is there").after), ([at_once; 4], at_once));
    let missing = house.store.delete(id, 1).expect("the stream is there");
    assert_eq!((missing.value, missing.after), (false, at_once));
    // The message on its way arrives without another call.
    house.run_until_durable(house.store.lane().last_commit()).expect("no fault is set");
    // From now on answers wait again.
    house.store.set_sync_interval(SyncInterval::Always);
    let appended = house.store.append(id, new).expect("room");
    assert_eq!(appended.after, house.store.lane().last_commit());
    assert_eq!(house.power_cut().totals(id).last_sequence, 1, "the last one was not durable");
}

#[test]
fn nothing_of_a_stream_in_memory_is_written_and_others_are_as_without_it() {
    let mut house = House::new();
    let limits = StreamLimits { is_memory: true, ..StreamLimits::default() };
    let before = house.store.lane().last_commit();
    let memory = house.store.create_stream(1, limits, b"").expect("memory is there");
    let (id, after) = (memory.value, memory.after);
    let new = message(1, b"a", b"");
    let appended = house.store.append(id, new).expect("memory is there");
    assert_eq!((appended.value, appended.after, after), (Ok(1), CommitNumber(0), CommitNumber(0)));
    let consumer = house.store.create_consumer(id, 0, b"").expect("memory is there");
    assert_eq!(consumer.after, CommitNumber(0));
    house.store.settle(id);
    assert_eq!(house.store.streams().get(id).map(HeldStream::durable_sequence), Some(1));
    assert_eq!(house.store.lane().last_commit(), before);
    let file = house.stream(StreamLimits::default());
    assert_eq!(house.append(file, new), Ok(1));
    let gone = house.stream(limits);
    house.store.delete_stream(gone).expect("it is there");
    let house = house.power_cut();
    assert!(house.store.streams().get(id).is_none());
    assert_eq!(house.totals(file).messages, 1);
}

#[test]
fn figures_count_commits_records_and_bytes_and_name_what_is_wrong() {
    let mut house = House::new();
    let id = house.stream(StreamLimits::default());
    for time_ns in 0..3 {
        assert!(house.append(id, message(time_ns, b"a", b"")).is_ok());
    }
    house.run_until_idle();
    let figures = house.store.figures();
    assert_eq!((figures.records, figures.commits), (4, figures.commit_durations.count()));
    assert!((1..=4).contains(&figures.commits), "{figures:?}");
    assert!(figures.written_bytes >= figures.commits * 4096, "{figures:?}");
    assert!(figures.journal_files == 1 && figures.disk_bytes == 16 * 4096, "{figures:?}");
    assert!(!figures.is_short && !figures.is_stopped && figures.write_failures == 0);
    // Without room for a further file.
    house.disk.set_capacity(house.disk.used_bytes());
    while let Ok(answer) = house.store.append(id, message(5, b"b", b"")) {
        house.run_until_durable(answer.after).expect("there is a spare file");
    }
    assert!(house.store.figures().is_short);
    house.disk.set_capacity(u64::MAX);
    house.disk.set_faults(Faults { failed_writes: 1, ..Faults::default() });
    let deleted = house.store.delete(id, 1).expect("it is there");
    house.run_until_durable(deleted.after).expect_err("nothing can be written");
    let figures = house.store.figures();
    assert!(figures.is_stopped && figures.write_failures >= 1, "{figures:?}");
}
