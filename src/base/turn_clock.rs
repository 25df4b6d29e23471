//! The time of a shard's turn, read from the clock at most once per turn, however much happens in
//! it.
//!
//! The first who needs it reads the clock: bytes that a turn reads have arrived before it, apart
//! from the kernel's own delay. A turn in which nobody asks reads no clock here. For messages from
//! another shard, that shard gives the time.

use std::cell::Cell;
use std::time::Instant;

use crate::base::histogram::DurationHistogram;

/// The clock of one shard, shared by its tasks and outboxes.
#[derive(Debug, Default)]
pub struct TurnClock {
    began: Cell<Option<Instant>>,
    /// Set while messages of another shard are delivered: the beginning of the turn there that read
    /// the first of them.
    read_elsewhere: Cell<Option<Instant>>,
    /// Durations of turns that had something to do.
    pub turns: DurationHistogram,
}

impl TurnClock {
    /// Returns the time at which this turn began.
    #[inline]
    pub fn began(&self) -> Instant {
        match self.began.get() {
            Some(began) => began,
            None => {
                let now = Instant::now();
                self.began.set(Some(now));
                now
            }
        }
    }

    /// Returns the time at which the message being delivered was read, here or on another shard.
    #[inline]
    pub fn read_at(&self) -> Instant {
        self.read_elsewhere.get().unwrap_or_else(|| self.began())
    }

    /// Sets the time at which what is delivered from now on was read on another shard; None = it
    /// was read here.
    #[inline]
    pub fn set_read_elsewhere(&self, at: Option<Instant>) {
        self.read_elsewhere.set(at);
    }

    /// The turn is over. Returns when it began, if it did something.
    #[inline]
    pub fn end(&self, now: Instant) -> Option<Instant> {
        let began = self.began.take()?;
        self.turns.record(now.saturating_duration_since(began));
        Some(began)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_turn_has_one_time_and_an_idle_one_is_not_counted() {
        let clock = TurnClock::default();
        assert_eq!(clock.end(Instant::now()), None);
        let began = clock.began();
        assert_eq!(clock.began(), began);
        assert_eq!(clock.end(began + Duration::from_micros(3)), Some(began));
        assert!(clock.began() >= began);
        let earlier = began - Duration::from_micros(5);
        clock.set_read_elsewhere(Some(earlier));
        assert_eq!(clock.read_at(), earlier);
        assert!(clock.began() >= began);
        clock.set_read_elsewhere(None);
        assert_eq!(clock.read_at(), clock.began());
        let turns = clock.turns.durations();
        assert_eq!((turns.count(), turns.sum_ns), (1, 3000));
    }
}
