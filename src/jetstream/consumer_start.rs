//! Consumers come and go: where a new one begins, what is done when one is opened, changed and
//! removed.

use std::rc::Rc;

use super::consumer::count::PendingCount;
use super::consumer::filters::Filters;
use super::consumer::machine::{Listed, Machine, Start};
use super::consumer::status;
use super::consumer_config::{ConsumerConfig, DeliverPolicy};
use super::consumer_details::ConsumerDetails;
use super::consumer_ledger::StateOf;
use super::consumer_rules::rules_of;
use super::consumers::{Consumer, Identity, Part};
use super::engine::Engine;
use super::json::timestamp::Timestamp;
use super::stream::StreamHandle;
use crate::base::limits::LOOKED_AT_PER_TURN_MAX;
use crate::broker::service::ServicePublisher;
use crate::storage::consumer_state::ConsumerState;
use crate::storage::disk::Disk;
use crate::storage::position::CommitNumber;
use crate::storage::store::{Store, StoreError};
use crate::storage::stream::Stream;

/// The place at which a consumer begins.
#[derive(Clone, Debug, Default)]
pub(super) struct Begin {
    /// The sequence behind which it begins.
    pub after: u64,
    pub listed: Listed,
}

fn filters_of(config: &ConsumerConfig) -> Filters {
    Filters::new(config.filters().iter().map(|filter| filter.as_bytes().into()).collect())
}

fn pause_of(config: &ConsumerConfig) -> i64 {
    config.pause_until.filter(|until| !until.is_zero()).map_or(0, Timestamp::unix_ns)
}

/// The last messages by subject from a sequence on, of those up to `through`; some subjects at a
/// time.
struct LastBySubject {
    filters: Vec<Box<[u8]>>,
    after: Option<Vec<u8>>,
    from: u64,
    through: u64,
    found: Vec<u64>,
}

impl LastBySubject {
    fn new(filters: &Filters, from: u64, through: u64) -> Self {
        let filters = filters.iter().map(Into::into).collect();
        Self { filters, after: None, from, through, found: Vec::new() }
    }

    /// Looks at some subjects; true once it is done.
    fn step(&mut self, stream: &Stream) -> bool {
        let Some(filter) = self.filters.last() else { return true };
        let (from, through, found) = (self.from, self.through, &mut self.found);
        let after = self.after.as_deref();
        self.after = stream.subjects().scan(filter, after, LOOKED_AT_PER_TURN_MAX, |_, totals| {
            if (from..=through).contains(&totals.last) {
                found.push(totals.last);
            }
            true
        });
        if self.after.is_none() {
            self.filters.pop();
        }
        self.filters.is_empty()
    }

    fn listed(mut self) -> Listed {
        self.found.sort_unstable();
        Listed { sequences: self.found.into(), resume_after: self.through }
    }
}

impl<D: Disk> Engine<D> {
    async fn last_by_subject(
        &self,
        stream: &StreamHandle,
        filters: &Filters,
        from: u64,
        through: u64,
    ) -> Listed {
        let mut last = LastBySubject::new(filters, from, through);
        loop {
            let is_done = {
                let store = self.store.borrow();
                store.streams().get(stream.id).is_none_or(|held| last.step(&held.stream))
            };
            if is_done {
                return last.listed();
            }
            self.host.yield_turn().await;
        }
    }

    /// The place at which a new consumer begins. Source: nats-server server/consumer.go
    /// selectStartingSeqNo.
    ///
    /// # Errors
    /// The store stopped, or the stream is gone.
    pub(super) async fn begin_of(
        &self,
        stream: &StreamHandle,
        config: &ConsumerConfig,
    ) -> Result<Begin, StoreError> {
        let filters = filters_of(config);
        let totals = |store: &Store<D>| {
            let held = store.streams().get(stream.id).ok_or(StoreError::NoSuchStream)?;
            Ok::<_, StoreError>(held.stream.totals())
        };
        let totals = totals(&self.store.borrow())?;
        let (first, last) = (totals.first_sequence, totals.last_sequence);
        let mut listed = Listed::default();
        let mut start = match config.deliver_policy {
            DeliverPolicy::All => first,
            DeliverPolicy::New => last + 1,
            DeliverPolicy::ByStartSequence => config.start_sequence,
            DeliverPolicy::Last if filters.is_all() => last,
            DeliverPolicy::Last => {
                let store = self.store.borrow();
                let held = store.streams().get(stream.id).ok_or(StoreError::NoSuchStream)?;
                let lasts = filters.iter().map(|filter| held.stream.last_sequence_of(filter));
                lasts.max().unwrap_or(0)
            }
            DeliverPolicy::ByStartTime => {
                let time_ns = config.start_time.map_or(0, Timestamp::unix_ns);
                let found = self
                    .with_store(stream, |store| {
                        let held =
                            store.streams().get(stream.id).ok_or(StoreError::NoSuchStream)?;
                        Ok(held.stream.first_since(time_ns)?)
                    })
                    .await?;
                found.unwrap_or(last + 1)
            }
            DeliverPolicy::LastPerSubject => {
                if stream.config().messages_per_subject_max == 1 {
                    first
                } else {
                    listed = self.last_by_subject(stream, &filters, 0, last).await;
                    listed.sequences.front().copied().unwrap_or(last)
                }
            }
        };
        if config.deliver_policy != DeliverPolicy::ByStartSequence {
            start = start.min(last + 1);
        }
        Ok(Begin { after: start.max(first).max(1) - 1, listed })
    }

    /// Makes a consumer whose configuration is complete.
    ///
    /// # Errors
    /// The store is short of space or stopped, or the stream is gone.
    pub(super) async fn make_consumer(
        self: &Rc<Self>,
        stream: &Rc<StreamHandle>,
        name: &str,
        config: ConsumerConfig,
    ) -> Result<(Rc<Consumer>, CommitNumber), StoreError> {
        let Begin { after, listed } = self.begin_of(stream, &config).await?;
        if stream.is_gone() {
            return Err(StoreError::NoSuchStream);
        }
        let now_ns = self.host.now_ns();
        let is_memory = config.is_memory || config.is_direct || stream.is_memory();
        let mut commit = CommitNumber(0);
        let id = match is_memory {
            true => None,
            false => {
                let details = ConsumerDetails::encode(name, now_ns, listed.resume_after, &config);
                let made = self.store.borrow_mut().create_consumer(stream.id, after, &details)?;
                commit = made.after;
                Some(made.value)
            }
        };
        let state = ConsumerState::starting_after(after);
        let identity = Identity { name: name.into(), created: Timestamp::from_unix_ns(now_ns), id };
        let consumer = self.open_consumer(stream, identity, config, state, listed);
        Ok((consumer, commit))
    }

    /// Serves a consumer from now on.
    pub(super) fn open_consumer(
        self: &Rc<Self>,
        stream: &Rc<StreamHandle>,
        identity: Identity,
        config: ConsumerConfig,
        memory: ConsumerState,
        listed: Listed,
    ) -> Rc<Consumer> {
        let now_ns = self.host.now_ns();
        let rules = rules_of(&config, &stream.config(), self.settings().payload_bytes_max);
        let filters = filters_of(&config);
        let machine = {
            let store = self.store.borrow();
            let held = store.streams().get(stream.id);
            let stored =
                identity.id.and_then(|id| held?.consumers.get(&id)).map(|held| &held.state);
            let mut machine = Machine::new(Start {
                stream: stream.name.as_bytes(),
                consumer: identity.name.as_bytes(),
                rules,
                state: stored.unwrap_or(&memory),
                listed,
                last_sequence: held.map_or(0, |held| held.stream.totals().last_sequence),
                now_ns,
                seed: fastrand::u64(..),
            });
            machine.pause(pause_of(&config));
            machine
        };
        let part = Part {
            machine,
            filters,
            count: PendingCount::default(),
            memory,
            publisher: ServicePublisher::default(),
            body: Vec::new(),
        };
        let consumer = Rc::new(Consumer::new(identity, config, part));
        let is_first = stream.consumers.len() == 0;
        stream.consumers.insert(&consumer);
        self.counters.consumers.add(1);
        stream.interest.borrow_mut().add(consumer.config().filters());
        if is_first && stream.consumers.subscriptions.borrow().is_empty() {
            self.subscribe_consumers(stream);
            stream.consumers.looked_through.set(stream.durable.value());
            self.host.spawn(Box::pin(self.clone().serve_consumers(stream.clone())));
        }
        self.watch_consumer(stream, &consumer);
        // The watch tells only of what changes from now on.
        let config = consumer.config();
        let is_bound = config.is_push()
            && config.deliver_group.is_empty()
            && self.has_interest(stream, config.deliver_subject.as_bytes());
        consumer.part.borrow_mut().machine.bind(is_bound, now_ns);
        stream.consumers.make_ready(&consumer);
        consumer
    }

    /// Watches for listeners of the subject that a consumer pushes to.
    fn watch_consumer(&self, stream: &StreamHandle, consumer: &Consumer) {
        let config = consumer.config();
        let watch = config.is_push().then(|| {
            let (subject, group) = (config.deliver_subject.as_bytes(), &config.deliver_group);
            let (account, key) = (stream.account.id, u64::from(consumer.key.get()));
            let watcher = &stream.consumers.watcher;
            self.broker.borrow_mut().watch(account, subject, group.as_bytes(), key, watcher)
        });
        consumer.watch.replace(watch);
    }

    /// Takes up the consumers of a stream that the store holds. Returns lines about those that it
    /// does not serve.
    pub(super) fn take_up_consumers(self: &Rc<Self>, stream: &Rc<StreamHandle>) -> Vec<String> {
        let mut remarks = Vec::new();
        let mut found = Vec::new();
        if let Some(held) = self.store.borrow().streams().get(stream.id) {
            for (id, consumer) in &held.consumers {
                match ConsumerDetails::decode(&consumer.details) {
                    Ok(details) => {
                        let from = consumer.state.delivered().stream + 1;
                        let filters = filters_of(&details.config);
                        let mut last = LastBySubject::new(&filters, from, details.resume_after);
                        if details.resume_after >= from {
                            while !last.step(&held.stream) {}
                        }
                        found.push((*id, details, last));
                    }
                    Err(reason) => remarks.push(format!("consumer {}: {reason}", id.0)),
                }
            }
        }
        for (id, details, last) in found {
            let ConsumerDetails { name, created_ns, resume_after, config } = details;
            let listed = match last.found.is_empty() {
                true => Listed::default(),
                false => Listed { resume_after, ..last.listed() },
            };
            let created = Timestamp::from_unix_ns(created_ns);
            let identity = Identity { name: name.into(), created, id: Some(id) };
            self.open_consumer(stream, identity, config, ConsumerState::default(), listed);
        }
        remarks
    }

    /// Stores a changed configuration, and has the consumer act on it.
    ///
    /// # Errors
    /// The store stopped.
    pub(super) fn change_consumer(
        &self,
        stream: &Rc<StreamHandle>,
        consumer: &Rc<Consumer>,
        config: ConsumerConfig,
    ) -> Result<CommitNumber, StoreError> {
        let old = consumer.config();
        if *old == config {
            return Ok(self.told_after(stream));
        }
        let mut commit = CommitNumber(0);
        let mut part = consumer.part.borrow_mut();
        let Part { machine, filters, count, memory, .. } = &mut *part;
        let now_ns = self.host.now_ns();
        let mut store = self.store.borrow_mut();
        if let Some(id) = consumer.id {
            let (_, listed) = machine.position();
            let created_ns = consumer.created.unix_ns();
            let details =
                ConsumerDetails::encode(&consumer.name, created_ns, listed.resume_after, &config);
            commit = store.update_consumer(stream.id, id, &details)?.after;
        }
        let rules = rules_of(&config, &stream.config(), self.settings().payload_bytes_max);
        let state = super::consumer_ledger::state_of(&store, stream.id, consumer.id, memory);
        machine.set_rules(rules, state, now_ns);
        machine.pause(pause_of(&config));
        if old.filters() != config.filters() {
            *filters = filters_of(&config);
            count.forget();
            stream.consumers.wakes.borrow_mut().forget(consumer.key.get());
            let mut interest = stream.interest.borrow_mut();
            interest.add(config.filters());
            interest.remove(old.filters());
        }
        let has_other_receiver = (&old.deliver_subject, &old.deliver_group)
            != (&config.deliver_subject, &config.deliver_group);
        if has_other_receiver {
            machine.bind(false, now_ns);
        }
        drop((part, store));
        let has_other_pause = pause_of(&old) != pause_of(&config);
        consumer.set_config(config);
        if has_other_receiver {
            self.watch_consumer(stream, consumer);
        }
        if has_other_pause {
            self.advise_pause(stream, consumer, consumer.config().pause_until);
        }
        stream.consumers.make_ready(consumer);
        Ok(commit)
    }

    /// Has the consumers of a stream act on its changed configuration.
    pub(super) fn renew_consumers(&self, stream: &Rc<StreamHandle>) {
        let (now_ns, payload_bytes_max) = (self.host.now_ns(), self.settings().payload_bytes_max);
        let stream_config = stream.config();
        for consumer in stream.consumers.all() {
            let mut part = consumer.part.borrow_mut();
            let Part { machine, memory, .. } = &mut *part;
            let rules = rules_of(&consumer.config(), &stream_config, payload_bytes_max);
            if rules != *machine.rules() {
                let store = self.store.borrow();
                let id = consumer.id;
                let state = super::consumer_ledger::state_of(&store, stream.id, id, memory);
                machine.set_rules(rules, state, now_ns);
            }
        }
    }

    /// Lets a consumer begin anew behind a sequence.
    pub(super) async fn restart_consumer(
        &self,
        stream: &Rc<StreamHandle>,
        consumer: &Rc<Consumer>,
        after: u64,
    ) -> CommitNumber {
        let config = consumer.config();
        let mut listed = Listed::default();
        if config.deliver_policy == DeliverPolicy::LastPerSubject {
            let last = {
                let store = self.store.borrow();
                let held = store.streams().get(stream.id);
                held.map_or(0, |held| held.stream.totals().last_sequence)
            };
            listed = self.last_by_subject(stream, &filters_of(&config), after + 1, last).await;
        }
        let mut part = consumer.part.borrow_mut();
        let Part { machine, filters, count, memory, .. } = &mut *part;
        let mut store = self.store.borrow_mut();
        if consumer.is_gone.get() {
            return CommitNumber(0);
        }
        let mut state = StateOf::new(&mut store, stream.id, consumer.id, memory);
        machine.restart(after, listed, &mut state);
        let commit = state.after();
        count.forget();
        filters.forget();
        drop((part, store));
        stream.consumers.make_ready(consumer);
        commit
    }

    /// Removes a consumer, with the messages that the stream kept for it alone. Returns the commit
    /// that an answer about it waits for.
    pub(super) fn remove_consumer(
        self: &Rc<Self>,
        stream: &Rc<StreamHandle>,
        consumer: &Rc<Consumer>,
    ) -> CommitNumber {
        let mut commit = CommitNumber(0);
        if let Some(id) = consumer.id {
            let removed = self.store.borrow_mut().delete_consumer(stream.id, id);
            commit = removed.map_or(commit, |answer| answer.after);
        }
        self.close_consumer(stream, consumer);
        self.advise_removal(stream, consumer, commit);
        if stream.config().retention == super::stream_config::Retention::Interest {
            let filters = filters_of(&consumer.config());
            self.host.spawn(Box::pin(self.clone().forget_unwanted(stream.clone(), filters)));
        }
        commit
    }

    /// Stops to serve the consumers of a stream that is gone.
    pub(super) fn close_consumers(&self, stream: &Rc<StreamHandle>) {
        for consumer in stream.consumers.all() {
            self.close_consumer(stream, &consumer);
            self.advise_removal(stream, &consumer, self.listed());
        }
        stream.consumers.subscriptions.take();
    }

    /// Stops to serve a consumer.
    pub(super) fn close_consumer(&self, stream: &Rc<StreamHandle>, consumer: &Rc<Consumer>) {
        stream.interest.borrow_mut().remove(consumer.config().filters());
        let mut part = consumer.part.borrow_mut();
        part.machine.end(status::DELETED);
        let account = stream.account.id;
        for output in part.machine.outputs().drain(..) {
            if let super::consumer::output::Output::Status { to, reply, headers } = output {
                let outgoing = super::leaving::Outgoing {
                    subject: &to,
                    reply: &reply,
                    headers: &headers,
                    ..Default::default()
                };
                self.leaving.push(CommitNumber(0), account, &outgoing);
            }
        }
        drop(part);
        stream.consumers.remove(consumer);
        self.counters.consumers.subtract(1);
    }

    /// Removes messages of a stream that no consumer needs any more, of those that match.
    async fn forget_unwanted(self: Rc<Self>, stream: Rc<StreamHandle>, filters: Filters) {
        let mut from = 0;
        loop {
            let result = self.forget_some(&stream, &filters, &mut from);
            match result {
                Ok(true) => return,
                Ok(false) => self.host.yield_turn().await,
                Err(StoreError::NotLoaded(needed)) => self.load(stream.id, needed).await,
                Err(StoreError::Purging) => self.finish_removals(&stream).await,
                Err(_) => return,
            }
        }
    }

    /// Looks at some messages; true once all were looked at.
    fn forget_some(
        &self,
        stream: &Rc<StreamHandle>,
        filters: &Filters,
        from: &mut u64,
    ) -> Result<bool, StoreError> {
        let mut is_changed = false;
        let mut store = self.store.borrow_mut();
        let totals = |store: &Store<D>| Some(store.streams().get(stream.id)?.stream.totals());
        for _ in 0..LOOKED_AT_PER_TURN_MAX {
            let Some(totals) = totals(&store) else { return Ok(true) };
            *from = (*from).max(totals.first_sequence);
            if *from > totals.last_sequence {
                break;
            }
            let held = store.streams().get(stream.id).ok_or(StoreError::NoSuchStream)?;
            let message = held.stream.get(*from)?;
            let is_unwanted = message.is_some_and(|message| {
                filters.matches(message.subject)
                    && !self.is_needed(&store, stream, message.subject, *from)
            });
            if is_unwanted {
                store.delete_done(stream.id, *from)?;
                is_changed = true;
            }
            *from += 1;
        }
        let is_done = totals(&store).is_none_or(|totals| *from > totals.last_sequence);
        drop(store);
        if is_changed {
            self.note_change(stream);
        }
        Ok(is_done)
    }

    /// True if some consumer of the stream still needs a message.
    pub(super) fn is_needed(
        &self,
        store: &Store<D>,
        stream: &StreamHandle,
        subject: &[u8],
        sequence: u64,
    ) -> bool {
        // On a work queue each message is for one consumer.
        let has_others = stream.config().retention == super::stream_config::Retention::Interest;
        has_others
            && stream.consumers.all().iter().any(|consumer| {
                // The one that is being served does not need it, or it would not ask.
                let Ok(part) = consumer.part.try_borrow() else { return false };
                let state =
                    super::consumer_ledger::state_of(store, stream.id, consumer.id, &part.memory);
                part.filters.matches(subject) && part.machine.needs(sequence, state)
            })
    }
}
