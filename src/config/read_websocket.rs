//! Reads the `websocket` block, and checks it against the other options.

use std::time::Duration;

use crate::config::advertise::Advertised;
use crate::config::auth_options::Secret;
use crate::config::go_text::{SignedDuration, parse_duration, quoted};
use crate::config::options::Options;
use crate::config::origin::Origin;
use crate::config::read_auth::seconds_to_duration;
use crate::config::read_tls;
use crate::config::reader::Reader;
use crate::config::value::{Data, Value};
use crate::config::websocket_options::WebSocketOptions;

/// Reads the block. Source of what is refused: nats-server server/opts.go parseWebsocket.
pub(super) fn read_websocket(reader: &mut Reader<'_>, block: &Value) {
    let Some(map) = block.as_map() else {
        let found = block.type_name();
        return reader.error(block, format!("Expected websocket to be a map, got {found}"));
    };
    let mut own = WebSocketOptions::default();
    for (name, value) in map.entries() {
        let key = name.to_ascii_lowercase();
        match key.as_str() {
            "listen" => {
                if let Some((host, port)) = reader.address(value) {
                    own.host = host.filter(|host| !host.is_empty());
                    own.port = port_of(port);
                }
            }
            "port" => {
                if let Some(port) = reader.port(value) {
                    own.port = port_of(port);
                }
            }
            "host" | "net" => own.host = not_empty(reader.text(value)),
            "advertise" => {
                if let Some(text) = reader.text(value) {
                    match Advertised::parse(&text) {
                        Ok(advertised) => own.advertise = advertised,
                        Err(reason) => reader.error(value, reason),
                    }
                }
            }
            "no_tls" => own.no_tls = reader.toggle(value).unwrap_or_default(),
            "tls" => own.tls = read_tls::tls_of_block(reader, value),
            "same_origin" => own.same_origin = reader.toggle(value).unwrap_or_default(),
            "allowed_origins" | "allowed_origin" | "allow_origins" | "allow_origin" | "origins"
            | "origin" => own.allowed_origins = read_origins(reader, value),
            "handshake_timeout" => own.handshake_timeout = handshake_timeout(reader, value),
            "compress" | "compression" => {
                own.compression = reader.toggle(value).unwrap_or_default();
            }
            "authorization" | "authentication" => read_login(reader, value, &mut own),
            "jwt_cookie" => own.jwt_cookie = not_empty(reader.text(value)),
            "user_cookie" => own.user_cookie = not_empty(reader.text(value)),
            "pass_cookie" => own.pass_cookie = not_empty(reader.text(value)),
            "token_cookie" => own.token_cookie = not_empty(reader.text(value)),
            "no_auth_user" => own.no_auth_user = not_empty(reader.text(value)),
            "headers" => own.headers = read_headers(reader, value),
            "ping_interval" => {
                let interval = reader.duration("ping_interval", value, true);
                own.ping_interval = interval.and_then(SignedDuration::to_duration);
                own.ping_interval = own.ping_interval.filter(|interval| !interval.is_zero());
            }
            _ => reader.unknown_field(value, &name),
        }
    }
    reader.options.websocket = own;
}

fn not_empty(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// 0 means "no listener", -1 any free port.
fn port_of(port: i64) -> Option<u16> {
    match port {
        0 => None,
        _ => Some(u16::try_from(port).unwrap_or(0)),
    }
}

fn read_origins(reader: &mut Reader<'_>, value: &Value) -> Vec<String> {
    let values = match &*value.data {
        Data::Text(_) => std::slice::from_ref(value),
        Data::List(values) => values,
        _ => {
            let found = value.type_name();
            let reason = format!("error parsing allowed origins: unsupported type {found}");
            reader.error(value, reason);
            return Vec::new();
        }
    };
    let mut origins = Vec::with_capacity(values.len());
    for entry in values {
        match entry.as_text() {
            Some(origin) => origins.push(origin),
            None => {
                let found = entry.type_name();
                let reason =
                    format!("error parsing allowed origins: unsupported type in array {found}");
                reader.error(entry, reason);
            }
        }
    }
    origins
}

/// Reads a number of seconds or a duration; zero and below mean "none".
fn handshake_timeout(reader: &mut Reader<'_>, value: &Value) -> Option<Duration> {
    let timeout = match &*value.data {
        Data::Integer(seconds) => SignedDuration(seconds.saturating_mul(1_000_000_000)),
        Data::Text(_) => match parse_duration(&reader.text(value)?) {
            Ok(duration) => duration,
            Err(reason) => {
                reader.error(value, reason);
                return None;
            }
        },
        _ => {
            let found = value.type_name();
            let reason = format!("error parsing handshake timeout: unsupported type {found}");
            reader.error(value, reason);
            return None;
        }
    };
    timeout.to_duration().filter(|timeout| !timeout.is_zero())
}

/// Reads the block's own `authorization`. Source: nats-server server/opts.go parseSimpleAuth.
fn read_login(reader: &mut Reader<'_>, block: &Value, own: &mut WebSocketOptions) {
    let Some(map) = reader.map(block) else { return };
    for (name, value) in map.entries() {
        match name.to_ascii_lowercase().as_str() {
            "user" | "username" => own.user = not_empty(reader.text(value)),
            "pass" | "password" => own.password = not_empty(reader.text(value)).map(Secret::new),
            "token" => own.token = not_empty(reader.text(value)).map(Secret::new),
            "timeout" => {
                let seconds = match *value.data {
                    Data::Integer(seconds) => seconds as f64,
                    Data::Float(seconds) => seconds,
                    // nats-server takes anything else for one second.
                    _ => 1.0,
                };
                own.auth_timeout = seconds_to_duration(reader, value, seconds);
            }
            _ => reader.unknown_field(value, &name),
        }
    }
}

fn read_headers(reader: &mut Reader<'_>, block: &Value) -> Vec<(String, String)> {
    let Some(map) = block.as_map() else {
        let found = block.type_name();
        reader.error(block, format!("error parsing headers: unsupported type {found}"));
        return Vec::new();
    };
    let mut headers = Vec::new();
    for (name, value) in map.entries() {
        match value.as_text() {
            Some(text) => headers.push((name, text)),
            None => {
                let found = value.type_name();
                let reason = format!("error parsing header key {name}: unsupported type {found}");
                reader.error(value, reason);
            }
        }
    }
    headers
}

/// Finds what contradicts the rest of the options. Source: nats-server server/websocket.go
/// validateWebsocketOptions.
///
/// # Errors
/// nats-server's text for the first contradiction.
pub(super) fn validate(
    options: &Options,
    validate_no_auth_user: impl Fn(&str) -> Result<(), String>,
) -> Result<(), String> {
    let own = &options.websocket;
    if own.port.is_none() {
        return Ok(());
    }
    if own.tls.is_none() && !own.no_tls {
        return Err("websocket requires TLS configuration".into());
    }
    own.allowed_origins.iter().try_for_each(|origin| Origin::parse_allowed(origin).map(drop))?;
    if let Some(name) = &own.no_auth_user {
        validate_no_auth_user(name)?;
    }
    if !options.auth.users.is_empty() || !options.auth.nkeys.is_empty() {
        let conflict = "not compatible with presence of users/nkeys";
        if own.user.is_some() {
            return Err(format!("websocket authentication username {conflict}"));
        }
        if own.token.is_some() {
            return Err(format!("websocket authentication token {conflict}"));
        }
    }
    if let Some(cookie) = &own.jwt_cookie
        && !options.auth.operator.is_on()
    {
        return Err(format!(
            "trusted operators or trusted keys configuration is required for JWT authentication \
             via cookie {}",
            quoted(cookie)
        ));
    }
    own.headers.iter().try_for_each(|(name, value)| check_header(name, value))
}

fn check_header(name: &str, value: &str) -> Result<(), String> {
    let lower = name.to_lowercase();
    let shown = quoted(name);
    if ["host", "content-length", "connection", "upgrade", "nats-no-masking"]
        .contains(&lower.as_str())
    {
        return Err(format!("websocket: invalid header {shown} not allowed"));
    }
    if lower.starts_with("sec-websocket-") {
        return Err(format!(
            "websocket: invalid header {shown}, \"Sec-WebSocket-\" prefix not allowed"
        ));
    }
    // nats-server writes such a header, and the answer to every upgrade is then malformed.
    let is_token = |byte: u8| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(format!("websocket: invalid header {shown}, not a name of a header"));
    }
    if value.bytes().any(|byte| byte < b' ' && byte != b'\t' || byte == 0x7f) {
        return Err(format!("websocket: invalid header {shown}, control character in its value"));
    }
    Ok(())
}
