//! A disk in memory that forgets, tears and lies as real ones do: the simulator's.
//!
//! Nothing happens by itself. An operation waits until [`MemoryDisk::step`] performs one of those
//! in flight, drawn from the seed; [`MemoryDisk::power_cut`] ends all of them at once and leaves a
//! state that a power cut may leave. A fault sticks: damaged bytes stay damaged for all later
//! reads.
//!
//! A power cut may leave:
//! - of bytes that were written and not synced, each sector of 512 bytes as it was or as any of the
//!   writes since the last sync made it; the same for durable writes in flight;
//! - of each change of a name whose folder was not synced, the change or not (folders themselves
//!   are durable at once);
//! - of a file's length, any between the synced one and the one written.
//!
//! A sync that failed leaves pages that reads show and that no later sync makes durable.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::disk::{Access, Disk, DiskBuffer, SECTOR_BYTES};
use super::wakes::Wakes;
use state::{Answer, FileData, FileIndex, Pending, Reply, Request, State, folder_of};
pub(crate) use state::{Faults, MediaFault};

mod state;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod toy_log;

/// An open file.
#[derive(Clone, Debug)]
pub struct MemoryFile {
    index: FileIndex,
    access: Access,
    /// The number of ends of the power or the process before it was opened. After the next one it
    /// is of no use.
    life: u64,
}

/// A disk for the simulator; clones are the same disk.
#[derive(Clone)]
pub struct MemoryDisk {
    state: Rc<RefCell<State>>,
    life: Rc<Cell<u64>>,
}

impl MemoryDisk {
    /// An empty disk without faults and without bounds.
    pub fn new(seed: u64) -> Self {
        let state = State::new(seed);
        Self { state: Rc::new(RefCell::new(state)), life: Rc::new(Cell::new(0)) }
    }

    pub fn set_faults(&self, faults: Faults) {
        self.state.borrow_mut().faults = faults;
    }

    /// Sets the bytes that all files may have together. A write that lengthens a file past them
    /// fails as on a full disk.
    pub fn set_capacity(&self, bytes: u64) {
        self.state.borrow_mut().capacity_bytes = bytes;
    }

    /// Bytes of all files.
    pub fn used_bytes(&self) -> u64 {
        self.state.borrow().used_bytes()
    }

    /// The places where the medium lost something so far.
    pub fn media_faults(&self) -> Vec<MediaFault> {
        self.state.borrow().media_faults.clone()
    }

    /// Performs one of the operations in flight; false where there is none.
    pub fn step(&self) -> bool {
        let mut state = self.state.borrow_mut();
        if state.pending.is_empty() {
            return false;
        }
        let count = state.pending.len();
        let chosen = state.random.usize(0..count);
        let pending = state.pending.swap_remove(chosen);
        let outcome = state.perform(pending.request);
        *pending.reply.borrow_mut() = Some(outcome);
        true
    }

    /// Ends all operations in flight and leaves a state that a power cut may leave. Files that are
    /// open are of no use any more.
    pub fn power_cut(&self) {
        self.life.set(self.life.get() + 1);
        self.state.borrow_mut().power_cut();
    }

    /// Ends all operations in flight as the end of a process does: the kernel keeps the bytes that
    /// it was given.
    pub fn kill(&self) {
        self.life.set(self.life.get() + 1);
        let mut state = self.state.borrow_mut();
        for pending in std::mem::take(&mut state.pending) {
            if state.random.bool() {
                // Nobody is left to hear the result.
                drop(state.perform(pending.request));
            }
        }
    }

    /// Flips the bits of `mask` in one byte of a file, for good.
    ///
    /// # Panics
    /// There is no such byte.
    pub fn damage(&self, name: &str, offset: u64, mask: u8) {
        let mut state = self.state.borrow_mut();
        let index = *state.names.get(name).expect("the file to damage is there");
        state.flip(index, offset as usize, mask);
    }

    /// The bytes of a file as reads see them; `None` where there is no such file.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state.borrow();
        let index = state.names.get(name)?;
        Some(state.files[*index].seen.clone())
    }

    /// Gives a file other bytes, durably, as a person may do.
    ///
    /// # Panics
    /// There is no such file.
    pub fn set_contents(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.state.borrow_mut();
        let index = *state.names.get(name).expect("the file to change is there");
        state.files[index] =
            FileData { seen: bytes.clone(), durable: bytes, ..FileData::default() };
    }

    /// The names of all files.
    pub fn file_names(&self) -> Vec<String> {
        self.state.borrow().names.keys().cloned().collect()
    }

    /// Runs `future` to its end, performing operations as it waits for them.
    ///
    /// # Panics
    /// The future waits for something other than this disk.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.run_steps(future, u64::MAX).expect("the future waits for no operation of this disk")
    }

    /// Runs `future` until that many operations were performed, it ended, or it waits for something
    /// other than this disk.
    pub fn run_steps<T>(&self, future: impl Future<Output = T>, mut steps: u64) -> Option<T> {
        let mut future = std::pin::pin!(future);
        let (wakes, waker) = Wakes::new();
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return Some(output);
            }
            if wakes.take() {
                continue;
            }
            if steps == 0 || !self.step() {
                return None;
            }
            steps -= 1;
        }
    }

    fn submit(&self, request: Request) -> InFlight {
        let reply = Reply::default();
        let mut state = self.state.borrow_mut();
        state.check_overlap(&request);
        state.pending.push(Pending { request, reply: reply.clone() });
        InFlight { reply }
    }

    /// # Panics
    /// The file was opened before the last end of the power or the process.
    fn check_life(&self, file: &MemoryFile) {
        assert!(file.life == self.life.get(), "a file of an earlier life is used");
    }
}

/// An operation until the disk performs it. It is polled again after each step: no waker is kept.
struct InFlight {
    reply: Reply,
}

impl Future for InFlight {
    type Output = (io::Result<()>, Answer);

    fn poll(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.reply.borrow_mut().take() {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        }
    }
}

impl Disk for MemoryDisk {
    type File = MemoryFile;

    async fn make_folder(&self, name: &str) -> io::Result<()> {
        self.submit(Request::MakeFolder(name.to_owned())).await.0
    }

    async fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let (result, answer) = self.submit(Request::List(folder.to_owned())).await;
        result.map(|()| answer.names)
    }

    async fn open(&self, name: &str, access: Access) -> io::Result<MemoryFile> {
        let (result, answer) = self.submit(Request::Open(name.to_owned(), access)).await;
        let life = self.life.get();
        result.map(|()| MemoryFile {
            index: answer.file.expect("a successful open has a file"),
            access,
            life,
        })
    }

    async fn length(&self, file: &MemoryFile) -> io::Result<u64> {
        self.check_life(file);
        let (result, answer) = self.submit(Request::Length(file.index)).await;
        result.map(|()| answer.number)
    }

    async fn read(
        &self,
        file: &MemoryFile,
        offset: u64,
        buffer: DiskBuffer,
    ) -> (io::Result<usize>, DiskBuffer) {
        self.check_life(file);
        let (result, answer) = self.submit(Request::Read(file.index, offset, buffer)).await;
        (result.map(|()| answer.number as usize), answer.buffer)
    }

    async fn write(
        &self,
        file: &MemoryFile,
        offset: u64,
        buffer: DiskBuffer,
    ) -> (io::Result<()>, DiskBuffer) {
        self.check_life(file);
        assert!(file.access != Access::Read, "a file that is only read is written to");
        assert!(offset.is_multiple_of(SECTOR_BYTES as u64), "a write begins inside a sector");
        assert!(buffer.len().is_multiple_of(SECTOR_BYTES), "a write ends inside a sector");
        let request = Request::Write(file.index, offset, buffer, file.access);
        let (result, answer) = self.submit(request).await;
        (result, answer.buffer)
    }

    async fn sync(&self, file: &MemoryFile) -> io::Result<()> {
        self.check_life(file);
        self.submit(Request::Sync(file.index)).await.0
    }

    async fn sync_folder(&self, folder: &str) -> io::Result<()> {
        self.submit(Request::SyncFolder(folder.to_owned())).await.0
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        assert!(folder_of(from) == folder_of(to), "a file is moved to another folder");
        self.submit(Request::Rename(from.to_owned(), to.to_owned())).await.0
    }

    async fn link(&self, from: &str, to: &str) -> io::Result<()> {
        self.submit(Request::Link(from.to_owned(), to.to_owned())).await.0
    }

    async fn remove_folder(&self, name: &str) -> io::Result<()> {
        self.submit(Request::RemoveFolder(name.to_owned())).await.0
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        self.submit(Request::Remove(name.to_owned())).await.0
    }
}
