//! CPU time and resident memory of the server's process, from /proc, sampled while a run goes on.

use crate::host::clock::now_ns;
use crate::units::CoreList;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Time between two samples of the series.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// Samples kept: an hour and more at the interval above; a longer run keeps its first part.
const SAMPLES_MAX: usize = 40_000;

/// One look at the process.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub time_ns: u64,
    /// CPU time of all threads so far, in nanoseconds.
    pub cpu_ns: u64,
    pub resident_bytes: u64,
}

/// Reads one process. Threads that ended keep what they had used when last seen.
pub struct ServerProcess {
    id: u32,
    thread_cpu_ns: HashMap<u32, u64>,
    page_size: u64,
}

impl ServerProcess {
    /// # Errors
    /// When /proc does not show the process's CPU time to this user.
    pub fn open(id: u32) -> Result<ServerProcess, String> {
        let page_size = rustix::param::page_size() as u64;
        let mut process = ServerProcess { id, thread_cpu_ns: HashMap::new(), page_size };
        match process.sample() {
            Some(_) => Ok(process),
            None => Err(format!("/proc/{id} is not readable: CPU and memory are not measured")),
        }
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    /// `None` when the process is gone.
    pub fn sample(&mut self) -> Option<Sample> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id)).ok()?;
        for task in tasks.filter_map(Result::ok) {
            let Some(thread) = task.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // First field: time on a CPU in nanoseconds. Finer than the ticks of /proc/PID/stat.
            let cpu_ns = std::fs::read_to_string(task.path().join("schedstat"))
                .ok()
                .and_then(|content| content.split_whitespace().next()?.parse().ok());
            if let Some(cpu_ns) = cpu_ns {
                self.thread_cpu_ns.insert(thread, cpu_ns);
            }
        }
        let memory = std::fs::read_to_string(format!("/proc/{}/statm", self.id)).ok()?;
        let resident_pages: u64 = memory.split_whitespace().nth(1)?.parse().ok()?;
        let cpu_ns = match self.thread_cpu_ns.values().sum() {
            0 => self.cpu_ns_by_ticks()?,
            cpu_ns => cpu_ns,
        };
        Some(Sample { time_ns: now_ns(), cpu_ns, resident_bytes: resident_pages * self.page_size })
    }

    /// For kernels without schedstat: ten milliseconds' resolution.
    fn cpu_ns_by_ticks(&self) -> Option<u64> {
        let content = std::fs::read_to_string(format!("/proc/{}/stat", self.id)).ok()?;
        // The name in parentheses may hold blanks; fields are counted behind it.
        let fields: Vec<&str> = content.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks: u64 =
            fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        Some(ticks * 1_000_000_000 / rustix::param::clock_ticks_per_second())
    }
}

/// The cores a process may use, when they are not simply all of this host's.
pub fn allowed_cores(id: u32) -> Option<CoreList> {
    let of_process = |id: &str| {
        let content = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let line = content.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        CoreList::parse(line.trim()).ok()
    };
    let cores = of_process(&id.to_string())?;
    (Some(&cores) != of_process("self").as_ref()).then_some(cores)
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

    /// A sample taken now, for the borders of the measured window.
    pub fn sample_now(&self) -> Option<Sample> {
        lock(&self.process).sample()
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
    fn a_process_that_is_not_there_says_so() {
        assert!(ServerProcess::open(u32::MAX).is_err());
    }
}
