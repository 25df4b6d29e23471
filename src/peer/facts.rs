//! Facts about a peer for monitoring: what it has done, and what it had when it ended.

use std::time::{Duration, Instant};

use crate::auth::authenticator::ConnectionType;
use crate::base::ids::{ClientKey, ConnectionId};
use crate::base::limits::{CLOSED_SUBSCRIPTIONS_MAX, SNAPSHOT_LOOKS_PER_TURN};
use crate::broker::Broker;
use crate::net::listener::Peer;
use crate::net::tls::TlsFacts;
use crate::protocol::nats::handshake::ConnectOptions;

/// The present state of one session. Borrowed: whoever wants to keep something copies it.
pub struct SessionFacts<'a> {
    pub id: ConnectionId,
    pub key: ClientKey,
    pub peer: &'a Peer,
    pub way: ConnectionType,
    pub connect: &'a ConnectOptions,
    pub account: &'a str,
    /// The user: a name, a public nkey, or `[REDACTED]` for a token; empty if no login was needed.
    pub user: &'a str,
    /// None = plain, or the handshake has not ended.
    pub tls: Option<&'a TlsFacts>,
    /// True if TLS came before the greeting.
    pub tls_first: bool,
    pub started: Instant,
    /// The last time that it published, subscribed or was sent a message.
    pub last_activity: Instant,
    /// None = it has not sent CONNECT.
    pub rtt: Option<Duration>,
    pub in_messages: u64,
    pub in_bytes: u64,
    pub out_messages: u64,
    pub out_bytes: u64,
    pub pending_bytes: usize,
    pub stalls: u64,
}

/// What a peer has done so far.
#[derive(Debug)]
pub(crate) struct Traffic {
    pub started: Instant,
    pub in_messages: u64,
    pub in_bytes: u64,
    /// The last activity in the sense of monitoring, deliveries since the last tick apart.
    moved_at: Instant,
}

impl Traffic {
    pub(crate) fn new(now: Instant) -> Self {
        Self { started: now, in_messages: 0, in_bytes: 0, moved_at: now }
    }

    /// Records an activity at that time.
    #[inline]
    pub(crate) fn note_activity(&mut self, at: Instant) {
        self.moved_at = self.moved_at.max(at);
    }

    /// Returns the time of the last activity. `delivered_at` is the last delivery since the last
    /// tick, if there was one.
    pub(crate) fn last_activity(&self, delivered_at: Option<Instant>) -> Instant {
        delivered_at.map_or(self.moved_at, |at| self.moved_at.max(at))
    }
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

impl LastSubscriptions {
    /// Collects the subscriptions that the broker is about to forget.
    pub fn of(broker: &Broker, client: ClientKey) -> Self {
        let mut last = Self { count: broker.subscription_count(client), kept: Vec::new() };
        let mut looks = SNAPSHOT_LOOKS_PER_TURN;
        broker.walk_subscriptions(client, 0, &mut looks, |subscription| {
            last.kept.push(LastSubscription {
                filter: subscription.filter().into(),
                queue: subscription.queue().into(),
                sid: subscription.sid().into(),
                delivered: subscription.delivered.get(),
                max: subscription.max(),
            });
            last.kept.len() < CLOSED_SUBSCRIPTIONS_MAX
        });
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_activity_is_the_latest_and_stays_where_it_is() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut traffic = Traffic::new(start);
        assert_eq!(traffic.last_activity(None), start);
        traffic.note_activity(at(5));
        // A delivery that began before is no reason to go back.
        traffic.note_activity(at(3));
        assert_eq!(traffic.last_activity(None), at(5));
        assert_eq!(traffic.last_activity(Some(at(4))), at(5));
        assert_eq!(traffic.last_activity(Some(at(7))), at(7));
        assert_eq!(traffic.last_activity(None), at(5));
    }
}
