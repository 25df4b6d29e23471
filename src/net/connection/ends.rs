//! The common part of a connection's two tasks.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use super::control::ConnectionControl;
use crate::base::pool::BufferPool;
use crate::broker::byte_queue::{QueueHandle, Resumable};
use crate::net::codec::Codec;
use crate::net::frames::Deflaters;
use crate::net::operations::Operations;
use crate::net::runtime::{Driver, TurnHook};

/// Buffers, operations and the hook that the connections of one shard share.
pub(crate) struct ConnectionContext {
    pub read_pool: Rc<BufferPool>,
    /// Buffers for decoded input.
    pub opened_pool: Rc<BufferPool>,
    /// Buffers from which TLS records and WebSocket frames are sent.
    pub sealed_pool: Rc<BufferPool>,
    pub deflaters: Deflaters,
    pub hook: Rc<TurnHook>,
    pub operations: Rc<Operations>,
    pub resumable: Rc<Resumable>,
    pub driver: Driver,
}

/// The state that the two tasks of a connection share.
pub(super) struct Ends {
    pub outbox: QueueHandle,
    pub codec: RefCell<Codec>,
    pub context: Rc<ConnectionContext>,
    pub control: Rc<ConnectionControl>,
}

pub(super) fn is_cancelled(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::CANCELED.raw_os_error())
}
