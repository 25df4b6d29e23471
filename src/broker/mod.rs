//! Floor 4: one shard's routing state. No I/O, no await, no thread.
//!
//! `Broker` is the facade: the verbs every speaker uses. It is borrowed for one batch of commands
//! and never across an await. Sinks (outboxes, links) append and return; they never call back.

pub(crate) mod backlog;
pub(crate) mod byte_queue;
pub(crate) mod client_facts;
mod crossing;
pub(crate) mod crossing_sink;
mod deliver;
pub(crate) mod fan_out;
mod fan_out_frame;
mod forward;
pub(crate) mod frame;
pub(crate) mod handed_over;
pub(crate) mod handover;
mod imported;
pub(crate) mod importing;
pub(crate) mod inspect;
pub(crate) mod interest;
#[cfg(any(test, debug_assertions))]
mod invariants;
pub(crate) mod late_send;
pub(crate) mod latency;
pub(crate) mod link;
pub(crate) mod mailbox;
pub(crate) mod match_cache;
mod match_list;
pub(crate) mod message_trace;
mod names;
mod no_responders;
pub(crate) mod outbox;
pub(crate) mod outbox_totals;
pub(crate) mod passage;
mod publish;
pub(crate) mod queue_group;
mod responses;
mod resume;
pub(crate) mod route_cache;
pub(crate) mod service;
pub(crate) mod service_sink;
pub(crate) mod subject_table;
pub(crate) mod subscription;
pub(crate) mod trace;
pub(crate) mod turn;
mod walk;
pub(crate) mod wanted_by;
pub(crate) mod watch;

use std::cell::{Cell, RefCell};
use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use foldhash::SharedSeed;
use foldhash::fast::SeedableRandomState;
use slab::Slab;

use crate::auth::account_imports::AccountImports;
use crate::auth::permissions::{DeliveryFilter, Permissions, SubscribeRight};
use crate::base::gate::Gate;
use crate::base::ids::{AccountId, ClientKey, LinkId};
use crate::base::limits::{
    INTEREST_WEIGHT_MIN, MATCH_CACHE_BYTES_MAX, MATCH_CACHE_ENTRIES, TOKEN_BYTES_PER_UNIT,
    TURN_WORK_MAX,
};
use crate::base::shrink;
use crate::base::table::Table;
use crate::protocol::headers::{AnyCaseName, HeaderName};
use crate::protocol::subject;
use backlog::{Backlog, Leaving};
use client_facts::ClientFacts;
pub(crate) use crossing::REQUEST_INFO;
use crossing::{Rewritten, Services};
use fan_out_frame::FanOutFrame;
use handover::Cuts;
use importing::Importing;
use interest::InterestCounts;
use link::{Congestion, InterestChange, LinkSink};
use match_cache::{CachedBytes, MatchCache};
use match_list::{Leftovers, MatchList};
use outbox::Outbox;
use responses::Responses;
use service::Departed;
use subject_table::SubjectTable;
use subscription::{Sink, Subscription};
use watch::Watches;

/// The form in which a shard's tasks share the broker.
pub type BrokerHandle = Rc<RefCell<Broker>>;

/// One shard's routing state, with the verbs of every speaker.
pub struct Broker {
    accounts: Accounts,
    shared: Shared,
    clients: Slab<ClientState>,
    /// Keys of clients given out so far.
    keys_given: u32,
    links: Vec<LinkState>,
    interest: InterestCounts,
    /// Subscriptions in the tables of all accounts.
    table_total: usize,
    random: fastrand::Rng,
    hasher: SeedableRandomState,
    /// Subscriptions that reached their maximum and are still in the tables.
    expired: Vec<Rc<Subscription>>,
    backlog: Backlog,
    cuts: Cuts,
    departed: Departed,
    watches: Watches,
    /// The imports of all accounts.
    imports: Arc<AccountImports>,
    /// Scratch space for the subject of a message in another account.
    mapped: Vec<u8>,
    /// Scratch space for the description of a requester.
    request_info: Vec<u8>,
    /// The name of the header with it, as the server writes it, and as others may.
    request_info_name: HeaderName,
    request_info_in_any_case: AnyCaseName,
    /// The header with the subject for a message's trace.
    trace_destination: HeaderName,
    /// Rewritten messages whose memory is used again.
    rewritten: Vec<Rewritten>,
    /// The account that was looked at last for requests whose time is over.
    trimmed: usize,
    /// The wait for messages that came from other shards and are not all delivered.
    arrivals: Option<Congestion>,
    /// Work of one turn, of whatever kind.
    turn_work_max: usize,
    /// Work of changes of the tables that nobody has taken yet.
    change_work: usize,
    /// The frame of the fan-out in progress; here so that its memory is taken once.
    frame: FanOutFrame,
    unheard: no_responders::UnheardRequests,
    traces: message_trace::Traces,
    latencies: latency::Latencies,
    /// Some link may have no room for a message.
    tight: Rc<Cell<bool>>,
    pub counters: BrokerCounters,
}

/// Counts of this shard's routing since it started.
#[derive(Clone, Copy, Debug, Default)]
pub struct BrokerCounters {
    /// Messages sent over links.
    pub forwarded: u64,
    /// Queue messages that came over a link and found no member anywhere any more.
    pub queue_members_gone: u64,
    /// Requests to other accounts that found no room among those under way.
    pub requests_refused: u64,
    /// Answers from another shard that found no room behind.
    pub answers_dropped: u64,
    /// Messages that ended before everybody had them: their publishers were gone, and too many
    /// waited.
    pub(crate) orphans_dropped: u64,
    /// Requests that nobody got and whose requesters are not told so: too many were waiting.
    pub unanswered: u64,
    /// The most work that was done in one go, in units of `TURN_WORK_MAX`.
    pub turn_work_max: usize,
}

/// Imports whose look at a subscription takes about as long as the review of its rights.
const IMPORTS_PER_LOOK: usize = 8;

struct AccountState {
    table: SubjectTable<Rc<Subscription>>,
    cache: MatchCache<Rc<MatchList>>,
    counts: inspect::TableCounts,
    leftovers: Rc<Leftovers>,
    /// Imports of services, once somebody may use them.
    services: Option<Box<Services>>,
    /// Requests that it has to answer, once there was one.
    responses: Option<Box<Responses>>,
}

/// Values that the accounts of a shard share.
struct Shared {
    cached_bytes: Rc<CachedBytes>,
    leftovers: Rc<Leftovers>,
}

impl AccountState {
    fn new(random: &mut fastrand::Rng, shared: &Shared) -> Self {
        let bytes = shared.cached_bytes.clone();
        Self {
            table: SubjectTable::new(random.u64(..)),
            cache: MatchCache::new(MATCH_CACHE_ENTRIES, bytes, random.u64(..)),
            counts: inspect::TableCounts::default(),
            leftovers: shared.leftovers.clone(),
            services: None,
            responses: None,
        }
    }
}

/// By id. There are as many ids as accounts were ever configured, a hundred thousand perhaps: each
/// has its state when it is needed here for the first time.
struct Accounts(Vec<Option<Box<AccountState>>>);

impl Accounts {
    #[inline]
    fn get(&self, index: usize) -> Option<&AccountState> {
        self.0.get(index)?.as_deref()
    }

    #[inline]
    fn get_mut(&mut self, index: usize) -> Option<&mut AccountState> {
        self.0.get_mut(index)?.as_deref_mut()
    }

    fn put(&mut self, index: usize, state: AccountState) {
        if self.0.len() <= index {
            self.0.resize_with(index + 1, || None);
        }
        self.0[index] = Some(Box::new(state));
    }

    /// Ids are below this.
    fn len(&self) -> usize {
        self.0.len()
    }

    #[cfg(any(test, debug_assertions))]
    fn iter(&self) -> impl Iterator<Item = (AccountId, &AccountState)> {
        let states = self.0.iter().enumerate();
        states.filter_map(|(id, state)| Some((AccountId(id as u32), state.as_deref()?)))
    }
}

impl std::ops::Index<usize> for Accounts {
    type Output = AccountState;

    #[inline]
    fn index(&self, index: usize) -> &AccountState {
        self.get(index).expect("who speaks of an account made sure of it")
    }
}

impl std::ops::IndexMut<usize> for Accounts {
    #[inline]
    fn index_mut(&mut self, index: usize) -> &mut AccountState {
        self.get_mut(index).expect("who speaks of an account made sure of it")
    }
}

struct ClientState {
    key: ClientKey,
    account: AccountId,
    outbox: Rc<Outbox>,
    /// By sid.
    subscriptions: Table<Rc<Subscription>>,
    /// The subscriptions that are being dropped; `subscriptions` is empty until all are.
    leaving: Option<Leaving>,
    /// The number of `subscriptions` that reached their maximum.
    expired_count: u32,
    /// The place where the review of its subscriptions goes on; none = it is not under review.
    review: Option<usize>,
    /// The subscription whose shadows are being made.
    importing: Option<Box<Importing>>,
    /// Its description for other accounts; none = its account imports no services.
    facts: Option<Box<ClientFacts>>,
    /// Since a consumer on another shard first asked this publisher to pause.
    pace: Option<RemotePace>,
}

#[derive(Default)]
struct RemotePace {
    paused: bool,
    /// Counts resumes.
    resumed: Rc<Gate>,
}

struct LinkState {
    sink: Box<dyn LinkSink>,
    /// Interest behind the link, by (account, filter, queue).
    subscriptions: Table<(AccountId, Rc<Subscription>)>,
}

/// The outcome of SUB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscribed {
    Added,
    /// The sid is in use: the first subscription stays.
    Duplicate,
}

/// A part of a review of a client's subscriptions.
pub struct Review {
    /// The subscriptions that were removed because they are no longer allowed.
    pub removed: Vec<Rc<Subscription>>,
    /// True if all subscriptions were examined.
    pub is_done: bool,
}

impl Broker {
    pub fn new(seed: u64) -> Self {
        Self::with_hashes(seed, SharedSeed::global_random())
    }

    /// A broker for simulators: unlike `new`, the same seed leads to the same run in every process,
    /// down to the order in which a client's subscriptions go.
    pub fn reproducible(seed: u64) -> Self {
        Self::with_hashes(seed, SharedSeed::global_fixed())
    }

    fn with_hashes(seed: u64, hash_seed: &'static SharedSeed) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let shared = Shared {
            cached_bytes: CachedBytes::new(MATCH_CACHE_BYTES_MAX),
            leftovers: Rc::default(),
        };
        let global = AccountState::new(&mut random, &shared);
        Self {
            accounts: Accounts(vec![Some(Box::new(global))]),
            shared,
            clients: Slab::new(),
            keys_given: 0,
            links: Vec::new(),
            interest: InterestCounts::new(),
            table_total: 0,
            random,
            hasher: SeedableRandomState::with_seed(seed, hash_seed),
            expired: Vec::new(),
            backlog: Backlog::new(TURN_WORK_MAX),
            cuts: Cuts::default(),
            departed: Departed::default(),
            watches: Watches::new(SeedableRandomState::with_seed(seed, hash_seed)),
            imports: Arc::default(),
            mapped: Vec::new(),
            request_info: Vec::new(),
            request_info_name: HeaderName::new(crossing::REQUEST_INFO),
            request_info_in_any_case: AnyCaseName::new(crossing::REQUEST_INFO),
            trace_destination: HeaderName::new(message_trace::DESTINATION),
            rewritten: Vec::new(),
            trimmed: 0,
            arrivals: None,
            turn_work_max: TURN_WORK_MAX,
            change_work: 0,
            frame: FanOutFrame::default(),
            unheard: no_responders::UnheardRequests::default(),
            traces: message_trace::Traces::default(),
            latencies: latency::Latencies::default(),
            tight: Rc::default(),
            counters: BrokerCounters::default(),
        }
    }

    /// Makes sure that every message published on this shard is where its receivers' shards will
    /// find it before they do anything else: what PONG promises. Some = wait for that first.
    pub fn fence(&self) -> Option<Congestion> {
        self.links.iter().find_map(|link| link.sink.fence())
    }

    /// Adds a client; its subscriptions will deliver into `outbox`.
    pub fn attach(&mut self, account: AccountId, outbox: Rc<Outbox>) -> ClientKey {
        let entry = self.clients.vacant_entry();
        let key = ClientKey::new(entry.key(), self.keys_given);
        self.keys_given = self.keys_given.wrapping_add(1);
        entry.insert(ClientState {
            key,
            account,
            outbox,
            subscriptions: Table::new(),
            leaving: None,
            expired_count: 0,
            review: None,
            importing: None,
            facts: None,
            pace: None,
        });
        key
    }

    /// The client with this key, unless it has left.
    fn client(&self, key: ClientKey) -> Option<&ClientState> {
        self.clients.get(key.index()).filter(|client| client.key == key)
    }

    /// Makes sure that an account's state exists.
    fn ensure_account(&mut self, account: AccountId) {
        if self.accounts.get(account.index()).is_none() {
            let state = AccountState::new(&mut self.random, &self.shared);
            self.accounts.put(account.index(), state);
        }
    }

    /// Moves a client to the account it logged in to. It has no subscriptions yet, unless that is
    /// where it is already: what a client subscribed before its first CONNECT stays.
    pub fn set_account(&mut self, client: ClientKey, account: AccountId) {
        self.ensure_account(account);
        self.ensure_services(account);
        let state = &mut self.clients[client.index()];
        if state.account != account {
            assert!(state.subscriptions.is_empty() && state.leaving.is_none());
            state.account = account;
        }
    }

    /// Sets the work that one turn may do, for simulators.
    pub fn set_turn_work_max(&mut self, work_max: usize) {
        self.turn_work_max = work_max;
        self.backlog = Backlog::new(work_max);
    }

    /// Work that one turn may do.
    #[inline]
    pub fn turn_work_max(&self) -> usize {
        self.turn_work_max
    }

    /// The wait before anything may be published here, if messages that came from other shards
    /// earlier are not all delivered yet: a message published now would be heard before them, and
    /// might be their consequence.
    pub fn arrivals(&self) -> Option<&Congestion> {
        self.arrivals.as_ref()
    }

    pub fn set_arrivals(&mut self, arrivals: Option<Congestion>) {
        self.arrivals = arrivals;
    }

    /// A turn did so much.
    #[inline]
    pub fn note_turn_work(&mut self, work: usize) {
        self.counters.turn_work_max = self.counters.turn_work_max.max(work);
    }

    /// The work of adding and removing subscriptions since it was last taken, in addition to
    /// `SUBSCRIPTION_WORK` for each. Whoever changes the tables takes it and counts it in its turn.
    #[inline]
    pub fn take_change_work(&mut self) -> usize {
        std::mem::take(&mut self.change_work)
    }

    /// Gives back memory that clients which are gone have left; to be called now and then.
    pub fn trim(&mut self) {
        shrink::slab(&mut self.clients);
        self.traces.finish_old(Instant::now());
        self.forget_expired_requests();
    }

    /// Some while a consumer on another shard asks this publisher to pause: counts resumes.
    pub fn remote_pace(&self, client: ClientKey) -> Option<&Rc<Gate>> {
        let pace = self.clients[client.index()].pace.as_ref()?;
        pace.paused.then_some(&pace.resumed)
    }

    #[cfg(any(test, debug_assertions))]
    fn hash_of_sid(&self, sid: &[u8]) -> u64 {
        self.hasher.hash_one(sid)
    }

    pub fn subscription_count(&self, client: ClientKey) -> usize {
        let state = &self.clients[client.index()];
        state.subscriptions.len() - state.expired_count as usize
    }

    /// True if the client has no subscription, and none of its former ones is still to go.
    pub fn has_no_subscriptions(&self, client: ClientKey) -> bool {
        let state = &self.clients[client.index()];
        state.subscriptions.is_empty() && state.leaving.is_none() && state.importing.is_none()
    }

    /// All subscriptions of this shard's own clients.
    pub fn subscription_total(&self) -> usize {
        self.clients.iter().map(|(_, client)| client.subscriptions.len()).sum()
    }

    /// Subscriptions in the tables and interest counted: this shard's own and what links announced.
    /// 0 when nobody on the server wants anything.
    pub fn interest_total(&self) -> usize {
        let links: usize = self.links.iter().map(|link| link.subscriptions.len()).sum();
        self.table_total + links + self.interest.len()
    }

    /// Subscriptions in the tables, which a publish looks through.
    pub fn table_total(&self) -> usize {
        self.table_total
    }

    /// The room to wait for before a session may subscribe; None = it may. Interest must reach
    /// every peer's lane before anything the client does next, so a session waits while a lane has
    /// no room.
    pub fn interest_congestion(&self) -> Option<Congestion> {
        self.links.iter().find_map(|link| link.sink.interest_congestion())
    }

    /// True if a subscription may go that no client waits for.
    pub fn has_interest_reserve(&self) -> bool {
        self.links.iter().all(|link| link.sink.has_interest_reserve())
    }

    pub fn subscribe(
        &mut self,
        client: ClientKey,
        filter: &[u8],
        queue: &[u8],
        sid: &[u8],
        deny: Option<DeliveryFilter>,
    ) -> Subscribed {
        let hash = self.hasher.hash_one(sid);
        let state = &self.clients[client.index()];
        if let Some(other) = state.subscriptions.find(hash, |other| other.sid() == sid) {
            if !other.is_removed() {
                return Subscribed::Duplicate;
            }
            let expired = other.clone();
            self.forget(&expired);
        }
        let state = &mut self.clients[client.index()];
        let account = state.account;
        let sink = Sink::Client { key: client, outbox: state.outbox.clone() };
        let subscription = Subscription::new(filter, queue, sid, sink, 1);
        subscription.set_deny(deny);
        let subscription = Rc::new(subscription);
        let hasher = &self.hasher;
        if state.review.is_some() && state.subscriptions.moves_on_insert(hash) {
            state.review = Some(0);
        }
        state
            .subscriptions
            .insert_unique(hash, subscription.clone(), |other| hasher.hash_one(other.sid()));
        self.add_to_table(account, &subscription);
        self.count_interest(account, &subscription, true);
        self.begin_importing(client, account, &subscription);
        Subscribed::Added
    }

    /// Ends a subscription after `max` deliveries counted from SUB, or at once if it had that many.
    /// An unknown sid is ignored.
    pub fn unsubscribe(&mut self, client: ClientKey, sid: &[u8], max: u64) {
        let hash = self.hasher.hash_one(sid);
        let state = &self.clients[client.index()];
        let Some(subscription) =
            state.subscriptions.find(hash, |other| other.sid() == sid).cloned()
        else {
            return;
        };
        if max > subscription.delivered.get() {
            subscription.set_max(max);
        } else {
            self.forget(&subscription);
        }
    }

    /// Takes one client subscription out of everything that knows it.
    fn forget(&mut self, subscription: &Rc<Subscription>) {
        let client =
            subscription.client().expect("only clients' subscriptions are forgotten one by one");
        let hash = self.hasher.hash_one(subscription.sid());
        // One that reached its maximum may be gone before, with its client and all the others.
        let Some(state) = self.clients.get_mut(client.index()) else { return };
        let account = state.account;
        let removed = state.subscriptions.remove(hash, |other| Rc::ptr_eq(other, subscription));
        if removed.is_none() {
            return;
        }
        state.expired_count -= u32::from(subscription.is_removed());
        // A review walks over places, which a smaller table would change.
        if state.review.is_none() {
            let hasher = &self.hasher;
            state.subscriptions.shrink(hash, |other| hasher.hash_one(other.sid()));
        }
        self.withdraw(account, subscription);
    }

    /// Takes a client's subscription out of the tables, with all that it stands for.
    fn withdraw(&mut self, account: AccountId, subscription: &Rc<Subscription>) {
        self.remove_from_table(account, subscription);
        self.count_interest(account, subscription, false);
        self.drop_shadows(subscription);
    }

    /// Drops the subscriptions that `permissions` no longer allow, and gives them: looks at no more
    /// than `at_most` of them, from where the last call stopped. `restarts`: with these permissions
    /// for the first time. Told to other shards is each that is dropped: between calls
    /// `has_interest_reserve` is to be obeyed.
    pub fn review_subscriptions(
        &mut self,
        client: ClientKey,
        permissions: &Permissions,
        restarts: bool,
        at_most: usize,
    ) -> Review {
        let state = &mut self.clients[client.index()];
        let from = if restarts { 0 } else { state.review.unwrap_or_default() };
        // From here on every change that might move an entry begins the review anew.
        state.review = Some(from);
        let account = state.account;
        self.ensure_services(account);
        // Each subscription may stand for as many as the account imports.
        let streams = self.imports.streams_of(account).map_or(0, |streams| streams.count());
        let at_most = (at_most / (1 + streams / IMPORTS_PER_LOOK)).max(1);
        let (mut removed, mut reviewed, mut work) = (Vec::new(), 0, 0);
        // Places of the table, most of them taken.
        let mut looks_left = at_most * 4;
        let mut next = Some(from);
        while let Some(place) = next
            && reviewed < at_most
            && looks_left > 0
            && work < self.turn_work_max
        {
            let mut found = None;
            next = self.walk_subscriptions(client, place, &mut looks_left, |subscription| {
                found = Some(subscription.clone());
                false
            });
            self.clients[client.index()].review = next;
            let Some(subscription) = found else { continue };
            reviewed += 1;
            let queue = subscription.queue();
            let right = permissions
                .may_subscribe(subscription.filter(), (!queue.is_empty()).then_some(queue));
            let deny = match right {
                SubscribeRight::Denied(_) => {
                    self.forget(&subscription);
                    work += self.take_change_work();
                    removed.push(subscription);
                    continue;
                }
                SubscribeRight::Allowed => None,
                SubscribeRight::AllowedWithDeliveryFilter(filter) => Some(filter),
            };
            subscription.set_deny(deny);
            if streams > 0 || subscription.shadow_count() > 0 {
                self.renew_shadows(client, &subscription);
            }
        }
        Review { removed, is_done: next.is_none() }
    }

    /// True if a review of this client's subscriptions has begun and is not done. It gets on only
    /// if its client does not subscribe faster than it is reviewed.
    pub fn is_under_review(&self, client: ClientKey) -> bool {
        self.clients[client.index()].review.is_some()
    }

    fn add_to_table(&mut self, account: AccountId, subscription: &Rc<Subscription>) {
        let state = &mut self.accounts[account.index()];
        let slot = state.table.insert(subscription.filter(), subscription.clone());
        subscription.set_slot(slot);
        self.table_total += 1;
        state.counts.added(subscription);
        self.change_work += Self::evict(state, subscription.filter());
        self.watches.table_changed(account, subscription.filter());
    }

    fn remove_from_table(&mut self, account: AccountId, subscription: &Rc<Subscription>) {
        subscription.mark_removed();
        let state = &mut self.accounts[account.index()];
        let slot = subscription.take_slot().expect("a subscription is removed once");
        let removed = state.table.remove(subscription.filter(), slot);
        debug_assert!(removed.is_some());
        self.table_total -= 1;
        state.counts.removed(subscription);
        self.change_work += Self::evict(state, subscription.filter());
        self.watches.table_changed(account, subscription.filter());
    }

    /// Drops the cached lists that a changed filter concerns, and gives the work of a change of
    /// this filter.
    fn evict(state: &mut AccountState, filter: &[u8]) -> usize {
        let mut work = filter.len() / TOKEN_BYTES_PER_UNIT;
        if subject::has_wildcard(filter) {
            let eviction = state.cache.evict_matching(filter);
            work += eviction.work;
            if let Some(cleared) = eviction.cleared {
                state.leftovers.keep_cleared(cleared);
            }
        }
        // A wildcard filter is also a literal subject that somebody may publish.
        state.cache.evict_literal(filter);
        work
    }

    /// Tells the links when the first subscription comes or the last one goes, when their number
    /// passes a power of two, and each change of a queue group's size.
    fn count_interest(&mut self, account: AccountId, subscription: &Subscription, added: bool) {
        if self.links.is_empty() {
            return;
        }
        let (filter, queue) = (subscription.filter(), subscription.queue());
        let count = self.interest.change(account, filter, queue, added);
        let crossed = if added { count == 1 } else { count == 0 };
        let weighs = count >= INTEREST_WEIGHT_MIN && count.is_power_of_two();
        if queue.is_empty() && !crossed && !weighs {
            return;
        }
        let change = InterestChange::new(account, filter, queue, count);
        for link in &self.links {
            link.sink.interest_changed(&change);
        }
    }

    /// Adds a link. All links are opened before the first client attaches.
    pub fn link_open(&mut self, sink: Box<dyn LinkSink>) -> LinkId {
        debug_assert!(self.clients.is_empty());
        self.links.push(LinkState { sink, subscriptions: Table::new() });
        LinkId(u32::try_from(self.links.len() - 1).expect("few links"))
    }

    /// Applies a change of interest behind a link.
    pub fn link_interest(&mut self, link: LinkId, change: &InterestChange) {
        self.ensure_account(change.account);
        let (account, filter, queue) = (change.account, change.filter(), change.queue());
        let hash = self.hasher.hash_one((account, filter, queue));
        let known = |other: &(AccountId, Rc<Subscription>)| {
            other.0 == account && other.1.filter() == filter && other.1.queue() == queue
        };
        let state = &mut self.links[link.index()];
        let existing = state.subscriptions.find(hash, known).map(|entry| entry.1.clone());
        let hasher = &self.hasher;
        let hash_of = |other: &(AccountId, Rc<Subscription>)| {
            hasher.hash_one((other.0, other.1.filter(), other.1.queue()))
        };
        match (existing, change.weight) {
            (Some(subscription), 0) => {
                state.subscriptions.remove(hash, known);
                state.subscriptions.shrink(hash, hash_of);
                self.remove_from_table(account, &subscription);
            }
            (Some(subscription), weight) => {
                subscription.set_weight(weight);
                if queue.is_empty() {
                    // Lists have the sum of what their filters weigh.
                    let account = &mut self.accounts[account.index()];
                    account.table.touch();
                    self.change_work += Self::evict(account, filter);
                }
            }
            (None, 0) => {}
            (None, weight) => {
                let subscription =
                    Rc::new(Subscription::new(filter, queue, b"", Sink::Link(link), weight));
                state.subscriptions.insert_unique(hash, (account, subscription.clone()), hash_of);
                self.add_to_table(account, &subscription);
            }
        }
    }

    /// A consumer behind a link asks a publisher here to pause, or lets it go on.
    pub fn link_pace(&mut self, client: ClientKey, paused: bool) {
        let state = self.clients.get_mut(client.index());
        if let Some(state) = state.filter(|state| state.key == client) {
            let pace = state.pace.get_or_insert_default();
            pace.paused = paused;
            if !paused {
                pace.resumed.advance_by(1);
            }
        }
    }
}
