//! A stream as the engine holds it: its configuration, its inlet, and what its consumers need.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::account::Account;
use super::consumers::Consumers;
use super::error::ApiError;
use super::interest::Interest;
use super::json::encode::encode;
use super::json::timestamp::Timestamp;
use super::rules::Rules;
use super::stream_config::{StorageKind, StreamConfig};
use crate::base::gate::Gate;
use crate::broker::mailbox::Mailbox;
use crate::broker::service::ServiceSubscription;
use crate::storage::record::StreamId;

/// Not in the schedule of what ends by time.
pub(super) const NEVER_NS: i64 = i64::MAX;

/// A stream that is there, until [`StreamHandle::gone`] opens.
pub(crate) struct StreamHandle {
    pub id: StreamId,
    pub account: Rc<Account>,
    pub name: Box<str>,
    pub created: Timestamp,
    /// An acknowledgement up to the sequence.
    pub(super) pub_ack: Box<[u8]>,
    config: RefCell<Rc<StreamConfig>>,
    rules: RefCell<Rc<Rules>>,
    /// Messages that are to be stored.
    pub(super) inlet: Rc<Mailbox>,
    pub(super) subscriptions: RefCell<Vec<ServiceSubscription>>,
    /// The highest sequence that consumers may deliver: it rises with the commits.
    pub durable: Gate,
    /// Counts the removals that are not by the stream's own limits: deletes and purges.
    pub removals: Gate,
    /// Opens once the stream is deleted.
    pub gone: Gate,
    pub interest: RefCell<Interest>,
    pub(crate) consumers: Consumers,
    /// Changes of it may not be durable.
    pub(super) is_unsettled: Cell<bool>,
    /// A purge that somebody asked for is under way; this counts those that ended.
    pub(super) is_purging: Cell<bool>,
    pub(super) purged: Gate,
    /// The time of its place in the schedule of what ends by time.
    pub(super) due_ns: Cell<i64>,
    /// Bytes that it has in its account's usage.
    pub(super) counted_bytes: Cell<u64>,
}

impl StreamHandle {
    pub(super) fn new(
        id: StreamId,
        account: Rc<Account>,
        created: Timestamp,
        config: StreamConfig,
        domain: Option<&str>,
    ) -> Self {
        let name = encode(&config.name);
        let domain =
            domain.map_or(Vec::new(), |domain| [b",\"domain\":", &*encode(domain)].concat());
        let pub_ack = [b"{\"stream\":", &*name, &domain, b",\"seq\":"].concat().into();
        let inlet: Rc<Mailbox> = Rc::default();
        inlet.note_refusals();
        Self {
            id,
            account,
            name: config.name.as_str().into(),
            created,
            pub_ack,
            rules: RefCell::new(Rc::new(Rules::new(&config))),
            config: RefCell::new(Rc::new(config)),
            inlet,
            subscriptions: RefCell::default(),
            durable: Gate::new(),
            removals: Gate::new(),
            gone: Gate::new(),
            interest: RefCell::default(),
            consumers: Consumers::new(fastrand::u64(..)),
            is_unsettled: Cell::new(false),
            is_purging: Cell::new(false),
            purged: Gate::new(),
            due_ns: Cell::new(NEVER_NS),
            counted_bytes: Cell::new(0),
        }
    }

    pub(crate) fn config(&self) -> Rc<StreamConfig> {
        self.config.borrow().clone()
    }

    pub(super) fn set_config(&self, config: StreamConfig) {
        self.rules.replace(Rc::new(Rules::new(&config)));
        self.config.replace(Rc::new(config));
    }

    pub(super) fn rules(&self) -> Rc<Rules> {
        self.rules.borrow().clone()
    }

    /// True if messages of it, or what it knows of them, may end by time.
    pub(super) fn ages(&self) -> bool {
        let config = self.config.borrow();
        config.age_ns_max > 0 || config.allow_ttl || config.duplicate_window_ns > 0
    }

    /// # Errors
    /// Consumers are above limits that an update would set.
    pub(super) fn check_consumer_limits(&self, new: &StreamConfig) -> Result<(), ApiError> {
        let limits = &new.consumer_limits;
        let is_above = |value: i64, most: i64| most > 0 && value > most;
        let all = self.consumers.all();
        let above = all.iter().filter(|consumer| {
            let config = consumer.config();
            is_above(config.inactive_threshold_ns, limits.inactive_threshold_ns)
                || is_above(config.ack_pending_max, limits.ack_pending_max)
        });
        let names: Vec<&str> = above.map(|consumer| &*consumer.name).collect();
        if names.is_empty() {
            return Ok(());
        }
        let text = format!("change to limits violates consumers: {}", names.join(", "));
        Err(ApiError::stream_update_failed(text))
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.value() > 0
    }

    pub(super) fn is_memory(&self) -> bool {
        self.config.borrow().storage == StorageKind::Memory
    }
}
