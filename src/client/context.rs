//! The state that all client sessions of one shard share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::guest::GiveOrder;
use crate::auth::permissions::Permissions;
use crate::auth::state::AuthState;
use crate::base::counters::{Gauge, Handovers};
use crate::base::ids::{AccountId, ShardId};
use crate::base::limits::{CHUNK_BYTES, POOLED_BYTES_MAX};
use crate::base::pool::BufferPool;
use crate::broker::message_trace::DESTINATION;
use crate::broker::{Broker, BrokerHandle};
use crate::config::options::Options;
use crate::net::tls_config::TlsServer;
use crate::peer::checks::PasswordChecks;
use crate::peer::facts::SessionFacts;
use crate::peer::rare_lines::RareLines;
use crate::peer::upgrade::WebSocketServer;
use crate::protocol::headers::HeaderName;
use crate::protocol::message::Tail;
use crate::protocol::nats::handshake::Info;

/// The shared state of one shard's client sessions.
pub struct ClientContext {
    pub broker: BrokerHandle,
    pub options: RefCell<Arc<Options>>,
    /// INFO without the parts that depend on the connection.
    pub info: RefCell<Arc<Info>>,
    pub chunk_pool: Rc<BufferPool>,
    /// The TLS of connections accepted from now on; None = plain. A reload replaces it.
    pub tls: RefCell<Option<Arc<TlsServer>>>,
    /// The listener for WebSocket clients; None = there is none. A reload replaces it.
    pub websocket: RefCell<Option<Arc<WebSocketServer>>>,
    pub counters: ShardCounters,
    pub auth: RefCell<Arc<AuthState>>,
    /// Counts reloads: a session of another generation is reviewed before it continues.
    pub generation: Cell<u32>,
    /// Counts changes of accounts in operator mode, in the same way.
    pub account_changes: Cell<u32>,
    /// The server's clients that count for its limit of connections.
    pub staying: Gauge,
    /// The rights of everybody until a login gives others.
    pub open_permissions: Arc<Permissions>,
    /// Logins whose password is being checked.
    pub checks: PasswordChecks,
    pub random: RefCell<fastrand::Rng>,
    /// Scratch space for a mapped subject.
    pub mapped: RefCell<Vec<u8>>,
    /// Scratch space for a run of messages.
    pub tails: RefCell<Vec<Tail>>,
    pub rare_lines: RareLines,
    pub trace_names: TraceNames,
    /// Decides where each client is served; None = where it was accepted.
    pub place: Option<Box<Placer>>,
    /// The handovers of the server.
    pub handovers: Handovers,
    /// Gives other shards orders about clients that are to come to them.
    pub give: Box<GiveOrder>,
    /// Called about logins, in the middle of a turn: it may publish, but must not wait or touch the
    /// session.
    pub report: Box<Reporter>,
}

/// Decides where a client is served, by its first subscription or message; None = where it is.
pub type Placer = dyn Fn(&FirstVerb<'_>) -> Option<ShardId>;

/// What a client does first.
pub struct FirstVerb<'a> {
    pub account: AccountId,
    /// The subject of its first message, if one was read along with it and no mapping changes it.
    pub published: Option<&'a [u8]>,
    /// The shard it is on.
    pub broker: &'a Broker,
}

/// A function that is told about logins.
pub(crate) type Reporter = dyn Fn(&mut Broker, &ClientContext, &SessionFacts<'_>, Report);

/// The outcome of a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// With the account that it was in before, if that was another one.
    LoggedIn {
        left: Option<Arc<str>>,
    },
    Refused,
}

impl ClientContext {
    /// Returns the context of a server without TLS, password checks and reports.
    pub fn plain(
        broker: BrokerHandle,
        options: Arc<Options>,
        auth: Arc<AuthState>,
        random_seed: u64,
    ) -> Self {
        broker.borrow_mut().set_imports(auth.imports().clone());
        Self {
            broker,
            options: RefCell::new(options),
            info: RefCell::default(),
            chunk_pool: Rc::new(BufferPool::new(&CHUNK_BYTES, POOLED_BYTES_MAX)),
            tls: RefCell::new(None),
            websocket: RefCell::new(None),
            counters: ShardCounters::default(),
            auth: RefCell::new(auth),
            generation: Cell::new(0),
            account_changes: Cell::new(0),
            staying: Gauge::default(),
            open_permissions: Arc::new(Permissions::unrestricted(false)),
            checks: PasswordChecks::new(|_, _| {}),
            random: RefCell::new(fastrand::Rng::with_seed(random_seed)),
            mapped: RefCell::default(),
            tails: RefCell::default(),
            rare_lines: RareLines::default(),
            trace_names: TraceNames::default(),
            place: None,
            handovers: Handovers::default(),
            give: Box::new(|_, _| {}),
            report: Box::new(|_, _, _, _| {}),
        }
    }
}

/// The headers with which a client asks for the trace of a message.
pub struct TraceNames {
    pub destination: HeaderName,
    pub only: HeaderName,
    pub origin_account: HeaderName,
}

impl Default for TraceNames {
    fn default() -> Self {
        Self {
            destination: HeaderName::new(DESTINATION),
            only: HeaderName::new("Nats-Trace-Only"),
            origin_account: HeaderName::new("Nats-Trace-Origin-Account"),
        }
    }
}

/// What this shard's clients have done, closed ones included.
#[derive(Default)]
pub struct ShardCounters {
    pub in_messages: Cell<u64>,
    pub in_bytes: Cell<u64>,
    pub slow_consumers: Cell<u64>,
    pub stale_connections: Cell<u64>,
}
