//! Describes sessions and subscriptions for monitoring.

use crate::broker::subscription::Subscription;
use crate::monitor::snapshot::{
    AccountTotals, ConnectionDetails, ConnectionNumbers, SubscriptionDetails, TlsDetails,
};
use crate::net::listener::Peer;
use crate::peer::facts::{LastSubscription, SessionFacts};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(super) fn numbers(facts: &SessionFacts<'_>, subscriptions: usize) -> ConnectionNumbers {
    ConnectionNumbers {
        id: facts.id.0,
        started: facts.started,
        last_activity: facts.last_activity,
        rtt: facts.rtt,
        subscriptions,
        pending_bytes: facts.pending_bytes,
        in_messages: facts.in_messages,
        in_bytes: facts.in_bytes,
        out_messages: facts.out_messages,
        out_bytes: facts.out_bytes,
        stalls: facts.stalls,
    }
}

pub(super) fn details(facts: &SessionFacts<'_>, subscriptions: usize) -> ConnectionDetails {
    ConnectionDetails {
        numbers: numbers(facts, subscriptions),
        way: facts.way,
        address: match facts.peer {
            Peer::Tcp(address) => Some((address.ip().to_canonical(), address.port())),
            Peer::Unix => None,
        },
        name: facts.connect.name.to_string(),
        lang: facts.connect.lang.to_string(),
        version: facts.connect.version.to_string(),
        account: facts.account.to_owned(),
        user: facts.user.to_owned(),
        tls: facts.tls.map(|tls| TlsDetails {
            version: tls.version,
            cipher_suite: tls.cipher_suite.clone(),
            is_first: facts.tls_first,
            peer_certificates: tls.peer_certificates.clone(),
        }),
        subscription_list: Vec::new(),
    }
}

pub(super) fn subscription_details(
    connection: u64,
    subscription: &Subscription,
) -> SubscriptionDetails {
    SubscriptionDetails {
        connection,
        subject: text(subscription.filter()),
        queue: text(subscription.queue()),
        sid: text(subscription.sid()),
        delivered: subscription.delivered.get(),
        max: subscription.max(),
    }
}

pub(super) fn last_subscription(connection: u64, last: &LastSubscription) -> SubscriptionDetails {
    SubscriptionDetails {
        connection,
        subject: text(&last.filter),
        queue: text(&last.queue),
        sid: text(&last.sid),
        delivered: last.delivered,
        max: last.max,
    }
}

pub(super) fn account_totals(facts: &SessionFacts<'_>, slow: bool) -> AccountTotals {
    AccountTotals {
        connections: 0,
        in_messages: facts.in_messages,
        in_bytes: facts.in_bytes,
        out_messages: facts.out_messages,
        out_bytes: facts.out_bytes,
        slow_consumers: u64::from(slow),
    }
}
