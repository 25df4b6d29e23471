//! Reports progress on stderr: one bar that is redrawn on a terminal, plain lines elsewhere.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Shorter steps are not reported.
const SILENT_MAX: Duration = Duration::from_secs(2);
const BAR_INTERVAL: Duration = Duration::from_millis(200);
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// Interval at which a step on a thread of its own is checked.
const STEP_LOOK_INTERVAL: Duration = Duration::from_millis(500);
const BAR_WIDTH: usize = 30;

pub struct Progress {
    terminal: bool,
    quiet: bool,
    /// Such as `round 2 of 5, A`; put before every text.
    prefix: std::cell::RefCell<String>,
    last_shown: Cell<Option<Instant>>,
    bar_drawn: Cell<bool>,
}

impl Progress {
    pub fn new(quiet: bool) -> Progress {
        Progress {
            terminal: std::io::stderr().is_terminal(),
            quiet,
            prefix: std::cell::RefCell::default(),
            last_shown: Cell::new(None),
            bar_drawn: Cell::new(false),
        }
    }

    pub fn set_prefix(&self, prefix: &str) {
        self.clear();
        *self.prefix.borrow_mut() =
            if prefix.is_empty() { String::new() } else { format!("{prefix}: ") };
    }

    /// Shows that `done_ns` of `total_ns` of the step `what` are over.
    pub fn show(&self, what: &str, done_ns: u64, total_ns: u64) {
        if self.quiet || Duration::from_nanos(total_ns) < SILENT_MAX {
            return;
        }
        let interval = if self.terminal { BAR_INTERVAL } else { LINE_INTERVAL };
        if self.last_shown.get().is_some_and(|last| last.elapsed() < interval) {
            return;
        }
        self.last_shown.set(Some(Instant::now()));
        let left_s = total_ns.saturating_sub(done_ns) as f64 / 1e9;
        let share = done_ns as f64 / total_ns.max(1) as f64;
        let prefix = self.prefix.borrow();
        if self.terminal {
            let filled = ((share * BAR_WIDTH as f64) as usize).min(BAR_WIDTH);
            let bar = format!("{}{}", "#".repeat(filled), ".".repeat(BAR_WIDTH - filled));
            // A progress bar that cannot be drawn must not end a measurement.
            let _ = write!(std::io::stderr(), "\r\x1b[K{prefix}{what} [{bar}] {left_s:.0} s left");
            self.bar_drawn.set(true);
        } else {
            let _ = writeln!(
                std::io::stderr(),
                "{prefix}{what}: {:.0} %, {left_s:.0} s left",
                100.0 * share
            );
        }
    }

    /// Runs `step`, which takes about `duration`, on a thread of its own, and shows its progress.
    /// This thread wakes rarely, as it may share the core of what is measured. `None` if the step
    /// panicked.
    pub fn during<T: Send>(
        &self,
        what: &str,
        duration: Duration,
        step: impl FnOnce() -> T + Send,
    ) -> Option<T> {
        let began = Instant::now();
        std::thread::scope(|scope| {
            let shower = std::thread::current();
            let thread = scope.spawn(move || {
                let outcome = step();
                shower.unpark();
                outcome
            });
            while !thread.is_finished() {
                let done = began.elapsed().min(duration);
                self.show(what, done.as_nanos() as u64, duration.as_nanos() as u64);
                std::thread::park_timeout(STEP_LOOK_INTERVAL);
            }
            thread.join().ok()
        })
    }

    /// Prints one line that stays.
    pub fn say(&self, text: &str) {
        self.clear();
        if !self.quiet {
            let _ = writeln!(std::io::stderr(), "{}{text}", self.prefix.borrow());
        }
    }

    pub fn clear(&self) {
        if self.bar_drawn.replace(false) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_gives_its_outcome_and_a_panic_gives_none() {
        let progress = Progress::new(true);
        assert_eq!(progress.during("step", Duration::ZERO, || 7), Some(7));
        let panicked = progress.during("step", Duration::ZERO, || panic!("on purpose"));
        assert_eq!(panicked, None::<()>);
    }
}
