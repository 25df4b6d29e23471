//! One entry of a subject table: what is wanted, by whom, and for how long.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use crate::auth::imports::StreamImport;
use crate::auth::permissions::DeliveryFilter;
use crate::base::ids::{AccountId, ClientKey, LinkId};
use crate::broker::crossing_sink::{AnswerSink, RequestSink};
use crate::broker::handed_over::{Handover, HandoverPlace};
use crate::broker::link::Mark;
use crate::broker::names::Names;
use crate::broker::outbox::Outbox;
use crate::broker::service_sink::ServiceSink;
use crate::broker::subject_table::Slot;
use crate::protocol::nats::encode;

/// The destination of a matched message.
pub enum Sink {
    /// A client of this shard.
    Client { key: ClientKey, outbox: Rc<Outbox> },
    /// Interest behind a link; `weight` members of the queue group live there.
    Link(LinkId),
    /// A service of the server on this shard.
    Service(Rc<ServiceSink>),
    /// The requests of a service import: they cross to another account.
    Request(Rc<RequestSink>),
    /// Answers from another account.
    Answers(Rc<AnswerSink>),
    /// A client of this shard whose account imports what is published here.
    Import(Rc<ImportSink>),
}

/// The sink of a shadow subscription: a client's subscription in an account that imports what is
/// published here.
pub struct ImportSink {
    /// The client's subscription that it stands for.
    pub(super) owner: Rc<Subscription>,
    /// The account whose table it is in.
    pub(super) exporter: AccountId,
    pub(super) import: Arc<StreamImport>,
}

impl ImportSink {
    /// Makes `head` the MSG of a message on `remote`, up to its reply, as the client gets it.
    pub(super) fn message_head(&self, head: &mut Vec<u8>, remote: &[u8]) {
        let mut local = Vec::new();
        self.import.subject.to_local(remote, &mut local);
        encode::message_head(head, &local, self.owner.sid());
    }
}

/// A subscription in a table. There are millions of these.
pub struct Subscription {
    names: Names,
    pub sink: Sink,
    pub delivered: Cell<u64>,
    /// Its place in the table; none before insertion.
    slot: Cell<u32>,
    rare: OnceCell<Box<Rare>>,
    /// Queue members it stands for, and `REMOVED` since it must get no further message.
    weight: Cell<u32>,
}

/// A bit of `Subscription::weight`: more members than it could count are no queue group.
const REMOVED: u32 = 1 << 31;

/// Fields that few subscriptions need.
#[derive(Default)]
struct Rare {
    /// Deliveries after which it ends, counted from SUB; 0 = never.
    max: Cell<u64>,
    /// Denied subjects that its filter overlaps: withheld at delivery.
    deny: RefCell<Option<DeliveryFilter>>,
    /// The handover of its client between shards, while that goes on.
    handover: HandoverPlace,
    /// Its shadows in the tables of other accounts.
    shadows: RefCell<Vec<Rc<Subscription>>>,
}

const _: () = assert!(size_of::<Subscription>() <= 64, "with its counts it fills 80 bytes");

impl Subscription {
    pub fn new(filter: &[u8], queue: &[u8], sid: &[u8], sink: Sink, weight: u32) -> Self {
        Self {
            names: Names::new(filter, queue, sid),
            sink,
            delivered: Cell::new(0),
            slot: Cell::new(Slot::NONE),
            rare: OnceCell::new(),
            weight: Cell::new(weight.min(REMOVED - 1)),
        }
    }

    /// Queue members it stands for: 1 for a client, any number for a link.
    #[inline]
    pub fn weight(&self) -> u32 {
        self.weight.get() & !REMOVED
    }

    pub fn set_weight(&self, weight: u32) {
        self.weight.set(weight.min(REMOVED - 1) | self.weight.get() & REMOVED);
    }

    /// It must get no further message, and leaves the table at the end of the fan-out.
    pub fn mark_removed(&self) {
        self.weight.set(self.weight.get() | REMOVED);
    }

    #[inline]
    pub fn is_removed(&self) -> bool {
        self.weight.get() & REMOVED != 0
    }

    pub fn set_slot(&self, slot: Slot) {
        self.slot.set(slot.number());
    }

    /// Returns its place in the table and forgets it; none before insertion.
    pub fn take_slot(&self) -> Option<Slot> {
        Slot::from_number(self.slot.replace(Slot::NONE))
    }

    #[cfg(any(test, debug_assertions))]
    pub(super) fn is_in_table(&self) -> bool {
        Slot::from_number(self.slot.get()).is_some()
    }

    /// Deliveries after which it ends, counted from SUB; 0 = never.
    #[inline]
    pub fn max(&self) -> u64 {
        self.rare.get().map_or(0, |rare| rare.max.get())
    }

    pub fn set_max(&self, max: u64) {
        self.rare.get_or_init(Box::default).max.set(max);
    }

    /// Withholds what the filter denies, at delivery.
    pub fn set_deny(&self, deny: Option<DeliveryFilter>) {
        if deny.is_some() || self.rare.get().is_some() {
            *self.rare.get_or_init(Box::default).deny.borrow_mut() = deny;
        }
    }

    #[inline]
    pub fn denies(&self, subject: &[u8]) -> bool {
        let Some(rare) = self.rare.get() else { return false };
        rare.deny.borrow().as_ref().is_some_and(|deny| deny.denies(subject))
    }

    /// True if its client must not get a message of this source here, as another shard delivers it.
    #[inline]
    pub(super) fn is_handed_over(&self, from: Option<LinkId>, mark: Mark) -> bool {
        let Some(rare) = self.rare.get() else { return false };
        let handover = rare.handover.borrow();
        handover.as_ref().is_some_and(|handover| handover.withholds(from, mark))
    }

    pub(super) fn set_handover(&self, handover: Option<Rc<Handover>>) {
        *self.rare.get_or_init(Box::default).handover.borrow_mut() = handover;
    }

    /// True if it is plain, has no maximum and stands for no others.
    pub(super) fn can_be_handed_over(self: &Rc<Self>) -> bool {
        !self.is_removed() && self.queue().is_empty() && self.max() == 0 && self.shadow_count() == 0
    }

    pub fn filter(&self) -> &[u8] {
        self.names.filter()
    }

    /// Empty = no queue group.
    pub fn queue(&self) -> &[u8] {
        self.names.queue()
    }

    #[inline]
    pub fn sid(&self) -> &[u8] {
        self.names.sid()
    }

    pub fn client(&self) -> Option<ClientKey> {
        match self.sink {
            Sink::Client { key, .. } => Some(key),
            _ => None,
        }
    }

    /// The client of this shard that gets what it matches, perhaps through an import.
    pub(super) fn receiver(&self) -> Option<ClientKey> {
        match &self.sink {
            Sink::Import(sink) => sink.owner.client(),
            _ => self.client(),
        }
    }

    pub(super) fn add_shadow(&self, shadow: Rc<Subscription>) {
        self.rare.get_or_init(Box::default).shadows.borrow_mut().push(shadow);
    }

    /// Returns its shadows in other accounts' tables and forgets them.
    pub(super) fn take_shadows(&self) -> Vec<Rc<Subscription>> {
        self.rare.get().map(|rare| rare.shadows.take()).unwrap_or_default()
    }

    pub(super) fn shadow_count(&self) -> usize {
        self.rare.get().map_or(0, |rare| rare.shadows.borrow().len())
    }

    pub(super) fn for_each_shadow(&self, visit: impl FnMut(&Rc<Subscription>)) {
        if let Some(rare) = self.rare.get() {
            rare.shadows.borrow().iter().for_each(visit);
        }
    }
}
