//! The records of a traced message, as they are published. Fields and order as nats-server's
//! `MsgTraceEvent`; source: nats-server server/msgtrace.go.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;

use super::answer::json;
use super::server_info::ServerInfo;
use crate::base::time_text::timestamp;
use crate::protocol::headers;

/// A client, in nats-server's count of kinds of connections.
const CLIENT: u8 = 0;

/// A traced message where it came in.
#[derive(Clone, Debug)]
pub(crate) struct TraceIngress {
    pub at: SystemTime,
    pub connection: u64,
    pub name: String,
    pub account: String,
    pub subject: String,
    pub mapped: Option<String>,
    pub error: Option<String>,
    pub headers: Vec<u8>,
    pub size: usize,
}

/// Something that happened to it.
#[derive(Clone, Debug)]
pub(crate) enum TraceStep {
    StreamImport {
        account: String,
        to: String,
    },
    ServiceImport {
        account: String,
        from: String,
        to: String,
    },
    Egress {
        connection: u64,
        name: String,
        account: String,
        filter: String,
        queue: String,
        error: Option<&'static str>,
    },
}

#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    ts: String,
    #[serde(flatten)]
    what: What<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum What<'a> {
    Ingress {
        kind: u8,
        cid: u64,
        #[serde(skip_serializing_if = "str::is_empty")]
        name: &'a str,
        acc: &'a str,
        subj: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a str>,
    },
    Mapping {
        to: &'a str,
    },
    StreamImport {
        acc: &'a str,
        to: &'a str,
    },
    ServiceImport {
        acc: &'a str,
        from: &'a str,
        to: &'a str,
    },
    Egress {
        kind: u8,
        cid: u64,
        #[serde(skip_serializing_if = "str::is_empty")]
        name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        acc: Option<&'a str>,
        sub: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        queue: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'static str>,
    },
}

impl<'a> Event<'a> {
    fn new(kind: &'static str, at: SystemTime, what: What<'a>) -> Self {
        Self { kind, ts: timestamp(at), what }
    }

    fn of_step(at: SystemTime, step: &'a TraceStep, ingress: &'a TraceIngress) -> Self {
        match step {
            TraceStep::StreamImport { account, to } => {
                Self::new("se", at, What::StreamImport { acc: account, to })
            }
            TraceStep::ServiceImport { account, from, to } => {
                Self::new("si", at, What::ServiceImport { acc: account, from, to })
            }
            TraceStep::Egress { connection, name, account, filter, queue, error } => {
                let acc = Some(&**account).filter(|account| *account != ingress.account);
                let (cid, error) = (*connection, *error);
                let what = What::Egress { kind: CLIENT, cid, name, acc, sub: filter, queue, error };
                Self::new("eg", at, what)
            }
        }
    }
}

/// Returns the event about a message and all that happened to it.
pub(crate) fn traced(
    server: &ServerInfo,
    ingress: &TraceIngress,
    steps: &[(SystemTime, TraceStep)],
) -> Vec<u8> {
    #[derive(Serialize)]
    struct Request {
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        header: BTreeMap<String, Vec<String>>,
        msgsize: usize,
    }
    #[derive(Serialize)]
    struct Message<'a> {
        server: &'a ServerInfo,
        request: Request,
        events: Vec<Event<'a>>,
    }
    let TraceIngress { at, connection, name, account, subject, mapped, error, .. } = ingress;
    let what = What::Ingress {
        kind: CLIENT,
        cid: *connection,
        name,
        acc: account,
        subj: subject,
        error: error.as_deref(),
    };
    let mapping = mapped.iter().map(|to| Event::new("sm", *at, What::Mapping { to }));
    let steps = steps.iter().map(|(at, step)| Event::of_step(*at, step, ingress));
    json(&Message {
        server,
        request: Request { header: header_map(&ingress.headers), msgsize: ingress.size },
        events: std::iter::once(Event::new("in", *at, what)).chain(mapping).chain(steps).collect(),
    })
}

/// Returns all values of each header; names keep their case.
fn header_map(block: &[u8]) -> BTreeMap<String, Vec<String>> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers::fields(block) {
        all.entry(text(name)).or_default().push(text(value));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::options::Options;
    use crate::protocol::nats::handshake::Info;

    #[test]
    fn an_event_has_nats_servers_fields_in_its_order() {
        let at = SystemTime::UNIX_EPOCH;
        let server = ServerInfo::new(&Info::default(), &Options::default(), 1, at);
        let ingress = TraceIngress {
            at,
            connection: 8,
            name: "cli".into(),
            account: "C".into(),
            subject: "a".into(),
            mapped: Some("b".into()),
            error: None,
            headers: b"NATS/1.0\r\nNats-Trace-Dest: tr.x\r\nx: 1\r\nx: 2\r\n\r\n".to_vec(),
            size: 37,
        };
        let egress = |account: &str, queue: &str, error| TraceStep::Egress {
            connection: 9,
            name: String::new(),
            account: account.into(),
            filter: "b".into(),
            queue: queue.into(),
            error,
        };
        let import =
            TraceStep::ServiceImport { account: "P".into(), from: "b".into(), to: "s".into() };
        let stream = TraceStep::StreamImport { account: "D".into(), to: "l".into() };
        let steps = [egress("C", "", None), import, stream, egress("P", "q", Some("no"))];
        let steps: Vec<_> = steps.into_iter().map(|step| (at, step)).collect();
        let event = String::from_utf8(traced(&server, &ingress, &steps)).expect("JSON");
        let ts = r#""ts":"1970-01-01T00:00:00Z""#;
        let expected = [
            r#","request":{"header":{"Nats-Trace-Dest":["tr.x"],"x":["1","2"]},"msgsize":37},"events":["#,
            &format!(r#"{{"type":"in",{ts},"kind":0,"cid":8,"name":"cli","acc":"C","subj":"a"}},"#),
            &format!(r#"{{"type":"sm",{ts},"to":"b"}},"#),
            &format!(r#"{{"type":"eg",{ts},"kind":0,"cid":9,"sub":"b"}},"#),
            &format!(r#"{{"type":"si",{ts},"acc":"P","from":"b","to":"s"}},"#),
            &format!(r#"{{"type":"se",{ts},"acc":"D","to":"l"}},"#),
            &format!(
                r#"{{"type":"eg",{ts},"kind":0,"cid":9,"acc":"P","sub":"b","queue":"q","error":"no"}}"#
            ),
            "]}",
        ]
        .concat();
        assert!(event.starts_with(r#"{"server":{"#) && event.ends_with(&expected), "{event}");
    }
}
