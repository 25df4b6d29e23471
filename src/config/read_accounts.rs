//! Reads the `accounts` block, account limits and subject mappings.

use std::collections::HashSet;

use crate::config::auth_options::{
    AccountLimitOptions, AccountOptions, MappingDestinationOptions, MappingOptions, Place,
    TraceOptions,
};
use crate::config::go_text::quoted;
use crate::config::read_auth::{
    add_users, apply_default_permissions, is_public_nkey, read_permissions, read_users,
};
use crate::config::read_imports::{read_exports, read_imports};
use crate::config::read_jetstream::read_account_jetstream;
use crate::config::reader::Reader;
use crate::config::value::{Data, Value};
use crate::protocol::subject;

/// The account of clients that are not assigned to another.
pub(super) const GLOBAL_ACCOUNT: &str = "$G";

const WEIGHT_MAX: i64 = 100;

/// Percent of the messages with `traceparent` that are traced.
const SAMPLING_DEFAULT: u8 = 100;

pub(super) fn read_accounts(reader: &mut Reader<'_>, value: &Value) {
    reader.options.auth.accounts_place = Place(value.place());
    match &*value.data {
        Data::List(names) => read_account_names(reader, names),
        Data::Map(map) => {
            for (name, value) in map.entries() {
                // Variables may be defined between the accounts.
                if !value.used_as_variable.get() {
                    read_account(reader, &name, value);
                }
            }
        }
        // nats-server ignores anything else; Midge reports it.
        _ => reader.error(value, "Expected map entries for accounts"),
    }
}

fn read_account_names(reader: &mut Reader<'_>, names: &[Value]) {
    let mut known: HashSet<String> =
        reader.options.auth.accounts.iter().map(|account| account.name.clone()).collect();
    for value in names {
        let Some(name) = reader.text(value) else { continue };
        if name == GLOBAL_ACCOUNT {
            reader.error(value, format!("{} is a Reserved Account", quoted(&name)));
        } else if !known.insert(name.clone()) {
            reader.error(value, format!("Duplicate Account Entry: {name}"));
        } else {
            let account = AccountOptions { name, ..Default::default() };
            reader.options.auth.accounts.push(account);
        }
    }
}

fn read_account(reader: &mut Reader<'_>, name: &str, value: &Value) {
    let Some(map) = value.as_map() else {
        return reader.error(value, "Expected map entries for accounts");
    };
    if name == GLOBAL_ACCOUNT {
        return reader.error(value, format!("{} is a Reserved Account", quoted(name)));
    }
    let mut account = AccountOptions { name: name.to_string(), ..Default::default() };
    let (mut users, mut nkeys) = (Vec::new(), Vec::new());
    let mut users_at = value;
    for (key, value) in map.entries() {
        match key.to_ascii_lowercase().as_str() {
            "nkey" => match value.as_text() {
                Some(nkey) if is_public_nkey(&nkey, nkeys::KeyPairType::Account) => {
                    account.nkey = Some(nkey);
                }
                _ => reader.error(value, "Not a valid public nkey for an account"),
            },
            "users" => {
                users_at = value;
                if let Some(found) = read_users(reader, value) {
                    (users, nkeys) = found;
                }
            }
            "default_permissions" => account.default_permissions = read_permissions(reader, value),
            "mappings" | "maps" => account.mappings = read_mappings(reader, value),
            "limits" => account.limits = read_limits(reader, value),
            "imports" => account.imports = read_imports(reader, value),
            "exports" => account.exports = read_exports(reader, value),
            "jetstream" => account.jetstream = read_account_jetstream(reader, value),
            "msg_trace" | "trace_dest" => account.trace = read_trace(reader, &key, value),
            _ => reader.unknown_field(value, &key),
        }
    }
    if !users.is_empty() || !nkeys.is_empty() {
        let auth = &reader.options.auth;
        if auth.user.is_some() {
            return reader.error(users_at, "Can not have a single user/pass and accounts");
        }
        if auth.token.is_some() {
            return reader.error(users_at, "Can not have a token and accounts");
        }
    }
    apply_default_permissions(&mut users, &mut nkeys, account.default_permissions.as_ref());
    for user in &mut users {
        user.account = Some(name.to_string());
    }
    for nkey in &mut nkeys {
        nkey.account = Some(name.to_string());
    }
    reader.options.auth.accounts.push(account);
    add_users(reader, users_at, users, nkeys);
}

/// Reads the destination of an account's traces: a subject, or a map. The first thing that is wrong
/// ends it. Source: nats-server server/opts.go parseAccountMsgTrace.
fn read_trace(reader: &mut Reader<'_>, name: &str, value: &Value) -> Option<TraceOptions> {
    if value.as_text().is_some() {
        let destination = read_trace_destination(reader, name, value)?;
        return Some(TraceOptions { destination, sampling: SAMPLING_DEFAULT });
    }
    let Some(map) = value.as_map() else {
        let (name, found) = (quoted(name), value.type_name());
        let expected = "to be a string or a map/struct";
        reader
            .error(value, format!("Expected account message trace {name} {expected}, got {found}"));
        return None;
    };
    let (mut destination, mut sampling) = (None, None);
    for (key, value) in map.entries() {
        match key.to_ascii_lowercase().as_str() {
            "dest" => destination = Some(read_trace_destination(reader, &key, value)?),
            "sampling" => sampling = Some(read_trace_sampling(reader, &key, value)?),
            _ if value.used_as_variable.get() => {}
            _ => {
                let (key, name) = (quoted(&key), quoted(name));
                let place = "parsing account message trace map/struct";
                reader.error(value, format!("Unknown field {key} {place} {name}"));
                return None;
            }
        }
    }
    if destination.is_none() && sampling.is_some() {
        let text = "Trace destination sampling ignored since no destination was set";
        reader.warnings.push(format!("{}: {text}", value.place()));
    }
    let sampling = sampling.unwrap_or(SAMPLING_DEFAULT);
    destination.map(|destination| TraceOptions { destination, sampling })
}

fn read_trace_destination(reader: &mut Reader<'_>, name: &str, value: &Value) -> Option<String> {
    if value.as_text().is_none() {
        let (name, found) = (quoted(name), value.type_name());
        reader.error(value, format!("Field {name} should be a string, got {found}"));
        return None;
    }
    let subject = reader.text(value)?;
    if !subject::is_valid_literal(subject.as_bytes()) {
        let reason = format!("Trace destination {} is not valid", quoted(&subject));
        reader.error(value, reason);
        return None;
    }
    Some(subject)
}

fn read_trace_sampling(reader: &mut Reader<'_>, name: &str, value: &Value) -> Option<u8> {
    let number: i64 = match &*value.data {
        Data::Integer(number) => *number,
        Data::Text(_) => {
            let text = reader.text(value)?;
            match text.strip_suffix('%').unwrap_or(&text).parse() {
                Ok(number) => number,
                Err(_) => {
                    let shown = quoted(&text);
                    let reason = format!("Invalid trace destination sampling value {shown}");
                    reader.error(value, reason);
                    return None;
                }
            }
        }
        _ => {
            let (name, found) = (quoted(name), value.type_name());
            let expected = "should be an integer or a percentage";
            let reason = format!("Trace destination sampling field {name} {expected}, got {found}");
            reader.error(value, reason);
            return None;
        }
    };
    match u8::try_from(number) {
        Ok(sampling @ 1..=100) => Some(sampling),
        _ => {
            // The word is misspelt by nats-server.
            let reason = format!(
                "Ttrace destination sampling value {number} is invalid, needs to be [1..100]"
            );
            reader.error(value, reason);
            None
        }
    }
}

fn read_limits(reader: &mut Reader<'_>, value: &Value) -> AccountLimitOptions {
    let mut limits = AccountLimitOptions::default();
    let Some(map) = value.as_map() else {
        reader.error(value, "Expected account limits to be a map/struct");
        return limits;
    };
    for (name, value) in map.entries() {
        let target = match name.to_ascii_lowercase().as_str() {
            "max_connections" | "max_conn" => &mut limits.connections_max,
            "max_subscriptions" | "max_subs" => &mut limits.subscriptions_max,
            "max_payload" | "max_pay" => &mut limits.payload_bytes_max,
            "max_leafnodes" | "max_leafs" => &mut limits.leafnodes_max,
            _ => {
                if !value.used_as_variable.get() {
                    let reason = format!("Unknown field {} parsing account limits", quoted(&name));
                    reader.error(value, reason);
                }
                continue;
            }
        };
        // A negative number is "unlimited"; nats-server keeps 32 bits, so a larger number is
        // unlimited as well.
        if let Some(number) = reader.integer(value) {
            *target = i32::try_from(number).ok().and_then(|number| usize::try_from(number).ok());
        }
    }
    limits
}

/// Reads the top-level `mappings`, which belong to the global account.
pub(super) fn read_global_mappings(reader: &mut Reader<'_>, value: &Value) {
    let mappings = read_mappings(reader, value);
    let account = AccountOptions { name: GLOBAL_ACCOUNT.into(), mappings, ..Default::default() };
    reader.options.auth.accounts.push(account);
}

fn read_mappings(reader: &mut Reader<'_>, block: &Value) -> Vec<MappingOptions> {
    let mut mappings = Vec::new();
    let Some(map) = reader.map(block) else { return mappings };
    for (source, value) in map.entries() {
        if !subject::is_valid_filter(source.as_bytes()) {
            let reason = format!("Subject {} is not a valid subject", quoted(&source));
            reader.error(block, reason);
            continue;
        }
        let destinations: Vec<MappingDestinationOptions> = match &*value.data {
            Data::Text(_) => match reader.text(value) {
                Some(subject) => {
                    vec![MappingDestinationOptions { subject, weight: 100, cluster: None }]
                }
                None => continue,
            },
            Data::List(list) => {
                list.iter().filter_map(|entry| read_destination(reader, entry)).collect()
            }
            _ => read_destination(reader, value).into_iter().collect(),
        };
        let is_plain = matches!(&*value.data, Data::Text(_));
        let place = Place(value.place());
        mappings.push(MappingOptions { source, destinations, is_plain, place });
    }
    mappings
}

fn read_destination(reader: &mut Reader<'_>, entry: &Value) -> Option<MappingDestinationOptions> {
    let Some(map) = entry.as_map() else {
        reader.error(entry, "Expected an entry for the mapping destination");
        return None;
    };
    let mut destination = MappingDestinationOptions::default();
    let mut weight = None;
    for (name, value) in map.entries() {
        match name.to_ascii_lowercase().as_str() {
            "dest" | "destination" => destination.subject = reader.text(value)?,
            "weight" => weight = Some(read_weight(reader, value)?),
            "cluster" => destination.cluster = Some(reader.text(value)?),
            _ => {
                let reason = format!("Unknown field {} for mapping destination", quoted(&name));
                reader.error(value, reason);
                return None;
            }
        }
    }
    match weight {
        Some(weight) => {
            destination.weight = weight;
            Some(destination)
        }
        None => {
            let subject = quoted(&destination.subject);
            reader.error(entry, format!("Missing weight for mapping destination {subject}"));
            None
        }
    }
}

fn read_weight(reader: &mut Reader<'_>, value: &Value) -> Option<u8> {
    let number = match &*value.data {
        Data::Integer(number) => *number,
        Data::Text(_) => {
            let text = value.as_text().unwrap_or_default();
            let digits = text.strip_suffix('%').unwrap_or(&text);
            match digits.parse() {
                Ok(number) => number,
                Err(_) => {
                    let shown = quoted(digits);
                    reader.error(value, format!("Invalid weight {shown} for mapping destination"));
                    return None;
                }
            }
        }
        _ => {
            reader.error(value, format!("Unknown entry type for weight of {}", value.type_name()));
            return None;
        }
    };
    match u8::try_from(number) {
        Ok(weight) if number <= WEIGHT_MAX => Some(weight),
        _ => {
            reader.error(value, format!("Invalid weight {number} for mapping destination"));
            None
        }
    }
}
