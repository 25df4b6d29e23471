//! The way from a shard to the thread of the server's own service: two rings and a wake-up, no
//! lock.
//!
//! That thread runs below the shards' priority, so it must never hold what a shard needs. The
//! system account's requests have a ring of their own, so that requests of other accounts cannot
//! crowd them out. The bytes of all requests in flight, over all shards, have a bound.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use super::records::{LatencyRecord, TracePart};
use super::system_request::SystemRequest;
use crate::base::counters::Budget;
use crate::base::limits::{SYSTEM_DOOR_SLOTS, SYSTEM_REQUEST_BYTES_MAX, TRACE_BYTES_MAX};
use crate::base::ring::{RingSource, RingTarget, ring};

/// An item on the system account's ring.
#[derive(Debug)]
pub(crate) enum SystemNote {
    Request(Box<SystemRequest>),
    /// A client joined this account or left it, and somebody wants to know.
    AccountChanged(Arc<str>),
}

/// An item on the ring of records.
#[derive(Debug)]
pub(crate) enum Record {
    Trace(Box<TracePart>),
    Latency(Box<LatencyRecord>),
}

/// A shard's end.
pub(crate) struct SystemDoor {
    system: RingSource<SystemNote>,
    others: RingSource<Box<SystemRequest>>,
    records: RingSource<Record>,
    bytes: Bytes,
    /// Changed accounts that found no room yet. There are at most as many as the configuration
    /// names.
    changed: BTreeSet<Arc<str>>,
    listener: Listener,
}

/// The thread that listens to all shards, once it exists.
pub(crate) type Listener = Arc<OnceLock<Thread>>;

/// The listening thread's end for one shard.
pub(crate) struct SystemEar {
    pub system: RingTarget<SystemNote>,
    pub others: RingTarget<Box<SystemRequest>>,
    pub records: RingTarget<Record>,
}

/// Bytes in flight: of the system account's requests, and of all others.
#[derive(Clone, Default)]
pub(crate) struct Bytes {
    system: Budget,
    others: Budget,
    traces: Budget,
}

impl Bytes {
    fn of(&self, request: &SystemRequest) -> &Budget {
        match request.other_account {
            None => &self.system,
            Some(_) => &self.others,
        }
    }

    /// To be called by the listening thread when it has taken a request.
    pub(crate) fn give_back(&self, request: &SystemRequest) {
        self.of(request).give_back(request.size());
    }

    /// To be called by the listening thread when it has taken a part of a trace.
    pub(crate) fn give_back_trace(&self, part: &TracePart) {
        self.traces.give_back(part.bytes);
    }
}

/// Returns a door and an ear for each shard.
pub(crate) fn system_doors(
    count: usize,
    bytes: &Bytes,
    listener: &Listener,
) -> (Vec<SystemDoor>, Vec<SystemEar>) {
    let pair = |_| {
        let (system, heard) = ring(SYSTEM_DOOR_SLOTS);
        let (others, others_heard) = ring(SYSTEM_DOOR_SLOTS);
        let (records, records_heard) = ring(SYSTEM_DOOR_SLOTS);
        let door = SystemDoor {
            system,
            others,
            records,
            bytes: bytes.clone(),
            changed: BTreeSet::new(),
            listener: listener.clone(),
        };
        (door, SystemEar { system: heard, others: others_heard, records: records_heard })
    };
    (0..count).map(pair).unzip()
}

impl SystemDoor {
    /// Passes a request on; false = there was no room, and it is dropped.
    pub(crate) fn push_request(&mut self, request: Box<SystemRequest>) -> bool {
        let budget = self.bytes.of(&request).clone();
        let size = request.size();
        if !budget.take(size, SYSTEM_REQUEST_BYTES_MAX) {
            return false;
        }
        let pushed = match request.other_account {
            None => self.system.push(SystemNote::Request(request)).is_ok(),
            Some(_) => self.others.push(request).is_ok(),
        };
        if !pushed {
            budget.give_back(size);
        }
        self.wake();
        pushed
    }

    /// Returns true if two records find room.
    pub(crate) fn has_room_for_records(&self) -> bool {
        self.records.free_slots() >= 2
    }

    /// Passes a part of a trace on; false = there was no room, and it is dropped.
    pub(crate) fn push_trace(&mut self, part: Box<TracePart>) -> bool {
        let bytes = part.bytes;
        if !self.bytes.traces.take(bytes, TRACE_BYTES_MAX) {
            return false;
        }
        let pushed = self.push_record(Record::Trace(part));
        if !pushed {
            self.bytes.traces.give_back(bytes);
        }
        pushed
    }

    /// Passes a record on; false = there was no room, and it is dropped.
    pub(crate) fn push_record(&mut self, record: Record) -> bool {
        let pushed = self.records.push(record).is_ok();
        self.wake();
        pushed
    }

    /// Reports that an account's number of clients has changed. Never lost: without room it waits
    /// here.
    pub(crate) fn push_change(&mut self, account: Arc<str>) {
        self.changed.insert(account);
        self.push_changes();
    }

    /// Passes on changes that found no room before.
    pub(crate) fn push_changes(&mut self) {
        while !self.system.is_full()
            && let Some(account) = self.changed.pop_first()
        {
            // It cannot fail: there is room, and nobody else pushes.
            let _ = self.system.push(SystemNote::AccountChanged(account));
            self.wake();
        }
    }

    fn wake(&self) {
        // A thread that starts later looks at the rings before it first sleeps.
        if let Some(thread) = self.listener.get() {
            thread.unpark();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::base::ids::{AccountId, ShardId};

    /// Returns a request with `payload` bytes of payload.
    pub(crate) fn request(other: Option<&str>, payload: usize) -> Box<SystemRequest> {
        Box::new(SystemRequest {
            shard: ShardId(0),
            account: AccountId(0),
            other_account: other.map(Arc::from),
            subject: b"s".to_vec(),
            reply: Vec::new(),
            headers: Vec::new(),
            payload: vec![0; payload],
            requester: None,
        })
    }

    fn door() -> (SystemDoor, SystemEar, Bytes) {
        let bytes = Bytes::default();
        let (mut doors, mut ears) = system_doors(1, &bytes, &Listener::default());
        (doors.remove(0), ears.remove(0), bytes)
    }

    #[test]
    fn requests_of_other_accounts_leave_room_for_the_system_account() {
        let (mut door, mut ear, _) = door();
        for _ in 0..SYSTEM_DOOR_SLOTS {
            assert!(door.push_request(request(Some("A"), 0)));
        }
        assert!(!door.push_request(request(Some("A"), 0)), "one more than there may be");
        assert!(door.push_request(request(None, 0)));
        assert!(matches!(ear.system.pop(), Some(SystemNote::Request(_))));
    }

    #[test]
    fn bytes_in_flight_are_bounded_and_given_back() {
        let (mut door, mut ear, bytes) = door();
        assert!(!door.push_request(request(None, SYSTEM_REQUEST_BYTES_MAX)));
        assert!(door.push_request(request(None, SYSTEM_REQUEST_BYTES_MAX - 1)));
        assert!(!door.push_request(request(None, 0)));
        assert!(door.push_request(request(Some("A"), 0)), "others have a bound of their own");
        let Some(SystemNote::Request(taken)) = ear.system.pop() else { panic!("nothing") };
        bytes.give_back(&taken);
        assert!(door.push_request(request(None, 0)));
    }

    #[test]
    fn a_refused_request_takes_no_bytes() {
        let (mut door, mut ear, bytes) = door();
        for _ in 0..SYSTEM_DOOR_SLOTS {
            assert!(door.push_request(request(None, 0)));
        }
        assert!(!door.push_request(request(None, SYSTEM_REQUEST_BYTES_MAX / 2)));
        while let Some(SystemNote::Request(taken)) = ear.system.pop() {
            bytes.give_back(&taken);
        }
        assert!(door.push_request(request(None, SYSTEM_REQUEST_BYTES_MAX - 1)));
    }

    #[test]
    fn a_change_that_finds_no_room_is_reported_later_and_once() {
        let (mut door, mut ear, _) = door();
        for _ in 0..SYSTEM_DOOR_SLOTS {
            assert!(door.push_request(request(None, 0)));
        }
        for _ in 0..3 {
            door.push_change("A".into());
        }
        while ear.system.pop().is_some() {}
        door.push_changes();
        assert!(
            matches!(ear.system.pop(), Some(SystemNote::AccountChanged(name)) if &*name == "A")
        );
        assert!(ear.system.pop().is_none());
    }
}
