//! A real disk whose durable writes go through the ring of the thread that asks for them: a commit
//! wakes no helper and costs half the CPU. All other operations are left to a [`ThreadDisk`]: they
//! block, or are rare.
//!
//! The benches measure it; the server does not use it. A synced write of a ring is completed by a
//! worker of the kernel, on whatever core took the interrupt: where another program spins on that
//! core, each write lasts until the next tick, 4 ms. A helper thread completes its own.
//!
//! Works only on a thread that runs monoio's io_uring driver: its epoll driver would do the write
//! itself, and block the thread.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use monoio::buf::IoBuf;
use monoio::fs::File;

use super::disk::{Access, Disk, DiskBuffer};
use super::thread_disk::{OpenFile, ThreadDisk};

/// A disk for the thread whose ring it uses.
#[derive(Clone)]
pub struct RingDisk {
    helper: ThreadDisk,
}

/// A file of a [`RingDisk`].
#[derive(Clone)]
pub struct RingFile {
    helper: Arc<OpenFile>,
    /// Present if it was opened for durable writes.
    ring: Option<Rc<File>>,
}

impl RingDisk {
    /// The owner collects the results of `helper`.
    pub fn new(helper: ThreadDisk) -> Self {
        Self { helper }
    }
}

impl Disk for RingDisk {
    type File = RingFile;

    async fn make_folder(&self, name: &str) -> io::Result<()> {
        self.helper.make_folder(name).await
    }

    async fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.helper.list(folder).await
    }

    async fn open(&self, name: &str, access: Access) -> io::Result<RingFile> {
        let helper = self.helper.open(name, access).await?;
        let ring = match access {
            Access::Durable => Some(Rc::new(File::from_std(helper.try_clone()?)?)),
            Access::Read | Access::Create => None,
        };
        Ok(RingFile { helper, ring })
    }

    async fn length(&self, file: &RingFile) -> io::Result<u64> {
        self.helper.length(&file.helper).await
    }

    async fn read(
        &self,
        file: &RingFile,
        offset: u64,
        buffer: DiskBuffer,
    ) -> (io::Result<usize>, DiskBuffer) {
        self.helper.read(&file.helper, offset, buffer).await
    }

    async fn write(
        &self,
        file: &RingFile,
        offset: u64,
        buffer: DiskBuffer,
    ) -> (io::Result<()>, DiskBuffer) {
        let Some(ring) = &file.ring else {
            return self.helper.write(&file.helper, offset, buffer).await;
        };
        let (bytes, start) = buffer.into_parts();
        let (result, slice) = ring.write_all_at(bytes.slice(start..), offset).await;
        (result, DiskBuffer::from_parts(slice.into_inner(), start))
    }

    async fn sync(&self, file: &RingFile) -> io::Result<()> {
        self.helper.sync(&file.helper).await
    }

    async fn sync_folder(&self, folder: &str) -> io::Result<()> {
        self.helper.sync_folder(folder).await
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.helper.rename(from, to).await
    }

    async fn link(&self, from: &str, to: &str) -> io::Result<()> {
        self.helper.link(from, to).await
    }

    async fn remove_folder(&self, name: &str) -> io::Result<()> {
        self.helper.remove_folder(name).await
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        self.helper.remove(name).await
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::super::disk::SECTOR_BYTES;
    use super::*;

    #[test]
    fn durable_writes_of_the_ring_are_read_back() {
        let root = std::env::temp_dir().join(format!("midge-ring-disk-{}", std::process::id()));
        std::fs::create_dir_all(&root).expect("the temporary folder can be written to");
        let built = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().build();
        let Ok(mut runtime) = built else {
            // Containers often forbid io_uring; a server there runs with epoll and the helper
            // alone.
            return println!("there is no io_uring here");
        };
        let probed = ThreadDisk::probe(&root).expect("the folder can be written to");
        let (ringer, bell) = UnixStream::pair().expect("descriptors are there");
        bell.set_nonblocking(true).expect("it is a socket");
        let notify = move || assert!(rustix::io::write(&ringer, &[1]).is_ok(), "there is room");
        let helper = ThreadDisk::start(&root, probed.write_mode, notify).expect("threads");
        runtime.block_on(async {
            let reader = bell.try_clone().expect("descriptors are there");
            let bell = monoio::net::UnixStream::from_std(bell).expect("it is a socket");
            let collector = helper.clone();
            monoio::spawn(async move {
                let mut rings = [0; 64];
                while bell.readable(false).await.is_ok() {
                    // A wake without a ring leaves nothing to read.
                    let _ = rustix::io::read(&reader, &mut rings);
                    collector.collect();
                }
            });
            let disk = RingDisk::new(helper.clone());
            let file = disk.open("file", Access::Create).await.expect("a new file");
            let zeros = DiskBuffer::zeroed(4 * SECTOR_BYTES);
            disk.write(&file, 0, zeros).await.0.expect("there is room");
            disk.sync(&file).await.expect("it is synced");
            let file = disk.open("file", Access::Durable).await.expect("it is there");
            let mut buffer = DiskBuffer::zeroed(2 * SECTOR_BYTES);
            buffer.as_mut_slice().fill(7);
            let (result, buffer) = disk.write(&file, SECTOR_BYTES as u64, buffer).await;
            result.expect("it is written");
            assert_eq!(buffer.len(), 2 * SECTOR_BYTES, "the buffer comes back");
            assert!((buffer.as_slice().as_ptr() as usize).is_multiple_of(SECTOR_BYTES));
            let file = disk.open("file", Access::Read).await.expect("it is there");
            let (count, read) = disk.read(&file, 0, DiskBuffer::zeroed(5 * SECTOR_BYTES)).await;
            assert_eq!(count.expect("it is read"), 4 * SECTOR_BYTES);
            let sectors: Vec<u8> =
                (0..4).map(|index| read.as_slice()[index * SECTOR_BYTES + 9]).collect();
            assert_eq!(sectors, [0, 7, 7, 0]);
            assert_eq!(disk.length(&file).await.expect("it is open"), 4 * SECTOR_BYTES as u64);
        });
        std::fs::remove_dir_all(&root).expect("it is there");
    }
}
