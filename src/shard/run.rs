//! A shard's thread, from its first turn to its last.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::task::Poll;
use std::time::{Instant, SystemTime};

use slab::Slab;

use super::connections::accept_loop;
use super::core::Shard;
use super::events::System;
use super::jetstream::{JetStream, JetStreamSeed};
use super::offload::Offload;
use super::order::{AccountRequest, AskForAccount, ShardHandle, ShardOrder};
use super::pinning;
use super::placement::{self, BusyShare};
use super::recorded::Recorded;
use super::system_door::SystemDoor;
use crate::auth::state::AuthState;
use crate::base::counters::{ServerCounters, ShardLoads};
use crate::base::gate::Gate;
use crate::base::ids::ShardId;
use crate::base::limits::{OPENED_BYTES, POOLED_BYTES_MAX, READ_BUFFER_BYTES, SEALED_BYTES};
use crate::base::pool::BufferPool;
use crate::base::turn_clock::TurnClock;
use crate::broker::Broker;
use crate::broker::byte_queue::Resumable;
use crate::client::context::{ClientContext, Placer};
use crate::client::guest::HandoverOrder;
use crate::config::options::{Balance, Options};
use crate::mesh::{LaneEnds, Mesh};
use crate::net::connection::ConnectionContext;
use crate::net::doorbell::{Doorbell, DoorbellHandle, Ear};
use crate::net::frames::Deflaters;
use crate::net::listener::{Listener, Purpose, Readiness};
use crate::net::runtime::{self, Driver, Lanes, TurnHook, spawn};
use crate::net::tls_config::TlsServer;
use crate::peer::checks::{LoginJob, PasswordChecks};
use crate::peer::upgrade::WebSocketServer;
use crate::protocol::nats::handshake::Info;

/// What a shard's thread is given before it starts.
pub(crate) struct ShardSeed {
    pub id: ShardId,
    pub driver: Driver,
    /// The cores that this thread may run on; empty = those of the process.
    pub cores: Vec<usize>,
    pub listeners: Vec<Listener>,
    /// True if the port of all clients is bound but does not listen before this shard is needed.
    pub sleeps: bool,
    pub lanes: LaneEnds,
    pub doorbell: Doorbell,
    pub own_bell: DoorbellHandle,
    pub orders: Receiver<ShardOrder>,
    pub options: Arc<Options>,
    pub info: Arc<Info>,
    pub auth: Arc<AuthState>,
    pub offload: Offload,
    /// The way to whoever knows the accounts of operator mode.
    pub ask_for_account: AskForAccount,
    /// All shards, in order.
    pub peers: Vec<ShardHandle>,
    pub loads: ShardLoads,
    /// TLS of the client port; None = plain.
    pub tls: Option<Arc<TlsServer>>,
    /// The listener for WebSocket clients; None = there is none.
    pub websocket: Option<Arc<WebSocketServer>>,
    /// Congestion control of sockets to peers on this host; None = the host's.
    pub local_congestion: Option<Arc<str>>,
    pub server: ServerCounters,
    /// The way to the server's own service.
    pub system: SystemDoor,
    /// The server's start, by both clocks.
    pub started: (Instant, SystemTime),
    /// Makes the allocator give back what this thread no longer needs.
    pub collect: fn(),
    /// Seed of hashes and queue picks.
    pub random_seed: u64,
}

/// The outcome of a shard's start: it serves, or the reason why it cannot.
pub(super) type Ready = Result<ShardId, String>;

/// Runs one shard on this thread until it is stopped, with the store that was opened on it if there
/// is one. Reports on `ready` that it serves.
///
/// # Errors
/// If a core or the driver is not available.
pub(crate) fn run(
    seed: ShardSeed,
    jetstream: Option<JetStreamSeed>,
    ready: Sender<Ready>,
) -> io::Result<()> {
    if !pinning::run_on(&seed.cores) {
        let cores: Vec<String> = seed.cores.iter().map(usize::to_string).collect();
        return Err(io::Error::other(format!(
            "no core of {} is available to this process; choose others with --cores or run with --no-pin",
            cores.join(",")
        )));
    }
    let driver = seed.driver;
    runtime::run(driver, serve(seed, jetstream, ready))?
}

async fn serve(
    seed: ShardSeed,
    jetstream: Option<JetStreamSeed>,
    ready: Sender<Ready>,
) -> io::Result<()> {
    let busy_poll = seed.options.shards.busy_poll;
    let inbound_waiting = seed.lanes.inbound_waiting.clone();
    let clock = Rc::new(TurnClock::default());
    let hook = TurnHook::new(
        seed.doorbell.flag(),
        inbound_waiting,
        seed.own_bell.clone(),
        busy_poll,
        clock.clone(),
    );
    let broker = Rc::new(RefCell::new(Broker::new(seed.random_seed)));
    let resumable = Rc::new(Resumable::default());
    let offload = Rc::new(RefCell::new(seed.offload));
    let checking = offload.clone();
    let (asking, id) = (seed.ask_for_account, seed.id);
    let system = System::new(seed.system, seed.server.clone(), seed.started);
    let reporting = system.clone();
    let recorded = Recorded::new(clock.clone());
    let listeners: Vec<Rc<Listener>> = seed.listeners.into_iter().map(Rc::new).collect();
    // A client that comes to a shard's own port needs this shard.
    let sleeps = |listener: &Rc<Listener>| seed.sleeps && listener.purpose != Purpose::ShardPort;
    let (dormant, awake): (Vec<_>, Vec<_>) = listeners.iter().cloned().partition(sleeps);
    recorded.outboxes.drops_for_slow.set(seed.options.limits.no_fast_producer_stall);
    let shard = Rc::new(Shard {
        id: seed.id,
        mesh: Mesh::new(
            broker.clone(),
            seed.lanes,
            resumable.clone(),
            hook.lanes_dirty(),
            clock.clone(),
        ),
        clients: Rc::new(ClientContext {
            info: RefCell::new(seed.info),
            tls: RefCell::new(seed.tls),
            websocket: RefCell::new(seed.websocket),
            checks: PasswordChecks::new(move |login, job| match job {
                LoginJob::Password(job) => checking.borrow_mut().check_password(job, login),
                LoginJob::Account(account) => asking(AccountRequest { account, login, shard: id }),
            }),
            place: placer(seed.id, &seed.loads, seed.options.shards.balance),
            report: Box::new(move |broker, clients, facts, report| {
                reporting.report(broker, clients, facts, report);
            }),
            staying: seed.server.staying().clone(),
            handovers: seed.server.handovers().clone(),
            give: Box::new(give(seed.id, seed.peers.clone())),
            ..ClientContext::plain(broker.clone(), seed.options, seed.auth, seed.random_seed)
        }),
        broker,
        server: seed.server,
        local_congestion: seed.local_congestion,
        loads: seed.loads,
        peers: seed.peers,
        connections: Rc::new(ConnectionContext {
            read_pool: Rc::new(BufferPool::new(&READ_BUFFER_BYTES, POOLED_BYTES_MAX)),
            opened_pool: Rc::new(BufferPool::new(&OPENED_BYTES, POOLED_BYTES_MAX)),
            sealed_pool: Rc::new(BufferPool::new(&SEALED_BYTES, POOLED_BYTES_MAX)),
            deflaters: Deflaters::default(),
            hook: hook.clone(),
            operations: Rc::default(),
            resumable,
            driver: seed.driver,
        }),
        recorded,
        registry: RefCell::new(Slab::new()),
        places: RefCell::default(),
        leaving: RefCell::default(),
        hosted: RefCell::default(),
        generation: RefCell::default(),
        surplus: Cell::default(),
        closing: Cell::new(false),
        system,
        jetstream: RefCell::default(),
        offload,
        hook: hook.clone(),
        listeners,
        dormant: RefCell::new(dormant),
        busy: BusyShare::default(),
        arrivals: Gate::new(),
        refusing: Cell::new(false),
        stopped: Cell::new(false),
        huge_pages: Cell::new(false),
        collect: seed.collect,
        held: Cell::default(),
        collections: Cell::default(),
    });
    let pending_bytes_max = shard.clients.options.borrow().limits.pending_bytes_max;
    shard.mesh.set_pending_bytes_max(pending_bytes_max);
    // Weak, because the shard owns the hook.
    let (catching_up, flushing) = (Rc::downgrade(&shard), Rc::downgrade(&shard));
    hook.set_lanes(Lanes {
        catch_up: Box::new(move || {
            if let Some(shard) = catching_up.upgrade() {
                shard.mesh.catch_up();
            }
        }),
        flush: Box::new(move || {
            if let Some(shard) = flushing.upgrade() {
                shard.mesh.flush();
            }
        }),
    });

    // Everything that may fail for lack of descriptors is done before the shard reports that it
    // serves.
    let ear = seed.doorbell.ear()?;
    let mut accepting: Vec<(Rc<Listener>, Readiness)> = Vec::new();
    for listener in awake {
        let readiness = listener.readiness()?;
        accepting.push((listener, readiness));
    }
    shard.subscribe_system();
    if let Some(jetstream) = jetstream {
        let (broker, hook) = (shard.broker.clone(), hook.clone());
        let auth = shard.clients.auth.borrow().clone();
        let started = JetStream::start(broker, hook, &auth, jetstream, seed.own_bell)?;
        shard.jetstream.replace(Some(started));
    }
    spawn(hook.clone().run_kicker());
    spawn(shard.clone().hear_requests());
    spawn(shard.clone().publish_waiting());
    spawn(listen_to_bell(shard.clone(), ear, seed.orders));
    spawn(shard.clone().run_ticker());
    if !seed.sleeps {
        shard.loads.set_awake(shard.id);
    }
    for (listener, readiness) in accepting {
        spawn(accept_loop(shard.clone(), listener, readiness));
    }
    // Fails only if the server has given up on starting.
    let _ = ready.send(Ok(seed.id));

    poll_fn(|context| {
        hook.begin_end_of_turn(context);
        shard.recorded.turns.set(shard.recorded.turns.get() + 1);
        let worked = shard.broker.borrow_mut().work_off();
        shard.pass_records_on();
        if shard.mesh.end_of_turn() || worked {
            hook.note_activity();
        }
        if shard.stopped.get() {
            return Poll::Ready(());
        }
        hook.finish_end_of_turn(|| shard.mesh.has_work() || shard.broker.borrow().has_ready_work());
        Poll::Pending
    })
    .await;
    Ok(())
}

/// Returns the chooser of the shard on which a client is served from its first subscription or
/// message on.
fn placer(own: ShardId, loads: &ShardLoads, balance: Balance) -> Option<Box<Placer>> {
    let count = loads.count();
    match balance {
        Balance::Auto if count > 1 => Some(placement::placer(own, loads.clone())),
        Balance::Auto => None,
        Balance::Hash | Balance::LeastConnections => None,
        Balance::NextShard | Balance::Wander => {
            let next = ShardId(u16::try_from((own.index() + 1) % count).expect("few shards"));
            Some(Box::new(move |_| (next != own).then_some(next)))
        }
    }
}

/// Returns what gives other shards orders about clients of shard `own` that are to come to them.
fn give(own: ShardId, peers: Vec<ShardHandle>) -> impl Fn(ShardId, HandoverOrder) {
    move |target, order| {
        peers[target.index()].give(match order {
            HandoverOrder::Host(guest) => ShardOrder::Host(own, guest),
            HandoverOrder::Withdraw(id) => ShardOrder::Withdraw(id),
        });
    }
}

async fn listen_to_bell(shard: Rc<Shard>, ear: Ear, orders: Receiver<ShardOrder>) {
    let rung = || {
        shard.collect_disk();
        while let Ok(order) = orders.try_recv() {
            order.carry_out(&shard);
        }
        shard.hook.request();
    };
    // For orders given before the bell could be heard.
    rung();
    let polls = &shard.connections.operations.polls;
    if let Err(error) = ear.listen(rung, polls).await {
        panic!("shard {} cannot hear its doorbell: {error}", shard.id.0);
    }
}
