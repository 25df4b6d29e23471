//! The durable write, bare: how long it takes to have 4 to 256 KiB on disk, by each way that a
//! store could go.
//!
//! `cargo bench --bench durable_write -- FOLDER [SECONDS]` measures each cell for so long (1 by
//! default) in the folder, on a quiet machine. Each lane is a thread with a file of its own of 64
//! MiB that it writes from front to back, again and again, one write in flight. Without a folder
//! nothing is measured.
//!
//! Ways: `bare` is pwrite with O_DIRECT and O_DSYNC on the thread itself, the limit of what a store
//! can reach; `bare fallocated` the same on a file whose extents were never written; `thread` is
//! the store's helper thread; `ring` is io_uring with O_DIRECT and O_DSYNC; `ring fdatasync` a
//! buffered write on the ring and a sync on it; `fdatasync` both as calls of the thread.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use midge::storage::disk::{Access, Disk, DiskBuffer};
use midge::storage::thread_disk::{ThreadDisk, WriteMode};
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
    Thread,
    Ring,
    RingFdatasync,
    Fdatasync,
}

const WAYS: [(Way, &str); 6] = [
    (Way::Bare, "bare"),
    (Way::BareFallocated, "bare fallocated"),
    (Way::Thread, "thread"),
    (Way::Ring, "ring"),
    (Way::RingFdatasync, "ring fdatasync"),
    (Way::Fdatasync, "fdatasync"),
];

fn main() -> io::Result<()> {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let Some(folder) = arguments.first().map(PathBuf::from) else {
        println!("usage: cargo bench --bench durable_write -- FOLDER [SECONDS]");
        return Ok(());
    };
    let seconds = arguments.get(1).map_or(1.0, |text| text.parse().expect("seconds are a number"));
    let duration = Duration::from_secs_f64(seconds);
    let probed = ThreadDisk::probe(&folder)?;
    println!("{}: {probed:?}", folder.display());
    println!("| way | lanes | KiB | p50 us | p99 us | writes/s | MiB/s | CPU us/write |");
    println!("|---|---|---|---|---|---|---|---|");
    for (way, name) in WAYS {
        for lanes in LANES {
            for size in SIZES {
                let cell = Cell { way, size, duration };
                let threads: Vec<_> = (0..lanes)
                    .map(|lane| {
                        let path = folder.join(format!("durable-write-{lane}"));
                        std::thread::spawn(move || cell.measure(&path))
                    })
                    .collect();
                let mut all = Vec::new();
                for thread in threads {
                    all.extend(thread.join().expect("no thread panics")?);
                }
                report(name, lanes, cell, all);
            }
        }
    }
    Ok(())
}

fn report(name: &str, lanes: usize, cell: Cell, mut all: Vec<Sample>) {
    all.sort_unstable_by_key(|sample| sample.wall);
    let at = |share: f64| {
        let index = ((all.len() - 1) as f64 * share) as usize;
        all[index].wall.as_secs_f64() * 1e6
    };
    let cpu: Duration = all.iter().map(|sample| sample.cpu).sum();
    let per_second = all.len() as f64 / cell.duration.as_secs_f64();
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

/// One write. CPU time is that of the requesting thread: a helper's is not included.
struct Sample {
    wall: Duration,
    cpu: Duration,
}

#[derive(Clone, Copy)]
struct Cell {
    way: Way,
    size: usize,
    duration: Duration,
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

impl Cell {
    fn measure(self, path: &Path) -> io::Result<Vec<Sample>> {
        self.prepare(path)?;
        let samples = match self.way {
            Way::Bare | Way::BareFallocated => {
                let file = direct(path)?;
                let buffer = DiskBuffer::zeroed(self.size);
                self.repeat(|offset| file.write_all_at(buffer.as_slice(), offset))
            }
            Way::Fdatasync => {
                let file = OpenOptions::new().write(true).open(path)?;
                let buffer = DiskBuffer::zeroed(self.size);
                self.repeat(|offset| {
                    file.write_all_at(buffer.as_slice(), offset)?;
                    file.sync_data()
                })
            }
            Way::Thread => self.through_thread(path),
            Way::Ring | Way::RingFdatasync => self.on_ring(path),
        };
        std::fs::remove_file(path)?;
        samples
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

    fn repeat(self, mut write: impl FnMut(u64) -> io::Result<()>) -> io::Result<Vec<Sample>> {
        let mut samples = Vec::new();
        let begin = Instant::now();
        for offset in self.offsets() {
            let (wall, cpu) = (Instant::now(), cpu_time());
            write(offset)?;
            samples.push(Sample { wall: wall.elapsed(), cpu: cpu_time() - cpu });
            if begin.elapsed() >= self.duration {
                break;
            }
        }
        Ok(samples)
    }

    fn through_thread(self, path: &Path) -> io::Result<Vec<Sample>> {
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

    fn on_ring(self, path: &Path) -> io::Result<Vec<Sample>> {
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
                let (wall, cpu) = (Instant::now(), cpu_time());
                let (result, slice) = file.write_all_at(bytes.slice(start..), offset).await;
                result?;
                bytes = slice.into_inner();
                if self.way == Way::RingFdatasync {
                    file.sync_data().await?;
                }
                samples.push(Sample { wall: wall.elapsed(), cpu: cpu_time() - cpu });
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
