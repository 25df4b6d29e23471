//! The errors of the JetStream API with nats-server's codes and texts.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

/// An error in an answer of the API or to a publisher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ApiError {
    /// A class, as of HTTP.
    pub code: u16,
    /// The error itself: clients tell errors apart by it.
    pub err_code: u16,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub description: Cow<'static, str>,
}

impl fmt::Display for ApiError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.description, self.err_code)
    }
}

/// Constants of errors with a fixed text: name, code, err_code, text.
macro_rules! fixed_errors {
    ($($name:ident $code:literal $err_code:literal $text:literal)+) => {
        impl ApiError {
            $(pub(crate) const $name: ApiError = ApiError {
                code: $code,
                err_code: $err_code,
                description: Cow::Borrowed($text),
            };)+
        }
    };
}

/// Functions of errors whose text has a part that varies.
macro_rules! errors_with_text {
    ($($name:ident($part:ident) $code:literal $err_code:literal $text:literal)+) => {
        impl ApiError {
            $(pub(crate) fn $name($part: impl fmt::Display) -> ApiError {
                ApiError {
                    code: $code,
                    err_code: $err_code,
                    description: Cow::Owned(format!($text, $part)),
                }
            })+
        }
    };
}

fixed_errors! {
    RESOURCES_EXCEEDED 400 10002 "resource limits exceeded for account"
    BAD_REQUEST 400 10003 "bad request"
    CONSUMER_NAME_IN_USE 400 10013 "consumer name already in use"
    DURABLE_NAME_NOT_IN_SUBJECT 400 10017 "consumer name in subject does not match durable name in request"
    DURABLE_NAME_NOT_SET 400 10018 "consumer expected to be durable but a durable name was not set"
    EPHEMERAL_WITH_DURABLE_NAME 400 10020 "consumer expected to be ephemeral but a durable name was set in request"
    MAXIMUM_CONSUMERS 400 10026 "maximum consumers limit reached"
    MAXIMUM_STREAMS 400 10027 "maximum number of streams reached"
    NOT_EMPTY_REQUEST 400 10038 "expected an empty request payload"
    MESSAGE_EXCEEDS_MAXIMUM 400 10054 "message size exceeds maximum allowed"
    MIRROR_NOT_UPDATABLE 400 10055 "stream mirror configuration can not be updated"
    STREAM_MISMATCH 400 10056 "stream name in subject does not match request"
    STREAM_NAME_IN_USE 400 10058 "stream name already in use with a different configuration"
    STREAM_NOT_MATCHED 400 10060 "expected stream does not match"
    SUBJECT_OVERLAP 400 10065 "subjects overlap with an existing stream"
    DELIVER_TO_WILDCARDS 400 10079 "consumer deliver subject has wildcards"
    PUSH_MAX_WAITING 400 10080 "consumer in push mode can not set max waiting"
    DELIVER_CYCLE 400 10081 "consumer deliver subject forms a cycle"
    MAX_ACK_PENDING_WITHOUT_ACK_POLICY 400 10082 "consumer requires ack policy for max ack pending"
    SMALL_HEARTBEAT 400 10083 "consumer idle heartbeat needs to be >= 100ms"
    PULL_REQUIRES_ACK 400 10084 "consumer in pull mode requires explicit ack policy on workqueue stream"
    PULL_WITH_RATE_LIMIT 400 10086 "consumer in pull mode can not have rate limit set"
    HEARTBEAT_REQUIRES_PUSH 400 10088 "consumer idle heartbeat requires a push based consumer"
    FLOW_CONTROL_REQUIRES_PUSH 400 10089 "consumer flow control requires a push based consumer"
    DIRECT_REQUIRES_PUSH 400 10090 "consumer direct requires a push based consumer"
    DIRECT_REQUIRES_EPHEMERAL 400 10091 "consumer direct requires an ephemeral consumer"
    HEADER_EXCEEDS_MAXIMUM 400 10097 "header size exceeds maximum allowed of 64k"
    WORKQUEUE_REQUIRES_EXPLICIT_ACK 400 10098 "workqueue stream requires explicit ack"
    WORKQUEUE_MULTIPLE_UNFILTERED 400 10099 "multiple non-filtered consumers not allowed on workqueue stream"
    WORKQUEUE_CONSUMER_NOT_UNIQUE 400 10100 "filtered consumer not unique on workqueue stream"
    WORKQUEUE_CONSUMER_NOT_DELIVER_ALL 400 10101 "consumer must be deliver all on workqueue stream"
    FLOW_CONTROL_WITHOUT_HEARTBEATS 400 10108 "consumer with flow control also needs heartbeats"
    STREAM_SEALED 400 10109 "invalid operation on sealed stream"
    INVALID_DELIVER_SUBJECT 400 10112 "invalid push consumer deliver subject"
    MAX_BYTES_REQUIRED 400 10113 "account requires a stream config to have max bytes set"
    MAX_REQUEST_EXPIRES_TOO_SMALL 400 10115 "consumer max request expires needs to be >= 1ms"
    MAX_DELIVER_BACKOFF 400 10116 "max deliver is required to be > length of backoff values"
    STREAM_MAX_BYTES_EXCEEDED 400 10122 "stream max bytes exceeds account limit max stream bytes"
    CONSUMER_REPLICAS_EXCEED_STREAM 400 10126 "consumer config replica count exceeds parent stream"
    CONSUMER_NAME_WITH_SEPARATORS 400 10127 "Consumer name can not contain path separators"
    STREAM_NAME_WITH_SEPARATORS 400 10128 "Stream name can not contain path separators"
    FILTER_NOT_IN_SUBJECT 400 10131 "Consumer create request did not match filtered subject from create subject"
    NEGATIVE_REPLICAS 400 10133 "replicas count cannot be negative"
    CONSUMER_REPLICAS_MUST_MATCH 400 10134 "consumer config replicas must match interest retention stream's replicas"
    DUPLICATE_FILTERS 400 10136 "consumer cannot have both FilterSubject and FilterSubjects specified"
    MULTIPLE_FILTERS_IN_SUBJECT 400 10137 "consumer with multiple subject filters cannot use subject based API"
    OVERLAPPING_FILTERS 400 10138 "consumer subject filters cannot overlap"
    EMPTY_FILTER 400 10139 "consumer filter in FilterSubjects cannot be empty"
    DURABLE_AND_NAME_MISMATCH 400 10132 "Consumer Durable and Name have to be equal if both are provided"
    CONSUMER_ALREADY_EXISTS 400 10148 "consumer already exists"
    CONSUMER_DOES_NOT_EXIST 400 10149 "consumer does not exist"
    PRIORITY_POLICY_WITHOUT_GROUP 400 10159 "Setting PriorityPolicy requires at least one PriorityGroup to be set"
    INVALID_PRIORITY_GROUP 400 10160 "Provided priority group does not exist for this consumer"
    EMPTY_GROUP_NAME 400 10161 "Group name cannot be an empty string"
    INVALID_GROUP_NAME 400 10162 "Valid priority group name must match A-Z, a-z, 0-9, -_/=)+ and may not exceed 16 characters"
    TTL_INVALID 400 10165 "invalid per-message TTL"
    TTL_DISABLED 400 10166 "per-message TTL is disabled"
    COUNTER_DISABLED 400 10168 "message counters is disabled"
    COUNTER_INCREMENT_INVALID 400 10171 "message counter increment is invalid"
    ATOMIC_DISABLED 400 10174 "atomic publish is disabled"
    PRIORITY_GROUPS_WITH_PUSH 400 10178 "priority groups can not be used with push consumers"
    ACK_WAIT_NEGATIVE 400 10183 "consumer ack wait needs to be positive"
    BACKOFF_NEGATIVE 400 10184 "consumer backoff needs to be positive"
    SCHEDULES_DISABLED 400 10188 "message schedules is disabled"
    SCHEDULE_SCHEDULER_INVALID 400 10212 "message schedules invalid scheduler"
    LAST_SUBJECT_SEQUENCE_MISSING 400 10193 "missing sequence for expected last sequence per subject"
    PRIORITY_GROUPS_WITHOUT_POLICY 400 10196 "consumer can not have priority groups when policy is none"
    PINNED_TTL_WITHOUT_POLICY 400 10197 "PinnedTTL cannot be set when PriorityPolicy is none"
    BATCH_DISABLED 400 10205 "batch publish is disabled"
    ACK_FLOW_CONTROL_REQUIRES_PUSH 400 10218 "flow control ack policy requires a push based consumer"
    ACK_FLOW_CONTROL_REQUIRES_FLOW_CONTROL 400 10219 "flow control ack policy requires flow control"
    ACK_FLOW_CONTROL_REQUIRES_MAX_ACK_PENDING 400 10220 "flow control ack policy requires max ack pending"
    ACK_FLOW_CONTROL_REQUIRES_NO_ACK_WAIT 400 10221 "flow control ack policy requires unset ack wait"
    ACK_FLOW_CONTROL_REQUIRES_NO_MAX_DELIVER 400 10222 "flow control ack policy requires unset max deliver"
    SOURCE_HEADER_NOT_ALLOWED 400 10227 "message stream source header is not allowed"
    CONSUMER_NOT_FOUND 404 10014 "consumer not found"
    NO_MESSAGE_FOUND 404 10037 "no message found"
    STREAM_NOT_FOUND 404 10059 "stream not found"
    REQUIRED_API_LEVEL 412 10185 "JetStream minimum api level required"
    TOO_MANY_REQUESTS 429 10167 "too many requests"
    MEMORY_EXCEEDED 500 10028 "insufficient memory resources available"
    STORAGE_EXCEEDED 500 10047 "insufficient storage resources available"
    REPLICAS_NOT_SUPPORTED 500 10074 "replicas > 1 not supported in non-clustered mode"
    CLUSTER_REQUIRED 503 10010 "JetStream clustering support required"
    INSUFFICIENT_RESOURCES 503 10023 "insufficient resources"
    NOT_ENABLED_FOR_ACCOUNT 503 10039 "JetStream not enabled for account"
}

errors_with_text! {
    invalid_json(error) 400 10025 "invalid JSON: {}"
    sequence_not_found(sequence) 400 10043 "sequence {} not found"
    wrong_last_message_id(id) 400 10070 "wrong last msg ID: {}"
    wrong_last_sequence(sequence) 400 10071 "wrong last sequence: {}"
    deliver_policy_invalid(text) 400 10094 "{}"
    sampling_invalid(error) 400 10095 "failed to parse consumer sampling configuration: {}"
    consumer_name_too_long(maximum) 400 10102 "consumer name is too long, maximum allowed is {}"
    consumer_description_too_long(maximum) 400 10107 "consumer description is too long, maximum allowed is {}"
    max_ack_pending_exceeded(limit) 400 10121 "consumer max ack pending exceeds system limit of {}"
    max_request_batch_exceeded(limit) 400 10125 "consumer max request batch exceeds server limit of {}"
    consumer_metadata_too_long(limit) 400 10135 "consumer metadata exceeds maximum size of {}"
    inactive_threshold_exceeded(limit) 400 10153 "consumer inactive threshold exceeds system limit of {}"
    transform_source_invalid(error) 400 10155 "stream transform source: {}"
    transform_invalid(error) 400 10156 "stream transform: {}"
    pedantic(error) 400 10157 "pedantic mode: {}"
    invalid_reset(error) 400 10204 "invalid reset: {}"
    consumer_update_failed(text) 500 10012 "{}"
    stream_config_invalid(text) 500 10052 "{}"
    message_delete_failed(text) 500 10057 "{}"
    restore_failed(text) 500 10062 "restore failed: {}"
    snapshot_failed(text) 500 10064 "snapshot failed: {}"
    stream_update_failed(text) 500 10069 "{}"
    purge_failed(text) 500 10110 "{}"
    rollup_failed(text) 500 10111 "{}"
    store_failed(text) 503 10077 "{}"
}
