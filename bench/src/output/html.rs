//! The report: one HTML file that needs no network, drawn from a document.

use crate::Failure;
use crate::compare::statistics::{Decided, Spread};
use crate::findings::kinds;
use crate::findings::percentiles::{Curve, PERCENTILES, new_histogram};
use crate::findings::result::RunResult;
use crate::host::environment::Environment;
use crate::load::floor;
use crate::output::chart::{Axis, Chart, Line, Scale, Unit};
use crate::output::console::{
    comparison_cells, figure_text, shown_name, traffic_lines, with_durability,
};
use crate::output::document::Document;
use crate::output::{verdict, warnings};
use crate::relay;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::collections::BTreeMap;

const MIB: f64 = 1_048_576.0;
/// Points per decade of a load curve drawn from several sweeps.
const NEIGHBOURS_PER_DECADE: f64 = 12.0;
const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// Renders the report.
///
/// # Errors
/// If a stored histogram is damaged.
pub fn render(document: &Document) -> Result<String, Failure> {
    let sections: Vec<Markup> = workloads(document)
        .iter()
        .map(|workload| workload_section(document, workload))
        .collect::<Result<_, _>>()?;
    let content = html! {
        @for line in verdict::lines(document) {
            p.verdict { (line) }
        }
        @for warning in &document.warnings {
            p class="invalid" { (warning) }
        }
        (facts(document))
        (floor_section(document))
        @for section in sections { (section) }
    };
    let after = html! {
        div id="tip" hidden {}
        script { (PreEscaped(SCRIPT)) }
    };
    Ok(page("midge-bench report", &content, &after))
}

/// Returns a page that needs no other file; `after` comes behind the part that people read.
pub(super) fn page(title: &str, content: &Markup, after: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { (title) }
                    (content)
                }
                (after)
            }
        }
    };
    page.into_string()
}

/// Returns the workloads that were run against servers, in the order in which they were run.
pub(super) fn workloads(document: &Document) -> Vec<&str> {
    let mut workloads: Vec<&str> = Vec::new();
    for run in document.runs.iter().filter(|run| run.side != floor::SIDE) {
        if !workloads.contains(&run.workload.as_str()) {
            workloads.push(&run.workload);
        }
    }
    workloads
}

fn facts(document: &Document) -> Markup {
    let mut rows = vec![("measured".to_string(), measured_text(document))];
    for side in &document.sides {
        let name = if side.name.is_empty() { "server" } else { &side.name };
        rows.push((name.to_string(), format!("{} ({})", side.server, side.version)));
    }
    let environment: &Environment = &document.environment;
    rows.extend(environment.lines().into_iter().map(|(name, value)| (name.to_string(), value)));
    let words: Vec<String> = document.command_line.iter().map(|word| shell_word(word)).collect();
    rows.push(("command".to_string(), words.join(" ")));
    html! {
        details open {
            summary { "Environment" }
            table class="facts" {
                @for (name, value) in rows {
                    tr { th { (name) } td { (value) } }
                }
            }
        }
    }
}

/// Formats the time of the measurement: a moment for one command, a span of days for merged
/// results.
pub(super) fn measured_text(document: &Document) -> String {
    let moment = |unix_ms: u64| {
        let seconds = i64::try_from(unix_ms / 1000).unwrap_or(0);
        match time::OffsetDateTime::from_unix_timestamp(seconds) {
            Ok(time) => format!("{} {:02}:{:02} UTC", time.date(), time.hour(), time.minute()),
            Err(_) => "unknown".to_string(),
        }
    };
    let began = document.runs.iter().map(|run| run.started_unix_ms);
    let first = began.clone().min().unwrap_or(document.created_unix_ms);
    let last = began.max().unwrap_or(document.created_unix_ms);
    match (moment(first), moment(last)) {
        (first, last) if first == last => first,
        (first, last) => format!("{first} to {last}"),
    }
}

/// Shows the host's own part in what a due message waits for.
fn floor_section(document: &Document) -> Markup {
    let Some(floor) = document.runs.iter().find(|run| run.side == floor::SIDE) else {
        return Markup::default();
    };
    let classes = ["floor-1", "floor-2", "floor-3", "floor-4"];
    let lines = floor.curves.iter().zip(classes).map(|((name, curve), class)| Line {
        name: shown_name(name),
        class: class.to_string(),
        points: curve_points(curve),
        dots: false,
    });
    let chart =
        percentile_chart("Noise floor: no broker can be better than this host", lines.collect());
    html! {
        section {
            h2 { "Noise floor" }
            (chart.draw())
        }
    }
}

fn workload_section(document: &Document, workload: &str) -> Result<Markup, Failure> {
    let runs: Vec<&RunResult> =
        document.runs.iter().filter(|run| run.workload == workload).collect();
    let valid = || runs.iter().copied().filter(|run| run.valid);
    let sides = by_side(document, &runs);
    let mut charts = vec![rounds_chart(&sides)];
    charts.extend(latency_charts(document, &sides)?);
    charts.push(load_chart(&sides));
    charts.push(series_chart(&sides, "server_cpu_cores", 1.0, "Server CPU over time", "cores"));
    charts.push(series_chart(
        &sides,
        "server_resident_bytes",
        MIB,
        "Server memory over time",
        "MiB resident",
    ));
    Ok(html! {
        section {
            h2 { (workload) }
            @for run in runs.iter().filter(|run| !run.valid) {
                p class="invalid" {
                    "Invalid, left out: " (side_name(run)) " round " (run.round + 1) ": "
                    (run.faults.join("; "))
                }
            }
            @for part in warnings::grouped(runs.iter().copied(), |run| &run.invalid_parts) {
                p class="invalid" { "Invalid, left out: " (part) }
            }
            (figures_table(document, workload, &runs))
            @for warning in warnings::grouped(valid(), |run| &run.warnings) {
                p class="warning" { (warning) }
            }
            @for chart in &charts { (chart.draw()) }
        }
    })
}

fn side_name(run: &RunResult) -> String {
    if run.side.is_empty() { "server".to_string() } else { run.side.clone() }
}

/// Groups the valid runs of a workload by side, with the class of its colour: servers in the
/// document's order first.
fn by_side<'a>(
    document: &Document,
    runs: &[&'a RunResult],
) -> Vec<(String, String, Vec<&'a RunResult>)> {
    let mut names: Vec<&str> = document.sides.iter().map(|side| side.name.as_str()).collect();
    names.push(relay::process::SIDE);
    let classes = |index: usize, name: &str| match (name, index) {
        (relay::process::SIDE, _) => "relay",
        (_, 0) => "side-a",
        _ => "side-b",
    };
    names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let of_side: Vec<&RunResult> =
                runs.iter().copied().filter(|run| run.valid && run.side == *name).collect();
            let shown = if name.is_empty() { "server" } else { name };
            (shown.to_string(), classes(index, name).to_string(), of_side)
        })
        .filter(|(_, _, runs)| !runs.is_empty())
        .collect()
}

/// Figures of the raw relay that are shown next to those of a server.
const RELAY_FIGURES: [&str; 4] =
    ["messages_per_second", "server_cpu_us_per_message", "latency_p50_ns", "latency_p99_ns"];

fn figures_table(document: &Document, workload: &str, runs: &[&RunResult]) -> Markup {
    let comparisons: Vec<_> =
        document.comparisons.iter().filter(|c| c.workload == workload).collect();
    let compared = document.sides.first_chunk::<2>().filter(|_| !comparisons.is_empty());
    let single = runs.iter().find(|run| run.valid && run.side != relay::process::SIDE);
    let relay = runs.iter().find(|run| run.valid && run.side == relay::process::SIDE);
    html! {
        div class="wide" {
            table class="figures" {
                @if let Some([a, b]) = compared {
                    tr {
                        th { "figure" }
                        th { (with_durability(document, workload, &a.name)) }
                        th { "low - high" }
                        th { (with_durability(document, workload, &b.name)) } th { "low - high" }
                        th { (a.name) " better by" } th { "95 %" }
                    }
                    @for comparison in comparisons {
                        tr class=(decided_class(comparison.decided())) {
                            @for cell in comparison_cells(comparison, "") { td { (cell) } }
                        }
                    }
                } @else if let Some(run) = single {
                    @if !run.durability.is_empty() {
                        tr { td { "durability" } td { (run.durability) } }
                    }
                    @for (name, figure) in run.figures_in_order() {
                        tr { td { (shown_name(name)) } td { (figure_text(figure)) } }
                    }
                }
                @if compared.is_some() {
                    @for line in traffic_lines(runs.iter().copied()) {
                        tr class="beside" { td colspan="7" { (line) } }
                    }
                }
                @if let Some(relay) = relay {
                    tr class="beside" {
                        td { "raw relay" }
                        td colspan="6" { (relay_text(relay)) }
                    }
                }
            }
        }
    }
}

fn decided_class(decided: Decided) -> &'static str {
    match decided {
        Decided::Better => "win",
        Decided::Worse => "lose",
        Decided::Undecided | Decided::TooFewRounds => "tie",
    }
}

fn relay_text(relay: &RunResult) -> String {
    let shown = RELAY_FIGURES.iter().filter_map(|name| {
        Some(format!("{} {}", shown_name(name), figure_text(relay.figures.get(*name)?)))
    });
    shown.collect::<Vec<String>>().join(", ")
}

/// Draws one dot per round for the most important figure.
fn rounds_chart(sides: &[(String, String, Vec<&RunResult>)]) -> Chart {
    let requests =
        sides.iter().any(|(_, _, runs)| runs.iter().any(|run| run.kind == kinds::CLOSED_LOOP));
    let (figure, what) = match requests {
        true => ("requests_per_second", "Requests"),
        false => ("messages_per_second", "Messages"),
    };
    let figure = |run: &RunResult| run.value(figure);
    let lines = sides
        .iter()
        .filter(|(_, class, _)| class != "relay")
        .map(|(name, class, runs)| Line {
            name: name.clone(),
            class: class.clone(),
            points: runs
                .iter()
                .filter_map(|run| Some((f64::from(run.round + 1), figure(run)?)))
                .collect(),
            dots: true,
        })
        .filter(|line| line.points.len() > 1)
        .collect();
    Chart {
        title: format!("{what} per second, round by round"),
        x: Axis { title: "round".to_string(), scale: Scale::Linear, unit: Unit::Number },
        y: Axis {
            title: format!("{}/s", what.to_lowercase()),
            scale: Scale::Linear,
            unit: Unit::Number,
        },
        lines,
    }
}

/// Draws one chart per kind of histogram, all rounds of a side merged, with the floor.
fn latency_charts(
    document: &Document,
    sides: &[(String, String, Vec<&RunResult>)],
) -> Result<Vec<Chart>, Failure> {
    let mut charts: BTreeMap<&str, Vec<Line>> = BTreeMap::new();
    for (name, class, runs) in sides {
        let mut curves: BTreeMap<&str, hdrhistogram::Histogram<u64>> = BTreeMap::new();
        for run in runs {
            for (curve_name, curve) in &run.curves {
                let merged = curves.entry(curve_name).or_insert_with(new_histogram);
                *merged += curve.decode()?;
            }
        }
        for (curve_name, histogram) in curves {
            let points = curve_points(&Curve::of(&histogram));
            let line = Line { name: name.clone(), class: class.clone(), points, dots: false };
            charts.entry(curve_name).or_default().push(line);
        }
    }
    let hiccups = document
        .runs
        .iter()
        .filter(|run| run.side == floor::SIDE)
        .find_map(|run| run.curves.get("hiccup_load_core"));
    // The requested histogram first, the generator's own share after it.
    let mut charts: Vec<(&str, Vec<Line>)> = charts.into_iter().collect();
    charts.sort_by_key(|(curve_name, _)| (*curve_name == "late", *curve_name));
    let with_floor = charts.into_iter().map(|(curve_name, mut lines)| {
        if let Some(curve) = hiccups.filter(|_| curve_name != "late") {
            lines.push(Line {
                name: "hiccups of the load's core".to_string(),
                class: "floor-1".to_string(),
                points: curve_points(curve),
                dots: false,
            });
        }
        let title = match curve_name {
            "latency" => "Latency by percentile, from the time each message was due".to_string(),
            "late" => "Late sends: the generator's own share".to_string(),
            other => format!("{}{}", other[..1].to_uppercase(), &other[1..]),
        };
        percentile_chart(&title, lines)
    });
    Ok(with_floor.collect())
}

fn percentile_chart(title: &str, lines: Vec<Line>) -> Chart {
    Chart {
        title: title.to_string(),
        x: Axis { title: "percentile".to_string(), scale: Scale::Percentile, unit: Unit::Percent },
        y: Axis { title: "latency".to_string(), scale: Scale::Log, unit: Unit::Nanoseconds },
        lines,
    }
}

fn curve_points(curve: &Curve) -> Vec<(f64, f64)> {
    curve.points.iter().map(|(percentile, value)| (*percentile, *value as f64)).collect()
}

/// Draws latency against load for a sweep: the valid points of the search and of the shares.
fn load_chart(sides: &[(String, String, Vec<&RunResult>)]) -> Chart {
    let mut lines = Vec::new();
    for (name, class, runs) in sides {
        for (percentile, _) in PERCENTILES.iter().filter(|(name, _)| ["p50", "p99"].contains(name))
        {
            let mut points: Vec<(f64, f64)> = runs
                .iter()
                .flat_map(|run| &run.load_points)
                .filter(|point| point.valid)
                .filter_map(|point| {
                    Some((point.rate_reached, *point.latency_ns.get(*percentile)? as f64))
                })
                .collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let sweep_count = runs.iter().filter(|run| !run.load_points.is_empty()).count();
            if sweep_count > 1 {
                points = medians_of_neighbours(&points);
            }
            let dashes = if *percentile == "p50" { " dashed" } else { "" };
            lines.push(Line {
                name: format!("{name} {percentile}"),
                class: format!("{class}{dashes}"),
                points,
                dots: true,
            });
        }
    }
    Chart {
        title: "Latency against load".to_string(),
        x: Axis { title: "messages/s".to_string(), scale: Scale::Log, unit: Unit::Number },
        y: Axis { title: "latency".to_string(), scale: Scale::Log, unit: Unit::Nanoseconds },
        lines,
    }
}

/// Joins several sweeps to one line: each search takes other rates, so the points of neighbouring
/// rates, a twelfth of a decade, are merged to their medians.
fn medians_of_neighbours(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut groups: BTreeMap<i64, Vec<(f64, f64)>> = BTreeMap::new();
    for &(rate, latency) in points.iter().filter(|(rate, _)| *rate > 0.0) {
        let group = (rate.log10() * NEIGHBOURS_PER_DECADE).round() as i64;
        groups.entry(group).or_default().push((rate, latency));
    }
    let median = |values: Vec<f64>| Spread::of(&values).map(|spread| spread.median);
    groups
        .values()
        .filter_map(|group| {
            let rate = median(group.iter().map(|point| point.0).collect())?;
            Some((rate, median(group.iter().map(|point| point.1).collect())?))
        })
        .collect()
}

/// Quotes a word so that it can be pasted into a shell.
fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn series_chart(
    sides: &[(String, String, Vec<&RunResult>)],
    series: &str,
    unit_size: f64,
    title: &str,
    axis_title: &str,
) -> Chart {
    // The first valid round stands for all: lines of five rounds on top of each other would be
    // unreadable.
    let lines = sides
        .iter()
        .filter_map(|(name, class, runs)| {
            let series = runs.iter().find_map(|run| run.series.get(series))?;
            let points = series.iter().map(|(time, value)| (*time, value / unit_size)).collect();
            Some(Line { name: name.clone(), class: class.clone(), points, dots: false })
        })
        .collect();
    Chart {
        title: title.to_string(),
        x: Axis { title: "seconds".to_string(), scale: Scale::Linear, unit: Unit::Number },
        y: Axis { title: axis_title.to_string(), scale: Scale::Linear, unit: Unit::Number },
        lines,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::result::LoadPoint;
    use crate::output::document::Side;

    fn sweep(round: u32, rates: &[(f64, u64)]) -> RunResult {
        let mut run = RunResult::new("sweep", "x");
        run.round = round;
        for &(rate, p99) in rates {
            run.load_points.push(LoadPoint {
                rate_asked: rate,
                rate_reached: rate,
                share_of_max: None,
                valid: rate < 1e6,
                latency_ns: BTreeMap::from([("p50".into(), p99 / 2), ("p99".into(), p99)]),
            });
        }
        run
    }

    fn load_points(runs: Vec<RunResult>) -> Vec<(String, Vec<(f64, f64)>)> {
        let document =
            Document { sides: vec![Side::default()], runs: runs.clone(), ..Document::default() };
        let runs: Vec<&RunResult> = runs.iter().collect();
        let lines = load_chart(&by_side(&document, &runs)).lines;
        lines.into_iter().map(|line| (line.name, line.points)).collect()
    }

    #[test]
    fn a_load_curve_has_every_valid_point_of_a_sweep_by_rate() {
        let run = sweep(0, &[(1000.0, 20), (4000.0, 40), (2000.0, 30), (2e6, 90)]);
        let expected =
            |values: [f64; 3]| vec![(1000.0, values[0]), (2000.0, values[1]), (4000.0, values[2])];
        assert_eq!(
            load_points(vec![run]),
            [
                ("server p50".to_string(), expected([10.0, 15.0, 20.0])),
                ("server p99".to_string(), expected([20.0, 30.0, 40.0])),
            ]
        );
    }

    #[test]
    fn several_sweeps_make_one_line_of_medians() {
        let runs = vec![
            sweep(0, &[(1000.0, 20), (2000.0, 200)]),
            sweep(1, &[(1010.0, 60), (2010.0, 100)]),
            sweep(2, &[(1020.0, 30), (2020.0, 300)]),
        ];
        let lines = load_points(runs);
        assert_eq!(lines[1], ("server p99".to_string(), vec![(1010.0, 30.0), (2010.0, 200.0)]));
    }

    #[test]
    fn merged_results_show_the_span_in_which_they_were_measured() {
        let mut document =
            Document { runs: vec![sweep(0, &[]), sweep(1, &[])], ..Document::default() };
        document.runs[0].started_unix_ms = 86_400_000;
        document.runs[1].started_unix_ms = 86_400_000 + 500;
        assert_eq!(measured_text(&document), "1970-01-02 00:00 UTC");
        document.runs[1].started_unix_ms = 3 * 86_400_000;
        assert_eq!(measured_text(&document), "1970-01-02 00:00 UTC to 1970-01-04 00:00 UTC");
    }

    #[test]
    fn a_command_line_can_be_pasted() {
        assert_eq!(shell_word("--rate"), "--rate");
        assert_eq!(shell_word("midge -p {port}"), "'midge -p {port}'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
    }
}
