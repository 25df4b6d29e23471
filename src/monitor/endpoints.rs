//! From a request to the data that is needed to answer it.

use super::connz::ConnzOptions;
use super::http::{Request, Response};
use super::jsz::JszOptions;
use super::others::{self, HealthzOptions};
use super::subsz::SubszOptions;

/// One endpoint with its validated arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    Root,
    Varz,
    Connz(ConnzOptions),
    Subsz(SubszOptions),
    Routez,
    Leafz,
    Gatewayz,
    /// One account's details; None = all names.
    Accountz(Option<String>),
    Accstatz {
        unused: bool,
        /// Empty = all.
        accounts: Vec<String>,
    },
    Healthz(HealthzOptions),
    Jsz(JszOptions),
    /// There is no server that votes: nats-server's answer without JetStream.
    Raftz,
    /// There are no such queues: nats-server's answer if all are empty.
    Ipqueuesz,
    /// The threads of the process, in place of nats-server's goroutines.
    Threads,
    /// Go's own variables, as far as they exist here.
    Variables,
    Metrics,
    Dashboard,
}

/// The paths whose requests are counted, the name under which they are, and whether they are also
/// where an argument is refused. nats-server counts a request where its handler begins, or once it
/// has read the arguments.
const COUNTED: [(&str, &str, bool); 14] = [
    ("/", "/", true),
    ("/varz", "/varz", true),
    ("/connz", "/connz", false),
    ("/routez", "/routez", false),
    ("/subsz", "/subsz", true),
    ("/subscriptionsz", "/subsz", true),
    ("/leafz", "/leafz", true),
    ("/gatewayz", "/gatewayz", true),
    ("/accountz", "/accountz", true),
    ("/accstatz", "/accstatz", true),
    ("/healthz", "/healthz", true),
    ("/jsz", "/jsz", true),
    ("/metrics", "/metrics", true),
    ("/dashboard", "/dashboard", true),
];

/// A request as it is understood.
#[derive(Debug)]
pub struct Plan {
    /// The name under which it is counted; None = it is not.
    pub counted: Option<&'static str>,
    /// What to answer; or the answer itself, if there is no such endpoint or an argument is
    /// refused.
    pub ask: Result<Ask, Response>,
}

/// Collapses repeated slashes: they come from tools whose base address ends in one. nats-server
/// redirects such tools instead.
fn without_repeated_slashes(path: &str) -> String {
    let mut clean = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !clean.ends_with('/') {
            clean.push(character);
        }
    }
    clean
}

/// Returns the endpoint's path below the base path; None if it is elsewhere.
fn below<'a>(base_path: &str, path: &'a str) -> Option<&'a str> {
    let base = base_path.trim_end_matches('/');
    let rest = path.strip_prefix(base)?;
    match rest {
        "" if !base.is_empty() => Some("/"),
        // nats-server has its index at the base path alone.
        "/" if !base.is_empty() => None,
        _ => rest.starts_with('/').then_some(rest),
    }
}

/// Finds the endpoint that a request asks for.
pub fn plan(base_path: &str, request: &Request) -> Plan {
    let path = without_repeated_slashes(&request.path);
    let Some(endpoint) = below(base_path, &path) else {
        return Plan { counted: None, ask: Err(Response::not_found()) };
    };
    let ask = understand(endpoint, request);
    let row = COUNTED.iter().find(|(path, ..)| *path == endpoint);
    let counted = row.filter(|(.., if_refused)| *if_refused || ask.is_ok()).map(|row| row.1);
    Plan { counted, ask }
}

fn understand(endpoint: &str, request: &Request) -> Result<Ask, Response> {
    let query = &request.query;
    let refused = |text: String| Response::text(400, text);
    Ok(match endpoint {
        "/" => Ask::Root,
        "/varz" => Ask::Varz,
        "/connz" => Ask::Connz(ConnzOptions::parse(query).map_err(refused)?),
        "/subsz" | "/subscriptionsz" => Ask::Subsz(SubszOptions::parse(query).map_err(refused)?),
        "/routez" => others::check_routez(query).map(|()| Ask::Routez).map_err(refused)?,
        "/leafz" => others::check_leafz(query).map(|()| Ask::Leafz).map_err(refused)?,
        "/gatewayz" => others::check_gatewayz(query).map(|()| Ask::Gatewayz).map_err(refused)?,
        "/accountz" => Ask::Accountz(query.given("acc")),
        "/accstatz" => Ask::Accstatz {
            unused: query.boolean("unused").map_err(refused)?,
            accounts: Vec::new(),
        },
        "/healthz" => Ask::Healthz(HealthzOptions::parse(query).map_err(refused)?),
        "/jsz" => JszOptions::parse(query).map(Ask::Jsz).map_err(refused)?,
        "/raftz" => Ask::Raftz,
        "/ipqueuesz" => {
            query.boolean("all").map_err(refused)?;
            Ask::Ipqueuesz
        }
        "/stacksz" => Ask::Threads,
        "/debug/vars" => Ask::Variables,
        "/metrics" => Ask::Metrics,
        "/dashboard" => Ask::Dashboard,
        _ => return Err(Response::not_found()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::query::Query;

    fn ask(base_path: &str, path: &str, query: &str) -> Result<Ask, u16> {
        let request = Request {
            head_only: false,
            path: path.into(),
            query: Query::parse(query),
            keep_alive: true,
        };
        plan(base_path, &request).ask.map_err(|response| response.status)
    }

    /// As nats-server 2.15.3 shows them in `http_req_stats`.
    #[test]
    fn requests_are_counted_where_nats_server_counts_them() {
        let counted = |path: &str, query: &str| {
            let query = Query::parse(query);
            plan("/", &Request { head_only: false, path: path.into(), query, keep_alive: true })
                .counted
        };
        for (path, query, expected) in [
            ("/", "", Some("/")),
            ("/varz", "", Some("/varz")),
            ("/connz", "", Some("/connz")),
            ("/connz", "limit=x", None),
            ("/routez", "subs=zz", None),
            ("/subscriptionsz", "", Some("/subsz")),
            ("/subsz", "limit=x", Some("/subsz")),
            ("/leafz", "subs=zz", Some("/leafz")),
            ("/gatewayz", "accs=zz", Some("/gatewayz")),
            ("/accstatz", "unused=zz", Some("/accstatz")),
            ("/healthz", "details=zz", Some("/healthz")),
            ("/jsz", "limit=x", Some("/jsz")),
            ("/metrics", "", Some("/metrics")),
            ("/raftz", "", None),
            ("/ipqueuesz", "", None),
            ("/ipqueuesz", "all=zz", None),
            ("/stacksz", "", None),
            ("/debug/vars", "", None),
            ("/nope", "", None),
        ] {
            assert_eq!(counted(path, query), expected, "{path}?{query}");
        }
    }

    #[test]
    fn the_base_path_comes_before_every_endpoint() {
        assert_eq!(ask("/", "/varz", ""), Ok(Ask::Varz));
        assert_eq!(ask("/", "/", ""), Ok(Ask::Root));
        assert_eq!(ask("/", "/varz/", ""), Err(404));
        assert_eq!(ask("/", "//varz", ""), Ok(Ask::Varz));
        assert_eq!(ask("/", "/debug//vars", ""), Ok(Ask::Variables));
        assert_eq!(ask("/", "//", ""), Ok(Ask::Root));
        assert_eq!(ask("/", "/./varz", ""), Err(404));
        let all = JszOptions::parse(&Query::parse("")).expect("nothing is wrong");
        for base in ["/nats", "/nats/"] {
            assert_eq!(ask(base, "/nats", ""), Ok(Ask::Root));
            assert_eq!(ask(base, "/nats/", ""), Err(404));
            assert_eq!(ask(base, "/nats/jsz", ""), Ok(Ask::Jsz(all.clone())));
            assert_eq!(ask(base, "//nats//jsz", ""), Ok(Ask::Jsz(all.clone())));
            assert_eq!(ask(base, "/jsz", ""), Err(404));
            assert_eq!(ask(base, "/natsjsz", ""), Err(404));
        }
    }

    #[test]
    fn refused_arguments_are_400_everywhere() {
        let cases = [
            ("/connz", "limit=x"),
            ("/subsz", "test=a.*"),
            ("/subscriptionsz", "offset=x"),
            ("/routez", "subs=2"),
            ("/leafz", "subs=2"),
            ("/gatewayz", "accs=zz"),
            ("/accstatz", "unused=zz"),
            ("/healthz", "js-enabled-only=x"),
            ("/jsz", "accounts=zz"),
            ("/ipqueuesz", "all=zz"),
        ];
        for (path, query) in cases {
            assert_eq!(ask("/", path, query), Err(400), "{path}?{query}");
        }
    }
}
