//! The upgrade of an HTTP request to WebSocket: who may, and what both sides agree on.
//!
//! Source of the checks, of their order and of their words: nats-server server/websocket.go
//! wsUpgrade.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::base::limits::{UPGRADE_HEAD_BYTES_MAX, UPGRADE_HEADERS_MAX, UPGRADE_WAIT_MAX};
use crate::base::time_text::http_date;
use crate::config::origin::{Origin, host_and_port};
use crate::config::websocket_options::WebSocketOptions;
use crate::net::frames::{FrameSettings, Upgrade};
use crate::net::tls_config::TlsServer;
use crate::protocol::http::{Head, HeadError, HeadLimits};

/// Source: RFC 6455, 1.3.
const ACCEPT_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Bytes of a frame for a browser. Source: nats-server wsFrameSizeForBrowsers.
const BROWSER_FRAME_BYTES: usize = 4096;

pub(crate) const HEAD_LIMITS: HeadLimits =
    HeadLimits { bytes_max: UPGRADE_HEAD_BYTES_MAX, headers_max: UPGRADE_HEADERS_MAX };

/// A listener for WebSocket clients, as one configuration has it.
pub struct WebSocketServer {
    /// None = plain.
    pub tls: Option<Arc<TlsServer>>,
    /// The host that INFO names.
    pub host: String,
    /// The port that INFO names.
    pub port: u16,
    /// Time for the upgrade.
    pub upgrade_wait: Duration,
    same_origin: bool,
    /// Empty = all.
    allowed_origins: Vec<Origin>,
    deflates: bool,
    /// Lines of the answer to an upgrade.
    headers: String,
    cookies: Cookies<Option<String>>,
}

/// One value for each cookie that stands in for a part of CONNECT.
/// Without `Debug`: values are secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Cookies<T> {
    pub jwt: T,
    pub user: T,
    pub pass: T,
    pub token: T,
}

/// What an upgrade told about a peer.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Introduction {
    /// The address that a proxy names, for log lines.
    pub forwarded_for: Option<String>,
    /// Empty ones are absent, or have no meaning here.
    pub cookies: Cookies<String>,
}

/// Why a request is not upgraded. The reason is for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    status: u16,
    /// What the answer says; None = the words of its status.
    body: Option<&'static str>,
    pub reason: String,
}

impl Refused {
    fn new(status: u16, reason: impl Into<String>) -> Self {
        Self { status, body: None, reason: reason.into() }
    }

    /// Returns the answer, after which the connection closes.
    pub(crate) fn answer(&self) -> Vec<u8> {
        let words = match self.status {
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            431 => "Request Header Fields Too Large",
            _ => "Bad Request",
        };
        let body = self.body.unwrap_or(words);
        let status = self.status;
        let (date, size) = (http_date(SystemTime::now()), body.len() + 1);
        format!(
            "HTTP/1.1 {status} {words}\r\n\
             Content-Type: text/plain; charset=utf-8\r\n\
             Sec-Websocket-Version: 13\r\n\
             X-Content-Type-Options: nosniff\r\n\
             Connection: close\r\n\
             Date: {date}\r\n\
             Content-Length: {size}\r\n\r\n{body}\n"
        )
        .into_bytes()
    }
}

impl From<HeadError> for Refused {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Malformed => Self::new(400, "malformed HTTP request"),
            HeadError::TooLarge => Self::new(431, "header fields too large"),
        }
    }
}

impl WebSocketServer {
    /// Prepares a listener.
    ///
    /// # Errors
    /// If an allowed origin cannot be used.
    pub fn new(
        options: &WebSocketOptions,
        tls: Option<Arc<TlsServer>>,
        port: u16,
    ) -> Result<Self, String> {
        let origins = options.allowed_origins.iter().map(|one| Origin::parse_allowed(one));
        let headers = options.headers.iter();
        Ok(Self {
            tls,
            host: options.shown_host().to_owned(),
            port,
            upgrade_wait: options.handshake_timeout.unwrap_or(UPGRADE_WAIT_MAX),
            same_origin: options.same_origin,
            allowed_origins: origins.collect::<Result<_, _>>()?,
            deflates: options.compression,
            headers: headers.map(|(name, value)| format!("{name}: {value}\r\n")).collect(),
            cookies: Cookies {
                jwt: options.jwt_cookie.clone(),
                user: options.user_cookie.clone(),
                pass: options.pass_cookie.clone(),
                token: options.token_cookie.clone(),
            },
        })
    }

    /// Judges a request; `follows` is true if more than its head has come.
    ///
    /// # Errors
    /// If it is not upgraded.
    pub(crate) fn judge(
        &self,
        head: &Head,
        follows: bool,
    ) -> Result<(Upgrade, Introduction), Refused> {
        let bad = |reason: &str| Refused::new(400, reason);
        if head.is_modern && head.all("host").next().is_none() {
            let body = Some("400 Bad Request: missing required Host header");
            return Err(Refused { body, ..bad("'Host' missing in request") });
        }
        let path = path_of(&head.target);
        if path.ends_with("/mqtt") {
            return Err(Refused::new(404, "mqtt websocket endpoint not enabled"));
        }
        if head.method != "GET" {
            return Err(Refused::new(405, "request method must be GET"));
        }
        let Some(host) = first(head, "host").filter(|host| !host.is_empty()) else {
            return Err(bad("'Host' missing in request"));
        };
        if !head.has_element("upgrade", "websocket") {
            return Err(bad("invalid value for header 'Upgrade'"));
        }
        if !head.has_element("connection", "upgrade") {
            return Err(bad("invalid value for header 'Connection'"));
        }
        let key = first(head, "sec-websocket-key").unwrap_or_default();
        if key.is_empty() {
            return Err(bad("key missing"));
        }
        let decoded = data_encoding::BASE64.decode(key.as_bytes());
        if !decoded.is_ok_and(|key| key.len() == 16) {
            return Err(bad("invalid websocket key"));
        }
        if !head.has_element("sec-websocket-version", "13") {
            return Err(bad("invalid version"));
        }
        self.check_origin(head, host)
            .map_err(|reason| Refused::new(403, format!("origin not allowed: {reason}")))?;
        // nats-server upgrades, and closes without a word.
        if path.ends_with("/leafnode") {
            return Err(Refused::new(404, "Not configured to accept leaf node connections"));
        }
        if follows {
            return Err(bad("client sent data before handshake is complete"));
        }
        let deflates = self.deflates && offers_deflate(head);
        let no_mask = first(head, "nats-no-masking") == Some("true");
        let agent = first(head, "user-agent").unwrap_or_default();
        let is_browser = agent.starts_with("Mozilla/");
        let is_safari = agent.contains("Version/") && agent.contains("Safari/");
        let settings = FrameSettings {
            needs_mask: !no_mask,
            deflates,
            frame_bytes_max: is_browser.then_some(BROWSER_FRAME_BYTES),
            splits_deflated: !is_safari,
        };
        let mut answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\n\
             Upgrade: websocket\r\n\
             Connection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n",
            accept(key)
        );
        if deflates {
            answer.push_str(
                "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; \
                 client_no_context_takeover\r\n",
            );
        }
        if no_mask {
            answer.push_str("Nats-No-Masking: true\r\n");
        }
        answer.push_str(&self.headers);
        answer.push_str("\r\n");
        let introduction =
            Introduction { forwarded_for: forwarded_for(head), cookies: self.cookies_of(head) };
        Ok((Upgrade { answer: answer.into_bytes(), settings }, introduction))
    }

    /// A request without an origin comes from no page. Source: nats-server checkOrigin.
    fn check_origin(&self, head: &Head, host: &str) -> Result<(), String> {
        if !self.same_origin && self.allowed_origins.is_empty() {
            return Ok(());
        }
        let named = ["origin", "sec-websocket-origin"].into_iter();
        let mut named = named.filter_map(|name| first(head, name)).filter(|it| !it.is_empty());
        let Some(text) = named.next() else { return Ok(()) };
        let origin = Origin::parse(text)?;
        if self.same_origin {
            let is_tls = self.tls.is_some();
            let (host, port) = host_and_port(is_tls, host)?;
            let scheme = if is_tls { "https" } else { "http" };
            if (origin.host, origin.port, origin.scheme.as_str()) != (host, port, scheme) {
                return Err("not same origin".into());
            }
        }
        let origin = Origin::parse(text)?;
        if !self.allowed_origins.is_empty() && !self.allowed_origins.contains(&origin) {
            return Err("not in the allowed list".into());
        }
        Ok(())
    }

    fn cookies_of(&self, head: &Head) -> Cookies<String> {
        let mut found = Cookies::default();
        let wanted = [
            (&self.cookies.jwt, &mut found.jwt),
            (&self.cookies.user, &mut found.user),
            (&self.cookies.pass, &mut found.pass),
            (&self.cookies.token, &mut found.token),
        ];
        let mut wanted: Vec<_> =
            wanted.into_iter().filter_map(|(name, slot)| Some((name.as_deref()?, slot))).collect();
        if wanted.is_empty() {
            return found;
        }
        for line in head.all("cookie") {
            for pair in line.split(|byte| *byte == b';') {
                let Some((name, value)) = cookie(pair.trim_ascii()) else { continue };
                if let Some((_, slot)) = wanted.iter_mut().find(|(wanted, _)| *wanted == name) {
                    **slot = value.to_owned();
                }
            }
        }
        found
    }
}

/// Returns the value of the first header of that name; a value that is no text counts as empty.
fn first<'a>(head: &'a Head, name: &'a str) -> Option<&'a str> {
    let value = head.all(name).next()?;
    Some(std::str::from_utf8(value).unwrap_or_default())
}

/// Returns the path of a target, which may be a whole URL.
fn path_of(target: &str) -> &str {
    let rest = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => {
            rest.find('/').map_or("", |slash| &rest[slash..])
        }
        _ => target,
    };
    rest.split(['?', '#']).next().unwrap_or_default()
}

fn offers_deflate(head: &Head) -> bool {
    head.elements("sec-websocket-extensions").any(|extension| {
        let mut parameters = extension.split(|byte| *byte == b';');
        parameters.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"permessage-deflate"))
    })
}

fn forwarded_for(head: &Head) -> Option<String> {
    let text = first(head, "x-forwarded-for")?;
    text.parse::<IpAddr>().ok().map(|_| text.to_owned())
}

fn accept(key: &str) -> String {
    let joined = [key, ACCEPT_SUFFIX].concat();
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, joined.as_bytes());
    data_encoding::BASE64.encode(hash.as_ref())
}

/// Splits a cookie into name and value; None if it is malformed. Source: Go net/http readCookies.
fn cookie(pair: &[u8]) -> Option<(&str, &str)> {
    let (name, value) = std::str::from_utf8(pair).ok()?.split_once('=')?;
    let name = name.trim();
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    let is_value = |byte: u8| matches!(byte, b' '..=b'~') && !b"\";\\".contains(&byte);
    (!name.is_empty() && value.bytes().all(is_value)).then_some((name, value))
}

#[cfg(test)]
mod tests;
