//! When the server publishes its state without being asked. Source: nats-server server/events.go
//! (heartbeatStatsz, limitStatsz, sendAccConnsUpdate).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Delay of the first statistics; it doubles each time until it reaches `STATS_INTERVAL`.
const STATS_FIRST: Duration = Duration::from_millis(250);
/// Interval of statistics after that.
const STATS_INTERVAL: Duration = Duration::from_secs(10);
/// Interval at which an account's connections are published while they do not change.
const ACCOUNT_INTERVAL: Duration = Duration::from_secs(30);

/// The times at which the server publishes its state.
#[derive(Debug)]
pub(crate) struct Schedule {
    stats_interval: Duration,
    stats_due: Instant,
    /// Accounts with connections, by name.
    accounts_due: BTreeMap<String, Instant>,
}

impl Schedule {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            stats_interval: STATS_FIRST,
            stats_due: now + STATS_FIRST,
            accounts_due: BTreeMap::new(),
        }
    }

    /// Returns the time at which something is due next.
    pub(crate) fn next(&self) -> Instant {
        self.accounts_due.values().copied().fold(self.stats_due, Instant::min)
    }

    /// Returns true if the statistics are due, and sets their next time.
    pub(crate) fn take_stats(&mut self, now: Instant) -> bool {
        if now < self.stats_due {
            return false;
        }
        self.stats_interval = (self.stats_interval * 2).min(STATS_INTERVAL);
        self.stats_due = now + self.stats_interval;
        true
    }

    /// Records that an account's connections were published, or changed.
    pub(crate) fn note_account(&mut self, name: &str, connections: usize, now: Instant) {
        if connections == 0 {
            self.accounts_due.remove(name);
        } else if let Some(due) = self.accounts_due.get_mut(name) {
            *due = now + ACCOUNT_INTERVAL;
        } else {
            self.accounts_due.insert(name.to_owned(), now + ACCOUNT_INTERVAL);
        }
    }

    /// Returns the accounts that are due; `note_account` sets their next time.
    pub(crate) fn accounts_due(&self, now: Instant) -> Vec<String> {
        let due = self.accounts_due.iter().filter(|(_, due)| **due <= now);
        due.map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_come_soon_and_then_every_ten_seconds() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        let mut times = Vec::new();
        for _ in 0..9 {
            let now = schedule.next();
            assert!(!schedule.take_stats(now - Duration::from_nanos(1)));
            assert!(schedule.take_stats(now));
            times.push((now - start).as_millis());
        }
        assert_eq!(times, [250, 750, 1750, 3750, 7750, 15_750, 25_750, 35_750, 45_750]);
    }

    #[test]
    fn an_account_is_published_while_it_has_connections() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut schedule = Schedule::new(start);
        schedule.note_account("A", 1, start);
        assert!(schedule.accounts_due(after(29)).is_empty());
        assert_eq!(schedule.accounts_due(after(30)), ["A"]);
        schedule.note_account("A", 2, after(31));
        assert!(schedule.accounts_due(after(60)).is_empty());
        schedule.note_account("A", 0, after(60));
        assert!(schedule.accounts_due(after(99)).is_empty());
    }
}
