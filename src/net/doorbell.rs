//! Wakes a shard that sleeps in its ring: the parked flag and an eventfd.
//!
//! The protocol is that of `base::ring::ParkFlag`; here is the bell. Many shards hold a
//! `DoorbellHandle`, the owner waits on its `Doorbell`.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

use crate::base::ring::ParkFlag;
use crate::net::operations::OperationCount;

/// The end that other threads hold to wake the owner.
#[derive(Clone)]
pub(crate) struct DoorbellHandle {
    flag: ParkFlag,
    bell: Arc<OwnedFd>,
}

/// The owner's end, before its runtime exists.
pub(crate) struct Doorbell {
    flag: ParkFlag,
    bell: OwnedFd,
}

/// Returns a doorbell and its handle.
///
/// # Errors
/// If no eventfd could be made (out of descriptors).
pub(crate) fn doorbell() -> io::Result<(Doorbell, DoorbellHandle)> {
    let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
    let flag = ParkFlag::default();
    let handle = DoorbellHandle { flag: flag.clone(), bell: Arc::new(bell.try_clone()?) };
    Ok((Doorbell { flag, bell }, handle))
}

impl DoorbellHandle {
    /// Wakes the owner if it sleeps; to be called after the pushes that it should see. True if the
    /// bell rang.
    pub(crate) fn wake_if_parked(&self) -> bool {
        let must = self.flag.must_wake();
        if must {
            self.ring();
        }
        must
    }

    /// Rings in any case: for rare messages that are not in a ring.
    pub(crate) fn ring(&self) {
        // Fails only if the counter would overflow; then the bell has rung already.
        let _ = rustix::io::write(&*self.bell, &1u64.to_ne_bytes());
    }
}

impl Doorbell {
    pub(crate) fn flag(&self) -> ParkFlag {
        self.flag.clone()
    }

    /// Returns the owner's receiver, inside the owner's runtime.
    ///
    /// # Errors
    /// If out of descriptors.
    pub(crate) fn ear(self) -> io::Result<Ear> {
        // The runtime waits for readiness only on its stream types, and an eventfd can be polled
        // like any other. It is read directly, not through the stream.
        let reader = self.bell.try_clone()?;
        let stream = monoio::net::UnixStream::from_std(StdUnixStream::from(self.bell))?;
        Ok(Ear { reader, stream })
    }
}

/// Receives rings inside the owner's runtime; made by `Doorbell::ear`.
pub(crate) struct Ear {
    reader: OwnedFd,
    stream: monoio::net::UnixStream,
}

impl Ear {
    /// Calls `rung` after each ring, forever.
    ///
    /// # Errors
    /// If the runtime cannot wait for the doorbell.
    pub(crate) async fn listen(self, rung: impl Fn(), polls: &OperationCount) -> io::Result<()> {
        let mut count = [0u8; 8];
        loop {
            polls.submit();
            self.stream.readable(false).await?;
            polls.complete();
            // Fails only if a spurious wake-up left nothing to read.
            let _ = rustix::io::read(&self.reader, &mut count);
            rung();
        }
    }
}
