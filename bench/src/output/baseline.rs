//! Fails a result whose figures are worse than those of a stored one.

use crate::compare::statistics::Spread;
use crate::findings::result::Better;
use crate::output::console::value_text;
use crate::output::document::Document;
use std::collections::BTreeMap;

#[derive(Debug, Default, PartialEq)]
pub struct Findings {
    /// Number of figures that both have.
    pub compared: usize,
    /// One sentence per figure that is worse by more than the share.
    pub worse: Vec<String>,
}

type Key = (String, String, String);

/// Compares the medians of the valid runs.
pub fn check(now: &Document, stored: &Document, worse_max: f64) -> Findings {
    let stored = medians(stored);
    let mut findings = Findings::default();
    for (key, (value, unit, better)) in medians(now) {
        let Some((before, _, _)) = stored.get(&key) else { continue };
        // Nothing is a percentage of zero: where a share was zero, only the figures that it affects
        // count.
        if *before <= 0.0 {
            continue;
        }
        findings.compared += 1;
        let worse_by = match better {
            Better::Higher => 1.0 - value / before,
            Better::Lower => value / before - 1.0,
            Better::Neither => continue,
        };
        if worse_by > worse_max {
            let (workload, side, figure) = key;
            let side = if side.is_empty() { String::new() } else { format!(" of {side}") };
            findings.worse.push(format!(
                "{workload}{side}: {figure} is {}, it was {} ({:.1} % worse, {:.1} % allowed)",
                value_text(value, &unit),
                value_text(*before, &unit),
                100.0 * worse_by,
                100.0 * worse_max
            ));
        }
    }
    findings
}

fn medians(document: &Document) -> BTreeMap<Key, (f64, String, Better)> {
    let mut values: BTreeMap<Key, (Vec<f64>, String, Better)> = BTreeMap::new();
    for run in document.runs.iter().filter(|run| run.valid) {
        for (name, figure) in run.figures.iter().filter(|(_, f)| f.better != Better::Neither) {
            let key = (run.workload.clone(), run.side.clone(), name.clone());
            let entry = values
                .entry(key)
                .or_insert_with(|| (Vec::new(), figure.unit.clone(), figure.better));
            entry.0.push(figure.value);
        }
    }
    values
        .into_iter()
        .filter_map(|(key, (values, unit, better))| {
            Some((key, (Spread::of(&values)?.median, unit, better)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::result::RunResult;

    fn document(rate: f64, cpu: f64) -> Document {
        let mut run = RunResult::new("throughput", "x");
        run.figure("rate", rate, "1/s", Better::Higher);
        run.figure("cpu", cpu, "us", Better::Lower);
        run.figure("other", cpu, "", Better::Neither);
        Document { runs: vec![run], ..Document::default() }
    }

    #[test]
    fn only_what_is_worse_by_more_than_the_share_is_found() {
        let stored = document(100.0, 1.0);
        assert_eq!(check(&document(91.0, 1.09), &stored, 0.1).worse, Vec::<String>::new());
        assert_eq!(check(&document(1000.0, 0.1), &stored, 0.1).compared, 2);
        let slower = check(&document(89.0, 1.0), &stored, 0.1).worse;
        assert_eq!(
            slower,
            ["throughput x: rate is 89.0/s, it was 100/s (11.0 % worse, 10.0 % allowed)"]
        );
        assert_eq!(check(&document(100.0, 1.2), &stored, 0.1).worse.len(), 1);
    }

    #[test]
    fn what_was_zero_cannot_be_worse_by_a_share() {
        assert_eq!(check(&document(100.0, 0.001), &document(100.0, 0.0), 0.1).compared, 1);
        assert!(check(&document(100.0, 0.001), &document(100.0, 0.0), 0.1).worse.is_empty());
    }

    #[test]
    fn invalid_runs_are_not_compared() {
        let mut now = document(1.0, 1.0);
        now.runs[0].valid = false;
        assert_eq!(check(&now, &document(100.0, 1.0), 0.1), Findings::default());
    }
}
