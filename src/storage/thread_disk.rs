//! The real disk, by two helper threads: it works wherever Midge does, and no call of it blocks the
//! caller.
//!
//! One thread does nothing but durable writes, so that a commit never waits for zeros or for a sync
//! of a file that is being made; the other does everything else, in order. Results come back
//! through one queue: [`ThreadDisk::collect`] wakes the tasks that wait. The threads call `notify`
//! whenever there is something to collect, on their own time.
//!
//! Files belong to the server's user alone (0600, folders 0700). Writes bypass the page cache if
//! the file system supports that, and otherwise are written through it: [`ThreadDisk::probe`] finds
//! out. A checkpoint that filled the cache would copy all its bytes once more, and its sync would
//! delay all other work of the disk.

use std::any::Any;
use std::cell::RefCell;
use std::fs::{DirBuilder, File, OpenOptions};
use std::future::Future;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll, Waker};

use rustix::fs::OFlags;

use super::disk::{Access, Disk, DiskBuffer, SECTOR_BYTES};
use super::regular;
use super::wakes::Wakes;

/// Only for the server's user.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// The `f_type` of tmpfs, from linux/magic.h.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// The way of durable writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// O_DIRECT and O_DSYNC.
    Direct,
    /// O_DSYNC through the page cache: the file system has no O_DIRECT.
    Buffered,
}

/// The capabilities of the file system of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probed {
    pub write_mode: WriteMode,
    /// False on tmpfs: nothing there survives a restart of the machine.
    pub is_durable: bool,
}

type Job = Box<dyn FnOnce() + Send>;

type Answer = Box<dyn Any + Send>;

/// An operation's place in the table of those in flight.
enum Slot {
    Waiting(Option<Waker>),
    Done(Answer),
    /// The waiter is gone.
    Abandoned,
    Free,
}

struct Shared {
    root: PathBuf,
    write_mode: WriteMode,
    writes: Sender<Job>,
    files: Sender<Job>,
    done_source: Sender<(usize, Answer)>,
    done: Receiver<(usize, Answer)>,
    slots: RefCell<Vec<Slot>>,
    notify: Arc<dyn Fn() + Send + Sync>,
}

/// A disk whose threads end with its last clone.
#[derive(Clone)]
pub struct ThreadDisk {
    shared: Rc<Shared>,
}

/// A file of a [`ThreadDisk`].
pub struct OpenFile {
    inner: File,
    access: Access,
}

impl OpenFile {
    /// The same open file, for another writer.
    ///
    /// # Errors
    /// There are no more descriptors.
    pub(super) fn try_clone(&self) -> io::Result<File> {
        self.inner.try_clone()
    }
}

/// The two threads.
#[derive(Clone, Copy)]
enum Helper {
    Writes,
    Files,
}

impl ThreadDisk {
    /// Finds out the capabilities of the file system of a folder, with a file that it removes
    /// again.
    ///
    /// # Errors
    /// No file can be made in the folder.
    pub fn probe(root: &Path) -> io::Result<Probed> {
        let name = root.join("probe");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(FILE_MODE);
        let file = regular::open(&mut options, OFlags::empty(), &name)?;
        // A store on a full disk is started to make room: a capability that cannot be tried out
        // there counts as present.
        let has_room = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(()),
            other => other,
        };
        has_room(file.write_all_at(&[0; SECTOR_BYTES], 0))?;
        let direct = open_durable(&name, WriteMode::Direct).and_then(|file| {
            let buffer = DiskBuffer::zeroed(SECTOR_BYTES);
            has_room(file.write_all_at(buffer.as_slice(), 0))
        });
        std::fs::remove_file(&name)?;
        let write_mode = if direct.is_ok() { WriteMode::Direct } else { WriteMode::Buffered };
        let kind = rustix::fs::statfs(root)?.f_type;
        Ok(Probed { write_mode, is_durable: kind as u64 != TMPFS_MAGIC })
    }

    /// Starts the threads for the store in `root`.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn start(
        root: &Path,
        write_mode: WriteMode,
        notify: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let helper = |name: &str| {
            let (jobs, queue) = channel::<Job>();
            let work = move || queue.into_iter().for_each(|job| job());
            std::thread::Builder::new().name(name.into()).spawn(work).map(|_| jobs)
        };
        let (done_source, done) = channel();
        let shared = Shared {
            root: root.to_owned(),
            write_mode,
            writes: helper("midge-commit")?,
            files: helper("midge-files")?,
            done_source,
            done,
            slots: RefCell::default(),
            notify: Arc::new(notify),
        };
        Ok(Self { shared: Rc::new(shared) })
    }

    /// Wakes the tasks whose operations are done.
    pub fn collect(&self) {
        while let Ok(done) = self.shared.done.try_recv() {
            self.take(done);
        }
    }

    /// Runs `future` to its end on this thread, which sleeps while an operation is in flight: for
    /// commands and tests. A shard's tasks are run by the shard.
    ///
    /// # Panics
    /// The future waits for something other than this disk.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        let (wakes, waker) = Wakes::new();
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
            if wakes.take() {
                continue;
            }
            let waits = |slot: &Slot| !matches!(slot, Slot::Free);
            let is_waiting = self.shared.slots.borrow().iter().any(waits);
            assert!(is_waiting, "the future waits for no operation of this disk");
            let done = self.shared.done.recv();
            self.take(done.expect("the disk itself can send"));
            self.collect();
        }
    }

    fn take(&self, (index, answer): (usize, Answer)) {
        let mut slots = self.shared.slots.borrow_mut();
        match std::mem::replace(&mut slots[index], Slot::Free) {
            Slot::Waiting(waker) => {
                slots[index] = Slot::Done(answer);
                drop(slots);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Slot::Abandoned => {}
            Slot::Done(_) | Slot::Free => unreachable!("an operation is done once"),
        }
    }

    /// Has a thread run some work.
    async fn ask<T: Send + 'static>(
        &self,
        helper: Helper,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let index = {
            let mut slots = self.shared.slots.borrow_mut();
            match slots.iter().position(|slot| matches!(slot, Slot::Free)) {
                Some(index) => {
                    slots[index] = Slot::Waiting(None);
                    index
                }
                None => {
                    slots.push(Slot::Waiting(None));
                    slots.len() - 1
                }
            }
        };
        let (done, notify) = (self.shared.done_source.clone(), self.shared.notify.clone());
        let job: Job = Box::new(move || {
            // The disk is gone if nobody can take the answer; then nobody wants it.
            if done.send((index, Box::new(work()))).is_ok() {
                notify();
            }
        });
        let jobs = match helper {
            Helper::Writes => &self.shared.writes,
            Helper::Files => &self.shared.files,
        };
        assert!(jobs.send(job).is_ok(), "a disk's thread ended before the disk");
        let answer = InFlight { shared: self.shared.clone(), index: Some(index) }.await;
        *answer.downcast::<T>().expect("an operation's answer is of its type")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.shared.root.join(name)
    }
}

/// An operation that is waited for.
struct InFlight {
    shared: Rc<Shared>,
    /// Its slot, until the answer is taken.
    index: Option<usize>,
}

impl Future for InFlight {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let index = self.index.expect("a future that is done is not polled");
        let mut slots = self.shared.slots.borrow_mut();
        match std::mem::replace(&mut slots[index], Slot::Free) {
            Slot::Done(answer) => {
                drop(slots);
                self.index = None;
                Poll::Ready(answer)
            }
            _ => {
                slots[index] = Slot::Waiting(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let Some(index) = self.index else { return };
        let slot = &mut self.shared.slots.borrow_mut()[index];
        *slot = match slot {
            Slot::Done(_) => Slot::Free,
            _ => Slot::Abandoned,
        };
    }
}

fn direct(write_mode: WriteMode) -> OFlags {
    match write_mode {
        WriteMode::Direct => OFlags::DIRECT,
        WriteMode::Buffered => OFlags::empty(),
    }
}

fn open_durable(path: &Path, write_mode: WriteMode) -> io::Result<File> {
    let flags = OFlags::DSYNC | direct(write_mode);
    regular::open(OpenOptions::new().read(true).write(true), flags, path)
}

fn read(file: &File, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < bytes.len() {
        match file.read_at(&mut bytes[count..], offset + count as u64) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

impl Disk for ThreadDisk {
    type File = Arc<OpenFile>;

    async fn make_folder(&self, name: &str) -> io::Result<()> {
        let (root, name) = (self.shared.root.clone(), name.to_owned());
        let make = move || {
            let mut path = root;
            for part in name.split('/') {
                let above = path.clone();
                path.push(part);
                match DirBuilder::new().mode(FOLDER_MODE).create(&path) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    other => other?,
                }
                regular::open_folder(&above)?.sync_all()?;
            }
            Ok(())
        };
        self.ask(Helper::Files, make).await
    }

    async fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let path = self.path(folder);
        let list = move || {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(path)? {
                // The store's own names are text; a name that is not text is not one of them.
                names.extend(entry?.file_name().into_string());
            }
            Ok(names)
        };
        self.ask(Helper::Files, list).await
    }

    async fn open(&self, name: &str, access: Access) -> io::Result<Arc<OpenFile>> {
        let (path, write_mode) = (self.path(name), self.shared.write_mode);
        let open = move || match access {
            Access::Read => regular::open_to_read(&path),
            Access::Create => {
                let mut options = OpenOptions::new();
                options.read(true).write(true).create_new(true).mode(FILE_MODE);
                regular::open(&mut options, direct(write_mode), &path)
            }
            Access::Durable => open_durable(&path, write_mode),
        };
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{name}: {error}"));
        let inner = self.ask(Helper::Files, open).await.map_err(named)?;
        Ok(Arc::new(OpenFile { inner, access }))
    }

    async fn length(&self, file: &Arc<OpenFile>) -> io::Result<u64> {
        let file = file.clone();
        self.ask(Helper::Files, move || file.inner.metadata().map(|data| data.len())).await
    }

    async fn read(
        &self,
        file: &Arc<OpenFile>,
        offset: u64,
        mut buffer: DiskBuffer,
    ) -> (io::Result<usize>, DiskBuffer) {
        let file = file.clone();
        let work = move || (read(&file.inner, offset, buffer.as_mut_slice()), buffer);
        self.ask(Helper::Files, work).await
    }

    async fn write(
        &self,
        file: &Arc<OpenFile>,
        offset: u64,
        buffer: DiskBuffer,
    ) -> (io::Result<()>, DiskBuffer) {
        let helper = match file.access {
            Access::Durable => Helper::Writes,
            Access::Read | Access::Create => Helper::Files,
        };
        let file = file.clone();
        let work = move || (file.inner.write_all_at(buffer.as_slice(), offset), buffer);
        self.ask(helper, work).await
    }

    async fn sync(&self, file: &Arc<OpenFile>) -> io::Result<()> {
        let file = file.clone();
        self.ask(Helper::Files, move || file.inner.sync_all()).await
    }

    async fn sync_folder(&self, folder: &str) -> io::Result<()> {
        let path = self.path(folder);
        self.ask(Helper::Files, move || regular::open_folder(&path)?.sync_all()).await
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.path(from), self.path(to));
        self.ask(Helper::Files, move || std::fs::rename(from, to)).await
    }

    async fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.path(from), self.path(to));
        self.ask(Helper::Files, move || std::fs::hard_link(from, to)).await
    }

    async fn remove_folder(&self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        self.ask(Helper::Files, move || std::fs::remove_dir(path)).await
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        self.ask(Helper::Files, move || std::fs::remove_file(path)).await
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("midge-disk-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary folder can be written to");
        path
    }

    #[test]
    fn files_are_written_read_renamed_and_removed() {
        let root = folder("files");
        let probed = ThreadDisk::probe(&root).expect("the folder can be written to");
        for write_mode in [probed.write_mode, WriteMode::Buffered] {
            let disk = ThreadDisk::start(&root, write_mode, || {}).expect("threads can be made");
            disk.run(async {
                disk.make_folder("a/b").await.expect("a new folder");
                disk.make_folder("a/b").await.expect("it is there already");
                let file = disk.open("a/b/one", Access::Create).await.expect("a new file");
                disk.open("a/b/one", Access::Create).await.map(drop).expect_err("it is there");
                disk.write(&file, 0, DiskBuffer::zeroed(3 * SECTOR_BYTES)).await.0.expect("room");
                disk.sync(&file).await.expect("it is synced");
                disk.sync_folder("a/b").await.expect("it is synced");
                let file = disk.open("a/b/one", Access::Durable).await.expect("it is there");
                let mut buffer = DiskBuffer::zeroed(SECTOR_BYTES);
                buffer.as_mut_slice().fill(7);
                let (result, _buffer) = disk.write(&file, SECTOR_BYTES as u64, buffer).await;
                result.expect("it is written");
                disk.rename("a/b/one", "a/b/two").await.expect("it is there");
                assert_eq!(disk.list("a/b").await.expect("it is there"), ["two"]);
                let file = disk.open("a/b/two", Access::Read).await.expect("it is there");
                assert_eq!(disk.length(&file).await.expect("it is open"), 3 * 4096);
                let (count, buffer) = disk.read(&file, 4000, DiskBuffer::zeroed(10_000)).await;
                assert_eq!(count.expect("it is read"), 3 * 4096 - 4000);
                assert_eq!(buffer.as_slice()[95..98], [0, 7, 7]);
                disk.remove("a/b/two").await.expect("it is there");
                let error = disk.open("a/b/two", Access::Read).await.map(drop);
                assert_eq!(error.expect_err("it is gone").kind(), io::ErrorKind::NotFound);
            });
        }
        std::fs::remove_dir_all(&root).expect("it is there");
    }

    #[test]
    fn files_belong_to_the_user_alone() {
        let root = folder("modes");
        let disk =
            ThreadDisk::start(&root, WriteMode::Buffered, || {}).expect("threads can be made");
        disk.run(async {
            disk.make_folder("lane-0").await.expect("a new folder");
            disk.open("lane-0/file", Access::Create).await.expect("a new file");
        });
        let mode = |name: &str| {
            let data = std::fs::metadata(root.join(name)).expect("it is there");
            data.permissions().mode() & 0o777
        };
        assert_eq!((mode("lane-0"), mode("lane-0/file")), (0o700, 0o600));
        std::fs::remove_dir_all(&root).expect("it is there");
    }

    #[test]
    fn operation_whose_future_is_dropped_frees_its_place() {
        let root = folder("dropped");
        let (called, calls) = channel();
        let notify = move || called.send(()).expect("the test waits");
        let disk = ThreadDisk::start(&root, WriteMode::Buffered, notify).expect("threads");
        {
            let mut list = std::pin::pin!(disk.list(""));
            let mut context = Context::from_waker(Waker::noop());
            assert!(list.as_mut().poll(&mut context).is_pending());
        }
        calls.recv().expect("the thread calls");
        disk.collect();
        assert!(disk.shared.slots.borrow().iter().all(|slot| matches!(slot, Slot::Free)));
        disk.run(disk.list("")).expect("it is there");
        std::fs::remove_dir_all(&root).expect("it is there");
    }
}
