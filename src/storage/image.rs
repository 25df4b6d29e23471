//! What a lane's newest manifest tells of, and the streams made of it after a start.
//!
//! The newest manifest with all those it builds on counts. Where one of them is of no use an older one is tried: if the
//! journal still reaches back to it, nothing is lost; otherwise the recovery of the journal says so.
//!
//! Invariant: nothing on disk is changed or removed here.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::block::{Block, BlockFacts, Contents, SubjectHasher};
use super::consumer_state::ConsumerState;
use super::disk::Disk;
use super::manifest::{Entry, ManifestEnd, ManifestFault, ManifestName, read_manifest};
use super::position::{CommitNumber, Position, StoredPlace};
use super::record::{Change, ConsumerId, Record, StreamId};
use super::recovery::JournalPlace;
use super::segment::{self, BlockKind, BlockName, SegmentReader};
use super::stream::noted::StreamFacts;
use super::stream::{Purge, SEQUENCE_MAX, Stream, StreamLimits};
use super::streams::{HeldConsumer, HeldStream, LostBlock, Streams};
use super::turns::yield_now;
use crate::base::limits::PURGED_PER_SLICE;

/// The files of a lane but for its journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneFiles {
    /// The manifest that counts; 0 where there is none.
    pub newest: u64,
    pub manifests: BTreeSet<u64>,
    /// Manifests that were not finished.
    pub unfinished: Vec<u64>,
    pub segments: BTreeSet<u64>,
    /// Of the segments that the manifest names: their bytes, and those of blocks that it names.
    pub uses: BTreeMap<u64, SegmentUse>,
    /// There is no manifest that counts, although there was one.
    pub is_manifest_missing: bool,
}

/// How much of a segment is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentUse {
    pub bytes: u64,
    pub needed_bytes: u64,
}

/// What the manifest tells of.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub streams: Streams,
    /// Where the journal is to be read from.
    pub start: Position,
    pub files: LaneFiles,
    /// Manifests that are of no use.
    pub faults: Vec<(u64, ManifestFault)>,
}

/// Reads the newest manifest of use, and what it tells of, into `streams`, which are empty.
///
/// # Errors
/// The folder cannot be listed.
pub(crate) async fn load<D: Disk>(
    disk: &D,
    place: &JournalPlace,
    streams: Streams,
) -> io::Result<Loaded> {
    // What a process that was killed had renamed and not synced is believed now: it has to be there
    // for good before anything older is removed.
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
                let mut reader = SegmentReader::new(disk.clone(), place.clone());
                loaded.files.uses = image.uses(&mut reader).await;
                for (id, image) in image.streams {
                    let held = image.restore(&mut reader, id, &loaded.streams).await;
                    loaded.streams.streams.insert(id, held);
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
    consumers: BTreeMap<ConsumerId, HeldConsumer>,
    lost: Vec<LostBlock>,
}

impl Image {
    async fn read<D: Disk>(
        disk: &D,
        place: &JournalPlace,
        newest: u64,
    ) -> Result<(Self, ManifestEnd), ManifestFault> {
        // Which manifest is the first one, only the end of the newest says.
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

    /// None where the entry does not fit what came before.
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
                    consumers: BTreeMap::new(),
                    lost: Vec::new(),
                };
                match self.streams.get_mut(&stream) {
                    None => drop(self.streams.insert(stream, new)),
                    Some(image) => {
                        let before = std::mem::replace(image, new);
                        image.blocks = before.blocks;
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
                self.streams.get_mut(&stream)?.lost.push(lost);
            }
            Entry::End(_) => return None,
        }
        Some(())
    }

    async fn uses<D: Disk>(&self, reader: &mut SegmentReader<D>) -> BTreeMap<u64, SegmentUse> {
        let mut uses: BTreeMap<u64, SegmentUse> = BTreeMap::new();
        for (_, stored) in self.streams.values().flat_map(|stream| stream.blocks.values()) {
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
                is_behind && facts.first <= facts.last && facts.last <= last_sequence
            });
            are_blocks
                && (id.0 < end.next_stream || !id.is_of(lane))
                && stream.as_of <= end.walked
                && last_sequence <= SEQUENCE_MAX
                && stream.consumers.keys().all(|id| id.0 < end.next_consumer)
                && stream.lost.iter().all(|lost| lost.first <= lost.last)
        })
    }
}

/// The change of a record, if it is one of that stream.
fn created_by(record: &[u8], stream: StreamId) -> Option<Change<'_>> {
    let record = Record::decode(record)?;
    (record.stream == stream).then_some(record.change)
}

impl StreamImage {
    /// Reads the blocks. What cannot be read is lost.
    async fn restore<D: Disk>(
        self,
        reader: &mut SegmentReader<D>,
        id: StreamId,
        streams: &Streams,
    ) -> HeldStream {
        let hasher = SubjectHasher { seed: streams.hash_seed };
        let (mut blocks, mut lost) = (Vec::new(), self.lost);
        for (base, (facts, stored)) in self.blocks {
            let name = BlockName { kind: BlockKind::Messages, stream: id, key: base };
            let (first, last) = (facts.first, facts.last);
            let read = |body: &[u8]| Block::restore(facts, Contents::decode(body)?, stored, hasher);
            match reader.read(stored, name, read).await {
                Ok(block) => blocks.push(block),
                Err(_) => lost.push(LostBlock { first, last, segment: stored.segment }),
            }
        }
        let mut stream = Stream::restore(self.limits, self.facts, blocks, streams.hash_seed);
        stream.set_block_bytes(streams.block_bytes);
        if let Some(mut purge) = self.purge {
            while !stream.purge_some(&mut purge, PURGED_PER_SLICE) {
                yield_now().await;
            }
        }
        let mut held = HeldStream::new(stream, &self.details, self.as_of);
        held.as_of = self.as_of;
        held.consumers = self.consumers;
        held.lost = lost;
        held
    }
}
