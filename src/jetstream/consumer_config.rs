//! The configuration of a consumer, as requests and answers of the API carry it. Its fields stand
//! in nats-server's order, which is that of its JSON.
//!
//! Durations are in nanoseconds. `consumer_checks` says what may be in it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::json::decode::{DecodeError, Decoded, Object, Reader, decode, decode_request};
use super::json::encode::{encode, is_default};
use super::json::named::{Named, serialize_by_name};
use super::json::timestamp::Timestamp;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ConsumerConfig {
    #[serde(skip_serializing_if = "is_default")]
    pub durable_name: String,
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    #[serde(skip_serializing_if = "is_default")]
    pub description: String,
    pub deliver_policy: DeliverPolicy,
    #[serde(rename = "opt_start_seq", skip_serializing_if = "is_default")]
    pub start_sequence: u64,
    #[serde(rename = "opt_start_time", skip_serializing_if = "is_default")]
    pub start_time: Option<Timestamp>,
    pub ack_policy: AckPolicy,
    #[serde(rename = "ack_wait", skip_serializing_if = "is_default")]
    pub ack_wait_ns: i64,
    #[serde(rename = "max_deliver", skip_serializing_if = "is_default")]
    pub deliveries_max: i64,
    #[serde(rename = "backoff", skip_serializing_if = "is_default")]
    pub backoff_ns: Vec<i64>,
    #[serde(skip_serializing_if = "is_default")]
    pub filter_subject: String,
    #[serde(skip_serializing_if = "is_default")]
    pub filter_subjects: Vec<String>,
    pub replay_policy: ReplayPolicy,
    /// Bits per second.
    #[serde(rename = "rate_limit_bps", skip_serializing_if = "is_default")]
    pub rate_limit_bits: u64,
    #[serde(rename = "sample_freq", skip_serializing_if = "is_default")]
    pub sample_frequency: String,
    #[serde(rename = "max_waiting", skip_serializing_if = "is_default")]
    pub waiting_max: i64,
    #[serde(rename = "max_ack_pending", skip_serializing_if = "is_default")]
    pub ack_pending_max: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub flow_control: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub headers_only: bool,
    #[serde(rename = "max_batch", skip_serializing_if = "is_default")]
    pub request_batch_max: i64,
    #[serde(rename = "max_expires", skip_serializing_if = "is_default")]
    pub request_expires_ns_max: i64,
    #[serde(rename = "max_bytes", skip_serializing_if = "is_default")]
    pub request_bytes_max: i64,
    /// Messages are pushed here. Empty for a consumer that is pulled from.
    #[serde(skip_serializing_if = "is_default")]
    pub deliver_subject: String,
    #[serde(skip_serializing_if = "is_default")]
    pub deliver_group: String,
    #[serde(rename = "idle_heartbeat", skip_serializing_if = "is_default")]
    pub heartbeat_ns: i64,
    #[serde(rename = "inactive_threshold", skip_serializing_if = "is_default")]
    pub inactive_threshold_ns: i64,
    #[serde(rename = "num_replicas")]
    pub replicas: i64,
    #[serde(rename = "mem_storage", skip_serializing_if = "is_default")]
    pub is_memory: bool,
    /// A consumer of a mirror or of a stream with sources: hidden from clients.
    #[serde(rename = "direct", skip_serializing_if = "is_default")]
    pub is_direct: bool,
    #[serde(rename = "sourcing", skip_serializing_if = "is_default")]
    pub is_sourcing: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default")]
    pub pause_until: Option<Timestamp>,
    #[serde(skip_serializing_if = "is_default")]
    pub priority_groups: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub priority_policy: PriorityPolicy,
    #[serde(rename = "priority_timeout", skip_serializing_if = "is_default")]
    pub pinned_ttl_ns: i64,
}

impl ConsumerConfig {
    /// Reads a configuration that this server wrote.
    ///
    /// # Errors
    /// If it is damaged.
    pub(crate) fn from_json(json: &[u8]) -> Result<ConsumerConfig, DecodeError> {
        let mut config = ConsumerConfig::default();
        decode(json, &mut config)?;
        Ok(config)
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        encode(self)
    }

    /// Messages are pushed to a subject; otherwise they are pulled.
    pub(crate) fn is_push(&self) -> bool {
        !self.deliver_subject.is_empty()
    }

    /// Lives on when nobody uses it, unless it has a time of its own.
    pub(crate) fn is_durable(&self) -> bool {
        !self.durable_name.is_empty()
    }

    /// The filters, by whichever field they were given.
    pub(crate) fn filters(&self) -> &[String] {
        if self.filter_subject.is_empty() {
            &self.filter_subjects
        } else {
            std::slice::from_ref(&self.filter_subject)
        }
    }
}

/// A request to create or update a consumer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CreateConsumerRequest {
    pub stream_name: String,
    pub config: ConsumerConfig,
    pub action: ConsumerAction,
    /// Values that would be replaced by a default are refused.
    pub is_pedantic: bool,
}

impl CreateConsumerRequest {
    /// Reads the body of a request; fields that are not known are refused where `strict` is set.
    ///
    /// # Errors
    /// The text behind `invalid JSON: `.
    pub(crate) fn from_json(
        body: &[u8],
        strict: bool,
    ) -> Result<CreateConsumerRequest, DecodeError> {
        let mut request = CreateConsumerRequest::default();
        decode_request(body, strict, &mut request)?;
        Ok(request)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ConsumerAction {
    #[default]
    CreateOrUpdate,
    Create,
    Update,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum DeliverPolicy {
    #[default]
    All,
    Last,
    New,
    ByStartSequence,
    ByStartTime,
    LastPerSubject,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum AckPolicy {
    #[default]
    None,
    All,
    Explicit,
    /// By the answers of flow control.
    FlowControl,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ReplayPolicy {
    #[default]
    Instant,
    /// At the pace at which the messages came.
    Original,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PriorityPolicy {
    #[default]
    None,
    Overflow,
    PinnedClient,
    Prioritized,
}

impl Named for ConsumerAction {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("", ConsumerAction::CreateOrUpdate),
        ("create", ConsumerAction::Create),
        ("update", ConsumerAction::Update),
    ];

    fn unknown(text: &[u8]) -> DecodeError {
        DecodeError(format!("unknown consumer action: {}", String::from_utf8_lossy(text)))
    }
}

impl Named for DeliverPolicy {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("all", DeliverPolicy::All),
        ("undefined", DeliverPolicy::All),
        ("last", DeliverPolicy::Last),
        ("new", DeliverPolicy::New),
        ("by_start_sequence", DeliverPolicy::ByStartSequence),
        ("by_start_time", DeliverPolicy::ByStartTime),
        ("last_per_subject", DeliverPolicy::LastPerSubject),
    ];
}

impl Named for AckPolicy {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("none", AckPolicy::None),
        ("all", AckPolicy::All),
        ("explicit", AckPolicy::Explicit),
        ("flow_control", AckPolicy::FlowControl),
    ];
}

impl Named for ReplayPolicy {
    const NAMES: &'static [(&'static str, Self)] =
        &[("instant", ReplayPolicy::Instant), ("original", ReplayPolicy::Original)];
}

impl Named for PriorityPolicy {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("none", PriorityPolicy::None),
        ("overflow", PriorityPolicy::Overflow),
        ("pinned_client", PriorityPolicy::PinnedClient),
        ("prioritized", PriorityPolicy::Prioritized),
    ];

    fn unknown(text: &[u8]) -> DecodeError {
        DecodeError(format!("unknown priority policy: {}", String::from_utf8_lossy(text)))
    }
}

serialize_by_name!(ConsumerAction, DeliverPolicy, AckPolicy, ReplayPolicy, PriorityPolicy);

impl Object for ConsumerConfig {
    const GO_NAME: &'static str = "ConsumerConfig";
    const FIELDS: &'static [&'static str] = &[
        "durable_name",
        "name",
        "description",
        "deliver_policy",
        "opt_start_seq",
        "opt_start_time",
        "ack_policy",
        "ack_wait",
        "max_deliver",
        "backoff",
        "filter_subject",
        "filter_subjects",
        "replay_policy",
        "rate_limit_bps",
        "sample_freq",
        "max_waiting",
        "max_ack_pending",
        "flow_control",
        "headers_only",
        "max_batch",
        "max_expires",
        "max_bytes",
        "deliver_subject",
        "deliver_group",
        "idle_heartbeat",
        "inactive_threshold",
        "num_replicas",
        "mem_storage",
        "direct",
        "sourcing",
        "metadata",
        "pause_until",
        "priority_groups",
        "priority_policy",
        "priority_timeout",
    ];

    fn read_field(&mut self, field: &'static str, reader: &mut Reader<'_>) -> Decoded {
        match field {
            "durable_name" => reader.string(&mut self.durable_name),
            "name" => reader.string(&mut self.name),
            "description" => reader.string(&mut self.description),
            "deliver_policy" => self.deliver_policy.read(reader),
            "opt_start_seq" => reader.uint64(&mut self.start_sequence),
            "opt_start_time" => Timestamp::read_optional(&mut self.start_time, reader),
            "ack_policy" => self.ack_policy.read(reader),
            "ack_wait" => reader.duration(&mut self.ack_wait_ns),
            "max_deliver" => reader.int(&mut self.deliveries_max),
            "backoff" => reader.durations(&mut self.backoff_ns),
            "filter_subject" => reader.string(&mut self.filter_subject),
            "filter_subjects" => reader.strings(&mut self.filter_subjects),
            "replay_policy" => self.replay_policy.read(reader),
            "rate_limit_bps" => reader.uint64(&mut self.rate_limit_bits),
            "sample_freq" => reader.string(&mut self.sample_frequency),
            "max_waiting" => reader.int(&mut self.waiting_max),
            "max_ack_pending" => reader.int(&mut self.ack_pending_max),
            "flow_control" => reader.bool(&mut self.flow_control),
            "headers_only" => reader.bool(&mut self.headers_only),
            "max_batch" => reader.int(&mut self.request_batch_max),
            "max_expires" => reader.duration(&mut self.request_expires_ns_max),
            "max_bytes" => reader.int(&mut self.request_bytes_max),
            "deliver_subject" => reader.string(&mut self.deliver_subject),
            "deliver_group" => reader.string(&mut self.deliver_group),
            "idle_heartbeat" => reader.duration(&mut self.heartbeat_ns),
            "inactive_threshold" => reader.duration(&mut self.inactive_threshold_ns),
            "num_replicas" => reader.int(&mut self.replicas),
            "mem_storage" => reader.bool(&mut self.is_memory),
            "direct" => reader.bool(&mut self.is_direct),
            "sourcing" => reader.bool(&mut self.is_sourcing),
            "metadata" => reader.string_map(&mut self.metadata),
            "pause_until" => Timestamp::read_optional(&mut self.pause_until, reader),
            "priority_groups" => reader.strings(&mut self.priority_groups),
            "priority_policy" => self.priority_policy.read(reader),
            "priority_timeout" => reader.duration(&mut self.pinned_ttl_ns),
            _ => unreachable!("{field} is no field of a consumer"),
        }
    }
}

impl Object for CreateConsumerRequest {
    const GO_NAME: &'static str = "CreateConsumerRequest";
    const FIELDS: &'static [&'static str] = &["stream_name", "config", "action", "pedantic"];

    fn read_field(&mut self, field: &'static str, reader: &mut Reader<'_>) -> Decoded {
        match field {
            "stream_name" => reader.string(&mut self.stream_name),
            "config" => reader.object(&mut self.config),
            "action" => self.action.read(reader),
            _ => reader.bool(&mut self.is_pedantic),
        }
    }
}
