//! Writes JSON as Go's `encoding/json` does: without blanks, with `<`, `>`, `&` and the line ends of
//! Unicode as escapes.

use std::io;

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Returns the JSON of `value`, fields in the order of their declaration.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    value
        .serialize(&mut Serializer::with_formatter(&mut bytes, GoFormatter))
        .expect("keys are strings, and a vector takes all that is written");
    bytes
}

struct GoFormatter;

impl Formatter for GoFormatter {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(is_escaped) {
            writer.write_all(&rest.as_bytes()[..at])?;
            let mut behind = rest[at..].chars();
            let character = behind.next().expect("one was found");
            write!(writer, "\\u{:04x}", u32::from(character))?;
            rest = behind.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

fn is_escaped(character: char) -> bool {
    matches!(character, '<' | '>' | '&' | '\u{2028}' | '\u{2029}')
}

/// For `skip_serializing_if`: the value is that of an absent field.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
