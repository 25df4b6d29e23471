//! Reads `exports` and `imports` of an account.
//!
//! A directive may stand before or behind the `stream` or `service` that it belongs to. Source: nats-server
//! server/opts.go parseExportStreamOrService, parseImportStreamOrService.

use std::num::IntErrorKind;
use std::time::Duration;

use crate::config::go_text::{SignedDuration, parse_duration, quoted};
use crate::config::import_options::{
    ExportKind, ExportOptions, ImportKind, ImportOptions, LatencyOptions, ResponseType,
    ServiceExportOptions,
};
use crate::config::reader::Reader;
use crate::config::value::{Data, Value};

const SAMPLING_DEFAULT: u8 = 100;

pub(super) fn read_exports(reader: &mut Reader<'_>, value: &Value) -> Vec<ExportOptions> {
    let Some(list) = value.as_list() else {
        let found = value.type_name();
        reader.error(value, format!("Exports should be an array, got {found}"));
        return Vec::new();
    };
    list.iter().filter_map(|entry| read_export(reader, entry)).collect()
}

/// The exported or imported subject, as far as it was read.
enum Subject<T> {
    None,
    Stream(T),
    Service(T),
}

impl<T> Subject<T> {
    fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_))
    }

    fn is_service(&self) -> bool {
        matches!(self, Self::Service(_))
    }
}

fn read_export(reader: &mut Reader<'_>, entry: &Value) -> Option<ExportOptions> {
    let Some(map) = entry.as_map() else {
        let found = entry.type_name();
        reader.error(entry, format!("Export Items should be a map with type entry, got {found}"));
        return None;
    };
    let mut subject = Subject::None;
    let mut service = ServiceExportOptions::default();
    let mut accounts = Vec::new();
    let mut account_token_position = 0;
    // The service directives so far, with their names in error texts.
    let mut of_services: Vec<(&Value, &str)> = Vec::new();
    let (mut response_seen, mut threshold_seen) = (false, false);
    for (key, value) in map.entries() {
        match key.to_ascii_lowercase().as_str() {
            "stream" => {
                let Some(text) = read_subject(reader, value, "stream") else { continue };
                if subject.is_service() {
                    let reason =
                        format!("Detected stream {} but already saw a service", quoted(&text));
                    reader.error(value, reason);
                } else {
                    subject = Subject::Stream(text);
                }
            }
            "service" => {
                let Some(text) = read_subject(reader, value, "service") else { continue };
                if subject.is_stream() {
                    let reason =
                        format!("Detected service {} but already saw a stream", quoted(&text));
                    reader.error(value, reason);
                } else {
                    subject = Subject::Service(text);
                }
            }
            "response" | "response_type" => {
                if response_seen {
                    reader.error(value, "Duplicate response type definition");
                    continue;
                }
                response_seen = true;
                of_services.push((value, "response"));
                if let Some(response_type) = read_response_type(reader, value) {
                    service.response_type = response_type;
                }
            }
            "threshold" | "response_threshold" | "response_max_time" | "response_time" => {
                if threshold_seen {
                    reader.error(value, "Duplicate response threshold detected");
                    continue;
                }
                threshold_seen = true;
                of_services.push((value, "response"));
                service.response_threshold = read_threshold(reader, value);
            }
            "accounts" => accounts = read_names(reader, value),
            "latency" => {
                of_services.push((value, "latency"));
                service.latency = read_latency(reader, value);
            }
            "account_token_position" => {
                if let Some(position) = reader.integer(value) {
                    // A position beyond every subject is refused later.
                    account_token_position = u32::try_from(position).unwrap_or(u32::MAX);
                }
            }
            "allow_trace" => {
                of_services.push((value, "allow_trace"));
                service.allow_trace = reader.toggle(value).unwrap_or_default();
            }
            _ => reader.unknown_field(value, &key),
        }
    }
    if subject.is_stream() {
        for (value, directive) in of_services {
            reader.error(value, format!("Detected {directive} directive on non-service"));
        }
    }
    let (subject, kind) = match subject {
        Subject::None => return None,
        Subject::Stream(subject) => (subject, ExportKind::Stream),
        Subject::Service(subject) => (subject, ExportKind::Service(service)),
    };
    Some(ExportOptions {
        subject,
        kind,
        accounts,
        activation_required: false,
        revocations: Default::default(),
        account_token_position,
    })
}

fn read_subject(reader: &mut Reader<'_>, value: &Value, what: &str) -> Option<String> {
    if value.as_text().is_none() {
        let found = value.type_name();
        reader.error(value, format!("Expected {what} name to be string, got {found}"));
        return None;
    }
    reader.text(value)
}

fn read_response_type(reader: &mut Reader<'_>, value: &Value) -> Option<ResponseType> {
    let Some(text) = value.as_text() else {
        let found = value.type_name();
        reader.error(value, format!("Expected response type to be string, got {found}"));
        return None;
    };
    match text.to_lowercase().as_str() {
        "single" | "singleton" => Some(ResponseType::Singleton),
        "stream" => Some(ResponseType::Streamed),
        "chunk" | "chunked" => Some(ResponseType::Chunked),
        _ => {
            reader.error(value, format!("Unknown response type: {}", quoted(&text)));
            None
        }
    }
}

fn read_threshold(reader: &mut Reader<'_>, value: &Value) -> Option<Duration> {
    let expected = "Expected response threshold to be a parseable time duration";
    let Some(text) = value.as_text() else {
        reader.error(value, format!("{expected}, got {}", value.type_name()));
        return None;
    };
    match parse_duration(&text) {
        Ok(SignedDuration(0)) => None,
        Ok(duration) => Some(duration.to_duration().unwrap_or_default()),
        Err(_) => {
            reader.error(value, format!("{expected}, got {}", quoted(&text)));
            None
        }
    }
}

fn read_names(reader: &mut Reader<'_>, value: &Value) -> Vec<String> {
    let Some(list) = value.as_list() else {
        reader.wrong_type(value, "[]interface {}");
        return Vec::new();
    };
    list.iter().filter_map(|name| reader.text(name)).collect()
}

fn read_latency(reader: &mut Reader<'_>, value: &Value) -> Option<LatencyOptions> {
    if value.as_text().is_some() {
        let subject = reader.text(value)?;
        return Some(LatencyOptions { subject, sampling: SAMPLING_DEFAULT });
    }
    let Some(map) = value.as_map() else {
        let found = value.type_name();
        let reason = format!("Expected latency entry to be a map/struct or string, got {found}");
        reader.error(value, reason);
        return None;
    };
    let sampling = match map.get(b"sampling") {
        None => SAMPLING_DEFAULT,
        Some(value) => read_sampling(reader, value)?,
    };
    let Some(subject) = map.get(b"subject") else {
        reader.error(value, "Latency subject required, but missing");
        return None;
    };
    if subject.as_text().is_none() {
        reader.error(subject, "Expected latency subject to be a string, got string");
        return None;
    }
    Some(LatencyOptions { subject: reader.text(subject)?, sampling })
}

fn read_sampling(reader: &mut Reader<'_>, value: &Value) -> Option<u8> {
    let percent: i64 = match &*value.data {
        Data::Integer(number) => *number,
        Data::Text(_) => {
            let text = reader.text(value)?;
            if text.trim().eq_ignore_ascii_case("headers") {
                return Some(0);
            }
            let digits = text.strip_suffix('%').unwrap_or(&text);
            match digits.parse() {
                Ok(number) => number,
                Err(error) => {
                    let shown = quoted(digits);
                    let reason = match error.kind() {
                        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => {
                            "value out of range"
                        }
                        _ => "invalid syntax",
                    };
                    let text = format!(
                        "Failed to parse latency sample: strconv.Atoi: parsing {shown}: {reason}"
                    );
                    reader.error(value, text);
                    return None;
                }
            }
        }
        _ => {
            let found = value.type_name();
            let reason =
                format!("Expected latency sample to be a string or map/struct, got {found}");
            reader.error(value, reason);
            return None;
        }
    };
    match u8::try_from(percent) {
        Ok(percent @ 1..=100) => Some(percent),
        _ => {
            reader.error(value, "bad sampling percentage, should be 1-100");
            None
        }
    }
}

pub(super) fn read_imports(reader: &mut Reader<'_>, value: &Value) -> Vec<ImportOptions> {
    let Some(list) = value.as_list() else {
        let found = value.type_name();
        reader.error(value, format!("Imports should be an array, got {found}"));
        return Vec::new();
    };
    let mut imports: Vec<ImportOptions> = Vec::new();
    for entry in list {
        let Some(import) = read_import(reader, entry) else { continue };
        match duplicate_of(&imports, &import) {
            Some(other) => {
                let reason = format!(
                    "Duplicate service import subject {}, previously used in import for account {}, subject {}",
                    quoted(service_subject(&import).unwrap_or_default()),
                    quoted(&other.account),
                    quoted(&other.subject),
                );
                reader.error(entry, reason);
            }
            None => imports.push(import),
        }
    }
    imports
}

/// The subject here of a service.
fn service_subject(import: &ImportOptions) -> Option<&str> {
    match &import.kind {
        ImportKind::Stream { .. } => None,
        ImportKind::Service { to, .. } => Some(to.as_deref().unwrap_or(&import.subject)),
    }
}

/// A service that is imported from the same account to the same subject.
fn duplicate_of<'a>(
    imports: &'a [ImportOptions],
    import: &ImportOptions,
) -> Option<&'a ImportOptions> {
    let subject = service_subject(import)?;
    let same = |other: &&ImportOptions| {
        other.account == import.account && service_subject(other) == Some(subject)
    };
    imports.iter().find(same)
}

fn read_import(reader: &mut Reader<'_>, entry: &Value) -> Option<ImportOptions> {
    let Some(map) = entry.as_map() else {
        let found = entry.type_name();
        reader.error(entry, format!("Import Items should be a map with type entry, got {found}"));
        return None;
    };
    let mut subject = Subject::None;
    let (mut prefix, mut to, mut share) = (None, None, false);
    let (mut traced, mut allow_trace) = (None, false);
    for (key, value) in map.entries() {
        match key.to_ascii_lowercase().as_str() {
            "stream" if subject.is_service() => {
                reader.error(value, "Detected stream but already saw a service");
            }
            "stream" => {
                if let Some(found) = read_exported(reader, value, "Stream") {
                    subject = Subject::Stream(found);
                }
            }
            "service" if subject.is_stream() => {
                reader.error(value, "Detected service but already saw a stream");
            }
            "service" => {
                if let Some(found) = read_exported(reader, value, "Service") {
                    subject = Subject::Service(found);
                }
            }
            "prefix" => prefix = reader.text(value).filter(|text| !text.is_empty()),
            "to" => {
                to = reader.text(value).filter(|text| !text.is_empty());
                if subject.is_stream() && prefix.is_some() {
                    let text = "Stream import can not have a 'prefix' and a 'to' property";
                    reader.error(value, text);
                }
            }
            "share" => share = reader.toggle(value).unwrap_or_default(),
            "allow_trace" => {
                traced = Some(value);
                allow_trace = reader.toggle(value).unwrap_or_default();
            }
            _ => reader.unknown_field(value, &key),
        }
    }
    if let Some(value) = traced.filter(|_| subject.is_service()) {
        reader.error(value, "Detected allow_trace directive on a non-stream");
    }
    let ((account, subject), kind) = match subject {
        Subject::None => return None,
        Subject::Stream(exported) => (exported, ImportKind::Stream { prefix, to, allow_trace }),
        Subject::Service(exported) => (exported, ImportKind::Service { to, share }),
    };
    Some(ImportOptions { account, subject, activation: None, kind })
}

/// The exporting account and the subject there.
fn read_exported(reader: &mut Reader<'_>, value: &Value, what: &str) -> Option<(String, String)> {
    let Some(map) = value.as_map() else {
        let found = value.type_name();
        reader.error(value, format!("{what} entry should be an account map, got {found}"));
        return None;
    };
    let (mut account, mut subject) = (String::new(), String::new());
    for (key, value) in map.entries() {
        match key.to_ascii_lowercase().as_str() {
            "account" => account = reader.text(value)?,
            "subject" => subject = reader.text(value)?,
            _ => reader.unknown_field(value, &key),
        }
    }
    if account.is_empty() || subject.is_empty() {
        reader.error(value, "Expect an account name and a subject");
        return None;
    }
    Some((account, subject))
}
