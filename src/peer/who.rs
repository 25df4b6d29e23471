//! Describes a peer: for log lines in nats-server's words, for JSON in separate fields, and for
//! monitoring.

use crate::auth::account::GLOBAL_ACCOUNT_NAME;
use crate::auth::authenticator::{ConnectionType, Identity, Login};
use crate::auth::nkey::UserKey;
use crate::base::ids::ConnectionId;
use crate::net::listener::Peer;
use crate::protocol::nats::error::quoted;
use crate::protocol::nats::handshake::ConnectOptions;

/// Logs at `$level` about a peer, `$session.who()`. Arguments are evaluated only if the line is
/// logged.
macro_rules! log_peer {
    ($level:ident, $session:expr, $($text:tt)+) => {
        tracing::$level!(
            cid = $session.who().id.0,
            address = $session.who().address().as_str(),
            name = $session.who().name(),
            user = $session.who().user(),
            account = $session.who().account_let_in(),
            "{} - {}",
            $session.who().label(),
            format_args!($($text)+)
        )
    };
}
pub(crate) use log_peer;

/// One peer, by what it sent and what is known about it.
#[derive(Clone, Copy)]
pub struct Who<'a> {
    pub id: ConnectionId,
    pub peer: &'a Peer,
    pub way: ConnectionType,
    /// The address that a proxy names for it.
    pub forwarded_for: Option<&'a str>,
    pub connect: &'a ConnectOptions,
    /// Present once it has been let in.
    pub identity: Option<&'a Identity>,
}

/// The kinds of names that a peer may have.
enum Name<'a> {
    Nkey(&'a str),
    User(&'a str),
    Token,
    Nobody,
}

impl<'a> Who<'a> {
    /// Returns `ip:port`, an IPv6 address in brackets.
    pub fn address(self) -> String {
        self.peer.address()
    }

    /// Returns the name that the client gave itself.
    pub fn name(self) -> &'a str {
        &self.connect.name
    }

    /// Returns the name of its account; the global account's before it is let in.
    pub fn account(self) -> &'a str {
        self.identity.map_or(GLOBAL_ACCOUNT_NAME, |identity| &identity.account.name)
    }

    /// Returns its account as that's owner calls it.
    pub fn account_name(self) -> &'a str {
        self.identity.map_or(GLOBAL_ACCOUNT_NAME, |identity| identity.account.given_name())
    }

    /// Returns the name of its account; empty before it is let in.
    pub fn account_let_in(self) -> &'a str {
        self.identity.map_or("", |identity| &identity.account.name)
    }

    /// Returns the user: a name, a public nkey, or `[REDACTED]` for a token; empty if no login was
    /// needed. Source of the order: nats-server server/client.go getRawAuthUser.
    pub fn user(self) -> &'a str {
        match self.user_name() {
            Name::Nkey(name) | Name::User(name) => name,
            Name::Token => "[REDACTED]",
            Name::Nobody => "",
        }
    }

    /// Returns `ip:port - cid:N`, and `wid:N` for WebSocket; once the peer is let in also the client library from CONNECT, and
    /// the user.
    pub fn label(self) -> String {
        let kind = match self.way {
            ConnectionType::Websocket => "wid",
            _ => "cid",
        };
        let mut label = match self.forwarded_for {
            Some(address) if address.contains(':') => format!("[{address}]/"),
            Some(address) => format!("{address}/"),
            None => String::new(),
        };
        label.push_str(&format!("{} - {kind}:{}", self.peer.address(), self.id));
        let Some(identity) = self.identity else { return label };
        let connect = self.connect;
        if !(connect.lang.is_empty() && connect.version.is_empty() && connect.name.is_empty()) {
            let mut parts = Vec::new();
            if !connect.version.is_empty() {
                parts.push(format!("v{}", connect.version));
            }
            for part in [&connect.lang, &connect.name] {
                if !part.is_empty() {
                    parts.push(part.to_string());
                }
            }
            label.push_str(&format!(" - {}", quoted(parts.join(":").as_bytes())));
        }
        if let Some(user) = self.user_label() {
            let who = format!("{}/{user}", identity.account.name);
            label.push_str(&format!(" - {}", quoted(who.as_bytes())));
        }
        label
    }

    /// Returns what nats-server appends to some lines about clients that were let in.
    pub fn label_end(self) -> String {
        let Some(identity) = self.identity else { return String::new() };
        let user = self.user_label().map(|label| format!(" - {label}")).unwrap_or_default();
        format!(" - Account:{}{user}", identity.account.name)
    }

    /// Returns the credentials in CONNECT as nats-server's log describes them; None = none.
    pub fn credentials(self) -> Option<String> {
        let connect = self.connect;
        if !connect.nkey.is_empty() {
            Some(format!("Nkey {}", quoted(connect.nkey.as_bytes())))
        } else if !connect.user.is_empty() {
            Some(format!("User {}", quoted(connect.user.as_bytes())))
        } else if !connect.auth_token.is_empty() {
            Some("Token \"[REDACTED]\"".into())
        } else {
            None
        }
    }

    /// Returns the user as a part of a label, with its kind. None = no login was needed.
    fn user_label(self) -> Option<String> {
        match self.user_name() {
            Name::Nkey(name) => Some(format!("nkey:{name}")),
            Name::User(name) => Some(format!("user:{name}")),
            Name::Token => Some("token".into()),
            Name::Nobody => None,
        }
    }

    fn user_name(self) -> Name<'a> {
        let connect = self.connect;
        let known = self.identity.filter(|identity| !identity.user_name.is_empty());
        match known {
            _ if !connect.nkey.is_empty() => Name::Nkey(&connect.nkey),
            // Whatever name CONNECT had.
            Some(identity) if identity.login == Login::Certificate => {
                Name::User(&identity.user_name)
            }
            _ if !connect.user.is_empty() => Name::User(&connect.user),
            Some(identity) if identity.login == Login::Jwt => Name::Nkey(&identity.user_name),
            _ if !connect.auth_token.is_empty() => Name::Token,
            Some(identity) if UserKey::parse(&identity.user_name).is_ok() => {
                Name::Nkey(&identity.user_name)
            }
            Some(identity) => Name::User(&identity.user_name),
            None => Name::Nobody,
        }
    }
}
