//! Shards for the models: a broker with one client, the mesh, and a thread that turns and sleeps.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread::JoinHandle;
use midge::testing::base::ids::{AccountId, ClientKey, ConnectionId, LinkId};
use midge::testing::base::limits::CHUNK_BYTES;
use midge::testing::base::pool::BufferPool;
use midge::testing::broker::link::{Congestion, InterestChange};
use midge::testing::broker::outbox::Outbox;
use midge::testing::broker::passage::{Origin, Routed};
use midge::testing::broker::route_cache::RouteCache;
use midge::testing::broker::turn::Turn;
use midge::testing::broker::{Broker, BrokerHandle};
use midge::testing::protocol::message::{Message, MessageRun};

use crate::mesh::{LaneEnds, Lanes, Mesh, lanes};
use crate::ring::{ParkFlag, Signal};

/// Words of a model thread's stack: the router's frames are larger than loom's default.
const STACK_WORDS: usize = 64 << 10;

/// An eventfd: a ring before the wait is kept, and waiting takes all rings.
#[derive(Default)]
pub struct Bell {
    rings: Mutex<u32>,
    rung: Condvar,
}

impl Bell {
    pub fn ring(&self) {
        *self.rings.lock().expect("never poisoned") += 1;
        self.rung.notify_one();
    }

    pub fn wait(&self) {
        let mut rings = self.rings.lock().expect("never poisoned");
        while *rings == 0 {
            rings = self.rung.wait(rings).expect("never poisoned");
        }
        *rings = 0;
    }
}

/// What a shard's thread is given.
pub struct ShardPlan {
    ends: LaneEnds,
    park: ParkFlag,
    bell: Arc<Bell>,
}

pub fn shard_plans(count: usize, sizes: Lanes) -> Vec<ShardPlan> {
    let parks: Vec<ParkFlag> = (0..count).map(|_| ParkFlag::default()).collect();
    let bells: Vec<Arc<Bell>> = (0..count).map(|_| Arc::new(Bell::default())).collect();
    let ends = lanes(count, sizes, |_, to| {
        let (park, bell) = (parks[to].clone(), bells[to].clone());
        Box::new(move || {
            let must = park.must_wake();
            if must {
                bell.ring();
            }
            must
        })
    });
    let plans = ends.into_iter().zip(parks).zip(bells);
    plans.map(|((ends, park), bell)| ShardPlan { ends, park, bell }).collect()
}

pub fn start(plan: ShardPlan, run: impl FnOnce(&Shard) + Send + 'static) -> JoinHandle<()> {
    let builder = loom::thread::Builder::new().stack_size(STACK_WORDS);
    builder.spawn(move || run(&Shard::new(plan))).expect("fewer threads than loom allows")
}

/// Starts two shards on one thread, one after the other: fewer interleavings.
pub fn start_both(
    plans: [ShardPlan; 2],
    run: impl FnOnce([&Shard; 2]) + Send + 'static,
) -> JoinHandle<()> {
    let builder = loom::thread::Builder::new().stack_size(STACK_WORDS);
    let run = move || {
        let [first, second] = plans.map(Shard::new);
        run([&first, &second]);
    };
    builder.spawn(run).expect("fewer threads than loom allows")
}

pub struct Shard {
    broker: BrokerHandle,
    mesh: Mesh,
    inbound_waiting: Signal,
    park: ParkFlag,
    bell: Arc<Bell>,
    pub client: Client,
}

/// The one client of a shard.
pub struct Client {
    broker: BrokerHandle,
    key: ClientKey,
    outbox: Rc<Outbox>,
}

impl Client {
    /// Handles a SUB, which is announced to other shards.
    pub fn subscribe(&self, filter: &str) {
        let filter = filter.as_bytes();
        self.broker.borrow_mut().subscribe(self.key, filter, b"", filter, None);
    }

    /// Returns the number of messages queued for it.
    pub fn heard(&self) -> u64 {
        self.outbox.out_messages.get()
    }

    /// Takes everything queued for it.
    pub fn take_queued(&self) -> String {
        let mut next = std::pin::pin!(self.outbox.next_chunk());
        match next.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(bytes)) => String::from_utf8(bytes).expect("models speak text"),
            _ => String::new(),
        }
    }
}

impl Shard {
    fn new(plan: ShardPlan) -> Self {
        let broker = Rc::new(RefCell::new(Broker::reproducible(1)));
        let inbound_waiting = plan.ends.inbound_waiting.clone();
        let mesh =
            Mesh::new(broker.clone(), plan.ends, Rc::default(), Rc::default(), Rc::default());
        let pool = Rc::new(BufferPool::new(&CHUNK_BYTES, 1));
        let outbox = Rc::new(Outbox::new(ConnectionId(5), pool, 1 << 20));
        let key = broker.borrow_mut().attach(AccountId::GLOBAL, outbox.clone());
        let client = Client { broker: broker.clone(), key, outbox };
        Self { broker, mesh, inbound_waiting, park: plan.park, bell: plan.bell, client }
    }

    /// Applies what another shard's note would have announced long ago: keeps the models small.
    pub fn told(&self, filter: &str, link: u32) {
        let change = InterestChange::new(AccountId::GLOBAL, filter.as_bytes(), b"", 1);
        self.broker.borrow_mut().link_interest(LinkId(link), &change);
    }

    /// Handles a PUB as a session does; true if anybody gets it.
    pub fn publish(&self, subject: &str) -> bool {
        if self.inbound_waiting.is_raised() {
            self.mesh.catch_up();
        }
        let origin = Origin::client(AccountId::GLOBAL, self.client.key, None, false);
        let message = Message::without_headers(subject.as_bytes(), b"", b"", b"0");
        let (mut cache, mut turn) = (RouteCache::default(), Turn::default());
        let run = MessageRun::one(message);
        self.broker.borrow_mut().publish(&origin, &run, &mut cache, &mut turn) == Routed::Delivered
    }

    /// Raises the signal: whatever else it is for, there is something to look at.
    pub fn be_roused(&self) {
        self.inbound_waiting.raise();
    }

    pub fn end_turn(&self) {
        self.mesh.end_of_turn();
    }

    pub fn interest_congestion(&self) -> Option<Congestion> {
        self.broker.borrow().interest_congestion()
    }

    pub fn interest_known(&self) -> usize {
        self.broker.borrow().interest_total()
    }

    /// Returns the number of messages that came over lanes, wanted here or not.
    pub fn messages_in(&self) -> u64 {
        self.mesh.counters().messages_in
    }

    pub fn batches_out(&self) -> u64 {
        self.mesh.counters().batches_out
    }

    /// Takes turns, and sleeps when there is nothing to do, until `done`.
    pub fn turn_until(&self, done: impl Fn(&Self) -> bool) {
        loop {
            self.mesh.end_of_turn();
            if done(self) {
                return;
            }
            if self.mesh.has_work() {
                loom::thread::yield_now();
                continue;
            }
            self.park.announce();
            if self.mesh.has_work() {
                self.park.retract();
                continue;
            }
            self.bell.wait();
            self.park.retract();
        }
    }
}
