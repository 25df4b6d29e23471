//! Rebuilds the streams of a lane after a start: from the manifest, and the journal's records after
//! it.
//!
//! Each record is applied as it was applied when it was written. Where the journal is damaged the
//! replay goes on behind the loss, and lists the lost messages of each stream. A person may accept
//! the loss (`check`). A damaged block costs its messages: the stream remembers which, and a start
//! is possible without them.

use std::collections::BTreeSet;
use std::io;

use super::disk::Disk;
use super::file_name;
use super::frame::records;
use super::image::{LaneFiles, Loaded, load};
use super::manifest::ManifestFault;
use super::position::{COUNT_STARTED_FROM_MAX, CommitNumber};
use super::record::{Record, StreamId};
use super::recovery::{Damage, JournalPlace, Recovered, recover_with};
use super::segment::{self, SegmentReader};
use super::streams::{Lost, LostBlock, NotApplied, Streams};

/// A lane's contents.
#[derive(Debug)]
pub struct Replayed {
    pub streams: Streams,
    pub recovered: Recovered,
    pub files: LaneFiles,
    /// Manifests that are of no use. If an older one and the journal replace them, nothing is lost.
    pub manifest_faults: Vec<(u64, ManifestFault)>,
    /// Records that were replayed.
    pub record_count: u64,
    pub lost: Vec<Lost>,
    /// Records that this program does not understand, or that do not fit the ones before.
    pub unfit: Vec<(CommitNumber, &'static str)>,
}

/// Damage that somebody accepted: each start meets it again, and no longer refuses because of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedDamage {
    pub file: u64,
    pub lost: (CommitNumber, CommitNumber),
}

/// The losses that somebody accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    pub commits: Vec<AcceptedDamage>,
    /// Messages of damaged blocks.
    pub messages: Vec<Lost>,
}

impl From<&Damage> for AcceptedDamage {
    fn from(damage: &Damage) -> Self {
        Self { file: damage.file, lost: damage.lost }
    }
}

impl AcceptedDamage {
    /// True if the damage loses nothing beyond this. The same loss may show in another form the
    /// next time.
    fn covers(&self, damage: &Damage) -> bool {
        let loses_something = damage.lost.0 < damage.lost.1;
        let is_within = self.lost.0 <= damage.lost.0 && damage.lost.1 <= self.lost.1;
        is_within && (loses_something || self.file == damage.file)
    }
}

impl Replayed {
    /// Drops accepted damage from the report. With the last of it go its consequences: lost
    /// messages, and records that do not fit any more.
    pub fn accept(&mut self, accepted: &Accepted) {
        let accepted = &accepted.commits;
        let damage = &mut self.recovered.damage;
        let before = damage.len();
        damage.retain(|damage| !accepted.iter().any(|accepted| accepted.covers(damage)));
        if before > 0 && damage.is_empty() {
            self.lost.clear();
            self.unfit.clear();
        }
    }

    /// Messages that were lost with their blocks: a start is possible without them.
    pub fn lost_with_blocks(&self) -> impl Iterator<Item = (Lost, LostBlock)> {
        self.streams.iter().flat_map(|(stream, held)| {
            let lost = move |lost: &LostBlock| {
                (Lost { stream, first: lost.first, last: lost.last }, *lost)
            };
            held.lost().iter().map(lost)
        })
    }

    /// Reads every block. Those that cannot be read are lost.
    ///
    /// # Errors
    /// A segment cannot be opened now.
    pub async fn verify<D: Disk>(&mut self, disk: &D, place: &JournalPlace) -> io::Result<()> {
        let reader = SegmentReader::new(disk.clone(), place.clone());
        self.streams.verify(&reader).await
    }

    /// The payload of a message, read where it is not in memory.
    ///
    /// # Errors
    /// A segment cannot be opened now.
    pub async fn payload<D: Disk>(
        &mut self,
        disk: &D,
        place: &JournalPlace,
        (stream, sequence): (StreamId, u64),
    ) -> io::Result<Option<Vec<u8>>> {
        let reader = SegmentReader::new(disk.clone(), place.clone());
        while let Some(held) = self.streams.get(stream) {
            match held.stream.get(sequence) {
                Ok(found) => return Ok(found.map(|message| message.payload.to_vec())),
                Err(needed) => {
                    self.streams.load(&reader, stream, needed).await?;
                    self.streams.finish(&reader, stream).await?;
                }
            }
        }
        Ok(None)
    }

    /// True if a start loses nothing that was durable, except for messages that are lost with
    /// blocks.
    pub fn is_whole(&self) -> bool {
        let is_there = self.recovered.damage.is_empty() && self.lost.is_empty();
        is_there && self.unfit.is_empty() && !self.is_used_up()
    }

    /// True if a number is higher than any count ever gets: a store that counted on from it would
    /// write files that the next start does not read.
    pub fn is_used_up(&self) -> bool {
        let highest = |set: &BTreeSet<u64>| set.last().copied().unwrap_or(0);
        let files = &self.files;
        let numbers =
            [self.recovered.highest_file, highest(&files.manifests), highest(&files.segments)];
        let Streams { next_stream, next_consumer, .. } = self.streams;
        let counts = [self.recovered.position.next.0, next_stream, next_consumer];
        numbers.iter().chain(&files.unfinished).any(|number| *number > file_name::NUMBER_MAX)
            || files.segments.iter().any(|number| segment::is_near_the_end(*number))
            || StreamId(next_stream).is_near_the_end()
            || counts.iter().any(|count| *count > COUNT_STARTED_FROM_MAX)
    }
}

/// Reads the files of a lane and rebuilds its streams.
///
/// # Errors
/// A folder cannot be listed, or a file of the journal or a segment cannot be opened.
pub async fn replay<D: Disk>(disk: &D, place: &JournalPlace) -> io::Result<Replayed> {
    replay_with(disk, place, None).await
}

/// Does the same as [`replay`], with blocks of another size.
pub(super) async fn replay_with<D: Disk>(
    disk: &D,
    place: &JournalPlace,
    block_bytes: Option<usize>,
) -> io::Result<Replayed> {
    replay_into(disk, place, Streams::new(place.seed, block_bytes)).await
}

/// Does the same as [`replay`], into streams that are empty but may have settings of their own.
pub(super) async fn replay_into<D: Disk>(
    disk: &D,
    place: &JournalPlace,
    streams: Streams,
) -> io::Result<Replayed> {
    let reader = SegmentReader::new(disk.clone(), place.clone());
    let Loaded { mut streams, start, files, faults } = load(disk, place, &reader, streams).await?;
    let (mut record_count, mut lost, mut unfit) = (0, Vec::new(), Vec::new());
    let visit = async |commit, body: &[u8]| {
        for record in records(body) {
            record_count += 1;
            let Some(record) = Record::decode(record) else {
                unfit.push((commit, "a record of no known form"));
                continue;
            };
            loop {
                match streams.apply(record, commit, &mut lost) {
                    Ok(()) => break,
                    Err(NotApplied::Unfit(what)) => break unfit.push((commit, what)),
                    Err(NotApplied::NotLoaded(needed)) => {
                        streams.load(&reader, record.stream, needed).await?;
                        streams.finish(&reader, record.stream).await?;
                    }
                }
            }
            streams.finish(&reader, record.stream).await?;
        }
        Ok(())
    };
    let mut recovered = recover_with(disk, place, start, visit).await?;
    let walked = streams.walked;
    if files.is_manifest_missing && recovered.files.is_empty() {
        let lost = (CommitNumber(1), CommitNumber(2));
        let what = "manifest is missing";
        recovered.damage.push(Damage { file: 0, offset: 0, what, lost });
    }
    if recovered.position.next < walked {
        // The manifest was written only once everything before it was durable.
        let lost = (recovered.position.next, walked);
        let (file, what) = (recovered.position.place.file, "journal ends before the checkpoint");
        let offset = recovered.position.place.offset;
        recovered.damage.push(Damage { file, offset, what, lost });
        recovered.position.next = walked;
    }
    let manifest_faults = faults;
    Ok(Replayed { streams, recovered, files, manifest_faults, record_count, lost, unfit })
}
