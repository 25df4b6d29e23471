//! Open-loop latency: every message has a due time on a fixed schedule and its latency counts from there,
//! so a stalled server shows in every message that was due meanwhile.

use crate::Failure;
use crate::host::clock::now_ns;
use crate::host::core_time::{ThreadUse, taken_share};
use crate::host::interrupt;
use crate::host::pin;
use crate::host::server_process::{Border, Sampler};
use crate::load::cores::{self, GENERATOR_FIGURE, Span};
use crate::load::disturbance::{self, Disturbance};
use crate::load::event_loop::{
    Common, LoadThread, Measured, Outgoing, Pacer, Receiver, ReceiverRole, Sender,
};
use crate::load::layout::Layout;
use crate::load::schedule::{Arrival, Schedule};
use crate::load::tracker::{Counts, OrderTracker};
use crate::output::percentiles::{Curve, PERCENTILES, new_histogram};
use crate::output::progress::Progress;
use crate::output::result::{Better, RunResult};
use crate::units::{CoreList, nanoseconds_text, number_text};
use crate::wire::connection::{Dialer, Role};
use crate::wire::frames::{TIMED_STAMP_SIZE, frame};
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// The schedule starts this long after the threads do, so that none starts late.
const START_DELAY_NS: u64 = 50_000_000;
const READ_SIZE: usize = 64 * 1024;
/// When others had the generator's core for more than this share of the time, they are the cause of its late
/// sends.
const CORE_TAKEN_MAX: f64 = 0.005;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Publisher to subscriber, both in this process, on one clock.
    OneWay,
    /// Requester to responder and back; the responder is in this process too.
    Request,
}

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
    /// Who misbehaves beside it.
    pub beside: Option<Disturbance>,
    /// On which cores; empty = those of the load.
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

/// Runs it once against the server behind `dialer`.
///
/// # Errors
/// When the plan makes no sense or the connections cannot be made.
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
    let mut result = RunResult::new("latency", &plan.label());
    let sampler = result.server_process(server).map(Sampler::start);
    let before = sampler.as_ref().and_then(Sampler::border_now);
    let thread_count =
        plan.load_threads.clamp(1, layout.publisher_count.max(layout.subscriber_count));
    let receivers = open_receivers(dialer, layout, plan.mode, thread_count)?;
    let senders = open_senders(dialer, layout, plan.mode, plan.seed, thread_count, &mut result)?;
    let sending = senders.iter().filter(|senders| !senders.is_empty()).count();
    let start_ns = now_ns() + START_DELAY_NS;
    let measure_from_ns = start_ns + plan.warmup.as_nanos() as u64;
    let common = Common {
        start_ns,
        measure_from_ns,
        end_ns: measure_from_ns + plan.duration.as_nanos() as u64,
        pacer: plan.pacer,
        sent: (0..layout.publisher_count).map(|_| AtomicU64::new(0)).collect(),
        sending_threads: AtomicUsize::new(sending),
    };
    let mut borders: (Option<Border>, Option<Border>) = (None, None);
    let stop = AtomicBool::new(false);
    let mut disturbed = None;
    let measured: Vec<Measured> = std::thread::scope(|scope| {
        let common = &common;
        let threads: Vec<_> = senders
            .into_iter()
            .zip(receivers)
            .enumerate()
            .map(|(index, (senders, receivers))| {
                // Shares of the rate follow the publishers a thread has.
                let share = senders.len() as f64 / layout.publisher_count as f64;
                let phase_ns = (1e9 / plan.rate * index as f64) as u64;
                let schedule = (!senders.is_empty()).then(|| {
                    let seed = plan.seed + index as u64;
                    Schedule::new(plan.arrival, plan.rate * share, start_ns + phase_ns, seed)
                });
                scope.spawn(move || {
                    pin::pin_load_thread(&plan.pin_load, index);
                    LoadThread::new(common, schedule, senders, receivers).run()
                })
            })
            .collect();
        let border = || sampler.as_ref().and_then(Sampler::border_now);
        let finished = || threads.iter().any(|thread| thread.is_finished());
        let stop = &stop;
        let disturber = plan.beside.map(|kind| {
            let prefix = &plan.layout.subject_prefix;
            let cores = &plan.pin_beside;
            (kind, scope.spawn(move || disturbance::run(dialer, kind, prefix, cores, stop)))
        });
        wait_until(common.measure_from_ns, "warm-up", plan.warmup, progress, finished);
        borders.0 = border();
        wait_until(common.end_ns, "latency", plan.duration, progress, finished);
        borders.1 = border();
        stop.store(true, Ordering::Relaxed);
        disturbed = disturber.and_then(|(kind, thread)| Some((kind, thread.join().ok()?)));
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let after = sampler.as_ref().and_then(Sampler::border_now);
    let server_use = [(&borders.0, &borders.1), (&before, &after)]
        .map(|(from, until)| cores::server_use(sampler.as_ref(), from.as_ref(), until.as_ref()));
    report(&mut result, plan, &common, measured, borders, server_use);
    if let Some((kind, disturbed)) = disturbed {
        disturbed.report(kind, &mut result);
    }
    if let Some(sampler) = sampler {
        result.add_server_series(&sampler.finish());
    }
    Ok(result)
}

/// The receiving connections of each load thread: subscribers, or the responders of requests.
pub(super) fn open_receivers(
    dialer: &Dialer,
    layout: &Layout,
    mode: Mode,
    thread_count: usize,
) -> Result<Vec<Vec<Receiver>>, Failure> {
    let read_size = READ_SIZE.max(4 * layout.payload_size);
    let mut threads: Vec<Vec<Receiver>> = (0..thread_count).map(|_| Vec::new()).collect();
    for index in 0..layout.subscriber_count {
        let mut connection =
            dialer.connect_as(Role::Subscriber, index, "midge-bench receiver", read_size)?;
        let (subjects, queue, role) = match mode {
            Mode::OneWay => {
                let tracker = OrderTracker::new(layout.publisher_count, &layout.subscribed(index));
                (layout.subscription_subjects(index), None, ReceiverRole::Measure(tracker))
            }
            // Responders share the requests: each is answered once.
            Mode::Request => {
                let role = ReceiverRole::Respond(Outgoing::default());
                (layout.subjects(), Some("responders"), role)
            }
        };
        for (sid, subject) in subjects.iter().enumerate() {
            connection.subscribe(subject, queue, sid as u64 + 1)?;
        }
        connection.fence()?;
        // Receivers fill the threads from the far end, so that with two threads and one pair the sender
        // and the receiver have a thread each.
        threads[thread_count - 1 - index % thread_count].push(Receiver { connection, role });
    }
    Ok(threads)
}

/// The sending connections of each load thread: publishers, or requesters with their inboxes.
pub(super) fn open_senders(
    dialer: &Dialer,
    layout: &Layout,
    mode: Mode,
    seed: u64,
    thread_count: usize,
    result: &mut RunResult,
) -> Result<Vec<Vec<Sender>>, Failure> {
    let mut threads: Vec<Vec<Sender>> = (0..thread_count).map(|_| Vec::new()).collect();
    for index in 0..layout.publisher_count {
        let read_size = READ_SIZE.max(4 * layout.payload_size);
        let mut connection =
            dialer.connect_as(Role::Publisher, index, "midge-bench sender", read_size)?;
        result.server_name = connection.info.name.clone();
        result.server_version = connection.info.version.clone();
        let inbox = format!("{}.inbox.{index}", layout.subject_prefix);
        let reply = (mode == Mode::Request).then_some(inbox.as_str());
        let mut tracker = None;
        if let Some(inbox) = reply {
            connection.subscribe(inbox, None, 1)?;
            connection.fence()?;
            tracker = Some(OrderTracker::new(layout.publisher_count, &[true]));
        }
        let frames = layout
            .subjects()
            .iter()
            .map(|subject| frame(subject, reply, layout.payload_size, seed))
            .collect();
        threads[index % thread_count].push(Sender {
            connection,
            index: index as u16,
            frames,
            sequence: 0,
            outgoing: Outgoing::default(),
            held_back: false,
            due_ns: Vec::new(),
            tracker,
        });
    }
    Ok(threads)
}

pub(super) fn wait_until(
    until_ns: u64,
    what: &str,
    duration: Duration,
    progress: &Progress,
    finished: impl Fn() -> bool,
) {
    let total_ns = duration.as_nanos() as u64;
    while now_ns() < until_ns && !interrupt::requested() && !finished() {
        let left_ns = until_ns - now_ns().min(until_ns);
        progress.show(what, total_ns.saturating_sub(left_ns), total_ns);
        std::thread::sleep(Duration::from_nanos(left_ns.min(50_000_000)));
    }
}

fn report(
    result: &mut RunResult,
    plan: &LatencyPlan,
    common: &Common,
    measured: Vec<Measured>,
    borders: (Option<Border>, Option<Border>),
    [in_window, in_whole]: [Vec<ThreadUse>; 2],
) {
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
            result.invalidate(failure.to_string());
        }
        for tracker in thread.receivers {
            counts.add(&tracker.finish(&sent));
        }
        for (index, tracker) in thread.replies {
            // Of all publishers' replies only its own come to a requester.
            let mut own = vec![0; sent.len()];
            own[usize::from(index)] = sent[usize::from(index)];
            counts.add(&tracker.finish(&own));
        }
    }
    if plan.mode == Mode::Request && plan.layout.subscriber_count > 1 {
        // Two responders answer in whatever order they are reached: that is no fault of the server.
        counts.out_of_order = 0;
    }
    if unsent {
        result.invalidate(format!(
            "long after the end messages were still due: {}/s is far beyond the server or the generator",
            number_text(plan.rate)
        ));
    }
    result.seconds = plan.duration.as_secs_f64();
    if interrupt::requested() {
        result.seconds =
            (now_ns().min(common.end_ns).saturating_sub(common.measure_from_ns)) as f64 / 1e9;
        result.warn("interrupted: shorter than asked for".to_string());
    }
    let took_ns =
        last_send_ns.max(common.end_ns.min(now_ns())).saturating_sub(common.measure_from_ns);
    let reached = sent_count as f64 / (took_ns.max(1) as f64 / 1e9);
    result.figure("rate_asked", plan.rate, "1/s", Better::Neither);
    result.figure("rate_reached", reached, "1/s", Better::Neither);
    result.figure("messages_measured", latency.len() as f64, "messages", Better::Neither);
    result.figure("held_back_share", share(held_back, sent_count), "", Better::Lower);
    result.figure("generator_pause_max_ns", pause_ns_max as f64, "ns", Better::Neither);
    // The server too makes sends late when it has the load's core.
    let of_generator = taken_share(&load_use, &[]);
    let window = Span { load: load_use.clone(), server: in_window };
    let whole = Span { load: load_use, server: in_whole };
    cores::report(result, of_generator, cores::taken_of(&window, &whole).1);
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
    if let (Some(from), Some(until)) = borders
        && sent_count > 0
    {
        let (from, until) = (from.sample, until.sample);
        let cpu_us = until.cpu_ns.saturating_sub(from.cpu_ns) as f64 / 1e3;
        result.figure("server_cpu_us_per_message", cpu_us / sent_count as f64, "us", Better::Lower);
        let busy = cpu_us * 1e3 / (until.time_ns - from.time_ns).max(1) as f64;
        result.figure("server_cores_busy", busy, "cores", Better::Neither);
    }
    judge(result, plan, &latency, &late, (sent_count, held_back));
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

/// Was it the server that was measured, or the generator?
fn judge(
    result: &mut RunResult,
    plan: &LatencyPlan,
    latency: &Histogram<u64>,
    late: &Histogram<u64>,
    (sent_count, held_back): (u64, u64),
) {
    if latency.is_empty() {
        result.invalidate(interrupt::reason_or("not a single message in the measured time"));
        return;
    }
    let limit_ns = plan.late_limit.as_nanos() as u64;
    let late_count = late.len() - late.count_between(0, limit_ns);
    let late_share = share(late_count, sent_count);
    result.figure("late_share", late_share, "", Better::Neither);
    if late_share > plan.late_share_max {
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
        // Lateness is part of the latency; where it makes up half of it, the tail is the generator's.
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
            number_text(plan.rate)
        ));
    }
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}
