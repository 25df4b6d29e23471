//! What the integration tests share: a server process on a free port of 127.0.0.1, and a raw client.
//!
//! Nothing here sleeps: every wait is for a stated condition and has a deadline.

// Each test binary compiles this module for itself and uses a part of it.
#![allow(dead_code)]

pub mod certificates;
pub mod raw_client;
pub mod server;
pub mod tls_client;

use std::time::Duration;

/// How long any single wait of a test may take before it counts as failed. Generous, because the tests
/// also run on machines that are busy with something else.
pub const WAIT_MAX: Duration = Duration::from_secs(10);

/// Asks `condition` again and again until it holds.
///
/// # Panics
/// It does not hold in time; the text says what was waited for.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + WAIT_MAX;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
