//! A send that missed its deadline and goes on: `write_timeout: retry`. Source of behaviour:
//! nats-server server/client.go handleWriteTimeout.

use std::time::{Duration, Instant};

/// The finding of a look at a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendCheck {
    InTime,
    /// It missed its deadline, and the kernel has taken nothing. It is to be begun anew: the kernel
    /// then takes what there is room for, where before it waited for more. The next look decides.
    Expired,
    /// It missed its deadline, but something was sent: it has as long again.
    Late {
        /// It had missed its deadline before, too.
        again: bool,
        backlog: Backlog,
    },
    /// All that waited when it last missed its deadline has left in time.
    Recovered {
        took: Duration,
        backlog: Backlog,
    },
    /// It missed its deadline for good.
    Failed,
}

/// The bytes that wait to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    pub chunks: usize,
    pub bytes: usize,
}

/// One attempt to send a backlog within the deadline.
#[derive(Clone, Debug)]
pub(crate) struct LateSend {
    since: Instant,
    /// Bytes sent over the connection's life when the attempt began.
    sent_before: u64,
    backlog: Backlog,
    /// It has expired once with nothing sent.
    expired: bool,
    /// Somebody was told that it is late.
    told: bool,
}

impl LateSend {
    /// A first send that took too long, something of it or nothing.
    pub(crate) fn begin(
        now: Instant,
        sent: u64,
        backlog: Backlog,
        has_sent_something: bool,
    ) -> (Self, SendCheck) {
        let (expired, told) = (!has_sent_something, has_sent_something);
        let found = match has_sent_something {
            true => SendCheck::Late { again: false, backlog },
            false => SendCheck::Expired,
        };
        (Self { since: now, sent_before: sent, backlog, expired, told }, found)
    }

    /// The state of the attempt, `sent` bytes having left over the connection's life; a late one
    /// begins anew with `backlog`. False = it is over.
    pub(crate) fn check(
        &mut self,
        now: Instant,
        deadline: Duration,
        sent: u64,
        backlog: Backlog,
    ) -> (bool, SendCheck) {
        let took = now.saturating_duration_since(self.since);
        let left = sent - self.sent_before;
        if left >= self.backlog.bytes as u64 {
            let recovered = SendCheck::Recovered { took, backlog: self.backlog };
            return (false, if self.told { recovered } else { SendCheck::InTime });
        }
        if !self.expired && took <= deadline {
            return (true, SendCheck::InTime);
        }
        if left == 0 {
            let was_expired = std::mem::replace(&mut self.expired, true);
            return (true, if was_expired { SendCheck::Failed } else { SendCheck::Expired });
        }
        let found = SendCheck::Late { again: self.told, backlog };
        *self = Self { since: now, sent_before: sent, backlog, expired: false, told: true };
        (true, found)
    }

    pub(crate) fn was_told(&self) -> bool {
        self.told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);
    const PAST: Duration = Duration::from_millis(10_001);

    fn backlog(bytes: usize) -> Backlog {
        Backlog { chunks: 2, bytes }
    }

    #[test]
    fn attempt_that_sends_something_gets_another() {
        let start = Instant::now();
        let (mut send, found) = LateSend::begin(start, 500, backlog(100), true);
        assert_eq!(found, SendCheck::Late { again: false, backlog: backlog(100) });
        let mut check =
            |after, sent, bytes| send.check(start + after, DEADLINE, sent, backlog(bytes));
        assert_eq!(check(DEADLINE, 500, 100), (true, SendCheck::InTime));
        let late = SendCheck::Late { again: true, backlog: backlog(99) };
        assert_eq!(check(PAST, 501, 99), (true, late));
        assert_eq!(check(PAST + DEADLINE, 501, 99), (true, SendCheck::InTime));
    }

    #[test]
    fn attempt_that_sends_nothing_is_begun_anew_once_and_then_fails() {
        let start = Instant::now();
        let (mut send, _) = LateSend::begin(start, 500, backlog(100), true);
        let mut check = |sent| send.check(start + PAST, DEADLINE, sent, backlog(100)).1;
        assert_eq!(check(500), SendCheck::Expired);
        assert_eq!(check(500), SendCheck::Failed);
        // The first of all, which the kernel then takes a part of.
        let (mut send, found) = LateSend::begin(start, 500, backlog(100), false);
        assert_eq!(found, SendCheck::Expired);
        let (goes_on, found) = send.check(start, DEADLINE, 520, backlog(80));
        assert_eq!(found, SendCheck::Late { again: false, backlog: backlog(80) });
        assert!(goes_on && send.was_told());
    }

    #[test]
    fn backlog_that_has_left_is_a_recovery_also_behind_the_deadline() {
        let start = Instant::now();
        for after in [DEADLINE / 2, DEADLINE * 2] {
            let (mut send, _) = LateSend::begin(start, 500, backlog(100), true);
            let found = send.check(start + after, DEADLINE, 600, backlog(7));
            let recovered = SendCheck::Recovered { took: after, backlog: backlog(100) };
            assert_eq!(found, (false, recovered));
        }
        // Nobody was told that it was late.
        let (mut send, _) = LateSend::begin(start, 500, backlog(100), false);
        let found = send.check(start, DEADLINE, 600, backlog(7));
        assert_eq!(found, (false, SendCheck::InTime));
    }
}
