//! The value of `Nats-Request-Info`, which describes a requester to another account.
//!
//! It always has the account and the round-trip time; the rest only if the import has `share`. The
//! parts are built when the client logs in, so that a request only concatenates them.

use std::cell::Cell;

use super::Broker;
use super::crossing;
use super::crossing_sink::RequestSink;
use super::passage::Passage;
use crate::base::ids::{ClientKey, ConnectionId};
use crate::protocol::nats::encode::decimal;

/// The parts of a client's description. The texts are members of a JSON object, each preceded by a
/// comma.
#[derive(Debug, Default)]
pub struct ClientFacts {
    /// Round-trip time in nanoseconds; 0 = unknown.
    pub rtt_ns: Cell<u64>,
    /// Start and address of the connection; followed by a comma instead.
    pub connected: String,
    /// User and client library.
    pub identity: String,
    /// This server's name.
    pub server: String,
    pub kind: String,
}

impl ClientFacts {
    /// Returns all that is known of a client of an account, as JSON.
    pub fn full(&self, account: &str) -> String {
        let mut out = Vec::new();
        let account = serde_json::Value::from(account).to_string();
        self.write(&account, true, true, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Writes the object. `account` is a JSON text.
    fn write(&self, account: &str, detailed: bool, with_server: bool, out: &mut Vec<u8>) {
        out.clear();
        out.push(b'{');
        if detailed {
            out.extend_from_slice(self.connected.as_bytes());
        }
        out.extend_from_slice(b"\"acc\":");
        out.extend_from_slice(account.as_bytes());
        if detailed {
            out.extend_from_slice(self.identity.as_bytes());
        }
        if self.rtt_ns.get() > 0 {
            out.extend_from_slice(b",\"rtt\":");
            decimal(out, self.rtt_ns.get() as usize);
        }
        if detailed || with_server {
            out.extend_from_slice(self.server.as_bytes());
        }
        if detailed {
            out.extend_from_slice(self.kind.as_bytes());
        }
        out.push(b'}');
    }
}

impl Broker {
    /// Returns true if the client's account imports services.
    pub fn tells_of_clients(&self, client: ClientKey) -> bool {
        let account = self.clients[client.index()].account;
        !self.imports.services_of(account).is_empty()
    }

    /// Returns the connection of a client, if it is there.
    pub fn connection_of(&self, client: ClientKey) -> Option<ConnectionId> {
        self.clients.get(client.index()).map(|client| client.outbox.id)
    }

    /// Sets the description of a client.
    pub fn set_client_facts(&mut self, client: ClientKey, facts: Option<Box<ClientFacts>>) {
        self.clients[client.index()].facts = facts;
    }

    /// Updates a client's round-trip time, in nanoseconds.
    #[inline]
    pub fn note_rtt(&self, client: ClientKey, rtt_ns: u64) {
        if let Some(facts) = &self.clients[client.index()].facts {
            facts.rtt_ns.set(rtt_ns);
        }
    }

    /// Returns the requester's description for the metric of a request, and its round-trip time in
    /// nanoseconds.
    pub(super) fn describe_requester(
        &self,
        sink: &RequestSink,
        passage: &Passage<'_>,
    ) -> (String, u64) {
        let client = passage.origin.source.publisher;
        let client = client.and_then(|client| self.clients.get(client.index()));
        // The account of a request that has crossed before is not the importing one.
        let name = match client {
            Some(client) if client.account != sink.importer => self
                .imports
                .services_of(client.account)
                .first()
                .map(|route| serde_json::Value::from(&*route.import.importer).to_string()),
            _ => None,
        };
        let name = name.as_deref().unwrap_or(&sink.account_json);
        let mut out = Vec::new();
        let facts = client.and_then(|client| client.facts.as_deref());
        match facts {
            Some(facts) => facts.write(name, sink.import().share, false, &mut out),
            None => ClientFacts::default().write(name, false, false, &mut out),
        }
        let rtt_ns = facts.map_or(0, |facts| facts.rtt_ns.get());
        (String::from_utf8_lossy(&out).into_owned(), rtt_ns)
    }

    /// Sets `out` to the description of the requester for the exporting account.
    pub(super) fn write_request_info(
        &self,
        sink: &RequestSink,
        passage: &Passage<'_>,
        out: &mut Vec<u8>,
    ) {
        if crossing::is_chained(passage.origin.target.passed)
            && let Some(value) = self.request_info_name.find(passage.message.headers)
        {
            // The server wrote it when the request first crossed.
            return add_service(value, &sink.account_json, out);
        }
        let import = sink.import();
        let client = passage.origin.source.publisher;
        let client = client.and_then(|client| self.client(client));
        let facts = client
            .filter(|client| client.account == sink.importer)
            .and_then(|client| client.facts.as_deref());
        match facts {
            Some(facts) => {
                facts.write(&sink.account_json, import.share, sink.goes_to_system(), out);
            }
            None => ClientFacts::default().write(&sink.account_json, false, false, out),
        }
    }
}

/// Writes the object `value` with `svc`, the account that the request passed last; `account` is a
/// JSON text.
fn add_service(value: &[u8], account: &str, out: &mut Vec<u8>) {
    out.clear();
    let Some(end) = end_of_text(value, b"\"acc\":") else {
        return out.extend_from_slice(value);
    };
    let rest = &value[end..];
    let rest = match rest.strip_prefix(b",") {
        Some(next) if next.starts_with(b"\"svc\":") => {
            let end = end_of_text(next, b"\"svc\":").unwrap_or(next.len());
            &next[end..]
        }
        _ => rest,
    };
    out.extend_from_slice(&value[..end]);
    out.extend_from_slice(b",\"svc\":");
    out.extend_from_slice(account.as_bytes());
    out.extend_from_slice(rest);
}

/// Returns the end of the JSON text that follows `name`.
fn end_of_text(object: &[u8], name: &[u8]) -> Option<usize> {
    let start = memchr::memmem::find(object, name)? + name.len();
    let mut escaped = false;
    let inside = object.get(start + 1..)?;
    let end = inside.iter().position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    })?;
    Some(start + 1 + end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> ClientFacts {
        ClientFacts {
            rtt_ns: Cell::new(7),
            connected: "\"id\":5,".into(),
            identity: ",\"user\":\"c\"".into(),
            server: ",\"server\":\"s\"".into(),
            kind: ",\"kind\":\"Client\"".into(),
        }
    }

    #[test]
    fn details_are_told_where_they_are_shared_alone() {
        let mut out = Vec::new();
        let mut written = |facts: &ClientFacts, detailed, with_server| {
            facts.write("\"C\"", detailed, with_server, &mut out);
            String::from_utf8(out.clone()).expect("JSON")
        };
        assert_eq!(written(&facts(), false, false), r#"{"acc":"C","rtt":7}"#);
        assert_eq!(written(&facts(), false, true), r#"{"acc":"C","rtt":7,"server":"s"}"#);
        let all = r#"{"id":5,"acc":"C","user":"c","rtt":7,"server":"s","kind":"Client"}"#;
        assert_eq!(written(&facts(), true, false), all);
        assert_eq!(written(&ClientFacts::default(), false, false), r#"{"acc":"C"}"#);
    }

    #[test]
    fn the_account_passed_last_is_added_or_replaced() {
        let mut out = Vec::new();
        for (before, after) in [
            (r#"{"acc":"C","rtt":7}"#, r#"{"acc":"C","svc":"Q","rtt":7}"#),
            (r#"{"acc":"C"}"#, r#"{"acc":"C","svc":"Q"}"#),
            (
                r#"{"id":5,"acc":"C\"\\","svc":"R","rtt":7}"#,
                r#"{"id":5,"acc":"C\"\\","svc":"Q","rtt":7}"#,
            ),
        ] {
            add_service(before.as_bytes(), "\"Q\"", &mut out);
            assert_eq!(String::from_utf8_lossy(&out), after);
        }
    }
}
