//! Reads options of features that Midge does not have yet, as far as needed to see whether they ask
//! for the feature.
//!
//! A block that is switched off asks for nothing, but the names of its options are checked, since a
//! misspelt `port` must not switch it off. Other errors that nats-server finds inside a
//! switched-off block are not looked for.

use crate::config::feature::Asks;
use crate::config::go_text::quoted;
use crate::config::reader::Reader;
use crate::config::value::{Data, Map, Value};

/// Options of every block that has a listener.
const LISTENER: [&str; 4] = ["listen", "port", "host", "net"];

const CLUSTER: [&str; 17] = [
    "name",
    "authorization",
    "routes",
    "tls",
    "cluster_advertise",
    "advertise",
    "no_advertise",
    "connect_retries",
    "connect_backoff",
    "permissions",
    "pool_size",
    "accounts",
    "compression",
    "ping_interval",
    "ping_max",
    "write_deadline",
    "write_timeout",
];

const GATEWAY: [&str; 13] = [
    "name",
    "authorization",
    "tls",
    "advertise",
    "connect_retries",
    "connect_backoff",
    "gateways",
    "reject_unknown",
    "reject_unknown_cluster",
    "write_deadline",
    "write_timeout",
    "ping_interval",
    "ping_max",
];

const LEAFNODES: [&str; 19] = [
    "authorization",
    "remotes",
    "reconnect",
    "reconnect_delay",
    "reconnect_interval",
    "dial_timeout",
    "tls",
    "leafnode_advertise",
    "advertise",
    "no_advertise",
    "min_version",
    "minimum_version",
    "compression",
    "isolate_leafnode_interest",
    "isolate",
    "write_deadline",
    "write_timeout",
    "ping_interval",
    "ping_max",
];

const MQTT: [&str; 19] = [
    "tls",
    "authorization",
    "authentication",
    "no_auth_user",
    "ack_wait",
    "ackwait",
    "js_api_timeout",
    "api_timeout",
    "max_ack_pending",
    "max_pending",
    "max_inflight",
    "js_domain",
    "stream_replicas",
    "consumer_replicas",
    "consumer_memory_storage",
    "consumer_inactive_threshold",
    "consumer_auto_cleanup",
    "reject_qos2_publish",
    "downgrade_qos2_subscribe",
];

const OCSP_CACHE: [&str; 4] = ["type", "local_store", "preserve_revoked", "save_interval"];

/// Feature flags that are off in nats-server unless the file turns them on.
const FLAGS_TO_OPT_IN: [&str; 3] = ["js_ack_fc_v2", "js_api_reply_v2", "js_snapshot_sources"];

/// For flags without an option.
pub(super) fn nothing(_reader: &mut Reader<'_>, _value: &Value) -> Asks {
    Asks::Nothing
}

pub(super) fn toggle(reader: &mut Reader<'_>, value: &Value) -> Asks {
    asks_if(reader.toggle(value) == Some(true))
}

pub(super) fn number(reader: &mut Reader<'_>, value: &Value) -> Asks {
    asks_if(reader.integer(value).is_some_and(|number| number != 0))
}

pub(super) fn filled_text(reader: &mut Reader<'_>, value: &Value) -> Asks {
    asks_if(reader.text(value).is_some_and(|text| !text.is_empty()))
}

pub(super) fn default_js_domain(reader: &mut Reader<'_>, value: &Value) -> Asks {
    match value.as_map() {
        Some(map) => asks_if(!map.is_empty()),
        None => {
            let found = value.type_name();
            let reason = format!("error default_js_domain config: unsupported type {found}");
            refused(reader, value, reason)
        }
    }
}

/// Reads `cluster`: without a port nats-server has no cluster, whatever else the block says; but the
/// cluster's name chooses among the destinations of mappings.
pub(super) fn cluster(reader: &mut Reader<'_>, value: &Value) -> Asks {
    let Some(map) = block(reader, value, "Expected map to define cluster", &CLUSTER) else {
        return Asks::Nothing;
    };
    let is_there = |(_, routes): (String, &Value)| match &*routes.data {
        Data::List(routes) => !routes.is_empty(),
        Data::Text(routes) => !routes.is_empty(),
        _ => true,
    };
    for (_, name) in named(map, &["name"]) {
        reader.options.cluster_name = name.as_text().filter(|name| !name.is_empty());
    }
    match has_port(reader, map) {
        false => Asks::Nothing,
        true if named(map, &["routes"]).any(is_there) => Asks::Feature,
        true => Asks::PortForOthers,
    }
}

/// Reads `gateway`: one with a name must have a port, and the other way round.
pub(super) fn gateway(reader: &mut Reader<'_>, value: &Value) -> Asks {
    let Some(map) = block(reader, value, "Expected gateway to be a map", &GATEWAY) else {
        return Asks::Nothing;
    };
    let has_name =
        named(map, &["name"]).any(|(_, name)| filled_text(reader, name) != Asks::Nothing);
    asks_if(has_port(reader, map) || has_name)
}

pub(super) fn leafnodes(reader: &mut Reader<'_>, value: &Value) -> Asks {
    let Some(map) = block(reader, value, "Expected map to define a leafnode", &LEAFNODES) else {
        return Asks::Nothing;
    };
    let mut has_remotes = false;
    for (_, remotes) in named(map, &["remotes"]) {
        match remotes.as_list() {
            Some(list) => has_remotes = !list.is_empty(),
            None => {
                let found = remotes.type_name();
                let reason = format!("Expected remotes field to be an array, got {found}");
                return refused(reader, remotes, reason);
            }
        }
    }
    asks_if(has_port(reader, map) || has_remotes)
}

pub(super) fn mqtt(reader: &mut Reader<'_>, value: &Value) -> Asks {
    let map = block(reader, value, "Expected mqtt to be a map", &MQTT);
    asks_if(map.is_some_and(|map| has_port(reader, map)))
}

/// Reads `ocsp`: the modes `auto` (the default) and `must` staple only if the certificate demands
/// it.
pub(super) fn ocsp(reader: &mut Reader<'_>, value: &Value) -> Asks {
    let map = match &*value.data {
        Data::Toggle(_) => return Asks::Nothing,
        Data::Map(map) => map,
        _ => {
            let found = value.type_name();
            let reason = format!("error parsing ocsp config: unsupported type {found}");
            return refused(reader, value, reason);
        }
    };
    let mut asks = Asks::Nothing;
    for (name, value) in map.entries() {
        match name.as_str() {
            "mode" => match reader.text(value).map(|mode| mode.to_ascii_lowercase()).as_deref() {
                Some("never" | "auto") => asks = Asks::Nothing,
                Some("always" | "must") => asks = Asks::Feature,
                Some(_) => {
                    let reason = "error parsing ocsp config: unsupported ocsp mode string";
                    return refused(reader, value, reason);
                }
                None => {}
            },
            "url" | "urls" => {}
            _ => {
                let reason = "error parsing ocsp config: unsupported field string";
                return refused(reader, value, reason);
            }
        }
    }
    asks
}

/// Reads `ocsp_cache`: used only by `ocsp_peer` of a `tls` block, which is refused there.
pub(super) fn ocsp_cache(reader: &mut Reader<'_>, value: &Value) -> Asks {
    match &*value.data {
        Data::Toggle(_) => Asks::Nothing,
        Data::Map(map) => {
            for (name, value) in map.entries() {
                if !is_among(&name, &[&OCSP_CACHE]) && !value.used_as_variable.get() {
                    let name = quoted(&name);
                    let reason =
                        format!("error parsing OCSP peer cache config, unknown field [{name}]");
                    reader.error(value, reason);
                }
            }
            Asks::Nothing
        }
        _ => {
            let found = value.type_name();
            refused(reader, value, format!("error parsing tags: unsupported type {found}"))
        }
    }
}

pub(super) fn proxies(reader: &mut Reader<'_>, value: &Value) -> Asks {
    let Some(map) = value.as_map() else {
        let found = value.type_name();
        return refused(reader, value, format!("expected proxies to be a map/struct, got {found}"));
    };
    check_names(reader, map, &[&["trusted"]]);
    let is_empty = |trusted: &Value| trusted.as_list().is_some_and(<[Value]>::is_empty);
    asks_if(named(map, &["trusted"]).any(|(_, trusted)| !is_empty(trusted)))
}

/// Reads the feature flags: all belong to JetStream, and nats-server ignores unknown ones.
pub(super) fn feature_flags(reader: &mut Reader<'_>, value: &Value) -> Asks {
    let Some(map) = value.as_map() else {
        let found = value.type_name();
        let reason = format!("error parsing feature flags: unsupported type {found}");
        return refused(reader, value, reason);
    };
    let mut asks = Asks::Nothing;
    for (name, value) in map.entries() {
        match *value.data {
            Data::Toggle(on) => {
                if on && FLAGS_TO_OPT_IN.contains(&name.as_str()) {
                    asks = Asks::Feature;
                }
            }
            _ => {
                let (name, found) = (quoted(&name), value.type_name());
                let reason =
                    format!("error parsing feature flag {name}: expected bool, got {found}");
                reader.error(value, reason);
            }
        }
    }
    asks
}

fn asks_if(on: bool) -> Asks {
    if on { Asks::Feature } else { Asks::Nothing }
}

fn refused(reader: &mut Reader<'_>, at: &Value, reason: impl AsRef<str>) -> Asks {
    reader.error(at, reason);
    Asks::Nothing
}

/// Returns the block's options with their names checked; None if it is not a block.
fn block<'v>(
    reader: &mut Reader<'_>,
    value: &'v Value,
    expected: &str,
    names: &[&str],
) -> Option<&'v Map> {
    let Some(map) = value.as_map() else {
        reader.error(value, format!("{expected}, got {}", value.type_name()));
        return None;
    };
    check_names(reader, map, &[&LISTENER, names]);
    Some(map)
}

fn check_names(reader: &mut Reader<'_>, map: &Map, names: &[&[&str]]) {
    for (name, value) in map.entries() {
        if !is_among(&name, names) {
            reader.unknown_field(value, &name);
        }
    }
}

fn is_among(name: &str, names: &[&[&str]]) -> bool {
    names.iter().copied().flatten().any(|known| known.eq_ignore_ascii_case(name))
}

fn named<'v>(map: &'v Map, names: &'static [&str]) -> impl Iterator<Item = (String, &'v Value)> {
    map.entries().filter(|(name, _)| is_among(name, &[names]))
}

/// Returns true if `port` or `listen` is present and not 0, which means "none".
fn has_port(reader: &mut Reader<'_>, map: &Map) -> bool {
    let mut port = 0;
    for (name, value) in named(map, &["listen", "port"]) {
        let given = match name.eq_ignore_ascii_case("listen") {
            true => reader.address(value).map(|(_, port)| port),
            false => reader.integer(value),
        };
        port = given.unwrap_or(port);
    }
    port != 0
}
