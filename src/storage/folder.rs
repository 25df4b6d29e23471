//! A store's folder: it is used by one process at a time, and holds the store's settings and
//! format.
//!
//! `lock` is held by the process that has the store open. `store` is a text of a few lines, written
//! once when the store is made:
//!
//! ```text
//! midge store
//! format 4
//! id 8f0c...
//! lanes 4
//! generation 0
//! journal_file_bytes 67108864
//! checksum 1c2d...
//! ```
//!
//! A new number of lanes (`rehome`) comes with a new generation of their folders: `lane-0`, later
//! `lane-0.1`.
//!
//! A folder that holds lanes and no such file is not made anew: it may be a store that lost the
//! file. Lanes are a property of the store, not of the server's shards.
//!
//! These calls block; they are for the time before shards run, and for commands.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};
use rustix::rand::{GetRandomFlags, getrandom};

use super::frame::{LaneSeed, StoreId, checksum};
use super::recovery::JournalPlace;
use super::regular;
use crate::base::limits::{JOURNAL_FILE_BYTES_MAX, JOURNAL_FILE_BYTES_MIN, STORE_LANES_MAX};

/// The format that this program writes, and the newest it reads. Format 1 had only the journal: a
/// start reads all of it, and the first checkpoint stores it.
pub(crate) const STORE_FORMAT: u32 = 4;

/// The first format with generations of lanes, and the first whose manifests hold the same facts of
/// blocks as today. No released program wrote the formats between 1 and 4, nor a store of format 1
/// with several lanes: they are refused.
const FORMAT_WITH_GENERATIONS: u32 = 3;
const FORMAT_OF_BLOCKS: u32 = 4;

/// The oldest format that is read. A store of that format gets the newest when it is opened.
/// Otherwise an older program would take the part of the journal that this one leaves for all of
/// it.
const STORE_FORMAT_OLDEST: u32 = 1;

const HEAD: &str = "store";
const LOCK: &str = "lock";

/// The size in bytes of the longest head that is read.
const HEAD_BYTES_MAX: u64 = 4096;

/// The settings of a new store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoreSettings {
    pub lanes: u32,
    pub journal_file_bytes: u64,
}

/// The reason why a store is not opened.
#[derive(Debug)]
pub(crate) enum FolderError {
    Io(PathBuf, io::Error),
    /// Another process has it open.
    InUse(PathBuf),
    /// It was written by a newer program.
    Newer {
        path: PathBuf,
        format: u32,
    },
    /// It was written by a program before the first release.
    Older {
        path: PathBuf,
        format: u32,
    },
    /// There are lanes of other generations than the head's, and none of that one.
    OtherGeneration(PathBuf),
    /// The bytes of a file are not those that were written.
    Damaged(PathBuf),
    /// There are lanes and no head.
    HeadMissing(PathBuf),
    /// There is no store.
    NoStore(PathBuf),
}

impl fmt::Display for FolderError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, error) => write!(out, "{}: {error}", path.display()),
            Self::InUse(path) => {
                write!(out, "{}: another process has this store open", path.display())
            }
            Self::Newer { path, format } => write!(
                out,
                "{}: the store has format {format}, this program knows {STORE_FORMAT}: use a newer one",
                path.display()
            ),
            Self::Older { path, format } => write!(
                out,
                "{}: the store has format {format}, which only programs before the first release wrote: make a new one",
                path.display()
            ),
            Self::OtherGeneration(path) => write!(
                out,
                "{}: the file is of another time than the lanes beside it: restore the newest copy; nothing in \
                 the folder was changed",
                path.display()
            ),
            Self::Damaged(path) => write!(
                out,
                "{}: the file is damaged: restore it from a copy; nothing in the folder was changed",
                path.display()
            ),
            Self::HeadMissing(path) => write!(
                out,
                "{}: the file is missing though the folder holds a store: restore it from a copy",
                path.display()
            ),
            Self::NoStore(path) => write!(out, "{}: there is no store", path.display()),
        }
    }
}

/// An open store's folder; the lock is held until it is dropped.
#[derive(Debug)]
pub(crate) struct StoreFolder {
    root: PathBuf,
    id: StoreId,
    settings: StoreSettings,
    generation: u32,
    _lock: File,
}

/// The contents of a store's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    format: u32,
    id: StoreId,
    settings: StoreSettings,
    generation: u32,
}

impl StoreFolder {
    /// Opens the store in a folder, and makes it if there is none.
    ///
    /// # Errors
    /// See [`FolderError`]. Nothing that was there has changed then.
    pub(crate) fn open(root: &Path, settings: StoreSettings) -> Result<Self, FolderError> {
        let io = |error| FolderError::Io(root.to_owned(), error);
        DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(io)?;
        let lock = lock(root)?;
        let head = root.join(HEAD);
        match read_head(&head)? {
            Some(found) => {
                remove_other_generations(root, found.generation)?;
                if found.format != STORE_FORMAT {
                    let newest = Head { format: STORE_FORMAT, ..found };
                    write_whole(root, HEAD, &newest.text()).map_err(io)?;
                }
                Ok(Self::of(root, found, lock))
            }
            None if holds_lanes(root).map_err(io)? => Err(FolderError::HeadMissing(head)),
            None => {
                let mut id = StoreId([0; 16]);
                getrandom(&mut id.0, GetRandomFlags::empty()).map_err(|errno| io(errno.into()))?;
                let new = Head { format: STORE_FORMAT, id, settings, generation: 0 };
                write_whole(root, HEAD, &new.text()).map_err(io)?;
                Ok(Self::of(root, new, lock))
            }
        }
    }

    /// Opens the store in a folder; there has to be one.
    ///
    /// # Errors
    /// See [`FolderError`].
    pub(crate) fn open_existing(root: &Path) -> Result<Self, FolderError> {
        if !root.is_dir() {
            return Err(FolderError::NoStore(root.to_owned()));
        }
        let head = root.join(HEAD);
        let found = match read_head(&head)? {
            Some(found) => found,
            None if holds_lanes(root).unwrap_or(false) => {
                return Err(FolderError::HeadMissing(head));
            }
            None => return Err(FolderError::NoStore(root.to_owned())),
        };
        Ok(Self::of(root, found, lock(root)?))
    }

    fn of(root: &Path, head: Head, lock: File) -> Self {
        let Head { id, settings, generation, .. } = head;
        Self { root: root.to_owned(), id, settings, generation, _lock: lock }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    #[cfg_attr(not(test), expect(dead_code, reason = "no part of the server asks for it yet"))]
    pub(crate) fn id(&self) -> StoreId {
        self.id
    }

    /// The settings that the store was made with, whatever this server would use for a new one.
    pub(crate) fn settings(&self) -> StoreSettings {
        self.settings
    }

    /// The place of a lane's journal.
    pub(crate) fn journal(&self, lane: u32) -> JournalPlace {
        assert!(lane < self.settings.lanes, "the store has no such lane");
        self.place(lane, self.generation)
    }

    fn place(&self, lane: u32, generation: u32) -> JournalPlace {
        JournalPlace {
            folder: lane_folder(lane, generation),
            seed: LaneSeed::new(self.id, lane),
            file_bytes: self.settings.journal_file_bytes,
        }
    }

    /// The places of that many lanes, once [`StoreFolder::switch`] has named them.
    pub(crate) fn next_generation(&self, lanes: u32) -> Vec<JournalPlace> {
        (0..lanes).map(|lane| self.place(lane, self.generation + 1)).collect()
    }

    /// Names the next generation of lanes in the head: from now on these are the store's.
    ///
    /// # Errors
    /// The head could not be written. The next start finds out which lanes are the store's.
    pub(crate) fn switch(mut self, lanes: u32) -> Result<Self, FolderError> {
        self.settings.lanes = lanes;
        self.generation += 1;
        let (id, settings, generation) = (self.id, self.settings, self.generation);
        let head = Head { format: STORE_FORMAT, id, settings, generation };
        write_whole(&self.root, HEAD, &head.text())
            .map_err(|error| FolderError::Io(self.root.join(HEAD), error))?;
        Ok(self)
    }
}

const LANE_PREFIX: &str = "lane-";

fn lane_folder(lane: u32, generation: u32) -> String {
    match generation {
        0 => format!("{LANE_PREFIX}{lane}"),
        _ => format!("{LANE_PREFIX}{lane}.{generation}"),
    }
}

/// The generation of a lane's folder of this name.
fn generation_of(name: &str) -> Option<u32> {
    let rest = name.strip_prefix(LANE_PREFIX)?;
    let (lane, generation) = rest.split_once('.').unwrap_or((rest, "0"));
    let (lane, generation) = (lane.parse().ok()?, generation.parse().ok()?);
    (lane_folder(lane, generation) == name).then_some(generation)
}

/// Removes lanes that were given up when their number changed, or never came to be used.
fn remove_other_generations(root: &Path, generation: u32) -> Result<(), FolderError> {
    let io = |error| FolderError::Io(root.to_owned(), error);
    let (mut others, mut has_own) = (Vec::new(), false);
    for entry in std::fs::read_dir(root).map_err(io)? {
        let entry = entry.map_err(io)?;
        match entry.file_name().to_str().and_then(generation_of) {
            Some(own) if own == generation => has_own = true,
            Some(_) => others.push(entry.path()),
            None => {}
        }
    }
    if !others.is_empty() && !has_own {
        return Err(FolderError::OtherGeneration(root.join(HEAD)));
    }
    if !others.is_empty() {
        // The head that names the lanes may be in the kernel's memory only: it is made durable
        // before others are removed.
        regular::open_folder(root).and_then(|folder| folder.sync_all()).map_err(io)?;
    }
    for path in others {
        std::fs::remove_dir_all(&path).map_err(|error| FolderError::Io(path, error))?;
    }
    Ok(())
}

fn lock(root: &Path) -> Result<File, FolderError> {
    let path = root.join(LOCK);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let opened = regular::open(&mut options, OFlags::empty(), &path);
    let file = opened.map_err(|error| FolderError::Io(path.clone(), error))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(FolderError::InUse(root.to_owned())),
        Err(errno) => Err(FolderError::Io(path, errno.into())),
    }
}

fn holds_lanes(root: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(root)? {
        if entry?.file_name().to_str().is_some_and(|name| name.starts_with(LANE_PREFIX)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes a file that is there wholly or not at all, durably.
pub(super) fn write_whole(root: &Path, name: &str, text: &str) -> io::Result<()> {
    let (path, temporary) = (root.join(name), root.join(format!("{name}.new")));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = regular::open(&mut options, OFlags::empty(), &temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, &path)?;
    regular::open_folder(path.parent().expect("the file is in a folder"))?.sync_all()
}

impl Head {
    fn text(&self) -> String {
        let Self { format, id, generation, .. } = self;
        let id: String = id.0.iter().map(|byte| format!("{byte:02x}")).collect();
        let StoreSettings { lanes, journal_file_bytes } = self.settings;
        let generation = match *format {
            FORMAT_WITH_GENERATIONS.. => format!("generation {generation}\n"),
            _ => String::new(),
        };
        let text = format!(
            "midge store\nformat {format}\nid {id}\nlanes {lanes}\n{generation}journal_file_bytes {journal_file_bytes}\n"
        );
        let sum = checksum(0, text.as_bytes());
        format!("{text}checksum {sum:016x}\n")
    }
}

/// The head, if the file is there.
fn read_head(path: &Path) -> Result<Option<Head>, FolderError> {
    let mut bytes = Vec::new();
    let io = |error| FolderError::Io(path.to_owned(), error);
    match regular::open_to_read(path) {
        Ok(file) => file.take(HEAD_BYTES_MAX).read_to_end(&mut bytes).map_err(io)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    match parse_head(&bytes) {
        Ok(found) => Ok(Some(found)),
        Err(HeadError::Damaged) => Err(FolderError::Damaged(path.to_owned())),
        Err(HeadError::Older(format)) => Err(FolderError::Older { path: path.to_owned(), format }),
        Err(HeadError::Newer(format)) => Err(FolderError::Newer { path: path.to_owned(), format }),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum HeadError {
    Damaged,
    Older(u32),
    Newer(u32),
}

/// A newer format's lines are not known: only its first two are read.
fn parse_head(bytes: &[u8]) -> Result<Head, HeadError> {
    let text = std::str::from_utf8(bytes).map_err(|_| HeadError::Damaged)?;
    let mut lines = text.lines();
    let mut value = |name: &str| {
        let line = lines.next().ok_or(HeadError::Damaged)?;
        let value = line.strip_prefix(name).ok_or(HeadError::Damaged)?;
        if name.is_empty() { Ok(value) } else { value.strip_prefix(' ').ok_or(HeadError::Damaged) }
    };
    if value("")? != "midge store" {
        return Err(HeadError::Damaged);
    }
    let number = |text: &str| text.parse::<u64>().map_err(|_| HeadError::Damaged);
    let format = u32::try_from(number(value("format")?)?).map_err(|_| HeadError::Damaged)?;
    if format > STORE_FORMAT {
        return Err(HeadError::Newer(format));
    }
    if (STORE_FORMAT_OLDEST + 1..FORMAT_OF_BLOCKS).contains(&format) {
        return Err(HeadError::Older(format));
    }
    let id = id_of(value("id")?).ok_or(HeadError::Damaged)?;
    let lanes = u32::try_from(number(value("lanes")?)?).map_err(|_| HeadError::Damaged)?;
    let generation = match format {
        FORMAT_WITH_GENERATIONS.. => number(value("generation")?)?,
        _ => 0,
    };
    let generation = u32::try_from(generation).map_err(|_| HeadError::Damaged)?;
    let settings =
        StoreSettings { lanes, journal_file_bytes: number(value("journal_file_bytes")?)? };
    let head = Head { format, id, settings, generation };
    let is_sane = (1..=STORE_LANES_MAX).contains(&lanes)
        && (JOURNAL_FILE_BYTES_MIN..=JOURNAL_FILE_BYTES_MAX).contains(&settings.journal_file_bytes);
    // Any difference is one from the text that was written.
    let is_known = format >= STORE_FORMAT_OLDEST && generation < u32::MAX && head.text() == text;
    match is_sane && is_known {
        true if format < FORMAT_WITH_GENERATIONS && lanes > 1 => Err(HeadError::Older(format)),
        true => Ok(head),
        false => Err(HeadError::Damaged),
    }
}

fn id_of(text: &str) -> Option<StoreId> {
    let mut id = StoreId([0; 16]);
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in id.0.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use fastrand::Rng;

    use super::*;

    const SETTINGS: StoreSettings = StoreSettings { lanes: 2, journal_file_bytes: 16 << 20 };

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("midge-store-{}-{name}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).expect("the test made it");
        }
    }

    #[test]
    fn store_keeps_what_it_was_made_with() {
        let folder = Folder::new("kept");
        let store = StoreFolder::open(&folder.0, SETTINGS).expect("it is made");
        let (id, journal) = (store.id(), store.journal(1));
        assert_eq!((journal.folder.as_str(), journal.file_bytes), ("lane-1", 16 << 20));
        drop(store);
        let other = StoreSettings { lanes: 7, ..SETTINGS };
        let store = StoreFolder::open(&folder.0, other).expect("it is there");
        assert_eq!((store.id(), store.settings()), (id, SETTINGS));
        let mode = |path: &Path| {
            std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
        };
        assert_eq!(mode(&folder.0), 0o700);
        assert_eq!((mode(&folder.0.join(HEAD)), mode(&folder.0.join(LOCK))), (0o600, 0o600));
    }

    #[test]
    fn store_has_one_process_at_a_time() {
        let folder = Folder::new("lock");
        let store = StoreFolder::open(&folder.0, SETTINGS).expect("it is made");
        // A lock belongs to an open file, not to a process: a second open is like that of another
        // process.
        let second = StoreFolder::open(&folder.0, SETTINGS).expect_err("it is locked");
        assert!(matches!(second, FolderError::InUse(_)), "{second}");
        let second = StoreFolder::open_existing(&folder.0).expect_err("it is locked");
        assert!(second.to_string().contains("another process has this store open"));
        drop(store);
        StoreFolder::open_existing(&folder.0).expect("it is free");
    }

    #[test]
    fn head_that_is_newer_damaged_or_missing_is_refused_and_left_alone() {
        let folder = Folder::new("head");
        let missing = StoreFolder::open_existing(&folder.0).expect_err("there is none");
        assert!(matches!(missing, FolderError::NoStore(_)));
        drop(StoreFolder::open(&folder.0, SETTINGS).expect("it is made"));
        let head = folder.0.join(HEAD);
        let text = std::fs::read_to_string(&head).expect("it is there");
        let newer = text.replace("format 4", "format 5").replace("lanes", "isles");
        for (changed, expected) in [
            (newer, "format 5, this program knows 4"),
            (text.replace("lanes 2", "lanes 3"), "damaged"),
            (String::new(), "damaged"),
        ] {
            std::fs::write(&head, &changed).expect("it is writable");
            let error = StoreFolder::open(&folder.0, SETTINGS).expect_err("it is refused");
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(std::fs::read_to_string(&head).expect("it is there"), changed);
        }
        std::fs::remove_file(&head).expect("it is there");
        std::fs::create_dir(folder.0.join("lane-0")).expect("it is new");
        let error = StoreFolder::open(&folder.0, SETTINGS).expect_err("it is refused");
        assert!(matches!(error, FolderError::HeadMissing(_)), "{error}");
        let error = StoreFolder::open_existing(&folder.0).expect_err("it is refused");
        assert!(matches!(error, FolderError::HeadMissing(_)), "{error}");
    }

    #[test]
    fn store_of_the_older_format_is_given_the_newest_when_it_is_opened() {
        let folder = Folder::new("older");
        let settings = StoreSettings { lanes: 1, ..SETTINGS };
        let id = StoreFolder::open(&folder.0, settings).expect("it is made").id();
        let head = folder.0.join(HEAD);
        let text = |format, settings| Head { format, id, settings, generation: 0 }.text();
        for format in [1, 2] {
            std::fs::write(&head, text(format, SETTINGS)).expect("it is writable");
            let error = StoreFolder::open(&folder.0, settings).expect_err("it has two lanes");
            assert!(error.to_string().contains("before the first release"), "{error}");
        }
        let older = text(1, settings);
        std::fs::write(&head, &older).expect("it is writable");
        let store = StoreFolder::open_existing(&folder.0).expect("the format is known");
        assert_eq!((store.id(), store.settings()), (id, settings));
        let read = || std::fs::read_to_string(&head).expect("it is there");
        assert_eq!(read(), older, "a command changes nothing");
        drop(store);
        let store = StoreFolder::open(&folder.0, SETTINGS).expect("the format is known");
        assert_eq!((store.id(), read()), (id, text(STORE_FORMAT, settings)));
        drop(store);
        for format in [2, 3] {
            std::fs::write(&head, text(format, settings)).expect("it is writable");
            let refused = StoreFolder::open(&folder.0, settings).expect_err("it was not released");
            assert!(refused.to_string().contains("before the first release"), "{refused}");
            assert_eq!(read(), text(format, settings), "it stays as it is");
        }
    }

    #[test]
    fn any_other_head_is_refused_without_a_panic() {
        let id = StoreId([0xAB; 16]);
        let head = Head { format: STORE_FORMAT, id, settings: SETTINGS, generation: 7 };
        let text = head.text();
        assert_eq!(parse_head(text.as_bytes()), Ok(head));
        let mut random = Rng::with_seed(3);
        for _ in 0..50_000 {
            let mut bytes = text.clone().into_bytes();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(0..bytes.len().max(1));
                match random.u8(0..3) {
                    _ if bytes.is_empty() => {}
                    0 => bytes[at] = random.u8(..),
                    1 => drop(bytes.remove(at)),
                    _ => bytes.truncate(at),
                }
            }
            assert!(bytes == text.as_bytes() || parse_head(&bytes).is_err());
        }
    }
}
