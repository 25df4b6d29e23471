//! The predefined sets of workloads.

/// The predefined sets of `compare --suite`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SuiteName {
    /// Throughput by size, fan-out, wildcard and queue group; open-loop latency; requests in both
    /// loops; idle connections
    Standard,
    /// The rows of README's tables: twelve of throughput, closed-loop requests of 50 clients and of
    /// one. Each run lasts a second after 300 ms of warm-up, whatever --duration says
    Readme,
    /// One of each kind
    Quick,
    /// Latency only: one-way at several rates, requests, a sweep
    Latency,
    /// Benchmarks that people run first, with a server on its defaults and nothing pinned: requests
    /// of 1, 4 and 50 clients, requests whose partners change, throughput at 128 B, 1,000
    /// connections, an idle server
    FirstTry,
    /// JetStream: publishing in both loops, one and 64 publishers that wait, key-value puts and
    /// gets, every kind of consumer, many streams, memory storage
    #[value(name = "jetstream")]
    JetStream,
    /// The part of it that stores, at rates for a server that syncs its disk after every message:
    /// filling streams to be read would take such a server minutes each
    #[value(name = "jetstream-store")]
    JetStreamStore,
}

/// In the order of README's tables.
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

/// Requesters and responders sleep while they wait, on threads of their own, like programs that
/// share the server's cores. Other programs may take part of the cores: the result says how much,
/// but the run stays valid. If there are as many responders as requesters, each requester has its
/// own.
const FIRST_TRY: [&str; 9] = [
    "latency --core-taken-max 1 --warmup 500ms --duration 2s --mode request --closed-loop --pacer sleep --load-threads 2",
    "latency --core-taken-max 1 --warmup 500ms --duration 2s --mode request --closed-loop --pacer sleep --load-threads 2 --publishers 4",
    "latency --core-taken-max 1 --warmup 500ms --duration 2s --mode request --closed-loop --pacer sleep --load-threads 2 --publishers 50",
    "latency --core-taken-max 1 --warmup 500ms --duration 6s --mode request --closed-loop --pacer sleep --load-threads 2 --publishers 8 --subscribers 8 --shift 2s",
    "throughput --core-taken-max 1 --warmup 500ms --duration 2s --payload 128",
    "throughput --core-taken-max 1 --warmup 500ms --duration 2s --payload 128 --publishers 4 --subscribers 4",
    "throughput --core-taken-max 1 --warmup 500ms --duration 2s --payload 128 --subscribers 50",
    "connections --connections 1000 --core-taken-max 1 --warmup 300ms --duration 1s --pacer sleep --rate 1k",
    "idle --core-taken-max 1 --warmup 1s --duration 3s",
];

/// Each with the durability of both sides beside it. Puts and gets have 1,000 keys.
const JETSTREAM: [&str; 17] = [
    "jetstream publish --in-flight 500",
    "jetstream publish --in-flight 500 --payload 16k --duration 3s",
    "jetstream publish-sync --clients 64",
    "jetstream publish-sync",
    "jetstream publish-open --rate 2k",
    "jetstream publish-open --rate 10k --clients 10",
    "jetstream kv-put --clients 16",
    "jetstream kv-get --clients 16",
    "jetstream consume --messages 500000",
    "jetstream fetch --messages 500000 --batch 500",
    "jetstream ordered --messages 500000",
    "jetstream push --messages 500000",
    "jetstream mixed --in-flight 100",
    "jetstream publish --streams 100 --clients 4",
    "jetstream consume --streams 10 --clients 10 --messages 500000",
    "jetstream publish --in-flight 500 --storage memory",
    "jetstream consume --messages 500000 --storage memory",
];

const JETSTREAM_STORE: [&str; 6] = [
    "jetstream publish --in-flight 500",
    "jetstream publish-sync --clients 64",
    "jetstream publish-sync",
    "jetstream publish-open --rate 200",
    "jetstream kv-put --clients 16",
    "jetstream publish --streams 100 --clients 4",
];

impl SuiteName {
    /// Returns the workloads in the form of `--run`.
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
            SuiteName::FirstTry => &FIRST_TRY,
            SuiteName::JetStream => &JETSTREAM,
            SuiteName::JetStreamStore => &JETSTREAM_STORE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Workload;
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
