//! Traces a client's conversation in the log, if that is switched on.

use std::rc::Rc;

use serde_json::Value;

use super::session::ClientSession;
use crate::broker::trace::{About, Trace, Way};
use crate::protocol::nats::command::Command;

const REDACTED: &str = "[REDACTED]";

impl ClientSession {
    /// Starts or stops tracing, as the options and what is known of the client require.
    pub(super) fn renew_trace(&mut self) {
        let options = self.context.options.borrow().clone();
        self.trace = options.log.trace.then(|| {
            let who = self.who();
            Rc::new(Trace {
                about: About {
                    cid: who.id.0,
                    address: who.address(),
                    name: who.name().to_owned(),
                    user: who.user().to_owned(),
                    account: who.account_let_in().to_owned(),
                },
                label: who.label(),
                headers_only: options.log.trace_headers,
                shown_bytes_max: options.log.traced_message_bytes_max,
            })
        });
        self.outbox.set_trace(self.trace.clone());
    }
}

/// Traces one incoming command.
#[cold]
pub(super) fn trace_in(trace: &Trace, command: &Command, input: &[u8]) {
    let show = |verb: &str, arguments: &[u8]| trace.operation(Way::In, verb, arguments);
    match command {
        Command::Publish(publish) => {
            let verb = if publish.header_size > 0 { "HPUB" } else { "PUB" };
            show(verb, publish.arguments.of(input));
            trace.body(Way::In, publish.body.of(input), publish.header_size as usize);
        }
        Command::Subscribe { arguments, .. } => show("SUB", arguments.of(input)),
        Command::Unsubscribe { arguments, .. } => show("UNSUB", arguments.of(input)),
        Command::Connect { json } => {
            let shown = without_secrets(json.of(input));
            show("CONNECT", shown.as_bytes());
        }
        Command::Ping => show("PING", b""),
        Command::Pong => show("PONG", b""),
        Command::Info { .. } | Command::Error { .. } | Command::Ok => {}
    }
}

/// Returns CONNECT's JSON with its secrets replaced, at whatever depth and in whatever spelling.
fn without_secrets(json: &[u8]) -> String {
    match serde_json::from_slice::<Value>(json) {
        Ok(mut all @ Value::Object(_)) => {
            redact(&mut all);
            all.to_string()
        }
        // Not an object: nothing in it can be told apart from a secret.
        _ => REDACTED.into(),
    }
}

/// Depth is bounded by the parser.
fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields.iter_mut() {
                match is_secret(key) {
                    true => *value = REDACTED.into(),
                    false => redact(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        _ => {}
    }
}

/// True if a secret is to be expected under this key. Go takes some letters beyond ASCII for those
/// that they resemble.
fn is_secret(key: &str) -> bool {
    const NAMES: [&str; 2] = ["sig", "nkey"];
    const PARTS: [&str; 6] = ["pass", "token", "jwt", "secret", "seed", "cred"];
    let key = key.to_uppercase().to_lowercase();
    NAMES.contains(&&*key) || PARTS.iter().any(|part| key.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_shows_no_secret() {
        let shown = without_secrets(br#"{"user":"bob","PASS":"s3cret","sig":"s3cret"}"#);
        assert!(shown.contains("bob") && !shown.contains("s3cret"), "{shown}");
        for json in [
            r#"s3cret"#,
            r#"["s3cret"]"#,
            r#"{"a":{"pass":"s3cret"}}"#,
            r#"{"a":[{"b":[{"Auth_Token":["s3cret"]}]}]}"#,
            r#"{"pass":"s3cret","pass":"s3cret","PASS":"s3cret"}"#,
            r#"{"pa\u0073s":"s3cret","pa\u017fs":{"x":"s3cret"}}"#,
            r#"{"opts":{"user_password":"s3cret","seed":1,"creds":"s3cret"}}"#,
            r#"{"pass":"s3cret"} {"pass":"s3cret"}"#,
        ] {
            assert!(!without_secrets(json.as_bytes()).contains("s3cret"), "{json}");
        }
        let deep = format!("{}\"s3cret\"{}", "{\"a\":".repeat(500), "}".repeat(500));
        assert_eq!(without_secrets(deep.as_bytes()), REDACTED);
        let shown = without_secrets(br#"{"name":"n","a":{"lang":"go"},"verbose":true}"#);
        assert_eq!(shown, r#"{"a":{"lang":"go"},"name":"n","verbose":true}"#);
    }
}
