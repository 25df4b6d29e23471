//! Defaults of consumers, and what is refused when one is created or updated: in nats-server's
//! order, with its texts.
//!
//! A request passes [`check_names`]; once the stream is found [`prepare`], [`set_defaults`] and
//! [`check`]; then [`check_existing`] for a consumer that exists, or [`check_new`], and
//! [`complete_threshold`].

use super::consumer_config::{
    AckPolicy, ConsumerAction, ConsumerConfig, CreateConsumerRequest, DeliverPolicy, PriorityPolicy,
};
use super::error::ApiError;
use super::json::timestamp::Timestamp;
use super::names::{self, is_subset, overlap};
use super::stream_checks::metadata_bytes;
use super::stream_config::{Retention, StreamConfig};
use super::versioning::{copy_required_level, required_consumer_level, set_required_level};
use crate::base::limits::{
    ASSET_DESCRIPTION_BYTES_MAX, ASSET_METADATA_BYTES_MAX, ASSET_NAME_BYTES_MAX,
    ASSET_SUBJECTS_MAX, PRIORITY_GROUP_BYTES_MAX,
};
use crate::config::go_text::{NumberError, SignedDuration, format_duration};

const MILLISECOND_NS: i64 = 1_000_000;
const SECOND_NS: i64 = 1_000 * MILLISECOND_NS;

const WAITING_MAX_DEFAULT: i64 = 512;
const ACK_WAIT_NS_DEFAULT: i64 = 30 * SECOND_NS;
const ACK_PENDING_MAX_DEFAULT: i64 = 1000;
const PINNED_TTL_NS_DEFAULT: i64 = 120 * SECOND_NS;
const INACTIVE_THRESHOLD_NS_DEFAULT: i64 = 5 * SECOND_NS;
const HEARTBEAT_NS_MIN: i64 = 100 * MILLISECOND_NS;
const REQUEST_EXPIRES_NS_MIN: i64 = MILLISECOND_NS;

/// The heartbeat of consumers that are acknowledged by flow control.
const FLOW_CONTROL_HEARTBEAT_NS: i64 = SECOND_NS;

type Checked<T = ()> = Result<T, ApiError>;

/// Limits of the server and the account. Numbers at or below 0 stand for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConsumerRules {
    pub server_ack_pending_max: i64,
    pub account_ack_pending_max: i64,
    pub request_batch_max: i64,
}

/// The subject of a request to create a consumer, behind the stream's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CreateSubject<'a> {
    /// `CONSUMER.CREATE.<stream>`.
    Ephemeral,
    /// `CONSUMER.DURABLE.CREATE.<stream>.<name>`.
    Durable(&'a str),
    /// `CONSUMER.CREATE.<stream>.<name>.<filter>`; the filter may be empty.
    Named(&'a str, &'a str),
}

/// Compares a request with its subject, whose name of the consumer outranks the request's.
///
/// # Errors
/// If they contradict each other.
pub(crate) fn check_names(
    request: &mut CreateConsumerRequest,
    stream_in_subject: &str,
    subject: CreateSubject<'_>,
) -> Checked {
    let config = &mut request.config;
    if request.stream_name != stream_in_subject {
        return Err(ApiError::STREAM_MISMATCH);
    }
    let name = match subject {
        CreateSubject::Ephemeral => config.name.as_str(),
        CreateSubject::Durable(name) | CreateSubject::Named(name, _) => name,
    };
    if names::has_separators(name) {
        return Err(ApiError::CONSUMER_NAME_WITH_SEPARATORS);
    }
    match subject {
        CreateSubject::Ephemeral => {
            if !config.durable_name.is_empty() {
                return Err(ApiError::EPHEMERAL_WITH_DURABLE_NAME);
            }
        }
        CreateSubject::Durable(name) => {
            if config.durable_name.is_empty() {
                return Err(ApiError::DURABLE_NAME_NOT_SET);
            }
            if config.durable_name != name {
                return Err(ApiError::DURABLE_NAME_NOT_IN_SUBJECT);
            }
            config.name = name.into();
        }
        CreateSubject::Named(name, filter) => {
            if !config.durable_name.is_empty() && config.durable_name != name {
                return Err(ApiError::DURABLE_NAME_NOT_IN_SUBJECT);
            }
            config.name = name.into();
            if !filter.is_empty() && !config.filter_subjects.is_empty() {
                return Err(ApiError::MULTIPLE_FILTERS_IN_SUBJECT);
            }
            if !filter.is_empty() && config.filter_subject != filter {
                return Err(ApiError::FILTER_NOT_IN_SUBJECT);
            }
        }
    }
    match config.replicas {
        ..=1 => Ok(()),
        _ => Err(ApiError::REPLICAS_NOT_SUPPORTED),
    }
}

/// Notes the level that the consumer needs. A pause is not changed by an update: it is that of
/// `existing`.
pub(crate) fn prepare(config: &mut ConsumerConfig, existing: Option<&ConsumerConfig>) {
    if let Some(existing) = existing {
        config.pause_until = existing.pause_until;
        if config.is_sourcing && config.is_durable() {
            config.deliver_policy = existing.deliver_policy;
            config.start_sequence = existing.start_sequence;
            config.start_time = existing.start_time;
        }
    }
    let level = required_consumer_level(config);
    set_required_level(&mut config.metadata, level);
}

/// Replaces absent values by defaults. `is_pedantic`: refuses values that it would replace.
///
/// # Errors
/// The first value that would be replaced.
pub(crate) fn set_defaults(
    config: &mut ConsumerConfig,
    stream: &StreamConfig,
    rules: &ConsumerRules,
    is_pedantic: bool,
) -> Checked {
    let refuse = |text: &str| match is_pedantic {
        true => Err(ApiError::pedantic(text)),
        false => Ok(()),
    };
    raise_negatives(config, is_pedantic)?;
    if !config.is_push() && config.waiting_max == 0 {
        config.waiting_max = WAITING_MAX_DEFAULT;
    }
    let has_ack_wait = matches!(config.ack_policy, AckPolicy::Explicit | AckPolicy::All);
    if config.ack_wait_ns == 0 && has_ack_wait {
        config.ack_wait_ns = ACK_WAIT_NS_DEFAULT;
    }
    if let Some(&first) = config.backoff_ns.first() {
        if config.ack_wait_ns != first {
            refuse("first backoff value has to equal batch AckWait")?;
        }
        config.ack_wait_ns = first;
    }
    let limits = &stream.consumer_limits;
    if config.ack_pending_max == 0 {
        if limits.ack_pending_max > 0 {
            refuse("max_ack_pending must be set if it's configured in stream limits")?;
        }
        config.ack_pending_max = limits.ack_pending_max;
    }
    if config.inactive_threshold_ns == 0 {
        if limits.inactive_threshold_ns > 0 {
            refuse("inactive_threshold must be set if it's configured in stream limits")?;
        }
        config.inactive_threshold_ns = limits.inactive_threshold_ns;
    }
    if config.ack_pending_max == 0 && config.ack_policy != AckPolicy::None {
        let limits = [rules.server_ack_pending_max, rules.account_ack_pending_max];
        let lowest = limits.into_iter().filter(|&limit| limit > 0).min();
        config.ack_pending_max =
            lowest.unwrap_or(ACK_PENDING_MAX_DEFAULT).min(ACK_PENDING_MAX_DEFAULT);
    }
    if !config.is_push() && config.request_batch_max == 0 && rules.request_batch_max > 0 {
        refuse("max_request_batch must be set if it's JetStream limits are set")?;
        config.request_batch_max = rules.request_batch_max;
    }
    if config.priority_policy == PriorityPolicy::PinnedClient && config.pinned_ttl_ns == 0 {
        config.pinned_ttl_ns = PINNED_TTL_NS_DEFAULT;
    }
    if config.ack_policy == AckPolicy::FlowControl && !is_pedantic {
        config.flow_control = true;
        config.heartbeat_ns = FLOW_CONTROL_HEARTBEAT_NS;
    }
    Ok(())
}

/// Replaces negative numbers.
fn raise_negatives(config: &mut ConsumerConfig, is_pedantic: bool) -> Checked {
    const NOT_NEGATIVE: &str = "must not be negative";
    const MINUS_ONE: &str = "must be set to -1";
    if config.deliveries_max == 0 {
        config.deliveries_max = -1;
    }
    let values = [
        (&mut config.deliveries_max, "max_deliver", -1, MINUS_ONE),
        (&mut config.waiting_max, "max_waiting", 0, NOT_NEGATIVE),
        (&mut config.ack_pending_max, "max_ack_pending", -1, MINUS_ONE),
        (&mut config.request_batch_max, "max_batch", 0, NOT_NEGATIVE),
        (&mut config.request_expires_ns_max, "max_expires", 0, NOT_NEGATIVE),
        (&mut config.request_bytes_max, "max_bytes", 0, NOT_NEGATIVE),
        (&mut config.heartbeat_ns, "idle_heartbeat", 0, NOT_NEGATIVE),
        (&mut config.inactive_threshold_ns, "inactive_threshold", 0, NOT_NEGATIVE),
        (&mut config.pinned_ttl_ns, "priority_timeout", 0, NOT_NEGATIVE),
    ];
    for (value, name, lowest, rule) in values {
        if *value < lowest {
            if is_pedantic {
                return Err(ApiError::pedantic(format!("{name} {rule}")));
            }
            *value = lowest;
        }
    }
    Ok(())
}

/// Checks a configuration with defaults.
///
/// # Errors
/// The first thing that is wrong with it.
pub(crate) fn check(
    config: &ConsumerConfig,
    stream: &StreamConfig,
    rules: &ConsumerRules,
) -> Checked {
    check_own_names(config)?;
    check_replicas(config, stream)?;
    check_acks(config)?;
    if config.description.len() > ASSET_DESCRIPTION_BYTES_MAX {
        return Err(ApiError::consumer_description_too_long(ASSET_DESCRIPTION_BYTES_MAX));
    }
    match config.is_push() {
        true => check_push(config, stream)?,
        false => check_pull(config, stream, rules)?,
    }
    check_limits(config, stream, rules)?;
    if config.is_direct {
        if !config.is_push() {
            return Err(ApiError::DIRECT_REQUIRES_PUSH);
        }
        if config.is_durable() {
            return Err(ApiError::DIRECT_REQUIRES_EPHEMERAL);
        }
    }
    check_filters(config)?;
    check_start(config)?;
    check_sampling(&config.sample_frequency)?;
    if config.flow_control && config.heartbeat_ns == 0 {
        return Err(ApiError::FLOW_CONTROL_WITHOUT_HEARTBEATS);
    }
    let names_differ = config.name != config.durable_name;
    if config.is_durable() && !config.name.is_empty() && names_differ {
        return Err(ApiError::DURABLE_AND_NAME_MISMATCH);
    }
    if metadata_bytes(&config.metadata) > ASSET_METADATA_BYTES_MAX {
        let limit = format!("{}KB", ASSET_METADATA_BYTES_MAX >> 10);
        return Err(ApiError::consumer_metadata_too_long(limit));
    }
    check_priorities(config)
}

fn check_own_names(config: &ConsumerConfig) -> Checked {
    let names = [(&config.name, "consumer name"), (&config.durable_name, "consumer durable name")];
    for (name, title) in names {
        if !name.is_empty() && !names::is_valid(name) {
            let text = format!("{title} can not contain '.', '*', '>', '\\', '/'");
            return Err(ApiError::stream_config_invalid(text));
        }
    }
    Ok(())
}

fn check_replicas(config: &ConsumerConfig, stream: &StreamConfig) -> Checked {
    if config.replicas > stream.replicas {
        return Err(ApiError::CONSUMER_REPLICAS_EXCEED_STREAM);
    }
    if config.replicas < 0 {
        return Err(ApiError::NEGATIVE_REPLICAS);
    }
    let must_match = stream.retention != Retention::Limits && config.replicas != 0;
    if must_match && config.replicas != stream.replicas {
        return Err(ApiError::CONSUMER_REPLICAS_MUST_MATCH);
    }
    Ok(())
}

fn check_acks(config: &ConsumerConfig) -> Checked {
    if config.backoff_ns.iter().any(|&backoff| backoff < 0) {
        return Err(ApiError::BACKOFF_NEGATIVE);
    }
    if config.ack_wait_ns < 0 {
        return Err(ApiError::ACK_WAIT_NEGATIVE);
    }
    if config.ack_policy == AckPolicy::FlowControl {
        check_flow_control_acks(config)?;
    }
    check_backoff(config)
}

fn check_flow_control_acks(config: &ConsumerConfig) -> Checked {
    if !config.is_push() {
        return Err(ApiError::ACK_FLOW_CONTROL_REQUIRES_PUSH);
    }
    if !config.flow_control {
        return Err(ApiError::ACK_FLOW_CONTROL_REQUIRES_FLOW_CONTROL);
    }
    if config.heartbeat_ns != FLOW_CONTROL_HEARTBEAT_NS {
        let text = "flow control ack policy heartbeat needs to be 1s";
        return Err(ApiError::stream_config_invalid(text));
    }
    if config.ack_pending_max <= 0 {
        return Err(ApiError::ACK_FLOW_CONTROL_REQUIRES_MAX_ACK_PENDING);
    }
    if config.ack_wait_ns != 0 || !config.backoff_ns.is_empty() {
        return Err(ApiError::ACK_FLOW_CONTROL_REQUIRES_NO_ACK_WAIT);
    }
    if config.deliveries_max > 0 {
        return Err(ApiError::ACK_FLOW_CONTROL_REQUIRES_NO_MAX_DELIVER);
    }
    Ok(())
}

fn check_backoff(config: &ConsumerConfig) -> Checked {
    let count = config.backoff_ns.len() as i64;
    if count > 0 && config.deliveries_max != -1 && count > config.deliveries_max {
        return Err(ApiError::MAX_DELIVER_BACKOFF);
    }
    Ok(())
}

fn check_push(config: &ConsumerConfig, stream: &StreamConfig) -> Checked {
    let subject = &config.deliver_subject;
    if crate::protocol::subject::has_wildcard(subject.as_bytes()) {
        return Err(ApiError::DELIVER_TO_WILDCARDS);
    }
    if !names::is_valid_subject(subject) || names::is_reserved_destination(subject) {
        return Err(ApiError::INVALID_DELIVER_SUBJECT);
    }
    if stream.subjects.iter().any(|wider| is_subset(subject, wider)) {
        return Err(ApiError::DELIVER_CYCLE);
    }
    if config.waiting_max != 0 {
        return Err(ApiError::PUSH_MAX_WAITING);
    }
    if config.ack_pending_max > 0 && config.ack_policy == AckPolicy::None {
        return Err(ApiError::MAX_ACK_PENDING_WITHOUT_ACK_POLICY);
    }
    if config.heartbeat_ns > 0 && config.heartbeat_ns < HEARTBEAT_NS_MIN {
        return Err(ApiError::SMALL_HEARTBEAT);
    }
    Ok(())
}

fn check_pull(config: &ConsumerConfig, stream: &StreamConfig, rules: &ConsumerRules) -> Checked {
    if config.ack_policy == AckPolicy::None && stream.retention == Retention::WorkQueue {
        return Err(ApiError::PULL_REQUIRES_ACK);
    }
    if config.rate_limit_bits > 0 {
        return Err(ApiError::PULL_WITH_RATE_LIMIT);
    }
    if config.heartbeat_ns > 0 {
        return Err(ApiError::HEARTBEAT_REQUIRES_PUSH);
    }
    if config.flow_control {
        return Err(ApiError::FLOW_CONTROL_REQUIRES_PUSH);
    }
    let expires = config.request_expires_ns_max;
    if expires != 0 && expires < REQUEST_EXPIRES_NS_MIN {
        return Err(ApiError::MAX_REQUEST_EXPIRES_TOO_SMALL);
    }
    let limit = rules.request_batch_max;
    if limit > 0 && config.request_batch_max > limit {
        return Err(ApiError::max_request_batch_exceeded(limit));
    }
    Ok(())
}

fn check_limits(config: &ConsumerConfig, stream: &StreamConfig, rules: &ConsumerRules) -> Checked {
    let limits = &stream.consumer_limits;
    let pending_limits =
        [rules.server_ack_pending_max, rules.account_ack_pending_max, limits.ack_pending_max];
    for limit in pending_limits {
        if limit > 0 && config.ack_pending_max > limit {
            return Err(ApiError::max_ack_pending_exceeded(limit));
        }
    }
    let limit = limits.inactive_threshold_ns;
    if limit > 0 && config.inactive_threshold_ns > limit {
        let limit = format_duration(SignedDuration(limit));
        return Err(ApiError::inactive_threshold_exceeded(limit));
    }
    Ok(())
}

fn check_filters(config: &ConsumerConfig) -> Checked {
    let invalid = || Err(ApiError::stream_config_invalid("invalid subject"));
    let (filter, filters) = (&config.filter_subject, &config.filter_subjects);
    if !filter.is_empty() && !filters.is_empty() {
        return Err(ApiError::DUPLICATE_FILTERS);
    }
    if !filter.is_empty() && !names::is_valid_subject(filter) {
        return invalid();
    }
    if filters.iter().any(String::is_empty) {
        return Err(ApiError::EMPTY_FILTER);
    }
    if filters.len() > ASSET_SUBJECTS_MAX {
        let text = format!("consumer has more than {ASSET_SUBJECTS_MAX} filter subjects");
        return Err(ApiError::stream_config_invalid(text));
    }
    for (outer, subject) in filters.iter().enumerate() {
        if !names::is_valid_subject(subject) {
            return invalid();
        }
        let mut others = filters.iter().enumerate().filter(|&(inner, _)| inner != outer);
        if others.any(|(_, wider)| is_subset(subject, wider)) {
            return Err(ApiError::OVERLAPPING_FILTERS);
        }
    }
    Ok(())
}

fn check_start(config: &ConsumerConfig) -> Checked {
    let refuse = |text: String| Err(ApiError::deliver_policy_invalid(text));
    let also_set = |policy: &str, start: &str| {
        refuse(format!(
            "consumer delivery policy is deliver {policy}, but optional start {start} is also set"
        ))
    };
    let not_set = |policy: &str, missing: &str| {
        refuse(format!(
            "consumer delivery policy is deliver {policy}, but optional {missing} is not set"
        ))
    };
    let (has_sequence, has_time) = (config.start_sequence > 0, config.start_time.is_some());
    let policy = match config.deliver_policy {
        DeliverPolicy::ByStartSequence => {
            return match (has_sequence, has_time) {
                (false, _) => not_set("by start sequence", "start sequence"),
                (true, true) => also_set("by start sequence", "time"),
                (true, false) => Ok(()),
            };
        }
        DeliverPolicy::ByStartTime => {
            return match (has_time, has_sequence) {
                (false, _) => not_set("by start time", "start time"),
                (true, true) => also_set("by start time", "start sequence"),
                (true, false) => Ok(()),
            };
        }
        DeliverPolicy::All => "all",
        DeliverPolicy::Last => "last",
        DeliverPolicy::New => "new",
        DeliverPolicy::LastPerSubject => "last per subject",
    };
    if has_sequence {
        return also_set(policy, "sequence");
    }
    if has_time {
        return also_set(policy, "time");
    }
    if config.deliver_policy == DeliverPolicy::LastPerSubject && config.filters().is_empty() {
        return not_set(policy, "filter subject");
    }
    Ok(())
}

/// The percentage of acknowledgements that are measured. None without a text.
///
/// # Errors
/// If it is no number from 0 on.
pub(crate) fn sample_percent(text: &str) -> Checked<Option<i64>> {
    if text.is_empty() {
        return Ok(None);
    }
    let digits = text.strip_suffix('%').unwrap_or(text);
    let refuse = |reason: String| Err(ApiError::sampling_invalid(reason));
    match parse_decimal(digits) {
        Ok(percent @ 0..) => Ok(Some(percent)),
        // nats-server prints the error that it does not have.
        Ok(_) => refuse("<nil>".into()),
        Err(error) => {
            let reason = match error {
                NumberError::Syntax => "invalid syntax",
                NumberError::Range => "value out of range",
            };
            let quoted = crate::config::go_text::quoted(digits);
            refuse(format!("strconv.Atoi: parsing {quoted}: {reason}"))
        }
    }
}

fn parse_decimal(text: &str) -> Result<i64, NumberError> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NumberError::Syntax);
    }
    text.parse().map_err(|_| NumberError::Range)
}

fn check_sampling(text: &str) -> Checked {
    sample_percent(text).map(drop)
}

fn check_priorities(config: &ConsumerConfig) -> Checked {
    let groups = &config.priority_groups;
    if config.priority_policy == PriorityPolicy::None {
        if !groups.is_empty() {
            return Err(ApiError::PRIORITY_GROUPS_WITHOUT_POLICY);
        }
        if config.pinned_ttl_ns > 0 {
            return Err(ApiError::PINNED_TTL_WITHOUT_POLICY);
        }
        return Ok(());
    }
    if config.is_push() {
        return Err(ApiError::PRIORITY_GROUPS_WITH_PUSH);
    }
    if groups.is_empty() {
        return Err(ApiError::PRIORITY_POLICY_WITHOUT_GROUP);
    }
    for group in groups {
        if group.is_empty() {
            return Err(ApiError::EMPTY_GROUP_NAME);
        }
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"/_=-".contains(&byte);
        if group.len() > PRIORITY_GROUP_BYTES_MAX || !group.bytes().all(is_known) {
            return Err(ApiError::INVALID_GROUP_NAME);
        }
    }
    Ok(())
}

/// Checks a request for the consumer `existing`, which is updated if this succeeds. `others` are
/// the other consumers of the stream that clients can see.
/// `has_interest`: somebody subscribes to the subject that the existing consumer delivers to.
///
/// # Errors
/// If the consumer may not be changed in this way.
pub(crate) fn check_existing<'a>(
    existing: &ConsumerConfig,
    config: &mut ConsumerConfig,
    action: ConsumerAction,
    stream: &StreamConfig,
    others: impl Iterator<Item = &'a ConsumerConfig> + Clone,
    has_interest: bool,
) -> Checked {
    if action == ConsumerAction::Create {
        copy_required_level(&mut config.metadata, &existing.metadata);
        if *config != *existing {
            return Err(ApiError::CONSUMER_ALREADY_EXISTS);
        }
    }
    if stream.retention == Retention::WorkQueue && !is_partition_unique(config, others) {
        return Err(ApiError::WORKQUEUE_CONSUMER_NOT_UNIQUE);
    }
    if config != existing {
        check_changes(existing, config, has_interest)?;
    }
    config.pause_until = config.pause_until.map(Timestamp::to_utc);
    Ok(())
}

fn check_changes(old: &ConsumerConfig, new: &ConsumerConfig, has_interest: bool) -> Checked {
    let start_instant = |config: &ConsumerConfig| config.start_time.map(Timestamp::to_utc);
    let refusals = [
        (old.deliver_policy != new.deliver_policy, "deliver policy can not be updated"),
        (old.is_memory != new.is_memory, "storage type can not be updated"),
        (old.is_direct != new.is_direct, "direct can not be updated"),
        (old.is_sourcing != new.is_sourcing, "sourcing can not be updated"),
        (old.start_sequence != new.start_sequence, "start sequence can not be updated"),
        (start_instant(old) != start_instant(new), "start time can not be updated"),
        (old.ack_policy != new.ack_policy, "ack policy can not be updated"),
        (old.replay_policy != new.replay_policy, "replay policy can not be updated"),
        (old.heartbeat_ns != new.heartbeat_ns, "heart beats can not be updated"),
        (old.flow_control != new.flow_control, "flow control can not be updated"),
        (!old.is_push() && new.is_push(), "can not update pull consumer to push based"),
        (old.is_push() && !new.is_push(), "can not update push consumer to pull based"),
    ];
    if let Some((_, text)) = refusals.iter().find(|(is_refused, _)| *is_refused) {
        return Err(ApiError::consumer_update_failed(text));
    }
    if old.deliver_subject != new.deliver_subject && has_interest {
        return Err(ApiError::CONSUMER_NAME_IN_USE);
    }
    if old.waiting_max != new.waiting_max {
        return Err(ApiError::consumer_update_failed("max waiting can not be updated"));
    }
    check_backoff(new)
}

/// Checks a consumer that does not exist yet against the stream and its `others`, which are those
/// that clients can see. `consumers_max` is the account's limit, `consumers_max_default` holds
/// where neither stream nor account has one.
///
/// # Errors
/// If the stream cannot have this consumer.
pub(crate) fn check_new<'a>(
    config: &ConsumerConfig,
    action: ConsumerAction,
    stream: &StreamConfig,
    others: impl Iterator<Item = &'a ConsumerConfig> + Clone,
    consumers_max: i64,
    consumers_max_default: i64,
) -> Checked {
    if action == ConsumerAction::Update {
        return Err(ApiError::CONSUMER_DOES_NOT_EXIST);
    }
    if config.is_direct || config.is_sourcing {
        return check_name_length(config);
    }
    let count = others.clone().count();
    let mut limit = stream.consumers_max;
    if limit <= 0 || (consumers_max > 0 && consumers_max < limit) {
        limit = consumers_max;
    }
    if limit <= 0 {
        limit = consumers_max_default;
    }
    if limit > 0 && count as i64 >= limit {
        return Err(ApiError::MAXIMUM_CONSUMERS);
    }
    if stream.retention == Retention::WorkQueue {
        if !matches!(config.ack_policy, AckPolicy::Explicit | AckPolicy::FlowControl) {
            return Err(ApiError::WORKQUEUE_REQUIRES_EXPLICIT_ACK);
        }
        if config.deliver_policy != DeliverPolicy::All {
            return Err(ApiError::WORKQUEUE_CONSUMER_NOT_DELIVER_ALL);
        }
        if count > 0 {
            if config.filters().is_empty() {
                return Err(ApiError::WORKQUEUE_MULTIPLE_UNFILTERED);
            }
            if !is_partition_unique(config, others) {
                return Err(ApiError::WORKQUEUE_CONSUMER_NOT_UNIQUE);
            }
        }
    }
    check_name_length(config)
}

/// nats-server measures only durable names, and fails to make files for others.
fn check_name_length(config: &ConsumerConfig) -> Checked {
    if names::is_too_long(&config.durable_name) || names::is_too_long(&config.name) {
        return Err(ApiError::consumer_name_too_long(ASSET_NAME_BYTES_MAX));
    }
    Ok(())
}

/// Sets the time after which an unused ephemeral consumer ends, last of all. A name that the server
/// makes up is no part of the configuration.
///
/// An update goes by the consumer's old configuration, and only where the time changes: a durable
/// consumer that becomes an ephemeral one has no such time, as in nats-server.
pub(crate) fn complete_threshold(config: &mut ConsumerConfig, existing: Option<&ConsumerConfig>) {
    let is_changed = existing
        .is_none_or(|existing| existing.inactive_threshold_ns != config.inactive_threshold_ns);
    let is_ephemeral = !existing.unwrap_or(config).is_durable();
    if is_changed && is_ephemeral && config.inactive_threshold_ns <= 0 {
        config.inactive_threshold_ns = INACTIVE_THRESHOLD_NS_DEFAULT;
    }
}

/// True if no filter of the consumer matches what another one's does.
fn is_partition_unique<'a>(
    config: &ConsumerConfig,
    mut others: impl Iterator<Item = &'a ConsumerConfig>,
) -> bool {
    let filters = config.filters();
    if filters.is_empty() {
        return true;
    }
    others.all(|other| {
        let taken = other.filters();
        !taken.is_empty()
            && filters.iter().all(|own| taken.iter().all(|filter| !overlap(own, filter)))
    })
}

#[cfg(test)]
mod tests;
