//! The server's own service on one shard: it hears what is asked of the server here, and tells what happens to
//! clients here.
//!
//! Requests go on to the service's thread, which answers by an order. Events are made on the spot, and only when
//! somebody wants them: where their reader does not keep up they are dropped and counted, like any message to
//! a slow consumer. Nothing here is per message.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use hashbrown::HashSet;

use super::Shard;
use super::system_door::SystemDoor;
use crate::auth::account::Account;
use crate::auth::state::AuthState;
use crate::base::counters::ServerCounters;
use crate::base::ids::{AccountId, ConnectionId, ShardId};
use crate::base::limits::{SERVED_ACCOUNTS_PER_TURN_MAX, SYSTEM_REQUESTS_PER_TURN_MAX};
use crate::broker::Broker;
use crate::broker::internal::{Delivery, Mailbox, Published, Reach};
use crate::client::context::{ClientContext, Report};
use crate::client::session::ClientSession;
use crate::config::auth_options::PermissionOptions;
use crate::net::listener::Peer;
use crate::peer::facts::SessionFacts;
use crate::protocol::message::Message;
use crate::protocol::nats::error::CloseReason;
use crate::protocol::subject;
use crate::system::answer::Volume;
use crate::system::events::{self, ClientFacts};
use crate::system::request;
use crate::system::server_info::ServerInfo;

/// One request, with what only this shard knows of who asks.
#[derive(Debug)]
pub(crate) struct SystemRequest {
    /// Where the answer is to be published, and in which account.
    pub shard: ShardId,
    pub account: AccountId,
    /// The name of the account unless it is the system account.
    pub other_account: Option<Arc<str>>,
    pub subject: Vec<u8>,
    pub reply: Vec<u8>,
    pub headers: Vec<u8>,
    pub payload: Vec<u8>,
    pub requester: Option<Requester>,
}

/// A client that asks who it is.
#[derive(Debug)]
pub(crate) struct Requester {
    pub user: String,
    pub account: String,
    pub permissions: Option<Arc<PermissionOptions>>,
}

impl SystemRequest {
    /// Bytes of what a client decides the length of.
    pub(super) fn size(&self) -> usize {
        self.subject.len() + self.reply.len() + self.headers.len() + self.payload.len()
    }
}

/// See the module's words.
pub(super) struct System {
    mailbox: Rc<Mailbox>,
    door: RefCell<SystemDoor>,
    /// Requests that found no room at the door.
    dropped: Cell<u64>,
    counters: ServerCounters,
    /// Pairs the two clocks, so that moments become the same times as in monitoring.
    started: (Instant, SystemTime),
}

impl System {
    pub(super) fn new(
        door: SystemDoor,
        counters: ServerCounters,
        started: (Instant, SystemTime),
    ) -> Rc<Self> {
        let mailbox = Rc::new(Mailbox::default());
        Rc::new(Self { mailbox, door: door.into(), dropped: Cell::new(0), counters, started })
    }

    fn pass_on(&self, request: Box<SystemRequest>) {
        if !self.door.borrow_mut().push_request(request) {
            self.dropped.set(self.dropped.get() + 1);
        }
    }

    /// For the ticker: tells what found no room before.
    pub(super) fn tick(&self) {
        self.door.borrow_mut().push_changes();
    }

    /// Whether a message in the system account would reach anybody.
    fn is_wanted(&self, broker: &mut Broker, auth: &AuthState, subject: &str) -> Option<AccountId> {
        let system = auth.authenticator.accounts().system()?;
        let id = auth.id(system);
        // A file's account name may be no token.
        let is_wanted =
            subject::is_sendable(subject.as_bytes()) && broker.is_wanted(id, subject.as_bytes());
        is_wanted.then_some(id)
    }

    fn server_info(&self, clients: &ClientContext, now: SystemTime) -> ServerInfo {
        let (info, options) = (clients.info.borrow(), clients.options.borrow());
        ServerInfo::new(&info, &options, self.counters.next_system_sequence(), now)
    }

    /// When the server started, as its monitoring knows it too.
    pub(super) fn epoch(&self) -> Instant {
        self.started.0
    }

    fn time_of(&self, moment: Instant) -> SystemTime {
        let (instant, time) = self.started;
        time + moment.saturating_duration_since(instant)
    }

    fn client_facts<'a>(&self, facts: &SessionFacts<'a>) -> ClientFacts<'a> {
        ClientFacts {
            id: facts.id.0,
            started: self.time_of(facts.started),
            host: match facts.peer {
                Peer::Tcp(_) => facts.peer.host(),
                Peer::Unix => String::new(),
            },
            account: facts.account,
            user: facts.user,
            name: &facts.connect.name,
            lang: &facts.connect.lang,
            version: &facts.connect.version,
            rtt: facts.rtt,
            received: Volume { msgs: facts.in_messages, bytes: facts.in_bytes },
            sent: Volume { msgs: facts.out_messages, bytes: facts.out_bytes },
        }
    }

    /// A session logged in or was refused; called in the middle of its turn.
    pub(super) fn report(
        &self,
        broker: &mut Broker,
        clients: &ClientContext,
        facts: &SessionFacts<'_>,
        report: Report,
    ) {
        let auth = clients.auth.borrow().clone();
        match report {
            Report::LoggedIn { left } => {
                let subject = events::connect_subject(facts.account);
                if let Some(account) = self.is_wanted(broker, &auth, &subject) {
                    let now = SystemTime::now();
                    let server = self.server_info(clients, now);
                    let event = events::connected(&server, &self.client_facts(facts), now);
                    publish(broker, account, &subject, &event);
                }
                self.account_changed(broker, &auth, facts.account);
                if let Some(left) = left {
                    self.account_changed(broker, &auth, &left);
                }
            }
            Report::Refused => {
                let reason = CloseReason::AuthenticationFailure;
                let subject = events::auth_error_subject(&clients.info.borrow().server_id);
                if let Some(account) = self.is_wanted(broker, &auth, &subject) {
                    self.tell_end(broker, clients, facts, account, &subject, reason);
                }
                let accounts = auth.authenticator.accounts();
                let own = accounts.get(facts.account).map(|account| auth.id(account));
                let subject = events::ACCOUNT_AUTH_ERROR;
                if let Some(account) = own
                    && accounts.system().is_some()
                    && broker.is_wanted(account, subject.as_bytes())
                {
                    self.tell_end(broker, clients, facts, account, subject, reason);
                }
            }
        }
    }

    /// A session has ended.
    pub(super) fn ended(
        &self,
        broker: &mut Broker,
        clients: &ClientContext,
        facts: &SessionFacts<'_>,
        reason: CloseReason,
    ) {
        let auth = clients.auth.borrow().clone();
        let subject = events::disconnect_subject(facts.account);
        if let Some(account) = self.is_wanted(broker, &auth, &subject) {
            self.tell_end(broker, clients, facts, account, &subject, reason);
        }
        self.account_changed(broker, &auth, facts.account);
    }

    fn tell_end(
        &self,
        broker: &mut Broker,
        clients: &ClientContext,
        facts: &SessionFacts<'_>,
        account: AccountId,
        subject: &str,
        reason: CloseReason,
    ) {
        let now = SystemTime::now();
        let server = self.server_info(clients, now);
        let client = self.client_facts(facts);
        let event = events::disconnected(&server, &client, reason.text(), now);
        publish(broker, account, subject, &event);
    }

    /// The number of an account's connections changed. The global account's is not told, as in nats-server.
    fn account_changed(&self, broker: &mut Broker, auth: &AuthState, name: &str) {
        let account = auth.authenticator.accounts().get(name);
        let Some(account) = account.filter(|account| !account.is_global()) else { return };
        let subjects = events::account_connections_subjects(name);
        if subjects.iter().any(|subject| self.is_wanted(broker, auth, subject).is_some()) {
            self.door.borrow_mut().push_change(account.name.clone());
        }
    }
}

/// The one way of all that the server publishes by itself. What cannot be a subject goes nowhere.
fn publish(broker: &mut Broker, account: AccountId, subject: &str, payload: &[u8]) -> Published {
    if !subject::is_sendable(subject.as_bytes()) {
        return Published::NoInterest;
    }
    let size = payload.len().to_string();
    broker.publish_internal(
        account,
        &Message {
            subject: subject.as_bytes(),
            reply: b"",
            headers: b"",
            body: payload,
            header_size_text: b"",
            size_text: size.as_bytes(),
            tail: b"",
        },
    )
}

impl Shard {
    /// Subscribes what the server answers, before anybody is served.
    pub(super) fn subscribe_system(&self) {
        let auth = self.clients.auth.borrow().clone();
        self.serve_accounts(&auth, auth.authenticator.accounts().iter());
    }

    /// The same in accounts that do not have it yet, after a reload that brought new ones: some a turn.
    pub(super) async fn subscribe_system_paced(&self) {
        let auth = self.clients.auth.borrow().clone();
        let mut accounts = auth.authenticator.accounts().iter().peekable();
        while accounts.peek().is_some() {
            let some = accounts.by_ref().take(SERVED_ACCOUNTS_PER_TURN_MAX);
            self.serve_accounts(&auth, some);
            self.hook.yield_turn().await;
        }
    }

    fn serve_accounts<'a>(
        &self,
        auth: &AuthState,
        accounts: impl Iterator<Item = &'a Arc<Account>>,
    ) {
        if auth.authenticator.accounts().system().is_none() {
            return;
        }
        let mut served = self.served_accounts.borrow_mut();
        let mut broker = self.broker.borrow_mut();
        let mut subscribe = |account: &Account, filter: &str| {
            let mailbox = &self.system.mailbox;
            broker.subscribe_internal(
                auth.id(account),
                filter.as_bytes(),
                Reach::OwnShard,
                mailbox,
            );
        };
        for account in accounts {
            if !served.insert(auth.id(account)) {
                continue;
            }
            if account.is_system {
                let filters =
                    request::system_account_filters(&self.clients.info.borrow().server_id);
                filters.iter().for_each(|filter| subscribe(account, filter));
            } else {
                let filters = request::OTHER_ACCOUNTS_SUBJECTS;
                filters.iter().for_each(|filter| subscribe(account, filter));
            }
        }
    }

    /// Hands requests on, as they come.
    pub(super) async fn hear_requests(self: Rc<Self>) {
        loop {
            poll_fn(|context| self.system.mailbox.poll_ready(context)).await;
            self.pass_some_on();
            self.hook.yield_turn().await;
        }
    }

    fn pass_some_on(&self) {
        for _ in 0..SYSTEM_REQUESTS_PER_TURN_MAX {
            let Some(delivery) = self.system.mailbox.take() else { return };
            let request = self.describe_request(delivery);
            self.system.pass_on(Box::new(request));
        }
    }

    fn describe_request(&self, delivery: Delivery) -> SystemRequest {
        let auth = self.clients.auth.borrow().clone();
        let other_account = match auth.account(delivery.account) {
            Some(account) if account.is_system => None,
            Some(account) => Some(account.name.clone()),
            // Gone by a reload: nobody there reads the answer.
            None => Some("".into()),
        };
        SystemRequest {
            shard: self.id,
            account: delivery.account,
            other_account,
            requester: delivery.publisher.and_then(|id| self.requester(id)),
            subject: delivery.subject,
            reply: delivery.reply,
            headers: delivery.headers,
            payload: delivery.payload,
        }
    }

    fn requester(&self, id: ConnectionId) -> Option<Requester> {
        self.with_session(id, |session| {
            let facts = session.facts(Instant::now());
            Requester {
                user: facts.user.to_owned(),
                account: facts.account.to_owned(),
                permissions: session.permission_options(),
            }
        })
    }

    /// Calls `visit` with the session of a connection of this shard.
    fn with_session<T>(
        &self,
        id: ConnectionId,
        visit: impl FnOnce(&ClientSession) -> T,
    ) -> Option<T> {
        let place = self.places.borrow().get(&id).copied()?;
        let session = self.registry.borrow().get(place)?.session.clone();
        let session = session.borrow();
        Some(visit(&session))
    }

    /// Publishes an answer or event of the service's thread. As a client's bytes would it comes after the
    /// interest that other shards announced before.
    pub(crate) fn publish_system(
        &self,
        account: AccountId,
        subject: &str,
        payload: &[u8],
    ) -> Published {
        self.hook.before_batch();
        publish(&mut self.broker.borrow_mut(), account, subject, payload)
    }

    /// Whether somebody on the server wants one of these subjects in the system account.
    pub(crate) fn is_any_wanted(&self, subjects: &[String]) -> bool {
        self.hook.before_batch();
        let auth = self.clients.auth.borrow().clone();
        let mut broker = self.broker.borrow_mut();
        let mut wanted = subjects.iter();
        wanted.any(|subject| self.system.is_wanted(&mut broker, &auth, subject).is_some())
    }

    /// Ends a connection of this shard; false if it has none of this number.
    pub(crate) fn kick(&self, id: ConnectionId) -> bool {
        let outbox = self.with_session(id, |session| session.outbox().clone());
        if let Some(outbox) = &outbox {
            outbox.close(CloseReason::Kicked);
        }
        self.hook.request();
        outbox.is_some()
    }

    /// Tells one client of this shard to look for another server. None = no such client; false = it would not
    /// understand.
    pub(crate) fn announce_to(&self, id: ConnectionId) -> Option<bool> {
        let told = self.with_session(id, ClientSession::push_lame_duck_info);
        self.hook.request();
        told
    }

    /// Requests and events that found no room on this shard.
    pub(crate) fn system_dropped(&self) -> u64 {
        let system = &self.system;
        system.mailbox.dropped()
            + system.dropped.get()
            + self.broker.borrow().counters.internal_dropped
    }
}

/// Accounts whose requests a shard hears.
pub(super) type ServedAccounts = HashSet<AccountId>;
