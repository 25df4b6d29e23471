//! Messages whose publisher wants to know where they go. None of this happens for a message without
//! a header that asks for it.
//!
//! Source of the behaviour: nats-server server/msgtrace.go initMsgTrace.

use std::time::SystemTime;

use super::publishing::Publishing;
use super::session::ClientSession;
use crate::auth::permissions::{PublishRight, is_reserved_reply};
use crate::base::limits::HEADER_BYTES_PER_UNIT;
use crate::broker::Broker;
use crate::broker::message_trace::{DISABLED, Ingress};
use crate::broker::passage::Routed;
use crate::config::auth_options::TraceOptions;
use crate::peer::who::log_peer;
use crate::protocol::headers;
use crate::protocol::message::Message;
use crate::protocol::nats::error::quoted;
use crate::protocol::subject;

/// The header of other tracing systems, in any case.
const TRACE_PARENT: &[u8] = b"traceparent";

/// The effect of a message's tracing headers.
enum Plan {
    Publish,
    /// Published with a header that says so to other servers.
    PublishDisabled,
    /// Treated as if it had not been published.
    Drop,
    /// The same, because its publisher may not publish to this subject.
    Refuse(Vec<u8>),
    Trace {
        destination: Vec<u8>,
        only: bool,
    },
}

/// Returns true if a header says that the message is sampled.
fn is_sampled(block: &[u8]) -> bool {
    headers::fields(block).any(|(name, value)| {
        name.eq_ignore_ascii_case(TRACE_PARENT) && headers::is_sampled_parent(value)
    })
}

impl ClientSession {
    /// Returns true if a header may ask for a trace of the message.
    #[inline]
    pub(super) fn may_be_traced(&self, publishing: &mut Publishing, block: &[u8]) -> bool {
        publishing.turn.spend(block.len() / HEADER_BYTES_PER_UNIT);
        match self.context.trace_names.destination.find(block) {
            Some(destination) => destination != DISABLED,
            None => self.trace_options().is_some() && is_sampled(block),
        }
    }

    /// Returns where its account wants traces that `traceparent` asks for.
    fn trace_options(&self) -> Option<&TraceOptions> {
        self.peer.login.identity()?.account.trace.as_ref()
    }

    /// Publishes a message of which `may_be_traced` holds.
    #[cold]
    pub(super) fn publish_tracing(
        &mut self,
        broker: &mut Broker,
        publishing: &mut Publishing,
        message: &Message<'_>,
    ) {
        publishing.turn.spend(4 * message.headers.len() / HEADER_BYTES_PER_UNIT);
        match self.plan(message.headers) {
            Plan::Publish => self.publish_untraced(broker, publishing, message),
            Plan::PublishDisabled => {
                let mut body = message.headers.to_vec();
                self.context.trace_names.destination.set(&mut body, DISABLED);
                let headers_size = body.len();
                body.extend_from_slice(message.payload());
                let sizes = [headers_size.to_string(), body.len().to_string()];
                let message = Message {
                    headers: &body[..headers_size],
                    body: &body,
                    header_size_text: sizes[0].as_bytes(),
                    size_text: sizes[1].as_bytes(),
                    tail: b"",
                    ..*message
                };
                self.publish_untraced(broker, publishing, &message);
            }
            Plan::Drop => {}
            Plan::Refuse(destination) => self.refuse_subject(publishing, &destination),
            Plan::Trace { destination, only } => {
                self.publish_traced(broker, publishing, message, destination, only);
            }
        }
    }

    fn plan(&self, block: &[u8]) -> Plan {
        let names = &self.context.trace_names;
        let (destination, only) = match names.destination.find(block) {
            Some(destination) => {
                let only = names.only.find(block).is_some_and(|value| {
                    [&b"1"[..], b"true", b"on"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
                });
                (Some(destination), only)
            }
            None => (None, false),
        };
        let publish = |disabled| match (only, disabled) {
            (true, _) => Plan::Drop,
            (false, true) => Plan::PublishDisabled,
            (false, false) => Plan::Publish,
        };
        if let Some(origin) = names.origin_account.find(block) {
            let origin = quoted(origin);
            log_peer!(
                error,
                self,
                "Message tracing disabled because of header \"Nats-Trace-Origin-Account\" with \
                 value={origin}"
            );
            return publish(true);
        }
        let destination = match destination {
            Some(destination) => destination,
            None => {
                let Some(options) = self.trace_options() else { return Plan::Publish };
                let number = self.context.random.borrow_mut().u8(..100);
                // Equal, too, as in nats-server.
                if options.sampling < 100 && number > options.sampling {
                    return publish(true);
                }
                options.destination.as_bytes()
            }
        };
        if !subject::is_valid_literal(destination) {
            let destination = quoted(destination);
            log_peer!(
                error,
                self,
                "Destination {destination} is not valid, won't be able to trace events"
            );
            return publish(false);
        }
        // The right to answer a request is not a right to trace to its reply subject.
        match self.rights.permissions.may_publish(destination) {
            PublishRight::Allowed => Plan::Trace { destination: destination.to_vec(), only },
            _ => Plan::Refuse(destination.to_vec()),
        }
    }

    fn publish_traced(
        &mut self,
        broker: &mut Broker,
        publishing: &mut Publishing,
        message: &Message<'_>,
        destination: Vec<u8>,
        only: bool,
    ) {
        self.count(1, message.body.len());
        let mut ingress = self.ingress(message, destination, only);
        if self.rights.has_mappings {
            let mut mapped = Vec::new();
            if !self.map_subject(message.subject, &mut mapped) {
                self.ok();
                return broker.trace_undelivered(ingress);
            }
            ingress.mapped = (*mapped != *message.subject).then_some(mapped);
        }
        let mapped = ingress.mapped.clone();
        let message = Message { subject: mapped.as_deref().unwrap_or(message.subject), ..*message };
        let may_publish = self.may_publish(publishing, &message);
        // The route cache still holds another subject.
        publishing.route_allowed = false;
        if !may_publish {
            ingress.error = Some(self.refusal(&message));
            return broker.trace_undelivered(ingress);
        }
        self.ok();
        // What remains to be done is kept in the turn.
        let turn = &mut publishing.turn;
        let _: Routed = broker.publish_traced(&self.origin(), &message, ingress, turn);
    }

    /// Tells of a message that is too large, whose line `input` begins with, if as much of its headers
    /// is there as asks for a trace. Source: nats-server server/client.go processHeaderPub.
    #[cold]
    pub(super) fn trace_too_large(
        &self,
        broker: &mut Broker,
        publishing: &mut Publishing,
        input: &[u8],
    ) {
        let Some(line_size) = memchr::memchr(b'\n', input) else { return };
        let (line, rest) = (input[..line_size].trim_ascii(), &input[line_size + 1..]);
        let words: Vec<&[u8]> =
            line.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty()).collect();
        let [verb, subject, .., head_size, size] = words[..] else { return };
        let number = |word| std::str::from_utf8(word).ok()?.parse::<usize>().ok();
        let (Some(head_size), Some(size)) = (number(head_size), number(size)) else { return };
        let headers = &rest[..head_size.min(rest.len())];
        if !verb.eq_ignore_ascii_case(b"HPUB") || !self.may_be_traced(publishing, headers) {
            return;
        }
        match self.plan(headers) {
            Plan::Trace { destination, only } => {
                let message =
                    Message { headers, ..Message::without_headers(subject, b"", b"", b"") };
                let error = Some("maximum payload exceeded".into());
                let ingress = self.ingress(&message, destination, only);
                broker.trace_undelivered(Ingress { size, error, ..ingress });
            }
            Plan::Refuse(destination) => self.refuse_subject(publishing, &destination),
            Plan::Publish | Plan::PublishDisabled | Plan::Drop => {}
        }
    }

    fn ingress(&self, message: &Message<'_>, destination: Vec<u8>, only: bool) -> Ingress {
        Ingress {
            at: SystemTime::now(),
            account: self.account,
            destination,
            only,
            connection: self.peer.id,
            name: self.peer.connect.name.to_string(),
            subject: message.subject.to_vec(),
            headers: message.headers.to_vec(),
            size: message.body.len(),
            mapped: None,
            error: None,
        }
    }

    /// Returns the reason why a message was refused, as the client was told.
    fn refusal(&self, message: &Message<'_>) -> String {
        let is_allowed =
            self.rights.permissions.may_publish(message.subject) == PublishRight::Allowed;
        match is_allowed && is_reserved_reply(message.reply) {
            true => {
                let reply = quoted(message.reply);
                format!("Permissions Violation for Publish with Reply of {reply}")
            }
            false => {
                let subject = quoted(message.subject);
                format!("Permissions Violation for Publish to {subject}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_systems_header_is_found_in_any_case() {
        assert!(is_sampled(b"NATS/1.0\r\nTRACEparent: 00-a-b-01\r\n\r\n"));
        assert!(!is_sampled(b"NATS/1.0\r\nxtraceparent: 00-a-b-01\r\n\r\n"));
    }
}
