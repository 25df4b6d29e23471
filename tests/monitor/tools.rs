//! The fields that nats-top, prometheus-nats-exporter, the Helm chart and the launcher of nats.js
//! read, each with the type it requires. The exporter exits without a `server_id` and panics on a
//! wrong type.
//!
//! Source of the lists: the code of those tools.

use serde_json::Value;

use super::{Monitored, load};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Text,
    /// Not negative, without a fraction.
    Count,
    Number,
    Flag,
    List,
    Object,
    /// RFC 3339 with a zone of Z.
    Time,
    /// `1y2d3h4m5s`.
    Uptime,
    /// Go's `201.674289ms`.
    Duration,
}

use Kind::{Count, Duration, Flag, List, Number, Object, Text, Time, Uptime};

impl Kind {
    fn fits(self, value: &Value) -> bool {
        let text = || value.as_str().unwrap_or_default();
        match self {
            Text => value.is_string(),
            Count => value.is_u64(),
            Number => value.is_number(),
            Flag => value.is_boolean(),
            List => value.is_array(),
            Object => value.is_object(),
            Time => {
                let text = text();
                text.len() >= 20 && &text[10..11] == "T" && text.ends_with('Z')
            }
            Uptime => is_uptime(text()),
            Duration => is_go_duration(text()),
        }
    }
}

/// Parses as the exporter does: numbers with y, d, h, m, s, each at most once, in that order.
fn is_uptime(text: &str) -> bool {
    let mut units = "ydhms".chars();
    let mut parts = text.split_inclusive(|char: char| char.is_ascii_alphabetic()).peekable();
    parts.peek().is_some()
        && parts.all(|part| {
            let (digits, unit) = part.split_at(part.len() - 1);
            digits.parse::<u64>().is_ok() && units.any(|next| unit.starts_with(next))
        })
}

fn is_go_duration(text: &str) -> bool {
    let digits = text.trim_end_matches(|char: char| char.is_alphabetic());
    let unit = &text[digits.len()..];
    digits.parse::<f64>().is_ok() && ["ns", "µs", "ms", "s"].contains(&unit)
}

/// Fields as JSON pointers.
type Fields = &'static [(&'static str, Kind)];

/// The tool, the path that it requests, and the fields that it reads.
const READ: [(&str, &str, Fields); 14] = [
    (
        "nats-top",
        "/varz",
        &[
            ("/cpu", Number),
            ("/mem", Count),
            ("/uptime", Uptime),
            ("/in_msgs", Count),
            ("/out_msgs", Count),
            ("/in_bytes", Count),
            ("/out_bytes", Count),
            ("/slow_consumers", Count),
            ("/server_id", Text),
            ("/server_name", Text),
            ("/version", Text),
            ("/now", Time),
            ("/ping_interval", Count),
            ("/connections", Count),
        ],
    ),
    (
        "nats-top",
        "/connz?limit=10&sort=cid&subs=1",
        &[
            ("/num_connections", Count),
            ("/connections/0/cid", Count),
            ("/connections/0/name", Text),
            ("/connections/0/ip", Text),
            ("/connections/0/port", Count),
            ("/connections/0/subscriptions", Count),
            ("/connections/0/pending_bytes", Count),
            ("/connections/0/out_msgs", Count),
            ("/connections/0/in_msgs", Count),
            ("/connections/0/out_bytes", Count),
            ("/connections/0/in_bytes", Count),
            ("/connections/0/lang", Text),
            ("/connections/0/version", Text),
            ("/connections/0/uptime", Uptime),
            ("/connections/0/last_activity", Time),
            ("/connections/0/subscriptions_list", List),
        ],
    ),
    (
        "exporter",
        "/varz",
        &[
            ("/server_id", Text),
            ("/server_name", Text),
            ("/version", Text),
            ("/start", Time),
            ("/config_load_time", Time),
            ("/cluster", Object),
            ("/gateway", Object),
            ("/leaf", Object),
            ("/slow_consumer_stats/clients", Count),
            ("/http_req_stats", Object),
            ("/max_connections", Count),
            ("/subscriptions", Count),
        ],
    ),
    (
        "exporter",
        "/connz",
        &[
            ("/num_connections", Count),
            ("/total", Count),
            ("/offset", Count),
            ("/limit", Count),
            ("/connections/0/cid", Count),
            ("/connections/0/kind", Text),
            ("/connections/0/type", Text),
            ("/connections/0/ip", Text),
            ("/connections/0/port", Count),
            ("/connections/0/start", Time),
            ("/connections/0/last_activity", Time),
            ("/connections/0/rtt", Duration),
            ("/connections/0/uptime", Uptime),
            ("/connections/0/idle", Uptime),
            ("/connections/0/pending_bytes", Count),
            ("/connections/0/subscriptions", Count),
            ("/connections/0/in_msgs", Count),
            ("/connections/0/out_msgs", Count),
            ("/connections/0/in_bytes", Count),
            ("/connections/0/out_bytes", Count),
            ("/connections/0/name", Text),
            ("/connections/0/lang", Text),
            ("/connections/0/version", Text),
        ],
    ),
    ("exporter", "/connz?auth=1", &[("/connections/0/name_tag", Text)]),
    (
        "exporter",
        "/subsz",
        &[
            ("/server_id", Text),
            ("/num_subscriptions", Count),
            ("/num_cache", Count),
            ("/num_inserts", Count),
            ("/num_removes", Count),
            ("/num_matches", Count),
            ("/cache_hit_rate", Number),
            ("/max_fanout", Count),
            ("/avg_fanout", Number),
        ],
    ),
    ("exporter", "/routez", &[("/server_id", Text), ("/num_routes", Count), ("/routes", List)]),
    ("exporter", "/leafz", &[("/server_id", Text), ("/leafnodes", Count), ("/leafs", List)]),
    (
        "exporter",
        "/gatewayz",
        &[("/server_id", Text), ("/outbound_gateways", Object), ("/inbound_gateways", Object)],
    ),
    (
        "exporter",
        "/accstatz?unused=1",
        &[
            ("/server_id", Text),
            ("/account_statz/0/acc", Text),
            ("/account_statz/0/name", Text),
            ("/account_statz/0/conns", Count),
            ("/account_statz/0/leafnodes", Count),
            ("/account_statz/0/total_conns", Count),
            ("/account_statz/0/num_subscriptions", Count),
            ("/account_statz/0/sent/msgs", Count),
            ("/account_statz/0/sent/bytes", Count),
            ("/account_statz/0/received/msgs", Count),
            ("/account_statz/0/received/bytes", Count),
            ("/account_statz/0/slow_consumers", Count),
        ],
    ),
    ("exporter", "/accountz", &[("/server_id", Text), ("/accounts", List), ("/accounts/0", Text)]),
    (
        "exporter",
        "/accountz?acc=$G",
        &[
            ("/account_detail/account_name", Text),
            ("/account_detail/client_connections", Count),
            ("/account_detail/leafnode_connections", Count),
            ("/account_detail/subscriptions", Count),
            ("/account_detail/expired", Flag),
            ("/account_detail/complete", Flag),
            ("/account_detail/jetstream_enabled", Flag),
        ],
    ),
    (
        "exporter",
        "/jsz?consumers=true&config=true&raft=true",
        &[
            ("/server_id", Text),
            ("/disabled", Flag),
            ("/config", Object),
            ("/config/max_memory", Number),
            ("/config/max_storage", Number),
            ("/streams", Count),
            ("/consumers", Count),
            ("/messages", Count),
            ("/bytes", Count),
            ("/memory", Count),
            ("/storage", Count),
            ("/api", Object),
        ],
    ),
    ("exporter and Helm chart", "/healthz?js-enabled-only=true", &[("/status", Text)]),
];

#[test]
fn the_fields_that_tools_require_are_there() {
    let monitored = Monitored::start("");
    let mut load = load(&monitored);
    for (tool, path, fields) in READ {
        let answer = monitored.json(path);
        for (pointer, kind) in fields {
            let value = answer
                .pointer(pointer)
                .unwrap_or_else(|| panic!("{tool}: {path} has no {pointer}: {answer:#}"));
            assert!(kind.fits(value), "{tool}: {path} {pointer} is {value}, not {kind:?}");
        }
    }
    for path in ["/healthz", "/healthz?js-enabled-only=true", "/healthz?js-server-only=true"] {
        assert_eq!(monitored.json(path)["status"], "ok", "{path}");
    }
    assert_eq!(monitored.json("/jsz")["disabled"], true);
    load.publisher.round_trip().unwrap();
}

/// The exporter makes a metric of every number in `/varz`, and takes a text for one of its few
/// labels or ignores it: no name may stand for a number here and a text there.
#[test]
fn varz_has_one_type_for_each_name() {
    let monitored = Monitored::start("");
    let _load = load(&monitored);
    let mut found = std::collections::BTreeMap::new();
    for _ in 0..2 {
        super::shape("", &monitored.json("/varz"), &mut found);
    }
    for label in ["server_id", "server_name", "version", "start", "config_load_time"] {
        assert_eq!(found.get(&format!(".{label}")), Some(&"string"), "{label}");
    }
    assert!(!found.values().any(|kind| *kind == "null"), "{found:?}");
}

#[test]
fn the_formats_are_told_apart() {
    assert!(["0s", "5s", "1y2d3h4m5s", "4m5s", "2d0h0m1s"].into_iter().all(is_uptime));
    assert!(!["", "5", "s", "5s4m", "1.5s", "5ms"].into_iter().any(is_uptime));
    assert!(["201.674289ms", "0s", "31.5µs", "900ns"].into_iter().all(is_go_duration));
    assert!(!["", "5", "ms", "5x"].into_iter().any(is_go_duration));
}
