//! A client's publishing: through its mappings and rights to the broker.

use std::time::Instant;

use super::publishing::Publishing;
use super::session::ClientSession;
use crate::auth::mapping::Mapped;
use crate::auth::permissions::{PublishRight, is_reserved_reply};
use crate::base::limits::REFUSAL_WORK;
use crate::broker::Broker;
use crate::broker::passage::{Origin, Routed};
use crate::broker::turn::Turn;
use crate::net::session::Wait;
use crate::protocol::message::{Message, MessageRun};
use crate::protocol::nats::command::Publish;
use crate::protocol::nats::error::{quoted, text};
use crate::protocol::nats::plain::{extend_run, known_part};
use crate::protocol::subject;

impl ClientSession {
    pub(super) fn publish_parsed(
        &mut self,
        broker: &mut Broker,
        publishing: &mut Publishing,
        publish: Publish,
        input: &[u8],
    ) {
        self.publish(broker, publishing, &publish.message(input));
    }

    /// Returns the wait for room, if the message goes to another shard whose lane is full.
    #[inline]
    pub(super) fn lanes_full(
        &self,
        broker: &mut Broker,
        message: &Message<'_>,
        turn: &mut Turn,
    ) -> Option<Wait> {
        let bytes = message.size();
        let congestion = match self.rights.has_mappings {
            true => broker.any_congestion(bytes),
            false => broker.message_congestion(self.account, message.subject, bytes, turn),
        };
        congestion.map(Wait::for_room)
    }

    pub(super) fn publish(
        &mut self,
        broker: &mut Broker,
        publishing: &mut Publishing,
        message: &Message<'_>,
    ) {
        // The route cache is about to hold this subject.
        publishing.known_line.clear();
        if self.peer.connect.pedantic && !subject::is_valid_literal(message.subject) {
            self.outbox.push_error(text::INVALID_PUBLISH_SUBJECT);
            publishing.turn.spend(REFUSAL_WORK);
        }
        if !message.headers.is_empty() && self.may_be_traced(publishing, message.headers) {
            return self.publish_tracing(broker, publishing, message);
        }
        self.publish_untraced(broker, publishing, message);
    }

    #[inline]
    pub(super) fn publish_untraced(
        &mut self,
        broker: &mut Broker,
        publishing: &mut Publishing,
        message: &Message<'_>,
    ) {
        self.count(1, message.body.len());
        if self.rights.has_mappings {
            let mut mapped = self.context.mapped.take();
            if self.map_subject(message.subject, &mut mapped) {
                let message = Message { subject: &mapped, ..*message };
                self.publish_mapped(broker, publishing, &message);
            } else {
                self.ok();
            }
            self.context.mapped.replace(mapped);
        } else {
            self.publish_mapped(broker, publishing, message);
        }
    }

    #[cold]
    pub(super) fn refuse_subject(&self, publishing: &mut Publishing, subject: &[u8]) {
        publishing.turn.spend(REFUSAL_WORK);
        let subject = quoted(subject);
        self.violation(
            &format!("Permissions Violation for Publish to {subject}"),
            &format!("Publish Violation - Subject {subject}"),
        );
    }

    /// Publishes a message whose line began with `known_line`, and messages that follow on the same
    /// subject. Returns the bytes they took.
    #[inline]
    pub(super) fn publish_onwards(
        &mut self,
        broker: &mut Broker,
        publishing: &mut Publishing,
        input: &[u8],
        first: &Message<'_>,
        consumed: usize,
    ) -> usize {
        if !first.reply.is_empty() && is_reserved_reply(first.reply) {
            self.publish(broker, publishing, first);
            return consumed;
        }
        let Publishing { route_cache, turn, known_line, .. } = publishing;
        let messages_max = match first.reply {
            [] => broker.run_max(self.account, route_cache, turn),
            _ => 1,
        };
        if messages_max < 2 {
            self.count(1, first.body.len());
            self.hand_over(broker, publishing, &MessageRun::one(*first).repeated());
            return consumed;
        }
        let mut tails = self.context.tails.take();
        let limits = &self.limits;
        let consumed =
            extend_run(input, known_line, first, consumed, messages_max, limits, &mut tails);
        let run = MessageRun::new(first.subject, input, &tails).repeated();
        self.count(run.len(), run.body_bytes());
        self.hand_over(broker, publishing, &run);
        self.context.tails.replace(tails);
        consumed
    }

    /// Counts incoming messages.
    #[inline]
    pub(super) fn count(&mut self, messages: usize, bytes: usize) {
        self.peer.traffic.in_messages += messages as u64;
        self.peer.traffic.in_bytes += bytes as u64;
    }

    /// Returns the origin of this session's messages for the broker.
    #[inline]
    pub(super) fn origin(&self) -> Origin<'static> {
        let connect = &self.peer.connect;
        let no_echo = (!connect.echo).then_some(self.outbox.id);
        Origin::client(self.account, self.key, no_echo, connect.no_responders)
    }

    /// Remembers how the line of a message just published began, if the next one like it can skip
    /// the checks.
    pub(super) fn learn_line(
        &self,
        publishing: &mut Publishing,
        input: &[u8],
        message: &Message<'_>,
    ) {
        let is_answered = self.peer.connect.pedantic || self.peer.connect.verbose;
        if publishing.route_allowed && !self.rights.has_mappings && !is_answered {
            debug_assert!(publishing.route_cache.subject() == message.subject);
            publishing.known_line.extend_from_slice(known_part(input, message));
        }
    }

    /// Applies the account's subject mappings; false = their weights drop the message.
    pub(super) fn map_subject(&self, subject: &[u8], mapped: &mut Vec<u8>) -> bool {
        let auth = self.context.auth.borrow();
        let account = match self.peer.login.identity() {
            Some(identity) => &identity.account,
            None => auth.authenticator.accounts().global(),
        };
        match account.mappings.map(subject, &mut self.context.random.borrow_mut(), mapped) {
            Mapped::Changed => true,
            Mapped::Lost => false,
            Mapped::Unchanged => {
                mapped.clear();
                mapped.extend_from_slice(subject);
                true
            }
        }
    }

    /// Returns true if this client may publish the message; tells the client if not.
    #[inline]
    pub(super) fn may_publish(&self, publishing: &mut Publishing, message: &Message<'_>) -> bool {
        if !publishing.route_allowed || publishing.route_cache.subject() != message.subject {
            // If the lists are open, only the reserved prefixes are left to check, and they begin
            // with these. The decision holds once the route cache has this subject, as it does
            // after the publish.
            publishing.route_allowed = self.rights.permissions.is_publish_open()
                && !matches!(message.subject.first(), Some(b'_' | b'$'));
            if !publishing.route_allowed {
                match self.rights.permissions.may_publish(message.subject) {
                    PublishRight::Allowed => publishing.route_allowed = true,
                    PublishRight::OnlyAsReply if self.answers(message.subject) => {}
                    PublishRight::OnlyAsReply | PublishRight::Denied => {
                        self.refuse_subject(publishing, message.subject);
                        return false;
                    }
                }
            }
        }
        if !message.reply.is_empty() && is_reserved_reply(message.reply) {
            publishing.turn.spend(REFUSAL_WORK);
            let reply = quoted(message.reply);
            self.violation(
                &format!("Permissions Violation for Publish with Reply of {reply}"),
                &format!("Publish Violation - Reply {reply}"),
            );
            // The route cache still holds another subject: a line like this one must not be
            // remembered.
            publishing.route_allowed = false;
            return false;
        }
        true
    }

    /// Returns true if the subject is a reply subject that this client received and may still
    /// answer.
    #[cold]
    fn answers(&self, subject: &[u8]) -> bool {
        let (Some(tracker), Some(rule)) =
            (&self.rights.replies, self.rights.permissions.responses())
        else {
            return false;
        };
        tracker.table.borrow_mut().use_up(subject, rule, Instant::now())
    }

    #[inline]
    fn publish_mapped(
        &mut self,
        broker: &mut Broker,
        publishing: &mut Publishing,
        message: &Message<'_>,
    ) {
        if !self.may_publish(publishing, message) {
            return;
        }
        self.hand_over(broker, publishing, &MessageRun::one(*message));
    }

    /// Passes messages that may be published to the broker.
    #[inline(always)]
    fn hand_over(
        &mut self,
        broker: &mut Broker,
        publishing: &mut Publishing,
        run: &MessageRun<'_>,
    ) {
        self.ok();
        let Publishing { route_cache, turn, .. } = publishing;
        // What remains to be done is kept in the turn.
        let _: Routed = broker.publish(&self.origin(), run, route_cache, turn);
    }
}
