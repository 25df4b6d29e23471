//! A segment: a file of blocks of all streams of a lane, written once by a checkpoint and never
//! changed.
//!
//! Blocks stand behind one another, each behind a header of 32 bytes, little-endian: checksum of
//! all that follows, the body included | bytes of the body u32 | kind u32 | stream u64 | key u64.
//! The key is the base of a block of messages, or a number of its own for a part of an index. The
//! checksum's seed is made from the lane, the segment's number and the offset, like that of a
//! journal's frame: a block of another place is not valid. The manifest holds the places of blocks;
//! no segment is ever searched.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::block::BLOCK_BYTES_FULL;
use super::disk::{Access, Disk, DiskBuffer, SECTOR_BYTES};
use super::file_name;
use super::frame::{LaneSeed, checksum, half_word, word};
use super::position::StoredPlace;
use super::record::StreamId;
use super::recovery::JournalPlace;
use super::turns::yield_now;
use crate::base::limits::{SEGMENT_WRITE_BYTES, SEGMENTS_OPEN_MAX};

const PREFIX: &str = "segment-";

const HEADER_BYTES: usize = 32;

/// The part of a lane's seed that belongs to segments.
const SEED_KIND: &[u8] = b"segment";

/// The contents of a stored block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockKind {
    Messages,
    /// A part of a stream's index of subjects.
    Subjects,
}

impl BlockKind {
    fn number(self) -> u32 {
        match self {
            Self::Messages => 1,
            Self::Subjects => 2,
        }
    }
}

/// Names a stored block within a lane: its kind, its stream, and its number within that kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockName {
    pub kind: BlockKind,
    pub stream: StreamId,
    pub key: u64,
}

/// The reason why a stored block cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockDamage {
    /// The file is not there or cannot be read at that place.
    Unreadable,
    /// The bytes there are not those that were written.
    Changed,
    /// The file cannot be opened now, for a reason that says nothing about its contents.
    Unavailable(io::ErrorKind),
}

/// The name of a segment within its lane's folder.
pub(crate) fn name(number: u64) -> String {
    file_name::of(PREFIX, number)
}

/// The number of a segment of this name.
pub fn number_of(name: &str) -> Option<u64> {
    file_name::number(PREFIX, name)
}

/// The size in bytes of the longest block: one of many messages, or of one that a journal file
/// holds.
fn bytes_max(place: &JournalPlace) -> u64 {
    place.file_bytes + 2 * BLOCK_BYTES_FULL as u64
}

pub(super) fn path(place: &JournalPlace, number: u64) -> String {
    format!("{}/{}", place.folder, name(number))
}

/// The count of segment numbers that each lane has; its first is its own number times this. A
/// segment keeps its number, and with it its seeds, wherever it is moved to.
const SEGMENTS_PER_LANE: u64 = 100_000_000_000;

/// The first number that a lane may use if it knows these segments, its own and others'.
pub(super) fn next_number<'a>(lane: u32, known: impl IntoIterator<Item = &'a u64>) -> u64 {
    let count = known.into_iter().map(|number| number % SEGMENTS_PER_LANE).max().unwrap_or(0);
    u64::from(lane) * SEGMENTS_PER_LANE + count + 1
}

/// True if the lane that wrote the segment has hardly a number left.
pub(super) fn is_near_the_end(number: u64) -> bool {
    number % SEGMENTS_PER_LANE > SEGMENTS_PER_LANE / 2
}

fn seed_at(seed: LaneSeed, segment: u64, offset: u64) -> u64 {
    // No lane has such a number, so there is no such segment.
    let lane = u32::try_from(segment / SEGMENTS_PER_LANE).unwrap_or(u32::MAX);
    seed.of_lane(lane).of_kind(SEED_KIND).at(segment, offset)
}

/// Appends a block to `buffer`, which begins at `start` of its segment.
fn push_block(
    buffer: &mut DiskBuffer,
    seed: LaneSeed,
    (segment, start): (u64, u64),
    block: BlockName,
    body: &[&[u8]],
) -> StoredPlace {
    let begin = buffer.len();
    let offset = start + begin as u64;
    let body_bytes: usize = body.iter().map(|part| part.len()).sum();
    let length = u32::try_from(body_bytes).expect("a block is shorter than 4 GiB");
    buffer.extend(&[0; 8]);
    buffer.extend(&length.to_le_bytes());
    buffer.extend(&block.kind.number().to_le_bytes());
    buffer.extend(&block.stream.0.to_le_bytes());
    buffer.extend(&block.key.to_le_bytes());
    body.iter().for_each(|part| buffer.extend(part));
    let bytes = &mut buffer.as_mut_slice()[begin..];
    let sum = checksum(seed_at(seed, segment, offset), &bytes[8..]);
    bytes[..8].copy_from_slice(&sum.to_le_bytes());
    let bytes = u32::try_from(bytes.len()).expect("a block is shorter than 4 GiB");
    StoredPlace { segment, offset, bytes }
}

/// The body of a block, if these are the bytes of that block at its place.
fn body_of(seed: LaneSeed, place: StoredPlace, block: BlockName, bytes: &[u8]) -> Option<&[u8]> {
    let body = bytes.get(HEADER_BYTES..)?;
    let is_it = bytes.len() == place.bytes as usize
        && word(bytes, 0) == checksum(seed_at(seed, place.segment, place.offset), &bytes[8..])
        && half_word(bytes, 8) as usize == body.len()
        && half_word(bytes, 12) == block.kind.number()
        && word(bytes, 16) == block.stream.0
        && word(bytes, 24) == block.key;
    is_it.then_some(body)
}

/// Reads blocks. Keeps some segments open.
pub(crate) struct SegmentReader<D: Disk> {
    disk: D,
    place: JournalPlace,
    /// Open files with their lengths.
    open: RefCell<BTreeMap<u64, (D::File, u64)>>,
}

impl<D: Disk> SegmentReader<D> {
    pub(crate) fn new(disk: D, place: JournalPlace) -> Self {
        Self { disk, place, open: RefCell::default() }
    }

    async fn file(&self, number: u64) -> io::Result<(D::File, u64)> {
        if let Some(found) = self.open.borrow().get(&number) {
            return Ok(found.clone());
        }
        let file = self.disk.open(&path(&self.place, number), Access::Read).await?;
        let length = self.disk.length(&file).await?;
        let mut open = self.open.borrow_mut();
        if open.len() >= SEGMENTS_OPEN_MAX {
            open.pop_first();
        }
        open.insert(number, (file.clone(), length));
        Ok((file, length))
    }

    /// Closes a segment that is not needed any more.
    pub(crate) fn close(&self, number: u64) {
        self.open.borrow_mut().remove(&number);
    }

    /// The length of a segment; 0 if it cannot be found.
    pub(crate) async fn length(&self, number: u64) -> u64 {
        self.file(number).await.map_or(0, |(_, length)| length)
    }

    /// Reads the bytes of a place: one block or several, one behind the other.
    ///
    /// # Errors
    /// The bytes are not there, or the disk does not return them.
    pub(crate) async fn read(&self, stored: StoredPlace) -> Result<DiskBuffer, BlockDamage> {
        let unreadable = |_| BlockDamage::Unreadable;
        let unavailable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => BlockDamage::Unreadable,
            kind => BlockDamage::Unavailable(kind),
        };
        let (file, length) = self.file(stored.segment).await.map_err(unavailable)?;
        // No more is read than the file holds: the length in a place may be wrong.
        let end = stored.offset.checked_add(u64::from(stored.bytes));
        let is_long = u64::from(stored.bytes) > bytes_max(&self.place);
        if is_long || end.is_none_or(|end| end > length) {
            return Err(BlockDamage::Changed);
        }
        let buffer = DiskBuffer::zeroed(stored.bytes as usize);
        let (count, buffer) = self.disk.read(&file, stored.offset, buffer).await;
        match count.map_err(unreadable)? == stored.bytes as usize {
            true => Ok(buffer),
            false => Err(BlockDamage::Changed),
        }
    }

    /// The body of a block, if these are the bytes of that block at its place.
    pub(crate) fn body<'bytes>(
        &self,
        stored: StoredPlace,
        block: BlockName,
        bytes: &'bytes [u8],
    ) -> Result<&'bytes [u8], BlockDamage> {
        body_of(self.place.seed, stored, block, bytes).ok_or(BlockDamage::Changed)
    }
}

/// A write under way, with the buffer it brings back.
type Writing = Pin<Box<dyn Future<Output = (io::Result<()>, DiskBuffer)>>>;

/// Writes a segment. The file is made with the first block. One piece is written while the next
/// gathers: the disk does not wait for checksums, nor they for the disk.
pub(crate) struct SegmentWriter<D: Disk> {
    disk: D,
    place: JournalPlace,
    number: u64,
    file: Option<D::File>,
    /// Bytes that were not given to the disk yet, and the offset that they belong at.
    buffer: DiskBuffer,
    offset: u64,
    writing: Option<Writing>,
    /// The buffer that gathers next.
    free: DiskBuffer,
    #[cfg(test)]
    skips_sync: bool,
}

impl<D: Disk> SegmentWriter<D> {
    pub(crate) fn new(disk: D, place: JournalPlace, number: u64) -> Self {
        Self {
            disk,
            place,
            number,
            file: None,
            buffer: DiskBuffer::default(),
            offset: 0,
            writing: None,
            free: DiskBuffer::default(),
            #[cfg(test)]
            skips_sync: false,
        }
    }

    /// A mistake for the simulator to find.
    #[cfg(test)]
    pub(super) fn skip_sync(&mut self, skips: bool) {
        self.skips_sync = skips;
    }

    /// Bytes of all blocks so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.offset + self.buffer.len() as u64
    }

    /// True if there may be a file.
    pub(crate) fn is_begun(&self) -> bool {
        self.file.is_some() || self.offset > 0
    }

    /// Appends a block, whose body comes in parts.
    ///
    /// # Errors
    /// An error of the disk. The segment is of no use then.
    pub(crate) async fn push(
        &mut self,
        block: BlockName,
        body: &[&[u8]],
    ) -> io::Result<StoredPlace> {
        if self.file.is_none() {
            let name = path(&self.place, self.number);
            self.file = Some(self.disk.open(&name, Access::Create).await?);
        }
        let start = (self.number, self.offset);
        let stored = push_block(&mut self.buffer, self.place.seed, start, block, body);
        if self.buffer.len() >= SEGMENT_WRITE_BYTES {
            self.write_gathered().await?;
            // The next piece is as much work as this one was.
            yield_now().await;
        }
        Ok(stored)
    }

    /// Gives the disk whole sectors of the gathered bytes, once the write of the piece before is
    /// done.
    async fn write_gathered(&mut self) -> io::Result<()> {
        self.written().await?;
        let Some(file) = self.file.clone() else { return Ok(()) };
        let length = self.buffer.len() / SECTOR_BYTES * SECTOR_BYTES;
        if length == 0 {
            return Ok(());
        }
        let mut next = std::mem::take(&mut self.free);
        next.clear();
        next.extend(&self.buffer.as_slice()[length..]);
        let mut piece = std::mem::replace(&mut self.buffer, next);
        piece.truncate(length);
        let (disk, offset) = (self.disk.clone(), self.offset);
        let write = async move { disk.write(&file, offset, piece).await };
        let mut writing: Writing = Box::pin(write);
        // The first poll starts the write; whoever waits for it is woken by a later one.
        match writing.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => self.writing = Some(writing),
            Poll::Ready((result, buffer)) => {
                self.free = buffer;
                result?;
            }
        }
        self.offset += length as u64;
        Ok(())
    }

    /// Waits until the disk is done with the piece under way.
    async fn written(&mut self) -> io::Result<()> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        let (result, buffer) = writing.await;
        self.free = buffer;
        result
    }

    /// Makes the segment durable, except for its name.
    ///
    /// # Errors
    /// An error of the disk. The segment is of no use then.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        let length = self.buffer.len().next_multiple_of(SECTOR_BYTES);
        self.buffer.pad_to(length);
        self.write_gathered().await?;
        self.written().await?;
        #[cfg(test)]
        if self.skips_sync {
            return Ok(());
        }
        match &self.file {
            Some(file) => self.disk.sync(file).await,
            None => Ok(()),
        }
    }
}

/// Removes a segment. A failure is no error: the next start tries again.
pub(crate) async fn remove<D: Disk>(disk: &D, place: &JournalPlace, number: u64) -> bool {
    disk.remove(&path(place, number)).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::super::frame::StoreId;
    use super::super::memory_disk::MemoryDisk;
    use super::*;

    fn place() -> JournalPlace {
        let seed = LaneSeed::new(StoreId([3; 16]), 0);
        JournalPlace { folder: "lane-0".into(), seed, file_bytes: SEGMENT_WRITE_BYTES as u64 }
    }

    fn block(stream: u64, key: u64) -> BlockName {
        BlockName { kind: BlockKind::Messages, stream: StreamId(stream), key }
    }

    fn body(
        disk: &MemoryDisk,
        stored: StoredPlace,
        name: BlockName,
    ) -> Result<Vec<u8>, BlockDamage> {
        let reader = SegmentReader::new(disk.clone(), place());
        let bytes = disk.run(reader.read(stored))?;
        reader.body(stored, name, bytes.as_slice()).map(<[u8]>::to_vec)
    }

    #[test]
    fn blocks_read_back_at_their_places_and_no_others_do() {
        let disk = MemoryDisk::new(1);
        disk.run(disk.make_folder("lane-0")).expect("no fault is set");
        let mut writer = SegmentWriter::new(disk.clone(), place(), 5);
        assert!(!writer.is_begun());
        let first = disk.run(writer.push(block(1, 9), &[b"abc", b"", b"d"])).expect("no fault");
        let large = vec![7; SEGMENT_WRITE_BYTES + BLOCK_BYTES_FULL];
        let second = disk.run(writer.push(block(2, 0), &[&large])).expect("no fault");
        let third = disk.run(writer.push(block(2, 1), &[])).expect("no fault");
        disk.run(writer.finish()).expect("no fault");
        assert!(writer.is_begun());
        assert_eq!(body(&disk, first, block(1, 9)), Ok(b"abcd".to_vec()));
        assert!(body(&disk, second, block(2, 0)) == Ok(large));
        let longer = StoredPlace { bytes: u32::MAX, ..second };
        assert!(body(&disk, longer, block(2, 0)) == Err(BlockDamage::Changed));
        assert_eq!(body(&disk, third, block(2, 1)), Ok(Vec::new()));
        assert_eq!(body(&disk, third, block(2, 2)), Err(BlockDamage::Changed));
        assert_eq!(body(&disk, first, block(2, 9)), Err(BlockDamage::Changed));
        let beyond = StoredPlace { offset: third.offset + 1, ..third };
        assert_eq!(body(&disk, beyond, block(2, 1)), Err(BlockDamage::Changed));
        let elsewhere = StoredPlace { segment: 6, ..third };
        assert_eq!(body(&disk, elsewhere, block(2, 1)), Err(BlockDamage::Unreadable));
    }

    #[test]
    fn each_flipped_bit_is_found() {
        let seed = place().seed;
        let mut buffer = DiskBuffer::default();
        let stored = push_block(&mut buffer, seed, (1, 64), block(1, 2), &[b"body"]);
        assert!(body_of(seed, stored, block(1, 2), buffer.as_slice()).is_some());
        for bit in 0..buffer.len() * 8 {
            buffer.as_mut_slice()[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(body_of(seed, stored, block(1, 2), buffer.as_slice()), None, "bit {bit}");
            buffer.as_mut_slice()[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
