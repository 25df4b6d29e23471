//! Events about the clients of one shard, for those who want them.
//!
//! Events are made on the spot, and only if somebody wants them; if their receivers do not keep up,
//! events wait (`system_publisher`). None of this happens per message.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use hashbrown::HashSet;

use super::records::{LatencyRecord, TracePart};
use super::system_door::{Record, SystemDoor};
use super::system_publisher::SystemPublisher;
use super::system_request::SystemRequest;
use crate::auth::account::Account;
use crate::auth::state::AuthState;
use crate::base::counters::ServerCounters;
use crate::base::ids::AccountId;
use crate::broker::Broker;
use crate::broker::mailbox::Mailbox;
use crate::broker::service::{Reach, ServiceInterest, ServiceSubscription};
use crate::client::context::{ClientContext, Report};
use crate::config::operator_options::{DirectoryKind, ResolverOptions};
use crate::net::listener::Peer;
use crate::peer::facts::SessionFacts;
use crate::protocol::nats::error::CloseReason;
use crate::protocol::subject;
use crate::system::answer::Volume;
use crate::system::claims::{self, ClaimsScope};
use crate::system::events::{self, ClientFacts};
use crate::system::request;
use crate::system::server_info::ServerInfo;

/// One shard's part of the server's own service.
pub(super) struct System {
    pub(super) mailbox: Rc<Mailbox>,
    subscriptions: RefCell<Vec<ServiceSubscription>>,
    /// Accounts whose requests to the server this shard receives.
    served: RefCell<HashSet<AccountId>>,
    pub(super) publisher: SystemPublisher,
    door: RefCell<SystemDoor>,
    /// Requests dropped because the door was full.
    pub(super) dropped: Cell<u64>,
    counters: ServerCounters,
    /// Both clocks at the server's start, to convert an `Instant` to the same time as in
    /// monitoring.
    started: (Instant, SystemTime),
}

impl System {
    pub(super) fn new(
        door: SystemDoor,
        counters: ServerCounters,
        started: (Instant, SystemTime),
    ) -> Rc<Self> {
        Rc::new(Self {
            mailbox: Rc::default(),
            subscriptions: RefCell::default(),
            served: RefCell::default(),
            publisher: SystemPublisher::default(),
            door: door.into(),
            dropped: Cell::new(0),
            counters,
            started,
        })
    }

    /// Subscribes to the requests of an account that the server answers, unless it has.
    pub(super) fn serve(
        &self,
        broker: &mut Broker,
        auth: &AuthState,
        account: &Account,
        server_id: &str,
    ) {
        let id = auth.id(account);
        if auth.authenticator.accounts().system().is_none() || !self.served.borrow_mut().insert(id)
        {
            return;
        }
        let mut subscriptions = self.subscriptions.borrow_mut();
        let mut subscribe = |filter: &str| {
            let interest = ServiceInterest::all(id, filter.as_bytes(), Reach::OwnShard);
            subscriptions.push(broker.subscribe_service(interest, &self.mailbox));
        };
        if account.is_system {
            let filters = request::system_account_filters(server_id);
            filters.iter().for_each(|filter| subscribe(filter));
            if let Some(trust) = auth.authenticator.trust() {
                let scope = match &trust.resolver {
                    ResolverOptions::Directory(options) => match options.kind {
                        DirectoryKind::Full { .. } => ClaimsScope::Full,
                        DirectoryKind::Cache { .. } => ClaimsScope::Cache,
                    },
                    ResolverOptions::Memory | ResolverOptions::Url(_) => ClaimsScope::Memory,
                };
                claims::filters(scope).iter().for_each(|filter| subscribe(filter));
            }
        } else {
            let filters = request::OTHER_ACCOUNTS_SUBJECTS;
            filters.iter().for_each(|filter| subscribe(filter));
        }
    }

    /// Does so for the account of a client that has come to this shard. Accounts of operator mode
    /// are served where they have clients: there may be very many of them.
    pub(super) fn serve_account_of(
        &self,
        broker: &mut Broker,
        clients: &ClientContext,
        account: &str,
    ) {
        let auth = clients.auth.borrow().clone();
        if let Some(account) = auth.authenticator.accounts().get(account)
            && account.jwt.is_some()
        {
            self.serve(broker, &auth, account, &clients.info.borrow().server_id);
        }
    }

    pub(super) fn pass_on(&self, request: Box<SystemRequest>) {
        if !self.door.borrow_mut().push_request(request) {
            self.dropped.set(self.dropped.get() + 1);
        }
    }

    /// Returns true if the door has room for a record of each kind.
    pub(super) fn has_room_for_record(&self) -> bool {
        self.door.borrow().has_room_for_records()
    }

    pub(super) fn pass_trace_on(&self, part: Box<TracePart>) {
        if !self.door.borrow_mut().push_trace(part) {
            self.dropped.set(self.dropped.get() + 1);
        }
    }

    pub(super) fn pass_latency_on(&self, record: Box<LatencyRecord>) {
        if !self.door.borrow_mut().push_record(Record::Latency(record)) {
            self.dropped.set(self.dropped.get() + 1);
        }
    }

    /// Passes on the changes that found no room before. For the ticker.
    pub(super) fn tick(&self) {
        self.door.borrow_mut().push_changes();
    }

    /// Returns the system account's id if a message there would reach anybody.
    pub(super) fn is_wanted(
        &self,
        broker: &mut Broker,
        auth: &AuthState,
        subject: &str,
    ) -> Option<AccountId> {
        let system = auth.authenticator.accounts().system()?;
        let id = auth.id(system);
        // An account name from a file need not be a token.
        let is_wanted =
            subject::is_sendable(subject.as_bytes()) && broker.is_wanted(id, subject.as_bytes());
        is_wanted.then_some(id)
    }

    fn server_info(&self, clients: &ClientContext, now: SystemTime) -> ServerInfo {
        let (info, options) = (clients.info.borrow(), clients.options.borrow());
        ServerInfo::new(&info, &options, self.counters.next_system_sequence(), now)
    }

    /// Returns the server's start, the same as in monitoring.
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
            client_type: facts.way.client_type(),
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

    /// Reports that a session logged in or was refused. Called in the middle of its turn.
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
                self.serve_account_of(broker, clients, facts.account);
                let subject = events::connect_subject(facts.account);
                if let Some(account) = self.is_wanted(broker, &auth, &subject) {
                    let now = SystemTime::now();
                    let server = self.server_info(clients, now);
                    let event = events::connected(&server, &self.client_facts(facts), now);
                    self.publisher.publish(broker, account, &subject, &event);
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

    /// Reports that a session has ended.
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
        self.publisher.publish(broker, account, subject, &event);
    }

    /// Reports that the number of an account's connections changed. The global account's is not
    /// reported, as in nats-server.
    fn account_changed(&self, broker: &mut Broker, auth: &AuthState, name: &str) {
        let account = auth.authenticator.accounts().get(name);
        let Some(account) = account.filter(|account| !account.is_global()) else { return };
        let subjects = events::account_connections_subjects(name);
        if subjects.iter().any(|subject| self.is_wanted(broker, auth, subject).is_some()) {
            self.door.borrow_mut().push_change(account.name.clone());
        }
    }
}
