//! The noise floor of this host: what a latency figure contains before any broker has done
//! anything.
//!
//! Three meters: a thread that only reads the clock (what the host takes from a running thread),
//! and an echo over TCP and over a Unix socket pair (what two system calls and a wake-up cost).

use crate::Failure;
use crate::findings::percentiles::{Curve, PERCENTILES, new_histogram};
use crate::findings::result::{Better, RunResult};
use crate::host::clock::now_ns;
use crate::host::{interrupt, pin};
use crate::progress::Progress;
use crate::units::CoreList;
use hdrhistogram::Histogram;
use rustix::net::{RecvFlags, SendFlags};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Gaps are spread over every such step that they cover, since a message due in any of them would
/// have waited.
const HICCUP_STEP_NS: u64 = 1_000;
const ECHO_SIZE: usize = 64;
/// An echo that does not come within this time ends the measurement with an error.
const ECHO_WAIT_NS_MAX: u64 = 5_000_000_000;

#[derive(Clone, Debug)]
pub struct FloorPlan {
    /// Duration of each meter.
    pub duration: Duration,
    pub pin_load: CoreList,
    pub pin_server: CoreList,
}

/// The side of the floor in results.
pub const SIDE: &str = "host";

/// Measures the floor.
///
/// # Errors
/// If the sockets cannot be made or a core is not available.
pub fn run(plan: &FloorPlan, progress: &Progress) -> Result<RunResult, Failure> {
    let mut result = RunResult::new("floor", "of this host");
    result.side = SIDE.to_string();
    result.seconds = plan.duration.as_secs_f64();
    let mut hiccups = Vec::new();
    for (name, cores) in [("load", &plan.pin_load), ("server", &plan.pin_server)] {
        if name == "load" || !cores.0.is_empty() {
            let what = format!("{name}'s core");
            let histogram = meter(plan, progress, &what, || hiccup_meter(plan.duration, cores))?;
            hiccups.push((format!("hiccup_{name}_core"), histogram));
        }
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let client = std::net::TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let tcp = meter(plan, progress, "TCP echo", || echo(plan, client.into(), server.into()))?;
    let (client, server) = std::os::unix::net::UnixStream::pair()?;
    let unix =
        meter(plan, progress, "Unix socket echo", || echo(plan, client.into(), server.into()))?;
    hiccups.push(("tcp_echo".to_string(), tcp));
    hiccups.push(("unix_echo".to_string(), unix));
    for (name, histogram) in &hiccups {
        for (percentile_name, percentile) in PERCENTILES {
            let value = histogram.value_at_quantile(percentile / 100.0) as f64;
            result.figure(&format!("{name}_{percentile_name}_ns"), value, "ns", Better::Neither);
        }
        result.curves.insert(name.clone(), Curve::of(histogram));
    }
    Ok(result)
}

fn meter(
    plan: &FloorPlan,
    progress: &Progress,
    name: &str,
    step: impl FnOnce() -> Result<Histogram<u64>, Failure> + Send,
) -> Result<Histogram<u64>, Failure> {
    progress
        .during(&format!("noise floor, {name}"), plan.duration, step)
        .unwrap_or_else(|| Err(Failure::new(format!("the meter of the {name} panicked"))))
}

/// Reads the clock without pause and records each time that it was kept from doing so.
fn hiccup_meter(duration: Duration, cores: &CoreList) -> Result<Histogram<u64>, Failure> {
    let cores = cores.clone();
    let meter = std::thread::spawn(move || {
        if !cores.0.is_empty() {
            pin::pin_thread_to_set(&cores)?;
        }
        pin::pin_load_thread(&cores, 0);
        let mut histogram = new_histogram();
        let begin_ns = now_ns();
        let mut last_ns = begin_ns;
        let mut read_count = 0u64;
        let end_ns = last_ns + duration.as_nanos() as u64;
        while last_ns < end_ns && !interrupt::requested() {
            let now = now_ns();
            if now - last_ns >= HICCUP_STEP_NS {
                spread_gap(&mut histogram, now - last_ns);
            }
            last_ns = now;
            read_count += 1;
        }
        // A message due in any other step would only have waited for the clock itself.
        let clock_ns = (last_ns - begin_ns) / read_count.max(1);
        let quiet_steps = ((last_ns - begin_ns) / HICCUP_STEP_NS).saturating_sub(histogram.len());
        histogram.saturating_record_n(clock_ns.max(1), quiet_steps);
        Ok(histogram)
    });
    meter.join().unwrap_or_else(|_| Err(Failure::new("the hiccup meter panicked")))
}

/// Records a gap: one of 5 us held up one message by 5, one by 4, ... one by 1.
fn spread_gap(histogram: &mut Histogram<u64>, gap_ns: u64) {
    let mut left_ns = gap_ns;
    while left_ns >= HICCUP_STEP_NS {
        histogram.saturating_record(left_ns);
        left_ns -= HICCUP_STEP_NS;
    }
}

/// Measures round trips of a few bytes: the client spins, the server blocks, as in a latency run.
fn echo(plan: &FloorPlan, client: OwnedFd, server: OwnedFd) -> Result<Histogram<u64>, Failure> {
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let failed = &failed;
        scope.spawn(move || {
            // A floor measured on other cores than asked for would be misleading.
            let pinned =
                plan.pin_server.0.is_empty() || pin::pin_thread_to_set(&plan.pin_server).is_ok();
            failed.store(!pinned, Ordering::Relaxed);
            let mut socket = std::fs::File::from(server);
            let mut bytes = [0; ECHO_SIZE];
            while pinned && socket.read_exact(&mut bytes).is_ok() {
                if socket.write_all(&bytes).is_err() {
                    return;
                }
            }
        });
        let measured = scope.spawn(move || {
            pin::pin_load_thread(&plan.pin_load, 0);
            let measured = echo_client(plan.duration, client.as_fd());
            // Closing the socket ends the server's read.
            drop(client);
            measured
        });
        let histogram =
            measured.join().unwrap_or_else(|_| Err(Failure::new("the echo client panicked")))?;
        if failed.load(Ordering::Relaxed) {
            return Err(Failure::new("the echo server cannot run on the server's cores"));
        }
        Ok(histogram)
    })
}

fn echo_client(
    duration: Duration,
    socket: rustix::fd::BorrowedFd<'_>,
) -> Result<Histogram<u64>, Failure> {
    let mut histogram = new_histogram();
    let end_ns = now_ns() + duration.as_nanos() as u64;
    let mut bytes = [0; ECHO_SIZE];
    loop {
        let sent_ns = now_ns();
        if sent_ns >= end_ns || interrupt::requested() {
            return Ok(histogram);
        }
        rustix::net::send(socket, &bytes, SendFlags::NOSIGNAL).map_err(std::io::Error::from)?;
        let mut received = 0;
        while received < ECHO_SIZE {
            match rustix::net::recv(socket, &mut bytes[received..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(Failure::new("the echo server ended")),
                Ok((count, _)) => received += count,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(std::io::Error::from(error).into()),
            }
            if now_ns() > sent_ns + ECHO_WAIT_NS_MAX {
                return Err(Failure::new("an echo did not come back"));
            }
        }
        histogram.saturating_record(now_ns() - sent_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_counts_for_every_message_that_it_would_have_held_up() {
        let mut histogram = new_histogram();
        spread_gap(&mut histogram, 5_200);
        assert_eq!(histogram.len(), 5);
        assert!(histogram.equivalent(histogram.max(), 5_200));
        assert!(histogram.equivalent(histogram.min(), 1_200));
    }

    #[test]
    fn every_meter_of_the_floor_has_a_curve() {
        let plan = FloorPlan {
            duration: Duration::from_millis(30),
            pin_load: CoreList::default(),
            pin_server: CoreList::default(),
        };
        let result = run(&plan, &Progress::new(true)).unwrap();
        let names: Vec<&str> = result.curves.keys().map(String::as_str).collect();
        assert_eq!(names, ["hiccup_load_core", "tcp_echo", "unix_echo"]);
        assert!(result.curves.values().all(|curve| curve.count > 0));
    }
}
