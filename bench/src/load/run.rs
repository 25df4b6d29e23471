//! The frame of every run: the server's process is read from before the connections are opened, the
//! load warms up, a window is measured between two samples, and in the end the result says who had
//! the cores.
//!
//! `throughput`, `latency` and `closed_loop` put their connections, threads and figures into it.

use crate::findings::result::RunResult;
use crate::host::clock::now_ns;
use crate::host::core_time::ThreadUse;
use crate::host::interrupt;
use crate::host::server_process::{Border, Sample, Sampler, ServerProcess};
use crate::load::cores::{self, Span};
use crate::progress::Progress;
use std::time::Duration;

/// Longest pause between two checks for an early end.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A run in progress.
pub struct Run<'a> {
    pub result: RunResult,
    progress: &'a Progress,
    sampler: Option<Sampler>,
    /// This process, if its CPU time is a figure.
    generator: Option<ServerProcess>,
    /// Taken before the first connection.
    before: Option<Border>,
}

/// The borders of warm-up and window, fixed before the load starts.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub start_ns: u64,
    pub measure_from_ns: u64,
    pub end_ns: u64,
    warmup: Duration,
    duration: Duration,
}

/// A border of the window: everything measured, at one moment.
pub struct Look<T> {
    pub time_ns: u64,
    /// The load's own counts.
    pub counts: T,
    server: Option<Border>,
    generator: Option<Border>,
}

pub struct Window<T> {
    pub from: Look<T>,
    pub until: Look<T>,
}

/// CPU time of a process over a window.
#[derive(Clone, Copy, Debug)]
pub struct CpuUse {
    pub ns: f64,
    /// Average number of busy cores.
    pub cores: f64,
}

impl Times {
    /// Returns the times of a load that starts `delay_ns` from now.
    pub fn from_now(delay_ns: u64, warmup: Duration, duration: Duration) -> Times {
        let start_ns = now_ns() + delay_ns;
        let measure_from_ns = start_ns + warmup.as_nanos() as u64;
        let end_ns = measure_from_ns + duration.as_nanos() as u64;
        Times { start_ns, measure_from_ns, end_ns, warmup, duration }
    }

    /// Returns true if the time lies in the window.
    #[inline]
    pub fn measures(&self, time_ns: u64) -> bool {
        time_ns >= self.measure_from_ns && time_ns < self.end_ns
    }
}

impl<'a> Run<'a> {
    /// Starts to read the server's process, or warns that it cannot be read. To be called before
    /// the server is connected to.
    pub fn begin(
        kind: &str,
        workload: &str,
        server: Result<u32, String>,
        progress: &'a Progress,
    ) -> Run<'a> {
        let mut result = RunResult::new(kind, workload);
        let sampler = result.server_process(server).map(Sampler::start);
        let before = sampler.as_ref().and_then(Sampler::border_now);
        Run { result, progress, sampler, generator: None, before }
    }

    /// Also reads this process at each border.
    pub fn with_generator(mut self) -> Run<'a> {
        self.generator = ServerProcess::open(std::process::id()).ok();
        self
    }

    pub fn look<T>(&mut self, counts: impl FnOnce() -> T) -> Look<T> {
        Look {
            server: self.sampler.as_ref().and_then(Sampler::border_now),
            generator: self.generator.as_mut().and_then(ServerProcess::border),
            counts: counts(),
            time_ns: now_ns(),
        }
    }

    /// Waits through warm-up and window, or until `ended`, and takes both borders of the window.
    pub fn measure<T>(
        &mut self,
        times: &Times,
        counts: impl Fn() -> T,
        ended: impl Fn() -> bool,
    ) -> Window<T> {
        self.wait_until(times.measure_from_ns, "warm-up", times.warmup, &ended);
        let from = self.look(&counts);
        let kind = self.result.kind.clone();
        self.wait_until(times.end_ns, &kind, times.duration, &ended);
        Window { from, until: self.look(&counts) }
    }

    fn wait_until(&self, until_ns: u64, what: &str, length: Duration, ended: impl Fn() -> bool) {
        let total_ns = length.as_nanos() as u64;
        while now_ns() < until_ns && !interrupt::requested() && !ended() {
            let left_ns = until_ns.saturating_sub(now_ns());
            self.progress.show(what, total_ns.saturating_sub(left_ns), total_ns);
            std::thread::sleep(LOOK_INTERVAL.min(Duration::from_nanos(left_ns)));
        }
    }

    /// Returns this process's use of its cores in the window; empty if it is not read.
    pub fn generator_use<T>(&self, window: &Window<T>) -> Vec<ThreadUse> {
        match (&self.generator, &window.from.generator, &window.until.generator) {
            (Some(process), Some(from), Some(until)) => process.core_use(from, until),
            _ => Vec::new(),
        }
    }

    /// Returns the shares of the time in which others had the cores of the generator and of the
    /// server. The load's threads used `in_window` in the window and `in_whole` over the whole run,
    /// which must be over.
    pub fn cores_taken<T>(
        &self,
        window: &Window<T>,
        in_window: Vec<ThreadUse>,
        in_whole: Vec<ThreadUse>,
    ) -> (Option<f64>, Option<f64>) {
        let server_use = |from: &Option<Border>, until: &Option<Border>| {
            cores::server_use(self.sampler.as_ref(), from.as_ref(), until.as_ref())
        };
        let after = self.sampler.as_ref().and_then(Sampler::border_now);
        let server = server_use(&window.from.server, &window.until.server);
        let in_window = Span { load: in_window, server };
        let in_whole = Span { load: in_whole, server: server_use(&self.before, &after) };
        cores::taken_of(&in_window, &in_whole)
    }

    /// Returns the result, with the server's CPU and memory over time.
    pub fn finish(mut self) -> RunResult {
        if let Some(sampler) = self.sampler {
            self.result.add_server_series(&sampler.finish());
        }
        if interrupt::requested() {
            self.result.warn("interrupted: shorter than asked for".to_string());
        }
        self.result
    }
}

impl<T> Window<T> {
    pub fn length_ns(&self) -> u64 {
        (self.until.time_ns - self.from.time_ns).max(1)
    }

    /// Returns the server's CPU time; `None` if its process is not read.
    pub fn server_cpu(&self) -> Option<CpuUse> {
        cpu_between(self.from.server.as_ref(), self.until.server.as_ref())
    }

    /// Returns the server's process at either border; `None` if it is not read.
    pub fn server_samples(&self) -> Option<(Sample, Sample)> {
        Some((self.from.server.as_ref()?.sample, self.until.server.as_ref()?.sample))
    }

    /// Returns this process's CPU time; `None` if it is not read.
    pub fn generator_cpu(&self) -> Option<CpuUse> {
        cpu_between(self.from.generator.as_ref(), self.until.generator.as_ref())
    }
}

fn cpu_between(from: Option<&Border>, until: Option<&Border>) -> Option<CpuUse> {
    let (from, until) = (from?.sample, until?.sample);
    let ns = until.cpu_ns.saturating_sub(from.cpu_ns) as f64;
    Some(CpuUse { ns, cores: ns / until.time_ns.saturating_sub(from.time_ns).max(1) as f64 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_window_lies_between_warm_up_and_end_and_ends_early_when_the_load_does() {
        let progress = Progress::new(true);
        let own = Ok(std::process::id());
        let mut run = Run::begin("test", "x", own, &progress).with_generator();
        let times = Times::from_now(0, Duration::from_millis(5), Duration::from_millis(30));
        let looks = Cell::new(0);
        let count = || looks.replace(looks.get() + 1);
        let window = run.measure(&times, count, || false);
        assert!(window.from.time_ns >= times.measure_from_ns);
        assert!(window.until.time_ns >= times.end_ns);
        assert_eq!((window.from.counts, window.until.counts), (0, 1));
        assert!(window.server_cpu().is_some() && window.generator_cpu().is_some());
        let early = Times::from_now(0, Duration::ZERO, Duration::from_secs(3600));
        assert!(run.measure(&early, count, || true).until.time_ns < early.end_ns);
        assert!(run.finish().series.contains_key("server_resident_bytes"));
    }

    #[test]
    fn a_server_that_cannot_be_read_is_a_warning_and_has_no_figures() {
        let progress = Progress::new(true);
        let mut run = Run::begin("test", "x", Err("elsewhere".to_string()), &progress);
        let times = Times::from_now(0, Duration::ZERO, Duration::ZERO);
        let window = run.measure(&times, || (), || false);
        assert!(window.server_cpu().is_none() && window.generator_cpu().is_none());
        assert_eq!(run.cores_taken(&window, Vec::new(), Vec::new()), (None, None));
        assert!(run.finish().warnings[0].contains("elsewhere"));
    }
}
