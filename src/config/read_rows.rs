//! Applies a value tree to `Options`: looks up each key's row, checks the type, calls the setter.

use crate::config::address::PORT_MAX;
use crate::config::feature::Asks;
use crate::config::go_text::{SignedDuration, parse_duration, quoted};
use crate::config::option_table;
use crate::config::reader::Reader;
use crate::config::row::{Kind, Row};
use crate::config::value::{Data, Map, Value};

impl Reader<'_> {
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

    pub(super) fn duration(
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
}

/// Checks a number against the row's range.
///
/// # Errors
/// nats-server's text for a number that it refuses.
pub(crate) fn check_range(
    row: &Row,
    name: &str,
    number: i64,
    min: i64,
    max: i64,
) -> Result<(), String> {
    let is_own = row.go_name == row.key;
    // nats-server accepts any number as a port, and fails when it listens.
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
