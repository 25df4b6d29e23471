//! The time of a shard's turn, read from the clock once however much happens in it.
//!
//! Whoever needs it first reads it: what came in with a read is not older than its turn by more than the
//! kernel's own delay. A turn in which nobody asks reads no clock here. What another shard read is as old as
//! that shard says.

use std::cell::Cell;
use std::time::Instant;

use crate::base::histogram::DurationHistogram;

/// One per shard, shared by its tasks and outboxes.
#[derive(Debug, Default)]
pub struct TurnClock {
    began: Cell<Option<Instant>>,
    /// While messages of another shard are delivered: the turn there in which the first of them was read.
    read_elsewhere: Cell<Option<Instant>>,
    /// From a turn's beginning to its end, for turns that had something to do.
    pub turns: DurationHistogram,
}

impl TurnClock {
    /// When this turn began.
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

    /// When what is being delivered was read, here or on another shard.
    #[inline]
    pub fn read_at(&self) -> Instant {
        self.read_elsewhere.get().unwrap_or_else(|| self.began())
    }

    /// Sets the time at which what is delivered from now on was read on another shard; None = here
    /// again.
    #[inline]
    pub fn set_read_elsewhere(&self, at: Option<Instant>) {
        self.read_elsewhere.set(at);
    }

    /// The turn is over; true if it did something.
    #[inline]
    pub fn end(&self, now: Instant) -> bool {
        let Some(began) = self.began.take() else { return false };
        self.turns.record(now.saturating_duration_since(began));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_turn_has_one_time_and_an_idle_one_is_not_counted() {
        let clock = TurnClock::default();
        assert!(!clock.end(Instant::now()));
        let began = clock.began();
        assert_eq!(clock.began(), began);
        assert!(clock.end(began + Duration::from_micros(3)));
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
