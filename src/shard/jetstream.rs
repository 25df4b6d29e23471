//! JetStream on the shard that has its store: the disk's wakes, the engine's host, the start.

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use crate::auth::state::AuthState;
use crate::broker::BrokerHandle;
use crate::jetstream::engine::{AccountFacts, Engine};
use crate::jetstream::host::{Host, Settings, Task};
use crate::monitor::snapshot::JetStreamSummary;
use crate::net::doorbell::DoorbellHandle;
use crate::net::runtime::{Driver, TurnHook, sleep, spawn};
use crate::storage::folder::StoreFolder;
use crate::storage::recovery::JournalPlace;
use crate::storage::replay::Replayed;
use crate::storage::ring_disk::RingDisk;
use crate::storage::store::{Store, SyncInterval};
use crate::storage::thread_disk::{ThreadDisk, WriteMode};

/// A store that was opened and replayed before its shard runs.
pub(crate) struct JetStreamSeed {
    pub folder: StoreFolder,
    pub root: PathBuf,
    pub write_mode: WriteMode,
    pub place: JournalPlace,
    pub replayed: Replayed,
    pub sync_interval: SyncInterval,
    pub settings: Settings,
}

/// JetStream's part of a shard.
pub(super) struct JetStream {
    engine: Rc<Engine<RingDisk>>,
    helper: ThreadDisk,
    /// Held as long as the store is open.
    _folder: StoreFolder,
}

impl JetStream {
    /// Starts the engine on this shard.
    ///
    /// # Errors
    /// There is no thread for the disk.
    pub(super) fn start(
        broker: BrokerHandle,
        hook: Rc<TurnHook>,
        auth: &AuthState,
        seed: JetStreamSeed,
        (driver, bell): (Driver, DoorbellHandle),
    ) -> io::Result<Self> {
        let JetStreamSeed { folder, root, write_mode, place, replayed, sync_interval, settings } =
            seed;
        let helper = ThreadDisk::start(&root, write_mode, move || bell.ring())?;
        let disk = match driver {
            Driver::IoUring => RingDisk::new(helper.clone()),
            Driver::Epoll => RingDisk::without_ring(helper.clone()),
        };
        let store = Store::start(disk, place, replayed);
        let mut store = store.unwrap_or_else(|_| panic!("the replayed store is whole"));
        store.share_memory(1);
        store.set_sync_interval(sync_interval);
        let accounts = account_facts(auth);
        let host = Rc::new(ShardHost { hook });
        let (engine, remarks) =
            Engine::start(store, broker, host, fastrand::u64(..), settings, accounts.into_iter());
        for remark in remarks {
            tracing::warn!("JetStream does not serve {remark}");
        }
        Ok(Self { engine, helper, _folder: folder })
    }

    /// The numbers that monitoring shows.
    pub(super) fn summary(&self) -> JetStreamSummary {
        let figures = self.engine.figures();
        JetStreamSummary {
            consumers: figures.consumers,
            memory_bytes: figures.usage.memory,
            store_bytes: figures.usage.store,
            stored: figures.stored,
            duplicates: figures.duplicates,
            refused: figures.refused,
            api_requests: figures.api_requests,
            api_errors: figures.api_errors,
            delivered: figures.delivered,
            redelivered: figures.redelivered,
            acknowledged: figures.acknowledged,
            store: figures.store,
        }
    }

    /// Wakes the tasks whose operations of the disk are done.
    pub(super) fn collect(&self) {
        self.helper.collect();
    }
}

fn account_facts(auth: &AuthState) -> Vec<AccountFacts> {
    let facts = |account: &std::sync::Arc<crate::auth::account::Account>| AccountFacts {
        id: auth.id(account),
        name: account.name.clone(),
        is_system: account.is_system,
        limits: account.jetstream.clone(),
    };
    auth.authenticator.accounts().iter().map(facts).collect()
}

/// The engine's host: this shard's thread.
struct ShardHost {
    hook: Rc<TurnHook>,
}

impl Host for ShardHost {
    fn now_ns(&self) -> i64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }

    fn spawn(&self, task: Task) {
        spawn(task);
    }

    fn sleep(&self, duration: Duration) -> Task {
        Box::pin(sleep(duration))
    }

    fn yield_turn(&self) -> Task {
        let hook = self.hook.clone();
        Box::pin(async move { hook.yield_turn().await })
    }

    fn before_batch(&self) {
        self.hook.before_batch();
    }
}

/// The place of a shard's JetStream, filled at its start.
pub(super) type JetStreamPlace = RefCell<Option<JetStream>>;
