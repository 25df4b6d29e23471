//! The durable write, bare: how long it takes to have 4 to 256 KiB on disk, by each way that a
//! store could go.
//!
//! `cargo bench --bench durable_write -- FOLDER [SECONDS [LANES [ROUNDS]]]` measures each cell for so long (1 by default)
//! in the folder, on a quiet machine, for up to so many lanes (4), the ways in turns over so many rounds (1).
//! Each lane is a thread with a file of its own of 64 MiB that it writes from front to back, again and again, one write
//! in flight. Without a folder nothing is measured.
//!
//! Ways: `bare` is pwrite with O_DIRECT and O_DSYNC on the thread itself, the limit of what a store can reach;
//! `bare fallocated` the same on a file whose extents were never written; `bare fdatasync` a buffered pwrite and a sync
//! on the thread itself. `thread` is the store's helper thread, asked by a thread that sleeps in a channel; `thread,
//! shard` the same helper, asked by a task on a ring that sleeps until an eventfd wakes it, as a shard does; `thread
//! fdatasync` a helper that does a buffered pwrite and a sync. `ring` is io_uring with O_DIRECT and O_DSYNC, `ring
//! fdatasync` a buffered write on the ring and a sync on it. CPU is that of the whole process, helpers and the ring's own
//! kernel threads included.

mod collected_disk;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use midge::testing::storage::disk::{Access, Disk, DiskBuffer};
use midge::testing::storage::thread_disk::{ThreadDisk, WriteMode};
use monoio::buf::IoBuf;
use rustix::fs::{FallocateFlags, OFlags};
use rustix::time::ClockId;

const FILE_BYTES: u64 = 64 << 20;

const SIZES: [usize; 4] = [4 << 10, 16 << 10, 64 << 10, 256 << 10];

const LANES: [usize; 3] = [1, 2, 4];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Bare,
    BareFallocated,
    BareFdatasync,
    Thread,
    ThreadShard,
    ThreadFdatasync,
    Ring,
    RingFdatasync,
}

const WAYS: [(Way, &str); 8] = [
    (Way::Bare, "bare"),
    (Way::BareFallocated, "bare fallocated"),
    (Way::BareFdatasync, "bare fdatasync"),
    (Way::Thread, "thread"),
    (Way::ThreadShard, "thread, shard"),
    (Way::ThreadFdatasync, "thread fdatasync"),
    (Way::Ring, "ring"),
    (Way::RingFdatasync, "ring fdatasync"),
];

fn main() -> io::Result<()> {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let Some(folder) = arguments.first().map(PathBuf::from) else {
        println!("usage: cargo bench --bench durable_write -- FOLDER [SECONDS [LANES [ROUNDS]]]");
        return Ok(());
    };
    let seconds = arguments.get(1).map_or(1.0, |text| text.parse().expect("seconds are a number"));
    let count = |index: usize, default| {
        arguments.get(index).map_or(default, |text| text.parse().expect("a number"))
    };
    let (lanes_max, rounds) = (count(2, 4), count(3, 1));
    let duration = Duration::from_secs_f64(seconds);
    let probed = ThreadDisk::probe(&folder)?;
    println!("{}: {probed:?}", folder.display());
    println!("| way | lanes | KiB | p50 us | p99 us | writes/s | MiB/s | CPU us/write |");
    println!("|---|---|---|---|---|---|---|---|");
    for lanes in LANES.into_iter().filter(|lanes| *lanes <= lanes_max) {
        for size in SIZES {
            let mut cells =
                WAYS.map(|(way, _)| (Cell { way, size, duration }, Measured::default()));
            for _ in 0..rounds {
                for (cell, measured) in &mut cells {
                    cell.add_round(&folder, lanes, measured)?;
                }
            }
            for ((cell, measured), (_, name)) in cells.into_iter().zip(WAYS) {
                report(name, lanes, cell, measured);
            }
        }
    }
    Ok(())
}

/// All rounds of a cell.
#[derive(Default)]
struct Measured {
    walls: Vec<Duration>,
    cpu: Duration,
    time: Duration,
}

fn report(name: &str, lanes: usize, cell: Cell, measured: Measured) {
    let Measured { walls: mut all, cpu, time } = measured;
    all.sort_unstable();
    let at = |share: f64| {
        let index = ((all.len() - 1) as f64 * share) as usize;
        all[index].as_secs_f64() * 1e6
    };
    let per_second = all.len() as f64 / time.as_secs_f64();
    println!(
        "| {name} | {lanes} | {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.1} |",
        cell.size >> 10,
        at(0.5),
        at(0.99),
        per_second,
        per_second * cell.size as f64 / f64::from(1 << 20),
        cpu.as_secs_f64() * 1e6 / all.len() as f64,
    );
}

#[derive(Clone, Copy)]
struct Cell {
    way: Way,
    size: usize,
    duration: Duration,
}

/// CPU time of all threads of this process.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

impl Cell {
    fn add_round(self, folder: &Path, lanes: usize, measured: &mut Measured) -> io::Result<()> {
        let paths: Vec<_> =
            (0..lanes).map(|lane| folder.join(format!("durable-write-{lane}"))).collect();
        paths.iter().try_for_each(|path| self.prepare(path))?;
        let start = Arc::new(Barrier::new(lanes + 1));
        let threads: Vec<_> = paths
            .iter()
            .map(|path| {
                let (path, start) = (path.clone(), start.clone());
                std::thread::spawn(move || {
                    start.wait();
                    self.measure(&path)
                })
            })
            .collect();
        let (begin, cpu) = (Instant::now(), cpu_time());
        start.wait();
        for thread in threads {
            measured.walls.extend(thread.join().expect("no thread panics")?);
        }
        measured.cpu += cpu_time() - cpu;
        measured.time += begin.elapsed();
        paths.iter().try_for_each(std::fs::remove_file)
    }

    /// How long each write took.
    fn measure(self, path: &Path) -> io::Result<Vec<Duration>> {
        match self.way {
            Way::Bare | Way::BareFallocated => {
                let file = direct(path)?;
                let buffer = DiskBuffer::zeroed(self.size);
                self.repeat(|offset| file.write_all_at(buffer.as_slice(), offset))
            }
            Way::BareFdatasync => {
                let file = OpenOptions::new().write(true).open(path)?;
                let buffer = DiskBuffer::zeroed(self.size);
                self.repeat(|offset| {
                    file.write_all_at(buffer.as_slice(), offset)?;
                    file.sync_data()
                })
            }
            Way::Thread => self.through_thread(path),
            Way::ThreadShard => self.on_shard(path),
            Way::ThreadFdatasync => self.through_syncing_thread(path),
            Way::Ring | Way::RingFdatasync => self.on_ring(path),
        }
    }

    fn prepare(self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        if self.way == Way::BareFallocated {
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, FILE_BYTES)?;
        } else {
            let zeros = vec![0; 1 << 20];
            for offset in (0..FILE_BYTES).step_by(zeros.len()) {
                file.write_all_at(&zeros, offset)?;
            }
        }
        file.sync_all()
    }

    fn offsets(self) -> impl Iterator<Item = u64> {
        (0..FILE_BYTES / self.size as u64).map(move |index| index * self.size as u64).cycle()
    }

    fn repeat(self, mut write: impl FnMut(u64) -> io::Result<()>) -> io::Result<Vec<Duration>> {
        let mut samples = Vec::new();
        let begin = Instant::now();
        for offset in self.offsets() {
            let start = Instant::now();
            write(offset)?;
            samples.push(start.elapsed());
            if begin.elapsed() >= self.duration {
                break;
            }
        }
        Ok(samples)
    }

    fn through_thread(self, path: &Path) -> io::Result<Vec<Duration>> {
        let root = path.parent().expect("the file is in a folder");
        let name = path.file_name().and_then(|name| name.to_str()).expect("the name is text");
        let disk = ThreadDisk::start(root, WriteMode::Direct, || {})?;
        let file = disk.run(disk.open(name, Access::Durable))?;
        let mut buffer = DiskBuffer::zeroed(self.size);
        self.repeat(|offset| {
            let (result, back) = disk.run(disk.write(&file, offset, std::mem::take(&mut buffer)));
            buffer = back;
            result
        })
    }

    fn on_shard(self, path: &Path) -> io::Result<Vec<Duration>> {
        let root = path.parent().expect("the file is in a folder").to_owned();
        let name = path.file_name().and_then(|name| name.to_str()).expect("the name is text");
        let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().build()?;
        runtime.block_on(async move {
            let disk = collected_disk::start(&root, WriteMode::Direct)?;
            let file = disk.open(name, Access::Durable).await?;
            let mut samples = Vec::new();
            let mut buffer = DiskBuffer::zeroed(self.size);
            let begin = Instant::now();
            for offset in self.offsets() {
                let start = Instant::now();
                let (result, back) = disk.write(&file, offset, buffer).await;
                result?;
                buffer = back;
                samples.push(start.elapsed());
                if begin.elapsed() >= self.duration {
                    break;
                }
            }
            Ok(samples)
        })
    }

    fn through_syncing_thread(self, path: &Path) -> io::Result<Vec<Duration>> {
        let file = OpenOptions::new().write(true).open(path)?;
        let (jobs, queue) = channel::<(u64, DiskBuffer)>();
        let (done, answers) = channel();
        std::thread::spawn(move || {
            for (offset, buffer) in queue {
                let result =
                    file.write_all_at(buffer.as_slice(), offset).and_then(|()| file.sync_data());
                if done.send((result, buffer)).is_err() {
                    return;
                }
            }
        });
        let mut buffer = DiskBuffer::zeroed(self.size);
        self.repeat(|offset| {
            jobs.send((offset, std::mem::take(&mut buffer))).expect("the thread listens");
            let (result, back) = answers.recv().expect("the thread answers");
            buffer = back;
            result
        })
    }

    fn on_ring(self, path: &Path) -> io::Result<Vec<Duration>> {
        let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().build()?;
        runtime.block_on(async move {
            let file = match self.way {
                Way::Ring => direct(path)?,
                _ => OpenOptions::new().write(true).open(path)?,
            };
            let file = monoio::fs::File::from_std(file)?;
            let mut samples = Vec::new();
            let (mut bytes, start) = DiskBuffer::zeroed(self.size).into_parts();
            let begin = Instant::now();
            for offset in self.offsets() {
                let wall = Instant::now();
                let (result, slice) = file.write_all_at(bytes.slice(start..), offset).await;
                result?;
                bytes = slice.into_inner();
                if self.way == Way::RingFdatasync {
                    file.sync_data().await?;
                }
                samples.push(wall.elapsed());
                if begin.elapsed() >= self.duration {
                    break;
                }
            }
            file.close().await?;
            Ok(samples)
        })
    }
}

fn direct(path: &Path) -> io::Result<File> {
    let flags = (OFlags::DIRECT | OFlags::DSYNC).bits() as i32;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}
