//! Acknowledgements, and messages that end without one. Source: nats-server server/consumer.go
//! processAckMsg, processNak, progressUpdate.

use super::{Advisory, DELETED_REASON, Delivery, Ledger, Machine, Output};
use crate::jetstream::consumer::rules::AckPolicy;
use crate::storage::consumer_state::{ConsumerChange, PendingMessage};
use crate::storage::journal::Urgency;

/// An acknowledgement, as far as its effect on messages goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ack<'body> {
    Done,
    /// To be delivered again, after so many nanoseconds or at once.
    Nak(Option<i64>),
    Progress,
    /// Never again, for this reason.
    Term(&'body [u8]),
    Nothing,
}

impl Machine {
    /// Applies an acknowledgement; true if it gets an answer. `urgency` is
    /// [`Urgency::Commits`] where somebody waits for that.
    pub(crate) fn ack(
        &mut self,
        delivery: &Delivery,
        ack: Ack<'_>,
        now_ns: i64,
        urgency: Urgency,
        ledger: &mut impl Ledger,
    ) -> bool {
        self.last_acked_ns = Some(now_ns);
        let is_named = delivery.stream_sequence > 0;
        match ack {
            Ack::Done => self.acknowledge(delivery, now_ns, true, urgency, ledger),
            Ack::Term(reason) => {
                let is_answered = self.acknowledge(delivery, now_ns, false, urgency, ledger);
                let terminated = Advisory::Terminated(*delivery, reason.into());
                self.outputs.push_back(Output::Advisory(terminated));
                is_answered
            }
            Ack::Nak(delay_ns) => {
                self.nak(delivery, delay_ns, now_ns, ledger);
                is_named
            }
            Ack::Progress => {
                self.postpone(delivery.stream_sequence, now_ns, ledger);
                is_named
            }
            Ack::Nothing => is_named,
        }
    }

    fn acknowledge(
        &mut self,
        delivery: &Delivery,
        now_ns: i64,
        is_sampled: bool,
        urgency: Urgency,
        ledger: &mut impl Ledger,
    ) -> bool {
        let sequence = delivery.stream_sequence;
        if sequence == 0 || (sequence >= self.next && self.flow.is_none()) {
            return false;
        }
        match self.rules.ack_policy {
            AckPolicy::None => return false,
            AckPolicy::Explicit => {
                let pending = ledger.state().pending().get(&sequence).copied();
                if let Some(pending) = pending.filter(|_| is_sampled && self.is_sampled()) {
                    let ack_time_ns = now_ns - pending.time_ns;
                    let sample = Advisory::Acked(*delivery, ack_time_ns);
                    self.outputs.push_back(Output::Advisory(sample));
                }
                self.redelivery.forget(sequence);
                self.end_one(sequence, pending, urgency, ledger);
            }
            AckPolicy::All | AckPolicy::FlowControl => self.end_through(sequence, urgency, ledger),
        }
        true
    }

    /// Ends a message. Even one that was done before waits for the disk if its answer does.
    fn end_one(
        &mut self,
        sequence: u64,
        pending: Option<PendingMessage>,
        urgency: Urgency,
        ledger: &mut impl Ledger,
    ) {
        if pending.is_none() && urgency == Urgency::Rides {
            return;
        }
        ledger.change(ConsumerChange::Acked { stream_sequence: sequence }, urgency);
        if let Some(pending) = pending {
            self.redelivery.done(sequence, &pending, &self.rules);
            self.done(sequence);
        }
    }

    fn end_through(&mut self, sequence: u64, urgency: Urgency, ledger: &mut impl Ledger) {
        let after = ledger.state().floor().stream;
        let ended = ledger.state().pending().range(..=sequence);
        let repeated = ended.filter(|(_, message)| message.redelivery_count > 0).count();
        let change = ConsumerChange::AckedThrough { stream_sequence: sequence };
        if ledger.change(change, urgency) {
            self.redelivery.lower_repeated(repeated);
            self.redelivery.drop_stale(ledger.state());
            if self.rules.tells_done {
                self.outputs.push_back(Output::DoneThrough { after, through: sequence });
            }
        }
    }

    fn is_sampled(&mut self) -> bool {
        match self.rules.sample_percent {
            0 => false,
            100.. => true,
            percent => self.random.u8(0..100) <= percent,
        }
    }

    fn nak(
        &mut self,
        delivery: &Delivery,
        delay_ns: Option<i64>,
        now_ns: i64,
        ledger: &mut impl Ledger,
    ) {
        let sequence = delivery.stream_sequence;
        let state = ledger.state();
        let is_in_range = delivery.consumer_sequence > state.floor().consumer
            && delivery.consumer_sequence <= state.delivered().consumer + 1;
        let Some(pending) = state.pending().get(&sequence).filter(|_| is_in_range).copied() else {
            return;
        };
        self.outputs.push_back(Output::Advisory(Advisory::Nak(*delivery)));
        let Some(delay_ns) = delay_ns else {
            self.redelivery.enqueue(sequence, &pending, &self.rules);
            return;
        };
        self.redelivery.unqueue(sequence);
        let wait_ns = self.rules.wait_ns(pending.redelivery_count).unwrap_or_default();
        let time_ns = now_ns.saturating_add(delay_ns).saturating_sub(wait_ns);
        self.postpone(sequence, time_ns, ledger);
    }

    /// The wait of a pending message counts from another time.
    fn postpone(&mut self, sequence: u64, time_ns: i64, ledger: &mut impl Ledger) {
        let Some(before) = ledger.state().pending().get(&sequence).copied() else { return };
        let change = ConsumerChange::Postponed { stream_sequence: sequence, time_ns };
        ledger.change(change, Urgency::Rides);
        let after = PendingMessage { time_ns, ..before };
        self.redelivery.postponed(sequence, &before, &after, &self.rules);
    }

    /// An answer to flow control: more may be on its way. It acknowledges up to `last`, a number
    /// of a delivery and of a message, if the consumer is acknowledged so. False if it is not the
    /// answer that is waited for.
    pub(crate) fn flow_answer(
        &mut self,
        subject: &[u8],
        last: Option<(u64, u64)>,
        now_ns: i64,
        ledger: &mut impl Ledger,
    ) -> bool {
        let Some(flow) = &mut self.flow else { return false };
        if !flow.answered(subject) {
            return false;
        }
        if self.rules.ack_policy == AckPolicy::FlowControl
            && let Some((_, stream_sequence)) = last
            && stream_sequence > 0
        {
            self.last_acked_ns = Some(now_ns);
            self.end_through(stream_sequence, Urgency::Rides, ledger);
        }
        true
    }

    /// Ends a message that was delivered as often as it may be; false if it may be delivered again.
    pub(super) fn exhaust(&mut self, sequence: u64, ledger: &mut impl Ledger) -> bool {
        let most = self.rules.deliveries_max;
        let Some(pending) = ledger.state().pending().get(&sequence).copied() else { return true };
        if most == 0 || pending.redelivery_count + 1 < most {
            return false;
        }
        let deliveries = pending.redelivery_count + 1;
        let exceeded = Advisory::MaxDeliveries { stream_sequence: sequence, deliveries };
        self.outputs.push_back(Output::Advisory(exceeded));
        ledger.change(ConsumerChange::Acked { stream_sequence: sequence }, Urgency::Rides);
        self.redelivery.exhaust(sequence, &pending, &self.rules);
        true
    }

    /// Ends a pending message that is no longer in the stream.
    pub(super) fn end_deleted(&mut self, sequence: u64, now_ns: i64, ledger: &mut impl Ledger) {
        let Some(pending) = ledger.state().pending().get(&sequence).copied() else { return };
        let delivery = Delivery {
            consumer_sequence: pending.consumer_sequence,
            stream_sequence: sequence,
            deliveries: pending.redelivery_count + 1,
        };
        self.last_acked_ns = Some(now_ns);
        self.end_one(sequence, Some(pending), Urgency::Rides, ledger);
        let terminated = Advisory::Terminated(delivery, DELETED_REASON.into());
        self.outputs.push_back(Output::Advisory(terminated));
    }

    /// Ends pending messages below a sequence, which were purged: at most so many, the first ones.
    /// True if none is left.
    pub(crate) fn purged(
        &mut self,
        first_sequence: u64,
        count_max: usize,
        ledger: &mut impl Ledger,
    ) -> bool {
        for _ in 0..count_max {
            let first = ledger.state().pending().first_key_value();
            let Some((&sequence, &pending)) = first.filter(|first| *first.0 < first_sequence)
            else {
                self.next = self.next.max(first_sequence);
                self.redelivery.forget_below(first_sequence);
                return true;
            };
            self.end_one(sequence, Some(pending), Urgency::Rides, ledger);
        }
        false
    }

    /// True if the consumer still needs a message of its stream that it matches: the stream keeps
    /// it then. Source: nats-server server/consumer.go needAck.
    pub(crate) fn needs(&self, sequence: u64, ledger: &impl Ledger) -> bool {
        let state = ledger.state();
        let is_open = match self.rules.ack_policy {
            AckPolicy::None => sequence > state.delivered().stream,
            AckPolicy::All | AckPolicy::FlowControl => sequence > state.floor().stream,
            AckPolicy::Explicit => {
                sequence > state.delivered().stream || state.pending().contains_key(&sequence)
            }
        };
        is_open || self.redelivery.is_exhausted(sequence)
    }
}
