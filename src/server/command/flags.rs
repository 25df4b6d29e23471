//! The command line as Go's flag package reads it: `-x`, `--x`, `-x=v`, `-x v`; parsing stops at
//! the first word that is not a flag. The meaning of each flag is in the option table.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use crate::config::go_text::{parse_boolean, parse_duration, parse_integer, quoted};
use crate::config::option_table;
use crate::config::options::Options;
use crate::config::read_rows::check_range;
use crate::config::row::{Kind, PartFlag, Row};

/// Flags that are not options of the configuration file: names, argument, help.
pub(crate) const SPECIALS: &[(&[&str], &str, &str)] = &[
    (&["c", "config"], "<file>", "Read this configuration file; flags win over it."),
    (&["t"], "", "Test the configuration file and exit."),
    (
        &["test_reload"],
        "<file>",
        "With -t: test whether a server that runs with the file of -c could reload this one; exit code 3 \
         if it takes a restart.",
    ),
    (
        &["sl", "signal"],
        "<command>[=<pid>]",
        "Send stop, quit, term, reopen, reload or ldm to a running server, named by process id, \
         process id file, or the beginning of an id and `*`.",
    ),
    (&["DV"], "", "Both `-D` and `-V`."),
    (&["VV"], "", "Trace the system account too."),
    (&["DVV"], "", "Both `-D` and `-VV`."),
    (
        &["allow-unsupported"],
        "",
        "Warn about options of features Midge does not have yet, instead of refusing them.",
    ),
    (&["h", "help"], "", "Show this text."),
    (&["v", "version"], "", "Show the version."),
    (&["help_tls"], "", "Show how TLS is configured."),
];

/// The parsed command line, not yet applied. Kept while the server runs, since a reload applies it
/// again.
#[derive(Clone, Default, PartialEq)]
pub struct Flags {
    /// Name and value as written, in order; a switch without a value has `true`.
    given: Vec<(String, String)>,
    /// Words after the last flag.
    pub words: Vec<String>,
}

/// Shows names only: a value may be a secret.
impl fmt::Debug for Flags {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.given.iter().map(|(name, _)| name)).finish()
    }
}

impl Flags {
    /// Parses the arguments after the program's name.
    ///
    /// # Errors
    /// Go's text for a flag that cannot be read.
    pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut flags = Flags::default();
        let mut args = args.map(|arg| arg.to_string_lossy().into_owned());
        while let Some(arg) = args.next() {
            if arg.len() < 2 || !arg.starts_with('-') {
                flags.words.push(arg);
                break;
            }
            if arg == "--" {
                break;
            }
            let body = arg.strip_prefix("--").unwrap_or(&arg[1..]);
            if body.is_empty() || body.starts_with(['-', '=']) {
                return Err(format!("bad flag syntax: {arg}"));
            }
            // A value begins after the first `=` that is not the first character.
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name.to_string(), Some(value.to_string())),
                None => (body.to_string(), None),
            };
            let Some(is_switch) = is_switch(&name) else {
                return Err(format!("flag provided but not defined: -{name}"));
            };
            let value = match value {
                Some(value) => value,
                None if is_switch => "true".into(),
                None => match args.next() {
                    Some(value) => value,
                    None => return Err(format!("flag needs an argument: -{name}")),
                },
            };
            check_form(&name, &value, is_switch)?;
            flags.given.push((name, value));
        }
        flags.words.extend(args);
        Ok(flags)
    }

    /// Returns the last value given under any of these names.
    pub fn value(&self, names: &[&str]) -> Option<&str> {
        let found = self.given.iter().rev().find(|(name, _)| names.contains(&name.as_str()));
        found.map(|(_, value)| value.as_str())
    }

    pub fn is_on(&self, names: &[&str]) -> bool {
        self.value(names).and_then(parse_boolean).unwrap_or(false)
    }

    /// Returns None if there is no such file, or an empty name.
    pub fn config_file(&self) -> Option<PathBuf> {
        self.value(&["c", "config"]).filter(|file| !file.is_empty()).map(PathBuf::from)
    }

    /// Returns the file whose reload is to be tested.
    pub fn test_reload_file(&self) -> Option<PathBuf> {
        self.value(&["test_reload"]).filter(|file| !file.is_empty()).map(PathBuf::from)
    }

    pub fn allow_unsupported(&self) -> bool {
        self.is_on(&["allow-unsupported"])
    }

    /// Sets what the flags name and leaves everything else as the file set it. Returns notes on
    /// what `--allow-unsupported` ignored.
    ///
    /// # Errors
    /// If a value is out of range, Midge lacks a feature, or TLS lacks a certificate.
    pub fn apply(&self, options: &mut Options) -> Result<Vec<String>, String> {
        let mut let_through = Vec::new();
        for (name, value) in &self.given {
            if let Some(row) = option_table::find_flag(name) {
                self.apply_row(row, name, value, options, &mut let_through)?;
            }
        }
        // As in nats-server these take precedence over -D and -V, in any order.
        if let Some(on) = self.value(&["DV"]).and_then(parse_boolean) {
            (options.log.debug, options.log.trace) = (on, on);
        }
        if let Some(on) = self.value(&["DVV"]).and_then(parse_boolean) {
            let log = &mut options.log;
            (log.debug, log.trace, log.trace_verbose) = (on, on, on);
        }
        if let Some(on) = self.value(&["VV"]).and_then(parse_boolean) {
            (options.log.trace, options.log.trace_verbose) = (on, on);
        }
        self.finish_tls(options)?;
        Ok(let_through)
    }

    fn apply_row(
        &self,
        row: &'static Row,
        name: &str,
        value: &str,
        options: &mut Options,
        let_through: &mut Vec<String>,
    ) -> Result<(), String> {
        let inverse = row.flag.as_ref().is_some_and(|flag| flag.inverse);
        let on = parse_boolean(value).unwrap_or(false) != inverse;
        let result = match row.kind {
            Kind::Toggle(set) => {
                set(options, on);
                Ok(())
            }
            Kind::Integer { min, max, set } | Kind::Bytes { min, max, set } => {
                let number = parse_integer(value).map_err(|error| error.text().to_string());
                // `-p` alone would say little.
                let called = if name.len() > 2 { name } else { row.short_key() };
                number.and_then(|number| {
                    check_range(row, called, number, min, max).map(|()| set(options, number))
                })
            }
            Kind::Duration { set, .. } => {
                parse_duration(value).and_then(|duration| set(options, duration))
            }
            Kind::Text(set) => set(options, value),
            Kind::Part { flag: PartFlag::Text(set), .. } => {
                set(options, value);
                Ok(())
            }
            Kind::Part { flag: PartFlag::Toggle(set), .. } => {
                set(options, on);
                Ok(())
            }
            Kind::Part { flag: PartFlag::ToggleOr { word, set }, .. } => {
                set(options, (!value.eq_ignore_ascii_case(word)).then_some(on))
            }
            // Only `-tls` itself, which `finish_tls` handles.
            Kind::Structure { .. } | Kind::Part { flag: PartFlag::None, .. } => Ok(()),
            Kind::Later { flag_asks: false, .. } => Ok(()),
            Kind::Later { .. } if matches!(value, "" | "0") => Ok(()),
            Kind::Later { .. } if parse_boolean(value) == Some(false) => Ok(()),
            Kind::Later { feature, .. }
                if self.allow_unsupported() && !feature.decides_who_enters() =>
            {
                let_through.push(format!("-{name}: {}, ignored", feature.not_supported()));
                Ok(())
            }
            Kind::Later { feature, .. } => Err(feature.refusal()),
        };
        // This text is the same in nats-server.
        let is_whole_text = row.key == "server_name";
        result.map_err(|reason| if is_whole_text { reason } else { format!("-{name}: {reason}") })
    }

    /// Applies the TLS flags: `-tls=false` turns TLS off; any other one turns it on, and then a
    /// certificate is needed, from flags or file. Settings of the file that no flag names stay.
    fn finish_tls(&self, options: &mut Options) -> Result<(), String> {
        if self.value(&["tls"]).and_then(parse_boolean) == Some(false) {
            options.tls = None;
            return Ok(());
        }
        if !self.given.iter().any(|(name, _)| name.starts_with("tls")) {
            return Ok(());
        }
        let certificate = options.tls.as_ref().and_then(|tls| tls.certificates.first());
        if certificate.is_none_or(|one| one.certificate_file.as_os_str().is_empty()) {
            return Err("TLS Server certificate must be present and valid".into());
        }
        if certificate.is_none_or(|one| one.key_file.as_os_str().is_empty()) {
            return Err("TLS Server private key must be present and valid".into());
        }
        Ok(())
    }
}

/// Returns true for a switch; None for a flag that does not exist.
fn is_switch(name: &str) -> Option<bool> {
    if let Some((_, argument, _)) = SPECIALS.iter().find(|(names, _, _)| names.contains(&name)) {
        return Some(argument.is_empty());
    }
    let row = option_table::find_flag(name)?;
    row.flag.as_ref().map(|flag| flag.argument.is_empty())
}

/// Refuses what Go refuses while parsing: values that are not a boolean or not an integer.
fn check_form(name: &str, value: &str, is_switch: bool) -> Result<(), String> {
    if is_switch {
        return match parse_boolean(value) {
            Some(_) => Ok(()),
            None => {
                let shown = quoted(value);
                let reason = match option_table::find_flag(name).map(|row| row.kind) {
                    Some(Kind::Part { flag: PartFlag::ToggleOr { word, .. }, .. }) => {
                        if value.eq_ignore_ascii_case(word) {
                            return Ok(());
                        }
                        format!(
                            "expected true, false, or {word}: strconv.ParseBool: parsing {shown}: \
                             invalid syntax"
                        )
                    }
                    _ => "parse error".into(),
                };
                Err(format!("invalid boolean value {shown} for -{name}: {reason}"))
            }
        };
    }
    let kind = option_table::find_flag(name).map(|row| row.kind);
    let is_number = matches!(kind, Some(Kind::Integer { .. } | Kind::Bytes { .. }))
        || matches!(name, "profile" | "connect_retries");
    if is_number && let Err(error) = parse_integer(value) {
        let value = quoted(value);
        return Err(format!("invalid value {value} for flag -{name}: {}", error.text()));
    }
    Ok(())
}
