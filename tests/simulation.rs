//! The broker core under a deterministic scheduler: 1 to 5 shards with real sessions and real
//! lanes, without sockets and threads, compared with a flat list of subscriptions. Two of three
//! clients speak WebSocket.
//!
//! `cargo test --test simulation` runs 200 seeds. `MIDGE_SIM_SEEDS=10000` runs that many,
//! `MIDGE_SIM_SEED=17` a single one, `MIDGE_SIM_MOVES=0` without clients that move to other shards.
//! `-- --nocapture forwards` prints the cost of a publish on 2 to
//! 64 shards.

#[path = "simulation/accounts.rs"]
mod accounts;
#[path = "simulation/clients.rs"]
mod clients;
#[path = "simulation/ear.rs"]
mod ear;
#[path = "simulation/fairness.rs"]
mod fairness;
#[path = "simulation/laws.rs"]
mod laws;
#[path = "simulation/services.rs"]
mod services;
#[path = "simulation/visitors.rs"]
mod visitors;
#[path = "simulation/wire.rs"]
mod wire;
#[path = "simulation/world.rs"]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use clients::{Moves, Run};
use ear::{Ear, Heard};
use midge::testing::base::limits::{LANE_WORK_MAX, TURN_WORK_MAX};
use midge::testing::mesh::Lanes;
use world::{Plant, ShardSizes, Totals, World};

const SEEDS: u64 = 200;

#[derive(Debug)]
struct Outcome {
    totals: Totals,
    trace: u64,
    deliveries: usize,
    messages: usize,
    moves: usize,
    handovers: usize,
}

fn run(seed: u64, plant: Option<Plant>) -> Result<Outcome, String> {
    play(seed, plant, Moves::Asked)
}

fn play(seed: u64, plant: Option<Plant>, moves: Moves) -> Result<Outcome, String> {
    let attempt = catch_unwind(AssertUnwindSafe(|| {
        let moves = if number("MIDGE_SIM_MOVES") == Some(0) { Moves::None } else { moves };
        let mut run = Run::new(seed, plant, moves);
        let totals = run.go()?;
        let (deliveries, messages) = (run.laws.deliveries(), run.laws.messages.len());
        let (moves, handovers) = (run.world.moves, run.world.handovers);
        Ok(Outcome { totals, trace: run.world.trace, deliveries, messages, moves, handovers })
    }));
    attempt.unwrap_or_else(|_| Err("a panic, shown above".into()))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn the_laws_hold_for_every_seed() {
    let seeds = match number("MIDGE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MIDGE_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let count = seeds.end - seeds.start;
    let mut sum = Totals::default();
    let (mut deliveries, mut moves, mut handovers) = (0, 0, 0);
    for seed in seeds {
        match run(seed, None) {
            Ok(outcome) => {
                deliveries += outcome.deliveries;
                moves += outcome.moves;
                handovers += outcome.handovers;
                sum.forwarded += outcome.totals.forwarded;
                sum.stalls += outcome.totals.stalls;
                sum.wakes += outcome.totals.wakes;
            }
            Err(reason) => {
                panic!("MIDGE_SIM_SEED={seed} cargo test --test simulation every_seed: {reason}")
            }
        }
    }
    println!(
        "{count} seeds: {deliveries} deliveries, {moves} moves, {handovers} with subscriptions, {sum:?}"
    );
    if count >= SEEDS {
        // The runs must not be so tame that they prove nothing.
        assert!(deliveries > 100_000, "{deliveries} deliveries");
        assert!(sum.stalls > 1_000, "{sum:?}");
        let moves_off = number("MIDGE_SIM_MOVES") == Some(0);
        assert!(
            moves_off || moves > 500 && handovers > 200,
            "{moves} moves, {handovers} handovers"
        );
        assert!(sum.wakes > 1_000, "{sum:?}");
    }
}

#[test]
fn the_laws_hold_for_clients_that_go_to_another_shard_before_they_subscribe_or_publish() {
    let seeds = match number("MIDGE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MIDGE_SIM_SEEDS").unwrap_or(SEEDS / 2),
    };
    let count = seeds.end - seeds.start;
    let (mut deliveries, mut moves) = (0, 0);
    for seed in seeds {
        match play(seed, None, Moves::Placed) {
            Ok(outcome) => {
                deliveries += outcome.deliveries;
                moves += outcome.moves;
            }
            Err(reason) => {
                panic!("MIDGE_SIM_SEED={seed} cargo test --test simulation laws_hold: {reason}")
            }
        }
    }
    println!("{count} seeds: {deliveries} deliveries, {moves} moves");
    if count >= SEEDS / 2 {
        assert!(deliveries > 50_000 && moves > 500, "{deliveries} deliveries, {moves} moves");
    }
}

/// Over random exports, imports and permissions, with reloads meanwhile.
#[test]
fn no_message_reaches_an_account_that_may_not_have_it() {
    let seeds = match number("MIDGE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MIDGE_SIM_SEEDS").unwrap_or(SEEDS / 4),
    };
    let count = seeds.end - seeds.start;
    let mut sum = accounts::AccountsOutcome::default();
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| accounts::play(seed))) {
            Ok(Ok(outcome)) => {
                sum.imports += outcome.imports;
                sum.crossed += outcome.crossed;
                sum.answers += outcome.answers;
                sum.fakes += outcome.fakes;
                sum.traced += outcome.traced;
                sum.receivers += outcome.receivers;
            }
            Ok(Err(reason)) => {
                panic!("MIDGE_SIM_SEED={seed} cargo test --test simulation no_message: {reason}")
            }
            Err(_) => {
                panic!("MIDGE_SIM_SEED={seed} cargo test --test simulation no_message: a panic")
            }
        }
    }
    println!("{count} seeds: {sum:?}");
    if count >= SEEDS / 4 {
        assert!(sum.imports > 400 && sum.crossed > 250, "{sum:?}");
        assert!(sum.answers > 60 && sum.fakes > 1_000, "{sum:?}");
        assert!(sum.traced > 500 && sum.receivers > 500, "{sum:?}");
    }
}

#[test]
fn a_seed_runs_the_same_way_twice() {
    for seed in 0..20 {
        let first = run(seed, None).map(|outcome| (outcome.trace, outcome.messages));
        let second = run(seed, None).map(|outcome| (outcome.trace, outcome.messages));
        assert_eq!(first, second, "seed {seed}");
    }
}

#[test]
fn canary_planted_bugs_are_caught() {
    for plant in [
        Plant::InterestNotApplied,
        Plant::ChunkLost,
        Plant::ChunkRepeated,
        Plant::BellLost,
        Plant::CloseForgotten,
        Plant::ClockStandsStill,
    ] {
        let caught =
            (0..SEEDS).find_map(|seed| run(seed, Some(plant)).err().map(|why| (seed, why)));
        let (seed, why) = caught.unwrap_or_else(|| panic!("{plant:?} went unseen"));
        println!("{plant:?}: seed {seed}: {why}");
    }
}

/// Runs until nothing moves.
fn rest(world: &mut World) {
    while world.step_all() {}
}

fn say(world: &mut World, connection: usize, text: &str) {
    world.arrive(connection, text.bytes());
}

/// Adds a client of `shard` that has sent `text`.
fn client(world: &mut World, shard: usize, text: &str) -> usize {
    let connection = world.connect(shard, usize::MAX);
    say(world, connection, "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n");
    say(world, connection, text);
    connection
}

fn messages_heard(world: &mut World, connection: usize) -> usize {
    let mut ear = Ear::default();
    ear.hear(&world.take_outbound(connection, usize::MAX));
    let all = std::iter::from_fn(|| ear.next().expect("whole lines"));
    all.filter(|heard| matches!(heard, Heard::Message { .. })).count()
}

fn sizes(shard_count: usize) -> ShardSizes {
    let lanes = Lanes { note_slots: 64, message_slots: 8, returned_slots: 1 };
    ShardSizes {
        shard_count,
        lanes,
        pending_bytes_max: 64 << 20,
        turn_work_max: TURN_WORK_MAX,
        lane_work_max: LANE_WORK_MAX,
        moves: false,
    }
}

#[test]
fn every_member_of_a_queue_group_is_equally_likely_wherever_it_lives() {
    const PER_PUBLISHER: usize = 3_000;
    let mut world = World::new(number("MIDGE_SIM_SEED").unwrap_or(1), &sizes(3), None);
    // Unequal shards, and two filters that reach the same group.
    let homes = [0, 0, 0, 0, 1, 2, 2];
    let members: Vec<usize> = homes
        .iter()
        .enumerate()
        .map(|(index, shard)| {
            let filter = if index % 2 == 0 { "work" } else { "*" };
            client(&mut world, *shard, &format!("SUB {filter} crew 1\r\n"))
        })
        .collect();
    rest(&mut world);
    for shard in 0..3 {
        client(&mut world, shard, &"PUB work 2\r\nhi\r\n".repeat(PER_PUBLISHER));
    }
    rest(&mut world);
    let heard: Vec<usize> =
        members.iter().map(|member| messages_heard(&mut world, *member)).collect();
    let total = 3 * PER_PUBLISHER;
    assert_eq!(heard.iter().sum::<usize>(), total, "exactly one member each: {heard:?}");
    // 9000 picks among 7: the standard deviation of a share is about 33.
    let fair = total / members.len();
    let fair = fair - 170..fair + 170;
    assert!(heard.iter().all(|count| fair.contains(count)), "{heard:?}");
}

/// Back-pressure counts what is in flight between shards: a consumer that reads what it is sent is
/// not closed, whatever shard its publisher is on and however small its limit, even if its own
/// shard is sometimes busy.
#[test]
fn a_consumer_that_reads_is_not_closed_for_what_was_in_flight() {
    const MESSAGES: usize = 20_000;
    const READ_BYTES: usize = 256 << 10;
    let message = format!("PUB a 1000\r\n{}\r\n", "x".repeat(1000));
    for (shard_count, publishers, pending_bytes_max) in
        [(2, 1, 1_500_000), (2, 3, 1_500_000), (4, 3, 3 << 20), (3, 2, 8 << 20)]
    {
        let sizes =
            ShardSizes { lanes: Lanes::of(shard_count), pending_bytes_max, ..sizes(shard_count) };
        let mut world = World::new(number("MIDGE_SIM_SEED").unwrap_or(1), &sizes, None);
        let consumer = client(&mut world, 0, "SUB a 1\r\n");
        rest(&mut world);
        let publishers: Vec<usize> = (0..publishers)
            .map(|each| client(&mut world, 1 + each % (shard_count - 1), ""))
            .collect();
        world.whole_reads = true;
        let (mut left, mut heard, mut ear) = (MESSAGES, 0, Ear::default());
        while heard < MESSAGES {
            for publisher in &publishers {
                if world.unread(*publisher) == 0 && left > 0 {
                    let count = left.min(READ_BYTES / message.len());
                    say(&mut world, *publisher, &message.repeat(count));
                    left -= count;
                }
            }
            if world.random.u32(..1000) == 0 {
                world.stall_shard(0, 500);
            }
            world.step();
            ear.hear(&world.take_outbound(consumer, usize::MAX));
            let new = std::iter::from_fn(|| ear.next().expect("lines"));
            heard += new.filter(|heard| matches!(heard, Heard::Message { .. })).count();
            assert_eq!(
                world.close_reason(consumer),
                None,
                "{shard_count} shards, {pending_bytes_max} bytes, after {heard} messages"
            );
        }
    }
}

/// Publishes `count` messages in reads of `batch` messages each and returns their cost.
fn cost(shards: usize, subscribed: usize, count: usize, batch: usize) -> Totals {
    let mut world = World::new(7, &sizes(shards), None);
    let publisher = client(&mut world, 0, "");
    let subscribers: Vec<usize> =
        (1..=subscribed).map(|shard| client(&mut world, shard, "SUB a.* 1\r\n")).collect();
    rest(&mut world);
    world.tick();
    rest(&mut world);
    let before = world.totals();
    for _ in 0..count / batch {
        world.whole_reads = true;
        say(&mut world, publisher, &"PUB a.b 2\r\nhi\r\n".repeat(batch));
        rest(&mut world);
    }
    for subscriber in subscribers {
        assert_eq!(messages_heard(&mut world, subscriber), count);
    }
    let after = world.totals();
    Totals {
        forwarded: after.forwarded - before.forwarded,
        batches_out: after.batches_out - before.batches_out,
        wakes: after.wakes - before.wakes,
        messages_in: after.messages_in - before.messages_in,
        ..Totals::default()
    }
}

/// Scaling with shards: a publish costs one copy per shard that has subscribers, however many
/// shards there are, and a read of many messages costs one batch and at most one wake-up per such
/// shard.
#[test]
fn forwards_are_at_most_one_per_link_and_message() {
    const COUNT: usize = 256;
    println!("per publish, one subscriber on each of k shards, publisher on another:");
    println!(
        "{:>6} {:>4} {:>9} {:>10} {:>8} {:>8}",
        "shards", "k", "per read", "forwarded", "batches", "wakes"
    );
    for shards in [2usize, 8, 16, 64] {
        let mut steps = vec![0, 1, 2, 4, 8, 16, 32, 63];
        steps.push(shards - 1);
        steps.retain(|subscribed| *subscribed < shards);
        steps.sort_unstable();
        steps.dedup();
        for subscribed in steps {
            for batch in [1, 64] {
                let totals = cost(shards, subscribed, COUNT, batch);
                let reads = COUNT / batch;
                let per = |count: u64| count as f64 / COUNT as f64;
                println!(
                    "{shards:>6} {subscribed:>4} {batch:>9} {:>10.3} {:>8.3} {:>8.3}",
                    per(totals.forwarded),
                    per(totals.batches_out),
                    per(totals.wakes)
                );
                assert_eq!(totals.forwarded, (COUNT * subscribed) as u64);
                assert_eq!(totals.messages_in, totals.forwarded);
                assert_eq!(totals.batches_out, (reads * subscribed) as u64);
                assert!(totals.wakes <= totals.batches_out, "{totals:?}");
            }
        }
    }
}
