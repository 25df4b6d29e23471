//! Durations of requests to another account, for exports with `latency`: which requests are
//! sampled, and what is known of each when it ends.
//!
//! Source: nats-server server/accounts.go shouldSample, sendTrackingLatency.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::Broker;
use super::crossing_sink::RequestSink;
use super::passage::Passage;
use crate::auth::imports::ServiceExport;
use crate::base::ids::{AccountId, ClientKey, LinkId};
use crate::base::limits::LATENCY_NOTES_MAX;
use crate::config::import_options::LatencyOptions;
use crate::protocol::headers;
use crate::protocol::message::Message;

/// Names and values of headers.
pub(crate) type HeaderMap = Vec<(String, Vec<String>)>;

/// A request whose duration will be published.
#[derive(Debug)]
pub struct Tracked {
    pub exporter: AccountId,
    export: Arc<ServiceExport>,
    /// The requester's description, JSON.
    pub requestor: String,
    pub requestor_rtt: Duration,
    /// The headers because of which it was sampled.
    pub headers: HeaderMap,
    pub at: SystemTime,
    began: Instant,
}

impl Tracked {
    /// The subject on which the duration is published in the exporting account.
    pub fn subject(&self) -> &str {
        self.export.latency.as_ref().map_or("", |latency| &latency.subject)
    }

    pub(super) fn bytes(&self) -> usize {
        let headers = self
            .headers
            .iter()
            .map(|(name, values)| name.len() + values.iter().map(String::len).sum::<usize>());
        size_of::<Self>() + self.requestor.len() + headers.sum::<usize>()
    }
}

/// The end of a request whose duration is published.
#[derive(Debug)]
pub enum Ending {
    Answered {
        round_trip: Duration,
        /// The responder, by the link behind which it is and its key there; none = it is no client.
        responder: Option<(Option<LinkId>, ClientKey)>,
    },
    /// It has no reply subject.
    NoReply,
    /// The requester no longer waits for the answer.
    InterestLost,
    Nobody,
    TimedOut,
}

/// A request whose duration is to be published.
#[derive(Debug)]
pub struct LatencyNote {
    pub request: Box<Tracked>,
    pub ending: Ending,
}

/// The ended requests of one shard.
#[derive(Default)]
pub(super) struct Latencies {
    ended: VecDeque<LatencyNote>,
    dropped: u64,
}

impl Latencies {
    pub(super) fn push(&mut self, request: Box<Tracked>, ending: Ending) {
        match self.ended.len() < LATENCY_NOTES_MAX {
            true => self.ended.push_back(LatencyNote { request, ending }),
            false => self.dropped += 1,
        }
    }
}

/// Returns None for a request that is not sampled, else the headers that decided it.
fn sample(latency: &LatencyOptions, block: &[u8], random: &mut fastrand::Rng) -> Option<HeaderMap> {
    // Equal, too, as in nats-server.
    let is_chosen = latency.sampling > 0 && random.u8(..100) <= latency.sampling;
    if latency.sampling >= 100 || is_chosen {
        return Some(Vec::new());
    }
    sample_by_headers(block)
}

/// Names of headers as Go writes them.
const UBER: &str = "Uber-Trace-Id";
const UBER_CONTEXT: &str = "Uberctx-";
const B3_SAMPLED: &str = "X-B3-Sampled";
const B3_TRACE: &str = "X-B3-Traceid";
const B3_FAMILY: [&str; 4] = [B3_SAMPLED, B3_TRACE, "X-B3-Parentspanid", "X-B3-Spanid"];
const B3: &str = "B3";
const TRACE_PARENT: &str = "Traceparent";
const TRACE_STATE: &str = "Tracestate";

/// Returns None if no header asks for sampling, or one forbids it, else the headers of the deciding
/// family.
fn sample_by_headers(block: &[u8]) -> Option<HeaderMap> {
    let all = canonical_headers(block);
    let values = |name: &str| all.iter().find(|(own, _)| own == name).map(|(_, values)| values);
    let first = |name: &str| values(name).map(|values| &*values[0]);
    let family = |is_in: &dyn Fn(&str) -> bool| -> Option<HeaderMap> {
        Some(all.iter().filter(|(name, _)| is_in(name)).cloned().collect())
    };
    let of_b3 = |name: &str| B3_FAMILY.contains(&name);
    if let Some(value) = first(UBER) {
        let fields: Vec<&str> = value.split(':').collect();
        let [_, _, _, flags] = fields[..] else { return None };
        let is_hex = flags.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u8::from_str_radix(flags, 16).ok().filter(|_| is_hex && flags.len() <= 2)?;
        let of_uber = |name: &str| name == UBER || name.starts_with(UBER_CONTEXT);
        return if number & 1 == 1 { family(&of_uber) } else { None };
    }
    match first(B3_SAMPLED) {
        Some("1") => return family(&of_b3),
        Some("0") => return None,
        _ => {}
    }
    if values(B3_TRACE).is_some() {
        return family(&of_b3);
    }
    if let Some(value) = first(B3) {
        let fields: Vec<&str> = value.split('-').collect();
        let denies = fields.get(2) == Some(&"0") || fields[..] == ["0"];
        return if denies { None } else { family(&|name| name == B3) };
    }
    let value = first(TRACE_PARENT)?;
    let of_parent = |name: &str| name == TRACE_PARENT || name == TRACE_STATE;
    if headers::is_sampled_parent(value.as_bytes()) { family(&of_parent) } else { None }
}

/// Returns all headers in the order of their names, which are spelt as Go spells them.
fn canonical_headers(block: &[u8]) -> HeaderMap {
    let mut all: HeaderMap = Vec::new();
    for (name, value) in headers::fields(block) {
        let name = canonical(&String::from_utf8_lossy(name));
        let value = String::from_utf8_lossy(value).into_owned();
        match all.iter_mut().find(|(own, _)| *own == name) {
            Some((_, values)) => values.push(value),
            None => all.push((name, vec![value])),
        }
    }
    all.sort();
    all
}

/// Returns a name with the first letter of each word in upper case, and all others in lower case.
fn canonical(name: &str) -> String {
    let mut starts_word = true;
    let spell = |letter: char| {
        let spelt = match starts_word {
            true => letter.to_ascii_uppercase(),
            false => letter.to_ascii_lowercase(),
        };
        starts_word = letter == '-';
        spelt
    };
    name.chars().map(spell).collect()
}

impl Broker {
    /// Returns the record of a request if it is sampled.
    #[cold]
    pub(super) fn track(
        &mut self,
        sink: &RequestSink,
        passage: &Passage<'_>,
    ) -> Option<Box<Tracked>> {
        let export = &sink.route.import.export;
        let latency = export.latency.as_ref()?;
        let Message { headers, .. } = passage.message;
        let headers = sample(latency, headers, &mut self.random)?;
        let (requestor, rtt_ns) = self.describe_requester(sink, passage);
        Some(Box::new(Tracked {
            exporter: sink.route.exporter,
            export: export.clone(),
            requestor,
            requestor_rtt: Duration::from_nanos(rtt_ns),
            headers,
            at: SystemTime::now(),
            began: Instant::now(),
        }))
    }

    /// A request was answered by the publisher of a message from behind `home`.
    #[cold]
    pub(super) fn end_tracked(
        &mut self,
        request: Box<Tracked>,
        home: Option<LinkId>,
        responder: Option<ClientKey>,
    ) {
        let round_trip = request.began.elapsed();
        let responder = responder.map(|client| (home, client));
        self.latencies.push(request, Ending::Answered { round_trip, responder });
    }

    /// True if there are durations to be published.
    #[inline]
    pub fn has_latency_notes(&self) -> bool {
        !self.latencies.ended.is_empty()
    }

    /// Takes the oldest of them.
    pub fn next_latency_note(&mut self) -> Option<LatencyNote> {
        self.latencies.ended.pop_front()
    }

    /// Durations of this shard that found no room.
    pub fn latencies_dropped(&self) -> u64 {
        self.latencies.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_decide_in_the_order_of_their_families() {
        let uber = "uber-trace-id: 479fefe9525eddb:5adb976bfc1f95c1:479fefe9525eddb:1";
        for (lines, expected) in [
            (&[][..], None),
            (&["X: y"], None),
            (&[uber, "uberctx-a: b", "X: y"], Some("Uber-Trace-Id,Uberctx-A")),
            (&["Uber-Trace-Id: a:b:c:0", "X-B3-Sampled: 1"], None),
            (&["Uber-Trace-Id: a:b:c", "X-B3-Sampled: 1"], None),
            (&["Uber-Trace-Id: a:b:c:003"], None),
            (&["Uber-Trace-Id: a:b:c:+1"], None),
            (&["Uber-Trace-Id: a:b:c:0f"], Some("Uber-Trace-Id")),
            (&["X-B3-Sampled: 1", "X-B3-SpanId: 2", "B3: 0"], Some("X-B3-Sampled,X-B3-Spanid")),
            (&["X-B3-Sampled: 0", "X-B3-TraceId: 2"], None),
            (&["X-B3-Sampled: d", "X-B3-TraceId: 2"], Some("X-B3-Sampled,X-B3-Traceid")),
            (&["X-B3-Sampled: d"], None),
            (&["B3: 0"], None),
            (&["b3: 1"], Some("B3")),
            (&["b3: a-b-0-c"], None),
            (&["b3: a-b-1-c"], Some("B3")),
            (&["traceparent: 00-a-b-00"], None),
            (&["traceparent: 00-a-b-01", "tracestate: x"], Some("Traceparent,Tracestate")),
        ] {
            let block = format!("NATS/1.0\r\n{}\r\n\r\n", lines.join("\r\n"));
            let found = sample_by_headers(block.as_bytes()).map(|headers| {
                headers.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(",")
            });
            assert_eq!(found.as_deref(), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_percentage_chooses_about_as_many_and_all_if_it_is_all() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut chosen = |sampling| {
            let latency = LatencyOptions { subject: "m".into(), sampling };
            (0..10_000).filter(|_| sample(&latency, b"", &mut random).is_some()).count()
        };
        assert_eq!((chosen(0), chosen(100)), (0, 10_000));
        // One percent more than it says, as in nats-server.
        assert!((2_800..3_500).contains(&chosen(30)));
    }
}
