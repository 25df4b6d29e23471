//! A lane: a journal on a disk, and the two tasks that keep it going.
//!
//! [`Lane::commit`] writes one frame after the other; [`Lane::keep_spare`] has the next file ready
//! before it is needed, so that no commit waits for zeros to be written. Anything that leaves the
//! server waits for the commit it depends on with [`Lane::durable`].
//!
//! A file that failed is never trusted again. A frame that could not be written goes to a new file,
//! once; a second failure stops the lane, and all waiters are told. A file whose write failed is
//! not written to any more and is removed once it is not needed.
//!
//! Besides the spare file there is one more, the reserve: room for a checkpoint on a full disk
//! ([`Lane::release_reserve`]). While either cannot be made the lane [is short](Lane::shortage):
//! messages should be refused, and the [rest of the current file](Lane::room) kept for changes that
//! make room.
//!
//! A checkpoint (`checkpoint`) begins with [`Lane::mark`] and ends with [`Lane::retire`].

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::time::Instant;

use super::disk::{Access, Disk, DiskBuffer};
use super::figures::{LaneCounters, StoreFigures};
use super::journal::{Journal, Next, RecordTooLarge, Urgency};
use super::journal_file::FileHeader;
use super::position::{CommitNumber, Position};
use super::recovery::{JournalPlace, Recovered};
use crate::base::gate::Gate;
use crate::base::limits::{SHORT_ROOM_SHARE, SMALL_RESERVE_BYTES, ZEROED_BYTES_AT_A_TIME};

#[cfg(test)]
mod simulation;

/// The name of the reserve within the lane's folder.
const RESERVE: &str = "reserve";
const SMALL_RESERVE: &str = "reserve-small";

/// The reason why a lane stopped. Commits that were not durable by then never will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneStopped {
    pub reason: String,
}

impl fmt::Display for LaneStopped {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the store stopped: {}", self.reason)
    }
}

/// The reason why a record was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    TooLarge(RecordTooLarge),
    Stopped(LaneStopped),
}

/// A journal file ready for use.
struct Spare<F> {
    number: u64,
    file: F,
}

/// A file in use.
struct Used {
    number: u64,
    /// A write to it failed.
    is_bad: bool,
}

struct State<F> {
    journal: Journal,
    /// The file of the journal's place; `None` until the first is used.
    file: Option<F>,
    /// Files in use, the current one last.
    used: VecDeque<Used>,
    /// Files that are not needed any more: those that can be used again, and those that only have
    /// to be removed.
    reusable: Vec<u64>,
    obsolete: Vec<u64>,
    spare: Option<Spare<F>>,
    /// The file that keeps a checkpoint's room is there; with `gives_reserve` it becomes the next
    /// spare.
    has_reserve: bool,
    gives_reserve: bool,
    /// The file that keeps the room of a manifest is there, in case a start has needed the reserve.
    has_small_reserve: bool,
    next_file: u64,
    /// The reason why no spare or no reserve could be made, until both are there.
    shortage: Option<io::ErrorKind>,
    stopped: Option<LaneStopped>,
}

/// A lane, driven by its tasks on one thread.
pub struct Lane<D: Disk> {
    disk: D,
    place: JournalPlace,
    state: RefCell<State<D::File>>,
    /// The highest durable commit.
    durable: Gate,
    /// Count the events that the tasks have to look at.
    records: Gate,
    files: Gate,
    spares: Gate,
    /// Counts the events that may make a checkpoint due: files that were begun, and requests.
    due: Gate,
    counters: LaneCounters,
}

impl<D: Disk> Lane<D> {
    /// The position of a lane that has never been written to.
    pub fn first_position(place: &JournalPlace) -> Position {
        place.first_position()
    }

    /// Goes on where recovery ended, in a new file. The last commit is written once more, and not
    /// durable before: after a sync that failed, the bytes that recovery read may be in the
    /// kernel's memory only.
    ///
    /// # Panics
    /// There is damage: going on would bury it.
    pub fn start(disk: D, place: JournalPlace, recovered: &Recovered) -> Self {
        assert!(recovered.damage.is_empty(), "a damaged journal is not written to");
        let used = |(number, _): &(u64, CommitNumber)| Used { number: *number, is_bad: false };
        let state = State {
            journal: Journal::resume(place.seed, place.file_bytes, recovered),
            file: None,
            used: recovered.files.iter().map(used).collect(),
            reusable: recovered.spares.clone(),
            obsolete: recovered.obsolete.clone(),
            spare: None,
            has_reserve: false,
            gives_reserve: false,
            has_small_reserve: false,
            next_file: recovered.highest_file + 1,
            shortage: None,
            stopped: None,
        };
        let durable = Gate::new();
        durable.advance_to(state.journal.durable().0);
        Self {
            disk,
            place,
            state: RefCell::new(state),
            durable,
            records: Gate::new(),
            files: Gate::new(),
            spares: Gate::new(),
            due: Gate::new(),
            counters: LaneCounters::default(),
        }
    }

    /// Adds a record to the next commit.
    ///
    /// # Errors
    /// The record fits no file, or the lane stopped.
    pub fn append(&self, parts: &[&[u8]], urgency: Urgency) -> Result<CommitNumber, Refused> {
        let mut state = self.state.borrow_mut();
        if let Some(stopped) = &state.stopped {
            return Err(Refused::Stopped(stopped.clone()));
        }
        let commit = state.journal.append(parts, urgency).map_err(Refused::TooLarge)?;
        drop(state);
        if urgency == Urgency::Commits {
            self.records.advance_by(1);
        }
        Ok(commit)
    }

    /// Has records written that would otherwise wait for the next write, if there are any.
    pub fn flush(&self) {
        self.state.borrow_mut().journal.flush();
        self.records.advance_by(1);
    }

    /// Waits until a commit is durable.
    ///
    /// # Errors
    /// The lane stopped before.
    pub async fn durable(&self, commit: CommitNumber) -> Result<(), LaneStopped> {
        self.durable.reached(commit.0).await;
        let state = self.state.borrow();
        match &state.stopped {
            Some(stopped) if state.journal.durable() < commit => Err(stopped.clone()),
            _ => Ok(()),
        }
    }

    /// The highest durable commit.
    pub fn durable_commit(&self) -> CommitNumber {
        self.state.borrow().journal.durable()
    }

    /// The commit with which all records appended so far are durable.
    pub fn last_commit(&self) -> CommitNumber {
        self.state.borrow().journal.last()
    }

    /// True while more waits than the next write takes, or the current file is nearly full and the
    /// next one not there yet: publishers have to be slowed down.
    pub fn is_crowded(&self) -> bool {
        let state = self.state.borrow();
        // Records past the current file's room need the next file, which a full disk may not have.
        let is_late = state.file.is_some() && state.spare.is_none();
        state.journal.is_crowded()
            || (is_late && state.journal.room() < self.place.file_bytes / SHORT_ROOM_SHARE)
    }

    /// Bytes that are left of the current file. During a shortage no more than these can be
    /// written.
    pub(crate) fn room(&self) -> u64 {
        self.state.borrow().journal.room()
    }

    /// Gives up the reserve, so that a checkpoint has its room; false where there is none. The lane
    /// is short until there is one again.
    pub(crate) async fn release_reserve(&self) -> bool {
        let name = {
            let mut state = self.state.borrow_mut();
            let name = match () {
                () if std::mem::take(&mut state.has_reserve) => self.reserve_name(),
                () if std::mem::take(&mut state.has_small_reserve) => self.small_reserve_name(),
                () => return false,
            };
            state.shortage = Some(io::ErrorKind::StorageFull);
            name
        };
        self.disk.remove(&name).await.is_ok()
    }

    fn reserve_name(&self) -> String {
        format!("{}/{RESERVE}", self.place.folder)
    }

    fn small_reserve_name(&self) -> String {
        format!("{}/{SMALL_RESERVE}", self.place.folder)
    }

    fn small_reserve_bytes(&self) -> u64 {
        SMALL_RESERVE_BYTES.min(self.place.file_bytes / 4)
    }

    /// True if a file of that length is there: an earlier process left it.
    async fn is_there(&self, name: &str, bytes: u64) -> bool {
        match self.disk.open(name, Access::Read).await {
            Ok(file) => self.disk.length(&file).await.is_ok_and(|length| length == bytes),
            Err(_) => false,
        }
    }

    /// The reason why no further journal file can be made; messages should be refused meanwhile.
    pub fn shortage(&self) -> Option<io::ErrorKind> {
        let state = self.state.borrow();
        state.shortage.filter(|_| state.stopped.is_none())
    }

    pub fn stopped(&self) -> Option<LaneStopped> {
        self.state.borrow().stopped.clone()
    }

    /// The number of files in use, which the next recovery reads.
    pub fn file_count(&self) -> usize {
        self.state.borrow().used.len()
    }

    /// The lane's part of the store's numbers.
    pub(super) fn figures(&self) -> StoreFigures {
        let state = self.state.borrow();
        let files = state.used.len() as u64;
        StoreFigures {
            journal_files: files,
            disk_bytes: files * self.place.file_bytes,
            is_stopped: state.stopped.is_some(),
            ..self.counters.figures()
        }
    }

    /// The gate that counts events that may make a checkpoint due; it is open for good once the
    /// lane stopped.
    pub fn due(&self) -> &Gate {
        &self.due
    }

    /// Has the task that takes checkpoints check if one is due.
    pub fn consider_checkpoint(&self) {
        self.due.advance_by(1);
    }

    /// Closes the open frame; see [`Journal::cut`].
    pub fn cut(&self) -> CommitNumber {
        let next = self.state.borrow_mut().journal.cut();
        self.records.advance_by(1);
        next
    }

    /// Closes the open frame, and remembers the place behind it for [`Lane::marked`].
    pub fn mark(&self) -> CommitNumber {
        let next = self.state.borrow_mut().journal.mark();
        self.records.advance_by(1);
        next
    }

    /// The position of the last [`Lane::mark`], once all before it is durable.
    ///
    /// # Errors
    /// The lane stopped before.
    ///
    /// # Panics
    /// There was no mark.
    pub async fn marked(&self, mark: CommitNumber) -> Result<Position, LaneStopped> {
        self.durable(CommitNumber(mark.0 - 1)).await?;
        let marked = self.state.borrow().journal.marked();
        Ok(marked.expect("all before the mark is durable"))
    }

    /// The position before which everything is durable, while nothing is being written.
    pub fn position(&self) -> Option<Position> {
        self.state.borrow().journal.position()
    }

    /// Marks files before `position` as not needed any more: recovery will begin there, and that is
    /// durable.
    pub fn retire(&self, position: Position) {
        let mut state = self.state.borrow_mut();
        while state.used.len() > 1 && state.used[0].number < position.place.file {
            let used = state.used.pop_front().expect("there are two");
            match used.is_bad {
                true => state.obsolete.push(used.number),
                false => state.reusable.push(used.number),
            }
        }
        drop(state);
        self.files.advance_by(1);
    }

    /// Tries again to make a spare file, if that failed before.
    pub fn retry_spare(&self) {
        self.files.advance_by(1);
    }

    /// Writes appended records, until the lane stops. One task of the lane's thread.
    pub async fn commit(&self) {
        let mut has_failed = false;
        loop {
            let seen = self.records.value();
            let next = self.state.borrow_mut().journal.next_write();
            match next {
                Next::Idle => self.records.reached(seen + 1).await,
                Next::File => {
                    let Some(spare) = self.next_spare().await else { return };
                    if let Err(error) = self.use_file(spare).await
                        && self.fail(&mut has_failed, &error)
                    {
                        return;
                    }
                }
                Next::Write(place, buffer) => {
                    let file = self.state.borrow().file.clone().expect("the journal has a file");
                    let began = Instant::now();
                    let (result, buffer) = self.disk.write(&file, place.offset, buffer).await;
                    let mut state = self.state.borrow_mut();
                    match result {
                        Ok(()) => {
                            let records = state.journal.in_flight_records();
                            self.counters.committed(records, buffer.len(), began.elapsed());
                            let durable = state.journal.written(buffer);
                            drop(state);
                            has_failed = false;
                            self.durable.advance_to(durable.0);
                        }
                        Err(error) => {
                            self.counters.failed();
                            state.journal.write_failed(buffer);
                            state.used.back_mut().expect("it is in use").is_bad = true;
                            drop(state);
                            if self.fail(&mut has_failed, &error) {
                                return;
                            }
                        }
                    }
                }
            }
        }
    }

    /// The spare file, once there is one; `None` where the lane stopped because there will be none.
    async fn next_spare(&self) -> Option<Spare<D::File>> {
        loop {
            let seen = self.spares.value();
            {
                let mut state = self.state.borrow_mut();
                if let Some(spare) = state.spare.take() {
                    drop(state);
                    self.files.advance_by(1);
                    return Some(spare);
                }
                if let Some(shortage) = state.shortage {
                    if !std::mem::take(&mut state.has_reserve) {
                        drop(state);
                        self.stop(format!("no further journal file can be made: {shortage}"));
                        return None;
                    }
                    // A file is needed at once, even if a checkpoint needs the reserve later.
                    state.gives_reserve = true;
                    state.shortage = None;
                    drop(state);
                    self.files.advance_by(1);
                }
            }
            self.spares.reached(seen + 1).await;
        }
    }

    /// Begins a file: its first sector refers to the commit before it.
    async fn use_file(&self, spare: Spare<D::File>) -> io::Result<()> {
        let (first, previous) = self.state.borrow().journal.takes_over();
        let header = FileHeader { number: spare.number, first, previous };
        // Even a header whose write failed may be there after a power cut: the file counts as used.
        self.state.borrow_mut().used.push_back(Used { number: spare.number, is_bad: false });
        let header = header.encode(self.place.seed);
        let result = self.disk.write(&spare.file, 0, header).await.0;
        let mut state = self.state.borrow_mut();
        match result {
            Ok(()) => {
                state.journal.use_file(spare.number);
                state.file = Some(spare.file);
                drop(state);
                self.due.advance_by(1);
            }
            Err(_) => state.used.back_mut().expect("it is in use").is_bad = true,
        }
        result
    }

    /// Notes a failed write; true if it was the second in a row and the lane stopped.
    fn fail(&self, has_failed: &mut bool, error: &io::Error) -> bool {
        if *has_failed {
            self.stop(format!("the journal cannot be written: {error}"));
        }
        std::mem::replace(has_failed, true)
    }

    fn stop(&self, reason: String) {
        self.state.borrow_mut().stopped = Some(LaneStopped { reason });
        self.durable.open_for_good();
        self.files.open_for_good();
        self.due.open_for_good();
    }

    /// Keeps one file ready and removes those that are needed no more, until the lane stops. The
    /// lane's other task.
    pub async fn keep_spare(&self) {
        let (reserve, small) = (self.reserve_name(), self.small_reserve_name());
        let has_reserve = self.is_there(&reserve, self.place.file_bytes).await;
        let has_small_reserve = self.is_there(&small, self.small_reserve_bytes()).await;
        {
            let mut state = self.state.borrow_mut();
            (state.has_reserve, state.has_small_reserve) = (has_reserve, has_small_reserve);
        }
        loop {
            let seen = self.files.value();
            if self.state.borrow().stopped.is_some() {
                return;
            }
            self.remove_obsolete().await;
            let result = self.make_missing().await;
            self.state.borrow_mut().shortage = result.err().map(|error| error.kind());
            self.spares.advance_by(1);
            self.files.reached(seen + 1).await;
        }
    }

    /// Makes the spare file and the reserves that are missing.
    async fn make_missing(&self) -> io::Result<()> {
        if self.state.borrow().spare.is_none() {
            let spare = self.make_spare().await?;
            self.state.borrow_mut().spare = Some(spare);
            self.spares.advance_by(1);
        }
        if !self.state.borrow().has_reserve {
            self.make_reserve().await?;
            self.state.borrow_mut().has_reserve = true;
        }
        if !self.state.borrow().has_small_reserve {
            let name = self.small_reserve_name();
            match self.disk.remove(&name).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => self.zeroed(&name, self.small_reserve_bytes()).await?,
            }
            self.disk.sync_folder(&self.place.folder).await?;
            self.state.borrow_mut().has_small_reserve = true;
        }
        Ok(())
    }

    /// Makes the reserve. A file that has its name is of no use.
    async fn make_reserve(&self) -> io::Result<()> {
        let name = self.reserve_name();
        let Spare { number, .. } = self.make_spare().await?;
        let renamed = self.disk.rename(&self.place.file_name(number), &name).await;
        if renamed.is_err() {
            self.state.borrow_mut().obsolete.push(number);
        }
        renamed?;
        self.disk.sync_folder(&self.place.folder).await
    }

    async fn make_spare(&self) -> io::Result<Spare<D::File>> {
        let (number, old, gives_reserve) = {
            let mut state = self.state.borrow_mut();
            let number = state.next_file;
            state.next_file += 1;
            let old = state.reusable.pop();
            let gives_reserve = std::mem::take(&mut state.gives_reserve);
            (number, old, old.is_none() && gives_reserve)
        };
        let name = self.place.file_name(number);
        let made = match old {
            // Its frames were made for another number: none of them counts.
            Some(old) => self.disk.rename(&self.place.file_name(old), &name).await,
            None if gives_reserve => self.disk.rename(&self.reserve_name(), &name).await,
            None => self.zeroed(&name, self.place.file_bytes).await,
        };
        let opened = match made {
            Ok(()) => match self.disk.sync_folder(&self.place.folder).await {
                Ok(()) => self.disk.open(&name, Access::Durable).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        match opened {
            Ok(file) => Ok(Spare { number, file }),
            Err(error) => {
                // The old file may have either name: both are removed.
                self.state.borrow_mut().obsolete.extend(old.into_iter().chain([number]));
                Err(error)
            }
        }
    }

    /// Makes a file of zeros, durable except for its name.
    async fn zeroed(&self, name: &str, bytes: u64) -> io::Result<()> {
        let file = self.disk.open(name, Access::Create).await?;
        let mut offset = 0;
        while offset < bytes {
            let count = (bytes - offset).min(ZEROED_BYTES_AT_A_TIME as u64);
            self.disk.write(&file, offset, DiskBuffer::zeroed(count as usize)).await.0?;
            offset += count;
        }
        self.disk.sync(&file).await
    }

    /// Removes files that nothing needs. A removal that fails is tried again later.
    async fn remove_obsolete(&self) {
        let obsolete = std::mem::take(&mut self.state.borrow_mut().obsolete);
        for number in obsolete {
            let result = self.disk.remove(&self.place.file_name(number)).await;
            if result.is_err_and(|error| error.kind() != io::ErrorKind::NotFound) {
                self.state.borrow_mut().obsolete.push(number);
            }
        }
    }
}
