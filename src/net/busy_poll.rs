//! How long a shard spins before it sleeps.
//!
//! A sleeping thread costs whoever waits for it the time that the kernel needs to wake it: tens of microseconds where
//! a core has to leave its idle state. Spinning a moment saves that when the next bytes come soon, and wastes a core
//! when they do not; and where the peers share the cores, the kernel may have placed them better than spinning does.
//! So by default a shard tries both now and then while bytes come soon after each other, and spins only as long as
//! that brings them sooner: by a tenth, since a rate that peers have set themselves stays what it is. Pure: times in,
//! decisions out.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::base::limits::{BUSY_POLL_MAX, BUSY_POLL_WAKE};

/// Turns that are compared with as many others; the first quarter of them is not counted.
const WINDOW_TURNS: u32 = 64;
const WINDOW_SKIPPED: u32 = WINDOW_TURNS / 4;

/// Windows from one trial of the other way to the next.
const TRIAL_WINDOWS: u32 = 16;

/// A longer pause counts as this.
const PAUSE_COUNTED_MAX: Duration = Duration::from_micros(200);

/// After a pause of this length nothing that was learnt holds.
const FORGOTTEN_AFTER: Duration = Duration::from_millis(100);

/// Decides how long a shard spins. One per shard.
pub(crate) struct BusyPoll {
    /// A fixed time after the last turn that did something; None = by what proves better.
    fixed: Option<Duration>,
    /// End of the last turn that did something.
    last: Cell<Option<Instant>>,
    learnt: Cell<Learnt>,
    is_spinning: Cell<bool>,
    spun: Cell<Duration>,
}

/// What is known of the two ways, and which one is followed.
#[derive(Clone, Copy, Default)]
struct Learnt {
    /// Turns of this window, and the sum of the pauses before those that count.
    turns: u32,
    pauses: Duration,
    /// The window spins.
    spins: bool,
    /// The mean pause of the last window that went the way that is followed now, if this one tries the other.
    compared_with: Option<Duration>,
    /// Windows before the next trial.
    windows_left: u32,
}

impl Learnt {
    /// A turn came after such a pause.
    fn turn_after(&mut self, pause: Duration) {
        if pause >= FORGOTTEN_AFTER {
            *self = Self::default();
            return;
        }
        self.turns += 1;
        if self.turns > WINDOW_SKIPPED {
            self.pauses += pause.min(PAUSE_COUNTED_MAX);
        }
        if self.turns == WINDOW_TURNS {
            let mean = self.pauses / (WINDOW_TURNS - WINDOW_SKIPPED);
            (self.turns, self.pauses) = (0, Duration::ZERO);
            self.window_ended(mean);
        }
    }

    fn window_ended(&mut self, mean: Duration) {
        match self.compared_with.take() {
            Some(other) => {
                let (spinning, sleeping) = if self.spins { (mean, other) } else { (other, mean) };
                self.spins = spinning * 10 <= sleeping * 9;
                self.windows_left = TRIAL_WINDOWS;
            }
            // They come too late for it.
            None if mean > BUSY_POLL_MAX + BUSY_POLL_WAKE => *self = Self::default(),
            None => match self.windows_left.checked_sub(1) {
                Some(left) => self.windows_left = left,
                None => {
                    self.compared_with = Some(mean);
                    self.spins = !self.spins;
                }
            },
        }
    }
}

impl BusyPoll {
    pub(crate) fn new(fixed: Option<Duration>) -> Self {
        Self {
            fixed,
            last: Cell::default(),
            learnt: Cell::default(),
            is_spinning: Cell::default(),
            spun: Cell::default(),
        }
    }

    /// A turn that did something began and ended.
    pub(crate) fn turn_ended(&self, began: Instant, ended: Instant) {
        let Some(last) = self.last.replace(Some(ended)) else { return };
        let pause = began.saturating_duration_since(last);
        let mut learnt = self.learnt.get();
        learnt.turn_after(pause);
        self.learnt.set(learnt);
        if self.is_spinning.take() {
            self.spun.set(self.spun.get() + pause);
        }
    }

    /// True if a shard that has nothing to do spins on rather than sleeps.
    pub(crate) fn spins(&self, now: Instant) -> bool {
        let Some(last) = self.last.get() else { return false };
        let at_most = match self.fixed {
            Some(fixed) => fixed,
            None if self.learnt.get().spins => BUSY_POLL_MAX,
            None => return false,
        };
        let passed = now.saturating_duration_since(last);
        let spins = passed < at_most;
        if self.is_spinning.replace(spins) && !spins {
            self.spun.set(self.spun.get() + passed);
        }
        spins
    }

    /// Time spent spinning so far.
    pub(crate) fn spun(&self) -> Duration {
        self.spun.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);

    fn microseconds(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    /// A shard whose turns take a microsecond, and that looks each microsecond whether it may sleep.
    struct Shard {
        now: Instant,
        policy: BusyPoll,
    }

    impl Shard {
        fn new(fixed: Option<Duration>) -> Self {
            Self { now: Instant::now(), policy: BusyPoll::new(fixed) }
        }

        /// One turn after such a pause if the shard sleeps, or after the other one if it spins; returns how long it
        /// spun in it.
        fn turn_after(&mut self, asleep: Duration, awake: Duration) -> Duration {
            let (start, before) = (self.now, self.policy.spun());
            while self.now - start < awake && self.policy.spins(self.now) {
                self.now += MICROSECOND;
            }
            let pause = if self.now - start >= awake { awake } else { asleep };
            self.now = start + pause;
            self.policy.turn_ended(self.now, self.now + MICROSECOND);
            self.now += MICROSECOND;
            self.policy.spun() - before
        }

        /// Turns that spun, of so many.
        fn spinning_turns(&mut self, turns: u32, asleep: Duration, awake: Duration) -> usize {
            let spun = (0..turns).filter(|_| !self.turn_after(asleep, awake).is_zero());
            spun.count()
        }
    }

    const TURNS: u32 = WINDOW_TURNS * 200;

    #[test]
    fn shard_spins_where_that_brings_the_next_bytes_sooner_and_tries_sleeping_now_and_then() {
        let mut shard = Shard::new(None);
        let few = shard.spinning_turns(WINDOW_TURNS, microseconds(60), microseconds(30));
        assert_eq!(few, 0, "nothing is known yet");
        let spun = shard.spinning_turns(TURNS, microseconds(60), microseconds(30));
        let tried = (WINDOW_TURNS * 200 / (TRIAL_WINDOWS + 2)) as usize;
        assert!(spun >= TURNS as usize - tried - WINDOW_TURNS as usize, "{spun}");
        assert!(spun < TURNS as usize - tried / 2, "{spun}");
        // Now the kernel wakes as fast.
        shard.spinning_turns(
            WINDOW_TURNS * (TRIAL_WINDOWS + 3),
            microseconds(20),
            microseconds(30),
        );
        let spun = shard.spinning_turns(TURNS, microseconds(20), microseconds(30));
        assert!(spun <= tried + WINDOW_TURNS as usize, "{spun}");
    }

    #[test]
    fn rate_that_peers_have_set_is_no_reason_to_spin() {
        for pause in [10, 50, 100] {
            let mut shard = Shard::new(None);
            let spun = shard.spinning_turns(TURNS, microseconds(pause), microseconds(pause));
            assert!(spun <= (TURNS / TRIAL_WINDOWS) as usize, "{pause}: {spun}");
        }
    }

    #[test]
    fn shard_does_not_even_try_where_bytes_come_late() {
        for pause in [151, 1000, 1_000_000] {
            let mut shard = Shard::new(None);
            let spun = shard.spinning_turns(TURNS, microseconds(pause), microseconds(1));
            assert_eq!(spun, 0, "{pause}");
        }
    }

    #[test]
    fn one_long_pause_ends_the_spinning() {
        let mut shard = Shard::new(None);
        shard.spinning_turns(WINDOW_TURNS * 4, microseconds(60), microseconds(30));
        assert_eq!(shard.turn_after(microseconds(60), microseconds(30)), microseconds(30));
        // In vain once, and not again.
        let late = Duration::from_secs(1);
        assert_eq!(shard.turn_after(late, late), BUSY_POLL_MAX);
        assert_eq!(shard.spinning_turns(1000, late, late), 0);
    }

    #[test]
    fn fixed_time_holds_whatever_came_and_zero_is_none() {
        let (fixed, second) = (microseconds(200), Duration::from_secs(1));
        let mut shard = Shard::new(Some(fixed));
        shard.turn_after(MICROSECOND, MICROSECOND);
        assert_eq!(shard.turn_after(second, second), fixed);
        assert_eq!(shard.turn_after(second, microseconds(150)), microseconds(150));
        let mut shard = Shard::new(Some(Duration::ZERO));
        assert_eq!(shard.spinning_turns(100, MICROSECOND, MICROSECOND), 0);
    }
}
