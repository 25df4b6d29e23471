//! Who a peer is, in words: for a line of the log as nats-server words it, in fields of their own for JSON, and for
//! monitoring.

use crate::auth::account::GLOBAL_ACCOUNT_NAME;
use crate::auth::authenticator::{Identity, Login};
use crate::auth::nkey::UserKey;
use crate::base::ids::ConnectionId;
use crate::net::listener::Peer;
use crate::protocol::nats::error::quoted;
use crate::protocol::nats::handshake::ConnectOptions;

/// Logs at `$level` about a peer, `$session.who()`. Arguments are looked at only if somebody wants the line.
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

/// One peer, by what it said and by what is known of it.
#[derive(Clone, Copy)]
pub struct Who<'a> {
    pub id: ConnectionId,
    pub peer: &'a Peer,
    pub connect: &'a ConnectOptions,
    /// Present once it was let in.
    pub identity: Option<&'a Identity>,
}

/// The kinds of name that a peer may have.
enum Name<'a> {
    Nkey(&'a str),
    User(&'a str),
    Token,
    Nobody,
}

impl<'a> Who<'a> {
    /// `ip:port`, an IPv6 address in brackets.
    pub fn address(self) -> String {
        self.peer.address()
    }

    /// The name it gave itself.
    pub fn name(self) -> &'a str {
        &self.connect.name
    }

    /// The account it is in.
    pub fn account(self) -> &'a str {
        self.identity.map_or(GLOBAL_ACCOUNT_NAME, |identity| &identity.account.name)
    }

    /// The account it is in; empty before anybody was let in.
    pub fn account_let_in(self) -> &'a str {
        self.identity.map_or("", |identity| &identity.account.name)
    }

    /// Who logged in: a name, a public nkey, or `[REDACTED]` for a token; empty where nobody had to. Source of the
    /// order: nats-server server/client.go getRawAuthUser.
    pub fn user(self) -> &'a str {
        match self.user_name() {
            Name::Nkey(name) | Name::User(name) => name,
            Name::Token => "[REDACTED]",
            Name::Nobody => "",
        }
    }

    /// `ip:port - cid:N`; once somebody is let in also what CONNECT told of the client library, and who it is.
    pub fn label(self) -> String {
        let mut label = format!("{} - cid:{}", self.peer.address(), self.id);
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

    /// What nats-server appends to some lines of clients that were let in.
    pub fn label_end(self) -> String {
        let Some(identity) = self.identity else { return String::new() };
        let user = self.user_label().map(|label| format!(" - {label}")).unwrap_or_default();
        format!(" - Account:{}{user}", identity.account.name)
    }

    /// What CONNECT gave to log in with, as nats-server's log says it; None = nothing.
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

    /// Who it is, as a part of a label: with its kind. None = nobody had to say.
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
            // Whatever name CONNECT gave.
            Some(identity) if identity.login == Login::Certificate => {
                Name::User(&identity.user_name)
            }
            _ if !connect.user.is_empty() => Name::User(&connect.user),
            _ if !connect.auth_token.is_empty() => Name::Token,
            Some(identity) if UserKey::parse(&identity.user_name).is_ok() => {
                Name::Nkey(&identity.user_name)
            }
            Some(identity) => Name::User(&identity.user_name),
            None => Name::Nobody,
        }
    }
}
