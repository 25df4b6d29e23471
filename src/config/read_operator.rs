//! Reads operator mode: operators, trusted keys, the resolver and its preloads.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::auth_options::{Place, Secret};
use crate::config::feature::Feature;
use crate::config::go_text::{SignedDuration, parse_duration, quoted};
use crate::config::operator_options::{
    Deletion, DirectoryKind, DirectoryOptions, OperatorJwt, PreloadedAccount, ResolverOptions,
};
use crate::config::read_auth::is_public_nkey;
use crate::config::reader::Reader;
use crate::config::surroundings::file_error_text;
use crate::config::value::{Data, Map, Value};

/// All JWTs begin with this.
const JWT_PREFIX: &str = "eyJ";

/// Reads texts, or one text.
fn read_texts(reader: &mut Reader<'_>, value: &Value, what: &str) -> Vec<String> {
    let entries = match &*value.data {
        Data::Text(_) => std::slice::from_ref(value),
        Data::List(list) => list,
        _ => {
            let found = value.type_name();
            reader.error(value, format!("error parsing {what}: unsupported type {found}"));
            return Vec::new();
        }
    };
    let mut texts = Vec::new();
    for entry in entries {
        match entry.as_text() {
            Some(text) => texts.push(text),
            None => {
                let found = entry.type_name();
                reader.error(value, format!("error parsing {what}: unsupported type {found}"));
            }
        }
    }
    texts
}

/// Reads operators: each a file with its JWT, or the JWT itself.
pub(super) fn read_operators(reader: &mut Reader<'_>, value: &Value) {
    let mut operators = Vec::new();
    for text in read_texts(reader, value, "operators") {
        let jwt = match reader.surroundings.read_file(Path::new(&text)) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(_) if text.starts_with(JWT_PREFIX) => text,
            Err(error) => {
                let reason = file_error_text(Path::new(&text), &error);
                reader.error(value, format!("error parsing operator JWT: {reason}"));
                continue;
            }
        };
        let jwt = undecorated(&jwt).to_owned();
        operators.push(OperatorJwt { jwt, place: Place(value.place()) });
    }
    reader.options.auth.operator.operators = operators;
}

/// Returns the JWT between the lines that tools put around it.
fn undecorated(text: &str) -> &str {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let is_rule = |line: &str| line.starts_with("---") && line.ends_with("---");
    match lines.clone().find(|line| !is_rule(line)) {
        Some(first) if lines.any(is_rule) => first,
        _ => text.trim(),
    }
}

pub(super) fn read_trusted_keys(reader: &mut Reader<'_>, value: &Value) {
    let keys = read_texts(reader, value, "trusted");
    for key in &keys {
        if !is_public_nkey(key, nkeys::KeyPairType::Operator) {
            let key = quoted(key);
            let reason = format!("trust key {key} required to be a valid public operator nkey");
            reader.error(value, reason);
        }
    }
    reader.options.auth.operator.trusted_keys = keys;
}

pub(super) fn read_pinned_accounts(reader: &mut Reader<'_>, value: &Value) {
    let keys = read_texts(reader, value, "resolver_pinned_accounts");
    reader.options.auth.operator.pinned_accounts = keys;
}

pub(super) fn read_default_sentinel(reader: &mut Reader<'_>, value: &Value) {
    let text = reader.text(value).filter(|text| !text.is_empty());
    reader.options.auth.operator.default_sentinel = text.map(Secret::new);
}

pub(super) fn read_preloads(reader: &mut Reader<'_>, value: &Value) {
    let Some(map) = value.as_map() else {
        return reader.error(value, "preload should be a map of account_public_key:account_jwt");
    };
    let mut preloads = HashMap::new();
    for (key, value) in map.entries() {
        match value.as_text() {
            Some(jwt) => {
                let place = Place(value.place());
                preloads.insert(key, PreloadedAccount { jwt: jwt.into(), place });
            }
            None => reader.error(value, "preload map value should be a string JWT"),
        }
    }
    reader.options.auth.operator.preloads = Arc::new(preloads);
}

/// Reads the TLS of a resolver that is a web server.
pub(super) fn read_resolver_tls(reader: &mut Reader<'_>, value: &Value) {
    match value.as_map() {
        Some(map) if map.is_empty() => {}
        Some(_) => reader.refuse_later(value, Feature::Resolvers),
        None => {
            let found = value.type_name();
            reader.error(value, format!("TLS error: unsupported type {found}"));
        }
    }
}

pub(super) fn read_resolver(reader: &mut Reader<'_>, value: &Value) {
    let resolver = match &*value.data {
        Data::Text(_) => value.as_text().map(|text| resolver_of(&text)),
        Data::Map(map) => read_resolver_block(reader, value, map),
        _ => {
            let found = value.type_name();
            let reason = format!("error parsing operator resolver, wrong type {found}");
            return reader.error(value, reason);
        }
    };
    match resolver {
        Some(Some(ResolverOptions::Url(_))) => {
            reader.refuse_later(value, Feature::Resolvers);
        }
        Some(Some(resolver)) => reader.options.auth.operator.resolver = Some(resolver),
        Some(None) => reader.error(
            value,
            "error parsing account resolver, should be MEM or  URL(\"url\") or a map containing \
             dir and type state=[FULL|CACHE])",
        ),
        None => {}
    }
}

fn resolver_of(text: &str) -> Option<ResolverOptions> {
    let lower = text.to_ascii_lowercase();
    if lower.contains("mem") {
        return Some(ResolverOptions::Memory);
    }
    let at = lower.find("url")?;
    let inner = text[at + 3..].trim_start().strip_prefix('(')?;
    let url = inner.split(')').next()?.trim().trim_matches('"').trim();
    let is_url = url.starts_with("http://") || url.starts_with("https://");
    is_url.then(|| ResolverOptions::Url(url.to_owned()))
}

/// Some(None) = it is of no known type; None = the errors are noted. Unknown keys are ignored, as
/// in nats-server.
fn read_resolver_block(
    reader: &mut Reader<'_>,
    block: &Value,
    map: &Map,
) -> Option<Option<ResolverOptions>> {
    let text = |name: &str| map.get(name.as_bytes()).and_then(Value::as_text);
    let toggle = |reader: &mut Reader<'_>, name: &str| match map.get(name.as_bytes()) {
        Some(value) => reader.toggle(value),
        None => None,
    };
    let path = text("dir").unwrap_or_default();
    let kind = text("type").unwrap_or_default().to_ascii_uppercase();
    let (delete, hard) = (toggle(reader, "allow_delete"), toggle(reader, "hard_delete"));
    let limit = match map.get(b"limit") {
        Some(value) => reader.integer(value)?,
        None => 0,
    };
    let mut duration = |name: &str| match map.get(name.as_bytes()) {
        None => Some(SignedDuration(0)),
        Some(value) => {
            let text = reader.text(value)?;
            parse_duration(&text).map_err(|reason| reader.error(block, reason)).ok()
        }
    };
    let (ttl, interval, timeout) = (duration("ttl")?, duration("interval")?, duration("timeout"));
    let timeout = timeout?;
    let deletes = delete == Some(true);
    match &*kind {
        "MEM" | "MEMORY" => return Some(Some(ResolverOptions::Memory)),
        "CACHE" | "FULL" => {}
        _ => return Some(None),
    }
    check_directory(reader, block, &path);
    let mut refuse = |is_wrong: bool, text: &str| {
        if is_wrong {
            reader.error(block, text);
        }
    };
    let kind = if kind == "CACHE" {
        refuse(interval.0 != 0, "CACHE does not accept sync");
        refuse(deletes, "CACHE does not accept allow_delete");
        refuse(hard.is_some(), "CACHE does not accept hard_delete");
        DirectoryKind::Cache { ttl: ttl.to_duration().filter(|ttl| !ttl.is_zero()) }
    } else {
        refuse(ttl.0 != 0, "FULL does not accept ttl");
        refuse(hard.is_some() && !deletes, "hard_delete has no effect without delete");
        let delete = match (deletes, hard) {
            (false, _) => Deletion::Refused,
            (true, Some(true)) => Deletion::Removed,
            (true, _) => Deletion::Renamed,
        };
        DirectoryKind::Full { delete }
    };
    if map.get(b"timeout").is_some() && timeout.0 <= 0 {
        let shown = text("timeout").unwrap_or_default();
        reader.error(block, format!("Fetch timeout {shown} is too smal"));
    }
    let accounts_max = DirectoryOptions::accounts_max_of(&kind, limit);
    let options = DirectoryOptions { path: PathBuf::from(path), kind, accounts_max };
    Some(Some(ResolverOptions::Directory(options)))
}

fn check_directory(reader: &mut Reader<'_>, block: &Value, path: &str) {
    if path.is_empty() {
        return reader.error(block, "dir has no value and needs to point to a directory");
    }
    // One that is missing is made at the start.
    if reader.surroundings.read_file(Path::new(path)).is_ok() {
        reader.error(block, "dir needs to point to an accessible directory");
    }
}
