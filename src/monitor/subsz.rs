//! `/subsz`: the subject tables.

use serde::Serialize;

use super::query::Query;
use super::snapshot::{Gathered, ShardSummary, SubscriptionDetails, TableSummary};
use super::varz::ServerFacts;
use super::window::parse_window;
use crate::protocol::subject;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubszOptions {
    pub list: bool,
    pub offset: usize,
    pub limit: usize,
    pub account: Option<String>,
    /// Show only subscriptions that a message to this subject would reach.
    pub test: Option<String>,
}

impl SubszOptions {
    /// Parses the arguments.
    ///
    /// # Errors
    /// The text of a 400 answer.
    pub fn parse(query: &Query) -> Result<Self, String> {
        let list = query.boolean("subs")?;
        let (offset, limit) = parse_window(query)?;
        let test = query.given("test");
        Self { list, offset, limit, account: query.given("acc"), test }.checked()
    }

    pub(super) fn checked(self) -> Result<Self, String> {
        match &self.test {
            Some(test) if !subject::is_valid_literal(test.as_bytes()) => {
                Err(format!("invalid test subject, must be valid publish subject: {test}"))
            }
            _ => Ok(self),
        }
    }
}

/// Fields as nats-server's `SubDetail`.
#[derive(Debug, Serialize)]
pub(crate) struct SubscriptionReport {
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_tag: Option<String>,
    subject: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    qgroup: String,
    sid: String,
    msgs: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    cid: u64,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl SubscriptionReport {
    pub(crate) fn new(details: SubscriptionDetails, account: Option<String>) -> Self {
        Self {
            account_tag: account.clone(),
            account,
            subject: details.subject,
            qgroup: details.queue,
            sid: details.sid,
            msgs: details.delivered,
            max: details.max,
            cid: details.connection,
        }
    }
}

/// Fields as nats-server's `SublistStats`.
#[derive(Debug, Serialize)]
pub(crate) struct TableReport {
    num_subscriptions: usize,
    num_cache: usize,
    num_inserts: u64,
    num_removes: u64,
    num_matches: u64,
    cache_hit_rate: f64,
    max_fanout: u64,
    avg_fanout: f64,
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

impl From<&TableSummary> for TableReport {
    fn from(table: &TableSummary) -> Self {
        Self {
            num_subscriptions: table.subscriptions,
            num_cache: table.cached,
            num_inserts: table.inserts,
            num_removes: table.removes,
            num_matches: table.matches,
            cache_hit_rate: ratio(table.cache_hits, table.matches),
            max_fanout: table.fanout_largest,
            avg_fanout: ratio(table.fanout_total, table.fanout_subjects),
        }
    }
}

/// Fields and order as nats-server's `Subsz`.
#[derive(Debug, Serialize)]
pub(crate) struct Subsz {
    server_id: String,
    now: String,
    #[serde(flatten)]
    table: TableReport,
    total: usize,
    offset: usize,
    limit: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subscriptions_list: Vec<SubscriptionReport>,
}

/// The requested subscriptions, with their accounts.
#[derive(Debug, Default)]
pub(crate) struct SubscriptionList {
    /// Their number before offset and limit.
    pub total: usize,
    pub shown: Vec<(String, SubscriptionDetails)>,
}

/// Returns the table of one account over all shards; of all accounts if there is no id.
pub(crate) fn table_of(shards: &Gathered<ShardSummary>, account: Option<usize>) -> TableSummary {
    let mut sum = TableSummary::default();
    for (_, summary) in &shards.answers {
        match account {
            None => sum.add(&summary.table),
            Some(index) => {
                if let Some(table) = summary.tables_by_account.get(index) {
                    sum.add(table);
                }
            }
        }
    }
    sum
}

pub(crate) fn subsz(
    facts: &ServerFacts,
    options: &SubszOptions,
    table: &TableSummary,
    list: SubscriptionList,
) -> Subsz {
    let shown = list.shown.into_iter();
    Subsz {
        server_id: facts.info.server_id.clone(),
        now: facts.now_text(),
        table: table.into(),
        total: list.total,
        offset: options.offset,
        limit: options.limit,
        subscriptions_list: shown
            .map(|(account, details)| SubscriptionReport::new(details, Some(account)))
            .collect(),
    }
}
