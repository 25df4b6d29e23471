//! A JSON object of options, read as Go's encoding/json reads a struct: keys in any letter case,
//! unknown keys and null ignored, and refusals in Go's words.
//!
//! Source: Go encoding/json, decode.go and scanner.go, as nats-server's `$SYS` requests use it.

use serde_json::{Map, Value};

/// The fields of a JSON object that were not read yet.
#[derive(Debug)]
pub(crate) struct JsonFields {
    fields: Map<String, Value>,
    /// The Go struct that refusals name.
    type_name: &'static str,
}

impl JsonFields {
    /// Reads an object; an empty text is one without fields, and so is `null`. `type_name` is the
    /// Go struct it stands for.
    ///
    /// # Errors
    /// Go's text.
    pub(crate) fn parse(text: &[u8], type_name: &'static str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self { fields: Map::new(), type_name });
        }
        // Go replaces bytes that are not UTF-8.
        let text = String::from_utf8_lossy(text);
        let value: Value =
            serde_json::from_str(&text).map_err(|error| syntax_refusal(&text, &error))?;
        match value {
            Value::Object(fields) => Ok(Self { fields, type_name }),
            Value::Null => Ok(Self { fields: Map::new(), type_name }),
            other => {
                let kind = kind_of(&other);
                Err(format!(
                    "json: cannot unmarshal {kind} into Go value of type server.{type_name}"
                ))
            }
        }
    }

    /// The last value that was given under this name and is not null.
    fn get(&self, name: &str) -> Option<&Value> {
        let named = |(key, _): &(&String, &Value)| key.eq_ignore_ascii_case(name);
        self.fields.iter().filter(named).map(|(_, value)| value).rfind(|value| !value.is_null())
    }

    fn refusal(&self, value: &Value, part: &str, name: &str, wanted: &str) -> String {
        let kind = match (value, wanted) {
            // Go shows a number that does not fit.
            (Value::Number(number), "int" | "uint64" | "server.ConnState") => {
                format!("number {number}")
            }
            _ => kind_of(value).to_owned(),
        };
        let inner = if part.is_empty() { String::new() } else { format!("{part}.") };
        format!(
            "json: cannot unmarshal {kind} into Go struct field {}.{inner}{name} of type {wanted}",
            self.type_name
        )
    }

    /// # Errors
    /// Go's text, here and below. `part` is the embedded Go struct that has the field.
    pub(crate) fn text(&self, part: &str, name: &str) -> Result<Option<String>, String> {
        self.text_as("string", part, name)
    }

    /// A text for which Go has a type of its own.
    pub(crate) fn text_as(
        &self,
        wanted: &str,
        part: &str,
        name: &str,
    ) -> Result<Option<String>, String> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.refusal(other, part, name, wanted)),
        }
    }

    /// False when it is not given.
    pub(crate) fn boolean(&self, part: &str, name: &str) -> Result<bool, String> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(other) => Err(self.refusal(other, part, name, "bool")),
        }
    }

    /// 0 when it is not given.
    pub(crate) fn integer(&self, part: &str, name: &str) -> Result<i64, String> {
        self.integer_as("int", part, name)
    }

    /// A number for which Go has a type of its own.
    pub(crate) fn integer_as(&self, wanted: &str, part: &str, name: &str) -> Result<i64, String> {
        let Some(value) = self.get(name) else { return Ok(0) };
        value.as_i64().ok_or_else(|| self.refusal(value, part, name, wanted))
    }

    /// 0 when it is not given.
    pub(crate) fn unsigned(&self, part: &str, name: &str) -> Result<u64, String> {
        let Some(value) = self.get(name) else { return Ok(0) };
        value.as_u64().ok_or_else(|| self.refusal(value, part, name, "uint64"))
    }

    /// Empty when it is not given.
    pub(crate) fn texts(&self, part: &str, name: &str) -> Result<Vec<String>, String> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        let Value::Array(items) = value else {
            return Err(self.refusal(value, part, name, "[]string"));
        };
        let text = |item: &Value| match item {
            Value::String(text) => Ok(text.clone()),
            Value::Null => Ok(String::new()),
            other => Err(self.refusal(other, part, name, "string")),
        };
        items.iter().map(text).collect()
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Go's words for text that is no JSON, as far as our parser tells what it stumbled over.
fn syntax_refusal(text: &str, error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".into();
    }
    let line = text.split('\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let byte = line.as_bytes().get(error.column().saturating_sub(1)).copied();
    let shown = match byte {
        Some(b'\'') => "'\\''".to_owned(),
        Some(byte @ 0x20..0x7f) => format!("'{}'", char::from(byte)),
        Some(byte) => format!("'\\x{byte:02x}'"),
        None => return "unexpected end of JSON input".into(),
    };
    let message = error.to_string();
    let place = if message.starts_with("trailing characters") {
        "after top-level value"
    } else if message.starts_with("key must be a string") {
        "looking for beginning of object key string"
    } else if message.starts_with("expected `:`") {
        "after object key"
    } else if message.starts_with("expected `,` or `}`") {
        "after object key:value pair"
    } else if message.starts_with("expected `,` or `]`") {
        "after array element"
    } else {
        "looking for beginning of value"
    };
    format!("invalid character {shown} {place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> JsonFields {
        JsonFields::parse(text.as_bytes(), "ConnzEventOptions").unwrap()
    }

    #[test]
    fn keys_match_in_any_case_and_null_is_nothing() {
        let fields = fields(r#"{"Limit":5,"CID":7,"auth":true,"user":null,"zz":[1],"tags":["a"]}"#);
        assert_eq!(fields.integer("", "limit"), Ok(5));
        assert_eq!(fields.unsigned("", "cid"), Ok(7));
        assert_eq!(fields.boolean("", "auth"), Ok(true));
        assert_eq!(fields.text("", "user"), Ok(None));
        assert_eq!(fields.texts("", "tags"), Ok(vec!["a".into()]));
        assert_eq!(fields.integer("", "offset"), Ok(0));
    }

    /// The answer of nats-server.
    #[test]
    fn refusals_are_those_of_go() {
        let parse = |text: &str| JsonFields::parse(text.as_bytes(), "VarzEventOptions").err();
        let cases = [
            ("xx", "invalid character 'x' looking for beginning of value"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("  ", "unexpected end of JSON input"),
            (r#"{"limit":"#, "unexpected end of JSON input"),
            ("[]", "json: cannot unmarshal array into Go value of type server.VarzEventOptions"),
            (
                r#""a""#,
                "json: cannot unmarshal string into Go value of type server.VarzEventOptions",
            ),
        ];
        for (text, refusal) in cases {
            assert_eq!(parse(text).as_deref(), Some(refusal), "{text}");
        }
        assert_eq!(parse(""), None);
        assert_eq!(parse("null"), None);
        let prefix = "into Go struct field ConnzEventOptions.ConnzOptions.";
        let refused = fields(r#"{"limit":"x","cid":-1,"offset":1.5}"#);
        let text =
            |kind: &str, rest: &str| Err(format!("json: cannot unmarshal {kind} {prefix}{rest}"));
        assert_eq!(refused.integer("ConnzOptions", "limit"), text("string", "limit of type int"));
        assert_eq!(refused.unsigned("ConnzOptions", "cid"), {
            text("number -1", "cid of type uint64").map(|_: i64| 0)
        });
        assert_eq!(
            refused.integer("ConnzOptions", "offset"),
            text("number 1.5", "offset of type int")
        );
        let refused = fields(r#"{"sort":5,"state":"closed","acc":0.5}"#);
        assert_eq!(
            refused.integer_as("server.ConnState", "ConnzOptions", "state"),
            text("string", "state of type server.ConnState")
        );
        assert_eq!(
            refused.integer_as("server.ConnState", "ConnzOptions", "acc"),
            text("number 0.5", "acc of type server.ConnState")
        );
        assert_eq!(
            refused.text_as("server.SortOpt", "ConnzOptions", "sort"),
            text("number", "sort of type server.SortOpt").map(|_: i64| None)
        );
    }
}
