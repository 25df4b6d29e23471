//! Many connections of one user that read and discard what comes, so that a server never waits for
//! them.

use crate::Failure;
use crate::wire::stream::Stream;
use rustix::event::epoll;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Number of threads that connect.
const CONNECTING_THREADS: usize = 8;
/// Bytes of one read.
const READ_SIZE: usize = 64 << 10;
/// Interval at which the reading thread checks whether to stop.
const LOOK_INTERVAL_NS: i64 = 20_000_000;

/// Connections read by a thread of their own until dropped, which closes all of them.
pub struct Crowd {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Newlines read so far: a message without one in its payload has two, and everything else has
    /// one.
    line_count: AtomicU64,
    closed_count: AtomicU64,
}

impl Crowd {
    /// Starts the reading thread.
    ///
    /// # Errors
    /// If the kernel refuses to watch the sockets.
    pub fn new(streams: Vec<Stream>) -> Result<Crowd, Failure> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(std::io::Error::from)?;
        for (index, stream) in streams.iter().enumerate() {
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&epoll, stream, data, epoll::EventFlags::IN)
                .map_err(std::io::Error::from)?;
        }
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || read_all(streams, &epoll, &of_thread));
        Ok(Crowd { shared, thread: Some(thread) })
    }

    pub fn line_count(&self) -> u64 {
        self.shared.line_count.load(Ordering::Relaxed)
    }

    /// Returns the number of connections that the server has closed.
    pub fn closed_count(&self) -> u64 {
        self.shared.closed_count.load(Ordering::Relaxed)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has closed its sockets too.
            let _ = thread.join();
        }
    }
}

fn read_all(streams: Vec<Stream>, epoll: &rustix::fd::OwnedFd, shared: &Shared) {
    let mut streams: Vec<Option<Stream>> = streams.into_iter().map(Some).collect();
    let mut ready: Vec<epoll::Event> = Vec::with_capacity(256);
    let mut buffer = vec![0; READ_SIZE];
    let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: LOOK_INTERVAL_NS };
    while !shared.stop.load(Ordering::Relaxed) {
        ready.clear();
        let space = rustix::buffer::spare_capacity(&mut ready);
        match epoll::wait(epoll, space, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // Nothing is read any more: whoever waits for the lines runs into a deadline.
            Err(_) => return,
        }
        for event in &ready {
            let place = &mut streams[event.data.u64() as usize];
            let Some(stream) = place else { continue };
            match stream.try_read(&mut buffer) {
                Ok(None) => {}
                Ok(Some(count)) if count > 0 => {
                    let lines = memchr::memchr_iter(b'\n', &buffer[..count]).count() as u64;
                    shared.line_count.fetch_add(lines, Ordering::Relaxed);
                }
                Ok(Some(_)) | Err(_) => {
                    // Closing a socket removes it from the epoll set.
                    *place = None;
                    shared.closed_count.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Opens `count` connections, several at a time, the i-th by `open(i)`.
///
/// # Errors
/// The first failure of any of them.
pub fn open_many(
    count: usize,
    open: impl Fn(usize) -> Result<Stream, Failure> + Sync,
) -> Result<Vec<Stream>, Failure> {
    let open = &open;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTING_THREADS)
            .map(|first| {
                scope.spawn(move || (first..count).step_by(CONNECTING_THREADS).map(open).collect())
            })
            .collect();
        let mut streams = Vec::with_capacity(count);
        for thread in threads {
            let opened: Result<Vec<Stream>, Failure> =
                thread.join().map_err(|_| Failure::new("a connecting thread panicked"))?;
            streams.extend(opened?);
        }
        Ok(streams)
    })
}
