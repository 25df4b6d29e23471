//! An account's limits, and what its streams use of them.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use crate::base::ids::AccountId;
use crate::config::jetstream_options::JetStreamAccountOptions;

/// Bytes that streams take, as limits count them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub memory: u64,
    pub store: u64,
}

impl Usage {
    pub(super) fn of_mut(&mut self, is_memory: bool) -> &mut u64 {
        if is_memory { &mut self.memory } else { &mut self.store }
    }
}

/// An account of the server.
pub(crate) struct Account {
    pub id: AccountId,
    pub name: Arc<str>,
    pub is_system: bool,
    /// None = it has no JetStream.
    pub limits: RefCell<Option<JetStreamAccountOptions>>,
    pub(super) usage: Cell<Usage>,
}

impl Account {
    pub(super) fn new(
        id: AccountId,
        name: Arc<str>,
        is_system: bool,
        limits: Option<JetStreamAccountOptions>,
    ) -> Self {
        Self { id, name, is_system, limits: RefCell::new(limits), usage: Cell::default() }
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.limits.borrow().is_some()
    }

    pub(crate) fn usage(&self) -> Usage {
        self.usage.get()
    }
}
