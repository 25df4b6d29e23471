//! The result of one run, as stored in JSON. `SCHEMA` names the version; a reader refuses others.

use crate::findings::counts::Counts;
use crate::findings::percentiles::{Curve, PERCENTILES};
use crate::host::server_process::{Sample, ServerProcess};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Raised if a reader of an older version would misread the file.
pub const SCHEMA: &str = "midge-bench/1";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Higher,
    Lower,
    /// Neither is better: the figure explains others.
    Neither,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    pub value: f64,
    pub unit: String,
    pub better: Better,
}

/// Points over time: seconds since the run began, value.
pub type Series = Vec<(f64, f64)>;

/// One run of one workload against one server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RunResult {
    /// `throughput`, `latency`, ...
    pub kind: String,
    /// A short form of the workload, the same for all runs that may be compared.
    pub workload: String,
    /// The server: `A`, `B` or a name; empty if there is only one.
    pub side: String,
    pub server_name: String,
    pub server_version: String,
    /// The worth of the server's acknowledgements, if the workload stores something.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub durability: String,
    /// Round of a comparison, from 0, and the place within the whole sequence of runs.
    pub round: u32,
    pub position: u32,
    pub started_unix_ms: u64,
    pub seconds: f64,
    pub valid: bool,
    /// Why the run is not valid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
    /// Parts that are not valid, with the reason: their figures and curves are left out, the rest
    /// remains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub invalid_parts: Vec<String>,
    /// Facts that a reader of the figures should know.
    pub warnings: Vec<String>,
    pub figures: BTreeMap<String, Figure>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub curves: BTreeMap<String, Curve>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub series: BTreeMap<String, Series>,
    /// A sweep's latency at each load.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub load_points: Vec<LoadPoint>,
}

/// One step of a sweep.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoadPoint {
    pub rate_asked: f64,
    pub rate_reached: f64,
    /// Share of the maximum found, if this point was measured at one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_of_max: Option<f64>,
    pub valid: bool,
    pub latency_ns: BTreeMap<String, u64>,
}

impl RunResult {
    pub fn new(kind: &str, workload: &str) -> RunResult {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        RunResult {
            kind: kind.to_string(),
            workload: format!("{kind} {workload}"),
            started_unix_ms: now.map_or(0, |since| since.as_millis() as u64),
            valid: true,
            ..RunResult::default()
        }
    }

    pub fn figure(&mut self, name: &str, value: f64, unit: &str, better: Better) {
        self.figures.insert(name.to_string(), Figure { value, unit: unit.to_string(), better });
    }

    pub fn value(&self, name: &str) -> Option<f64> {
        self.figures.get(name).map(|figure| figure.value)
    }

    /// Returns the figures in reading order: by name, percentiles from the median to the maximum.
    pub fn figures_in_order(&self) -> Vec<(&str, &Figure)> {
        let mut figures: Vec<(&str, &Figure)> =
            self.figures.iter().map(|(name, figure)| (name.as_str(), figure)).collect();
        figures.sort_by_key(|(name, _)| reading_order(name));
        figures
    }

    pub fn warn(&mut self, text: String) {
        self.warnings.push(text);
    }

    /// Opens the server's process, or warns that its CPU and memory are not measured.
    pub fn server_process(&mut self, server: Result<u32, String>) -> Option<ServerProcess> {
        match server.and_then(ServerProcess::open) {
            Ok(process) => Some(process),
            Err(reason) => {
                self.warn(format!("server CPU and memory not measured: {reason}"));
                None
            }
        }
    }

    /// Marks the run as invalid, for the reason in `text`: its figures must not be used.
    pub fn invalidate(&mut self, text: String) {
        self.valid = false;
        self.faults.push(text);
    }

    /// Returns true if both are the same measurement, read twice. A merge may have changed its
    /// round.
    pub fn is_same_as(&self, other: &RunResult) -> bool {
        self.started_unix_ms == other.started_unix_ms
            && self.workload == other.workload
            && self.side == other.side
            && self.seconds == other.seconds
            && self.figures == other.figures
    }

    /// Adds the CPU time and wake-ups of an idle server between two samples.
    pub fn add_idle_use(&mut self, from: &Sample, until: &Sample) {
        let window_ns = (until.time_ns - from.time_ns).max(1) as f64;
        let busy_ns = until.cpu_ns.saturating_sub(from.cpu_ns) as f64;
        self.figure("server_cores_busy_idle", busy_ns / window_ns, "cores", Better::Lower);
        let wakes = until.wake_count.saturating_sub(from.wake_count) as f64;
        self.figure("server_wakes_per_second_idle", wakes * 1e9 / window_ns, "1/s", Better::Lower);
    }

    /// Adds the server's CPU use and memory over time, and its largest memory.
    pub fn add_server_series(&mut self, samples: &[Sample]) {
        let Some(first) = samples.first() else { return };
        let seconds = |sample: &Sample| (sample.time_ns - first.time_ns) as f64 / 1e9;
        let resident: Series =
            samples.iter().map(|sample| (seconds(sample), sample.resident_bytes as f64)).collect();
        let cpu: Series = samples
            .windows(2)
            .filter(|pair| pair[1].time_ns > pair[0].time_ns)
            .map(|pair| {
                let used = pair[1].cpu_ns.saturating_sub(pair[0].cpu_ns) as f64;
                (seconds(&pair[1]), used / (pair[1].time_ns - pair[0].time_ns) as f64)
            })
            .collect();
        let largest = samples.iter().map(|sample| sample.resident_bytes).max().unwrap_or(0);
        self.figure("server_resident_bytes_max", largest as f64, "B", Better::Lower);
        self.series.insert("server_cpu_cores".to_string(), cpu);
        self.series.insert("server_resident_bytes".to_string(), resident);
    }
}

/// The figures at the top of tables; all others follow by name.
const HEAD: [&str; 15] = [
    "messages_per_second",
    "requests_per_second",
    "published_per_second",
    "payload_mib_per_second",
    "rate_max",
    "rate_asked",
    "rate_reached",
    "latency_",
    "round_trip_",
    "probe_",
    "server_cpu_us_per_message",
    "server_cpu_us_per_request",
    "server_",
    "share_",
    "late_",
];

/// Returns a key that sorts figure names for reading.
pub fn reading_order(name: &str) -> (usize, String) {
    let place = HEAD.iter().position(|head| name.starts_with(head)).unwrap_or(HEAD.len());
    let bare = name.strip_suffix("_ns").unwrap_or(name);
    let ranked = PERCENTILES.iter().enumerate().rev().find_map(|(rank, (percentile, _))| {
        let stem = bare.strip_suffix(percentile)?.strip_suffix('_')?;
        Some(format!("{stem}_{rank}"))
    });
    (place, ranked.unwrap_or_else(|| bare.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_read_from_the_median_to_the_maximum() {
        let mut run = RunResult::new("latency", "x");
        for name in ["late_p50_ns", "latency_max_ns", "latency_p99_ns", "latency_p99.9_ns"] {
            run.figure(name, 1.0, "ns", Better::Lower);
        }
        run.figure("latency_p50_ns", 1.0, "ns", Better::Lower);
        run.figure("rate_reached", 1.0, "1/s", Better::Higher);
        let names: Vec<&str> = run.figures_in_order().iter().map(|(name, _)| *name).collect();
        let expected = [
            "rate_reached",
            "latency_p50_ns",
            "latency_p99_ns",
            "latency_p99.9_ns",
            "latency_max_ns",
            "late_p50_ns",
        ];
        assert_eq!(names, expected);
    }
}
