//! The address of a server: the `--server` URL, parsed once.

use crate::Failure;

/// An address at which a NATS server can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp { host: String, port: u16, tls: bool, web: WebSocket },
    Unix { path: String },
}

/// The protocol below NATS: plain, or WebSocket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WebSocket {
    #[default]
    No,
    Yes,
    /// With deflated messages.
    Deflated,
}

impl WebSocket {
    /// Returns the scheme of its URLs.
    fn scheme(self, tls: bool) -> &'static str {
        match (self, tls) {
            (WebSocket::No, false) => "nats",
            (WebSocket::No, true) => "tls",
            (WebSocket::Yes, false) => "ws",
            (WebSocket::Yes, true) => "wss",
            (WebSocket::Deflated, false) => "ws-deflate",
            (WebSocket::Deflated, true) => "wss-deflate",
        }
    }
}

/// An address with the credentials in the URL, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    pub address: Address,
    pub user: Option<String>,
    /// The password, if there is a user; otherwise unused.
    pub password: Option<String>,
}

impl ServerUrl {
    /// Parses `nats://`, `tcp://`, `tls://`, `ws://`, `wss://`, `ws-deflate://`, `wss-deflate://`
    /// (each with `[user[:password]@]host[:port]`), `unix://PATH`, and a bare `host[:port]`. The
    /// port is 4222 unless given; for WebSocket it must be.
    ///
    /// # Errors
    /// If the scheme is unknown or the port is not a number; the text says which.
    pub fn parse(text: &str) -> Result<ServerUrl, Failure> {
        if let Some(path) = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")) {
            if path.is_empty() {
                return Err(Failure::new("unix:// needs a path, as in unix:///run/server.sock"));
            }
            let address = Address::Unix { path: path.to_string() };
            return Ok(ServerUrl { address, user: None, password: None });
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("nats", text));
        let (tls, web) = match scheme {
            "nats" | "tcp" => (false, WebSocket::No),
            "tls" => (true, WebSocket::No),
            "ws" => (false, WebSocket::Yes),
            "wss" => (true, WebSocket::Yes),
            "ws-deflate" => (false, WebSocket::Deflated),
            "wss-deflate" => (true, WebSocket::Deflated),
            _ => {
                return Err(Failure::new(format!(
                    "unknown scheme '{scheme}' in '{text}': use nats://, tcp://, tls://, ws://, wss://, ws-deflate://, wss-deflate:// or unix://"
                )));
            }
        };
        let (login, place) = match rest.rsplit_once('@') {
            Some((login, place)) => (Some(login), place),
            None => (None, rest),
        };
        let place = place.trim_end_matches('/');
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && !port.contains(']') => {
                let port = port
                    .parse()
                    .map_err(|_| Failure::new(format!("'{port}' in '{text}' is no port number")))?;
                (host, port)
            }
            _ if web != WebSocket::No => {
                return Err(Failure::new(format!(
                    "'{text}' names no port: WebSocket has no usual one"
                )));
            }
            _ => (place, 4222),
        };
        if host.is_empty() {
            return Err(Failure::new(format!("'{text}' names no host")));
        }
        let host = host.trim_start_matches('[').trim_end_matches(']').to_string();
        let (user, password) = match login {
            None => (None, None),
            Some(login) => match login.split_once(':') {
                Some((user, password)) => (Some(user.to_string()), Some(password.to_string())),
                None => (Some(login.to_string()), None),
            },
        };
        Ok(ServerUrl { address: Address::Tcp { host, port, tls, web }, user, password })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp { host, port, tls, web } => {
                let scheme = web.scheme(*tls);
                if host.contains(':') {
                    write!(formatter, "{scheme}://[{host}]:{port}")
                } else {
                    write!(formatter, "{scheme}://{host}:{port}")
                }
            }
            Address::Unix { path } => write!(formatter, "unix://{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> String {
        ServerUrl::parse(text).unwrap().address.to_string()
    }

    #[test]
    fn urls_of_every_scheme_parse() {
        assert_eq!(address("nats://127.0.0.1:4333"), "nats://127.0.0.1:4333");
        assert_eq!(address("localhost"), "nats://localhost:4222");
        assert_eq!(address("tls://broker.example/"), "tls://broker.example:4222");
        assert_eq!(address("nats://[::1]:5000"), "nats://[::1]:5000");
        assert_eq!(address("unix:///run/a.sock"), "unix:///run/a.sock");
        for text in ["ws://a:1", "wss://a:1", "ws-deflate://a:1", "wss-deflate://[::1]:1"] {
            assert_eq!(address(text), text);
        }
    }

    #[test]
    fn a_login_in_the_url_is_taken_out() {
        let url = ServerUrl::parse("nats://anna:se@cret@host:1").unwrap();
        assert_eq!(url.user.as_deref(), Some("anna"));
        assert_eq!(url.password.as_deref(), Some("se@cret"));
        assert_eq!(url.address.to_string(), "nats://host:1");
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for text in ["ftp://host", "nats://host:port", "unix://", "nats://", "ws://host"] {
            assert!(ServerUrl::parse(text).is_err(), "{text}");
        }
    }
}
