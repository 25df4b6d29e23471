//! What the sessions of one shard share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use crate::auth::permissions::Permissions;
use crate::auth::state::AuthState;
use crate::base::ids::{AccountId, ShardId};
use crate::base::limits::{CHUNK_BYTES, POOLED_BYTES_MAX};
use crate::base::pool::BufferPool;
use crate::broker::{Broker, BrokerHandle};
use crate::config::options::Options;
use crate::net::tls_config::TlsServer;
use crate::peer::checks::PasswordChecks;
use crate::peer::facts::SessionFacts;
use crate::peer::rare_lines::RareLines;
use crate::protocol::message::Tail;
use crate::protocol::nats::handshake::Info;

/// See the module's words.
pub struct ClientContext {
    pub broker: BrokerHandle,
    pub options: RefCell<Arc<Options>>,
    /// INFO without what is one connection's own.
    pub info: RefCell<Arc<Info>>,
    pub chunk_pool: Rc<BufferPool>,
    /// What connections accepted from now on speak; None = plain. A reload puts another one here.
    pub tls: RefCell<Option<Arc<TlsServer>>>,
    pub counters: ShardCounters,
    pub auth: RefCell<Arc<AuthState>>,
    /// Counts reloads: a session that is of another one is reviewed before it goes on.
    pub generation: Cell<u32>,
    /// What everybody may do before a login says otherwise.
    pub open_permissions: Arc<Permissions>,
    /// Logins whose password is being checked.
    pub checks: PasswordChecks,
    pub random: RefCell<fastrand::Rng>,
    /// Scratch space for a mapped subject.
    pub mapped: RefCell<Vec<u8>>,
    /// Scratch space for a run of messages.
    pub tails: RefCell<Vec<Tail>>,
    pub rare_lines: RareLines,
    /// Asked where each client is to be served; None = where it came.
    pub place: Option<Box<Placer>>,
    /// Told of logins, in the middle of a turn: it may publish, and must not wait or touch the session.
    pub report: Box<Reporter>,
}

/// Decides where a client is to be served, by its first subscription or message; None = where it is.
pub type Placer = dyn Fn(&FirstVerb<'_>) -> Option<ShardId>;

/// What a client does first.
pub struct FirstVerb<'a> {
    pub account: AccountId,
    /// The subject of its first message, if one was read with it and is nothing that a mapping changes.
    pub published: Option<&'a [u8]>,
    /// The shard it is on.
    pub broker: &'a Broker,
}

/// Who is told of logins.
pub type Reporter = dyn Fn(&mut Broker, &ClientContext, &SessionFacts<'_>, Report);

/// What becomes of somebody who wants to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// With the account it was in before, if it was another one.
    LoggedIn {
        left: Option<Arc<str>>,
    },
    Refused,
}

impl ClientContext {
    /// Of clients that speak plain, whose hashed passwords nobody checks and whose logins nobody is told of.
    pub fn plain(
        broker: BrokerHandle,
        options: Arc<Options>,
        auth: Arc<AuthState>,
        random_seed: u64,
    ) -> Self {
        Self {
            broker,
            options: RefCell::new(options),
            info: RefCell::default(),
            chunk_pool: Rc::new(BufferPool::new(&CHUNK_BYTES, POOLED_BYTES_MAX)),
            tls: RefCell::new(None),
            counters: ShardCounters::default(),
            auth: RefCell::new(auth),
            generation: Cell::new(0),
            open_permissions: Arc::new(Permissions::unrestricted(false)),
            checks: PasswordChecks::new(|_, _| {}),
            random: RefCell::new(fastrand::Rng::with_seed(random_seed)),
            mapped: RefCell::default(),
            tails: RefCell::default(),
            rare_lines: RareLines::default(),
            place: None,
            report: Box::new(|_, _, _, _| {}),
        }
    }
}

/// What this shard's clients did, closed ones included.
#[derive(Default)]
pub struct ShardCounters {
    pub in_messages: Cell<u64>,
    pub in_bytes: Cell<u64>,
    pub slow_consumers: Cell<u64>,
    pub stale_connections: Cell<u64>,
}
