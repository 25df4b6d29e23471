//! Shared by the integration tests: a server process on a free port of 127.0.0.1, and a raw client.
//!
//! Nothing here sleeps: every wait is for a stated condition and has a deadline.

// Each test binary compiles this module for itself and uses a part of it.
#![allow(dead_code)]

pub mod certificates;
pub mod jwt;
pub mod masked;
pub mod raw_client;
pub mod server;
pub mod tls_client;
pub mod unframed;
pub mod web_client;

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Longest time of any single wait before the test fails. Generous, because the tests also run on
/// machines that are busy with something else.
pub const WAIT_MAX: Duration = Duration::from_secs(10);

/// Evaluates `condition` again and again until it holds.
///
/// # Panics
/// If it does not hold in time; `what` says what was waited for.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + WAIT_MAX;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Lets this test, and servers it starts from now on, have `count` files open: a login's usual soft
/// limit is 1,024.
///
/// # Panics
/// If the hard limit is lower.
pub fn allow_open_files(count: usize) {
    let limit = getrlimit(Resource::Nofile);
    let enough = limit.maximum.is_none_or(|maximum| maximum >= count as u64);
    assert!(enough, "{count} files are needed; the hard limit is {:?}", limit.maximum);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, wanted).expect("the soft limit may rise to the hard one");
}
