//! One receiving thread of a throughput run: large reads, and every message counted.

use crate::Failure;
use crate::load::shared::Shared;
use crate::load::tracker::Tracker;
use crate::wire::connection::Connection;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Silence after the publishers are done after which missing messages count as lost.
const QUIET_MAX: Duration = Duration::from_secs(3);

/// Receives until everything published has come, or nothing more comes.
pub fn receive(
    mut connection: Connection,
    mut tracker: Tracker,
    index: usize,
    shared: &Shared,
) -> (Tracker, Option<Failure>) {
    let counter = &shared.delivered[index].0;
    let mut received = 0u64;
    let mut quiet_since = Instant::now();
    let mut expected = None;
    loop {
        let before = received;
        let pumped = connection.pump(|_, payload| {
            tracker.record(payload);
            received += 1;
        });
        if let Err(error) = pumped {
            // Through the relay the end of the stream is the normal end.
            let ended = shared.raw && shared.publishing_done();
            return (tracker, (!ended).then_some(error));
        }
        if received != before {
            // Relaxed: a statistic for the measuring thread.
            counter.store(received, Ordering::Relaxed);
            quiet_since = Instant::now();
        }
        if expected.is_none() && shared.publishing_done() {
            expected = Some(shared.expected_of(&tracker));
            quiet_since = Instant::now();
        }
        if let Some(expected) = expected {
            let complete = shared.received_for(index, received) >= expected;
            if complete || quiet_since.elapsed() > QUIET_MAX {
                break;
            }
        }
        if shared.abandon.load(Ordering::Relaxed) {
            return (tracker, None);
        }
    }
    if shared.raw {
        return (tracker, None);
    }
    // Whatever the server still sends, such as doubled messages, comes before this PONG.
    let fenced = connection.fence_with(|_, payload| {
        tracker.record(payload);
        received += 1;
    });
    counter.store(received, Ordering::Relaxed);
    (tracker, fenced.err())
}
