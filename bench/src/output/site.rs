//! A static site of many results: a page for each, and an index with the trend of each figure. It
//! needs no server and no network.

use crate::Failure;
use crate::compare::statistics::Spread;
use crate::output::console::value_text;
use crate::output::document::Document;
use crate::output::files;
use crate::output::html::{self, measured_text};
use crate::output::verdict::{self, HEADLINES};
use maud::{Markup, html};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const INDEX: &str = "index.html";
const RESULT: &str = "result.json";

/// Width and height of a trend's line.
const TREND_SIZE: (f64, f64) = (160.0, 28.0);

/// Writes the site of all results in these folders and in those directly below them.
///
/// # Errors
/// A result cannot be read, there is none, or a page cannot be written.
pub fn publish(folders: &[PathBuf], target: &Path) -> Result<usize, Failure> {
    let mut documents = Vec::new();
    for file in result_files(folders)? {
        documents.push(Document::read(&file)?);
    }
    if documents.is_empty() {
        return Err(Failure::new(format!("there is no {RESULT} in these folders")));
    }
    documents.sort_by_key(|document| document.created_unix_ms);
    let pages = page_names(&documents);
    files::make_folder(target)?;
    for (document, page) in documents.iter().zip(&pages) {
        files::write_file(&target.join(page), &html::render(document)?)?;
    }
    files::write_file(&target.join(INDEX), &index(&documents, &pages))?;
    Ok(documents.len())
}

fn result_files(folders: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for folder in folders {
        if folder.is_file() {
            found.push(folder.clone());
            continue;
        }
        let unreadable = |error: std::io::Error| {
            Failure::new(format!("cannot read {}: {error}", folder.display()))
        };
        let mut places = vec![folder.clone()];
        for entry in std::fs::read_dir(folder).map_err(unreadable)? {
            places.push(entry.map_err(unreadable)?.path());
        }
        found.extend(places.iter().map(|place| place.join(RESULT)).filter(|file| file.is_file()));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The date and time of each; results of the same second are numbered.
fn page_names(documents: &[Document]) -> Vec<String> {
    let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
    let name = |document: &Document| {
        let second = document.created_unix_ms / 1000;
        let count = seen.entry(second).or_default();
        *count += 1;
        if *count == 1 { format!("{second}.html") } else { format!("{second}-{count}.html") }
    };
    documents.iter().map(name).collect()
}

fn index(documents: &[Document], pages: &[String]) -> String {
    let content = html! {
        table {
            tr { th { "measured" } th { "servers" } th { "host" } th { "in short" } }
            @for (document, page) in documents.iter().zip(pages).rev() {
                tr {
                    td { a href=(page) { (measured_text(document)) } }
                    td { @for side in &document.sides { (side.name) " " (side.version) br; } }
                    td { (document.environment.cpu) ", " (document.environment.cores) " cores" }
                    td {
                        @for line in verdict::lines(document) { (line) br; }
                        @for warning in &document.warnings { (warning) br; }
                    }
                }
            }
        }
        (trends(documents))
    };
    html::page("midge-bench results", &content, &Markup::default())
}

/// One side's values of a figure of a workload, oldest first.
struct Trend<'a> {
    workload: &'a str,
    figure: &'static str,
    side: &'a str,
    host: &'a str,
    unit: &'a str,
    values: Vec<f64>,
}

/// Returns the trends with two values or more. Hosts stay apart: their figures say nothing about
/// each other.
fn all_trends(documents: &[Document]) -> Vec<Trend<'_>> {
    let mut trends: BTreeMap<(&str, usize, &str, &str), Trend<'_>> = BTreeMap::new();
    for document in documents {
        let host = document.environment.cpu.as_str();
        for workload in html::workloads(document) {
            let sides = document.sides.iter().map(|side| side.name.as_str());
            for side in sides {
                for (order, (figure, shown)) in HEADLINES.into_iter().enumerate() {
                    let runs = document.runs.iter();
                    let found: Vec<_> = runs
                        .filter(|run| run.workload == workload && run.side == side && run.valid)
                        .filter_map(|run| run.figures.get(figure))
                        .collect();
                    let values: Vec<f64> = found.iter().map(|figure| figure.value).collect();
                    let Some(spread) = Spread::of(&values) else { continue };
                    let unit = found[0].unit.as_str();
                    let trend = trends.entry((workload, order, side, host)).or_insert(Trend {
                        workload,
                        figure: shown,
                        side,
                        host,
                        unit,
                        values: Vec::new(),
                    });
                    trend.values.push(spread.median);
                }
            }
        }
    }
    trends.into_values().filter(|trend| trend.values.len() > 1).collect()
}

fn trends(documents: &[Document]) -> Markup {
    let trends = all_trends(documents);
    if trends.is_empty() {
        return Markup::default();
    }
    html! {
        h2 { "Trends" }
        table {
            tr {
                th { "workload" } th { "figure" } th { "server" } th { "host" } th { "first" } th { "last" } th {}
            }
            @for trend in &trends {
                tr {
                    td { (trend.workload) }
                    td { (trend.figure) }
                    td { (trend.side) }
                    td { (trend.host) }
                    td { (value_text(trend.values[0], trend.unit)) }
                    td { (value_text(trend.values[trend.values.len() - 1], trend.unit)) }
                    td { (trend_line(&trend.values)) }
                }
            }
        }
    }
}

/// The line of a trend, from zero up.
fn trend_line(values: &[f64]) -> Markup {
    let (width, height) = TREND_SIZE;
    let most = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let step = width / (values.len() - 1) as f64;
    let points: Vec<String> = (0..)
        .zip(values)
        .map(|(index, value)| {
            let (x, y) = (f64::from(index) * step, height - height * (value / most));
            format!("{x:.1},{y:.1}")
        })
        .collect();
    let label = format!("{} values", values.len());
    html! {
        svg width=(width) height=(height) role="img" aria-label=(label) {
            polyline points=(points.join(" ")) fill="none" stroke="currentColor" stroke-width="1.5" {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::result::{Better, RunResult};
    use crate::output::document::Side;

    fn document(created_unix_ms: u64, cpu: &str, rates: &[f64]) -> Document {
        let runs = (0..).zip(rates).map(|(round, rate)| {
            let mut run = RunResult::new("throughput", "<1 to 1>");
            (run.side, run.round) = ("midge".to_owned(), round);
            run.figure("messages_per_second", *rate, "messages/s", Better::Higher);
            run
        });
        let mut document = Document {
            schema: crate::findings::result::SCHEMA.to_owned(),
            created_unix_ms,
            sides: vec![Side { name: "midge".to_owned(), ..Side::default() }],
            runs: runs.collect(),
            ..Document::default()
        };
        document.environment.cpu = cpu.to_owned();
        document
    }

    #[test]
    fn trends_are_medians_of_each_result_on_one_host() {
        let documents = [
            document(1, "x", &[1.0, 2.0, 9.0]),
            document(2, "y", &[5.0]),
            document(3, "x", &[4.0]),
        ];
        let trends = all_trends(&documents);
        assert_eq!(trends.len(), 1);
        assert_eq!((trends[0].host, &trends[0].values), ("x", &vec![2.0, 4.0]));
    }

    #[test]
    fn a_site_has_a_page_for_each_result_and_an_index_of_them() {
        let root = std::env::temp_dir().join(format!("midge-bench-site-{}", std::process::id()));
        let results = root.join("results");
        for (name, created) in [("a", 5000), ("b", 5001), ("c", 9000)] {
            let folder = results.join(name);
            std::fs::create_dir_all(&folder).expect("a folder");
            let json = document(created, "x", &[1.0]).to_json();
            std::fs::write(folder.join(RESULT), json).expect("a file");
        }
        let target = root.join("site");
        let count = publish(std::slice::from_ref(&results), &target);
        let index = std::fs::read_to_string(target.join(INDEX)).unwrap_or_default();
        let pages = ["5.html", "5-2.html", "9.html"];
        let exist = pages.iter().all(|page| target.join(page).is_file() && index.contains(page));
        let nothing = publish(&[root.join("site")], &target);
        std::fs::remove_dir_all(&root).expect("it is there");
        assert_eq!(count.ok(), Some(3));
        assert!(
            exist && index.contains("&lt;1 to 1&gt;") && !index.contains("<1 to 1>"),
            "{index}"
        );
        assert!(nothing.is_err());
    }
}
