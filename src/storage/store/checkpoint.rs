//! Checkpoints: data that is only in the journal and in memory is stored in a segment and a
//! manifest, and the journal before them is used again. The third task of a lane.
//!
//! A checkpoint is due once the journal is half a ring long, or so much was appended that memory
//! has to be freed. Its steps, each done before the next begins:
//!
//! 1. Mark the journal, and wait until everything before is durable: the next start will read from
//!    here on.
//! 2. Note the streams in slices, each as of the moment; store their new blocks in one segment.
//! 3. Sync the segment, then its name.
//! 4. Wait until all noted changes are durable in the journal: a manifest holds nothing that a
//!    power cut undoes.
//! 5. Write the manifest, sync it, rename it, sync its name. From here on it counts.
//! 6. Release the journal before the mark and, after a base, the files that it does not name.
//!
//! A segment of which a base needs less than half is given up with the next base: the needed blocks
//! are stored anew, some megabytes for each base.
//!
//! Whatever fails, the journal is kept and everything is in memory. The checkpoint is given up, and
//! the next one writes everything anew, to other files. A file that failed is never trusted. On a
//! full disk the lane gives up its reserve and the checkpoint is tried once more, since it makes
//! room.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;

use super::Store;
use super::loading::load;
use crate::base::limits::{
    INDEX_PART_BYTES, JOURNAL_FILES_BEFORE_CHECKPOINT, MANIFEST_DELTAS_MAX,
    SEGMENT_REWRITTEN_BYTES_MAX, SETTLED_PER_SLICE, STREAMS_LOOKED_AT_PER_SLICE,
    STREAMS_NOTED_PER_SLICE,
};
use crate::storage::block::{NotedBlock, NotedContents};
use crate::storage::disk::Disk;
use crate::storage::image::{LaneFiles, SegmentUse};
use crate::storage::lane::LaneStopped;
use crate::storage::manifest::{Entry, ManifestEnd, ManifestName, ManifestWriter};
use crate::storage::position::{CommitNumber, Position, StoredPlace};
use crate::storage::record::StreamId;
use crate::storage::segment::{self, BlockKind, BlockName, SegmentReader, SegmentWriter};
use crate::storage::stream::noted::{NotedIndex, StoredPart};
use crate::storage::streams::NotedTo;
use crate::storage::turns::yield_now;

/// Mistakes that the simulator's oracle has to find.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plant {
    SegmentNameNotSynced,
    SegmentNotSynced,
    ManifestNotSynced,
    JournalReleasedBeforeTheManifest,
    NotedBeforeItIsDurable,
    DeletesNotNoted,
    SegmentRemovedBeforeTheManifest,
    StoredBeforeItIsDurable,
}

/// The state of a store's checkpoints.
#[derive(Debug)]
pub(super) struct Checkpoints {
    files: LaneFiles,
    next_manifest: u64,
    next_segment: u64,
    /// The base of the newest manifest.
    base: u64,
    /// The next manifest has to be a base.
    needs_base: bool,
    is_requested: bool,
    /// The maximum number of deltas behind a base.
    pub(super) deltas_max: u64,
    /// The reason why the last checkpoint was given up.
    pub(super) failure: Option<io::ErrorKind>,
    /// Checkpoints that were taken.
    pub(super) count: u64,
    /// Bytes of messages appended since the last checkpoint began.
    pub(super) appended_bytes: usize,
    /// The sum of all segments, as of the last checkpoint.
    pub(super) segment_bytes: SegmentUse,
    #[cfg(test)]
    pub(super) plant: Option<Plant>,
}

impl Checkpoints {
    pub(super) fn new(files: LaneFiles, lane: u32) -> Self {
        let highest = |set: &BTreeSet<u64>| set.last().copied().unwrap_or(0);
        let unfinished = files.unfinished.iter().copied().max().unwrap_or(0);
        Self {
            segment_bytes: sum_of(&files),
            next_manifest: highest(&files.manifests).max(unfinished) + 1,
            next_segment: segment::next_number(lane, &files.segments),
            files,
            base: 0,
            needs_base: true,
            is_requested: false,
            deltas_max: MANIFEST_DELTAS_MAX,
            failure: None,
            count: 0,
            appended_bytes: 0,
            #[cfg(test)]
            plant: None,
        }
    }
}

/// The sum of all segments that the manifest names.
fn sum_of(files: &LaneFiles) -> SegmentUse {
    let add = |sum: SegmentUse, segment: &SegmentUse| SegmentUse {
        bytes: sum.bytes + segment.bytes,
        needed_bytes: sum.needed_bytes + segment.needed_bytes,
    };
    files.uses.values().fold(SegmentUse::default(), add)
}

impl Checkpoints {
    /// The segments of which less than half is needed, the least needed first, as far as the bound
    /// allows.
    fn sparse_segments(&self) -> BTreeSet<u64> {
        let mut sparse: Vec<(u64, u64)> = self
            .files
            .uses
            .iter()
            .filter(|(_, segment)| segment.needed_bytes < segment.bytes / 2)
            .map(|(number, segment)| (segment.needed_bytes, *number))
            .collect();
        sparse.sort_unstable();
        let mut sum = 0;
        let fits = |(bytes, _): &(u64, u64)| {
            sum += bytes;
            sum <= SEGMENT_REWRITTEN_BYTES_MAX
        };
        sparse.into_iter().take_while(fits).map(|(_, number)| number).collect()
    }
}

/// The reason why a checkpoint was given up.
enum Failure {
    Disk(io::Error),
    Stopped,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl From<LaneStopped> for Failure {
    fn from(_: LaneStopped) -> Self {
        Self::Stopped
    }
}

/// Takes checkpoints when they are due, until the lane stops.
pub async fn keep_checkpoints<D: Disk>(store: &RefCell<Store<D>>) {
    let lane = store.borrow().lane.clone();
    remove_unfinished(store).await;
    loop {
        let seen = lane.due().value();
        if lane.stopped().is_some() {
            return;
        }
        if store.borrow().is_checkpoint_due() {
            let mut work = Work::begin(&mut store.borrow_mut());
            let result = work.run(store).await;
            let (done, error) = match result {
                Ok(start) => (Some(start), None),
                Err(Failure::Stopped) => return,
                Err(Failure::Disk(error)) => (None, Some(error.kind())),
            };
            store.borrow_mut().checkpoints.failure = error;
            match done {
                Some(start) => work.release(store, start).await,
                None => work.give_up(store).await,
            }
            let is_full = error == Some(io::ErrorKind::StorageFull);
            if is_full && lane.release_reserve().await {
                store.borrow_mut().checkpoints.is_requested = true;
                continue;
            }
            if done.is_some() {
                // There may now be room for the files that the lane lacks.
                if lane.shortage().is_some() {
                    lane.retry_spare();
                }
                continue;
            }
        }
        lane.due().reached(seen + 1).await;
    }
}

async fn remove_unfinished<D: Disk>(store: &RefCell<Store<D>>) {
    let (disk, place, unfinished) = {
        let mut store = store.borrow_mut();
        let unfinished = std::mem::take(&mut store.checkpoints.files.unfinished);
        (store.disk.clone(), store.place.clone(), unfinished)
    };
    for number in unfinished {
        let name = ManifestName { number, is_temporary: true }.path(&place);
        // A file that stays is in nobody's way: the next start finds it again.
        disk.remove(&name).await.unwrap_or_default();
    }
}

impl<D: Disk> Store<D> {
    /// Requests a checkpoint, whether one is due or not: before the store is closed, or to free
    /// memory and disk.
    pub fn request_checkpoint(&mut self) {
        self.checkpoints.is_requested = true;
        self.lane.consider_checkpoint();
    }

    /// The reason why the last checkpoint was given up; `None` while they succeed.
    pub fn checkpoint_failure(&self) -> Option<io::ErrorKind> {
        self.checkpoints.failure
    }

    fn is_checkpoint_due(&self) -> bool {
        let is_due = self.checkpoints.is_requested
            || self.lane.file_count() > JOURNAL_FILES_BEFORE_CHECKPOINT
            || self.checkpoints.appended_bytes > self.tail_bytes_max;
        // Where there is a segment or a manifest there is a journal: a start relies on it.
        is_due && self.lane.last_commit() > CommitNumber(0)
    }
}

/// Finishes a part of a stream's last change: a checkpoint notes no stream before that is done.
async fn settle_some<D: Disk>(store: &RefCell<Store<D>>, id: StreamId) -> io::Result<()> {
    let result = match store.borrow_mut().streams.streams.get_mut(&id) {
        Some(held) => held.stream.settle(SETTLED_PER_SLICE),
        None => return Ok(()),
    };
    match result {
        Ok(_) => yield_now().await,
        Err(needed) => load(store, id, needed).await?,
    }
    Ok(())
}

/// A checkpoint under way.
struct Work<D: Disk> {
    number: u64,
    segment_number: u64,
    segment: SegmentWriter<D>,
    reader: Rc<SegmentReader<D>>,
    base: u64,
    is_base: bool,
    /// Blocks that were stored: stream, base, version, and place.
    placed: Vec<(StreamId, u64, u64, StoredPlace)>,
    /// Parts of indexes that were stored: their stream, whether they are the whole index, and their
    /// places.
    indexes: Vec<(StreamId, bool, Vec<StoredPart>)>,
    /// Counts the parts.
    parts: u64,
    /// Segments that the manifest names, each with the bytes of the blocks that it names there.
    named: BTreeMap<u64, u64>,
    /// Segments of which no block is to be named any more.
    given_up: BTreeSet<u64>,
    /// The manifest may have its name.
    may_count: bool,
    #[cfg(test)]
    plant: Option<Plant>,
}

impl<D: Disk> Work<D> {
    fn begin(store: &mut Store<D>) -> Self {
        store.streams.set_tail(0);
        let checkpoints = &mut store.checkpoints;
        checkpoints.is_requested = false;
        checkpoints.appended_bytes = 0;
        let (number, segment_number) = (checkpoints.next_manifest, checkpoints.next_segment);
        checkpoints.next_manifest += 1;
        checkpoints.next_segment += 1;
        // Only a base makes room on the disk: a delta takes some.
        let is_base = checkpoints.needs_base
            || number > checkpoints.base + checkpoints.deltas_max
            || store.lane.shortage().is_some();
        let given_up = if is_base { checkpoints.sparse_segments() } else { BTreeSet::new() };
        // Stays set until this checkpoint is done: a stream that is noted now is not noted again.
        checkpoints.needs_base = true;
        let (disk, place) = (store.disk.clone(), store.place.clone());
        Self {
            number,
            segment_number,
            segment: SegmentWriter::new(disk, place, segment_number),
            reader: store.reader.clone(),
            base: if is_base { number } else { checkpoints.base },
            is_base,
            placed: Vec::new(),
            indexes: Vec::new(),
            parts: 0,
            named: BTreeMap::new(),
            given_up,
            may_count: false,
            #[cfg(test)]
            plant: store.checkpoints.plant,
        }
    }

    #[cfg(test)]
    fn has(&self, plant: Plant) -> bool {
        self.plant == Some(plant)
    }

    async fn run(&mut self, store: &RefCell<Store<D>>) -> Result<Position, Failure> {
        let (lane, disk, place) = {
            let store = store.borrow();
            (store.lane.clone(), store.disk.clone(), store.place.clone())
        };
        let mark = lane.mark();
        let start = lane.marked(mark).await?;
        let mut manifest = ManifestWriter::begin(disk.clone(), place.clone(), self.number).await?;
        let mut after = None;
        let mut noted = Vec::new();
        loop {
            let noted_to = {
                let mut store = store.borrow_mut();
                let as_of = lane.cut();
                let bounds = (STREAMS_NOTED_PER_SLICE, STREAMS_LOOKED_AT_PER_SLICE);
                let (all, given_up) = (self.is_base, &self.given_up);
                store.streams.note_some(after, all, as_of, given_up, bounds, &mut noted)
            };
            match noted_to {
                NotedTo::Stream(last) => after = Some(last),
                NotedTo::Unsettled(id) => {
                    settle_some(store, id).await?;
                    continue;
                }
                NotedTo::End => {}
            }
            for held in noted.drain(..) {
                for segment in held.lost_segments {
                    self.named.entry(segment).or_default();
                }
                for entry in &held.entries {
                    manifest.push(entry).await?;
                }
                for block in held.blocks {
                    let entry = self.place_block(held.id, block).await?;
                    manifest.push(&entry).await?;
                }
                self.place_index(held.id, held.index, &mut manifest).await?;
                #[cfg(test)]
                if self.has(Plant::StoredBeforeItIsDurable) {
                    for (stream, base, version, stored) in &self.placed {
                        store.borrow_mut().streams.stored(*stream, *base, *version, *stored);
                    }
                }
            }
            if noted_to == NotedTo::End {
                break;
            }
            yield_now().await;
        }
        // Nobody had a turn since the walk found no further stream, so all streams are noted.
        let (walked, gone, next_stream, next_consumer) = {
            let mut store = store.borrow_mut();
            let gone = std::mem::take(&mut store.streams.gone);
            (lane.cut(), gone, store.streams.next_stream, store.streams.next_consumer)
        };
        for stream in gone {
            manifest.push(&Entry::StreamGone(stream).encode()).await?;
        }
        if self.segment.is_begun() {
            self.finish_segment(&disk, &place.folder).await?;
        }
        #[cfg(test)]
        if self.has(Plant::NotedBeforeItIsDurable) {
            let base = self.base;
            let end = ManifestEnd { base, start, walked: mark, next_stream, next_consumer };
            manifest.finish(end).await?;
            self.may_count = true;
            manifest.publish().await?;
            return Ok(start);
        }
        lane.durable(CommitNumber(walked.0 - 1)).await?;
        #[cfg(test)]
        if self.has(Plant::JournalReleasedBeforeTheManifest) {
            lane.retire(start);
        }
        #[cfg(test)]
        if self.has(Plant::SegmentRemovedBeforeTheManifest) {
            for number in &self.given_up {
                segment::remove(&disk, &place, *number).await;
            }
            disk.sync_folder(&place.folder).await?;
        }
        #[cfg(test)]
        manifest.skip_sync(self.has(Plant::ManifestNotSynced));
        let end = ManifestEnd { base: self.base, start, walked, next_stream, next_consumer };
        manifest.finish(end).await?;
        self.may_count = true;
        manifest.publish().await?;
        Ok(start)
    }

    /// Stores a block's contents if they are not stored yet; returns the manifest's entry.
    async fn place_block(&mut self, stream: StreamId, block: NotedBlock) -> io::Result<Vec<u8>> {
        let NotedBlock { facts, contents } = block;
        let name = BlockName { kind: BlockKind::Messages, stream, key: facts.base };
        let stored = match contents {
            NotedContents::Stored(stored) => stored,
            NotedContents::New { contents, version } => {
                let (head, messages) = contents.encode();
                let stored = self.segment.push(name, &[&head, messages]).await?;
                self.placed.push((stream, facts.base, version, stored));
                stored
            }
            NotedContents::Moved { from, version } => {
                let bytes = self.reader.read(from).await;
                let body = bytes.as_ref().map_err(|damage| *damage);
                match body.and_then(|bytes| self.reader.body(from, name, bytes.as_slice())) {
                    Ok(body) => {
                        let stored = self.segment.push(name, &[body]).await?;
                        self.placed.push((stream, facts.base, version, stored));
                        stored
                    }
                    // Whoever needs the block finds that it is lost; until then its segment stays.
                    Err(_) => from,
                }
            }
        };
        *self.named.entry(stored.segment).or_default() += u64::from(stored.bytes);
        #[cfg(test)]
        let facts = match self.has(Plant::DeletesNotNoted) && !facts.dead.is_empty() {
            false => facts,
            true => undeleted(facts),
        };
        Ok(Entry::Block { stream, facts, stored }.encode())
    }

    /// Stores the changed parts of an index, and has the manifest name them.
    async fn place_index(
        &mut self,
        stream: StreamId,
        mut index: NotedIndex,
        manifest: &mut ManifestWriter<D>,
    ) -> io::Result<()> {
        let is_begun = !index.is_whole && !self.is_base;
        let kept = std::mem::take(&mut index.kept);
        let mut new = Vec::new();
        let mut is_first = !is_begun;
        for (key, stored) in kept {
            self.name_part(stream, (key, stored), &mut is_first, manifest).await?;
        }
        if index.changes.is_empty() {
            return Ok(());
        }
        while let Some(body) = index.changes.next_part(INDEX_PART_BYTES) {
            self.parts += 1;
            let key = self.number << 32 | self.parts;
            let name = BlockName { kind: BlockKind::Subjects, stream, key };
            let stored = self.segment.push(name, &[&body]).await?;
            self.name_part(stream, (key, stored), &mut is_first, manifest).await?;
            new.push((key, stored));
            yield_now().await;
        }
        self.indexes.push((stream, index.is_whole, new));
        Ok(())
    }

    async fn name_part(
        &mut self,
        stream: StreamId,
        (key, stored): StoredPart,
        is_first: &mut bool,
        manifest: &mut ManifestWriter<D>,
    ) -> io::Result<()> {
        *self.named.entry(stored.segment).or_default() += u64::from(stored.bytes);
        let is_first = std::mem::replace(is_first, false);
        manifest.push(&Entry::Index { stream, key, stored, is_first }.encode()).await
    }

    async fn finish_segment(&mut self, disk: &D, folder: &str) -> io::Result<()> {
        #[cfg(test)]
        self.segment.skip_sync(self.has(Plant::SegmentNotSynced));
        self.segment.finish().await?;
        #[cfg(test)]
        if self.has(Plant::SegmentNameNotSynced) {
            return Ok(());
        }
        disk.sync_folder(folder).await
    }

    /// Releases the files that the manifest makes superfluous, now that it counts.
    async fn release(mut self, store: &RefCell<Store<D>>, start: Position) {
        let reader = self.reader.clone();
        let (disk, place, manifests, segments) = {
            let mut store = store.borrow_mut();
            for (stream, base, version, stored) in &self.placed {
                store.streams.stored(*stream, *base, *version, *stored);
            }
            for (stream, is_whole, parts) in std::mem::take(&mut self.indexes) {
                if let Some(held) = store.streams.streams.get_mut(&stream) {
                    held.stream.index_stored(is_whole, parts);
                }
            }
            store.lane.retire(start);
            let checkpoints = &mut store.checkpoints;
            checkpoints.needs_base = false;
            checkpoints.count += 1;
            checkpoints.base = self.base;
            let files = &mut checkpoints.files;
            files.newest = self.number;
            files.manifests.insert(self.number);
            if self.segment.is_begun() {
                files.segments.insert(self.segment_number);
            }
            let (mut manifests, mut segments) = (BTreeSet::new(), BTreeSet::new());
            if self.is_base {
                let newer = files.manifests.split_off(&self.number);
                manifests = std::mem::replace(&mut files.manifests, newer);
                let named: BTreeSet<u64> = self.named.keys().copied().collect();
                segments = &files.segments - &named;
                files.segments = &files.segments & &named;
                let sizes = std::mem::take(&mut files.uses);
                for (number, needed_bytes) in self.named {
                    let bytes = match sizes.get(&number) {
                        _ if number == self.segment_number => self.segment.bytes(),
                        Some(segment) => segment.bytes,
                        None => 0,
                    };
                    files.uses.insert(number, SegmentUse { bytes, needed_bytes });
                }
            } else if self.segment.is_begun() {
                let bytes = self.segment.bytes();
                let new = SegmentUse { bytes, needed_bytes: bytes };
                files.uses.insert(self.segment_number, new);
            }
            checkpoints.segment_bytes = sum_of(files);
            (store.disk.clone(), store.place.clone(), manifests, segments)
        };
        // A file that cannot be removed is found by the next start, and removed by its first base.
        for number in manifests {
            let name = ManifestName { number, is_temporary: false }.path(&place);
            disk.remove(&name).await.unwrap_or_default();
        }
        for number in segments {
            reader.close(number);
            segment::remove(&disk, &place, number).await;
        }
    }

    /// Gives the checkpoint up after a failure: nothing that it wrote counts.
    async fn give_up(self, store: &RefCell<Store<D>>) {
        let (disk, place) = {
            let mut store = store.borrow_mut();
            store.checkpoints.files.segments.insert(self.segment_number);
            store.checkpoints.files.manifests.insert(self.number);
            (store.disk.clone(), store.place.clone())
        };
        let name = ManifestName { number: self.number, is_temporary: true }.path(&place);
        disk.remove(&name).await.unwrap_or_default();
        // If no manifest can name the segment, it goes: on a full disk its room is needed at once.
        if !self.may_count && segment::remove(&disk, &place, self.segment_number).await {
            store.borrow_mut().checkpoints.files.segments.remove(&self.segment_number);
        }
    }
}

/// The facts of a block, without its deletions.
#[cfg(test)]
fn undeleted(facts: crate::storage::block::BlockFacts) -> crate::storage::block::BlockFacts {
    let dead = u32::try_from(facts.dead.len()).expect("a block is small");
    crate::storage::block::BlockFacts {
        first: facts.base,
        count: facts.count + dead,
        dead: crate::storage::block::EntrySet::default(),
        ..facts
    }
}
