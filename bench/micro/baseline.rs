//! Compares this run's figures with those in `bench/baselines` and with the marks.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Nanoseconds,
    Bytes,
    /// A multiple of something else.
    Ratio,
}

#[derive(Clone)]
pub struct Figure {
    pub name: String,
    pub value: f64,
    pub unit: Unit,
}

/// The file of recorded figures.
#[derive(Serialize, Deserialize)]
struct Baseline {
    machine: String,
    kernel: String,
    command: String,
    /// By name: nanoseconds (medians), bytes or ratios.
    figures: BTreeMap<String, f64>,
}

/// A figure above this multiple of the recorded one is reported as worse.
const WORSE: f64 = 1.33;

/// The marks, by the beginning of a figure's name. The last one that fits applies; infinity means
/// none.
const MARKS: [(&str, f64); 9] = [
    ("parse/pub_16", 25.0),
    ("parse/pub_16_", f64::INFINITY),
    ("cache_hit/", 30.0),
    ("match_new/1000000", 2_000.0),
    ("match_new/ratio", 3.0),
    ("insert/", 3_000.0),
    ("remove", 3_000.0),
    ("memory/", 200.0),
    ("copy_ratio/", 1.3),
];

/// The store's figures have a file of their own: each file is of one machine.
fn path(is_store: bool) -> &'static Path {
    Path::new(match is_store {
        true => concat!(env!("CARGO_MANIFEST_DIR"), "/bench/baselines/store.json"),
        false => concat!(env!("CARGO_MANIFEST_DIR"), "/bench/baselines/micro.json"),
    })
}

/// Removes earlier results, so that a run of a part shows that part alone.
pub fn forget_earlier_runs(output: &Path) {
    if output.exists() {
        fs::remove_dir_all(output).expect("the build's own folder for temporary files");
    }
}

/// Returns the medians that criterion left behind.
pub fn figures(output: &Path) -> Vec<Figure> {
    let mut found = Vec::new();
    collect(output, &mut found);
    let value = |name: &str, found: &[Figure]| {
        found.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    };
    let sizes = ["match_new/1000000", "match_new/10000"].map(|name| value(name, &found));
    if let [Some(large), Some(small)] = sizes {
        let name = "match_new/ratio".to_owned();
        found.push(Figure { name, value: large / small, unit: Unit::Ratio });
    }
    found
}

fn collect(folder: &Path, found: &mut Vec<Figure>) {
    let read = |file: &str| -> Option<serde_json::Value> {
        serde_json::from_slice(&fs::read(folder.join("new").join(file)).ok()?).ok()
    };
    if let (Some(benchmark), Some(estimates)) = (read("benchmark.json"), read("estimates.json")) {
        let name = benchmark["full_id"].as_str().expect("criterion names its benchmarks");
        let value = estimates["median"]["point_estimate"].as_f64().expect("criterion estimates");
        found.push(Figure { name: name.to_owned(), value, unit: Unit::Nanoseconds });
        return;
    }
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        collect(&entry.path(), found);
    }
}

/// Prints each figure with the recorded one and its mark; fails if `MIDGE_MICRO=check` asks for it.
pub fn compare(figures: Vec<Figure>) -> ExitCode {
    let is_store = |figure: &Figure| figure.name.starts_with("store_");
    let (store, others): (Vec<Figure>, Vec<Figure>) = figures.into_iter().partition(is_store);
    let mut bad_count = 0;
    for (figures, is_store) in [(others, false), (store, true)] {
        if !figures.is_empty() {
            bad_count += compare_with(path(is_store), figures);
        }
    }
    let is_checked = std::env::var("MIDGE_MICRO").is_ok_and(|mode| mode == "check");
    ExitCode::from(u8::from(is_checked && bad_count > 0))
}

/// Returns how many figures missed their mark or are worse than those of the file.
fn compare_with(path: &Path, mut figures: Vec<Figure>) -> usize {
    figures.sort_by(|left, right| left.name.cmp(&right.name));
    let mode = std::env::var("MIDGE_MICRO").unwrap_or_default();
    let recorded: Option<Baseline> =
        fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    println!("\nthis machine:     {}", machine());
    if let Some(recorded) = &recorded {
        println!("recorded machine: {}", recorded.machine);
    }
    println!("{:<24} {:>10} {:>10} {:>7} {:>10}", "", "now", "recorded", "ratio", "mark");
    let mut bad_count = 0;
    for Figure { name, value, unit } in &figures {
        let mark = MARKS.iter().rfind(|(begin, _)| name.starts_with(begin)).map(|(_, mark)| *mark);
        let mark = mark.filter(|mark| mark.is_finite());
        let before = recorded.as_ref().and_then(|recorded| recorded.figures.get(name)).copied();
        let ratio = before.map(|before| value / before);
        let is_bad = mark.is_some_and(|mark| *value > mark) || ratio.is_some_and(|it| it > WORSE);
        bad_count += usize::from(is_bad);
        let unit = match unit {
            Unit::Nanoseconds => "ns",
            Unit::Bytes => "B ",
            Unit::Ratio => "x ",
        };
        let show = |value: Option<f64>| match value {
            Some(value) if value < 10.0 => format!("{value:.2} {unit}"),
            Some(value) => format!("{value:.1} {unit}"),
            None => "-".to_owned(),
        };
        let ratio = ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        let verdict = if is_bad { "  <-- missed or worse" } else { "" };
        let [now, before, mark] = [Some(*value), before, mark].map(show);
        println!("{name:<24} {now:>10} {before:>10} {ratio:>7} {mark:>10}{verdict}");
    }
    if mode == "record" {
        record(path, recorded, &figures);
    }
    bad_count
}

/// Writes this run's figures over the recorded ones; others stay if they are from the same machine.
fn record(path: &Path, recorded: Option<Baseline>, figures: &[Figure]) {
    let kept = recorded.filter(|recorded| recorded.machine == machine());
    let mut all = kept.map_or_else(BTreeMap::new, |recorded| recorded.figures);
    let rounded = |value: f64| (value * 100.0).round() / 100.0;
    all.extend(figures.iter().map(|figure| (figure.name.clone(), rounded(figure.value))));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let baseline = Baseline {
        machine: machine(),
        kernel: kernel.trim().to_owned(),
        command: "MIDGE_MICRO=record cargo bench --bench micro".to_owned(),
        figures: all,
    };
    let mut text = serde_json::to_string_pretty(&baseline).expect("numbers and text");
    text.push('\n');
    fs::write(path, text).expect("the repository can be written");
    println!("recorded in {}", path.display());
}

/// Returns the processor, with enough detail to tell models of the same vague name apart.
fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.split('\t').next() == Some(name));
        line.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown").to_owned()
    };
    let cores = info.lines().filter(|line| line.starts_with("processor")).count();
    let (name, family, model) = (field("model name"), field("cpu family"), field("model"));
    let virtual_one = if info.contains(" hypervisor") { ", virtual machine" } else { "" };
    format!("{name}, family {family} model {model}, {cores} cores{virtual_one}")
}
