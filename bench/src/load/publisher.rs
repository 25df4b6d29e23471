//! One publishing thread of a throughput run: prebuilt writes, as fast as the server takes them.

use crate::Failure;
use crate::load::shared::Shared;
use crate::wire::connection::Connection;
use crate::wire::frames::FrameRing;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Time for the final PING: the server may have megabytes to process before it answers.
const FINAL_FENCE_WAIT_MAX: Duration = Duration::from_secs(60);
/// Number of writes between two checks for the server's PINGs.
const WRITES_PER_LOOK: u32 = 64;

/// Publishes until told to stop or until `message_count`, then waits until the server has read
/// everything. Returns the number of messages written, and the failure, if any.
pub fn publish(
    mut connection: Connection,
    mut ring: FrameRing,
    index: usize,
    shared: &Shared,
) -> (u64, Option<Failure>) {
    let counter = &shared.published[index].0;
    let message_count = shared.messages_per_publisher.unwrap_or(u64::MAX);
    let mut written = 0;
    let mut write_count = 0u32;
    while !shared.stop.load(Ordering::Relaxed) && written < message_count {
        if let Err(error) = connection.stream.write_all(ring.next_write(message_count - written)) {
            // The server may have given a reason before it closed.
            let said = connection.pump(|_, _| {}).err();
            return (written, Some(said.unwrap_or_else(|| error.into())));
        }
        written = ring.sequence();
        // Relaxed: a statistic; this function returns the exact number.
        counter.store(written, Ordering::Relaxed);
        write_count += 1;
        if write_count.is_multiple_of(WRITES_PER_LOOK)
            && let Err(error) = connection.try_pump(|_, _| {})
        {
            return (written, Some(error));
        }
    }
    let outcome = if shared.raw {
        wait_for_end(&mut connection)
    } else {
        connection.fence_within(FINAL_FENCE_WAIT_MAX)
    };
    (written, outcome.err())
}

/// Waits for the relay's end: it sends no PONG, but closes once it has read everything.
fn wait_for_end(connection: &mut Connection) -> Result<(), Failure> {
    connection.stream.finish_writing()?;
    let until = Instant::now() + FINAL_FENCE_WAIT_MAX;
    let mut byte = [0];
    while Instant::now() < until {
        if connection.stream.read(&mut byte)? == Some(0) {
            return Ok(());
        }
    }
    Err(Failure::new("the relay did not read everything in time"))
}
