//! The origin of a page: scheme, host and port, as browsers send it and as options name it.

use crate::config::go_text::{SplitError, quoted, split_host_port};

/// One origin. A port that is left out is the scheme's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// In lower case.
    pub scheme: String,
    /// In lower case.
    pub host: String,
    pub port: String,
}

impl Origin {
    /// Parses the `Origin` of a request. Source: nats-server server/websocket.go checkOrigin.
    ///
    /// # Errors
    /// If it is no URL; in Go's words.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (scheme, authority) = split_url(text)?;
        let (host, port) = host_and_port(scheme == "https", authority)?;
        Ok(Self { scheme, host, port })
    }

    /// Parses an origin of the options.
    ///
    /// # Errors
    /// nats-server's text for one that cannot be used.
    pub(crate) fn parse_allowed(text: &str) -> Result<Self, String> {
        let unusable =
            |reason: &str| format!("unable to parse allowed origin {}: {reason}", quoted(text));
        let prefixed = |reason| format!("unable to parse allowed origin: {reason}");
        let (scheme, authority) = split_url(text).map_err(prefixed)?;
        if scheme != "http" && scheme != "https" {
            let reason = "allowed origins must be absolute URLs with http or https scheme";
            return Err(unusable(reason));
        }
        if authority.is_empty() {
            return Err(unusable("host is required"));
        }
        let (host, port) = host_and_port(scheme == "https", authority).map_err(prefixed)?;
        Ok(Self { scheme, host, port })
    }
}

/// Splits an absolute URL, or a path, into its scheme and its authority, either of which may be
/// empty.
fn split_url(text: &str) -> Result<(String, &str), String> {
    let refuse = |reason: &str| format!("parse {}: {reason}", quoted(text));
    if text.is_empty() {
        return Err(refuse("empty url"));
    }
    if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return Err(format!("parse {}: net/url: invalid control character in URL", quoted(text)));
    }
    let (scheme, rest) = match text.split_once(':') {
        Some((scheme, rest)) if is_scheme(scheme) => (scheme.to_ascii_lowercase(), rest),
        Some(("", _)) => return Err(refuse("missing protocol scheme")),
        _ => (String::new(), text),
    };
    if !rest.starts_with('/') && scheme.is_empty() {
        return Err(refuse("invalid URI for request"));
    }
    let Some(rest) = rest.strip_prefix("//").filter(|_| !scheme.is_empty()) else {
        return Ok((scheme, ""));
    };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    if host.contains([' ', '<', '>', '"', '\\', '^', '`', '{', '|', '}']) {
        return Err(refuse("invalid character in host name"));
    }
    Ok((scheme, host))
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// Splits a host and its port, or the port of the scheme. Source: nats-server server/websocket.go
/// wsGetHostAndPort.
///
/// # Errors
/// If it is no host with a port; in Go's words.
pub(crate) fn host_and_port(is_tls: bool, text: &str) -> Result<(String, String), String> {
    match split_host_port(text) {
        Ok((host, port)) => Ok((host.to_lowercase(), port.to_owned())),
        Err(SplitError::MissingPort) => {
            let port = if is_tls { "443" } else { "80" };
            Ok((text.to_lowercase(), port.to_owned()))
        }
        Err(error) => Err(format!("address {text}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_without_a_port_has_its_schemes() {
        for (text, scheme, host, port) in [
            ("http://Example.com", "http", "example.com", "80"),
            ("HTTPS://a.b", "https", "a.b", "443"),
            ("https://a.b:8443", "https", "a.b", "8443"),
            ("http://[::1]:5/x?y", "http", "::1", "5"),
            ("/path", "", "", "80"),
        ] {
            let origin = Origin::parse(text).unwrap_or_else(|reason| panic!("{text}: {reason}"));
            let parts = (origin.scheme.as_str(), origin.host.as_str(), origin.port.as_str());
            assert_eq!(parts, (scheme, host, port), "{text}");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused_in_gos_words() {
        for (text, reason) in [
            ("null", "parse \"null\": invalid URI for request"),
            ("", "parse \"\": empty url"),
            ("://x", "parse \"://x\": missing protocol scheme"),
        ] {
            assert_eq!(Origin::parse(text), Err(reason.to_owned()));
        }
        let text = "unable to parse allowed origin \"ftp://x\": allowed origins must be absolute \
                    URLs with http or https scheme";
        assert_eq!(Origin::parse_allowed("ftp://x"), Err(text.to_owned()));
        let text = "unable to parse allowed origin \"http://\": host is required";
        assert_eq!(Origin::parse_allowed("http://"), Err(text.to_owned()));
    }
}
