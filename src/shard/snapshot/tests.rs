//! However many accounts, subscriptions and groups there are, a turn examines no more than its
//! share.

use std::rc::Rc;

use super::*;
use crate::base::ids::ConnectionId;
use crate::base::limits::CHUNK_BYTES;
use crate::base::pool::BufferPool;
use crate::broker::outbox::Outbox;
use crate::broker::service::{Reach, ServiceInterest};

const ACCOUNT: AccountId = AccountId(0);

fn client(broker: &mut Broker) -> ClientKey {
    let pool = Rc::new(BufferPool::new(&CHUNK_BYTES, 1 << 20));
    broker.attach(ACCOUNT, Rc::new(Outbox::new(ConnectionId(1), pool, 1 << 20)))
}

/// Walks all of a client's subscriptions. Returns the largest number of entries and of buckets in
/// one turn, the number of all entries, and the number of turns.
fn walk(broker: &Broker, client: ClientKey) -> ((usize, usize), usize, usize) {
    let (mut largest, mut all, mut turns) = ((0, 0), 0, 0);
    let mut bucket = Some(0);
    while let Some(from) = bucket {
        let mut slice = Slice::default();
        let mut entries = 0;
        assert!(slice.take_entry());
        bucket = slice.walk(broker, client, from, |_| entries += 1);
        let looks = SNAPSHOT_LOOKS_PER_TURN - slice.looks_left;
        largest = (largest.0.max(entries), largest.1.max(looks));
        all += entries;
        turns += 1;
    }
    (largest, all, turns)
}

#[test]
fn subscriptions_are_walked_in_turns_that_count_empty_buckets_too() {
    const COUNT: usize = 20_000;
    let mut broker = Broker::new(1);
    let client = client(&mut broker);
    for sid in 0..COUNT {
        let sid = sid.to_string();
        broker.subscribe(client, format!("a.{sid}").as_bytes(), b"", sid.as_bytes(), None);
    }
    let (largest, all, turns) = walk(&broker, client);
    assert_eq!(all, COUNT);
    assert!(largest.0 < SNAPSHOT_ENTRIES_PER_TURN, "{largest:?}");
    assert!(largest.1 <= SNAPSHOT_LOOKS_PER_TURN, "{largest:?}");
    assert!(turns >= COUNT / SNAPSHOT_ENTRIES_PER_TURN);
    // With the table nearly empty, the walk covers what is left of it.
    for sid in 1..COUNT {
        broker.unsubscribe(client, sid.to_string().as_bytes(), 0);
    }
    let (largest, all, _) = walk(&broker, client);
    assert_eq!(all, 1);
    assert!(largest.1 <= SNAPSHOT_LOOKS_PER_TURN, "{largest:?}");
}

#[test]
fn tables_of_a_thousand_accounts_come_in_pages() {
    const COUNT: u32 = 1000;
    let mut broker = Broker::new(1);
    let interest = ServiceInterest::all(AccountId(COUNT - 1), b"a", Reach::OwnShard);
    let _subscription = broker.subscribe_service(interest, &Rc::default());
    for with_fanout in [false, true] {
        let (mut next, mut all, mut turns) = (Some(0), 0, 0);
        while let Some(from) = next {
            let page = table_page(&broker, with_fanout, from);
            assert!(page.items.len() <= SNAPSHOT_ENTRIES_PER_TURN);
            all += page.items.len();
            next = page.next;
            turns += 1;
        }
        assert_eq!(all, COUNT as usize);
        assert_eq!(turns, (COUNT as usize).div_ceil(SNAPSHOT_ENTRIES_PER_TURN));
    }
}

/// 2,000 queue groups on one cached subject.
#[test]
fn a_fan_out_costs_one_look_for_each_subject_however_many_groups_it_has() {
    let mut broker = Broker::new(1);
    let client = client(&mut broker);
    for sid in 0..2_000 {
        let sid = format!("{sid}");
        broker.subscribe(client, b"a", sid.as_bytes(), sid.as_bytes(), None);
    }
    assert!(broker.is_wanted(ACCOUNT, b"a"), "it is cached now");
    for looks_max in [1, 2, 100, SNAPSHOT_FANOUT_LOOKS_MAX] {
        let (fanout, looks) = broker.fanout(ACCOUNT, looks_max);
        assert_eq!((fanout.subjects, fanout.total, looks), (1, 2_000, 1));
    }
    assert!(!broker.is_wanted(ACCOUNT, b"b"), "another cached subject");
    assert_eq!([1, 2, 3].map(|looks_max| broker.fanout(ACCOUNT, looks_max).1), [1, 2, 2]);
}
