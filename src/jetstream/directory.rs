//! All streams of one account, and its requests to the API.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use super::account::Account;
use super::stream::StreamHandle;
use crate::base::gate::Gate;
use crate::broker::mailbox::Mailbox;
use crate::broker::service::ServiceSubscription;

/// The streams of an account.
pub(crate) struct Directory {
    pub account: Rc<Account>,
    /// By name: lists are sorted.
    pub(super) streams: RefCell<BTreeMap<Box<str>, Rc<StreamHandle>>>,
    /// Requests to the API, answered and of those the refused ones.
    pub(super) api_total: Cell<u64>,
    pub(super) api_errors: Cell<u64>,
    /// Requests that wait to be answered.
    pub(super) requests: Rc<Mailbox>,
    /// Requests for messages, which need no turn among those.
    pub(super) direct_gets: Rc<Mailbox>,
    pub(super) subscriptions: RefCell<Vec<ServiceSubscription>>,
    /// Opens once a reload has removed the account.
    pub(super) gone: Gate,
}

impl Directory {
    pub(super) fn new(account: Account) -> Self {
        Self {
            account: Rc::new(account),
            streams: RefCell::default(),
            api_total: Cell::default(),
            api_errors: Cell::default(),
            requests: Rc::default(),
            direct_gets: Rc::default(),
            subscriptions: RefCell::default(),
            gone: Gate::new(),
        }
    }

    pub(crate) fn stream(&self, name: &str) -> Option<Rc<StreamHandle>> {
        self.streams.borrow().get(name).cloned()
    }
}
