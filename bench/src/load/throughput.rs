//! As fast as possible: several publishers and subscribers, every message counted, and the server's
//! CPU time per message over the same window as the rate.

use crate::Failure;
use crate::findings::kinds;
use crate::findings::result::{Better, RunResult};
use crate::host::core_time::{ThreadUse, Watch};
use crate::host::{interrupt, pin};
use crate::load::layout::Layout;
use crate::load::run::{Run, Times, Window};
use crate::load::shared::{Counter, Shared, total};
use crate::load::tracker::{self, GroupTracker, OrderTracker, Tracker};
use crate::load::{cores, publisher, subscriber};
use crate::progress::Progress;
use crate::units::CoreList;
use crate::wire::connection::{Connection, Dialer, Role};
use crate::wire::frames::{FrameRing, STAMP_SIZE};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Bytes per read of a subscriber; a larger payload gets room for several of its size.
const READ_SIZE: usize = 512 * 1024;
/// Interval at which the measuring thread checks whether a publisher is done.
const END_LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// A throughput run as the flags describe it.
#[derive(Clone, Debug)]
pub struct ThroughputPlan {
    pub layout: Layout,
    pub warmup: Duration,
    pub duration: Duration,
    /// Instead of a duration: exactly this number, measured from the first write to the last
    /// delivery.
    pub messages_per_publisher: Option<u64>,
    pub pin_load: CoreList,
    pub seed: u64,
}

/// Numbers of messages so far.
#[derive(Clone, Copy)]
struct Sums {
    published: u64,
    delivered: u64,
}

/// Makes one run against the server behind `dialer`.
///
/// # Errors
/// If the connections cannot be made. Later failures are warnings of an invalid result.
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
    let mut run = Run::begin(kinds::THROUGHPUT, &layout.label(), server, progress).with_generator();
    let subscribers = open_subscribers(dialer, layout)?;
    let publishers = open_publishers(dialer, layout)?;
    if let Some(connection) = publishers.first() {
        run.result.server_name = connection.info.name.clone();
        run.result.server_version = connection.info.version.clone();
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
    let sums = || Sums { published: total(&shared.published), delivered: total(&shared.delivered) };
    let (mut published, mut trackers) = (Vec::new(), Vec::new());
    let mut load: Vec<ThreadUse> = Vec::new();
    let window = std::thread::scope(|scope| {
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
        let began = run.look(sums);
        let times = Times::from_now(0, plan.warmup, plan.duration);
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
        let ended = || {
            receivers.iter().any(|thread| thread.is_finished())
                || senders.iter().any(|thread| thread.is_finished())
        };
        let mut window = None;
        if plan.messages_per_publisher.is_none() {
            window = Some(run.measure(&times, sums, ended));
            shared.stop.store(true, Ordering::Relaxed);
        }
        for sender in senders {
            while !sender.is_finished() && !interrupt::requested() {
                // A subscriber that was cut off cannot hold up its publishers forever: they fail by
                // their own limit; with a fixed number they are told here.
                if receivers.iter().any(|thread| thread.is_finished()) {
                    shared.stop.store(true, Ordering::Relaxed);
                }
                std::thread::sleep(END_LOOK_INTERVAL);
            }
            if interrupt::requested() {
                shared.stop.store(true, Ordering::Relaxed);
            }
            let (count, failure, used) =
                sender.join().unwrap_or_else(|_| (0, Some(panicked()), None));
            load.extend(used);
            if let Some(failure) = failure {
                run.result.invalidate(format!("publisher {}: {failure}", published.len()));
            }
            published.push(count);
        }
        if !run.result.valid {
            shared.abandon.store(true, Ordering::Relaxed);
        }
        // It was empty: only this thread sets it.
        let _ = shared.published_final.set(published.clone());
        for (index, receiver) in receivers.into_iter().enumerate() {
            let (tracker, failure, used) =
                receiver.join().unwrap_or_else(|_| (Tracker::Number(0), Some(panicked()), None));
            load.extend(used);
            if let Some(failure) = failure {
                run.result.invalidate(format!("subscriber {index}: {failure}"));
            }
            trackers.push(tracker);
        }
        window.unwrap_or_else(|| Window { from: began, until: run.look(sums) })
    });
    let (of_generator, of_server) = run.cores_taken(&window, run.generator_use(&window), load);
    cores::report(&mut run.result, of_generator, of_server);
    report_rates(&mut run.result, layout, &plan.pin_load, &window);
    if layout.subscriber_count > 0 {
        let counts = tracker::finish_all(trackers, &published);
        if !counts.all_good() {
            run.result.warn(format!(
                "of {} expected messages {} were lost, {} doubled, {} out of order, {} foreign",
                counts.received + counts.lost - counts.doubled.min(counts.received),
                counts.lost,
                counts.doubled,
                counts.out_of_order,
                counts.foreign
            ));
        }
        run.result.counts = Some(counts);
    }
    Ok(run.finish())
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

fn report_rates(
    result: &mut RunResult,
    layout: &Layout,
    pin_load: &CoreList,
    window: &Window<Sums>,
) {
    let seconds = window.length_ns() as f64 / 1e9;
    let (from, until) = (window.from.counts, window.until.counts);
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
    let server = window.server_cpu();
    if let Some(cpu) = server {
        let per_message = cpu.ns / 1e3 / messages;
        result.figure("server_cpu_us_per_message", per_message, "us", Better::Lower);
        result.figure("server_cores_busy", cpu.cores, "cores", Better::Neither);
    }
    if let Some(cpu) = window.generator_cpu() {
        let per_message = cpu.ns / 1e3 / messages;
        result.figure("generator_cpu_us_per_message", per_message, "us", Better::Neither);
        result.figure("generator_cores_busy", cpu.cores, "cores", Better::Neither);
        let limit = pin_load.0.len() as f64;
        if let Some(server) = server
            && limit > 0.0
            && cpu.cores > 0.95 * limit
            && server.cores < 0.9
        {
            result.warn(format!(
                "the load used {:.2} of its {limit} cores and the server only {:.2}: \
                 the rate is the generator's limit, read the CPU time per message",
                cpu.cores, server.cores
            ));
        }
    }
}
