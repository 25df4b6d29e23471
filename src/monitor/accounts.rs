//! `/accountz` and `/accstatz`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::snapshot::{AccountTotals, TableSummary};
use super::subsz::TableReport;
use super::varz::ServerFacts;
use crate::auth::account::Account;

/// Fields and order as nats-server's `Accountz`.
#[derive(Debug, Serialize)]
pub struct Accountz {
    server_id: String,
    now: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_account: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    accounts: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_detail: Option<AccountReport>,
}

/// Fields and order as nats-server's `AccountInfo`.
#[derive(Debug, Serialize)]
struct AccountReport {
    account_name: String,
    update_time: String,
    #[serde(skip_serializing_if = "is_false")]
    is_system: bool,
    expired: bool,
    complete: bool,
    jetstream_enabled: bool,
    leafnode_connections: u32,
    client_connections: usize,
    subscriptions: usize,
    name_tag: String,
    sublist_stats: TableReport,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// The 400 text for an account that is not configured.
pub fn unknown_account(name: &str) -> String {
    format!("Account {name} does not exist")
}

fn empty(facts: &ServerFacts) -> Accountz {
    let system = facts.auth.authenticator.accounts().system();
    Accountz {
        server_id: facts.info.server_id.clone(),
        now: facts.now_text(),
        system_account: system.map(|account| account.name.to_string()),
        accounts: Vec::new(),
        account_detail: None,
    }
}

/// All names.
pub fn accountz(facts: &ServerFacts) -> Accountz {
    let accounts = facts.auth.authenticator.accounts().iter();
    Accountz {
        accounts: accounts.map(|account| account.name.to_string()).collect(),
        ..empty(facts)
    }
}

/// One account.
pub fn account_detail(facts: &ServerFacts, account: &Account, table: &TableSummary) -> Accountz {
    let report = AccountReport {
        account_name: account.name.to_string(),
        update_time: super::text::timestamp(facts.config_loaded),
        is_system: account.is_system,
        expired: false,
        complete: true,
        jetstream_enabled: false,
        leafnode_connections: 0,
        client_connections: facts.auth.connections(account).value(),
        subscriptions: table.subscriptions,
        name_tag: account.name.to_string(),
        sublist_stats: table.into(),
    };
    Accountz { account_detail: Some(report), ..empty(facts) }
}

/// Fields and order as nats-server's `AccountStatz`.
#[derive(Debug, Serialize)]
pub struct AccountStatz {
    server_id: String,
    now: String,
    account_statz: Vec<AccountStat>,
}

#[derive(Debug, Serialize)]
struct AccountStat {
    acc: String,
    name: String,
    conns: usize,
    leafnodes: u32,
    total_conns: usize,
    num_subscriptions: usize,
    sent: Traffic,
    received: Traffic,
    slow_consumers: u64,
}

#[derive(Debug, Serialize)]
struct Traffic {
    msgs: u64,
    bytes: u64,
    gateways: Volume,
    routes: Volume,
    leafs: Volume,
}

#[derive(Debug, Default, Serialize)]
struct Volume {
    msgs: u64,
    bytes: u64,
}

fn traffic(msgs: u64, bytes: u64) -> Traffic {
    let none = Volume::default;
    Traffic { msgs, bytes, gateways: none(), routes: none(), leafs: none() }
}

/// Accounts with clients; all of them with `unused`. Totals and tables are by name.
pub fn accstatz(
    facts: &ServerFacts,
    unused: bool,
    totals: &BTreeMap<String, AccountTotals>,
    tables: &BTreeMap<String, TableSummary>,
) -> AccountStatz {
    let stat = |account: &Account| {
        let name: &str = &account.name;
        let total = totals.get(name).copied().unwrap_or_default();
        AccountStat {
            acc: name.to_owned(),
            name: name.to_owned(),
            conns: total.connections,
            leafnodes: 0,
            total_conns: total.connections,
            num_subscriptions: tables.get(name).map_or(0, |table| table.subscriptions),
            sent: traffic(total.out_messages, total.out_bytes),
            received: traffic(total.in_messages, total.in_bytes),
            slow_consumers: total.slow_consumers,
        }
    };
    let accounts = facts.auth.authenticator.accounts().iter();
    AccountStatz {
        server_id: facts.info.server_id.clone(),
        now: facts.now_text(),
        account_statz: accounts
            .map(|account| stat(account))
            .filter(|stat| unused || stat.conns > 0)
            .collect(),
    }
}
