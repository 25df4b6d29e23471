//! Numbers of the whole server that every shard may touch: on cold paths only (accept and close), or
//! published once a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::base::ids::{ConnectionId, ShardId};

/// The first client's number: nats-server's internal clients take 1 to 4.
const FIRST_CONNECTION_ID: u64 = 5;

/// Connections of each shard, for the one that hands a new one to the shard with the fewest.
#[derive(Clone, Debug)]
pub struct ShardLoads(Arc<[Gauge]>);

impl ShardLoads {
    pub fn new(count: usize) -> Self {
        Self((0..count).map(|_| Gauge::default()).collect())
    }

    pub fn of(&self, shard: ShardId) -> &Gauge {
        &self.0[shard.index()]
    }

    /// The shard with the fewest connections; `own` where no other has fewer.
    pub fn least(&self, own: ShardId) -> ShardId {
        let mut least = own;
        for (index, gauge) in self.0.iter().enumerate() {
            if gauge.value() < self.of(least).value() {
                least = ShardId(u16::try_from(index).expect("few shards"));
            }
        }
        least
    }
}

/// Shared by all shards. Relaxed throughout: each number stands alone, nothing is published by it.
#[derive(Clone)]
pub struct ServerCounters {
    inner: Arc<Inner>,
}

struct Inner {
    next_connection_id: AtomicU64,
    connections: AtomicUsize,
    connections_total: AtomicU64,
}

impl Default for ServerCounters {
    fn default() -> Self {
        Self {
            inner: Arc::new(Inner {
                next_connection_id: AtomicU64::new(FIRST_CONNECTION_ID),
                connections: AtomicUsize::new(0),
                connections_total: AtomicU64::new(0),
            }),
        }
    }
}

impl ServerCounters {
    pub fn next_connection_id(&self) -> ConnectionId {
        ConnectionId(self.inner.next_connection_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Counts a connection in and says how many there are with it.
    pub fn connection_opened(&self) -> usize {
        self.inner.connections_total.fetch_add(1, Ordering::Relaxed);
        self.inner.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub fn connection_closed(&self) {
        self.inner.connections.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn connections(&self) -> usize {
        self.inner.connections.load(Ordering::Relaxed)
    }

    pub fn connections_total(&self) -> u64 {
        self.inner.connections_total.load(Ordering::Relaxed)
    }
}

/// One number that any shard may move: an account's connections. Relaxed: it stands alone.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicUsize>);

impl Gauge {
    /// Counts one in and says how many there are with it.
    pub fn add(&self) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub fn subtract(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn value(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}
