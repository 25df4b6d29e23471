//! CONNECT: from the first byte to a client that is logged in.

use std::time::{Duration, Instant};

use super::session::{ClientSession, Stage};
use crate::broker::Broker;
use crate::protocol::nats::error::{CloseReason, text};

/// A client's first PING comes early, to measure its round-trip time.
const FIRST_PING: Duration = Duration::from_secs(2);

impl ClientSession {
    /// Handles CONNECT. A second one merges over the first and drops all subscriptions.
    pub(super) fn connected(
        &mut self,
        broker: &mut Broker,
        json: &[u8],
    ) -> Result<(), CloseReason> {
        if let Err(error) = self.connect.merge(json) {
            tracing::error!("{} - CONNECT: {}", self.label(), error.0);
            return Err(CloseReason::ProtocolViolation);
        }
        if self.stage == Stage::Connected {
            broker.unsubscribe_all(self.key);
        }
        self.stage = Stage::Connected;
        if !self.connect.account.is_empty() || self.connect.new_account {
            self.outbox.push_error(text::AUTHORIZATION_VIOLATION);
            return Err(CloseReason::AuthenticationFailure);
        }
        if !(0..=1).contains(&self.connect.protocol) {
            self.outbox.push_error(text::INVALID_CLIENT_PROTOCOL);
            return Err(CloseReason::BadClientProtocolVersion);
        }
        let headers =
            self.connect.headers && !self.context.options.borrow().limits.no_header_support;
        self.limits.headers = headers;
        self.outbox.headers.set(headers);
        if self.connect.no_responders && !headers {
            self.outbox.push_error(text::NO_RESPONDERS_REQUIRES_HEADERS);
            return Err(CloseReason::NoRespondersRequiresHeaders);
        }
        let interval = self.context.options.borrow().keep_alive.ping_interval;
        let first = interval.min(FIRST_PING);
        self.ping_at = Instant::now() + first + first.mul_f64(fastrand::f64() * 0.2);
        self.ok();
        Ok(())
    }
}

/// CONNECT's JSON as the trace may show it: secrets replaced, whatever their spelling.
pub(super) fn without_secrets(json: &[u8]) -> String {
    const SECRETS: [&str; 5] = ["pass", "auth_token", "jwt", "sig", "nkey"];
    let Ok(mut fields) = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(json)
    else {
        // Not an object: nothing of it can be told apart from a secret.
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
