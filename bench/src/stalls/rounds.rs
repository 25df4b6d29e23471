//! Runs every case on every server, in turning order, so that a drift of the host affects all
//! alike.

use crate::Failure;
use crate::host::{descriptors, interrupt};
use crate::progress::Progress;
use crate::stalls::cases::Case;
use crate::stalls::stage::{Contender, Stage, Worst};
use crate::units::{CoreList, nanoseconds_text};

#[derive(Clone, Debug)]
pub struct StallsPlan {
    /// The others are compared with the last one.
    pub contenders: Vec<Contender>,
    pub cases: Vec<Case>,
    pub rounds: u32,
    pub pin_server: CoreList,
    /// Multiplies the numbers in every case.
    pub scale: f64,
}

/// One case on one server.
#[derive(Debug)]
pub struct Run {
    pub case: Case,
    /// Index of the plan's contender.
    pub contender: usize,
    /// The text says why it could not be played.
    pub outcome: Result<Worst, String>,
}

/// Returns all runs in the order in which they were made. An interrupt ends them early.
///
/// # Errors
/// If there is nothing to run.
pub fn run(plan: &StallsPlan, progress: &Progress) -> Result<Vec<Run>, Failure> {
    descriptors::lift_limit()?;
    let mut runs = Vec::new();
    let count = plan.contenders.len();
    for (number, &case) in plan.cases.iter().enumerate() {
        for round in 0..plan.rounds {
            for turn in 0..count {
                let contender = (turn + round as usize) % count;
                let one = &plan.contenders[contender];
                progress.set_prefix(&format!(
                    "case {} of {}, {case:?}, round {} of {}, {}",
                    number + 1,
                    plan.cases.len(),
                    round + 1,
                    plan.rounds,
                    one.name
                ));
                let outcome = play(plan, one, case);
                if interrupt::requested() {
                    progress.set_prefix("");
                    return Ok(runs);
                }
                match &outcome {
                    Ok(worst) => progress.say(&format!(
                        "{} on its shard, {} on the last",
                        nanoseconds_text(worst.near_ns as f64),
                        nanoseconds_text(worst.far_ns as f64)
                    )),
                    Err(failure) => progress.say(&format!("FAILED: {failure}")),
                }
                let outcome = outcome.map_err(|failure| failure.to_string());
                runs.push(Run { case, contender, outcome });
            }
        }
    }
    progress.set_prefix("");
    Ok(runs)
}

fn play(plan: &StallsPlan, contender: &Contender, case: Case) -> Result<Worst, Failure> {
    let settings = case.settings(plan.scale);
    let mut stage = Stage::open(contender, settings, &plan.pin_server, plan.scale)?;
    stage.play(|stage| case.play(stage))
}
