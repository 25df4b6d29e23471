//! Reads the `jetstream` block of a file, and that of an account.
//!
//! Source of names, order and texts: nats-server server/opts.go parseJetStream.

use std::path::PathBuf;

use crate::config::go_text::{SignedDuration, parse_duration, quoted};
use crate::config::jetstream_options::{
    BatchLimitOptions, JetStreamAccountOptions, JetStreamLimitOptions, SyncOption,
};
use crate::config::reader::Reader;
use crate::config::value::{Data, Map, Value};

const DUPLICATE_STORE_DIR: &str = "Duplicate 'store_dir' configuration";

/// The error that ends the reading of a block.
struct Refused;

pub(super) fn read_jetstream(reader: &mut Reader<'_>, value: &Value) {
    match &*value.data {
        Data::Toggle(on) => reader.options.jetstream.is_enabled = *on,
        Data::Text(_) => {
            if let Some(on) = read_word(reader, value) {
                reader.options.jetstream.is_enabled = on;
            }
        }
        Data::Map(map) => {
            let mut is_enabled = true;
            for (name, part) in map.entries() {
                if read_part(reader, value, (&name, part), &mut is_enabled).is_err() {
                    return;
                }
            }
            reader.options.jetstream.is_enabled = is_enabled;
        }
        _ => {
            let found = value.type_name();
            let reason = format!("Expected map, bool or string to define JetStream, got {found}");
            reader.error(value, reason);
        }
    }
}

pub(super) fn read_store_dir(reader: &mut Reader<'_>, value: &Value) {
    if reader.options.jetstream.store_dir.is_some() {
        reader.error(value, DUPLICATE_STORE_DIR);
    } else if let Some(text) = reader.text(value).filter(|text| !text.is_empty()) {
        reader.options.jetstream.store_dir = Some(PathBuf::from(text));
    }
}

/// Reads `enabled` or `disabled`.
fn read_word(reader: &mut Reader<'_>, value: &Value) -> Option<bool> {
    let text = reader.text(value)?;
    match text.to_ascii_lowercase().as_str() {
        "enabled" | "enable" => Some(true),
        "disabled" | "disable" => Some(false),
        _ => {
            let reason = format!("Expected 'enabled' or 'disabled' for string value, got '{text}'");
            reader.error(value, reason);
            None
        }
    }
}

fn read_part(
    reader: &mut Reader<'_>,
    whole: &Value,
    (name, value): (&str, &Value),
    is_enabled: &mut bool,
) -> Result<(), Refused> {
    let lower = name.to_ascii_lowercase();
    match lower.as_str() {
        "strict" => match *value.data {
            Data::Toggle(on) => reader.options.jetstream.is_strict = on,
            _ => {
                let text = format!(
                    "Expected 'true' or 'false' for bool value, got '{}'",
                    in_go_string(value)
                );
                return refused(reader, value, text);
            }
        },
        "store" | "store_dir" | "storedir" => {
            if reader.options.jetstream.store_dir.is_some() {
                return refused(reader, value, DUPLICATE_STORE_DIR);
            }
            let folder = text(reader, whole, value)?;
            reader.options.jetstream.store_dir =
                Some(PathBuf::from(folder)).filter(|folder| !folder.as_os_str().is_empty());
        }
        "sync" | "sync_interval" => read_sync(reader, &lower, value),
        "max_memory_store" | "max_mem_store" | "max_mem" => {
            let size = read_size(reader, "max_mem_store", value)?;
            reader.options.jetstream.memory_bytes_max = Some(size);
        }
        "max_file_store" | "max_file" => {
            let size = read_size(reader, "max_file_store", value)?;
            reader.options.jetstream.store_bytes_max = Some(size);
        }
        "domain" => {
            let domain = text(reader, whole, value)?;
            reader.options.jetstream.domain = Some(domain).filter(|domain| !domain.is_empty());
        }
        "enable" | "enabled" => match *value.data {
            Data::Toggle(on) => *is_enabled = on,
            _ => return wrong_type(reader, whole, value, "bool"),
        },
        "key"
        | "ek"
        | "encryption_key"
        | "prev_key"
        | "prev_ek"
        | "prev_encryption_key"
        | "tpm" => {
            let is_set = value.as_text().is_none_or(|text| !text.is_empty());
            if is_set {
                let text = "Encryption of stored messages is not supported yet: no flag starts a \
                            server without it";
                return refused(reader, value, text);
            }
        }
        "cipher" => {
            let text = text(reader, whole, value)?;
            let known = ["chacha", "chachapoly", "aes"];
            if !known.contains(&text.to_ascii_lowercase().as_str()) {
                let text = format!("Unknown cipher type: {}", quoted(&text));
                return refused(reader, value, text);
            }
        }
        "extension_hint" => {
            text(reader, whole, value)?;
        }
        "limits" => read_limits(reader, value)?,
        "unique_tag" => {
            let tag = text(reader, whole, value)?.trim().to_lowercase();
            reader.options.jetstream.unique_tag = Some(tag).filter(|tag| !tag.is_empty());
        }
        "max_outstanding_catchup" | "max_buffered_size" => {
            read_size(reader, &lower, value)?;
        }
        "max_buffered_msgs" | "request_queue_limit" | "info_queue_limit" => {
            if !matches!(*value.data, Data::Integer(_)) {
                return not_a_size(reader, name, value, "parseable");
            }
        }
        "meta_compact" => {
            if !matches!(*value.data, Data::Integer(0..)) {
                return not_a_size(reader, name, value, "absolute");
            }
        }
        "meta_compact_size" => {
            if read_size(reader, &lower, value)? < 0 {
                return not_a_size(reader, name, value, "absolute");
            }
        }
        "meta_compact_sync" => {
            reader.toggle(value);
        }
        "max_concurrent_io" => {
            if !matches!(*value.data, Data::Integer(4..=8192)) {
                let text = format!(
                    "Expected an absolute size for {} between 4 and 8192, got {}",
                    quoted(name),
                    in_go(value)
                );
                return refused(reader, value, text);
            }
        }
        _ => reader.unknown_field(value, name),
    }
    Ok(())
}

/// A text. Other types end the reading of the whole block, as a failed conversion does in Go.
fn text(reader: &mut Reader<'_>, whole: &Value, value: &Value) -> Result<String, Refused> {
    match &*value.data {
        Data::Text(_) => reader.text(value).ok_or(Refused),
        _ => wrong_type(reader, whole, value, "string").map(|()| String::new()),
    }
}

fn wrong_type(
    reader: &mut Reader<'_>,
    whole: &Value,
    value: &Value,
    expected: &str,
) -> Result<(), Refused> {
    let found = value.type_name();
    refused(
        reader,
        whole,
        format!("interface conversion: interface {{}} is {found}, not {expected}"),
    )
}

fn read_sync(reader: &mut Reader<'_>, name: &str, value: &Value) {
    let text = value.as_text();
    if text.is_some_and(|text| text.eq_ignore_ascii_case("always")) {
        reader.options.jetstream.sync = SyncOption::Always;
    } else if let Some(interval) = reader.duration(name, value, true) {
        // nats-server takes 0 and less as its default.
        let interval = interval.to_duration().filter(|interval| !interval.is_zero());
        let interval = interval.unwrap_or(std::time::Duration::from_secs(120));
        reader.options.jetstream.sync = SyncOption::Every(interval);
    }
}

/// Reads a number of bytes, or a text such as "10G".
fn read_size(reader: &mut Reader<'_>, name: &str, value: &Value) -> Result<i64, Refused> {
    let size = match &*value.data {
        Data::Integer(size) => Ok(*size),
        Data::Text(_) => size_of_text(&reader.text(value).ok_or(Refused)?),
        _ => Err("must be int64 or string".into()),
    };
    size.or_else(|reason| refused(reader, value, format!("{name} {reason}")).map(|()| 0))
}

fn size_of_text(text: &str) -> Result<i64, String> {
    let Some(suffix) = text.chars().next_back() else { return Ok(0) };
    let prefix = &text[..text.len() - suffix.len_utf8()];
    let number: i64 = prefix
        .parse()
        .map_err(|_| format!("strconv.ParseInt: parsing {}: invalid syntax", quoted(prefix)))?;
    let shift = "KMGT".find(suffix);
    let shift = shift.ok_or("sizes defined as strings must end in K, M, G, T")?;
    Ok(number.saturating_mul(1 << (10 * (shift + 1))))
}

fn read_limits(reader: &mut Reader<'_>, value: &Value) -> Result<(), Refused> {
    let Some(map) = value.as_map() else {
        let found = value.type_name();
        let text = format!("Expected a map to define JetStreamLimits, got {found}");
        return refused(reader, value, text);
    };
    let mut limits = JetStreamLimitOptions::default();
    for (name, value) in map.entries() {
        match name.to_ascii_lowercase().as_str() {
            "max_ack_pending" => limits.ack_pending_max = number(reader, value),
            // For clusters.
            "max_ha_assets" => drop(reader.integer(value)),
            "max_request_batch" => limits.request_batch_max = number(reader, value),
            "default_max_consumers" => limits.default_consumers_max = number(reader, value),
            "duplicate_window" => limits.duplicate_window = duration(reader, value),
            "batch" => limits.batch = read_batch_limits(reader, value)?,
            _ => reader.unknown_field(value, &name),
        }
    }
    reader.options.jetstream.limits = limits;
    Ok(())
}

fn read_batch_limits(reader: &mut Reader<'_>, value: &Value) -> Result<BatchLimitOptions, Refused> {
    let mut limits = BatchLimitOptions::default();
    let Some(map) = value.as_map() else {
        let found = value.type_name();
        let text = format!("Expected a map to define batch limits, got {found}");
        return refused(reader, value, text).map(|()| limits);
    };
    for (name, value) in map.entries() {
        match name.to_ascii_lowercase().as_str() {
            "max_inflight_per_stream" => limits.per_stream_max = number(reader, value),
            "max_inflight_total" => limits.total_max = number(reader, value),
            "max_msgs" => limits.messages_max = number(reader, value),
            "timeout" => limits.timeout = duration(reader, value),
            _ => reader.unknown_field(value, &name),
        }
    }
    Ok(limits)
}

fn number(reader: &mut Reader<'_>, value: &Value) -> i64 {
    reader.integer(value).unwrap_or_default()
}

fn duration(reader: &mut Reader<'_>, value: &Value) -> Option<std::time::Duration> {
    let text = reader.text(value)?;
    match parse_duration(&text) {
        Ok(duration) => SignedDuration::to_duration(duration),
        Err(reason) => {
            reader.error(value, reason);
            None
        }
    }
}

/// Reads the `jetstream` of an account; None = it is off.
pub(super) fn read_account_jetstream(
    reader: &mut Reader<'_>,
    value: &Value,
) -> Option<JetStreamAccountOptions> {
    match &*value.data {
        Data::Toggle(on) => on.then(JetStreamAccountOptions::default),
        Data::Text(_) => {
            let is_on = read_word(reader, value)?;
            is_on.then(JetStreamAccountOptions::default)
        }
        Data::Map(map) => read_account_limits(reader, map).ok(),
        _ => {
            let found = value.type_name();
            let reason = format!("Expected map, bool or string to define JetStream, got {found}");
            reader.error(value, reason);
            None
        }
    }
}

fn read_account_limits(
    reader: &mut Reader<'_>,
    map: &Map,
) -> Result<JetStreamAccountOptions, Refused> {
    let mut limits = JetStreamAccountOptions::default();
    for (name, value) in map.entries() {
        let target = match name.to_ascii_lowercase().as_str() {
            "max_memory" | "max_mem" | "mem" | "memory" => &mut limits.memory_bytes_max,
            "max_store" | "max_file" | "max_disk" | "store" | "disk" => &mut limits.store_bytes_max,
            "max_streams" | "streams" => &mut limits.streams_max,
            "max_consumers" | "consumers" => &mut limits.consumers_max,
            "mem_max_stream_bytes" | "memory_max_stream_bytes" => {
                &mut limits.memory_stream_bytes_max
            }
            "disk_max_stream_bytes" | "store_max_stream_bytes" => {
                &mut limits.store_stream_bytes_max
            }
            "max_ack_pending" => &mut limits.ack_pending_max,
            "max_bytes_required" | "max_stream_bytes" | "max_bytes" => match *value.data {
                Data::Toggle(on) => {
                    limits.needs_bytes_max = on;
                    continue;
                }
                _ => {
                    let text = format!(
                        "Expected a parseable bool for {}, got {}",
                        quoted(&name),
                        in_go(value)
                    );
                    return refused(reader, value, text).map(|()| limits);
                }
            },
            "cluster_traffic" => {
                let text = value.as_text();
                if !text.as_deref().is_some_and(|text| ["", "system", "owner"].contains(&text)) {
                    let either = if text.is_some() { "" } else { "either " };
                    let text = format!(
                        "Expected {either}'system' or 'owner' string value for {}, got {}",
                        quoted(&name),
                        in_go(value)
                    );
                    return refused(reader, value, text).map(|()| limits);
                }
                continue;
            }
            _ => {
                reader.unknown_field(value, &name);
                continue;
            }
        };
        match *value.data {
            Data::Integer(number) => *target = number,
            _ => return not_a_size(reader, &name, value, "parseable").map(|()| limits),
        }
    }
    Ok(limits)
}

fn not_a_size(
    reader: &mut Reader<'_>,
    name: &str,
    value: &Value,
    kind: &str,
) -> Result<(), Refused> {
    let article = if kind == "absolute" { "an" } else { "a" };
    let (name, found) = (quoted(name), in_go(value));
    refused(reader, value, format!("Expected {article} {kind} size for {name}, got {found}"))
}

fn refused(reader: &mut Reader<'_>, at: &Value, reason: impl AsRef<str>) -> Result<(), Refused> {
    reader.error(at, reason);
    Err(Refused)
}

/// A value as Go's `%v` prints it, as far as these texts show any.
fn in_go(value: &Value) -> String {
    match &*value.data {
        Data::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Data::Integer(number) => number.to_string(),
        Data::Float(number) => number.to_string(),
        Data::Toggle(on) => on.to_string(),
        Data::Time(text) => text.clone(),
        Data::List(_) => "[...]".into(),
        Data::Map(_) => "map[...]".into(),
    }
}

/// A value as Go's `%s` prints it.
fn in_go_string(value: &Value) -> String {
    match &*value.data {
        Data::Integer(number) => format!("%!s(int64={number})"),
        Data::Float(number) => format!("%!s(float64={number})"),
        _ => in_go(value),
    }
}
