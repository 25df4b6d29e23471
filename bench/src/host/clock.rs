//! Nanoseconds since the process's epoch: one clock for every thread of a run; and how long a thread was
//! kept from its core.

use std::sync::OnceLock;
use std::time::Instant;

static EPOCH: OnceLock<Instant> = OnceLock::new();

/// Nanoseconds on the monotonic clock since the first call in this process.
#[inline]
pub fn now_ns() -> u64 {
    EPOCH.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// How long the calling thread has been ready to run while other programs had its core, so far. `None` where
/// the kernel does not count it.
pub fn core_wait_ns() -> Option<u64> {
    // `time on a core, time waiting for one, number of turns`.
    let content = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    content.split_whitespace().nth(1)?.parse().ok()
}
