//! As fast as possible: several publishers and subscribers, every message counted, and the server's CPU
//! time per message over the same window as the rate.

use crate::Failure;
use crate::host::clock::now_ns;
use crate::host::core_time::{ThreadUse, Watch};
use crate::host::interrupt;
use crate::host::pin;
use crate::host::server_process::{Border, Sample, Sampler, ServerProcess};
use crate::load::cores::{self, Span};
use crate::load::layout::Layout;
use crate::load::publisher;
use crate::load::subscriber::{self, Tracker};
use crate::load::tracker::{Counts, GroupTracker, OrderTracker};
use crate::output::progress::Progress;
use crate::output::result::{Better, RunResult};
use crate::units::CoreList;
use crate::wire::connection::{Connection, Dialer, Role};
use crate::wire::frames::{FrameRing, STAMP_SIZE};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Bytes per read of a subscriber; a larger payload gets room for a few of its size.
const READ_SIZE: usize = 512 * 1024;
/// How often the measuring thread looks whether something ended early.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What to run.
#[derive(Clone, Debug)]
pub struct ThroughputPlan {
    pub layout: Layout,
    pub warmup: Duration,
    pub duration: Duration,
    /// Instead of a duration: exactly that many, measured from the first write to the last delivery.
    pub messages_per_publisher: Option<u64>,
    pub pin_load: CoreList,
    pub seed: u64,
}

/// A counter alone on its cache lines, so that threads do not slow each other by counting.
#[repr(align(128))]
#[derive(Default)]
pub struct Counter(pub AtomicU64);

/// What the threads of a run share.
pub struct Shared {
    pub published: Vec<Counter>,
    pub delivered: Vec<Counter>,
    pub stop: AtomicBool,
    /// A connection failed: nobody waits for messages that cannot come.
    pub abandon: AtomicBool,
    pub messages_per_publisher: Option<u64>,
    pub raw: bool,
    queue: bool,
    /// Set once, when every publisher is done: how many each has written.
    published_final: OnceLock<Vec<u64>>,
}

impl Shared {
    pub fn publishing_done(&self) -> bool {
        self.published_final.get().is_some()
    }

    /// How many messages a subscriber (for a queue group: all of its members) should get.
    pub fn expected_of(&self, tracker: &Tracker) -> u64 {
        let published = self.published_final.get().map_or(&[][..], Vec::as_slice);
        match tracker {
            Tracker::Order(tracker) => tracker.expected_count(published),
            Tracker::Group(_) => published.iter().sum(),
            // Without stamps there is only one subject: `run` has seen to that.
            Tracker::Number(_) => published.iter().sum(),
        }
    }

    /// How many came so far, to this subscriber or to its group.
    pub fn received_for(&self, index: usize, received: u64) -> u64 {
        if !self.queue {
            return received;
        }
        self.delivered[index].0.store(received, Ordering::Relaxed);
        total(&self.delivered)
    }
}

fn total(counters: &[Counter]) -> u64 {
    counters.iter().map(|counter| counter.0.load(Ordering::Relaxed)).sum()
}

/// One look at everything that is measured.
struct Snapshot {
    time_ns: u64,
    published: u64,
    delivered: u64,
    server: Option<Border>,
    generator: Option<Border>,
}

fn snapshot(
    shared: &Shared,
    server: Option<&Sampler>,
    generator: Option<&mut ServerProcess>,
) -> Snapshot {
    Snapshot {
        server: server.and_then(Sampler::border_now),
        generator: generator.and_then(ServerProcess::border),
        published: total(&shared.published),
        delivered: total(&shared.delivered),
        time_ns: now_ns(),
    }
}

/// Runs it once against the server behind `dialer`.
///
/// # Errors
/// When the connections cannot be made. What breaks later is a warning of an invalid result.
pub fn run(
    dialer: &Dialer,
    plan: &ThroughputPlan,
    server: Result<u32, String>,
    progress: &Progress,
) -> Result<RunResult, Failure> {
    let layout = &plan.layout;
    if layout.payload_size < STAMP_SIZE && (layout.subject_count > 1 || layout.queue.is_some()) {
        return Err(Failure::new(format!(
            "with several subjects or a queue group the payload needs at least {STAMP_SIZE} bytes"
        )));
    }
    let mut result = RunResult::new("throughput", &layout.label());
    let sampler = result.server_process(server).map(Sampler::start);
    let before = sampler.as_ref().and_then(Sampler::border_now);
    let mut generator = ServerProcess::open(std::process::id()).ok();
    let subscribers = open_subscribers(dialer, layout)?;
    let publishers = open_publishers(dialer, layout)?;
    if let Some(connection) = publishers.first() {
        result.server_name = connection.info.name.clone();
        result.server_version = connection.info.version.clone();
    }
    let shared = Shared {
        published: (0..layout.publisher_count).map(|_| Counter::default()).collect(),
        delivered: (0..layout.subscriber_count).map(|_| Counter::default()).collect(),
        stop: AtomicBool::new(false),
        abandon: AtomicBool::new(false),
        messages_per_publisher: plan.messages_per_publisher,
        raw: dialer.raw,
        queue: layout.queue.is_some(),
        published_final: OnceLock::new(),
    };
    let mut window = None;
    let (mut published, mut trackers) = (Vec::new(), Vec::new());
    let mut load: Vec<ThreadUse> = Vec::new();
    std::thread::scope(|scope| {
        let shared = &shared;
        let receivers: Vec<_> = subscribers
            .into_iter()
            .enumerate()
            .map(|(index, connection)| {
                let tracker = new_tracker(layout, index);
                scope.spawn(move || {
                    pin::pin_load_thread(&plan.pin_load, layout.publisher_count + index);
                    let watch = Watch::start();
                    let (tracker, failure) =
                        subscriber::receive(connection, tracker, index, shared);
                    (tracker, failure, watch.finish())
                })
            })
            .collect();
        let began = snapshot(shared, sampler.as_ref(), generator.as_mut());
        let senders: Vec<_> = publishers
            .into_iter()
            .enumerate()
            .map(|(index, connection)| {
                let ring = FrameRing::new(
                    index as u16,
                    &layout.subjects(),
                    layout.payload_size,
                    plan.seed + index as u64,
                );
                scope.spawn(move || {
                    pin::pin_load_thread(&plan.pin_load, index);
                    let watch = Watch::start();
                    let (count, failure) = publisher::publish(connection, ring, index, shared);
                    (count, failure, watch.finish())
                })
            })
            .collect();
        let ended_early = || {
            receivers.iter().any(|thread| thread.is_finished())
                || senders.iter().any(|thread| thread.is_finished())
        };
        if plan.messages_per_publisher.is_none() {
            wait(plan.warmup, "warm-up", progress, ended_early);
            let from = snapshot(shared, sampler.as_ref(), generator.as_mut());
            wait(plan.duration, "throughput", progress, ended_early);
            window = Some((from, snapshot(shared, sampler.as_ref(), generator.as_mut())));
            shared.stop.store(true, Ordering::Relaxed);
        }
        for sender in senders {
            while !sender.is_finished() && !interrupt::requested() {
                // A subscriber that was cut off cannot hold up its publishers for ever: they fail on
                // their own limit; with a fixed number they are told here.
                if receivers.iter().any(|thread| thread.is_finished()) {
                    shared.stop.store(true, Ordering::Relaxed);
                }
                std::thread::sleep(LOOK_INTERVAL.min(Duration::from_millis(2)));
            }
            if interrupt::requested() {
                shared.stop.store(true, Ordering::Relaxed);
            }
            let (count, failure, used) =
                sender.join().unwrap_or_else(|_| (0, Some(panicked()), None));
            load.extend(used);
            if let Some(failure) = failure {
                result.invalidate(format!("publisher {}: {failure}", published.len()));
            }
            published.push(count);
        }
        if !result.valid {
            shared.abandon.store(true, Ordering::Relaxed);
        }
        // The vector was empty: only this thread sets it.
        let _ = shared.published_final.set(published.clone());
        for (index, receiver) in receivers.into_iter().enumerate() {
            let (tracker, failure, used) =
                receiver.join().unwrap_or_else(|_| (Tracker::Number(0), Some(panicked()), None));
            load.extend(used);
            if let Some(failure) = failure {
                result.invalidate(format!("subscriber {index}: {failure}"));
            }
            trackers.push(tracker);
        }
        if window.is_none() {
            window = Some((began, snapshot(shared, sampler.as_ref(), generator.as_mut())));
        }
    });
    if let Some((from, until)) = window {
        let sampler = sampler.as_ref();
        let use_of = |from: &Option<Border>, until: &Option<Border>| {
            cores::server_use(sampler, from.as_ref(), until.as_ref())
        };
        let mut window = Span { server: use_of(&from.server, &until.server), load: Vec::new() };
        if let (Some(process), Some(from), Some(until)) =
            (&generator, &from.generator, &until.generator)
        {
            window.load = process.core_use(from, until);
        }
        let after = sampler.and_then(Sampler::border_now);
        let whole = Span { load, server: use_of(&before, &after) };
        let (of_generator, of_server) = cores::taken_of(&window, &whole);
        cores::report(&mut result, of_generator, of_server);
        report_rates(&mut result, layout, &plan.pin_load, &from, &until);
    }
    if layout.subscriber_count > 0 {
        let counts = finish_trackers(trackers, &published);
        if !counts.all_good() {
            result.warn(format!(
                "of {} expected messages {} were lost, {} doubled, {} out of order, {} foreign",
                counts.received + counts.lost - counts.doubled.min(counts.received),
                counts.lost,
                counts.doubled,
                counts.out_of_order,
                counts.foreign
            ));
        }
        result.counts = Some(counts);
    }
    if let Some(sampler) = sampler {
        result.add_server_series(&sampler.finish());
    }
    if interrupt::requested() {
        result.warn("interrupted: shorter than asked for".to_string());
    }
    Ok(result)
}

fn panicked() -> Failure {
    Failure::new("the load thread panicked")
}

fn open_subscribers(dialer: &Dialer, layout: &Layout) -> Result<Vec<Connection>, Failure> {
    let read_size = READ_SIZE.max(4 * layout.payload_size);
    let mut connections = Vec::new();
    for index in 0..layout.subscriber_count {
        let mut connection =
            dialer.connect_as(Role::Subscriber, index, "midge-bench subscriber", read_size)?;
        let subjects = layout.subscription_subjects(index);
        for (sid, subject) in subjects.iter().enumerate() {
            connection.subscribe(subject, layout.queue.as_deref(), sid as u64 + 1)?;
        }
        connection.fence()?;
        connections.push(connection);
    }
    Ok(connections)
}

fn open_publishers(dialer: &Dialer, layout: &Layout) -> Result<Vec<Connection>, Failure> {
    let mut connections = Vec::new();
    for index in 0..layout.publisher_count {
        let connection = dialer.connect_as(Role::Publisher, index, "midge-bench publisher", 0)?;
        let size_max = connection.info.payload_size_max;
        if size_max > 0 && layout.payload_size > size_max {
            return Err(Failure::new(format!(
                "the server takes payloads up to {size_max} bytes, not {}",
                layout.payload_size
            )));
        }
        connections.push(connection);
    }
    Ok(connections)
}

fn new_tracker(layout: &Layout, index: usize) -> Tracker {
    if layout.payload_size < STAMP_SIZE {
        Tracker::Number(0)
    } else if layout.queue.is_some() {
        Tracker::Group(GroupTracker::new(layout.publisher_count))
    } else {
        Tracker::Order(OrderTracker::new(layout.publisher_count, &layout.subscribed(index)))
    }
}

fn finish_trackers(trackers: Vec<Tracker>, published: &[u64]) -> Counts {
    let mut total = Counts::default();
    let mut group = Vec::new();
    for tracker in trackers {
        match tracker {
            Tracker::Order(tracker) => total.add(&tracker.finish(published)),
            Tracker::Group(tracker) => group.push(tracker),
            Tracker::Number(received) => {
                let sent: u64 = published.iter().sum();
                total.received += received;
                total.lost += sent.saturating_sub(received);
                total.doubled += received.saturating_sub(sent);
            }
        }
    }
    if !group.is_empty() {
        total.add(&GroupTracker::finish_group(group, published));
    }
    total
}

fn wait(duration: Duration, what: &str, progress: &Progress, ended_early: impl Fn() -> bool) {
    let begin = now_ns();
    let end = begin + duration.as_nanos() as u64;
    while now_ns() < end && !interrupt::requested() && !ended_early() {
        progress.show(what, now_ns() - begin, duration.as_nanos() as u64);
        std::thread::sleep(LOOK_INTERVAL.min(Duration::from_nanos(end.saturating_sub(now_ns()))));
    }
}

fn report_rates(
    result: &mut RunResult,
    layout: &Layout,
    pin_load: &CoreList,
    from: &Snapshot,
    until: &Snapshot,
) {
    let seconds = (until.time_ns - from.time_ns) as f64 / 1e9;
    let published = (until.published - from.published) as f64;
    let delivered = (until.delivered - from.delivered) as f64;
    let messages = if layout.subscriber_count > 0 { delivered } else { published };
    result.seconds = seconds;
    result.figure("messages_per_second", messages / seconds, "1/s", Better::Higher);
    result.figure("published_per_second", published / seconds, "1/s", Better::Higher);
    let payload_mib = messages * layout.payload_size as f64 / f64::from(1 << 20);
    result.figure("payload_mib_per_second", payload_mib / seconds, "MiB/s", Better::Higher);
    if messages == 0.0 {
        result.invalidate(interrupt::reason_or("not a single message in the measured time"));
        return;
    }
    let cores_of = |from: Option<Sample>, until: Option<Sample>| -> Option<(f64, f64)> {
        let (from, until) = (from?, until?);
        let cpu_ns = until.cpu_ns.saturating_sub(from.cpu_ns) as f64;
        Some((cpu_ns, cpu_ns / (until.time_ns - from.time_ns) as f64))
    };
    let sample = |border: &Option<Border>| border.as_ref().map(|border| border.sample);
    let server = cores_of(sample(&from.server), sample(&until.server));
    if let Some((cpu_ns, cores)) = server {
        let per_message = cpu_ns / 1e3 / messages;
        result.figure("server_cpu_us_per_message", per_message, "us", Better::Lower);
        result.figure("server_cores_busy", cores, "cores", Better::Neither);
    }
    if let Some((cpu_ns, cores)) = cores_of(sample(&from.generator), sample(&until.generator)) {
        let per_message = cpu_ns / 1e3 / messages;
        result.figure("generator_cpu_us_per_message", per_message, "us", Better::Neither);
        result.figure("generator_cores_busy", cores, "cores", Better::Neither);
        let limit = pin_load.0.len() as f64;
        if let Some((_, server_cores)) = server
            && limit > 0.0
            && cores > 0.95 * limit
            && server_cores < 0.9
        {
            result.warn(format!(
                "the load used {cores:.2} of its {limit} cores and the server only {server_cores:.2}: \
                 the rate is the generator's limit, read the CPU time per message"
            ));
        }
    }
}
