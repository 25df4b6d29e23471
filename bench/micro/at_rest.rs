//! The cost of many messages at rest: memory after they were appended, and the time and memory of a
//! start behind a crash.
//!
//! `cargo bench --bench store_load -- FOLDER rest [MESSAGES] [SUBJECTS] [LANES]` appends so many
//! messages of 128 bytes (10,000,000 with 1,000,000 subjects in 1 lane by default), ends without a
//! last checkpoint, starts again, and reads one lane in order, twice; each in a process of its own,
//! which is this program with another word.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use midge::testing::storage::disk::Disk;
use midge::testing::storage::frame::{LaneSeed, StoreId};
use midge::testing::storage::record::StreamId;
use midge::testing::storage::recovery::JournalPlace;
use midge::testing::storage::replay::replay;
use midge::testing::storage::ring_disk::RingDisk;
use midge::testing::storage::store::checkpoint::keep_checkpoints;
use midge::testing::storage::store::loading::load;
use midge::testing::storage::store::{Store, StoreError};
use midge::testing::storage::stream::{NewMessage, Search, StreamLimits};
use midge::testing::storage::thread_disk::ThreadDisk;
use midge::testing::storage::turns::yield_now;

use super::collected_disk;

/// How long all is quiet before memory is looked at.
const REST: Duration = Duration::from_secs(2);

struct Settings {
    messages: u64,
    subjects: u64,
    lanes: u64,
}

pub fn run(folder: &Path, words: &[String]) -> io::Result<()> {
    let number = |index: usize, default: u64| {
        words.get(index).map_or(default, |text| text.parse().expect("a number"))
    };
    let settings = Settings {
        messages: number(1, 10_000_000),
        subjects: number(2, 1_000_000),
        lanes: number(3, 1),
    };
    let root = folder.join("store-at-rest");
    let in_process = async |is_start: bool| {
        let probed = ThreadDisk::probe(&root)?;
        let disk = RingDisk::new(collected_disk::start(&root, probed.write_mode)?);
        if is_start { start(&disk, &settings).await } else { fill(&disk, &settings).await }
    };
    let mut runtime =
        monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().enable_timer().build()?;
    match words[0].as_str() {
        "rest-fill" => return runtime.block_on(in_process(false)),
        "rest-start" => return runtime.block_on(in_process(true)),
        _ => {}
    }
    let Settings { messages, subjects, lanes } = settings;
    println!("{messages} messages, {subjects} subjects, {lanes} lanes");
    std::fs::create_dir(&root)?;
    for word in ["rest-fill", "rest-start"] {
        let numbers = [messages, subjects, lanes].map(|number| number.to_string());
        let program = std::env::current_exe()?;
        let status = Command::new(program).arg(folder).arg(word).args(numbers).status()?;
        assert!(status.success(), "{word} ended with {status}");
    }
    std::fs::remove_dir_all(&root)
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    number.unwrap_or_default() << 10
}

fn megabytes() -> f64 {
    resident_bytes() as f64 / 1e6
}

fn place(lane: u64) -> JournalPlace {
    let seed = LaneSeed::new(StoreId([5; 16]), lane as u32);
    JournalPlace { folder: format!("lane-{lane}"), seed, file_bytes: 16 << 20 }
}

async fn open<D: Disk>(disk: &D, lane: u64, lanes: u64) -> io::Result<Store<D>> {
    let place = place(lane);
    disk.make_folder(&place.folder).await?;
    let replayed = replay(disk, &place).await?;
    let store = Store::start(disk.clone(), place, replayed);
    let mut store = store.unwrap_or_else(|_| panic!("nothing is lost"));
    store.share_memory(lanes as u32);
    Ok(store)
}

async fn start<D: Disk + 'static>(disk: &D, settings: &Settings) -> io::Result<()> {
    let before = Instant::now();
    let mut stores: Vec<Store<D>> = Vec::new();
    for lane in 0..settings.lanes {
        stores.push(open(disk, lane, settings.lanes).await?);
    }
    let elapsed = before.elapsed();
    let totals = stores.iter().flat_map(|store| store.streams().iter());
    let messages: u64 = totals.map(|(_, held)| held.stream.totals().messages).sum();
    let at_once = megabytes();
    monoio::time::sleep(REST).await;
    println!(
        "start: {:.3} s, {messages} messages, {at_once:.0} MB resident, {:.0} MB at rest",
        elapsed.as_secs_f64(),
        megabytes()
    );
    let store = Rc::new(RefCell::new(stores.swap_remove(0)));
    for what in ["from disk", "once more"] {
        read(&store, what).await;
    }
    Ok(())
}

/// Reads the messages of a lane in order.
async fn read<D: Disk + 'static>(store: &Rc<RefCell<Store<D>>>, what: &str) {
    let ids: Vec<StreamId> = store.borrow().streams().iter().map(|(id, _)| id).collect();
    let (mut count, mut bytes, before) = (0_u64, 0, Instant::now());
    for id in ids {
        let (mut from, mut ahead) = (1, None);
        loop {
            let missing = {
                let store = store.borrow();
                let stream = &store.streams().get(id).expect("it is there").stream;
                match stream.next(b">", from, 1) {
                    Ok(Search::Found(message)) => {
                        count += 1;
                        bytes += message.subject.len() + message.payload.len();
                        from = message.sequence + 1;
                        let next = stream.read_ahead(from).filter(|next| ahead != Some(*next));
                        next.map(|next| (next, true))
                    }
                    Ok(Search::Nothing | Search::GoOn(_)) => break,
                    Err(needed) => Some((needed, false)),
                }
            };
            match missing {
                Some((next, true)) => {
                    ahead = Some(next);
                    let store = store.clone();
                    monoio::spawn(async move {
                        load(&store, id, next).await.expect("the disk works");
                    });
                    yield_now().await;
                }
                Some((needed, false)) => load(store, id, needed).await.expect("the disk works"),
                None => {}
            }
        }
    }
    let seconds = before.elapsed().as_secs_f64();
    println!(
        "read {what}: {:.2} M messages/s, {:.0} MB/s",
        count as f64 / seconds / 1e6,
        bytes as f64 / seconds / 1e6
    );
}

async fn fill<D: Disk + 'static>(disk: &D, settings: &Settings) -> io::Result<()> {
    let mut stores = Vec::new();
    for lane in 0..settings.lanes {
        let mut store = open(disk, lane, settings.lanes).await?;
        let id = store.create_stream(1, StreamLimits::default(), b"").expect("there is room").value;
        let lane = store.lane().clone();
        let store = Rc::new(RefCell::new(store));
        let (checkpointed, committed, spare) = (store.clone(), lane.clone(), lane.clone());
        monoio::spawn(async move { keep_checkpoints(&checkpointed).await });
        monoio::spawn(async move { committed.commit().await });
        monoio::spawn(async move { spare.keep_spare().await });
        stores.push((store, lane, id));
    }
    let before = Instant::now();
    for number in 0..settings.messages {
        let (store, lane, id) = &stores[(number % settings.lanes) as usize];
        let subject = format!("orders.{}.{}", number % 10, number * 7919 % settings.subjects);
        append(store, *id, number, &subject).await;
        // As a shard's turn ends.
        if number % 1024 == 1023 {
            while store.borrow().is_crowded() {
                monoio::time::sleep(Duration::from_micros(200)).await;
            }
            lane.durable(lane.last_commit()).await.expect("the disk works");
        }
    }
    for (_, lane, _) in &stores {
        lane.durable(lane.last_commit()).await.expect("the disk works");
    }
    let (elapsed, at_once) = (before.elapsed(), megabytes());
    monoio::time::sleep(REST).await;
    println!(
        "fill: {:.1} s, {at_once:.0} MB resident, {:.0} MB at rest",
        elapsed.as_secs_f64(),
        megabytes()
    );
    // A crash: no task does anything any more.
    std::process::exit(0);
}

async fn append<D: Disk>(store: &RefCell<Store<D>>, id: StreamId, number: u64, subject: &str) {
    let payload = [b'p'; 128];
    let (time_ns, subject) = (number as i64, subject.as_bytes());
    let new = NewMessage { time_ns, subject, headers: b"", payload: &payload };
    loop {
        let appended = store.borrow_mut().append(id, new);
        match appended {
            Err(StoreError::NotLoaded(needed)) => {
                load(store, id, needed).await.expect("the disk works");
            }
            appended => {
                assert!(appended.expect("the store works").value.is_ok(), "there is no limit");
                return;
            }
        }
    }
}
