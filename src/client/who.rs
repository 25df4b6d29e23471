//! Who a log line is about: in the text as nats-server words it, and in fields of their own for JSON.

use super::session::ClientSession;

/// Logs at `$level` about a client. Arguments are looked at only if somebody wants the line.
macro_rules! log_client {
    ($level:ident, $session:expr, $($text:tt)+) => {
        tracing::$level!(
            cid = $session.id.0,
            address = $session.address().as_str(),
            name = $session.client_name(),
            user = $session.user(),
            account = $session.account_name(),
            "{} - {}",
            $session.label(),
            format_args!($($text)+)
        )
    };
}
pub(super) use log_client;

impl ClientSession {
    /// `ip:port`, an IPv6 address in brackets.
    pub(super) fn address(&self) -> String {
        self.peer.address()
    }

    pub(super) fn client_name(&self) -> &str {
        &self.connect.name
    }

    /// Empty before anybody was let in.
    pub(super) fn account_name(&self) -> &str {
        self.identity.as_ref().map_or("", |identity| &identity.account.name)
    }
}
