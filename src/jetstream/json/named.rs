//! Enumerations that stand as names in JSON.

use super::decode::{DecodeError, Decoded, Reader};
use crate::config::go_text::quoted;

/// An enumeration with a name for each value.
pub(crate) trait Named: Copy + 'static {
    /// Names with their values. Where several names mean one value, the first is written.
    const NAMES: &'static [(&'static str, Self)];

    /// Names are known in any case.
    const FOLDS: bool = false;

    /// The error for `text`, which is none of the names.
    fn unknown(text: &[u8]) -> DecodeError {
        DecodeError(format!("can not unmarshal {}", quoted_bytes(text)))
    }

    /// Reads a name. Its text is compared as it stands, with its quotes: a name with escapes is
    /// unknown, and so is `null`.
    ///
    /// # Errors
    /// If it is none of the names; nothing behind it is read.
    fn read(&mut self, reader: &mut Reader<'_>) -> Decoded {
        let text = reader.take();
        let name = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\""));
        let is_known = |known: &str| match name {
            Some(name) if Self::FOLDS => name.eq_ignore_ascii_case(known.as_bytes()),
            name => name == Some(known.as_bytes()),
        };
        let found = Self::NAMES.iter().find(|(known, _)| is_known(known));
        *self = found.ok_or_else(|| Self::unknown(text))?.1;
        Ok(())
    }
}

/// Writes the first name of a value.
macro_rules! serialize_by_name {
    ($($type:ty),+) => {
        $(impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use $crate::jetstream::json::named::Named;
                let name = Self::NAMES.iter().find(|(_, value)| value == self);
                serializer.serialize_str(name.expect("every value has a name").0)
            }
        })+
    };
}
pub(crate) use serialize_by_name;

/// Formats as a string in Go's double quotes; bytes that are no UTF-8 by their value.
pub(crate) fn quoted_bytes(bytes: &[u8]) -> String {
    let mut result = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        let valid = quoted(chunk.valid());
        result.push_str(&valid[1..valid.len() - 1]);
        for byte in chunk.invalid() {
            result.push_str(&format!("\\x{byte:02x}"));
        }
    }
    result.push('"');
    result
}
