//! CPU time and resident memory of the server's process, from /proc, sampled during a run.

use crate::host::clock::now_ns;
use crate::host::core_time::{self, ThreadUse};
use crate::units::CoreList;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Time between two samples of the series.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// Samples kept: more than an hour at the interval above; a longer run keeps its first part.
const SAMPLES_MAX: usize = 40_000;

/// One sample of the process.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub time_ns: u64,
    /// CPU time of all threads so far, in nanoseconds.
    pub cpu_ns: u64,
    pub resident_bytes: u64,
    /// Number of times that its threads were put on a core so far: for a server that does little,
    /// the number of its wake-ups.
    pub wake_count: u64,
}

/// Reads one process. Threads that have ended keep the time they had when last seen.
///
/// Its files stay open, so that a sample is one short read per thread: the sampling thread shares
/// the load's cores, and each microsecond it takes there delays a send.
pub struct ServerProcess {
    id: u32,
    tasks: PathBuf,
    /// Number of links of the folder of tasks when `threads` was read from it: there is one for
    /// each thread.
    task_links: u64,
    threads: HashMap<u32, ThreadTime>,
    /// CPU time of threads that have ended.
    ended_cpu_ns: u64,
    ended_wake_count: u64,
    memory: File,
    page_size: u64,
}

struct ThreadTime {
    schedstat: File,
    cpu_ns: u64,
    /// Time during which it was ready and others had the core.
    waited_ns: u64,
    wake_count: u64,
}

/// A sample with the core time of each thread so far: a border of a window.
#[derive(Clone, Debug)]
pub struct Border {
    pub sample: Sample,
    /// By thread: time on a core, and time waiting for one.
    threads: HashMap<u32, (u64, u64)>,
}

impl ServerProcess {
    /// Opens a process.
    ///
    /// # Errors
    /// If /proc does not show the process's CPU time to this user.
    pub fn open(id: u32) -> Result<ServerProcess, String> {
        let unreadable = || format!("/proc/{id} is not readable: CPU and memory are not measured");
        let mut process = ServerProcess {
            id,
            tasks: PathBuf::from(format!("/proc/{id}/task")),
            task_links: 0,
            threads: HashMap::new(),
            ended_cpu_ns: 0,
            ended_wake_count: 0,
            memory: File::open(format!("/proc/{id}/statm")).map_err(|_| unreadable())?,
            page_size: rustix::param::page_size() as u64,
        };
        process.sample().map(|_| process).ok_or_else(unreadable)
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    /// Takes a sample; `None` if the process has ended.
    pub fn sample(&mut self) -> Option<Sample> {
        let links = std::fs::metadata(&self.tasks).ok()?.nlink();
        if links != self.task_links || !self.read_threads() {
            self.task_links = links;
            self.look_for_threads()?;
            // A thread that ends right now counts with what was read before.
            self.read_threads();
        }
        let resident_pages = number_at(&self.memory, 1)?;
        let cpu_ns = self.ended_cpu_ns + self.threads.values().map(|time| time.cpu_ns).sum::<u64>();
        let cpu_ns = if cpu_ns == 0 { self.cpu_ns_by_ticks()? } else { cpu_ns };
        let wakes = self.threads.values().map(|time| time.wake_count).sum::<u64>();
        Some(Sample {
            time_ns: now_ns(),
            cpu_ns,
            resident_bytes: resident_pages * self.page_size,
            wake_count: self.ended_wake_count + wakes,
        })
    }

    /// Takes a border; `None` if the process has ended.
    pub fn border(&mut self) -> Option<Border> {
        let sample = self.sample()?;
        let times = self.threads.iter().map(|(&id, time)| (id, (time.cpu_ns, time.waited_ns)));
        Some(Border { sample, threads: times.collect() })
    }

    /// Returns each thread's use of its cores between two borders. Threads that ended meanwhile are
    /// left out.
    pub fn core_use(&self, from: &Border, until: &Border) -> Vec<ThreadUse> {
        let window_ns = until.sample.time_ns.saturating_sub(from.sample.time_ns).max(1) as f64;
        let used = until.threads.iter().filter_map(|(id, &(ran_ns, waited_ns))| {
            let (ran_before_ns, waited_before_ns) = from.threads.get(id).copied().unwrap_or((0, 0));
            Some(ThreadUse {
                ran: ran_ns.saturating_sub(ran_before_ns) as f64 / window_ns,
                waited: waited_ns.saturating_sub(waited_before_ns) as f64 / window_ns,
                cores: core_time::allowed_cores(&format!("{}/task/{id}", self.id))?,
            })
        });
        used.collect()
    }

    /// Reads the times of every known thread. False if one of them has ended.
    fn read_threads(&mut self) -> bool {
        let mut all_there = true;
        for time in self.threads.values_mut() {
            // In nanoseconds, finer than the ticks of /proc/PID/stat.
            match times_at(&time.schedstat) {
                Some(times) => (time.cpu_ns, time.waited_ns, time.wake_count) = times,
                None => all_there = false,
            }
        }
        all_there
    }

    fn look_for_threads(&mut self) -> Option<()> {
        let mut known = std::mem::take(&mut self.threads);
        for task in std::fs::read_dir(&self.tasks).ok()?.filter_map(Result::ok) {
            let Some(id) = task.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if let Some(time) = known.remove(&id) {
                // An id may be reused for another thread; the old file can then no longer be read.
                if times_at(&time.schedstat).is_some() {
                    self.threads.insert(id, time);
                    continue;
                }
                self.ended_cpu_ns += time.cpu_ns;
                self.ended_wake_count += time.wake_count;
            }
            // A thread whose file cannot be opened has ended meanwhile.
            if let Ok(schedstat) = File::open(task.path().join("schedstat")) {
                let time = ThreadTime { schedstat, cpu_ns: 0, waited_ns: 0, wake_count: 0 };
                self.threads.insert(id, time);
            }
        }
        self.ended_cpu_ns += known.values().map(|time| time.cpu_ns).sum::<u64>();
        self.ended_wake_count += known.values().map(|time| time.wake_count).sum::<u64>();
        Some(())
    }

    /// Returns the CPU time on kernels without schedstat, with a resolution of ten milliseconds.
    fn cpu_ns_by_ticks(&self) -> Option<u64> {
        let content = std::fs::read_to_string(format!("/proc/{}/stat", self.id)).ok()?;
        // The name in parentheses may contain blanks; fields are counted after it.
        let fields: Vec<&str> = content.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks: u64 =
            fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        Some(ticks * 1_000_000_000 / rustix::param::clock_ticks_per_second())
    }
}

/// Returns the number in a field of a /proc file, reading it anew.
fn number_at(file: &File, field: usize) -> Option<u64> {
    with_text_of(file, |text| text.split_whitespace().nth(field)?.parse().ok())
}

/// Returns time on a core and time waiting for one, in nanoseconds, and how often the thread was
/// put on one.
fn times_at(schedstat: &File) -> Option<(u64, u64, u64)> {
    with_text_of(schedstat, |text| {
        let (cpu_ns, waited_ns) = core_time::times_ns(text)?;
        Some((cpu_ns, waited_ns, text.split_whitespace().nth(2)?.parse().ok()?))
    })
}

fn with_text_of<T>(file: &File, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    let mut bytes = [0; 256];
    let count = file.read_at(&mut bytes, 0).ok()?;
    read(std::str::from_utf8(&bytes[..count]).ok()?)
}

/// Returns the cores that a process may use, unless they are all of this host's.
pub fn allowed_cores(id: u32) -> Option<CoreList> {
    let cores = core_time::allowed_cores(&id.to_string())?;
    (Some(&cores) != core_time::allowed_cores("self").as_ref()).then_some(cores)
}

/// Samples a process on a thread of its own until it is stopped.
pub struct Sampler {
    process: Arc<Mutex<ServerProcess>>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<Sample>>,
}

impl Sampler {
    pub fn start(process: ServerProcess) -> Sampler {
        let process = Arc::new(Mutex::new(process));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (process, stop) = (Arc::clone(&process), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut samples = Vec::new();
                while !stop.load(Ordering::Relaxed) && samples.len() < SAMPLES_MAX {
                    samples.extend(lock(&process).sample());
                    std::thread::park_timeout(SAMPLE_INTERVAL);
                }
                samples
            })
        };
        Sampler { process, stop, thread }
    }

    /// Takes a border now, for the measured window.
    pub fn border_now(&self) -> Option<Border> {
        lock(&self.process).border()
    }

    /// As `ServerProcess::core_use`.
    pub fn core_use(&self, from: &Border, until: &Border) -> Vec<ThreadUse> {
        lock(&self.process).core_use(from, until)
    }

    pub fn finish(self) -> Vec<Sample> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or_default()
    }
}

fn lock(process: &Mutex<ServerProcess>) -> std::sync::MutexGuard<'_, ServerProcess> {
    process.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_of_this_process_grows_when_it_works() {
        let mut process = ServerProcess::open(std::process::id()).unwrap();
        let before = process.sample().unwrap();
        let mut value = 1u64;
        loop {
            for _ in 0..1_000_000 {
                value = std::hint::black_box(value.wrapping_mul(3));
            }
            let after = process.sample().unwrap();
            if after.cpu_ns > before.cpu_ns + 1_000_000 {
                assert!(after.resident_bytes > 0);
                return;
            }
            assert!(after.time_ns < before.time_ns + 10_000_000_000, "no CPU time in 10 s");
        }
    }

    #[test]
    fn the_time_of_a_thread_that_ended_stays_and_a_new_thread_is_seen() {
        let burn = || {
            let cpu_ns = || {
                let content = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
                content.split_whitespace().next().unwrap().parse::<u64>().unwrap()
            };
            let mut value = 1u64;
            while cpu_ns() < 20_000_000 {
                value = std::hint::black_box(value.wrapping_mul(3));
            }
        };
        let mut process = ServerProcess::open(std::process::id()).unwrap();
        let before = process.sample().unwrap().cpu_ns;
        let (done, wait) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            burn();
            done.send(()).unwrap();
            ended.recv().unwrap();
        });
        wait.recv().unwrap();
        let with_thread = process.sample().unwrap().cpu_ns;
        assert!(with_thread >= before + 20_000_000, "{before} {with_thread}");
        end.send(()).unwrap();
        thread.join().unwrap();
        let after = process.sample().unwrap().cpu_ns;
        assert!(after >= with_thread, "{with_thread} {after}");
    }

    #[test]
    fn a_process_that_shares_its_core_is_seen_to_wait() {
        let core = core_time::allowed_cores("self").unwrap().0[0];
        let spin = || {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", "while :; do :; done"]);
            crate::host::spawn::spawn_pinned(command, &CoreList(vec![core]), "sh").unwrap()
        };
        let mut children = [spin(), spin()];
        let mut process = ServerProcess::open(children[0].id()).unwrap();
        let from = process.border().unwrap();
        let until_ns = now_ns() + 20_000_000_000;
        let taken = loop {
            // Waits until it has run and has waited for at least as long.
            std::thread::park_timeout(Duration::from_millis(50));
            let until = process.border().unwrap();
            let used = process.core_use(&from, &until);
            let taken = core_time::taken_share(&used, &[]).unwrap();
            if (used[0].ran > 0.0 && taken > 0.2) || now_ns() > until_ns {
                break taken;
            }
        };
        for child in &mut children {
            crate::host::interrupt::disown_child(child.id());
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(taken > 0.2, "{taken}");
    }

    #[test]
    fn a_process_that_does_not_exist_is_reported() {
        assert!(ServerProcess::open(u32::MAX).is_err());
    }
}
