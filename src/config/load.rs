//! Loads one configuration file as `Options`, and checks options against each other.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::config::go_text::{SignedDuration, format_duration};
use crate::config::options::{Options, PAYLOAD_BYTES_UNLIMITED};
use crate::config::parser;
use crate::config::read_websocket;
use crate::config::reader::Reader;
use crate::config::surroundings::Surroundings;
use crate::config::value::Map;

/// A loaded file, with remarks about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub options: Options,
    /// Refused by `-t`, printed at start.
    pub warnings: Vec<String>,
    /// Options of later features that `--allow-unsupported` made warnings.
    pub unsupported: Vec<String>,
}

/// Loads a file and everything it includes.
///
/// # Errors
/// Everything that is wrong with the file, one line each, in nats-server's words.
pub fn load_file(
    path: &Path,
    surroundings: &dyn Surroundings,
    allow_unsupported: bool,
) -> Result<Loaded, String> {
    let map = parser::parse_file(path, surroundings)?;
    let mut reader = Reader::new(surroundings, allow_unsupported);
    if map.is_empty() {
        reader.warnings.push(format!("{}: config has no values or is empty", path.display()));
    }
    reader.read_top(&map);
    let Reader { mut options, errors, warnings, unsupported, .. } = reader;
    if !errors.is_empty() {
        let lines = warnings.iter().chain(&errors);
        return Err(lines.map(|line| format!("{line}\n")).collect());
    }
    options.files.config = Some(path.to_path_buf());
    options.config_digest = digest(&map);
    Ok(Loaded { options, warnings, unsupported })
}

/// Returns the SHA-256 of the parsed file as JSON with sorted keys, the digest that nats-server
/// shows for the same file.
pub(crate) fn digest(map: &Map) -> String {
    let hash = Sha256::digest(map.to_json());
    hash.iter().fold(String::from("sha256:"), |text, byte| text + &format!("{byte:02x}"))
}

/// Finds contradictions that only show once file and flags are combined.
///
/// # Errors
/// nats-server's text for the first contradiction.
pub fn validate(options: &Options) -> Result<(), String> {
    let shown = |duration: std::time::Duration| {
        format_duration(SignedDuration(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)))
    };
    let lame_duck = &options.lame_duck;
    if lame_duck.grace_period >= lame_duck.duration {
        return Err(format!(
            "lame duck grace period ({}) should be strictly lower than lame duck duration ({})",
            shown(lame_duck.grace_period),
            shown(lame_duck.duration),
        ));
    }
    let limits = &options.limits;
    if limits.payload_bytes_max != PAYLOAD_BYTES_UNLIMITED
        && limits.payload_bytes_max > limits.pending_bytes_max
    {
        return Err(format!(
            "max_payload ({}) cannot be higher than max_pending ({})",
            limits.payload_bytes_max, limits.pending_bytes_max,
        ));
    }
    if options.server_name.as_ref().is_some_and(|name| name.contains(' ')) {
        return Err("server name cannot contain spaces".into());
    }
    if let Some(name) = &options.auth.no_auth_user {
        validate_no_auth_user(options, name)?;
    }
    validate_domain(options)?;
    if options.listen.unix.as_ref().is_some_and(|unix| unix.path.as_os_str().is_empty()) {
        return Err("unix_mode is given without a unix socket path".into());
    }
    if let (Some(count), Some(cores)) = (options.shards.count, &options.shards.cores)
        && cores.len() < count
    {
        return Err(format!("{count} shards need {count} cores, but cores names {}", cores.len()));
    }
    if let (Some(http), Some(https)) = (options.monitor.port, options.monitor.https_port) {
        return Err(format!("can't specify both HTTP ({http}) and HTTPs ({https}) ports"));
    }
    if options.monitor.https_port.is_some() && options.tls.is_none() {
        return Err("TLS cert and key required for HTTPS".into());
    }
    read_websocket::validate(options, |name| validate_no_auth_user(options, name))
}

/// Tokens that subjects of JetStream have where a domain stands in others.
const RESERVED_DOMAINS: [&str; 4] = ["ACK", "FC", "SNAPSHOT", "EVENT"];

fn validate_domain(options: &Options) -> Result<(), String> {
    let domain = options.jetstream.domain.as_deref().unwrap_or_default();
    if domain.contains(['.', '*', '>']) {
        return Err("invalid domain name: may not contain ., * or >".into());
    }
    if RESERVED_DOMAINS.contains(&domain) || domain.contains(char::is_whitespace) {
        return Err(format!("invalid domain name: {domain:?} is reserved or has blanks"));
    }
    Ok(())
}

fn validate_no_auth_user(options: &Options, name: &str) -> Result<(), String> {
    let auth = &options.auth;
    if auth.users.is_empty() && auth.nkeys.is_empty() {
        return Err(format!("no_auth_user: \"{name}\" present, but users/nkeys are not defined"));
    }
    let known = auth.users.iter().any(|user| user.user == name)
        || auth.nkeys.iter().any(|nkey| nkey.nkey == name);
    if known {
        return Ok(());
    }
    Err(format!(
        "no_auth_user: \"{name}\" not present as user or nkey in authorization block or account configuration"
    ))
}
