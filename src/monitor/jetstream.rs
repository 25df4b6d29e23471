//! JetStream in numbers, with nats-server's names: for `/jsz` and `/varz`.

use serde::Serialize;
use serde_json::Value;

/// The contents of a server with JetStream, under nats-server's names.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct StatsJson {
    pub memory: u64,
    pub storage: u64,
    pub reserved_memory: u64,
    pub reserved_storage: u64,
    pub accounts: usize,
    pub ha_assets: u32,
    pub api: ApiStatsJson,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ApiStatsJson {
    pub level: u32,
    pub total: u64,
    pub errors: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ConfigJson {
    pub max_memory: i64,
    pub max_storage: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub store_dir: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_interval: Option<u64>,
    #[serde(skip_serializing_if = "is_false")]
    pub sync_always: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub compress_ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique_tag: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub strict: bool,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct LimitsJson {
    #[serde(skip_serializing_if = "is_zero")]
    pub max_ack_pending: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub max_request_batch: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub default_max_consumers: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub duplicate_window: i64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct AccountDetailJson {
    pub name: String,
    pub id: String,
    #[serde(flatten)]
    pub stats: StatsJson,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stream_detail: Vec<StreamDetailJson>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct StreamDetailJson {
    pub name: String,
    pub created: Value,
    pub cluster: LeaderJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Value>,
    pub state: Value,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct LeaderJson {
    pub leader: String,
}

/// JetStream of a server in numbers, gathered on the shard that has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct JetStreamReport {
    pub stats: StatsJson,
    pub config: ConfigJson,
    pub limits: LimitsJson,
    pub streams: usize,
    pub consumers: usize,
    pub messages: u64,
    pub bytes: u64,
    pub accounts: Vec<AccountDetailJson>,
}

/// The `jetstream` of `/varz`; empty without JetStream.
#[derive(Debug, Default, Serialize)]
pub(super) struct VarzJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<ConfigJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stats: Option<StatsJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<LimitsJson>,
}

impl VarzJson {
    pub(super) fn new(report: Option<&JetStreamReport>) -> Self {
        Self {
            config: report.map(|report| report.config.clone()),
            stats: report.map(|report| report.stats.clone()),
            limits: report.map(|report| report.limits.clone()),
        }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}
