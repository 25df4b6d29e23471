//! The description of a client for accounts that its own imports services from.

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use super::session::ClientSession;
use crate::base::time_text::timestamp;
use crate::broker::Broker;
use crate::broker::client_facts::ClientFacts;

impl ClientSession {
    /// Gives the broker this client's description if its account imports services.
    pub(super) fn tell_facts(&self, broker: &mut Broker) {
        let facts = broker.tells_of_clients(self.key).then(|| Box::new(self.client_facts()));
        broker.set_client_facts(self.key, facts);
    }

    /// Returns the round-trip time in nanoseconds; 0 = unknown.
    pub(super) fn rtt_ns(&self) -> u64 {
        let rtt = self.peer.keep_alive.rtt().unwrap_or_default();
        u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Returns all that is known of it, as JSON, and its round-trip time.
    pub(crate) fn description(&self) -> (String, Duration) {
        let rtt = self.peer.keep_alive.rtt().unwrap_or_default();
        (self.client_facts().full(self.who().account()), rtt)
    }

    fn client_facts(&self) -> ClientFacts {
        let who = self.who();
        let started = SystemTime::now().checked_sub(self.peer.traffic.started.elapsed());
        let connected = [
            ("start", timestamp(started.unwrap_or(SystemTime::UNIX_EPOCH))),
            ("host", self.peer.address.host()),
        ];
        let connected: String =
            connected.iter().filter_map(|(name, value)| member(name, value)).collect();
        let connect = &self.peer.connect;
        let identity = [
            ("user", who.user()),
            ("name", &*connect.name),
            ("lang", &*connect.lang),
            ("ver", &*connect.version),
        ];
        let behind = |members: &[(&str, &str)]| -> String {
            let members = members.iter().filter_map(|(name, value)| member(name, value));
            members.map(|member| format!(",{}", member.trim_end_matches(','))).collect()
        };
        ClientFacts {
            rtt_ns: Cell::new(self.rtt_ns()),
            connected: format!("{connected}\"id\":{},", self.peer.id.0),
            identity: behind(&identity),
            server: behind(&[("server", &self.context.info.borrow().server_name)]),
            kind: behind(&[("kind", "Client"), ("client_type", self.peer.way().client_type())]),
        }
    }
}

/// Returns a member of a JSON object, followed by a comma; None for an empty value.
fn member(name: &str, value: &str) -> Option<String> {
    (!value.is_empty()).then(|| format!("\"{name}\":{},", serde_json::Value::from(value)))
}
