//! Decides which connections a busy shard gives to idle ones.
//!
//! Looked at once per tick, over the connections that were most active since the last one. The
//! choice is pure: loads in, moves out. A shard gives away only while it is busy
//! (`SPREADING_BUSY_MIN`), until it would be no more than half busy, and only what does not make the
//! other shard as busy as it was itself: moving all of its work would gain nothing. A connection
//! that has moved rests for some ticks.

use crate::base::ids::ShardId;
use crate::base::limits::{
    PLACING_BUSY_MAX, SPREADING_BUSY_MIN, SPREADING_CANDIDATES_MAX, SPREADING_GAIN_MIN,
};

/// A connection that may be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Its place in the registry.
    pub key: usize,
    /// Reads and sends since the last tick.
    pub activity: u32,
}

/// The connections with most activity, of all that were looked at.
#[derive(Debug, Default)]
pub(super) struct Heaviest {
    candidates: Vec<Candidate>,
    /// Of all connections, those that may not be moved included.
    activity_sum: u64,
}

impl Heaviest {
    /// Counts a connection, and returns true if it would be among the heaviest.
    pub(super) fn look(&mut self, activity: u32) -> bool {
        self.activity_sum += u64::from(activity);
        let has_room = self.candidates.len() < SPREADING_CANDIDATES_MAX;
        activity > 0 && (has_room || self.candidates.last().is_some_and(|l| l.activity < activity))
    }

    /// Keeps a connection that may be moved.
    pub(super) fn keep(&mut self, candidate: Candidate) {
        self.candidates.truncate(SPREADING_CANDIDATES_MAX - 1);
        let at = self.candidates.partition_point(|other| other.activity >= candidate.activity);
        self.candidates.insert(at, candidate);
    }
}

/// One move of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub key: usize,
    pub target: ShardId,
    /// The thousandths of a second that go with it.
    pub share: usize,
}

/// Chooses connections of shard `own` to be moved, and their shards. `busy` has the thousandths of
/// the last second during which each shard's thread ran.
pub(super) fn plan(own: ShardId, busy: &[usize], heaviest: &Heaviest) -> Vec<Move> {
    let mut busy = busy.to_vec();
    let measured = busy[own.index()];
    let mut moves = Vec::new();
    if measured < SPREADING_BUSY_MIN || heaviest.activity_sum == 0 {
        return moves;
    }
    for Candidate { key, activity } in &heaviest.candidates {
        let left = busy[own.index()];
        let others = (0..busy.len()).filter(|index| *index != own.index());
        let Some(target) = others.min_by_key(|index| busy[*index]) else { return moves };
        if left < PLACING_BUSY_MAX || busy[target] >= PLACING_BUSY_MAX {
            return moves;
        }
        let share = measured as u64 * u64::from(*activity) / heaviest.activity_sum;
        let share = usize::try_from(share).expect("no more than all").min(left);
        if busy[target] + share + SPREADING_GAIN_MIN > left {
            continue;
        }
        busy[target] += share;
        busy[own.index()] -= share;
        moves.push(Move { key: *key, target: ShardId::of_index(target), share });
    }
    moves
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heaviest(activities: &[u32]) -> Heaviest {
        let mut heaviest = Heaviest::default();
        for (key, activity) in activities.iter().enumerate() {
            if heaviest.look(*activity) {
                heaviest.keep(Candidate { key, activity: *activity });
            }
        }
        heaviest
    }

    fn planned(own: u16, busy: &[usize], activities: &[u32]) -> Vec<(usize, u16)> {
        let moves = plan(ShardId(own), busy, &heaviest(activities));
        moves.iter().map(|one| (one.key, one.target.0)).collect()
    }

    #[test]
    fn only_a_busy_shard_gives_away_and_only_to_one_that_is_not() {
        for (busy, expected, why) in [
            (vec![699, 0], vec![], "it is not busy"),
            (vec![700, 0], vec![(0, 1), (1, 1)], "it is"),
            (vec![1000, 500], vec![], "so is the other"),
            (vec![1000, 499], vec![(0, 1)], "the other has room"),
            (vec![1000], vec![], "there is no other"),
        ] {
            assert_eq!(planned(0, &busy, &[10, 10, 10, 10]), expected, "{why}: {busy:?}");
        }
    }

    #[test]
    fn a_connection_that_is_all_of_the_work_stays_and_the_others_go() {
        assert_eq!(planned(0, &[1000, 0], &[100]), []);
        assert_eq!(planned(0, &[1000, 0], &[1, 100, 1]), [(0, 1), (2, 1)]);
        assert_eq!(planned(1, &[0, 1000], &[50, 51]), [(1, 0)]);
        assert_eq!(planned(1, &[450, 1000], &[50, 51]), []);
        assert_eq!(planned(1, &[0, 1000, 0], &[40, 40, 40]), [(0, 0), (1, 2)]);
    }

    #[test]
    fn no_shard_gets_what_makes_it_as_busy_as_the_one_that_gives() {
        let mut random = fastrand::Rng::with_seed(12);
        let mut moved = 0;
        for _ in 0..20_000 {
            let mut busy: Vec<usize> =
                (0..random.usize(1..6)).map(|_| random.usize(0..=1000)).collect();
            let own = random.usize(..busy.len());
            let activities: Vec<u32> =
                (0..random.usize(0..100)).map(|_| random.u32(0..50)).collect();
            let moves = plan(ShardId(own as u16), &busy, &heaviest(&activities));
            assert!(moves.len() <= SPREADING_CANDIDATES_MAX);
            let was_busy = busy[own] >= SPREADING_BUSY_MIN;
            assert!(was_busy || moves.is_empty());
            for Move { target, share, .. } in moves {
                let target = target.index();
                assert!(target != own && busy[target] < PLACING_BUSY_MAX);
                busy[target] += share;
                assert!(busy[target] + SPREADING_GAIN_MIN <= busy[own], "{busy:?}");
                busy[own] -= share;
                moved += 1;
            }
        }
        assert!(moved > 1_000, "{moved}");
    }

    /// The mark of the issue, by the numbers: each of a hundred connections on one shard has a
    /// hundredth of the work. Ticks are a second apart.
    #[test]
    fn within_three_ticks_twelve_of_sixteen_shards_carry_the_load_of_a_hundred_connections() {
        let mut on: Vec<usize> = vec![0; 100];
        for _ in 0..3 {
            // Work that would take four cores.
            let busy = |on: &[usize], shard: usize| {
                (on.iter().filter(|other| **other == shard).count() * 40).min(1000)
            };
            let mut seen: Vec<usize> = (0..16).map(|shard| busy(&on, shard)).collect();
            for own in 0..16 {
                let mut heaviest = Heaviest::default();
                for key in (0..100).filter(|key| on[*key] == own) {
                    if heaviest.look(40) {
                        heaviest.keep(Candidate { key, activity: 40 });
                    }
                }
                for Move { key, target, share } in plan(ShardId(own as u16), &seen, &heaviest) {
                    on[key] = target.index();
                    seen[own] -= share;
                    seen[target.index()] += share;
                }
            }
        }
        let used = (0..16).filter(|shard| on.contains(shard)).count();
        assert!(used >= 12, "{used} shards: {on:?}");
    }

    #[test]
    fn the_heaviest_are_kept_in_order() {
        let activities: Vec<u32> = (0..100).map(|index| (index * 37) % 100).collect();
        let kept = heaviest(&activities);
        let kept: Vec<u32> = kept.candidates.iter().map(|candidate| candidate.activity).collect();
        let expected: Vec<u32> = (0..100).rev().take(SPREADING_CANDIDATES_MAX).collect();
        assert_eq!(kept, expected);
    }
}
