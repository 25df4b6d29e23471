//! A closed connection in packed form: a shard remembers thousands of them, and most are never
//! asked for.
//!
//! One allocation each. Numbers are encoded in groups of seven bits, the lowest first; texts are
//! preceded by their length; times are nanoseconds since an earlier time.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::snapshot::{
    ClosedConnection, ConnectionDetails, ConnectionNumbers, SubscriptionDetails, TlsDetails,
};
use crate::auth::authenticator::ConnectionType;
use crate::base::limits::CLOSED_CONNECTION_BYTES_MAX;
use crate::protocol::nats::error::CloseReason;

/// A closed connection, packed.
#[derive(Clone, Debug)]
pub(crate) struct PackedConnection(Arc<[u8]>);

/// Bytes of the allocation's two counts, and of the pointer with its length.
const PACKED_OVERHEAD: usize = 4 * size_of::<usize>();

/// Closed connections that one shard remembers, the oldest first, bounded in number and in bytes.
#[derive(Debug, Default)]
pub(crate) struct ClosedConnections {
    list: VecDeque<PackedConnection>,
    bytes: usize,
}

impl ClosedConnections {
    /// Remembers one more, and forgets the oldest ones until the rest is within the bounds. One
    /// that is too large by itself is remembered without its subscriptions, or not at all.
    pub(crate) fn remember(
        &mut self,
        mut closed: ClosedConnection,
        epoch: Instant,
        count_max: usize,
        bytes_max: usize,
    ) {
        let mut packed = PackedConnection::pack(&closed, epoch);
        if packed.size() > CLOSED_CONNECTION_BYTES_MAX {
            closed.details.subscription_list.clear();
            packed = PackedConnection::pack(&closed, epoch);
        }
        if packed.size() <= CLOSED_CONNECTION_BYTES_MAX {
            self.bytes += packed.size();
            self.list.push_back(packed);
        }
        while self.list.len() > count_max || self.bytes > bytes_max {
            let Some(oldest) = self.list.pop_front() else { break };
            self.bytes -= oldest.size();
        }
        self.check_invariants();
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &PackedConnection> {
        self.list.iter()
    }

    /// Checks that `bytes` counts what is held. Looks at both ends only, since it runs whenever a
    /// connection closes.
    fn check_invariants(&self) {
        let ends = self.list.front().into_iter().chain(self.list.back());
        debug_assert!(ends.map(PackedConnection::size).max().unwrap_or(0) <= self.bytes);
        debug_assert!(!self.list.is_empty() || self.bytes == 0);
    }
}

/// TLS versions by their packed number; 0 = none.
const TLS_VERSIONS: [&str; 3] = ["", "1.2", "1.3"];

impl PackedConnection {
    /// Packs a connection. `epoch` is a time before it started, and must be the same for `unpack`.
    pub(crate) fn pack(closed: &ClosedConnection, epoch: Instant) -> Self {
        let mut bytes = Vec::with_capacity(256);
        let ConnectionDetails { numbers, .. } = &closed.details;
        let after = |moment: Instant, before: Instant| {
            u64::try_from(moment.saturating_duration_since(before).as_nanos()).unwrap_or(u64::MAX)
        };
        let rtt = numbers.rtt.map_or(0, |rtt| 1 + rtt.as_nanos().min(u64::MAX as u128 - 1) as u64);
        for number in [
            numbers.id,
            after(numbers.started, epoch),
            after(numbers.last_activity, numbers.started),
            after(closed.stopped, numbers.started),
            rtt,
            numbers.subscriptions as u64,
            numbers.pending_bytes as u64,
            numbers.in_messages,
            numbers.in_bytes,
            numbers.out_messages,
            numbers.out_bytes,
            numbers.stalls,
            closed.reason as u64,
        ] {
            put_number(&mut bytes, number);
        }
        pack_details(&mut bytes, &closed.details);
        Self(bytes.into())
    }

    pub(crate) fn unpack(&self, epoch: Instant) -> ClosedConnection {
        let mut rest = Rest(&self.0);
        let id = rest.number();
        let started = epoch + Duration::from_nanos(rest.number());
        let last_activity = started + Duration::from_nanos(rest.number());
        let stopped = started + Duration::from_nanos(rest.number());
        let numbers = ConnectionNumbers {
            id,
            started,
            last_activity,
            rtt: rest.number().checked_sub(1).map(Duration::from_nanos),
            subscriptions: rest.number() as usize,
            pending_bytes: rest.number() as usize,
            in_messages: rest.number(),
            in_bytes: rest.number(),
            out_messages: rest.number(),
            out_bytes: rest.number(),
            stalls: rest.number(),
        };
        let reason = CloseReason::ALL[rest.number() as usize];
        let details = unpack_details(&mut rest, numbers);
        debug_assert!(rest.0.is_empty());
        ClosedConnection { details, stopped, reason }
    }

    /// Returns the bytes of its allocation and of its place in a list.
    pub(crate) fn size(&self) -> usize {
        self.0.len() + PACKED_OVERHEAD
    }
}

fn pack_details(bytes: &mut Vec<u8>, details: &ConnectionDetails) {
    match details.address {
        None => put_bytes(bytes, &[]),
        Some((IpAddr::V4(address), _)) => put_bytes(bytes, &address.octets()),
        Some((IpAddr::V6(address), _)) => put_bytes(bytes, &address.octets()),
    }
    put_number(bytes, details.address.map_or(0, |(_, port)| port.into()));
    put_number(bytes, details.way as u64);
    let ConnectionDetails { name, lang, version, account, user, .. } = details;
    for text in [name, lang, version, account, user] {
        put_bytes(bytes, text.as_bytes());
    }
    let tls = details.tls.as_ref();
    let version = tls.and_then(|tls| TLS_VERSIONS.iter().position(|name| *name == tls.version));
    put_number(bytes, version.unwrap_or(0) as u64);
    if let (Some(tls), Some(_)) = (tls, version) {
        put_bytes(bytes, tls.cipher_suite.as_bytes());
        put_number(bytes, tls.is_first.into());
    }
    put_number(bytes, details.subscription_list.len() as u64);
    for subscription in &details.subscription_list {
        let SubscriptionDetails { subject, queue, sid, .. } = subscription;
        for text in [subject, queue, sid] {
            put_bytes(bytes, text.as_bytes());
        }
        put_number(bytes, subscription.delivered);
        put_number(bytes, subscription.max);
    }
}

fn unpack_details(rest: &mut Rest<'_>, numbers: ConnectionNumbers) -> ConnectionDetails {
    let connection = numbers.id;
    let octets = rest.bytes();
    let port = rest.number() as u16;
    let way = ConnectionType::ALL[rest.number() as usize];
    let address: Option<IpAddr> = match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        _ => None,
    };
    ConnectionDetails {
        numbers,
        way,
        address: address.map(|address| (address, port)),
        name: rest.text(),
        lang: rest.text(),
        version: rest.text(),
        account: rest.text(),
        user: rest.text(),
        tls: match rest.number() as usize {
            0 => None,
            version => Some(TlsDetails {
                version: TLS_VERSIONS[version],
                cipher_suite: rest.text(),
                is_first: rest.number() != 0,
                peer_certificates: Arc::default(),
            }),
        },
        subscription_list: (0..rest.number())
            .map(|_| SubscriptionDetails {
                connection,
                subject: rest.text(),
                queue: rest.text(),
                sid: rest.text(),
                delivered: rest.number(),
                max: rest.number(),
            })
            .collect(),
    }
}

fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn put_bytes(bytes: &mut Vec<u8>, text: &[u8]) {
    put_number(bytes, text.len() as u64);
    bytes.extend_from_slice(text);
}

/// The bytes that are still to be unpacked.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn number(&mut self) -> u64 {
        let end = self.0.iter().position(|byte| byte & 0x80 == 0).expect("a number has an end");
        let (own, rest) = self.0.split_at(end + 1);
        self.0 = rest;
        own.iter().rev().fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f))
    }

    fn bytes(&mut self) -> &'a [u8] {
        let size = self.number() as usize;
        let (own, rest) = self.0.split_at(size);
        self.0 = rest;
        own
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(address: Option<(IpAddr, u16)>, epoch: Instant) -> ClosedConnection {
        let started = epoch + Duration::from_secs(5);
        let numbers = ConnectionNumbers {
            id: 9_000,
            started,
            last_activity: started + Duration::from_millis(20),
            rtt: Some(Duration::from_micros(150)),
            subscriptions: 1,
            pending_bytes: 0,
            in_messages: 3,
            in_bytes: 300,
            out_messages: u64::MAX,
            out_bytes: 1 << 40,
            stalls: 0,
        };
        let subscription = SubscriptionDetails {
            connection: 9_000,
            subject: "idle.9000".into(),
            queue: String::new(),
            sid: "1".into(),
            delivered: 70_000,
            max: 0,
        };
        let details = ConnectionDetails {
            way: ConnectionType::Websocket,
            numbers,
            address,
            name: "sensor \u{e9}".into(),
            lang: "rust".into(),
            version: "1.2.3".into(),
            account: "$G".into(),
            user: String::new(),
            tls: None,
            subscription_list: vec![subscription],
        };
        let stopped = started + Duration::from_secs(3600);
        ClosedConnection { details, stopped, reason: CloseReason::Kicked }
    }

    #[test]
    fn a_packed_connection_is_unpacked_unchanged() {
        let epoch = Instant::now();
        let four = "10.0.0.1".parse().unwrap();
        let six = "fe80::1".parse().unwrap();
        let tls = TlsDetails {
            version: "1.3",
            cipher_suite: "TLS_X".into(),
            is_first: true,
            peer_certificates: Arc::default(),
        };
        for address in [None, Some((four, 65_535)), Some((six, 1))] {
            for tls in [None, Some(tls.clone())] {
                for (rtt, reason) in [(None, 0), (Some(Duration::ZERO), CloseReason::ALL.len() - 1)]
                {
                    let mut closed = closed(address, epoch);
                    closed.details.tls = tls.clone();
                    closed.details.numbers.rtt = rtt;
                    closed.reason = CloseReason::ALL[reason];
                    let unpacked = PackedConnection::pack(&closed, epoch).unpack(epoch);
                    assert_eq!(format!("{unpacked:?}"), format!("{closed:?}"));
                }
            }
        }
    }

    #[test]
    fn every_reason_is_found_by_its_number() {
        for (number, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
    }

    #[test]
    fn a_typical_connection_is_small() {
        let epoch = Instant::now();
        let address = Some(("10.0.0.1".parse().unwrap(), 50_000));
        let size = PackedConnection::pack(&closed(address, epoch), epoch).size();
        assert!(size <= 112 + PACKED_OVERHEAD, "{size}: ten thousand are remembered");
    }

    /// A connection whose subjects are as long as a control line allows.
    fn greedy(epoch: Instant, subscriptions: usize, subject_bytes: usize) -> ClosedConnection {
        let mut greedy = closed(None, epoch);
        let long = SubscriptionDetails {
            subject: "x".repeat(subject_bytes),
            ..greedy.details.subscription_list[0].clone()
        };
        greedy.details.subscription_list = vec![long; subscriptions];
        greedy
    }

    #[test]
    fn closed_connections_are_bounded_in_bytes_too() {
        let epoch = Instant::now();
        let one = PackedConnection::pack(&greedy(epoch, 64, 4000), epoch).size();
        for (bytes_max, kept) in [(3 * one - 1, 2), (3 * one, 3), (3 * one + 1, 3)] {
            let mut all = ClosedConnections::default();
            for _ in 0..10 {
                all.remember(greedy(epoch, 64, 4000), epoch, 10_000, bytes_max);
                assert!(all.iter().map(PackedConnection::size).sum::<usize>() <= bytes_max);
            }
            assert_eq!((all.len(), all.bytes), (kept, kept * one), "{bytes_max}");
            // Small ones displace them one by one.
            let small = closed(None, epoch);
            let size = PackedConnection::pack(&small, epoch).size();
            all.remember(small, epoch, 10_000, bytes_max);
            assert_eq!(all.bytes, (all.len() - 1) * one + size);
        }
        let mut all = ClosedConnections::default();
        for _ in 0..10 {
            all.remember(closed(None, epoch), epoch, 4, usize::MAX);
        }
        assert_eq!(all.len(), 4);
    }

    #[test]
    fn a_connection_too_large_by_itself_is_remembered_without_its_subscriptions() {
        let epoch = Instant::now();
        let mut all = ClosedConnections::default();
        let overhead = PackedConnection::pack(&greedy(epoch, 1, 1 << 14), epoch).size() - (1 << 14);
        for (size, subscriptions) in [
            (CLOSED_CONNECTION_BYTES_MAX - overhead, 1),
            (CLOSED_CONNECTION_BYTES_MAX - overhead + 1, 0),
        ] {
            all.remember(greedy(epoch, 1, size), epoch, 10, usize::MAX);
            let last = all.list.back().unwrap().unpack(epoch);
            assert_eq!(last.details.subscription_list.len(), subscriptions);
        }
        let mut long_name = closed(None, epoch);
        long_name.details.name = "x".repeat(CLOSED_CONNECTION_BYTES_MAX);
        all.remember(long_name, epoch, 10, usize::MAX);
        assert_eq!(all.len(), 2);
    }
}
