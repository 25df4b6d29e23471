//! From value tree to `Options`: looks up each key's row, checks the type, calls the setter.
//!
//! All problems of a file are collected, so that an operator sees them at once.

use crate::config::go_text::{SignedDuration, parse_duration, quoted};
use crate::config::later::{Asks, Feature};
use crate::config::option_table::{self, Kind, PORT_MAX, PORT_MIN, Row, parse_address};
use crate::config::options::Options;
use crate::config::surroundings::Surroundings;
use crate::config::value::{Data, Map, Value};

pub struct Reader<'a> {
    pub options: Options,
    pub errors: Vec<String>,
    /// Accepted when starting, refused when testing a file.
    pub warnings: Vec<String>,
    /// Warn about options of later features instead of refusing them.
    pub allow_unsupported: bool,
    /// Notes on what was passed over, mostly because of `allow_unsupported`; never refused.
    pub unsupported: Vec<String>,
    pub surroundings: &'a dyn Surroundings,
}

impl<'a> Reader<'a> {
    pub fn new(surroundings: &'a dyn Surroundings, allow_unsupported: bool) -> Self {
        Self {
            options: Options::default(),
            errors: Vec::new(),
            warnings: Vec::new(),
            allow_unsupported,
            unsupported: Vec::new(),
            surroundings,
        }
    }

    pub fn error(&mut self, at: &Value, reason: impl AsRef<str>) {
        self.errors.push(format!("{}: {}", at.place(), reason.as_ref()));
    }

    pub fn unknown_field(&mut self, at: &Value, name: &str) {
        if !at.used_as_variable.get() {
            self.error(at, format!("unknown field {}", quoted(name)));
        }
    }

    /// An option of a later feature was used.
    pub fn refuse_later(&mut self, at: &Value, feature: Feature) {
        if self.allow_unsupported && !feature.decides_who_enters() {
            let text = feature.not_supported();
            self.unsupported.push(format!("{}: {text}, ignored", at.place()));
        } else {
            self.error(at, feature.refusal());
        }
    }

    fn wrong_type(&mut self, at: &Value, expected: &str) {
        let found = at.type_name();
        self.error(at, format!("interface conversion: interface {{}} is {found}, not {expected}"));
    }

    /// Text, or None with an error noted.
    pub fn text(&mut self, value: &Value) -> Option<String> {
        match &*value.data {
            Data::Text(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Some(text.to_string()),
                Err(_) => {
                    self.error(value, "text is not valid UTF-8");
                    None
                }
            },
            _ => {
                self.wrong_type(value, "string");
                None
            }
        }
    }

    pub fn toggle(&mut self, value: &Value) -> Option<bool> {
        match *value.data {
            Data::Toggle(on) => Some(on),
            _ => {
                self.wrong_type(value, "bool");
                None
            }
        }
    }

    pub fn integer(&mut self, value: &Value) -> Option<i64> {
        match *value.data {
            Data::Integer(number) => Some(number),
            _ => {
                self.wrong_type(value, "int64");
                None
            }
        }
    }

    pub fn map<'v>(&mut self, value: &'v Value) -> Option<&'v Map> {
        match &*value.data {
            Data::Map(map) => Some(map),
            _ => {
                self.wrong_type(value, "map[string]interface {}");
                None
            }
        }
    }

    /// A port, or host and port.
    pub fn address(&mut self, value: &Value) -> Option<(Option<String>, i64)> {
        let parsed = match &*value.data {
            Data::Integer(port) => Ok((None, *port)),
            Data::Text(_) => {
                parse_address(&self.text(value)?).map(|(host, port)| (Some(host), port))
            }
            _ => Err(format!("expected port or host:port, got {}", value.type_name())),
        };
        let checked = parsed.and_then(|(host, port)| match port {
            PORT_MIN..=PORT_MAX => Ok((host, port)),
            _ => Err(format!("port must be {PORT_MIN} to {PORT_MAX}, not {port}")),
        });
        checked.map_err(|reason| self.error(value, reason)).ok()
    }

    /// Reads a whole file's top level.
    pub fn read_top(&mut self, map: &Map) {
        for (name, value) in map.entries() {
            match option_table::find(&name) {
                Some(row) => self.read_row(row, &name, value),
                None => self.unknown_field(value, &name),
            }
        }
    }

    /// Reads a block whose options are all rows of the table.
    pub fn read_table_block(&mut self, block: &str, value: &Value) {
        let Some(map) = self.map(value) else { return };
        for (name, value) in map.entries() {
            match option_table::find_in_block(block, &name) {
                Some(row) => self.read_row(row, &name, value),
                None => self.unknown_field(value, &name),
            }
        }
    }

    fn read_row(&mut self, row: &'static Row, name: &str, value: &Value) {
        match row.kind {
            Kind::Toggle(set) => {
                if let Some(on) = self.toggle(value) {
                    set(&mut self.options, on);
                }
            }
            Kind::Integer { min, max, set } | Kind::Bytes { min, max, set } => {
                if let Some(number) = self.integer(value) {
                    match check_range(row, name, number, min, max) {
                        Ok(()) => set(&mut self.options, number),
                        Err(reason) => self.error(value, reason),
                    }
                }
            }
            Kind::Duration { integer_is_seconds, set } => {
                let duration = self.duration(row.key, value, integer_is_seconds);
                if let Some(Err(reason)) = duration.map(|duration| set(&mut self.options, duration))
                {
                    self.error(value, reason);
                }
            }
            Kind::Text(set) => {
                let text = self.text(value);
                if let Some(Err(reason)) = text.map(|text| set(&mut self.options, &text)) {
                    self.error(value, reason);
                }
            }
            Kind::Structure { read, .. } => read(self, value),
            Kind::Later { feature, asks, .. } => match asks(self, value) {
                Asks::Nothing => {}
                Asks::PortForOthers => {
                    let (place, text) = (value.place(), feature.not_supported());
                    let note = format!("{place}: {text}: no port is opened for other servers");
                    self.unsupported.push(note);
                }
                Asks::Feature => self.refuse_later(value, feature),
            },
            Kind::Part { .. } => self.unknown_field(value, name),
        }
    }

    fn duration(
        &mut self,
        key: &str,
        value: &Value,
        integer_is_seconds: bool,
    ) -> Option<SignedDuration> {
        match &*value.data {
            Data::Integer(seconds) if integer_is_seconds => {
                self.warnings.push(format!(
                    "{}: invalid use of field {}: {key} should be converted to a duration",
                    value.place(),
                    quoted(key),
                ));
                Some(SignedDuration(seconds.saturating_mul(1_000_000_000)))
            }
            Data::Text(_) => {
                let text = self.text(value)?;
                parse_duration(&text)
                    .map_err(|reason| self.error(value, format!("error parsing {key}: {reason}")))
                    .ok()
            }
            _ if integer_is_seconds => {
                self.wrong_type(value, "int64");
                None
            }
            _ => {
                self.wrong_type(value, "string");
                None
            }
        }
    }

    pub fn read_tags(&mut self, value: &Value) {
        let values = match &*value.data {
            Data::Text(_) => std::slice::from_ref(value),
            Data::List(values) => values,
            _ => {
                let found = value.type_name();
                return self.error(value, format!("error parsing tags: unsupported type {found}"));
            }
        };
        for tag in values {
            match tag.as_text() {
                // nats-server keeps tags trimmed, in lower case, each once.
                Some(text) => {
                    let tag = text.trim().to_lowercase();
                    if !tag.is_empty() && !self.options.server_tags.contains(&tag) {
                        self.options.server_tags.push(tag);
                    }
                }
                None => {
                    let reason = "error parsing tags: unsupported type where string is expected";
                    return self.error(value, reason);
                }
            }
        }
    }

    pub fn read_metadata(&mut self, value: &Value) {
        let Some(map) = value.as_map() else {
            let found = value.type_name();
            return self.error(value, format!("error parsing metadata: unsupported type {found}"));
        };
        let mut metadata = Vec::new();
        for (name, value) in map.entries() {
            if let Some(text) = self.text(value) {
                metadata.push((name, text));
            }
        }
        metadata.sort();
        self.options.server_metadata = metadata;
    }
}

/// # Errors
/// nats-server's text for a number it refuses.
pub fn check_range(row: &Row, name: &str, number: i64, min: i64, max: i64) -> Result<(), String> {
    let is_own = row.go_name == row.key;
    // nats-server takes any number for a port, and fails when it listens.
    let names_range = is_own || max == PORT_MAX;
    if names_range && !(min..=max).contains(&number) {
        Err(format!("{name} must be {min} to {max}"))
    } else if number > max {
        Err(format!("{name} value is too big"))
    } else if number < min && number <= 0 {
        Err(format!("{name} value can not be negative"))
    } else if number < min {
        Err(format!("{name} value is too small"))
    } else {
        Ok(())
    }
}
