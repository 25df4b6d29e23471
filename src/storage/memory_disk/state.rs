//! The contents of the disk in memory, and the effects of each operation and each fault on them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;

use fastrand::Rng;

use crate::storage::disk::{Access, DiskBuffer};

/// The frequency of each fault: one of so many operations of its kind has it; 0 for never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Writes that fail after any part of them was written.
    pub failed_writes: u32,
    /// Syncs that fail and drop what was not synced, some of it or all.
    pub failed_syncs: u32,
    /// Changes of names, opens and folder syncs that fail.
    pub failed_names: u32,
    /// Reads that find their first bytes unreadable from now on.
    pub latent_sectors: u32,
    /// Reads that find one of their bits flipped for good.
    pub rotten_bits: u32,
    /// Writes that go to another place of the same file or of another, and are reported as
    /// successful.
    pub misdirected_writes: u32,
    /// A file system without durable writes: each is a write and a sync, either of which may fail.
    pub is_buffered: bool,
    /// A disk that reports durable writes as done while they are not: no store can be safe from it.
    pub has_lying_writes: bool,
    /// A disk that reports syncs of folders as done while they are not.
    pub has_lying_folders: bool,
}

/// A place where the medium itself lost bytes that had been written to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaFault {
    /// The name of the file, as it was then.
    pub name: String,
    pub offset: u64,
    pub length: u64,
}

/// Bytes that a disk writes wholly or not at all.
pub(super) const ATOM_BYTES: usize = 512;

type Atom = [u8; ATOM_BYTES];

/// A file's number; its names may change.
pub(super) type FileIndex = usize;

#[derive(Default)]
pub(super) struct FileData {
    /// The bytes as reads see them.
    pub(super) seen: Vec<u8>,
    /// The bytes as they are after a power cut, without those that are not synced.
    pub(super) durable: Vec<u8>,
    /// Atoms written since the last sync, each with all that was written to it, the oldest first.
    pub(super) unsynced: BTreeMap<usize, Vec<Atom>>,
    /// Atoms that fail to be read.
    pub(super) unreadable: BTreeSet<usize>,
}

/// A change of names that was not made durable by a sync of the folder.
#[derive(Clone, Debug)]
enum NameChange {
    Created { name: String, index: FileIndex },
    Renamed { from: String, to: String, index: FileIndex },
    Removed { name: String },
}

impl NameChange {
    fn folder(&self) -> &str {
        match self {
            Self::Created { name, .. } | Self::Removed { name } => folder_of(name),
            Self::Renamed { to, .. } => folder_of(to),
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, FileIndex>) {
        match self {
            Self::Created { name, index } => {
                names.insert(name.clone(), *index);
            }
            Self::Renamed { from, to, index } => {
                names.remove(from);
                names.insert(to.clone(), *index);
            }
            Self::Removed { name } => {
                names.remove(name);
            }
        }
    }
}

pub(super) fn folder_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

pub(super) enum Request {
    MakeFolder(String),
    List(String),
    Open(String, Access),
    Length(FileIndex),
    Read(FileIndex, u64, DiskBuffer),
    Write(FileIndex, u64, DiskBuffer, Access),
    Sync(FileIndex),
    SyncFolder(String),
    Rename(String, String),
    Remove(String),
    Link(String, String),
    RemoveFolder(String),
}

/// The result of an operation. The kind of the request decides which field holds it.
#[derive(Default)]
pub(super) struct Answer {
    pub(super) names: Vec<String>,
    pub(super) file: Option<FileIndex>,
    pub(super) number: u64,
    pub(super) buffer: DiskBuffer,
}

pub(super) type Reply = Rc<RefCell<Option<(io::Result<()>, Answer)>>>;

pub(super) struct Pending {
    pub(super) request: Request,
    pub(super) reply: Reply,
}

pub(super) struct State {
    pub(super) random: Rng,
    pub(super) faults: Faults,
    /// Bytes that all files may have together.
    pub(super) capacity_bytes: u64,
    pub(super) files: Vec<FileData>,
    folders: BTreeSet<String>,
    pub(super) names: BTreeMap<String, FileIndex>,
    durable_names: BTreeMap<String, FileIndex>,
    name_changes: Vec<NameChange>,
    pub(super) pending: Vec<Pending>,
    pub(super) media_faults: Vec<MediaFault>,
}

fn error(kind: io::ErrorKind, text: &'static str) -> io::Error {
    io::Error::new(kind, text)
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: Rng::with_seed(seed),
            faults: Faults::default(),
            capacity_bytes: u64::MAX,
            files: Vec::new(),
            folders: BTreeSet::from([String::new()]),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            pending: Vec::new(),
            media_faults: Vec::new(),
        }
    }

    pub(super) fn used_bytes(&self) -> u64 {
        // A file with two names counts once.
        let indexes: BTreeSet<FileIndex> = self.names.values().copied().collect();
        indexes.iter().map(|index| self.files[*index].seen.len() as u64).sum()
    }

    fn draw(&mut self, one_of: u32) -> bool {
        one_of > 0 && self.random.u32(0..one_of) == 0
    }

    /// # Panics
    /// Two operations in flight touch the same bytes and one of them writes.
    pub(super) fn check_overlap(&self, request: &Request) {
        let span = |request: &Request| match request {
            Request::Read(index, offset, buffer) => Some((*index, *offset, buffer.len(), false)),
            Request::Write(index, offset, buffer, _) => Some((*index, *offset, buffer.len(), true)),
            _ => None,
        };
        let Some((index, offset, length, writes)) = span(request) else { return };
        for pending in &self.pending {
            let Some((other, other_offset, other_length, other_writes)) = span(&pending.request)
            else {
                continue;
            };
            let is_apart = other != index
                || offset + length as u64 <= other_offset
                || other_offset + other_length as u64 <= offset;
            assert!(is_apart || !(writes || other_writes), "operations in flight overlap");
        }
    }

    pub(super) fn perform(&mut self, request: Request) -> (io::Result<()>, Answer) {
        let mut answer = Answer::default();
        let names_fail = matches!(
            request,
            Request::Open(..)
                | Request::SyncFolder(_)
                | Request::Rename(..)
                | Request::Remove(_)
                | Request::Link(..)
                | Request::RemoveFolder(_)
                | Request::MakeFolder(_)
        ) && self.draw(self.faults.failed_names);
        if names_fail {
            return (Err(error(io::ErrorKind::Other, "input/output error")), answer);
        }
        let result = match request {
            Request::MakeFolder(name) => {
                let mut end = 0;
                while let Some(next) = name[end..].find('/') {
                    self.folders.insert(name[..end + next].to_owned());
                    end += next + 1;
                }
                self.folders.insert(name);
                Ok(())
            }
            Request::List(folder) => self.list(&folder).map(|names| answer.names = names),
            Request::Open(name, access) => {
                self.open(&name, access).map(|index| answer.file = Some(index))
            }
            Request::Length(index) => {
                answer.number = self.files[index].seen.len() as u64;
                Ok(())
            }
            Request::Read(index, offset, mut buffer) => {
                let result = self.read(index, offset as usize, buffer.as_mut_slice());
                answer.buffer = buffer;
                result.map(|count| answer.number = count as u64)
            }
            Request::Write(index, offset, buffer, access) => {
                let result = self.write(index, offset as usize, buffer.as_slice(), access);
                answer.buffer = buffer;
                result
            }
            Request::Sync(index) => self.sync(index),
            Request::SyncFolder(folder) => {
                if !self.faults.has_lying_folders {
                    self.sync_folder(&folder);
                }
                Ok(())
            }
            Request::Rename(from, to) => self.rename(from, to),
            Request::Link(from, to) => self.link(&from, to),
            Request::RemoveFolder(name) => self.remove_folder(&name),
            Request::Remove(name) => match self.names.remove(&name) {
                Some(_) => {
                    self.name_changes.push(NameChange::Removed { name });
                    Ok(())
                }
                None => Err(error(io::ErrorKind::NotFound, "no such file")),
            },
        };
        (result, answer)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        if !self.folders.contains(folder) {
            return Err(error(io::ErrorKind::NotFound, "no such folder"));
        }
        let below = |name: &String| {
            let rest = if folder.is_empty() {
                name.as_str()
            } else {
                name.strip_prefix(folder)?.strip_prefix('/')?
            };
            (!rest.is_empty() && !rest.contains('/')).then(|| rest.to_owned())
        };
        Ok(self
            .names
            .keys()
            .filter_map(below)
            .chain(self.folders.iter().filter_map(below))
            .collect())
    }

    fn open(&mut self, name: &str, access: Access) -> io::Result<FileIndex> {
        match (self.names.get(name), access) {
            (Some(_), Access::Create) => {
                Err(error(io::ErrorKind::AlreadyExists, "the file is there already"))
            }
            (Some(index), _) => Ok(*index),
            (None, Access::Create) if self.folders.contains(folder_of(name)) => {
                let index = self.files.len();
                self.files.push(FileData::default());
                self.names.insert(name.to_owned(), index);
                self.name_changes.push(NameChange::Created { name: name.to_owned(), index });
                Ok(index)
            }
            (None, _) => Err(error(io::ErrorKind::NotFound, "no such file")),
        }
    }

    fn link(&mut self, from: &str, to: String) -> io::Result<()> {
        let Some(index) = self.names.get(from).copied() else {
            return Err(error(io::ErrorKind::NotFound, "no such file"));
        };
        if self.names.contains_key(&to) {
            return Err(error(io::ErrorKind::AlreadyExists, "the file is there already"));
        }
        self.names.insert(to.clone(), index);
        self.name_changes.push(NameChange::Created { name: to, index });
        Ok(())
    }

    fn remove_folder(&mut self, folder: &str) -> io::Result<()> {
        if self.names.keys().any(|name| folder_of(name) == folder) {
            return Err(error(io::ErrorKind::DirectoryNotEmpty, "the folder holds files"));
        }
        // The removal is durable at once: neither the folder nor its files come back.
        self.sync_folder(folder);
        match self.folders.remove(folder) {
            true => Ok(()),
            false => Err(error(io::ErrorKind::NotFound, "no such folder")),
        }
    }

    fn rename(&mut self, from: String, to: String) -> io::Result<()> {
        let Some(index) = self.names.remove(&from) else {
            return Err(error(io::ErrorKind::NotFound, "no such file"));
        };
        self.names.insert(to.clone(), index);
        self.name_changes.push(NameChange::Renamed { from, to, index });
        Ok(())
    }

    fn read(&mut self, index: FileIndex, offset: usize, out: &mut [u8]) -> io::Result<usize> {
        let length = self.files[index].seen.len();
        let count = length.saturating_sub(offset).min(out.len());
        if count == 0 {
            return Ok(0);
        }
        if self.draw(self.faults.latent_sectors) {
            let place = offset + self.random.usize(0..count);
            self.files[index].unreadable.insert(place / ATOM_BYTES);
            self.note_media_fault(index, place / ATOM_BYTES * ATOM_BYTES, ATOM_BYTES);
        }
        if self.draw(self.faults.rotten_bits) {
            let (place, bit) = (offset + self.random.usize(0..count), self.random.u8(0..8));
            self.flip(index, place, 1 << bit);
        }
        let file = &self.files[index];
        let (first, last) = (offset / ATOM_BYTES, (offset + count - 1) / ATOM_BYTES);
        if file.unreadable.range(first..=last).next().is_some() {
            return Err(error(io::ErrorKind::Other, "input/output error"));
        }
        out[..count].copy_from_slice(&file.seen[offset..offset + count]);
        Ok(count)
    }

    pub(super) fn flip(&mut self, index: FileIndex, offset: usize, mask: u8) {
        let file = &mut self.files[index];
        file.seen[offset] ^= mask;
        if let Some(byte) = file.durable.get_mut(offset) {
            *byte ^= mask;
        }
        for version in file.unsynced.get_mut(&(offset / ATOM_BYTES)).into_iter().flatten() {
            version[offset % ATOM_BYTES] ^= mask;
        }
        self.note_media_fault(index, offset, 1);
    }

    fn note_media_fault(&mut self, index: FileIndex, offset: usize, length: usize) {
        let name = self.names.iter().find(|(_, other)| **other == index);
        let name = name.map_or_else(String::new, |(name, _)| name.clone());
        let (offset, length) = (offset as u64, length as u64);
        self.media_faults.push(MediaFault { name, offset, length });
    }

    fn write(
        &mut self,
        index: FileIndex,
        offset: usize,
        bytes: &[u8],
        access: Access,
    ) -> io::Result<()> {
        let (mut index, mut offset) = (index, offset);
        if self.draw(self.faults.failed_writes) {
            let some =
                bytes.len().min(ATOM_BYTES * self.random.usize(0..=bytes.len() / ATOM_BYTES));
            self.place(index, offset, &bytes[..some]);
            return Err(error(io::ErrorKind::Other, "input/output error"));
        }
        let longer = (offset + bytes.len()).saturating_sub(self.files[index].seen.len());
        if self.used_bytes().saturating_add(longer as u64) > self.capacity_bytes {
            return Err(error(io::ErrorKind::StorageFull, "no space left on device"));
        }
        if self.draw(self.faults.misdirected_writes) && longer == 0 {
            self.note_media_fault(index, offset, bytes.len());
            let choices: Vec<FileIndex> = self.names.values().copied().collect();
            index = choices[self.random.usize(0..choices.len())];
            let places = self.files[index].seen.len().saturating_sub(bytes.len()) / ATOM_BYTES;
            offset = ATOM_BYTES * self.random.usize(0..=places);
            self.note_media_fault(index, offset, bytes.len());
        }
        self.place(index, offset, bytes);
        match access {
            Access::Durable if self.faults.has_lying_writes => Ok(()),
            Access::Durable if self.faults.is_buffered => self.sync(index),
            Access::Durable => {
                self.harden(index, offset, bytes.len());
                Ok(())
            }
            Access::Read | Access::Create => Ok(()),
        }
    }

    /// Puts bytes where reads see them and where a power cut may keep them.
    fn place(&mut self, index: FileIndex, offset: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let file = &mut self.files[index];
        let end = offset + bytes.len();
        let is_behind = offset >= file.seen.len().next_multiple_of(ATOM_BYTES);
        if file.seen.len() < end {
            file.seen.resize(end, 0);
        }
        // Zeros behind the end are there, or the file is shorter: its length decides which.
        if is_behind && bytes.chunks(ATOM_BYTES).all(|atom| *atom == [0; ATOM_BYTES][..atom.len()])
        {
            return;
        }
        file.seen[offset..end].copy_from_slice(bytes);
        for atom in offset / ATOM_BYTES..=(end - 1) / ATOM_BYTES {
            let version = atom_of(&file.seen, atom);
            file.unsynced.entry(atom).or_default().push(version);
            // A disk that takes a write again gives the sector another place.
            file.unreadable.remove(&atom);
        }
    }

    /// Makes the bytes of a durable write that returned durable, whatever was there before.
    fn harden(&mut self, index: FileIndex, offset: usize, length: usize) {
        if length == 0 {
            return;
        }
        let file = &mut self.files[index];
        let end = offset + length;
        if file.durable.len() < end {
            file.durable.resize(end, 0);
        }
        file.durable[offset..end].copy_from_slice(&file.seen[offset..end]);
        for atom in offset / ATOM_BYTES..=(end - 1) / ATOM_BYTES {
            file.unsynced.remove(&atom);
        }
    }

    fn sync(&mut self, index: FileIndex) -> io::Result<()> {
        if self.draw(self.faults.failed_syncs) {
            let atoms: Vec<usize> = self.files[index].unsynced.keys().copied().collect();
            let drops_all = self.random.bool();
            for atom in atoms {
                if drops_all || self.random.bool() {
                    // Clean pages: seen until the power is cut, and never written again.
                    self.files[index].unsynced.remove(&atom);
                }
            }
            return Err(error(io::ErrorKind::Other, "input/output error"));
        }
        let file = &mut self.files[index];
        let length = file.seen.len();
        file.durable.resize(length.max(file.durable.len()), 0);
        for (atom, versions) in std::mem::take(&mut file.unsynced) {
            put_atom(&mut file.durable, atom, versions.last().expect("an atom has a version"));
        }
        Ok(())
    }

    fn sync_folder(&mut self, folder: &str) {
        let mut durable_names = std::mem::take(&mut self.durable_names);
        self.name_changes.retain(|change| {
            let is_here = change.folder() == folder;
            if is_here {
                change.apply(&mut durable_names);
            }
            !is_here
        });
        self.durable_names = durable_names;
    }

    pub(super) fn power_cut(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            match pending.request {
                // The others leave nothing, or nothing that the choice below does not make anyway.
                Request::Write(index, offset, buffer, _) => {
                    let longest =
                        (offset as usize + buffer.len()).max(self.files[index].seen.len());
                    let fits = self.used_bytes() + longest as u64
                        - self.files[index].seen.len() as u64
                        <= self.capacity_bytes;
                    if fits {
                        self.place(index, offset as usize, buffer.as_slice());
                    }
                }
                Request::Rename(from, to) => {
                    // A rename without its source fails, whenever it is tried.
                    self.rename(from, to).unwrap_or_default();
                }
                Request::Remove(name) => self.name_changes.push(NameChange::Removed { name }),
                _ => {}
            }
        }
        for change in std::mem::take(&mut self.name_changes) {
            if self.random.bool() {
                change.apply(&mut self.durable_names);
            }
        }
        self.names = self.durable_names.clone();
        let named: BTreeSet<FileIndex> = self.names.values().copied().collect();
        for index in 0..self.files.len() {
            match named.contains(&index) {
                true => self.lose_unsynced(index),
                false => self.files[index] = FileData::default(),
            }
        }
    }

    fn lose_unsynced(&mut self, index: FileIndex) {
        let file = &mut self.files[index];
        let (shortest, longest) = (file.durable.len(), file.seen.len().max(file.durable.len()));
        let length = match self.random.u8(0..4) {
            0 => shortest,
            1 => self.random.usize(shortest..=longest),
            _ => longest,
        };
        file.durable.resize(length, 0);
        for (atom, versions) in std::mem::take(&mut file.unsynced) {
            if let Some(chosen) = self.random.usize(0..=versions.len()).checked_sub(1) {
                put_atom(&mut file.durable, atom, &versions[chosen]);
            }
        }
        file.seen = file.durable.clone();
    }
}

/// An atom's bytes, zeros behind the end.
fn atom_of(bytes: &[u8], atom: usize) -> Atom {
    let mut out = [0; ATOM_BYTES];
    let from =
        &bytes[(atom * ATOM_BYTES).min(bytes.len())..bytes.len().min((atom + 1) * ATOM_BYTES)];
    out[..from.len()].copy_from_slice(from);
    out
}

/// The inverse; bytes behind the end are left out.
fn put_atom(bytes: &mut [u8], atom: usize, version: &Atom) {
    let start = (atom * ATOM_BYTES).min(bytes.len());
    let end = bytes.len().min((atom + 1) * ATOM_BYTES);
    bytes[start..end].copy_from_slice(&version[..end - start]);
}
