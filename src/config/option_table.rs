//! One row per option: its names in files and flags, kind, range, default, reload class, help and setter.
//!
//! The file reader, the flags, the help text, the reload comparison and `OPTIONS.md` are all made from
//! these rows. Options inside the `authorization`, `accounts` and `tls` blocks are read by the block's own
//! reader, because their errors have wordings of their own; their rows here carry documentation, flag and
//! comparison.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::advertise::Advertised;
use crate::config::go_text::{SignedDuration, format_duration, quoted, split_host_port};
use crate::config::later::{Feature, LATER};
use crate::config::options::{
    Balance, IoDriver, LocalCongestion, LogFormat, Options, UnixListenOptions, WriteTimeoutPolicy,
};
use crate::config::read_later;
use crate::config::reader::Reader;
use crate::config::value::Value;

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
    /// Help for the flag alone; empty where the option's own words do.
    pub help: &'static str,
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
    Later {
        feature: Feature,
        asks: read_later::Read,
        /// The flag turns the feature on by itself.
        flag_asks: bool,
    },
}

#[derive(Clone, Copy)]
pub enum PartFlag {
    None,
    Text(fn(&mut Options, &str)),
    Toggle(fn(&mut Options, bool)),
    /// A switch with a third position, a word in any case: then the function is given None.
    ToggleOr {
        word: &'static str,
        set: fn(&mut Options, Option<bool>) -> Result<(), String>,
    },
}

impl Row {
    const fn aliases(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    const fn flag(mut self, names: &'static [&'static str], argument: &'static str) -> Self {
        self.flag = Some(Flag { names, argument, inverse: false, help: "" });
        self
    }

    const fn inverse_flag(mut self, names: &'static [&'static str], help: &'static str) -> Self {
        self.flag = Some(Flag { names, argument: "", inverse: true, help });
        self
    }

    const fn flag_help(mut self, help: &'static str) -> Self {
        if let Some(flag) = &mut self.flag {
            flag.help = help;
        }
        self
    }

    const fn default(mut self, default: &'static str) -> Self {
        self.default = default;
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

/// One heading of the reference page and of the help text, and the rows below it.
pub struct Section {
    pub title: &'static str,
    pub rows: &'static [Row],
}

/// All options Midge has, in the order of the reference page.
pub static SECTIONS: &[Section] = &[
    Section { title: "Listening", rows: server_rows::LISTENING },
    Section { title: "Limits", rows: server_rows::LIMITS },
    Section { title: "Logging", rows: logging_rows::LOGGING },
    Section { title: "Files", rows: logging_rows::FILES },
    Section { title: "Authentication", rows: security_rows::AUTHENTICATION },
    Section { title: "TLS", rows: security_rows::TLS },
    Section { title: "Monitoring", rows: logging_rows::MONITORING },
    Section { title: "Midge's own", rows: midge_rows::MIDGE },
];

/// Every row, in the same order.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    SECTIONS.iter().flat_map(|section| section.rows)
}

/// The row of a top-level key.
pub fn find(name: &str) -> Option<&'static Row> {
    rows().chain(LATER).find(|row| row.is_called(name))
}

/// The row of a key inside the `midge` block.
pub fn find_in_block(block: &str, name: &str) -> Option<&'static Row> {
    rows().find(|row| {
        row.key.strip_prefix(block).and_then(|rest| rest.strip_prefix('.')).is_some_and(|key| {
            key.eq_ignore_ascii_case(name)
                || row.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
        })
    })
}

/// The row a flag (without its dashes) sets.
pub fn find_flag(name: &str) -> Option<&'static Row> {
    rows().chain(LATER).find(|row| row.flag.as_ref().is_some_and(|flag| flag.names.contains(&name)))
}

/// The text of an option's value in a message.
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

impl Shown for Advertised {
    fn shown(&self) -> String {
        self.text.clone()
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

mod logging_rows;
mod midge_rows;
pub(crate) use midge_rows::parse_cores;
mod security_rows;
mod server_rows;

const COUNT_MAX: i64 = i64::MAX;
pub const PORT_MIN: i64 = -1;
pub const PORT_MAX: i64 = 65_535;

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

/// Host and port of an address option. A bare number is a port.
///
/// # Errors
/// nats-server's text for an address it cannot use.
pub fn parse_address(text: &str) -> Result<(String, i64), String> {
    let (host, port) = split_host_port(text)
        .map_err(|_| format!("could not parse address string {}", quoted(text)))?;
    let number = port
        .parse::<i64>()
        .ok()
        .filter(|_| !port.is_empty())
        .ok_or_else(|| format!("could not parse port {}", quoted(port)))?;
    Ok((host.to_string(), number))
}
