//! The last lines of a comparison, for those in a hurry: who is better at what, and what cannot be
//! said.

use crate::compare::statistics::{Comparison, Decided};
use crate::load::floor;
use crate::output::document::Document;
use crate::relay;

/// The figures that people decide by, as they are named here.
pub(super) const HEADLINES: [(&str, &str); 9] = [
    ("messages_per_second", "messages per second"),
    ("published_per_second", "messages published per second"),
    ("requests_per_second", "requests per second"),
    ("connects_per_second", "connects per second"),
    ("latency_p50_ns", "latency p50"),
    ("latency_p99_ns", "latency p99"),
    ("server_cpu_us_per_message", "CPU per message"),
    ("server_cpu_us_per_request", "CPU per request"),
    ("server_memory_mib_max", "memory"),
];

/// Returns three lines, or one where nothing can be compared; empty for a document of one server.
pub fn lines(document: &Document) -> Vec<String> {
    let [a, b, ..] = document.sides.as_slice() else { return Vec::new() };
    let unusable = unusable(document);
    if document.comparisons.is_empty() {
        return vec![format!("no comparison possible: {}", or_nothing(&unusable))];
    }
    let better = outcomes(&document.comparisons, Decided::Better);
    let worse = outcomes(&document.comparisons, Decided::Worse);
    let mut open = outcomes(&document.comparisons, Decided::Undecided);
    open.extend(outcomes(&document.comparisons, Decided::TooFewRounds));
    open.extend(unusable);
    vec![
        format!("{} is better at: {}", a.name, or_nothing(&better)),
        format!("{} is better at: {}", b.name, or_nothing(&worse)),
        format!("not decided: {}", or_nothing(&open)),
    ]
}

fn or_nothing(texts: &[String]) -> String {
    if texts.is_empty() { "nothing".to_owned() } else { texts.join("; ") }
}

/// One text for each headline with this outcome: by how much, in how many of the workloads.
fn outcomes(comparisons: &[Comparison], outcome: Decided) -> Vec<String> {
    let text = |(figure, name): (&str, &str)| {
        let all = || comparisons.iter().filter(|comparison| comparison.figure == figure);
        let found: Vec<&Comparison> =
            all().filter(|comparison| comparison.decided() == outcome).collect();
        let first = found.first()?;
        let share = match (found.len(), all().count()) {
            (1, 1) => String::new(),
            (1, _) => format!(" ({})", first.workload),
            (some, all) => format!(" ({some} of {all} workloads)"),
        };
        let by = match outcome {
            Decided::Undecided => String::new(),
            Decided::TooFewRounds => ", too few rounds".to_owned(),
            Decided::Better | Decided::Worse => times_text(&found, outcome),
        };
        Some(format!("{name}{by}{share}"))
    };
    HEADLINES.into_iter().filter_map(text).collect()
}

/// By how much the better side is better: a number, or the least and the most of several.
fn times_text(found: &[&Comparison], outcome: Decided) -> String {
    let times = found.iter().map(|comparison| match outcome {
        Decided::Worse => 1.0 / comparison.times_better,
        _ => comparison.times_better,
    });
    let (least, most) =
        times.fold((f64::INFINITY, 0.0_f64), |(least, most), it| (least.min(it), most.max(it)));
    let number = |times: f64| match times {
        10.0.. => format!("{times:.0}"),
        _ => format!("{times:.1}"),
    };
    match (number(least), number(most)) {
        (least, most) if least == most => format!(" {least} x"),
        (least, most) => format!(" {least} to {most} x"),
    }
}

/// One text for each workload without a single pair of valid runs: how many were valid, and why
/// not.
fn unusable(document: &Document) -> Vec<String> {
    let mut texts = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for run in &document.runs {
        let is_alone = run.side == floor::SIDE || run.side == relay::process::SIDE;
        if is_alone || seen.contains(&run.workload.as_str()) {
            continue;
        }
        seen.push(&run.workload);
        if document.comparisons.iter().any(|comparison| comparison.workload == run.workload) {
            continue;
        }
        let runs = || document.runs.iter().filter(|other| other.workload == run.workload);
        let rounds = runs().map(|run| run.round).max().map_or(0, |last| last + 1);
        let is_whole = |round: &u32| {
            let sides = document.sides.iter().take(2);
            sides.into_iter().all(|side| {
                runs().any(|run| run.round == *round && run.side == side.name && run.valid)
            })
        };
        let valid = (0..rounds).filter(is_whole).count();
        let fault = runs().flat_map(|run| &run.faults).next();
        let why = fault.map_or(String::new(), |fault| format!(": {fault}"));
        texts.push(format!("{}, {valid} of {rounds} rounds valid{why}", run.workload));
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::statistics::compare;
    use crate::findings::result::{Better, RunResult};
    use crate::output::document::Side;

    fn run(side: &str, workload: &str, round: u32, rate: f64, p99: f64) -> RunResult {
        let mut run = RunResult::new("throughput", workload);
        (run.side, run.round) = (side.to_owned(), round);
        run.figure("messages_per_second", rate, "messages/s", Better::Higher);
        run.figure("latency_p99_ns", p99, "ns", Better::Lower);
        run
    }

    fn document(runs: Vec<RunResult>) -> Document {
        let side = |name: &str| Side { name: name.to_owned(), ..Side::default() };
        Document {
            sides: vec![side("midge"), side("nats-server")],
            comparisons: compare(&runs, "midge", "nats-server", 1),
            runs,
            ..Document::default()
        }
    }

    #[test]
    fn who_is_better_at_what_fits_three_lines() {
        let mut runs = Vec::new();
        for round in 0..5 {
            for (workload, times) in [("small", 16.0), ("large", 1.5)] {
                runs.push(run("midge", workload, round, times, 3.0));
                // Slower in rate, quicker in latency for large ones alone.
                let p99 = if workload == "large" { 2.0 } else { [2.0, 4.0][round as usize % 2] };
                runs.push(run("nats-server", workload, round, 1.0, p99));
            }
        }
        assert_eq!(
            lines(&document(runs)),
            [
                "midge is better at: messages per second 1.5 to 16 x (2 of 2 workloads)",
                "nats-server is better at: latency p99 1.5 x (throughput large)",
                "not decided: latency p99 (throughput small)",
            ]
        );
    }

    #[test]
    fn rounds_that_do_not_count_are_named_with_the_reason() {
        let mut runs = vec![run("midge", "x", 0, 1.0, 1.0), run("nats-server", "x", 0, 1.0, 1.0)];
        runs[1].valid = false;
        runs[1].faults.push("the load was late".to_owned());
        let expected =
            "no comparison possible: throughput x, 0 of 1 rounds valid: the load was late";
        assert_eq!(lines(&document(runs)), [expected]);
    }

    #[test]
    fn a_document_of_one_server_has_no_verdict() {
        let mut document = document(vec![run("", "x", 0, 1.0, 1.0)]);
        document.sides.truncate(1);
        assert!(lines(&document).is_empty());
    }
}
