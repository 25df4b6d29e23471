//! Finds messages of a stream by sequence, time and subject.
//!
//! A search that comes to a block that is not in memory returns that place to go on from, if it
//! passed others before. If it began with that block, it returns that it has to be loaded. So each
//! step of a search needs one block.

use super::{Block, Message, NotLoaded, Search, Stream, SubjectTotals};
use crate::protocol::subject::{has_wildcard, matches};

/// The number of subjects of a filter up to which each is looked for by itself.
const SUBJECTS_LOOKED_UP_MAX: usize = 16;

/// The number of subjects looked at to find out whether a filter has so few.
const SUBJECTS_COUNTED_MAX: usize = 256;

/// The number of blocks without the subject that are passed over at a time.
const BLOCKS_PASSED_MAX: usize = 4096;

/// The missing block, or the place to go on from: `here` is where the search comes to a block, and
/// `from` where it began.
fn wait_or_go_on<'stream>(
    missing: NotLoaded,
    from: u64,
    here: u64,
) -> Result<Search<'stream>, NotLoaded> {
    if here == from { Err(missing) } else { Ok(Search::GoOn(here)) }
}

/// Looks through the messages of a block for the first that matches a filter; none = the search
/// goes on in the next block. `looked_at` counts the messages of all blocks.
fn look_through<'stream>(
    messages: impl Iterator<Item = Message<'stream>>,
    filter: &[u8],
    looked_at: &mut usize,
    messages_max: usize,
) -> Option<Search<'stream>> {
    for message in messages {
        if *looked_at >= messages_max {
            return Some(Search::GoOn(message.sequence));
        }
        if matches(filter, message.subject) {
            return Some(Search::Found(message));
        }
        *looked_at += 1;
    }
    None
}

/// A subject with several messages that is looked for.
struct Wanted {
    subject: Vec<u8>,
    hash: u64,
}

impl Stream {
    /// The last message of a subject.
    ///
    /// # Errors
    /// The message is not in memory.
    pub fn last_of(&self, subject: &[u8]) -> Result<Option<Message<'_>>, NotLoaded> {
        self.check_settled()?;
        self.subjects.get(subject).map_or(Ok(None), |totals| self.find(totals.last))
    }

    /// The sequence of the first message from `time_ns` on.
    ///
    /// # Errors
    /// A block that decides it is not in memory.
    pub fn first_since(&self, time_ns: i64) -> Result<Option<u64>, NotLoaded> {
        self.check_settled()?;
        let is_before = |block: &Block| block.facts().last_time_ns < time_ns;
        let index = self.blocks.partition_point(is_before);
        let Some(block) = self.blocks.get(index) else { return Ok(None) };
        if block.facts().first_time_ns >= time_ns {
            return Ok(Some(block.first()));
        }
        let found = block.loaded()?.messages().find(|message| message.time_ns >= time_ns);
        // If that message was deleted, the next block begins with the one to be found.
        let next = || self.blocks.get(index + 1).map(Block::first);
        Ok(found.map(|message| message.sequence).or_else(next))
    }

    /// The first message from the sequence `from` on that matches the filter, after a look at about
    /// `messages_max`.
    ///
    /// # Errors
    /// The next block is not in memory.
    pub fn next(
        &self,
        filter: &[u8],
        from: u64,
        messages_max: usize,
    ) -> Result<Search<'_>, NotLoaded> {
        self.check_settled()?;
        self.search(filter, from, messages_max)
    }

    pub(super) fn search(
        &self,
        filter: &[u8],
        from: u64,
        messages_max: usize,
    ) -> Result<Search<'_>, NotLoaded> {
        if !has_wildcard(filter) {
            let Some(totals) = self.subjects.get(filter) else { return Ok(Search::Nothing) };
            return match from <= totals.last {
                true => self.next_of(vec![(filter.to_vec(), totals)], from),
                false => Ok(Search::Nothing),
            };
        }
        if filter == b">" {
            let Some(block) = self.blocks.get(self.block_from(from)) else {
                return Ok(Search::Nothing);
            };
            return Ok(block.loaded()?.messages_from(from).next().into());
        }
        if let Some(subjects) = self.few_subjects(filter, from) {
            return self.next_of(subjects, from);
        }
        let mut looked_at = 0;
        for block in self.blocks.range(self.block_from(from)..) {
            let loaded = match block.loaded() {
                Ok(loaded) => loaded,
                Err(missing) => return wait_or_go_on(missing, from, block.first().max(from)),
            };
            let messages = loaded.messages_from(from);
            if let Some(ended) = look_through(messages, filter, &mut looked_at, messages_max) {
                return Ok(ended);
            }
        }
        Ok(Search::Nothing)
    }

    /// The block to be loaded while a reader goes on from a sequence, if blocks are being read in
    /// order: it is needed once those that were loaded last are read.
    pub fn read_ahead(&self, from: u64) -> Option<NotLoaded> {
        let (next, bytes) = self.read_on;
        let index = self.block_from(next);
        let block = self.blocks.get(index).filter(|block| block.base() == next)?;
        let ahead = index.checked_sub(self.block_from(from))?;
        let is_near = ahead * self.block_bytes <= bytes;
        (is_near && block.missing().is_some()).then_some(NotLoaded { base: next })
    }

    /// The subjects of a filter that have messages from a sequence on, if they are few and quickly
    /// counted.
    fn few_subjects(&self, filter: &[u8], from: u64) -> Option<Vec<(Vec<u8>, SubjectTotals)>> {
        let mut subjects = Vec::new();
        let rest = self.subjects.scan(filter, None, SUBJECTS_COUNTED_MAX, |subject, totals| {
            if totals.last >= from {
                subjects.push((subject.to_vec(), totals));
            }
            subjects.len() <= SUBJECTS_LOOKED_UP_MAX
        });
        (rest.is_none() && subjects.len() <= SUBJECTS_LOOKED_UP_MAX).then_some(subjects)
    }

    /// The first message of one of these subjects from a sequence on. All of them have one.
    fn next_of(
        &self,
        subjects: Vec<(Vec<u8>, SubjectTotals)>,
        from: u64,
    ) -> Result<Search<'_>, NotLoaded> {
        // The index holds the only message of a subject that has just one.
        let (mut begin, mut single) = (u64::MAX, u64::MAX);
        let mut wanted = Vec::new();
        for (subject, totals) in subjects {
            match totals.count {
                1 => single = single.min(totals.last),
                _ => {
                    begin = begin.min(totals.first.max(from));
                    let hash = self.hasher.hash(&subject);
                    wanted.push(Wanted { subject, hash });
                }
            }
        }
        let index = if wanted.is_empty() { self.blocks.len() } else { self.block_from(begin) };
        for (passed, block) in self.blocks.range(index..).enumerate() {
            let here = block.first().max(begin);
            if here >= single {
                break;
            }
            if passed >= BLOCKS_PASSED_MAX {
                return Ok(Search::GoOn(here));
            }
            if !wanted.iter().any(|wanted| block.may_have(wanted.hash)) {
                continue;
            }
            let loaded = match block.loaded() {
                Ok(loaded) => loaded,
                Err(missing) => return wait_or_go_on(missing, from, here),
            };
            let is_wanted =
                |message: &Message<'_>| wanted.iter().any(|one| one.subject == message.subject);
            let before = loaded.messages_from(begin).take_while(|found| found.sequence < single);
            if let Some(found) = before.into_iter().find(is_wanted) {
                return Ok(Search::Found(found));
            }
        }
        match self.find(single) {
            Ok(found) => Ok(found.into()),
            Err(missing) => wait_or_go_on(missing, from, single),
        }
    }

    /// The sequence of the first message of a subject.
    ///
    /// # Errors
    /// A block that decides it is not in memory; the next call begins with it.
    pub(super) fn find_first(&mut self, subject: &[u8]) -> Result<Option<u64>, NotLoaded> {
        let Some(totals) = self.subjects.get(subject) else { return Ok(None) };
        if totals.count == 1 {
            return Ok(Some(totals.last));
        }
        let mut from = totals.first;
        loop {
            match self.next_of(vec![(subject.to_vec(), totals)], from) {
                Ok(Search::Found(message)) => return Ok(Some(message.sequence)),
                Ok(Search::Nothing) => return Err(self.distrust()),
                Ok(Search::GoOn(sequence)) => from = sequence,
                Err(missing) => {
                    let known = |totals| SubjectTotals { first: from, ..totals };
                    self.subjects.update(subject, |totals| totals.map(known));
                    return Err(missing);
                }
            }
        }
    }

    /// Gives `visit` the last message of each subject that matches, by subject, and looks at no
    /// more than `subjects_max` subjects behind `after`. Returns the subject to go on after.
    ///
    /// # Errors
    /// The next message is not in memory.
    pub fn last_of_each(
        &self,
        filter: &[u8],
        after: Option<&[u8]>,
        subjects_max: usize,
        mut visit: impl FnMut(Message<'_>),
    ) -> Result<Option<Vec<u8>>, NotLoaded> {
        self.check_settled()?;
        let (mut missing, mut done) = (None, None);
        let rest = self.subjects.scan(filter, after, subjects_max, |subject, totals| {
            match self.find(totals.last) {
                // It is there, unless somebody forged the stored form of the index.
                Ok(found) => found.into_iter().for_each(&mut visit),
                Err(block) => {
                    missing = Some(block);
                    return false;
                }
            }
            done = Some(subject.to_vec());
            true
        });
        match missing {
            None => Ok(rest),
            Some(missing) => done.map_or(Err(missing), |done| Ok(Some(done))),
        }
    }

    /// The last message at or below a sequence that matches a filter, after a look at about
    /// `messages_max`.
    ///
    /// # Errors
    /// The next block is not in memory.
    pub fn previous(
        &self,
        filter: &[u8],
        through: u64,
        messages_max: usize,
    ) -> Result<Search<'_>, NotLoaded> {
        self.check_settled()?;
        let end = self.blocks.partition_point(|block| block.first() <= through);
        let mut looked_at = 0;
        for block in self.blocks.range(..end).rev() {
            let loaded = match block.loaded() {
                Ok(loaded) => loaded,
                Err(missing) => return wait_or_go_on(missing, through, block.last().min(through)),
            };
            let messages = loaded.messages().rev().filter(|message| message.sequence <= through);
            if let Some(ended) = look_through(messages, filter, &mut looked_at, messages_max) {
                return Ok(ended);
            }
        }
        Ok(Search::Nothing)
    }
}
