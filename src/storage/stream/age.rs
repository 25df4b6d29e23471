//! The messages of a stream that are too old, by the limit of age and by their own time to live.
//!
//! The caller gives the time. Messages that are found are removed by a call of its own, which is
//! the only one that a replay makes.

use super::{Message, NotLoaded, Stream};
use crate::base::limits::REMOVED_AT_ONCE_MAX;
use crate::storage::block::{END_UNKNOWN, NO_END};
use crate::storage::marks::TimeToLive;

impl Stream {
    /// True if the limit of age does not hold for a message.
    fn is_never(&self, message: &Message<'_>) -> bool {
        self.limits.marks(message.headers).time_to_live == Some(TimeToLive::Never)
    }

    /// The sequence below which messages are older than the limit at `now_ns`, except for those
    /// that never age, and the number of those older ones; after a look at `messages_max`.
    ///
    /// # Errors
    /// The first block that decides it is not in memory.
    pub fn aged_before(&self, now_ns: i64, messages_max: usize) -> Result<(u64, u64), NotLoaded> {
        self.check_settled()?;
        let (mut before, mut count) = (self.aged_from, 0);
        if self.limits.age_ns_max == 0 {
            return Ok((before, count));
        }
        let oldest_ns = now_ns.saturating_sub(self.limits.age_ns_max);
        let mut left = messages_max;
        for block in self.blocks.range(self.block_from(before)..) {
            if block.facts().first_time_ns > oldest_ns {
                break;
            }
            let loaded = match block.loaded() {
                Ok(loaded) => loaded,
                Err(missing) if left == messages_max => return Err(missing),
                Err(_) => break,
            };
            for message in loaded.messages_from(before) {
                let stays = self.is_never(&message);
                if left == 0 || !stays && message.time_ns > oldest_ns {
                    return Ok((before, count));
                }
                left -= 1;
                count += u64::from(!stays);
                before = message.sequence + 1;
            }
        }
        Ok((before, count))
    }

    /// The first message below a sequence that can age.
    ///
    /// # Errors
    /// The message is not in memory.
    pub fn next_that_ages(&mut self, before: u64) -> Result<Option<u64>, NotLoaded> {
        while self.aged_from < before
            && let Some(block) = self.blocks.get(self.block_from(self.aged_from))
            && block.first() < before
        {
            let mut all = block.loaded()?.messages_from(self.aged_from);
            if let Some(found) = all.find(|message| !self.is_never(message)) {
                return Ok(Some(found.sequence).filter(|sequence| *sequence < before));
            }
            self.aged_from = block.last() + 1;
        }
        Ok(None)
    }

    /// Removes all messages below a sequence, except for those that never age: some at once, the
    /// others are owed.
    pub fn drop_aged(&mut self, before: u64) {
        self.owe_for_age(before);
        let _ = self.settle(REMOVED_AT_ONCE_MAX);
    }

    /// The message whose own time to live ended first.
    ///
    /// # Errors
    /// The message is not in memory.
    pub fn ended(&mut self, now_ns: i64) -> Result<Option<u64>, NotLoaded> {
        self.check_settled()?;
        if !self.limits.has_times_to_live {
            return Ok(None);
        }
        while let Some((end_ns, base)) = self.ends.first().copied()
            && end_ns <= now_ns
        {
            let index = self.blocks.binary_search_by_key(&base, super::Block::base);
            let index = index.expect("ends are of blocks that are there");
            let found = self.blocks[index].loaded()?.first_end();
            let (first_ns, sequence) = found.unwrap_or((NO_END, 0));
            if first_ns == end_ns {
                return Ok(Some(sequence));
            }
            self.blocks[index].set_end_ns(first_ns);
            self.note_end(index, end_ns);
        }
        Ok(None)
    }

    /// True if this message has to be replaced by a marker once it ends: it is the last of its
    /// subject, and no marker.
    ///
    /// # Errors
    /// The message is not in memory.
    pub fn needs_marker(&self, sequence: u64) -> Result<bool, NotLoaded> {
        if !self.limits.has_markers() {
            return Ok(false);
        }
        Ok(self.get(sequence)?.is_some_and(|message| {
            let totals = self.subjects.get(message.subject);
            totals.is_some_and(|totals| totals.count == 1)
                && !self.limits.marks(message.headers).is_marker
        }))
    }

    /// The time at which [`Stream::aged_before`] or [`Stream::ended`] may find the next message:
    /// none ends before. `None` if none ever ends.
    pub fn next_end_ns(&self) -> Option<i64> {
        let blocks = self.blocks.range(self.block_from(self.aged_from)..);
        let mut ages = blocks.filter(|_| self.limits.age_ns_max > 0);
        let first_ns = ages.find_map(|block| match block.loaded() {
            Ok(loaded) => {
                let mut all = loaded.messages_from(self.aged_from);
                all.find(|message| !self.is_never(message)).map(|found| found.time_ns)
            }
            Err(_) => Some(block.facts().first_time_ns),
        });
        let aged = first_ns.map(|time_ns| time_ns.saturating_add(self.limits.age_ns_max));
        let ended = self.ends.first().filter(|_| self.limits.has_times_to_live);
        aged.into_iter().chain(ended.map(|(end_ns, _)| *end_ns)).min()
    }

    /// The time from which on [`Stream::forget_ids`] may forget one; `None` if none is known.
    pub fn next_forgotten_ns(&self) -> Option<i64> {
        self.duplicates.first_end_ns()
    }

    /// Forgets ids that are out of the window; true if there may be more than it looked at.
    pub fn forget_ids(&mut self, now_ns: i64, ids_max: usize) -> bool {
        self.duplicates.forget(now_ns, ids_max)
    }

    /// Forgets the ends of all blocks: which messages end on their own depends on the limits.
    pub(super) fn forget_ends(&mut self) {
        self.aged_from = 0;
        self.ends.clear();
        for block in &mut self.blocks {
            block.set_end_ns(END_UNKNOWN);
            self.ends.insert((END_UNKNOWN, block.base()));
        }
    }

    pub(super) fn check_age(&self) {
        for block in &self.blocks {
            let Ok(loaded) = block.loaded() else { continue };
            // The stored form may be forged, so only tests assert this.
            #[cfg(test)]
            {
                let first = loaded.first_end().map_or(NO_END, |(end_ns, _)| end_ns);
                let knows = !self.limits.has_times_to_live || block.end_ns() <= first;
                assert!(knows, "a message ends before it is known to");
            }
            let has_limit = self.limits.age_ns_max > 0 && self.is_settled();
            let below = loaded.messages().take_while(|found| found.sequence < self.aged_from);
            let mut below = below.filter(|_| has_limit);
            assert!(below.all(|message| self.is_never(&message)), "an old message stays");
        }
    }
}
