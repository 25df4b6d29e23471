//! JetStream on the shard that has its store: the disk's wakes, the engine's host, the start.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::order::Reply;
use crate::auth::state::AuthState;
use crate::broker::BrokerHandle;
use crate::jetstream::API_LEVEL;
use crate::jetstream::engine::{AccountFacts, Engine};
use crate::jetstream::host::{Host, Settings, Task};
use crate::jetstream::report::{Report, ReportOptions};
use crate::monitor::jetstream::{
    AccountDetailJson, ApiStatsJson, ConfigJson, JetStreamReport, LeaderJson, LimitsJson,
    StatsJson, StreamDetailJson,
};
use crate::monitor::jsz::JszOptions;
use crate::monitor::snapshot::JetStreamSummary;
use crate::net::doorbell::DoorbellHandle;
use crate::net::runtime::{TurnHook, sleep, spawn};
use crate::storage::folder::StoreFolder;
use crate::storage::recovery::JournalPlace;
use crate::storage::replay::Replayed;
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
    engine: Rc<Engine<ThreadDisk>>,
    disk: ThreadDisk,
    /// Accounts that are to be taken over, and whether a task does so.
    next_accounts: Rc<RefCell<Option<Arc<AuthState>>>>,
    is_taking: Rc<Cell<bool>>,
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
        bell: DoorbellHandle,
    ) -> io::Result<Self> {
        let JetStreamSeed { folder, root, write_mode, place, replayed, sync_interval, settings } =
            seed;
        let disk = ThreadDisk::start(&root, write_mode, move || bell.ring())?;
        let store = Store::start(disk.clone(), place, replayed);
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
        Ok(Self {
            engine,
            disk,
            next_accounts: Rc::default(),
            is_taking: Rc::default(),
            _folder: folder,
        })
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

    /// Describes all streams, some per turn.
    pub(super) fn report(&self, options: JszOptions, answer: Reply<Option<Box<JetStreamReport>>>) {
        let engine = self.engine.clone();
        spawn(async move {
            let asked = ReportOptions {
                account: options.account.clone(),
                has_accounts: options.accounts,
                has_streams: options.streams,
                offset: options.offset,
                limit: options.limit,
            };
            let report = engine.survey(&asked).await;
            answer.give(Some(Box::new(shown(report, options.config))));
        });
    }

    /// Takes over the accounts of a reload, some per turn.
    pub(super) fn take_accounts(&self, auth: Arc<AuthState>) {
        let before = self.next_accounts.replace(Some(auth));
        if before.is_some() || self.is_taking.replace(true) {
            return;
        }
        let (engine, next) = (self.engine.clone(), self.next_accounts.clone());
        let is_taking = self.is_taking.clone();
        spawn(async move {
            // Whatever changes meanwhile is taken over together.
            loop {
                let Some(auth) = next.take() else { break };
                for remark in engine.clone().set_accounts(account_facts(&auth)).await {
                    tracing::warn!("JetStream does not serve {remark}");
                }
            }
            is_taking.set(false);
        });
    }

    /// Wakes the tasks whose operations of the disk are done.
    pub(super) fn collect(&self) {
        self.disk.collect();
    }
}

fn account_facts(auth: &AuthState) -> Vec<AccountFacts> {
    let facts = |account: &Arc<crate::auth::account::Account>| AccountFacts {
        id: auth.id(account),
        name: account.name.clone(),
        is_system: account.is_system,
        limits: account.jetstream.clone(),
    };
    auth.authenticator.accounts().iter().map(facts).collect()
}

/// A report as monitoring shows it.
fn shown(report: Report, has_config: bool) -> JetStreamReport {
    let settings = report.settings.clone();
    let leader = &settings.server_name;
    let accounts = report.details.into_iter().map(|account| {
        let figures = account.figures;
        let limits = &figures.limits;
        // nats-server shows no limit as the largest number.
        let reserved = |limit: i64| u64::try_from(limit).unwrap_or(u64::MAX);
        let stats = StatsJson {
            memory: figures.memory,
            storage: figures.storage,
            reserved_memory: reserved(limits.max_memory),
            reserved_storage: reserved(limits.max_storage),
            api: ApiStatsJson { level: 0, total: figures.api.total, errors: figures.api.errors },
            ..StatsJson::default()
        };
        let streams = account.streams.into_iter().map(|stream| StreamDetailJson {
            name: stream.config.name.clone(),
            created: json(&stream.created),
            cluster: LeaderJson { leader: leader.clone() },
            config: has_config.then(|| json(&stream.config)),
            state: json(&stream.state),
        });
        let (name, id) = (account.name.clone(), account.name);
        AccountDetailJson { name, id, stats, stream_detail: streams.collect() }
    });
    JetStreamReport {
        stats: StatsJson {
            memory: report.memory,
            storage: report.store,
            reserved_memory: report.reserved.0,
            reserved_storage: report.reserved.1,
            accounts: report.accounts,
            ha_assets: 0,
            api: ApiStatsJson {
                level: API_LEVEL,
                total: report.api_total,
                errors: report.api_errors,
            },
        },
        config: ConfigJson {
            max_memory: settings.memory_bytes_max,
            max_storage: settings.store_bytes_max,
            store_dir: settings.store_folder.clone(),
            sync_interval: settings.sync_interval_ns,
            sync_always: settings.sync_interval_ns.is_none(),
            domain: settings.domain.clone(),
            compress_ok: true,
            unique_tag: settings.unique_tag.clone(),
            strict: settings.is_strict,
        },
        limits: LimitsJson {
            max_ack_pending: settings.ack_pending_max,
            max_request_batch: settings.request_batch_max,
            default_max_consumers: settings.default_consumers_max,
            duplicate_window: settings.duplicate_window_ns_max,
        },
        streams: report.streams,
        consumers: report.consumers,
        messages: report.messages,
        bytes: report.bytes,
        accounts: accounts.collect(),
    }
}

fn json(value: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(value).expect("plain values always serialize")
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
