//! Everything that one core owns.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use hashbrown::HashMap;
use slab::Slab;

use super::events::System;
use super::jetstream::JetStreamPlace;
use super::offload::Offload;
use super::order::{Generation, Reply, ShardHandle};
use super::placement::BusyShare;
use super::recorded::Recorded;
use super::speaker::{Entry, Speaker};
use crate::auth::state::AuthState;
use crate::base::counters::{ServerCounters, ShardLoads};
use crate::base::gate::Gate;
use crate::base::ids::{ConnectionId, ShardId};
use crate::broker::BrokerHandle;
use crate::client::context::ClientContext;
use crate::client::hosted::Hosted;
use crate::mesh::Mesh;
use crate::monitor::jetstream::JetStreamReport;
use crate::monitor::jsz::JszOptions;
use crate::net::connection::ConnectionContext;
use crate::net::listener::Listener;
use crate::net::runtime::TurnHook;

/// The limits over which clients are closed after a reload. A client that arrives from another
/// shard meanwhile is met by no walk over the sessions.
#[derive(Clone, Copy, Default)]
pub(super) struct Surplus {
    pub(super) of_accounts: bool,
    /// The server's.
    pub(super) max: Option<usize>,
}

/// Everything that one core owns.
pub(crate) struct Shard {
    pub id: ShardId,
    pub broker: BrokerHandle,
    pub mesh: Mesh,
    pub clients: Rc<ClientContext>,
    pub server: ServerCounters,
    pub(super) loads: ShardLoads,
    /// Congestion control of sockets to peers on this host; None = the host's.
    pub(super) local_congestion: Option<Arc<str>>,
    /// All shards, including this one.
    pub(super) peers: Vec<ShardHandle>,
    pub(super) connections: Rc<ConnectionContext>,
    pub(super) recorded: Recorded,
    pub(super) registry: RefCell<Slab<Entry>>,
    /// Place of each connection in the registry.
    pub(super) places: RefCell<HashMap<ConnectionId, usize>>,
    /// Targets of connections that left for another shard and have not arrived yet.
    pub(super) leaving: RefCell<HashMap<ConnectionId, ShardId>>,
    /// Clients with subscriptions that are about to come from other shards.
    pub(super) hosted: RefCell<HashMap<ConnectionId, Hosted>>,
    /// The last reload that this shard has taken; none = there was none.
    pub(super) generation: RefCell<Option<Arc<Generation>>>,
    /// What the surplus over that reload's limits is closed for, as far as that has begun.
    pub(super) surplus: Cell<Surplus>,
    /// True while all connections are being closed: new ones are closed too.
    pub(super) closing: Cell<bool>,
    pub(super) system: Rc<System>,
    /// None = this server has no JetStream, or another shard has it.
    pub(super) jetstream: JetStreamPlace,
    pub(super) offload: Rc<RefCell<Offload>>,
    pub(super) hook: Rc<TurnHook>,
    pub(super) listeners: Vec<Rc<Listener>>,
    /// Listeners that do not listen until this shard is needed.
    pub(super) dormant: RefCell<Vec<Rc<Listener>>>,
    pub(super) busy: BusyShare,
    /// Counts the connections that came.
    pub(super) arrivals: Gate,
    /// True once the listeners were stopped for good.
    pub(super) refusing: Cell<bool>,
    pub(super) stopped: Cell<bool>,
    /// True once this shard has asked for huge pages.
    pub(super) huge_pages: Cell<bool>,
    /// Makes the allocator give back what this thread no longer needs.
    pub(super) collect: fn(),
    /// Connections and interest at the last tick.
    pub(super) held: Cell<usize>,
    /// Further ticks that call `collect`.
    pub(super) collections: Cell<u32>,
}

impl Shard {
    /// Returns the session of a connection of this shard.
    pub(super) fn speaker(&self, id: ConnectionId) -> Option<Speaker> {
        let place = self.places.borrow().get(&id).copied()?;
        Some(self.registry.borrow().get(place)?.speaker.clone())
    }

    pub(crate) fn connection_count(&self) -> usize {
        self.registry.borrow().len()
    }

    /// Refuses connections from now on.
    pub(super) fn stop_listening(&self) {
        self.refusing.set(true);
        self.listeners.iter().for_each(|listener| listener.stop());
    }

    /// Sends what this shard has for others, and takes what they sent.
    pub(super) fn hand_over(&self) {
        self.mesh.flush();
        self.hook.before_batch();
    }

    /// Describes JetStream, if this shard has it.
    pub(super) fn report_jetstream(
        &self,
        options: JszOptions,
        answer: Reply<Option<Box<JetStreamReport>>>,
    ) {
        match &*self.jetstream.borrow() {
            Some(jetstream) => jetstream.report(options, answer),
            None => answer.give(None),
        }
    }

    /// Has JetStream take over the accounts of a reload.
    pub(super) fn take_jetstream_accounts(&self, auth: &Arc<AuthState>) {
        if let Some(jetstream) = &*self.jetstream.borrow() {
            jetstream.take_accounts(auth.clone());
        }
    }

    /// Wakes the tasks whose operations of the disk are done.
    pub(super) fn collect_disk(&self) {
        if let Some(jetstream) = &*self.jetstream.borrow() {
            jetstream.collect();
        }
    }

    /// Ends the shard's thread at the end of this turn.
    pub(super) fn stop(&self) {
        self.stopped.set(true);
        self.hook.request();
    }
}
