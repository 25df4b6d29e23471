//! Traces a client's conversation in the log, if that is switched on.

use std::rc::Rc;

use super::session::ClientSession;
use crate::broker::trace::{About, Trace, Way};
use crate::protocol::nats::command::Command;

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

/// Returns CONNECT's JSON with its secrets replaced, whatever their spelling.
fn without_secrets(json: &[u8]) -> String {
    const SECRETS: [&str; 5] = ["pass", "auth_token", "jwt", "sig", "nkey"];
    let Ok(mut fields) = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(json)
    else {
        // Not an object: nothing in it can be told apart from a secret.
        return "[REDACTED]".into();
    };
    for (key, value) in fields.iter_mut() {
        if SECRETS.iter().any(|secret| key.eq_ignore_ascii_case(secret)) {
            *value = "[REDACTED]".into();
        }
    }
    serde_json::Value::Object(fields).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_shows_no_secret() {
        let shown = without_secrets(br#"{"user":"bob","PASS":"s3cret","sig":"s3cret"}"#);
        assert!(shown.contains("bob") && !shown.contains("s3cret"), "{shown}");
        assert!(!without_secrets(b"s3cret").contains("s3cret"));
    }
}
