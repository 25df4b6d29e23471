//! Loads blocks from segments, and keeps those used last in memory: the cache of a lane.
//!
//! A caller that asks a stream for messages that are not in memory gets [`NotLoaded`], has the
//! block loaded and asks again. Blocks that are read in order are read ahead, further and further
//! while that goes on. Each block's checksum is checked. A block that is damaged, or cannot be read
//! several times, is lost, and only that one.
//!
//! Invariant: only contents that are stored durably leave memory. A change makes a block's contents
//! unstored; they stay until a checkpoint has stored them again.

use std::io;

use super::block::{Contents, NotLoaded};
use super::disk::{Disk, DiskBuffer};
use super::position::StoredPlace;
use super::record::StreamId;
use super::segment::{BlockDamage, BlockKind, BlockName, SegmentReader};
use super::streams::{HeldStream, LostBlock, Streams};
use super::turns::yield_now;
use crate::base::limits::{BLOCK_READS_MAX, READ_AHEAD_BYTES_MAX, SETTLED_PER_SLICE};

/// A read of one block that is needed, and of some behind it.
#[derive(Debug)]
pub(super) struct Load {
    stream: StreamId,
    /// All of them, one behind the other.
    span: StoredPlace,
    /// Each block's base and place.
    blocks: Vec<(u64, StoredPlace)>,
}

impl Streams {
    /// Sets the bytes of stored blocks that are kept in memory, and the number of the latest that
    /// always stay.
    pub(super) fn set_cache(&mut self, bytes_max: usize, blocks_min: usize) {
        (self.cache.bytes_max, self.cache.blocks_min) = (bytes_max, blocks_min);
        self.shrink_cache();
    }

    /// Sets the bytes of messages that are not stored yet.
    pub(super) fn set_tail(&mut self, bytes: usize) {
        self.cache.tail_bytes = bytes;
        self.shrink_cache();
    }

    /// Notes that a block's contents of that version are stored, durably: they may leave memory.
    pub(super) fn stored(&mut self, id: StreamId, base: u64, version: u64, place: StoredPlace) {
        let held = self.streams.get_mut(&id);
        if let Some(block) = held.and_then(|held| held.stream.block_mut(base)) {
            #[cfg(test)]
            let version = if self.cache.believes_stale { block.version() } else { version };
            block.stored(version, place);
            if block.is_loaded() && block.unstored_bytes() == 0 {
                self.cached(id, base);
            }
        }
    }

    /// Counts a block's contents, which are in memory and stored and may leave.
    fn cached(&mut self, id: StreamId, base: u64) {
        let held = self.streams.get_mut(&id);
        let Some(block) = held.and_then(|held| held.stream.block_mut(base)) else { return };
        if !std::mem::replace(&mut block.is_cached, true) {
            let bytes = block.memory_bytes();
            self.cache.bytes += bytes;
            self.cache.order.push_back((id, base, bytes));
        }
        self.shrink_cache();
    }

    /// Drops blocks from memory, first those that were not used since they were last considered.
    fn shrink_cache(&mut self) {
        while self.cache.bytes > self.cache.bytes_max.saturating_sub(self.cache.tail_bytes)
            && self.cache.order.len() > self.cache.blocks_min
            && let Some((id, base, bytes)) = self.cache.order.pop_front()
        {
            self.cache.bytes -= bytes;
            let held = self.streams.get_mut(&id);
            let Some(block) = held.and_then(|held| held.stream.block_mut(base)) else { continue };
            if block.is_loaded() && block.take_used() {
                let bytes = block.memory_bytes();
                self.cache.bytes += bytes;
                self.cache.order.push_back((id, base, bytes));
                continue;
            }
            block.is_cached = false;
            block.evict();
        }
    }

    /// Asserts that all stored contents in memory are counted, and that they are no more than the
    /// cache allows.
    #[cfg(test)]
    pub(super) fn check_cache(&self) {
        let blocks = self.streams.values().flat_map(|held| held.stream.blocks_from(0));
        let stored = blocks.filter(|block| block.is_loaded() && block.unstored_bytes() == 0);
        let count =
            stored.inspect(|block| assert!(block.is_cached, "a block is not counted")).count();
        let is_bounded = self.cache.bytes_max > 0 || count <= self.cache.blocks_min;
        assert!(is_bounded, "{count} blocks are in memory");
    }

    /// The read that brings a block; `None` where it is loaded by now, or gone.
    pub(super) fn plan_load(&mut self, id: StreamId, needed: NotLoaded) -> Option<Load> {
        let window_max = READ_AHEAD_BYTES_MAX.min(self.cache.bytes_max / 4);
        let stream = &mut self.streams.get_mut(&id)?.stream;
        let mut span = stream.block_mut(needed.base)?.missing()?;
        let (next, before) = stream.read_on;
        let window = if next == needed.base { (2 * before).min(window_max) } else { 0 };
        let mut blocks = vec![(needed.base, span)];
        let mut read_on = 0;
        for block in stream.blocks_from(needed.base).skip(1) {
            read_on = block.base();
            let follows = |place: &StoredPlace| {
                place.segment == span.segment
                    && place.offset == span.offset.wrapping_add(u64::from(span.bytes))
                    && span.bytes as usize + place.bytes as usize <= window
            };
            let Some(place) = block.missing().filter(follows) else { break };
            span.bytes += place.bytes;
            blocks.push((block.base(), place));
        }
        stream.read_on = (read_on, span.bytes as usize);
        Some(Load { stream: id, span, blocks })
    }

    /// Takes the result of a read. Returns the damage of the block that was needed, if there is
    /// any.
    pub(super) fn install<D: Disk>(
        &mut self,
        load: &Load,
        read: Result<&DiskBuffer, BlockDamage>,
        reader: &SegmentReader<D>,
    ) -> Result<(), BlockDamage> {
        let mut result = Ok(());
        for (index, (base, place)) in load.blocks.iter().enumerate() {
            let name = BlockName { kind: BlockKind::Messages, stream: load.stream, key: *base };
            let body = read.and_then(|buffer| {
                let begin = (place.offset - load.span.offset) as usize;
                let bytes = &buffer.as_slice()[begin..begin + place.bytes as usize];
                reader.body(*place, name, bytes)
            });
            let held = self.streams.get_mut(&load.stream);
            let Some(block) = held.and_then(|held| held.stream.block_mut(*base)) else { continue };
            // Others may meanwhile have loaded it, changed it, or stored it elsewhere.
            let is_wanted = block.missing() == Some(*place);
            if !is_wanted {
                continue;
            }
            let installed = body.and_then(|body| {
                let contents = Contents::decode(body).ok_or(BlockDamage::Changed)?;
                block.install(contents).then_some(()).ok_or(BlockDamage::Changed)
            });
            match installed {
                Ok(()) => self.cached(load.stream, *base),
                Err(damage) if index == 0 => result = Err(damage),
                // A caller that needs it reads it again.
                Err(_) => {}
            }
        }
        result
    }

    /// Drops a damaged block: it is lost.
    pub(super) fn lose(&mut self, id: StreamId, base: u64) {
        let Some(held) = self.streams.get_mut(&id) else { return };
        // Removals that wait for another block were decided with this one.
        if held.stream.waits_for_another(base) {
            return;
        }
        if let Some(block) = held.stream.block_mut(base)
            && let Some(StoredPlace { segment, .. }) = block.missing()
        {
            let lost = LostBlock { first: block.first(), last: block.last(), segment };
            held.lose(lost, base);
        }
    }

    /// Loads a block for a caller that has all streams to itself.
    ///
    /// # Errors
    /// Its segment cannot be opened now.
    pub(super) async fn load<D: Disk>(
        &mut self,
        reader: &SegmentReader<D>,
        id: StreamId,
        needed: NotLoaded,
    ) -> io::Result<()> {
        let mut result = Ok(());
        for _ in 0..BLOCK_READS_MAX {
            let Some(load) = self.plan_load(id, needed) else { return Ok(()) };
            let read = reader.read(load.span).await;
            result = self.install(&load, read.as_ref().map_err(|damage| *damage), reader);
            if result.is_ok() {
                return Ok(());
            }
        }
        match result {
            Err(BlockDamage::Unavailable(kind)) => Err(kind.into()),
            _ => {
                self.lose(id, needed.base);
                Ok(())
            }
        }
    }

    /// Reads every block that is not in memory. Those that cannot be read are lost.
    ///
    /// # Errors
    /// The same as those of [`Streams::load`].
    pub(super) async fn verify<D: Disk>(&mut self, reader: &SegmentReader<D>) -> io::Result<()> {
        let ids: Vec<StreamId> = self.streams.keys().copied().collect();
        for id in ids {
            self.finish(reader, id).await?;
            let mut from = 0;
            let next = |streams: &Self, from| {
                let mut blocks = streams.streams.get(&id)?.stream.blocks_from(from);
                blocks.find(|block| !block.is_loaded()).map(|block| block.base())
            };
            while let Some(base) = next(self, from) {
                from = base + 1;
                self.load(reader, id, NotLoaded { base }).await?;
            }
        }
        Ok(())
    }

    /// Restores the ids of a stream's latest messages.
    ///
    /// # Errors
    /// The same as those of [`Streams::load`].
    pub(super) async fn restore_ids<D: Disk>(
        &mut self,
        reader: &SegmentReader<D>,
        id: StreamId,
    ) -> io::Result<()> {
        let Some(held) = self.streams.get(&id) else { return Ok(()) };
        let mut from = held.stream.first_with_ids();
        while let Some(held) = self.streams.get_mut(&id)
            && let Err(needed) = held.stream.restore_ids(&mut from)
        {
            self.load(reader, id, needed).await?;
            self.finish(reader, id).await?;
        }
        Ok(())
    }

    /// Finishes the last change of a stream.
    ///
    /// # Errors
    /// The same as those of [`Streams::load`].
    pub(super) async fn finish<D: Disk>(
        &mut self,
        reader: &SegmentReader<D>,
        id: StreamId,
    ) -> io::Result<()> {
        while let Some(held) = self.streams.get_mut(&id) {
            match held.finish_some(SETTLED_PER_SLICE) {
                Ok(true) => break,
                Ok(false) => yield_now().await,
                Err(needed) => self.load(reader, id, needed).await?,
            }
        }
        Ok(())
    }
}

impl Load {
    pub(super) fn span(&self) -> StoredPlace {
        self.span
    }

    /// The blocks, by their bases.
    pub(super) fn bases(&self) -> impl Iterator<Item = u64> {
        self.blocks.iter().map(|(base, _)| *base)
    }
}

impl HeldStream {
    /// Goes on with a purge and with the rest of the last change; true once both are done.
    pub(super) fn finish_some(&mut self, steps_max: usize) -> Result<bool, NotLoaded> {
        if let Some(mut purge) = self.purge.take() {
            match self.stream.purge_some(&mut purge, steps_max) {
                Ok(true) => {}
                other => {
                    self.purge = Some(purge);
                    return other;
                }
            }
        }
        self.stream.settle(steps_max)
    }
}
