//! Reads a lane's journal after a start, and finds the commits that count, the place to go on at,
//! and the losses.
//!
//! The work is bounded by the journal, never by the data: it is read from the last checkpoint on, a
//! window of a mebibyte (or one frame) at a time. Each file is synced before it is read, so that
//! bytes that a killed process left in the page cache are durable before anything is decided on
//! them. Nothing is written or removed here.

use std::collections::BTreeSet;
use std::io;

use super::disk::{Access, Disk, DiskBuffer, SECTOR_BYTES};
use super::frame::{FrameHeader, HEADER_BYTES, LaneSeed, header, records};
use super::journal_file::{self, FileHeader};
use super::position::{CommitNumber, Place, Position};
use super::verdict::{Facts, Verdict, judge};
use crate::base::limits::RECOVERY_WINDOW_BYTES;

/// Commits that were durable and are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub file: u64,
    pub offset: u64,
    /// The case of the verdict table, or the fault of the file.
    pub what: &'static str,
    /// The first commit that is lost and the first after it that is not. Equal where a copy of all
    /// of them is there.
    pub lost: (CommitNumber, CommitNumber),
}

const FILE_MISSING: &str = "file before this one is missing";

/// A frame to be written once more: after a sync that failed, the bytes that were read may be in
/// the kernel's memory only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastFrame {
    pub number: CommitNumber,
    /// The checksum of the header before it.
    pub previous: u64,
    pub record_count: u32,
    pub body: Vec<u8>,
}

/// The contents of the journal's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The end: the next commit's number, and the header before it.
    pub position: Position,
    /// The last frame that counts.
    pub last: Option<LastFrame>,
    /// A frame whose write a power cut ended: it is cut off.
    pub torn: Option<Place>,
    pub damage: Vec<Damage>,
    /// Files in use from the checkpoint on, each with the number of its first commit, in order.
    pub files: Vec<(u64, CommitNumber)>,
    /// Files without frames that have the right length, behind all in use.
    pub spares: Vec<u64>,
    /// Files that nothing needs.
    pub obsolete: Vec<u64>,
    /// The highest number of any file.
    pub highest_file: u64,
}

/// The place and the layout of a lane's journal.
#[derive(Clone, Debug)]
pub struct JournalPlace {
    /// The lane's folder.
    pub folder: String,
    pub seed: LaneSeed,
    pub file_bytes: u64,
}

impl JournalPlace {
    /// The position of a lane that has never been written to.
    pub fn first_position(&self) -> Position {
        let place = Place { file: 0, offset: self.file_bytes };
        Position { place, next: CommitNumber(1), previous: 0 }
    }

    /// The name of a journal file, from the store's folder on.
    pub fn file_name(&self, number: u64) -> String {
        format!("{}/{}", self.folder, journal_file::name(number))
    }
}

/// Reads the journal from `start` on and gives each commit's records to `visit`, in order.
///
/// # Errors
/// The folder cannot be listed or a file in it cannot be opened. Sectors that cannot be read are
/// damage, not an error.
pub async fn recover<D: Disk>(
    disk: &D,
    place: &JournalPlace,
    start: Position,
    mut visit: impl FnMut(CommitNumber, &[u8]),
) -> io::Result<Recovered> {
    let visit = async |commit, body: &[u8]| {
        visit(commit, body);
        Ok(())
    };
    recover_with(disk, place, start, visit).await
}

/// Does the same as [`recover`] for a visitor that has to wait for something.
///
/// # Errors
/// Those of [`recover`], and those of the visitor.
pub(crate) async fn recover_with<D: Disk>(
    disk: &D,
    place: &JournalPlace,
    start: Position,
    mut visit: impl AsyncFnMut(CommitNumber, &[u8]) -> io::Result<()>,
) -> io::Result<Recovered> {
    let mut found = Found::read(disk, place, start).await?;
    let mut out = Recovered {
        position: start,
        last: None,
        torn: None,
        damage: std::mem::take(&mut found.damage),
        files: Vec::new(),
        spares: found.spares,
        obsolete: found.obsolete,
        highest_file: found.highest_file.max(start.place.file),
    };
    let needs_start = start.place.offset < place.file_bytes;
    if needs_start && found.in_use.is_empty() {
        let lost = (start.next, CommitNumber(start.next.0 + 1));
        out.damage.push(Damage { file: start.place.file, offset: 0, what: FILE_MISSING, lost });
    }
    for index in 0..found.in_use.len() {
        let (head, file) = &mut found.in_use[index];
        out.files.push((head.number, head.first));
        if head.number != out.position.place.file {
            out.enter(head);
        }
        let what_follows = found.firsts.get(index + 1).copied();
        let mut walk = Walk { seed: place.seed, file, position: out.position, what_follows };
        out.torn = walk.run(&mut out.damage, &mut out.last, &mut visit).await?;
        out.position = walk.position;
    }
    out.spares.retain(|number| *number > out.position.place.file);
    Ok(out)
}

impl Recovered {
    /// Goes on at the beginning of a file.
    fn enter(&mut self, head: &FileHeader) {
        let expected = self.position;
        // Behind lost commits the header of the last one is not known.
        let follows_a_loss = self
            .damage
            .last()
            .is_some_and(|damage| damage.lost.0 < damage.lost.1 && damage.lost.1 == expected.next);
        let mut note = |what, until| {
            let lost = (expected.next, until);
            self.damage.push(Damage { file: head.number, offset: 0, what, lost });
        };
        if head.first > expected.next {
            note(FILE_MISSING, head.first);
            self.position.next = head.first;
        } else if head.previous != expected.previous && !follows_a_loss {
            note("file after another history", expected.next);
        }
        let place = Place { file: head.number, offset: SECTOR_BYTES as u64 };
        self.position = Position { place, previous: head.previous, ..self.position };
    }
}

/// The journal's files, sorted by their use.
struct Found<D: Disk> {
    in_use: Vec<(FileHeader, FileReader<D>)>,
    /// The first commit of each file in use.
    firsts: Vec<CommitNumber>,
    spares: Vec<u64>,
    obsolete: Vec<u64>,
    highest_file: u64,
    damage: Vec<Damage>,
}

impl<D: Disk> Found<D> {
    async fn read(disk: &D, place: &JournalPlace, start: Position) -> io::Result<Self> {
        let names = disk.list(&place.folder).await?;
        let mut numbers: Vec<u64> =
            names.iter().filter_map(|name| journal_file::number_of(name)).collect();
        numbers.sort_unstable();
        let mut found = Self {
            in_use: Vec::new(),
            firsts: Vec::new(),
            spares: Vec::new(),
            obsolete: Vec::new(),
            highest_file: numbers.last().copied().unwrap_or(0),
            damage: Vec::new(),
        };
        let needs_start = start.place.offset < place.file_bytes;
        for number in numbers {
            if number < start.place.file || (number == start.place.file && !needs_start) {
                found.obsolete.push(number);
            } else {
                let file =
                    FileReader::open(disk, &place.file_name(number), place.file_bytes).await?;
                found.sort_in(place, start, number, file).await?;
            }
        }
        Ok(found)
    }

    /// Finds out the use of a file from the checkpoint on, and sorts it in.
    async fn sort_in(
        &mut self,
        place: &JournalPlace,
        start: Position,
        number: u64,
        mut file: FileReader<D>,
    ) -> io::Result<()> {
        let is_start = number == start.place.file;
        let first_sector = file.bytes(0, SECTOR_BYTES).await?.unwrap_or_default();
        let head = FileHeader::decode(place.seed, number, first_sector);
        let head = match head {
            Some(head) if is_start || file.holds_frames(place.seed, &head).await? => head,
            Some(_) => {
                self.obsolete.push(number);
                return Ok(());
            }
            None => {
                let begin = if is_start { start.place.offset } else { SECTOR_BYTES as u64 };
                let inside = file.find_frame(place.seed, number, begin, |_| true).await?;
                let head = match inside {
                    Some((_, header)) => FileHeader {
                        number,
                        first: CommitNumber(header.fields.number),
                        previous: header.fields.previous,
                    },
                    None if is_start => {
                        FileHeader { number, first: start.next, previous: start.previous }
                    }
                    None => {
                        let is_whole = file.length == place.file_bytes;
                        let list = if is_whole { &mut self.spares } else { &mut self.obsolete };
                        list.push(number);
                        return Ok(());
                    }
                };
                self.note(number, "damaged file header", head.first);
                head
            }
        };
        if file.length < place.file_bytes {
            self.note(number, "file is cut short", head.first.max(start.next));
        }
        self.firsts.push(head.first);
        self.in_use.push((head, file));
        Ok(())
    }

    fn note(&mut self, file: u64, what: &'static str, at: CommitNumber) {
        self.damage.push(Damage { file, offset: 0, what, lost: (at, at) });
    }
}

/// The way through one file.
struct Walk<'file, D: Disk> {
    seed: LaneSeed,
    file: &'file mut FileReader<D>,
    position: Position,
    /// The first commit of the next file in use.
    what_follows: Option<CommitNumber>,
}

impl<D: Disk> Walk<'_, D> {
    /// Reads the file's frames; returns the place of a torn one.
    async fn run(
        &mut self,
        damage: &mut Vec<Damage>,
        last: &mut Option<LastFrame>,
        visit: &mut impl AsyncFnMut(CommitNumber, &[u8]) -> io::Result<()>,
    ) -> io::Result<Option<Place>> {
        loop {
            // Frames of this file from that number on count for nothing: their write failed.
            if self.what_follows.is_some_and(|first| self.position.next >= first) {
                return Ok(None);
            }
            let (facts, header) = self.look().await?;
            let (verdict, what) = judge(facts);
            match (verdict, header) {
                (Verdict::Take, Some(header)) => {
                    let place = self.position.place;
                    let length = HEADER_BYTES + header.body_bytes;
                    let bytes = self.file.bytes(place.offset, length).await?;
                    let bytes = bytes.expect("the window holds the whole frame");
                    visit(self.position.next, &bytes[HEADER_BYTES..]).await?;
                    let last = last.get_or_insert_default();
                    last.body.clear();
                    last.body.extend_from_slice(&bytes[HEADER_BYTES..]);
                    last.record_count = header.fields.record_count;
                    last.previous = header.fields.previous;
                    last.number = CommitNumber(header.fields.number);
                    self.position.next.0 += 1;
                    self.position.previous = header.checksum;
                    self.position.place.offset += header.frame_bytes() as u64;
                }
                (Verdict::Cut, header) => {
                    return Ok(header.map(|_| self.position.place));
                }
                (Verdict::Damaged | Verdict::Take, _) => {
                    if !self.skip(what, damage).await? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// The facts about the current position.
    async fn look(&mut self) -> io::Result<(Facts, Option<FrameHeader>)> {
        let Place { file: number, offset } = self.position.place;
        let seed = self.seed.at(number, offset);
        let mut facts = Facts {
            is_readable: true,
            has_header: false,
            is_next: false,
            has_body: false,
            was_durable: self.what_follows.is_some(),
        };
        let mut found = None;
        // The space behind the end of the file counts as never written.
        if offset < self.file.length {
            match self.file.bytes(offset, HEADER_BYTES).await? {
                None => facts.is_readable = false,
                Some(bytes) => found = header(seed, bytes),
            }
        }
        if let Some(header) = found {
            facts.has_header = true;
            facts.is_next = header.fields.number == self.position.next.0
                && header.fields.previous == self.position.previous;
            match self.file.bytes(offset, HEADER_BYTES + header.body_bytes).await? {
                None => facts.is_readable = false,
                Some(bytes) => {
                    let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
                    facts.has_body = header.fits(seed, body)
                        && records(body).count() as u64 == u64::from(header.fields.record_count);
                }
            }
        }
        let is_whole = facts.is_readable && facts.is_next && facts.has_body;
        if !is_whole && !facts.was_durable {
            facts.was_durable = self.find_later().await?.is_some();
        }
        Ok((facts, found))
    }

    /// The next frame behind the position in this file that comes later in the history.
    async fn find_later(&mut self) -> io::Result<Option<(u64, FrameHeader)>> {
        let Place { file: number, offset } = self.position.place;
        let (next, limit) = (self.position.next.0, self.what_follows);
        let is_later = |header: &FrameHeader| {
            let number = header.fields.number;
            number > next && limit.is_none_or(|limit| number < limit.0)
        };
        let begin = offset + SECTOR_BYTES as u64;
        self.file.find_frame(self.seed, number, begin, is_later).await
    }

    /// Goes on behind a damaged place; false where this file has nothing more.
    async fn skip(&mut self, what: &'static str, damage: &mut Vec<Damage>) -> io::Result<bool> {
        let Place { file, offset } = self.position.place;
        let lost_from = self.position.next;
        let here = self.file.frame_at(self.seed, file, offset).await?;
        // A frame out of order at this very place is the next one there is.
        let found = match here.filter(|header| header.fields.number > lost_from.0) {
            Some(header)
                if self.what_follows.is_none_or(|first| header.fields.number < first.0) =>
            {
                Some((offset, header))
            }
            _ => self.find_later().await?,
        };
        let (lost_to, goes_on) = match (found, self.what_follows) {
            (Some((offset, header)), _) => {
                self.position.place.offset = offset;
                self.position.previous = header.fields.previous;
                (CommitNumber(header.fields.number), true)
            }
            (None, Some(first)) => (first, false),
            // The number of lost commits is not known: it is at least one.
            (None, None) => (CommitNumber(lost_from.0 + 1), false),
        };
        self.position.next = lost_to;
        damage.push(Damage { file, offset, what, lost: (lost_from, lost_to) });
        Ok(goes_on)
    }
}

/// A file through a window.
struct FileReader<D: Disk> {
    disk: D,
    file: D::File,
    length: u64,
    window: DiskBuffer,
    window_start: u64,
    /// Sectors that the disk could not read, by their number in the file.
    unreadable: BTreeSet<u64>,
}

impl<D: Disk> FileReader<D> {
    async fn open(disk: &D, name: &str, file_bytes: u64) -> io::Result<Self> {
        let file = disk.open(name, Access::Read).await?;
        disk.sync(&file).await?;
        // Anything behind that length was not written by a lane, however long it is.
        let length = disk.length(&file).await?.min(file_bytes);
        Ok(Self {
            disk: disk.clone(),
            file,
            length,
            window: DiskBuffer::default(),
            window_start: 0,
            unreadable: BTreeSet::new(),
        })
    }

    /// That many bytes from `offset` on, fewer at the end of the file. `None` if the disk could not
    /// read them all.
    async fn bytes(&mut self, offset: u64, count: usize) -> io::Result<Option<&[u8]>> {
        let end = (offset + count as u64).min(self.length);
        if offset < self.window_start || end > self.window_start + self.window.len() as u64 {
            let sector = SECTOR_BYTES as u64;
            let begin = offset / sector * sector;
            let wanted = (end.saturating_sub(begin) as usize).max(RECOVERY_WINDOW_BYTES);
            self.fill(begin, wanted.min(self.length.saturating_sub(begin) as usize)).await?;
        }
        if end <= offset {
            return Ok(Some(&[]));
        }
        let sectors = offset / SECTOR_BYTES as u64..=(end - 1) / SECTOR_BYTES as u64;
        if self.unreadable.range(sectors).next().is_some() {
            return Ok(None);
        }
        let start = (offset - self.window_start) as usize;
        Ok(Some(&self.window.as_slice()[start..start + (end - offset) as usize]))
    }

    /// Reads the window anew. A read that fails is halved until single sectors are left that cannot
    /// be read.
    async fn fill(&mut self, begin: u64, count: usize) -> io::Result<()> {
        self.window_start = begin;
        let window = std::mem::take(&mut self.window);
        drop(window);
        let (result, window) = self.disk.read(&self.file, begin, DiskBuffer::zeroed(count)).await;
        self.window = window;
        let mut parts = match result {
            Ok(_) => return Ok(()),
            Err(_) => vec![(begin, count)],
        };
        while let Some((offset, count)) = parts.pop() {
            let (result, part) =
                self.disk.read(&self.file, offset, DiskBuffer::zeroed(count)).await;
            match result {
                Ok(read) => {
                    let at = (offset - begin) as usize;
                    self.window.as_mut_slice()[at..at + read]
                        .copy_from_slice(&part.as_slice()[..read]);
                }
                Err(_) if count > SECTOR_BYTES => {
                    let half = (count / 2).next_multiple_of(SECTOR_BYTES);
                    parts.push((offset + half as u64, count - half));
                    parts.push((offset, half));
                }
                Err(_) => {
                    self.unreadable.insert(offset / SECTOR_BYTES as u64);
                }
            }
        }
        Ok(())
    }

    /// True if the file's use has begun: its first frame is there, or was. In a file without one
    /// nothing begins, and the file before still holds the commits that the first frame would have
    /// repeated.
    async fn holds_frames(&mut self, seed: LaneSeed, head: &FileHeader) -> io::Result<bool> {
        let offset = SECTOR_BYTES as u64;
        if let Some(header) = self.frame_at(seed, head.number, offset).await? {
            let bytes = self.bytes(offset, HEADER_BYTES + header.body_bytes).await?;
            let is_whole = |bytes: &[u8]| {
                let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
                header.fits(seed.at(head.number, offset), body)
            };
            if bytes.is_some_and(is_whole) {
                return Ok(true);
            }
        }
        if self.bytes(offset, SECTOR_BYTES).await?.is_none() {
            return Ok(true);
        }
        let is_later = |header: &FrameHeader| header.fields.number > head.first.0;
        Ok(self.find_frame(seed, head.number, offset, is_later).await?.is_some())
    }

    /// The header of the frame at `offset`, if one is there that can be read.
    async fn frame_at(
        &mut self,
        seed: LaneSeed,
        number: u64,
        offset: u64,
    ) -> io::Result<Option<FrameHeader>> {
        let bytes = self.bytes(offset, HEADER_BYTES).await?;
        Ok(bytes.and_then(|bytes| header(seed.at(number, offset), bytes)))
    }

    /// The first frame from `begin` on that is accepted. Each sector may begin one.
    async fn find_frame(
        &mut self,
        seed: LaneSeed,
        number: u64,
        begin: u64,
        is_wanted: impl Fn(&FrameHeader) -> bool,
    ) -> io::Result<Option<(u64, FrameHeader)>> {
        let mut offset = begin;
        while offset < self.length {
            let found = self.frame_at(seed, number, offset).await?;
            if let Some(header) = found.filter(|header| is_wanted(header)) {
                return Ok(Some((offset, header)));
            }
            offset += SECTOR_BYTES as u64;
        }
        Ok(None)
    }
}
