//! A result file: everything about one command, with the environment in which it was measured.

use crate::Failure;
use crate::compare::statistics::{self, Comparison};
use crate::findings::result::{RunResult, SCHEMA};
use crate::host::environment::Environment;
use crate::load::floor;
use crate::relay;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One server of the document.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Side {
    /// The same as in the runs; empty for the only server of a single run.
    pub name: String,
    /// Its command line or URL.
    pub server: String,
    pub version: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Document {
    pub schema: String,
    pub harness_version: String,
    pub created_unix_ms: u64,
    /// The command that made it, as it was typed.
    pub command_line: Vec<String>,
    pub environment: Environment,
    /// Facts that readers of any of its figures must know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    pub sides: Vec<Side>,
    pub runs: Vec<RunResult>,
    #[serde(default)]
    pub comparisons: Vec<Comparison>,
}

impl Document {
    pub fn new(environment: Environment) -> Document {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Document {
            schema: SCHEMA.to_string(),
            harness_version: env!("CARGO_PKG_VERSION").to_string(),
            created_unix_ms: now.map_or(0, |since| since.as_millis() as u64),
            command_line: std::env::args_os()
                .map(|argument| argument.to_string_lossy().into_owned())
                .collect(),
            environment,
            ..Document::default()
        }
    }

    /// Reads a result file.
    ///
    /// # Errors
    /// If the file cannot be read, is not a result file, or is of another version.
    pub fn read(path: &Path) -> Result<Document, Failure> {
        let shown = path.display();
        let content = std::fs::read(path)
            .map_err(|error| Failure::new(format!("cannot read {shown}: {error}")))?;
        let value: serde_json::Value = serde_json::from_slice(&content)
            .map_err(|error| Failure::new(format!("{shown} is no JSON: {error}")))?;
        if value["schema"] != SCHEMA {
            let found = &value["schema"];
            return Err(Failure::new(format!(
                "{shown} has schema {found}, this harness reads {SCHEMA}"
            )));
        }
        serde_json::from_value(value)
            .map_err(|error| Failure::new(format!("{shown} is no result file: {error}")))
    }

    /// Merges several documents: all runs, rounds numbered consecutively, and comparisons made anew
    /// over all of them. A run that is there already is left out: the same rounds twice would look
    /// twice as certain.
    ///
    /// # Errors
    /// If there are none, or two of them compare different sides.
    pub fn merge(documents: Vec<Document>) -> Result<Document, Failure> {
        let mut documents = documents.into_iter();
        let mut merged = documents.next().ok_or_else(|| Failure::new("nothing to merge"))?;
        for document in documents {
            let names = |document: &Document| -> Vec<String> {
                document.sides.iter().map(|side| side.name.clone()).collect()
            };
            if names(&document) != names(&merged) {
                return Err(Failure::new(format!(
                    "these results do not belong together: one has the sides {:?}, one {:?}",
                    names(&merged),
                    names(&document)
                )));
            }
            for warning in document.warnings {
                if !merged.warnings.contains(&warning) {
                    merged.warnings.push(warning);
                }
            }
            let rounds = merged.runs.iter().map(|run| run.round + 1).max().unwrap_or(0);
            let positions = merged.runs.len() as u32;
            let had = merged.runs.len();
            let offered = document.runs.len();
            let on_another_host = document.environment.cpu != merged.environment.cpu
                || document.environment.kernel != merged.environment.kernel;
            for mut run in document.runs {
                if merged.runs[..had].iter().any(|before| before.is_same_as(&run)) {
                    continue;
                }
                run.round += rounds;
                run.position += positions;
                if on_another_host {
                    run.warn("measured on another CPU or kernel than the first".to_string());
                }
                merged.runs.push(run);
            }
            let doubled = offered - (merged.runs.len() - had);
            if doubled > 0 {
                merged.warnings.push(format!(
                    "of {offered} runs of a result {doubled} were there already: they are left out"
                ));
            }
            merged.created_unix_ms = merged.created_unix_ms.max(document.created_unix_ms);
        }
        if let [a, b, ..] = merged.sides.as_slice() {
            merged.comparisons = statistics::compare(&merged.runs, &a.name, &b.name, 1);
        }
        Ok(merged)
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self)
            .expect("a document has only text keys and finite numbers")
    }

    /// Returns one line per figure of each run.
    pub fn to_csv(&self) -> String {
        let mut text =
            "workload,side,round,position,valid,started_unix_ms,figure,value,unit\n".to_string();
        for run in &self.runs {
            for (name, figure) in &run.figures {
                text.push_str(&format!(
                    "{},{},{},{},{},{},{name},{},{}\n",
                    quoted(&run.workload),
                    quoted(&run.side),
                    run.round,
                    run.position,
                    run.valid,
                    run.started_unix_ms,
                    figure.value,
                    figure.unit
                ));
            }
        }
        text
    }

    /// Returns true if every run against a server is entirely valid; the raw relay and the floor
    /// may be missing.
    pub fn all_valid(&self) -> bool {
        let beside = [relay::process::SIDE, floor::SIDE];
        let whole = |run: &RunResult| run.valid && run.invalid_parts.is_empty();
        self.runs.iter().all(|run| whole(run) || beside.contains(&run.side.as_str()))
    }
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::result::Better;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn compared(rates: &[(&str, u32, f64)]) -> Document {
        let mut document = Document::new(Environment::default());
        for name in ["A", "B"] {
            document.sides.push(Side { name: name.to_string(), ..Side::default() });
        }
        static NEXT: AtomicU64 = AtomicU64::new(0);
        for &(side, round, rate) in rates {
            let mut run = RunResult::new("throughput", "1x1, \"small\"");
            run.started_unix_ms = NEXT.fetch_add(1, Ordering::Relaxed);
            run.side = side.to_string();
            run.round = round;
            run.figure("rate", rate, "1/s", Better::Higher);
            document.runs.push(run);
        }
        document
    }

    #[test]
    fn results_of_two_days_merge_into_more_rounds_and_are_compared_anew() {
        let monday = compared(&[("A", 0, 30.0), ("B", 0, 10.0), ("B", 1, 10.0), ("A", 1, 30.0)]);
        let tuesday = compared(&[("A", 0, 60.0), ("B", 0, 10.0)]);
        let merged = Document::merge(vec![monday, tuesday]).unwrap();
        let rounds: Vec<(&str, u32)> =
            merged.runs.iter().map(|run| (run.side.as_str(), run.round)).collect();
        assert_eq!(rounds, [("A", 0), ("B", 0), ("B", 1), ("A", 1), ("A", 2), ("B", 2)]);
        let comparison = &merged.comparisons[0];
        assert_eq!(comparison.a.rounds, 3);
        assert_eq!(comparison.times_better, 3.0);
        assert_eq!((comparison.a.low, comparison.a.high), (30.0, 60.0));
    }

    #[test]
    fn a_result_given_twice_counts_once_and_is_reported() {
        let monday = compared(&[("A", 0, 30.0), ("B", 0, 10.0)]);
        let tuesday = compared(&[("A", 0, 60.0), ("B", 0, 10.0)]);
        let both = Document::merge(vec![monday.clone(), tuesday.clone()]).unwrap();
        assert!(both.warnings.is_empty());
        let thrice = Document::merge(vec![monday.clone(), monday.clone(), tuesday]).unwrap();
        assert_eq!(thrice.runs.len(), 4);
        assert_eq!(thrice.comparisons[0].a.rounds, 2);
        let warning = "of 2 runs of a result 2 were there already: they are left out";
        assert_eq!(thrice.warnings, [warning]);
        // Including one that was merged into another before.
        let again = Document::merge(vec![both, monday]).unwrap();
        assert_eq!((again.runs.len(), again.warnings.len()), (4, 1));
    }

    #[test]
    fn results_of_other_sides_do_not_merge() {
        let mut other = compared(&[("A", 0, 1.0)]);
        other.sides[1].name = "C".to_string();
        let refused = Document::merge(vec![compared(&[("A", 0, 1.0)]), other]).unwrap_err();
        assert!(refused.to_string().contains("do not belong together"), "{refused}");
    }

    #[test]
    fn a_result_of_another_schema_is_refused_by_name() {
        let path = std::env::temp_dir().join(format!("midge-bench-schema-{}", std::process::id()));
        let document = compared(&[("A", 0, 1.0)]);
        std::fs::write(&path, document.to_json()).unwrap();
        assert_eq!(Document::read(&path).unwrap().runs.len(), 1);
        std::fs::write(&path, document.to_json().replace("midge-bench/1", "midge-bench/2"))
            .unwrap();
        let refused = Document::read(&path).unwrap_err().to_string();
        assert!(refused.contains("midge-bench/2") && refused.contains(SCHEMA), "{refused}");
        std::fs::write(&path, "PNG").unwrap();
        assert!(Document::read(&path).unwrap_err().to_string().contains("is no JSON"));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn the_csv_has_a_line_per_figure_with_quotes_where_they_are_needed() {
        let document = compared(&[("A", 0, 30.0), ("B", 0, 10.5)]);
        let csv = document.to_csv();
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 3);
        let begin = "\"throughput 1x1, \"\"small\"\"\",B,0,0,true,";
        assert!(lines[2].starts_with(begin), "{}", lines[2]);
        assert!(lines[2].ends_with(",rate,10.5,1/s"), "{}", lines[2]);
    }
}
