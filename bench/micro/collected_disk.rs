//! A helper thread's disk whose results are collected on this thread's ring, as on a shard.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

use midge::testing::storage::thread_disk::{ThreadDisk, WriteMode};
use rustix::event::{EventfdFlags, eventfd};

/// Starts it; to be called on a runtime that runs as long as the disk is used.
pub fn start(root: &Path, mode: WriteMode) -> io::Result<ThreadDisk> {
    let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
    let (ringer, reader) = (bell.try_clone()?, bell.try_clone()?);
    let disk = ThreadDisk::start(root, mode, move || {
        rustix::io::write(&ringer, &1_u64.to_ne_bytes()).expect("the counter is low");
    })?;
    let stream = monoio::net::UnixStream::from_std(UnixStream::from(bell))?;
    let collector = disk.clone();
    monoio::spawn(async move {
        let mut count = [0; 8];
        while stream.readable(false).await.is_ok() {
            // A wake without a ring leaves nothing to read.
            let _ = rustix::io::read(&reader, &mut count);
            collector.collect();
        }
    });
    Ok(disk)
}
