//! Limits log lines that a client could provoke again and again: one per kind of line and account
//! in an interval.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::base::ids::AccountId;
use crate::base::limits::RARE_LINES_MAX;

/// Interval between two lines that differ only in their client. Source: nats-server
/// startRateLimitLogExpiration.
pub(crate) const SAME_LINE_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between two lines about a reached limit of subscriptions. Source: nats-server
/// defaultMaxSubLimitReportThreshold.
pub(crate) const SUBSCRIPTION_LIMIT_INTERVAL: Duration = Duration::from_secs(2);

/// The lines logged recently. One per shard.
#[derive(Default)]
pub struct RareLines {
    until: RefCell<HashMap<(&'static str, AccountId), Instant>>,
}

impl RareLines {
    /// Returns true if this kind of line may be logged now; it may then not be logged again for
    /// `interval`.
    pub fn may_log(
        &self,
        kind: &'static str,
        account: AccountId,
        now: Instant,
        interval: Duration,
    ) -> bool {
        let mut until = self.until.borrow_mut();
        if until.get(&(kind, account)).is_some_and(|until| now < *until) {
            return false;
        }
        if until.len() >= RARE_LINES_MAX {
            until.retain(|_, until| now < *until);
        }
        let fits = until.len() < RARE_LINES_MAX;
        if fits {
            until.insert((kind, account), now + interval);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_once_per_interval_and_account() {
        let lines = RareLines::default();
        let start = Instant::now();
        let at = |ms: u64, account| {
            let now = start + Duration::from_millis(ms);
            lines.may_log("full", AccountId(account), now, SAME_LINE_INTERVAL)
        };
        let told = [at(0, 1), at(0, 1), at(0, 2), at(999, 1), at(1000, 1), at(1500, 1)];
        assert_eq!(told, [true, false, true, false, true, false]);
    }

    #[test]
    fn at_its_bound_it_forgets_expired_lines_and_is_silent_if_there_are_none() {
        let lines = RareLines::default();
        let start = Instant::now();
        let told =
            |now, account| lines.may_log("full", AccountId(account), now, SAME_LINE_INTERVAL);
        for account in 0..RARE_LINES_MAX as u32 {
            assert!(told(start, account));
        }
        assert!(!told(start, u32::MAX));
        assert!(told(start + SAME_LINE_INTERVAL, u32::MAX));
        assert_eq!(lines.until.borrow().len(), 1);
    }
}
