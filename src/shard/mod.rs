//! Floor 8: assembly of one core: a thread, its ring, its broker, its connections and its lanes.

mod offload;
pub(crate) mod order;
mod pinning;
mod run;
pub(crate) mod snapshot;
pub(crate) mod system;
pub(crate) mod system_door;
mod walk;

pub(crate) use offload::Offload;
pub(crate) use order::{Generation, ShardOrder};
pub(crate) use run::{ShardSeed, run};

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use slab::Slab;

use crate::base::counters::{ServerCounters, ShardLoads};
use crate::base::huge_pages;
use crate::base::ids::{ConnectionId, ShardId};
use crate::base::limits::{
    HUGE_PAGES_SUBSCRIPTIONS_MIN, SHRINKS_PER_TICK_MAX, TICKED_PER_TURN_MAX,
};
use crate::base::shrink;
use crate::broker::BrokerHandle;
use crate::broker::late_send::SendCheck;
use crate::client::context::ClientContext;
use crate::client::session::ClientSession;
use crate::config::options::{Balance, WriteTimeoutPolicy};
use crate::mesh::Mesh;
use crate::net::congestion;
use crate::net::connection::{ConnectionContext, ConnectionControl, serve};
use crate::net::doorbell::DoorbellHandle;
use crate::net::listener::{Accepted, Listener};
use crate::net::runtime::{TurnHook, sleep};
use crate::net::session::Session;
use crate::protocol::nats::error::CloseReason;
use order::{Pending, Reply};
use walk::Pass;

/// How other threads reach a shard: cold messages only.
#[derive(Clone)]
pub(crate) struct ShardHandle {
    orders: Sender<ShardOrder>,
    doorbell: DoorbellHandle,
}

impl ShardHandle {
    pub(crate) fn new(orders: Sender<ShardOrder>, doorbell: DoorbellHandle) -> Self {
        Self { orders, doorbell }
    }

    /// Has the shard carry out an order, soon and in the order given. A shard that is gone does nothing.
    pub(crate) fn give(&self, order: ShardOrder) {
        if self.orders.send(order).is_ok() {
            self.doorbell.ring();
        }
    }

    /// Gives an order that has an answer.
    pub(crate) fn ask<T>(&self, order: impl FnOnce(Reply<T>) -> ShardOrder) -> Pending<T> {
        let (reply, pending) = order::reply();
        self.give(order(reply));
        pending
    }
}

struct Entry {
    session: Rc<RefCell<ClientSession>>,
    control: Rc<ConnectionControl>,
}

/// Everything one core owns.
pub(crate) struct Shard {
    pub id: ShardId,
    pub broker: BrokerHandle,
    pub mesh: Mesh,
    pub clients: Rc<ClientContext>,
    pub server: ServerCounters,
    loads: ShardLoads,
    /// Of sockets to peers on this host; None = the host's.
    local_congestion: Option<Arc<str>>,
    /// All shards, this one too.
    peers: Vec<ShardHandle>,
    connections: Rc<ConnectionContext>,
    recorded: snapshot::Recorded,
    registry: RefCell<Slab<Entry>>,
    /// Where each connection is in the registry.
    places: RefCell<HashMap<ConnectionId, usize>>,
    system: Rc<system::System>,
    offload: Rc<RefCell<Offload>>,
    served_accounts: RefCell<system::ServedAccounts>,
    hook: Rc<TurnHook>,
    /// The shared listeners, and last this shard's own, if any.
    listeners: Vec<Rc<Listener>>,
    /// The listeners were stopped for good.
    refusing: Cell<bool>,
    stopped: Cell<bool>,
    /// It has asked for them.
    huge_pages: Cell<bool>,
    /// Has the allocator give back what this thread no longer needs.
    collect: fn(),
    /// Connections and interest at the last tick.
    held: Cell<usize>,
    /// Further ticks that collect.
    collections: Cell<u32>,
}

/// Bytes of an allocation that is a mapping of its own in the allocator.
const NUDGE_BYTES: usize = 2 << 20;

/// Has the allocator give freed pages back to the system. It does so when a page is freed some time after
/// others were, and an idle shard frees nothing: the memory of a burst would stay. Nothing here is written, so
/// no memory is taken.
fn nudge_allocator() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(NUDGE_BYTES)));
}

/// Ticks in a row at which the allocator looks for what was freed.
const COLLECTIONS: u32 = 3;

/// One look at all connections, a part of them a turn.
#[derive(Default)]
struct Tick {
    pass: Pass,
    /// Idle buffers given back so far.
    shrinks: usize,
    pending_sum: u64,
    pending_max: u64,
}

impl Shard {
    /// Takes an accepted socket, or hands it to the shard with the fewest connections where that is wanted.
    /// It counts there at once, so that a burst is spread too.
    fn accept(self: &Rc<Self>, accepted: Accepted) {
        let balance = self.clients.options.borrow().shards.balance;
        let target = match balance {
            Balance::Hash => self.id,
            Balance::LeastConnections => self.loads.least(self.id),
        };
        self.loads.of(target).add();
        if target == self.id {
            self.serve_accepted(accepted);
        } else {
            self.peers[target.index()].give(ShardOrder::Serve(accepted));
        }
    }

    /// Takes a socket that came by this shard's own port: whoever chose it stays.
    fn accept_here(self: &Rc<Self>, accepted: Accepted) {
        self.loads.of(self.id).add();
        self.serve_accepted(accepted);
    }

    /// Starts serving an accepted socket, which is counted already.
    fn serve_accepted(self: &Rc<Self>, accepted: Accepted) {
        if let Some(name) = &self.local_congestion {
            congestion::set_for_local_peer(&accepted, name);
        }
        let count = self.server.connection_opened();
        let refused = count > self.clients.options.borrow().limits.connections_max;
        let id = self.server.next_connection_id();
        let session =
            ClientSession::new(id, accepted.peer, self.clients.clone(), refused, Instant::now());
        session.outbox().set_totals(self.recorded.outboxes.clone());
        if refused {
            session.say_refused();
        }
        let session = Rc::new(RefCell::new(session));
        let policy = self.clients.options.borrow().limits.write_timeout;
        let control = Rc::new(ConnectionControl::new(policy == WriteTimeoutPolicy::Retry));
        let entry = Entry { session: session.clone(), control: control.clone() };
        let key = self.registry.borrow_mut().insert(entry);
        self.places.borrow_mut().insert(id, key);
        let connections = self.connections.clone();
        let (shard, served) = (self.clone(), session.clone());
        let ended = move || shard.connection_ended(key, &served);
        if let Err(error) = serve(accepted.stream, session.clone(), control, connections, ended) {
            tracing::error!("cid:{id} - the socket cannot be served: {error}");
            session.borrow_mut().close(CloseReason::ReadError);
            session.borrow().outbox().close(CloseReason::ReadError);
            self.connection_ended(key, &session);
        }
    }

    fn connection_ended(&self, key: usize, session: &RefCell<ClientSession>) {
        self.record_closed(&session.borrow());
        self.registry.borrow_mut().remove(key);
        let mut places = self.places.borrow_mut();
        places.remove(&session.borrow().id());
        shrink::map(&mut places);
        self.server.connection_closed();
        self.loads.of(self.id).subtract();
    }

    /// Pings, deadlines, idle buffers: everything that is due by time, not by bytes. Some connections a turn:
    /// the shard serves its peers in between.
    async fn tick(&self) {
        let mut tick = Tick::default();
        while self.tick_some(&mut tick, Instant::now()) {
            self.hook.yield_turn().await;
            self.hook.before_batch();
        }
        self.recorded.pending_bytes.set((tick.pending_sum, tick.pending_max));
        self.system.tick();
        self.choose_page_size();
        self.trim();
        self.give_back(tick.shrinks);
    }

    /// Has freed memory given back. Where something went since the last tick the allocator looks for all that was
    /// freed, by other threads too, and again at the next ticks, because it waits before it gives back.
    fn give_back(&self, shrinks: usize) {
        let held = self.registry.borrow().len() + self.broker.borrow().interest_total();
        if self.held.replace(held) > held || shrinks > 0 {
            self.collections.set(COLLECTIONS);
        }
        match self.collections.get().checked_sub(1) {
            Some(left) => {
                self.collections.set(left);
                (self.collect)();
            }
            None => nudge_allocator(),
        }
    }

    /// Huge pages are for a large table. Asked for at each tick: a shard that is no longer large asks for the
    /// opposite once, and both ask for the whole process.
    fn choose_page_size(&self) {
        let table_total = self.broker.borrow().table_total();
        if table_total >= HUGE_PAGES_SUBSCRIPTIONS_MIN {
            self.huge_pages.set(true);
            huge_pages::allow();
        } else if table_total < HUGE_PAGES_SUBSCRIPTIONS_MIN / 4 && self.huge_pages.take() {
            huge_pages::avoid();
        }
    }

    /// Lets go of what a burst has left.
    fn trim(&self) {
        self.broker.borrow_mut().trim();
        shrink::slab(&mut self.registry.borrow_mut());
        let ConnectionContext { read_pool, opened_pool, sealed_pool, .. } = &*self.connections;
        for pool in [read_pool, opened_pool, sealed_pool, &self.clients.chunk_pool] {
            pool.trim();
        }
    }

    /// True if there are more.
    fn tick_some(&self, tick: &mut Tick, now: Instant) -> bool {
        let limits = &self.clients.options.borrow().clone().limits;
        let retries = limits.write_timeout == WriteTimeoutPolicy::Retry;
        let Tick { pass, shrinks, pending_sum, pending_max } = tick;
        pass.step(&self.registry.borrow(), TICKED_PER_TURN_MAX, |_, entry| {
            let mut session = entry.session.borrow_mut();
            let outbox = session.outbox().clone();
            let check = outbox.check_send(now, limits.write_deadline, retries);
            if check == SendCheck::Failed {
                outbox.close(CloseReason::SlowConsumerWriteDeadline);
                outbox.abort_socket();
            } else if !outbox.is_closing() {
                match check {
                    SendCheck::InTime => {}
                    SendCheck::Expired => entry.control.retry_write(),
                    late => self.note_send(&session, late),
                }
                if let Some(reason) = session.tick(now) {
                    outbox.close(reason);
                }
            }
            let may_shrink = *shrinks < SHRINKS_PER_TICK_MAX;
            *shrinks += usize::from(entry.control.shrink_if_idle(may_shrink));
            let pending = outbox.pending_bytes() as u64;
            *pending_sum += pending;
            *pending_max = (*pending_max).max(pending);
        })
    }

    /// How often `tick` must run for deadlines to be kept within a quarter of their length.
    fn tick_interval(&self) -> Duration {
        let options = self.clients.options.borrow();
        let mut shortest = options.limits.write_deadline.min(options.keep_alive.ping_interval);
        if self.clients.auth.borrow().authenticator.is_required() {
            shortest = shortest.min(options.auth_timeout());
        }
        (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }

    async fn run_ticker(self: Rc<Self>) {
        loop {
            sleep(self.tick_interval()).await;
            // A shard nobody talks to still takes the interest that others announced.
            self.hook.before_batch();
            self.tick().await;
        }
    }

    pub(crate) fn connection_count(&self) -> usize {
        self.registry.borrow().len()
    }

    /// Refuses connections from now on.
    fn stop_listening(&self) {
        self.refusing.set(true);
        self.listeners.iter().for_each(|listener| listener.stop());
    }

    /// Sends what this shard has for others, and takes what they sent.
    fn hand_over(&self) {
        self.mesh.flush();
        self.hook.before_batch();
    }

    /// Ends the shard's thread at the end of this turn.
    fn stop(&self) {
        self.stopped.set(true);
        self.hook.request();
    }
}
