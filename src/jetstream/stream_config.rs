//! The configuration of a stream, as requests and answers of the API carry it. Its fields stand in
//! nats-server's order, which is that of its JSON.
//!
//! Durations are in nanoseconds. -1 stands for no limit. `stream_checks` says what may be in it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::json::decode::{
    DecodeError, Decoded, Object, Reader, decode, decode_request, unquote, value_name,
};
use super::json::encode::{encode, is_default};
use super::json::named::{Named, serialize_by_name};
use super::json::timestamp::Timestamp;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct StreamConfig {
    pub name: String,
    #[serde(skip_serializing_if = "is_default")]
    pub description: String,
    #[serde(skip_serializing_if = "is_default")]
    pub subjects: Vec<String>,
    pub retention: Retention,
    #[serde(rename = "max_consumers")]
    pub consumers_max: i64,
    #[serde(rename = "max_msgs")]
    pub messages_max: i64,
    #[serde(rename = "max_bytes")]
    pub bytes_max: i64,
    #[serde(rename = "max_age")]
    pub age_ns_max: i64,
    #[serde(rename = "max_msgs_per_subject")]
    pub messages_per_subject_max: i64,
    #[serde(rename = "max_msg_size", skip_serializing_if = "is_default")]
    pub message_size_max: i32,
    pub discard: Discard,
    pub storage: StorageKind,
    #[serde(rename = "num_replicas")]
    pub replicas: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub no_ack: bool,
    #[serde(rename = "duplicate_window", skip_serializing_if = "is_default")]
    pub duplicate_window_ns: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub placement: Option<Placement>,
    #[serde(skip_serializing_if = "is_default")]
    pub mirror: Option<StreamSource>,
    #[serde(skip_serializing_if = "is_default")]
    pub sources: Vec<StreamSource>,
    pub compression: Compression,
    #[serde(rename = "first_seq", skip_serializing_if = "is_default")]
    pub first_sequence: u64,
    /// Applied to the subject of a message before anything else.
    #[serde(skip_serializing_if = "is_default")]
    pub subject_transform: Option<SubjectTransform>,
    #[serde(skip_serializing_if = "is_default")]
    pub republish: Option<Republish>,
    pub allow_direct: bool,
    pub mirror_direct: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub discard_new_per_subject: bool,
    #[serde(rename = "sealed")]
    pub is_sealed: bool,
    pub deny_delete: bool,
    pub deny_purge: bool,
    #[serde(rename = "allow_rollup_hdrs")]
    pub allow_rollup: bool,
    pub consumer_limits: ConsumerLimits,
    #[serde(rename = "allow_msg_ttl")]
    pub allow_ttl: bool,
    #[serde(rename = "subject_delete_marker_ttl", skip_serializing_if = "is_default")]
    pub marker_ttl_ns: i64,
    #[serde(rename = "allow_msg_counter", skip_serializing_if = "is_default")]
    pub allow_counter: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub allow_atomic: bool,
    #[serde(rename = "allow_msg_schedules", skip_serializing_if = "is_default")]
    pub allow_schedules: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub persist_mode: PersistMode,
    #[serde(skip_serializing_if = "is_default")]
    pub allow_batched: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub metadata: BTreeMap<String, String>,
}

impl StreamConfig {
    /// Reads a configuration that this server wrote.
    ///
    /// # Errors
    /// If it is damaged.
    pub(crate) fn from_json(json: &[u8]) -> Result<StreamConfig, DecodeError> {
        let mut config = StreamConfig::default();
        decode(json, &mut config)?;
        Ok(config)
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        encode(self)
    }
}

/// A request to create or update a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamConfigRequest {
    pub config: StreamConfig,
    /// Values that would be replaced by a default are refused.
    pub is_pedantic: bool,
}

impl StreamConfigRequest {
    /// Reads the body of a request; fields that are not known are refused where `strict` is set.
    ///
    /// # Errors
    /// The text behind `invalid JSON: `.
    pub(crate) fn from_json(body: &[u8], strict: bool) -> Result<StreamConfigRequest, DecodeError> {
        let mut request = StreamConfigRequest::default();
        decode_request(body, strict, &mut request)?;
        Ok(request)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Retention {
    #[default]
    Limits,
    /// A message stays until all consumers that want it have acknowledged it.
    Interest,
    /// A message stays until one consumer has acknowledged it.
    WorkQueue,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Discard {
    #[default]
    Old,
    New,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum StorageKind {
    #[default]
    File,
    Memory,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Compression {
    #[default]
    None,
    S2,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PersistMode {
    #[default]
    Default,
    /// Publishers are answered before their messages are on disk.
    Async,
}

/// Where a cluster places the stream: kept, without effect on one server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Placement {
    #[serde(skip_serializing_if = "is_default")]
    pub cluster: String,
    #[serde(skip_serializing_if = "is_default")]
    pub tags: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub preferred: String,
}

/// The origin of a mirror, or one of a stream with sources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct StreamSource {
    pub name: String,
    #[serde(rename = "opt_start_seq", skip_serializing_if = "is_default")]
    pub start_sequence: u64,
    #[serde(rename = "opt_start_time", skip_serializing_if = "is_default")]
    pub start_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "is_default")]
    pub filter_subject: String,
    #[serde(skip_serializing_if = "is_default")]
    pub subject_transforms: Vec<SubjectTransform>,
    #[serde(skip_serializing_if = "is_default")]
    pub external: Option<ExternalStream>,
    #[serde(skip_serializing_if = "is_default")]
    pub consumer: Option<SourceConsumer>,
}

/// A stream in another account or domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ExternalStream {
    #[serde(rename = "api")]
    pub api_prefix: String,
    #[serde(rename = "deliver")]
    pub deliver_prefix: String,
}

/// The durable consumer that an origin is read by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct SourceConsumer {
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    #[serde(skip_serializing_if = "is_default")]
    pub deliver_subject: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct SubjectTransform {
    #[serde(rename = "src")]
    pub source: String,
    #[serde(rename = "dest")]
    pub destination: String,
}

/// Messages are published anew once they are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Republish {
    #[serde(rename = "src", skip_serializing_if = "is_default")]
    pub source: String,
    #[serde(rename = "dest")]
    pub destination: String,
    #[serde(skip_serializing_if = "is_default")]
    pub headers_only: bool,
}

/// Defaults and limits for the consumers of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ConsumerLimits {
    #[serde(rename = "inactive_threshold", skip_serializing_if = "is_default")]
    pub inactive_threshold_ns: i64,
    #[serde(rename = "max_ack_pending", skip_serializing_if = "is_default")]
    pub ack_pending_max: i64,
}

impl Named for Retention {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("limits", Retention::Limits),
        ("interest", Retention::Interest),
        ("workqueue", Retention::WorkQueue),
    ];
}

impl Named for Discard {
    const NAMES: &'static [(&'static str, Self)] = &[("old", Discard::Old), ("new", Discard::New)];

    /// Discard policies alone are known in any case.
    const FOLDS: bool = true;
}

impl Named for StorageKind {
    const NAMES: &'static [(&'static str, Self)] =
        &[("file", StorageKind::File), ("memory", StorageKind::Memory)];
}

impl Named for PersistMode {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("default", PersistMode::Default),
        ("async", PersistMode::Async),
        ("", PersistMode::Default),
    ];
}

impl Named for Compression {
    const NAMES: &'static [(&'static str, Self)] =
        &[("none", Compression::None), ("s2", Compression::S2)];

    /// Unlike other enumerations it is decoded as a string before it is compared.
    fn read(&mut self, reader: &mut Reader<'_>) -> Decoded {
        let text = reader.take();
        if text[0] != b'"' && text != b"null" {
            return Err(reader.mismatch_error(value_name(text[0]), "string"));
        }
        let name = if text == b"null" { String::new() } else { unquote(text) };
        let found = Self::NAMES.iter().find(|(known, _)| name == *known);
        *self = found.ok_or_else(|| DecodeError("unknown compression algorithm".into()))?.1;
        Ok(())
    }
}

serialize_by_name!(Retention, Discard, StorageKind, Compression, PersistMode);

impl Object for StreamConfig {
    const GO_NAME: &'static str = "StreamConfig";
    const FIELDS: &'static [&'static str] = STREAM_FIELDS;

    fn read_field(&mut self, field: &'static str, reader: &mut Reader<'_>) -> Decoded {
        match field {
            "name" => reader.string(&mut self.name),
            "description" => reader.string(&mut self.description),
            "subjects" => reader.strings(&mut self.subjects),
            "retention" => self.retention.read(reader),
            "max_consumers" => reader.int(&mut self.consumers_max),
            "max_msgs" => reader.int64(&mut self.messages_max),
            "max_bytes" => reader.int64(&mut self.bytes_max),
            "max_age" => reader.duration(&mut self.age_ns_max),
            "max_msgs_per_subject" => reader.int64(&mut self.messages_per_subject_max),
            "max_msg_size" => reader.int32(&mut self.message_size_max),
            "discard" => self.discard.read(reader),
            "storage" => self.storage.read(reader),
            "num_replicas" => reader.int(&mut self.replicas),
            "no_ack" => reader.bool(&mut self.no_ack),
            "duplicate_window" => reader.duration(&mut self.duplicate_window_ns),
            "placement" => reader.optional_object(&mut self.placement),
            "mirror" => reader.optional_object(&mut self.mirror),
            "sources" => reader.objects(&mut self.sources, "[]*server.StreamSource"),
            "compression" => self.compression.read(reader),
            "first_seq" => reader.uint64(&mut self.first_sequence),
            "subject_transform" => reader.optional_object(&mut self.subject_transform),
            "republish" => reader.optional_object(&mut self.republish),
            "allow_direct" => reader.bool(&mut self.allow_direct),
            "mirror_direct" => reader.bool(&mut self.mirror_direct),
            "discard_new_per_subject" => reader.bool(&mut self.discard_new_per_subject),
            "sealed" => reader.bool(&mut self.is_sealed),
            "deny_delete" => reader.bool(&mut self.deny_delete),
            "deny_purge" => reader.bool(&mut self.deny_purge),
            "allow_rollup_hdrs" => reader.bool(&mut self.allow_rollup),
            "consumer_limits" => reader.object(&mut self.consumer_limits),
            "allow_msg_ttl" => reader.bool(&mut self.allow_ttl),
            "subject_delete_marker_ttl" => reader.duration(&mut self.marker_ttl_ns),
            "allow_msg_counter" => reader.bool(&mut self.allow_counter),
            "allow_atomic" => reader.bool(&mut self.allow_atomic),
            "allow_msg_schedules" => reader.bool(&mut self.allow_schedules),
            "persist_mode" => self.persist_mode.read(reader),
            "allow_batched" => reader.bool(&mut self.allow_batched),
            "metadata" => reader.string_map(&mut self.metadata),
            _ => unreachable!("{field} is no field of a stream"),
        }
    }
}

/// The last one belongs to the request, not to the configuration.
const REQUEST_FIELDS: &[&str] = &[
    "name",
    "description",
    "subjects",
    "retention",
    "max_consumers",
    "max_msgs",
    "max_bytes",
    "max_age",
    "max_msgs_per_subject",
    "max_msg_size",
    "discard",
    "storage",
    "num_replicas",
    "no_ack",
    "duplicate_window",
    "placement",
    "mirror",
    "sources",
    "compression",
    "first_seq",
    "subject_transform",
    "republish",
    "allow_direct",
    "mirror_direct",
    "discard_new_per_subject",
    "sealed",
    "deny_delete",
    "deny_purge",
    "allow_rollup_hdrs",
    "consumer_limits",
    "allow_msg_ttl",
    "subject_delete_marker_ttl",
    "allow_msg_counter",
    "allow_atomic",
    "allow_msg_schedules",
    "persist_mode",
    "allow_batched",
    "metadata",
    "pedantic",
];
const STREAM_FIELDS: &[&str] = REQUEST_FIELDS.split_at(REQUEST_FIELDS.len() - 1).0;

impl Object for StreamConfigRequest {
    const GO_NAME: &'static str = "StreamConfigRequest";
    const FIELDS: &'static [&'static str] = REQUEST_FIELDS;

    fn embedded(field: &'static str) -> Option<&'static str> {
        (field != "pedantic").then_some(StreamConfig::GO_NAME)
    }

    fn read_field(&mut self, field: &'static str, reader: &mut Reader<'_>) -> Decoded {
        match field {
            "pedantic" => reader.bool(&mut self.is_pedantic),
            _ => self.config.read_field(field, reader),
        }
    }
}

impl Object for Placement {
    const GO_NAME: &'static str = "Placement";
    const FIELDS: &'static [&'static str] = &["cluster", "tags", "preferred"];

    fn read_field(&mut self, field: &'static str, reader: &mut Reader<'_>) -> Decoded {
        match field {
            "cluster" => reader.string(&mut self.cluster),
            "tags" => reader.strings(&mut self.tags),
            _ => reader.string(&mut self.preferred),
        }
    }
}

impl Object for StreamSource {
    const GO_NAME: &'static str = "StreamSource";
    const FIELDS: &'static [&'static str] = &[
        "name",
        "opt_start_seq",
        "opt_start_time",
        "filter_subject",
        "subject_transforms",
        "external",
        "consumer",
    ];

    fn read_field(&mut self, field: &'static str, reader: &mut Reader<'_>) -> Decoded {
        match field {
            "name" => reader.string(&mut self.name),
            "opt_start_seq" => reader.uint64(&mut self.start_sequence),
            "opt_start_time" => Timestamp::read_optional(&mut self.start_time, reader),
            "filter_subject" => reader.string(&mut self.filter_subject),
            "subject_transforms" => {
                reader.objects(&mut self.subject_transforms, "[]server.SubjectTransformConfig")
            }
            "external" => reader.optional_object(&mut self.external),
            _ => reader.optional_object(&mut self.consumer),
        }
    }
}

impl Object for ExternalStream {
    const GO_NAME: &'static str = "ExternalStream";
    const FIELDS: &'static [&'static str] = &["api", "deliver"];

    fn read_field(&mut self, field: &'static str, reader: &mut Reader<'_>) -> Decoded {
        match field {
            "api" => reader.string(&mut self.api_prefix),
            _ => reader.string(&mut self.deliver_prefix),
        }
    }
}

impl Object for SourceConsumer {
    const GO_NAME: &'static str = "StreamConsumerSource";
    const FIELDS: &'static [&'static str] = &["name", "deliver_subject"];

    fn read_field(&mut self, field: &'static str, reader: &mut Reader<'_>) -> Decoded {
        match field {
            "name" => reader.string(&mut self.name),
            _ => reader.string(&mut self.deliver_subject),
        }
    }
}

impl Object for SubjectTransform {
    const GO_NAME: &'static str = "SubjectTransformConfig";
    const FIELDS: &'static [&'static str] = &["src", "dest"];

    fn read_field(&mut self, field: &'static str, reader: &mut Reader<'_>) -> Decoded {
        match field {
            "src" => reader.string(&mut self.source),
            _ => reader.string(&mut self.destination),
        }
    }
}

impl Object for Republish {
    const GO_NAME: &'static str = "RePublish";
    const FIELDS: &'static [&'static str] = &["src", "dest", "headers_only"];

    fn read_field(&mut self, field: &'static str, reader: &mut Reader<'_>) -> Decoded {
        match field {
            "src" => reader.string(&mut self.source),
            "dest" => reader.string(&mut self.destination),
            _ => reader.bool(&mut self.headers_only),
        }
    }
}

impl Object for ConsumerLimits {
    const GO_NAME: &'static str = "StreamConsumerLimits";
    const FIELDS: &'static [&'static str] = &["inactive_threshold", "max_ack_pending"];

    fn read_field(&mut self, field: &'static str, reader: &mut Reader<'_>) -> Decoded {
        match field {
            "inactive_threshold" => reader.duration(&mut self.inactive_threshold_ns),
            _ => reader.int(&mut self.ack_pending_max),
        }
    }
}
