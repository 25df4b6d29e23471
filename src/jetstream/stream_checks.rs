//! Defaults of streams, and what is refused when one is created or updated: in nats-server's order,
//! with its texts.
//!
//! A request passes [`check_names`], then [`with_defaults`]; a new stream then [`check_replicas`],
//! an existing one [`check_update`]. Limits on the count of streams and on their reserved bytes are
//! the account's business, and overlapping subjects the engine's.

use std::collections::BTreeMap;

use super::error::ApiError;
use super::json::named::quoted_bytes;
use super::names::{self, overlap};
use super::stream_config::{
    Discard, PersistMode, Placement, Retention, StorageKind, StreamConfig, StreamConfigRequest,
    SubjectTransform,
};
use super::versioning::{copy_required_level, required_stream_level, set_required_level};
use crate::auth::transform::Transform;
use crate::base::limits::{
    ASSET_DESCRIPTION_BYTES_MAX, ASSET_METADATA_BYTES_MAX, ASSET_NAME_BYTES_MAX,
    ASSET_SUBJECTS_MAX, REPLICAS_MAX,
};
use crate::config::go_text::{SignedDuration, format_duration};

const MILLISECOND_NS: i64 = 1_000_000;
const SECOND_NS: i64 = 1_000 * MILLISECOND_NS;

/// The time for which the ids of messages are remembered, unless a stream says otherwise.
const DUPLICATE_WINDOW_NS_DEFAULT: i64 = 120 * SECOND_NS;
const DUPLICATE_WINDOW_NS_MIN: i64 = 100 * MILLISECOND_NS;
const AGE_NS_MIN: i64 = 100 * MILLISECOND_NS;
const MARKER_TTL_NS_MIN: i64 = SECOND_NS;

type Checked<T = ()> = Result<T, ApiError>;

/// Rules of the server and the account. Numbers at or below 0 stand for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamRules {
    pub duplicate_window_ns_max: i64,
    /// Streams must limit their bytes.
    pub is_bytes_max_required: bool,
    pub file_bytes_max: i64,
    pub memory_bytes_max: i64,
}

/// Notes the level that a new stream needs, and checks what `with_defaults` leaves out.
///
/// # Errors
/// The fault of the request.
pub(crate) fn check_names(request: &mut StreamConfigRequest, name_in_subject: &str) -> Checked {
    let config = &mut request.config;
    note_level(config);
    if config.name != name_in_subject {
        return Err(ApiError::STREAM_MISMATCH);
    }
    if names::has_separators(&config.name) {
        return Err(ApiError::STREAM_NAME_WITH_SEPARATORS);
    }
    if config.is_sealed {
        return invalid("stream configuration for create can not be sealed");
    }
    if config.mirror_direct && config.mirror.is_none() {
        return invalid("stream has no mirror but does have mirror direct");
    }
    Ok(())
}

/// Notes the level that the stream needs in its metadata: for updates after [`with_defaults`].
pub(crate) fn note_level(config: &mut StreamConfig) {
    let level = required_stream_level(config);
    set_required_level(&mut config.metadata, level);
}

/// Replaces absent values by defaults. `is_pedantic`: refuses values that it would replace.
///
/// # Errors
/// The first thing that is wrong with the configuration.
pub(crate) fn with_defaults(
    mut config: StreamConfig,
    rules: &StreamRules,
    is_pedantic: bool,
) -> Checked<StreamConfig> {
    check_texts(&config)?;
    set_counts(&mut config, is_pedantic)?;
    check_ages(&mut config, rules, is_pedantic)?;
    check_features(&mut config, is_pedantic)?;
    check_unfinished_features(&config)?;
    set_subjects(&mut config)?;
    check_bytes(&config, rules)?;
    check_transform(&config)?;
    set_republish(&mut config, is_pedantic)?;
    check_placement(&mut config)?;
    Ok(config)
}

/// # Errors
/// If the stream wants more than one server.
pub(crate) fn check_replicas(config: &StreamConfig) -> Checked {
    match config.replicas {
        ..=1 => Ok(()),
        _ => Err(ApiError::REPLICAS_NOT_SUPPORTED),
    }
}

/// True if a stream that is created again, with defaults, is the one that exists.
pub(crate) fn is_same(mut config: StreamConfig, existing: &StreamConfig) -> bool {
    copy_required_level(&mut config.metadata, &existing.metadata);
    config == *existing
}

/// Checks what an update of the stream `old` to `new`, which has its defaults, may not change, and
/// completes the seal of a stream.
///
/// # Errors
/// The first change that is not possible.
pub(crate) fn check_update(old: &StreamConfig, mut new: StreamConfig) -> Checked<StreamConfig> {
    if new.name != old.name {
        return invalid("stream configuration name must match original");
    }
    check_replicas(&new)?;
    let touches_workqueue =
        old.retention == Retention::WorkQueue || new.retention == Retention::WorkQueue;
    let refusals = [
        (new.storage != old.storage, "stream configuration update can not change storage type"),
        (
            new.retention != old.retention && touches_workqueue,
            "stream configuration update can not change retention policy to/from workqueue",
        ),
        (
            old.is_sealed && !new.is_sealed,
            "stream configuration update can not unseal a sealed stream",
        ),
        (
            old.deny_delete && !new.deny_delete,
            "stream configuration update can not cancel deny message deletes",
        ),
        (
            old.deny_purge && !new.deny_purge,
            "stream configuration update can not cancel deny purge",
        ),
    ];
    refuse_first(&refusals)?;
    if new.mirror.is_some() && new.mirror != old.mirror {
        return Err(ApiError::MIRROR_NOT_UPDATABLE);
    }
    let refusals = [
        (old.allow_ttl && !new.allow_ttl, "message TTL status can not be disabled"),
        (
            old.allow_counter != new.allow_counter,
            "stream configuration update can not change message counter setting",
        ),
        (old.allow_schedules && !new.allow_schedules, "message schedules can not be disabled"),
        (
            old.persist_mode != new.persist_mode,
            "stream configuration update can not change persist mode",
        ),
    ];
    refuse_first(&refusals)?;
    if new.is_sealed {
        new.age_ns_max = 0;
        new.discard = Discard::New;
        new.deny_delete = true;
        new.deny_purge = true;
        new.allow_rollup = false;
    }
    Ok(new)
}

/// True if an update lowers or sets a limit that its consumers must keep.
pub(crate) fn changes_consumer_limits(old: &StreamConfig, new: &StreamConfig) -> bool {
    let (old, new) = (&old.consumer_limits, &new.consumer_limits);
    let threshold = new.inactive_threshold_ns;
    let pending = new.ack_pending_max;
    (threshold > 0 && threshold != old.inactive_threshold_ns)
        || (pending > 0 && pending != old.ack_pending_max)
}

fn check_texts(config: &StreamConfig) -> Checked {
    if !names::is_valid(&config.name) {
        return invalid("stream name is required and can not contain '.', '*', '>', '\\', '/'");
    }
    if names::is_too_long(&config.name) {
        return invalid(format!(
            "stream name is too long, maximum allowed is {ASSET_NAME_BYTES_MAX}"
        ));
    }
    if config.description.len() > ASSET_DESCRIPTION_BYTES_MAX {
        return invalid(format!(
            "stream description is too long, maximum allowed is {ASSET_DESCRIPTION_BYTES_MAX}"
        ));
    }
    if metadata_bytes(&config.metadata) > ASSET_METADATA_BYTES_MAX {
        return invalid(format!(
            "stream metadata exceeds maximum size of {ASSET_METADATA_BYTES_MAX} bytes"
        ));
    }
    Ok(())
}

/// Bytes of keys and values.
pub(super) fn metadata_bytes(metadata: &BTreeMap<String, String>) -> usize {
    metadata.iter().map(|(key, value)| key.len() + value.len()).sum()
}

fn set_counts(config: &mut StreamConfig, is_pedantic: bool) -> Checked {
    if config.replicas == 0 {
        config.replicas = 1;
    }
    if config.replicas > REPLICAS_MAX {
        return invalid(format!("maximum replicas is {REPLICAS_MAX}"));
    }
    if config.replicas < 0 {
        return Err(ApiError::NEGATIVE_REPLICAS);
    }
    let mut size_max = i64::from(config.message_size_max);
    let counts = [
        (&mut config.messages_max, "max_msgs"),
        (&mut config.messages_per_subject_max, "max_msgs_per_subject"),
        (&mut config.bytes_max, "max_bytes"),
        (&mut size_max, "max_msg_size"),
        (&mut config.consumers_max, "max_consumers"),
    ];
    for (value, name) in counts {
        if is_pedantic && *value < -1 {
            return Err(ApiError::pedantic(format!("{name} must be set to -1")));
        }
        if *value < 1 {
            *value = -1;
        }
    }
    config.message_size_max = i32::try_from(size_max).expect("it came from one, or is -1");
    Ok(())
}

fn check_ages(config: &mut StreamConfig, rules: &StreamRules, is_pedantic: bool) -> Checked {
    let age_max = config.age_ns_max;
    if age_max < 0 {
        return invalid("max age can not be negative");
    }
    if age_max != 0 && age_max < AGE_NS_MIN {
        return invalid("max age needs to be >= 100ms");
    }
    let window_max = rules.duplicate_window_ns_max;
    if config.duplicate_window_ns == 0 && config.mirror.is_none() && config.sources.is_empty() {
        let mut window = DUPLICATE_WINDOW_NS_DEFAULT;
        if window_max > 0 && window > window_max {
            if is_pedantic {
                let text = "duplicate window limits are higher than current limits";
                return Err(ApiError::pedantic(text));
            }
            window = window_max;
        }
        if age_max != 0 && age_max < window {
            if is_pedantic {
                let text = "duplicate window cannot be bigger than max age";
                return Err(ApiError::pedantic(text));
            }
            window = age_max;
        }
        config.duplicate_window_ns = window;
    }
    let window = config.duplicate_window_ns;
    if window < 0 {
        return invalid("duplicates window can not be negative");
    }
    if age_max != 0 && window > age_max {
        return invalid("duplicates window can not be larger then max age");
    }
    if window_max > 0 && window > window_max {
        let limit = format_duration(SignedDuration(window_max));
        return invalid(format!(
            "duplicates window can not be larger then server limit of {limit}"
        ));
    }
    if window > 0 && window < DUPLICATE_WINDOW_NS_MIN {
        return invalid("duplicates window needs to be >= 100ms");
    }
    Ok(())
}

fn check_features(config: &mut StreamConfig, is_pedantic: bool) -> Checked {
    let is_new = config.discard == Discard::New;
    let counts = config.allow_counter;
    let per_subject = config.discard_new_per_subject;
    let refusals = [
        (config.deny_purge && config.allow_rollup, "roll-ups require the purge permission"),
        (counts && is_new, "counter stream cannot use discard new"),
        (counts && config.allow_ttl, "counter stream cannot use message TTLs"),
        (counts && config.allow_schedules, "counter stream cannot use message schedules"),
        (
            counts && config.retention != Retention::Limits,
            "counter stream can only use limits retention",
        ),
        (per_subject && !is_new, "discard new per subject requires discard new policy to be set"),
        (
            per_subject && config.messages_per_subject_max <= 0,
            "discard new per subject requires max msgs per subject > 0",
        ),
        (
            (1..MARKER_TTL_NS_MIN).contains(&config.marker_ttl_ns),
            "subject delete marker TTL must be at least 1 second",
        ),
        (config.marker_ttl_ns < 0, "subject delete marker TTL must not be negative"),
    ];
    refuse_first(&refusals)?;
    if config.marker_ttl_ns > 0 {
        set_markers(config, is_pedantic)?;
    }
    if config.allow_schedules && is_new {
        return invalid("message scheduling cannot use discard new");
    }
    let is_async = config.persist_mode == PersistMode::Async;
    let refusals = [
        (
            is_async && config.storage != StorageKind::File,
            "async persist mode is only supported on file storage",
        ),
        (
            is_async && config.replicas > 1,
            "async persist mode is not supported on replicated streams",
        ),
        (
            is_async && config.allow_atomic,
            "async persist mode is not supported with atomic batch publish",
        ),
    ];
    refuse_first(&refusals)
}

/// Switches on what markers need.
fn set_markers(config: &mut StreamConfig, is_pedantic: bool) -> Checked {
    let needs =
        |feature: &str| format!("subject delete marker cannot be set if {feature} are disabled");
    if !config.allow_ttl {
        if is_pedantic {
            return invalid(needs("message TTLs"));
        }
        config.allow_ttl = true;
    }
    if !config.allow_rollup {
        if is_pedantic {
            return invalid(needs("roll-ups"));
        }
        config.allow_rollup = true;
        config.deny_purge = false;
    }
    Ok(())
}

/// Refuses what this server cannot do yet: a stream that lacks what it was created for would lose
/// messages in silence.
fn check_unfinished_features(config: &StreamConfig) -> Checked {
    let features = [
        (config.mirror.is_some(), "mirror: mirrors of other streams"),
        (!config.sources.is_empty(), "sources: streams with sources"),
        (config.allow_atomic, "allow_atomic: atomic batch publishing"),
        (config.allow_batched, "allow_batched: fast batch publishing"),
        (config.allow_counter, "allow_msg_counter: message counters"),
        (config.allow_schedules, "allow_msg_schedules: message schedules"),
    ];
    match features.iter().find(|(is_wanted, _)| *is_wanted) {
        Some((_, feature)) => invalid(format!("{feature} are not supported by this server yet")),
        None => Ok(()),
    }
}

fn set_subjects(config: &mut StreamConfig) -> Checked {
    if config.subjects.is_empty() {
        config.subjects.push(config.name.clone());
        return Ok(());
    }
    if config.subjects.len() > ASSET_SUBJECTS_MAX {
        return invalid(format!("stream has more than {ASSET_SUBJECTS_MAX} subjects"));
    }
    for (index, subject) in config.subjects.iter().enumerate() {
        if !names::is_valid_subject(subject) {
            return invalid("invalid subject");
        }
        if subject == ">" {
            if !config.no_ack {
                return invalid("capturing all subjects requires no-ack to be true");
            }
            if config.replicas != 1 {
                return invalid("capturing all subjects requires replicas of 1");
            }
        }
        if !config.no_ack {
            check_system_subjects(subject)?;
        }
        for other in &config.subjects[index + 1..] {
            if overlap(other, subject) {
                let (subject, other) = (quoted(subject), quoted(other));
                return invalid(format!("subject {subject} overlaps with {other}"));
            }
        }
    }
    Ok(())
}

/// A stream that acknowledges what the server's own services answer would answer in their place.
fn check_system_subjects(subject: &str) -> Checked {
    let api = ["$JS.>", "$JSC.>", "$NRG.>"];
    if api.iter().any(|space| overlap(subject, space)) && !names::is_subset(subject, "$JS.EVENT.>")
    {
        return invalid("subjects that overlap with jetstream api require no-ack to be true");
    }
    if overlap(subject, "$SYS.>") && !names::is_subset(subject, "$SYS.ACCOUNT.>") {
        return invalid("subjects that overlap with system api require no-ack to be true");
    }
    Ok(())
}

fn check_bytes(config: &StreamConfig, rules: &StreamRules) -> Checked {
    if rules.is_bytes_max_required && config.bytes_max <= 0 {
        return Err(ApiError::MAX_BYTES_REQUIRED);
    }
    let limit = match config.storage {
        StorageKind::File => rules.file_bytes_max,
        StorageKind::Memory => rules.memory_bytes_max,
    };
    if limit > 0 && config.bytes_max > limit {
        return Err(ApiError::STREAM_MAX_BYTES_EXCEEDED);
    }
    Ok(())
}

fn check_transform(config: &StreamConfig) -> Checked {
    let Some(SubjectTransform { source, destination }) = &config.subject_transform else {
        return Ok(());
    };
    if !source.is_empty() && !names::is_valid_subject(source) {
        return Err(ApiError::transform_source_invalid(format!("invalid subject {source}")));
    }
    compile_transform(source, destination)
        .map(drop)
        .map_err(|error| ApiError::transform_invalid(error.to_string()))
}

/// Compiles a transform; without a source it is for all subjects. None if there is no destination.
///
/// # Errors
/// If the destination cannot be made from the source.
pub(crate) fn compile_transform(
    source: &str,
    destination: &str,
) -> Result<Option<Transform>, crate::auth::transform::TransformError> {
    if destination.is_empty() {
        return Ok(None);
    }
    let source = if source.is_empty() { ">" } else { source };
    Transform::compile(source, destination).map(Some)
}

fn set_republish(config: &mut StreamConfig, is_pedantic: bool) -> Checked {
    let Some(republish) = &mut config.republish else { return Ok(()) };
    if republish.source.is_empty() {
        if is_pedantic {
            return Err(ApiError::pedantic("republish source can not be empty"));
        }
        republish.source = ">".into();
    }
    if let Some(transform) = &config.subject_transform
        && republish.source == ">"
        && republish.destination == ">"
        && config.subjects == [transform.source.clone()]
    {
        // Everything is published anew under the subject that it was given: no cycle, as it is not
        // the stream's own.
        if is_pedantic {
            return Err(ApiError::pedantic("implicit republish based on subject transform"));
        }
        republish.source = transform.destination.clone();
        republish.destination = transform.destination.clone();
    }
    let destination = &republish.destination;
    if config.subjects.iter().any(|subject| overlap(destination, subject)) {
        return invalid("stream configuration for republish destination forms a cycle");
    }
    if compile_transform(&republish.source, destination).is_err() {
        return invalid(format!(
            "stream configuration for republish with transform from '{}' to '{destination}' \
             not valid",
            republish.source
        ));
    }
    Ok(())
}

fn check_placement(config: &mut StreamConfig) -> Checked {
    if config.placement == Some(Placement::default()) {
        config.placement = None;
    }
    let has_preferred = config.placement.as_ref().is_some_and(|at| !at.preferred.is_empty());
    if has_preferred {
        return invalid("preferred server not permitted in placement");
    }
    Ok(())
}

fn quoted(text: &str) -> String {
    quoted_bytes(text.as_bytes())
}

/// Refuses with the text of the first condition that holds.
fn refuse_first(refusals: &[(bool, &'static str)]) -> Checked {
    match refusals.iter().find(|(is_refused, _)| *is_refused) {
        Some((_, text)) => invalid(text),
        None => Ok(()),
    }
}

fn invalid<T>(text: impl std::fmt::Display) -> Checked<T> {
    Err(ApiError::stream_config_invalid(text))
}

#[cfg(test)]
mod tests;
