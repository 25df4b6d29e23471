//! The removals that the last change of a stream still has to make. They are done in order, in
//! slices, and may wait until blocks are loaded.
//!
//! None of this is ever stored: a checkpoint waits until a stream owes nothing, and a replay does
//! all of it before the next record.

use std::collections::VecDeque;

use super::{Block, NotLoaded, Purge, Stream};
use crate::storage::subject_index::{SubjectIndex, SubjectTotals};

/// The work left to do, in this order.
#[derive(Debug, Default)]
pub(super) struct Owed {
    /// A block was lost: all others are counted anew.
    recount: Option<Box<Recount>>,
    /// A subject whose last message was removed. The one before has to be found, at or below the
    /// sequence in the index.
    pub last_of: Option<Vec<u8>>,
    rollups: VecDeque<Purge>,
    /// Subjects that may have too many messages.
    subjects: VecDeque<Vec<u8>>,
    /// All subjects behind this one may have too many messages.
    all_subjects: Option<Vec<u8>>,
    /// Messages before this sequence are too old.
    aged_before: u64,
    /// The stream may be above its limits.
    limits: bool,
    /// The block that all this waits for.
    missing: Option<NotLoaded>,
}

/// A new count of a stream.
#[derive(Debug, Default)]
struct Recount {
    /// The next sequence to look at.
    from: u64,
    subjects: SubjectIndex,
    messages: u64,
    bytes: u64,
}

impl Stream {
    /// True if nothing is left to do of the last change.
    pub fn is_settled(&self) -> bool {
        self.owed.is_none()
    }

    /// # Errors
    /// The rest of the last change waits for a block. Until it is loaded, nothing is known about
    /// the stream.
    pub fn check_settled(&self) -> Result<(), NotLoaded> {
        let Some(owed) = &self.owed else { return Ok(()) };
        // Nothing is known of a stream that is being counted: whoever loads the block goes on with
        // the count.
        let counted = owed.recount.as_ref().map(|recount| NotLoaded { base: recount.from });
        owed.missing.or(counted).map_or(Ok(()), Err)
    }

    /// True if removals wait for a block other than this one.
    pub(crate) fn waits_for_another(&self, base: u64) -> bool {
        self.owed.as_ref().is_some_and(|owed| {
            let removes = owed.last_of.is_some()
                || !owed.rollups.is_empty()
                || !owed.subjects.is_empty()
                || owed.all_subjects.is_some()
                || owed.aged_before > 0
                || owed.limits;
            removes && owed.missing.is_some_and(|needed| needed.base != base)
        })
    }

    pub(super) fn owed_mut(&mut self) -> &mut Owed {
        self.owed.get_or_insert_default()
    }

    pub(super) fn owe_for(&mut self, subject: &[u8], sequence: u64, has_rollup: bool) {
        let rollup = has_rollup.then(|| self.purge(Some(subject), sequence, 0));
        let owed = self.owed_mut();
        owed.rollups.extend(rollup);
        owed.subjects.push_back(subject.to_vec());
        owed.limits = true;
    }

    pub(super) fn owe_for_limits(&mut self) {
        let owed = self.owed_mut();
        owed.all_subjects = Some(Vec::new());
        owed.limits = true;
    }

    pub(super) fn owe_for_age(&mut self, before: u64) {
        self.owed_mut().aged_before = before;
    }

    /// True if the contents of the stream have to be counted first.
    pub fn owes_recount(&self) -> bool {
        self.owed.as_ref().is_some_and(|owed| owed.recount.is_some())
    }

    pub(super) fn owe_recount(&mut self) {
        let owed = self.owed_mut();
        owed.recount = Some(Box::default());
        owed.missing = None;
    }

    /// Has the stream counted anew: the stored form of the blocks or the index has right checksums
    /// and wrong contents, so somebody forged it. Only messages are trusted.
    pub(super) fn distrust(&mut self) -> NotLoaded {
        self.blocks.iter_mut().for_each(Block::forget_prints);
        self.owe_recount();
        NotLoaded { base: 0 }
    }

    /// Drops an owed recount whose result is known already. Nothing else is owed.
    pub(super) fn owe_no_recount(&mut self) {
        self.owed = None;
    }

    /// Drops a block that is lost, with all messages in it.
    pub fn lose_block(&mut self, base: u64) {
        let Ok(index) = self.blocks.binary_search_by_key(&base, Block::base) else { return };
        self.messages -= self.blocks[index].len() as u64;
        self.removals.note(self.blocks[index].last());
        self.remove_block(index);
        self.owe_recount();
    }

    /// Goes on with the owed work, for about `steps_max` messages and subjects; true once nothing
    /// is left.
    ///
    /// # Errors
    /// A block that it needs is not in memory.
    pub fn settle(&mut self, steps_max: usize) -> Result<bool, NotLoaded> {
        if self.owed.is_none() {
            return Ok(true);
        }
        let result = self.settle_some(steps_max);
        match result {
            Ok(true) => self.owed = None,
            _ => self.owed_mut().missing = result.err(),
        }
        result
    }

    fn settle_some(&mut self, steps_max: usize) -> Result<bool, NotLoaded> {
        let mut left = steps_max;
        if !self.recount(&mut left)? {
            return Ok(false);
        }
        self.find_last()?;
        while let Some(mut purge) = self.owed_mut().rollups.pop_front() {
            let done = self.purge_some(&mut purge, left);
            left = left.saturating_sub(purge.purged as usize);
            if done != Ok(true) {
                self.owed_mut().rollups.push_front(purge);
                return done;
            }
        }
        while let Some(subject) = self.owed_mut().subjects.pop_front() {
            let done = self.enforce_of_subject(&subject, &mut left);
            if done != Ok(true) {
                self.owed_mut().subjects.push_front(subject);
                return done;
            }
        }
        Ok(self.enforce_of_all_subjects(&mut left)?
            && self.drop_aged_some(&mut left)?
            && (!self.owed_mut().limits || self.enforce(&mut left)?))
    }

    /// Removes messages of a subject that is above its limit; true when it is done.
    pub(super) fn enforce_of_subject(
        &mut self,
        subject: &[u8],
        left: &mut usize,
    ) -> Result<bool, NotLoaded> {
        let max = self.limits.messages_per_subject_max;
        while max > 0 && self.subjects.get(subject).is_some_and(|totals| totals.count > max) {
            if *left == 0 {
                return Ok(false);
            }
            let first = self.find_first(subject)?.expect("the subject has messages");
            self.remove(first)?;
            *left -= 1;
        }
        Ok(true)
    }

    fn enforce_of_all_subjects(&mut self, left: &mut usize) -> Result<bool, NotLoaded> {
        let max = self.limits.messages_per_subject_max;
        while let Some(after) = self.owed_mut().all_subjects.take() {
            if max == 0 {
                break;
            }
            if *left == 0 {
                self.owed_mut().all_subjects = Some(after);
                return Ok(false);
            }
            let (mut above, mut seen) = (None, 0);
            let begin = Some(after.as_slice()).filter(|after| !after.is_empty());
            let rest = self.subjects.scan(b">", begin, *left, |subject, totals| {
                seen += 1;
                above = (totals.count > max).then(|| subject.to_vec());
                above.is_none()
            });
            // Messages of that subject that are removed count by themselves.
            *left -= seen - usize::from(above.is_some());
            if let Some(subject) = above {
                let done = self.enforce_of_subject(&subject, left);
                if done != Ok(true) {
                    self.owed_mut().all_subjects = Some(after);
                    return done;
                }
            }
            self.owed_mut().all_subjects = rest;
        }
        Ok(true)
    }

    /// Removes the oldest messages until the limits of the stream hold; true when they do.
    pub(super) fn enforce(&mut self, left: &mut usize) -> Result<bool, NotLoaded> {
        let limits = self.limits;
        let is_above = |stream: &Self| {
            (limits.messages_max > 0 && stream.messages > limits.messages_max)
                || (limits.bytes_max > 0 && stream.bytes > limits.bytes_max)
        };
        while !limits.refuses_new && is_above(self) {
            if *left == 0 {
                return Ok(false);
            }
            self.remove(self.first_sequence())?;
            *left -= 1;
        }
        Ok(true)
    }

    fn drop_aged_some(&mut self, left: &mut usize) -> Result<bool, NotLoaded> {
        let before = self.owed_mut().aged_before;
        while let Some(sequence) = self.next_that_ages(before)? {
            if *left == 0 {
                return Ok(false);
            }
            self.remove(sequence)?;
            // Messages before it stay for good.
            self.aged_from = sequence + 1;
            *left -= 1;
            self.find_last()?;
        }
        self.aged_from = self.aged_from.max(before);
        Ok(true)
    }

    /// Finds the new last message of the subject that lost its last one. The index keeps the
    /// progress, so each step needs one block.
    pub(super) fn find_last(&mut self) -> Result<(), NotLoaded> {
        let Some(subject) = self.owed.as_mut().and_then(|owed| owed.last_of.take()) else {
            return Ok(());
        };
        let Some(totals) = self.subjects.get(&subject) else { return Ok(()) };
        let hash = self.hasher.hash(&subject);
        let mut through = totals.last;
        let mut found = Err(None);
        let end = self.blocks.partition_point(|block| block.first() <= through);
        for block in self.blocks.range(..end).rev() {
            through = through.min(block.last());
            if !block.may_have(hash) {
                continue;
            }
            let loaded = match block.loaded() {
                Ok(loaded) => loaded,
                Err(missing) => {
                    found = Err(Some(missing));
                    break;
                }
            };
            let older = loaded.messages().rev().skip_while(|message| message.sequence > through);
            if let Some(message) = older.into_iter().find(|message| message.subject == subject) {
                found = Ok(message.sequence);
                break;
            }
        }
        let last = *found.as_ref().unwrap_or(&through);
        self.subjects.update(&subject, |totals| {
            totals.map(|totals| match totals.count {
                1 => SubjectTotals::single(last),
                _ => SubjectTotals { last, ..totals },
            })
        });
        match found {
            Ok(_) => {
                self.owed_mut().missing = None;
                Ok(())
            }
            Err(None) => Err(self.distrust()),
            Err(missing) => {
                let owed = self.owed_mut();
                (owed.last_of, owed.missing) = (Some(subject), missing);
                missing.map_or(Ok(()), Err)
            }
        }
    }

    /// Counts a stream anew that lost a block; true when it is done.
    pub(super) fn recount(&mut self, left: &mut usize) -> Result<bool, NotLoaded> {
        let Some(mut recount) = self.owed_mut().recount.take() else { return Ok(true) };
        let result = loop {
            let Some(block) = self.blocks.get(self.block_from(recount.from)) else {
                break Ok(true);
            };
            if *left == 0 {
                break Ok(false);
            }
            let loaded = match block.loaded() {
                Ok(loaded) => loaded,
                Err(missing) => break Err(missing),
            };
            for message in loaded.messages() {
                recount.messages += 1;
                let (subject, headers) = (message.subject, message.headers);
                recount.bytes += self.limits.message_bytes(subject, headers, message.payload);
                recount.subjects.update(subject, |totals| {
                    Some(SubjectTotals::with_another(totals, message.sequence))
                });
            }
            *left = left.saturating_sub(block.len());
            recount.from = block.last() + 1;
        };
        if result != Ok(true) {
            self.owed_mut().recount = Some(recount);
            return result;
        }
        self.subjects = recount.subjects;
        self.forget_stored_index();
        (self.messages, self.bytes) = (recount.messages, recount.bytes);
        Ok(true)
    }
}
