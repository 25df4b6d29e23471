//! Decodes requests into structs as nats-server does: keys match in any case, `null` leaves a value
//! as it is, several objects one behind the other are merged, the first of the errors is told.
//!
//! The syntax of a value is checked to its end before any of it is decoded: [`Reader`] reads only
//! valid JSON. Its depth is that of the structs, however deep the body is.

use std::collections::BTreeMap;

use super::scanner::{self, Scan, is_blank, scan};
use crate::config::go_text::quoted;

/// A text for `invalid JSON: {err}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DecodeError(pub String);

pub(crate) type Decoded = Result<(), DecodeError>;

/// A struct that is read from an object.
pub(crate) trait Object {
    /// Its name in error texts.
    const GO_NAME: &'static str;
    /// The names of its fields.
    const FIELDS: &'static [&'static str];

    /// The struct inside this one that the field belongs to; error texts name it.
    fn embedded(_field: &'static str) -> Option<&'static str> {
        None
    }

    /// Reads one of the fields.
    ///
    /// # Errors
    /// If nothing behind this value shall be read; other errors are noted by `reader`.
    fn read_field(&mut self, field: &'static str, reader: &mut Reader<'_>) -> Decoded;
}

/// Reads a request, which may hold several objects one behind the other.
///
/// # Errors
/// If a value is not JSON, has a wrong type, or, where `strict` is set, an unknown field. `target`
/// may have changed.
pub(crate) fn decode_request<T: Object>(body: &[u8], strict: bool, target: &mut T) -> Decoded {
    match decode_all(body, target) {
        Err(_) if !strict => decode(body, target),
        result => result,
    }
}

fn decode_all<T: Object>(body: &[u8], target: &mut T) -> Decoded {
    let mut at = 0;
    loop {
        match scan(body, at) {
            Scan::Blank => return Ok(()),
            Scan::Unfinished => return Err(DecodeError("unexpected EOF".into())),
            Scan::Wrong(error) => {
                return Err(DecodeError(format!("{error} at offset {}", error.offset)));
            }
            Scan::Value { start, end } => {
                Reader::new(&body[start..end], true).read_whole(target)?;
                at = end;
            }
        }
    }
}

/// Reads one object and drops unknown fields.
///
/// # Errors
/// If it is not one JSON value, or a value has a wrong type.
pub(crate) fn decode<T: Object>(body: &[u8], target: &mut T) -> Decoded {
    let error = match scan(body, 0) {
        Scan::Blank | Scan::Unfinished => scanner::unexpected_end(body.len()),
        Scan::Wrong(error) => error,
        Scan::Value { start, end } => match body[end..].iter().position(|&byte| !is_blank(byte)) {
            Some(more) => scanner::after_top_level(body, end + more),
            None => return Reader::new(&body[start..end], false).read_whole(target),
        },
    };
    Err(DecodeError(error.to_string()))
}

/// Reads one valid JSON value from its start to its end.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    refuses_unknown: bool,
    /// The first error that did not end the reading.
    error: Option<DecodeError>,
    struct_name: &'static str,
    path: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    fn new(value: &'a [u8], refuses_unknown: bool) -> Reader<'a> {
        Reader {
            bytes: value,
            at: 0,
            refuses_unknown,
            error: None,
            struct_name: "",
            path: Vec::new(),
        }
    }

    fn read_whole<T: Object>(mut self, target: &mut T) -> Decoded {
        self.object(target)?;
        self.error.map_or(Ok(()), Err)
    }

    /// Reads an object into `target`.
    pub(crate) fn object<T: Object>(&mut self, target: &mut T) -> Decoded {
        if self.peek() != b'{' {
            return self.mismatch(&format!("server.{}", T::GO_NAME));
        }
        let outer = (self.struct_name, self.path.len());
        self.members(|reader, key| {
            let Some(field) = find_field(T::FIELDS, &key) else {
                if reader.refuses_unknown {
                    reader.note(DecodeError(format!("json: unknown field {}", quoted(&key))));
                }
                reader.skip();
                return Ok(());
            };
            reader.struct_name = T::GO_NAME;
            reader.path.extend(T::embedded(field));
            reader.path.push(field);
            target.read_field(field, reader)?;
            (reader.struct_name, _) = outer;
            reader.path.truncate(outer.1);
            Ok(())
        })
    }

    /// Reads an object, or nothing for `null`.
    pub(crate) fn optional_object<T: Object + Default>(
        &mut self,
        target: &mut Option<T>,
    ) -> Decoded {
        if self.skip_null() {
            *target = None;
            return Ok(());
        }
        self.object(target.get_or_insert_default())
    }

    /// Reads an array of objects. `go_type` is its name in error texts.
    pub(crate) fn objects<T: Object + Default>(
        &mut self,
        target: &mut Vec<T>,
        go_type: &str,
    ) -> Decoded {
        self.array(target, go_type, |reader, element| reader.object(element))
    }

    pub(crate) fn strings(&mut self, target: &mut Vec<String>) -> Decoded {
        self.array(target, "[]string", |reader, element| reader.string(element))
    }

    /// Reads an array of durations in nanoseconds.
    pub(crate) fn durations(&mut self, target: &mut Vec<i64>) -> Decoded {
        self.array(target, "[]time.Duration", |reader, element| reader.duration(element))
    }

    fn array<T: Default>(
        &mut self,
        target: &mut Vec<T>,
        go_type: &str,
        mut read: impl FnMut(&mut Self, &mut T) -> Decoded,
    ) -> Decoded {
        if self.skip_null() {
            target.clear();
            return Ok(());
        }
        if self.peek() != b'[' {
            return self.mismatch(go_type);
        }
        let mut count = 0;
        self.at += 1;
        while self.more(b']') {
            if count == target.len() {
                target.push(T::default());
            }
            read(self, &mut target[count])?;
            count += 1;
        }
        target.truncate(count);
        Ok(())
    }

    /// Reads an object with a string for each key; later ones replace earlier ones.
    pub(crate) fn string_map(&mut self, target: &mut BTreeMap<String, String>) -> Decoded {
        if self.skip_null() {
            target.clear();
            return Ok(());
        }
        if self.peek() != b'{' {
            return self.mismatch("map[string]string");
        }
        self.members(|reader, key| {
            let mut value = String::new();
            reader.string(&mut value)?;
            target.insert(key, value);
            Ok(())
        })
    }

    pub(crate) fn string(&mut self, target: &mut String) -> Decoded {
        if self.peek() == b'"' {
            *target = unquote(self.take());
            return Ok(());
        }
        self.unless_null("string")
    }

    pub(crate) fn bool(&mut self, target: &mut bool) -> Decoded {
        if matches!(self.peek(), b't' | b'f') {
            *target = self.take() == b"true";
            return Ok(());
        }
        self.unless_null("bool")
    }

    pub(crate) fn int(&mut self, target: &mut i64) -> Decoded {
        self.number(target, "int")
    }

    pub(crate) fn int32(&mut self, target: &mut i32) -> Decoded {
        self.number(target, "int32")
    }

    pub(crate) fn int64(&mut self, target: &mut i64) -> Decoded {
        self.number(target, "int64")
    }

    pub(crate) fn uint64(&mut self, target: &mut u64) -> Decoded {
        self.number(target, "uint64")
    }

    /// Reads a duration in nanoseconds.
    pub(crate) fn duration(&mut self, target: &mut i64) -> Decoded {
        self.number(target, "time.Duration")
    }

    fn number<T: std::str::FromStr>(&mut self, target: &mut T, go_type: &str) -> Decoded {
        if !matches!(self.peek(), b'-' | b'0'..=b'9') {
            return self.unless_null(go_type);
        }
        let text = String::from_utf8_lossy(self.take()).into_owned();
        match text.parse() {
            Ok(value) => *target = value,
            Err(_) => self.note_mismatch(&format!("number {text}"), go_type),
        }
        Ok(())
    }

    /// Reads the text of a value of any type, without decoding it.
    pub(crate) fn take(&mut self) -> &'a [u8] {
        let start = self.at;
        self.skip();
        &self.bytes[start..self.at]
    }

    /// Skips `null`; false if the value is another one.
    pub(crate) fn skip_null(&mut self) -> bool {
        let is_null = self.peek() == b'n';
        if is_null {
            self.skip();
        }
        is_null
    }

    fn unless_null(&mut self, go_type: &str) -> Decoded {
        if self.skip_null() { Ok(()) } else { self.mismatch(go_type) }
    }

    /// Skips the value and notes that its type is not `go_type`.
    pub(crate) fn mismatch(&mut self, go_type: &str) -> Decoded {
        if self.skip_null() {
            return Ok(());
        }
        let found = value_name(self.peek());
        self.skip();
        self.note_mismatch(found, go_type);
        Ok(())
    }

    fn note_mismatch(&mut self, found: &str, go_type: &str) {
        let error = self.mismatch_error(found, go_type);
        self.note(error);
    }

    /// The error for a value of another type, which ends the reading.
    pub(crate) fn mismatch_error(&self, found: &str, go_type: &str) -> DecodeError {
        DecodeError(if self.struct_name.is_empty() {
            format!("json: cannot unmarshal {found} into Go value of type {go_type}")
        } else {
            let path = self.path.join(".");
            let name = self.struct_name;
            format!(
                "json: cannot unmarshal {found} into Go struct field {name}.{path} of type {go_type}"
            )
        })
    }

    fn note(&mut self, error: DecodeError) {
        self.error.get_or_insert(error);
    }

    /// Calls `each` with every key, at the start of its value.
    fn members(&mut self, mut each: impl FnMut(&mut Self, String) -> Decoded) -> Decoded {
        self.at += 1;
        while self.more(b'}') {
            let key = unquote(self.take());
            self.skip_blanks();
            self.at += 1;
            self.skip_blanks();
            each(self, key)?;
        }
        Ok(())
    }

    /// Moves to the next element of an array or object; false at its end, which is passed.
    fn more(&mut self, end: u8) -> bool {
        loop {
            self.skip_blanks();
            match self.peek() {
                b',' => self.at += 1,
                byte if byte == end => {
                    self.at += 1;
                    return false;
                }
                _ => return true,
            }
        }
    }

    fn skip(&mut self) {
        let Scan::Value { end, .. } = scan(self.bytes, self.at) else {
            unreachable!("the value was scanned before it is read")
        };
        self.at = end;
    }

    fn skip_blanks(&mut self) {
        while is_blank(self.peek()) {
            self.at += 1;
        }
    }

    fn peek(&self) -> u8 {
        self.bytes[self.at]
    }
}

/// Names a value by its first byte, as error texts do.
pub(crate) fn value_name(first: u8) -> &'static str {
    match first {
        b'{' => "object",
        b'[' => "array",
        b'"' => "string",
        b't' | b'f' => "bool",
        b'n' => "null",
        _ => "number",
    }
}

fn find_field(fields: &[&'static str], key: &str) -> Option<&'static str> {
    let exact = fields.iter().find(|&&field| field == key);
    exact.or_else(|| fields.iter().find(|&&field| is_same_folded(field, key))).copied()
}

/// True if `key` is `field` in another case. Two letters outside of ASCII fold to letters in it.
fn is_same_folded(field: &str, key: &str) -> bool {
    let folded = |character| match character {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    key.chars().map(folded).eq(field.chars())
}

/// Decodes a valid string with its quotes. Bytes that are no UTF-8 and lone halves of pairs become
/// U+FFFD, as in Go.
pub(crate) fn unquote(literal: &[u8]) -> String {
    let inner = &literal[1..literal.len() - 1];
    let mut result = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        push_lossy(&mut result, &rest[..at]);
        rest = push_escape(&mut result, &rest[at + 1..]);
    }
    push_lossy(&mut result, rest);
    result
}

/// Appends with one U+FFFD for each byte that is no UTF-8.
fn push_lossy(result: &mut String, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        result.push_str(chunk.valid());
        result.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
}

/// Appends the character of the escape at the start of `escape`, and returns what is behind it.
fn push_escape<'a>(result: &mut String, escape: &'a [u8]) -> &'a [u8] {
    let plain = match escape[0] {
        b'b' => '\x08',
        b'f' => '\x0c',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return push_unicode(result, &escape[1..]),
        other => char::from(other),
    };
    result.push(plain);
    &escape[1..]
}

fn push_unicode<'a>(result: &mut String, digits: &'a [u8]) -> &'a [u8] {
    let (first, rest) = (unit(digits), &digits[4..]);
    if let Some(character) = char::from_u32(first) {
        result.push(character);
        return rest;
    }
    let second = rest.strip_prefix(b"\\u").map(unit);
    if let Some(low @ 0xdc00..0xe000) = second
        && (0xd800..0xdc00).contains(&first)
    {
        let code = 0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00);
        result.extend(char::from_u32(code));
        return &rest[6..];
    }
    result.push(char::REPLACEMENT_CHARACTER);
    rest
}

fn unit(digits: &[u8]) -> u32 {
    digits[..4]
        .iter()
        .fold(0, |value, &digit| value * 16 + char::from(digit).to_digit(16).unwrap_or(0))
}
