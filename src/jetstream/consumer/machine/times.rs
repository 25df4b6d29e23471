//! Changes of a consumer because time passes, and the facts that reports show.

use super::{
    ACKS_EXPIRED_AT_ONCE_MAX, ConsumerState, Ledger, Machine, Output, SequencePair, UnpinReason,
    status,
};
use crate::jetstream::consumer::rules::AckPolicy;

/// The state of a consumer for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub delivered: SequencePair,
    pub last_delivered_ns: Option<i64>,
    pub floor: SequencePair,
    pub last_acked_ns: Option<i64>,
    pub ack_pending: usize,
    pub redelivered: usize,
    pub waiting: usize,
    pub pending: u64,
    pub is_bound: bool,
    /// 0 = not paused.
    pub paused_until_ns: i64,
    /// The id of the pinned client, and since when.
    pub pinned: Option<(Box<str>, i64)>,
}

impl Machine {
    pub(crate) fn facts(&self, state: &ConsumerState) -> Facts {
        let is_new = state.delivered().consumer == 0;
        let redelivered = self.redelivery.redelivered();
        Facts {
            delivered: if is_new { self.delivered_pair(state) } else { state.delivered() },
            last_delivered_ns: self.last_delivered_ns,
            floor: state.floor(),
            last_acked_ns: self.last_acked_ns,
            ack_pending: state.pending().len(),
            redelivered: if self.rules.deliveries_max == 1 { 0 } else { redelivered },
            waiting: self.waiting.len(),
            pending: self.pending,
            is_bound: self.is_bound,
            paused_until_ns: self.paused_until_ns,
            pinned: self.pin.as_ref().map(|pin| (pin.id.clone(), pin.since_ns)),
        }
    }

    /// Pauses until a time, or ends a pause; 0 = it is not paused.
    pub(crate) fn pause(&mut self, until_ns: i64) {
        self.paused_until_ns = until_ns;
    }

    /// Takes the pin of a client away; false if none is pinned.
    pub(crate) fn unpin(&mut self, reason: UnpinReason) -> bool {
        let Some(pin) = self.pin.take() else { return false };
        self.outputs.push_back(pin.ended(reason));
        true
    }

    /// The next time at which [`Machine::tick`] has something to do.
    pub(crate) fn deadline_ns(&self, now_ns: i64) -> i64 {
        let after_now = |time_ns: i64| if time_ns > now_ns { time_ns } else { i64::MAX };
        let pin_ns = self.pin.as_ref().map_or(i64::MAX, |pin| pin.ends_ns());
        let paused_ns = if self.paused_until_ns > 0 { self.paused_until_ns } else { i64::MAX };
        [
            self.redelivery.next_due_ns(),
            self.waiting.next_look_ns(),
            self.heartbeat_at_ns,
            pin_ns,
            paused_ns,
            self.inactive_at_ns,
            after_now(self.not_before_ns),
        ]
        .into_iter()
        .min()
        .unwrap_or(i64::MAX)
    }

    /// Does all that is due at this time; false if a part of it is left for the next turn.
    /// `is_wanted` tells if anybody listens at a subject.
    pub(crate) fn tick(
        &mut self,
        now_ns: i64,
        ledger: &mut impl Ledger,
        is_wanted: impl FnMut(&[u8]) -> bool,
    ) -> bool {
        if self.paused_until_ns > 0 && self.paused_until_ns <= now_ns {
            self.paused_until_ns = 0;
            self.outputs.push_back(Output::Resumed);
        }
        if self.pin.as_ref().is_some_and(|pin| pin.ends_ns() <= now_ns) {
            self.unpin(UnpinReason::Timeout);
        }
        let is_done = self.expire(now_ns, ledger);
        self.rest(now_ns, false, ledger.state());
        if self.heartbeat_at_ns <= now_ns {
            self.heartbeat(ledger.state());
            self.set_heartbeat(now_ns);
        }
        if self.inactive_at_ns <= now_ns {
            self.look_at_activity(now_ns, ledger.state(), is_wanted);
        }
        is_done
    }

    /// Queues messages whose wait is over.
    fn expire(&mut self, now_ns: i64, ledger: &mut impl Ledger) -> bool {
        let count_max = ACKS_EXPIRED_AT_ONCE_MAX;
        let state = ledger.state();
        let due = self.redelivery.take_due(now_ns, count_max, state, &self.rules);
        for sequence in due {
            if !self.exhaust(sequence, ledger)
                && let Some(pending) = ledger.state().pending().get(&sequence).copied()
            {
                self.redelivery.enqueue(sequence, &pending, &self.rules);
            }
        }
        self.redelivery.next_due_ns() > now_ns
    }

    fn heartbeat(&mut self, state: &ConsumerState) {
        let Some(push) = &self.rules.push else { return };
        let SequencePair { consumer, stream } = self.delivered_pair(state);
        let question = self.flow.as_ref().map_or(&[][..], |flow| flow.question());
        let is_asked = !question.is_empty();
        let heartbeat = status::heartbeat(&push.deliver_subject, consumer, stream, question);
        self.outputs.push_back(heartbeat);
        let acks_by_flow = self.rules.ack_policy == AckPolicy::FlowControl;
        if acks_by_flow && !is_asked && !state.pending().is_empty() {
            self.ask();
        }
    }

    /// Notes that nothing is delivered now. With `at_end` that is for want of messages.
    pub(super) fn rest(&mut self, now_ns: i64, at_end: bool, state: &ConsumerState) {
        if self.replay.is_some_and(|replay| self.next > replay.through) {
            self.replay = None;
        }
        if self.rules.push.is_none() {
            let delivered = self.delivered_pair(state);
            self.waiting.look(now_ns, at_end, delivered, &mut self.outputs);
        }
    }

    /// Begins to count the time without a client.
    pub(super) fn note_unbound(&mut self, now_ns: i64) {
        let is_used = self.rules.push.is_some() && self.is_bound;
        self.inactive_at_ns = match self.rules.inactive_ns > 0 && !is_used {
            true => now_ns.saturating_add(self.rules.inactive_ns),
            false => i64::MAX,
        };
    }

    /// Ends if nobody used the consumer for long enough. Source: nats-server server/consumer.go
    /// deleteNotActive.
    fn look_at_activity(
        &mut self,
        now_ns: i64,
        state: &ConsumerState,
        is_wanted: impl FnMut(&[u8]) -> bool,
    ) {
        if self.rules.push.is_some() {
            self.inactive_at_ns = i64::MAX;
            return self.outputs.push_back(Output::Inactive);
        }
        self.waiting.sweep(is_wanted);
        let threshold_ns = self.rules.inactive_ns;
        if !self.waiting.is_empty() {
            self.inactive_at_ns = now_ns.saturating_add(threshold_ns);
            return;
        }
        let working_ns = match state.pending().is_empty() {
            true => i64::MIN,
            false => self.redelivery.last_due_ns(),
        };
        let last_ns = self.waiting.activity_ns().max(working_ns);
        self.inactive_at_ns = last_ns.saturating_add(threshold_ns);
        if self.inactive_at_ns <= now_ns {
            self.inactive_at_ns = i64::MAX;
            self.outputs.push_back(Output::Inactive);
        }
    }
}
