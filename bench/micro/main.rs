//! Micro-benchmarks of everything that runs for each message, compared with an earlier run.
//!
//! Run: `cargo bench --bench micro`, or a part of it: `cargo bench --bench micro -- parse`. At the
//! end each figure is printed with the one in `bench/baselines/micro.json` and with its mark.
//! `MIDGE_MICRO=record` writes that file anew; `MIDGE_MICRO=check` makes the run fail if a mark is
//! missed or a figure is more than a third worse than the recorded one, which is meaningful only on
//! the recorded machine.
//!
//! Time is the thread's CPU time: time taken by other programs on a shared machine is not counted,
//! their effect on the caches is.

mod baseline;
mod cache;
mod copy;
mod cpu_time;
mod parse;
mod store;
mod table;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use criterion::Criterion;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let output = Path::new(env!("CARGO_TARGET_TMPDIR")).join("micro");
    let mut criterion = Criterion::default()
        .with_measurement(cpu_time::CpuTime)
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2))
        .output_directory(&output)
        .configure_from_args();
    baseline::forget_earlier_runs(&output);
    parse::bench(&mut criterion);
    cache::bench(&mut criterion);
    table::bench(&mut criterion);
    store::bench(&mut criterion);
    let mut figures = baseline::figures(&output);
    // Not criterion benchmarks: one wants the worst of many, the other is not a time.
    if is_wanted("copy") {
        figures.extend(copy::worst_ratios());
    }
    if is_wanted("memory") {
        figures.push(table::memory());
    }
    criterion.final_summary();
    baseline::compare(figures)
}

/// Returns true if the command line names no part, or this one.
fn is_wanted(part: &str) -> bool {
    std::env::args().skip(1).all(|argument| argument.starts_with('-') || argument == part)
}
