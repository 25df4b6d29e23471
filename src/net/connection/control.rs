//! The shard's ticker acts on connections that it does not own: it shrinks idle ones, and restarts
//! writes.

use std::cell::{Cell, RefCell};
use std::net::TcpStream as StdTcpStream;
use std::os::fd::{AsRawFd, RawFd};

use monoio::io::{CancelHandle, Canceller};
use rustix::process::{Resource, getrlimit};

use crate::base::limits::{READ_BUFFER_BYTES, SLOW_READS_MAX, SPARE_DESCRIPTORS_SHARE};
use crate::net::read_buffer::ReadBuffer;

/// The handle by which the shard's ticker acts on a connection that it does not own.
#[derive(Default)]
pub(crate) struct ConnectionControl {
    /// Set while a read is in flight that can be cancelled.
    canceller: RefCell<Option<Canceller>>,
    /// Reads since the last tick.
    pub(super) reads: Cell<u32>,
    /// True if writes may be restarted: for peers that may take longer than the write deadline.
    retries_writes: Cell<bool>,
    /// Set while such a write is in flight.
    write_canceller: RefCell<Option<Canceller>>,
    /// A second descriptor of the socket, as long as the connection may go to another shard.
    pub(super) spare: Cell<Option<StdTcpStream>>,
}

/// Descriptors are given away from the lowest: one of the lower ones leaves enough for connections.
fn may_be_spare(descriptor: RawFd, descriptors_max: Option<u64>) -> bool {
    let descriptor = u64::try_from(descriptor).expect("a descriptor is not negative");
    descriptors_max.is_none_or(|max| descriptor < max / SPARE_DESCRIPTORS_SHARE)
}

impl ConnectionControl {
    /// `retries_writes` gives `retry_write` an effect.
    pub(crate) fn new(retries_writes: bool) -> Self {
        Self { retries_writes: Cell::new(retries_writes), ..Self::default() }
    }

    /// The connection may go to another shard, as long as its session asks for it only once. Costs
    /// a descriptor until then; where they become scarce it stays.
    pub(crate) fn let_move(&self, stream: &StdTcpStream) {
        let descriptors_max = getrlimit(Resource::Nofile).current;
        let spare = stream.try_clone().ok();
        self.spare.set(spare.filter(|spare| may_be_spare(spare.as_raw_fd(), descriptors_max)));
    }

    /// Restarts the write in flight: the kernel takes as much as it has room for, then waits again
    /// until a third of its buffer is free.
    pub(crate) fn retry_write(&self) {
        if let Some(canceller) = self.write_canceller.take() {
            drop(canceller.cancel());
        }
    }

    /// Returns the handle for a write that can be cancelled, if this connection's can be.
    pub(super) fn write_handle(&self) -> Option<CancelHandle> {
        if !self.retries_writes.get() {
            return None;
        }
        let canceller = Canceller::new();
        let handle = canceller.handle();
        *self.write_canceller.borrow_mut() = Some(canceller);
        Some(handle)
    }

    /// Returns the handle for a read into this buffer, if the ticker may cancel it: a read into a
    /// large buffer, or of a connection that reads so seldom that it costs nothing. A connection
    /// that was busy until now keeps its buffer, up to the third class, until its next read.
    pub(super) fn cancel_handle(&self, target: &ReadBuffer) -> Option<CancelHandle> {
        let is_slow = self.reads.get() <= SLOW_READS_MAX && target.bytes().is_empty();
        let least_bytes = if is_slow { READ_BUFFER_BYTES[0] } else { READ_BUFFER_BYTES[2] };
        if target.capacity() <= least_bytes && !(is_slow && target.capacity() == 0) {
            return None;
        }
        let canceller = self.canceller.take().unwrap_or_default();
        let handle = canceller.handle();
        *self.canceller.borrow_mut() = Some(canceller);
        Some(handle)
    }

    /// Called once per tick. Takes back the buffer of a connection that has read nothing since the
    /// last tick, if it `may`. True if it did.
    pub(crate) fn shrink_if_idle(&self, may: bool) -> bool {
        if self.reads.replace(0) > 0 || !may {
            return false;
        }
        let Some(canceller) = self.canceller.take() else { return false };
        drop(canceller.cancel());
        true
    }
}
