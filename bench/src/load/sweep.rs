//! Raises the load until the server's knee, then measures latency at shares of the maximum found.

use crate::Failure;
use crate::findings::kinds;
use crate::findings::percentiles::PERCENTILES;
use crate::findings::result::{Better, LoadPoint, RunResult};
use crate::host::interrupt;
use crate::load::cores;
use crate::load::latency::{self, LatencyPlan};
use crate::progress::Progress;
use crate::units::{nanoseconds_text, number_text};
use crate::wire::connection::Dialer;
use std::collections::BTreeMap;
use std::time::Duration;

/// Shares of the maximum at which latency is reported.
pub const SHARES: [f64; 5] = [0.10, 0.25, 0.50, 0.75, 0.90];
/// Number of times that the interval between the last good and the first bad rate is halved.
const BISECTIONS: u32 = 4;
/// Share of the requested rate that must be reached. Not closer to 1: in a short step one hiccup at
/// its end already costs a percent.
const REACHED_MIN: f64 = 0.95;
/// A higher rate would measure the generator, not a server.
const RATE_MAX: f64 = 50e6;

#[derive(Clone, Debug)]
pub struct SweepPlan {
    /// Its rate is where the sweep starts, its duration that of the final points.
    pub latency: LatencyPlan,
    /// The knee is where this percentile passes the objective.
    pub objective: Duration,
    pub objective_percentile: f64,
    pub step_duration: Duration,
}

/// Why the rates end where they do.
#[derive(Clone, Debug, PartialEq)]
enum Verdict {
    Good,
    Knee(String),
    /// The run is not valid: what it says about the server is unknown.
    Unknown(String),
}

/// Makes the sweep.
///
/// # Errors
/// If a step cannot be run at all.
pub fn run(
    dialer: &Dialer,
    plan: &SweepPlan,
    server: &Result<u32, String>,
    progress: &Progress,
) -> Result<RunResult, Failure> {
    let mut result = RunResult::new(kinds::SWEEP, &plan.latency.layout.label());
    let (mut good, mut bad) = (0.0, None);
    let mut rate = plan.latency.rate;
    let mut why = "the sweep was ended early".to_string();
    // True if `why` is about the server, not about an invalid run.
    let mut measured = true;
    while !interrupt::requested() && bad.is_none() && rate < RATE_MAX {
        match step(dialer, plan, rate, server, progress, &mut result)? {
            Verdict::Good => {
                good = rate;
                rate *= 2.0;
            }
            Verdict::Knee(reason) => {
                why = reason;
                bad = Some(rate);
            }
            Verdict::Unknown(reason) => {
                (why, measured) = (reason, false);
                bad = Some(rate);
            }
        }
    }
    if let Some(mut bad) = bad.filter(|_| good > 0.0) {
        for _ in 0..BISECTIONS {
            if interrupt::requested() {
                break;
            }
            let middle = (good + bad) / 2.0;
            match step(dialer, plan, middle, server, progress, &mut result)? {
                Verdict::Good => good = middle,
                Verdict::Knee(reason) => {
                    (why, measured) = (reason, true);
                    bad = middle;
                }
                Verdict::Unknown(reason) => {
                    (why, measured) = (reason, false);
                    bad = middle;
                }
            }
        }
    }
    result.figure("rate_max", good, "1/s", Better::Higher);
    if good == 0.0 {
        let first = number_text(plan.latency.rate);
        result.invalidate(match (interrupt::requested(), measured) {
            (true, _) => "interrupted before a rate was found good".to_string(),
            (false, true) => {
                format!(
                    "already the first rate, {first}/s, is too much: {why}; start lower, by --rate"
                )
            }
            (false, false) => {
                format!(
                    "there is no knee: the run at the first rate, {first}/s, is not valid: {why}"
                )
            }
        });
        return Ok(result);
    }
    let good_text = number_text(good);
    result.warn(match measured {
        true => format!("the knee is at {good_text}/s because {why}"),
        false => format!(
            "the search ended at {good_text}/s because the runs beyond are not valid, the server's knee may lie \
             higher: {why}"
        ),
    });
    for share in SHARES {
        if interrupt::requested() {
            break;
        }
        let mut at_share = plan.latency.clone();
        at_share.rate = good * share;
        progress.say(&format!("latency at {:.0} % of the maximum", 100.0 * share));
        let run = latency::run(dialer, &at_share, server.clone(), progress)?;
        let percent = format!("{:.0}", 100.0 * share);
        for (name, _) in PERCENTILES {
            if let Some(value) = run.value(&format!("latency_{name}_ns")) {
                // At shares of its own maximum, so not to be compared with another server's.
                result.figure(&figure_name(&percent, name), value, "ns", Better::Neither);
            }
        }
        result.load_points.push(load_point(&run, at_share.rate, Some(share)));
        if let Some(curve) = run.curves.get("latency") {
            result.curves.insert(format!("latency at {percent} %"), curve.clone());
        }
        cores::keep_worst(&mut result, &run);
        result.warnings.extend(run.warnings);
        result.faults.extend(run.faults);
        result.valid &= run.valid;
    }
    Ok(result)
}

/// Returns the name of the figure for a percentile at a share of the maximum.
pub fn figure_name(percent: &str, percentile: &str) -> String {
    format!("latency_at_{percent}_percent_{percentile}_ns")
}

fn step(
    dialer: &Dialer,
    plan: &SweepPlan,
    rate: f64,
    server: &Result<u32, String>,
    progress: &Progress,
    result: &mut RunResult,
) -> Result<Verdict, Failure> {
    let mut at_rate = plan.latency.clone();
    at_rate.rate = rate;
    at_rate.duration = plan.step_duration;
    let run = latency::run(dialer, &at_rate, server.clone(), progress)?;
    let verdict = judge(plan, &run, rate);
    cores::keep_worst(result, &run);
    let shown = match &verdict {
        Verdict::Good => "good".to_string(),
        Verdict::Knee(reason) | Verdict::Unknown(reason) => reason.clone(),
    };
    progress.say(&format!("{}/s: {shown}", number_text(rate)));
    result.load_points.push(load_point(&run, rate, None));
    result.server_name = run.server_name;
    result.server_version = run.server_version;
    Ok(verdict)
}

fn judge(plan: &SweepPlan, run: &RunResult, rate: f64) -> Verdict {
    if !run.valid {
        return Verdict::Unknown(run.faults.first().cloned().unwrap_or_default());
    }
    if run.value("rate_reached").unwrap_or(0.0) < REACHED_MIN * rate {
        return Verdict::Knee("the rate asked for was not reached".to_string());
    }
    if run.value("held_back_share").unwrap_or(0.0) > 0.01 {
        return Verdict::Knee("the server took the messages late".to_string());
    }
    let curve = run.curves.get("latency");
    let at_objective = curve.and_then(|curve| {
        let points = &curve.points;
        points.iter().find(|(percentile, _)| *percentile >= plan.objective_percentile)
    });
    match at_objective {
        Some((percentile, value)) if *value > plan.objective.as_nanos() as u64 => {
            Verdict::Knee(format!(
                "p{percentile} was {} with an objective of {}",
                nanoseconds_text(*value as f64),
                nanoseconds_text(plan.objective.as_nanos() as f64)
            ))
        }
        _ => Verdict::Good,
    }
}

fn load_point(run: &RunResult, rate: f64, share_of_max: Option<f64>) -> LoadPoint {
    let latency_ns: BTreeMap<String, u64> = PERCENTILES
        .iter()
        .filter_map(|(name, _)| {
            Some((name.to_string(), run.value(&format!("latency_{name}_ns"))? as u64))
        })
        .collect();
    LoadPoint {
        rate_asked: rate,
        rate_reached: run.value("rate_reached").unwrap_or(0.0),
        share_of_max,
        valid: run.valid,
        latency_ns,
    }
}
