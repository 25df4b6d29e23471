//! A stream as a checkpoint notes it, and as a start rebuilds it.

use std::collections::BTreeSet;

use super::{Block, NO_END, NotLoaded, Purge, SEQUENCE_MAX, Stream, StreamLimits};
use crate::base::limits::{DUPLICATE_IDS_MAX, INDEX_BYTES_SPARE, INDEX_PARTS_MAX};
use crate::storage::block::NotedBlock;
use crate::storage::fields::Fields;
use crate::storage::position::StoredPlace;
use crate::storage::subject_index::{IndexChanges, SubjectIndex};

/// The facts of a stream that are stored beside its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamFacts {
    pub last_sequence: u64,
    pub last_time_ns: i64,
    /// The bytes of all messages, as limits count them.
    pub bytes: u64,
}

/// A stored part of the index: its key and its place.
pub(crate) type StoredPart = (u64, StoredPlace);

/// The stored form of a stream's index.
#[derive(Debug, Default)]
pub(super) struct StoredIndex {
    parts: Vec<StoredPart>,
    /// The parts noted last may not be stored: the whole index has to be stored anew.
    is_uncertain: bool,
}

/// The parts of a stream's index that have to be stored.
#[derive(Debug, Default)]
pub(crate) struct NotedIndex {
    /// No part that was stored before counts.
    pub is_whole: bool,
    /// Parts that were stored before and are to be named again.
    pub kept: Vec<StoredPart>,
    pub changes: IndexChanges,
}

/// The changes of a stream.
#[derive(Debug)]
pub(crate) struct NotedStream {
    pub facts: StreamFacts,
    pub blocks: Vec<NotedBlock>,
    /// Blocks that are gone, by their base.
    pub gone: Vec<u64>,
    pub index: NotedIndex,
}

impl Stream {
    /// The entries for a manifest: the whole stream, or the changes since the last call.
    pub(crate) fn note(&mut self, all: bool, given_up: &BTreeSet<u64>) -> NotedStream {
        let gone = std::mem::take(&mut self.gone);
        let index = self.note_index(all, given_up);
        NotedStream {
            facts: StreamFacts {
                last_sequence: self.last_sequence,
                last_time_ns: self.last_time_ns,
                bytes: self.bytes,
            },
            blocks: self.blocks.iter_mut().filter_map(|block| block.note(all, given_up)).collect(),
            gone: if all { Vec::new() } else { gone },
            index,
        }
    }

    /// Notes the changes of the index. All of it is stored anew if more than half of it changed, if
    /// its stored parts are too many or too long, if one of them lies in a segment that is given
    /// up, or if the last ones may not be stored.
    fn note_index(&mut self, all: bool, given_up: &BTreeSet<u64>) -> NotedIndex {
        let StoredIndex { parts, is_uncertain } = &self.stored_index;
        let bytes: u64 = parts.iter().map(|(_, place)| u64::from(place.bytes)).sum();
        let is_long = bytes > 2 * self.subjects.bytes() as u64 + INDEX_BYTES_SPARE
            || parts.len() > INDEX_PARTS_MAX
            || self.subjects.changed_bytes() > self.subjects.bytes() / 2;
        let cannot_stay = all && parts.iter().any(|(_, place)| given_up.contains(&place.segment));
        let is_changed = self.subjects.is_changed();
        let is_whole =
            *is_uncertain || (is_changed && (parts.is_empty() || is_long)) || cannot_stay;
        let kept = if all && !is_whole { parts.clone() } else { Vec::new() };
        let changes = match is_whole || is_changed {
            true => self.subjects.take_changes(is_whole),
            false => IndexChanges::default(),
        };
        self.stored_index.is_uncertain |= !changes.is_empty();
        NotedIndex { is_whole, kept, changes }
    }

    /// Notes that the parts of the index noted last are stored, durably.
    pub(crate) fn index_stored(&mut self, is_whole: bool, parts: Vec<StoredPart>) {
        if is_whole {
            self.stored_index.parts.clear();
        }
        self.stored_index.parts.extend(parts);
        self.stored_index.is_uncertain = false;
    }

    /// Forgets the stored index, which is counted anew: no stored part counts.
    pub(super) fn forget_stored_index(&mut self) {
        self.stored_index.is_uncertain = true;
    }

    /// Takes the index as it was stored. If it does not fit the stream, everything is counted.
    pub(crate) fn restore_index(
        &mut self,
        mut index: SubjectIndex,
        bytes: u64,
        parts: Vec<StoredPart>,
    ) {
        if index.check_applied() == Some(self.messages) {
            (self.subjects, self.bytes) = (index, bytes);
            self.stored_index = StoredIndex { parts, is_uncertain: false };
            self.owe_no_recount();
        }
    }

    /// Removes a block with the messages that it still holds.
    pub(super) fn remove_block(&mut self, index: usize) -> Option<Block> {
        let block = self.blocks.remove(index)?;
        self.ends.remove(&(block.end_ns(), block.base()));
        if block.is_noted() {
            self.gone.push(block.base());
        }
        Some(block)
    }

    /// Merges two neighbours that are small together into one block: after many deletes there are
    /// few small blocks.
    pub(super) fn merge_around(&mut self, index: usize) {
        let bytes_max = self.block_bytes / 2;
        for first in [index.checked_sub(1), Some(index)].into_iter().flatten() {
            let Some(next) = self.blocks.get(first + 1) else { continue };
            if self.blocks[first].can_merge(next, bytes_max) {
                let next = self.remove_block(first + 1).expect("it is there");
                let before = self.blocks[first].end_ns();
                self.blocks[first].merge(&next, self.hasher);
                self.note_end(first, before);
                return;
            }
        }
    }

    /// The block with this base.
    pub(crate) fn block_mut(&mut self, base: u64) -> Option<&mut Block> {
        let index = self.blocks.binary_search_by_key(&base, Block::base).ok()?;
        self.blocks.get_mut(index)
    }

    /// Sets the size in bytes past which a block is complete, from now on.
    pub(crate) fn set_block_bytes(&mut self, bytes: usize) {
        self.block_bytes = bytes;
    }

    /// The block with this base, and those behind it.
    pub(crate) fn blocks_from(&self, base: u64) -> impl Iterator<Item = &Block> {
        self.blocks.range(self.blocks.partition_point(|block| block.base() < base)..)
    }

    /// Makes a stream of these blocks, which are in order. Their messages are counted as it
    /// settles.
    pub(crate) fn restore(
        limits: StreamLimits,
        facts: StreamFacts,
        blocks: Vec<Block>,
        hash_seed: u64,
    ) -> Self {
        let mut stream = Self::new(limits, 1, hash_seed);
        stream.last_sequence = facts.last_sequence;
        stream.last_time_ns = facts.last_time_ns;
        stream.blocks = blocks.into();
        // Only the last block takes more.
        let count = stream.blocks.len().saturating_sub(1);
        stream.blocks.iter_mut().take(count).for_each(Block::close);
        let ends = stream.blocks.iter().map(|block| (block.end_ns(), block.base()));
        stream.ends = ends.filter(|(end_ns, _)| *end_ns != NO_END).collect();
        stream.messages = stream.blocks.iter().map(|block| block.len() as u64).sum();
        if !stream.blocks.is_empty() {
            stream.owe_recount();
        }
        stream
    }

    /// The base of the first block whose ids may still be known.
    pub(crate) fn first_with_ids(&self) -> u64 {
        let mut ids = 0;
        let is_known = |block: &&Block| {
            let facts = block.facts();
            let is_within = facts.last_time_ns.saturating_add(self.limits.duplicate_window_ns)
                > self.last_time_ns;
            ids += facts.id_count as usize;
            is_within && ids - facts.id_count as usize <= DUPLICATE_IDS_MAX
        };
        let known = self.blocks.iter().rev().take_while(is_known);
        known.last().map_or(u64::MAX, Block::base)
    }

    /// Notes the ids of messages in the blocks from the base `from` on, and moves `from` to the
    /// block that it has come to. Ids of removed messages are no longer known.
    ///
    /// # Errors
    /// That block is not in memory.
    pub(crate) fn restore_ids(&mut self, from: &mut u64) -> Result<(), NotLoaded> {
        let limits = self.limits;
        if limits.duplicate_window_ns == 0 {
            return Ok(());
        }
        let begin = self.blocks.partition_point(|block| block.base() < *from);
        for block in self.blocks.range(begin..).filter(|block| block.facts().id_count > 0) {
            *from = block.base();
            for message in block.loaded()?.messages() {
                if let Some(id) = limits.marks(message.headers).id {
                    let (sequence, time_ns) = (message.sequence, message.time_ns);
                    self.duplicates.insert(id, sequence, time_ns, limits.duplicate_window_ns);
                }
            }
        }
        *from = u64::MAX;
        Ok(())
    }
}

impl Purge {
    /// The purge in its stored form, so that it goes on after a start.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let words = [self.from, self.through, self.left, self.purged];
        let mut out: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        out.extend_from_slice(&self.filter);
        out
    }

    /// The inverse; `None` for bytes that this program does not write.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields { rest: bytes };
        let purge = Self {
            from: fields.word()?,
            through: fields.word()?,
            left: fields.word()?,
            purged: fields.word()?,
            filter: fields.all().to_vec(),
        };
        let is_within = purge.through <= SEQUENCE_MAX && purge.purged <= SEQUENCE_MAX;
        is_within.then_some(purge)
    }
}
