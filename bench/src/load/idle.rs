//! A server to which nobody is connected: how often its threads wake up, and what they use.

use crate::Failure;
use crate::findings::kinds;
use crate::findings::result::RunResult;
use crate::host::interrupt;
use crate::load::run::{Run, Times};
use crate::progress::Progress;
use crate::wire::connection::Dialer;
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub struct IdlePlan {
    /// Time for the server to settle.
    pub settle: Duration,
    pub duration: Duration,
}

/// Makes one run.
///
/// # Errors
/// If the server cannot be reached.
pub fn run(
    dialer: &Dialer,
    plan: &IdlePlan,
    server: Result<u32, String>,
    progress: &Progress,
) -> Result<RunResult, Failure> {
    let mut run = Run::begin(kinds::IDLE, "without connections", server, progress);
    let connection = dialer.connect("midge-bench", 0)?;
    run.result.server_name = connection.info.name.clone();
    run.result.server_version = connection.info.version.clone();
    drop(connection);
    let times = Times::from_now(0, plan.settle, plan.duration);
    let window = run.measure(&times, || (), || false);
    run.result.seconds = window.length_ns() as f64 / 1e9;
    match window.server_samples() {
        Some((from, until)) => run.result.add_idle_use(&from, &until),
        None => run.result.invalidate(interrupt::reason_or("the server's process is not read")),
    }
    Ok(run.finish())
}
