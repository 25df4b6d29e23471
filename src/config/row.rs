//! The shape of a row of the option table: one option with its names, kind, default and reload
//! class.

use crate::config::feature::{Asks, Feature};
use crate::config::go_text::SignedDuration;
use crate::config::options::Options;
use crate::config::reader::Reader;
use crate::config::value::Value;

/// Finds out what an option of a later feature asks for.
pub(super) type AsksOf = fn(&mut Reader<'_>, &Value) -> Asks;

pub struct Row {
    /// As written in a file; dotted inside a block.
    pub key: &'static str,
    /// Other names of the option in the same place.
    pub aliases: &'static [&'static str],
    pub flag: Option<Flag>,
    pub kind: Kind,
    /// As the operator would write it.
    pub default: &'static str,
    pub reload: Reload,
    /// nats-server's name for it in its error about a reload.
    pub go_name: &'static str,
    pub help: &'static str,
    pub same: fn(&Options, &Options) -> bool,
    pub shown: fn(&Options) -> String,
}

pub struct Flag {
    pub names: &'static [&'static str],
    /// Such as `<port>` in the help text; empty for switches.
    pub argument: &'static str,
    /// True for a switch that turns its option off.
    pub inverse: bool,
    /// Help for the flag alone; empty if the option's help is enough.
    pub help: &'static str,
}

/// When a changed option takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reload {
    /// At once, for everybody.
    Live,
    /// For connections made from now on.
    Reconnect,
    /// A reload that changes it is refused as a whole.
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
        /// True if a bare number means seconds, with a warning.
        integer_is_seconds: bool,
        set: fn(&mut Options, SignedDuration) -> Result<(), String>,
    },
    Text(fn(&mut Options, &str) -> Result<(), String>),
    /// Read from the value tree by a reader of its own.
    Structure {
        shape: &'static str,
        read: fn(&mut Reader<'_>, &Value),
    },
    /// Part of a block, whose reader reads it.
    Part {
        shape: &'static str,
        flag: PartFlag,
    },
    /// Belongs to a feature Midge does not have yet.
    Later {
        feature: Feature,
        asks: AsksOf,
        /// True if the flag turns the feature on by itself.
        flag_asks: bool,
    },
}

#[derive(Clone, Copy)]
pub enum PartFlag {
    None,
    Text(fn(&mut Options, &str)),
    Toggle(fn(&mut Options, bool)),
    /// A switch with a third value, a word in any case, for which `set` gets None.
    ToggleOr {
        word: &'static str,
        set: fn(&mut Options, Option<bool>) -> Result<(), String>,
    },
}

impl Row {
    pub(super) const fn aliases(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    pub(super) const fn flag(
        mut self,
        names: &'static [&'static str],
        argument: &'static str,
    ) -> Self {
        self.flag = Some(Flag { names, argument, inverse: false, help: "" });
        self
    }

    pub(super) const fn inverse_flag(
        mut self,
        names: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        self.flag = Some(Flag { names, argument: "", inverse: true, help });
        self
    }

    pub(super) const fn flag_help(mut self, help: &'static str) -> Self {
        if let Some(flag) = &mut self.flag {
            flag.help = help;
        }
        self
    }

    pub(super) const fn default(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }

    /// Returns true if `name` (in any case) is this row's key or alias.
    pub fn is_called(&self, name: &str) -> bool {
        let called_by_key = !self.key.is_empty() && self.key.eq_ignore_ascii_case(name);
        called_by_key || self.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
    }

    /// Returns the name inside its block.
    pub fn short_key(&self) -> &'static str {
        self.key.rsplit('.').next().unwrap_or(self.key)
    }
}

/// One heading of the reference page and of the help text, and the rows below it.
pub(crate) struct Section {
    pub title: &'static str,
    pub rows: &'static [Row],
}
