//! Options of nats-server's features that Midge does not have yet: recognised, and refused by name
//! if they ask for the feature.

use crate::config::feature::Feature;
use crate::config::read_later;
use crate::config::row::{AsksOf, Flag, Kind, Reload, Row};

const fn later(
    key: &'static str,
    feature: Feature,
    aliases: &'static [&'static str],
    asks: AsksOf,
) -> Row {
    Row {
        key,
        aliases,
        flag: None,
        kind: Kind::Later { feature, asks, flag_asks: true },
        default: "",
        reload: Reload::Restart,
        go_name: "",
        help: "",
        same: |_, _| true,
        shown: |_| String::new(),
    }
}

impl Row {
    const fn later_flag(
        mut self,
        names: &'static [&'static str],
        argument: &'static str,
        asks: bool,
    ) -> Self {
        self.flag = Some(Flag { names, argument, inverse: false, help: "" });
        if let Kind::Later { flag_asks, .. } = &mut self.kind {
            *flag_asks = asks;
        }
        self
    }
}

/// Returns the row of a flag that has no option of the same meaning.
const fn later_flag(
    names: &'static [&'static str],
    argument: &'static str,
    feature: Feature,
    asks: bool,
) -> Row {
    later("", feature, &[], read_later::nothing).later_flag(names, argument, asks)
}

/// A flag with `asks` false has no effect in nats-server without another that turns the feature on.
pub static LATER: &[Row] = &[
    later("default_js_domain", Feature::Leafnodes, &[], read_later::default_js_domain),
    later("cluster", Feature::Clustering, &[], read_later::cluster).later_flag(
        &["cluster", "cluster_listen"],
        "<url>",
        true,
    ),
    later_flag(&["routes"], "<urls>", Feature::Clustering, true),
    later_flag(&["cluster_name"], "<name>", Feature::Clustering, false),
    later_flag(&["cluster_advertise"], "<address>", Feature::Clustering, false),
    later_flag(&["no_advertise"], "", Feature::Clustering, false),
    later_flag(&["connect_retries"], "<number>", Feature::Clustering, false),
    later("gateway", Feature::Gateways, &[], read_later::gateway),
    later("leafnodes", Feature::Leafnodes, &["leaf"], read_later::leafnodes),
    later("mqtt", Feature::Mqtt, &[], read_later::mqtt),
    later("ocsp", Feature::OcspStapling, &[], read_later::ocsp),
    later("ocsp_cache", Feature::OcspStapling, &[], read_later::ocsp_cache),
    later("proxies", Feature::TrustedProxies, &[], read_later::proxies),
    later("syslog", Feature::Syslog, &[], read_later::toggle).later_flag(
        &["s", "syslog"],
        "",
        true,
    ),
    later("remote_syslog", Feature::Syslog, &[], read_later::filled_text).later_flag(
        &["r", "remote_syslog"],
        "<url>",
        true,
    ),
    later("prof_port", Feature::Profiling, &[], read_later::number).later_flag(
        &["profile"],
        "<port>",
        true,
    ),
    later("prof_block_rate", Feature::Profiling, &[], read_later::number),
    later("feature_flags", Feature::Flags, &[], read_later::feature_flags),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_sentences() {
        let text = "Gateways are not supported yet (--allow-unsupported starts without them)";
        assert_eq!(Feature::Gateways.refusal(), text);
        let text = "Syslog is not supported yet (--allow-unsupported starts without it)";
        assert_eq!(Feature::Syslog.refusal(), text);
        let text = "Trusted proxies are not supported yet; they decide who may connect, so no flag \
                    starts a server without them";
        assert_eq!(Feature::TrustedProxies.refusal(), text);
        let text = "The account resolver URL is not supported yet; it decides who may connect, so no \
                    flag starts a server without it";
        assert_eq!(Feature::Resolvers.refusal(), text);
    }
}
