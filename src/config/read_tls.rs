//! Reads the `tls` block. Names are checked here; certificates are read by `net`.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::auth_options::Place;
use crate::config::feature::Feature;
use crate::config::go_text::{parse_duration, quoted};
use crate::config::read_auth::seconds_to_duration;
use crate::config::reader::Reader;
use crate::config::surroundings::file_error_text;
use crate::config::tls_options::{
    CertificateOptions, HandshakeFirst, TlsOptions, TlsVersion, Verify,
};
use crate::config::value::{Data, Value};

/// The third value of `verify` beside true and false, in any case.
pub(crate) const OPTIONAL: &str = "optional";

/// Time that `handshake_first: auto` gives the client to begin.
const HANDSHAKE_FALLBACK: Duration = Duration::from_millis(50);

pub(crate) const CIPHER_SUITES: [&str; 9] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];

/// The rest of nats-server's secure list; rustls has no CBC suites, so `net::tls_config` refuses
/// them by name.
pub(crate) const CIPHER_SUITES_CBC: [&str; 4] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
];

/// Suites known to be weak; rustls has none of them.
pub(crate) const CIPHER_SUITES_INSECURE: [&str; 12] = [
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

pub(crate) const CURVES: [&str; 3] = ["X25519", "CurveP256", "CurveP384"];

/// The rest of nats-server's curves; `net::tls_config` refuses them by name.
pub(crate) const CURVES_REFUSED: [&str; 2] = ["X25519MLKEM768", "CurveP521"];

/// Reads the block. The first problem, such as an unknown name or a missing file, ends it, as in
/// nats-server.
pub(crate) fn read_tls(reader: &mut Reader<'_>, value: &Value) {
    if let Some(tls) = tls_of_block(reader, value) {
        reader.options.tls = Some(tls);
    }
}

/// Reads a block of whichever listener; None, with an error noted, if it cannot be used.
pub(super) fn tls_of_block(reader: &mut Reader<'_>, value: &Value) -> Option<TlsOptions> {
    let mut tls = TlsOptions { place: Place(value.place()), ..TlsOptions::default() };
    let errors_before = reader.errors.len();
    read_block(reader, value, &mut tls)?;
    if reader.errors.len() > errors_before {
        return None;
    }
    check(reader, &tls).map_err(|reason| reader.error(value, reason)).ok()?;
    Some(tls)
}

fn read_block(reader: &mut Reader<'_>, block: &Value, tls: &mut TlsOptions) -> Option<()> {
    let map = reader.map(block)?;
    let mut several = Vec::new();
    let mut verify = Verify::Never;
    for (name, value) in map.entries() {
        let key = name.to_ascii_lowercase();
        match key.as_str() {
            "cert_file" => set_certificate_file(tls, &file_name(reader, value, &key)?),
            "key_file" => set_key_file(tls, &file_name(reader, value, &key)?),
            "ca_file" => {
                let file = file_name(reader, value, &key)?;
                tls.certificate_authorities_file =
                    Some(PathBuf::from(file)).filter(|file| !file.as_os_str().is_empty());
            }
            "insecure" => tls.insecure = switch(reader, value, &key)?,
            "verify" => verify = read_verify(reader, value)?,
            "verify_and_map" => tls.verify_and_map = switch(reader, value, &key)?,
            "verify_cert_and_check_known_urls" => {
                if switch(reader, value, &key)? {
                    let reason = "verify_cert_and_check_known_urls not supported in this context";
                    reader.error(value, reason);
                    return None;
                }
            }
            "allow_insecure_cipher_suites" => {
                tls.allow_insecure_cipher_suites = switch(reader, value, &key)?;
            }
            "cipher_suites" => tls.cipher_suites = cipher_suites(reader, value)?,
            "curve_preferences" => tls.curve_preferences = curves(reader, value)?,
            "timeout" => tls.timeout = timeout(reader, value)?,
            "connection_rate_limit" => tls.connection_rate_max = rate(reader, value)?,
            "pinned_certs" => tls.pinned_certificates = pinned(reader, value)?,
            "handshake_first" | "first" | "immediate" => {
                tls.handshake_first = handshake_first(reader, value, &name)?;
            }
            "certs" | "certificates" => several = certificates(reader, value)?,
            "min_version" => tls.version_min = version(reader, value)?,
            "ocsp_peer" => refuse_ocsp(reader, value),
            "cert_store"
            | "cert_match_by"
            | "cert_match"
            | "ca_certs_match"
            | "cert_match_skip_invalid" => {
                reader.error(value, "certificate stores exist on Windows only");
                return None;
            }
            _ => {
                let reason = format!("error parsing tls config, unknown field {}", quoted(&name));
                reader.error(value, reason);
                return None;
            }
        }
    }
    if !several.is_empty() {
        if tls.certificates.iter().any(|one| !one.certificate_file.as_os_str().is_empty()) {
            let reason =
                "error parsing tls config, cannot combine 'cert_file' option with 'certs' option";
            reader.error(block, reason);
            return None;
        }
        tls.certificates = several;
    }
    if tls.verify_and_map && verify == Verify::Optional {
        let reason = "error parsing tls config, cannot combine 'verify: optional' with options \
                      requiring client certificates";
        reader.error(block, reason);
        return None;
    }
    tls.verify = if tls.verify_and_map { Verify::Required } else { verify };
    Some(())
}

pub(crate) fn set_certificate_file(tls: &mut TlsOptions, file: &str) {
    first_certificate(tls).certificate_file = PathBuf::from(file);
}

pub(crate) fn set_key_file(tls: &mut TlsOptions, file: &str) {
    first_certificate(tls).key_file = PathBuf::from(file);
}

/// Returns the first certificate, which is that of `cert_file` and `key_file`.
fn first_certificate(tls: &mut TlsOptions) -> &mut CertificateOptions {
    if tls.certificates.is_empty() {
        tls.certificates.push(CertificateOptions::default());
    }
    &mut tls.certificates[0]
}

/// Makes the checks of the block that need no TLS library.
fn check(reader: &Reader<'_>, tls: &TlsOptions) -> Result<(), String> {
    let insecure: Vec<&str> = tls
        .cipher_suites
        .iter()
        .map(String::as_str)
        .filter(|name| CIPHER_SUITES_INSECURE.contains(name))
        .collect();
    if !tls.allow_insecure_cipher_suites && !insecure.is_empty() {
        return Err(format!(
            "insecure cipher suites configured without 'allow_insecure_cipher_suites' option set: {}",
            insecure.join(", ")
        ));
    }
    let readable = |path: &PathBuf| {
        reader.surroundings.read_file(path).map(drop).map_err(|error| file_error_text(path, &error))
    };
    for certificate in &tls.certificates {
        if certificate.key_file.as_os_str().is_empty() {
            return Err("missing 'key_file' in TLS configuration".into());
        }
        if certificate.certificate_file.as_os_str().is_empty() {
            return Err("missing 'cert_file' in TLS configuration".into());
        }
        for file in [&certificate.certificate_file, &certificate.key_file] {
            readable(file)
                .map_err(|reason| format!("error parsing X509 certificate/key pair: {reason}"))?;
        }
    }
    if let Some(file) = &tls.certificate_authorities_file {
        readable(file)?;
    }
    Ok(())
}

fn file_name(reader: &mut Reader<'_>, value: &Value, key: &str) -> Option<String> {
    if value.as_text().is_none() {
        let reason = format!("error parsing tls config, expected '{key}' to be filename");
        reader.error(value, reason);
    }
    value.as_text()
}

fn switch(reader: &mut Reader<'_>, value: &Value, key: &str) -> Option<bool> {
    match *value.data {
        Data::Toggle(on) => Some(on),
        _ => {
            let reason = format!("error parsing tls config, expected '{key}' to be a boolean");
            reader.error(value, reason);
            None
        }
    }
}

fn read_verify(reader: &mut Reader<'_>, value: &Value) -> Option<Verify> {
    match &*value.data {
        Data::Toggle(true) => return Some(Verify::Required),
        Data::Toggle(false) => return Some(Verify::Never),
        Data::Text(_) if reader.text(value)?.eq_ignore_ascii_case(OPTIONAL) => {
            return Some(Verify::Optional);
        }
        _ => {}
    }
    let reason = "error parsing tls config, expected 'verify' to be a boolean or 'optional'";
    reader.error(value, reason);
    None
}

/// Reads a non-empty list of names that `is_known` accepts.
fn names(
    reader: &mut Reader<'_>,
    value: &Value,
    key: &str,
    unknown: &str,
    is_known: impl Fn(&str) -> bool,
) -> Option<Vec<String>> {
    let Some(list) = value.as_list() else {
        let found = value.type_name();
        reader.error(
            value,
            format!("interface conversion: interface {{}} is {found}, not []interface {{}}"),
        );
        return None;
    };
    if list.is_empty() {
        reader.error(value, format!("error parsing tls config, '{key}' cannot be empty"));
        return None;
    }
    let mut names = Vec::with_capacity(list.len());
    for entry in list {
        let name = reader.text(entry)?;
        if !is_known(&name) {
            reader.error(entry, format!("unrecognized {unknown} {name}"));
            return None;
        }
        names.push(name);
    }
    Some(names)
}

fn cipher_suites(reader: &mut Reader<'_>, value: &Value) -> Option<Vec<String>> {
    names(reader, value, "cipher_suites", "cipher", |name| {
        [&CIPHER_SUITES[..], &CIPHER_SUITES_CBC, &CIPHER_SUITES_INSECURE]
            .iter()
            .any(|list| list.contains(&name))
    })
}

fn curves(reader: &mut Reader<'_>, value: &Value) -> Option<Vec<String>> {
    names(reader, value, "curve_preferences", "curve preference", |name| {
        CURVES.contains(&name) || CURVES_REFUSED.contains(&name)
    })
}

/// Reads a timeout. The outer None is an error, the inner one means "not given".
fn timeout(reader: &mut Reader<'_>, value: &Value) -> Option<Option<Duration>> {
    let seconds = match &*value.data {
        Data::Integer(seconds) => *seconds as f64,
        Data::Float(seconds) => *seconds,
        Data::Text(_) => match parse_duration(&reader.text(value)?) {
            Ok(duration) => duration.0 as f64 / 1e9,
            Err(reason) => {
                let reason = format!("error parsing tls config, 'timeout' {reason}");
                reader.error(value, reason);
                return None;
            }
        },
        _ => {
            reader.error(value, "error parsing tls config, 'timeout' wrong type");
            return None;
        }
    };
    Some(seconds_to_duration(reader, value, seconds))
}

fn rate(reader: &mut Reader<'_>, value: &Value) -> Option<u32> {
    match *value.data {
        Data::Integer(number) => Some(u32::try_from(number.max(0)).unwrap_or(u32::MAX)),
        _ => {
            reader.error(value, "error parsing tls config, 'connection_rate_limit' wrong type");
            None
        }
    }
}

fn pinned(reader: &mut Reader<'_>, value: &Value) -> Option<std::collections::BTreeSet<String>> {
    let Some(list) = value.as_list() else {
        reader.error(
            value,
            "error parsing tls config, expected 'pinned_certs' to be a list of hex-encoded sha256 \
             of DER encoded SubjectPublicKeyInfo",
        );
        return None;
    };
    let mut pinned = std::collections::BTreeSet::new();
    for entry in list {
        let text = reader.text(entry)?.to_lowercase();
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            reader.error(
                entry,
                format!(
                    "error parsing tls config, 'pinned_certs' key {text} does not look like \
                     hex-encoded sha256 of DER encoded SubjectPublicKeyInfo"
                ),
            );
            return None;
        }
        pinned.insert(text);
    }
    Some(pinned)
}

fn handshake_first(reader: &mut Reader<'_>, value: &Value, name: &str) -> Option<HandshakeFirst> {
    let text = match &*value.data {
        Data::Toggle(true) => return Some(HandshakeFirst::Always),
        Data::Toggle(false) => return Some(HandshakeFirst::Never),
        Data::Text(_) => reader.text(value)?,
        _ => {
            let found = value.type_name();
            let name = quoted(name);
            let reason = format!("field {name} should be a boolean or a string, got {found}");
            reader.error(value, reason);
            return None;
        }
    };
    match text.to_lowercase().as_str() {
        "true" | "on" => Some(HandshakeFirst::Always),
        "false" | "off" => Some(HandshakeFirst::Never),
        "auto" | "auto_fallback" => Some(HandshakeFirst::Fallback(HANDSHAKE_FALLBACK)),
        _ => match parse_duration(&text).ok().map(|duration| duration.to_duration()) {
            Some(Some(wait)) if !wait.is_zero() => Some(HandshakeFirst::Fallback(wait)),
            // Zero and below: nats-server waits without end.
            Some(_) => Some(HandshakeFirst::Always),
            None => {
                let (name, text) = (quoted(name), quoted(&text));
                reader.error(value, format!("field {name}'s value {text} is invalid"));
                None
            }
        },
    }
}

fn certificates(reader: &mut Reader<'_>, value: &Value) -> Option<Vec<CertificateOptions>> {
    let unsupported = |reader: &mut Reader<'_>, value: &Value| {
        let found = value.type_name();
        let reason = format!("error parsing certificates config: unsupported type {found}");
        reader.error(value, reason);
    };
    let Some(list) = value.as_list() else {
        unsupported(reader, value);
        return None;
    };
    let mut certificates = Vec::with_capacity(list.len());
    for entry in list {
        let Some(map) = entry.as_map() else {
            unsupported(reader, entry);
            return None;
        };
        let mut certificate = CertificateOptions::default();
        for (name, value) in map.entries() {
            let Some(file) = value.as_text() else {
                unsupported(reader, value);
                return None;
            };
            match name.as_str() {
                "cert_file" => certificate.certificate_file = PathBuf::from(file),
                "key_file" => certificate.key_file = PathBuf::from(file),
                _ => {
                    let name = quoted(&name);
                    let reason = format!("error parsing tls certs config, unknown field {name}");
                    reader.error(value, reason);
                    return None;
                }
            }
        }
        let files = [&certificate.certificate_file, &certificate.key_file];
        if files.iter().any(|file| file.as_os_str().is_empty()) {
            reader.error(
                entry,
                "error parsing certificates config: both 'cert_file' and 'cert_key' options are required",
            );
            return None;
        }
        certificates.push(certificate);
    }
    Some(certificates)
}

fn version(reader: &mut Reader<'_>, value: &Value) -> Option<TlsVersion> {
    let text = value.as_text();
    let reason = match text.as_deref() {
        Some("1.2") => return Some(TlsVersion::V1_2),
        Some("1.3") => return Some(TlsVersion::V1_3),
        Some(old @ ("1.0" | "1.1")) => {
            format!("error parsing tls config: unsupported TLS version: TLS {old}")
        }
        Some(other) => format!("error parsing tls config: unknown version: {other}"),
        None => "error parsing tls config: 'min_version' wrong type, write it in quotes".into(),
    };
    reader.error(value, reason);
    None
}

fn refuse_ocsp(reader: &mut Reader<'_>, value: &Value) {
    if !matches!(*value.data, Data::Toggle(false)) {
        reader.refuse_later(value, Feature::OcspPeers);
    }
}
