//! Watches against a look at the whole table.

use super::*;
use crate::base::ids::{ClientKey, ConnectionId};
use crate::base::limits::CHUNK_BYTES;
use crate::base::pool::BufferPool;
use crate::broker::link::InterestChange;
use crate::broker::outbox::Outbox;
use crate::broker::service::tests::Recorder;

const ACCOUNT: AccountId = AccountId(1);

fn client(broker: &mut Broker) -> ClientKey {
    let pool = Rc::new(BufferPool::new(&CHUNK_BYTES, 1 << 20));
    let outbox = Rc::new(Outbox::new(ConnectionId(5), pool, 1 << 20));
    let client = broker.attach(AccountId::GLOBAL, outbox);
    broker.set_account(client, ACCOUNT);
    client
}

fn settle(broker: &mut Broker) -> usize {
    let mut turns = 0;
    while broker.has_ready_work() {
        broker.work_off();
        turns += 1;
    }
    turns
}

fn changes(watcher: &Watcher) -> Vec<(u64, bool)> {
    std::iter::from_fn(|| watcher.take()).collect()
}

#[test]
fn a_service_learns_who_comes_first_and_who_goes_last() {
    let mut broker = Broker::reproducible(1);
    let (key, watcher) = (client(&mut broker), Rc::<Watcher>::default());
    broker.subscribe(key, b"a.*", b"", b"1", None);
    let anybody = broker.watch(ACCOUNT, b"a.b", b"", 1, &watcher);
    let crew = broker.watch(ACCOUNT, b"a.b", b"crew", 2, &watcher);
    let elsewhere = broker.watch(AccountId(2), b"a.b", b"", 3, &watcher);
    settle(&mut broker);
    assert_eq!(changes(&watcher), [(1, true)], "what is there already");
    broker.subscribe(key, b"a.b", b"crew", b"2", None);
    settle(&mut broker);
    assert_eq!(changes(&watcher), [(2, true)]);
    broker.unsubscribe(key, b"1", 0);
    settle(&mut broker);
    assert!(changes(&watcher).is_empty(), "a member of a group wants it too");
    broker.unsubscribe(key, b"2", 0);
    settle(&mut broker);
    let mut lost = changes(&watcher);
    lost.sort_unstable();
    assert_eq!(lost, [(1, false), (2, false)]);
    // What came and went between two looks is none of its business.
    broker.subscribe(key, b"a.b", b"", b"3", None);
    broker.unsubscribe(key, b"3", 0);
    settle(&mut broker);
    assert!(changes(&watcher).is_empty());
    assert!(!anybody.is_wanted() && !crew.is_wanted() && !elsewhere.is_wanted());
    // Nor what it heard nothing of because it did not ask.
    broker.subscribe(key, b"a.b", b"", b"3", None);
    settle(&mut broker);
    assert!(anybody.is_wanted());
    broker.unsubscribe(key, b"3", 0);
    settle(&mut broker);
    assert!(changes(&watcher).is_empty());
    drop((anybody, crew));
    broker.subscribe(key, b"a.b", b"", b"4", None);
    settle(&mut broker);
    assert!(changes(&watcher).is_empty());
    assert_eq!(broker.watches.all.len(), 1);
}

#[test]
fn watches_agree_with_a_look_at_the_whole_table() {
    let mut random = fastrand::Rng::with_seed(31);
    for _ in 0..200 {
        let mut broker = Broker::reproducible(random.u64(..));
        broker.set_turn_work_max(random.usize(1..40));
        let link = broker.link_open(Box::new(Recorder::shared()));
        let (key, watcher) = (client(&mut broker), Rc::<Watcher>::default());
        let filters = ["a.b", "a.c", "a.*", ">", "b"];
        let queues = ["", "", "crew", "team"];
        let mut wishes: Vec<(String, &str, &str)> = Vec::new();
        let mut behind: Vec<(&str, &str)> = Vec::new();
        let mut watches: Vec<(u64, &str, &str, Watch)> = Vec::new();
        let mut believed = std::collections::HashMap::new();
        for number in 0..120 {
            let filter = filters[random.usize(..filters.len())];
            let queue = queues[random.usize(..queues.len())];
            match random.usize(..7) {
                0 | 1 => {
                    let sid = number.to_string();
                    broker.subscribe(
                        key,
                        filter.as_bytes(),
                        queue.as_bytes(),
                        sid.as_bytes(),
                        None,
                    );
                    wishes.push((sid, filter, queue));
                }
                2 if !wishes.is_empty() => {
                    let (sid, ..) = wishes.swap_remove(random.usize(..wishes.len()));
                    broker.unsubscribe(key, sid.as_bytes(), 0);
                }
                3 => {
                    let is_there = behind.iter().position(|other| *other == (filter, queue));
                    let weight = u32::from(is_there.is_none());
                    match is_there {
                        Some(at) => drop(behind.swap_remove(at)),
                        None => behind.push((filter, queue)),
                    }
                    let (filter, queue) = (filter.as_bytes(), queue.as_bytes());
                    let change = InterestChange::new(ACCOUNT, filter, queue, weight);
                    broker.link_interest(link, &change);
                }
                4 if watches.len() < 40 => {
                    let subject = ["a.b", "a.c", "b", "c"][random.usize(..4)];
                    let subject_bytes = subject.as_bytes();
                    let watch =
                        broker.watch(ACCOUNT, subject_bytes, queue.as_bytes(), number, &watcher);
                    watches.push((number, subject, queue, watch));
                }
                5 if !watches.is_empty() && random.bool() => {
                    let (tag, ..) = watches.swap_remove(random.usize(..watches.len()));
                    believed.remove(&tag);
                }
                _ => {
                    broker.work_off();
                }
            }
            if random.usize(..6) == 0 {
                believed.extend(changes(&watcher));
            }
        }
        settle(&mut broker);
        believed.extend(changes(&watcher));
        let wants = |subject: &str, queue: &str| {
            let all = wishes.iter().map(|(_, filter, own)| (*filter, *own));
            all.chain(behind.iter().copied()).any(|(filter, own)| {
                (queue.is_empty() || own == queue)
                    && match filter {
                        ">" => true,
                        "a.*" => subject.starts_with("a."),
                        literal => literal == subject,
                    }
            })
        };
        for (tag, subject, queue, watch) in &watches {
            let expected = wants(subject, queue);
            assert_eq!(watch.is_wanted(), expected, "{subject} {queue}");
            assert_eq!(believed.get(tag).copied().unwrap_or_default(), expected);
        }
    }
}

#[test]
fn very_many_watches_are_looked_at_over_many_turns() {
    const COUNT: usize = 60_000;
    let mut broker = Broker::reproducible(1);
    let (key, watcher) = (client(&mut broker), Rc::<Watcher>::default());
    let watches: Vec<Watch> = (0..COUNT as u64)
        .map(|tag| {
            // Some have a subject with very many others.
            let subject = if tag % 3 == 0 { "same".into() } else { format!("s.{tag}") };
            broker.watch(ACCOUNT, subject.as_bytes(), b"", tag, &watcher)
        })
        .collect();
    assert!(settle(&mut broker) > 3);
    broker.subscribe(key, b"same", b"", b"1", None);
    assert!(settle(&mut broker) > 3);
    assert_eq!(changes(&watcher).len(), COUNT / 3);
    broker.subscribe(key, b">", b"", b"2", None);
    assert!(settle(&mut broker) > 3);
    assert_eq!(changes(&watcher).len(), COUNT - COUNT / 3);
    drop(watches);
    assert!(settle(&mut broker) > 3);
    assert!(broker.watches.all.is_empty() && broker.watches.places.is_empty());
    let done = broker.counters.turn_work_max;
    assert!(done <= crate::base::limits::TURN_WORK_MAX, "{done} in one turn");
}

#[test]
fn a_watch_that_comes_during_a_sweep_takes_no_other_ones_look() {
    let mut broker = Broker::reproducible(1);
    let (key, watcher) = (client(&mut broker), Rc::<Watcher>::default());
    let mut watches = vec![broker.watch(ACCOUNT, b"a.0", b"", 0, &watcher)];
    for tag in 1..broker.watches.all.capacity() as u64 {
        watches.push(broker.watch(ACCOUNT, format!("a.{tag}").as_bytes(), b"", tag, &watcher));
    }
    settle(&mut broker);
    broker.set_turn_work_max(1);
    broker.subscribe(key, b"b.*", b"", b"1", None);
    while broker.watches.next < 2 {
        broker.work_off();
    }
    // Another sweep begins in the middle, and the first places come last in it.
    broker.subscribe(key, b"a.*", b"", b"2", None);
    watches.push(broker.watch(ACCOUNT, b"a.new", b"", 9, &watcher));
    broker.check_invariants();
    settle(&mut broker);
    assert!(watches.iter().all(Watch::is_wanted));
    broker.check_invariants();
}
