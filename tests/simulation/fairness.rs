//! A client that floods the server gets a slice of each turn and no more: everybody else is
//! answered within a few turns, whatever the flood consists of and on however many shards it is.
//! Counted in turns, in work and in bytes, never timed.

use midge::testing::base::limits::{
    CONNECT_WORK, HEADER_BYTES_PER_UNIT, REFUSAL_WORK, SUBSCRIPTION_WORK, WHOLE_WORK_SHARE,
};
use midge::testing::mesh::Lanes;

use super::{ShardSizes, World, client, rest, say};
use crate::ear::{Ear, Heard};

/// Work of one turn: a tenth of a real one, so that the test is quick.
const TURN_WORK: usize = 1_600;

/// The most work of one slice: its last step may begin a whole message or a subscription.
const SLICE_WORK_MAX: usize = TURN_WORK + TURN_WORK / WHOLE_WORK_SHARE + SUBSCRIPTION_WORK;

/// Least number of bytes of a flooding client that wait at the server whenever a turn begins: more
/// than one turn takes.
const FLOOD_BYTES: usize = 64 << 10;

const PROBES: usize = 8;

/// Turns of each shard within which a client that does little must be answered. Each of its SUB,
/// PUB and UNSUB may wait for room in a lane: a turn until there is some, and one until the client
/// is told; messages from others come in another's turn.
const TURNS_MAX: usize = 7;

#[derive(Clone, Copy, Debug)]
enum Flood {
    /// Messages that nobody wants.
    Publisher,
    /// Messages to a thousand subscriptions of the same client, which reads what it gets.
    FanOut,
    /// Messages that fill the lanes to another shard.
    Lanes,
    /// Messages for a client that reads nothing.
    SlowConsumer,
    /// Subscriptions that come and go, all of them different.
    Subscriptions,
    /// Requests that nobody answers.
    Requests,
    /// PINGs whose PONGs are read.
    Pings,
    /// The same publisher on forty connections.
    Connections,
}

const FLOODS: [Flood; 8] = [
    Flood::Publisher,
    Flood::FanOut,
    Flood::Lanes,
    Flood::SlowConsumer,
    Flood::Subscriptions,
    Flood::Requests,
    Flood::Pings,
    Flood::Connections,
];

impl Flood {
    fn connections(self) -> usize {
        match self {
            Self::Connections => 40,
            _ => 2,
        }
    }

    /// Returns what a flooding client sends before it floods.
    fn opening(self) -> String {
        match self {
            Self::FanOut => (0..1000).map(|sid| format!("SUB flood {sid}\r\n")).collect(),
            Self::Requests => {
                "CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\n\
                 SUB inbox 1\r\n"
                    .into()
            }
            _ => String::new(),
        }
    }

    /// Returns a piece of what it sends without end; `number` counts up.
    fn piece(self, number: &mut usize) -> String {
        match self {
            Self::Publisher | Self::Connections => "PUB nobody 2\r\nhi\r\n".repeat(500),
            Self::FanOut => "PUB flood 2\r\nhi\r\n".repeat(500),
            Self::Lanes => format!("PUB far 8000\r\n{}\r\n", "x".repeat(8000)).repeat(10),
            Self::SlowConsumer => format!("PUB stuck 800\r\n{}\r\n", "x".repeat(800)).repeat(100),
            Self::Requests => "PUB nobody inbox 2\r\nhi\r\n".repeat(500),
            Self::Pings => "PING\r\n".repeat(1000),
            Self::Subscriptions => (0..200)
                .map(|_| {
                    *number += 1;
                    format!("SUB s.{number} {number}\r\nUNSUB {number}\r\n")
                })
                .collect(),
        }
    }
}

/// A server under a flood.
struct Flooded {
    world: World,
    flooders: Vec<usize>,
    numbers: Vec<usize>,
    flood: Flood,
}

impl Flooded {
    /// Starts a world with flooding clients on the first `flooded_count` shards.
    fn new(flood: Flood, shard_count: usize, flooded_count: usize) -> Self {
        let sizes = ShardSizes {
            shard_count,
            lanes: Lanes { note_slots: 64, message_slots: 8, returned_slots: 1 },
            pending_bytes_max: 4 << 20,
            turn_work_max: TURN_WORK,
            lane_work_max: 4 * TURN_WORK,
            moves: false,
        };
        let mut world = World::new(1, &sizes, None);
        world.whole_reads = true;
        let flooders: Vec<usize> = (0..flood.connections())
            .map(|each| client(&mut world, each % flooded_count, &flood.opening()))
            .collect();
        client(&mut world, shard_count - 1, "SUB far 1\r\n");
        let stuck = world.connect(shard_count - 1, 1000);
        say(&mut world, stuck, "CONNECT {\"verbose\":false}\r\nSUB stuck 1\r\n");
        rest(&mut world);
        let numbers = vec![0; flooders.len()];
        Self { world, flooders, numbers, flood }
    }

    /// Takes one turn of each shard; every flooding client has more to send than one turn takes.
    fn turn(&mut self) {
        for (flooder, number) in self.flooders.iter().zip(&mut self.numbers) {
            while self.world.unhandled(*flooder) < FLOOD_BYTES {
                let piece = self.flood.piece(number);
                say(&mut self.world, *flooder, &piece);
            }
        }
        for shard in 0..self.world.shard_count() {
            self.world.turn(shard);
        }
        for flooder in &self.flooders {
            self.world.take_outbound(*flooder, usize::MAX);
        }
    }
}

fn heard(world: &mut World, connection: usize, ear: &mut Ear) -> Vec<Heard> {
    ear.hear(&world.take_outbound(connection, usize::MAX));
    std::iter::from_fn(|| ear.next().expect("whole lines")).collect()
}

#[test]
fn who_floods_does_not_keep_another_from_being_served() {
    for flood in FLOODS {
        for shard_count in [1, 2, 3] {
            let mut flooded = Flooded::new(flood, shard_count, shard_count);
            // They come after the flooding clients in every turn.
            let quiet = client(&mut flooded.world, 0, "");
            let partner = client(&mut flooded.world, shard_count - 1, "SUB probe.> 1\r\n");
            let (mut ear, mut partner_ear) = (Ear::default(), Ear::default());
            rest(&mut flooded.world);
            (0..20).for_each(|_| flooded.turn());
            heard(&mut flooded.world, quiet, &mut ear);
            let mut worst = 0;
            for probe in 0..PROBES {
                // At various points of the flood.
                (0..probe % 4).for_each(|_| flooded.turn());
                let text = format!(
                    "SUB probe.{probe} {probe}\r\nPUB probe.{probe} 2\r\nhi\r\nUNSUB {probe}\r\nPING\r\n"
                );
                say(&mut flooded.world, quiet, &text);
                let (mut own, mut pong, mut other, mut turns) = (false, false, false, 0);
                while !(own && pong && other) {
                    flooded.turn();
                    turns += 1;
                    for heard in heard(&mut flooded.world, quiet, &mut ear) {
                        own |= matches!(heard, Heard::Message { .. });
                        pong |= matches!(heard, Heard::Pong);
                    }
                    let told = heard(&mut flooded.world, partner, &mut partner_ear);
                    other |= told.iter().any(|heard| matches!(heard, Heard::Message { .. }));
                    assert!(
                        turns <= TURNS_MAX,
                        "{flood:?} on {shard_count} shards, probe {probe}: own message {own}, \
                         PONG {pong}, partner {other}"
                    );
                }
                worst = worst.max(turns);
            }
            let work = flooded.world.totals().turn_work_max;
            println!("{flood:?} on {shard_count} shards: {worst} turns, {work} work in one slice");
            assert!(work <= SLICE_WORK_MAX, "{flood:?} on {shard_count} shards: {work}");
        }
    }
}

/// A command that takes longer than its few bytes suggest counts as what it takes.
#[test]
fn of_commands_that_take_longer_a_turn_handles_fewer() {
    let headers = format!("NATS/1.0\r\n{}\r\n", "a:b\r\n".repeat(1_000));
    let size = headers.len();
    for (command, work) in [
        ("CONNECT {\"verbose\":false}\r\n".to_owned(), CONNECT_WORK),
        ("PUB refused _R_.1 2\r\nhi\r\n".to_owned(), REFUSAL_WORK),
        ("SUB refused..filter 1\r\n".to_owned(), SUBSCRIPTION_WORK + REFUSAL_WORK),
        (format!("HPUB nobody {size} {size}\r\n{headers}\r\n"), size / HEADER_BYTES_PER_UNIT),
    ] {
        let mut flooded = Flooded::new(Flood::Pings, 1, 1);
        let opening = "CONNECT {\"verbose\":false,\"headers\":true}\r\n";
        let busy = client(&mut flooded.world, 0, opening);
        rest(&mut flooded.world);
        say(&mut flooded.world, busy, &command.repeat((256 << 10) / command.len()));
        let before = flooded.world.handled(busy);
        flooded.world.turn(0);
        let handled = (flooded.world.handled(busy) - before) / command.len();
        assert!(handled > 0 && handled <= TURN_WORK / work + 1, "{handled} of {command:.40}");
    }
}

/// Clients that flood alike make equal progress.
#[test]
fn clients_that_flood_get_equal_shares() {
    const TURNS: usize = 40;
    for flood in FLOODS {
        for shard_count in [1, 2] {
            let mut flooded = Flooded::new(flood, shard_count, 1);
            (0..TURNS).for_each(|_| flooded.turn());
            let handled = flooded.flooders.iter().map(|each| flooded.world.handled(*each));
            let handled: Vec<usize> = handled.collect();
            let (least, most) = (handled.iter().min(), handled.iter().max());
            let (Some(least), Some(most)) = (least, most) else { panic!("nobody floods") };
            println!("{flood:?} on {shard_count} shards: {least} to {most} bytes");
            assert!(*most > 0 && *least * 3 > *most * 2, "{flood:?}: {least} to {most} bytes");
        }
    }
}

/// Subscriptions of a client that has left continue to be removed while others flood: otherwise its
/// shard would accumulate them without bound.
#[test]
fn what_a_client_left_behind_goes_while_others_flood() {
    const COUNT: usize = 1_000;
    for shard_count in [1, 2, 3] {
        let mut flooded = Flooded::new(Flood::Subscriptions, shard_count, shard_count);
        let text: String = (0..COUNT).map(|sid| format!("SUB left.{sid} {sid}\r\n")).collect();
        let leaver = client(&mut flooded.world, 0, &text);
        rest(&mut flooded.world);
        (0..20).for_each(|_| flooded.turn());
        let before = flooded.world.totals().interest_left;
        flooded.world.tear(leaver);
        let mut turns = 0;
        while flooded.world.totals().interest_left + COUNT > before {
            flooded.turn();
            turns += 1;
            assert!(
                turns < COUNT,
                "{shard_count} shards: {} of {before} are left",
                flooded.world.totals().interest_left
            );
        }
        println!("{shard_count} shards: gone after {turns} turns");
    }
}
