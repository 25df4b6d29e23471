//! Runs workloads as the flags describe them, and beside them what they are held against: the host's noise
//! floor and the raw relay.

use crate::Failure;
use crate::cli::Workload;
use crate::compare::relay_process;
use crate::load::floor::{self, FloorPlan};
use crate::load::latency::Mode;
use crate::load::{closed_loop, connections, cores, latency, sweep, throughput};
use crate::output::progress::Progress;
use crate::output::result::RunResult;
use crate::units::CoreList;
use crate::wire::connection::Dialer;
use std::time::Duration;

/// The ready sets of `compare --suite`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SuiteName {
    /// Throughput by size, fan-out, wildcard and queue group; open-loop latency; requests in both loops; idle
    /// connections
    Standard,
    /// The rows of README's tables: twelve of throughput, closed-loop requests of 50 clients and of one. Each
    /// run lasts a second after 300 ms of warm-up, whatever --duration says
    Readme,
    /// One of each kind
    Quick,
    /// Latency only: one-way at several rates, requests, a sweep
    Latency,
}

/// In the order of README.
const README_ROWS: [&str; 14] = [
    "throughput --warmup 300ms --duration 1s --payload 16 --subscribers 0",
    "throughput --warmup 300ms --duration 1s --payload 16",
    "throughput --warmup 300ms --duration 1s --payload 16 --publishers 4 --subscribers 4",
    "throughput --warmup 300ms --duration 1s --payload 128",
    "throughput --warmup 300ms --duration 1s --payload 128 --publishers 4 --subscribers 4",
    "throughput --warmup 300ms --duration 1s --payload 128 --subscribers 100",
    "throughput --warmup 300ms --duration 1s --payload 1k",
    "throughput --warmup 300ms --duration 1s --payload 1k --publishers 4 --subscribers 4",
    "throughput --warmup 300ms --duration 1s --payload 16k",
    "throughput --warmup 300ms --duration 1s --payload 16k --publishers 4 --subscribers 4",
    "throughput --warmup 300ms --duration 1s --payload 16 --subjects 500000 --wildcard",
    "throughput --warmup 300ms --duration 1s --payload 16 --subjects 500000 --subscribers 0",
    "latency --warmup 300ms --duration 1s --mode request --closed-loop --publishers 50",
    "latency --warmup 300ms --duration 1s --mode request --closed-loop",
];

impl SuiteName {
    /// Texts as of `--run`.
    pub fn workloads(self) -> &'static [&'static str] {
        match self {
            SuiteName::Standard => &[
                "throughput --payload 16 --subscribers 0",
                "throughput --payload 16",
                "throughput --payload 128",
                "throughput --payload 1k",
                "throughput --payload 16k",
                "throughput --payload 16 --publishers 4 --subscribers 4",
                "throughput --payload 128 --publishers 4 --subscribers 4",
                "throughput --payload 128 --subjects 1000 --subscribers 4 --wildcard",
                "throughput --payload 128 --publishers 2 --subscribers 4 --queue",
                "latency --rate 10k",
                "latency --rate 50k --publishers 10 --subscribers 1",
                "latency --mode request --rate 10k --publishers 50",
                "latency --mode request --closed-loop",
                "latency --mode request --closed-loop --publishers 50",
                "connections",
            ],
            SuiteName::Readme => &README_ROWS,
            SuiteName::Quick => &[
                "throughput --payload 128",
                "latency --rate 10k",
                "connections --connections 1000",
            ],
            SuiteName::Latency => &[
                "latency --rate 1k",
                "latency --rate 10k",
                "latency --rate 10k --arrival poisson",
                "latency --rate 50k",
                "latency --mode request --rate 1k",
                "latency --mode request --rate 10k --publishers 50",
                "sweep",
            ],
        }
    }
}

/// What holds for every workload of a command.
#[derive(Clone, Debug, Default)]
pub struct Setting {
    pub pin_load: CoreList,
    pub pin_server: CoreList,
    /// Of each meter of the floor; none without it.
    pub floor: Option<Duration>,
}

impl Setting {
    /// Runs one workload against one server.
    ///
    /// # Errors
    /// When it cannot be run at all.
    pub fn execute(
        &self,
        workload: &Workload,
        dialer: &Dialer,
        server: Result<u32, String>,
        progress: &Progress,
    ) -> Result<RunResult, Failure> {
        let pin = &self.pin_load;
        let mut result = match workload {
            Workload::Throughput(arguments) => {
                throughput::run(dialer, &arguments.plan(pin), server, progress)
            }
            Workload::Latency(arguments) if arguments.closed_loop => {
                closed_loop::run(dialer, &arguments.closed_plan(pin), server, progress)
            }
            Workload::Latency(arguments) => {
                latency::run(dialer, &arguments.open_loop.plan(pin), server, progress)
            }
            Workload::Sweep(arguments) => {
                sweep::run(dialer, &arguments.plan(pin), &server, progress)
            }
            Workload::Connections(arguments) => {
                connections::run(dialer, &arguments.plan(pin), &server, progress)
            }
        }?;
        cores::judge(&mut result, workload.time().core_taken_max);
        Ok(result)
    }

    /// The noise floor, if it is wanted.
    ///
    /// # Errors
    /// When a meter cannot be run.
    pub fn measure_floor(&self, progress: &Progress) -> Result<Option<RunResult>, Failure> {
        let Some(duration) = self.floor else { return Ok(None) };
        let plan = FloorPlan {
            duration,
            pin_load: self.pin_load.clone(),
            pin_server: self.pin_server.clone(),
        };
        floor::run(&plan, progress).map(Some)
    }

    /// The same workload through the raw relay on the server's cores: the ceiling of throughput and the
    /// floor of one-way latency. Other workloads need a broker that understands them.
    ///
    /// # Errors
    /// When the relay cannot be run.
    pub fn reference(
        &self,
        workload: &Workload,
        progress: &Progress,
    ) -> Result<Option<RunResult>, Failure> {
        if self.floor.is_none() {
            return Ok(None);
        }
        let (layout, seed) = match workload {
            Workload::Throughput(arguments) => {
                (arguments.plan(&self.pin_load).layout, arguments.time.seed)
            }
            Workload::Latency(arguments) if arguments.open_loop.mode == Mode::OneWay => {
                let arguments = &arguments.open_loop;
                (arguments.plan(&self.pin_load).layout, arguments.time.seed)
            }
            _ => return Ok(None),
        };
        let Some(relay) = relay_process::start(&layout, seed, &self.pin_server)? else {
            return Ok(None);
        };
        progress.set_prefix(relay_process::SIDE);
        let server = Ok(relay.process_id());
        let result = self.execute(workload, &relay.dialer(), server, progress);
        progress.set_prefix("");
        let mut result = result?;
        result.side = relay_process::SIDE.to_string();
        Ok(Some(result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;
    use std::time::Duration;

    #[test]
    fn every_text_of_every_suite_is_a_workload() {
        for suite in SuiteName::value_variants() {
            assert!(!suite.workloads().is_empty());
            for text in suite.workloads() {
                Workload::parse(text).and_then(|workload| workload.check()).unwrap();
            }
        }
    }

    #[test]
    fn the_suite_of_readme_has_a_row_for_each_of_readmes() {
        let readme = include_str!("../../README.md");
        let section = readme.split("\n## ").find(|text| text.starts_with("Measuring\n")).unwrap();
        let rows = |begin: &str| section.lines().filter(|line| line.starts_with(begin)).count();
        // One row in the second table is the same workload against another command line.
        let with_busy_poll = rows("| 1 client, `--busy-poll");
        assert_eq!(with_busy_poll, 1);
        let shown: usize =
            ["| 1 → ", "| 4 → ", "| 50 clients", "| 1 client "].map(rows).iter().sum();
        assert_eq!(SuiteName::Readme.workloads().len(), shown);
        for text in SuiteName::Readme.workloads() {
            let time = Workload::parse(text).unwrap().time().clone();
            assert_eq!(time.warmup, Duration::from_millis(300), "{text}");
            assert_eq!(time.duration, Duration::from_secs(1), "{text}");
        }
    }
}
