//! The two HTML pages: the list of endpoints, and the live dashboard, a single self-contained file.

use super::http::Response;
use super::varz::ServerFacts;

/// Polls `/varz` and `/connz` of the same base path; loads nothing else. Where the server listens for
/// WebSocket, the page can subscribe by a connection of its own, as the user that one names there.
const DASHBOARD: &str = include_str!("dashboard.html");

pub(crate) fn dashboard() -> Response {
    Response::html(DASHBOARD)
}

/// Every endpoint with what it shows.
const ENDPOINTS: [(&str, &str); 12] = [
    ("dashboard", "Live dashboard"),
    ("varz", "The server"),
    ("connz", "Connections"),
    ("subsz", "Subscriptions"),
    ("accountz", "Accounts"),
    ("accstatz", "Account statistics"),
    ("routez", "Routes"),
    ("leafz", "Leafnodes"),
    ("gatewayz", "Gateways"),
    ("jsz", "JetStream"),
    ("healthz", "Health"),
    ("metrics", "Prometheus metrics"),
];

/// Returns links to all endpoints, relative to the page's own address.
pub(crate) fn root(facts: &ServerFacts, base_path: &str) -> Response {
    let base = base_path.trim_end_matches('/');
    let links: String = ENDPOINTS
        .iter()
        .map(|(path, text)| {
            format!("<li><a href=\"{}/{path}\">{text}</a> <code>/{path}</code>\n", escaped(base))
        })
        .collect();
    let name = escaped(&facts.info.server_name);
    Response::html(format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{name}</title>\n\
         <style>:root{{color-scheme:light dark}}body{{font:16px/1.6 system-ui,sans-serif;margin:2rem auto;\
         max-width:40rem;padding:0 1rem}}code{{opacity:.6}}h1{{font-size:1.2rem;overflow-wrap:anywhere}}</style>\n\
         <h1>{name}</h1>\n<p>Midge {}, nats-server {}</p>\n<ul>\n{links}</ul>\n</html>\n",
        facts.version, facts.info.version
    ))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dashboard_loads_nothing_from_elsewhere_and_makes_no_markup_of_data() {
        let without_namespaces = DASHBOARD.replace("http://www.w3.org/2000/svg", "");
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!without_namespaces.contains(outside), "{outside}");
        }
        for markup in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!DASHBOARD.contains(markup), "{markup}");
        }
    }

    /// A round-trip time is formatted like all other times, not shown as the text in `/connz`.
    #[test]
    fn round_trip_times_have_the_dashboards_own_form() {
        assert_eq!(DASHBOARD.matches("c.rtt").count(), 3);
        assert!(DASHBOARD.contains("seconds(durationSeconds(c.rtt))"));
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(escaped("<a href=\"&\">"), "&lt;a href=&quot;&amp;&quot;&gt;");
    }
}
