//! The state in a lane's newest manifest, and the streams rebuilt from it after a start.
//!
//! The newest manifest counts, with all those it builds on. If one of them is of no use an older
//! one is tried: if the journal still reaches back to it, nothing is lost; otherwise the recovery
//! of the journal finds the loss.
//!
//! Invariant: nothing on disk is changed or removed here.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::block::{Block, BlockFacts};
use super::consumer_state::ConsumerState;
use super::disk::Disk;
use super::manifest::{Entry, ManifestEnd, ManifestFault, ManifestName, read_manifest};
use super::position::{CommitNumber, Position, StoredPlace};
use super::record::{Change, ConsumerId, Record, StreamId};
use super::recovery::JournalPlace;
use super::segment::{self, BlockKind, BlockName, SegmentReader};
use super::stream::noted::{StoredPart, StreamFacts};
use super::stream::{Purge, SEQUENCE_MAX, Stream, StreamLimits};
use super::streams::{HeldConsumer, HeldStream, LostBlock, Streams};
use super::subject_index::SubjectIndex;
use super::turns::yield_now;

/// The files of a lane, without its journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneFiles {
    /// The manifest that counts; 0 where there is none.
    pub newest: u64,
    pub manifests: BTreeSet<u64>,
    /// Manifests that were not finished.
    pub unfinished: Vec<u64>,
    pub segments: BTreeSet<u64>,
    /// The segments that the manifest names: their bytes, and those of the blocks that it names.
    pub uses: BTreeMap<u64, SegmentUse>,
    /// There is no manifest that counts, although there was one.
    pub is_manifest_missing: bool,
}

/// The part of a segment that is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentUse {
    pub bytes: u64,
    pub needed_bytes: u64,
}

/// The result of loading a manifest.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub streams: Streams,
    /// The place where reading of the journal begins.
    pub start: Position,
    pub files: LaneFiles,
    /// Manifests that are of no use.
    pub faults: Vec<(u64, ManifestFault)>,
}

/// Reads the newest usable manifest into `streams`, which are empty. Their messages are counted,
/// and blocks that cannot be read are lost.
///
/// # Errors
/// The folder cannot be listed, or a segment cannot be opened now.
pub(crate) async fn load<D: Disk>(
    disk: &D,
    place: &JournalPlace,
    reader: &SegmentReader<D>,
    streams: Streams,
) -> io::Result<Loaded> {
    // A rename by a killed process that was not synced counts from now on: it has to be durable
    // before anything older is removed.
    disk.sync_folder(&place.folder).await?;
    let files = list(disk, place).await?;
    let start = place.first_position();
    let mut loaded = Loaded { streams, start, files, faults: Vec::new() };
    let numbers: Vec<u64> = loaded.files.manifests.iter().rev().copied().collect();
    for number in numbers {
        match Image::read(disk, place, number).await {
            Ok((image, end)) => {
                loaded.files.newest = number;
                loaded.start = end.start;
                loaded.streams.walked = end.walked;
                loaded.streams.next_stream = end.next_stream;
                loaded.streams.next_consumer = end.next_consumer;
                loaded.files.uses = image.uses(reader).await;
                for (id, image) in image.streams {
                    let index = image.read_index(reader, id).await;
                    let held = image.restore(&loaded.streams, index);
                    loaded.streams.streams.insert(id, held);
                    loaded.streams.finish(reader, id).await?;
                    loaded.streams.restore_ids(reader, id).await?;
                }
                break;
            }
            Err(fault) => loaded.faults.push((number, fault)),
        }
    }
    let files = &mut loaded.files;
    files.is_manifest_missing =
        files.newest == 0 && (!files.manifests.is_empty() || !files.segments.is_empty());
    Ok(loaded)
}

async fn list<D: Disk>(disk: &D, place: &JournalPlace) -> io::Result<LaneFiles> {
    let mut files = LaneFiles::default();
    for name in disk.list(&place.folder).await? {
        match (ManifestName::parse(&name), segment::number_of(&name)) {
            (Some(ManifestName { number, is_temporary: true }), _) => files.unfinished.push(number),
            (Some(ManifestName { number, .. }), _) => drop(files.manifests.insert(number)),
            (None, Some(number)) => drop(files.segments.insert(number)),
            (None, None) => {}
        }
    }
    Ok(files)
}

/// The entries of a manifest and of those it builds on, put together.
#[derive(Default)]
struct Image {
    streams: BTreeMap<StreamId, StreamImage>,
}

struct StreamImage {
    as_of: CommitNumber,
    facts: StreamFacts,
    limits: StreamLimits,
    details: Vec<u8>,
    purge: Option<Purge>,
    blocks: BTreeMap<u64, (BlockFacts, StoredPlace)>,
    /// Parts of the index.
    index: Vec<StoredPart>,
    consumers: BTreeMap<ConsumerId, HeldConsumer>,
    lost: Vec<LostBlock>,
}

impl Image {
    async fn read<D: Disk>(
        disk: &D,
        place: &JournalPlace,
        newest: u64,
    ) -> Result<(Self, ManifestEnd), ManifestFault> {
        // Only the end of the newest manifest names the base.
        let end = read_manifest(disk, place, newest, |_| Ok(())).await?;
        let mut image = Self::default();
        if end.base > newest {
            return Err(ManifestFault::Unfit);
        }
        for number in end.base..=newest {
            let visit = |entry: Entry<'_>| image.apply(entry).ok_or(ManifestFault::Unfit);
            let found = read_manifest(disk, place, number, visit).await?;
            if found.base != end.base {
                return Err(ManifestFault::Unfit);
            }
        }
        match end.is_sound(place) && image.is_sound(&end, place.seed.lane()) {
            true => Ok((image, end)),
            false => Err(ManifestFault::Unfit),
        }
    }

    /// `None` where the entry does not fit the ones before.
    fn apply(&mut self, entry: Entry<'_>) -> Option<()> {
        match entry {
            Entry::Stream { stream, as_of, facts, purge, created } => {
                let Change::StreamCreated { limits, details, .. } = created_by(created, stream)?
                else {
                    return None;
                };
                let purge = if purge.is_empty() { None } else { Some(Purge::decode(purge)?) };
                let details = details.to_vec();
                let new = StreamImage {
                    as_of,
                    facts,
                    limits,
                    details,
                    purge,
                    blocks: BTreeMap::new(),
                    index: Vec::new(),
                    consumers: BTreeMap::new(),
                    lost: Vec::new(),
                };
                match self.streams.get_mut(&stream) {
                    None => drop(self.streams.insert(stream, new)),
                    Some(image) => {
                        let before = std::mem::replace(image, new);
                        image.blocks = before.blocks;
                        image.index = before.index;
                        image.consumers = before.consumers;
                        image.lost = before.lost;
                    }
                }
            }
            Entry::StreamGone(stream) => drop(self.streams.remove(&stream)),
            Entry::Block { stream, facts, stored } => {
                self.streams.get_mut(&stream)?.blocks.insert(facts.base, (facts, stored));
            }
            Entry::BlockGone { stream, base } => {
                self.streams.get_mut(&stream)?.blocks.remove(&base);
            }
            Entry::Index { stream, key, stored, is_first } => {
                let index = &mut self.streams.get_mut(&stream)?.index;
                if is_first {
                    index.clear();
                }
                index.push((key, stored));
            }
            Entry::Consumer { stream, created, state } => {
                let Change::ConsumerCreated { consumer, details, .. } =
                    created_by(created, stream)?
                else {
                    return None;
                };
                let held = HeldConsumer::new(ConsumerState::decode(state)?, details);
                self.streams.get_mut(&stream)?.consumers.insert(consumer, held);
            }
            Entry::ConsumerGone { stream, consumer } => {
                self.streams.get_mut(&stream)?.consumers.remove(&consumer);
            }
            Entry::Lost { stream, first, last, segment } => {
                let lost = LostBlock { first, last, segment };
                let all = &mut self.streams.get_mut(&stream)?.lost;
                if !all.contains(&lost) {
                    all.push(lost);
                }
            }
            Entry::End(_) => return None,
        }
        Some(())
    }

    async fn uses<D: Disk>(&self, reader: &SegmentReader<D>) -> BTreeMap<u64, SegmentUse> {
        let mut uses: BTreeMap<u64, SegmentUse> = BTreeMap::new();
        let blocks = self.streams.values().flat_map(|stream| stream.blocks.values());
        let parts = self.streams.values().flat_map(|stream| &stream.index);
        for stored in blocks.map(|(_, stored)| stored).chain(parts.map(|(_, stored)| stored)) {
            uses.entry(stored.segment).or_default().needed_bytes += u64::from(stored.bytes);
        }
        for (number, segment) in &mut uses {
            segment.bytes = reader.length(*number).await;
        }
        uses
    }

    /// True if blocks are in order and within their streams, and all numbers below those to come.
    fn is_sound(&self, end: &ManifestEnd, lane: u32) -> bool {
        self.streams.iter().all(|(id, stream)| {
            let last_sequence = stream.facts.last_sequence;
            let mut free = 0;
            let are_blocks = stream.blocks.values().all(|(facts, _)| {
                let is_behind = facts.first >= free && facts.base <= facts.first;
                free = facts.last.saturating_add(1);
                is_behind
                    && facts.first <= facts.last
                    && facts.last <= last_sequence
                    && u64::from(facts.count).wrapping_sub(1) <= facts.last - facts.first
            });
            are_blocks
                && (id.0 < end.next_stream || !id.is_of(lane))
                && stream.as_of <= end.walked
                && last_sequence <= SEQUENCE_MAX
                && stream.facts.bytes <= SEQUENCE_MAX
                && stream.consumers.keys().all(|id| id.0 < end.next_consumer)
                && stream.lost.iter().all(|lost| lost.first <= lost.last)
        })
    }
}

/// The change in a record, if it is one of that stream.
fn created_by(record: &[u8], stream: StreamId) -> Option<Change<'_>> {
    let record = Record::decode(record)?;
    (record.stream == stream).then_some(record.change)
}

impl StreamImage {
    /// The stored index; `None` where it cannot be read as a whole.
    async fn read_index<D: Disk>(
        &self,
        reader: &SegmentReader<D>,
        stream: StreamId,
    ) -> Option<SubjectIndex> {
        let mut index = SubjectIndex::default();
        for (key, stored) in &self.index {
            let name = BlockName { kind: BlockKind::Subjects, stream, key: *key };
            let bytes = reader.read(*stored).await.ok()?;
            index.apply(reader.body(*stored, name, bytes.as_slice()).ok()?)?;
            yield_now().await;
        }
        Some(index)
    }

    /// Makes the stream, which still has to be counted if its index was not stored.
    fn restore(self, streams: &Streams, index: Option<SubjectIndex>) -> HeldStream {
        let blocks = self.blocks.into_values().map(|(facts, stored)| Block::restore(facts, stored));
        let (blocks, seed) = (blocks.collect(), streams.hash_seed);
        let mut stream = Stream::restore(self.limits, self.facts, blocks, seed);
        stream.set_block_bytes(streams.block_bytes);
        let bytes = self.facts.bytes;
        if let Some(index) = index {
            stream.restore_index(index, bytes, self.index);
        }
        let mut held = HeldStream::new(stream, &self.details, self.as_of);
        held.as_of = self.as_of;
        held.consumers = self.consumers;
        held.lost = self.lost;
        held.purge = self.purge;
        held
    }
}
