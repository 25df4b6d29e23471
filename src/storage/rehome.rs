//! Gives the streams of a store other lanes: when their number changes, before any of them is in
//! use.
//!
//! The new lanes get folders of their own. Blocks stay in their segments, which get a second name
//! there; data that is only in the journal is stored in a new segment, and a manifest lists
//! everything. Until the store's head names the new lanes the old ones count, and are not touched.
//! From then on the new ones count, and the old ones are removed ([`remove_lanes`]). So the work
//! may end anywhere, and is done anew.
//!
//! Its cost depends on the number of streams and blocks, not on their bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;

use super::block::NotedContents;
use super::check;
use super::disk::{Access, Disk, DiskBuffer, SECTOR_BYTES};
use super::folder::{FolderError, StoreFolder};
use super::journal_file;
use super::manifest::{Entry, ManifestEnd, ManifestName, ManifestWriter};
use super::position::{CommitNumber, Place, Position};
use super::record::StreamId;
use super::recovery::JournalPlace;
use super::replay::{Accepted, Replayed, replay_with};
use super::segment::{self, BlockDamage, BlockKind, BlockName, SegmentReader, SegmentWriter};
use super::stream::noted::NotedIndex;
use super::streams::{Lost, NotedHeld, NotedTo};
use super::thread_disk::{ThreadDisk, WriteMode};
use super::turns::yield_now;
use crate::base::limits::{INDEX_PART_BYTES, STREAMS_LOOKED_AT_PER_SLICE, STREAMS_NOTED_PER_SLICE};

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

/// Bytes copied at a time if a file cannot have two names.
const COPIED_BYTES_AT_A_TIME: usize = 1 << 20;

/// The reason why streams are not moved. The old lanes are as they were.
#[derive(Debug)]
pub(crate) enum RehomeError {
    Io(io::Error),
    Folder(FolderError),
    /// Something of this lane is lost, and nobody has accepted it.
    NotWhole(u32),
}

impl From<FolderError> for RehomeError {
    fn from(error: FolderError) -> Self {
        Self::Folder(error)
    }
}

impl fmt::Display for RehomeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(out, "{error}"),
            Self::Folder(error) => write!(out, "{error}"),
            Self::NotWhole(lane) => write!(
                out,
                "something of lane {lane} is lost: `midge store check` says what, `midge store repair` accepts it"
            ),
        }
    }
}

impl From<io::Error> for RehomeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A lane that streams are moved to.
struct Target<D: Disk> {
    place: JournalPlace,
    manifest: ManifestWriter<D>,
    segment: SegmentWriter<D>,
    /// Segments that its streams have blocks in, each with the index of the old lane that has it.
    linked: BTreeMap<u64, usize>,
    /// Counts the parts of indexes that were stored.
    parts: u64,
}

/// The first free numbers in all lanes; for journal files, the last used one.
#[derive(Clone, Copy, Default)]
struct Free {
    journal_file: u64,
    manifest: u64,
    segments: u64,
}

/// Makes the lanes `to`, whose folders nobody uses, of all streams of the lanes `from`, each with
/// its `accepted` losses. Returns the new lanes of the streams. Afterwards the owner names the new
/// lanes in the store's head.
///
/// # Errors
/// See [`RehomeError`]; the files that were made by then are of no use.
pub(crate) async fn copy_streams<D: Disk>(
    disk: &D,
    from: &[JournalPlace],
    to: &[JournalPlace],
    accepted: &[Accepted],
    block_bytes: Option<usize>,
) -> Result<BTreeMap<StreamId, u32>, RehomeError> {
    let mut homes = BTreeMap::new();
    remove_lanes(disk, to).await?;
    let mut segments = BTreeSet::new();
    let free = free_numbers(disk, from, &mut segments).await?;
    let mut targets = Vec::with_capacity(to.len());
    for place in to {
        disk.make_folder(&place.folder).await?;
        let (disk, lane) = (disk.clone(), place.seed.lane());
        let number = segment::next_number(lane, [&free.segments]);
        targets.push(Target {
            place: place.clone(),
            manifest: ManifestWriter::begin(disk.clone(), place.clone(), free.manifest).await?,
            segment: SegmentWriter::new(disk, place.clone(), number),
            linked: BTreeMap::new(),
            parts: 0,
        });
    }
    let mut end = End { next: CommitNumber(1), stream_count: 0, next_consumer: 0 };
    for (source, place) in from.iter().enumerate() {
        let mut replayed = match replay_with(disk, place, block_bytes).await {
            Ok(replayed) => replayed,
            // A lane that was never used.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        replayed.accept(&accepted[source]);
        // A block that cannot be read just now would be noted as lost for good.
        let is_accepted = |(lost, _)| accepted[source].messages.contains(&lost);
        if !replayed.is_whole() || !replayed.lost_with_blocks().all(is_accepted) {
            return Err(RehomeError::NotWhole(place.seed.lane()));
        }
        end.note(&replayed);
        // If two lanes have a segment of the same number, the second one's blocks are stored anew.
        let mut given_up = replayed.files.segments.clone();
        given_up.retain(|number| !segments.insert(*number));
        let reader = SegmentReader::new(disk.clone(), place.clone());
        let source = (source, &reader);
        move_streams(source, replayed, &given_up, &mut targets, &mut homes).await?;
    }
    for target in targets {
        target.finish(disk, from, free, &end).await?;
    }
    Ok(homes)
}

/// The counts that the new lanes go on from.
struct End {
    next: CommitNumber,
    stream_count: u64,
    next_consumer: u64,
}

impl End {
    fn note(&mut self, replayed: &Replayed) {
        let streams = &replayed.streams;
        self.next = self.next.max(replayed.recovered.position.next).max(streams.walked);
        self.stream_count = self.stream_count.max(StreamId(streams.next_stream).count());
        self.next_consumer = self.next_consumer.max(streams.next_consumer);
    }
}

/// Looks through the folders of the lanes.
async fn free_numbers<D: Disk>(
    disk: &D,
    places: &[JournalPlace],
    segments: &mut BTreeSet<u64>,
) -> io::Result<Free> {
    let mut free = Free::default();
    for place in places {
        let names = match disk.list(&place.folder).await {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for name in names {
            if let Some(number) = journal_file::number_of(&name) {
                free.journal_file = free.journal_file.max(number);
            } else if let Some(name) = ManifestName::parse(&name) {
                free.manifest = free.manifest.max(name.number);
            } else if let Some(number) = segment::number_of(&name) {
                free.segments = free.segments.max(segment::next_number(0, [&number]));
            }
        }
    }
    free.manifest += 1;
    segments.clear();
    Ok(free)
}

/// Notes all streams of a lane in the manifests of their new ones, one after the other.
async fn move_streams<D: Disk>(
    source: (usize, &SegmentReader<D>),
    mut replayed: Replayed,
    given_up: &BTreeSet<u64>,
    targets: &mut [Target<D>],
    homes: &mut BTreeMap<StreamId, u32>,
) -> io::Result<()> {
    let as_of = replayed.recovered.position.next.max(replayed.streams.walked);
    let bounds = (STREAMS_NOTED_PER_SLICE, STREAMS_LOOKED_AT_PER_SLICE);
    let (mut after, mut noted) = (None, Vec::new());
    loop {
        let streams = &mut replayed.streams;
        let noted_to = streams.note_some(after, true, as_of, given_up, bounds, &mut noted);
        for held in noted.drain(..) {
            let home = homes.len() % targets.len();
            let target = &mut targets[home];
            homes.insert(held.id, target.place.seed.lane());
            target.take(source, held, given_up).await?;
        }
        match noted_to {
            NotedTo::Stream(last) => after = Some(last),
            NotedTo::Unsettled(_) => unreachable!("a replay ends with nothing left to do"),
            NotedTo::End => return Ok(()),
        }
        yield_now().await;
    }
}

impl<D: Disk> Target<D> {
    async fn take(
        &mut self,
        (source, reader): (usize, &SegmentReader<D>),
        held: NotedHeld,
        given_up: &BTreeSet<u64>,
    ) -> io::Result<()> {
        for segment in held.lost_segments.iter().filter(|number| !given_up.contains(number)) {
            self.linked.insert(*segment, source);
        }
        for entry in &held.entries {
            self.manifest.push(entry).await?;
        }
        for block in held.blocks {
            let (stream, facts) = (held.id, block.facts);
            let name = BlockName { kind: BlockKind::Messages, stream, key: facts.base };
            let stored = match block.contents {
                NotedContents::Stored(stored) => {
                    self.linked.insert(stored.segment, source);
                    stored
                }
                NotedContents::New { contents, .. } => {
                    let (head, messages) = contents.encode();
                    self.segment.push(name, &[&head, messages]).await?
                }
                NotedContents::Moved { from, .. } => {
                    let bytes = reader.read(from).await;
                    let body = bytes.as_ref().map_err(|damage| *damage);
                    match body.and_then(|bytes| reader.body(from, name, bytes.as_slice())) {
                        Ok(body) => self.segment.push(name, &[body]).await?,
                        Err(BlockDamage::Unavailable(kind)) => return Err(kind.into()),
                        Err(_) => {
                            let (first, last, segment) = (facts.first, facts.last, from.segment);
                            let lost = Entry::Lost { stream, first, last, segment };
                            self.manifest.push(&lost.encode()).await?;
                            continue;
                        }
                    }
                }
            };
            self.manifest.push(&Entry::Block { stream, facts, stored }.encode()).await?;
        }
        self.take_index(source, held.id, held.index).await
    }

    async fn take_index(
        &mut self,
        source: usize,
        stream: StreamId,
        mut index: NotedIndex,
    ) -> io::Result<()> {
        let mut parts = std::mem::take(&mut index.kept);
        for (_, stored) in &parts {
            self.linked.insert(stored.segment, source);
        }
        while let Some(body) = index.changes.next_part(INDEX_PART_BYTES) {
            self.parts += 1;
            let name = BlockName { kind: BlockKind::Subjects, stream, key: self.parts };
            parts.push((self.parts, self.segment.push(name, &[&body]).await?));
        }
        for (position, (key, stored)) in parts.into_iter().enumerate() {
            let entry = Entry::Index { stream, key, stored, is_first: position == 0 };
            self.manifest.push(&entry.encode()).await?;
        }
        Ok(())
    }

    /// Makes everything durable: the segments before the manifest that names them.
    async fn finish(
        mut self,
        disk: &D,
        from: &[JournalPlace],
        free: Free,
        end: &End,
    ) -> io::Result<()> {
        for (number, source) in &self.linked {
            let old = segment::path(&from[*source], *number);
            let new = segment::path(&self.place, *number);
            if let Err(error) = disk.link(&old, &new).await {
                // A segment that is lost, or a file system without second names.
                if error.kind() != io::ErrorKind::NotFound {
                    copy(disk, &old, &new).await?;
                }
            }
        }
        if self.segment.is_begun() {
            self.segment.finish().await?;
        }
        let place = Place { file: free.journal_file, offset: self.place.file_bytes };
        let first = StreamId::first_of(self.place.seed.lane());
        let manifest_end = ManifestEnd {
            base: free.manifest,
            start: Position { place, next: end.next, previous: 0 },
            walked: end.next,
            next_stream: first.0 + end.stream_count,
            next_consumer: end.next_consumer,
        };
        self.manifest.finish(manifest_end).await?;
        self.manifest.publish().await
    }
}

/// Makes a copy of a file, durable except for its name.
async fn copy<D: Disk>(disk: &D, from: &str, to: &str) -> io::Result<()> {
    let from = disk.open(from, Access::Read).await?;
    // A link that failed may have left the name.
    match disk.remove(to).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let to = disk.open(to, Access::Create).await?;
    let mut offset = 0;
    loop {
        let buffer = DiskBuffer::zeroed(COPIED_BYTES_AT_A_TIME);
        let (count, mut buffer) = disk.read(&from, offset, buffer).await;
        let count = count?;
        if count == 0 {
            return disk.sync(&to).await;
        }
        // Only the last piece may end inside a sector, that of a segment that was cut short.
        let whole = count.next_multiple_of(SECTOR_BYTES);
        buffer.truncate(whole);
        disk.write(&to, offset, buffer).await.0?;
        offset += count as u64;
    }
}

/// Gives a store, whose streams are whole, another number of lanes, before any of them is in use.
///
/// # Errors
/// Something is lost that nobody has accepted, or the disk fails. The store is as it was, unless
/// the write of its head failed.
pub(crate) fn change_lanes(folder: StoreFolder, lanes: u32) -> Result<StoreFolder, RehomeError> {
    let disk = ThreadDisk::start(folder.root(), WriteMode::Buffered, || {})?;
    let from: Vec<JournalPlace> =
        (0..folder.settings().lanes).map(|lane| folder.journal(lane)).collect();
    let to = folder.next_generation(lanes);
    let accepted = (0..folder.settings().lanes)
        .map(|lane| check::read_accepted(&folder, lane))
        .collect::<Result<Vec<Accepted>, FolderError>>()?;
    let copied = copy_streams(&disk, &from, &to, &accepted, None);
    let homes = disk.run(copied)?;
    // The journals with lost commits are not read any more; the damaged segments are.
    for place in &to {
        let is_there = |lost: &&Lost| homes.get(&lost.stream) == Some(&place.seed.lane());
        let all = accepted.iter().flat_map(|accepted| &accepted.messages);
        let messages: Vec<Lost> = all.filter(is_there).copied().collect();
        if !messages.is_empty() {
            let accepted = Accepted { commits: Vec::new(), messages };
            check::write_accepted(&folder, place, &accepted)?;
        }
    }
    // Their folders are durable before the head names them.
    disk.run(disk.sync_folder(""))?;
    let folder = folder.switch(lanes)?;
    // Folders that stay are removed when the store is opened next.
    disk.run(remove_lanes(&disk, &from)).unwrap_or_default();
    Ok(folder)
}

/// Removes lanes with everything in their folders.
///
/// # Errors
/// An error of the disk; the rest is removed another time.
pub(crate) async fn remove_lanes<D: Disk>(disk: &D, places: &[JournalPlace]) -> io::Result<()> {
    for place in places {
        let folder = &place.folder;
        let names = match disk.list(folder).await {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for name in names {
            disk.remove(&format!("{folder}/{name}")).await?;
        }
        disk.remove_folder(folder).await?;
    }
    Ok(())
}
