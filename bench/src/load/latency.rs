//! Open-loop latency: every message has a due time on a fixed schedule and its latency counts from
//! there, so that a stalled server shows in every message due meanwhile.

use crate::Failure;
use crate::findings::counts::Counts;
use crate::findings::kinds;
use crate::findings::percentiles::{Curve, PERCENTILES, new_histogram};
use crate::findings::result::{Better, RunResult};
use crate::host::clock::now_ns;
use crate::host::core_time::{ThreadUse, taken_share};
use crate::host::{interrupt, pin};
use crate::load::cores::{self, GENERATOR_FIGURE, LATE_FIGURE};
use crate::load::disturbance::{self, Disturbance};
use crate::load::endpoints::{Mode, open_receivers, open_senders};
use crate::load::event_loop::{Common, LoadThread, Measured, Pacer};
use crate::load::layout::Layout;
use crate::load::run::{Run, Times, Window};
use crate::load::schedule::{Arrival, Schedule};
use crate::progress::Progress;
use crate::units::{CoreList, nanoseconds_text, number_text};
use crate::wire::connection::Dialer;
use crate::wire::frames::TIMED_STAMP_SIZE;
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Time from the start of the threads to that of the schedule, so that none starts late.
const START_DELAY_NS: u64 = 50_000_000;
/// Share of the time above which other programs on the generator's core count as the cause of its
/// late sends.
const CORE_TAKEN_MAX: f64 = 0.005;

#[derive(Clone, Debug)]
pub struct LatencyPlan {
    pub layout: Layout,
    pub mode: Mode,
    /// Messages per second of all publishers together.
    pub rate: f64,
    pub arrival: Arrival,
    pub pacer: Pacer,
    pub warmup: Duration,
    pub duration: Duration,
    pub pin_load: CoreList,
    pub load_threads: usize,
    /// A send later than this counts against the generator.
    pub late_limit: Duration,
    /// Share of late sends above which the run is invalid.
    pub late_share_max: f64,
    pub seed: u64,
    /// A client that misbehaves beside the load.
    pub beside: Option<Disturbance>,
    /// Cores of that client; empty = those of the load.
    pub pin_beside: CoreList,
}

impl LatencyPlan {
    fn label(&self) -> String {
        let mode = match self.mode {
            Mode::OneWay => "",
            Mode::Request => "request ",
        };
        let arrival = match self.arrival {
            Arrival::Constant => "",
            Arrival::Poisson => " poisson",
        };
        let beside = self.beside.map_or(String::new(), |kind| format!(" beside {}", kind.name()));
        format!("{mode}{} at {}/s{arrival}{beside}", self.layout.label(), number_text(self.rate))
    }
}

/// Makes one run against the server behind `dialer`.
///
/// # Errors
/// If the plan makes no sense or the connections cannot be made.
pub fn run(
    dialer: &Dialer,
    plan: &LatencyPlan,
    server: Result<u32, String>,
    progress: &Progress,
) -> Result<RunResult, Failure> {
    let layout = &plan.layout;
    if layout.payload_size < TIMED_STAMP_SIZE {
        return Err(Failure::new(format!(
            "latency needs payloads of {TIMED_STAMP_SIZE} bytes or more"
        )));
    }
    if layout.publisher_count == 0 || layout.subscriber_count == 0 {
        return Err(Failure::new("latency needs a publisher and a subscriber at least"));
    }
    if layout.queue.is_some() && plan.mode == Mode::OneWay {
        return Err(Failure::new(
            "queue groups are counted by `throughput`, not by one-way latency",
        ));
    }
    let mut run = Run::begin(kinds::LATENCY, &plan.label(), server, progress);
    let thread_count =
        plan.load_threads.clamp(1, layout.publisher_count.max(layout.subscriber_count));
    let receivers = open_receivers(dialer, layout, plan.mode, thread_count)?;
    let senders =
        open_senders(dialer, layout, plan.mode, plan.seed, thread_count, &mut run.result)?;
    let sending = senders.iter().filter(|senders| !senders.is_empty()).count();
    let times = Times::from_now(START_DELAY_NS, plan.warmup, plan.duration);
    let common = Common {
        times,
        pacer: plan.pacer,
        sent: (0..layout.publisher_count).map(|_| AtomicU64::new(0)).collect(),
        sending_threads: AtomicUsize::new(sending),
    };
    let stop = AtomicBool::new(false);
    let (window, measured, disturbed) = std::thread::scope(|scope| {
        let common = &common;
        let threads: Vec<_> = senders
            .into_iter()
            .zip(receivers)
            .enumerate()
            .map(|(index, (senders, receivers))| {
                // Shares of the rate are in proportion to a thread's publishers.
                let share = senders.len() as f64 / layout.publisher_count as f64;
                let phase_ns = (1e9 / plan.rate * index as f64) as u64;
                let schedule = (!senders.is_empty()).then(|| {
                    let seed = plan.seed + index as u64;
                    let start_ns = times.start_ns + phase_ns;
                    Schedule::new(plan.arrival, plan.rate * share, start_ns, seed)
                });
                scope.spawn(move || {
                    pin::pin_load_thread(&plan.pin_load, index);
                    LoadThread::new(common, schedule, senders, receivers).run()
                })
            })
            .collect();
        let stop = &stop;
        let disturber = plan.beside.map(|kind| {
            let prefix = &plan.layout.subject_prefix;
            let cores = &plan.pin_beside;
            (kind, scope.spawn(move || disturbance::run(dialer, kind, prefix, cores, stop)))
        });
        let ended = || threads.iter().any(|thread| thread.is_finished());
        let window = run.measure(&times, || (), ended);
        stop.store(true, Ordering::Relaxed);
        let disturbed = disturber.and_then(|(kind, thread)| Some((kind, thread.join().ok()?)));
        let measured: Vec<Measured> =
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect();
        (window, measured, disturbed)
    });
    report(&mut run, plan, &common, measured, &window);
    if let Some((kind, disturbed)) = disturbed {
        disturbed.report(kind, &mut run.result);
    }
    Ok(run.finish())
}

fn report(
    run: &mut Run<'_>,
    plan: &LatencyPlan,
    common: &Common,
    measured: Vec<Measured>,
    window: &Window<()>,
) {
    let times = &common.times;
    let (mut latency, mut late) = (new_histogram(), new_histogram());
    let (mut sent_count, mut held_back, mut last_send_ns, mut pause_ns_max) = (0, 0, 0, 0);
    let mut load_use: Vec<ThreadUse> = Vec::new();
    let mut counts = Counts::default();
    let mut unsent = false;
    let sent: Vec<u64> =
        common.sent.iter().map(|count| count.load(std::sync::atomic::Ordering::Acquire)).collect();
    for thread in measured {
        latency += &thread.latency;
        late += &thread.late;
        sent_count += thread.sent_count;
        held_back += thread.held_back_count;
        last_send_ns = last_send_ns.max(thread.last_send_ns);
        pause_ns_max = pause_ns_max.max(thread.pause_ns_max);
        unsent |= thread.gave_up;
        load_use.extend(thread.core_use);
        if let Some(failure) = thread.failure {
            run.result.invalidate(failure.to_string());
        }
        for tracker in thread.receivers {
            counts.add(&tracker.finish(&sent));
        }
        for (index, tracker) in thread.replies {
            // A requester receives only its own replies.
            let mut own = vec![0; sent.len()];
            own[usize::from(index)] = sent[usize::from(index)];
            counts.add(&tracker.finish(&own));
        }
    }
    if plan.mode == Mode::Request && plan.layout.subscriber_count > 1 {
        // Two responders answer in the order in which they are reached; that is not the server's
        // fault.
        counts.out_of_order = 0;
    }
    // The server, too, makes sends late while it has the load's core.
    let of_generator = taken_share(&load_use, &[]);
    let (_, of_server) = run.cores_taken(window, load_use.clone(), load_use);
    let result = &mut run.result;
    cores::report(result, of_generator, of_server);
    if unsent {
        result.invalidate(format!(
            "long after the end messages were still due: {}/s is far beyond the server or the generator",
            number_text(plan.rate)
        ));
    }
    result.seconds = plan.duration.as_secs_f64();
    if interrupt::requested() {
        result.seconds =
            (now_ns().min(times.end_ns).saturating_sub(times.measure_from_ns)) as f64 / 1e9;
    }
    let took_ns =
        last_send_ns.max(times.end_ns.min(now_ns())).saturating_sub(times.measure_from_ns);
    let reached = sent_count as f64 / (took_ns.max(1) as f64 / 1e9);
    result.figure("rate_asked", plan.rate, "1/s", Better::Neither);
    result.figure("rate_reached", reached, "1/s", Better::Neither);
    result.figure("messages_measured", latency.len() as f64, "messages", Better::Neither);
    result.figure("held_back_share", share(held_back, sent_count), "", Better::Lower);
    result.figure("generator_pause_max_ns", pause_ns_max as f64, "ns", Better::Neither);
    for (name, percentile) in PERCENTILES {
        if !latency.is_empty() {
            let value = latency.value_at_quantile(percentile / 100.0) as f64;
            result.figure(&format!("latency_{name}_ns"), value, "ns", Better::Lower);
        }
        if !late.is_empty() {
            let value = late.value_at_quantile(percentile / 100.0) as f64;
            result.figure(&format!("late_{name}_ns"), value, "ns", Better::Neither);
        }
    }
    if let Some(cpu) = window.server_cpu().filter(|_| sent_count > 0) {
        let per_message = cpu.ns / 1e3 / sent_count as f64;
        result.figure("server_cpu_us_per_message", per_message, "us", Better::Lower);
        result.figure("server_cores_busy", cpu.cores, "cores", Better::Neither);
    }
    let limits = LateLimits {
        late_limit: plan.late_limit,
        late_share_max: plan.late_share_max,
        rate: plan.rate,
    };
    judge_lateness(result, &limits, &latency, &late, (sent_count, held_back));
    if !counts.all_good() {
        result.invalidate(format!(
            "{} messages were lost, {} doubled, {} out of order, {} foreign: the percentiles are of those that came",
            counts.lost, counts.doubled, counts.out_of_order, counts.foreign
        ));
    }
    result.counts = Some(counts);
    result.curves.insert("latency".to_string(), Curve::of(&latency));
    result.curves.insert("late".to_string(), Curve::of(&late));
}

/// The facts by which the generator of an open loop is judged.
#[derive(Clone, Copy, Debug)]
pub struct LateLimits {
    /// A send later than this counts against the generator.
    pub late_limit: Duration,
    /// Share of late sends above which the run is invalid.
    pub late_share_max: f64,
    pub rate: f64,
}

/// Judges whether the server was measured, or the generator.
pub fn judge_lateness(
    result: &mut RunResult,
    limits: &LateLimits,
    latency: &Histogram<u64>,
    late: &Histogram<u64>,
    (sent_count, held_back): (u64, u64),
) {
    if latency.is_empty() {
        result.invalidate(interrupt::reason_or("not a single message in the measured time"));
        return;
    }
    let limit_ns = limits.late_limit.as_nanos() as u64;
    let late_count = late.len() - late.count_between(0, limit_ns);
    let late_share = share(late_count, sent_count);
    result.figure(LATE_FIGURE, late_share, "", Better::Neither);
    if late_share > limits.late_share_max {
        let taken = result.value(GENERATOR_FIGURE).unwrap_or(0.0);
        let cause = if taken > CORE_TAKEN_MAX {
            format!(
                "other programs had its core for {:.1} % of the time; give it one of its own, by --pin-load, \
                 and see scripts/tune-host.sh",
                100.0 * taken
            )
        } else {
            "lower the rate, pin it to cores of its own, or add --load-threads".to_string()
        };
        result.invalidate(format!(
            "{:.2} % of the sends were more than {} late although the server took them: the generator was \
             the bottleneck; {cause}",
            100.0 * late_share,
            nanoseconds_text(limit_ns as f64)
        ));
    } else {
        // Lateness is part of the latency; where it makes up half of it, the tail is the
        // generator's.
        let own_tail = PERCENTILES.iter().find(|(_, percentile)| {
            let quantile = percentile / 100.0;
            2 * late.value_at_quantile(quantile) > latency.value_at_quantile(quantile)
        });
        if let Some((name, _)) = own_tail {
            result.warn(format!(
                "from {name} on, late sends of the generator are half the latency or more: this host cannot \
                 show the server's tail beyond that"
            ));
        }
    }
    let single = PERCENTILES.iter().find(|(name, percentile)| {
        *name != "max" && latency.len() as f64 * (1.0 - percentile / 100.0) < 1.0
    });
    if let Some((name, _)) = single {
        result.warn(format!("too few messages for {name}: from there on it is the maximum"));
    }
    if share(held_back, sent_count) > 0.01 {
        result.warn(format!(
            "the server took {:.1} % of the messages late: it cannot keep up with {}/s",
            100.0 * share(held_back, sent_count),
            number_text(limits.rate)
        ));
    }
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}
