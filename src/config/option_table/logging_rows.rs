//! Rows: the log, the process's files, and monitoring.

use super::*;
use Kind::{Bytes, Integer, Structure, Text, Toggle};

pub(super) static LOGGING: &[Row] = &[
    row!(
        "debug",
        "Debug",
        Toggle(|options, on| options.log.debug = on),
        "false",
        Live,
        log.debug,
        "Log what the server does."
    )
    .flag(&["D", "debug"], ""),
    row!(
        "trace",
        "Trace",
        Toggle(|options, on| options.log.trace = on),
        "false",
        Live,
        log.trace,
        "Log the protocol, line by line."
    )
    .flag(&["V", "trace"], ""),
    row!(
        "trace_verbose",
        "TraceVerbose",
        Toggle(|options, on| {
            options.log.trace_verbose = on;
            options.log.trace = on;
        }),
        "false",
        Live,
        log.trace_verbose,
        "Trace the system account too; sets `trace`."
    ),
    row!(
        "trace_headers",
        "TraceHeaders",
        Toggle(|options, on| {
            options.log.trace_headers = on;
            options.log.trace = on;
        }),
        "false",
        Live,
        log.trace_headers,
        "Trace headers but not payloads; sets `trace`."
    ),
    row!(
        "logtime",
        "Logtime",
        Toggle(|options, on| options.log.timestamp = on),
        "true",
        Live,
        log.timestamp,
        "Put the time before each log line."
    )
    .flag(&["T", "logtime"], ""),
    row!(
        "logtime_utc",
        "LogtimeUTC",
        Toggle(|options, on| options.log.timestamp_utc = on),
        "false",
        Live,
        log.timestamp_utc,
        "Log times in UTC instead of local time."
    )
    .flag(&["logtime_utc"], ""),
    row!(
        "logfile",
        "LogFile",
        Text(|options, text| {
            options.log.file = path_or_none(text);
            Ok(())
        }),
        "",
        Live,
        log.file,
        "File for the log; standard error without it."
    )
    .aliases(&["log_file"])
    .flag(&["l", "log"], "<file>"),
    row!(
        "logfile_size_limit",
        "LogSizeLimit",
        Bytes {
            min: i64::MIN,
            max: COUNT_MAX,
            set: |options, value| {
                options.log.file_bytes_max = u64::try_from(value).unwrap_or(0);
            }
        },
        "0",
        Restart,
        log.file_bytes_max,
        "Size at which the log file is rotated; 0 for never."
    )
    .aliases(&["log_size_limit"])
    .flag(&["log_size_limit"], "<bytes>"),
    row!(
        "logfile_max_num",
        "LogMaxFiles",
        Integer {
            min: i64::MIN,
            max: COUNT_MAX,
            set: |options, value| {
                options.log.file_count_max = size_or(value, 0);
            }
        },
        "0",
        Restart,
        log.file_count_max,
        "Log files kept, the current one included; 0 for all."
    )
    .aliases(&["log_max_num"]),
    row!(
        "max_traced_msg_len",
        "MaxTracedMsgLen",
        Integer {
            min: i64::MIN,
            max: COUNT_MAX,
            set: |options, value| {
                options.log.traced_message_bytes_max = size_or(value, 0);
            }
        },
        "0",
        Live,
        log.traced_message_bytes_max,
        "Payload bytes shown in a trace line; 0 for all."
    )
    .flag(&["max_traced_msg_len"], "<bytes>"),
];

pub(super) static FILES: &[Row] = &[
    row!(
        "pidfile",
        "PidFile",
        Text(|options, text| {
            options.files.pid = path_or_none(text);
            Ok(())
        }),
        "",
        Live,
        files.pid,
        "File that gets the process id."
    )
    .aliases(&["pid_file"])
    .flag(&["P", "pid"], "<file>"),
    row!(
        "ports_file_dir",
        "PortsFileDir",
        Text(|options, text| {
            options.files.ports_dir = path_or_none(text);
            Ok(())
        }),
        "",
        Live,
        files.ports_dir,
        "Directory that gets a file with the ports in use."
    )
    .flag(&["ports_file_dir"], "<dir>"),
];

pub(super) static MONITORING: &[Row] = &[
    row!(
        "http_port",
        "HTTPPort",
        Integer {
            min: PORT_MIN,
            max: PORT_MAX,
            set: |options, value| {
                options.monitor.port = port_or(value, None);
            }
        },
        "",
        Restart,
        monitor.port,
        "Port for monitoring over HTTP; -1 takes any free one."
    )
    .aliases(&["monitor_port"])
    .flag(&["m", "http_port"], "<port>"),
    row!(
        "https_port",
        "HTTPSPort",
        Integer {
            min: PORT_MIN,
            max: PORT_MAX,
            set: |options, value| {
                options.monitor.https_port = port_or(value, None);
            }
        },
        "",
        Restart,
        monitor.https_port,
        "Port for monitoring over HTTPS; needs TLS."
    )
    .flag(&["ms", "https_port"], "<port>"),
    row!(
        "http",
        "HTTPHost",
        Structure { shape: "port or \"host:port\"", read: read_http },
        "",
        Restart,
        monitor.host,
        "Host and port for monitoring over HTTP."
    ),
    entry_row!(
        "https",
        Structure { shape: "port or \"host:port\"", read: read_https },
        "Host and port for monitoring over HTTPS."
    ),
    Row {
        // As nats-server, which has no text where the file names no path.
        shown: |options| match options.monitor.base_path.as_str() {
            "/" => String::new(),
            path => path.to_owned(),
        },
        ..row!(
            "http_base_path",
            "HTTPBasePath",
            Text(|options, text| {
                options.monitor.base_path = clean_base_path(text);
                Ok(())
            }),
            "/",
            Restart,
            monitor.base_path,
            "Put before every monitoring path."
        )
    },
    row!(
        "server_tags",
        "Tags",
        Structure {
            shape: "text or list of text",
            read: |reader, value| {
                reader.read_tags(value);
            }
        },
        "",
        Live,
        server_tags,
        "Tags shown in monitoring."
    ),
    row!(
        "server_metadata",
        "Metadata",
        Structure {
            shape: "block of text",
            read: |reader, value| {
                reader.read_metadata(value);
            }
        },
        "",
        Live,
        server_metadata,
        "Names and values shown in monitoring."
    ),
];

fn read_http(reader: &mut Reader<'_>, value: &Value) {
    if let Some((host, port)) = reader.address(value) {
        reader.options.monitor.host = host.filter(|host| !host.is_empty());
        reader.options.monitor.port = port_or(port, None);
    }
}

fn read_https(reader: &mut Reader<'_>, value: &Value) {
    if let Some((host, port)) = reader.address(value) {
        reader.options.monitor.host = host.filter(|host| !host.is_empty());
        reader.options.monitor.https_port = port_or(port, None);
    }
}

/// Returns the path with a leading slash, without `//`, `.`, `..` and a slash at the end.
pub(super) fn clean_base_path(text: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
