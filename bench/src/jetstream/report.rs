//! The figures of a JetStream run.

use crate::findings::counts::Counts;
use crate::findings::percentiles::{Curve, PERCENTILES, new_histogram};
use crate::findings::result::{Better, RunResult};
use crate::host::interrupt;
use crate::jetstream::reader::{Check, shared_checks};
use crate::jetstream::threads::Measured;
use crate::jetstream::work::{JetStreamPlan, Work};
use crate::load::latency::{LateLimits, judge_lateness};
use crate::load::run::{Run, Window};
use crate::load::tracker::GroupTracker;
use hdrhistogram::Histogram;

/// Share of busy time above which a load thread may be what limits the rate.
const BUSY_SHARE_MAX: f64 = 0.9;

/// Names of the histograms.
pub const ANSWER_CURVE: &str = "acknowledged";
pub const VALUE_CURVE: &str = "answered";
pub const DELIVERY_CURVE: &str = "published to consumed";
pub const LATE_CURVE: &str = "late";

/// Numbers so far.
#[derive(Clone, Copy, Debug)]
pub struct Sums {
    pub answered: u64,
    pub consumed: u64,
}

/// The facts about a run that the later checks need.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub answered: u64,
    pub unanswered: u64,
    /// False after an interrupt or a broken connection: the server's counts prove nothing then.
    pub usable: bool,
}

/// All threads together.
struct Sum {
    answer_time: Histogram<u64>,
    delivery_time: Histogram<u64>,
    late: Histogram<u64>,
    due_count: u64,
    held_back_count: u64,
    busy_ns_max: u64,
    asked: Counts,
    refused: u64,
    redelivered: u64,
    checks: Vec<Check>,
}

/// Adds the figures of a run. `sent` is the number of messages of each publisher, `target` the
/// number of messages that the readers had to get, if it was known before.
pub fn report(
    run: &mut Run<'_>,
    plan: &JetStreamPlan,
    window: &Window<Sums>,
    measured: Vec<Measured>,
    sent: &[u64],
    target: Option<u64>,
) -> Outcome {
    let mut usable = !interrupt::requested();
    let result = &mut run.result;
    let sum = add_up(result, measured, &mut usable);
    let seconds = window.length_ns() as f64 / 1e9;
    result.seconds = seconds;
    let answered = (window.until.counts.answered - window.from.counts.answered) as f64;
    let consumed = (window.until.counts.consumed - window.from.counts.consumed) as f64;
    let consumes = plan.work.reads_stored() || plan.work == Work::Mixed;
    let messages = if consumes { consumed } else { answered };
    result.figure("messages_per_second", messages / seconds, "1/s", Better::Higher);
    if plan.work == Work::Mixed {
        result.figure("published_per_second", answered / seconds, "1/s", Better::Higher);
    }
    let payload_mib = messages * plan.payload_size as f64 / f64::from(1 << 20);
    result.figure("payload_mib_per_second", payload_mib / seconds, "MiB/s", Better::Higher);
    count(result, plan, &sum, sent, target);
    let outcome = Outcome { answered: sum.asked.received, unanswered: sum.asked.lost, usable };
    if messages == 0.0 {
        result.invalidate(interrupt::reason_or("not a single message in the measured time"));
        return outcome;
    }
    add_times(result, plan, &sum);
    if let Some(cpu) = window.server_cpu() {
        let per_message = cpu.ns / 1e3 / messages;
        result.figure("server_cpu_us_per_message", per_message, "us", Better::Lower);
        result.figure("server_cores_busy", cpu.cores, "cores", Better::Neither);
        let busy = sum.busy_ns_max as f64 / window.length_ns() as f64;
        result.figure("generator_busy_share", busy, "", Better::Neither);
        if busy > BUSY_SHARE_MAX && cpu.cores < 0.9 {
            result.warn(format!(
                "a load thread was at work {:.0} % of the time and the server less: the rate is the \
                 generator's limit, read the CPU time per message, or add --load-threads",
                100.0 * busy
            ));
        }
    }
    outcome
}

fn add_up(result: &mut RunResult, measured: Vec<Measured>, usable: &mut bool) -> Sum {
    let mut sum = Sum {
        answer_time: new_histogram(),
        delivery_time: new_histogram(),
        late: new_histogram(),
        due_count: 0,
        held_back_count: 0,
        busy_ns_max: 0,
        asked: Counts::default(),
        refused: 0,
        redelivered: 0,
        checks: Vec::new(),
    };
    let mut refusal = None;
    for thread in measured {
        sum.answer_time += &thread.answer_time;
        sum.delivery_time += &thread.delivery_time;
        sum.late += &thread.late;
        sum.due_count += thread.due_count;
        sum.held_back_count += thread.held_back_count;
        sum.busy_ns_max = sum.busy_ns_max.max(thread.busy_ns);
        sum.asked.add(&thread.counts);
        sum.refused += thread.refused;
        sum.redelivered += thread.redelivered;
        sum.checks.extend(thread.checks);
        refusal = refusal.or(thread.refusals.into_iter().next());
        if thread.gave_up {
            result.invalidate(
                "the server left a million requests without an answer: the rate is far beyond it"
                    .to_string(),
            );
        }
        if let Some(failure) = thread.failure {
            *usable = false;
            result.invalidate(failure.to_string());
        }
    }
    if let Some(refusal) = refusal {
        result.invalidate(format!("{} requests were refused: {refusal}", sum.refused.max(1)));
    }
    sum
}

/// Counts answers and messages, and invalidates a run in which one is missing or too many.
fn count(
    result: &mut RunResult,
    plan: &JetStreamPlan,
    sum: &Sum,
    sent: &[u64],
    target: Option<u64>,
) {
    let asked = &sum.asked;
    if !asked.all_good() && !interrupt::requested() {
        result.invalidate(format!(
            "{} requests have no answer, {} answers came twice, {} are wrong",
            asked.lost, asked.doubled, asked.foreign
        ));
    }
    let consumes = plan.work.reads_stored() || plan.work == Work::Mixed;
    if !consumes {
        result.counts = Some(*asked);
        return;
    }
    let mut counts = Counts::default();
    if plan.work == Work::Ordered {
        for check in &sum.checks {
            if let Check::Ordered { counts: own, .. } = check {
                counts.add(own);
            }
        }
        counts.lost = target.unwrap_or(0).saturating_sub(counts.received - counts.doubled);
    } else {
        counts.add(&GroupTracker::finish_group(shared_checks(sum.checks.clone()), sent));
    }
    result.figure("messages_redelivered", sum.redelivered as f64, "messages", Better::Neither);
    if !counts.all_good() && !interrupt::requested() {
        result.invalidate(format!(
            "{} messages were never consumed, {} twice, {} out of order, {} foreign",
            counts.lost, counts.doubled, counts.out_of_order, counts.foreign
        ));
    }
    result.counts = Some(counts);
}

fn add_times(result: &mut RunResult, plan: &JetStreamPlan, sum: &Sum) {
    let open = plan.work == Work::PublishOpen;
    if !sum.answer_time.is_empty() {
        let prefix = if open { "latency" } else { "round_trip" };
        add_percentiles(result, prefix, &sum.answer_time, Better::Lower);
        let name = if plan.work == Work::KvGet { VALUE_CURVE } else { ANSWER_CURVE };
        result.curves.insert(name.to_string(), Curve::of(&sum.answer_time));
    }
    if plan.work == Work::Mixed && !sum.delivery_time.is_empty() {
        add_percentiles(result, "latency", &sum.delivery_time, Better::Lower);
        result.curves.insert(DELIVERY_CURVE.to_string(), Curve::of(&sum.delivery_time));
    }
    if open {
        add_percentiles(result, "late", &sum.late, Better::Neither);
        result.curves.insert(LATE_CURVE.to_string(), Curve::of(&sum.late));
        result.figure("rate_asked", plan.rate, "1/s", Better::Neither);
        let held_back = sum.held_back_count as f64 / sum.due_count.max(1) as f64;
        result.figure("held_back_share", held_back, "", Better::Lower);
        let limits = LateLimits {
            late_limit: plan.late_limit,
            late_share_max: plan.late_share_max,
            rate: plan.rate,
        };
        let sent = (sum.due_count, sum.held_back_count);
        judge_lateness(result, &limits, &sum.answer_time, &sum.late, sent);
    }
}

fn add_percentiles(
    result: &mut RunResult,
    prefix: &str,
    histogram: &Histogram<u64>,
    better: Better,
) {
    for (name, percentile) in PERCENTILES.iter().filter(|_| !histogram.is_empty()) {
        let value = histogram.value_at_quantile(percentile / 100.0) as f64;
        result.figure(&format!("{prefix}_{name}_ns"), value, "ns", better);
    }
}
