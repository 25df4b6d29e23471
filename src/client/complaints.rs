//! What a session reports, on the wire and in the log, when something is wrong.
//!
//! Source of the lines: nats-server server/client.go.

use std::time::{Duration, Instant};

use super::session::ClientSession;
use crate::base::limits::STALL_MS_LOGGED_MIN;
use crate::broker::late_send::{Backlog, SendCheck};
use crate::broker::trace::Way;
use crate::config::go_text::{SignedDuration, format_duration};
use crate::peer::rare_lines::{SAME_LINE_INTERVAL, SUBSCRIPTION_LIMIT_INTERVAL};
use crate::peer::who::log_peer;
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

    /// Logs that there is one client too many.
    pub fn say_refused(&self) {
        self.log_rarely(text::MAXIMUM_CONNECTIONS);
    }

    /// Logs a line like nats-server's RateLimitErrorf, unless another client just had the same.
    #[cold]
    pub(super) fn log_rarely(&self, text: &'static str) {
        let (lines, now) = (&self.context.rare_lines, Instant::now());
        if lines.may_log(text, self.account, now, SAME_LINE_INTERVAL) {
            log_peer!(error, self, "{text}{}", self.who().label_end());
        }
    }

    /// Reports an error that leaves the connection open.
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

    /// Reports what is wrong with the command that begins at `start`.
    #[cold]
    pub(super) fn protocol_error(
        &self,
        error: ProtocolError,
        input: &[u8],
        start: usize,
    ) -> CloseReason {
        if let Some(trace) = &self.trace
            && !matches!(error, ProtocolError::MaximumControlLine | ProtocolError::PeerError)
            && let Some((verb, arguments)) = complaint::judged_line(&input[start..])
        {
            trace.operation(Way::In, verb, arguments);
        }
        // The order of the two lines of a trace.
        let is_told_last = matches!(error, ProtocolError::MaximumPayload { .. });
        let tell = || error.wire_text().into_iter().for_each(|text| self.outbox.push_error(text));
        if !is_told_last {
            tell();
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
        if is_told_last {
            tell();
        }
        error.close_reason()
    }

    pub(super) fn log_error(&self, text: &str) {
        log_peer!(error, self, "{text}");
    }

    /// Logs nats-server's line about a publisher that slow consumers held up. Source:
    /// resetReadLoopStallTime.
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
        log_peer!(warn, self, "{KIND} {total}{}", self.who().label_end());
    }

    /// Logs nats-server's line about a consumer that was too slow.
    #[cold]
    pub(super) fn log_slow_consumer(&self, reason: CloseReason) {
        let (chunks, bytes) = self.outbox.written_off();
        if reason == CloseReason::SlowConsumerPendingBytes {
            let max = self.outbox.pending_bytes_max();
            log_peer!(info, self, "Slow Consumer Detected: MaxPending of {max} Exceeded");
            return;
        }
        self.log_missed_deadline(self.outbox.is_late(), Backlog { chunks, bytes });
    }

    /// Logs that a consumer missed a deadline but stays, or has caught up since.
    #[cold]
    pub fn log_late_send(&self, check: SendCheck) {
        match check {
            SendCheck::Late { again, backlog } => self.log_missed_deadline(again, backlog),
            SendCheck::Recovered { took, backlog: Backlog { chunks, bytes } } => {
                let took = took.as_secs_f64();
                log_peer!(
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
        log_peer!(
            info,
            self,
            "Slow Consumer {state}: WriteDeadline of {deadline} exceeded with {chunks} chunks of {bytes} total bytes."
        );
    }
}
