//! `kill -9` at random moments while a lane or a store writes to the real disk: everything reported
//! as durable is there afterwards. The store takes checkpoints meanwhile, many a second.
//!
//! Not run by the test harness: this program is both the test and, started again by it, the process that is killed.
//! `scripts/power-cut.py` runs it on a block device that forgets what was not synced.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::task::Poll;

use midge::testing::storage::disk::Disk;
use midge::testing::storage::frame::{LaneSeed, StoreId, records};
use midge::testing::storage::journal::Urgency;
use midge::testing::storage::lane::Lane;
use midge::testing::storage::record::StreamId;
use midge::testing::storage::recovery::{JournalPlace, Recovered, recover};
use midge::testing::storage::replay::{Replayed, replay};
use midge::testing::storage::store::checkpoint::keep_checkpoints;
use midge::testing::storage::store::loading::load;
use midge::testing::storage::store::{Store, StoreError};
use midge::testing::storage::stream::{NewMessage, StreamLimits};
use midge::testing::storage::thread_disk::ThreadDisk;

/// The environment variable that tells the process to be killed its folder.
const FOLDER: &str = "MIDGE_STORE_KILL_FOLDER";

/// Says there what is to be killed.
const WRITER: &str = "MIDGE_STORE_KILL_WRITER";
/// Says in the environment that the folder is only to be read.
const READ: &str = "MIDGE_STORE_KILL_READ";

const ROUNDS: usize = 8;

fn main() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        if std::env::var_os(READ).is_some() {
            let count = match std::env::var(WRITER).as_deref() {
                Ok("store") => read_store(Path::new(&folder)),
                _ => read(&start(Path::new(&folder))).0,
            };
            return println!("{count}.");
        }
        return match std::env::var(WRITER).as_deref() {
            Ok("store") => write_to_store_until_killed(Path::new(&folder)),
            _ => write_until_killed(Path::new(&folder)),
        };
    }
    let folder = std::env::temp_dir().join(format!("midge-store-kill-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the temporary folder can be written to");
    let seed = std::env::var("MIDGE_STORE_SEED")
        .map_or_else(|_| fastrand::u64(..), |text| text.parse().expect("a number"));
    println!("MIDGE_STORE_SEED={seed} cargo test --test store_kill");
    let mut random = fastrand::Rng::with_seed(seed);
    for writer in ["lane", "store"] {
        std::fs::create_dir_all(&folder).expect("the temporary folder can be written to");
        let mut before = 0;
        for round in 0..ROUNDS {
            let durable = kill_once(&folder, writer, random.usize(1..200));
            let count = match writer {
                "lane" => read(&start(&folder)).0,
                _ => read_store(&folder),
            };
            println!("{writer}, round {round}: {before} before, {durable} durable, {count} there");
            assert!(durable > before, "nothing became durable");
            assert!(count >= durable, "{durable} were durable, {count} are there");
            before = count;
        }
        std::fs::remove_dir_all(&folder).expect("it is there");
    }
}

fn start(folder: &Path) -> ThreadDisk {
    let probed = ThreadDisk::probe(folder).expect("the folder can be written to");
    ThreadDisk::start(folder, probed.write_mode, || {}).expect("threads can be made")
}

fn place() -> JournalPlace {
    let seed = LaneSeed::new(StoreId([9; 16]), 0);
    JournalPlace { folder: "lane-0".into(), seed, file_bytes: 1 << 20 }
}

/// Starts a writer, kills it after `lines` lines of output, and returns the last count it gave.
fn kill_once(folder: &Path, writer: &str, lines: usize) -> u64 {
    let program: PathBuf = std::env::current_exe().expect("this program has a path");
    let mut child = Command::new(program)
        .env(FOLDER, folder)
        .env(WRITER, writer)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program can be started");
    let output = child.stdout.take().expect("it is piped");
    let mut output = BufReader::new(output).lines().map(|line| line.expect("lines are text"));
    let mut last = None;
    for _ in 0..lines {
        last = output.next().or(last);
    }
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
    // What it reported until then counts, too; a line that was cut off does not.
    last = output.last().filter(|line| line.ends_with('.')).or(last);
    let last = last.expect("the writer says something");
    last.trim_end_matches('.').parse().expect("lines are numbers")
}

/// Returns the number of records, each checked, and what recovery reports.
fn read(disk: &ThreadDisk) -> (u64, Recovered) {
    let mut count = 0;
    let visit = |_, body: &[u8]| {
        for record in records(body) {
            count += 1;
            assert_eq!(record[..8], u64::to_le_bytes(count), "a record out of order");
            assert!(record[8..].iter().all(|byte| *byte == count as u8), "a record changed");
        }
    };
    let first = Lane::<ThreadDisk>::first_position(&place());
    let recovered = disk.run(recover(disk, &place(), first, visit)).expect("the folder is there");
    assert_eq!(recovered.damage, [], "nothing is damaged by the end of a process");
    (count, recovered)
}

fn write_until_killed(folder: &Path) {
    let disk = start(folder);
    disk.run(disk.make_folder("lane-0")).expect("the folder can be made");
    let (mut count, recovered) = read(&disk);
    let lane = Lane::start(disk.clone(), place(), &recovered);
    let work = async {
        loop {
            let mut commit = lane.last_commit();
            for _ in 0..fastrand::usize(1..40) {
                count += 1;
                let filler = vec![count as u8; fastrand::usize(0..500)];
                commit = lane
                    .append(&[&u64::to_le_bytes(count), &filler], Urgency::Commits)
                    .expect("it fits");
            }
            lane.durable(commit).await.expect("the disk works");
            println!("{count}.");
            std::io::stdout().flush().expect("the parent listens");
        }
    };
    let (mut commit, mut spare) = (Box::pin(lane.commit()), Box::pin(lane.keep_spare()));
    let mut work = Box::pin(work);
    disk.run(poll_fn(|context| {
        let is_done = work.as_mut().poll(context).is_ready();
        let has_stopped = commit.as_mut().poll(context).is_ready();
        let _: Poll<()> = spare.as_mut().poll(context);
        assert!(!is_done && !has_stopped, "the lane stopped");
        Poll::<()>::Pending
    }));
}

const STREAMS: u64 = 3;

/// A message whose number is a multiple of 5 is deleted behind the one that is so much later.
const DELETED_AFTER: u64 = 30;

fn store_place() -> JournalPlace {
    JournalPlace { file_bytes: 128 << 10, ..place() }
}

fn replay_store(disk: &ThreadDisk) -> Replayed {
    let replayed = disk.run(replay(disk, &store_place())).expect("the folder is there");
    assert!(replayed.is_whole(), "{:?} {:?}", replayed.recovered.damage, replayed.unfit);
    assert_eq!(replayed.lost_with_blocks().count(), 0, "nothing is lost by the end of a process");
    assert_eq!(replayed.manifest_faults, []);
    replayed
}

fn appended(replayed: &Replayed) -> u64 {
    replayed.streams.iter().map(|(_, held)| held.stream.totals().last_sequence).sum()
}

/// The stream of a message and its sequence there; messages count from 0.
fn home(number: u64) -> (StreamId, u64) {
    (StreamId(number % STREAMS), number / STREAMS + 1)
}

fn payload(number: u64) -> Vec<u8> {
    vec![number as u8; (number * 37 % 700) as usize]
}

/// Checks every message, and returns how many were appended.
fn read_store(folder: &Path) -> u64 {
    let disk = start(folder);
    let mut replayed = replay_store(&disk);
    let count = appended(&replayed);
    println!(
        "  manifest {}, {} segments, {} records replayed",
        replayed.files.newest,
        replayed.files.segments.len(),
        replayed.record_count
    );
    for number in 0..count {
        let found = disk.run(replayed.payload(&disk, &store_place(), home(number)));
        let found = found.expect("the segments are there");
        let deleter = number + DELETED_AFTER;
        if number % 5 == 0 && deleter < count {
            // The delete behind the very last message may not have come so far.
            assert!(found.is_none() || deleter == count - 1, "message {number} is back");
        } else {
            let found = found.unwrap_or_else(|| panic!("message {number} is missing"));
            assert_eq!(found, payload(number), "message {number} is another");
        }
    }
    assert_eq!(replayed.lost_with_blocks().count(), 0, "nothing is lost by the end of a process");
    count
}

/// Makes a change, once what it needs is in memory.
async fn until_loaded(
    store: &RefCell<Store<ThreadDisk>>,
    stream: StreamId,
    mut change: impl FnMut(&mut Store<ThreadDisk>) -> Result<(), StoreError>,
) {
    loop {
        let result = change(&mut store.borrow_mut());
        match result {
            Err(StoreError::NotLoaded(needed)) => {
                load(store, stream, needed).await.expect("the segments are there");
            }
            result => return result.expect("there is room"),
        }
    }
}

fn write_to_store_until_killed(folder: &Path) {
    let disk = start(folder);
    disk.run(disk.make_folder("lane-0")).expect("the folder can be made");
    let replayed = replay_store(&disk);
    let mut count = appended(&replayed);
    let made = replayed.streams.iter().count() as u64;
    let started = Store::start(disk.clone(), store_place(), replayed);
    let mut started = started.unwrap_or_else(|_| panic!("it is whole"));
    // Hardly anything stays in memory once it is stored.
    started.share_memory(1 << 20);
    let store = RefCell::new(started);
    let lane = store.borrow().lane().clone();
    let delete_behind = async |number: u64| {
        if let Some(old) = number.checked_sub(DELETED_AFTER).filter(|old| old % 5 == 0) {
            let (stream, sequence) = home(old);
            let delete = |store: &mut Store<ThreadDisk>| store.delete(stream, sequence).map(drop);
            until_loaded(&store, stream, delete).await;
        }
    };
    let work = async {
        for _ in made..STREAMS {
            let created = store.borrow_mut().create_stream(1, StreamLimits::default(), b"");
            created.expect("there is room");
        }
        if count > 0 {
            delete_behind(count - 1).await;
        }
        loop {
            for _ in 0..fastrand::usize(1..60) {
                let (stream, expected) = home(count);
                let payload = payload(count);
                let new =
                    NewMessage { time_ns: 0, subject: b"a.b", headers: b"", payload: &payload };
                let append = |store: &mut Store<ThreadDisk>| {
                    let answer = store.append(stream, new)?;
                    assert_eq!(answer.value, Ok(expected));
                    Ok(())
                };
                until_loaded(&store, stream, append).await;
                delete_behind(count).await;
                count += 1;
            }
            lane.durable(lane.last_commit()).await.expect("the disk works");
            println!("{count}.");
            std::io::stdout().flush().expect("the parent listens");
        }
    };
    let (mut commit, mut spare) = (Box::pin(lane.commit()), Box::pin(lane.keep_spare()));
    let (mut work, mut checkpoints) = (Box::pin(work), Box::pin(keep_checkpoints(&store)));
    disk.run(poll_fn(|context| {
        let is_done = work.as_mut().poll(context).is_ready();
        let has_stopped = commit.as_mut().poll(context).is_ready();
        let _: Poll<()> = spare.as_mut().poll(context);
        let _: Poll<()> = checkpoints.as_mut().poll(context);
        assert!(!is_done && !has_stopped, "the lane stopped");
        Poll::<()>::Pending
    }));
}
