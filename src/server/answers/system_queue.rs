//! What waits for the thread that answers `$SYS` requests: bounded, never waited for by a shard.
//!
//! The system account's own requests go first: what other accounts ask cannot crowd them out.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::base::limits::{SYSTEM_REQUEST_BYTES_MAX, SYSTEM_REQUESTS_MAX};
use crate::shard::system::{SystemNote, SystemRequest};

/// What there is to do.
#[derive(Debug)]
pub enum Work {
    Request(Box<SystemRequest>),
    /// Accounts whose number of connections changed.
    AccountsChanged(Vec<Arc<str>>),
    /// The time to wait until has come.
    TimeIsUp,
    Stop,
}

#[derive(Default)]
pub struct SystemQueue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    system: Waiting,
    others: Waiting,
    /// Accounts are as many as the configuration names: this is bounded by itself.
    accounts: BTreeSet<Arc<str>>,
    stopping: bool,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Box<SystemRequest>>,
    bytes: usize,
}

fn size(request: &SystemRequest) -> usize {
    request.subject.len() + request.reply.len() + request.headers.len() + request.payload.len()
}

impl Waiting {
    fn push(&mut self, request: Box<SystemRequest>) -> bool {
        let bytes = self.bytes + size(&request);
        let has_room =
            self.requests.len() < SYSTEM_REQUESTS_MAX && bytes <= SYSTEM_REQUEST_BYTES_MAX;
        if has_room {
            self.bytes = bytes;
            self.requests.push_back(request);
        }
        has_room
    }

    fn pop(&mut self) -> Option<Box<SystemRequest>> {
        let request = self.requests.pop_front()?;
        self.bytes -= size(&request);
        Some(request)
    }
}

impl SystemQueue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False: there was no room, and it is lost.
    pub fn push(&self, note: SystemNote) -> bool {
        let mut state = self.lock();
        let taken = match note {
            SystemNote::AccountChanged(name) => {
                state.accounts.insert(name);
                true
            }
            SystemNote::Request(request) if request.other_account.is_none() => {
                state.system.push(request)
            }
            SystemNote::Request(request) => state.others.push(request),
        };
        drop(state);
        self.changed.notify_one();
        taken
    }

    /// Waits for work until a moment.
    pub fn next(&self, until: Instant) -> Work {
        let mut state = self.lock();
        loop {
            if state.stopping {
                return Work::Stop;
            }
            if let Some(request) = state.system.pop() {
                return Work::Request(request);
            }
            if !state.accounts.is_empty() {
                return Work::AccountsChanged(
                    std::mem::take(&mut state.accounts).into_iter().collect(),
                );
            }
            if let Some(request) = state.others.pop() {
                return Work::Request(request);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Work::TimeIsUp;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    /// Ends the thread that waits here.
    pub fn stop(&self) {
        self.lock().stopping = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{AccountId, ShardId};

    fn request(other: Option<&str>, payload: usize) -> SystemNote {
        SystemNote::Request(Box::new(SystemRequest {
            shard: ShardId(0),
            account: AccountId(0),
            other_account: other.map(Arc::from),
            subject: b"s".to_vec(),
            reply: Vec::new(),
            headers: Vec::new(),
            payload: vec![0; payload],
            requester: None,
        }))
    }

    fn is_of_system(work: Work) -> bool {
        matches!(work, Work::Request(request) if request.other_account.is_none())
    }

    #[test]
    fn the_system_account_goes_first_whatever_the_others_ask() {
        let queue = SystemQueue::default();
        for _ in 0..SYSTEM_REQUESTS_MAX {
            assert!(queue.push(request(Some("A"), 0)));
        }
        assert!(!queue.push(request(Some("A"), 0)), "one more than there may be");
        assert!(queue.push(request(None, 0)));
        let now = Instant::now();
        assert!(is_of_system(queue.next(now)));
        for _ in 0..SYSTEM_REQUESTS_MAX {
            assert!(!is_of_system(queue.next(now)));
        }
        assert!(matches!(queue.next(now), Work::TimeIsUp));
    }

    #[test]
    fn bytes_that_wait_are_bounded_and_given_back() {
        let queue = SystemQueue::default();
        assert!(!queue.push(request(None, SYSTEM_REQUEST_BYTES_MAX)));
        assert!(queue.push(request(None, SYSTEM_REQUEST_BYTES_MAX - 1)));
        assert!(!queue.push(request(None, 0)));
        assert!(is_of_system(queue.next(Instant::now())));
        assert!(queue.push(request(None, 0)));
    }

    #[test]
    fn an_account_that_changes_often_is_looked_at_once() {
        let queue = SystemQueue::default();
        for name in ["A", "B", "A", "A"] {
            assert!(queue.push(SystemNote::AccountChanged(name.into())));
        }
        let Work::AccountsChanged(names) = queue.next(Instant::now()) else { panic!("nothing") };
        assert_eq!(names.len(), 2);
        queue.stop();
        assert!(matches!(queue.next(Instant::now()), Work::Stop));
    }
}
