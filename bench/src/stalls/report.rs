//! The table of stalls, and which of them are too long.

use crate::output::table::Table;
use crate::stalls::cases::Case;
use crate::stalls::rounds::{Run, StallsPlan};
use clap::ValueEnum;
use serde::Serialize;

/// One case, over all rounds.
#[derive(Debug, Serialize)]
pub struct Row {
    pub case: String,
    pub cells: Vec<Cell>,
    /// The longest of the others' medians divided by the median of the last server; None if one of
    /// them is missing.
    pub ratio: Option<f64>,
    pub judgement: Judgement,
}

/// One case on one server: medians over the rounds, in milliseconds.
#[derive(Debug, Serialize)]
pub struct Cell {
    pub server: String,
    pub near_ms: Option<f64>,
    pub far_ms: Option<f64>,
    /// The longest of all rounds, near or far.
    pub max_ms: Option<f64>,
    pub failures: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Judgement {
    /// At most the aim.
    Good,
    /// Above the aim, but not above the last server.
    AsLast,
    /// Above both.
    Worse,
    /// A server could not play the case.
    Failed,
}

impl Cell {
    fn worst_ms(&self) -> Option<f64> {
        Some(self.near_ms?.max(self.far_ms?))
    }
}

impl Judgement {
    fn text(self) -> &'static str {
        match self {
            Judgement::Good => "good",
            Judgement::AsLast => "above the aim",
            Judgement::Worse => "WORSE",
            Judgement::Failed => "FAILED",
        }
    }
}

/// Returns a row for each case that was run, in the plan's order.
pub fn rows(plan: &StallsPlan, runs: &[Run], aim_ms: f64) -> Vec<Row> {
    let of_case = |case: Case| runs.iter().filter(move |run| run.case == case);
    let played = plan.cases.iter().copied().filter(|&case| of_case(case).next().is_some());
    played
        .map(|case| {
            let cells: Vec<Cell> = (0..plan.contenders.len())
                .map(|index| {
                    let name = &plan.contenders[index].name;
                    cell(name, of_case(case).filter(|run| run.contender == index))
                })
                .collect();
            row(case, cells, aim_ms)
        })
        .collect()
}

fn cell<'a>(name: &str, runs: impl Iterator<Item = &'a Run>) -> Cell {
    let (mut near, mut far, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    for run in runs {
        match &run.outcome {
            Ok(worst) => {
                near.push(worst.near_ns as f64 / 1e6);
                far.push(worst.far_ns as f64 / 1e6);
            }
            Err(failure) => failures.push(failure.clone()),
        }
    }
    let max_ms = near.iter().chain(&far).copied().reduce(f64::max);
    Cell { server: name.to_string(), near_ms: median(near), far_ms: median(far), max_ms, failures }
}

fn row(case: Case, cells: Vec<Cell>, aim_ms: f64) -> Row {
    let (last, others) = cells.split_last().expect("a plan has contenders");
    let worst = others.iter().map(Cell::worst_ms).collect::<Option<Vec<f64>>>();
    let worst = worst.and_then(|all| all.into_iter().reduce(f64::max));
    let ratio = worst.zip(last.worst_ms()).map(|(worst, last)| worst / last);
    let failed = cells.iter().any(|cell| !cell.failures.is_empty());
    let judgement = match (worst, ratio) {
        (Some(worst), _) if !failed && worst <= aim_ms => Judgement::Good,
        (_, Some(ratio)) if !failed && ratio <= 1.0 => Judgement::AsLast,
        (_, Some(_)) if !failed => Judgement::Worse,
        _ => Judgement::Failed,
    };
    Row { case: name_of(case), cells, ratio, judgement }
}

fn name_of(case: Case) -> String {
    case.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[count / 2]),
        count => Some((values[count / 2 - 1] + values[count / 2]) / 2.0),
    }
}

/// Formats the rows as a table, with a line for each failure below it.
pub fn text(rows: &[Row]) -> String {
    let mut header = vec!["worst PING, ms"];
    header.extend(rows.first().iter().flat_map(|row| &row.cells).map(|cell| cell.server.as_str()));
    header.extend(["ratio", ""]);
    let mut table = Table::new(&header);
    let mut failures = String::new();
    for row in rows {
        let mut cells = vec![row.case.clone()];
        for cell in &row.cells {
            cells.push(match (cell.near_ms, cell.far_ms) {
                (Some(near), Some(far)) => format!("{near:.1} / {far:.1}"),
                _ => "-".to_string(),
            });
            for failure in &cell.failures {
                failures.push_str(&format!("{}, {}: {failure}\n", row.case, cell.server));
            }
        }
        cells.push(row.ratio.map_or("-".to_string(), |ratio| format!("{ratio:.2}")));
        cells.push(row.judgement.text().to_string());
        table.row(cells);
    }
    format!("{table}{failures}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stalls::stage::{Contender, Worst};
    use crate::units::CoreList;

    fn plan() -> StallsPlan {
        let contender = |name: &str| Contender {
            name: name.to_string(),
            program: String::new(),
            shard_count: None,
        };
        StallsPlan {
            contenders: vec![contender("one"), contender("two"), contender("peer")],
            cases: vec![Case::Idle, Case::FanOut],
            rounds: 3,
            pin_server: CoreList::default(),
            scale: 1.0,
        }
    }

    /// Returns the rows of one case, from each contender's worst round trips in each round, in
    /// milliseconds.
    fn rows_of(worst_ms: [&[u64]; 3]) -> Vec<Row> {
        let run = |contender, ms: u64| Run {
            case: Case::FanOut,
            contender,
            outcome: match ms {
                0 => Err("it ended".to_string()),
                ms => Ok(Worst { near_ns: ms * 1_000_000, far_ns: 1_000_000 }),
            },
        };
        let runs: Vec<Run> = worst_ms
            .iter()
            .enumerate()
            .flat_map(|(contender, all)| all.iter().map(move |&ms| run(contender, ms)))
            .collect();
        rows(&plan(), &runs, 25.0)
    }

    #[test]
    fn a_case_is_judged_by_the_longest_median_against_the_aim_and_the_last_server() {
        for (worst_ms, ratio, judgement) in [
            ([&[5, 900, 6][..], &[24, 25, 26], &[5, 5, 5]], 5.0, Judgement::Good),
            ([&[5], &[30], &[40]], 0.75, Judgement::AsLast),
            ([&[30], &[5], &[20]], 1.5, Judgement::Worse),
        ] {
            let rows = rows_of(worst_ms);
            assert_eq!(rows.len(), 1, "a case without runs has no row");
            assert_eq!(rows[0].ratio, Some(ratio));
            assert_eq!(rows[0].judgement, judgement);
        }
    }

    #[test]
    fn a_case_that_one_server_could_not_play_is_not_good() {
        let rows = rows_of([&[5, 0, 6], &[5], &[5]]);
        assert_eq!(rows[0].judgement, Judgement::Failed);
        let text = text(&rows);
        assert!(text.contains("FAILED"), "{text}");
        assert!(text.contains("fan-out, one: it ended"), "{text}");
        assert_eq!(rows_of([&[0], &[5], &[5]])[0].ratio, None);
    }
}
