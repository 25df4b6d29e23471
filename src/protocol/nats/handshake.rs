//! INFO and CONNECT, the two JSON commands. Source: nats-server server/server.go (Info) and
//! server/client.go (ClientOpts).

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize};

/// The fields of INFO, in nats-server's order; fields that are off are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Info {
    pub server_id: String,
    pub server_name: String,
    pub version: String,
    pub proto: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_commit: Option<String>,
    /// Some clients decode INFO strictly and want this to exist.
    pub go: String,
    pub host: String,
    pub port: u16,
    pub headers: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub auth_required: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub tls_required: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub tls_verify: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub tls_available: bool,
    pub max_payload: usize,
    #[serde(skip_serializing_if = "is_false")]
    pub jetstream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub connect_urls: Vec<String>,
    #[serde(rename = "ldm", skip_serializing_if = "is_false")]
    pub lame_duck: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub connect_info: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_account: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub acc_is_sys: bool,
    /// JetStream's domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The level of JetStream's API.
    #[serde(rename = "api_lvl", skip_serializing_if = "Option::is_none")]
    pub api_level: Option<u32>,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Info {
    /// `INFO {json} CRLF`, with the blank nats-server writes before the line end.
    pub fn line(&self) -> Vec<u8> {
        let mut line = b"INFO ".to_vec();
        serde_json::to_writer(&mut line, self).expect("strings and numbers always serialise");
        line.extend_from_slice(b" \r\n");
        line
    }
}

/// A text that is empty nearly always, and then takes one pointer: every connection holds ten of
/// them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct Text(Option<Box<Box<str>>>);

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self((!text.is_empty()).then(|| Box::new(text.into_boxed_str())))
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.deref().fmt(f)
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.0.as_deref().map_or("", |text| text)
    }
}

/// A client's CONNECT. Keys match in any letter case, null keeps the default, unknown keys are
/// ignored.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectOptions {
    pub verbose: bool,
    pub pedantic: bool,
    pub echo: bool,
    pub tls_required: bool,
    pub headers: bool,
    pub no_responders: bool,
    pub protocol: i64,
    pub auth_token: Text,
    pub user: Text,
    pub pass: Text,
    pub nkey: Text,
    pub jwt: Text,
    pub sig: Text,
    pub name: Text,
    pub lang: Text,
    pub version: Text,
    pub account: Text,
    pub new_account: bool,
}

impl Default for ConnectOptions {
    /// The options of a client that never sends CONNECT.
    fn default() -> Self {
        Self {
            verbose: true,
            pedantic: true,
            echo: true,
            tls_required: false,
            headers: false,
            no_responders: false,
            protocol: 0,
            auth_token: Text::default(),
            user: Text::default(),
            pass: Text::default(),
            nkey: Text::default(),
            jwt: Text::default(),
            sig: Text::default(),
            name: Text::default(),
            lang: Text::default(),
            version: Text::default(),
            account: Text::default(),
            new_account: false,
        }
    }
}

/// Why CONNECT's JSON was refused: the connection closes without a word.
#[derive(Debug)]
pub struct BadConnect(pub String);

impl ConnectOptions {
    /// Merges the JSON object of a CONNECT over these options.
    ///
    /// # Errors
    /// Not one JSON object, trailing bytes, or a value of the wrong type.
    pub fn merge(&mut self, json: &[u8]) -> Result<(), BadConnect> {
        // Go's decoder replaces bytes that are not UTF-8; names are all they can be part of.
        let text = String::from_utf8_lossy(json);
        // serde's own words quote what was there, and that may be a secret in the wrong place.
        let bad = |error: serde_json::Error| {
            BadConnect(format!("no JSON object, seen at column {}", error.column()))
        };
        let mut reader = serde_json::Deserializer::from_str(&text);
        let fields =
            std::collections::BTreeMap::<String, serde_json::Value>::deserialize(&mut reader);
        // `null` for the whole object is legal in Go and changes nothing.
        let fields = match fields {
            Ok(fields) => fields,
            Err(_) if text.trim() == "null" => return Ok(()),
            Err(error) => return Err(bad(error)),
        };
        reader.end().map_err(bad)?;
        for (key, value) in fields {
            if !value.is_null() {
                let key = key.to_ascii_lowercase();
                let set = self.set(&key, value);
                // Only the keys that are known here can fail.
                set.map_err(|_| BadConnect(format!("the value of {key} is of a wrong type")))?;
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: serde_json::Value) -> Result<(), serde_json::Error> {
        fn into<T: for<'de> Deserialize<'de>>(
            slot: &mut T,
            value: serde_json::Value,
        ) -> Result<(), serde_json::Error> {
            *slot = serde_json::from_value(value)?;
            Ok(())
        }
        match key {
            "verbose" => into(&mut self.verbose, value),
            "pedantic" => into(&mut self.pedantic, value),
            "echo" => into(&mut self.echo, value),
            "tls_required" => into(&mut self.tls_required, value),
            "headers" => into(&mut self.headers, value),
            "no_responders" => into(&mut self.no_responders, value),
            "protocol" => into(&mut self.protocol, value),
            "auth_token" => into(&mut self.auth_token, value),
            "user" => into(&mut self.user, value),
            "pass" => into(&mut self.pass, value),
            "nkey" => into(&mut self.nkey, value),
            "jwt" => into(&mut self.jwt, value),
            "sig" => into(&mut self.sig, value),
            "name" => into(&mut self.name, value),
            "lang" => into(&mut self.lang, value),
            "version" => into(&mut self.version, value),
            "account" => into(&mut self.account, value),
            "new_account" => into(&mut self.new_account, value),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_merges_over_what_was_there() {
        let mut options = ConnectOptions::default();
        options
            .merge(br#"{"Verbose":false,"ECHO":null,"name":"n","lang":"go","unknown":[1]}"#)
            .expect("valid");
        assert!(!options.verbose && options.echo && options.pedantic);
        options.merge(br#"{"pedantic":false}"#).expect("valid");
        assert_eq!((options.verbose, options.pedantic, &*options.name), (false, false, "n"));
    }

    #[test]
    fn bad_json_is_refused() {
        for bad in ["", "{", "[]", "{} x", r#"{"verbose":"yes"}"#, r#"{"protocol":1.5}"#, "12"] {
            assert!(ConnectOptions::default().merge(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn info_leaves_out_what_is_off() {
        let line = Info { server_id: "N1".into(), max_payload: 10, ..Info::default() }.line();
        let text = String::from_utf8(line).expect("text");
        assert!(
            text.starts_with("INFO {\"server_id\":\"N1\"") && text.ends_with("} \r\n"),
            "{text}"
        );
        assert!(!text.contains("auth_required") && !text.contains("client_id"));
    }
}
