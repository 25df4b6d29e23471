//! Reads the `authorization` block, user entries and permissions.

use std::time::Duration;

use crate::config::auth_options::{
    NkeyUserOptions, PermissionOptions, ResponsePermissionOptions, Secret,
    SubjectPermissionOptions, UserOptions,
};
use crate::config::feature::Feature;
use crate::config::go_text::{SignedDuration, format_duration, parse_duration, quoted};
use crate::config::reader::Reader;
use crate::config::value::{Data, Value};
use crate::protocol::subject;

const SECONDS_BEFORE_WARNING: f64 = 60.0;

/// Connection types to which a user may be bound. Those of later features are valid names.
const CONNECTION_TYPES: [&str; 7] =
    ["STANDARD", "WEBSOCKET", "LEAFNODE", "LEAFNODE_WS", "MQTT", "MQTT_WS", "IN_PROCESS"];

pub(super) fn read_authorization(reader: &mut Reader<'_>, value: &Value) {
    let Some(map) = reader.map(value) else { return };
    let mut users = None;
    let mut nkeys = Vec::new();
    let mut timeout = None;
    let mut default_permissions = None;
    let (mut user, mut password, mut token) = (None, None, None);
    for (name, value) in map.entries() {
        match name.to_ascii_lowercase().as_str() {
            "user" | "username" => user = reader.text(value),
            "pass" | "password" => password = reader.text(value),
            "token" => token = reader.text(value),
            "timeout" => timeout = read_timeout(reader, value, &name),
            "users" => {
                if let Some((plain, keyed)) = read_users(reader, value) {
                    users = Some(plain);
                    nkeys = keyed;
                }
            }
            "default_permission" | "default_permissions" | "permissions" => {
                default_permissions = read_permissions(reader, value);
            }
            "auth_callout" | "auth_hook" => reader.refuse_later(value, Feature::AuthCallout),
            "proxy_required" => refuse_proxy_required(reader, value),
            _ => reader.unknown_field(value, &name),
        }
    }
    let not_empty = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (user, password, token) = (not_empty(user), not_empty(password), not_empty(token));

    let auth = &mut reader.options.auth;
    auth.block_present = true;
    auth.user = user;
    auth.password = password.map(Secret::new);
    auth.token = token.map(Secret::new);
    auth.timeout = timeout;
    auth.default_permissions = default_permissions.clone();

    let others_present = !auth.users.is_empty() || !auth.nkeys.is_empty();
    let conflict = if (auth.user.is_some() || auth.password.is_some()) && auth.token.is_some() {
        Some("Cannot have a user/pass and token")
    } else if (users.is_some() || others_present) && auth.user.is_some() {
        Some("Can not have a single user/pass and a users array")
    } else if (users.is_some() || others_present) && auth.token.is_some() {
        Some("Can not have a token and a users array")
    } else {
        None
    };
    if let Some(reason) = conflict {
        return reader.error(value, reason);
    }
    let mut users = users.unwrap_or_default();
    apply_default_permissions(&mut users, &mut nkeys, default_permissions.as_ref());
    add_users(reader, value, users, nkeys);
}

/// Adds users to the server's; each name and nkey may occur only once.
pub(super) fn add_users(
    reader: &mut Reader<'_>,
    at: &Value,
    users: Vec<UserOptions>,
    nkeys: Vec<NkeyUserOptions>,
) {
    for user in users {
        if reader.claim_user_name(&user.user) {
            reader.options.auth.users.push(user);
        } else {
            reader.error(at, format!("Duplicate user {} detected", quoted(&user.user)));
        }
    }
    for nkey in nkeys {
        if reader.claim_user_name(&nkey.nkey) {
            reader.options.auth.nkeys.push(nkey);
        } else {
            reader.error(at, format!("Duplicate nkey {} detected", quoted(&nkey.nkey)));
        }
    }
}

pub(super) fn apply_default_permissions(
    users: &mut [UserOptions],
    nkeys: &mut [NkeyUserOptions],
    default: Option<&PermissionOptions>,
) {
    let Some(default) = default else { return };
    let of_users = users.iter_mut().map(|user| &mut user.permissions);
    let of_nkeys = nkeys.iter_mut().map(|nkey| &mut nkey.permissions);
    for permissions in of_users.chain(of_nkeys) {
        if permissions.is_none() {
            *permissions = Some(default.clone());
        }
    }
}

/// Reads a timeout: a number of seconds, or a duration. Zero means "not given".
fn read_timeout(reader: &mut Reader<'_>, value: &Value, name: &str) -> Option<Duration> {
    let seconds = match &*value.data {
        Data::Integer(seconds) => *seconds as f64,
        Data::Float(seconds) => *seconds,
        Data::Text(_) => {
            let text = reader.text(value)?;
            match parse_duration(&text) {
                Ok(SignedDuration(nanoseconds)) => nanoseconds as f64 / 1e9,
                Err(reason) => {
                    let reason = format!("error parsing authorization config, 'timeout' {reason}");
                    reader.error(value, reason);
                    return None;
                }
            }
        }
        _ => {
            reader.error(value, "error parsing authorization config, 'timeout' wrong type");
            return None;
        }
    };
    if seconds > SECONDS_BEFORE_WARNING {
        let shown = match &*value.data {
            Data::Integer(number) => number.to_string(),
            Data::Float(number) => number.to_string(),
            _ => value.as_text().unwrap_or_default(),
        };
        reader.warnings.push(format!(
            "{}: invalid use of field {}: timeout of {shown} ({seconds:.6} seconds) is high, \
             consider keeping it under 60 seconds; an unquoted 1m is a million, write '1m'",
            value.place(),
            quoted(name),
        ));
    }
    seconds_to_duration(reader, value, seconds)
}

/// Converts seconds; None for zero. Negative and absurdly long times are refused.
pub(super) fn seconds_to_duration(
    reader: &mut Reader<'_>,
    value: &Value,
    seconds: f64,
) -> Option<Duration> {
    match Duration::try_from_secs_f64(seconds) {
        Ok(Duration::ZERO) => None,
        Ok(duration) => Some(duration),
        Err(_) => {
            let whole = SignedDuration((seconds * 1e9) as i64);
            reader.error(value, format!("timeout of {} cannot be used", format_duration(whole)));
            None
        }
    }
}

fn refuse_proxy_required(reader: &mut Reader<'_>, value: &Value) {
    if reader.toggle(value) == Some(true) {
        reader.refuse_later(value, Feature::TrustedProxies);
    }
}

/// Reads a list of users. None, with an error noted, if the list as a whole is unusable.
pub(super) fn read_users(
    reader: &mut Reader<'_>,
    value: &Value,
) -> Option<(Vec<UserOptions>, Vec<NkeyUserOptions>)> {
    let Some(list) = value.as_list() else {
        reader.error(value, "Expected users field to be an array");
        return None;
    };
    let (mut users, mut nkeys) = (Vec::new(), Vec::new());
    for entry in list {
        read_user(reader, entry, &mut users, &mut nkeys);
    }
    Some((users, nkeys))
}

fn read_user(
    reader: &mut Reader<'_>,
    entry: &Value,
    users: &mut Vec<UserOptions>,
    nkeys: &mut Vec<NkeyUserOptions>,
) {
    let Some(map) = entry.as_map() else {
        return reader.error(entry, "Expected user entry to be a map/struct");
    };
    let (mut user, mut password, mut nkey) = (None, None, None);
    let (mut permissions, mut connection_types) = (None, None);
    let mut last = entry;
    for (name, value) in map.entries() {
        last = value;
        match name.to_ascii_lowercase().as_str() {
            key @ ("nkey" | "user" | "username" | "pass" | "password") => {
                // Without this text the rest of the entry cannot be judged.
                let Some(text) = reader.text(value) else { return };
                match key {
                    "nkey" => nkey = Some(text),
                    "user" | "username" => user = Some(text),
                    _ => password = Some(text),
                }
            }
            "permission" | "permissions" | "authorization" => {
                permissions = read_permissions(reader, value);
            }
            "allowed_connection_types" | "connection_types" | "clients" => {
                connection_types = read_connection_types(reader, value);
            }
            "proxy_required" => refuse_proxy_required(reader, value),
            _ => reader.unknown_field(value, &name),
        }
    }
    let user = user.unwrap_or_default();
    let password = password.filter(|password| !password.is_empty()).map(Secret::new);
    match nkey.filter(|nkey| !nkey.is_empty()) {
        None if user.is_empty() => reader.error(last, "User entry requires a user"),
        None => {
            users.push(UserOptions { user, password, account: None, permissions, connection_types })
        }
        Some(nkey) if !is_public_nkey(&nkey, nkeys::KeyPairType::User) => {
            reader.error(last, "Not a valid public nkey for a user");
        }
        Some(_) if !user.is_empty() || password.is_some() => {
            reader.error(last, "Nkey users do not take usernames or passwords");
        }
        Some(nkey) => {
            nkeys.push(NkeyUserOptions { nkey, account: None, permissions, connection_types });
        }
    }
}

/// Returns true for a well-formed public key of that kind.
pub(super) fn is_public_nkey(text: &str, kind: nkeys::KeyPairType) -> bool {
    nkeys::KeyPair::from_public_key(text).is_ok_and(|key| key.key_pair_type() == kind)
}

fn read_connection_types(reader: &mut Reader<'_>, value: &Value) -> Option<Vec<String>> {
    let values = match &*value.data {
        Data::Text(_) => std::slice::from_ref(value),
        Data::List(values) => values,
        _ => {
            let found = value.type_name();
            let reason =
                format!("error parsing allowed connection types: unsupported type {found}");
            reader.error(value, reason);
            return None;
        }
    };
    let mut types = Vec::new();
    for entry in values {
        let Some(text) = entry.as_text() else {
            let found = entry.type_name();
            reader.error(
                entry,
                format!(
                    "error parsing allowed connection types: unsupported type in array {found}"
                ),
            );
            continue;
        };
        let upper = text.to_uppercase();
        if CONNECTION_TYPES.contains(&upper.as_str()) {
            types.push(upper);
        } else {
            reader.error(value, format!("invalid connection types [{}]", quoted(&text)));
        }
    }
    (!types.is_empty()).then_some(types)
}

pub(super) fn read_permissions(
    reader: &mut Reader<'_>,
    value: &Value,
) -> Option<PermissionOptions> {
    let Some(map) = value.as_map() else {
        reader.error(value, "Expected permissions to be a map/struct");
        return None;
    };
    let mut permissions = PermissionOptions::default();
    for (name, value) in map.entries() {
        match name.to_ascii_lowercase().as_str() {
            "pub" | "publish" | "import" => {
                permissions.publish = read_subject_permission(reader, value, false);
            }
            "sub" | "subscribe" | "export" => {
                permissions.subscribe = read_subject_permission(reader, value, true);
            }
            "publish_allow_responses" | "allow_responses" => {
                permissions.allow_responses = read_allow_responses(reader, value);
            }
            _ => {
                if !value.used_as_variable.get() {
                    let reason = format!("Unknown field {} parsing permissions", quoted(&name));
                    reader.error(value, reason);
                }
            }
        }
    }
    if permissions.allow_responses.is_some() {
        // Without a publish list of its own, such a user may publish responses and nothing else.
        let publish = permissions.publish.get_or_insert_default();
        publish.allow.get_or_insert_default();
    }
    Some(permissions)
}

fn read_allow_responses(
    reader: &mut Reader<'_>,
    value: &Value,
) -> Option<ResponsePermissionOptions> {
    let mut responses = ResponsePermissionOptions::default();
    if let Data::Toggle(on) = *value.data {
        return on.then_some(responses);
    }
    let Some(map) = value.as_map() else {
        let reason = "error parsing response permissions, expected a boolean or a map";
        reader.error(value, reason);
        return None;
    };
    for (name, value) in map.entries() {
        match name.to_ascii_lowercase().as_str() {
            "max" | "max_msgs" | "max_messages" | "max_responses" => {
                match reader.integer(value)? {
                    0 => {}
                    number if number < 0 => responses.messages_max = None,
                    number => {
                        responses.messages_max = Some(u32::try_from(number).unwrap_or(u32::MAX));
                    }
                }
            }
            "expires" | "expiration" | "ttl" => {
                let Some(text) = value.as_text() else {
                    reader.error(value, "error parsing expires, not a duration string");
                    return None;
                };
                match parse_duration(&text) {
                    Err(reason) => {
                        reader.error(value, format!("error parsing expires: {reason}"));
                        return None;
                    }
                    Ok(SignedDuration(0)) => {}
                    Ok(duration) => responses.expires = duration.to_duration(),
                }
            }
            _ => {
                if !value.used_as_variable.get() {
                    let reason = format!("Unknown field {} parsing permissions", quoted(&name));
                    reader.error(value, reason);
                }
            }
        }
    }
    Some(responses)
}

/// Reads one subject or a list of subjects (both mean allow), or `allow` and `deny` lists.
fn read_subject_permission(
    reader: &mut Reader<'_>,
    value: &Value,
    queues_allowed: bool,
) -> Option<SubjectPermissionOptions> {
    let Some(map) = value.as_map() else {
        let allow = read_subjects(reader, value, queues_allowed)?;
        return Some(SubjectPermissionOptions { allow: not_empty(allow), deny: None });
    };
    if map.is_empty() {
        return None;
    }
    let mut permission = SubjectPermissionOptions::default();
    for (name, value) in map.entries() {
        match name.to_ascii_lowercase().as_str() {
            "allow" => {
                permission.allow = read_subjects(reader, value, queues_allowed).and_then(not_empty);
            }
            "deny" => {
                permission.deny = read_subjects(reader, value, queues_allowed).and_then(not_empty);
            }
            _ => {
                if !value.used_as_variable.get() {
                    reader.error(
                        value,
                        format!(
                            "Unknown field name {} parsing subject permissions, \
                             only 'allow' or 'deny' are permitted",
                            quoted(&name)
                        ),
                    );
                }
            }
        }
    }
    Some(permission)
}

fn not_empty(subjects: Vec<String>) -> Option<Vec<String>> {
    Some(subjects).filter(|subjects| !subjects.is_empty())
}

fn read_subjects(
    reader: &mut Reader<'_>,
    value: &Value,
    queues_allowed: bool,
) -> Option<Vec<String>> {
    let values = match &*value.data {
        Data::Text(_) => std::slice::from_ref(value),
        Data::List(values) => values,
        _ => {
            let found = value.type_name();
            let reason = format!(
                "Expected subject permissions to be a subject, or array of subjects, got {found}"
            );
            reader.error(value, reason);
            return None;
        }
    };
    let mut subjects = Vec::with_capacity(values.len());
    for entry in values {
        let Some(subject) = entry.as_text() else {
            reader.error(entry, "Subject in permissions array cannot be cast to string");
            return None;
        };
        if let Err(reason) = check_permission_subject(&subject, queues_allowed) {
            reader.error(value, reason);
            return None;
        }
        subjects.push(subject);
    }
    Some(subjects)
}

fn check_permission_subject(text: &str, queues_allowed: bool) -> Result<(), String> {
    let is_valid = |text: &str| subject::is_valid_filter(text.as_bytes());
    if is_valid(text) {
        return Ok(());
    }
    let parts: Vec<&str> = text.split_whitespace().collect();
    match parts[..] {
        [subject, queue] if queues_allowed => {
            if !is_valid(subject) {
                Err(format!("subject {} is not a valid subject", quoted(subject)))
            } else if !is_valid(queue) {
                Err(format!("queue {} is not a valid queue", quoted(queue)))
            } else {
                Ok(())
            }
        }
        _ => Err(format!("subject {} is not a valid subject", quoted(text))),
    }
}
