//! Answers one request: decides which shards are asked for what, and makes the report of their
//! answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::auth::state::AuthState;
use crate::base::counters::ServerCounters;
use crate::config::jetstream_options::JetStreamOptions;
use crate::config::options::Options;
use crate::monitor::accounts::{self, AccountStatz};
use crate::monitor::connz::{self, ConnzOptions, Described, Listed, State, Subscriptions};
use crate::monitor::endpoints::{Ask, Plan, plan};
use crate::monitor::http::{Request, Response};
use crate::monitor::jetstream::JetStreamReport;
use crate::monitor::jsz::{self, JszOptions};
use crate::monitor::others::{self, HealthzOptions, Unhealthy, pretty};
use crate::monitor::snapshot::{
    AccountReport, AccountTotals, ConnectionDetails, ConnectionRow, Gathered, ShardSummary,
    SubscriptionDetails, TableSummary,
};
use crate::monitor::subsz::{self, SubscriptionList, SubszOptions};
use crate::monitor::varz::{self, ServerFacts};
use crate::monitor::{dashboard, metrics};
use crate::net::tls_config::TlsServer;
use crate::peer::upgrade::WebSocketServer;
use crate::protocol::nats::handshake::Info;
use crate::server::answers::gather::{Gatherer, Room};
use crate::server::host::congestion::Congestion;
use crate::server::host::files::program_name;
use crate::server::host::identity::MIDGE_VERSION;
use crate::server::host::process_usage::{self, ProcessUsage};
use crate::shard::order::Reply;
use crate::shard::pages::{AccountPlace, ListPlace, SubscriptionFilter, SubscriptionPlace};
use crate::shard::{ShardHandle, ShardOrder};
use crate::system::answer::{self, Outcome, StatsFacts, Volume};

/// Least time between two walks over every connection for `/metrics`.
const ACCOUNT_WALK_INTERVAL: Duration = Duration::from_secs(1);

/// The part of the answers that a reload changes.
#[derive(Clone)]
pub(crate) struct Live {
    pub options: Arc<Options>,
    pub auth: Arc<AuthState>,
    pub info: Arc<Info>,
    pub config_loaded: SystemTime,
    /// TLS of connections to come; None = plain.
    pub tls: Option<Arc<TlsServer>>,
    /// Expiry of the client port's first certificate.
    pub certificate_ends: Option<SystemTime>,
    pub websocket: Option<Arc<WebSocketServer>>,
    /// True in lame duck mode: no new clients are let in.
    pub is_leaving: bool,
}

/// Number of requests answered over HTTP, by path.
pub(crate) type RequestCounts = Arc<Mutex<BTreeMap<String, u64>>>;

/// The part of the answers that stays the same for one run.
#[derive(Clone)]
pub(crate) struct Fixed {
    pub shards: Vec<ShardHandle>,
    pub counters: ServerCounters,
    pub started: (Instant, SystemTime),
    pub driver: &'static str,
    pub congestion: Congestion,
    pub port: u16,
    pub base_path: String,
    pub requests: RequestCounts,
    /// Set when the server ends: answers being gathered are given up.
    pub stopping: Arc<AtomicBool>,
}

/// The state of one thread that answers.
pub(crate) struct Answers {
    fixed: Fixed,
    live: Arc<Mutex<Live>>,
    gatherer: Gatherer,
    usage: ProcessUsage,
    /// The last walk for accounts: when it was, and what it found.
    account_totals: Option<(Instant, BTreeMap<String, AccountTotals>)>,
}

/// Returns the free space and the size of the disk that has JetStream's store.
fn store_disk(options: &JetStreamOptions) -> Option<(u64, u64)> {
    if !options.is_enabled {
        return None;
    }
    let folder = options.store_dir.clone().unwrap_or_else(std::env::temp_dir);
    let facts = rustix::fs::statvfs(&folder).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(facts.f_frsize);
    Some((bytes(facts.f_bavail), bytes(facts.f_blocks)))
}

impl Answers {
    pub(crate) fn new(fixed: Fixed, live: Arc<Mutex<Live>>) -> Self {
        let gatherer = Gatherer::new(fixed.shards.clone(), fixed.stopping.clone());
        let usage = ProcessUsage::new(gatherer.shard_count());
        Self { fixed, live, gatherer, usage, account_totals: None }
    }

    /// Called about once a second.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.usage.sample(now);
    }

    pub(crate) fn answer(&mut self, request: &Request) -> Response {
        let Plan { counted, ask } = plan(&self.fixed.base_path, request);
        if let Some(path) = counted {
            let mut counts = self.fixed.requests.lock().unwrap_or_else(PoisonError::into_inner);
            *counts.entry(path.to_owned()).or_default() += 1;
        }
        ask.map_or_else(|refused| refused, |ask| self.respond(ask))
    }

    /// Answers a parsed request, wherever it came from.
    pub(crate) fn respond(&mut self, ask: Ask) -> Response {
        match ask {
            Ask::Root => dashboard::root(&self.facts(), &self.fixed.base_path),
            Ask::Dashboard => dashboard::dashboard(),
            Ask::Varz => {
                let shards = self.summaries(false);
                let jetstream = self.jetstream(&JszOptions::default());
                pretty(&varz::varz(&self.facts(), &shards, jetstream.as_ref()))
            }
            Ask::Metrics => {
                let shards = self.summaries(false);
                let accounts = self.account_reports(&shards);
                metrics::metrics(&self.facts(), &shards, accounts)
            }
            Ask::Connz(options) => self.connz(&options),
            Ask::Subsz(options) => self.subsz(&options),
            Ask::Accountz(None) => pretty(&accounts::accountz(&self.facts())),
            Ask::Accountz(Some(name)) => self.account(&name),
            Ask::Accstatz { unused, accounts } => {
                let (statz, late_shards) = self.accstatz(unused, &accounts);
                Response { late_shards, ..pretty(&statz) }
            }
            Ask::Routez => others::routez(&self.facts()),
            Ask::Leafz => others::leafz(&self.facts()),
            Ask::Gatewayz => others::gatewayz(&self.facts()),
            Ask::Jsz(options) => {
                let report = self.jetstream(&options);
                jsz::jsz(&self.facts(), report)
            }
            Ask::Healthz(options) => {
                let late = self.gatherer.all(ShardOrder::Alive).late_shards;
                let unhealthy = self.unhealthy(&options);
                let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
                others::healthz(&options, live.is_leaving, &late, unhealthy)
            }
            Ask::Raftz => Response::text(404, "No Raft nodes registered"),
            Ask::Ipqueuesz => Response::json(200, b"{}".to_vec()),
            Ask::Threads => Response::text(200, process_usage::threads()),
            Ask::Variables => {
                let memory_bytes = self.usage.facts().memory_bytes;
                Response::json(200, answer::variables(memory_bytes, &program_name()))
            }
        }
    }

    pub(crate) fn facts(&mut self) -> ServerFacts {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let store_disk = store_disk(&live.options.jetstream);
        ServerFacts {
            store_disk,
            info: live.info,
            options: live.options,
            auth: live.auth,
            version: MIDGE_VERSION,
            driver: self.fixed.driver,
            congestion: self.fixed.congestion.names(),
            started: self.fixed.started,
            config_loaded: live.config_loaded,
            certificate_ends: live.certificate_ends,
            websocket: live.websocket,
            now: (Instant::now(), SystemTime::now()),
            monitor_port: self.fixed.port,
            connections_total: self.fixed.counters.connections_total(),
            process: self.usage.facts(),
            requests: {
                let counts = self.fixed.requests.lock();
                counts.unwrap_or_else(PoisonError::into_inner).clone()
            },
        }
    }

    /// Describes JetStream; None = there is none, or its shard does not answer.
    fn jetstream(&mut self, options: &JszOptions) -> Option<JetStreamReport> {
        let question = |answer| ShardOrder::JetStream(options.clone(), answer);
        let answers = self.gatherer.all(question).answers;
        answers.into_iter().find_map(|(_, report)| report).map(|report| *report)
    }

    fn unhealthy(&mut self, options: &HealthzOptions) -> Option<Unhealthy> {
        if options.account.is_empty() {
            return None;
        }
        let account = options.account.clone();
        let asked = JszOptions { account, streams: true, limit: 1, ..JszOptions::default() };
        let report = self.jetstream(&asked);
        jsz::unhealthy(options, report.as_ref())
    }

    fn every_shard<P: Default>(&self) -> Vec<(usize, P)> {
        (0..self.gatherer.shard_count()).map(|shard| (shard, P::default())).collect()
    }

    /// Returns the numbers of all shards and their tables; with the fan-out of cached subjects only
    /// on request.
    fn summaries(&mut self, with_fanout: bool) -> Gathered<ShardSummary> {
        let mut shards = self.gatherer.all(ShardOrder::Summary);
        let starts = shards.answers.iter().map(|(shard, _)| (*shard, 0)).collect();
        let tables = self.gatherer.pages(
            starts,
            Room::UNBOUNDED,
            |_| 0,
            |_, from, answer| ShardOrder::Tables { with_fanout, from, answer },
        );
        let mut tables: BTreeMap<_, _> = tables.answers.into_iter().collect();
        shards.answers.retain_mut(|(shard, summary)| match tables.remove(shard) {
            Some(tables) => {
                summary.set_tables(tables);
                true
            }
            None => {
                shards.late_shards.push(*shard);
                false
            }
        });
        shards.late_shards.sort_unstable();
        shards
    }

    fn connz(&mut self, options: &ConnzOptions) -> Response {
        let facts = self.facts();
        let accounts = facts.auth.authenticator.accounts();
        if options.filter.account.as_ref().is_some_and(|name| accounts.get(name).is_none()) {
            return pretty(&connz::unknown_account(&facts, options));
        }
        let mut listed: Vec<Listed> = Vec::new();
        let mut late_shards = Vec::new();
        let mut cut = false;
        if matches!(options.state, State::Open | State::All) {
            let filter = Arc::new(options.filter.clone());
            let starts = self.every_shard();
            let rows = self.gatherer.pages(
                starts,
                Room::LIST,
                |_| size_of::<ConnectionRow>(),
                |_, from, answer| ShardOrder::Connections { filter: filter.clone(), from, answer },
            );
            cut |= rows.cut;
            late_shards.extend(rows.late_shards);
            for (shard, rows) in rows.answers {
                listed.extend(rows.into_iter().map(|row| Listed::Open {
                    shard,
                    place: row.place,
                    numbers: row.numbers,
                }));
            }
            // A connection that changes shards meanwhile may be met on both.
            let mut seen = BTreeSet::new();
            listed.retain(|one| seen.insert(one.id()));
            if options.mqtt_client {
                listed.clear();
            }
            if let Some(filter) = &options.filter_subject {
                let interested = self.connections_with_interest(&options.filter.account, filter);
                listed.retain(|one| interested.contains(&one.id()));
            }
        }
        if matches!(options.state, State::Closed | State::All) {
            let starts = self.every_shard();
            let closed = self.gatherer.pages(
                starts,
                Room::UNBOUNDED,
                |_| 0,
                |_, from, answer| ShardOrder::Closed { from, answer },
            );
            late_shards.extend(closed.late_shards);
            let epoch = self.fixed.started.0;
            let packed = closed.answers.into_iter().flat_map(|list| list.1);
            let mut closed: Vec<_> = packed.map(|packed| packed.unpack(epoch)).collect();
            // Only the newest of all shards together count.
            closed.sort_by_key(|one| std::cmp::Reverse(one.stopped));
            closed.truncate(facts.options.limits.closed_connections_max);
            connz::filter_closed(&mut closed, options, !listed.is_empty());
            listed.extend(closed.into_iter().map(|one| Listed::Closed(Box::new(one))));
        }
        let total = listed.len();
        let selected = connz::select(listed, options, facts.now.0);
        let mut described = self.describe(selected, options, &mut cut, &mut late_shards);
        cut |= connz::fit(&mut described, Room::LIST.items, Room::LIST.bytes);
        let response = pretty(&connz::connz(&facts, options, total, described));
        late_shards.sort_unstable();
        late_shards.dedup();
        Response { cut, late_shards, ..response }
    }

    /// Returns the ids of an account's clients with a subscription that overlaps the filter.
    fn connections_with_interest(
        &mut self,
        account: &Option<String>,
        filter: &str,
    ) -> BTreeSet<u64> {
        let filter = SubscriptionFilter {
            account: account.clone(),
            overlaps: Some(filter.to_owned()),
            ..SubscriptionFilter::default()
        };
        let found = self.subscriptions(filter).0;
        found.into_iter().map(|(_, subscription)| subscription.connection).collect()
    }

    /// Returns the subscriptions that pass the filter, with their accounts, as many as fit an
    /// answer; true if there are more; and the shards that were late.
    fn subscriptions(
        &mut self,
        filter: SubscriptionFilter,
    ) -> (Vec<(String, SubscriptionDetails)>, bool, Vec<usize>) {
        let filter = Arc::new(filter);
        let starts = self.every_shard::<SubscriptionPlace>();
        let pages = self.gatherer.pages(
            starts,
            Room::LIST,
            |(account, one): &(String, SubscriptionDetails)| 2 * account.len() + one.answer_bytes(),
            |_, from, answer| ShardOrder::Subscriptions { filter: filter.clone(), from, answer },
        );
        let all = pages.answers.into_iter().flat_map(|list| list.1).collect();
        (all, pages.cut, pages.late_shards)
    }

    /// Asks each shard for the details of its connections in the list, and puts them in the list's
    /// order. Connections that ended meanwhile are left out.
    fn describe(
        &mut self,
        selected: Vec<Listed>,
        options: &ConnzOptions,
        cut: &mut bool,
        late_shards: &mut Vec<usize>,
    ) -> Vec<Described> {
        let mut wanted: BTreeMap<usize, Vec<(usize, u64)>> = BTreeMap::new();
        for one in &selected {
            if let Listed::Open { shard, place, numbers } = one {
                wanted.entry(*shard).or_default().push((*place, numbers.id));
            }
        }
        let wanted: BTreeMap<usize, Arc<[(usize, u64)]>> =
            wanted.into_iter().map(|(shard, places)| (shard, places.into())).collect();
        let starts = wanted.keys().map(|shard| (*shard, 0)).collect();
        let found = self.gatherer.pages(
            starts,
            Room::LIST,
            ConnectionDetails::answer_bytes,
            |shard, from, answer| ShardOrder::Details {
                wanted: wanted[&shard].clone(),
                from,
                answer,
            },
        );
        *cut |= found.cut;
        late_shards.extend(found.late_shards);
        let details = found.answers.into_iter().flat_map(|list| list.1);
        let mut by_id: BTreeMap<u64, ConnectionDetails> =
            details.map(|details| (details.numbers.id, details)).collect();
        if options.subscriptions != Subscriptions::Count {
            let starts = wanted.keys().map(|shard| (*shard, ListPlace::default())).collect();
            let lists = self.gatherer.pages(
                starts,
                Room::LIST,
                SubscriptionDetails::answer_bytes,
                |shard, from, answer| ShardOrder::Lists {
                    wanted: wanted[&shard].clone(),
                    from,
                    answer,
                },
            );
            *cut |= lists.cut;
            late_shards.extend(lists.late_shards);
            for one in lists.answers.into_iter().flat_map(|list| list.1) {
                if let Some(details) = by_id.get_mut(&one.connection) {
                    details.subscription_list.push(one);
                }
            }
        }
        let in_order = selected.into_iter().filter_map(|one| match one {
            Listed::Open { numbers, .. } => {
                by_id.remove(&numbers.id).map(|details| Described::Open(Box::new(details)))
            }
            Listed::Closed(closed) => Some(Described::Closed(closed)),
        });
        in_order.collect()
    }

    fn subsz(&mut self, options: &SubszOptions) -> Response {
        let facts = self.facts();
        let shards = self.summaries(true);
        let known = options.account.as_ref().map(|name| {
            let account = facts.auth.authenticator.accounts().get(name);
            account.map(|account| facts.auth.id(account).index())
        });
        let table = match known {
            // The account does not exist: nothing is counted.
            Some(None) => TableSummary::default(),
            Some(Some(index)) => subsz::table_of(&shards, Some(index)),
            None => subsz::table_of(&shards, None),
        };
        let mut list = SubscriptionList::default();
        let mut late_shards = shards.late_shards.clone();
        let mut cut = false;
        if options.list {
            let filter = SubscriptionFilter {
                account: options.account.clone(),
                subject: options.test.clone(),
                ..SubscriptionFilter::default()
            };
            let (mut all, is_cut, late) = self.subscriptions(filter);
            all.sort_by(|one, other| one.1.in_order(&other.1));
            late_shards.extend(late);
            cut = is_cut;
            list.total = all.len();
            if options.test.is_none() {
                // An exact count, even if the list was cut.
                list.total = list.total.max(table.subscriptions);
            }
            list.shown = all.into_iter().skip(options.offset).take(options.limit).collect();
        }
        late_shards.sort_unstable();
        late_shards.dedup();
        Response { cut, late_shards, ..pretty(&subsz::subsz(&facts, options, &table, list)) }
    }

    fn account(&mut self, name: &str) -> Response {
        let facts = self.facts();
        let Some(account) = facts.auth.authenticator.accounts().get(name) else {
            return Response::text(400, accounts::unknown_account(name));
        };
        let shards = self.summaries(true);
        let table = subsz::table_of(&shards, Some(facts.auth.id(account).index()));
        let late_shards = shards.late_shards.clone();
        Response { late_shards, ..pretty(&accounts::account_detail(&facts, account, &table)) }
    }

    /// Returns one account's part of `/accountz`.
    ///
    /// # Errors
    /// If there is no such account.
    pub(crate) fn account_info(&mut self, name: &str) -> Result<Outcome, String> {
        let facts = self.facts();
        let account = facts.auth.authenticator.accounts().get(name);
        let account = account.ok_or_else(|| accounts::unknown_account(name))?;
        let shards = self.summaries(true);
        let table = subsz::table_of(&shards, Some(facts.auth.id(account).index()));
        Ok(Outcome::data(&accounts::account_report(&facts, account, &table)))
    }

    /// Sums up the clients of each account. Examines every connection of every shard.
    fn walk_accounts(&mut self) -> BTreeMap<String, AccountTotals> {
        let starts = self.every_shard::<AccountPlace>();
        let pages = self.gatherer.pages(
            starts,
            Room::UNBOUNDED,
            |_| 0,
            |_, from, answer| ShardOrder::Accounts { from, answer },
        );
        let mut totals: BTreeMap<String, AccountTotals> = BTreeMap::new();
        for (name, part) in pages.answers.into_iter().flat_map(|list| list.1) {
            totals.entry(name).or_default().add(&part);
        }
        totals
    }

    /// Returns the accounts for `/metrics`, those with most connections first. Walks at most once a
    /// second, however often somebody scrapes.
    fn account_reports(&mut self, shards: &Gathered<ShardSummary>) -> Vec<AccountReport> {
        let now = Instant::now();
        let before = self.account_totals.take();
        let is_fresh = before.as_ref().is_some_and(|(at, _)| now - *at < ACCOUNT_WALK_INTERVAL);
        let (at, totals) = match before {
            Some(before) if is_fresh => before,
            before => {
                let mut totals = self.walk_accounts();
                for (name, earlier) in before.into_iter().flat_map(|(_, earlier)| earlier) {
                    totals.entry(name).or_default().not_below(&earlier);
                }
                (now, totals)
            }
        };
        let facts = self.facts();
        let accounts = facts.auth.authenticator.accounts().iter();
        let mut reports: Vec<AccountReport> = accounts
            .map(|account| {
                let index = facts.auth.id(account).index();
                let name = account.name.to_string();
                AccountReport {
                    totals: totals.get(&name).copied().unwrap_or_default(),
                    subscriptions: subsz::table_of(shards, Some(index)).subscriptions,
                    name,
                }
            })
            .collect();
        // A stable sort, so that ties are not left out in turns.
        reports.sort_by_key(|report| std::cmp::Reverse(report.totals.connections));
        self.account_totals = Some((at, totals));
        reports
    }

    /// Returns the statistics of all accounts, or of those named, and the shards that were late.
    pub(crate) fn accstatz(
        &mut self,
        unused: bool,
        wanted: &[String],
    ) -> (AccountStatz, Vec<usize>) {
        let facts = self.facts();
        let shards = self.summaries(false);
        let totals = self.walk_accounts();
        let accounts = facts.auth.authenticator.accounts().iter();
        let tables = accounts.map(|account| {
            let index = facts.auth.id(account).index();
            (account.name.to_string(), subsz::table_of(&shards, Some(index)))
        });
        let tables = tables.collect();
        (accounts::accstatz(&facts, unused, wanted, &totals, &tables), shards.late_shards)
    }

    /// Returns the statistics of the whole server.
    pub(crate) fn stats(&mut self) -> StatsFacts {
        let shards = self.summaries(false);
        let facts = self.facts();
        let sum = |of: fn(&ShardSummary) -> u64| {
            shards.answers.iter().map(|(_, summary)| of(summary)).sum::<u64>()
        };
        let accounts = facts.auth.authenticator.accounts().iter();
        StatsFacts {
            started: facts.started.1,
            memory_bytes: facts.process.memory_bytes,
            core_count: facts.process.core_count,
            shard_count: facts.process.shard_cpu.len(),
            cpu_percent: facts.process.cpu_percent,
            connections: self.fixed.counters.connections(),
            connections_total: facts.connections_total,
            active_accounts: accounts
                .filter(|account| facts.auth.connections(account).value() > 0)
                .count(),
            subscriptions: sum(|summary| summary.subscriptions as u64) as usize,
            sent: Volume {
                msgs: sum(|summary| summary.out_messages),
                bytes: sum(|summary| summary.out_bytes),
            },
            received: Volume {
                msgs: sum(|summary| summary.in_messages),
                bytes: sum(|summary| summary.in_bytes),
            },
            slow_consumers: sum(|summary| summary.slow_consumers),
            stale_connections: sum(|summary| summary.stale_connections),
            stalls: sum(|summary| summary.stalls),
        }
    }

    /// Counts the client subscriptions of an account that overlap a filter; only those in a queue
    /// group, if one is named.
    pub(crate) fn subscriber_count(
        &mut self,
        account: &str,
        filter: &str,
        queue: Option<&str>,
    ) -> usize {
        let (found, ..) = self.subscriptions(SubscriptionFilter {
            account: Some(account.to_owned()),
            within: Some(filter.to_owned()),
            ..SubscriptionFilter::default()
        });
        let of_queue = |subscription: &SubscriptionDetails| {
            queue.is_none_or(|queue| subscription.queue == queue)
        };
        found.iter().filter(|(_, subscription)| of_queue(subscription)).count()
    }

    /// Returns one answer of each shard that is not late.
    pub(crate) fn ask_shards<T>(&mut self, question: impl Fn(Reply<T>) -> ShardOrder) -> Vec<T> {
        self.gatherer.all(question).answers.into_iter().map(|(_, answer)| answer).collect()
    }
}
