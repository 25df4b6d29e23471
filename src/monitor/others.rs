//! Endpoints of parts that do not exist here (`/routez`, `/leafz`, `/gatewayz`, `/jsz`), and
//! `/healthz`.
//!
//! Tools ask for them whatever the server runs; each answers like a nats-server in which that part
//! is off.

use serde::Serialize;

use super::connz::parse_subscriptions;
use super::http::Response;
use super::query::Query;
use super::varz::ServerFacts;
use crate::protocol::nats::error::quoted;

#[derive(Debug, Serialize)]
struct Routez<'a> {
    server_id: &'a str,
    server_name: &'a str,
    now: String,
    num_routes: u32,
    routes: [(); 0],
}

#[derive(Debug, Serialize)]
struct Leafz<'a> {
    server_id: &'a str,
    now: String,
    leafnodes: u32,
    leafs: [(); 0],
}

#[derive(Debug, Serialize)]
struct Gatewayz<'a> {
    server_id: &'a str,
    now: String,
    outbound_gateways: Nothing,
    inbound_gateways: Nothing,
}

#[derive(Debug, Default, Serialize)]
struct Nothing {}

#[derive(Debug, Serialize)]
struct Healthz {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<HealthError>,
}

#[derive(Debug, Serialize)]
struct HealthError {
    #[serde(rename = "type")]
    kind: &'static str,
    error: String,
}

/// Returns JSON indented by two blanks per level, as nats-server does.
pub(crate) fn pretty(value: &impl Serialize) -> Response {
    Response::json(200, serde_json::to_vec_pretty(value).expect("plain values always serialize"))
}

/// Checks the arguments of `/routez`.
///
/// # Errors
/// The text of a 400 answer, as in the functions below.
pub(crate) fn check_routez(query: &Query) -> Result<(), String> {
    parse_subscriptions(query).map(|_| ())
}

pub(crate) fn check_leafz(query: &Query) -> Result<(), String> {
    query.boolean("subs").map(|_| ())
}

pub(crate) fn check_gatewayz(query: &Query) -> Result<(), String> {
    parse_subscriptions(query)?;
    query.boolean("accs").map(|_| ())
}

pub(crate) fn check_jsz(query: &Query) -> Result<(), String> {
    for name in ["accounts", "streams", "consumers", "direct-consumers", "config"] {
        query.boolean(name)?;
    }
    for name in ["offset", "limit"] {
        query.integer(name)?;
    }
    let leader_only = query.boolean("leader-only")?;
    for name in ["raft", "stream-leader-only"] {
        query.boolean(name)?;
    }
    if leader_only { Err("filtered response: not leader".into()) } else { Ok(()) }
}

pub(crate) fn routez(facts: &ServerFacts) -> Response {
    let info = &facts.info;
    pretty(&Routez {
        server_id: &info.server_id,
        server_name: &info.server_name,
        now: facts.now_text(),
        num_routes: 0,
        routes: [],
    })
}

pub(crate) fn leafz(facts: &ServerFacts) -> Response {
    let server_id = &facts.info.server_id;
    pretty(&Leafz { server_id, now: facts.now_text(), leafnodes: 0, leafs: [] })
}

pub(crate) fn gatewayz(facts: &ServerFacts) -> Response {
    pretty(&Gatewayz {
        server_id: &facts.info.server_id,
        now: facts.now_text(),
        outbound_gateways: Nothing {},
        inbound_gateways: Nothing {},
    })
}

/// A part of JetStream that a probe names and that is not there.
pub(crate) struct Unhealthy {
    /// The kind of its error.
    pub kind: &'static str,
    pub error: String,
}

/// Switches of a health probe for parts that are off here, and so never unhealthy. In nats-server's
/// order.
pub(super) const HEALTH_SWITCHES: [&str; 5] =
    ["js-enabled", "js-enabled-only", "js-server-only", "js-meta-only", "leaf-remotes-connected"];

/// The arguments of a health probe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthzOptions {
    pub details: bool,
    /// An account, and a stream of it, that are to be healthy; empty = none is named.
    pub account: String,
    pub stream: String,
    /// True if the probe has the switch that nats-server calls deprecated.
    is_deprecated: bool,
    /// Set if a stream was named without its account, or a consumer without its stream: the missing
    /// one and the one named.
    missing: Option<(&'static str, &'static str)>,
    /// True if the answer has its HTTP status as a field, because it is not sent over HTTP.
    pub with_code: bool,
}

impl HealthzOptions {
    pub fn parse(query: &Query) -> Result<Self, String> {
        for name in HEALTH_SWITCHES {
            query.boolean(name)?;
        }
        let details = query.boolean("details")?;
        let is_given = |name: &str| !query.get(name).is_empty();
        let (account, stream) = (is_given("account"), is_given("stream"));
        let is_deprecated = query.boolean("js-enabled")?;
        Ok(Self {
            is_deprecated,
            account: query.get("account").to_owned(),
            stream: query.get("stream").to_owned(),
            ..Self::new(details, account, stream, is_given("consumer"))
        })
    }

    /// The flags say which arguments were given.
    pub fn new(details: bool, account: bool, stream: bool, consumer: bool) -> Self {
        let missing = if stream && !account {
            Some(("account", "stream"))
        } else if consumer && !stream {
            Some(("stream", "consumer"))
        } else {
            None
        };
        let (account, stream) = (String::new(), String::new());
        Self { details, account, stream, is_deprecated: false, missing, with_code: false }
    }
}

/// Answers `/healthz`: healthy while new clients are let in and every shard answers; shards that do
/// not are named. A problem is logged if the request came over HTTP. Source: nats-server
/// server/monitor.go HandleHealthz.
pub(crate) fn healthz(
    options: &HealthzOptions,
    is_leaving: bool,
    late_shards: &[usize],
    unhealthy: Option<Unhealthy>,
) -> Response {
    if options.is_deprecated {
        tracing::warn!("Healthcheck: js-enabled deprecated, use js-enabled-only instead");
    }
    let (status, state, kind, error) = if let Some((missing, asked)) = options.missing {
        let missing = quoted(missing.as_bytes());
        let error = format!("{missing} must not be empty when checking {asked} health");
        (400, "error", "BAD_REQUEST", Some(error))
    } else if is_leaving {
        let error = "failed to be ready for connections after 1ms: server".to_owned();
        (500, "error", "CONNECTION", Some(error))
    } else if let Some(Unhealthy { kind, error }) = unhealthy {
        (404, "unavailable", kind, Some(error))
    } else if late_shards.is_empty() {
        (200, "ok", "", None)
    } else {
        let names: Vec<String> = late_shards.iter().map(usize::to_string).collect();
        let error = format!("shards that do not answer: {}", names.join(","));
        (503, "unavailable", "CONNECTION", Some(error))
    };
    if let Some(error) = error.as_ref().filter(|_| !options.with_code) {
        let what = if options.details { "1 errors".to_owned() } else { quoted(error.as_bytes()) };
        tracing::warn!("Healthcheck failed: {what}");
    }
    let status_code = options.with_code.then_some(status);
    let health = match (options.details, error) {
        (true, Some(error)) => {
            let errors = vec![HealthError { kind, error }];
            Healthz { status: "error", status_code, error: None, errors }
        }
        (_, error) => Healthz { status: state, status_code, error, errors: Vec::new() },
    };
    Response::json(status, serde_json::to_vec(&health).expect("plain values always serialize"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(query: &str, late: &[usize]) -> (u16, String) {
        let options = HealthzOptions::parse(&Query::parse(query)).unwrap();
        let response = healthz(&options, false, late, None);
        (response.status, String::from_utf8(response.body).unwrap())
    }

    #[test]
    fn health_is_compact_and_names_what_is_wrong() {
        assert_eq!(health("js-enabled-only=true", &[]), (200, r#"{"status":"ok"}"#.into()));
        let text = r#"{"status":"error","error":"\"account\" must not be empty when checking stream health"}"#;
        assert_eq!(health("stream=x", &[]), (400, text.into()));
        let text = r#"{"status":"error","errors":[{"type":"BAD_REQUEST","error":"\"stream\" must not be empty when checking consumer health"}]}"#;
        assert_eq!(health("consumer=x&details=1", &[]), (400, text.into()));
        let text = r#"{"status":"unavailable","error":"shards that do not answer: 1,3"}"#;
        assert_eq!(health("", &[1, 3]), (503, text.into()));
    }

    /// As nats-server 2.15.3, which has no leafnode remotes either.
    #[test]
    fn switches_of_parts_that_are_off_are_booleans() {
        for name in HEALTH_SWITCHES {
            assert_eq!(health(&format!("{name}=1"), &[]), (200, r#"{"status":"ok"}"#.into()));
            let refused = HealthzOptions::parse(&Query::parse(&format!("{name}=zz&details=zz")));
            let text = format!(
                "Error decoding boolean for '{name}': strconv.ParseBool: parsing \"zz\": invalid syntax"
            );
            assert_eq!(refused, Err(text));
        }
    }

    #[test]
    fn jetstream_arguments_are_checked_though_it_is_off() {
        let check = |text: &str| check_jsz(&Query::parse(text));
        assert_eq!(check("accounts=true&limit=-1&raft=1"), Ok(()));
        assert_eq!(check("leader-only=1"), Err("filtered response: not leader".into()));
        assert!(check("limit=x").is_err());
        assert!(check("config=2").is_err());
    }
}
