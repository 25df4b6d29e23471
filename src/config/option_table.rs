//! One row per option: its names in files and flags, kind, range, default, reload class, help and setter.
//!
//! The file reader, the flags, the help text, the reload comparison and `OPTIONS.md` are all made from
//! these rows. Options inside the `authorization`, `accounts` and `tls` blocks are read by the block's own
//! reader, because their errors have wordings of their own; their rows here carry documentation, flag and
//! comparison.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::go_text::{SignedDuration, format_duration, quoted, split_host_port};
use crate::config::later::LATER;
use crate::config::options::{
    Balance, IoDriver, LogFormat, Options, PAYLOAD_BYTES_UNLIMITED, UnixListenOptions,
    WriteTimeoutPolicy,
};
use crate::config::reader::Reader;
use crate::config::tls_options::TlsOptions;
use crate::config::value::Value;
use crate::config::{read_accounts, read_auth, read_tls};

pub struct Row {
    /// As written in a file; dotted inside a block.
    pub key: &'static str,
    /// Other names of the same option at the same place.
    pub aliases: &'static [&'static str],
    pub flag: Option<Flag>,
    pub kind: Kind,
    /// As the operator would write it.
    pub default: &'static str,
    pub reload: Reload,
    /// nats-server's name for it in its message that a reload is not supported.
    pub go_name: &'static str,
    pub help: &'static str,
    pub same: fn(&Options, &Options) -> bool,
    pub shown: fn(&Options) -> String,
}

pub struct Flag {
    pub names: &'static [&'static str],
    /// As `<port>` in the help text; empty for switches.
    pub argument: &'static str,
    /// A switch that turns its option off.
    pub inverse: bool,
}

/// When a changed option takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reload {
    /// At once, for everybody.
    Live,
    /// For connections made from now on.
    Reconnect,
    /// Never in a running server: the whole reload is refused.
    Restart,
}

#[derive(Clone, Copy)]
pub enum Kind {
    Toggle(fn(&mut Options, bool)),
    Integer {
        min: i64,
        max: i64,
        set: fn(&mut Options, i64),
    },
    /// An integer of bytes: `1MB`, `512k`.
    Bytes {
        min: i64,
        max: i64,
        set: fn(&mut Options, i64),
    },
    Duration {
        /// A bare number means seconds, with a warning.
        integer_is_seconds: bool,
        set: fn(&mut Options, SignedDuration) -> Result<(), String>,
    },
    Text(fn(&mut Options, &str) -> Result<(), String>),
    /// Read from the value tree by a reader of its own.
    Structure {
        shape: &'static str,
        read: fn(&mut Reader<'_>, &Value),
    },
    /// Part of a block: read there, named here.
    Part {
        shape: &'static str,
        flag: PartFlag,
    },
    /// Belongs to a feature Midge does not have yet.
    Later(&'static str),
}

#[derive(Clone, Copy)]
pub enum PartFlag {
    None,
    Text(fn(&mut Options, &str)),
    Toggle(fn(&mut Options, bool)),
}

impl Row {
    const fn aliases(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    const fn flag(mut self, names: &'static [&'static str], argument: &'static str) -> Self {
        self.flag = Some(Flag { names, argument, inverse: false });
        self
    }

    const fn inverse_flag(mut self, names: &'static [&'static str]) -> Self {
        self.flag = Some(Flag { names, argument: "", inverse: true });
        self
    }

    /// True when `name` (any case) is this row's key or alias at the place the row belongs to.
    pub fn is_called(&self, name: &str) -> bool {
        let called_by_key = !self.key.is_empty() && self.key.eq_ignore_ascii_case(name);
        called_by_key || self.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
    }

    /// The name inside its block.
    pub fn short_key(&self) -> &'static str {
        self.key.rsplit('.').next().unwrap_or(self.key)
    }
}

/// The row of a top-level key.
pub fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().chain(LATER).find(|row| row.is_called(name))
}

/// The row of a key inside the `midge` block.
pub fn find_in_block(block: &str, name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| {
        row.key.strip_prefix(block).and_then(|rest| rest.strip_prefix('.')).is_some_and(|key| {
            key.eq_ignore_ascii_case(name)
                || row.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
        })
    })
}

/// The row a flag (without its dashes) sets.
pub fn find_flag(name: &str) -> Option<&'static Row> {
    ROWS.iter()
        .chain(LATER)
        .find(|row| row.flag.as_ref().is_some_and(|flag| flag.names.contains(&name)))
}

/// How an option's value is written in a message.
pub trait Shown {
    fn shown(&self) -> String;
}

macro_rules! shown_by_display {
    ($($type:ty),*) => { $(impl Shown for $type { fn shown(&self) -> String { self.to_string() } })* };
}
shown_by_display!(bool, u16, u32, u64, usize, String);

impl Shown for Duration {
    fn shown(&self) -> String {
        let nanoseconds = i64::try_from(self.as_nanos()).unwrap_or(i64::MAX);
        format_duration(SignedDuration(nanoseconds))
    }
}

impl Shown for PathBuf {
    fn shown(&self) -> String {
        self.display().to_string()
    }
}

/// An option that is not given shows what nats-server's zero value shows.
macro_rules! shown_or {
    ($($type:ty = $absent:literal),*) => { $(impl Shown for Option<$type> {
        fn shown(&self) -> String {
            self.as_ref().map_or_else(|| $absent.into(), Shown::shown)
        }
    })* };
}
shown_or!(
    u16 = "0",
    usize = "0",
    String = "",
    PathBuf = "",
    Duration = "0s",
    Vec<usize> = "",
    UnixListenOptions = ""
);

macro_rules! shown_by_debug {
    ($($type:ty),*) => { $(impl Shown for $type { fn shown(&self) -> String { format!("{self:?}") } })* };
}
shown_by_debug!(
    Vec<usize>,
    Vec<String>,
    Vec<(String, String)>,
    IoDriver,
    Balance,
    LogFormat,
    WriteTimeoutPolicy,
    UnixListenOptions
);

/// A row whose comparison and text come from one field.
macro_rules! row {
    ($key:literal, $go_name:literal, $kind:expr, $default:literal, $reload:ident, $($field:ident).+, $help:literal) => {
        Row {
            key: $key,
            aliases: &[],
            flag: None,
            kind: $kind,
            default: $default,
            reload: Reload::$reload,
            go_name: $go_name,
            help: $help,
            same: |left, right| left.$($field).+ == right.$($field).+,
            shown: |options| options.$($field).+.shown(),
        }
    };
}

/// A row whose value is a structure or a secret: compared, never shown.
macro_rules! hidden_row {
    ($key:literal, $go_name:literal, $kind:expr, $default:literal, $reload:ident, |$options:ident| $value:expr, $help:literal) => {
        Row {
            key: $key,
            aliases: &[],
            flag: None,
            kind: $kind,
            default: $default,
            reload: Reload::$reload,
            go_name: $go_name,
            help: $help,
            same: |left, right| {
                let left = {
                    let $options = left;
                    $value
                };
                let right = {
                    let $options = right;
                    $value
                };
                left == right
            },
            shown: |_| "[...]".into(),
        }
    };
}

/// A row that only gives another row's field a second way in.
macro_rules! entry_row {
    ($key:literal, $kind:expr, $help:literal) => {
        Row {
            key: $key,
            aliases: &[],
            flag: None,
            kind: $kind,
            default: "",
            reload: Reload::Restart,
            go_name: "",
            help: $help,
            same: |_, _| true,
            shown: |_| String::new(),
        }
    };
}

const COUNT_MAX: i64 = i64::MAX;
const PORT_MIN: i64 = -1;
const PORT_MAX: i64 = 65_535;

/// nats-server takes zero, and for most limits any negative number, as "the default" or "none".
fn size_or(value: i64, when_not_positive: usize) -> usize {
    usize::try_from(value).ok().filter(|&size| size > 0).unwrap_or(when_not_positive)
}

/// -1 is any free port, 0 is "not given".
fn port_or(value: i64, when_zero: Option<u16>) -> Option<u16> {
    match value {
        0 => when_zero,
        _ => Some(u16::try_from(value).unwrap_or(0)),
    }
}

fn text_or_none(text: &str) -> Option<String> {
    Some(text.to_string()).filter(|text| !text.is_empty())
}

fn path_or_none(text: &str) -> Option<PathBuf> {
    text_or_none(text).map(PathBuf::from)
}

fn positive_duration(
    key: &str,
    value: SignedDuration,
    when_zero: Duration,
) -> Result<Duration, String> {
    match value.to_duration() {
        None => Err(format!("invalid {key}, needs to be positive")),
        Some(Duration::ZERO) => Ok(when_zero),
        Some(duration) => Ok(duration),
    }
}

fn read_listen(reader: &mut Reader<'_>, value: &Value) {
    if let Some((host, port)) = reader.address(value) {
        reader.options.listen.host =
            host.filter(|host| !host.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
        reader.options.listen.port = port_or(port, Some(4222)).unwrap_or(4222);
    }
}

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

fn read_system_account(reader: &mut Reader<'_>, value: &Value) {
    match value.as_text() {
        Some(name) => reader.options.auth.system_account = text_or_none(&name),
        None => reader.error(value, "system account name must be a string"),
    }
}

/// Leading slash, no `//`, no `.` or `..`, no slash at the end.
pub fn clean_base_path(text: &str) -> String {
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

fn parse_cores(text: &str) -> Result<Vec<usize>, String> {
    let bad = || format!("cores {} is not a list such as 2-5,8", quoted(text));
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| bad())?;
        let last: usize = last.trim().parse().map_err(|_| bad())?;
        if last < first || last > 4095 {
            return Err(bad());
        }
        cores.extend(first..=last);
    }
    let mut seen = cores.clone();
    seen.sort_unstable();
    seen.dedup();
    if seen.len() != cores.len() {
        return Err(format!("cores {} names a core twice", quoted(text)));
    }
    Ok(cores)
}

fn set_unix_mode(options: &mut Options, text: &str) -> Result<(), String> {
    let mode = u32::from_str_radix(text.trim_start_matches("0o"), 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| format!("unix_mode {} is not an octal mode such as 0660", quoted(text)))?;
    let unix = options.listen.unix.get_or_insert_with(empty_unix);
    unix.mode = mode;
    Ok(())
}

fn empty_unix() -> UnixListenOptions {
    UnixListenOptions { path: PathBuf::new(), mode: 0o660 }
}

fn tls(options: &mut Options) -> &mut TlsOptions {
    options.tls.get_or_insert_default()
}

use Kind::{Bytes, Integer, Part, Structure, Text, Toggle};

/// All options Midge has, in the order of the reference page.
pub static ROWS: &[Row] = &[
    // Listening.
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
        "Address or name to listen on for clients."
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
            options.listen.client_advertise = text_or_none(text);
            Ok(())
        }),
        "",
        Live,
        listen.client_advertise,
        "`host:port` told to clients instead of the listener's own."
    )
    .flag(&["client_advertise"], "<address>"),
    // Limits.
    row!(
        "max_connections",
        "MaxConn",
        Integer {
            min: i64::MIN,
            max: COUNT_MAX,
            set: |options, value| {
                options.limits.connections_max = size_or(value, usize::MAX);
            }
        },
        "65536",
        Live,
        limits.connections_max,
        "Client connections at one time; 0 for no limit."
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
    entry_row!(
        "connect_error_reports",
        Integer { min: i64::MIN, max: COUNT_MAX, set: |_, _| {} },
        "Attempts between two log lines about a server that cannot be reached (of use with routes)."
    ),
    entry_row!(
        "reconnect_error_reports",
        Integer { min: i64::MIN, max: COUNT_MAX, set: |_, _| {} },
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
    // Logging.
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
        "Rotated log files kept; 0 for all."
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
    // Files.
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
    // Authentication.
    entry_row!(
        "authorization",
        Structure { shape: "block", read: read_auth::read_authorization },
        "Who may log in. Its options follow."
    ),
    hidden_row!(
        "authorization.user",
        "Username",
        Part {
            shape: "text",
            flag: PartFlag::Text(|options, text| {
                options.auth.user = text_or_none(text);
            })
        },
        "",
        Live,
        |options| options.auth.user.clone(),
        "The one user, with `password`."
    )
    .aliases(&["username"])
    .flag(&["user"], "<user>"),
    hidden_row!(
        "authorization.password",
        "Password",
        Part {
            shape: "text",
            flag: PartFlag::Text(|options, text| {
                options.auth.password =
                    text_or_none(text).map(crate::config::auth_options::Secret::new);
            })
        },
        "",
        Live,
        |options| options.auth.password.clone(),
        "Its password, or a bcrypt hash of it."
    )
    .aliases(&["pass"])
    .flag(&["pass"], "<password>"),
    hidden_row!(
        "authorization.token",
        "Authorization",
        Part {
            shape: "text",
            flag: PartFlag::Text(|options, text| {
                options.auth.token =
                    text_or_none(text).map(crate::config::auth_options::Secret::new);
            })
        },
        "",
        Live,
        |options| options.auth.token.clone(),
        "A token every client must show, or a bcrypt hash of it."
    )
    .flag(&["auth"], "<token>"),
    row!(
        "authorization.timeout",
        "AuthTimeout",
        Part { shape: "seconds or duration", flag: PartFlag::None },
        "2s",
        Live,
        auth.timeout,
        "Time a client has to log in; with TLS, the TLS timeout and one second."
    ),
    hidden_row!(
        "authorization.users",
        "Users",
        Part { shape: "list of users", flag: PartFlag::None },
        "",
        Live,
        |options| options.auth.users.clone(),
        "Users with `user`, `password`, `permissions`, `allowed_connection_types`; or `nkey` in place of user and password."
    ),
    hidden_row!(
        "authorization.default_permissions",
        "Users",
        Part { shape: "block", flag: PartFlag::None },
        "",
        Live,
        |options| options.auth.default_permissions.clone(),
        "`publish`, `subscribe` and `allow_responses` of users without permissions of their own."
    )
    .aliases(&["default_permission", "permissions"]),
    hidden_row!(
        "authorization.nkeys",
        "Nkeys",
        Part { shape: "", flag: PartFlag::None },
        "",
        Live,
        |options| options.auth.nkeys.clone(),
        ""
    ),
    row!(
        "no_auth_user",
        "NoAuthUser",
        Text(|options, text| {
            options.auth.no_auth_user = text_or_none(text);
            Ok(())
        }),
        "",
        Live,
        auth.no_auth_user,
        "The user that a client without credentials becomes."
    ),
    hidden_row!(
        "accounts",
        "Accounts",
        Structure { shape: "block", read: read_accounts::read_accounts },
        "",
        Live,
        |options| options.auth.accounts.clone(),
        "Isolated subject spaces by name: `users`, `mappings`, `limits`, `default_permissions`, `nkey`."
    ),
    entry_row!(
        "mappings",
        Structure { shape: "block", read: read_accounts::read_global_mappings },
        "Subject mappings of the default account."
    )
    .aliases(&["maps"]),
    row!(
        "system_account",
        "SystemAccount",
        Structure { shape: "text", read: read_system_account },
        "$SYS",
        Restart,
        auth.system_account,
        "The account that sees the server's own subjects."
    )
    .aliases(&["system"]),
    row!(
        "no_system_account",
        "NoSystemAccount",
        Toggle(|options, on| options.auth.no_system_account = on),
        "false",
        Restart,
        auth.no_system_account,
        "Have no system account."
    )
    .aliases(&["no_system", "no_sys_acc"]),
    // TLS.
    hidden_row!(
        "tls",
        "TLSConfig",
        Structure { shape: "block", read: read_tls::read_tls },
        "",
        Reconnect,
        |options| options.tls.clone(),
        "Encrypt client connections. Its options follow."
    )
    .flag(&["tls"], ""),
    entry_row!(
        "tls.cert_file",
        Part {
            shape: "text",
            flag: PartFlag::Text(|options, text| {
                read_tls::set_certificate_file(tls(options), text);
            })
        },
        "The server's certificate chain, PEM."
    )
    .flag(&["tlscert"], "<file>"),
    entry_row!(
        "tls.key_file",
        Part {
            shape: "text",
            flag: PartFlag::Text(|options, text| {
                read_tls::set_key_file(tls(options), text);
            })
        },
        "The certificate's private key, PEM."
    )
    .flag(&["tlskey"], "<file>"),
    entry_row!(
        "tls.ca_file",
        Part {
            shape: "text",
            flag: PartFlag::Text(|options, text| {
                tls(options).certificate_authorities_file = path_or_none(text);
            })
        },
        "Authorities that client certificates must be signed by, PEM."
    )
    .flag(&["tlscacert"], "<file>"),
    entry_row!(
        "tls.verify",
        Part {
            shape: "true or false",
            flag: PartFlag::Toggle(|options, on| {
                tls(options).verify = on;
            })
        },
        "Clients must present a certificate."
    )
    .flag(&["tlsverify"], ""),
    entry_row!(
        "tls.verify_and_map",
        Part { shape: "true or false", flag: PartFlag::None },
        "Clients must present a certificate, which names their user."
    ),
    entry_row!(
        "tls.timeout",
        Part { shape: "seconds or duration", flag: PartFlag::None },
        "Time a handshake may take, 2 seconds by default."
    ),
    entry_row!(
        "tls.cipher_suites",
        Part { shape: "list of names", flag: PartFlag::None },
        "Cipher suites to accept."
    ),
    entry_row!(
        "tls.allow_insecure_cipher_suites",
        Part { shape: "true or false", flag: PartFlag::None },
        "Let `cipher_suites` name suites known to be weak."
    ),
    entry_row!(
        "tls.curve_preferences",
        Part { shape: "list of names", flag: PartFlag::None },
        "Key exchange groups, the preferred first."
    ),
    entry_row!(
        "tls.min_version",
        Part { shape: "\"1.2\" or \"1.3\"", flag: PartFlag::None },
        "The oldest TLS version to accept."
    ),
    entry_row!(
        "tls.pinned_certs",
        Part { shape: "list of text", flag: PartFlag::None },
        "Hex SHA-256 of the public keys of clients to let in."
    ),
    entry_row!(
        "tls.handshake_first",
        Part { shape: "true, false, auto or duration", flag: PartFlag::None },
        "Begin with the handshake, INFO follows encrypted; `auto` waits 50 ms for it."
    )
    .aliases(&["first", "immediate"]),
    entry_row!(
        "tls.connection_rate_limit",
        Part { shape: "number", flag: PartFlag::None },
        "Handshakes begun per second; 0 for no limit."
    ),
    entry_row!(
        "tls.certs",
        Part { shape: "list of blocks", flag: PartFlag::None },
        "Several certificates, each with `cert_file` and `key_file`, chosen by server name."
    )
    .aliases(&["certificates"]),
    entry_row!(
        "tls.insecure",
        Part { shape: "true or false", flag: PartFlag::None },
        "Where this server is the client: accept any certificate."
    ),
    row!(
        "allow_non_tls",
        "AllowNonTLS",
        Toggle(|options, on| options.allow_non_tls = on),
        "false",
        Restart,
        allow_non_tls,
        "With TLS configured: clients may stay plain."
    ),
    // Monitoring.
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
        "Port for monitoring over HTTPS; needs `tls`."
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
    row!(
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
    ),
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
    // Midge's own.
    entry_row!(
        "midge",
        Structure {
            shape: "block",
            read: |reader, value| {
                reader.read_table_block("midge", value);
            }
        },
        "Midge's own options, which nats-server does not know. They follow."
    ),
    row!(
        "midge.shards",
        "midge.shards",
        Integer {
            min: 1,
            max: 1024,
            set: |options, value| {
                options.shards.count = usize::try_from(value).ok();
            }
        },
        "one per core",
        Restart,
        shards.count,
        "Number of shards: threads with their own listener."
    )
    .flag(&["shards"], "<number>"),
    row!(
        "midge.cores",
        "midge.cores",
        Text(|options, text| {
            options.shards.cores = Some(parse_cores(text)?);
            Ok(())
        }),
        "all this process may use",
        Restart,
        shards.cores,
        "Cores for the shards, as `2-5,8`."
    )
    .flag(&["cores"], "<list>"),
    row!(
        "midge.pin",
        "midge.pin",
        Toggle(|options, on| options.shards.pin = on),
        "true",
        Restart,
        shards.pin,
        "Pin each shard to its core."
    )
    .inverse_flag(&["no-pin"]),
    row!(
        "midge.busy_poll",
        "midge.busy_poll",
        Integer {
            min: 0,
            max: 1_000_000,
            set: |options, value| {
                options.shards.busy_poll = Duration::from_micros(u64::try_from(value).unwrap_or(0));
            }
        },
        "0",
        Restart,
        shards.busy_poll,
        "Microseconds a shard spins before it sleeps."
    )
    .flag(&["busy-poll"], "<microseconds>"),
    row!(
        "midge.io_driver",
        "midge.io_driver",
        Text(|options, text| {
            options.shards.io_driver = match text {
                "auto" => IoDriver::Auto,
                "io_uring" => IoDriver::IoUring,
                "epoll" => IoDriver::Epoll,
                _ => return Err("io_driver must be 'auto', 'io_uring' or 'epoll'".into()),
            };
            Ok(())
        }),
        "auto",
        Restart,
        shards.io_driver,
        "auto, io_uring or epoll; auto prefers io_uring."
    )
    .flag(&["io-driver"], "<driver>"),
    row!(
        "midge.unix",
        "midge.unix",
        Text(|options, text| {
            options.listen.unix.get_or_insert_with(empty_unix).path = PathBuf::from(text);
            Ok(())
        }),
        "",
        Restart,
        listen.unix,
        "Unix domain socket to listen on as well."
    )
    .flag(&["unix"], "<path>"),
    entry_row!(
        "midge.unix_mode",
        Text(set_unix_mode),
        "Permission bits of that socket, octal, as \"0660\" (the default)."
    )
    .flag(&["unix-mode"], "<octal>"),
    row!(
        "midge.shard_ports",
        "midge.shard_ports",
        Integer {
            min: 0,
            max: PORT_MAX,
            set: |options, value| {
                options.shards.ports_base = u16::try_from(value).ok().filter(|&port| port > 0);
            }
        },
        "",
        Restart,
        shards.ports_base,
        "First of one extra port per shard, so that a client can choose its shard."
    )
    .flag(&["shard-ports"], "<port>"),
    row!(
        "midge.balance",
        "midge.balance",
        Text(|options, text| {
            options.shards.balance = match text {
                "hash" => Balance::Hash,
                "least-connections" => Balance::LeastConnections,
                _ => return Err("balance must be 'hash' or 'least-connections'".into()),
            };
            Ok(())
        }),
        "hash",
        Restart,
        shards.balance,
        "How new connections find their shard: hash or least-connections."
    )
    .flag(&["balance"], "<way>"),
    row!(
        "midge.log_format",
        "midge.log_format",
        Text(|options, text| {
            options.log.format = match text {
                "nats" => LogFormat::Nats,
                "json" => LogFormat::Json,
                _ => return Err("log_format must be 'nats' or 'json'".into()),
            };
            Ok(())
        }),
        "nats",
        Restart,
        log.format,
        "Log lines as nats-server writes them, or as JSON objects."
    )
    .flag(&["log-format"], "<format>"),
];

/// Host and port of an address option. A bare number is a port.
///
/// # Errors
/// nats-server's text for an address it cannot use.
pub fn parse_address(text: &str) -> Result<(String, i64), String> {
    let (host, port) = split_host_port(text)
        .ok_or_else(|| format!("could not parse address string {}", quoted(text)))?;
    let number = port
        .parse::<i64>()
        .ok()
        .filter(|_| !port.is_empty())
        .ok_or_else(|| format!("could not parse port {}", quoted(port)))?;
    Ok((host.to_string(), number))
}

/// Headings of the reference page and of the help text, each with the key of its first row.
pub const LISTED_SECTIONS: &[(&str, &str)] = &[
    ("Listening", "server_name"),
    ("Limits", "max_connections"),
    ("Logging", "debug"),
    ("Files", "pidfile"),
    ("Authentication", "authorization"),
    ("TLS", "tls"),
    ("Monitoring", "http_port"),
    ("Midge's own", "midge"),
];

/// The rows below one heading.
pub fn section_rows(section: usize) -> &'static [Row] {
    let start_of = |index: usize| {
        let first_key = LISTED_SECTIONS.get(index).map(|(_, key)| *key);
        ROWS.iter().position(|row| Some(row.key) == first_key).unwrap_or(ROWS.len())
    };
    &ROWS[start_of(section)..start_of(section + 1)]
}
