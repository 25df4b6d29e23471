//! The number of messages that match a filter from a sequence on. The index gives it where that
//! suffices; otherwise the blocks on the shorter side of the sequence are counted, one after the
//! other.

use std::collections::HashSet;
use std::ops::Range;

use super::{Block, NotLoaded, Stream};

/// The number of subjects up to which a block is checked for each of them before it is loaded.
const SUBJECTS_TRIED_MAX: usize = 64;

/// A count under way.
#[derive(Clone, Debug)]
pub struct Pending {
    filter: Vec<u8>,
    from: u64,
    count: Option<Count>,
}

/// The count of subjects with messages on both sides.
#[derive(Clone, Debug)]
struct Count {
    /// The state of the stream that the count holds for: its number of removed messages, and its
    /// last sequence.
    removed: u64,
    through: u64,
    subjects: HashSet<u64>,
    /// Blocks before the sequence are counted, to be subtracted.
    is_before: bool,
    /// The number of messages that the counted ones are added to or, with `is_before`, subtracted
    /// from.
    known: u64,
    counted: u64,
    /// The next sequence to look at.
    next: u64,
}

impl Pending {
    pub fn new(filter: &[u8], from: u64) -> Self {
        Self { filter: filter.to_vec(), from, count: None }
    }
}

impl Stream {
    /// The number of messages that match a filter. Looks at each subject that does.
    pub fn count_of(&self, filter: &[u8]) -> u64 {
        if filter == b">" {
            return self.messages;
        }
        let mut count = 0;
        self.subjects.scan(filter, None, usize::MAX, |_, totals| {
            count += totals.count;
            true
        });
        count
    }

    /// The number of messages that match a filter from a sequence on, as of the end of the count.
    /// `None` if it is not done after a look at some `blocks_max` blocks. It begins anew if
    /// messages were removed meanwhile.
    ///
    /// # Errors
    /// The next block is not in memory.
    pub fn pending(
        &self,
        pending: &mut Pending,
        blocks_max: usize,
    ) -> Result<Option<u64>, NotLoaded> {
        self.check_settled()?;
        if pending.from <= self.first_sequence() {
            return Ok(Some(self.count_of(&pending.filter)));
        }
        if pending.filter == b">" {
            return self.count_from(pending.from).map(Some);
        }
        let holds = |count: &Count| {
            count.removed == self.removals.count() && count.through == self.last_sequence
        };
        let mut count = match pending.count.take() {
            Some(count) if holds(&count) => count,
            other => self.begin_count(&pending.filter, pending.from, other),
        };
        let result = self.go_on_counting(&mut count, pending.from, blocks_max);
        if result == Ok(true) {
            return Ok(Some(match count.is_before {
                true => count.known.saturating_sub(count.counted),
                false => count.known + count.counted,
            }));
        }
        pending.count = Some(count);
        result.map(|_| None)
    }

    /// The number of messages from a sequence on. Looks at the blocks on the shorter side of it.
    fn count_from(&self, from: u64) -> Result<u64, NotLoaded> {
        let index = self.block_from(from);
        let Some(block) = self.blocks.get(index) else { return Ok(0) };
        let own = if block.first() >= from {
            block.len()
        } else if block.last() - block.first() + 1 == block.len() as u64 {
            (block.last() - from + 1) as usize
        } else {
            block.loaded()?.messages_from(from).count()
        };
        let sum = |blocks: Range<usize>| self.blocks.range(blocks).map(Block::len).sum::<usize>();
        let behind = match index < self.blocks.len() / 2 {
            true => self.messages as usize - sum(0..index) - block.len(),
            false => sum(index + 1..self.blocks.len()),
        };
        Ok((own + behind) as u64)
    }

    /// A number that rises with each removed message.
    pub fn removal_count(&self) -> u64 {
        self.removals.count()
    }

    /// True if no message at or behind a sequence was removed since that number.
    pub fn keeps_from(&self, sequence: u64, removal_count: u64) -> bool {
        self.removals.are_below(sequence, removal_count)
    }

    /// Begins a count with the numbers in the index. A count before goes on if since then messages
    /// were only added.
    fn begin_count(&self, filter: &[u8], from: u64, before: Option<Count>) -> Count {
        let (mut known, mut divided) = (0, 0);
        let mut subjects: HashSet<u64> = HashSet::new();
        self.subjects.scan(filter, None, usize::MAX, |subject, totals| {
            if totals.first >= from {
                known += totals.count;
            } else if totals.last >= from {
                divided += totals.count;
                subjects.insert(self.hasher.hash(subject));
            }
            true
        });
        let is_before = self.block_from(from) < self.blocks.len() / 2;
        if is_before {
            known += divided;
        }
        let mut count = Count {
            removed: self.removals.count(),
            through: self.last_sequence,
            next: if is_before { 0 } else { from },
            subjects,
            is_before,
            known,
            counted: 0,
        };
        if let Some(before) = before
            && before.removed == self.removals.count()
            && before.is_before == is_before
            && before.subjects == count.subjects
        {
            (count.counted, count.next) = (before.counted, before.next);
        }
        count
    }

    fn go_on_counting(
        &self,
        count: &mut Count,
        from: u64,
        blocks_max: usize,
    ) -> Result<bool, NotLoaded> {
        if count.subjects.is_empty() {
            return Ok(true);
        }
        let is_over = |block: &Block| count.is_before && block.first() >= from;
        for (index, block) in self.blocks.range(self.block_from(count.next)..).enumerate() {
            if is_over(block) {
                break;
            }
            if index >= blocks_max {
                return Ok(false);
            }
            let may_have = |hash: &u64| block.may_have(*hash);
            if count.subjects.len() > SUBJECTS_TRIED_MAX || count.subjects.iter().any(may_have) {
                let loaded = block.loaded()?;
                count.counted += match count.is_before {
                    true if block.last() >= from => {
                        let before = loaded.messages().take_while(|found| found.sequence < from);
                        let hashes = before.map(|found| self.hasher.hash(found.subject));
                        hashes.filter(|hash| count.subjects.contains(hash)).count() as u64
                    }
                    false if block.first() < count.next => {
                        let after = loaded.messages_from(count.next);
                        let hashes = after.map(|found| self.hasher.hash(found.subject));
                        hashes.filter(|hash| count.subjects.contains(hash)).count() as u64
                    }
                    _ => loaded.count_of_set(self.hasher, &count.subjects),
                };
            }
            count.next = block.last() + 1;
        }
        Ok(true)
    }
}
