//! The arguments after the question mark, decoded as Go decodes them, and refused in nats-server's
//! words.
//!
//! Source: Go net/url ParseQuery (pairs that cannot be decoded or have a semicolon are left out; of
//! several pairs with one name the first counts), strconv ParseBool, Atoi and ParseUint.

use std::num::IntErrorKind;

use crate::protocol::nats::error::quoted;

/// Names and values in the order in which they came. The bound on the request head limits their
/// number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
        let decoded = pairs.filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((unescape(name, true)?, unescape(value, true)?))
        });
        Self { pairs: decoded.collect() }
    }

    /// Returns the value of `name`; empty if it was not given.
    pub fn get(&self, name: &str) -> &str {
        self.pairs.iter().find(|pair| pair.0 == name).map_or("", |pair| &pair.1)
    }

    /// Returns the value of `name`, unless it is empty.
    pub fn given(&self, name: &str) -> Option<String> {
        Some(self.get(name)).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    /// Parses a boolean; false if it was not given.
    ///
    /// # Errors
    /// The text of a 400 answer.
    pub fn boolean(&self, name: &str) -> Result<bool, String> {
        match self.get(name) {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
            "" | "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
            other => Err(format!(
                "Error decoding boolean for '{name}': strconv.ParseBool: parsing {}: invalid syntax",
                quoted(other.as_bytes())
            )),
        }
    }

    /// Parses an integer; 0 if it was not given.
    ///
    /// # Errors
    /// As for `boolean`.
    pub fn integer(&self, name: &str) -> Result<i64, String> {
        let text = self.get(name);
        if text.is_empty() {
            return Ok(0);
        }
        text.parse().map_err(|error: std::num::ParseIntError| {
            refusal("int", "Atoi", name, text, error.kind())
        })
    }

    /// Parses an unsigned integer; 0 if it was not given.
    ///
    /// # Errors
    /// As for `boolean`.
    pub fn unsigned(&self, name: &str) -> Result<u64, String> {
        let text = self.get(name);
        if text.is_empty() {
            return Ok(0);
        }
        // Rust accepts a sign, Go does not.
        if text.starts_with('+') {
            let kind = &IntErrorKind::InvalidDigit;
            return Err(refusal("uint64", "ParseUint", name, text, kind));
        }
        text.parse().map_err(|error: std::num::ParseIntError| {
            refusal("uint64", "ParseUint", name, text, error.kind())
        })
    }
}

fn refusal(kind: &str, function: &str, name: &str, text: &str, error: &IntErrorKind) -> String {
    let reason = match error {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    let text = quoted(text.as_bytes());
    format!("Error decoding {kind} for '{name}': strconv.{function}: parsing {text}: {reason}")
}

/// Decodes escapes such as `%41` and, in a query, `+`. None if it is malformed or not UTF-8.
pub(crate) fn unescape(text: &str, plus_is_blank: bool) -> Option<String> {
    if !text.contains(['%', '+']) {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).expect("two hexadecimal digits")
            }
            b'+' if plus_is_blank => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pair_of_a_name_counts_and_malformed_pairs_are_left_out() {
        let query = Query::parse("limit=1&limit=x&offset=%zz&a=1;b=2&&sort=a%20b+c&flag");
        assert_eq!(query.get("limit"), "1");
        assert_eq!(query.get("offset"), "");
        assert_eq!(query.get("a"), "");
        assert_eq!(query.get("sort"), "a b c");
        assert_eq!(query.get("flag"), "");
        assert_eq!(query.given("flag"), None);
    }

    #[test]
    fn numbers_are_refused_in_the_words_of_go() {
        let integer = |text: &str| Query::parse(&format!("limit={text}")).integer("limit");
        assert_eq!(integer(""), Ok(0));
        assert_eq!(integer("-5"), Ok(-5));
        assert_eq!(integer("%2B5"), Ok(5));
        assert_eq!(integer("9223372036854775807"), Ok(i64::MAX));
        let text = "Error decoding int for 'limit': strconv.Atoi: parsing \"x\": invalid syntax";
        assert_eq!(integer("x"), Err(text.into()));
        let text = "Error decoding int for 'limit': strconv.Atoi: parsing \" 5\": invalid syntax";
        assert_eq!(integer("+5"), Err(text.into()));
        for huge in ["9223372036854775808", "-9223372036854775809", "99999999999999999999"] {
            let text = format!(
                "Error decoding int for 'limit': strconv.Atoi: parsing \"{huge}\": value out of range"
            );
            assert_eq!(integer(huge), Err(text));
        }
        let unsigned = |text: &str| Query::parse(&format!("cid={text}")).unsigned("cid");
        assert_eq!(unsigned("18446744073709551615"), Ok(u64::MAX));
        let text =
            "Error decoding uint64 for 'cid': strconv.ParseUint: parsing \"-1\": invalid syntax";
        assert_eq!(unsigned("-1"), Err(text.into()));
        assert!(unsigned("%2B1").is_err());
        let text = "Error decoding uint64 for 'cid': strconv.ParseUint: parsing \"18446744073709551616\": value out of range";
        assert_eq!(unsigned("18446744073709551616"), Err(text.into()));
    }

    #[test]
    fn booleans_are_those_of_go() {
        let boolean = |text: &str| Query::parse(&format!("subs={text}")).boolean("subs");
        for yes in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(boolean(yes), Ok(true));
        }
        for no in ["", "0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(boolean(no), Ok(false));
        }
        let text =
            "Error decoding boolean for 'subs': strconv.ParseBool: parsing \"yes\": invalid syntax";
        assert_eq!(boolean("yes"), Err(text.into()));
    }
}
