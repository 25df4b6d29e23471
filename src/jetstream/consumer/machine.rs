//! The next delivery of a consumer, and its receiver: a state machine without I/O, clock or broker.
//!
//! A delivery is a conversation with its owner: [`Machine::want`] names the message to look up,
//! [`Machine::offer`] is given it and names the receiver, and [`Machine::delivered`] or
//! [`Machine::nobody`] hears what became of it. Nothing has changed before that, so a delivery that
//! finds no room is simply offered again. Everything else that happens to a consumer is a call, too;
//! what it has to say then gathers in its outputs, which leave before the next delivery.
//!
//! Deliveries are ordered as in nats-server (server/consumer.go getNextMsg): messages to be
//! delivered again, then, unless too many wait for acknowledgements, the list of last messages by
//! subject, then the stream.

use std::collections::VecDeque;

use fastrand::Rng;

use super::ack_subject::{self, ACK_PREFIX, FLOW_CONTROL_PREFIX};
use super::flow::Flow;
use super::ledger::Ledger;
use super::output::{Advisory, Delivery, Output, UnpinReason};
use super::pin::Pin;
use super::rate::RateLimit;
use super::redelivery::Redelivery;
use super::request::PullRequest;
use super::rules::{AckPolicy, PriorityPolicy, Rules};
use super::status;
use super::waiting::{Supply, Waiting};
use crate::base::limits::ACKS_EXPIRED_AT_ONCE_MAX;
use crate::storage::block::Message;
use crate::storage::consumer_state::{ConsumerChange, ConsumerState, SequencePair};
use crate::storage::journal::Urgency;

pub(crate) mod acks;
#[cfg(test)]
mod tests;
pub(crate) mod times;

/// The name of the header that gives the size of a payload that is left out.
pub(crate) const MESSAGE_SIZE: &[u8] = b"Nats-Msg-Size";
/// The name of the header that tells a pinned client its id.
pub(crate) const PIN_ID: &[u8] = b"Nats-Pin-Id";

/// The reason of a message that ends because it is no longer in the stream.
const DELETED_REASON: &[u8] = b"Unacknowledged message was deleted";

/// Digits of the token that tells one question of flow control from another.
const QUESTION_DIGITS: usize = 4;

/// The beginning of a consumer, in this process.
pub(crate) struct Start<'start> {
    pub stream: &'start [u8],
    pub consumer: &'start [u8],
    pub rules: Rules,
    pub state: &'start ConsumerState,
    pub listed: Listed,
    /// The last sequence of the stream: messages up to it are replayed.
    pub last_sequence: u64,
    pub now_ns: i64,
    pub seed: u64,
}

/// The last messages by subject that a consumer begins with, and the sequence that it goes on
/// behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    pub sequences: VecDeque<u64>,
    pub resume_after: u64,
}

/// A message to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// This one, to be delivered again.
    Again(u64),
    /// This one of the list.
    Listed(u64),
    /// The first from this sequence on that matches.
    Next(u64),
    Nothing,
}

/// The receiver of a message, and its additions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Envelope<'machine> {
    pub to: &'machine [u8],
    pub reply: &'machine [u8],
    /// The id for the header of a pinned client; empty = none.
    pub pin: &'machine [u8],
    pub headers_only: bool,
}

/// A message that was offered.
#[derive(Clone, Copy, Debug)]
struct Offered {
    sequence: u64,
    time_ns: i64,
    /// As pull requests count bytes, and as flow control does.
    size: usize,
    flow_size: usize,
    is_first: bool,
}

/// Replay in the original rhythm.
#[derive(Clone, Copy, Debug)]
struct Replay {
    /// The last message that is replayed.
    through: u64,
    last_time_ns: Option<i64>,
    /// The message that is held back, and until when.
    held: Option<(u64, i64)>,
}

/// A consumer.
#[derive(Debug)]
pub(crate) struct Machine {
    rules: Rules,
    ack_prefix: Box<[u8]>,
    flow_prefix: Box<[u8]>,
    /// The next sequence of the stream to look at.
    next: u64,
    listed: Listed,
    redelivery: Redelivery,
    waiting: Waiting,
    outputs: VecDeque<Output>,
    /// Somebody listens at the deliver subject.
    is_bound: bool,
    heartbeat_at_ns: i64,
    flow: Option<Flow>,
    rate: Option<RateLimit>,
    replay: Option<Replay>,
    /// Nothing is delivered before this time; 0 = not paused.
    paused_until_ns: i64,
    pin: Option<Pin>,
    /// Messages that match and are still to be delivered, the list included.
    pending: u64,
    last_delivered_ns: Option<i64>,
    last_acked_ns: Option<i64>,
    inactive_at_ns: i64,
    /// The time at which requests were last looked through for want of room.
    swept_ns: i64,
    /// The time before which a rate or a rhythm lets nothing go.
    not_before_ns: i64,
    offered: Option<Offered>,
    /// The reply subject of the message that is offered.
    reply: Vec<u8>,
    random: Rng,
}

impl Machine {
    pub(crate) fn new(start: Start<'_>) -> Self {
        let Start { stream, consumer, rules, state, listed, last_sequence, now_ns, seed } = start;
        let mut machine = Self {
            ack_prefix: ack_subject::prefix(ACK_PREFIX, stream, consumer),
            flow_prefix: ack_subject::prefix(FLOW_CONTROL_PREFIX, stream, consumer),
            next: state.delivered().stream + 1,
            listed,
            redelivery: Redelivery::of(state, &rules),
            waiting: Waiting::new(now_ns),
            outputs: VecDeque::new(),
            is_bound: false,
            heartbeat_at_ns: i64::MAX,
            flow: None,
            rate: None,
            replay: rules.replays_original.then_some(Replay {
                through: last_sequence,
                last_time_ns: None,
                held: None,
            }),
            paused_until_ns: 0,
            pin: None,
            pending: 0,
            last_delivered_ns: None,
            last_acked_ns: None,
            inactive_at_ns: i64::MAX,
            swept_ns: i64::MIN,
            not_before_ns: i64::MIN,
            offered: None,
            reply: Vec::new(),
            random: Rng::with_seed(seed),
            rules,
        };
        machine.begin_push(now_ns);
        machine.note_unbound(now_ns);
        machine
    }

    fn begin_push(&mut self, now_ns: i64) {
        let push = self.rules.push.as_ref();
        self.flow = push.filter(|push| push.has_flow_control).map(|_| Flow::new());
        let limited = push.filter(|push| push.bytes_per_second > 0.0);
        self.rate =
            limited.map(|push| RateLimit::new(push.bytes_per_second, push.burst_bytes, now_ns));
        self.set_heartbeat(now_ns);
    }

    /// Takes changed rules; the position stays.
    pub(crate) fn set_rules(&mut self, rules: Rules, state: &ConsumerState, now_ns: i64) {
        let before = std::mem::replace(&mut self.rules, rules);
        if before.ack_wait_ns != self.rules.ack_wait_ns
            || before.backoff_ns != self.rules.backoff_ns
        {
            self.redelivery.replan(state, &self.rules);
        }
        if before.push != self.rules.push {
            self.begin_push(now_ns);
        }
        if before.priority != self.rules.priority || before.groups != self.rules.groups {
            self.pin = None;
        }
        self.note_unbound(now_ns);
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// All that is to be done or said, oldest first.
    pub(crate) fn outputs(&mut self) -> &mut VecDeque<Output> {
        &mut self.outputs
    }

    /// The next sequence to look at, and the sequences listed before it.
    pub(crate) fn position(&self) -> (u64, &Listed) {
        (self.next, &self.listed)
    }

    /// Messages that are still to be delivered, as its owner counted them.
    pub(crate) fn pending(&self) -> u64 {
        self.pending
    }

    pub(crate) fn set_pending(&mut self, pending: u64) {
        self.pending = pending;
    }

    /// True if it could deliver a message, were there one.
    pub(crate) fn is_ready(&self, now_ns: i64) -> bool {
        let has_receiver = match &self.rules.push {
            Some(_) => self.is_bound && !self.flow.as_ref().is_some_and(Flow::is_full),
            None => !self.waiting.is_empty(),
        };
        has_receiver && self.paused_until_ns <= now_ns && self.not_before_ns <= now_ns
    }

    /// The message to look up for the next delivery.
    pub(crate) fn want(&mut self, now_ns: i64, ledger: &mut impl Ledger) -> Want {
        self.offered = None;
        if !self.is_ready(now_ns) {
            self.rest(now_ns, self.not_before_ns <= now_ns, ledger.state());
            return Want::Nothing;
        }
        while let Some(sequence) = self.redelivery.first(ledger.state()) {
            if !self.exhaust(sequence, ledger) {
                return Want::Again(sequence);
            }
        }
        let most = self.rules.pending_acks_max;
        if most > 0 && self.rules.needs_acks() && ledger.state().pending().len() >= most {
            self.rest(now_ns, false, ledger.state());
            return Want::Nothing;
        }
        match self.listed.sequences.front() {
            Some(sequence) => Want::Listed(*sequence),
            None => Want::Next(self.next),
        }
    }

    /// There is nothing that matches before this sequence. If `at_end`, there is nothing at all.
    pub(crate) fn passed(
        &mut self,
        sequence: u64,
        at_end: bool,
        now_ns: i64,
        state: &ConsumerState,
    ) {
        self.next = self.next.max(sequence);
        if at_end {
            self.rest(now_ns, true, state);
        }
    }

    /// The message that was wanted is not in the stream any more.
    pub(crate) fn gone(&mut self, want: Want, now_ns: i64, ledger: &mut impl Ledger) {
        match want {
            Want::Listed(sequence) => {
                self.pass_listed(sequence);
                self.pending = self.pending.saturating_sub(1);
            }
            Want::Again(sequence) => self.end_deleted(sequence, now_ns, ledger),
            Want::Next(_) | Want::Nothing => {}
        }
    }

    fn pass_listed(&mut self, sequence: u64) {
        if self.listed.sequences.front() == Some(&sequence) {
            self.listed.sequences.pop_front();
        }
        self.next = match self.listed.sequences.is_empty() {
            true => self.listed.resume_after.max(sequence) + 1,
            false => sequence + 1,
        };
    }

    /// Names the receiver of a message that was wanted. `None`: nobody takes it now.
    pub(crate) fn offer(
        &mut self,
        message: &Message<'_>,
        now_ns: i64,
        state: &ConsumerState,
    ) -> Option<Envelope<'_>> {
        let before = state.pending().get(&message.sequence);
        let is_first = before.is_none();
        let deliveries = before.map_or(1, |before| before.redelivery_count + 2);
        let pending = self.pending.saturating_sub(u64::from(is_first));
        let delivery = Delivery {
            consumer_sequence: state.delivered().consumer + 1,
            stream_sequence: message.sequence,
            deliveries,
        };
        ack_subject::write(&mut self.reply, &self.ack_prefix, &delivery, message.time_ns, pending);
        let body_size = body_size(message, self.rules.headers_only);
        let size = message.subject.len() + self.reply.len() + body_size;
        if self.rules.push.is_none() && !self.select(size, pending + 1, now_ns, state) {
            self.rest(now_ns, true, state);
            return None;
        }
        if let Some(until_ns) = self.held_until(message, size, now_ns) {
            self.not_before_ns = until_ns;
            return None;
        }
        let to = match &self.rules.push {
            Some(push) => &push.deliver_subject,
            None => self.waiting.replies().next()?,
        };
        let flow_size = to.len() + self.reply.len() + body_size;
        let (sequence, time_ns) = (message.sequence, message.time_ns);
        self.offered = Some(Offered { sequence, time_ns, size, flow_size, is_first });
        let pin = self.pin.as_ref().map_or(&b""[..], |pin| pin.id.as_bytes());
        Some(Envelope { to, reply: &self.reply, pin, headers_only: self.rules.headers_only })
    }

    /// Brings the request to the front that gets the next message.
    fn select(&mut self, size: usize, pending: u64, now_ns: i64, state: &ConsumerState) -> bool {
        let supply = Supply { now_ns, size, pending, pending_acks: state.pending().len() };
        let random = &mut self.random;
        let mut new_pin = || new_id(random);
        let Self { waiting, rules, pin, outputs, .. } = self;
        waiting.select(&supply, rules, pin, &mut new_pin, outputs).is_some()
    }

    /// The time until which a message is held back, by its rhythm or the rate.
    fn held_until(&mut self, message: &Message<'_>, size: usize, now_ns: i64) -> Option<i64> {
        if let Some(replay) = &mut self.replay
            && let Some(last_time_ns) = replay.last_time_ns
        {
            let delay_ns = message.time_ns - last_time_ns;
            let until_ns = match replay.held {
                Some((sequence, until_ns)) if sequence == message.sequence => until_ns,
                _ if delay_ns > MILLISECOND_NS => now_ns.saturating_add(delay_ns),
                _ => now_ns,
            };
            replay.held = Some((message.sequence, until_ns));
            if until_ns > now_ns {
                return Some(until_ns);
            }
        }
        self.rate.as_mut()?.wait_until(size, now_ns)
    }

    /// The message that was offered is on its way.
    pub(crate) fn delivered(&mut self, now_ns: i64, ledger: &mut impl Ledger) {
        let offered = self.offered.take().expect("a message was offered");
        let Offered { sequence, time_ns, size, flow_size, is_first } = offered;
        let before = ledger.state().pending().get(&sequence).copied();
        let needs_ack = self.rules.needs_acks();
        let change =
            ConsumerChange::Delivered { stream_sequence: sequence, time_ns: now_ns, needs_ack };
        ledger.change(change, Urgency::Rides);
        match ledger.state().pending().get(&sequence) {
            Some(after) => self.redelivery.delivered(sequence, before, after, &self.rules),
            None if !needs_ack => self.done(sequence),
            None => {}
        }
        if is_first {
            self.pending = self.pending.saturating_sub(1);
            match self.listed.sequences.is_empty() {
                true => self.next = sequence + 1,
                false => self.pass_listed(sequence),
            }
        }
        self.last_delivered_ns = Some(now_ns);
        if let Some(replay) = &mut self.replay {
            replay.last_time_ns = Some(time_ns);
        }
        if let Some(rate) = &mut self.rate {
            rate.take(size);
        }
        match self.rules.push {
            None => {
                self.waiting.served(size, now_ns, self.rules.priority, &mut self.outputs);
            }
            Some(_) => {
                self.set_heartbeat(now_ns);
                let is_at_limit = self.rules.ack_policy == AckPolicy::FlowControl
                    && self.rules.pending_acks_max > 0
                    && ledger.state().pending().len() >= self.rules.pending_acks_max;
                let asks = |flow: &mut Flow| flow.delivered(flow_size, is_at_limit);
                if self.flow.as_mut().is_some_and(asks) {
                    self.ask();
                }
            }
        }
    }

    /// Nobody wanted the message that was offered: its request is gone, or the listeners of the
    /// deliver subject are.
    pub(crate) fn nobody(&mut self, now_ns: i64) {
        self.offered = None;
        match self.rules.push {
            None => self.waiting.drop_first(),
            Some(_) => self.bind(false, now_ns),
        }
    }

    /// Notes if somebody listens at the deliver subject.
    pub(crate) fn bind(&mut self, is_bound: bool, now_ns: i64) {
        if self.is_bound == is_bound {
            return;
        }
        self.is_bound = is_bound;
        self.note_unbound(now_ns);
        self.set_heartbeat(now_ns);
    }

    fn set_heartbeat(&mut self, now_ns: i64) {
        let heartbeat_ns = self.rules.push.as_ref().map_or(0, |push| push.heartbeat_ns);
        self.heartbeat_at_ns = match heartbeat_ns > 0 && self.is_bound {
            true => now_ns.saturating_add(heartbeat_ns),
            false => i64::MAX,
        };
    }

    /// Asks the client to answer, so that more may be on its way.
    fn ask(&mut self) {
        let (Some(flow), Some(push)) = (&mut self.flow, &self.rules.push) else { return };
        let mut question = self.flow_prefix.to_vec();
        question.extend((0..QUESTION_DIGITS).map(|_| self.random.alphanumeric() as u8));
        let reply = question.clone().into();
        let (to, headers) =
            (push.deliver_subject.clone(), status::block_of(status::FLOW_CONTROL.0));
        flow.ask(question);
        self.outputs.push_back(Output::Status { to, reply, headers });
    }

    /// Takes a pull request. Its owner has counted the pending messages before; `is_wanted` tells
    /// if anybody listens at a subject.
    pub(crate) fn request(
        &mut self,
        reply: &[u8],
        request: PullRequest,
        now_ns: i64,
        state: &ConsumerState,
        is_wanted: impl FnMut(&[u8]) -> bool,
    ) {
        if self.rules.push.is_some() {
            return self.outputs.push_back(status::PUSH_BASED.to(reply));
        }
        if let Some(text) = request.refusal(&self.rules) {
            let headers = status::block_of(&text);
            let refusal = Output::Status { to: reply.into(), reply: Box::default(), headers };
            return self.outputs.push_back(refusal);
        }
        let priority = request.priority.as_ref();
        let asks = priority.filter(|_| self.rules.priority != PriorityPolicy::None);
        if let (Some(pin), Some(asks)) = (&mut self.pin, asks) {
            if *asks.id == *pin.id.as_bytes() {
                pin.renew(now_ns, self.rules.pin_ns);
            } else if !asks.id.is_empty() {
                return self.outputs.push_back(status::PIN_MISMATCH.to(reply));
            }
        }
        let delivered = self.delivered_pair(state);
        if self.waiting.len() >= self.rules.waiting_max
            && now_ns.saturating_sub(self.swept_ns) > SECOND_NS
        {
            self.swept_ns = now_ns;
            self.waiting.look(now_ns, false, delivered, &mut self.outputs);
            self.waiting.sweep(is_wanted);
        }
        if request.no_wait {
            let available = self.pending + self.redelivery.queued() as u64;
            if available == 0 && request.expires_ns == 0 {
                self.waiting.note_activity(now_ns);
                return self.outputs.push_back(status::NO_MESSAGES.to(reply));
            }
            self.waiting.look(now_ns, false, delivered, &mut self.outputs);
            let wanted = self.waiting.wanted();
            if available > 0 && i128::from(available) < i128::from(wanted) {
                self.waiting.note_activity(now_ns);
                return self.outputs.push_back(status::REQUESTS_PENDING.to(reply));
            }
        }
        let is_silent = request.heartbeat_ns > 0;
        if !self.waiting.push(reply, request, &self.rules, now_ns) && !is_silent {
            self.outputs.push_back(status::MAX_WAITING.to(reply));
        }
    }

    /// Removes the pull requests at whose reply subjects nobody listens.
    pub(crate) fn sweep(&mut self, is_wanted: impl FnMut(&[u8]) -> bool) {
        self.waiting.sweep(is_wanted);
    }

    /// Ends all pull requests: the consumer, or the server, ends.
    pub(crate) fn end(&mut self, status: status::Status) {
        self.waiting.end(status, &mut self.outputs);
    }

    /// Begins anew behind a sequence. Its owner counts the pending messages afterwards.
    pub(crate) fn restart(&mut self, after: u64, listed: Listed, ledger: &mut impl Ledger) {
        ledger.change(ConsumerChange::Restarted { after }, Urgency::Commits);
        self.redelivery = Redelivery::default();
        self.next = after + 1;
        self.listed = listed;
        self.offered = None;
        (self.last_delivered_ns, self.last_acked_ns) = (None, None);
    }

    fn delivered_pair(&self, state: &ConsumerState) -> SequencePair {
        SequencePair { consumer: state.delivered().consumer, stream: self.next - 1 }
    }

    fn done(&mut self, stream_sequence: u64) {
        if self.rules.tells_done {
            self.outputs.push_back(Output::Done { stream_sequence });
        }
    }
}

const SECOND_NS: i64 = 1_000_000_000;
const MILLISECOND_NS: i64 = 1_000_000;

/// Bytes of headers and payload as they are delivered.
fn body_size(message: &Message<'_>, headers_only: bool) -> usize {
    if !headers_only {
        return message.headers.len() + message.payload.len();
    }
    let first = if message.headers.is_empty() { b"NATS/1.0\r\n\r\n".len() } else { 0 };
    let digits = message.payload.len().checked_ilog10().unwrap_or(0) as usize + 1;
    message.headers.len() + first + MESSAGE_SIZE.len() + b": \r\n".len() + digits
}

/// An id of a pinned client, as nats-server's: 22 digits.
fn new_id(random: &mut Rng) -> Box<str> {
    (0..22).map(|_| random.alphanumeric()).collect::<String>().into()
}
