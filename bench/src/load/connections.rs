//! Many idle connections: the memory of each in the server, the rate at which they are accepted,
//! and their effect on a pair that does talk.

use crate::Failure;
use crate::findings::kinds;
use crate::findings::percentiles::PERCENTILES;
use crate::findings::result::{Better, RunResult};
use crate::host::clock::now_ns;
use crate::host::server_process::{Sample, ServerProcess};
use crate::host::{descriptors, interrupt};
use crate::load::cores;
use crate::load::latency::{self, LatencyPlan};
use crate::progress::Progress;
use crate::wire::connection::Dialer;
use crate::wire::stream::Stream;
use rustix::event::epoll;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Descriptors that the harness needs in addition to the idle connections.
const DESCRIPTORS_KEPT: u64 = 200;
/// Connecting threads: enough to keep a server busy that handles handshakes one after the other.
const CONNECTING_THREADS: usize = 8;
/// Time for the server to settle before its memory is read.
const SETTLE: Duration = Duration::from_millis(1500);

#[derive(Clone, Debug)]
pub struct ConnectionsPlan {
    pub connection_count: usize,
    /// Subscriptions of each idle connection, on subjects to which nobody publishes.
    pub subscriptions_each: usize,
    /// The pair that talks: before, and while all connections are open.
    pub probe: LatencyPlan,
}

/// Makes one run.
///
/// # Errors
/// If the server cannot be reached or the probe cannot be run.
pub fn run(
    dialer: &Dialer,
    plan: &ConnectionsPlan,
    server: &Result<u32, String>,
    progress: &Progress,
) -> Result<RunResult, Failure> {
    let label =
        format!("{} with {} subscriptions each", plan.connection_count, plan.subscriptions_each);
    let mut result = RunResult::new(kinds::CONNECTIONS, &label);
    let wanted = within_descriptor_limit(plan.connection_count, &mut result)?;
    let mut process = result.server_process(server.clone());
    probe(dialer, plan, server, progress, "before", &mut result)?;
    std::thread::sleep(SETTLE);
    let mut samples: Vec<Sample> = Vec::new();
    let mut look = || process.as_mut().and_then(ServerProcess::sample);
    let before = look();
    let began_ns = now_ns();
    let (streams, failure) = open_all(dialer, plan, wanted, progress);
    let took_s = (now_ns() - began_ns) as f64 / 1e9;
    let opened = streams.len();
    if let Some(failure) = failure {
        result.invalidate(format!("connection {} failed: {failure}", opened + 1));
    }
    let connected = look();
    result.figure("connections_open", opened as f64, "connections", Better::Higher);
    result.figure("connects_per_second", opened as f64 / took_s, "1/s", Better::Higher);
    let stop = AtomicBool::new(false);
    let (kept_alive, probed) = std::thread::scope(|scope| {
        let keeper = scope.spawn(|| keep_alive(streams, &stop));
        settle(progress, 0);
        let idle_from = look();
        settle(progress, 1);
        let idle_until = look();
        report_memory(&mut result, opened, before, connected, idle_from, idle_until);
        samples.extend([before, connected, idle_from, idle_until].into_iter().flatten());
        let probed = probe(dialer, plan, server, progress, "with all open", &mut result);
        samples.extend(look());
        stop.store(true, Ordering::Relaxed);
        (keeper.join().unwrap_or(Err(Failure::new("the keeping thread panicked"))), probed)
    });
    probed?;
    let still_open = kept_alive?;
    if still_open < opened {
        result.invalidate(format!("the server closed {} idle connections", opened - still_open));
    }
    result.add_server_series(&samples);
    Ok(result)
}

/// Lets the server settle; `number` says for the first or the second time.
fn settle(progress: &Progress, number: u64) {
    let settle_ns = SETTLE.as_nanos() as u64;
    progress.show("idle", number * settle_ns, 2 * settle_ns);
    std::thread::sleep(SETTLE);
}

/// Raises the soft limit to the hard one; if fewer connections are possible than asked for, the
/// result says so.
fn within_descriptor_limit(wanted: usize, result: &mut RunResult) -> Result<usize, Failure> {
    let most = descriptors::lift_limit()?.saturating_sub(DESCRIPTORS_KEPT);
    if (wanted as u64) > most {
        result.warn(format!(
            "only {most} connections instead of {wanted}: the limit of open files; raise it by ulimit -n"
        ));
    }
    Ok((wanted as u64).min(most) as usize)
}

fn open_all(
    dialer: &Dialer,
    plan: &ConnectionsPlan,
    wanted: usize,
    progress: &Progress,
) -> (Vec<Stream>, Option<Failure>) {
    let streams = Mutex::new(Vec::with_capacity(wanted));
    let failure = Mutex::new(None);
    let next = AtomicUsize::new(0);
    let opened = AtomicUsize::new(0);
    let give_up = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..CONNECTING_THREADS {
            scope.spawn(|| {
                while !give_up.load(Ordering::Relaxed) && !interrupt::requested() {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= wanted {
                        return;
                    }
                    match open_one(dialer, plan, index) {
                        Ok(stream) => lock(&streams).push(stream),
                        Err(error) => {
                            lock(&failure).get_or_insert(error);
                            give_up.store(true, Ordering::Relaxed);
                        }
                    }
                    opened.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let began_ns = now_ns();
        while opened.load(Ordering::Relaxed) < wanted
            && !give_up.load(Ordering::Relaxed)
            && !interrupt::requested()
        {
            let done = opened.load(Ordering::Relaxed).max(1) as u64;
            let elapsed_ns = now_ns() - began_ns;
            progress.show("connecting", elapsed_ns, elapsed_ns / done * wanted as u64);
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let streams = streams.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let failure = failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    (streams, failure)
}

/// Opens a connection without its read buffer: ten thousand of those would take memory of the
/// harness.
fn open_one(dialer: &Dialer, plan: &ConnectionsPlan, index: usize) -> Result<Stream, Failure> {
    let mut connection = dialer.connect("midge-bench idle", 0)?;
    for subscription in 0..plan.subscriptions_each {
        let subject = format!("{}.idle.{index}.{subscription}", plan.probe.layout.subject_prefix);
        connection.subscribe(&subject, None, subscription as u64 + 1)?;
    }
    if plan.subscriptions_each > 0 {
        connection.fence()?;
    }
    Ok(connection.stream)
}

/// Answers the server's PINGs until told to stop. Returns the number of connections still open.
fn keep_alive(mut streams: Vec<Stream>, stop: &AtomicBool) -> Result<usize, Failure> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(std::io::Error::from)?;
    for (index, stream) in streams.iter().enumerate() {
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&epoll, stream, data, epoll::EventFlags::IN).map_err(std::io::Error::from)?;
    }
    let mut open = vec![true; streams.len()];
    let mut ready: Vec<epoll::Event> = Vec::with_capacity(1024);
    let mut buffer = [0; 4096];
    let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    while !stop.load(Ordering::Relaxed) {
        ready.clear();
        let space = rustix::buffer::spare_capacity(&mut ready);
        match epoll::wait(&epoll, space, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(std::io::Error::from(error).into()),
        }
        for event in &ready {
            let index = event.data.u64() as usize;
            let stream = &mut streams[index];
            match stream.try_read(&mut buffer) {
                Ok(None) => {}
                Ok(Some(count)) if count > 0 => {
                    let pings = memchr::memmem::find_iter(&buffer[..count], b"PING\r\n").count();
                    for _ in 0..pings {
                        stream.write_all(b"PONG\r\n")?;
                    }
                }
                Ok(Some(_)) | Err(_) => {
                    open[index] = false;
                    epoll::delete(&epoll, &*stream).map_err(std::io::Error::from)?;
                }
            }
        }
    }
    Ok(open.iter().filter(|&&open| open).count())
}

fn report_memory(
    result: &mut RunResult,
    opened: usize,
    before: Option<Sample>,
    connected: Option<Sample>,
    idle_from: Option<Sample>,
    idle_until: Option<Sample>,
) {
    let (Some(before), Some(connected), Some(idle_from), Some(idle_until)) =
        (before, connected, idle_from, idle_until)
    else {
        return;
    };
    let count = opened.max(1) as f64;
    let grown = idle_until.resident_bytes as f64 - before.resident_bytes as f64;
    result.figure("server_bytes_per_connection", grown / count, "bytes", Better::Lower);
    let connect_us = connected.cpu_ns.saturating_sub(before.cpu_ns) as f64 / 1e3;
    result.figure("server_cpu_us_per_connect", connect_us / count, "us", Better::Lower);
    result.add_idle_use(&idle_from, &idle_until);
}

fn probe(
    dialer: &Dialer,
    plan: &ConnectionsPlan,
    server: &Result<u32, String>,
    progress: &Progress,
    when: &str,
    result: &mut RunResult,
) -> Result<(), Failure> {
    let run = latency::run(dialer, &plan.probe, server.clone(), progress)?;
    cores::keep_worst(result, &run);
    if run.valid {
        let figure_part = when.replace(' ', "_");
        for (name, _) in PERCENTILES {
            if let Some(value) = run.value(&format!("latency_{name}_ns")) {
                let better = if when == "before" { Better::Neither } else { Better::Lower };
                result.figure(&format!("probe_{figure_part}_{name}_ns"), value, "ns", better);
            }
        }
        if let Some(curve) = run.curves.get("latency") {
            result.curves.insert(format!("probe {when}"), curve.clone());
        }
    } else {
        // The memory figures remain valid; only the probe's are void.
        result.invalid_parts.push(format!("probe {when}: {}", run.faults.join("; ")));
    }
    for warning in &run.warnings {
        result.warn(format!("probe {when}: {warning}"));
    }
    result.server_name = run.server_name;
    result.server_version = run.server_version;
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
