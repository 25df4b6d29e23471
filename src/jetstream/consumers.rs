//! The consumers of a stream as the engine holds them, and those of them that have something to do.
//!
//! A consumer is served when it is ready: a request or an acknowledgement came, a message that it
//! waits for, its time, or the room that it waited for. So consumers that nobody uses cost nothing.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use super::consumer::count::PendingCount;
use super::consumer::filters::Filters;
use super::consumer::machine::Machine;
use super::consumer::wakes::Wakes;
use super::consumer_config::{AckPolicy, ConsumerConfig};
use super::json::timestamp::Timestamp;
use crate::broker::mailbox::Mailbox;
use crate::broker::service::{ServicePublisher, ServiceSubscription};
use crate::broker::watch::{Watch, Watcher};
use crate::storage::consumer_state::ConsumerState;
use crate::storage::record::ConsumerId;

/// A consumer.
pub(crate) struct Consumer {
    pub name: Box<str>,
    pub created: Timestamp,
    /// Its place in the store; `None`: it is in memory alone.
    pub id: Option<ConsumerId>,
    /// Its number among those of the stream.
    pub(super) key: Cell<u32>,
    config: RefCell<Rc<ConsumerConfig>>,
    pub(super) part: RefCell<Part>,
    /// Of the subject that it pushes to.
    pub(super) watch: RefCell<Option<Watch>>,
    is_ready: Cell<bool>,
    /// It waits for room or for the disk, and is not served meanwhile.
    is_parked: Cell<bool>,
    pub(super) is_gone: Cell<bool>,
    timer_ns: Cell<i64>,
}

/// The facts about a consumer that never change.
pub(super) struct Identity {
    pub name: Box<str>,
    pub created: Timestamp,
    pub id: Option<ConsumerId>,
}

/// The parts of a consumer that serve it.
pub(super) struct Part {
    pub machine: Machine,
    pub filters: Filters,
    pub count: PendingCount,
    /// The state of a consumer that is in memory alone.
    pub memory: ConsumerState,
    pub publisher: ServicePublisher,
    /// Headers and payload of a message that is delivered with other headers than its own.
    pub body: Vec<u8>,
}

impl Consumer {
    pub(super) fn new(identity: Identity, config: ConsumerConfig, part: Part) -> Self {
        let Identity { name, created, id } = identity;
        Self {
            name,
            created,
            id,
            key: Cell::new(0),
            config: RefCell::new(Rc::new(config)),
            part: RefCell::new(part),
            watch: RefCell::default(),
            is_ready: Cell::new(false),
            is_parked: Cell::new(false),
            is_gone: Cell::new(false),
            timer_ns: Cell::new(i64::MAX),
        }
    }

    pub(crate) fn config(&self) -> Rc<ConsumerConfig> {
        self.config.borrow().clone()
    }

    pub(super) fn set_config(&self, config: ConsumerConfig) {
        self.config.replace(Rc::new(config));
    }

    /// Internal consumers are not shown to clients.
    pub(crate) fn is_hidden(&self) -> bool {
        self.config.borrow().is_direct
    }

    fn takes_acks(&self) -> bool {
        self.config.borrow().ack_policy != AckPolicy::None
    }
}

/// The name that a client gave a consumer; may be empty.
pub(super) fn name_of(config: &ConsumerConfig) -> &str {
    if config.is_durable() { &config.durable_name } else { &config.name }
}

/// Consumers by name, shared with the subscriptions that decline what is for none of them.
#[derive(Default)]
pub(super) struct Names(RefCell<BTreeMap<Box<str>, Rc<Consumer>>>);

impl Names {
    pub(super) fn get(&self, name: &[u8]) -> Option<Rc<Consumer>> {
        self.0.borrow().get(std::str::from_utf8(name).ok()?).cloned()
    }

    /// True if this consumer is there, and takes acknowledgements.
    pub(super) fn takes_acks(&self, name: &[u8]) -> bool {
        self.get(name).is_some_and(|consumer| consumer.takes_acks())
    }
}

/// The consumers of a stream.
pub(crate) struct Consumers {
    pub(super) names: Rc<Names>,
    by_key: RefCell<Slab<Rc<Consumer>>>,
    ready: RefCell<VecDeque<Rc<Consumer>>>,
    pub(super) wakes: RefCell<Wakes>,
    timers: RefCell<BTreeSet<(i64, u32)>>,
    pub(super) watcher: Rc<Watcher>,
    /// Requests for messages, acknowledgements and answers to flow control.
    pub(super) inlet: Rc<Mailbox>,
    pub(super) subscriptions: RefCell<Vec<ServiceSubscription>>,
    /// New messages up to this one were looked at for those who wait for them.
    pub(super) looked_through: Cell<u64>,
    waker: Cell<Option<Waker>>,
}

impl Consumers {
    /// The seed is for hashes of filters.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            names: Rc::default(),
            by_key: RefCell::default(),
            ready: RefCell::default(),
            wakes: RefCell::new(Wakes::new(seed)),
            timers: RefCell::default(),
            watcher: Rc::default(),
            inlet: Rc::default(),
            subscriptions: RefCell::default(),
            looked_through: Cell::new(0),
            waker: Cell::new(None),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<Rc<Consumer>> {
        self.names.get(name.as_bytes())
    }

    /// All of them, by name.
    pub(crate) fn all(&self) -> Vec<Rc<Consumer>> {
        self.names.0.borrow().values().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.names.0.borrow().len()
    }

    /// Those that are shown to clients.
    pub(crate) fn shown(&self) -> usize {
        self.names.0.borrow().values().filter(|consumer| !consumer.is_hidden()).count()
    }

    pub(super) fn insert(&self, consumer: &Rc<Consumer>) {
        let key = self.by_key.borrow_mut().insert(consumer.clone());
        consumer.key.set(key as u32);
        self.names.0.borrow_mut().insert(consumer.name.clone(), consumer.clone());
    }

    pub(super) fn remove(&self, consumer: &Rc<Consumer>) {
        consumer.is_gone.set(true);
        consumer.watch.take();
        self.set_timer(consumer, i64::MAX);
        self.wakes.borrow_mut().forget(consumer.key.get());
        self.by_key.borrow_mut().try_remove(consumer.key.get() as usize);
        self.names.0.borrow_mut().remove(&consumer.name);
    }

    pub(super) fn by_key(&self, key: u32) -> Option<Rc<Consumer>> {
        self.by_key.borrow().get(key as usize).cloned()
    }

    /// The consumer is to be served.
    pub(super) fn make_ready(&self, consumer: &Rc<Consumer>) {
        if !consumer.is_parked.get() && !consumer.is_gone.get() && !consumer.is_ready.replace(true)
        {
            self.ready.borrow_mut().push_back(consumer.clone());
            self.wake();
        }
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The next consumer to be served.
    pub(super) fn next_ready(&self) -> Option<Rc<Consumer>> {
        loop {
            let consumer = self.ready.borrow_mut().pop_front()?;
            consumer.is_ready.set(false);
            if !consumer.is_gone.get() && !consumer.is_parked.get() {
                return Some(consumer);
            }
        }
    }

    /// It is not served until [`Consumers::unpark`].
    pub(super) fn park(&self, consumer: &Consumer) {
        consumer.is_parked.set(true);
    }

    pub(super) fn unpark(&self, consumer: &Rc<Consumer>) {
        consumer.is_parked.set(false);
        self.make_ready(consumer);
    }

    /// Ready when a consumer is; else the task is woken by the next one.
    pub(super) fn poll_ready(&self, context: &Context<'_>) -> Poll<()> {
        if !self.ready.borrow().is_empty() {
            return Poll::Ready(());
        }
        self.waker.set(Some(context.waker().clone()));
        Poll::Pending
    }

    /// Sets the time at which a consumer has something to do.
    pub(super) fn set_timer(&self, consumer: &Consumer, at_ns: i64) {
        let before_ns = consumer.timer_ns.replace(at_ns);
        if before_ns == at_ns {
            return;
        }
        let mut timers = self.timers.borrow_mut();
        timers.remove(&(before_ns, consumer.key.get()));
        if at_ns != i64::MAX {
            timers.insert((at_ns, consumer.key.get()));
        }
    }

    pub(super) fn next_timer_ns(&self) -> i64 {
        self.timers.borrow().first().map_or(i64::MAX, |(at_ns, _)| *at_ns)
    }

    /// The next consumer whose time has come.
    pub(super) fn take_due(&self, now_ns: i64) -> Option<Rc<Consumer>> {
        loop {
            let (at_ns, key) = self.timers.borrow().first().copied()?;
            if at_ns > now_ns {
                return None;
            }
            self.timers.borrow_mut().pop_first();
            if let Some(consumer) = self.by_key(key) {
                consumer.timer_ns.set(i64::MAX);
                return Some(consumer);
            }
        }
    }
}
