//! Chooses the shard that serves a connection, once: at its first subscription or message.
//!
//! One shard as long as one is enough: a publisher goes to the shard that alone wants its first
//! message, so that nothing has to cross; everybody else goes where others already are, as long as
//! there is room. Shards that are not needed are not woken. The choice is pure: loads in, a shard
//! out.

use std::cell::Cell;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::base::counters::ShardLoads;
use crate::base::ids::ShardId;
use crate::base::limits::{PLACING_BUSY_MAX, PLACING_CONNECTIONS_AHEAD_MAX};
use crate::broker::link::shard_behind;
use crate::broker::wanted_by::WantedBy;
use crate::client::context::Placer;

/// The load of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Load {
    pub connections: usize,
    /// Thousandths of the last second during which its thread ran.
    pub busy: usize,
    /// True if it already listens for connections.
    pub is_awake: bool,
}

/// The shards that want a connection's first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// One shard alone.
    Only(ShardId),
    /// None or several, or there is no message.
    Anywhere,
}

/// Chooses a shard for a connection that was accepted on `own` and is counted there. `loads` are in
/// the order of shards.
fn place(own: ShardId, wanted: Wanted, loads: &[Load]) -> ShardId {
    if let Wanted::Only(shard) = wanted {
        return shard;
    }
    // The connection itself does not count, as it moves with the choice.
    let connections = |index: usize| loads[index].connections - usize::from(index == own.index());
    let fewest = (0..loads.len()).map(connections).min().expect("there is a shard");
    let has_room = |index: &usize| {
        let load = &loads[*index];
        let is_ahead = connections(*index) >= fewest + PLACING_CONNECTIONS_AHEAD_MAX;
        load.is_awake && load.busy < PLACING_BUSY_MAX && !is_ahead
    };
    let least = || (0..loads.len()).min_by_key(|&index| (connections(index), index != own.index()));
    let chosen = (0..loads.len()).find(has_room).or_else(least).expect("there is a shard");
    ShardId(u16::try_from(chosen).expect("few shards"))
}

/// Returns the current loads.
fn loads_now(loads: &ShardLoads) -> Vec<Load> {
    (0..loads.count())
        .map(|index| {
            let shard = ShardId(u16::try_from(index).expect("few shards"));
            Load {
                connections: loads.of(shard).value(),
                busy: loads.busy(shard),
                is_awake: loads.is_awake(shard),
            }
        })
        .collect()
}

/// Returns the chooser for clients that were accepted on shard `own`.
pub(super) fn placer(own: ShardId, loads: ShardLoads) -> Box<Placer> {
    Box::new(move |first| {
        let wanted = match first.published {
            Some(subject) => first.broker.wanted_by(first.account, subject),
            None => WantedBy::Nobody,
        };
        let wanted = match wanted {
            WantedBy::Here => Wanted::Only(own),
            WantedBy::Behind(link) => Wanted::Only(shard_behind(link, own)),
            WantedBy::Nobody | WantedBy::Several => Wanted::Anywhere,
        };
        let target = place(own, wanted, &loads_now(&loads));
        (target != own).then_some(target)
    })
}

/// How much of the time since the last look the calling thread worked.
#[derive(Default)]
pub(super) struct BusyShare {
    /// Nanoseconds of the clock, and those in which the thread worked.
    last: Cell<Option<(i128, i128)>>,
}

impl BusyShare {
    /// In thousandths; 0 at the first look. `spun`: how long it has run for nothing so far.
    pub(super) fn look(&self, spun: Duration) -> usize {
        let nanoseconds = |clock| {
            let time = clock_gettime(clock);
            i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
        };
        let worked = nanoseconds(ClockId::ThreadCPUTime) - spun.as_nanos() as i128;
        let now = (nanoseconds(ClockId::Monotonic), worked);
        let Some(last) = self.last.replace(Some(now)) else { return 0 };
        let (passed, worked) = ((now.0 - last.0).max(1), now.1 - last.1);
        usize::try_from(worked * 1000 / passed).unwrap_or(0).min(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn awake(connections: usize, busy: usize) -> Load {
        Load { connections, busy, is_awake: true }
    }

    fn asleep() -> Load {
        Load { connections: 0, busy: 0, is_awake: false }
    }

    /// The connection to be placed is counted on `own`.
    fn placed(own: u16, wanted: Wanted, loads: &[Load]) -> u16 {
        place(ShardId(own), wanted, loads).0
    }

    #[test]
    fn a_publisher_goes_where_alone_its_message_is_wanted() {
        let loads = [awake(1, 0), awake(40, 999), asleep()];
        for shard in 0..3 {
            assert_eq!(placed(0, Wanted::Only(ShardId(shard)), &loads), shard);
        }
    }

    #[test]
    fn the_first_awake_shard_with_room_is_chosen_and_then_the_one_with_the_fewest() {
        for (own, loads, expected, why) in [
            (0, vec![awake(1, 0), asleep()], 0, "it stays where it is"),
            (1, vec![awake(3, 0), awake(1, 0)], 0, "others are there"),
            (0, vec![awake(8, 0), asleep()], 0, "seven others are few"),
            (0, vec![awake(9, 0), asleep()], 1, "eight more than the fewest"),
            (0, vec![awake(1, 500), asleep()], 0, "all have as many, it stays"),
            (0, vec![awake(2, 500), asleep()], 1, "it is busy"),
            (0, vec![awake(2, 499), asleep()], 0, "it is not busy enough"),
            (0, vec![awake(5, 900), awake(9, 100)], 1, "only the second has room"),
            (
                1,
                vec![awake(9, 900), awake(5, 900), awake(4, 900)],
                1,
                "all busy: it stays among equals",
            ),
            (0, vec![awake(20, 0), awake(11, 0), awake(12, 0)], 1, "the first is too far ahead"),
            (0, vec![awake(1, 0)], 0, "there is no other"),
        ] {
            assert_eq!(placed(own, Wanted::Anywhere, &loads), expected, "{why}: {loads:?}");
        }
    }

    /// The naive twin: sorts all shards by the criteria.
    fn naive(own: ShardId, wanted: Wanted, loads: &[Load]) -> ShardId {
        if let Wanted::Only(shard) = wanted {
            return shard;
        }
        let mut others = loads.to_vec();
        others[own.index()].connections -= 1;
        let fewest = others.iter().map(|load| load.connections).min().unwrap_or(0);
        let mut order: Vec<(bool, usize, bool, usize)> = Vec::new();
        for (index, load) in others.iter().enumerate() {
            let has_room = load.is_awake && load.busy < 500 && load.connections < fewest + 8;
            match has_room {
                true => order.push((false, 0, false, index)),
                false => order.push((true, load.connections, index != own.index(), index)),
            }
        }
        order.sort_unstable();
        ShardId(order[0].3 as u16)
    }

    #[test]
    fn a_working_thread_is_busy_and_never_more_than_all_the_time() {
        let share = BusyShare::default();
        assert_eq!(share.look(Duration::ZERO), 0);
        let ran = || clock_gettime(ClockId::ThreadCPUTime).tv_nsec;
        let start = ran();
        while ran() == start {
            std::hint::black_box(start);
        }
        assert!(share.look(Duration::ZERO) <= 1000);
        // All of it and more was for nothing.
        assert_eq!(share.look(Duration::from_secs(1000)), 0);
    }

    #[test]
    fn the_choice_equals_that_of_its_naive_twin() {
        let mut random = fastrand::Rng::with_seed(12);
        for _ in 0..20_000 {
            let count = random.usize(1..6);
            let mut loads: Vec<Load> = (0..count)
                .map(|_| Load {
                    connections: random.usize(0..20),
                    busy: random.usize(400..600),
                    is_awake: random.bool(),
                })
                .collect();
            let own = ShardId(random.u16(0..count as u16));
            loads[own.index()].connections += 1;
            let wanted = match random.u8(0..4) {
                0 => Wanted::Only(ShardId(random.u16(0..count as u16))),
                _ => Wanted::Anywhere,
            };
            assert_eq!(place(own, wanted, &loads), naive(own, wanted, &loads), "{own:?} {loads:?}");
        }
    }

    #[test]
    fn a_hundred_idle_connections_are_on_at_least_twelve_of_sixteen_shards() {
        let mut loads = vec![asleep(); 16];
        loads[0].is_awake = true;
        for _ in 0..100 {
            loads[0].connections += 1;
            let chosen = place(ShardId(0), Wanted::Anywhere, &loads).index();
            loads[0].connections -= 1;
            loads[chosen].connections += 1;
            loads[chosen].is_awake = true;
        }
        let used = loads.iter().filter(|load| load.connections > 0).count();
        assert!(used >= 12, "{loads:?}");
    }
}
