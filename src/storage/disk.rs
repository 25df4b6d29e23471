//! The disk as the store sees it: files by name, sectors, and the moments at which writes are
//! durable.
//!
//! The store never touches a file in any other way, so that a simulated disk can stand for the real
//! one. Names are relative to the store's folder, their parts separated by `/`.
//!
//! Writers keep four rules, and every implementer may rely on them:
//! - Offsets and lengths of writes are multiples of [`SECTOR_BYTES`].
//! - No two operations in flight touch the same bytes of a file, unless both read.
//! - A failed write or sync is final for that file: its pages may be gone though a read still shows
//!   them. The same bytes are never synced a second time.
//! - A file survives a power cut only once its folder was synced.

use std::future::Future;
use std::io;

/// The unit of writes in bytes: their offsets and lengths are multiples of it. It is the page of
/// every machine that Midge runs on, and a multiple of the sectors of every disk.
pub const SECTOR_BYTES: usize = 4096;

/// The access with which a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads only, of a file that exists.
    Read,
    /// Writes that become durable with the next [`Disk::sync`] of the file, which must not exist
    /// yet.
    Create,
    /// Writes that are durable when they return, to a file that exists and never grows.
    Durable,
}

/// Files, as an asynchronous interface: an operation is in flight from its first poll to its end.
/// If its future is dropped before, the operation may be done or not. Clones are the same disk.
pub trait Disk: Clone + 'static {
    /// An open file, closed with its last clone.
    type File: Clone + 'static;

    /// # Errors
    /// A part of the name cannot be made. That the folder is there already is no error.
    fn make_folder(&self, name: &str) -> impl Future<Output = io::Result<()>>;

    /// The names of the files in a folder, without the folder's own, in no order.
    ///
    /// # Errors
    /// The folder is not there or cannot be read.
    fn list(&self, folder: &str) -> impl Future<Output = io::Result<Vec<String>>>;

    /// # Errors
    /// An error of the disk; `AlreadyExists` for [`Access::Create`] of a file that exists.
    fn open(&self, name: &str, access: Access) -> impl Future<Output = io::Result<Self::File>>;

    /// The length of a file in bytes.
    ///
    /// # Errors
    /// An error of the disk.
    fn length(&self, file: &Self::File) -> impl Future<Output = io::Result<u64>>;

    /// Fills the buffer from `offset` on. The returned count is below the buffer's length only at
    /// the file's end.
    fn read(
        &self,
        file: &Self::File,
        offset: u64,
        buffer: DiskBuffer,
    ) -> impl Future<Output = (io::Result<usize>, DiskBuffer)>;

    /// Writes the whole buffer at `offset`. After an error any part of it may have been written.
    fn write(
        &self,
        file: &Self::File,
        offset: u64,
        buffer: DiskBuffer,
    ) -> impl Future<Output = (io::Result<()>, DiskBuffer)>;

    /// Makes all writes to the file durable, and its length.
    ///
    /// # Errors
    /// An error of the disk. Everything written since the last sync may be lost, and no second sync
    /// can save it.
    fn sync(&self, file: &Self::File) -> impl Future<Output = io::Result<()>>;

    /// Makes the names in a folder durable: files that were created, renamed and removed.
    ///
    /// # Errors
    /// An error of the disk.
    fn sync_folder(&self, folder: &str) -> impl Future<Output = io::Result<()>>;

    /// Renames a file within its folder. A file that had the new name is removed.
    ///
    /// # Errors
    /// An error of the disk.
    fn rename(&self, from: &str, to: &str) -> impl Future<Output = io::Result<()>>;

    /// Gives a file a second name, in any folder.
    ///
    /// # Errors
    /// An error of the disk; not all file systems support it.
    fn link(&self, from: &str, to: &str) -> impl Future<Output = io::Result<()>>;

    /// # Errors
    /// An error of the disk; `NotFound` where there is no such file.
    fn remove(&self, name: &str) -> impl Future<Output = io::Result<()>>;

    /// Removes an empty folder.
    ///
    /// # Errors
    /// An error of the disk; `NotFound` where there is none.
    fn remove_folder(&self, name: &str) -> impl Future<Output = io::Result<()>>;
}

/// Bytes that begin at a multiple of [`SECTOR_BYTES`] in memory, as O_DIRECT requires.
///
/// They lie in a vector that is longer by one sector, and begin at its first such address.
#[derive(Debug, Default)]
pub struct DiskBuffer {
    /// Never grows past its capacity: it would move, and no longer be aligned.
    bytes: Vec<u8>,
    start: usize,
}

impl DiskBuffer {
    /// Empty, with room for `bytes`.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut storage: Vec<u8> = Vec::with_capacity(bytes + SECTOR_BYTES);
        // `align_offset` may be unable to tell; then nothing is aligned and O_DIRECT fails.
        let start = storage.as_ptr().align_offset(SECTOR_BYTES).min(SECTOR_BYTES);
        storage.resize(start, 0);
        Self { bytes: storage, start }
    }

    /// `bytes` zeros.
    pub fn zeroed(bytes: usize) -> Self {
        let mut storage = vec![0; bytes + SECTOR_BYTES];
        let start = storage.as_ptr().align_offset(SECTOR_BYTES).min(SECTOR_BYTES);
        storage.truncate(start + bytes);
        Self { bytes: storage, start }
    }

    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    pub fn clear(&mut self) {
        self.bytes.truncate(self.start);
    }

    pub fn truncate(&mut self, length: usize) {
        self.bytes.truncate(self.start + length);
    }

    pub fn extend(&mut self, more: &[u8]) {
        self.reserve(more.len());
        self.bytes.extend_from_slice(more);
    }

    /// Appends zeros until the length is at least `length`.
    pub fn pad_to(&mut self, length: usize) {
        if let Some(missing) = length.checked_sub(self.len()) {
            self.reserve(missing);
            self.bytes.resize(self.start + length, 0);
        }
    }

    /// The vector and the start of the aligned bytes in it, for a kernel that takes the vector
    /// itself.
    pub fn into_parts(self) -> (Vec<u8>, usize) {
        (self.bytes, self.start)
    }

    /// The inverse of [`DiskBuffer::into_parts`].
    pub fn from_parts(bytes: Vec<u8>, start: usize) -> Self {
        assert!(start <= bytes.len(), "the start lies behind the end");
        Self { bytes, start }
    }

    fn reserve(&mut self, more: usize) {
        if self.bytes.capacity() - self.bytes.len() >= more {
            return;
        }
        let mut larger = Self::with_capacity((self.len() + more).max(2 * self.len()));
        larger.bytes.extend_from_slice(self.as_slice());
        *self = larger;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffer_stays_aligned_and_whole_while_it_grows() {
        let mut buffer = DiskBuffer::default();
        let mut expected = Vec::new();
        for length in [0, 1, 17, 4096, 5000, 70_000] {
            let part: Vec<u8> = (0..length).map(|index| (index * 7) as u8).collect();
            buffer.extend(&part);
            expected.extend_from_slice(&part);
            assert_eq!(buffer.as_slice(), expected);
            let address = buffer.as_slice().as_ptr() as usize;
            assert!(buffer.is_empty() || address.is_multiple_of(SECTOR_BYTES));
        }
        buffer.pad_to(100_000);
        assert_eq!(buffer.len(), 100_000);
        assert!(buffer.as_slice()[expected.len()..].iter().all(|byte| *byte == 0));
        let (bytes, start) = buffer.into_parts();
        let mut buffer = DiskBuffer::from_parts(bytes, start);
        buffer.truncate(18);
        assert_eq!(buffer.as_slice(), &expected[..18]);
        buffer.clear();
        assert!(buffer.is_empty());
    }
}
