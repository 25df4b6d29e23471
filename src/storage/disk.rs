//! The disk as the store sees it: files by name, sectors, and what is durable when.
//!
//! The store never touches a file in any other way, so that a simulated disk can stand for the real one.
//! Names are relative to the store's folder, their parts apart by `/`.
//!
//! Who writes keeps four rules, and every implementer may rely on them:
//! - Offsets and lengths of writes are multiples of [`SECTOR_BYTES`].
//! - No two operations in flight touch the same bytes of a file, unless both read.
//! - A failed write or sync is final for that file: its pages may be gone though a read still shows them. The
//!   same bytes are never synced a second time.
//! - A file is there after a power cut only once its folder was synced.

use std::future::Future;
use std::io;

/// Bytes that writes begin at and consist of multiples of: the page of every machine Midge runs on, and
/// a multiple of the sectors of every disk.
pub const SECTOR_BYTES: usize = 4096;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only reads; the file is there.
    Read,
    /// Writes that become durable with the next [`Disk::sync`] of the file, which must not be there yet.
    Create,
    /// Writes that are durable when they return; the file is there and as long as it will ever be.
    Durable,
}

/// Files, as an asynchronous interface: an operation is in flight from its first poll to its end. A future that
/// is dropped before leaves its operation undone or done. Clones are the same disk.
pub trait Disk: Clone + 'static {
    /// An open file, closed with its last clone.
    type File: Clone + 'static;

    /// # Errors
    /// A part of the name cannot be made. That the folder is there already is no error.
    fn make_folder(&self, name: &str) -> impl Future<Output = io::Result<()>>;

    /// The names of what is in a folder, without the folder's own, in no order.
    ///
    /// # Errors
    /// The folder is not there or cannot be read.
    fn list(&self, folder: &str) -> impl Future<Output = io::Result<Vec<String>>>;

    /// # Errors
    /// As the disk says; `AlreadyExists` for [`Access::Create`] of a file that is there.
    fn open(&self, name: &str, access: Access) -> impl Future<Output = io::Result<Self::File>>;

    /// The length of a file in bytes.
    ///
    /// # Errors
    /// As the disk says.
    fn length(&self, file: &Self::File) -> impl Future<Output = io::Result<u64>>;

    /// Fills the buffer from `offset` on. The count is below the buffer's length only at the file's end.
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

    /// Makes all that was written to the file durable, and its length.
    ///
    /// # Errors
    /// As the disk says. What was written since the last sync may be lost, and no second sync can save it.
    fn sync(&self, file: &Self::File) -> impl Future<Output = io::Result<()>>;

    /// Makes the names in a folder durable: what was created, renamed and removed.
    ///
    /// # Errors
    /// As the disk says.
    fn sync_folder(&self, folder: &str) -> impl Future<Output = io::Result<()>>;

    /// Gives a file another name, whose file, where there is one, goes. Both are in the same folder.
    ///
    /// # Errors
    /// As the disk says.
    fn rename(&self, from: &str, to: &str) -> impl Future<Output = io::Result<()>>;

    /// Gives a file a second name, in whatever folder.
    ///
    /// # Errors
    /// As the disk says; not all file systems can.
    fn link(&self, from: &str, to: &str) -> impl Future<Output = io::Result<()>>;

    /// # Errors
    /// As the disk says; `NotFound` where there is no such file.
    fn remove(&self, name: &str) -> impl Future<Output = io::Result<()>>;

    /// Removes a folder, which is empty.
    ///
    /// # Errors
    /// As the disk says; `NotFound` where there is none.
    fn remove_folder(&self, name: &str) -> impl Future<Output = io::Result<()>>;
}

/// Bytes that begin at a multiple of [`SECTOR_BYTES`] in memory, as O_DIRECT wants them.
///
/// A vector that is longer by one sector, of which the part before the first such address is left out.
#[derive(Debug, Default)]
pub struct DiskBuffer {
    /// Never grows past its capacity: it would move, and be aligned no more.
    bytes: Vec<u8>,
    start: usize,
}

impl DiskBuffer {
    /// Empty, with room for `bytes`.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut storage: Vec<u8> = Vec::with_capacity(bytes + SECTOR_BYTES);
        // `align_offset` may answer that it cannot tell; then nothing is aligned and O_DIRECT says so.
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

    /// Appends zeros until the length is `length`, if it is less.
    pub fn pad_to(&mut self, length: usize) {
        if let Some(missing) = length.checked_sub(self.len()) {
            self.reserve(missing);
            self.bytes.resize(self.start + length, 0);
        }
    }

    /// The vector and where the aligned bytes begin in it, for a kernel that takes the vector itself.
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
