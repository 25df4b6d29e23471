//! Waking a shard that sleeps in its ring: the parked flag and an eventfd.
//!
//! The protocol is `base::ring::ParkFlag`'s; here is the bell. Many shards hold a `DoorbellHandle`,
//! the owner waits on `Doorbell`.

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

/// The owner's part before its runtime exists.
pub(crate) struct Doorbell {
    flag: ParkFlag,
    bell: OwnedFd,
}

/// A doorbell and its handle.
///
/// # Errors
/// No eventfd could be made (descriptors are out).
pub(crate) fn doorbell() -> io::Result<(Doorbell, DoorbellHandle)> {
    let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
    let flag = ParkFlag::default();
    let handle = DoorbellHandle { flag: flag.clone(), bell: Arc::new(bell.try_clone()?) };
    Ok((Doorbell { flag, bell }, handle))
}

impl DoorbellHandle {
    /// Wakes the owner if it sleeps; call after the pushes it should see. Says whether the bell
    /// rang.
    pub(crate) fn wake_if_parked(&self) -> bool {
        let must = self.flag.must_wake();
        if must {
            self.ring();
        }
        must
    }

    /// Rings in any case: for cold messages that no ring holds.
    pub(crate) fn ring(&self) {
        // Only a counter about to overflow fails, and then the bell has rung long since.
        let _ = rustix::io::write(&*self.bell, &1u64.to_ne_bytes());
    }
}

impl Doorbell {
    pub(crate) fn flag(&self) -> ParkFlag {
        self.flag.clone()
    }

    /// The ear of its owner, inside the owner's runtime.
    ///
    /// # Errors
    /// Descriptors are out.
    pub(crate) fn ear(self) -> io::Result<Ear> {
        // The runtime waits for readiness on its stream types only; an eventfd polls like any
        // other. It is read here, not through the stream.
        let reader = self.bell.try_clone()?;
        let stream = monoio::net::UnixStream::from_std(StdUnixStream::from(self.bell))?;
        Ok(Ear { reader, stream })
    }
}

/// See `Doorbell::ear`.
pub(crate) struct Ear {
    reader: OwnedFd,
    stream: monoio::net::UnixStream,
}

impl Ear {
    /// Calls `rung` after each ring, for ever.
    ///
    /// # Errors
    /// The runtime cannot wait for it.
    pub(crate) async fn listen(self, rung: impl Fn(), polls: &OperationCount) -> io::Result<()> {
        let mut count = [0u8; 8];
        loop {
            polls.submit();
            self.stream.readable(false).await?;
            polls.complete();
            // Fails only if a spurious wake left nothing to read.
            let _ = rustix::io::read(&self.reader, &mut count);
            rung();
        }
    }
}
