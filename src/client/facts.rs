//! What a session tells monitoring about itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::session::ClientSession;
use crate::auth::account::GLOBAL_ACCOUNT_NAME;
use crate::auth::authenticator::Login;
use crate::auth::nkey::UserKey;
use crate::auth::state::AuthState;
use crate::base::ids::{ClientKey, ConnectionId};
use crate::base::limits::{CLOSED_SUBSCRIPTIONS_MAX, SNAPSHOT_LOOKS_PER_TURN};
use crate::config::auth_options::PermissionOptions;
use crate::config::options::Options;
use crate::net::listener::Peer;
use crate::net::tls::TlsFacts;
use crate::protocol::nats::handshake::{ConnectOptions, Info};

/// One session as it stands now. Borrowed: whoever wants to keep something copies it.
pub struct SessionFacts<'a> {
    pub id: ConnectionId,
    pub key: ClientKey,
    pub peer: &'a Peer,
    pub connect: &'a ConnectOptions,
    pub account: &'a str,
    /// Who logged in: a name, a public nkey, or `[REDACTED]` for a token; empty where nobody had to.
    pub user: &'a str,
    /// None = plain, or not there yet.
    pub tls: Option<&'a TlsFacts>,
    /// TLS came before INFO.
    pub tls_first: bool,
    pub started: Instant,
    /// When it last published, subscribed or was sent a message; exact to a tick of the shard.
    pub last_activity: Instant,
    /// None = it has not said CONNECT.
    pub rtt: Option<Duration>,
    pub in_messages: u64,
    pub in_bytes: u64,
    pub out_messages: u64,
    pub out_bytes: u64,
    pub pending_bytes: usize,
    pub stalls: u64,
}

/// The subscriptions a connection had when it ended.
#[derive(Debug, Default)]
pub struct LastSubscriptions {
    pub count: usize,
    /// The first `CLOSED_SUBSCRIPTIONS_MAX` of them.
    pub kept: Vec<LastSubscription>,
}

#[derive(Debug)]
pub struct LastSubscription {
    pub filter: Box<[u8]>,
    pub queue: Box<[u8]>,
    pub sid: Box<[u8]>,
    pub delivered: u64,
    pub max: u64,
}

/// Who a client is, by what it gave or by what it has.
enum Who<'a> {
    Nkey(&'a str),
    User(&'a str),
    Token,
    Nobody,
}

impl ClientSession {
    /// Whether it has left the broker: it is about to go.
    pub fn is_detached(&self) -> bool {
        self.detached
    }

    /// What describes the server, as it is now.
    pub fn server_facts(&self) -> (Arc<Info>, Arc<Options>) {
        (self.context.info.borrow().clone(), self.context.options.borrow().clone())
    }

    pub fn auth_state(&self) -> Arc<AuthState> {
        self.context.auth.borrow().clone()
    }

    /// The permissions its user was given in the configuration, if any.
    pub fn permission_options(&self) -> Option<Arc<PermissionOptions>> {
        self.permissions.options().cloned()
    }

    pub fn facts(&self, now: Instant) -> SessionFacts<'_> {
        let outbox = &self.outbox;
        let has_moved = self.moved || outbox.delivered.get();
        SessionFacts {
            id: self.id,
            key: self.key,
            peer: &self.peer,
            connect: &self.connect,
            account: match &self.identity {
                Some(identity) => &identity.account.name,
                None => GLOBAL_ACCOUNT_NAME,
            },
            user: self.user(),
            tls: self.tls.as_deref(),
            tls_first: self.tls_first,
            started: self.started,
            last_activity: if has_moved { now } else { self.moved_at },
            rtt: self.rtt,
            in_messages: self.in_messages,
            in_bytes: self.in_bytes,
            out_messages: outbox.out_messages.get(),
            out_bytes: outbox.out_bytes.get(),
            pending_bytes: outbox.pending_bytes(),
            stalls: outbox.stalls(),
        }
    }

    /// Source of the order: nats-server server/client.go getRawAuthUser.
    pub(super) fn user(&self) -> &str {
        match self.who() {
            Who::Nkey(name) | Who::User(name) => name,
            Who::Token => "[REDACTED]",
            Who::Nobody => "",
        }
    }

    /// Who it is, as a part of a label: with its kind. None = nobody had to say.
    pub(super) fn user_label(&self) -> Option<String> {
        match self.who() {
            Who::Nkey(name) => Some(format!("nkey:{name}")),
            Who::User(name) => Some(format!("user:{name}")),
            Who::Token => Some("token".into()),
            Who::Nobody => None,
        }
    }

    /// What nats-server appends to some lines of clients that were let in.
    pub(super) fn label_end(&self) -> String {
        let Some(identity) = &self.identity else { return String::new() };
        let user = self.user_label().map(|label| format!(" - {label}")).unwrap_or_default();
        format!(" - Account:{}{user}", identity.account.name)
    }

    fn who(&self) -> Who<'_> {
        let connect = &self.connect;
        let known = self.identity.as_ref().filter(|identity| !identity.user_name.is_empty());
        match known {
            _ if !connect.nkey.is_empty() => Who::Nkey(&connect.nkey),
            // Whatever name CONNECT gave.
            Some(identity) if identity.login == Login::Certificate => {
                Who::User(&identity.user_name)
            }
            _ if !connect.user.is_empty() => Who::User(&connect.user),
            _ if !connect.auth_token.is_empty() => Who::Token,
            Some(identity) if UserKey::parse(&identity.user_name).is_ok() => {
                Who::Nkey(&identity.user_name)
            }
            Some(identity) => Who::User(&identity.user_name),
            None => Who::Nobody,
        }
    }

    /// Remembers what the broker is about to forget.
    pub(super) fn keep_last_subscriptions(&mut self) {
        let broker = self.context.broker.borrow();
        let mut last = Box::<LastSubscriptions>::default();
        last.count = broker.subscription_count(self.key);
        let mut looks = SNAPSHOT_LOOKS_PER_TURN;
        broker.walk_subscriptions(self.key, 0, &mut looks, |subscription| {
            last.kept.push(LastSubscription {
                filter: subscription.filter().into(),
                queue: subscription.queue().into(),
                sid: subscription.sid().into(),
                delivered: subscription.delivered.get(),
                max: subscription.max(),
            });
            last.kept.len() < CLOSED_SUBSCRIPTIONS_MAX
        });
        drop(broker);
        self.last_subscriptions = Some(last);
    }

    pub fn take_last_subscriptions(&mut self) -> LastSubscriptions {
        self.last_subscriptions.take().map_or_else(Default::default, |last| *last)
    }
}
