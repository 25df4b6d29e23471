//! The server without sockets and without a runtime: real sessions, brokers and lanes, and a
//! scheduler that takes one small step of one shard at a time.
//!
//! What a step may be, and what wakes whom, follows `net::connection`, `net::runtime::TurnHook` and
//! `shard::run`: a shard that did not ask for the end of a turn and whose doorbell did not ring is
//! asleep.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use midge::testing::auth::state::AuthState;
use midge::testing::base::counters::{Gauge, Handovers};
use midge::testing::base::ids::{ConnectionId, LinkId, ShardId};
use midge::testing::base::limits::READ_BUFFER_BYTES;
use midge::testing::base::pool::BufferPool;
use midge::testing::base::ring::{ParkFlag, Signal};
use midge::testing::broker::byte_queue::Resumable;
use midge::testing::broker::link::Congestion;
use midge::testing::broker::mailbox::Mailbox;
use midge::testing::broker::message_trace::TraceNote;
use midge::testing::broker::outbox::Outbox;
use midge::testing::broker::{Broker, BrokerHandle};
use midge::testing::client::context::{ClientContext, Placer};
use midge::testing::client::guest::HandoverOrder;
use midge::testing::client::hosted::{Hosted, HostedStep};
use midge::testing::client::session::ClientSession;
use midge::testing::config::options::Options;
use midge::testing::mesh::{Lanes, Mesh, lanes};
use midge::testing::net::listener::Peer;
use midge::testing::net::read_buffer::ReadBuffer;
use midge::testing::net::session::{Session, Step, Wait};
use midge::testing::peer::checks::PasswordChecks;
use midge::testing::protocol::nats::error::CloseReason;

use crate::wire::Wire;

/// A bug planted on purpose, for the laws to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// A batch of a client's commands is handled without applying interest first.
    InterestNotApplied,
    /// From time to time a chunk of messages on its way to a client is lost.
    ChunkLost,
    /// From time to time a chunk of messages is sent twice.
    ChunkRepeated,
    /// From time to time a doorbell that should wake a shard does not ring.
    BellLost,
    /// A session is not told that its connection has ended.
    CloseForgotten,
    /// The lanes' clock seldom moves, so that a batch and its consequence have the same time.
    ClockStandsStill,
}

/// The planted bug strikes on one in this many occasions.
const PLANT_ONE_IN: u32 = 8;

/// Steps from one look at all of a broker to the next: it takes long.
#[cfg(debug_assertions)]
const STEPS_PER_LOOK_AT_ALL: u64 = 8;

/// Number of looks at the planted clock until it moves.
const LOOKS_PER_MOVE: u64 = 512;

pub struct ShardSizes {
    pub shard_count: usize,
    pub lanes: Lanes,
    pub pending_bytes_max: usize,
    /// Work of one turn: small enough that turns often cannot finish something.
    pub turn_work_max: usize,
    /// Work that may be in flight on a lane.
    pub lane_work_max: usize,
    /// True if each client goes to a random shard when it first subscribes or publishes.
    pub moves: bool,
}

/// A part of the server that uses the broker from inside.
pub trait Service {
    /// Returns true if it would do something now.
    fn is_ready(&self) -> bool;

    fn step(&mut self, broker: &mut Broker);

    /// Checks what the service's own part of the broker promises.
    fn check_invariants(&self) {}

    /// Returns the service's mailbox.
    fn mailbox(&self) -> Option<&Mailbox> {
        None
    }
}

/// Orders to a shard about clients that are to come, with the shards that gave them.
type Orders = Rc<RefCell<VecDeque<(usize, HandoverOrder)>>>;

/// A client that is about to come to a shard.
struct SimulatedHosted {
    id: ConnectionId,
    hosted: Hosted,
    waits: Option<Congestion>,
    has_switched: bool,
}

struct SimulatedShard {
    broker: BrokerHandle,
    mesh: Mesh,
    /// Set while something for other shards has not been pushed.
    dirty: Rc<Cell<bool>>,
    clients: Rc<ClientContext>,
    resumable: Rc<Resumable>,
    read_pool: Rc<BufferPool>,
    park: ParkFlag,
    inbound_waiting: Signal,
    bell: Arc<AtomicBool>,
    /// Set when the end of the turn was asked for.
    requested: bool,
    stalled_until: u64,
    connections: Vec<usize>,
    services: Vec<Box<dyn Service>>,
    orders: Orders,
    hosted: Vec<SimulatedHosted>,
}

/// What the reader of a connection is doing.
enum Reader {
    Ready,
    /// In the kernel, for bytes.
    Reading,
    /// Lets others go first until the end of the turn.
    Yielded,
    Waiting(Wait),
    /// Until everything that the client was told here has been sent.
    Leaving(usize),
    Ended,
}

struct Connection {
    shard: usize,
    /// None while it moves.
    session: Option<ClientSession>,
    outbox: Rc<Outbox>,
    input: ReadBuffer,
    /// Present if it speaks WebSocket.
    wire: Option<Wire>,
    reader: Reader,
    /// When the reader last moved.
    moved_at: u64,
    writer_ended: bool,
    in_flight: Option<(Vec<u8>, usize)>,
    aborted: Rc<Cell<bool>>,
    /// From the client, not yet read.
    inbound: VecDeque<u8>,
    inbound_ended: bool,
    /// Number of all bytes that arrived from the client.
    arrived_bytes: usize,
    /// To the client, taken by the kernel.
    outbound: Vec<u8>,
    /// Bytes that the kernel takes while the client does not read.
    window: usize,
}

pub struct World {
    pub random: fastrand::Rng,
    pub now: u64,
    /// Mixed from everything that happened: equal runs have equal traces.
    pub trace: u64,
    pub plant: Option<Plant>,
    /// True if timed waits end now; otherwise they do from time to time.
    pub hurried: bool,
    /// True if a read takes everything; otherwise it often takes only a part.
    pub whole_reads: bool,
    /// Number of clients that went to another shard.
    pub moves: usize,
    /// Number of those that had subscriptions.
    pub handovers: usize,
    /// Number of steps from one check of the promises of a shard's modules to the next; 0 = there is none.
    pub check_interval: u64,
    shards: Vec<SimulatedShard>,
    connections: Vec<Connection>,
    clock: Instant,
}

/// Sends each client to a random shard.
fn random_placer(seed: u64, own: usize, count: usize) -> Box<Placer> {
    let random = RefCell::new(fastrand::Rng::with_seed(seed ^ own as u64));
    Box::new(move |_| {
        let target = random.borrow_mut().usize(..count);
        (target != own).then(|| ShardId(u16::try_from(target).expect("few shards")))
    })
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub forwarded: u64,
    pub batches_out: u64,
    pub batches_in: u64,
    pub messages_in: u64,
    pub wakes: u64,
    pub stalls: u64,
    pub interest_in: u64,
    pub interest_left: usize,
    pub members_gone: u64,
    /// The most work that one turn did.
    pub turn_work_max: usize,
}

impl World {
    pub fn new(seed: u64, sizes: &ShardSizes, plant: Option<Plant>) -> Self {
        let options = Options::default();
        let auth = AuthState::build(&options, None).expect("no users, nothing to refuse");
        Self::with_options(seed, sizes, plant, options, Arc::new(auth))
    }

    /// The same with users and accounts.
    pub fn with_options(
        seed: u64,
        sizes: &ShardSizes,
        plant: Option<Plant>,
        mut options: Options,
        auth: Arc<AuthState>,
    ) -> Self {
        let count = sizes.shard_count;
        let parks: Vec<ParkFlag> = (0..count).map(|_| ParkFlag::default()).collect();
        let bells: Vec<Arc<AtomicBool>> = (0..count).map(|_| Arc::default()).collect();
        let rings = Arc::new(AtomicU64::new(0));
        let ends = lanes(count, sizes.lanes, |_, to| {
            let (park, bell, rings) = (parks[to].clone(), bells[to].clone(), rings.clone());
            Box::new(move || {
                let must = park.must_wake();
                if must {
                    let ring = rings.fetch_add(1, Ordering::Relaxed);
                    let lost = plant == Some(Plant::BellLost)
                        && ring % u64::from(PLANT_ONE_IN) == u64::from(PLANT_ONE_IN) - 1;
                    bell.store(!lost, Ordering::Relaxed);
                }
                must
            })
        });
        let looks = Arc::new(AtomicU64::new(0));
        let ends = ends.into_iter().map(|mut ends| {
            let looks = looks.clone();
            ends.clock = Box::new(move || {
                let look = looks.fetch_add(1, Ordering::Relaxed) + LOOKS_PER_MOVE;
                match plant == Some(Plant::ClockStandsStill) {
                    true => look / LOOKS_PER_MOVE,
                    false => look,
                }
            });
            ends
        });
        options.limits.pending_bytes_max = sizes.pending_bytes_max;
        let options = Arc::new(options);
        let (staying, handovers) = (Gauge::default(), Handovers::default());
        let orders: Vec<Orders> = (0..count).map(|_| Orders::default()).collect();
        let shards = ends.zip(parks).zip(bells).enumerate();
        let shards = shards
            .map(|(index, ((ends, park), bell))| {
                let broker =
                    Rc::new(RefCell::new(Broker::reproducible(seed ^ (index as u64) << 32)));
                broker.borrow_mut().set_turn_work_max(sizes.turn_work_max);
                let resumable = Rc::new(Resumable::default());
                let inbound_waiting = ends.inbound_waiting.clone();
                let dirty = Rc::new(Cell::new(false));
                let mesh = Mesh::new(
                    broker.clone(),
                    ends,
                    resumable.clone(),
                    dirty.clone(),
                    Rc::default(),
                );
                mesh.set_pending_bytes_max(sizes.pending_bytes_max);
                mesh.set_lane_work_max(sizes.lane_work_max);
                // Its first turn begins, of the work set above.
                mesh.end_of_turn();
                SimulatedShard {
                    mesh,
                    dirty,
                    clients: Rc::new(ClientContext {
                        place: sizes.moves.then(|| random_placer(seed, index, count)),
                        staying: staying.clone(),
                        handovers: handovers.clone(),
                        give: {
                            let orders = orders.clone();
                            Box::new(move |target, order| {
                                orders[target.index()].borrow_mut().push_back((index, order));
                            })
                        },
                        checks: PasswordChecks::new(|_, _| panic!("nobody logs in here")),
                        ..ClientContext::plain(broker.clone(), options.clone(), auth.clone(), seed)
                    }),
                    broker,
                    resumable,
                    read_pool: Rc::new(BufferPool::new(&READ_BUFFER_BYTES, 1 << 20)),
                    park,
                    inbound_waiting,
                    bell,
                    requested: true,
                    stalled_until: 0,
                    connections: Vec::new(),
                    services: Vec::new(),
                    orders: orders[index].clone(),
                    hosted: Vec::new(),
                }
            })
            .collect();
        Self {
            random: fastrand::Rng::with_seed(seed),
            now: 0,
            trace: seed,
            plant,
            hurried: false,
            whole_reads: false,
            moves: 0,
            handovers: 0,
            check_interval: 0,
            shards,
            connections: Vec::new(),
            clock: Instant::now(),
        }
    }

    /// Takes the notes of traced messages, with the shards where these were published.
    pub fn take_trace_notes(&mut self) -> Vec<(usize, TraceNote)> {
        let mut notes = Vec::new();
        for (index, shard) in self.shards.iter().enumerate() {
            while let Some(note) = shard.broker.borrow_mut().next_trace_note() {
                // Links leave out the shard itself.
                let behind = |link: usize| link + usize::from(link >= index);
                let home = note.home.map_or(index, |link| behind(link.index()));
                notes.push((home, note));
            }
        }
        notes
    }

    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// A shard takes another generation of accounts; `review` is to follow for each connection.
    pub fn reload(&mut self, shard: usize, auth: &Arc<AuthState>) {
        let SimulatedShard { clients, broker, .. } = &self.shards[shard];
        *clients.auth.borrow_mut() = auth.clone();
        broker.borrow_mut().set_imports(auth.imports().clone());
        clients.generation.set(clients.generation.get().wrapping_add(1));
        self.request(shard);
    }

    /// Reviews a connection after a reload, as far as one turn may; true if there is more to do.
    pub fn review(&mut self, connection: usize) -> bool {
        let shard = self.connections[connection].shard;
        self.before_batch(shard);
        let session = self.connections[connection].session.as_mut().expect("it is here");
        session.catch_up_with_reload();
        session.go_on_with_review()
    }

    /// Starts a service on a shard.
    pub fn add_service(
        &mut self,
        shard: usize,
        make: impl FnOnce(&mut Broker) -> Box<dyn Service>,
    ) {
        let service = make(&mut self.shards[shard].broker.borrow_mut());
        self.shards[shard].services.push(service);
    }

    /// Connects a client to a shard; returns the connection's index.
    pub fn connect(&mut self, shard: usize, window: usize) -> usize {
        let index = self.connections.len();
        let id = ConnectionId(index as u64 + 5);
        let clients = self.shards[shard].clients.clone();
        let mut session = ClientSession::new(id, Peer::Unix, clients, false, self.clock);
        let aborted = Rc::new(Cell::new(false));
        let outbox = self.adopt(&session, &aborted);
        session.start();
        self.connections.push(Connection {
            shard,
            session: Some(session),
            outbox,
            input: ReadBuffer::new(self.shards[shard].read_pool.clone()),
            wire: Wire::of(index, &self.shards[shard].read_pool),
            reader: Reader::Ready,
            moved_at: 0,
            writer_ended: false,
            in_flight: None,
            aborted,
            inbound: VecDeque::new(),
            inbound_ended: false,
            arrived_bytes: 0,
            outbound: Vec::new(),
            window,
        });
        self.shards[shard].connections.push(index);
        index
    }

    /// Returns the outbox of a session, prepared for use.
    fn adopt(&self, session: &ClientSession, aborted: &Rc<Cell<bool>>) -> Rc<Outbox> {
        let outbox = session.outbox().clone();
        let abort = aborted.clone();
        outbox.set_abort(Some(Box::new(move || abort.set(true))));
        // A consumer's progress is measured by the clock; here it always progresses, or runs would
        // differ.
        outbox.send_progressed(0, self.clock + Duration::from_secs(86_400));
        outbox
    }

    /// Asks a connection to move to another shard, as a busy shard does.
    pub fn ask_to_move(&mut self, connection: usize, target: usize) {
        if target == self.connections[connection].shard {
            return;
        }
        let target = ShardId(u16::try_from(target).expect("few shards"));
        let session = self.connections[connection].session.as_mut().expect("it is here");
        session.ask_to_move(target);
    }

    /// Closes a connection from the server's side, as an operator may.
    pub fn kick(&mut self, connection: usize) {
        self.connections[connection].outbox.close(CloseReason::ServerShutdown);
    }

    /// A shard takes another reload, in which nothing has changed.
    pub fn reload_some_shard(&mut self) {
        let shard = self.random.usize(..self.shards.len());
        let auth = self.shards[shard].clients.auth.borrow().clone();
        self.reload(shard, &auth);
    }

    /// Takes one step with an order about a client that is to come, or with such a client.
    fn step_handover(&mut self, index: usize) -> bool {
        let order = self.shards[index].orders.borrow_mut().pop_front();
        if let Some((from, order)) = order {
            let shard = &mut self.shards[index];
            match order {
                HandoverOrder::Host(guest) => {
                    let link = LinkId((from - usize::from(from > index)) as u32);
                    let id = guest.id;
                    let hosted = Hosted::new(*guest, link, &shard.clients);
                    let hosted = SimulatedHosted { id, hosted, waits: None, has_switched: false };
                    shard.hosted.push(hosted);
                }
                HandoverOrder::Withdraw(id) => {
                    let mut all = shard.hosted.iter_mut();
                    all.find(|one| one.id == id).expect("it was to come").hosted.withdraw();
                }
            }
            self.drop_withdrawn(index);
            self.request(index);
            return true;
        }
        let SimulatedShard { hosted, broker, .. } = &mut self.shards[index];
        let is_ready = |one: &&mut SimulatedHosted| {
            let waits = one.waits.as_ref();
            !one.has_switched && waits.is_none_or(|waits| waits.gate.value() >= waits.until)
        };
        let Some(one) = hosted.iter_mut().find(is_ready) else { return false };
        one.waits = None;
        match one.hosted.step(&mut broker.borrow_mut()) {
            HostedStep::Again => {}
            HostedStep::WaitFor(congestion) => one.waits = Some(congestion),
            HostedStep::Switched => one.has_switched = true,
        }
        self.drop_withdrawn(index);
        self.request(index);
        true
    }

    fn drop_withdrawn(&mut self, index: usize) {
        let SimulatedShard { hosted, broker, resumable, .. } = &mut self.shards[index];
        if let Some(place) = hosted.iter().position(|one| one.hosted.is_over()) {
            let publishers = hosted.swap_remove(place).hosted.leave(&mut broker.borrow_mut());
            resumable.borrow_mut().extend(publishers);
        }
    }

    /// Moves a connection to another shard, with the bytes that were not consumed.
    fn move_to(&mut self, index: usize, target: usize) {
        let connection = &mut self.connections[index];
        let from = std::mem::replace(&mut connection.shard, target);
        let moving = connection.session.take().expect("it is here").take_apart();
        self.shards[from].mesh.flush();
        let connection = &mut self.connections[index];
        let unread = connection.input.bytes().to_vec();
        connection.input = ReadBuffer::new(self.shards[target].read_pool.clone());
        connection.input.extend(&unread);
        let aborted = connection.aborted.clone();
        let clients = self.shards[target].clients.clone();
        let hosted = &mut self.shards[target].hosted;
        let place = hosted.iter().position(|one| one.id == moving.id());
        let hosted = place.map(|place| hosted.swap_remove(place).hosted);
        self.handovers += usize::from(hosted.is_some());
        let session = ClientSession::put_together(moving, hosted, clients);
        let outbox = self.adopt(&session, &aborted);
        let connection = &mut self.connections[index];
        (connection.session, connection.outbox) = (Some(session), outbox);
        connection.reader = Reader::Ready;
        self.shards[from].connections.retain(|other| *other != index);
        self.shards[target].connections.push(index);
        self.moves += 1;
        self.request(from);
        self.request(target);
    }

    /// Delivers the client's bytes to the server's socket.
    pub fn arrive(&mut self, connection: usize, bytes: impl Iterator<Item = u8>) {
        let connection = &mut self.connections[connection];
        let before = connection.inbound.len();
        connection.inbound.extend(bytes);
        connection.arrived_bytes += connection.inbound.len() - before;
    }

    /// Shuts down the client's sending side; what it sent before is still read.
    pub fn arrive_end(&mut self, connection: usize) {
        self.connections[connection].inbound_ended = true;
    }

    /// Breaks the connection: nothing that waits on it is read.
    pub fn tear(&mut self, connection: usize) {
        let connection = &mut self.connections[connection];
        connection.inbound.clear();
        connection.inbound_ended = true;
        connection.aborted.set(true);
    }

    /// Takes what the server has sent and the client has not read.
    pub fn take_outbound(&mut self, connection: usize, most: usize) -> Vec<u8> {
        let outbound = &mut self.connections[connection].outbound;
        let count = outbound.len().min(most);
        outbound.drain(..count).collect()
    }

    /// Returns true if the server ended the connection and everything it sent was read.
    pub fn is_over(&self, connection: usize) -> bool {
        let connection = &self.connections[connection];
        connection.writer_ended && connection.outbound.is_empty()
    }

    /// Returns the reason for which the server closed, or closes, the connection.
    pub fn close_reason(&self, connection: usize) -> Option<CloseReason> {
        self.connections[connection].outbox.close_reason()
    }

    pub fn stall_some_shard(&mut self, steps: u64) {
        let shard = self.random.usize(..self.shards.len());
        self.stall_shard(shard, steps);
    }

    pub fn stall_shard(&mut self, shard: usize, steps: u64) {
        self.shards[shard].stalled_until = self.now + steps;
    }

    /// Returns the number of bytes from the client that the server has not read.
    pub fn unread(&self, connection: usize) -> usize {
        self.connections[connection].inbound.len()
    }

    /// Returns the number of bytes from the client that were not consumed yet.
    pub fn unhandled(&self, connection: usize) -> usize {
        let connection = &self.connections[connection];
        connection.inbound.len() + connection.input.bytes().len()
    }

    /// Returns the number of bytes from the client that its session has taken.
    pub fn handled(&self, connection: usize) -> usize {
        self.connections[connection].arrived_bytes - self.unhandled(connection)
    }

    /// Lets shards run and clients read as fast as they can.
    pub fn hasten(&mut self) {
        self.shards.iter_mut().for_each(|shard| shard.stalled_until = 0);
        self.connections.iter_mut().for_each(|connection| connection.window = usize::MAX);
    }

    /// Lets a second pass: every shard's ticker runs. Clients are not pinged, since runs must not
    /// depend on time.
    pub fn tick(&mut self) {
        for shard in 0..self.shards.len() {
            self.before_batch(shard);
        }
    }

    /// Takes one step of a randomly chosen shard; false if that one has nothing to do.
    pub fn step(&mut self) -> bool {
        let shard = self.random.usize(..self.shards.len());
        self.step_shard(shard)
    }

    /// Steps every shard once in a random order; false if none has anything to do.
    pub fn step_all(&mut self) -> bool {
        let mut order: Vec<usize> = (0..self.shards.len()).collect();
        self.random.shuffle(&mut order);
        order.into_iter().fold(false, |moved, shard| self.step_shard(shard) | moved)
    }

    /// Takes one turn of a shard as its run loop does. Every task that can move does so once: first
    /// the readers that waited, in the order in which they began to; then those that let others go
    /// first; then those whose bytes came; then the writers. The end of the turn follows.
    pub fn turn(&mut self, index: usize) {
        if self.shards[index].bell.swap(false, Ordering::Relaxed) {
            self.request(index);
        }
        let mut order = self.shards[index].connections.clone();
        order.sort_by_key(|connection| {
            let Connection { reader, moved_at, .. } = &self.connections[*connection];
            let class = match reader {
                Reader::Waiting(_) | Reader::Leaving(_) => 0,
                Reader::Ready | Reader::Yielded => 1,
                Reader::Reading | Reader::Ended => 2,
            };
            (class, *moved_at)
        });
        for connection in &order {
            self.now += 1;
            if self.step_reader(*connection) {
                self.connections[*connection].moved_at = self.now;
            }
        }
        for connection in &order {
            self.step_writer(*connection);
        }
        self.step_handover(index);
        self.end_of_turn(index);
    }

    fn step_shard(&mut self, index: usize) -> bool {
        self.now += 1;
        let shard = &mut self.shards[index];
        if shard.stalled_until > self.now {
            return false;
        }
        if shard.bell.swap(false, Ordering::Relaxed) {
            self.request(index);
            return true;
        }
        // A random rotation of everything that a runtime could run next; the first that can move
        // does.
        let shard = &self.shards[index];
        let connection_choices = shard.connections.len() * 2;
        let services_end = connection_choices + shard.services.len();
        let choices = 1 + services_end + 1;
        let start = self.random.usize(..choices);
        for offset in 0..choices {
            let choice = (start + offset) % choices;
            let moved = match choice.checked_sub(1) {
                None => self.end_of_turn(index),
                Some(choice) if choice == services_end => self.step_handover(index),
                Some(choice) if choice >= connection_choices => {
                    self.step_service(index, choice - connection_choices)
                }
                Some(choice) => {
                    let connection = self.shards[index].connections[choice / 2];
                    match choice % 2 {
                        0 => self.step_reader(connection),
                        _ => self.step_writer(connection),
                    }
                }
            };
            if moved {
                if self.check_interval > 0 && self.now.is_multiple_of(self.check_interval) {
                    self.check_invariants(index);
                }
                self.note(choice as u64);
                return true;
            }
        }
        false
    }

    /// Checks everything that the modules of a shard promise between two steps.
    fn check_invariants(&self, index: usize) {
        // Not in a release build.
        #[cfg(debug_assertions)]
        {
            let shard = &self.shards[index];
            match self.now.is_multiple_of(STEPS_PER_LOOK_AT_ALL) {
                true => shard.broker.borrow().check_invariants(),
                false => shard.broker.borrow().check_most(),
            }
            let mut paced = Vec::new();
            for connection in &shard.connections {
                let connection = &self.connections[*connection];
                let taken = connection.in_flight.as_ref().map_or(0, |(chunk, at)| chunk.len() - at);
                connection.outbox.check_invariants(taken);
                paced.extend(connection.outbox.paced_remote());
            }
            for one in &shard.hosted {
                one.hosted.outbox().check_invariants(0);
                paced.extend(one.hosted.outbox().paced_remote());
            }
            for service in &shard.services {
                service.check_invariants();
                paced.extend(service.mailbox().map(Mailbox::paced_remote).unwrap_or_default());
            }
            shard.mesh.check_invariants(&paced);
        }
        #[cfg(not(debug_assertions))]
        let _ = index;
    }

    /// Checks that each shard knows the interest of each other; to be called when nothing is on its way.
    pub fn check_interest(&self) {
        // Not in a release build.
        #[cfg(debug_assertions)]
        for (from, shard) in self.shards.iter().enumerate() {
            let shard = shard.broker.borrow();
            for (to, behind) in self.shards.iter().enumerate().filter(|(to, _)| *to != from) {
                let link = LinkId((to - usize::from(to > from)) as u32);
                shard.check_link(link, &behind.broker.borrow());
            }
        }
    }

    fn note(&mut self, event: u64) {
        self.trace = (self.trace ^ event).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
    }

    fn planted(&mut self, plant: Plant) -> bool {
        self.plant == Some(plant) && self.random.u32(..PLANT_ONE_IN) == 0
    }

    fn request(&mut self, shard: usize) {
        let shard = &mut self.shards[shard];
        shard.park.retract();
        shard.requested = true;
    }

    fn before_batch(&mut self, shard: usize) {
        let skipped = self.plant == Some(Plant::InterestNotApplied);
        if !skipped && self.shards[shard].inbound_waiting.is_raised() {
            self.shards[shard].mesh.catch_up();
        }
        self.request(shard);
    }

    fn end_of_turn(&mut self, index: usize) -> bool {
        if !self.shards[index].requested {
            return false;
        }
        let shard = &mut self.shards[index];
        shard.requested = false;
        let worked = shard.broker.borrow_mut().work_off();
        let moved = shard.mesh.end_of_turn() || worked;
        for connection in shard.connections.iter().copied() {
            let reader = &mut self.connections[connection].reader;
            if matches!(reader, Reader::Yielded) {
                *reader = Reader::Ready;
            }
        }
        let has_work = || shard.mesh.has_work() || shard.broker.borrow().has_ready_work();
        if has_work() {
            shard.requested = true;
        } else {
            shard.park.announce();
            if has_work() {
                shard.park.retract();
                shard.requested = true;
            }
        }
        self.note(u64::from(moved));
        true
    }

    fn step_service(&mut self, shard: usize, service: usize) -> bool {
        if !self.shards[shard].services[service].is_ready() {
            return false;
        }
        self.before_batch(shard);
        let SimulatedShard { broker, services, .. } = &mut self.shards[shard];
        services[service].step(&mut broker.borrow_mut());
        true
    }

    fn step_reader(&mut self, index: usize) -> bool {
        let timed_out = self.hurried || self.random.u32(..64) == 0;
        let connection = &mut self.connections[index];
        match &connection.reader {
            Reader::Ended | Reader::Yielded => return false,
            Reader::Ready => {}
            Reader::Waiting(Wait::Gate { gate, until, at_most }) => {
                if gate.value() < *until && !(at_most.is_some() && timed_out) {
                    return false;
                }
            }
            Reader::Leaving(target) => {
                let target = *target;
                if let Some(reason) = connection.outbox.close_reason() {
                    self.end_reader(index, reason);
                } else if connection.outbox.is_idle() && connection.in_flight.is_none() {
                    self.move_to(index, target);
                } else {
                    return false;
                }
                return true;
            }
            Reader::Waiting(Wait::Login { gate }) => {
                if gate.value() < 1 {
                    return false;
                }
            }
            Reader::Waiting(Wait::Sent { queue, until, .. }) => {
                if queue.sent.value() < *until && !timed_out {
                    return false;
                }
            }
            Reader::Reading => {
                let there = connection.inbound.len();
                if connection.aborted.get() || (there == 0 && connection.inbound_ended) {
                    self.end_reader(index, CloseReason::ClientClosed);
                    return true;
                }
                if there == 0 {
                    return false;
                }
                let count = match self.random.u32(..4) {
                    _ if self.whole_reads => there,
                    0 => 1,
                    1 => there.min(self.random.usize(1..=16)),
                    _ => self.random.usize(1..=there),
                };
                let bytes: Vec<u8> = connection.inbound.drain(..count).collect();
                let session = connection.session.as_ref().expect("it is here");
                match &mut connection.wire {
                    None => connection.input.extend(&bytes),
                    Some(wire) => {
                        wire.carry_in(&bytes, &mut connection.input, session.frame_limits());
                    }
                }
                self.note(count as u64);
            }
        }
        let shard = self.connections[index].shard;
        self.before_batch(shard);
        let connection = &mut self.connections[index];
        let session = connection.session.as_mut().expect("it is here");
        connection.reader = match session.receive(&mut connection.input) {
            Step::ReadMore => Reader::Reading,
            Step::Again => Reader::Yielded,
            Step::WaitFor(wait) => Reader::Waiting(wait),
            Step::Move(target) | Step::Leave(target) => Reader::Leaving(target.index()),
            Step::ReadMoreWithin(_) | Step::StartTls(_) | Step::StartFrames(_) => {
                panic!("neither TLS nor upgrades are configured here")
            }
            Step::Close(reason) => {
                self.end_reader(index, reason);
                return true;
            }
        };
        true
    }

    fn end_reader(&mut self, index: usize, reason: CloseReason) {
        let forgotten = self.plant == Some(Plant::CloseForgotten);
        let connection = &mut self.connections[index];
        let reason = connection.outbox.close_reason().unwrap_or(reason);
        if !forgotten {
            connection.session.as_mut().expect("it is here").close(reason);
        }
        connection.outbox.close(reason);
        connection.reader = Reader::Ended;
        let shard = connection.shard;
        self.request(shard);
    }

    fn step_writer(&mut self, index: usize) -> bool {
        if self.connections[index].writer_ended {
            return false;
        }
        let repeated = self.planted(Plant::ChunkRepeated);
        let lost = self.planted(Plant::ChunkLost);
        let much = self.random.bool();
        let part = self.random.usize(1..=64);
        let later = self.clock + Duration::from_secs(86_400);
        let connection = &mut self.connections[index];
        if connection.in_flight.is_none() {
            let next = {
                let future = pin!(connection.outbox.next_chunk());
                future.poll(&mut Context::from_waker(Waker::noop()))
            };
            match next {
                Poll::Pending => return false,
                Poll::Ready(Some(mut chunk)) => {
                    let shard = &self.shards[connection.shard];
                    if shard.dirty.get() {
                        shard.mesh.flush();
                    }
                    connection.outbox.send_begins(later);
                    if let Some(wire) = &mut connection.wire {
                        assert!(wire.carry_out(&chunk) == chunk, "frames hold something else");
                    }
                    // A chunk holds whole lines and messages.
                    let planted = chunk.starts_with(b"MSG");
                    if planted && repeated {
                        chunk.extend_from_within(..);
                    }
                    if planted && lost {
                        connection.outbox.send_progressed(chunk.len(), later);
                        connection.outbox.send_ends(chunk);
                        return true;
                    }
                    connection.in_flight = Some((chunk, 0));
                }
                Poll::Ready(None) => {
                    connection.writer_ended = true;
                    connection.aborted.set(true);
                    self.resume_paced(index);
                    return true;
                }
            }
        }
        let Some((chunk, offset)) = &mut connection.in_flight else { return false };
        let room = connection.window.saturating_sub(connection.outbound.len());
        let left = chunk.len() - *offset;
        let count = if much { left } else { part.min(left) }.min(room);
        if connection.aborted.get() {
            // The socket is shut down: the send fails, and what was in flight is lost.
            connection.outbox.close(CloseReason::WriteError);
            *offset = chunk.len();
        } else if count == 0 {
            return false;
        } else {
            let sent = &chunk[*offset..*offset + count];
            connection.outbound.extend_from_slice(sent);
            *offset += count;
            connection.outbox.send_progressed(count, later);
        }
        if let Some((chunk, _)) = connection.in_flight.take_if(|(chunk, at)| *at == chunk.len()) {
            connection.outbox.send_ends(chunk);
            self.resume_paced(index);
        }
        self.note(count as u64);
        true
    }

    fn resume_paced(&mut self, index: usize) {
        let connection = &self.connections[index];
        let shard = connection.shard;
        if let Some(publishers) = connection.outbox.take_resumable() {
            self.shards[shard].resumable.borrow_mut().extend(publishers);
            self.request(shard);
        }
    }

    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for shard in &self.shards {
            let (broker, lanes) = (shard.broker.borrow(), shard.mesh.counters());
            totals.forwarded += broker.counters.forwarded;
            totals.members_gone += broker.counters.queue_members_gone;
            totals.interest_left += broker.interest_total();
            totals.turn_work_max = totals.turn_work_max.max(broker.counters.turn_work_max);
            totals.batches_out += lanes.batches_out;
            totals.batches_in += lanes.batches_in;
            totals.messages_in += lanes.messages_in;
            totals.wakes += lanes.wakes;
            totals.stalls += lanes.stalls;
            totals.interest_in += lanes.interest_in;
        }
        totals
    }

    /// Describes which readers still wait, and for what, to explain a failure.
    pub fn stuck_readers(&self) -> Vec<String> {
        let readers = self.connections.iter().enumerate();
        let waits = readers.filter_map(|(index, connection)| match &connection.reader {
            Reader::Waiting(Wait::Gate { gate, until, at_most }) => Some(format!(
                "connection {index} on shard {} waits for {until} at a gate that stands at {}, at most {at_most:?}",
                connection.shard,
                gate.value()
            )),
            Reader::Waiting(Wait::Sent { .. }) => Some(format!("connection {index} paces")),
            _ => None,
        });
        waits.collect()
    }
}
