//! The report: one HTML file that needs no network, drawn from a document.

use crate::Failure;
use crate::compare::relay_process;
use crate::host::environment::Environment;
use crate::load::{closed_loop, floor};
use crate::output::chart::{Axis, Chart, Line, Scale, Unit, escaped};
use crate::output::console::{comparison_cells, figure_text, shown_name};
use crate::output::document::Document;
use crate::output::percentiles::{Curve, PERCENTILES, new_histogram};
use crate::output::result::RunResult;
use crate::output::warnings;
use std::collections::BTreeMap;

const MIB: f64 = 1_048_576.0;
const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// # Errors
/// When a stored histogram is damaged.
pub fn render(document: &Document) -> Result<String, Failure> {
    let mut body = String::from("<h1>midge-bench report</h1>\n");
    body.push_str(&facts(document));
    body.push_str(&floor_section(document));
    let workloads = workloads(document);
    for workload in &workloads {
        body.push_str(&workload_section(document, workload)?);
    }
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>midge-bench report</title>\n<style>\n{STYLE}</style></head>\n<body><main>\n{body}\
         </main><div id=\"tip\" hidden></div>\n<script>\n{SCRIPT}</script></body></html>\n"
    ))
}

/// The workloads that were run against servers, in the order they were run.
fn workloads(document: &Document) -> Vec<&str> {
    let mut workloads: Vec<&str> = Vec::new();
    for run in document.runs.iter().filter(|run| run.side != floor::SIDE) {
        if !workloads.contains(&run.workload.as_str()) {
            workloads.push(&run.workload);
        }
    }
    workloads
}

fn facts(document: &Document) -> String {
    let mut rows = String::new();
    let mut row = |name: &str, value: &str| {
        rows.push_str(&format!("<tr><th>{}</th><td>{}</td></tr>", escaped(name), escaped(value)));
    };
    let created = i64::try_from(document.created_unix_ms / 1000).ok();
    let created =
        created.and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok());
    if let Some(created) = created {
        row(
            "measured",
            &format!("{} {:02}:{:02} UTC", created.date(), created.hour(), created.minute()),
        );
    }
    for side in &document.sides {
        let name = if side.name.is_empty() { "server" } else { &side.name };
        row(name, &format!("{} ({})", side.server, side.version));
    }
    let environment: &Environment = &document.environment;
    for (name, value) in environment.lines() {
        row(name, &value);
    }
    row("command", &document.command_line.join(" "));
    format!(
        "<details open><summary>Environment</summary><table class=\"facts\">{rows}</table></details>\n"
    )
}

/// What the host alone does to a message that is due.
fn floor_section(document: &Document) -> String {
    let Some(floor) = document.runs.iter().find(|run| run.side == floor::SIDE) else {
        return String::new();
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
    format!("<section><h2>Noise floor</h2>\n{}</section>\n", chart.to_html())
}

fn workload_section(document: &Document, workload: &str) -> Result<String, Failure> {
    let runs: Vec<&RunResult> =
        document.runs.iter().filter(|run| run.workload == workload).collect();
    let mut html = format!("<section><h2>{}</h2>\n", escaped(workload));
    for run in runs.iter().filter(|run| !run.valid) {
        html.push_str(&format!(
            "<p class=\"invalid\">Invalid, left out: {} round {}: {}</p>\n",
            escaped(&side_name(run)),
            run.round + 1,
            escaped(&run.faults.join("; "))
        ));
    }
    html.push_str(&figures_table(document, workload, &runs));
    for warning in
        warnings::grouped(runs.iter().copied().filter(|run| run.valid), |run| &run.warnings)
    {
        html.push_str(&format!("<p class=\"warning\">{}</p>\n", escaped(&warning)));
    }
    let sides = by_side(document, &runs);
    html.push_str(&rounds_chart(&sides).to_html());
    for chart in latency_charts(document, &sides)? {
        html.push_str(&chart.to_html());
    }
    html.push_str(&load_chart(&sides).to_html());
    html.push_str(
        &series_chart(&sides, "server_cpu_cores", 1.0, "Server CPU over time", "cores").to_html(),
    );
    html.push_str(
        &series_chart(
            &sides,
            "server_resident_bytes",
            MIB,
            "Server memory over time",
            "MiB resident",
        )
        .to_html(),
    );
    html.push_str("</section>\n");
    Ok(html)
}

fn side_name(run: &RunResult) -> String {
    if run.side.is_empty() { "server".to_string() } else { run.side.clone() }
}

/// Valid runs of a workload by side, with the class of its colour: servers in the document's order first.
fn by_side<'a>(
    document: &Document,
    runs: &[&'a RunResult],
) -> Vec<(String, String, Vec<&'a RunResult>)> {
    let mut names: Vec<&str> = document.sides.iter().map(|side| side.name.as_str()).collect();
    names.push(relay_process::SIDE);
    let classes = |index: usize, name: &str| match (name, index) {
        (relay_process::SIDE, _) => "relay",
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

fn figures_table(document: &Document, workload: &str, runs: &[&RunResult]) -> String {
    let cells = |cells: &[String], tag: &str| -> String {
        cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect()
    };
    let comparisons: Vec<_> =
        document.comparisons.iter().filter(|c| c.workload == workload).collect();
    let mut rows = String::new();
    if let ([a, b, ..], false) = (document.sides.as_slice(), comparisons.is_empty()) {
        let better = format!("{} better by", a.name);
        let header = ["figure", &a.name, "low - high", &b.name, "low - high", &better, "95 %"];
        rows.push_str(&format!("<tr>{}</tr>", cells(&header.map(str::to_string), "th")));
        for comparison in comparisons {
            let class = match comparison.interval {
                (low, _) if low > 1.0 => "win",
                (_, high) if high < 1.0 => "lose",
                _ => "tie",
            };
            rows.push_str(&format!(
                "<tr class=\"{class}\">{}</tr>",
                cells(&comparison_cells(comparison, ""), "td")
            ));
        }
    } else if let Some(run) = runs.iter().find(|run| run.valid && run.side != relay_process::SIDE) {
        for (name, figure) in run.figures_in_order() {
            rows.push_str(&format!(
                "<tr>{}</tr>",
                cells(&[shown_name(name), figure_text(figure)], "td")
            ));
        }
    }
    if let Some(relay) = runs.iter().find(|run| run.side == relay_process::SIDE) {
        let shown: Vec<String> = [
            "messages_per_second",
            "server_cpu_us_per_message",
            "latency_p50_ns",
            "latency_p99_ns",
        ]
        .iter()
        .filter_map(|name| {
            Some(format!("{} {}", shown_name(name), figure_text(relay.figures.get(*name)?)))
        })
        .collect();
        rows.push_str(&format!(
            "<tr class=\"beside\"><td>raw relay</td><td colspan=\"6\">{}</td></tr>",
            escaped(&shown.join(", "))
        ));
    }
    format!("<div class=\"wide\"><table class=\"figures\">{rows}</table></div>\n")
}

/// One dot per round of the figure that matters most.
fn rounds_chart(sides: &[(String, String, Vec<&RunResult>)]) -> Chart {
    let requests =
        sides.iter().any(|(_, _, runs)| runs.iter().any(|run| run.kind == closed_loop::KIND));
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

/// One chart per kind of histogram, all rounds of a side merged, the floor drawn in.
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
    // What was asked for first, the generator's own share behind it.
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

/// Latency against load, of a sweep: the valid points of the search and of the shares.
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

fn series_chart(
    sides: &[(String, String, Vec<&RunResult>)],
    series: &str,
    unit_size: f64,
    title: &str,
    axis_title: &str,
) -> Chart {
    // The first valid round stands for all: lines of five rounds on top of each other say nothing.
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
