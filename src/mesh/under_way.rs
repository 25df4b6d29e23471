//! Sizes of the batches or notes on a lane that its other end has not dealt with, oldest first.

use std::collections::VecDeque;

/// Size of a batch or a note on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub bytes: usize,
    /// The work for the receiving shard, as far as it is known here, in units of `TURN_WORK_MAX`.
    pub work: usize,
}

/// Invariant: `sum` is the sum of `items`.
#[derive(Default)]
pub(super) struct UnderWay {
    items: VecDeque<(u32, u32)>,
    sum: Load,
}

fn short(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

impl UnderWay {
    pub(super) fn push(&mut self, load: Load) {
        let (bytes, work) = (short(load.bytes), short(load.work));
        self.sum.bytes += bytes as usize;
        self.sum.work += work as usize;
        self.items.push_back((bytes, work));
    }

    /// Forgets all but the newest `left`.
    pub(super) fn keep_newest(&mut self, left: usize) {
        let gone = self.items.len().saturating_sub(left);
        for (bytes, work) in self.items.drain(..gone) {
            self.sum.bytes -= bytes as usize;
            self.sum.work -= work as usize;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    #[cfg(any(test, debug_assertions))]
    pub(super) fn check_invariants(&self) {
        let (bytes, work) = self
            .items
            .iter()
            .fold((0, 0), |(bytes, work), item| (bytes + item.0 as usize, work + item.1 as usize));
        assert_eq!(self.sum, Load { bytes, work }, "the sum of what is under way");
    }

    pub(super) fn sum(&self) -> Load {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_what_is_left() {
        let mut under_way = UnderWay::default();
        for size in 1..=4 {
            under_way.push(Load { bytes: size, work: 10 * size });
        }
        assert_eq!((under_way.len(), under_way.sum()), (4, Load { bytes: 10, work: 100 }));
        under_way.keep_newest(5);
        assert_eq!(under_way.len(), 4);
        under_way.keep_newest(2);
        assert_eq!((under_way.len(), under_way.sum()), (2, Load { bytes: 7, work: 70 }));
        under_way.keep_newest(0);
        assert_eq!((under_way.len(), under_way.sum()), (0, Load::default()));
    }

    #[test]
    fn sizes_beyond_what_is_kept_of_one_count_as_the_most() {
        let mut under_way = UnderWay::default();
        under_way.push(Load { bytes: 1, work: usize::MAX });
        assert_eq!(under_way.sum().work, u32::MAX as usize);
        under_way.keep_newest(0);
        assert_eq!(under_way.sum(), Load::default());
    }
}
