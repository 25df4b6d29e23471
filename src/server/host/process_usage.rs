//! Reads what the kernel counts for this process: memory, CPU time of the process and of each
//! shard's thread.

use std::fs;
use std::time::{Duration, Instant};

use crate::monitor::varz::ProcessFacts;

/// Interval at which shares of CPU time are sampled.
pub(crate) const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// The resource usage of this process.
pub(crate) struct ProcessUsage {
    sampled: Instant,
    sampled_cpu: Duration,
    cpu_percent: f64,
    core_count: usize,
    /// `/proc` directories of the shards' threads, once they are known.
    shard_tasks: Vec<String>,
    shard_count: usize,
    /// As of the last sample.
    sampled_shard_cpu: Vec<Duration>,
    shard_busy: Vec<f64>,
}

impl ProcessUsage {
    pub(crate) fn new(shard_count: usize) -> Self {
        let core_count = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            sampled: Instant::now(),
            sampled_cpu: cpu_time("/proc/self").unwrap_or_default(),
            cpu_percent: 0.0,
            core_count,
            shard_tasks: Vec::new(),
            shard_count,
            sampled_shard_cpu: vec![Duration::ZERO; shard_count],
            shard_busy: vec![0.0; shard_count],
        }
    }

    /// Takes a sample, if the last one is old enough.
    pub(crate) fn sample(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.sampled);
        if passed < SAMPLE_INTERVAL {
            return;
        }
        let cpu = cpu_time("/proc/self").unwrap_or_default();
        let share = cpu.saturating_sub(self.sampled_cpu).as_secs_f64() / passed.as_secs_f64();
        self.cpu_percent = (share * 1000.0).round() / 10.0;
        let shard_cpu = self.shard_cpu();
        for (at, now) in shard_cpu.iter().enumerate() {
            let ran = now.saturating_sub(self.sampled_shard_cpu[at]).as_secs_f64();
            self.shard_busy[at] = (ran / passed.as_secs_f64()).min(1.0);
        }
        self.sampled_shard_cpu = shard_cpu;
        (self.sampled, self.sampled_cpu) = (now, cpu);
    }

    /// Returns the CPU time of each shard's thread.
    fn shard_cpu(&mut self) -> Vec<Duration> {
        if self.shard_tasks.len() < self.shard_count {
            self.shard_tasks = shard_tasks(self.shard_count);
        }
        let mut times: Vec<Duration> =
            self.shard_tasks.iter().map(|task| run_time(task).unwrap_or_default()).collect();
        times.resize(self.shard_count, Duration::ZERO);
        times
    }

    pub(crate) fn facts(&mut self) -> ProcessFacts {
        ProcessFacts {
            memory_bytes: resident_bytes(),
            cpu_percent: self.cpu_percent,
            core_count: self.core_count,
            shard_cpu: self.shard_cpu(),
            shard_busy: self.shard_busy.clone(),
            open_files: open_files(),
        }
    }
}

/// Returns the directories of the threads named `shard-N`, by N.
fn shard_tasks(count: usize) -> Vec<String> {
    let mut tasks: Vec<(usize, String)> = Vec::new();
    for entry in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let directory = entry.path().display().to_string();
        let name = fs::read_to_string(format!("{directory}/comm")).unwrap_or_default();
        let index = name.trim_end().strip_prefix("shard-").and_then(|index| index.parse().ok());
        if let Some(index) = index.filter(|index| *index < count) {
            tasks.push((index, directory));
        }
    }
    tasks.sort();
    let complete = tasks.iter().enumerate().all(|(at, task)| task.0 == at);
    if complete { tasks.into_iter().map(|task| task.1).collect() } else { Vec::new() }
}

/// Lists the threads of this process as the kernel sees them, one per line. For when a shard no
/// longer responds, so only the kernel is asked.
pub(crate) fn threads() -> String {
    let mut lines = Vec::new();
    for entry in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let directory = entry.path();
        let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap_or_default();
        let (name, status) = (read("comm"), read("status"));
        let of = |wanted: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(wanted)?.strip_prefix(':'));
            line.unwrap_or_default().trim().to_owned()
        };
        // 0 if the thread runs, or if the kernel does not tell.
        let waits_in = read("wchan");
        lines.push(format!(
            "{:<16} {} {} waits_in={} ran={:?} cores={} switches={}+{}\n",
            name.trim_end(),
            entry.file_name().to_string_lossy(),
            of("State").replace(' ', ""),
            if waits_in.is_empty() { "?" } else { &waits_in },
            run_time(&directory.display().to_string()).unwrap_or_default(),
            of("Cpus_allowed_list"),
            of("voluntary_ctxt_switches"),
            of("nonvoluntary_ctxt_switches"),
        ));
    }
    lines.sort();
    format!(
        "{} threads. There are no goroutines and no stacks to show here: name, id, state, where in the kernel \
         it waits, time it ran, cores it may run on, switches of its own will and against it.\n\n{}",
        lines.len(),
        lines.concat()
    )
}

/// Returns user plus system time from `/proc/X/stat`.
fn cpu_time(directory: &str) -> Option<Duration> {
    let text = fs::read_to_string(format!("{directory}/stat")).ok()?;
    parse_cpu_time(&text, rustix::param::clock_ticks_per_second())
}

fn parse_cpu_time(text: &str, ticks_per_second: u64) -> Option<Duration> {
    // The name is in parentheses and may contain anything, including parentheses.
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_secs_f64((user + system) as f64 / ticks_per_second as f64))
}

/// Returns exact CPU time if the kernel keeps it; else with the resolution of clock ticks.
fn run_time(directory: &str) -> Option<Duration> {
    let exact = fs::read_to_string(format!("{directory}/schedstat")).ok();
    let exact = exact.and_then(|text| text.split_ascii_whitespace().next()?.parse().ok());
    exact.map(Duration::from_nanos).or_else(|| cpu_time(directory))
}

/// Returns the number of open descriptors, which is the size of the directory since Linux 6.2.
/// Before, it is 0, and counting ten thousand entries at each scrape would cost too much.
fn open_files() -> Option<u64> {
    let size = fs::metadata("/proc/self/fd").ok()?.len();
    (size > 0).then_some(size)
}

fn resident_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_after_any_process_name() {
        let text = "77 (a) (b c) S 1 1 1 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 9 0 1 2 3";
        assert_eq!(parse_cpu_time(text, 100), Some(Duration::from_secs(2)));
        assert_eq!(parse_cpu_time("77 (a", 100), None);
    }

    #[test]
    fn the_thread_that_asks_runs() {
        let builder = std::thread::Builder::new().name("shard-7".into());
        let text = builder.spawn(threads).expect("a thread").join().expect("no panic");
        let line = text.lines().find(|line| line.starts_with("shard-7 ")).expect("it is listed");
        assert!(line.contains(" R(running) "), "{line}");
    }

    #[test]
    fn this_process_uses_memory_and_files() {
        let facts = ProcessUsage::new(0).facts();
        assert!(facts.memory_bytes > 1 << 20);
        assert!(facts.open_files.is_none_or(|files| files > 2));
        assert!(facts.core_count > 0);
    }
}
