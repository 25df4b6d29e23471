//! Every interleaving of a few steps of two or three shards: the ring, the signals and the
//! doorbell's park protocol, and on top of them the mesh itself. `base::ring` and all of `mesh` are
//! compiled here a second time, over loom's atomics; broker and outbox are the library's. A shard
//! sleeps as `net::runtime::TurnHook` does. A lost wake-up leaves a thread asleep forever, which
//! loom reports as a deadlock. `cargo test --test loom [name]`; `LOOM_MAX_PREEMPTIONS=4` explores
//! more.

// The second copies are used in part.
#[allow(dead_code, unused_imports)]
#[path = "../src/mesh/mod.rs"]
mod mesh;
#[allow(dead_code, unused_imports)]
#[path = "../src/base/ring.rs"]
mod ring;
#[path = "loom/parts.rs"]
mod ring_parts;
#[path = "loom/shards.rs"]
mod shards;

// The paths under which the copies find the other modules.
use midge::testing::{auth, broker, config, protocol};
mod base {
    pub(crate) use crate::ring;
    pub use midge::testing::base::{gate, histogram, ids, limits, pool, turn_clock};
}

use std::panic::catch_unwind;
use std::process::Command;
use std::time::{Duration, Instant};

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use mesh::Lanes;
use ring::{ParkFlag, Signal, ring};
use shards::{Bell, Shard, shard_plans, start, start_both};

/// Preemptions per execution: each fault known so far needed one or two.
const PREEMPTIONS_MAX: usize = 3;
/// The same for models whose executions have many more steps.
const PREEMPTIONS_MAX_LONG: usize = 2;
const PREEMPTIONS_MAX_THREE_SHARDS: usize = 1;

fn check(preemptions_max: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions_max));
    builder.max_branches = 20_000;
    builder.check(model);
}

/// The park protocol alone: two sources, one sleeper, one bell.
fn no_wake_up_is_lost() {
    check(PREEMPTIONS_MAX, || {
        let (flag, bell) = (ParkFlag::default(), Arc::new(Bell::default()));
        let rings = Arc::new(AtomicUsize::new(0));
        let mut targets = Vec::new();
        for item in 0..2 {
            let (mut source, target) = ring(1);
            targets.push(target);
            let (flag, bell, rings) = (flag.clone(), bell.clone(), rings.clone());
            thread::spawn(move || {
                source.push(item).expect("an empty ring");
                if flag.must_wake() {
                    rings.fetch_add(1, Ordering::Relaxed);
                    bell.ring();
                }
            });
        }
        let (mut received, mut announcements) = (0, 0);
        while received < 2 {
            for target in &mut targets {
                received += usize::from(target.pop().is_some());
            }
            if received == 2 {
                break;
            }
            flag.announce();
            announcements += 1;
            if targets.iter().any(|target| !target.is_empty()) {
                flag.retract();
                continue;
            }
            bell.wait();
            flag.retract();
        }
        assert!(rings.load(Ordering::Relaxed) <= announcements, "two rings for one announcement");
    });
}

/// The catch-up rule alone: two shards raise a third's signal, and then a client of the first acts
/// on the third. What the first pushed before must have been taken by then, whichever shard raised
/// the signal last.
fn who_hears_of_a_push_takes_it() {
    check(PREEMPTIONS_MAX, || {
        let signal = Signal::default();
        let (mut first_notes, mut first_target) = ring(1);
        let (mut second_notes, mut second_target) = ring(1);
        let (mut client, mut bytes) = ring(1);
        let raised_by_first = signal.clone();
        thread::spawn(move || {
            first_notes.push("first").expect("an empty ring");
            raised_by_first.raise();
            client.push(()).expect("an empty ring");
        });
        let raised_by_second = signal.clone();
        thread::spawn(move || {
            second_notes.push("second").expect("an empty ring");
            raised_by_second.raise();
        });
        let mut known = Vec::new();
        let mut catch_up = |known: &mut Vec<&str>| {
            if signal.is_raised() {
                signal.take();
                known.extend(first_target.pop());
                known.extend(second_target.pop());
            }
        };
        catch_up(&mut known);
        if bytes.pop().is_some() {
            catch_up(&mut known);
            assert!(known.contains(&"first"), "a client overtook what it was told is done");
        }
    });
}

/// A shard that goes to sleep while a message comes wakes up for it.
fn a_message_wakes_the_shard_it_is_for() {
    check(PREEMPTIONS_MAX, || {
        let mut plans =
            shard_plans(2, Lanes { note_slots: 2, message_slots: 2, returned_slots: 1 });
        let (target, source) = (plans.pop().expect("two"), plans.pop().expect("two"));
        let sender = start(source, |shard| {
            shard.told("news", 0);
            assert!(shard.publish("news"));
            shard.end_turn();
        });
        let receiver = start(target, |shard| {
            shard.turn_until(|shard| shard.messages_in() == 1);
        });
        sender.join().expect("ends");
        receiver.join().expect("ends");
    });
}

/// A shard that asks and one that answers: interest is in its lane before the question is in the
/// other lane, and the shard that takes the question has applied the interest.
fn an_answer_finds_the_subscription_that_awaits_it() {
    check(PREEMPTIONS_MAX_LONG, || {
        let mut plans =
            shard_plans(2, Lanes { note_slots: 2, message_slots: 2, returned_slots: 1 });
        let (responder, asker) = (plans.pop().expect("two"), plans.pop().expect("two"));
        let asker = start(asker, |shard| {
            shard.told("question", 0);
            shard.client.subscribe("answer");
            assert!(shard.publish("question"));
            shard.turn_until(|shard| shard.client.heard() == 1);
        });
        let responder = start(responder, |shard| {
            shard.turn_until(|shard| shard.messages_in() == 1);
            assert!(shard.publish("answer"), "the answer finds nobody");
            shard.end_turn();
        });
        asker.join().expect("ends");
        responder.join().expect("ends");
    });
}

/// The same with a third shard: interest goes to it directly, the question by way of the second.
fn an_answer_from_a_third_shard_finds_the_subscription() {
    check(PREEMPTIONS_MAX_THREE_SHARDS, || {
        let mut plans =
            shard_plans(3, Lanes { note_slots: 4, message_slots: 2, returned_slots: 1 });
        let responder = plans.pop().expect("three");
        let (relay, asker) = (plans.pop().expect("three"), plans.pop().expect("three"));
        let asker = start(asker, |shard| {
            shard.told("question", 0);
            shard.client.subscribe("answer");
            assert!(shard.publish("question"));
            shard.end_turn();
        });
        let relay = start(relay, |shard| {
            shard.told("handed.on", 1);
            // Its own interest raises the responder's signal too.
            shard.client.subscribe("question");
            shard.turn_until(|shard| shard.messages_in() == 1);
            assert!(shard.publish("handed.on"));
            shard.end_turn();
        });
        let responder = start(responder, |shard| {
            shard.turn_until(|shard| shard.messages_in() == 1);
            assert!(shard.publish("answer"), "the answer finds nobody");
        });
        for shard in [asker, relay, responder] {
            shard.join().expect("ends");
        }
    });
}

fn publish_news(shard: &Shard) {
    shard.told("news", 0);
    shard.told("news", 1);
    assert!(shard.publish("news"));
    shard.end_turn();
}

fn react_to_news(shard: &Shard) {
    shard.told("reaction", 1);
    shard.be_roused();
    shard.turn_until(|shard| shard.messages_in() == 1);
    assert!(shard.publish("reaction"));
    shard.end_turn();
}

fn hear_news_first(shard: &Shard) {
    shard.client.subscribe("*");
    shard.turn_until(|shard| shard.client.heard() == 2);
    assert!(shard.client.take_queued().starts_with("MSG news "), "the reaction came first");
}

/// A reaction to a message on a second shard is not delivered before that message on a third,
/// although the message comes there over another lane.
fn a_reaction_is_not_heard_before_what_it_is_about() {
    check(PREEMPTIONS_MAX_THREE_SHARDS, || {
        let mut plans =
            shard_plans(3, Lanes { note_slots: 4, message_slots: 2, returned_slots: 1 });
        let listener = plans.pop().expect("three");
        let (reacting, source) = (plans.pop().expect("three"), plans.pop().expect("three"));
        let source = start(source, publish_news);
        let reacting = start(reacting, react_to_news);
        let listener = start(listener, hear_news_first);
        for shard in [source, reacting, listener] {
            shard.join().expect("ends");
        }
    });
}

/// The same with the second and the third shard on one thread, so that more interleavings with the
/// source are explored: this finds a shard that takes a message which is not in all of its lanes
/// yet.
fn a_reaction_to_what_is_not_everywhere_yet_is_not_heard_before_it() {
    check(PREEMPTIONS_MAX_LONG, || {
        let mut plans =
            shard_plans(3, Lanes { note_slots: 4, message_slots: 2, returned_slots: 1 });
        let listener = plans.pop().expect("three");
        let (reacting, source) = (plans.pop().expect("three"), plans.pop().expect("three"));
        let source = start(source, publish_news);
        let others = start_both([reacting, listener], |[reacting, listener]| {
            react_to_news(reacting);
            hear_news_first(listener);
        });
        source.join().expect("ends");
        others.join().expect("ends");
    });
}

/// An interest lane of one slot: a session that waits for room gets it, although notes wake nobody.
fn a_full_interest_lane_lets_the_session_go_on() {
    check(PREEMPTIONS_MAX, || {
        let mut plans =
            shard_plans(2, Lanes { note_slots: 1, message_slots: 1, returned_slots: 1 });
        let (target, source) = (plans.pop().expect("two"), plans.pop().expect("two"));
        let source = start(source, |shard| {
            shard.client.subscribe("first");
            if let Some(congestion) = shard.interest_congestion() {
                shard.turn_until(|_| congestion.gate.value() >= congestion.until);
            }
            shard.client.subscribe("second");
            shard.end_turn();
        });
        let target = start(target, |shard| shard.turn_until(|shard| shard.interest_known() >= 1));
        source.join().expect("ends");
        target.join().expect("ends");
    });
}

/// A message lane of one slot: messages without room are staged, and pushed once there is room.
fn a_full_message_lane_is_emptied_and_filled() {
    check(PREEMPTIONS_MAX_LONG, || {
        let mut plans =
            shard_plans(2, Lanes { note_slots: 2, message_slots: 1, returned_slots: 1 });
        let (target, source) = (plans.pop().expect("two"), plans.pop().expect("two"));
        let source = start(source, |shard| {
            shard.told("news", 0);
            for _ in 0..2 {
                assert!(shard.publish("news"));
                shard.end_turn();
            }
            shard.turn_until(|shard| shard.batches_out() == 2);
        });
        let target = start(target, |shard| {
            shard.turn_until(|shard| shard.messages_in() == 2);
        });
        source.join().expect("ends");
        target.join().expect("ends");
    });
}

/// A sleeper that does not look again after its announcement.
fn planted_sleep_without_a_second_look() {
    check(PREEMPTIONS_MAX, || {
        let (flag, bell) = (ParkFlag::default(), Arc::new(Bell::default()));
        let (mut source, mut target) = ring(1);
        let (waker, bell_of_waker) = (flag.clone(), bell.clone());
        thread::spawn(move || {
            source.push(1).expect("an empty ring");
            if waker.must_wake() {
                bell_of_waker.ring();
            }
        });
        while target.pop().is_none() {
            flag.announce();
            bell.wait();
        }
    });
}

/// Loom finds the wake-up that the planted bug loses. In a process of its own: a deadlock in a
/// model ends in a panic while unwinding.
fn canary_a_lost_wake_up_is_caught() {
    let program = std::env::current_exe().expect("a test knows its file");
    let output = Command::new(program).arg(PLANTED).output().expect("runs itself");
    assert!(!output.status.success(), "the planted bug went unseen");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("deadlock"), "{said}");
}

const PLANTED: &str = "planted_sleep_without_a_second_look";

const MODELS: [(&str, fn()); 10] = [
    ("no_wake_up_is_lost", no_wake_up_is_lost),
    ("who_hears_of_a_push_takes_it", who_hears_of_a_push_takes_it),
    ("a_message_wakes_the_shard_it_is_for", a_message_wakes_the_shard_it_is_for),
    (
        "an_answer_finds_the_subscription_that_awaits_it",
        an_answer_finds_the_subscription_that_awaits_it,
    ),
    (
        "an_answer_from_a_third_shard_finds_the_subscription",
        an_answer_from_a_third_shard_finds_the_subscription,
    ),
    (
        "a_reaction_is_not_heard_before_what_it_is_about",
        a_reaction_is_not_heard_before_what_it_is_about,
    ),
    (
        "a_reaction_to_what_is_not_everywhere_yet_is_not_heard_before_it",
        a_reaction_to_what_is_not_everywhere_yet_is_not_heard_before_it,
    ),
    ("a_full_interest_lane_lets_the_session_go_on", a_full_interest_lane_lets_the_session_go_on),
    ("a_full_message_lane_is_emptied_and_filled", a_full_message_lane_is_emptied_and_filled),
    ("canary_a_lost_wake_up_is_caught", canary_a_lost_wake_up_is_caught),
];

/// Like the test harness: names given as arguments choose models, options are for other test files.
fn main() {
    let names: Vec<String> =
        std::env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    if names == [PLANTED] {
        planted_sleep_without_a_second_look();
        return;
    }
    let chosen = |model: &str| names.is_empty() || names.iter().any(|name| model.contains(&**name));
    let mut failed = 0;
    for (name, model) in MODELS.into_iter().filter(|(name, _)| chosen(name)) {
        let started = Instant::now();
        let passed = catch_unwind(model).is_ok();
        failed += u32::from(!passed);
        let took = started.elapsed().max(Duration::from_millis(1));
        println!("model {name} ... {} ({took:.1?})", if passed { "ok" } else { "FAILED" });
    }
    if failed > 0 {
        eprintln!("{failed} models failed: cargo test --test loom [name]");
        std::process::exit(1);
    }
}
