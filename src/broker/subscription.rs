//! One entry of a subject table: what is wanted, by whom, and for how long.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::auth::permissions::DeliveryFilter;
use crate::base::ids::{ClientKey, LinkId};
use crate::broker::internal::InternalSink;
use crate::broker::outbox::Outbox;
use crate::broker::subject_table::Slot;

/// Where a matched message goes.
pub enum Sink {
    /// A client of this shard.
    Client { key: ClientKey, outbox: Rc<Outbox> },
    /// Interest behind a link; `weight` members of the queue group live there.
    Link(LinkId),
    /// A service of the server on this shard.
    Internal(Rc<InternalSink>),
}

/// See the module's words. Filter, queue and sid share one allocation: there are millions of these.
pub struct Subscription {
    text: Box<[u8]>,
    filter_len: u32,
    queue_len: u32,
    pub sink: Sink,
    /// Deliveries after which it ends, counted from SUB; 0 = never.
    pub max: Cell<u64>,
    pub delivered: Cell<u64>,
    /// Where it is in the table; none before insertion.
    pub slot: Cell<Option<Slot>>,
    /// Set the moment it must get no further message; leaves the table at the end of the fan-out.
    pub removed: Cell<bool>,
    /// Denied subjects that its filter overlaps: withheld at delivery.
    pub deny: RefCell<Option<Box<DeliveryFilter>>>,
    /// Queue members it stands for: 1 for a client, any number for a link.
    pub weight: Cell<u32>,
}

impl Subscription {
    pub fn new(filter: &[u8], queue: &[u8], sid: &[u8], sink: Sink, weight: u32) -> Self {
        let mut text = Vec::with_capacity(filter.len() + queue.len() + sid.len());
        text.extend_from_slice(filter);
        text.extend_from_slice(queue);
        text.extend_from_slice(sid);
        Self {
            text: text.into_boxed_slice(),
            filter_len: u32::try_from(filter.len()).expect("bounded by the control line"),
            queue_len: u32::try_from(queue.len()).expect("bounded by the control line"),
            sink,
            max: Cell::new(0),
            delivered: Cell::new(0),
            slot: Cell::new(None),
            removed: Cell::new(false),
            deny: RefCell::new(None),
            weight: Cell::new(weight),
        }
    }

    pub fn filter(&self) -> &[u8] {
        &self.text[..self.filter_len as usize]
    }

    /// Empty = no queue group.
    pub fn queue(&self) -> &[u8] {
        &self.text[self.filter_len as usize..][..self.queue_len as usize]
    }

    pub fn sid(&self) -> &[u8] {
        &self.text[self.filter_len as usize + self.queue_len as usize..]
    }

    pub fn client(&self) -> Option<ClientKey> {
        match self.sink {
            Sink::Client { key, .. } => Some(key),
            Sink::Link(_) | Sink::Internal(_) => None,
        }
    }
}
