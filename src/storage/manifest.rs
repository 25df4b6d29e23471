//! A lane's manifest: all that a start needs besides the journal, as of a checkpoint.
//!
//! Each checkpoint writes one file, `manifest-N`: a base holds everything, and a delta after it the
//! changes since the one before. The newest base with all its deltas is the state. A file is
//! written under another name and renamed once it is durable, so it is there as a whole or not at
//! all: a file that is not whole is damaged.
//!
//! A file is frames, like those of the journal, with seeds of their own. Their records are
//! [`Entry`]s: a kind (one byte) and fields of fixed length, little-endian; a field without a fixed
//! length comes last, or behind its length. The last entry is [`Entry::End`].
//!
//! Streams are noted one after the other while the lane goes on. So each has the commit that it is
//! as of: a replay skips the records that it includes. A stream that is not there at the end of the
//! walk was deleted before.

use std::io;

use super::block::{BlockFacts, EntrySet};
use super::disk::{Access, Disk, DiskBuffer, SECTOR_BYTES};
use super::fields::Fields;
use super::file_name;
use super::frame::{FrameFields, HEADER_BYTES, LaneSeed, header, push_record, records, seal};
use super::position::{COUNT_MAX, CommitNumber, Place, Position, StoredPlace};
use super::record::{ConsumerId, StreamId};
use super::recovery::JournalPlace;
use super::stream::noted::StreamFacts;
use crate::base::limits::{MANIFEST_FRAME_BYTES, MANIFEST_FRAME_BYTES_MAX};

const PREFIX: &str = "manifest-";

/// Follows the name of a file that is being written.
const TEMPORARY: &str = ".new";

/// The part of a lane's seed that belongs to manifests.
const SEED_KIND: &[u8] = b"manifest";

/// The name of a manifest in the lane's folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestName {
    pub number: u64,
    pub is_temporary: bool,
}

impl ManifestName {
    /// `None` where it is no manifest's name.
    pub fn parse(name: &str) -> Option<Self> {
        let (name, is_temporary) = match name.strip_suffix(TEMPORARY) {
            Some(name) => (name, true),
            None => (name, false),
        };
        Some(Self { number: file_name::number(PREFIX, name)?, is_temporary })
    }

    /// The name from the store's folder on.
    pub(crate) fn path(self, place: &JournalPlace) -> String {
        let suffix = if self.is_temporary { TEMPORARY } else { "" };
        format!("{}/{}{suffix}", place.folder, file_name::of(PREFIX, self.number))
    }
}

/// An entry of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry<'bytes> {
    Stream {
        stream: StreamId,
        /// Records of commits before this one are included.
        as_of: CommitNumber,
        facts: StreamFacts,
        /// A purge that is not done; empty where there is none.
        purge: &'bytes [u8],
        /// The journal's record of the creation of such a stream.
        created: &'bytes [u8],
    },
    StreamGone(StreamId),
    Block {
        stream: StreamId,
        facts: BlockFacts,
        stored: StoredPlace,
    },
    BlockGone {
        stream: StreamId,
        base: u64,
    },
    /// A part of the stream's index of subjects, behind those that came before. The first one
    /// counts for all.
    Index {
        stream: StreamId,
        key: u64,
        stored: StoredPlace,
        is_first: bool,
    },
    Consumer {
        stream: StreamId,
        /// The journal's record of the creation of such a consumer.
        created: &'bytes [u8],
        /// The state, encoded.
        state: &'bytes [u8],
    },
    ConsumerGone {
        stream: StreamId,
        consumer: ConsumerId,
    },
    /// Messages that were lost with a block, and the segment that is kept for it.
    Lost {
        stream: StreamId,
        first: u64,
        last: u64,
        segment: u64,
    },
    End(ManifestEnd),
}

/// The last entry of a manifest, about the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ManifestEnd {
    /// The number of the base that this manifest builds on; its own if it is one.
    pub base: u64,
    /// The place where reading of the journal begins.
    pub start: Position,
    /// All commits before this one were durable. Streams and consumers that were deleted by then
    /// are not listed.
    pub walked: CommitNumber,
    pub next_stream: u64,
    pub next_consumer: u64,
}

impl ManifestEnd {
    /// True if a lane in that place can have come to such an end.
    pub(crate) fn is_sound(&self, place: &JournalPlace) -> bool {
        let Position { place: Place { file, offset }, next, .. } = self.start;
        let is_place = offset <= place.file_bytes && offset.is_multiple_of(SECTOR_BYTES as u64);
        let counts = [self.walked.0, self.next_stream, self.next_consumer];
        is_place
            && file <= file_name::NUMBER_HELD_MAX
            && next.0 > 0
            && next <= self.walked
            && counts.iter().all(|count| *count <= COUNT_MAX)
            && StreamId(self.next_stream).is_of(place.seed.lane())
    }
}

const STREAM: u8 = 1;
const STREAM_GONE: u8 = 2;
const BLOCK: u8 = 3;
const BLOCK_GONE: u8 = 4;
const CONSUMER: u8 = 5;
const CONSUMER_GONE: u8 = 6;
const LOST: u8 = 7;
const END: u8 = 8;
const INDEX: u8 = 9;

impl<'bytes> Entry<'bytes> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let words = |kind: u8, words: &[u64]| {
            let mut out = vec![kind];
            words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
            out
        };
        match self {
            Self::Stream { stream, as_of, facts, purge, created } => {
                let StreamFacts { last_sequence, last_time_ns, bytes } = *facts;
                let purge_bytes = purge.len() as u64;
                let time = last_time_ns as u64;
                let fields = [stream.0, as_of.0, last_sequence, time, bytes, purge_bytes];
                [&words(STREAM, &fields), *purge, *created].concat()
            }
            Self::StreamGone(stream) => words(STREAM_GONE, &[stream.0]),
            Self::Block { stream, facts, stored } => {
                let BlockFacts { base, first, last, count, id_count, .. } = *facts;
                let StoredPlace { segment, offset, bytes } = *stored;
                let times = [facts.first_time_ns, facts.last_time_ns, facts.end_ns];
                let [first_time, last_time, end] = times.map(|time_ns| time_ns as u64);
                let prints = facts.prints.as_deref();
                let print_count = prints.map_or(0, |prints| prints.len() as u64 + 1);
                let mut out = words(
                    BLOCK,
                    &[
                        stream.0,
                        base,
                        first,
                        last,
                        u64::from(count),
                        first_time,
                        last_time,
                        end,
                        u64::from(id_count),
                        segment,
                        offset,
                        u64::from(bytes),
                        u64::from(facts.is_complete),
                        print_count,
                    ],
                );
                for print in prints.unwrap_or_default() {
                    out.extend_from_slice(&print.to_le_bytes());
                }
                for word in facts.dead.words() {
                    out.extend_from_slice(&word.to_le_bytes());
                }
                out
            }
            Self::BlockGone { stream, base } => words(BLOCK_GONE, &[stream.0, *base]),
            Self::Index { stream, key, stored, is_first } => {
                let StoredPlace { segment, offset, bytes } = *stored;
                let place = [segment, offset, u64::from(bytes)];
                words(INDEX, &[&[stream.0, *key], &place[..], &[u64::from(*is_first)]].concat())
            }
            Self::Consumer { stream, created, state } => {
                let head = words(CONSUMER, &[stream.0, created.len() as u64]);
                [&head, *created, *state].concat()
            }
            Self::ConsumerGone { stream, consumer } => {
                words(CONSUMER_GONE, &[stream.0, consumer.0])
            }
            Self::Lost { stream, first, last, segment } => {
                words(LOST, &[stream.0, *first, *last, *segment])
            }
            Self::End(end) => {
                let Position { place, next, previous } = end.start;
                let start = [place.file, place.offset, next.0, previous];
                let rest = [end.walked.0, end.next_stream, end.next_consumer];
                words(END, &[&[end.base], &start[..], &rest].concat())
            }
        }
    }

    /// `None` where it is no entry that this program writes.
    pub(crate) fn decode(bytes: &'bytes [u8]) -> Option<Self> {
        let (&kind, rest) = bytes.split_first()?;
        let mut fields = Fields { rest };
        let entry = match kind {
            STREAM => {
                let (stream, as_of) = (StreamId(fields.word()?), CommitNumber(fields.word()?));
                let facts = StreamFacts {
                    last_sequence: fields.word()?,
                    last_time_ns: fields.word()? as i64,
                    bytes: fields.word()?,
                };
                let purge = fields.prefixed()?;
                Self::Stream { stream, as_of, facts, purge, created: fields.all() }
            }
            STREAM_GONE => Self::StreamGone(StreamId(fields.word()?)),
            BLOCK => {
                let stream = StreamId(fields.word()?);
                let mut facts = BlockFacts {
                    base: fields.word()?,
                    first: fields.word()?,
                    last: fields.word()?,
                    count: u32::try_from(fields.word()?).ok()?,
                    first_time_ns: fields.word()? as i64,
                    last_time_ns: fields.word()? as i64,
                    end_ns: fields.word()? as i64,
                    id_count: u32::try_from(fields.word()?).ok()?,
                    is_complete: false,
                    dead: EntrySet::default(),
                    prints: None,
                };
                let stored = StoredPlace {
                    segment: fields.word()?,
                    offset: fields.word()?,
                    bytes: u32::try_from(fields.word()?).ok()?,
                };
                facts.is_complete = match fields.word()? {
                    0 => false,
                    1 => true,
                    _ => return None,
                };
                if let Some(count) = fields.word()?.checked_sub(1) {
                    let count = usize::try_from(count).ok()?;
                    let (prints, rest) = fields.rest.split_at_checked(count.checked_mul(2)?)?;
                    let prints = prints.as_chunks::<2>().0.iter().copied().map(u16::from_le_bytes);
                    facts.prints = Some(prints.collect());
                    fields.rest = rest;
                }
                let mut dead = Vec::with_capacity(fields.rest.len() / 8);
                while !fields.rest.is_empty() {
                    dead.push(fields.word()?);
                }
                facts.dead = EntrySet::from_words(dead);
                Self::Block { stream, facts, stored }
            }
            BLOCK_GONE => {
                Self::BlockGone { stream: StreamId(fields.word()?), base: fields.word()? }
            }
            INDEX => Self::Index {
                stream: StreamId(fields.word()?),
                key: fields.word()?,
                stored: StoredPlace {
                    segment: fields.word()?,
                    offset: fields.word()?,
                    bytes: u32::try_from(fields.word()?).ok()?,
                },
                is_first: match fields.word()? {
                    0 => false,
                    1 => true,
                    _ => return None,
                },
            },
            CONSUMER => {
                let stream = StreamId(fields.word()?);
                Self::Consumer { stream, created: fields.prefixed()?, state: fields.all() }
            }
            CONSUMER_GONE => Self::ConsumerGone {
                stream: StreamId(fields.word()?),
                consumer: ConsumerId(fields.word()?),
            },
            LOST => Self::Lost {
                stream: StreamId(fields.word()?),
                first: fields.word()?,
                last: fields.word()?,
                segment: fields.word()?,
            },
            END => Self::End(ManifestEnd {
                base: fields.word()?,
                start: Position {
                    place: Place { file: fields.word()?, offset: fields.word()? },
                    next: CommitNumber(fields.word()?),
                    previous: fields.word()?,
                },
                walked: CommitNumber(fields.word()?),
                next_stream: fields.word()?,
                next_consumer: fields.word()?,
            }),
            _ => return None,
        };
        fields.rest.is_empty().then_some(entry)
    }
}

/// Writes a manifest.
pub(crate) struct ManifestWriter<D: Disk> {
    disk: D,
    place: JournalPlace,
    number: u64,
    seed: LaneSeed,
    file: D::File,
    offset: u64,
    /// The frame that is being filled.
    buffer: DiskBuffer,
    record_count: u32,
    fields: FrameFields,
    #[cfg(test)]
    skips_sync: bool,
}

impl<D: Disk> ManifestWriter<D> {
    /// Begins a file whose number was never used.
    ///
    /// # Errors
    /// An error of the disk.
    pub(crate) async fn begin(disk: D, place: JournalPlace, number: u64) -> io::Result<Self> {
        let name = ManifestName { number, is_temporary: true }.path(&place);
        let file = disk.open(&name, Access::Create).await?;
        let mut buffer = DiskBuffer::default();
        buffer.pad_to(HEADER_BYTES);
        let seed = place.seed.of_kind(SEED_KIND);
        let fields = FrameFields { number: 1, previous: 0, durable: 0, record_count: 0 };
        Ok(Self {
            disk,
            place,
            number,
            seed,
            file,
            offset: 0,
            buffer,
            record_count: 0,
            fields,
            #[cfg(test)]
            skips_sync: false,
        })
    }

    /// A mistake for the simulator to find.
    #[cfg(test)]
    pub(super) fn skip_sync(&mut self, skips: bool) {
        self.skips_sync = skips;
    }

    /// # Errors
    /// An error of the disk. The file is of no use then.
    pub(crate) async fn push(&mut self, entry: &[u8]) -> io::Result<()> {
        if self.buffer.len() + entry.len() > MANIFEST_FRAME_BYTES_MAX - SECTOR_BYTES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "an entry is too long"));
        }
        push_record(&mut self.buffer, &[entry]);
        self.record_count += 1;
        if self.buffer.len() >= MANIFEST_FRAME_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        self.fields.record_count = std::mem::take(&mut self.record_count);
        let sum = seal(&mut buffer, self.fields, self.seed.at(self.number, self.offset));
        self.fields.previous = sum;
        self.fields.number += 1;
        let length = buffer.len() as u64;
        let (result, mut buffer) = self.disk.write(&self.file, self.offset, buffer).await;
        self.offset += length;
        buffer.clear();
        buffer.pad_to(HEADER_BYTES);
        self.buffer = buffer;
        result
    }

    /// Writes the last entry, and makes everything durable except for the name.
    ///
    /// # Errors
    /// An error of the disk. The file is of no use then.
    pub(crate) async fn finish(&mut self, end: ManifestEnd) -> io::Result<()> {
        push_record(&mut self.buffer, &[&Entry::End(end).encode()]);
        self.record_count += 1;
        self.flush().await?;
        #[cfg(test)]
        let is_synced = !self.skips_sync;
        #[cfg(not(test))]
        let is_synced = true;
        if is_synced {
            self.disk.sync(&self.file).await?;
        }
        Ok(())
    }

    /// Makes the manifest, which is finished, the newest one.
    ///
    /// # Errors
    /// An error of the disk. It may be the newest all the same: the next start finds out.
    pub(crate) async fn publish(self) -> io::Result<()> {
        let name =
            |is_temporary| ManifestName { number: self.number, is_temporary }.path(&self.place);
        self.disk.rename(&name(true), &name(false)).await?;
        self.disk.sync_folder(&self.place.folder).await
    }
}

/// The reason why a manifest is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestFault {
    Unreadable,
    /// Its bytes are not those that were written.
    Damaged,
    /// This program does not understand its entries.
    Unfit,
}

impl ManifestFault {
    pub fn text(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Damaged => "damaged",
            Self::Unfit => "of no known form",
        }
    }
}

/// Reads a manifest and gives its entries to `visit`, except for the end, which it returns. After
/// an error `visit` may have seen some of the entries.
///
/// # Errors
/// It is not whole.
pub(crate) async fn read_manifest<D: Disk>(
    disk: &D,
    place: &JournalPlace,
    number: u64,
    mut visit: impl FnMut(Entry<'_>) -> Result<(), ManifestFault>,
) -> Result<ManifestEnd, ManifestFault> {
    let unreadable = |_| ManifestFault::Unreadable;
    let name = ManifestName { number, is_temporary: false }.path(place);
    let file = disk.open(&name, Access::Read).await.map_err(unreadable)?;
    // Bytes that a killed process left in the kernel's memory are durable before anything is built
    // on them.
    disk.sync(&file).await.map_err(unreadable)?;
    let length = disk.length(&file).await.map_err(unreadable)?;
    let seed = place.seed.of_kind(SEED_KIND);
    let (mut offset, mut expected, mut previous) = (0, 1, 0);
    loop {
        if offset + SECTOR_BYTES as u64 > length {
            return Err(ManifestFault::Damaged);
        }
        let sector = DiskBuffer::zeroed(SECTOR_BYTES);
        let (count, sector) = disk.read(&file, offset, sector).await;
        count.map_err(unreadable)?;
        let head = header(seed.at(number, offset), sector.as_slice());
        let head = head.ok_or(ManifestFault::Damaged)?;
        if head.fields.number != expected || head.fields.previous != previous {
            return Err(ManifestFault::Damaged);
        }
        let is_there = offset + head.frame_bytes() as u64 <= length;
        if !is_there || head.frame_bytes() > MANIFEST_FRAME_BYTES_MAX {
            return Err(ManifestFault::Damaged);
        }
        let (count, frame) = disk.read(&file, offset, DiskBuffer::zeroed(head.frame_bytes())).await;
        count.map_err(unreadable)?;
        let body = &frame.as_slice()[HEADER_BYTES..][..head.body_bytes];
        if !head.fits(seed.at(number, offset), body) {
            return Err(ManifestFault::Damaged);
        }
        for record in records(body) {
            match Entry::decode(record).ok_or(ManifestFault::Unfit)? {
                Entry::End(end) => return Ok(end),
                entry => visit(entry)?,
            }
        }
        offset += head.frame_bytes() as u64;
        expected += 1;
        previous = head.checksum;
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::super::frame::StoreId;
    use super::super::memory_disk::MemoryDisk;
    use super::*;

    fn place() -> JournalPlace {
        let seed = LaneSeed::new(StoreId([3; 16]), 0);
        JournalPlace { folder: "lane-0".into(), seed, file_bytes: 1 << 16 }
    }

    fn end() -> ManifestEnd {
        let place = Place { file: 3, offset: 8192 };
        let start = Position { place, next: CommitNumber(9), previous: 8 };
        let walked = CommitNumber(12);
        ManifestEnd { base: 1, start, walked, next_stream: 4, next_consumer: 5 }
    }

    fn examples() -> Vec<Entry<'static>> {
        let (stream, consumer) = (StreamId(7), ConsumerId(8));
        let mut dead = EntrySet::default();
        dead.insert(70);
        let facts = BlockFacts {
            base: 1,
            first: 2,
            last: 3,
            count: 4,
            first_time_ns: -9,
            last_time_ns: -5,
            end_ns: 8,
            id_count: 1,
            is_complete: true,
            dead,
            prints: Some([1, 2, 3].into()),
        };
        let stored = StoredPlace { segment: 9, offset: 10, bytes: 11 };
        let (as_of, last_time_ns) = (CommitNumber(3), i64::MIN);
        let stream_facts = StreamFacts { last_sequence: 6, last_time_ns, bytes: 7 };
        let whole = BlockFacts { prints: None, ..facts.clone() };
        vec![
            Entry::Block { stream, facts: whole, stored },
            Entry::Stream { stream, as_of, facts: stream_facts, purge: b"", created: b"abc" },
            Entry::Stream { stream, as_of, facts: stream_facts, purge: b"purge", created: b"" },
            Entry::StreamGone(stream),
            Entry::Block { stream, facts, stored },
            Entry::BlockGone { stream, base: 3 },
            Entry::Index { stream, key: 4, stored, is_first: true },
            Entry::Index { stream, key: 5, stored, is_first: false },
            Entry::Consumer { stream, created: b"abc", state: b"state" },
            Entry::ConsumerGone { stream, consumer },
            Entry::Lost { stream, first: 1, last: 2, segment: 3 },
            Entry::End(end()),
        ]
    }

    #[test]
    fn names_read_back_and_others_are_none() {
        for is_temporary in [true, false] {
            let name = ManifestName { number: 12, is_temporary };
            let path = name.path(&place());
            let path = path.strip_prefix("lane-0/").expect("it is in the folder");
            assert_eq!(ManifestName::parse(path), Some(name));
        }
        for other in ["manifest-12", "manifest-0000000000000012.old", "journal-0000000000000012"] {
            assert_eq!(ManifestName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn entries_read_back_and_what_is_none_is_never_a_panic() {
        let mut random = Rng::with_seed(1);
        for entry in examples() {
            let bytes = entry.encode();
            assert_eq!(Entry::decode(&bytes), Some(entry));
            for length in 0..bytes.len() {
                if let Some(shorter) = Entry::decode(&bytes[..length]) {
                    assert_eq!(shorter.encode(), bytes[..length]);
                }
            }
            for _ in 0..5000 {
                let mut changed = bytes.clone();
                let at = random.usize(0..changed.len());
                changed[at] = random.u8(..);
                if let Some(other) = Entry::decode(&changed) {
                    assert_eq!(other.encode(), changed, "two forms of one entry");
                }
            }
        }
    }

    #[test]
    fn manifest_reads_back_and_no_changed_one_does() {
        let disk = MemoryDisk::new(1);
        disk.run(disk.make_folder("lane-0")).expect("no fault is set");
        let mut expected: Vec<Vec<u8>> = examples().iter().map(Entry::encode).collect();
        expected.pop();
        let gone = Entry::StreamGone(StreamId(1)).encode();
        expected.extend(std::iter::repeat_n(gone, 2 * MANIFEST_FRAME_BYTES / 13));
        let begin = ManifestWriter::begin(disk.clone(), place(), 4);
        let mut writer = disk.run(begin).expect("no fault is set");
        for entry in &expected {
            disk.run(writer.push(entry)).expect("no fault is set");
        }
        disk.run(writer.finish(end())).expect("no fault is set");
        disk.run(writer.publish()).expect("no fault is set");
        let read = || {
            let mut found = Vec::new();
            let visit = |entry: Entry<'_>| {
                found.push(entry.encode());
                Ok(())
            };
            disk.run(read_manifest(&disk, &place(), 4, visit)).map(|end| (end, found))
        };
        assert_eq!(read(), Ok((end(), expected)));
        let name = ManifestName { number: 4, is_temporary: false }.path(&place());
        let bytes = disk.contents(&name).expect("it is there");
        assert!(bytes.len() > 2 * MANIFEST_FRAME_BYTES, "it has several frames");
        let mut random = Rng::with_seed(2);
        for _ in 0..300 {
            let mut changed = bytes.clone();
            let at = random.usize(0..changed.len());
            match random.u8(0..4) {
                0 => changed.truncate(at),
                _ => changed[at] ^= 1 << random.u8(0..8),
            }
            disk.set_contents(&name, changed);
            // The bytes between the frames are not read.
            if let Ok((found, _)) = read() {
                assert_eq!(found, end());
                assert_eq!(bytes[at], 0, "at {at}");
            }
        }
    }
}
