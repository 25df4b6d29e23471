//! Rows: where the server listens, and its limits.

use std::time::Duration;

use super::*;
use crate::config::options::PAYLOAD_BYTES_UNLIMITED;
use Kind::{Bytes, Integer, Structure, Text, Toggle};

pub(super) static LISTENING: &[Row] = &[
    row!(
        "server_name",
        "ServerName",
        Text(|options, text| {
            if text.contains(' ') {
                return Err("server name cannot contain spaces".into());
            }
            options.server_name = text_or_none(text);
            Ok(())
        }),
        "the server's id",
        Restart,
        server_name,
        "Name of this server, shown to clients and in monitoring."
    )
    .flag(&["n", "name", "server_name"], "<name>"),
    row!(
        "host",
        "Host",
        Text(|options, text| {
            options.listen.host = text_or_none(text).unwrap_or_else(|| "0.0.0.0".into());
            Ok(())
        }),
        "0.0.0.0",
        Restart,
        listen.host,
        "Address or name to listen on for clients; 0.0.0.0 and :: both mean all of IPv4 and IPv6."
    )
    .aliases(&["net"])
    .flag(&["a", "addr", "net"], "<host>"),
    row!(
        "port",
        "Port",
        Integer {
            min: PORT_MIN,
            max: PORT_MAX,
            set: |options, value| {
                options.listen.port = port_or(value, Some(4222)).unwrap_or(4222);
            }
        },
        "4222",
        Restart,
        listen.port,
        "Port for clients; -1 takes any free one."
    )
    .flag(&["p", "port"], "<port>"),
    entry_row!(
        "listen",
        Structure { shape: "port or \"host:port\"", read: read_listen },
        "Host and port in one."
    ),
    row!(
        "client_advertise",
        "ClientAdvertise",
        Text(|options, text| {
            options.listen.client_advertise = Advertised::parse(text)?;
            Ok(())
        }),
        "",
        Live,
        listen.client_advertise,
        "`host:port`, or a host alone, told to clients instead of the listener's own."
    )
    .flag(&["client_advertise"], "<address>"),
    row!(
        "proxy_protocol",
        "ProxyProtocol",
        Toggle(|options, on| options.listen.proxy_protocol = on),
        "false",
        Restart,
        listen.proxy_protocol,
        "Take a client's address from a PROXY protocol header, version 1 or 2, whoever sends it: let only proxies reach the port."
    ),
];

pub(super) static LIMITS: &[Row] = &[
    row!(
        "max_connections",
        "MaxConn",
        Integer {
            min: i64::MIN,
            max: COUNT_MAX,
            set: |options, value| {
                options.limits.connections_max = size_or(value.max(0), 0);
            }
        },
        "65536",
        Live,
        limits.connections_max,
        "Client connections at one time; 0 for none at all."
    )
    .aliases(&["max_conn"]),
    row!(
        "max_subscriptions",
        "MaxSubs",
        Integer {
            min: i64::MIN,
            max: COUNT_MAX,
            set: |options, value| {
                options.limits.subscriptions_max = size_or(value, 0);
            }
        },
        "0",
        Restart,
        limits.subscriptions_max,
        "Subscriptions of one connection; 0 for no limit."
    )
    .aliases(&["max_subs"]),
    row!(
        "max_sub_tokens",
        "MaxSubTokens",
        Integer {
            min: 1,
            max: 255,
            set: |options, value| {
                options.limits.subject_tokens_max = size_or(value, 0);
            }
        },
        "no limit",
        Restart,
        limits.subject_tokens_max,
        "Tokens in the subject of a subscription."
    )
    .aliases(&["max_subscription_tokens"]),
    row!(
        "max_control_line",
        "MaxControlLine",
        Bytes {
            min: 0,
            max: i32::MAX as i64,
            set: |options, value| {
                options.limits.control_line_bytes_max =
                    size_or(value, crate::base::limits::CONTROL_LINE_BYTES_MAX);
            }
        },
        "4KB",
        Live,
        limits.control_line_bytes_max,
        "Bytes of one protocol line, without the payload."
    ),
    row!(
        "max_payload",
        "MaxPayload",
        Bytes {
            min: i64::MIN,
            max: i32::MAX as i64,
            set: |options, value| {
                options.limits.payload_bytes_max = match value {
                    0 => crate::base::limits::PAYLOAD_BYTES_MAX,
                    _ => size_or(value, PAYLOAD_BYTES_UNLIMITED),
                };
            }
        },
        "1MB",
        Live,
        limits.payload_bytes_max,
        "Bytes of one message, headers included; a negative number for no limit."
    ),
    row!(
        "max_pending",
        "MaxPending",
        Bytes {
            min: 0,
            max: COUNT_MAX,
            set: |options, value| {
                options.limits.pending_bytes_max =
                    size_or(value, crate::base::limits::PENDING_BYTES_MAX);
            }
        },
        "64MB",
        Restart,
        limits.pending_bytes_max,
        "Bytes waiting for one client before it is closed as a slow consumer."
    ),
    row!(
        "max_closed_clients",
        "MaxClosedClients",
        Integer {
            min: i64::MIN,
            max: COUNT_MAX,
            set: |options, value| {
                options.limits.closed_connections_max = match value {
                    0 => 10_000,
                    _ => size_or(value, 0),
                };
            }
        },
        "10000",
        Restart,
        limits.closed_connections_max,
        "Closed connections remembered for monitoring."
    ),
    row!(
        "write_deadline",
        "WriteDeadline",
        Kind::Duration {
            integer_is_seconds: true,
            set: |options, value| {
                options.limits.write_deadline =
                    positive_duration("write_deadline", value, Duration::from_secs(10))?;
                Ok(())
            }
        },
        "10s",
        Live,
        limits.write_deadline,
        "How long one write to a client may take."
    ),
    row!(
        "write_timeout",
        "WriteTimeout",
        Text(|options, text| {
            options.limits.write_timeout = match text {
                "default" => WriteTimeoutPolicy::Default,
                "close" => WriteTimeoutPolicy::Close,
                "retry" => WriteTimeoutPolicy::Retry,
                _ => return Err("write_timeout must be 'default', 'close' or 'retry'".into()),
            };
            Ok(())
        }),
        "default",
        Restart,
        limits.write_timeout,
        "What happens at the write deadline: default, close or retry."
    ),
    row!(
        "no_fast_producer_stall",
        "NoFastProducerStall",
        Toggle(|options, on| {
            options.limits.no_fast_producer_stall = on;
        }),
        "false",
        Live,
        limits.no_fast_producer_stall,
        "Drop messages for a consumer that lags instead of slowing its producers."
    ),
    row!(
        "no_header_support",
        "NoHeaderSupport",
        Toggle(|options, on| {
            options.limits.no_header_support = on;
        }),
        "false",
        Restart,
        limits.no_header_support,
        "Do not offer message headers to clients."
    ),
    entry_row!(
        "disable_sublist_cache",
        Toggle(|_, _| {}),
        "Accepted for nats-server's sake: Midge bounds its cache by itself."
    )
    .aliases(&["no_sublist_cache"]),
    row!(
        "connect_error_reports",
        "ConnectErrorReports",
        Integer {
            min: i64::MIN,
            max: COUNT_MAX,
            set: |options, value| {
                options.limits.connect_error_reports = if value == 0 { 3600 } else { value };
            }
        },
        "3600",
        Live,
        limits.connect_error_reports,
        "Attempts between two log lines about a server that cannot be reached (of use with routes)."
    ),
    row!(
        "reconnect_error_reports",
        "ReconnectErrorReports",
        Integer {
            min: i64::MIN,
            max: COUNT_MAX,
            set: |options, value| {
                options.limits.reconnect_error_reports = if value == 0 { 1 } else { value };
            }
        },
        "1",
        Live,
        limits.reconnect_error_reports,
        "The same for a connection that was lost."
    ),
    row!(
        "ping_interval",
        "PingInterval",
        Kind::Duration {
            integer_is_seconds: true,
            set: |options, value| {
                options.keep_alive.ping_interval =
                    positive_duration("ping_interval", value, Duration::from_secs(120))?;
                Ok(())
            }
        },
        "2m",
        Live,
        keep_alive.ping_interval,
        "Time between two PINGs to an idle client."
    ),
    row!(
        "ping_max",
        "MaxPingsOut",
        Integer {
            min: i64::MIN,
            max: COUNT_MAX,
            set: |options, value| {
                options.keep_alive.ping_max = match value {
                    0 => 2,
                    _ => u32::try_from(value.max(0)).unwrap_or(u32::MAX),
                };
            }
        },
        "2",
        Live,
        keep_alive.ping_max,
        "Unanswered PINGs before a connection is closed as stale."
    ),
    row!(
        "lame_duck_duration",
        "LameDuckDuration",
        Kind::Duration {
            integer_is_seconds: false,
            set: |options, value| {
                if value < SignedDuration(30_000_000_000) {
                    return Err(format!(
                        "invalid lame_duck_duration of {}, minimum is 30 seconds",
                        format_duration(value)
                    ));
                }
                options.lame_duck.duration = value.to_duration().unwrap_or_default();
                Ok(())
            }
        },
        "2m",
        Restart,
        lame_duck.duration,
        "Time over which clients are closed in lame duck mode."
    )
    .flag(&["lame_duck_duration"], "<duration>"),
    row!(
        "lame_duck_grace_period",
        "LameDuckGracePeriod",
        Kind::Duration {
            integer_is_seconds: false,
            set: |options, value| {
                options.lame_duck.grace_period =
                    positive_duration("lame_duck_grace_period", value, Duration::from_secs(10))?;
                Ok(())
            }
        },
        "10s",
        Restart,
        lame_duck.grace_period,
        "Time before the first client is closed in lame duck mode."
    )
    .flag(&["lame_duck_grace_period"], "<duration>"),
];

fn read_listen(reader: &mut Reader<'_>, value: &Value) {
    if let Some((host, port)) = reader.address(value) {
        reader.options.listen.host =
            host.filter(|host| !host.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
        reader.options.listen.port = port_or(port, Some(4222)).unwrap_or(4222);
    }
}
