//! What all readers of the value tree share: access to values by type, and the remarks about a
//! file.
//!
//! All problems of a file are collected, so that an operator sees them at once.

use std::collections::HashSet;

use crate::config::address::{PORT_MAX, PORT_MIN, parse_address};
use crate::config::feature::Feature;
use crate::config::go_text::quoted;
use crate::config::options::Options;
use crate::config::surroundings::Surroundings;
use crate::config::value::{Data, Map, Value};

pub struct Reader<'a> {
    pub options: Options,
    pub errors: Vec<String>,
    /// Accepted when starting, refused when testing a file.
    pub warnings: Vec<String>,
    /// Makes options of later features warnings instead of errors.
    pub allow_unsupported: bool,
    /// Notes on ignored options, mostly because of `allow_unsupported`; never an error.
    pub unsupported: Vec<String>,
    pub surroundings: &'a dyn Surroundings,
    /// Names of the users and public nkeys read so far.
    user_names: HashSet<String>,
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
            user_names: HashSet::new(),
        }
    }

    /// Claims the name of a user or its public nkey. False if another has it.
    pub(super) fn claim_user_name(&mut self, name: &str) -> bool {
        self.user_names.insert(name.to_owned())
    }

    pub fn error(&mut self, at: &Value, reason: impl AsRef<str>) {
        self.errors.push(format!("{}: {}", at.place(), reason.as_ref()));
    }

    pub fn unknown_field(&mut self, at: &Value, name: &str) {
        if !at.used_as_variable.get() {
            self.error(at, format!("unknown field {}", quoted(name)));
        }
    }

    /// Refuses an option of a later feature, or notes that it is ignored.
    pub fn refuse_later(&mut self, at: &Value, feature: Feature) {
        if self.allow_unsupported && !feature.decides_who_enters() {
            let text = feature.not_supported();
            self.unsupported.push(format!("{}: {text}, ignored", at.place()));
        } else {
            self.error(at, feature.refusal());
        }
    }

    pub(super) fn wrong_type(&mut self, at: &Value, expected: &str) {
        let found = at.type_name();
        self.error(at, format!("interface conversion: interface {{}} is {found}, not {expected}"));
    }

    /// Returns the text, or None with an error noted.
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

    /// Reads a port; -1 is any free one.
    pub(super) fn port(&mut self, value: &Value) -> Option<i64> {
        let port = self.integer(value)?;
        if !(PORT_MIN..=PORT_MAX).contains(&port) {
            self.error(value, format!("port must be {PORT_MIN} to {PORT_MAX}"));
            return None;
        }
        Some(port)
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

    /// Reads a port, or a host and a port.
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
                // nats-server stores tags trimmed, in lower case, without duplicates.
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
