//! The value tree of a configuration file, made by the parser and consumed by the readers.
//!
//! Every value knows the place of its key. Strings are bytes, since a file may write any byte as
//! `\xHH`.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use indexmap::IndexMap;

/// One value with its place in the file.
#[derive(Clone, Debug)]
pub struct Value {
    /// Shared, because a variable may be used many times.
    pub data: Rc<Data>,
    pub line: usize,
    pub column: usize,
    /// The file as named by the operator or the include; empty for text without a file.
    pub file: Rc<Path>,
    /// True if a variable refers to this value; its key then need not be an option.
    pub used_as_variable: Cell<bool>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    Text(Vec<u8>),
    Integer(i64),
    Float(f64),
    Toggle(bool),
    /// `2006-01-02T15:04:05Z`, validated.
    Time(String),
    List(Vec<Value>),
    Map(Map),
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.data == other.data
    }
}

/// Keys in the order of their first appearance. A key written twice has its last value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map {
    entries: IndexMap<Vec<u8>, Value>,
}

impl Map {
    pub fn insert(&mut self, key: Vec<u8>, value: Value) {
        self.entries.insert(key, value);
    }

    pub fn get(&self, key: &[u8]) -> Option<&Value> {
        self.entries.get(key)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Iterates over the entries. Keys that are not UTF-8 have replacement characters, so that no
    /// option matches them.
    pub fn entries(&self) -> impl Iterator<Item = (String, &Value)> {
        self.entries.iter().map(|(key, value)| (String::from_utf8_lossy(key).into_owned(), value))
    }

    pub(crate) fn into_entries(self) -> impl Iterator<Item = (Vec<u8>, Value)> {
        self.entries.into_iter()
    }

    /// True if the keys and values take more than `bytes_max` bytes where each is counted as often
    /// as it is used.
    pub(super) fn is_larger_than(&self, bytes_max: usize) -> bool {
        self.take_bytes(&mut Some(bytes_max)).is_none()
    }

    /// Takes the bytes of the map from those that are left; None = they do not suffice.
    fn take_bytes(&self, left: &mut Option<usize>) -> Option<()> {
        for (key, value) in &self.entries {
            take(left, key.len())?;
            value.take_bytes(left)?;
        }
        Some(())
    }

    /// Formats the map as one line of JSON, as Go's encoder does; nats-server's digest is computed
    /// over that.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        write_map(self, &mut out);
        out.push(b'\n');
        out
    }
}

/// Bytes that a value takes in any case.
const VALUE_BYTES: usize = 8;

fn take(left: &mut Option<usize>, bytes: usize) -> Option<()> {
    *left = left.and_then(|left| left.checked_sub(bytes));
    left.map(|_| ())
}

impl Value {
    fn take_bytes(&self, left: &mut Option<usize>) -> Option<()> {
        take(left, VALUE_BYTES)?;
        match &*self.data {
            Data::Text(text) => take(left, text.len()),
            Data::List(values) => values.iter().try_for_each(|value| value.take_bytes(left)),
            Data::Map(map) => map.take_bytes(left),
            _ => Some(()),
        }
    }

    /// Returns `file:line:column`.
    pub fn place(&self) -> String {
        format!("{}:{}:{}", self.file.display(), self.line, self.column)
    }

    /// Returns text, else None. Bytes that are not UTF-8 are replaced; the reader refuses those
    /// first.
    pub fn as_text(&self) -> Option<String> {
        match &*self.data {
            Data::Text(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }

    pub fn as_list(&self) -> Option<&[Value]> {
        match &*self.data {
            Data::List(values) => Some(values),
            _ => None,
        }
    }

    pub fn as_map(&self) -> Option<&Map> {
        match &*self.data {
            Data::Map(map) => Some(map),
            _ => None,
        }
    }

    /// Returns the type's name in nats-server's error texts.
    pub fn type_name(&self) -> &'static str {
        match &*self.data {
            Data::Text(_) => "string",
            Data::Integer(_) => "int64",
            Data::Float(_) => "float64",
            Data::Toggle(_) => "bool",
            Data::Time(_) => "time.Time",
            Data::List(_) => "[]interface {}",
            Data::Map(_) => "map[string]interface {}",
        }
    }
}

fn write_map(map: &Map, out: &mut Vec<u8>) {
    let mut sorted: Vec<(&Vec<u8>, &Value)> = map.entries.iter().collect();
    sorted.sort_by(|left, right| left.0.cmp(right.0));
    out.push(b'{');
    for (index, (key, value)) in sorted.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(key, out);
        out.push(b':');
        write_value(value, out);
    }
    out.push(b'}');
}

fn write_value(value: &Value, out: &mut Vec<u8>) {
    match &*value.data {
        Data::Text(bytes) => write_string(bytes, out),
        Data::Integer(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Data::Float(number) => write_float(*number, out),
        Data::Toggle(on) => out.extend_from_slice(if *on { b"true" } else { b"false" }),
        Data::Time(text) => write_string(text.as_bytes(), out),
        Data::Map(map) => write_map(map, out),
        Data::List(values) => {
            out.push(b'[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_value(value, out);
            }
            out.push(b']');
        }
    }
}

/// Formats as Go does: the shortest digits that read back the same, with an exponent only for
/// extreme values.
fn write_float(number: f64, out: &mut Vec<u8>) {
    let magnitude = number.abs();
    let text = if magnitude != 0.0 && !(1e-6..1e21).contains(&magnitude) {
        let text = format!("{number:e}");
        match text.split_once('e') {
            Some((digits, exponent)) if !exponent.starts_with('-') => {
                format!("{digits}e+{exponent}")
            }
            _ => text,
        }
    } else {
        number.to_string()
    };
    out.extend_from_slice(text.as_bytes());
}

/// Writes JSON text with Go's escapes, which include characters special in HTML.
fn write_string(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                '\x08' => out.extend_from_slice(b"\\b"),
                '\x0c' => out.extend_from_slice(b"\\f"),
                other
                    if other < ' '
                        || matches!(other, '<' | '>' | '&' | '\u{2028}' | '\u{2029}') =>
                {
                    out.extend_from_slice(format!("\\u{:04x}", other as u32).as_bytes());
                }
                other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
    out.push(b'"');
}
