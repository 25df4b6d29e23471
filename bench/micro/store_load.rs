//! A store under load on a real disk, beside the bare durable write of the same disk in the same run.
//!
//! `cargo bench --bench store_load -- FOLDER [SECONDS [NAME]]` runs each workload whose name contains `NAME`, or all of
//! them, for so long (5 by default) in the folder, on a quiet machine, and removes what it wrote. Without a folder nothing
//! is measured. `journal files` are those that were begun meanwhile, of 64 MiB each, `checkpoints` those that were taken,
//! `KiB/commit` what one write of the journal held. `at_rest` measures another thing.
//!
//! The store is driven as a shard would: by a task on a ring of io_uring, whose disk writes commits through that ring
//! (`ring`) or through a helper thread that wakes it by an eventfd (`thread`). An appender appends, waits until that is
//! durable, and appends again. Streams keep 64 MiB together; checkpoints are taken as they are due.

use std::cell::RefCell;
use std::collections::VecDeque;
mod at_rest;
mod collected_disk;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use midge::testing::storage::disk::{Disk, DiskBuffer};
use midge::testing::storage::frame::{LaneSeed, StoreId};
use midge::testing::storage::lane::Lane;
use midge::testing::storage::position::CommitNumber;
use midge::testing::storage::record::StreamId;
use midge::testing::storage::recovery::JournalPlace;
use midge::testing::storage::replay::replay;
use midge::testing::storage::ring_disk::RingDisk;
use midge::testing::storage::store::checkpoint::keep_checkpoints;
use midge::testing::storage::store::loading;
use midge::testing::storage::store::{Store, StoreError};
use midge::testing::storage::stream::{NewMessage, StreamLimits};
use midge::testing::storage::thread_disk::ThreadDisk;
use rustix::fs::OFlags;
use rustix::time::ClockId;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const JOURNAL_FILE_BYTES: u64 = 64 << 20;

/// Bytes that all streams keep together.
const KEPT_BYTES: u64 = 64 << 20;

#[derive(Clone, Copy)]
struct Workload {
    name: &'static str,
    appenders: usize,
    streams: usize,
    payload_bytes: usize,
}

/// Appenders that stand for as many as the store takes.
const ALL: usize = usize::MAX;

const WORKLOADS: [Workload; 6] = [
    Workload { name: "1 appender", appenders: 1, streams: 1, payload_bytes: 128 },
    Workload { name: "50 appenders", appenders: 50, streams: 1, payload_bytes: 128 },
    Workload { name: "1,000 appenders", appenders: 1000, streams: 1, payload_bytes: 128 },
    Workload { name: "1,000 streams", appenders: 1000, streams: 1000, payload_bytes: 128 },
    Workload { name: "all there is, 128 B", appenders: ALL, streams: 1, payload_bytes: 128 },
    Workload { name: "all there is, 16 KiB", appenders: ALL, streams: 1, payload_bytes: 16 << 10 },
];

fn main() -> io::Result<()> {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let Some(folder) = arguments.first().map(PathBuf::from) else {
        println!("usage: cargo bench --bench store_load -- FOLDER [SECONDS]");
        println!(
            "       cargo bench --bench store_load -- FOLDER rest [MESSAGES] [SUBJECTS] [LANES]"
        );
        return Ok(());
    };
    if arguments.get(1).is_some_and(|word| word.starts_with("rest")) {
        return at_rest::run(&folder, &arguments[1..]);
    }
    let seconds = arguments.get(1).map_or(5.0, |text| text.parse().expect("seconds are a number"));
    let wanted = arguments.get(2).map_or("", String::as_str);
    let duration = Duration::from_secs_f64(seconds);
    println!("{}: {:?}", folder.display(), ThreadDisk::probe(&folder)?);
    println!(
        "| workload | appends/s | p50 us | p99 us | MiB/s | of the disk's | commits/s | KiB/commit | CPU us/append | written/appended | journal files | checkpoints |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    // No longer than for a steady figure: what follows is the measurement.
    let bare_duration = duration.min(Duration::from_secs(5));
    let (bare_p50, _) = bare(&folder, 4 << 10, bare_duration)?;
    let (_, disk_mib_per_second) = bare(&folder, 1 << 20, bare_duration)?;
    let mut ratios = Vec::new();
    for workload in WORKLOADS.iter().filter(|workload| workload.name.contains(wanted)) {
        for disk in ["ring", "thread"] {
            let root = folder.join("store-load");
            std::fs::create_dir(&root)?;
            let measured = measure(&root, *workload, disk, duration, disk_mib_per_second);
            std::fs::remove_dir_all(&root)?;
            let p50 = measured?;
            if workload.appenders == 1 {
                ratios.push(format!("{disk} {:.2}", p50 / bare_p50));
            }
        }
    }
    println!("one appender's p50 as a multiple of the bare write's: {}", ratios.join(", "));
    Ok(())
}

/// CPU time of all threads of this process.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Bytes that this process had written to disks.
fn written_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|number| number.parse().ok()).unwrap_or_default()
}

fn percentile(sorted: &[Duration], share: f64) -> f64 {
    let index = (sorted.len().saturating_sub(1) as f64 * share) as usize;
    sorted.get(index).map_or(f64::NAN, |wall| wall.as_secs_f64() * 1e6)
}

/// A loop of writes with O_DIRECT and O_DSYNC: the limit. Returns the median in microseconds, and MiB per second.
fn bare(folder: &Path, bytes: usize, duration: Duration) -> io::Result<(f64, f64)> {
    let path = folder.join("store-load-bare");
    let zeros = vec![0; 1 << 20];
    let file = File::create(&path)?;
    for offset in (0..JOURNAL_FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, offset)?;
    }
    file.sync_all()?;
    let flags = (OFlags::DIRECT | OFlags::DSYNC).bits() as i32;
    let file = OpenOptions::new().write(true).custom_flags(flags).open(&path)?;
    let buffer = DiskBuffer::zeroed(bytes);
    let (mut samples, begin) = (Vec::new(), Instant::now());
    let cpu = cpu_time();
    for offset in (0..JOURNAL_FILE_BYTES).step_by(bytes).cycle() {
        let start = Instant::now();
        file.write_all_at(buffer.as_slice(), offset)?;
        samples.push(start.elapsed());
        if begin.elapsed() >= duration {
            break;
        }
    }
    let (wall, cpu) = (begin.elapsed().as_secs_f64(), cpu_time() - cpu);
    std::fs::remove_file(&path)?;
    samples.sort_unstable();
    let per_second = samples.len() as f64 / wall;
    let mib_per_second = per_second * bytes as f64 / f64::from(1 << 20);
    println!(
        "| bare, {} KiB | {per_second:.0} | {:.0} | {:.0} | {mib_per_second:.0} | | {per_second:.0} | {} | {:.2} | | | |",
        bytes >> 10,
        percentile(&samples, 0.5),
        percentile(&samples, 0.99),
        bytes >> 10,
        cpu.as_secs_f64() * 1e6 / samples.len() as f64,
    );
    Ok((percentile(&samples, 0.5), mib_per_second))
}

/// The highest number of a lane's file of this kind; its files are numbered as they are begun.
fn highest_number(root: &Path, prefix: &str) -> u64 {
    let Ok(entries) = std::fs::read_dir(root.join("lane-0")) else { return 0 };
    let number = |entry: io::Result<std::fs::DirEntry>| {
        entry.ok()?.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()
    };
    entries.filter_map(number).max().unwrap_or(0)
}

fn measure(
    root: &Path,
    workload: Workload,
    name: &str,
    duration: Duration,
    disk_mib_per_second: f64,
) -> io::Result<f64> {
    let probed = ThreadDisk::probe(root)?;
    let mut runtime =
        monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().enable_timer().build()?;
    runtime.block_on(async move {
        let disk = collected_disk::start(root, probed.write_mode)?;
        match name {
            "ring" => {
                load(RingDisk::new(disk), root, workload, name, duration, disk_mib_per_second).await
            }
            _ => load(disk, root, workload, name, duration, disk_mib_per_second).await,
        }
    })
}

async fn load<D: Disk + 'static>(
    disk: D,
    root: &Path,
    workload: Workload,
    name: &str,
    duration: Duration,
    disk_mib_per_second: f64,
) -> io::Result<f64> {
    disk.make_folder("lane-0").await?;
    let seed = LaneSeed::new(StoreId([5; 16]), 0);
    let place = JournalPlace { folder: "lane-0".into(), seed, file_bytes: JOURNAL_FILE_BYTES };
    let replayed = replay(&disk, &place).await?;
    let Ok(store) = Store::start(disk.clone(), place, replayed) else {
        unreachable!("the store is new");
    };
    let lane = store.lane().clone();
    let store = Rc::new(RefCell::new(store));
    let checkpointed = store.clone();
    monoio::spawn(async move { keep_checkpoints(&checkpointed).await });
    for task in [true, false] {
        let lane = lane.clone();
        monoio::spawn(
            async move { if task { lane.commit().await } else { lane.keep_spare().await } },
        );
    }
    let mut load = Load::new(store, lane, workload);
    load.run(Duration::from_millis(500)).await;
    load.samples.clear();
    let (commits, cpu, written) = (load.lane.durable_commit(), cpu_time(), written_bytes());
    let files = || (["journal-", "manifest-"]).map(|prefix| highest_number(root, prefix));
    let [journals, manifests] = files();
    let begin = Instant::now();
    load.run(duration).await;
    let (wall, cpu) = (begin.elapsed().as_secs_f64(), cpu_time() - cpu);
    let mut samples = std::mem::take(&mut load.samples);
    samples.sort_unstable();
    let count = samples.len() as f64;
    let appended = count * workload.payload_bytes as f64;
    let mib_per_second = appended / wall / f64::from(1 << 20);
    let commits = (load.lane.durable_commit().0 - commits.0) as f64;
    let [more_journals, more_manifests] = files();
    println!(
        "| {}, {name} | {:.0} | {:.0} | {:.0} | {mib_per_second:.1} | {:.0} % | {:.0} | {:.0} | {:.2} | {:.2} | {} | {} |",
        workload.name,
        count / wall,
        percentile(&samples, 0.5),
        percentile(&samples, 0.99),
        mib_per_second / disk_mib_per_second * 100.0,
        commits / wall,
        appended / commits / 1024.0,
        cpu.as_secs_f64() * 1e6 / count,
        (written_bytes() - written) as f64 / appended,
        more_journals - journals,
        more_manifests - manifests,
    );
    Ok(percentile(&samples, 0.5))
}

struct Load<D: Disk> {
    store: Rc<RefCell<Store<D>>>,
    lane: Rc<Lane<D>>,
    streams: Vec<StreamId>,
    payload: Vec<u8>,
    /// Streams whose appender may append.
    ready: VecDeque<StreamId>,
    is_all: bool,
    waiting: VecDeque<(CommitNumber, StreamId, Instant)>,
    samples: Vec<Duration>,
}

impl<D: Disk> Load<D> {
    fn new(store: Rc<RefCell<Store<D>>>, lane: Rc<Lane<D>>, workload: Workload) -> Self {
        let bytes_max = KEPT_BYTES / workload.streams as u64;
        let limits = StreamLimits { bytes_max, ..StreamLimits::default() };
        let streams: Vec<StreamId> = (0..workload.streams)
            .map(|_| store.borrow_mut().create_stream(1, limits, b"").expect("there is room").value)
            .collect();
        let is_all = workload.appenders == ALL;
        let appenders = if is_all { 1 } else { workload.appenders };
        let ready = streams.iter().copied().cycle().take(appenders).collect();
        Self {
            store,
            lane,
            streams,
            payload: vec![b'p'; workload.payload_bytes],
            ready,
            is_all,
            waiting: VecDeque::new(),
            samples: Vec::new(),
        }
    }

    async fn run(&mut self, duration: Duration) {
        let begin = Instant::now();
        while begin.elapsed() < duration {
            while (self.is_all || !self.ready.is_empty()) && !self.store.borrow().is_crowded() {
                let stream = self.ready.pop_front().unwrap_or(self.streams[0]);
                self.append(stream).await;
            }
            if self.waiting.is_empty() {
                // A checkpoint has to be done first.
                monoio::time::sleep(Duration::from_micros(200)).await;
            }
            self.take_durable().await;
        }
        while !self.waiting.is_empty() {
            self.take_durable().await;
        }
    }

    async fn append(&mut self, stream: StreamId) {
        let now = Instant::now();
        let new = NewMessage {
            time_ns: self.samples.len() as i64,
            subject: b"orders.new.1",
            headers: b"",
            payload: &self.payload,
        };
        let answer = loop {
            let appended = self.store.borrow_mut().append(stream, new);
            match appended {
                Err(StoreError::NotLoaded(needed)) => {
                    loading::load(&self.store, stream, needed).await.expect("the disk works");
                }
                appended => break appended.expect("the store works"),
            }
        };
        assert!(answer.value.is_ok(), "the oldest goes");
        self.waiting.push_back((answer.after, stream, now));
    }

    async fn take_durable(&mut self) {
        let Some((commit, ..)) = self.waiting.front() else { return };
        self.lane.durable(*commit).await.expect("the disk works");
        let (durable, now) = (self.lane.durable_commit(), Instant::now());
        while let Some((_, stream, start)) =
            self.waiting.front().copied().filter(|(commit, ..)| *commit <= durable)
        {
            self.waiting.pop_front();
            self.samples.push(now - start);
            if !self.is_all {
                self.ready.push_back(stream);
            }
        }
    }
}
