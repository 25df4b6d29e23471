//! Services inside the server, along with clients of one to three shards: nothing that they publish
//! is lost, doubled or out of order, however slow their receivers; and services that watch interest.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::task::{Context, Waker};

use midge::testing::base::ids::AccountId;
use midge::testing::base::limits::{LANE_WORK_MAX, LETTERS_MAX, TURN_WORK_MAX};
use midge::testing::broker::Broker;
use midge::testing::broker::link::Congestion;
use midge::testing::broker::mailbox::{Letters, Mailbox};
use midge::testing::broker::service::{
    Published, Reach, ServiceInterest, ServicePublisher, ServiceSubscription,
};
use midge::testing::broker::watch::{Watch, Watcher};
use midge::testing::mesh::Lanes;
use midge::testing::protocol::message::Message;

use super::world::Service;
use super::{ShardSizes, World, client, rest, say};
use crate::ear::{Ear, Heard};

/// Letters that a service reads in one step: of small messages, and of large ones.
const LETTERS_PER_STEP: usize = 300;
const LARGE_LETTERS_PER_STEP: usize = 7;

/// What a service did, for its test.
#[derive(Default)]
struct Seen {
    letters: Cell<usize>,
    /// Largest number of waiting letters.
    waiting_max: Cell<usize>,
    congested: Cell<usize>,
    read_first: Cell<usize>,
    dropped: Cell<u64>,
}

/// A message to be published.
struct Answer {
    route: Vec<u8>,
    shown: Vec<u8>,
    payload: Vec<u8>,
}

/// What a service publishes for a message that it hears, if anything.
type MakeAnswer = fn(&Message<'_>) -> Option<Answer>;

/// For what is heard on `serve.x` the same for receivers of `served.x`, who are shown `shown.x`.
fn serve(message: &Message<'_>) -> Option<Answer> {
    let name = message.subject.strip_prefix(b"serve.")?;
    Some(Answer {
        route: [b"served.", name].concat(),
        shown: [b"shown.", name].concat(),
        payload: message.payload().to_vec(),
    })
}

/// Counts down: to the other of `ping` and `pong`, and on `loop` to itself.
fn count_down(message: &Message<'_>) -> Option<Answer> {
    let left = message.payload()[0].checked_sub(b'1')?;
    let subject = match message.subject {
        b"ping" => b"pong",
        b"pong" => b"ping",
        _ => b"loop",
    };
    Some(Answer { route: Vec::new(), shown: subject.to_vec(), payload: vec![b'0' + left] })
}

/// Publishes an answer to each message that it hears, where there is one.
struct Echo {
    mailbox: Rc<Mailbox>,
    letters: Option<Letters>,
    publisher: ServicePublisher,
    waiting: VecDeque<Answer>,
    congestion: Option<Congestion>,
    seen: Rc<Seen>,
    answer: MakeAnswer,
    letters_per_step: usize,
    _subscription: ServiceSubscription,
}

impl Echo {
    fn new(broker: &mut Broker, filter: &str, answer: MakeAnswer, seen: Rc<Seen>) -> Self {
        let mailbox = Rc::default();
        let interest = ServiceInterest::all(AccountId::GLOBAL, filter.as_bytes(), Reach::Server);
        let subscription = broker.subscribe_service(interest, &mailbox);
        Self {
            publisher: ServicePublisher::of(&mailbox),
            mailbox,
            letters: None,
            waiting: VecDeque::new(),
            congestion: None,
            seen,
            answer,
            letters_per_step: LETTERS_PER_STEP,
            _subscription: subscription,
        }
    }

    /// Publishes waiting messages. False = a receiver has no room.
    fn publish_waiting(&mut self, broker: &mut Broker) -> bool {
        while let Some(Answer { route, shown, payload }) = self.waiting.front() {
            let size = payload.len().to_string();
            let message = Message::without_headers(shown, b"", payload, size.as_bytes());
            let account = AccountId::GLOBAL;
            match broker.publish_service_as(&mut self.publisher, account, route, &message) {
                Published::Delivered => drop(self.waiting.pop_front()),
                Published::NoInterest => panic!("there are listeners"),
                Published::Congested(congestion) => {
                    self.seen.congested.set(self.seen.congested.get() + 1);
                    self.congestion = Some(congestion);
                    return false;
                }
                Published::ReadFirst => {
                    self.seen.read_first.set(self.seen.read_first.get() + 1);
                    return false;
                }
            }
        }
        true
    }
}

impl Service for Echo {
    fn is_ready(&self) -> bool {
        if let Some(congestion) = &self.congestion {
            return congestion.gate.value() >= congestion.until || self.mailbox.is_full();
        }
        let context = Context::from_waker(Waker::noop());
        self.letters.is_some() || self.mailbox.poll_ready(&context).is_ready()
    }

    fn step(&mut self, broker: &mut Broker) {
        self.congestion = None;
        let seen = self.seen.clone();
        seen.waiting_max.set(seen.waiting_max.get().max(self.mailbox.len()));
        seen.dropped.set(self.mailbox.dropped());
        if !self.publish_waiting(broker) && !self.mailbox.is_full() {
            return;
        }
        let mut some = match self.letters.take().or_else(|| self.mailbox.take()) {
            Some(some) => some,
            None => return,
        };
        for _ in 0..self.letters_per_step {
            let Some(letter) = some.next_letter() else {
                self.publish_waiting(broker);
                return;
            };
            seen.letters.set(seen.letters.get() + 1);
            self.waiting.extend((self.answer)(&letter.message));
        }
        self.letters = Some(some);
        self.publish_waiting(broker);
    }

    fn check_invariants(&self) {
        // Not in a release build.
        #[cfg(debug_assertions)]
        self.mailbox.check_invariants(self.letters.as_ref());
    }

    fn mailbox(&self) -> Option<&Mailbox> {
        Some(&self.mailbox)
    }
}

/// Watches subjects and queue groups at random, as often as it is asked to.
pub struct Observer {
    random: fastrand::Rng,
    watcher: Rc<Watcher>,
    watches: Vec<(u64, Watch)>,
    next_tag: u64,
    /// What it was told, by tag.
    told: HashMap<u64, bool>,
    /// How often it is to begin or to end a watch.
    asked: Rc<Cell<usize>>,
    subjects: &'static [&'static str],
    queues: &'static [&'static str],
}

/// Watches that an observer begins or ends when it is asked to.
const WATCHES_PER_STEP: usize = 6;

impl Observer {
    pub fn new(
        seed: u64,
        subjects: &'static [&'static str],
        queues: &'static [&'static str],
        asked: Rc<Cell<usize>>,
    ) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            watcher: Rc::default(),
            watches: Vec::new(),
            next_tag: 0,
            told: HashMap::new(),
            asked,
            subjects,
            queues,
        }
    }

    fn hear(&mut self) {
        while let Some((tag, is_wanted)) = self.watcher.take() {
            let before = self.told.insert(tag, is_wanted).unwrap_or_default();
            assert_ne!(before, is_wanted, "told twice");
        }
    }
}

impl Service for Observer {
    fn is_ready(&self) -> bool {
        let context = Context::from_waker(Waker::noop());
        self.asked.get() > 0 || self.watcher.poll_ready(&context).is_ready()
    }

    fn step(&mut self, broker: &mut Broker) {
        self.hear();
        let Some(left) = self.asked.get().checked_sub(1) else { return };
        self.asked.set(left);
        for _ in 0..self.random.usize(1..=WATCHES_PER_STEP) {
            if !self.watches.is_empty() && self.random.u32(..3) == 0 {
                let place = self.random.usize(..self.watches.len());
                drop(self.watches.swap_remove(place));
                continue;
            }
            let subject = self.subjects[self.random.usize(..self.subjects.len())].as_bytes();
            let queue = self.random.usize(..=self.queues.len());
            let queue = self.queues.get(queue).unwrap_or(&"").as_bytes();
            let tag = self.next_tag;
            self.next_tag += 1;
            let watch = broker.watch(AccountId::GLOBAL, subject, queue, tag, &self.watcher);
            self.watches.push((tag, watch));
        }
    }

    fn check_invariants(&self) {
        if self.watcher.poll_ready(&Context::from_waker(Waker::noop())).is_pending() {
            for (tag, watch) in &self.watches {
                let told = self.told.get(tag).copied().unwrap_or_default();
                assert_eq!(told, watch.is_wanted(), "a change that it was not told of");
            }
        }
    }
}

struct ServiceRun {
    shard_count: usize,
    turn_work_max: usize,
    per_publisher: usize,
    payload_size: usize,
    check_interval: u64,
}

fn play(seed: u64, run: &ServiceRun) -> [Rc<Seen>; 2] {
    const PUBLISHERS: usize = 4;
    let ServiceRun { shard_count, turn_work_max, per_publisher, payload_size, check_interval } =
        *run;
    let lanes = Lanes { note_slots: 64, message_slots: 4, returned_slots: 1 };
    let sizes = ShardSizes {
        shard_count,
        lanes,
        pending_bytes_max: 64 << 20,
        turn_work_max,
        lane_work_max: LANE_WORK_MAX,
        moves: false,
    };
    let mut world = World::new(seed, &sizes, None);
    world.check_interval = check_interval;
    let is_large = payload_size > 1_000;
    let letters_per_step = if is_large { LARGE_LETTERS_PER_STEP } else { LETTERS_PER_STEP };
    let (echo, chain) = (Rc::<Seen>::default(), Rc::<Seen>::default());
    let echo_of = |broker: &mut Broker, filter: &str, seen: &Rc<Seen>| {
        Box::new(Echo { letters_per_step, ..Echo::new(broker, filter, serve, seen.clone()) })
    };
    world.add_service(0, |broker| echo_of(broker, "serve.*", &echo));
    // It hears the other one, and on other shards its interest travels as a client's does.
    let last = shard_count - 1;
    world.add_service(last, |broker| echo_of(broker, "served.*", &chain));
    let listeners: Vec<usize> =
        (0..shard_count).map(|shard| client(&mut world, shard, "SUB served.* 1\r\n")).collect();
    rest(&mut world);
    let publishers: Vec<usize> =
        (0..PUBLISHERS).map(|each| client(&mut world, each % shard_count, "")).collect();
    world.whole_reads = true;
    for (number, publisher) in publishers.iter().enumerate() {
        let lines = (0..per_publisher)
            .map(|at| format!("PUB serve.{number} {payload_size}\r\n{at:0payload_size$}\r\n"));
        say(&mut world, *publisher, &lines.collect::<String>());
    }
    // At first the services' shards have little time.
    for _ in 0..20_000 {
        if world.random.u32(..50) == 0 {
            world.stall_shard(0, 100);
        }
        world.step();
    }
    world.hasten();
    world.hurried = true;
    rest(&mut world);
    for listener in listeners {
        let mut next = [0; PUBLISHERS];
        let mut ear = Ear::default();
        ear.hear(&world.take_outbound(listener, usize::MAX));
        while let Some(heard) = ear.next().expect("whole lines") {
            let Heard::Message { subject, payload, .. } = heard else { continue };
            let name = subject.strip_prefix("shown.").expect("what is shown");
            let number: usize = name.parse().expect("a publisher");
            let expected = format!("{:0payload_size$}", next[number]);
            assert!(payload == expected.as_bytes(), "{expected:.8} of {number} is missing");
            next[number] += 1;
        }
        assert_eq!(next, [per_publisher; PUBLISHERS], "seed {seed}: {:?}", world.stuck_readers());
    }
    let total = PUBLISHERS * per_publisher;
    assert_eq!((echo.letters.get(), chain.letters.get()), (total, total), "seed {seed}");
    assert_eq!((echo.dropped.get(), chain.dropped.get()), (0, 0), "seed {seed}");
    if shard_count == 1 {
        // Each publisher stops at the message that fills the mailbox, or finds it full.
        assert!(echo.waiting_max.get() <= LETTERS_MAX + PUBLISHERS, "{}", echo.waiting_max.get());
    }
    [echo, chain]
}

#[test]
fn nothing_is_lost_between_services_and_clients_that_do_not_keep_up() {
    let (mut full, mut congested) = (0, 0);
    for shard_count in 1..=3 {
        for seed in 0..6 {
            let run = ServiceRun {
                shard_count,
                turn_work_max: if seed % 2 == 0 { TURN_WORK_MAX } else { 64 },
                per_publisher: 2_500,
                payload_size: 4,
                // A look at thousands of messages takes long.
                check_interval: 211,
            };
            let seen = play(seed, &run);
            full += usize::from(seen[0].waiting_max.get() >= LETTERS_MAX);
            congested += usize::from(seen.iter().any(|seen| seen.congested.get() > 0));
        }
    }
    assert!(full > 2 && congested > 2, "{full} {congested}");
}

/// Large messages fill a mailbox by their bytes, and are so few that each step can be checked.
#[test]
fn large_messages_to_services_wait_by_their_bytes() {
    let mut congested = 0;
    for shard_count in 1..=3 {
        for seed in 0..2 {
            let run = ServiceRun {
                shard_count,
                turn_work_max: if seed % 2 == 0 { TURN_WORK_MAX } else { 64 },
                per_publisher: 60,
                payload_size: 60_000,
                check_interval: 1,
            };
            let seen = play(seed, &run);
            congested += usize::from(seen.iter().any(|seen| seen.congested.get() > 0));
        }
    }
    assert!(congested > 2, "{congested}");
}

/// Services that answer each other, and one that answers itself, with more than their mailboxes
/// hold: each waits for room in a mailbox that is not emptied while it waits.
#[test]
fn services_that_answer_each_other_or_themselves_do_not_wait_forever() {
    const MESSAGES: usize = 3 * LETTERS_MAX;
    for subjects in [&["ping", "pong"][..], &["loop"]] {
        let sizes = ShardSizes {
            shard_count: 1,
            lanes: Lanes { note_slots: 64, message_slots: 4, returned_slots: 1 },
            pending_bytes_max: 64 << 20,
            turn_work_max: TURN_WORK_MAX,
            lane_work_max: LANE_WORK_MAX,
            moves: false,
        };
        let mut world = World::new(7, &sizes, None);
        let seen: Vec<Rc<Seen>> = subjects.iter().map(|_| Rc::default()).collect();
        for (subject, seen) in subjects.iter().zip(&seen) {
            world.add_service(0, |broker| {
                Box::new(Echo::new(broker, subject, count_down, seen.clone()))
            });
        }
        world.check_interval = 211;
        world.whole_reads = true;
        for subject in subjects {
            let publisher = client(&mut world, 0, "");
            say(&mut world, publisher, &format!("PUB {subject} 1\r\n4\r\n").repeat(MESSAGES));
        }
        world.hasten();
        world.hurried = true;
        rest(&mut world);
        let heard: usize = seen.iter().map(|seen| seen.letters.get()).sum();
        assert_eq!(heard, subjects.len() * MESSAGES * 5, "{subjects:?}");
        assert!(seen.iter().all(|seen| seen.dropped.get() == 0), "{subjects:?}");
        assert!(seen.iter().any(|seen| seen.read_first.get() > 0), "no mailbox was full");
    }
}
