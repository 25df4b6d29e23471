//! One row per option: its names in files and flags, kind, range, default, reload class, help and
//! setter.
//!
//! The file reader, the flags, the help text, the comparison at a reload and `OPTIONS.md` are all
//! made from these rows. Options inside the `authorization`, `accounts` and `tls` blocks are read
//! by their block's own reader, because their errors are worded differently; their rows here hold
//! documentation, flag and comparison.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::address::{PORT_MAX, PORT_MIN};
use crate::config::advertise::Advertised;
use crate::config::go_text::{SignedDuration, format_duration};
use crate::config::later::LATER;
use crate::config::options::{
    Balance, IoDriver, LocalCongestion, LogFormat, Options, UnixListenOptions, WriteTimeoutPolicy,
};
use crate::config::reader::Reader;
use crate::config::row::{Kind, PartFlag, Reload, Row, Section};
use crate::config::value::Value;

/// All of Midge's options, in the order of the reference page.
pub(crate) static SECTIONS: &[Section] = &[
    Section { title: "Listening", rows: server_rows::LISTENING },
    Section { title: "Limits", rows: server_rows::LIMITS },
    Section { title: "Logging", rows: logging_rows::LOGGING },
    Section { title: "Files", rows: logging_rows::FILES },
    Section { title: "Authentication", rows: security_rows::AUTHENTICATION },
    Section { title: "TLS", rows: security_rows::TLS },
    Section { title: "WebSocket", rows: websocket_rows::WEBSOCKET },
    Section { title: "Monitoring", rows: logging_rows::MONITORING },
    Section { title: "JetStream", rows: jetstream_rows::JETSTREAM },
    Section { title: "Midge's own", rows: midge_rows::MIDGE },
];

/// Returns every row, in the order of the reference page.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    SECTIONS.iter().flat_map(|section| section.rows)
}

/// Returns the row of a top-level key.
pub(crate) fn find(name: &str) -> Option<&'static Row> {
    rows().chain(LATER).find(|row| row.is_called(name))
}

/// Returns the row of a key inside a block such as `midge`.
pub(crate) fn find_in_block(block: &str, name: &str) -> Option<&'static Row> {
    rows().find(|row| {
        row.key.strip_prefix(block).and_then(|rest| rest.strip_prefix('.')).is_some_and(|key| {
            key.eq_ignore_ascii_case(name)
                || row.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
        })
    })
}

/// Returns the row that a flag (without its dashes) sets.
pub(crate) fn find_flag(name: &str) -> Option<&'static Row> {
    rows().chain(LATER).find(|row| row.flag.as_ref().is_some_and(|flag| flag.names.contains(&name)))
}

/// Formats an option's value for a message.
pub(crate) trait Shown {
    fn shown(&self) -> String;
}

macro_rules! shown_by_display {
    ($($type:ty),*) => { $(impl Shown for $type { fn shown(&self) -> String { self.to_string() } })* };
}
shown_by_display!(bool, i64, u16, u32, u64, usize, String);

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

impl Shown for Advertised {
    fn shown(&self) -> String {
        self.text.clone()
    }
}

/// An absent option is shown as nats-server shows its zero value.
macro_rules! shown_or {
    ($($type:ty = $absent:literal),*) => { $(impl Shown for Option<$type> {
        fn shown(&self) -> String {
            self.as_ref().map_or_else(|| $absent.into(), Shown::shown)
        }
    })* };
}
shown_or!(
    bool = "",
    u16 = "0",
    usize = "0",
    String = "",
    PathBuf = "",
    Duration = "0s",
    Vec<usize> = "",
    Advertised = "",
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
    LocalCongestion,
    UnixListenOptions
);

impl Shown for WriteTimeoutPolicy {
    fn shown(&self) -> String {
        match self {
            // nats-server's zero value.
            Self::Default => String::new(),
            Self::Close => "close".into(),
            Self::Retry => "retry".into(),
        }
    }
}

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

/// A row that only provides another way to set another row's field.
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

mod jetstream_rows;
mod logging_rows;
mod midge_rows;
pub(crate) use midge_rows::parse_cores;
mod security_rows;
mod server_rows;
mod websocket_rows;

const COUNT_MAX: i64 = i64::MAX;

/// nats-server takes zero and, for most limits, any negative number as "the default" or "none".
fn size_or(value: i64, when_not_positive: usize) -> usize {
    usize::try_from(value).ok().filter(|&size| size > 0).unwrap_or(when_not_positive)
}

/// -1 is any free port, 0 means "not given".
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
