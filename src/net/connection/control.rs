//! The shard's ticker acts on connections that it does not own: it shrinks idle ones, and restarts
//! writes.

use std::cell::{Cell, RefCell};
use std::net::TcpStream as StdTcpStream;

use monoio::io::{CancelHandle, Canceller};

use crate::base::limits::{READ_BUFFER_BYTES, SLOW_READS_MAX};
use crate::net::read_buffer::ReadBuffer;

/// The handle by which the shard's ticker acts on a connection that it does not own.
#[derive(Default)]
pub(crate) struct ConnectionControl {
    /// Set while a read is in flight that can be cancelled.
    canceller: RefCell<Option<Canceller>>,
    /// Reads since the last tick.
    pub(super) reads: Cell<u32>,
    /// Chunks sent since the last tick.
    pub(super) sends: Cell<u32>,
    /// Ticks until the connection may be moved to another shard again.
    rest_ticks: Cell<u8>,
    /// True if writes may be restarted: for peers that may take longer than the write deadline.
    retries_writes: Cell<bool>,
    /// Set while such a write is in flight.
    write_canceller: RefCell<Option<Canceller>>,
    /// A second descriptor of the socket, once the connection is about to leave the shard.
    pub(super) spare: Cell<Option<StdTcpStream>>,
}

impl ConnectionControl {
    /// `retries_writes` gives `retry_write` an effect.
    pub(crate) fn new(retries_writes: bool) -> Self {
        Self { retries_writes: Cell::new(retries_writes), ..Self::default() }
    }

    /// Lets the connection rest for so many ticks before it may be moved to another shard.
    pub(crate) fn rest(&self, ticks: u8) {
        self.rest_ticks.set(ticks);
    }

    /// Called once per tick: true if the connection still rests.
    pub(crate) fn rests(&self) -> bool {
        let left = self.rest_ticks.get();
        self.rest_ticks.set(left.saturating_sub(1));
        left > 0
    }

    /// Returns the number of its reads and sends since the last tick.
    pub(crate) fn activity(&self) -> u32 {
        self.reads.get().saturating_add(self.sends.get())
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
        self.sends.set(0);
        if self.reads.replace(0) > 0 || !may {
            return false;
        }
        let Some(canceller) = self.canceller.take() else { return false };
        drop(canceller.cancel());
        true
    }
}
