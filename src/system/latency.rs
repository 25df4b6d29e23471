//! Metrics of requests to an exported service. Fields and order as nats-server's `ServiceLatency`;
//! source: nats-server server/accounts.go.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::answer::json;
use crate::base::time_text::timestamp;

const LATENCY_TYPE: &str = "io.nats.server.metric.v1.service_latency";

/// A request that was answered, or failed.
#[derive(Clone, Debug)]
pub(crate) struct Metric<'a> {
    /// A status and, for an error, its description.
    pub status: (u16, &'static str),
    /// JSON objects.
    pub requestor: &'a str,
    pub responder: Option<&'a str>,
    pub headers: &'a [(String, Vec<String>)],
    pub at: SystemTime,
    pub requestor_rtt: Duration,
    pub responder_rtt: Duration,
    /// From the request's arrival to that of its answer; zero for an error.
    pub round_trip: Duration,
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the metric as it is published.
pub(crate) fn metric(metric: &Metric<'_>, now: SystemTime) -> Vec<u8> {
    #[derive(Serialize)]
    struct Head {
        #[serde(rename = "type")]
        kind: &'static str,
        id: String,
        timestamp: String,
        status: u16,
        #[serde(skip_serializing_if = "str::is_empty")]
        description: &'static str,
    }
    #[derive(Serialize)]
    struct Rest<'a> {
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        header: BTreeMap<&'a str, &'a [String]>,
        start: String,
        service: u64,
        system: u64,
        total: u64,
    }
    let Metric { requestor_rtt, responder_rtt, round_trip, .. } = *metric;
    let is_answered = metric.status.0 == 200;
    let total = if is_answered { requestor_rtt + round_trip } else { Duration::ZERO };
    let headers = metric.headers.iter().map(|(name, values)| (&**name, &**values));
    let mut text = json(&Head {
        kind: LATENCY_TYPE,
        id: nuid::next().to_string(),
        timestamp: timestamp(now),
        status: metric.status.0,
        description: metric.status.1,
    });
    let rest = json(&Rest {
        header: headers.collect(),
        start: timestamp(metric.at.checked_sub(requestor_rtt).unwrap_or(metric.at)),
        service: nanoseconds(round_trip.saturating_sub(responder_rtt)),
        system: 0,
        total: nanoseconds(total),
    });
    // Both are objects: the members between them are JSON already.
    text.pop();
    for (name, object) in [("requestor", Some(metric.requestor)), ("responder", metric.responder)] {
        if let Some(object) = object {
            text.extend_from_slice(format!(",\"{name}\":{object}").as_bytes());
        }
    }
    text.push(b',');
    text.extend_from_slice(&rest[1..]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_has_nats_servers_fields_in_its_order() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        let headers = [("Traceparent".to_owned(), vec!["x".to_owned()])];
        let answered = Metric {
            status: (200, ""),
            requestor: r#"{"acc":"C","rtt":2000}"#,
            responder: Some(r#"{"acc":"P"}"#),
            headers: &headers,
            at,
            requestor_rtt: Duration::from_secs(2),
            responder_rtt: Duration::from_nanos(30),
            round_trip: Duration::from_nanos(100),
        };
        let text = |metric: &Metric<'_>| {
            let text = String::from_utf8(super::metric(metric, at)).expect("JSON");
            let id = text.find("\"id\":\"").expect("an id") + 6;
            text.replace(&text[id..id + 22], "ID")
        };
        assert_eq!(
            text(&answered),
            "{\"type\":\"io.nats.server.metric.v1.service_latency\",\"id\":\"ID\",\
             \"timestamp\":\"1970-01-01T00:00:10Z\",\"status\":200,\
             \"requestor\":{\"acc\":\"C\",\"rtt\":2000},\"responder\":{\"acc\":\"P\"},\
             \"header\":{\"Traceparent\":[\"x\"]},\"start\":\"1970-01-01T00:00:08Z\",\
             \"service\":70,\"system\":0,\"total\":2000000100}"
        );
        let failed = Metric {
            status: (503, "Service Unavailable"),
            responder: None,
            headers: &[],
            round_trip: Duration::ZERO,
            ..answered
        };
        let text = text(&failed);
        assert!(
            text.contains("\"status\":503,\"description\":\"Service Unavailable\",\"requestor\"")
        );
        assert!(text.ends_with("\"service\":0,\"system\":0,\"total\":0}"), "{text}");
        // An answer may come back sooner than the responder's round trip suggests.
        let early = Metric { responder_rtt: Duration::from_secs(1), ..answered };
        assert!(String::from_utf8_lossy(&super::metric(&early, at)).contains("\"service\":0,"));
    }
}
