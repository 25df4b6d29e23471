//! A stream as a checkpoint notes it, and as a start makes it anew from that.

use std::collections::BTreeSet;

use super::{Block, Purge, SEQUENCE_MAX, Stream, StreamLimits, SubjectIndex, SubjectTotals};
use crate::storage::block::{BLOCK_BYTES_FULL, NotedBlock, SubjectHasher};
use crate::storage::duplicates::Duplicates;
use crate::storage::expiries::Expiries;
use crate::storage::fields::Fields;

/// What is kept of a stream beside its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamFacts {
    pub last_sequence: u64,
    pub last_time_ns: i64,
}

/// What is new of a stream.
#[derive(Debug)]
pub struct NotedStream {
    pub facts: StreamFacts,
    pub blocks: Vec<NotedBlock>,
    /// Blocks that are gone, by their base.
    pub gone: Vec<u64>,
}

impl Stream {
    /// What a manifest is to say: all there is, or what changed since the last call.
    pub fn note(&mut self, all: bool, given_up: &BTreeSet<u64>) -> NotedStream {
        let gone = std::mem::take(&mut self.gone);
        NotedStream {
            facts: StreamFacts {
                last_sequence: self.last_sequence,
                last_time_ns: self.last_time_ns,
            },
            blocks: self.blocks.iter_mut().filter_map(|block| block.note(all, given_up)).collect(),
            gone: if all { Vec::new() } else { gone },
        }
    }

    /// Removes a block, and with it what it still holds.
    pub(super) fn remove_block(&mut self, index: usize) -> Option<Block> {
        let block = self.blocks.remove(index)?;
        if block.is_noted() {
            self.gone.push(block.base());
        }
        Some(block)
    }

    /// Makes one block of two neighbours that are small together: where most is deleted there are not many small ones.
    pub(super) fn merge_around(&mut self, index: usize) {
        let bytes_max = self.block_bytes / 2;
        for first in [index.checked_sub(1), Some(index)].into_iter().flatten() {
            let Some(next) = self.blocks.get(first + 1) else { continue };
            if self.blocks[first].can_merge(next, bytes_max) {
                let next = self.remove_block(first + 1).expect("it is there");
                self.blocks[first].merge(&next, self.hasher);
                return;
            }
        }
    }

    /// The block with this base.
    pub fn block_mut(&mut self, base: u64) -> Option<&mut Block> {
        let index = self.blocks.binary_search_by_key(&base, Block::base).ok()?;
        self.blocks.get_mut(index)
    }

    /// Bytes past which a block is complete, from now on.
    pub fn set_block_bytes(&mut self, bytes: usize) {
        self.block_bytes = bytes;
    }

    /// A stream of these blocks, which are in order. Of messages that are gone no id is known any more.
    pub fn restore(
        limits: StreamLimits,
        facts: StreamFacts,
        blocks: Vec<Block>,
        hash_seed: u64,
    ) -> Self {
        let mut stream = Self {
            limits,
            hasher: SubjectHasher { seed: hash_seed },
            block_bytes: BLOCK_BYTES_FULL,
            blocks: blocks.into(),
            gone: Vec::new(),
            subjects: SubjectIndex::default(),
            messages: 0,
            bytes: 0,
            last_sequence: facts.last_sequence,
            last_time_ns: facts.last_time_ns,
            duplicates: Duplicates::default(),
            expiries: Expiries::default(),
            aged_from: 0,
            last_id_gone: None,
        };
        for message in stream.blocks.iter().flat_map(Block::messages) {
            let marks = limits.marks(message.headers);
            if let Some(id) = marks.id {
                let (sequence, time_ns) = (message.sequence, message.time_ns);
                stream.duplicates.insert(id, sequence, time_ns, limits.duplicate_window_ns);
            }
            if let Some(time_to_live) = marks.time_to_live {
                stream.expiries.insert(message.sequence, message.time_ns, time_to_live);
            }
            let sequence = message.sequence;
            stream.messages += 1;
            stream.bytes += limits.message_bytes(message.subject, message.headers, message.payload);
            stream.subjects.update(message.subject, |totals| {
                Some(match totals {
                    None => SubjectTotals::single(sequence),
                    Some(totals) => {
                        SubjectTotals { count: totals.count + 1, last: sequence, ..totals }
                    }
                })
            });
        }
        // Only the last block takes more.
        let count = stream.blocks.len().saturating_sub(1);
        for block in stream.blocks.iter_mut().take(count).filter(|block| !block.is_complete()) {
            block.complete(stream.hasher);
        }
        stream
    }
}

impl Purge {
    /// The purge, to go on with after a start.
    pub fn encode(&self) -> Vec<u8> {
        let words = [self.from, self.through, self.left, self.purged];
        let mut out: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        out.extend_from_slice(&self.filter);
        out
    }

    /// The inverse; none where it is nothing that this program writes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
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
