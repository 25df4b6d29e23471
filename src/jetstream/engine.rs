//! The engine: all streams of a store, and the tasks that serve them.
//!
//! Each stream has a task that takes the messages of its inlet, and each account one that answers
//! its requests: a stream that waits for the disk holds up nobody but those who want something of
//! it. What they have to say leaves by the queue `leaving`, never before the commit that it reports.
//!
//! The store is borrowed for one call at a time, never across an await.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::account::{Account, Usage};
use super::details::StreamDetails;
use super::directory::Directory;
use super::figures::{EngineCounters, EngineFigures};
use super::host::{Host, Settings};
use super::json::timestamp::Timestamp;
use super::leaving::Leaving;
use super::stream::StreamHandle;
use super::stream_config::StreamConfig;
use crate::base::gate::Gate;
use crate::base::ids::AccountId;
use crate::base::limits::LOOKED_AT_PER_TURN_MAX;
use crate::broker::BrokerHandle;
use crate::broker::mailbox::{Letters, Mailbox};
use crate::broker::service::{Reach, ServiceInterest};
use crate::config::jetstream_options::JetStreamAccountOptions;
use crate::storage::block::NotLoaded;
use crate::storage::disk::Disk;
use crate::storage::position::CommitNumber;
use crate::storage::record::StreamId;
use crate::storage::store::checkpoint::keep_checkpoints;
use crate::storage::store::loading::load;
use crate::storage::store::{Store, StoreError};

/// The wait before a block whose file cannot be opened now is tried again.
const RELOAD_PAUSE: Duration = Duration::from_millis(100);

/// The wait before a full disk is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// An account as the server's configuration has it.
pub(crate) struct AccountFacts {
    pub id: AccountId,
    pub name: Arc<str>,
    pub is_system: bool,
    /// None = it has no JetStream.
    pub limits: Option<JetStreamAccountOptions>,
}

/// All streams of one store.
pub(crate) struct Engine<D: Disk> {
    pub(crate) store: RefCell<Store<D>>,
    pub(crate) broker: BrokerHandle,
    pub(crate) host: Rc<dyn Host>,
    pub(crate) settings: RefCell<Rc<Settings>>,
    pub(crate) leaving: Leaving,
    pub(crate) counters: EngineCounters,
    pub(super) directories: RefCell<BTreeMap<Arc<str>, Rc<Directory>>>,
    /// Streams with changes that may not be durable.
    unsettled: RefCell<Vec<Rc<StreamHandle>>>,
    /// Counts the times that a stream came to be among them.
    unsettling: Gate,
    /// Streams with something that ends by time, by the time of the first look at them.
    pub(super) schedule: RefCell<BTreeMap<(i64, StreamId), Rc<StreamHandle>>>,
    /// Counts the changes of that.
    pub(super) scheduled: Gate,
    /// For subjects that are rewritten at random.
    pub(super) random: RefCell<fastrand::Rng>,
    /// Bytes of all streams.
    pub(super) usage: Cell<Usage>,
    /// The commit of the last change of which streams there are.
    listed: Cell<CommitNumber>,
}

impl<D: Disk> Engine<D> {
    /// Serves the streams of a store from now on. Returns the engine and lines for the log about
    /// what it has not taken up.
    pub(crate) fn start(
        store: Store<D>,
        broker: BrokerHandle,
        host: Rc<dyn Host>,
        random_seed: u64,
        settings: Settings,
        accounts: impl Iterator<Item = AccountFacts>,
    ) -> (Rc<Self>, Vec<String>) {
        let engine = Rc::new(Self {
            store: RefCell::new(store),
            broker,
            host,
            settings: RefCell::new(Rc::new(settings)),
            leaving: Leaving::default(),
            counters: EngineCounters::default(),
            directories: RefCell::default(),
            unsettled: RefCell::default(),
            unsettling: Gate::new(),
            schedule: RefCell::default(),
            scheduled: Gate::new(),
            random: RefCell::new(fastrand::Rng::with_seed(random_seed)),
            usage: Cell::default(),
            listed: Cell::new(CommitNumber(0)),
        });
        engine.spawn_store();
        accounts.for_each(|facts| engine.add_account(facts));
        let remarks = engine.take_up();
        (engine, remarks)
    }

    /// The numbers that monitoring shows.
    pub(crate) fn figures(&self) -> EngineFigures {
        let store = self.store.borrow().figures();
        EngineFigures { usage: self.usage.get(), store, ..self.counters.figures() }
    }

    fn spawn_store(self: &Rc<Self>) {
        let lane = self.store.borrow().lane().clone();
        let committing = lane.clone();
        self.host.spawn(Box::pin(async move { committing.commit().await }));
        self.host.spawn(Box::pin(async move { lane.keep_spare().await }));
        let engine = self.clone();
        self.host.spawn(Box::pin(async move { keep_checkpoints(&engine.store).await }));
        self.host.spawn(Box::pin(self.clone().publish_leaving()));
        self.host.spawn(Box::pin(self.clone().settle_durable()));
        self.host.spawn(Box::pin(self.clone().keep_time()));
        self.host.spawn(Box::pin(self.clone().keep_trying()));
    }

    pub(super) fn settings(&self) -> Rc<Settings> {
        self.settings.borrow().clone()
    }

    /// Begins to serve an account.
    fn add_account(self: &Rc<Self>, facts: AccountFacts) {
        let AccountFacts { id, name, is_system, limits } = facts;
        let account = Account::new(id, name.clone(), is_system, limits);
        let directory = Rc::new(Directory::new(account));
        self.subscribe_account(&directory);
        self.host.spawn(Box::pin(self.clone().serve_requests(directory.clone())));
        self.host.spawn(Box::pin(self.clone().serve_direct_gets(directory.clone())));
        self.directories.borrow_mut().insert(name, directory);
    }

    /// Takes over the accounts of a reload. Streams of accounts that have no JetStream any more are
    /// not served, and stay in the store.
    pub(crate) async fn set_accounts(self: Rc<Self>, accounts: Vec<AccountFacts>) -> Vec<String> {
        let mut gone: BTreeSet<Arc<str>> = self.directories.borrow().keys().cloned().collect();
        for (index, facts) in accounts.into_iter().enumerate() {
            gone.remove(&facts.name);
            let known = self.directories.borrow().get(&facts.name).cloned();
            match known {
                None => self.add_account(facts),
                Some(directory) => {
                    directory.account.limits.replace(facts.limits);
                    if !directory.account.is_enabled() {
                        self.close_streams(&directory);
                    }
                }
            }
            self.end_slice(index % LOOKED_AT_PER_TURN_MAX == LOOKED_AT_PER_TURN_MAX - 1).await;
        }
        for name in gone {
            let directory = self.directories.borrow_mut().remove(&name);
            if let Some(directory) = directory {
                self.close_streams(&directory);
                directory.subscriptions.take();
                directory.gone.open_for_good();
            }
        }
        self.take_up()
    }

    fn close_streams(&self, directory: &Directory) {
        let streams: Vec<Rc<StreamHandle>> = directory.streams.borrow().values().cloned().collect();
        streams.iter().for_each(|stream| self.close_stream(directory, stream));
    }

    /// Tries again now and then to make the files for which a full disk had no room.
    async fn keep_trying(self: Rc<Self>) {
        let lane = self.store.borrow().lane().clone();
        while lane.stopped().is_none() {
            self.host.sleep(RETRY_PAUSE).await;
            if let Some(kind) = lane.shortage() {
                tracing::error!("JetStream takes no messages for want of space: {kind}");
                self.store.borrow_mut().retry();
            }
        }
    }

    /// Takes up the streams that the store holds.
    fn take_up(self: &Rc<Self>) -> Vec<String> {
        let mut remarks = Vec::new();
        let mut found = Vec::new();
        for (id, held) in self.store.borrow().streams().iter() {
            match StreamDetails::decode(&held.details) {
                Ok(details) => found.push((id, details)),
                Err(reason) => remarks.push(format!("stream {}: {reason}", id.0)),
            }
        }
        for (id, StreamDetails { account, created_ns, config }) in found {
            let owner = self.directories.borrow().get(account.as_str()).cloned();
            let Some(owner) = owner.filter(|owner| owner.account.is_enabled()) else {
                let name = &config.name;
                remarks.push(format!("stream '{account} > {name}': the account has no JetStream"));
                continue;
            };
            if owner.stream(&config.name).is_some() {
                continue;
            }
            let created = Timestamp::from_unix_ns(created_ns);
            let stream = self.open_stream(id, &owner, created, config);
            remarks.extend(self.take_up_consumers(&stream));
        }
        remarks
    }

    /// Serves a stream that the store holds.
    pub(super) fn open_stream(
        self: &Rc<Self>,
        id: StreamId,
        directory: &Directory,
        created: Timestamp,
        config: StreamConfig,
    ) -> Rc<StreamHandle> {
        let domain = self.settings().domain.clone();
        let stream =
            StreamHandle::new(id, directory.account.clone(), created, config, domain.as_deref());
        let stream = Rc::new(stream);
        self.subscribe_stream(&stream);
        let name = stream.name.clone();
        directory.streams.borrow_mut().insert(name, stream.clone());
        self.note_change(&stream);
        self.host.spawn(Box::pin(self.clone().serve_stream(stream.clone())));
        stream
    }

    /// Subscribes to the subjects of a stream, in place of those of before.
    pub(super) fn subscribe_stream(&self, stream: &Rc<StreamHandle>) {
        let config = stream.config();
        let mut broker = self.broker.borrow_mut();
        let account = stream.account.id;
        let subscriptions = config.subjects.iter().map(|subject| {
            let interest = ServiceInterest::all(account, subject.as_bytes(), Reach::Server);
            broker.subscribe_service(interest, &stream.inlet)
        });
        stream.subscriptions.replace(subscriptions.collect());
    }

    /// Stops to serve a stream.
    pub(super) fn close_stream(&self, directory: &Directory, stream: &Rc<StreamHandle>) {
        stream.subscriptions.take();
        self.close_consumers(stream);
        directory.streams.borrow_mut().remove(&*stream.name);
        self.count_usage(stream, 0);
        self.schedule.borrow_mut().remove(&(stream.due_ns.get(), stream.id));
        stream.gone.open_for_good();
        stream.durable.open_for_good();
        stream.purged.open_for_good();
    }

    /// Notes that a stream has changed: its account's usage, and what consumers may see once the
    /// change is durable. Called after each change of the store.
    pub(crate) fn note_change(&self, stream: &Rc<StreamHandle>) {
        let bytes = {
            let store = self.store.borrow();
            let Some(held) = store.streams().get(stream.id) else { return };
            held.stream.totals().bytes
        };
        self.count_usage(stream, bytes);
        self.schedule(stream);
        if !stream.is_unsettled.replace(true) {
            self.unsettled.borrow_mut().push(stream.clone());
            self.unsettling.advance_by(1);
        }
    }

    fn count_usage(&self, stream: &StreamHandle, bytes: u64) {
        let before = stream.counted_bytes.replace(bytes);
        for usage in [&stream.account.usage, &self.usage] {
            let mut sum = usage.get();
            let of_kind = sum.of_mut(stream.is_memory());
            *of_kind = (*of_kind + bytes).saturating_sub(before);
            usage.set(sum);
        }
    }

    /// Lets consumers see what became durable.
    fn settle(&self) {
        let mut store = self.store.borrow_mut();
        self.unsettled.borrow_mut().retain(|stream| {
            store.settle(stream.id);
            let Some(held) = store.streams().get(stream.id) else { return false };
            stream.durable.advance_to(held.durable_sequence());
            let is_unsettled = held.durable_sequence() < held.stream.totals().last_sequence;
            stream.is_unsettled.set(is_unsettled);
            is_unsettled
        });
    }

    async fn settle_durable(self: Rc<Self>) {
        let lane = self.store.borrow().lane().clone();
        loop {
            let (seen, durable) = (self.unsettling.value(), lane.durable_commit());
            self.settle();
            if self.unsettled.borrow().is_empty() {
                self.unsettling.reached(seen + 1).await;
            } else if lane.durable(CommitNumber(durable.0 + 1)).await.is_err() {
                return;
            }
            self.host.yield_turn().await;
        }
    }

    async fn publish_leaving(self: Rc<Self>) {
        let lane = self.store.borrow().lane().clone();
        let mut has_told = false;
        loop {
            let next = poll_fn(|context| self.leaving.poll_next(None, context)).await;
            let mut durable = pin!(lane.durable(next));
            let is_stopped = poll_fn(|context| match durable.as_mut().poll(context) {
                Poll::Ready(result) => Poll::Ready(result.is_err()),
                // Something that waits for nothing may come meanwhile.
                Poll::Pending => self.leaving.poll_next(Some(next), context).map(|_| false),
            })
            .await;
            if is_stopped {
                if let Some(stopped) = lane.stopped().filter(|_| !has_told) {
                    tracing::error!("JetStream acknowledges nothing more: {stopped}");
                    has_told = true;
                }
                // Refusals and streams in memory go on.
                self.leaving.stop(lane.durable_commit());
            }
            self.host.before_batch();
            let congestion = self.leaving.publish_some(&self.broker, lane.durable_commit());
            if let Some(congestion) = congestion {
                congestion.gate.reached(congestion.until).await;
            }
            self.host.yield_turn().await;
        }
    }

    /// Waits for letters; None once the stream is gone.
    pub(crate) async fn letters(&self, mailbox: &Rc<Mailbox>, gone: &Gate) -> Option<Letters> {
        let mut gone = pin!(gone.reached(1));
        loop {
            let is_gone = poll_fn(|context| match gone.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(true),
                Poll::Pending => mailbox.poll_ready(context).map(|()| false),
            })
            .await;
            if is_gone {
                return None;
            }
            if let Some(letters) = mailbox.take() {
                return Some(letters);
            }
        }
    }

    /// Notes the commit with which a stream came or went.
    pub(super) fn note_listed(&self, commit: CommitNumber) {
        self.listed.set(self.listed.get().max(commit));
    }

    /// The commit that an answer about which streams there are waits for.
    pub(super) fn listed(&self) -> CommitNumber {
        self.listed.get()
    }

    /// Loads messages of a stream.
    pub(crate) async fn load(&self, id: StreamId, needed: NotLoaded) {
        if let Err(error) = load(&self.store, id, needed).await {
            tracing::error!("JetStream cannot read stored messages now: {error}");
            self.host.sleep(RELOAD_PAUSE).await;
        }
    }

    /// Does something with the store, once what it needs is in memory and removals that the stream
    /// owes are done.
    ///
    /// # Errors
    /// Those of `act`, except for those two.
    pub(crate) async fn with_store<T>(
        &self,
        stream: &StreamHandle,
        mut act: impl FnMut(&mut Store<D>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        loop {
            let result = act(&mut self.store.borrow_mut());
            match result {
                Err(StoreError::NotLoaded(needed)) => self.load(stream.id, needed).await,
                Err(StoreError::Purging) => self.finish_removals(stream).await,
                result => return result,
            }
        }
    }

    /// Waits until a stream's removals are done.
    pub(crate) async fn finish_removals(&self, stream: &StreamHandle) {
        if stream.is_purging.get() {
            stream.purged.reached(stream.purged.value() + 1).await;
            return;
        }
        loop {
            let result = self.store.borrow_mut().purge_some(stream.id, LOOKED_AT_PER_TURN_MAX);
            match result {
                Ok(Some(_)) => return,
                Ok(None) => self.host.yield_turn().await,
                Err(StoreError::NotLoaded(needed)) => self.load(stream.id, needed).await,
                Err(_) => return,
            }
        }
    }
}
