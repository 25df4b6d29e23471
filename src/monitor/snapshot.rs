//! Plain values that a shard gives away about itself, filled on its own thread.

use std::cmp::Ordering;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::auth::authenticator::ConnectionType;
use crate::base::histogram::Durations;
use crate::net::tls::PeerCertificates;
use crate::protocol::nats::error::CloseReason;
use crate::storage::figures::StoreFigures;

/// The numbers of one shard. Filling it takes the same time whatever the number of connections;
/// tables are requested part by part.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShardSummary {
    pub shard: usize,
    /// True if it takes connections.
    pub is_awake: bool,
    pub connections: usize,
    pub subscriptions: usize,
    pub in_messages: u64,
    pub in_bytes: u64,
    pub out_messages: u64,
    pub out_bytes: u64,
    pub slow_consumers: u64,
    pub stale_connections: u64,
    pub stalls: u64,
    /// Messages dropped for slow consumers because of `no_fast_producer_stall`.
    pub dropped: u64,
    /// As of the shard's last tick, at most a second ago.
    pub pending_bytes: u64,
    /// Pending bytes of the connection that has most.
    pub pending_bytes_largest: u64,
    pub turns: u64,
    /// Connections that other shards gave away, after they had subscribed or published there.
    pub moved_in: u64,
    /// Durations of turns that had something to do.
    pub turn_durations: Durations,
    /// Time from the turn that read a chunk's first bytes, here or on another shard, until the
    /// kernel took the chunk.
    pub queued_durations: Durations,
    /// Time from the turn on another shard that read a batch's first message until the turn that
    /// took the batch here.
    pub lane_durations: Durations,
    pub operations: OperationTotals,
    pub lanes: LaneSummary,
    pub table: TableSummary,
    pub queue_members_gone: u64,
    /// Requests that nobody got and whose requesters were not told so.
    pub unanswered: u64,
    /// `$SYS` requests and events dropped because there was no room.
    pub system_dropped: u64,
    /// None = its streams, if it has any, are on another shard.
    pub jetstream: Option<Box<JetStreamSummary>>,
    /// In the order of account ids; the names are in the configuration.
    pub tables_by_account: Vec<TableSummary>,
}

impl ShardSummary {
    pub(crate) fn set_tables(&mut self, tables: Vec<TableSummary>) {
        self.table = TableSummary::default();
        tables.iter().for_each(|one| self.table.add(one));
        self.subscriptions = self.table.subscriptions;
        self.tables_by_account = tables;
    }
}

/// JetStream on one shard. Counts are since the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct JetStreamSummary {
    pub consumers: u64,
    /// Bytes of streams in memory, and of those on disk, as limits count them.
    pub memory_bytes: u64,
    pub store_bytes: u64,
    /// Messages that publishers sent, by what became of them.
    pub stored: u64,
    pub duplicates: u64,
    pub refused: u64,
    pub api_requests: u64,
    pub api_errors: u64,
    /// Messages that consumers sent, redelivered ones among them.
    pub delivered: u64,
    pub redelivered: u64,
    pub acknowledged: u64,
    pub store: StoreFigures,
}

/// Operations given to the shard's driver, each as (submitted, completed).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OperationTotals {
    pub reads: (u64, u64),
    pub writes: (u64, u64),
    pub polls: (u64, u64),
}

/// The lanes between this shard and all others.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LaneSummary {
    pub batches_in: u64,
    pub messages_in: u64,
    pub batches_out: u64,
    pub wakes: u64,
    pub stalls: u64,
    pub interest_in: u64,
    pub waiting_batches: usize,
    pub waiting_interest: usize,
    pub staged_bytes: usize,
}

/// One account's subject table on one shard, or a sum of several.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TableSummary {
    pub subscriptions: usize,
    pub cached: usize,
    pub inserts: u64,
    pub removes: u64,
    pub matches: u64,
    pub cache_hits: u64,
    pub fanout_subjects: u64,
    pub fanout_total: u64,
    pub fanout_largest: u64,
}

impl TableSummary {
    pub(crate) fn add(&mut self, other: &Self) {
        self.subscriptions += other.subscriptions;
        self.cached += other.cached;
        self.inserts += other.inserts;
        self.removes += other.removes;
        self.matches += other.matches;
        self.cache_hits += other.cache_hits;
        self.fanout_subjects += other.fanout_subjects;
        self.fanout_total += other.fanout_total;
        self.fanout_largest = self.fanout_largest.max(other.fanout_largest);
    }
}

/// The numbers of one connection, by which connections are sorted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionNumbers {
    pub id: u64,
    pub started: Instant,
    pub last_activity: Instant,
    pub rtt: Option<Duration>,
    pub subscriptions: usize,
    pub pending_bytes: usize,
    pub in_messages: u64,
    pub in_bytes: u64,
    pub out_messages: u64,
    pub out_bytes: u64,
    pub stalls: u64,
}

/// A connection that passed a filter, and its place on its shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionRow {
    pub numbers: ConnectionNumbers,
    pub place: usize,
}

/// Everything that `/connz` shows of one connection.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionDetails {
    pub numbers: ConnectionNumbers,
    pub way: ConnectionType,
    /// None for a Unix domain socket.
    pub address: Option<(IpAddr, u16)>,
    pub name: String,
    pub lang: String,
    pub version: String,
    pub account: String,
    pub user: String,
    pub tls: Option<TlsDetails>,
    pub subscription_list: Vec<SubscriptionDetails>,
}

/// Upper bound for the bytes of a connection's entry in an answer without its texts: names of
/// fields, numbers, times and blanks.
const CONNECTION_ANSWER_BYTES: usize = 1024;

/// The same bound for a subscription's entry.
const SUBSCRIPTION_ANSWER_BYTES: usize = 192;

/// Returns an upper bound for the bytes of a text in JSON.
fn text_answer_bytes(text: &str) -> usize {
    let escaped = |byte: &u8| matches!(byte, 0..0x20 | b'"' | b'\\' | 0x7f);
    text.len() + 5 * text.as_bytes().iter().filter(|byte| escaped(byte)).count()
}

impl ConnectionDetails {
    /// Returns an upper bound for the bytes of its entry in an answer, without its subscriptions.
    pub(crate) fn answer_bytes(&self) -> usize {
        let Self { name, lang, version, account, user, tls, .. } = self;
        let texts: usize =
            [name, lang, version, user].map(|text| text_answer_bytes(text)).iter().sum();
        let certificates = tls.as_ref().map_or(0, |tls| tls.peer_certificates.len());
        CONNECTION_ANSWER_BYTES * (1 + certificates) + texts + 2 * text_answer_bytes(account)
    }
}

impl SubscriptionDetails {
    /// Compares by connection, sid and subject. Source: nats-server server/monitor.go Subsz.
    pub(crate) fn in_order(&self, other: &Self) -> Ordering {
        let by_connection = self.connection.cmp(&other.connection);
        by_connection.then_with(|| (&self.sid, &self.subject).cmp(&(&other.sid, &other.subject)))
    }

    /// Returns an upper bound for the bytes of its entry in an answer.
    pub(crate) fn answer_bytes(&self) -> usize {
        let texts = [&self.subject, &self.queue, &self.sid].map(|text| text_answer_bytes(text));
        SUBSCRIPTION_ANSWER_BYTES + texts.iter().sum::<usize>()
    }
}

/// The outcome of a connection's TLS handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsDetails {
    /// `1.2` or `1.3`.
    pub version: &'static str,
    pub cipher_suite: String,
    /// True if the handshake came before INFO.
    pub is_first: bool,
    pub peer_certificates: PeerCertificates,
}

/// One subscription of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubscriptionDetails {
    pub connection: u64,
    pub subject: String,
    pub queue: String,
    pub sid: String,
    pub delivered: u64,
    /// 0 = none.
    pub max: u64,
}

/// A connection that has ended.
#[derive(Clone, Debug)]
pub(crate) struct ClosedConnection {
    pub details: ConnectionDetails,
    pub stopped: Instant,
    pub reason: CloseReason,
}

/// A filter for open connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionFilter {
    pub id: Option<u64>,
    pub account: Option<String>,
    pub user: Option<String>,
}

/// One account's clients on one shard, or a sum of several; messages include those of closed
/// clients.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AccountTotals {
    pub connections: usize,
    pub in_messages: u64,
    pub in_bytes: u64,
    pub out_messages: u64,
    pub out_bytes: u64,
    pub slow_consumers: u64,
}

impl AccountTotals {
    /// Raises counters that only ever grow to their earlier values: a connection that closes while
    /// the shards are walked may be missing from one walk, and a decreasing counter looks like a
    /// restart.
    pub(crate) fn not_below(&mut self, earlier: &Self) {
        self.in_messages = self.in_messages.max(earlier.in_messages);
        self.in_bytes = self.in_bytes.max(earlier.in_bytes);
        self.out_messages = self.out_messages.max(earlier.out_messages);
        self.out_bytes = self.out_bytes.max(earlier.out_bytes);
        self.slow_consumers = self.slow_consumers.max(earlier.slow_consumers);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.in_messages += other.in_messages;
        self.in_bytes += other.in_bytes;
        self.out_messages += other.out_messages;
        self.out_bytes += other.out_bytes;
        self.slow_consumers += other.slow_consumers;
    }
}

/// One account over all shards, for `/metrics`.
#[derive(Clone, Debug)]
pub(crate) struct AccountReport {
    pub name: String,
    pub totals: AccountTotals,
    pub subscriptions: usize,
}

/// The answers of all shards to one question.
#[derive(Clone, Debug)]
pub(crate) struct Gathered<T> {
    /// By shard; late shards have no entry.
    pub answers: Vec<(usize, T)>,
    pub late_shards: Vec<usize>,
    /// True if there was more than there is room for.
    pub cut: bool,
}
