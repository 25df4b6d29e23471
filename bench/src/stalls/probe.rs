//! A client that only sends PING and times the PONG, on a thread of its own.

use crate::Failure;
use crate::host::clock::now_ns;
use crate::wire::connection::Connection;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Time from a PONG to the next PING.
const PAUSE: Duration = Duration::from_millis(1);
/// A PING without a PONG by then counts as this long.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(180);

/// One PING: when it left and how long its PONG took.
#[derive(Clone, Copy, Debug)]
struct RoundTrip {
    sent_ns: u64,
    took_ns: u64,
}

/// A running probe; sends until `finish`.
pub struct Probe {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(Vec<RoundTrip>, Option<Failure>)>,
}

/// All round trips of a probe.
pub struct Probed {
    round_trips: Vec<RoundTrip>,
}

impl Probe {
    pub fn start(mut connection: Connection) -> Probe {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut round_trips = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let sent_ns = now_ns();
                let outcome = connection.fence_within(ROUND_TRIP_MAX);
                let took_ns = now_ns() - sent_ns;
                round_trips.push(RoundTrip { sent_ns, took_ns });
                if let Err(failure) = outcome {
                    return (round_trips, Some(failure));
                }
                std::thread::sleep(PAUSE);
            }
            (round_trips, None)
        });
        Probe { stop, thread }
    }

    /// Stops the probe and waits for the last PONG.
    ///
    /// # Errors
    /// If the server closed the probe's connection or left it without a PONG.
    pub fn finish(self) -> Result<Probed, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        let (round_trips, failure) =
            self.thread.join().map_err(|_| Failure::new("the probe's thread panicked"))?;
        match failure {
            None => Ok(Probed { round_trips }),
            Some(failure) => Err(Failure::new(format!("the probe's PING: {failure}"))),
        }
    }
}

impl Probed {
    /// Returns the nanoseconds of the longest round trip that was in progress at any time of the
    /// window. `None` if there was none.
    pub fn worst_ns(&self, from_ns: u64, until_ns: u64) -> Option<u64> {
        self.round_trips
            .iter()
            .filter(|one| one.sent_ns <= until_ns && one.sent_ns + one.took_ns >= from_ns)
            .map(|one| one.took_ns)
            .max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_counts_where_any_part_of_it_is_in_the_window() {
        let round_trips = vec![
            RoundTrip { sent_ns: 0, took_ns: 50 },
            RoundTrip { sent_ns: 60, took_ns: 90 },
            RoundTrip { sent_ns: 160, took_ns: 10 },
            RoundTrip { sent_ns: 200, took_ns: 70 },
        ];
        let probed = Probed { round_trips };
        assert_eq!(probed.worst_ns(0, 300), Some(90));
        assert_eq!(probed.worst_ns(0, 59), Some(50));
        assert_eq!(probed.worst_ns(100, 110), Some(90));
        assert_eq!(probed.worst_ns(151, 200), Some(70));
        assert_eq!(probed.worst_ns(151, 199), Some(10));
        assert_eq!(probed.worst_ns(300, 400), None);
    }
}
