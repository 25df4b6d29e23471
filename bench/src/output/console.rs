//! Prints the result on standard output.

use crate::Failure;
use crate::compare::statistics::{Comparison, Decided, Spread};
use crate::findings::kinds;
use crate::findings::percentiles::PERCENTILES;
use crate::findings::result::{Figure, RunResult};
use crate::load::shard_traffic::{CROSSED_FIGURE, WAKES_FIGURE};
use crate::load::{floor, sweep};
use crate::output::document::Document;
use crate::output::table::Table;
use crate::output::verdict;
use crate::output::warnings;
use crate::relay;
use crate::units::{nanoseconds_text, number_text};
use std::io::Write;

/// Form of what goes to standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Table,
    Json,
    Csv,
}

/// Prints a document.
///
/// # Errors
/// If standard output is closed.
pub fn print(document: &Document, format: Format) -> Result<(), Failure> {
    let text = match format {
        Format::Json => document.to_json() + "\n",
        Format::Csv => document.to_csv(),
        Format::Table => table_text(document),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn table_text(document: &Document) -> String {
    let mut text = String::new();
    for (name, value) in document.environment.lines() {
        text.push_str(&format!("{name}: {value}\n"));
    }
    for side in &document.sides {
        let name = if side.name.is_empty() { "server" } else { &side.name };
        text.push_str(&format!("{name}: {} ({})\n", side.server, side.version));
    }
    for warning in &document.warnings {
        text.push_str(&format!("*** {warning}\n"));
    }
    text.push('\n');
    if document.comparisons.is_empty() {
        for run in &document.runs {
            text.push_str(&run_text(run));
        }
    } else {
        text.push_str(&comparisons_text(document));
    }
    for line in verdict::lines(document) {
        text.push_str(&format!("{line}\n"));
    }
    text
}

fn run_text(run: &RunResult) -> String {
    if run.side == floor::SIDE {
        return percentiles_text(run);
    }
    let mut text = String::new();
    if !run.valid {
        text.push_str("*** INVALID RUN: these figures must not be used ***\n");
    } else if !run.invalid_parts.is_empty() {
        text.push_str("*** INVALID IN PART: some figures are left out ***\n");
    }
    let side = [run.side.as_str(), run.durability.as_str()];
    let side: Vec<&str> = side.into_iter().filter(|text| !text.is_empty()).collect();
    let mut table = Table::new(&[&run.workload, &side.join(", ")]);
    // A sweep's percentiles have a table of their own.
    let shown = |name: &str| !name.starts_with("latency_at_");
    for (name, figure) in run.figures_in_order().into_iter().filter(|(name, _)| shown(name)) {
        table.row(vec![shown_name(name), value_text(figure.value, &figure.unit)]);
    }
    if let Some(counts) = &run.counts {
        for (name, value) in [
            ("received", counts.received),
            ("lost", counts.lost),
            ("doubled", counts.doubled),
            ("out of order", counts.out_of_order),
            ("foreign", counts.foreign),
        ] {
            table.row(vec![name.to_string(), value.to_string()]);
        }
    }
    text.push_str(&table.to_string());
    text.push_str(&shares_text(std::iter::once(run)));
    for fault in &run.faults {
        text.push_str(&format!("INVALID: {fault}\n"));
    }
    for part in &run.invalid_parts {
        text.push_str(&format!("INVALID, left out: {part}\n"));
    }
    for warning in &run.warnings {
        text.push_str(&format!("note: {warning}\n"));
    }
    text.push('\n');
    text
}

fn comparisons_text(document: &Document) -> String {
    let (a, b) = match document.sides.as_slice() {
        [a, b, ..] => (a.name.as_str(), b.name.as_str()),
        _ => ("A", "B"),
    };
    let mut text = String::new();
    let mut workloads: Vec<&str> = Vec::new();
    for run in &document.runs {
        if !workloads.contains(&run.workload.as_str()) {
            workloads.push(&run.workload);
        }
    }
    for workload in workloads {
        let of_workload: Vec<&Comparison> =
            document.comparisons.iter().filter(|c| c.workload == workload).collect();
        if of_workload.is_empty() {
            // The floor, or a workload without a single valid pair of runs.
            text.push_str(&alone_text(document, workload));
            continue;
        }
        let better = format!("{a} better by");
        let (of_a, of_b) =
            (with_durability(document, workload, a), with_durability(document, workload, b));
        let mut table = Table::new(&[
            workload,
            &of_a,
            "[low - high]",
            &of_b,
            "[low - high]",
            &better,
            "[95 %]",
        ]);
        for comparison in of_workload {
            table.row(comparison_cells(comparison, " undecided"));
        }
        text.push_str(&table.to_string());
        text.push_str(&beside_text(document, workload));
        text.push('\n');
    }
    text
}

/// Returns a side's name, with what its acknowledgements were worth in the runs of a workload.
pub fn with_durability(document: &Document, workload: &str, side: &str) -> String {
    let runs = document.runs.iter().filter(|run| run.workload == workload && run.side == side);
    let mut texts: Vec<&str> = runs.map(|run| run.durability.as_str()).collect();
    texts.retain(|text| !text.is_empty());
    texts.dedup();
    match texts.is_empty() {
        true => side.to_string(),
        false => format!("{side}, {}", texts.join(" or ")),
    }
}

/// `undecided` is the text after an interval that contains 1.
pub fn comparison_cells(comparison: &Comparison, undecided: &str) -> Vec<String> {
    let unit = comparison.unit.as_str();
    let value = |spread: &Spread| value_text(spread.median, unit);
    let range = |spread: &Spread| {
        format!("[{} - {}]", value_text(spread.low, unit), value_text(spread.high, unit))
    };
    let (low, high) = comparison.interval;
    let interval = match comparison.decided() {
        Decided::TooFewRounds => "too few rounds".to_string(),
        Decided::Undecided => format!("[{low:.2} - {high:.2}]{undecided}"),
        Decided::Better | Decided::Worse => format!("[{low:.2} - {high:.2}]"),
    };
    vec![
        shown_name(&comparison.figure),
        value(&comparison.a),
        range(&comparison.a),
        value(&comparison.b),
        range(&comparison.b),
        format!("{:.2} x", comparison.times_better),
        interval,
    ]
}

/// Returns the raw relay's figures, invalid runs and wrong counts of a workload.
fn beside_text(document: &Document, workload: &str) -> String {
    let mut text = String::new();
    let runs = || document.runs.iter().filter(|run| run.workload == workload);
    let relay = runs().find(|run| run.side == relay::process::SIDE && run.valid);
    if let Some(relay) = relay.filter(|relay| relay.kind == kinds::LATENCY) {
        text.push_str("the same through the raw relay, on the same cores:\n");
        text.push_str(&percentiles_text(relay));
    }
    if let Some(relay) = relay.filter(|relay| relay.kind == kinds::THROUGHPUT) {
        let shown = |name: &str| {
            let figure = relay.figures.get(name);
            figure.map_or("not measured".to_string(), |f| value_text(f.value, &f.unit))
        };
        text.push_str(&format!(
            "raw relay on the same cores: {}, server CPU {} per message\n",
            shown("messages_per_second"),
            shown("server_cpu_us_per_message")
        ));
    }
    for line in traffic_lines(runs()) {
        text.push_str(&format!("{line}\n"));
    }
    text.push_str(&shares_text(runs()));
    text.push_str(&notes_text(runs()));
    text
}

/// Returns how much went from shard to shard, for each side that reports it: it explains the other
/// figures.
pub fn traffic_lines<'a>(runs: impl Iterator<Item = &'a RunResult> + Clone) -> Vec<String> {
    let mut sides: Vec<&str> = runs.clone().map(|run| run.side.as_str()).collect();
    sides.sort_unstable();
    sides.dedup();
    let line = |side: &str| {
        let texts = [CROSSED_FIGURE, WAKES_FIGURE].map(|name| {
            let of_side = runs.clone().filter(|run| run.side == side && run.valid);
            let figures: Vec<&Figure> = of_side.filter_map(|run| run.figures.get(name)).collect();
            let values: Vec<f64> = figures.iter().map(|figure| figure.value).collect();
            let spread = Spread::of(&values)?;
            let shown = |value| value_text(value, &figures[0].unit);
            let (low, high) = (shown(spread.low), shown(spread.high));
            Some(format!("{} {} [{low} - {high}]", shown_name(name), shown(spread.median)))
        });
        let texts: Vec<String> = texts.into_iter().flatten().collect();
        (!texts.is_empty()).then(|| format!("{side}: {}", texts.join(", ")))
    };
    sides.into_iter().filter_map(line).collect()
}

/// Returns the latency of sweeps: for each side at shares of its own maximum, medians over the
/// rounds.
fn shares_text<'a>(runs: impl Iterator<Item = &'a RunResult> + Clone) -> String {
    let sweeps: Vec<&RunResult> = runs.filter(|run| run.kind == "sweep" && run.valid).collect();
    if sweeps.is_empty() {
        return String::new();
    }
    let mut header = vec!["latency at a share of the maximum"];
    header.extend(PERCENTILES.iter().map(|(name, _)| *name));
    let mut table = Table::new(&header);
    let mut sides: Vec<&str> = sweeps.iter().map(|run| run.side.as_str()).collect();
    sides.sort_unstable();
    sides.dedup();
    for side in sides {
        for share in sweep::SHARES {
            let percent = format!("{:.0}", 100.0 * share);
            let mut row = vec![format!("{side} {percent} %")];
            row.extend(PERCENTILES.iter().map(|(name, _)| {
                let figure = sweep::figure_name(&percent, name);
                let of_side = sweeps.iter().filter(|run| run.side == side);
                let values: Vec<f64> = of_side.filter_map(|run| run.value(&figure)).collect();
                Spread::of(&values).map_or("-".to_string(), |s| nanoseconds_text(s.median))
            }));
            table.row(row);
        }
    }
    table.to_string()
}

fn notes_text<'a>(runs: impl Iterator<Item = &'a RunResult> + Clone) -> String {
    let valid = warnings::grouped(runs.clone().filter(|run| run.valid), |run| &run.warnings);
    let parts = warnings::grouped(runs.clone(), |run| &run.invalid_parts);
    let invalid = warnings::grouped(runs.filter(|run| !run.valid), |run| &run.faults);
    let valid = valid.into_iter().map(|text| format!("note: {text}\n"));
    let invalid =
        invalid.into_iter().chain(parts).map(|text| format!("*** INVALID, left out: {text}\n"));
    valid.chain(invalid).collect()
}

/// Returns a workload that cannot be compared: the floor as a table, of others what was wrong.
fn alone_text(document: &Document, workload: &str) -> String {
    let runs = document.runs.iter().filter(|run| run.workload == workload);
    match runs.clone().find(|run| run.side == floor::SIDE) {
        Some(floor) => percentiles_text(floor),
        None => format!("{workload}: no valid pair of runs\n{}\n", notes_text(runs)),
    }
}

/// Returns one row per histogram, one column per percentile.
fn percentiles_text(run: &RunResult) -> String {
    let mut header = vec![run.workload.as_str()];
    header.extend(PERCENTILES.iter().map(|(name, _)| *name));
    let mut table = Table::new(&header);
    for (name, curve) in &run.curves {
        let mut row = vec![shown_name(name)];
        row.extend(PERCENTILES.iter().map(|(percentile, _)| {
            curve.at(percentile).map_or("-".to_string(), |value| nanoseconds_text(value as f64))
        }));
        table.row(row);
    }
    format!("{table}\n")
}

/// Turns `server_cpu_us_per_message` into `server cpu per message`: the unit is shown with the
/// value.
pub fn shown_name(name: &str) -> String {
    name.trim_end_matches("_ns").replace("_us_", "_").replace("_mib_", "_").replace('_', " ")
}

pub fn value_text(value: f64, unit: &str) -> String {
    match unit {
        "ns" => nanoseconds_text(value),
        "us" => format!("{value:.3} us"),
        "B" => format!("{:.1} MiB", value / f64::from(1 << 20)),
        "" => format!("{:.1} %", 100.0 * value),
        "1/s" => format!("{}/s", number_text(value)),
        "bytes" => format!("{value:.0} {unit}"),
        // The figure's name says what of.
        "connections" | "requests" | "messages" => format!("{value:.0}"),
        unit => format!("{} {unit}", number_text(value)),
    }
}

/// Formats a figure as in the table, for other writers.
pub fn figure_text(figure: &Figure) -> String {
    value_text(figure.value, &figure.unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::result::Better;

    #[test]
    fn a_side_is_named_with_the_durability_of_its_runs() {
        let mut document = Document::default();
        for (side, durability) in [("a", "durable"), ("b", ""), ("a", "durable")] {
            let mut run = RunResult::new("jetstream", "x");
            (run.side, run.durability) = (side.to_string(), durability.to_string());
            document.runs.push(run);
        }
        assert_eq!(with_durability(&document, "jetstream x", "a"), "a, durable");
        assert_eq!(with_durability(&document, "jetstream x", "b"), "b");
        assert_eq!(with_durability(&document, "other", "a"), "a");
    }

    #[test]
    fn shard_traffic_is_shown_for_sides_that_report_it_as_medians_of_valid_rounds() {
        let run = |side: &str, share: Option<f64>, valid| {
            let mut run = RunResult::new("throughput", "x");
            run.side = side.to_string();
            run.valid = valid;
            if let Some(share) = share {
                run.figure(CROSSED_FIGURE, share, "", Better::Neither);
                run.figure(WAKES_FIGURE, 2.0 * share, "wakes", Better::Neither);
            }
            run
        };
        let shares = [(0.25, true), (0.5, true), (0.75, true), (9.0, false)];
        let mut runs: Vec<RunResult> =
            shares.map(|(share, valid)| run("midge", Some(share), valid)).into();
        runs.push(run("nats-server", None, true));
        let expected = "midge: crossed shards share 50.0 % [25.0 % - 75.0 %], \
                        wakes between shards per message 1.00 wakes [0.500 wakes - 1.50 wakes]";
        assert_eq!(traffic_lines(runs.iter()), [expected]);
    }
}
