//! Options of nats-server's later features: recognised, and refused by name.

use crate::config::option_table::{Flag, Kind, Reload, Row};

const fn later(
    key: &'static str,
    feature: &'static str,
    aliases: &'static [&'static str],
    flags: &'static [&'static str],
    argument: &'static str,
) -> Row {
    Row {
        key,
        aliases,
        flag: if flags.is_empty() {
            None
        } else {
            Some(Flag { names: flags, argument, inverse: false, help: "" })
        },
        kind: Kind::Later(feature),
        default: "",
        reload: Reload::Restart,
        go_name: "",
        help: feature,
        same: |_, _| true,
        shown: |_| String::new(),
    }
}

/// The flags here that are switches have an empty argument.
pub static LATER: &[Row] = &[
    later("jetstream", "JetStream", &[], &["js", "jetstream"], ""),
    later("store_dir", "JetStream", &["storedir"], &["sd", "store_dir"], "<dir>"),
    later("default_js_domain", "JetStream", &[], &[], ""),
    later("cluster", "Clustering", &[], &["cluster", "cluster_listen"], "<url>"),
    later("", "Clustering", &[], &["routes"], "<urls>"),
    later("", "Clustering", &[], &["cluster_name"], "<name>"),
    later("", "Clustering", &[], &["cluster_advertise"], "<address>"),
    later("", "Clustering", &[], &["no_advertise"], ""),
    later("", "Clustering", &[], &["connect_retries"], "<number>"),
    later("gateway", "Gateways", &[], &[], ""),
    later("leafnodes", "Leafnodes", &["leaf"], &[], ""),
    later("websocket", "WebSocket", &["ws"], &[], ""),
    later("mqtt", "MQTT", &[], &[], ""),
    later(
        "operator",
        "Operator mode (JWT)",
        &["operators", "roots", "root", "root_operators", "root_operator"],
        &[],
        "",
    ),
    later("resolver", "Operator mode (JWT)", &["account_resolver", "accounts_resolver"], &[], ""),
    later("resolver_tls", "Operator mode (JWT)", &[], &[], ""),
    later("resolver_preload", "Operator mode (JWT)", &[], &[], ""),
    later("resolver_pinned_accounts", "Operator mode (JWT)", &[], &[], ""),
    later("trusted_keys", "Operator mode (JWT)", &["trusted"], &[], ""),
    later("default_sentinel", "Operator mode (JWT)", &[], &[], ""),
    later("ocsp", "OCSP", &[], &[], ""),
    later("ocsp_cache", "OCSP", &[], &[], ""),
    later("proxies", "Trusted proxies", &[], &[], ""),
    later("proxy_protocol", "The PROXY protocol", &[], &[], ""),
    later("syslog", "Syslog", &[], &["s", "syslog"], ""),
    later("remote_syslog", "Syslog", &[], &["r", "remote_syslog"], "<url>"),
    later("prof_port", "Profiling", &[], &["profile"], "<port>"),
    later("prof_block_rate", "Profiling", &[], &[], ""),
    later("feature_flags", "Feature flags", &[], &[], ""),
];

/// What an operator reads when an option of a later feature is used.
pub fn refusal(feature: &str) -> String {
    let it = if is_plural(feature) { "them" } else { "it" };
    format!("{} (--allow-unsupported starts without {it})", not_supported(feature))
}

pub fn not_supported(feature: &str) -> String {
    let is = if is_plural(feature) { "are" } else { "is" };
    format!("{feature} {is} not supported yet")
}

/// By the noun that the feature's name is about.
fn is_plural(feature: &str) -> bool {
    let end = [" between ", " of ", " ("].iter().filter_map(|cut| feature.find(cut)).min();
    feature[..end.unwrap_or(feature.len())].ends_with('s')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_sentences() {
        let plural = ["Gateways", "Leafnodes", "Trusted proxies", "Feature flags"];
        for row in LATER {
            let Kind::Later(feature) = row.kind else { panic!("{} is here", row.key) };
            let verb = if plural.contains(&feature) { "are" } else { "is" };
            assert_eq!(not_supported(feature), format!("{feature} {verb} not supported yet"));
        }
        let text = "Exports between accounts are not supported yet (--allow-unsupported starts without them)";
        assert_eq!(refusal("Exports between accounts"), text);
        let text = "Message tracing of accounts is not supported yet";
        assert_eq!(not_supported("Message tracing of accounts"), text);
    }
}
