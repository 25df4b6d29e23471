//! What a session says when something is wrong, on the wire and in the log, and how the log names it.
//!
//! Source of the lines: nats-server server/client.go.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::rare_lines::{SAME_LINE_INTERVAL, SUBSCRIPTION_LIMIT_INTERVAL};
use super::session::ClientSession;
use super::who::log_client;
use crate::base::limits::STALL_MS_LOGGED_MIN;
use crate::broker::late_send::{Backlog, SendCheck};
use crate::broker::trace::{Trace, Way};
use crate::config::go_text::{SignedDuration, format_duration};
use crate::protocol::nats::command::Command;
use crate::protocol::nats::complaint;
use crate::protocol::nats::error::{CloseReason, ProtocolError, quoted, text};

impl ClientSession {
    #[cold]
    pub(super) fn refuse_for_the_limit(&self) {
        let text = text::MAXIMUM_SUBSCRIPTIONS;
        self.outbox.push_error(text);
        let (lines, interval) = (&self.context.rare_lines, SUBSCRIPTION_LIMIT_INTERVAL);
        if lines.may_log(text, self.account, Instant::now(), interval) {
            self.log_error(text);
        }
    }

    /// A line in the way of nats-server's RateLimitErrorf, unless another client just had the same.
    #[cold]
    pub(super) fn log_rarely(&self, text: &'static str) {
        let (lines, now) = (&self.context.rare_lines, Instant::now());
        if lines.may_log(text, self.account, now, SAME_LINE_INTERVAL) {
            log_client!(error, self, "{text}{}", self.label_end());
        }
    }

    /// An error that leaves the connection open.
    #[cold]
    pub(super) fn violation(&self, wire_text: &str, log_text: &str) {
        self.outbox.push_error(wire_text);
        self.log_error(log_text);
    }

    #[cold]
    pub(super) fn refuse_subscription(&self, filter: &[u8], queue: &[u8], sid: &[u8]) {
        let (filter, sid) = (quoted(filter), String::from_utf8_lossy(sid));
        if queue.is_empty() {
            self.violation(
                &format!("Permissions Violation for Subscription to {filter}"),
                &format!("Subscription Violation - Subject {filter}, SID {sid}"),
            );
        } else {
            let queue = quoted(queue);
            self.violation(
                &format!("Permissions Violation for Subscription to {filter} using queue {queue}"),
                &format!("Subscription Violation - Subject {filter}, Queue: {queue}, SID {sid}"),
            );
        }
    }

    /// Tells what is wrong with the command that begins at `start`.
    #[cold]
    pub(super) fn protocol_error(
        &mut self,
        error: ProtocolError,
        input: &[u8],
        start: usize,
    ) -> CloseReason {
        if let Some(text) = error.wire_text() {
            self.outbox.push_error(text);
        }
        self.log_error(&match error {
            ProtocolError::UnknownOperation => complaint::unknown_operation(input, start),
            ProtocolError::BadArguments(what, None) => what.to_owned(),
            ProtocolError::BadArguments(what, Some(arguments)) => {
                let arguments = arguments.of(&input[start..]);
                format!("{what}: {}", complaint::arguments(arguments))
            }
            ProtocolError::MaximumControlLine => text::MAXIMUM_CONTROL_LINE.to_owned(),
            ProtocolError::MaximumPayload { size } => {
                let max = self.limits.payload_bytes_max;
                format!("maximum payload exceeded: {size} vs {max}")
            }
            ProtocolError::PeerError => "Client Error".to_owned(),
        });
        error.close_reason()
    }

    /// `ip:port - cid:N`; once somebody is let in also what CONNECT told of the client library, and who it is.
    pub fn label(&self) -> String {
        let mut label = format!("{} - cid:{}", self.peer.address(), self.id);
        let Some(identity) = &self.identity else { return label };
        let connect = &self.connect;
        if !(connect.lang.is_empty() && connect.version.is_empty() && connect.name.is_empty()) {
            let mut parts = Vec::new();
            if !connect.version.is_empty() {
                parts.push(format!("v{}", connect.version));
            }
            for part in [&connect.lang, &connect.name] {
                if !part.is_empty() {
                    parts.push(part.to_string());
                }
            }
            label.push_str(&format!(" - {}", quoted(parts.join(":").as_bytes())));
        }
        if let Some(user) = self.user_label() {
            let who = format!("{}/{user}", identity.account.name);
            label.push_str(&format!(" - {}", quoted(who.as_bytes())));
        }
        label
    }

    pub(super) fn log_error(&self, text: &str) {
        log_client!(error, self, "{text}");
    }

    /// Traces from now on, or no longer, as the options and what is known of the client say.
    pub(super) fn renew_trace(&mut self) {
        let options = self.context.options.borrow().clone();
        self.trace = options.log.trace.then(|| {
            Rc::new(Trace {
                label: self.label(),
                headers_only: options.log.trace_headers,
                shown_bytes_max: options.log.traced_message_bytes_max,
            })
        });
        self.outbox.set_trace(self.trace.clone());
    }

    /// The line nats-server writes about a publisher that slow consumers held up. Source: resetReadLoopStallTime.
    #[cold]
    pub(super) fn say_stalled(&self, stalled: Duration) {
        const KIND: &str = "Producer was stalled for a total of";
        let (lines, now) = (&self.context.rare_lines, Instant::now());
        if stalled < Duration::from_millis(STALL_MS_LOGGED_MIN)
            || !lines.may_log(KIND, self.account, now, SAME_LINE_INTERVAL)
        {
            return;
        }
        let rounded = i64::try_from((stalled.as_micros() + 500) / 1000).unwrap_or(i64::MAX);
        let total = format_duration(SignedDuration(rounded.saturating_mul(1_000_000)));
        log_client!(warn, self, "{KIND} {total}{}", self.label_end());
    }

    /// The line nats-server writes about a consumer that was too slow.
    #[cold]
    pub(super) fn log_slow_consumer(&self, reason: CloseReason) {
        let (chunks, bytes) = self.outbox.written_off();
        if reason == CloseReason::SlowConsumerPendingBytes {
            let max = self.outbox.pending_bytes_max();
            log_client!(info, self, "Slow Consumer Detected: MaxPending of {max} Exceeded");
            return;
        }
        self.log_missed_deadline(self.outbox.is_late(), Backlog { chunks, bytes });
    }

    /// A consumer that missed a deadline and stays, or one that has caught up since.
    #[cold]
    pub fn log_late_send(&self, check: SendCheck) {
        match check {
            SendCheck::Late { again, backlog } => self.log_missed_deadline(again, backlog),
            SendCheck::Recovered { took, backlog: Backlog { chunks, bytes } } => {
                let took = took.as_secs_f64();
                log_client!(
                    info,
                    self,
                    "Slow Consumer Recovered: Flush took {took:.3}s with {chunks} chunks of {bytes} total bytes."
                );
            }
            SendCheck::InTime | SendCheck::Expired | SendCheck::Failed => {}
        }
    }

    fn log_missed_deadline(&self, again: bool, Backlog { chunks, bytes }: Backlog) {
        let deadline = self.context.options.borrow().limits.write_deadline;
        let deadline = i64::try_from(deadline.as_nanos()).unwrap_or(i64::MAX);
        let deadline = format_duration(SignedDuration(deadline));
        let state = if again { "State" } else { "Detected" };
        log_client!(
            info,
            self,
            "Slow Consumer {state}: WriteDeadline of {deadline} exceeded with {chunks} chunks of {bytes} total bytes."
        );
    }
}

/// The lines of one command as it came.
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
            let shown = super::connect::without_secrets(json.of(input));
            show("CONNECT", shown.as_bytes());
        }
        Command::Ping => show("PING", b""),
        Command::Pong => show("PONG", b""),
        Command::Info { .. } | Command::Error { .. } | Command::Ok => {}
    }
}
