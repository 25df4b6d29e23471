//! The queue from all shards to the thread that answers `$SYS` requests. Only that thread reads it;
//! shards neither wait nor are waited for.
//!
//! The system account's own requests go first, so that those of other accounts cannot crowd them
//! out.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::shard::system_door::{Bytes, Listener, Record, SystemEar, SystemNote};
use crate::shard::system_request::SystemRequest;

/// Something to do for the thread.
#[derive(Debug)]
pub(crate) enum Work {
    Request(Box<SystemRequest>),
    Record(Record),
    /// Accounts whose number of connections changed.
    AccountsChanged(Vec<Arc<str>>),
    /// The requested time has come.
    TimeIsUp,
    Stop,
}

/// The reading end, held by the listening thread.
pub(crate) struct SystemQueue {
    ears: Vec<SystemEar>,
    bytes: Bytes,
    stopper: Stopper,
    /// The system account's requests, taken out of the rings together: at most as many as these
    /// hold.
    requests: VecDeque<Box<SystemRequest>>,
    changed: BTreeSet<Arc<str>>,
    /// The shard whose other accounts, and whose records, are served next: each gets its turn.
    next_ear: usize,
}

/// Ends the thread that reads the queue.
#[derive(Clone, Default)]
pub(crate) struct Stopper {
    /// Relaxed: no other data depends on it, and the wake-up that follows makes the reader look.
    stopping: Arc<AtomicBool>,
    listener: Listener,
}

impl Stopper {
    pub(crate) fn new(listener: Listener) -> Self {
        Self { stopping: Arc::default(), listener }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.listener.get() {
            thread.unpark();
        }
    }

    /// Called by the thread that reads the queue, before it first waits.
    pub(crate) fn listen(&self) {
        // Only one thread reads the queue, so it cannot be set already.
        let _ = self.listener.set(std::thread::current());
    }
}

impl SystemQueue {
    pub(crate) fn new(ears: Vec<SystemEar>, bytes: Bytes, stopper: Stopper) -> Self {
        let (requests, changed) = Default::default();
        Self { ears, bytes, stopper, requests, changed, next_ear: 0 }
    }

    pub(crate) fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Waits for work, until `until` at the longest.
    pub(crate) fn next(&mut self, until: Instant) -> Work {
        loop {
            if self.stopper.is_stopping() {
                return Work::Stop;
            }
            if let Some(work) = self.take() {
                match &work {
                    Work::Request(request) => self.bytes.give_back(request),
                    Work::Record(Record::Trace(part)) => self.bytes.give_back_trace(part),
                    _ => {}
                }
                return work;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Work::TimeIsUp;
            }
            std::thread::park_timeout(left);
        }
    }

    fn take(&mut self) -> Option<Work> {
        if self.requests.is_empty() {
            for ear in &mut self.ears {
                while let Some(note) = ear.system.pop() {
                    match note {
                        SystemNote::Request(request) => self.requests.push_back(request),
                        SystemNote::AccountChanged(name) => drop(self.changed.insert(name)),
                    }
                }
            }
        }
        if let Some(request) = self.requests.pop_front() {
            return Some(Work::Request(request));
        }
        if !self.changed.is_empty() {
            let changed = std::mem::take(&mut self.changed);
            return Some(Work::AccountsChanged(changed.into_iter().collect()));
        }
        for _ in 0..self.ears.len() {
            let ear = self.next_ear;
            self.next_ear = (ear + 1) % self.ears.len();
            if let Some(request) = self.ears[ear].others.pop() {
                return Some(Work::Request(request));
            }
            if let Some(record) = self.ears[ear].records.pop() {
                return Some(Work::Record(record));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::{SYSTEM_DOOR_SLOTS, SYSTEM_REQUEST_BYTES_MAX};
    use crate::shard::system_door::tests::request;
    use crate::shard::system_door::{SystemDoor, system_doors};

    fn queue(count: usize) -> (Vec<SystemDoor>, SystemQueue, Stopper) {
        let (bytes, stopper) = (Bytes::default(), Stopper::default());
        let (doors, ears) = system_doors(count, &bytes, &Listener::default());
        (doors, SystemQueue::new(ears, bytes, stopper.clone()), stopper)
    }

    fn is_of_system(work: Work) -> bool {
        matches!(work, Work::Request(request) if request.other_account.is_none())
    }

    #[test]
    fn the_system_account_goes_first_whatever_the_others_ask() {
        let (mut doors, mut queue, _) = queue(2);
        for _ in 0..SYSTEM_DOOR_SLOTS {
            assert!(doors[0].push_request(request(Some("A"), 0)));
        }
        assert!(doors[1].push_request(request(None, 0)));
        let now = Instant::now();
        assert!(is_of_system(queue.next(now)));
        for _ in 0..SYSTEM_DOOR_SLOTS {
            assert!(!is_of_system(queue.next(now)));
        }
        assert!(matches!(queue.next(now), Work::TimeIsUp));
    }

    #[test]
    fn every_shard_gets_its_turn() {
        let (mut doors, mut queue, _) = queue(2);
        for name in ["A", "B", "C"] {
            assert!(doors[0].push_request(request(Some(name), 0)));
        }
        assert!(doors[1].push_request(request(Some("D"), 0)));
        let mut heard = Vec::new();
        while let Work::Request(request) = queue.next(Instant::now()) {
            heard.extend(request.other_account.map(|name| name.to_string()));
        }
        assert_eq!(heard, ["A", "D", "B", "C"]);
    }

    #[test]
    fn bytes_are_free_again_when_a_request_is_taken() {
        let (mut doors, mut queue, _) = queue(1);
        assert!(doors[0].push_request(request(None, SYSTEM_REQUEST_BYTES_MAX - 1)));
        assert!(!doors[0].push_request(request(None, 0)));
        assert!(is_of_system(queue.next(Instant::now())));
        assert!(doors[0].push_request(request(None, 0)));
    }

    #[test]
    fn an_account_that_changes_often_is_processed_once() {
        let (mut doors, mut queue, stopper) = queue(1);
        for name in ["A", "B", "A", "A"] {
            doors[0].push_change(name.into());
        }
        let Work::AccountsChanged(names) = queue.next(Instant::now()) else { panic!("nothing") };
        assert_eq!(names.len(), 2);
        stopper.stop();
        assert!(matches!(queue.next(Instant::now()), Work::Stop));
    }
}
