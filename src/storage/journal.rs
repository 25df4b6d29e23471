//! Group commit, without I/O: records gather in an open frame while the frame before is on its way
//! to disk.
//!
//! One frame is in flight at a time. Records that come meanwhile wait in the open frame, so the
//! load sets the size of the batches: a lone writer waits only for the disk, and a thousand writers
//! share one write. The driver (`lane`) asks [`Journal::next_write`] for work and reports its end
//! with [`Journal::written`].
//!
//! A frame that is long enough is closed, and waits for its turn behind the one in flight.
//!
//! Invariants: commits are numbered without gaps. Between `durable` and the open frame's number are
//! the frame in flight and those that wait. A frame that could not be written stays in flight until
//! it is written elsewhere.

use std::collections::VecDeque;

use super::disk::{DiskBuffer, SECTOR_BYTES};
use super::frame::{
    self, FrameFields, HEADER_BYTES, LaneSeed, RECORD_PREFIX_BYTES, frame_bytes, push_record,
};
use super::position::{CommitNumber, Place, Position};
use super::recovery::{LastFrame, Recovered};
use crate::base::limits::FRAME_BYTES_FULL;

/// The write that a record asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// A write is made as soon as the one in flight is done.
    Commits,
    /// No write is made for it: it goes with the next one.
    Rides,
}

/// A record that no journal file can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordTooLarge {
    pub record_bytes: usize,
    pub record_bytes_max: usize,
}

/// The driver's next step.
#[derive(Debug)]
pub(crate) enum Next {
    /// Nothing to do: nothing waits, or a frame is in flight.
    Idle,
    /// The frame does not fit into its file: give the journal another one with
    /// [`Journal::use_file`].
    File,
    /// Write this frame durably, and report how it ended.
    Write(Place, DiskBuffer),
}

/// The state of a lane's journal.
#[derive(Debug)]
pub(crate) struct Journal {
    seed: LaneSeed,
    file_bytes: u64,
    place: Place,
    /// The checksum of the latest frame's header, even if that frame is still in flight.
    previous: u64,
    durable: u64,
    open: Gathered,
    /// Closed frames, the oldest first.
    waiting: VecDeque<Gathered>,
    /// The number of the open frame.
    open_number: u64,
    in_flight: Option<InFlight>,
    /// The buffer that the next open frame uses.
    free: DiskBuffer,
    /// The commit that a checkpoint begins at, and the place of its frame once all commits before
    /// it are durable.
    mark: Option<(CommitNumber, Option<Position>)>,
}

/// Records, behind the space for a header.
#[derive(Debug)]
struct Gathered {
    buffer: DiskBuffer,
    record_count: u32,
    /// One of the records asks for a write.
    is_wanted: bool,
}

impl Gathered {
    fn new(mut buffer: DiskBuffer) -> Self {
        buffer.clear();
        buffer.pad_to(HEADER_BYTES);
        Self { buffer, record_count: 0, is_wanted: false }
    }
}

/// A frame that is being written, or that has to be written elsewhere.
#[derive(Debug)]
struct InFlight {
    fields: FrameFields,
    frame_bytes: u64,
    /// The frame after its write failed, and the bytes of its body.
    failed: Option<(DiskBuffer, usize)>,
    body_bytes: usize,
}

impl Journal {
    pub(crate) fn new(seed: LaneSeed, file_bytes: u64, position: Position) -> Self {
        assert!(file_bytes >= 3 * SECTOR_BYTES as u64, "a file holds its header and a frame");
        assert!(position.next.0 > 0, "commits count from 1");
        Self {
            seed,
            file_bytes,
            place: position.place,
            previous: position.previous,
            durable: position.next.0 - 1,
            open: Gathered::new(DiskBuffer::default()),
            waiting: VecDeque::new(),
            open_number: position.next.0,
            in_flight: None,
            free: DiskBuffer::default(),
            mark: None,
        }
    }

    /// Goes on where recovery ended, in a file that is still to be given. The last frame waits to
    /// be written there once more. Nothing is added to it, so that either copy is the commit.
    pub(crate) fn resume(seed: LaneSeed, file_bytes: u64, recovered: &Recovered) -> Self {
        let mut position = recovered.position;
        position.place.offset = file_bytes;
        // The last frame is written again only if the next one follows it. Not so where the end is
        // lost.
        let is_next = |last: &&LastFrame| last.number.0 + 1 == position.next.0;
        let Some(last) = recovered.last.as_ref().filter(is_next) else {
            return Self::new(seed, file_bytes, position);
        };
        position.next = last.number;
        position.previous = last.previous;
        let mut journal = Self::new(seed, file_bytes, position);
        journal.open.buffer.extend(&last.body);
        journal.open.record_count = last.record_count;
        journal.close_open();
        journal
    }

    /// The size in bytes of the largest record that a file of this journal holds.
    pub(crate) fn record_bytes_max(&self) -> usize {
        let body = self.file_bytes as usize - SECTOR_BYTES - HEADER_BYTES;
        (body - RECORD_PREFIX_BYTES).min(u32::MAX as usize)
    }

    /// Adds a record that consists of `parts`; returns the commit it will be durable with.
    ///
    /// # Errors
    /// The record fits no file. A record is never refused because of those that wait already: see
    /// [`Journal::is_crowded`].
    pub(crate) fn append(
        &mut self,
        parts: &[&[u8]],
        urgency: Urgency,
    ) -> Result<CommitNumber, RecordTooLarge> {
        let record_bytes = parts.iter().map(|part| part.len()).sum();
        let record_bytes_max = self.record_bytes_max();
        if record_bytes > record_bytes_max {
            return Err(RecordTooLarge { record_bytes, record_bytes_max });
        }
        let longer = self.open.buffer.len() + RECORD_PREFIX_BYTES + record_bytes;
        let frame_bytes_max = HEADER_BYTES + RECORD_PREFIX_BYTES + record_bytes_max;
        if self.open.record_count > 0 && longer > FRAME_BYTES_FULL.min(frame_bytes_max) {
            self.close_open();
        }
        push_record(&mut self.open.buffer, parts);
        self.open.record_count += 1;
        self.open.is_wanted |= urgency == Urgency::Commits;
        Ok(self.open())
    }

    /// Has records written that would otherwise wait for the next write.
    pub(crate) fn flush(&mut self) {
        self.open.is_wanted |= self.open.record_count > 0;
    }

    /// Closes the open frame if it holds anything. All records appended so far belong to commits
    /// before the one returned, and all later ones do not.
    pub(crate) fn cut(&mut self) -> CommitNumber {
        if self.open.record_count > 0 {
            self.close_open();
        }
        self.open()
    }

    /// Cuts, and remembers the place of the next frame: see [`Journal::marked`].
    pub(crate) fn mark(&mut self) -> CommitNumber {
        let next = self.cut();
        self.mark = Some((next, None));
        self.note_mark();
        next
    }

    /// The position at the last mark, once all commits before it are durable.
    pub(crate) fn marked(&self) -> Option<Position> {
        self.mark.and_then(|(_, position)| position)
    }

    fn note_mark(&mut self) {
        let (place, previous) = (self.place, self.previous);
        if let Some((next, position)) = &mut self.mark
            && next.0 == self.durable + 1
            && self.in_flight.is_none()
        {
            *position = Some(Position { place, next: *next, previous });
        }
    }

    fn close_open(&mut self) {
        let next = Gathered::new(std::mem::take(&mut self.free));
        self.waiting.push_back(std::mem::replace(&mut self.open, next));
        self.open_number += 1;
    }

    /// True while more waits than the next write takes: whoever can wait should. A caller that
    /// appends without a look at this fills the memory.
    pub(crate) fn is_crowded(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The highest commit that is durable.
    pub(crate) fn durable(&self) -> CommitNumber {
        CommitNumber(self.durable)
    }

    /// The commit that makes records appended now durable.
    pub(crate) fn open(&self) -> CommitNumber {
        CommitNumber(self.open_number)
    }

    /// The commit with which all records appended so far are durable.
    pub(crate) fn last(&self) -> CommitNumber {
        CommitNumber(self.open_number - u64::from(self.open.record_count == 0))
    }

    /// Bytes of the current file that are left once all records appended so far are written.
    pub(crate) fn room(&self) -> u64 {
        let gathered = self.waiting.iter().chain([&self.open]);
        let bytes = |gathered: &Gathered| match gathered.record_count {
            0 => 0,
            _ => frame_bytes(gathered.buffer.len() - HEADER_BYTES) as u64,
        };
        let in_flight = self.in_flight.as_ref().map_or(0, |in_flight| in_flight.frame_bytes);
        let taken = self.place.offset + in_flight + gathered.map(bytes).sum::<u64>();
        self.file_bytes.saturating_sub(taken)
    }

    /// The place of the next frame while none is in flight or waits. Nothing before it is needed
    /// once everything committed so far is stored elsewhere.
    pub(crate) fn position(&self) -> Option<Position> {
        let is_quiet = self.in_flight.is_none() && self.waiting.is_empty();
        is_quiet.then(|| Position { place: self.place, next: self.open(), previous: self.previous })
    }

    /// The next step for the driver.
    pub(crate) fn next_write(&mut self) -> Next {
        if let Some(in_flight) = &mut self.in_flight {
            let fits = self.place.offset + in_flight.frame_bytes <= self.file_bytes;
            return match in_flight.failed.take() {
                None => Next::Idle,
                Some(failed) if !fits => {
                    in_flight.failed = Some(failed);
                    Next::File
                }
                Some((mut buffer, body_bytes)) => {
                    buffer.truncate(HEADER_BYTES + body_bytes);
                    let fields = in_flight.fields;
                    let seed = self.seed.at(self.place.file, self.place.offset);
                    self.previous = frame::seal(&mut buffer, fields, seed);
                    Next::Write(self.place, buffer)
                }
            };
        }
        let next = match self.waiting.front() {
            Some(gathered) => gathered,
            None if self.open.is_wanted => &self.open,
            None => return Next::Idle,
        };
        let body_bytes = next.buffer.len() - HEADER_BYTES;
        let frame_bytes = frame_bytes(body_bytes) as u64;
        if self.place.offset + frame_bytes > self.file_bytes {
            return Next::File;
        }
        let gathered = match self.waiting.pop_front() {
            Some(gathered) => gathered,
            None => {
                self.close_open();
                self.waiting.pop_front().expect("it was just put there")
            }
        };
        let fields = FrameFields {
            number: self.durable + 1,
            previous: self.previous,
            durable: self.durable,
            record_count: gathered.record_count,
        };
        let mut buffer = gathered.buffer;
        self.previous =
            frame::seal(&mut buffer, fields, self.seed.at(self.place.file, self.place.offset));
        self.in_flight = Some(InFlight { fields, frame_bytes, failed: None, body_bytes });
        self.check_invariants();
        Next::Write(self.place, buffer)
    }

    /// The number of records in the frame that is being written; 0 where there is none.
    pub(crate) fn in_flight_records(&self) -> u32 {
        self.in_flight.as_ref().map_or(0, |in_flight| in_flight.fields.record_count)
    }

    /// The write that `next_write` asked for is durable.
    pub(crate) fn written(&mut self, buffer: DiskBuffer) -> CommitNumber {
        let in_flight = self.in_flight.take().expect("a frame is in flight");
        assert!(in_flight.failed.is_none(), "the frame is being written");
        assert!(in_flight.fields.number == self.durable + 1, "commits become durable in order");
        self.durable = in_flight.fields.number;
        self.place.offset += in_flight.frame_bytes;
        self.free = buffer;
        self.note_mark();
        self.check_invariants();
        self.durable()
    }

    /// Reports that the write failed. The frame has to be written to another file, which
    /// `next_write` asks for.
    pub(crate) fn write_failed(&mut self, buffer: DiskBuffer) {
        let in_flight = self.in_flight.as_mut().expect("a frame is in flight");
        assert!(in_flight.failed.is_none(), "the frame is being written");
        self.previous = in_flight.fields.previous;
        in_flight.failed = Some((buffer, in_flight.body_bytes));
        // Nothing more is written to that file.
        self.place.offset = self.file_bytes;
    }

    /// The number of the first frame of the next file, and the checksum of the header before it.
    pub(crate) fn takes_over(&self) -> (CommitNumber, u64) {
        (CommitNumber(self.durable + 1), self.previous)
    }

    /// Goes on in another file, whose header holds the values of [`Journal::takes_over`].
    pub(crate) fn use_file(&mut self, file: u64) {
        assert!(file > self.place.file, "files are used in the order of their numbers");
        self.place = Place { file, offset: SECTOR_BYTES as u64 };
    }

    fn check_invariants(&self) {
        let between = u64::from(self.in_flight.is_some()) + self.waiting.len() as u64;
        assert!(self.open_number == self.durable + between + 1, "commits have no gaps");
        assert!(self.place.offset.is_multiple_of(SECTOR_BYTES as u64), "frames begin at sectors");
        assert!(self.place.offset <= self.file_bytes, "frames stay in their file");
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{StoreId, header, records};
    use super::*;

    const FILE_BYTES: u64 = 8 * SECTOR_BYTES as u64;

    fn seed() -> LaneSeed {
        LaneSeed::new(StoreId([1; 16]), 0)
    }

    fn journal() -> Journal {
        let place = Place { file: 1, offset: SECTOR_BYTES as u64 };
        Journal::new(seed(), FILE_BYTES, Position { place, next: CommitNumber(1), previous: 9 })
    }

    fn write(journal: &mut Journal) -> (Place, DiskBuffer) {
        match journal.next_write() {
            Next::Write(place, buffer) => (place, buffer),
            other => panic!("{other:?}"),
        }
    }

    fn bodies(place: Place, buffer: &DiskBuffer) -> Vec<Vec<u8>> {
        let found =
            header(seed().at(place.file, place.offset), buffer.as_slice()).expect("a frame");
        let body = &buffer.as_slice()[HEADER_BYTES..][..found.body_bytes];
        records(body).map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn what_comes_during_a_write_shares_the_next() {
        let mut journal = journal();
        assert!(matches!(journal.next_write(), Next::Idle));
        assert_eq!(journal.last(), CommitNumber(0));
        assert_eq!(journal.append(&[b"a"], Urgency::Commits), Ok(CommitNumber(1)));
        let (place, buffer) = write(&mut journal);
        assert_eq!(bodies(place, &buffer), [b"a"]);
        for text in [b"b", b"c", b"d"] {
            assert_eq!(journal.append(&[text], Urgency::Commits), Ok(CommitNumber(2)));
            assert!(matches!(journal.next_write(), Next::Idle), "one is in flight");
        }
        assert_eq!(journal.durable(), CommitNumber(0));
        assert_eq!(journal.written(buffer), CommitNumber(1));
        let (second, buffer) = write(&mut journal);
        assert_eq!(second.offset, place.offset + SECTOR_BYTES as u64);
        assert_eq!(bodies(second, &buffer), [b"b", b"c", b"d"]);
        assert_eq!(journal.written(buffer), CommitNumber(2));
        assert_eq!(journal.last(), CommitNumber(2));
        assert_eq!(journal.position().map(|position| position.next), Some(CommitNumber(3)));
    }

    #[test]
    fn mark_is_where_the_next_frame_goes_once_all_before_it_is_durable() {
        let mut journal = journal();
        journal.append(&[b"a"], Urgency::Commits).expect("it fits");
        let (place, first) = write(&mut journal);
        journal.append(&[b"b"], Urgency::Rides).expect("it fits");
        assert_eq!((journal.mark(), journal.marked()), (CommitNumber(3), None));
        journal.append(&[b"c"], Urgency::Commits).expect("it fits");
        journal.written(first);
        assert_eq!(journal.marked(), None);
        let (second, buffer) = write(&mut journal);
        assert_eq!(bodies(second, &buffer), [b"b"], "what only rides is written, too");
        journal.written(buffer);
        let marked = journal.marked().expect("all before it is durable");
        assert_eq!((marked.next, marked.place.file), (CommitNumber(3), place.file));
        assert_eq!(marked.place.offset, second.offset + SECTOR_BYTES as u64);
        let (third, buffer) = write(&mut journal);
        assert_eq!((third, bodies(third, &buffer)), (marked.place, vec![b"c".to_vec()]));
        journal.written(buffer);
        assert_eq!(journal.marked(), Some(marked));
        assert_eq!(journal.mark(), CommitNumber(4), "there is nothing to close");
        assert_eq!(journal.marked().map(|marked| marked.next), Some(CommitNumber(4)));
    }

    #[test]
    fn record_that_rides_starts_no_write() {
        let mut journal = journal();
        assert_eq!(journal.append(&[b"a"], Urgency::Rides), Ok(CommitNumber(1)));
        assert!(matches!(journal.next_write(), Next::Idle));
        assert_eq!(journal.last(), CommitNumber(1));
        assert_eq!(journal.append(&[b"b"], Urgency::Commits), Ok(CommitNumber(1)));
        let (place, buffer) = write(&mut journal);
        assert_eq!(bodies(place, &buffer), [b"a", b"b"]);
        journal.append(&[b"c"], Urgency::Rides).expect("it fits");
        journal.written(buffer);
        assert!(matches!(journal.next_write(), Next::Idle));
        journal.flush();
        let (place, buffer) = write(&mut journal);
        assert_eq!(bodies(place, &buffer), [b"c"]);
        journal.written(buffer);
        journal.flush();
        assert!(matches!(journal.next_write(), Next::Idle), "there is nothing to write");
    }

    #[test]
    fn full_file_is_left_for_the_next() {
        let mut journal = journal();
        let large = vec![7; 4 * SECTOR_BYTES];
        journal.append(&[&large], Urgency::Commits).expect("it fits");
        let (_, buffer) = write(&mut journal);
        journal.written(buffer);
        journal.append(&[&large], Urgency::Commits).expect("it fits");
        assert!(matches!(journal.next_write(), Next::File));
        assert_eq!(journal.takes_over().0, CommitNumber(2));
        journal.use_file(2);
        let (place, buffer) = write(&mut journal);
        assert_eq!(place, Place { file: 2, offset: SECTOR_BYTES as u64 });
        assert_eq!(bodies(place, &buffer), [large.as_slice()]);
    }

    #[test]
    fn frame_that_failed_goes_to_another_file() {
        let mut journal = journal();
        journal.append(&[b"a"], Urgency::Commits).expect("it fits");
        let (_, buffer) = write(&mut journal);
        journal.append(&[b"b"], Urgency::Commits).expect("it fits");
        journal.write_failed(buffer);
        assert!(matches!(journal.next_write(), Next::File));
        assert_eq!(journal.takes_over(), (CommitNumber(1), 9));
        assert_eq!(journal.durable(), CommitNumber(0));
        journal.use_file(2);
        let (place, buffer) = write(&mut journal);
        assert_eq!(place.file, 2);
        assert_eq!(bodies(place, &buffer), [b"a"]);
        assert_eq!(journal.written(buffer), CommitNumber(1));
        let (place, buffer) = write(&mut journal);
        assert_eq!(bodies(place, &buffer), [b"b"]);
    }

    #[test]
    fn largest_record_fits_and_a_byte_more_does_not() {
        let mut journal = journal();
        let largest = vec![7; journal.record_bytes_max()];
        assert_eq!(largest.len() as u64, FILE_BYTES - 4096 - 68);
        journal.append(&[&largest, b"x"], Urgency::Commits).expect_err("it fits no file");
        assert_eq!(journal.last(), CommitNumber(0), "nothing of it is left");
        journal.append(&[&largest], Urgency::Commits).expect("it fits");
        let (_, buffer) = write(&mut journal);
        assert_eq!(buffer.len() as u64, FILE_BYTES - SECTOR_BYTES as u64);
    }

    #[test]
    fn frame_that_is_long_enough_is_closed() {
        let mut journal = journal();
        let largest = vec![7; journal.record_bytes_max()];
        assert_eq!(journal.append(&[&largest[5..]], Urgency::Commits), Ok(CommitNumber(1)));
        assert_eq!(
            journal.append(&[b"x"], Urgency::Commits),
            Ok(CommitNumber(1)),
            "there is just room for it"
        );
        assert!(!journal.is_crowded());
        assert_eq!(journal.append(&[b""], Urgency::Commits), Ok(CommitNumber(2)));
        assert!(journal.is_crowded());
        assert_eq!(journal.append(&[&largest], Urgency::Commits), Ok(CommitNumber(3)));
        assert_eq!((journal.last(), journal.position()), (CommitNumber(3), None));
        for expected in [2, 1, 1] {
            let (place, buffer) = match journal.next_write() {
                Next::Write(place, buffer) => (place, buffer),
                _ => {
                    journal.use_file(journal.place.file + 1);
                    write(&mut journal)
                }
            };
            assert_eq!(bodies(place, &buffer).len(), expected);
            journal.written(buffer);
        }
        assert!(!journal.is_crowded());
        assert_eq!(journal.durable(), CommitNumber(3));
    }
}
