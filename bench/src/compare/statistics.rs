//! Medians over rounds, and confidence intervals of ratios by bootstrap over the rounds' pairs.

use crate::findings::result::{Better, RunResult};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const RESAMPLES: usize = 10_000;
/// With fewer rounds the interval would claim too much: the median lies between the smallest and
/// the largest of four values in only 7 of 8 cases.
pub const ROUNDS_MIN: usize = 5;

/// Median, smallest and largest value of the rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
    pub rounds: usize,
}

impl Spread {
    pub fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Spread {
            median: median_of_sorted(&sorted)?,
            low: *sorted.first()?,
            high: *sorted.last()?,
            rounds: sorted.len(),
        })
    }
}

/// One figure of one workload, of both sides.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Comparison {
    pub workload: String,
    pub figure: String,
    pub unit: String,
    pub better: Better,
    pub a: Spread,
    pub b: Spread,
    /// How many times better A is: above 1 it wins, whichever direction is better.
    pub times_better: f64,
    /// 95 % confidence interval of `times_better`.
    pub interval: (f64, f64),
}

/// The outcome of a comparison, from the point of view of A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    Better,
    Worse,
    /// The interval contains 1.
    Undecided,
    TooFewRounds,
}

impl Comparison {
    pub fn decided(&self) -> Decided {
        match self.interval {
            _ if self.a.rounds.min(self.b.rounds) < ROUNDS_MIN => Decided::TooFewRounds,
            (low, _) if low > 1.0 => Decided::Better,
            (_, high) if high < 1.0 => Decided::Worse,
            _ => Decided::Undecided,
        }
    }
}

/// Compares all figures that both sides have, from the valid runs.
pub fn compare(runs: &[RunResult], name_a: &str, name_b: &str, seed: u64) -> Vec<Comparison> {
    let mut workloads: Vec<&str> = Vec::new();
    for run in runs {
        if !workloads.contains(&run.workload.as_str()) {
            workloads.push(&run.workload);
        }
    }
    let mut comparisons = Vec::new();
    for workload in workloads {
        let side = |name: &str| -> BTreeMap<u32, &RunResult> {
            runs.iter()
                .filter(|run| run.workload == workload && run.side == name && run.valid)
                .map(|run| (run.round, run))
                .collect()
        };
        let (a, b) = (side(name_a), side(name_b));
        let Some(example) = a.values().next() else { continue };
        for (name, figure) in example.figures_in_order() {
            if figure.better == Better::Neither {
                continue;
            }
            let pairs: Vec<(f64, f64)> = a
                .iter()
                .filter_map(|(round, run)| Some((run.value(name)?, b.get(round)?.value(name)?)))
                .collect();
            let all = |runs: &BTreeMap<u32, &RunResult>| -> Vec<f64> {
                runs.values().filter_map(|run| run.value(name)).collect()
            };
            let (Some(spread_a), Some(spread_b)) = (Spread::of(&all(&a)), Spread::of(&all(&b)))
            else {
                continue;
            };
            let ratios: Vec<f64> = pairs
                .iter()
                .map(|&(a, b)| if figure.better == Better::Higher { a / b } else { b / a })
                .filter(|ratio| ratio.is_finite())
                .collect();
            let Some((times_better, interval)) = bootstrap_median(&ratios, seed) else { continue };
            comparisons.push(Comparison {
                workload: workload.to_string(),
                figure: name.to_string(),
                unit: figure.unit.clone(),
                better: figure.better,
                a: spread_a,
                b: spread_b,
                times_better,
                interval,
            });
        }
    }
    comparisons
}

/// Returns the median and the interval that contains it in 95 % of resamplings. With a single value
/// both are that value.
pub fn bootstrap_median(values: &[f64], seed: u64) -> Option<(f64, (f64, f64))> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = median_of_sorted(&sorted)?;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let mut sample: Vec<f64> =
                (0..values.len()).map(|_| values[random.usize(0..values.len())]).collect();
            sample.sort_by(f64::total_cmp);
            median_of_sorted(&sample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    let at = |share: f64| medians[((medians.len() - 1) as f64 * share).round() as usize];
    Some((median, (at(0.025), at(0.975))))
}

fn median_of_sorted(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        count if count % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_median_and_narrows_with_agreement() {
        let (median, (low, high)) = bootstrap_median(&[1.0, 2.0, 3.0, 4.0, 100.0], 1).unwrap();
        assert_eq!(median, 3.0);
        assert!(low >= 1.0 && low <= median && median <= high && high <= 100.0);
        assert_eq!(bootstrap_median(&[2.0; 5], 1).unwrap(), (2.0, (2.0, 2.0)));
        assert_eq!(bootstrap_median(&[], 1), None);
    }

    #[test]
    fn a_lower_figure_that_is_better_wins_with_a_ratio_above_one() {
        let run = |side: &str, round: u32, cpu: f64, rate: f64| {
            let mut run = RunResult::new("throughput", "x");
            run.side = side.to_string();
            run.round = round;
            run.figure("cpu", cpu, "us", Better::Lower);
            run.figure("rate", rate, "1/s", Better::Higher);
            run.figure("other", 1.0, "", Better::Neither);
            run
        };
        let mut runs = vec![
            run("A", 0, 1.0, 30.0),
            run("B", 0, 4.0, 10.0),
            run("B", 1, 8.0, 10.0),
            run("A", 1, 2.0, 30.0),
        ];
        let mut broken = run("A", 2, 0.001, 1e9);
        broken.valid = false;
        runs.push(broken);
        let comparisons = compare(&runs, "A", "B", 1);
        let figures: Vec<_> =
            comparisons.iter().map(|c| (c.figure.as_str(), c.times_better)).collect();
        assert_eq!(figures, [("cpu", 4.0), ("rate", 3.0)]);
        assert_eq!(comparisons[0].a, Spread { median: 1.5, low: 1.0, high: 2.0, rounds: 2 });
    }

    #[test]
    fn an_interval_decides_only_with_enough_rounds_and_without_one_in_it() {
        let decided = |rounds: usize, interval: (f64, f64)| {
            let spread = |rounds| Spread { rounds, ..Spread::default() };
            let comparison = Comparison {
                workload: String::new(),
                figure: String::new(),
                unit: String::new(),
                better: Better::Higher,
                a: spread(5),
                b: spread(rounds),
                times_better: 1.0,
                interval,
            };
            comparison.decided()
        };
        assert_eq!(decided(4, (2.0, 2.0)), Decided::TooFewRounds);
        assert_eq!(decided(5, (1.1, 2.0)), Decided::Better);
        assert_eq!(decided(5, (0.5, 0.9)), Decided::Worse);
        assert_eq!(decided(5, (0.9, 1.1)), Decided::Undecided);
    }
}
