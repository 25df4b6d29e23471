//! The messages that were removed from a stream, as far as somebody who counts messages has to
//! know: how many, and the highest sequence among those that were removed since a number of them.
//!
//! Invariants: numbers rise and sequences fall along `highest`; it has at most `ENTRIES_MAX`
//! entries. Where two were merged, too high a sequence is told, never one too low.

use std::collections::VecDeque;

const ENTRIES_MAX: usize = 32;

#[derive(Clone, Debug, Default)]
pub(super) struct Removals {
    count: u64,
    /// The number of removals up to one, and its sequence; those with a higher sequence later are
    /// left out.
    highest: VecDeque<(u64, u64)>,
}

impl Removals {
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Notes that this message, or some up to it, went.
    pub(super) fn note(&mut self, sequence: u64) {
        self.count += 1;
        while self.highest.back().is_some_and(|(_, other)| *other <= sequence) {
            self.highest.pop_back();
        }
        self.highest.push_back((self.count, sequence));
        if self.highest.len() > ENTRIES_MAX
            && let Some((_, higher)) = self.highest.pop_front()
            && let Some(first) = self.highest.front_mut()
        {
            first.1 = higher;
        }
    }

    /// True if all messages that were removed since there were `count` of them lie below a
    /// sequence.
    pub(super) fn are_below(&self, sequence: u64, count: u64) -> bool {
        let index = self.highest.partition_point(|(number, _)| *number <= count);
        self.highest.get(index).is_none_or(|(_, highest)| *highest < sequence)
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    #[test]
    fn no_removal_at_or_behind_a_sequence_is_ever_missed() {
        for seed in 0..20 {
            let mut random = Rng::with_seed(seed);
            let (mut removals, mut all) = (Removals::default(), Vec::new());
            for step in 0..400u64 {
                // Half of the runs remove downwards: the list is as long as it gets.
                let sequence = if seed % 2 == 0 { 1000 - step } else { random.u64(1..1000) };
                removals.note(sequence);
                all.push(sequence);
                let (since, from) = (random.usize(0..=all.len()), random.u64(1..1000));
                let are_below = all[since..].iter().all(|sequence| *sequence < from);
                let told = removals.are_below(from, since as u64);
                assert!(!told || are_below, "seed {seed}, step {step}");
                assert!(told == are_below || all.len() > ENTRIES_MAX, "seed {seed}, step {step}");
                assert!(removals.highest.len() <= ENTRIES_MAX);
            }
        }
    }
}
