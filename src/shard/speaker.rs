//! The sessions of a shard, whatever protocol their peers speak.

use std::cell::RefCell;
use std::rc::Rc;

use crate::broker::byte_queue::QueueHandle;
use crate::client::session::ClientSession;
use crate::net::connection::ConnectionControl;
use crate::net::session::Session;

/// One session, by its peer's protocol: another kind of peer is another variant.
#[derive(Clone)]
pub(super) enum Speaker {
    Client(Rc<RefCell<ClientSession>>),
}

/// A connection in the registry.
pub(super) struct Entry {
    pub speaker: Speaker,
    pub control: Rc<ConnectionControl>,
}

impl Speaker {
    /// Returns the queue of bytes for its peer.
    pub(super) fn queue(&self) -> QueueHandle {
        match self {
            Self::Client(session) => session.borrow().queue(),
        }
    }
}
