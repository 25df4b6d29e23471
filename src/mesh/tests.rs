//! Named cases of the links; the simulator and the loom models look for those that have no name
//! yet.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::*;
use crate::auth::permissions::{Permissions, SubscribeRight};
use crate::base::ids::{AccountId, ClientKey, ConnectionId};
use crate::base::limits::{
    ADMITTED_MAX, BATCH_BYTES, CHUNK_BYTES, INTEREST_LANE_BYTES_MAX, LANE_BYTES_MIN, LANE_WORK_MAX,
    MESSAGE_LANE_SLOTS, PASSED_ON_BYTES_FEW, TURN_WORK_MAX, UNHEARD_STAGED_BYTES_MAX,
    UNHEARD_STAGED_FEW, WHOLE_WORK_SHARE, pace_bytes,
};
use crate::base::pool::BufferPool;
use crate::base::ring::ParkFlag;
use crate::broker::byte_queue::RemotePublisher;
use crate::broker::message_trace::Ingress;
use crate::broker::outbox::Outbox;
use crate::broker::outbox_totals::OutboxTotals;
use crate::broker::route_cache::RouteCache;
use crate::config::auth_options::{PermissionOptions, SubjectPermissionOptions};
use crate::protocol::message::{Message, MessageRun};

struct TestShard {
    broker: BrokerHandle,
    mesh: Mesh,
    clock: Rc<TurnClock>,
    totals: Rc<OutboxTotals>,
    park: ParkFlag,
    bell: Arc<AtomicBool>,
}

impl TestShard {
    fn client(&self, id: u64) -> (ClientKey, Rc<Outbox>) {
        let pool = Rc::new(BufferPool::new(&CHUNK_BYTES, 1 << 20));
        let outbox = Rc::new(Outbox::new(ConnectionId(id), pool, 1 << 20));
        outbox.set_totals(self.totals.clone());
        (self.broker.borrow_mut().attach(AccountId::GLOBAL, outbox.clone()), outbox)
    }

    fn subscribe(&self, client: ClientKey, filter: &str, queue: &str) {
        let (filter, queue) = (filter.as_bytes(), queue.as_bytes());
        self.broker.borrow_mut().subscribe(client, filter, queue, filter, None);
    }

    fn publish(&self, client: ClientKey) {
        self.publish_with(client, None, b"");
    }

    /// Says whether anybody may have got it. `no_echo` is the client's connection if that is not to
    /// hear itself.
    fn publish_with(&self, client: ClientKey, no_echo: Option<ConnectionId>, reply: &[u8]) -> bool {
        self.publish_payload(client, no_echo, reply, b"hi")
    }

    fn publish_payload(
        &self,
        client: ClientKey,
        no_echo: Option<ConnectionId>,
        reply: &[u8],
        payload: &[u8],
    ) -> bool {
        let origin = Origin::client(AccountId::GLOBAL, client, no_echo, true);
        let size = payload.len().to_string();
        let message = Message::without_headers(b"work", reply, payload, size.as_bytes());
        let (mut cache, mut turn) = (RouteCache::default(), Turn::default());
        let run = MessageRun::one(message);
        let routed = self.broker.borrow_mut().publish(&origin, &run, &mut cache, &mut turn);
        routed != Routed::Nobody
    }

    /// Turns until there is nothing to do, then sleep; the bell is heard.
    fn turn_and_sleep(&self) {
        self.bell.store(false, Ordering::Relaxed);
        self.park.retract();
        while self.mesh.end_of_turn() || self.mesh.has_work() {}
        self.park.announce();
    }

    fn is_woken(&self) -> bool {
        self.bell.load(Ordering::Relaxed)
    }
}

fn shards(count: usize, sizes: Lanes) -> Vec<TestShard> {
    let parks: Vec<ParkFlag> = (0..count).map(|_| ParkFlag::default()).collect();
    let bells: Vec<Arc<AtomicBool>> = (0..count).map(|_| Arc::default()).collect();
    let ends = lanes(count, sizes, |_, to| {
        let (park, bell) = (parks[to].clone(), bells[to].clone());
        Box::new(move || {
            let must = park.must_wake();
            if must {
                bell.store(true, Ordering::Relaxed);
            }
            must
        })
    });
    ends.into_iter()
        .zip(parks)
        .zip(bells)
        .map(|((ends, park), bell)| {
            let broker = Rc::new(RefCell::new(Broker::reproducible(1)));
            let clock = Rc::new(TurnClock::default());
            let totals = Rc::new(OutboxTotals::new(clock.clone()));
            let mesh = Mesh::new(broker.clone(), ends, Rc::default(), Rc::default(), clock.clone());
            TestShard { broker, mesh, clock, totals, park, bell }
        })
        .collect()
}

/// Found by the simulator: the flush that moved the last staged note filled the lane, and nobody
/// told the sleeping peer that a session waits for room.
#[test]
fn a_lane_filled_from_what_was_staged_wakes_the_peer_when_a_session_waits_for_room() {
    let shards = shards(2, Lanes { note_slots: 1, message_slots: 1, returned_slots: 1 });
    let [source, target] = &shards[..] else { unreachable!("two shards") };
    let (client, _) = source.client(5);
    source.subscribe(client, "first", "");
    source.subscribe(client, "staged", "");
    let congestion = source.broker.borrow().interest_congestion().expect("the lane is full");
    target.turn_and_sleep();
    source.turn_and_sleep();
    assert!(congestion.gate.value() < congestion.until, "the staged note took the room");
    assert!(target.is_woken());
    target.turn_and_sleep();
    assert!(source.is_woken());
    source.turn_and_sleep();
    assert!(congestion.gate.value() >= congestion.until);
}

/// Found by the simulator: a queue message whose member on another shard had just left came home
/// and was delivered to its own publisher, who had asked for no echo.
#[test]
fn a_queue_message_that_comes_home_is_no_echo() {
    let shards = shards(2, Lanes::of(2));
    let [home, away] = &shards[..] else { unreachable!("two shards") };
    let (publisher, outbox) = home.client(5);
    let (member, _) = away.client(6);
    home.subscribe(publisher, "work", "crew");
    away.subscribe(member, "work", "crew");
    home.turn_and_sleep();
    away.turn_and_sleep();
    away.broker.borrow_mut().unsubscribe(member, b"work", 0);
    home.publish_with(publisher, Some(outbox.id), b"");
    let forwarded = |shard: &TestShard| shard.broker.borrow().counters.forwarded;
    assert_eq!(forwarded(home), 1, "the only member that may have it is thought to be away");
    for shard in [home, away, home, away] {
        shard.turn_and_sleep();
    }
    assert_eq!(forwarded(away), 1, "it looked for another member");
    assert_eq!(outbox.out_messages.get(), 0);
}

/// A client's key means another client on another shard: who passes a message on must not have its
/// publisher paused through the last link.
#[test]
fn a_message_passed_on_names_no_publisher() {
    let shards = shards(3, Lanes::of(3));
    let (publisher, _) = shards[0].client(5);
    let (leaving, _) = shards[1].client(6);
    let (slow, slow_outbox) = shards[2].client(7);
    shards[1].subscribe(leaving, "work", "crew");
    shards.iter().for_each(TestShard::turn_and_sleep);
    shards[2].subscribe(slow, "work", "crew");
    shards[1].turn_and_sleep();
    shards[1].broker.borrow_mut().unsubscribe(leaving, b"work", 0);
    // More is pending than a producer may add to.
    slow_outbox.push_bytes(&[b'x'; 900_000]);
    // Shard 0 knows only of the member that left.
    shards[0].publish(publisher);
    shards[0].mesh.end_of_turn();
    for _ in 0..4 {
        shards.iter().for_each(TestShard::turn_and_sleep);
    }
    assert_eq!(slow_outbox.out_messages.get(), 1);
    assert!(shards[1].broker.borrow().remote_pace(leaving).is_none());
}

/// The cost of one publish for the mesh, by the shards there are and those with a subscriber: a
/// forward and two copies for each shard that wants it, and per turn one batch and at most one
/// wake, however many messages the turn had. Nothing grows with the shards that do not want it.
#[test]
fn costs_grow_with_the_shards_that_want_a_message_and_not_with_those_there_are() {
    const MESSAGES: u64 = 200;
    for count in [2, 8, 16, 64] {
        for wanting in [0, 1, 7, 15, 63].into_iter().filter(|wanting| *wanting < count) {
            let shards = shards(count, Lanes::of(count));
            let (publisher, _) = shards[0].client(5);
            let subscribers: Vec<_> = shards[1..=wanting]
                .iter()
                .map(|shard| {
                    let (client, outbox) = shard.client(6);
                    shard.subscribe(client, "work", "");
                    outbox
                })
                .collect();
            shards.iter().for_each(TestShard::turn_and_sleep);
            for _ in 0..MESSAGES {
                shards[0].publish(publisher);
            }
            shards[0].mesh.end_of_turn();
            let named = format!("{count} shards, wanted on {wanting}");
            let counters = shards[0].mesh.counters();
            let forwarded = shards[0].broker.borrow().counters.forwarded;
            assert_eq!(forwarded, MESSAGES * wanting as u64, "{named}");
            assert_eq!(counters.batches_out, wanting as u64, "{named}");
            assert_eq!(counters.wakes, wanting as u64, "{named}");
            shards[1..].iter().for_each(TestShard::turn_and_sleep);
            for (index, shard) in shards[1..].iter().enumerate() {
                let expected = if index < wanting { MESSAGES } else { 0 };
                assert_eq!(shard.mesh.counters().messages_in, expected, "{named}");
            }
            assert!(subscribers.iter().all(|outbox| outbox.out_messages.get() == MESSAGES));
        }
    }
}

/// A message is as old as its read, whatever shards it crossed: the time on the lane counts in what
/// its receiver's outbox records, and by itself.
#[test]
fn time_on_a_lane_counts_in_the_latency_of_what_crossed_it() {
    const ON_THE_LANE: Duration = Duration::from_millis(3);
    let shards = shards(3, Lanes::of(3));
    let (publisher, _) = shards[0].client(5);
    let (leaving, _) = shards[1].client(6);
    shards[1].subscribe(leaving, "work", "crew");
    shards.iter().for_each(TestShard::turn_and_sleep);
    let (member, outbox) = shards[2].client(7);
    shards[2].subscribe(member, "work", "crew");
    shards[1].turn_and_sleep();
    // Shard 0 knows only of the member that left: the message crosses two lanes.
    shards[1].broker.borrow_mut().unsubscribe(leaving, b"work", 0);
    let read_at = shards[0].clock.began();
    shards[0].publish(publisher);
    shards[0].mesh.end_of_turn();
    while read_at.elapsed() < ON_THE_LANE {}
    shards[1].mesh.end_of_turn();
    shards[2].mesh.end_of_turn();
    assert!(shards[2].clock.began() - read_at >= ON_THE_LANE);
    assert_eq!(shards[2].clock.read_at(), shards[2].clock.began(), "the delivery is over");
    let mut next = std::pin::pin!(outbox.next_chunk());
    let Poll::Ready(Some(sent)) = next.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    else {
        panic!("nothing was delivered");
    };
    outbox.send_begins(Instant::now());
    outbox.send_progressed(sent.len(), Instant::now());
    outbox.send_ends(sent);
    for (durations, what) in [
        (shards[1].mesh.transits(), "the first lane"),
        (shards[2].mesh.transits(), "both lanes"),
        (shards[2].totals.queued.durations(), "the latency"),
    ] {
        assert_eq!(durations.count(), 1, "{what}");
        assert!(u128::from(durations.sum_ns) >= ON_THE_LANE.as_nanos(), "{what}: {durations:?}");
    }
    assert_eq!(shards[0].mesh.transits().count(), 0);
}

/// A message waits while another shard's lane has no room for it; one that goes elsewhere does not.
#[test]
fn a_message_waits_for_room_on_the_lanes_that_it_needs() {
    let shards = shards(3, Lanes { note_slots: 8, message_slots: 1, returned_slots: 1 });
    let (publisher, _) = shards[0].client(5);
    let (near, _) = shards[1].client(6);
    let (far, _) = shards[2].client(7);
    shards[1].subscribe(near, "work", "");
    shards[2].subscribe(far, "play", "");
    shards.iter().for_each(TestShard::turn_and_sleep);
    let congestion = |subject: &str| {
        let mut broker = shards[0].broker.borrow_mut();
        broker.message_congestion(AccountId::GLOBAL, subject.as_bytes(), 100, &mut Turn::default())
    };
    assert!(congestion("work").is_none());
    shards[0].publish(publisher);
    shards[0].mesh.end_of_turn();
    let wait = congestion("work").expect("the one slot is taken");
    assert!(congestion("play").is_none(), "its lane is empty");
    assert!(congestion("nobody").is_none());
    shards[0].turn_and_sleep();
    assert!(wait.gate.value() < wait.until);
    shards[1].turn_and_sleep();
    assert!(shards[0].is_woken());
    shards[0].turn_and_sleep();
    assert!(wait.gate.value() >= wait.until);
    assert!(congestion("work").is_none());
}

/// However many wait for room on a lane, a flush, which looks twice, lets some go on, and later
/// ones the others.
#[test]
fn those_who_wait_for_room_are_admitted_some_at_a_time() {
    const COUNT: usize = 5 * ADMITTED_MAX;
    let shards = shards(2, Lanes { note_slots: 8, message_slots: 1, returned_slots: 1 });
    let [source, target] = &shards[..] else { unreachable!("two shards") };
    let (publisher, _) = source.client(5);
    let (subscriber, _) = target.client(6);
    target.subscribe(subscriber, "work", "");
    shards.iter().for_each(TestShard::turn_and_sleep);
    source.publish(publisher);
    source.mesh.end_of_turn();
    struct Woken(AtomicUsize);
    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let woken = Arc::new(Woken(AtomicUsize::new(0)));
    let waker = Waker::from(woken.clone());
    let mut waits: Vec<_> = (0..COUNT)
        .map(|_| {
            let mut broker = source.broker.borrow_mut();
            let congestion =
                broker.message_congestion(AccountId::GLOBAL, b"work", 100, &mut Turn::default());
            let Congestion { gate, until } = congestion.expect("the one slot is taken");
            Box::pin(async move { gate.reached(until).await })
        })
        .collect();
    for wait in &mut waits {
        assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    target.turn_and_sleep();
    let mut most = 0;
    while woken.0.load(Ordering::Relaxed) < COUNT {
        let before = woken.0.load(Ordering::Relaxed);
        assert!(source.mesh.has_work(), "{before} of {COUNT} were woken, and it sleeps");
        source.mesh.end_of_turn();
        source.mesh.check_invariants(&[]);
        most = most.max(woken.0.load(Ordering::Relaxed) - before);
    }
    assert!(most <= 2 * ADMITTED_MAX, "{most}");
    source.turn_and_sleep();
    assert!(!source.mesh.has_work());
}

/// A lane takes no more than a part of what a client may have pending, and always something.
#[test]
fn bytes_under_way_on_a_lane_are_bounded_by_what_a_client_may_have_pending() {
    for pending_bytes_max in [1, 1_500_000, 8 << 20, 64 << 20] {
        let shards = shards(2, Lanes::of(2));
        let (publisher, _) = shards[0].client(5);
        let (subscriber, _) = shards[1].client(6);
        shards[1].subscribe(subscriber, "work", "");
        shards.iter().for_each(TestShard::turn_and_sleep);
        shards[0].mesh.set_pending_bytes_max(pending_bytes_max);
        let mut sent = 0;
        let has_room = |sent: usize| {
            let mut broker = shards[0].broker.borrow_mut();
            assert!(sent < 64 << 20, "the lane has no bound");
            broker.message_congestion(AccountId::GLOBAL, b"work", 2, &mut Turn::default()).is_none()
        };
        while has_room(sent) {
            // By turns of about a batch each.
            for _ in 0..1000 {
                shards[0].publish(publisher);
            }
            sent += 1000 * b"workhi".len();
            shards[0].mesh.end_of_turn();
        }
        let left = pending_bytes_max - pace_bytes(pending_bytes_max);
        assert!(sent > 0);
        assert!(sent <= LANE_BYTES_MIN.max(left / 4) + BATCH_BYTES, "{pending_bytes_max}: {sent}");
        shards[1].turn_and_sleep();
        // Whoever came first waits for the room; others have some once it was given.
        assert!(!has_room(0));
        shards[0].turn_and_sleep();
        assert!(has_room(0));
    }
}

/// All that is queued for a client, which is taken.
fn queued(outbox: &Outbox) -> String {
    let mut next = std::pin::pin!(outbox.next_chunk());
    match next.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(bytes)) => String::from_utf8(bytes).expect("text"),
        _ => String::new(),
    }
}

/// A client of shard 0 asks for work; says how often it is told that nobody listens. `leave` is
/// called when the shards know of each other's listeners.
fn asked(
    shard_count: usize,
    echo: bool,
    join: impl FnOnce(&[TestShard], ClientKey),
    leave: impl FnOnce(&[TestShard]),
) -> usize {
    let shards = shards(shard_count, Lanes::of(shard_count));
    let (asker, outbox) = shards[0].client(5);
    shards[0].subscribe(asker, "inbox", "");
    join(&shards, asker);
    shards.iter().for_each(TestShard::turn_and_sleep);
    leave(&shards);
    let no_echo = (!echo).then_some(outbox.id);
    assert!(shards[0].publish_with(asker, no_echo, b"inbox"), "somebody is thought to listen");
    shards[0].mesh.end_of_turn();
    for _ in 0..4 {
        shards.iter().for_each(TestShard::turn_and_sleep);
    }
    queued(&outbox).matches("NATS/1.0 503").count()
}

/// The listener of each of these shards has key 0.
const LISTENER: ClientKey = ClientKey(0);

fn listen(shards: &[TestShard], queue: &str) {
    for shard in shards {
        assert_eq!(shard.client(6).0, LISTENER);
        shard.subscribe(LISTENER, "work", queue);
    }
}

fn leave(shards: &[TestShard]) {
    shards.iter().for_each(|shard| shard.broker.borrow_mut().unsubscribe(LISTENER, b"work", 0));
}

#[test]
fn a_request_whose_listeners_on_other_shards_are_gone_gets_one_answer_that_says_so() {
    for shard_count in 2..6 {
        for queue in ["", "crew"] {
            let told = asked(
                shard_count,
                true,
                |shards, _| listen(&shards[1..], queue),
                |shards| leave(&shards[1..]),
            );
            assert_eq!(told, 1, "{shard_count} shards, queue {queue:?}");
        }
        let told = asked(
            shard_count,
            true,
            |shards, _| listen(&shards[1..], ""),
            |shards| leave(&shards[2..]),
        );
        assert_eq!(told, 0, "one of {shard_count} shards still listens");
    }
}

#[test]
fn a_request_that_a_listener_on_another_shard_may_not_have_gets_the_answer_that_nobody_listens() {
    let denied = |shards: &[TestShard], _| {
        listen_in_vain(&shards[1]);
    };
    assert_eq!(asked(2, true, denied, |_| {}), 1);
}

/// A request that is only traced goes to the shards where somebody seems to listen, but to nobody
/// there. Each of them makes a note of it.
#[test]
fn a_request_that_is_only_traced_is_answered_if_nobody_on_any_shard_would_get_it() {
    for shard_count in 2..5 {
        for (some_listen, expected) in [(false, 1), (true, 0)] {
            let shards = shards(shard_count, Lanes::of(shard_count));
            let (asker, outbox) = shards[0].client(5);
            shards[0].subscribe(asker, "inbox", "");
            for shard in &shards[1..] {
                let listener = listen_in_vain(shard);
                subscribe_in_vain(shard, listener, "crew", "2");
            }
            if some_listen {
                let (listener, _) = shards[1].client(7);
                shards[1].subscribe(listener, "work", "team");
            }
            shards.iter().for_each(TestShard::turn_and_sleep);
            let origin = Origin::client(AccountId::GLOBAL, asker, None, true);
            let message = Message::without_headers(b"work", b"inbox", b"hi", b"2");
            let mut turn = Turn::default();
            let mut broker = shards[0].broker.borrow_mut();
            let ingress = Ingress::only(AccountId::GLOBAL, &message);
            let routed = broker.publish_traced(&origin, &message, ingress, &mut turn);
            drop(broker);
            assert_eq!(routed, Routed::Delivered, "somebody seems to listen");
            shards[0].mesh.end_of_turn();
            (0..4).for_each(|_| shards.iter().for_each(TestShard::turn_and_sleep));
            assert_eq!(queued(&outbox).matches("NATS/1.0 503").count(), expected);
            // A queue message looks for another member, and may come to a shard twice.
            let (mut parts, mut forwarded, mut begun) = (0, 0, 0);
            for shard in &shards {
                while let Some(note) = shard.broker.borrow_mut().next_trace_note() {
                    assert_eq!(note.ingress.is_some(), note.home.is_none());
                    parts += 1;
                    forwarded += note.forwarded;
                    begun += usize::from(note.ingress.is_some());
                }
            }
            assert_eq!((begun, parts), (1, forwarded + 1));
            assert!(forwarded >= shard_count - 1);
        }
    }
}

/// The look for room takes work, which counts.
#[test]
fn a_look_for_room_on_the_lanes_counts_as_work() {
    let shards = shards(2, Lanes { note_slots: 8, message_slots: 1, returned_slots: 1 });
    let (client, _) = shards[0].client(5);
    for sid in 0..1_000 {
        let sid = sid.to_string();
        shards[0].broker.borrow_mut().subscribe(client, b"*", b"", sid.as_bytes(), None);
    }
    let mut turn = Turn::default();
    let mut broker = shards[0].broker.borrow_mut();
    assert!(broker.message_congestion(AccountId::GLOBAL, b"work", 2, &mut turn).is_none());
    assert!(turn.work() >= 1_000, "{}", turn.work());
}

/// A client that subscribes to everything and may not have work.
fn listen_in_vain(shard: &TestShard) -> ClientKey {
    let (listener, _) = shard.client(6);
    subscribe_in_vain(shard, listener, "", "1");
    listener
}

/// Subscribes to everything for a client that may not have work.
fn subscribe_in_vain(shard: &TestShard, listener: ClientKey, queue: &str, sid: &str) {
    let deny = Some(vec!["work".to_owned()]);
    let subscribe = Some(SubjectPermissionOptions { deny, ..Default::default() });
    let rules = PermissionOptions { subscribe, ..PermissionOptions::default() };
    let permissions = Permissions::compile(&Arc::new(rules), false).expect("they are valid");
    let SubscribeRight::AllowedWithDeliveryFilter(deny) = permissions.may_subscribe(b"*", None)
    else {
        panic!("the wildcard overlaps what is denied")
    };
    let (queue, sid) = (queue.as_bytes(), sid.as_bytes());
    shard.broker.borrow_mut().subscribe(listener, b"*", queue, sid, Some(deny));
}

static PASSED_ON_PAYLOAD: [u8; 20_000] = [b'x'; 20_000];

/// Publishes work with a large payload as long as there is room, and says how often.
fn publish_while_there_is_room(shard: &TestShard, client: ClientKey) -> u64 {
    let has_room = || {
        let mut broker = shard.broker.borrow_mut();
        let size = PASSED_ON_PAYLOAD.len() + b"work".len();
        broker.message_congestion(AccountId::GLOBAL, b"work", size, &mut Turn::default()).is_none()
    };
    let mut sent = 0;
    while sent < 50 && has_room() {
        shard.publish_payload(client, None, b"", &PASSED_ON_PAYLOAD);
        sent += 1;
    }
    sent
}

/// The members on the second shard may not have the messages, and the third does not take them:
/// what the second passes on is bounded, its publisher waits, and in the end each message arrives
/// once.
#[test]
fn messages_passed_on_to_a_shard_that_does_not_take_them_are_bounded_and_pace_their_publisher() {
    let shards = shards(3, Lanes::of(3));
    let (publisher, _) = shards[0].client(5);
    let (refused, _) = shards[1].client(6);
    for sid in 0..50 {
        subscribe_in_vain(&shards[1], refused, "crew", &sid.to_string());
    }
    let pool = Rc::new(BufferPool::new(&CHUNK_BYTES, 1 << 20));
    let outbox = Rc::new(Outbox::new(ConnectionId(7), pool, usize::MAX));
    let member = shards[2].broker.borrow_mut().attach(AccountId::GLOBAL, outbox.clone());
    shards[2].subscribe(member, "work", "crew");
    shards.iter().for_each(TestShard::turn_and_sleep);
    let mut sent = 0;
    for _ in 0..500 {
        sent += publish_while_there_is_room(&shards[0], publisher);
        for shard in &shards[..2] {
            shard.mesh.end_of_turn();
            shard.mesh.peers.iter().for_each(|peer| peer.outbound.check_invariants());
        }
    }
    let staged = shards[1].mesh.depth().staged_bytes;
    let lane_max = MESSAGE_LANE_SLOTS * BATCH_BYTES;
    assert!(staged > PASSED_ON_BYTES_FEW, "{staged}");
    assert!(staged <= PASSED_ON_BYTES_FEW + lane_max, "{staged} of {sent} messages");
    for _ in 0..500 {
        shards.iter().for_each(TestShard::turn_and_sleep);
        queued(&outbox);
    }
    assert_eq!(outbox.out_messages.get(), sent);
    assert_eq!(shards[1].mesh.depth().staged_bytes, 0);
    assert!(publish_while_there_is_room(&shards[0], publisher) > 0);
}

/// Three shards pass messages on to each other in a circle, over lanes that hold little: nobody
/// waits forever.
#[test]
fn shards_that_pass_messages_on_in_a_circle_do_not_wait_for_each_other_forever() {
    let shards = shards(3, Lanes { note_slots: 64, message_slots: 2, returned_slots: 1 });
    let mut outboxes = Vec::new();
    for number in 0..3 {
        let (refused, _) = shards[(number + 1) % 3].client(6);
        for sid in 0..50 {
            let (queue, sid) = (format!("crew{number}"), sid.to_string());
            subscribe_in_vain(&shards[(number + 1) % 3], refused, &queue, &sid);
            shards.iter().for_each(TestShard::turn_and_sleep);
        }
        let pool = Rc::new(BufferPool::new(&CHUNK_BYTES, 1 << 20));
        let outbox = Rc::new(Outbox::new(ConnectionId(7), pool, usize::MAX));
        let shard = &shards[(number + 2) % 3];
        let member = shard.broker.borrow_mut().attach(AccountId::GLOBAL, outbox.clone());
        shard.subscribe(member, "work", &format!("crew{number}"));
        outboxes.push(outbox);
    }
    let publishers: Vec<ClientKey> = shards.iter().map(|shard| shard.client(5).0).collect();
    shards.iter().for_each(TestShard::turn_and_sleep);
    shards.iter().for_each(TestShard::turn_and_sleep);
    let (mut sent, mut staged_max) = (0, 0);
    for _ in 0..3_000 {
        for (shard, publisher) in shards.iter().zip(&publishers) {
            sent += publish_while_there_is_room(shard, *publisher);
            shard.mesh.end_of_turn();
            shard.mesh.peers.iter().for_each(|peer| peer.outbound.check_invariants());
            staged_max = staged_max.max(shard.mesh.depth().staged_bytes);
        }
        outboxes.iter().for_each(|outbox| drop(queued(outbox)));
    }
    for _ in 0..500 {
        shards.iter().for_each(TestShard::turn_and_sleep);
        outboxes.iter().for_each(|outbox| drop(queued(outbox)));
    }
    assert!(sent > 1_000, "{sent}");
    for outbox in &outboxes {
        assert_eq!(outbox.out_messages.get(), sent, "of {staged_max} staged bytes at most");
    }
}

/// Requests that nobody gets come back as notes: they pace those who ask, keep nobody from
/// subscribing, and each is answered in the end.
#[test]
fn a_flood_of_requests_that_nobody_gets_is_bounded_answered_and_holds_up_no_subscription() {
    for shard_count in [2, 3] {
        let shards = shards(shard_count, Lanes::of(shard_count));
        let [source, target] = &shards[..2] else { unreachable!("two shards") };
        let pool = Rc::new(BufferPool::new(&CHUNK_BYTES, 1 << 20));
        let outbox = Rc::new(Outbox::new(ConnectionId(5), pool, usize::MAX));
        let asker = source.broker.borrow_mut().attach(AccountId::GLOBAL, outbox.clone());
        source.subscribe(asker, "inbox", "");
        shards[1..].iter().for_each(|shard| {
            listen_in_vain(shard);
        });
        shards.iter().for_each(TestShard::turn_and_sleep);
        let (subscriber, _) = target.client(7);
        let mut sent = 0;
        // The source sends and takes nothing.
        for _ in 0..1_000 {
            for _ in 0..500 {
                let mut broker = source.broker.borrow_mut();
                if broker
                    .message_congestion(AccountId::GLOBAL, b"work", 8, &mut Turn::default())
                    .is_some()
                {
                    break;
                }
                drop(broker);
                source.publish_with(asker, None, b"inbox");
                sent += 1;
            }
            source.mesh.flush();
            shards[1..].iter().for_each(|shard| {
                shard.mesh.end_of_turn();
            });
            let broker = target.broker.borrow();
            assert!(broker.interest_congestion().is_none(), "SUB waits for notes of requests");
            assert!(broker.has_interest_reserve(), "what left waits for notes of requests");
        }
        let (count, bytes) = target.mesh.peers[0].outbound.staged_unheard();
        assert!(sent > UNHEARD_STAGED_FEW && count < LANE_WORK_MAX * 2, "{count} of {sent}");
        assert!(bytes <= UNHEARD_STAGED_BYTES_MAX);
        target.subscribe(subscriber, "other", "");
        target.mesh.check_invariants(&[]);
        source.mesh.end_of_turn();
        assert!(source.broker.borrow().interest_total() > 2 * shard_count, "it was told at once");
        let mut told = 0;
        for _ in 0..1_000 {
            shards.iter().for_each(|shard| {
                shard.mesh.end_of_turn();
            });
            let texts = std::iter::repeat_with(|| queued(&outbox));
            for text in texts.take_while(|text| !text.is_empty()) {
                told += text.matches("NATS/1.0 503").count();
            }
        }
        let unanswered = source.broker.borrow().counters.unanswered as usize;
        assert_eq!(told + unanswered, sent, "with {shard_count} shards");
        assert!(unanswered == 0 || shard_count > 2, "shares of one request wait for each other");
        assert_eq!(target.mesh.peers[0].outbound.staged_unheard(), (0, 0));
        let mut broker = source.broker.borrow_mut();
        assert!(
            broker
                .message_congestion(AccountId::GLOBAL, b"work", 8, &mut Turn::default())
                .is_none()
        );
    }
}

#[test]
fn a_request_that_comes_home_to_a_listener_that_asked_for_no_echo_is_answered_that_nobody_listens()
{
    let join = |shards: &[TestShard], asker| {
        shards[0].subscribe(asker, "work", "crew");
        listen(&shards[1..], "crew");
    };
    assert_eq!(asked(2, false, join, |shards| leave(&shards[1..])), 1);
    assert_eq!(asked(3, false, join, |shards| leave(&shards[1..])), 1);
    assert_eq!(asked(2, false, join, |_| {}), 0);
}

#[test]
fn a_message_to_many_behind_a_lane_is_delivered_in_short_turns_and_others_publish_behind_it() {
    const COUNT: usize = 40_000;
    let shards = shards(2, Lanes::of(2));
    let [source, target] = &shards[..] else { unreachable!("two shards") };
    let (publisher, _) = source.client(5);
    let (receiver, outbox) = target.client(6);
    for number in 0..COUNT {
        let sid = number.to_string();
        let mut broker = target.broker.borrow_mut();
        broker.subscribe(receiver, b"work", b"", sid.as_bytes(), None);
    }
    shards.iter().for_each(TestShard::turn_and_sleep);
    source.publish(publisher);
    source.turn_and_sleep();
    target.mesh.end_of_turn();
    let arrivals = target.broker.borrow().arrivals().cloned().expect("it takes several turns");
    let mut turns = 1;
    while arrivals.gate.value() < arrivals.until {
        assert!(target.mesh.has_work());
        target.mesh.end_of_turn();
        turns += 1;
    }
    assert!(turns >= COUNT / TURN_WORK_MAX, "{turns}");
    assert_eq!(outbox.out_messages.get(), COUNT as u64);
    let broker = target.broker.borrow();
    assert!(broker.arrivals().is_none());
    assert!(broker.counters.turn_work_max <= TURN_WORK_MAX + TURN_WORK_MAX / WHOLE_WORK_SHARE);
}

/// A shard takes in all notes of a lane at once: long filters fill it before its slots do.
#[test]
fn text_of_interest_under_way_on_a_lane_is_bounded() {
    let shards = shards(2, Lanes::of(2));
    let [source, target] = &shards[..] else { unreachable!("two shards") };
    let (client, _) = source.client(5);
    shards.iter().for_each(TestShard::turn_and_sleep);
    let filter = |number: usize| format!("{number}.{}", "t".repeat(2_000));
    let mut sent = 0;
    let mut number = 0;
    let congestion = loop {
        if let Some(congestion) = source.broker.borrow().interest_congestion() {
            break congestion;
        }
        assert!(sent <= INTEREST_LANE_BYTES_MAX, "the lane has no bound");
        source.subscribe(client, &filter(number), "");
        sent += filter(number).len();
        number += 1;
    };
    assert!(sent >= INTEREST_LANE_BYTES_MAX);
    assert!(target.is_woken());
    target.turn_and_sleep();
    source.turn_and_sleep();
    assert!(congestion.gate.value() >= congestion.until);
    assert!(source.broker.borrow().interest_congestion().is_none());
}

/// Notes take work as messages do: a turn applies as many as it may, and nobody publishes before
/// the rest is applied. However fast notes come, messages get on.
#[test]
fn notes_that_take_more_than_a_turn_are_applied_over_several() {
    const WORK_MAX: usize = 2_000;
    let shards = shards(2, Lanes::of(2));
    let [source, target] = &shards[..] else { unreachable!("two shards") };
    target.broker.borrow_mut().set_turn_work_max(WORK_MAX);
    let (client, _) = source.client(5);
    let (receiver, outbox) = target.client(6);
    target.subscribe(receiver, "work", "");
    shards.iter().for_each(TestShard::turn_and_sleep);
    let long = "*.".repeat(1_900);
    let subscribe = |number: usize| {
        let is_room = source.broker.borrow().interest_congestion().is_none();
        if is_room {
            source.subscribe(client, &format!("{long}{number}"), "");
        }
        is_room
    };
    let first = (0..).find(|number| !subscribe(*number)).expect("the lane has a bound");
    target.mesh.end_of_turn();
    assert!(target.mesh.depth().notes > first / 2, "{} of {first}", target.mesh.depth().notes);
    assert!(target.broker.borrow().arrivals().is_some(), "a message here might miss a subscriber");
    source.publish(client);
    let (mut turns, mut number) = (0, first);
    while outbox.out_messages.get() == 0 {
        while subscribe(number) {
            number += 1;
        }
        source.mesh.end_of_turn();
        target.mesh.end_of_turn();
        turns += 1;
        assert!(turns < 100, "the message waits for notes that came after it");
    }
    shards.iter().for_each(TestShard::turn_and_sleep);
    shards.iter().for_each(TestShard::turn_and_sleep);
    let broker = target.broker.borrow();
    assert!(broker.arrivals().is_none());
    assert_eq!(broker.table_total(), 1 + number);
    let done = broker.counters.turn_work_max;
    assert!(done <= 2 * WORK_MAX, "{done} in one turn");
}

/// A shard that publishes as long as there is room, and one where each message reaches `receivers`.
/// Calls `look` after each turn of the second, with the messages sent and delivered so far.
fn flood(receivers: usize, turns: usize, mut look: impl FnMut(&TestShard, u64, u64)) {
    let shards = shards(2, Lanes::of(2));
    let [source, target] = &shards[..] else { unreachable!("two shards") };
    let (publisher, _) = source.client(5);
    let pool = Rc::new(BufferPool::new(&CHUNK_BYTES, 1 << 20));
    // Room for all: nobody is slowed for its sake.
    let outbox = Rc::new(Outbox::new(ConnectionId(6), pool, usize::MAX));
    let receiver = target.broker.borrow_mut().attach(AccountId::GLOBAL, outbox.clone());
    for number in 0..receivers {
        let sid = number.to_string();
        let mut broker = target.broker.borrow_mut();
        broker.subscribe(receiver, b"work", b"", sid.as_bytes(), None);
    }
    shards.iter().for_each(TestShard::turn_and_sleep);
    let mut sent = 0;
    for _ in 0..turns {
        for _ in 0..2_000 {
            let mut broker = source.broker.borrow_mut();
            if broker
                .message_congestion(AccountId::GLOBAL, b"work", 2, &mut Turn::default())
                .is_some()
            {
                break;
            }
            drop(broker);
            source.publish(publisher);
            sent += 1;
        }
        source.mesh.end_of_turn();
        target.mesh.end_of_turn();
        queued(&outbox);
        look(target, sent, outbox.out_messages.get() / receivers as u64);
    }
}

/// A flood of messages that reach many does not gather over there, and neither on the lane: whoever
/// publishes there waits for a few turns.
#[test]
fn work_under_way_on_a_lane_is_bounded_until_it_is_delivered() {
    for receivers in [1_000, 5_000, 40_000] {
        let mut most = 0;
        flood(receivers, 40, |_, sent, delivered| {
            // Of the number of subscriptions a shard knows the nearest power of two below it.
            let waiting = (sent - delivered).saturating_sub(1);
            most = most.max(waiting * receivers as u64 / 2);
        });
        assert!(most <= LANE_WORK_MAX as u64, "{receivers} receivers: {most}");
    }
}

#[test]
fn a_publisher_behind_a_flood_of_messages_to_many_waits_for_a_few_turns() {
    let (mut waits_for, mut turns, mut most, mut waits) = (None::<Congestion>, 0, 0, 0);
    flood(5_000, 200, |target, _, _| {
        turns += 1;
        if waits_for.as_ref().is_none_or(|wait| wait.gate.value() >= wait.until) {
            most = most.max(turns);
            waits += 1;
            turns = 0;
            waits_for = target.broker.borrow().arrivals().cloned();
        }
    });
    assert!(waits > 5, "{waits}");
    // All that may be under way, twice by what is estimated, for the drain under way and the next
    // one.
    let turns_max = 4 * (LANE_WORK_MAX / TURN_WORK_MAX + 1);
    assert!(most <= turns_max, "{most}");
}

/// Small messages to few: batches that are taken out of the ring still count.
#[test]
fn batches_that_wait_to_be_delivered_are_no_more_than_slots() {
    let shards = shards(2, Lanes::of(2));
    let [source, target] = &shards[..] else { unreachable!("two shards") };
    let (publisher, _) = source.client(5);
    let (receiver, _) = target.client(6);
    target.subscribe(receiver, "work", "");
    shards.iter().for_each(TestShard::turn_and_sleep);
    // Turns that deliver one message each.
    target.broker.borrow_mut().set_turn_work_max(1);
    let mut sent = 0_u64;
    for _ in 0..500 {
        let mut broker = source.broker.borrow_mut();
        let has_room = broker
            .message_congestion(AccountId::GLOBAL, b"work", 2, &mut Turn::default())
            .is_none();
        drop(broker);
        if has_room {
            source.publish(publisher);
            sent += 1;
        }
        source.mesh.end_of_turn();
        source.mesh.end_of_turn();
        target.mesh.end_of_turn();
        let waiting = sent - target.mesh.counters().messages_in;
        assert!(waiting <= MESSAGE_LANE_SLOTS as u64 + 1, "{waiting}");
    }
    target.broker.borrow_mut().set_turn_work_max(TURN_WORK_MAX);
    shards.iter().for_each(TestShard::turn_and_sleep);
    shards.iter().for_each(TestShard::turn_and_sleep);
    assert_eq!(target.mesh.counters().messages_in, sent);
}

/// However often consumers empty and fill: a publisher is told once that it may go on, and not
/// asked to pause while there is no room to ask.
#[test]
fn notes_that_pace_wait_once_for_each_publisher() {
    let shards = shards(2, Lanes { note_slots: 2, message_slots: 4, returned_slots: 1 });
    let [source, target] = &shards[..] else { unreachable!("two shards") };
    let publishers: Vec<ClientKey> = (5..8).map(|id| source.client(id).0).collect();
    let (slow, outbox) = target.client(9);
    target.subscribe(slow, "work", "");
    shards.iter().for_each(TestShard::turn_and_sleep);
    // Fills the lane for notes from the target.
    for filter in ["a", "b", "c"] {
        target.subscribe(slow, filter, "");
    }
    let link = target.mesh.peers[0].link;
    for _ in 0..1_000 {
        let all = publishers.iter().map(|&client| RemotePublisher { link, client });
        target.mesh.resumable.borrow_mut().extend(all);
        target.mesh.end_of_turn();
    }
    let staged = |shard: &TestShard| shard.mesh.peers[0].outbound.staged_note_count();
    assert_eq!(staged(target), 1 + publishers.len());
    // More is pending than a producer may add to.
    outbox.push_bytes(&[b'x'; 900_000]);
    source.publish(publishers[0]);
    source.mesh.end_of_turn();
    target.mesh.end_of_turn();
    assert_eq!(outbox.out_messages.get(), 1);
    // Two were taken; the others wait as before, and nobody was asked to pause.
    assert_eq!(staged(target), 1 + publishers.len() - 2);
    for _ in 0..4 {
        shards.iter().for_each(TestShard::turn_and_sleep);
    }
    assert_eq!(staged(target), 0);
    assert!(source.broker.borrow().remote_pace(publishers[0]).is_none());
    // Now there is room to ask.
    source.publish(publishers[0]);
    for _ in 0..2 {
        shards.iter().for_each(TestShard::turn_and_sleep);
    }
    assert!(source.broker.borrow().remote_pace(publishers[0]).is_some());
}

/// Whoever reaches several consumers of a shard waits for all of them: one that has drained frees
/// nobody for the others.
#[test]
fn publisher_goes_on_once_each_consumer_it_waits_for_has_drained() {
    let shards = shards(2, Lanes::of(2));
    let [source, target] = &shards[..] else { unreachable!("two shards") };
    let (publisher, _) = source.client(5);
    let consumers = [target.client(6), target.client(7)];
    for (consumer, _) in &consumers {
        target.subscribe(*consumer, "work", "");
    }
    let turns = || (0..3).for_each(|_| shards.iter().for_each(TestShard::turn_and_sleep));
    turns();
    let is_paused = || source.broker.borrow().remote_pace(publisher).is_some();
    // A publisher waits for the one that has most: for each in turn.
    for (bytes, (_, outbox)) in [900_000, 1_000_000].into_iter().zip(&consumers) {
        outbox.push_bytes(&vec![b'x'; bytes]);
        source.publish(publisher);
        turns();
        assert!(is_paused());
    }
    let drained = RemotePublisher { link: target.mesh.peers[0].link, client: publisher };
    for expected in [true, false] {
        target.mesh.resumable.borrow_mut().push(drained);
        turns();
        assert_eq!(is_paused(), expected);
    }
    assert!(target.mesh.peers[0].paused.borrow().is_empty());
}

/// What other shards are told of a filter with many subscriptions: a note for each power of two.
#[test]
fn interest_of_many_is_told_by_powers_of_two() {
    let shards = shards(2, Lanes::of(2));
    let [source, target] = &shards[..] else { unreachable!("two shards") };
    let (client, _) = target.client(6);
    for number in 0..1_000 {
        let sid = number.to_string();
        target.broker.borrow_mut().subscribe(client, b"work", b"", sid.as_bytes(), None);
    }
    target.turn_and_sleep();
    source.mesh.catch_up();
    // 1, 4, 8 and so on to 512.
    assert_eq!(source.mesh.counters().interest_in, 9);
    for number in 0..1_000 {
        let sid = number.to_string();
        target.broker.borrow_mut().unsubscribe(client, sid.as_bytes(), 0);
    }
    target.turn_and_sleep();
    source.mesh.catch_up();
    assert_eq!(source.mesh.counters().interest_in, 9 + 9);
    assert_eq!(source.broker.borrow().interest_total(), 0);
}

/// Found by the simulator: a subscription reached its maximum while no other shard could be told,
/// and its client left. The client was gone first.
#[test]
fn a_subscription_that_reached_its_maximum_may_be_dropped_after_its_client() {
    let shards = shards(2, Lanes { note_slots: 4, message_slots: 1, returned_slots: 1 });
    let [source, target] = &shards[..] else { unreachable!("two shards") };
    let (client, outbox) = source.client(5);
    let (other, _) = source.client(6);
    source.subscribe(client, "work", "");
    source.broker.borrow_mut().unsubscribe(client, b"work", 1);
    for filter in ["a", "b", "c", "d"] {
        source.subscribe(other, filter, "");
    }
    assert!(source.broker.borrow().interest_congestion().is_some());
    source.publish(other);
    assert_eq!(outbox.out_messages.get(), 1);
    source.broker.borrow_mut().detach(client);
    target.turn_and_sleep();
    source.turn_and_sleep();
    assert!(source.broker.borrow().interest_congestion().is_none());
    while source.broker.borrow_mut().work_off() {}
    assert_eq!(source.broker.borrow().table_total(), 4);
    source.turn_and_sleep();
    target.turn_and_sleep();
    assert_eq!(target.broker.borrow().interest_total(), 4 + 4);
}
