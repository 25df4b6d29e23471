//! A report on a store and its losses, for a person; and that person's word that the losses are
//! accepted.
//!
//! A check reads every lane as a start does, and every block, and changes nothing. A repair changes
//! no file of the store's data either. It notes the accepted losses in the lane's `accepted`:
//! commits, so that the store starts behind them, and messages of damaged blocks. The damaged files
//! stay, as long as the journal and the manifest keep them.
//!
//! `accepted` is text: a line `file F lost A B` for each loss of the commits from A up to, but not
//! including, B, a line `stream S lost A B` for each loss of the messages from A to B, and a
//! checksum of those lines.
//!
//! These calls block; they are for commands, while no server has the store open.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::folder::{FolderError, StoreFolder, write_whole};
use super::frame::checksum;
use super::journal_file;
use super::position::CommitNumber;
use super::record::StreamId;
use super::recovery::JournalPlace;
use super::regular;
use super::replay::{Accepted, AcceptedDamage, Replayed, replay};
use super::segment;
use super::streams::Lost;
use super::thread_disk::{ThreadDisk, WriteMode};
use crate::base::limits::ACCEPTED_BYTES_MAX;

/// The contents of a lane.
#[derive(Debug)]
pub struct LaneReport {
    pub lane: u32,
    /// `None` where the lane was never used.
    pub replayed: Option<Replayed>,
    /// The losses that were accepted before.
    pub accepted: Accepted,
}

/// Reads all lanes of a store.
///
/// # Errors
/// A folder or file cannot be read at all, or the list of accepted losses is damaged.
pub(crate) fn read_lanes(folder: &StoreFolder) -> Result<Vec<LaneReport>, FolderError> {
    let io = |error| FolderError::Io(folder.root().to_owned(), error);
    let disk = ThreadDisk::start(folder.root(), WriteMode::Buffered, || {}).map_err(io)?;
    let lanes = 0..folder.settings().lanes;
    lanes
        .map(|lane| {
            let place = folder.journal(lane);
            let accepted = read_accepted(folder, lane)?;
            let replayed = match disk.run(replay(&disk, &place)) {
                Ok(mut replayed) => {
                    disk.run(replayed.verify(&disk, &place)).map_err(io)?;
                    replayed.accept(&accepted);
                    Some(replayed)
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(io(error)),
            };
            Ok(LaneReport { lane, replayed, accepted })
        })
        .collect()
}

impl LaneReport {
    /// True if nothing is lost except for accepted losses.
    pub(crate) fn is_whole(&self) -> bool {
        self.replayed.as_ref().is_none_or(Replayed::is_whole) && self.lost_messages().is_empty()
    }

    /// Messages of damaged blocks whose loss was not accepted.
    fn lost_messages(&self) -> Vec<Lost> {
        let all = self.replayed.iter().flat_map(Replayed::lost_with_blocks);
        all.map(|(lost, _)| lost).filter(|lost| !self.accepted.messages.contains(lost)).collect()
    }

    /// The losses that a repair would accept.
    pub fn to_accept(&self) -> Accepted {
        let damage = self.replayed.iter().flat_map(|replayed| &replayed.recovered.damage);
        let commits = damage.map(AcceptedDamage::from).collect();
        Accepted { commits, messages: self.lost_messages() }
    }

    /// True if the lane is whole once that is accepted. It is not where records do not fit although
    /// none is lost: they are a newer program's, or a mistake of this one.
    pub(crate) fn can_be_repaired(&self) -> bool {
        let is_used_up = self.replayed.as_ref().is_some_and(Replayed::is_used_up);
        self.is_whole() || (!is_used_up && self.to_accept() != Accepted::default())
    }
}

impl fmt::Display for LaneReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lane = self.lane;
        let Some(replayed) = &self.replayed else {
            return writeln!(out, "lane {lane}: never used");
        };
        let (mut streams, mut messages) = (0, 0);
        for (_, held) in replayed.streams.iter() {
            streams += 1;
            messages += held.stream.totals().messages;
        }
        let recovered = &replayed.recovered;
        let commits = recovered.position.next.0 - 1;
        writeln!(
            out,
            "lane {lane}: {streams} streams, {messages} messages, {commits} commits in {} journal files",
            recovered.files.len()
        )?;
        let files = &replayed.files;
        if files.newest > 0 {
            let (newest, segments) = (files.newest, files.segments.len());
            writeln!(out, "  manifest {newest}, {segments} segments")?;
        }
        for (number, fault) in &replayed.manifest_faults {
            writeln!(out, "  manifest {number}: {}", fault.text())?;
        }
        if let Some(torn) = recovered.torn {
            let name = journal_file::name(torn.file);
            writeln!(out, "  {name} at {}: the last write was torn and is cut", torn.offset)?;
        }
        for (lost, block) in replayed.lost_with_blocks() {
            let before = match self.accepted.messages.contains(&lost) {
                true => "accepted before: ",
                false => "",
            };
            let (Lost { stream, first, last }, name) = (lost, segment::name(block.segment));
            let stream = stream.0;
            writeln!(
                out,
                "  {before}stream {stream}: messages {first} to {last} are lost with a block of {name}"
            )?;
        }
        for accepted in &self.accepted.commits {
            let (from, to) = (accepted.lost.0.0, accepted.lost.1.0);
            writeln!(out, "  accepted before: {}", lost_text(accepted.file, None, from, to))?;
        }
        for damage in &recovered.damage {
            let (from, to) = (damage.lost.0.0, damage.lost.1.0);
            let place = lost_text(damage.file, Some(damage.offset), from, to);
            writeln!(out, "  {place}: {}", damage.what)?;
        }
        for lost in &replayed.lost {
            let (stream, first, last) = (lost.stream.0, lost.first, lost.last);
            writeln!(out, "  stream {stream}: messages {first} to {last} are lost")?;
        }
        if replayed.is_used_up() {
            writeln!(out, "  a file or a record has a number that no store counts to")?;
        }
        for (commit, what) in &replayed.unfit {
            writeln!(out, "  commit {}: {what}", commit.0)?;
        }
        Ok(())
    }
}

fn lost_text(file: u64, offset: Option<u64>, from: u64, to: u64) -> String {
    let name = journal_file::name(file);
    let at = offset.map_or_else(String::new, |offset| format!(" at {offset}"));
    match to.saturating_sub(from) {
        0 => format!("{name}{at}: no commit is lost"),
        1 => format!("{name}{at}: commit {from} is lost"),
        _ => format!("{name}{at}: commits {from} to {} are lost", to - 1),
    }
}

const ACCEPTED: &str = "accepted";

/// The losses in a lane that somebody accepted.
///
/// # Errors
/// The list cannot be read, or was changed.
pub(crate) fn read_accepted(folder: &StoreFolder, lane: u32) -> Result<Accepted, FolderError> {
    let path = folder.root().join(accepted_name(&folder.journal(lane)));
    let mut text = String::new();
    let read = |file: File| file.take(ACCEPTED_BYTES_MAX).read_to_string(&mut text);
    match regular::open_to_read(&path).and_then(read) {
        Ok(_) => parse_accepted(&text).ok_or(FolderError::Damaged(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Accepted::default()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(FolderError::Damaged(path)),
        Err(error) => Err(FolderError::Io(path, error)),
    }
}

/// Accepts losses in a lane, besides those accepted before.
///
/// # Errors
/// The list cannot be read or written.
pub(crate) fn accept(
    folder: &StoreFolder,
    lane: u32,
    losses: &Accepted,
) -> Result<(), FolderError> {
    let mut all = read_accepted(folder, lane)?;
    all.commits.extend(&losses.commits);
    all.messages.extend(&losses.messages);
    write_accepted(folder, &folder.journal(lane), &all)
}

/// Writes the list of a lane anew.
///
/// # Errors
/// It cannot be written.
pub(super) fn write_accepted(
    folder: &StoreFolder,
    place: &JournalPlace,
    all: &Accepted,
) -> Result<(), FolderError> {
    let name = accepted_name(place);
    let path = Path::new(folder.root()).join(&name);
    write_whole(folder.root(), &name, &accepted_text(all))
        .map_err(|error| FolderError::Io(path, error))
}

fn accepted_name(place: &JournalPlace) -> String {
    format!("{}/{ACCEPTED}", place.folder)
}

fn accepted_text(all: &Accepted) -> String {
    let commits = all.commits.iter().map(|loss| {
        let AcceptedDamage { file, lost: (from, to) } = loss;
        format!("file {file} lost {} {}\n", from.0, to.0)
    });
    let messages = all.messages.iter().map(|loss| {
        let Lost { stream, first, last } = loss;
        format!("stream {} lost {first} {last}\n", stream.0)
    });
    let lines: String = commits.chain(messages).collect();
    format!("{lines}checksum {:016x}\n", checksum(0, lines.as_bytes()))
}

fn parse_accepted(text: &str) -> Option<Accepted> {
    let mut all = Accepted::default();
    for line in text.lines() {
        if line.starts_with("checksum ") {
            break;
        }
        let words: Vec<&str> = line.split(' ').collect();
        let [kind, which, "lost", from, to] = words[..] else { return None };
        let number = |word: &str| word.parse::<u64>().ok();
        let (which, from, to) = (number(which)?, number(from)?, number(to)?);
        match kind {
            "file" => {
                let lost = (CommitNumber(from), CommitNumber(to));
                all.commits.push(AcceptedDamage { file: which, lost });
            }
            "stream" => {
                all.messages.push(Lost { stream: StreamId(which), first: from, last: to });
            }
            _ => return None,
        }
    }
    (accepted_text(&all) == text).then_some(all)
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::path::PathBuf;

    use fastrand::Rng;
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;
    use crate::storage::disk::Disk;
    use crate::storage::folder::StoreSettings;
    use crate::storage::store::Store;
    use crate::storage::stream::{NewMessage, StreamLimits};

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).expect("the test made it");
        }
    }

    const SETTINGS: StoreSettings = StoreSettings { lanes: 2, journal_file_bytes: 16 << 20 };

    fn start(folder: &StoreFolder, disk: &ThreadDisk) -> Store<ThreadDisk> {
        let place = folder.journal(0);
        disk.run(disk.make_folder(&place.folder)).expect("the folder can be made");
        let mut replayed = disk.run(replay(disk, &place)).expect("the folder can be read");
        replayed.accept(&read_accepted(folder, 0).expect("the list can be read"));
        Store::start(disk.clone(), place, replayed).expect("nothing is lost")
    }

    /// Appends `count` messages to a new stream, each with a commit of its own.
    fn write(folder: &StoreFolder, count: usize) {
        let probed = ThreadDisk::probe(folder.root()).expect("the folder can be written to");
        let disk = ThreadDisk::start(folder.root(), probed.write_mode, || {}).expect("threads");
        let mut store = start(folder, &disk);
        let lane = store.lane().clone();
        let (mut commit, mut spare) = (Box::pin(lane.commit()), Box::pin(lane.keep_spare()));
        let id = store.create_stream(1, StreamLimits::default(), b"").expect("there is room").value;
        for _ in 0..count {
            let new = NewMessage { time_ns: 1, subject: b"a", headers: b"", payload: b"x" };
            let answer = store.append(id, new).expect("there is room");
            let mut durable = Box::pin(lane.durable(answer.after));
            let both = poll_fn(|context| {
                assert!(commit.as_mut().poll(context).is_pending());
                assert!(spare.as_mut().poll(context).is_pending());
                durable.as_mut().poll(context)
            });
            disk.run(both).expect("the disk works");
        }
    }

    #[test]
    fn damage_is_told_and_a_store_starts_once_its_loss_is_accepted() {
        let name = format!("midge-store-check-{}", std::process::id());
        let root = Folder(std::env::temp_dir().join(name));
        let folder = StoreFolder::open(&root.0, SETTINGS).expect("it is made");
        write(&folder, 5);
        let lanes = read_lanes(&folder).expect("it can be read");
        assert!(lanes.iter().all(LaneReport::is_whole));
        assert_eq!(
            lanes[0].to_string(),
            "lane 0: 1 streams, 5 messages, 5 commits in 1 journal files\n"
        );
        assert_eq!(lanes[1].to_string(), "lane 1: never used\n");

        // The third commit holds the third message.
        let path = root.0.join("lane-0").join(journal_file::name(1));
        let mut bytes = std::fs::read(&path).expect("it is there");
        bytes[3 * 4096 + 80] ^= 1;
        std::fs::write(&path, &bytes).expect("it is writable");
        let damaged = read_lanes(&folder).expect("it can be read");
        assert!(!damaged[0].is_whole() && damaged[0].can_be_repaired());
        let text = damaged[0].to_string();
        for expected in [
            "4 messages",
            "journal-0000000000000001 at 12288: commit 3 is lost: damaged body",
            "stream 0: messages 3 to 3 are lost",
        ] {
            assert!(text.contains(expected), "{text}");
        }

        accept(&folder, 0, &damaged[0].to_accept()).expect("it can be written");
        let accepted = read_lanes(&folder).expect("it can be read");
        assert!(accepted[0].is_whole());
        assert!(accepted[0].to_string().contains("accepted before: journal-0000000000000001"));
        assert_eq!(
            std::fs::read(&path).expect("it is there"),
            bytes,
            "a repair changes no journal"
        );
        write(&folder, 2);
        let lanes = read_lanes(&folder).expect("it can be read");
        assert!(lanes[0].is_whole());
        assert!(lanes[0].to_string().contains("2 streams, 6 messages"), "{}", lanes[0]);
    }

    /// A check comes to its end whatever somebody put into the folder.
    #[test]
    fn pipes_and_endless_files_hold_up_no_check() {
        let name = format!("midge-store-pipes-{}", std::process::id());
        let root = Folder(std::env::temp_dir().join(name));
        let folder = StoreFolder::open(&root.0, SETTINGS).expect("it is made");
        write(&folder, 5);
        let lane = root.0.join("lane-0");
        let pipe = |name: &str| {
            let path = lane.join(name);
            mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).expect("pipes can be made");
            path
        };
        for name in [journal_file::name(9), ACCEPTED.to_owned()] {
            let path = pipe(&name);
            let error = read_lanes(&folder).expect_err("it is no file").to_string();
            assert!(error.contains(&name) && error.contains("no regular file"), "{error}");
            std::fs::remove_file(path).expect("it is there");
        }
        // A segment that nothing names is not read; a manifest of no use is reported.
        pipe(&segment::name(7));
        pipe("manifest-0000000000000003");
        let lanes = read_lanes(&folder).expect("it can be read");
        assert!(lanes[0].to_string().contains("manifest 3: unreadable"), "{}", lanes[0]);
        std::fs::remove_file(lane.join("manifest-0000000000000003")).expect("it is there");
        for name in [journal_file::name(1), journal_file::name(9), segment::name(8)] {
            let mut options = std::fs::OpenOptions::new();
            let file = options.write(true).create(true).truncate(false).open(lane.join(name));
            file.expect("it can be made").set_len(4 << 40).expect("holes take no room");
        }
        let lanes = read_lanes(&folder).expect("it can be read");
        assert!(lanes[0].is_whole(), "{}", lanes[0]);
        assert!(lanes[0].to_string().contains("1 streams, 5 messages"), "{}", lanes[0]);
    }

    #[test]
    fn list_of_accepted_losses_reads_back_and_no_other_does() {
        let loss =
            |file, from, to| AcceptedDamage { file, lost: (CommitNumber(from), CommitNumber(to)) };
        let messages = vec![Lost { stream: StreamId(4), first: 5, last: 6 }];
        let all = Accepted { commits: vec![loss(1, 2, 3), loss(u64::MAX, 0, 0)], messages };
        let text = accepted_text(&all);
        assert_eq!(parse_accepted(&text), Some(all));
        let none = Accepted::default();
        assert_eq!(parse_accepted(&accepted_text(&none)), Some(none));
        let mut random = Rng::with_seed(9);
        for _ in 0..20_000 {
            let mut bytes = text.clone().into_bytes();
            let at = random.usize(0..bytes.len());
            match random.u8(0..2) {
                0 => bytes[at] = random.u8(b' '..b'~'),
                _ => bytes.truncate(at),
            }
            let changed = String::from_utf8(bytes).expect("it is ASCII");
            assert!(changed == text || parse_accepted(&changed).is_none(), "{changed}");
        }
    }
}
