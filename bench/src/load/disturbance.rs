//! A client that misbehaves beside a latency run, to see how a consumer that stops reading, a
//! flood, or large payloads affect healthy clients.
//!
//! It runs in a thread of the lowest priority, so that on a shared core it takes only what the load
//! leaves over.

use crate::Failure;
use crate::findings::result::{Better, RunResult};
use crate::host::pin::pin_thread_to_set;
use crate::units::CoreList;
use crate::wire::connection::{Connection, Dialer};
use crate::wire::frames::frame;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a message to a consumer that does not read.
const UNREAD_BYTES: usize = 16 << 10;
/// Number of these messages at a time, and the time between: about 50 MB/s.
const UNREAD_BURST: usize = 3;
const UNREAD_INTERVAL: Duration = Duration::from_millis(1);
/// Interval at which another such consumer comes.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(2);
/// Bytes that the slow reader reads in a second.
const TRICKLE_BYTES: usize = 1 << 10;
const FLOOD_BYTES: usize = 128;
const FLOOD_BURST: usize = 500;
const LARGE_BYTES: usize = 1 << 20;
/// Interval of large messages.
const LARGE_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Disturbance {
    /// A subscriber that does not read, sent about 50 MB/s; every two seconds another one
    Stuck,
    /// The same, but it reads 1 KiB a second
    Trickle,
    /// A publisher that sends 128-byte messages nobody hears as fast as it can
    Flood,
    /// A pair that exchanges payloads of 1 MiB, fifty a second
    Large,
}

impl Disturbance {
    pub fn name(self) -> &'static str {
        match self {
            Self::Stuck => "stuck subscriber",
            Self::Trickle => "subscriber at 1 KiB/s",
            Self::Flood => "flood",
            Self::Large => "1 MiB payloads",
        }
    }
}

/// The outcome of a disturbance.
#[derive(Debug, Default)]
pub struct Disturbed {
    published: u64,
    /// Why it ended before it was told to.
    failure: Option<Failure>,
}

impl Disturbed {
    pub fn report(self, kind: Disturbance, result: &mut RunResult) {
        result.figure("disturbing_messages", self.published as f64, "messages", Better::Neither);
        if let Some(failure) = self.failure {
            result.invalidate(format!("the {} ended early: {failure}", kind.name()));
        } else if self.published == 0 {
            let why = "its thread got no time: give it a core of its own, by --pin-beside";
            result.invalidate(format!("the {} disturbed nobody: {why}", kind.name()));
        }
    }
}

/// Disturbs until told to stop.
pub fn run(
    dialer: &Dialer,
    kind: Disturbance,
    prefix: &str,
    cores: &CoreList,
    stop: &AtomicBool,
) -> Disturbed {
    // The thread's own priority; if it fails, the load is only disturbed more.
    let _ = rustix::process::setpriority_process(None, 19);
    let mut disturbed = Disturbed::default();
    if !cores.0.is_empty()
        && let Err(failure) = pin_thread_to_set(cores)
    {
        disturbed.failure = Some(failure);
        return disturbed;
    }
    let subject = format!("{prefix}.beside");
    let outcome = match kind {
        Disturbance::Stuck => unread(dialer, &subject, 0, stop, &mut disturbed),
        Disturbance::Trickle => unread(dialer, &subject, TRICKLE_BYTES, stop, &mut disturbed),
        Disturbance::Flood => flood(dialer, &subject, stop, &mut disturbed),
        Disturbance::Large => large(dialer, &subject, stop, &mut disturbed),
    };
    disturbed.failure = outcome.err();
    disturbed
}

fn is_over(stop: &AtomicBool) -> bool {
    stop.load(Ordering::Relaxed)
}

fn subscriber(dialer: &Dialer, subject: &str) -> Result<Connection, Failure> {
    let mut connection = dialer.connect("midge-bench beside", 0)?;
    connection.subscribe(subject, None, 1)?;
    connection.fence()?;
    Ok(connection)
}

fn unread(
    dialer: &Dialer,
    subject: &str,
    bytes_per_second: usize,
    stop: &AtomicBool,
    disturbed: &mut Disturbed,
) -> Result<(), Failure> {
    let burst = frame(subject, None, UNREAD_BYTES, 1).0.repeat(UNREAD_BURST);
    let mut publisher = dialer.connect("midge-bench beside", 0)?;
    // Subscribers that do not read never notice that they were cut off: they are kept, and others
    // join.
    let mut slow = vec![subscriber(dialer, subject)?];
    let mut came_at = Instant::now();
    let mut buffer = vec![0; TRICKLE_BYTES];
    let mut read_at = Instant::now();
    while !is_over(stop) {
        publisher.stream.write_all(&burst)?;
        disturbed.published += UNREAD_BURST as u64;
        std::thread::sleep(UNREAD_INTERVAL);
        if bytes_per_second > 0 && read_at.elapsed() >= Duration::from_secs(1) {
            read_at = Instant::now();
            for one in &mut slow {
                // A subscriber that was cut off has nothing more to say.
                let _ = one.stream.try_read(&mut buffer);
            }
        }
        if came_at.elapsed() >= RENEWAL_INTERVAL {
            came_at = Instant::now();
            slow.push(subscriber(dialer, subject)?);
        }
    }
    Ok(())
}

fn flood(
    dialer: &Dialer,
    subject: &str,
    stop: &AtomicBool,
    disturbed: &mut Disturbed,
) -> Result<(), Failure> {
    let burst = frame(subject, None, FLOOD_BYTES, 1).0.repeat(FLOOD_BURST);
    let mut publisher = dialer.connect("midge-bench beside", 0)?;
    while !is_over(stop) {
        publisher.stream.write_all(&burst)?;
        disturbed.published += FLOOD_BURST as u64;
    }
    Ok(())
}

fn large(
    dialer: &Dialer,
    subject: &str,
    stop: &AtomicBool,
    disturbed: &mut Disturbed,
) -> Result<(), Failure> {
    let message = frame(subject, None, LARGE_BYTES, 1).0;
    let mut publisher = dialer.connect("midge-bench beside", 0)?;
    let mut receiver = subscriber(dialer, subject)?;
    let mut buffer = vec![0; LARGE_BYTES];
    while !is_over(stop) {
        publisher.stream.write_all(&message)?;
        disturbed.published += 1;
        let next = Instant::now() + LARGE_INTERVAL;
        while Instant::now() < next {
            if receiver.stream.try_read(&mut buffer)?.is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
    Ok(())
}
