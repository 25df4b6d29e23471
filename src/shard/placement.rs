//! Chooses the shard that serves a connection, once: at its first subscription or message.
//!
//! One shard while one is enough: whoever wants the first message has its publisher, so that nothing
//! has to cross; everybody else goes where others are already, as long as there is room. A shard that
//! is busy gets nobody while another is not. Shards that nobody needs are not woken. The choice is
//! pure: loads in, a shard out.

use std::cell::Cell;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::base::counters::ShardLoads;
use crate::base::ids::ShardId;
use crate::base::limits::{
    PLACING_BUSY_MAX, PLACING_CONNECTIONS_AHEAD_MIN, PLACING_CONNECTIONS_AHEAD_SUM,
};
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

/// Connections that one of so many shards may have more than the one with the fewest.
fn ahead_max(shards: usize) -> usize {
    (PLACING_CONNECTIONS_AHEAD_SUM / shards).max(PLACING_CONNECTIONS_AHEAD_MIN)
}

/// Chooses a shard for a connection that was accepted on `own` and is counted there. `loads` are in
/// the order of shards.
fn place(own: ShardId, wanted: Wanted, loads: &[Load]) -> ShardId {
    let is_idle = |index: usize| loads[index].busy < PLACING_BUSY_MAX;
    if let Wanted::Only(shard) = wanted
        && (is_idle(shard.index()) || !(0..loads.len()).any(is_idle))
    {
        return shard;
    }
    // The connection itself does not count, as it moves with the choice.
    let connections = |index: usize| loads[index].connections - usize::from(index == own.index());
    let fewest = (0..loads.len()).map(connections).min().expect("there is a shard");
    let has_room = |index: &usize| {
        let is_ahead = connections(*index) >= fewest + ahead_max(loads.len());
        loads[*index].is_awake && is_idle(*index) && !is_ahead
    };
    // All are in use, and will be.
    if fewest >= PLACING_CONNECTIONS_AHEAD_MIN && has_room(&own.index()) {
        return own;
    }
    let least = || {
        let rank = |&index: &usize| (!is_idle(index), connections(index), index != own.index());
        (0..loads.len()).min_by_key(rank)
    };
    let chosen = (0..loads.len()).find(has_room).or_else(least).expect("there is a shard");
    ShardId(u16::try_from(chosen).expect("few shards"))
}

/// Chooses for a socket that was just accepted, before anything is known of it: who accepts a burst of logins alone
/// hands on what others have room for.
pub(super) fn place_accepted(own: ShardId, loads: &ShardLoads) -> ShardId {
    let least = loads.least(own);
    let is_ahead = loads.of(own).value() >= loads.of(least).value() + ahead_max(loads.count());
    if is_ahead { least } else { own }
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
    fn a_publisher_goes_where_its_message_is_wanted_alone() {
        let loads = [awake(1, 0), awake(400, 499), asleep()];
        for shard in 0..3 {
            assert_eq!(placed(0, Wanted::Only(ShardId(shard)), &loads), shard);
        }
    }

    #[test]
    fn a_busy_shard_gets_no_publisher_while_another_is_not() {
        let only = Wanted::Only(ShardId(1));
        for (loads, expected, why) in [
            (vec![awake(9, 0), awake(1, 500), asleep()], 0, "the first has room"),
            (vec![awake(2, 500), awake(1, 500), asleep()], 2, "the third sleeps"),
            (vec![awake(2, 500), awake(1, 600), awake(1, 700)], 1, "all are busy"),
            (vec![awake(2, 0), awake(1, 499), asleep()], 1, "it is not busy enough"),
        ] {
            assert_eq!(placed(0, only, &loads), expected, "{why}: {loads:?}");
        }
    }

    #[test]
    fn the_first_awake_shard_with_room_is_chosen_and_then_the_one_with_the_fewest() {
        for (own, loads, expected, why) in [
            (0, vec![awake(1, 0), asleep()], 0, "it stays where it is"),
            (1, vec![awake(3, 0), awake(1, 0)], 0, "others are there"),
            (0, vec![awake(54, 0), asleep()], 0, "53 others are few"),
            (0, vec![awake(55, 0), asleep()], 1, "54 more than the fewest"),
            (0, vec![awake(1, 500), asleep()], 1, "it is busy, though nobody else is there"),
            (0, vec![awake(2, 500), asleep()], 1, "it is busy"),
            (0, vec![awake(2, 499), asleep()], 0, "it is not busy enough"),
            (0, vec![awake(5, 900), awake(9, 100)], 1, "only the second has room"),
            (0, vec![awake(5, 900), awake(90, 100)], 1, "the first is busy"),
            (
                1,
                vec![awake(9, 900), awake(5, 900), awake(4, 900)],
                1,
                "all busy: it stays among equals",
            ),
            (2, vec![awake(53, 0), awake(11, 0), awake(13, 0)], 2, "all are in use, it stays"),
            (2, vec![awake(53, 0), awake(5, 0), awake(13, 0)], 1, "the second is not yet"),
            (0, vec![awake(48, 0), awake(11, 0), awake(12, 0)], 1, "the first is too far ahead"),
            (0, vec![awake(47, 0), awake(11, 0), awake(12, 0)], 0, "it is not"),
            (0, vec![awake(1, 0)], 0, "there is no other"),
        ] {
            assert_eq!(placed(own, Wanted::Anywhere, &loads), expected, "{why}: {loads:?}");
        }
    }

    /// The naive twin: sorts all shards by the criteria.
    fn naive(own: ShardId, wanted: Wanted, loads: &[Load]) -> ShardId {
        if let Wanted::Only(shard) = wanted {
            let all_busy = loads.iter().all(|load| load.busy >= 500);
            if all_busy || loads[shard.index()].busy < 500 {
                return shard;
            }
        }
        let mut others = loads.to_vec();
        others[own.index()].connections -= 1;
        let fewest = others.iter().map(|load| load.connections).min().unwrap_or(0);
        let ahead = [108, 54, 36, 27, 21][loads.len() - 1];
        let stays = others[own.index()];
        if fewest >= 6 && stays.is_awake && stays.busy < 500 && stays.connections < fewest + ahead {
            return own;
        }
        let mut order: Vec<(bool, bool, usize, bool, usize)> = Vec::new();
        for (index, load) in others.iter().enumerate() {
            let (busy, connections) = (load.busy >= 500, load.connections);
            let has_room = load.is_awake && !busy && connections < fewest + ahead;
            match has_room {
                true => order.push((false, false, 0, false, index)),
                false => order.push((true, busy, connections, index != own.index(), index)),
            }
        }
        order.sort_unstable();
        ShardId(order[0].4 as u16)
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
                    connections: random.usize(0..100),
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

    #[test]
    fn burst_of_logins_is_handed_on_once_one_shard_has_its_share() {
        let loads = ShardLoads::new(2);
        let own = ShardId(0);
        for _ in 0..200 {
            loads.of(place_accepted(own, &loads)).add();
        }
        assert_eq!([loads.of(own).value(), loads.of(ShardId(1)).value()], [127, 73]);
        assert_eq!(place_accepted(own, &ShardLoads::new(1)), own);
    }

    #[test]
    fn the_fewer_shards_there_are_the_more_connections_one_may_have_alone() {
        let ahead: Vec<usize> = [1, 2, 4, 16, 64].map(ahead_max).to_vec();
        assert_eq!(ahead, [108, 54, 27, 6, 6]);
    }
}
