//! The state of a consumer: how far it has delivered, and the messages that were not acknowledged.
//!
//! A state machine without a clock: times are given. The same calls in the same order give the same
//! state.
//!
//! Invariants: floor ≤ delivered, in both sequences. Pending messages lie above the floor and not
//! above the delivered ones. Only pending messages count redeliveries.

use std::collections::BTreeMap;

use super::fields::Fields;
use super::position::COUNT_MAX;
use super::stream::SEQUENCE_MAX;

/// A place in both of a consumer's orders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SequencePair {
    /// Counts deliveries.
    pub consumer: u64,
    /// The stream's sequence.
    pub stream: u64,
}

/// A message that was delivered and not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingMessage {
    /// The number of its first delivery.
    pub consumer_sequence: u64,
    /// The time of the last delivery, in nanoseconds since 1970.
    pub time_ns: i64,
    /// The number of deliveries after the first.
    pub redelivery_count: u64,
}

/// A change of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumerChange {
    /// A message was delivered, for the first time or again. If it needs no acknowledgement it is
    /// done.
    Delivered { stream_sequence: u64, time_ns: i64, needs_ack: bool },
    /// One message is done.
    Acked { stream_sequence: u64 },
    /// All messages up to this one are done.
    AckedThrough { stream_sequence: u64 },
    /// The wait of a pending message for its acknowledgement counts from another time.
    Postponed { stream_sequence: u64, time_ns: i64 },
    /// The consumer begins anew behind this sequence of the stream.
    Restarted { after: u64 },
}

/// The state of a consumer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerState {
    delivered: SequencePair,
    floor: SequencePair,
    pending: BTreeMap<u64, PendingMessage>,
}

impl ConsumerState {
    /// A consumer that begins behind a sequence of its stream.
    pub fn starting_after(stream_sequence: u64) -> Self {
        // No message lies behind that sequence, so the consumer begins behind all.
        let start = SequencePair { consumer: 0, stream: stream_sequence.min(SEQUENCE_MAX) };
        Self { delivered: start, floor: start, pending: BTreeMap::new() }
    }

    /// The stored form of the state.
    pub fn encode(&self) -> Vec<u8> {
        let Self { delivered, floor, pending } = self;
        let pairs = [delivered.consumer, delivered.stream, floor.consumer, floor.stream];
        let of = |(stream_sequence, message): (&u64, &PendingMessage)| {
            let PendingMessage { consumer_sequence, time_ns, redelivery_count } = *message;
            [*stream_sequence, consumer_sequence, time_ns as u64, redelivery_count]
        };
        pairs.into_iter().chain(pending.iter().flat_map(of)).flat_map(u64::to_le_bytes).collect()
    }

    /// The inverse; `None` where it breaks an invariant.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields { rest: bytes };
        let mut pair = || Some(SequencePair { consumer: fields.word()?, stream: fields.word()? });
        let (delivered, floor) = (pair()?, pair()?);
        let mut pending = BTreeMap::new();
        while !fields.rest.is_empty() {
            let stream_sequence = fields.word()?;
            let message = PendingMessage {
                consumer_sequence: fields.word()?,
                time_ns: fields.word()? as i64,
                redelivery_count: fields.word()?,
            };
            pending.insert(stream_sequence, message);
        }
        let state = Self { delivered, floor, pending };
        state.keeps_invariants().then_some(state)
    }

    /// The last delivery, and the last message of the stream that was delivered.
    pub fn delivered(&self) -> SequencePair {
        self.delivered
    }

    /// The place up to which everything is done.
    pub fn floor(&self) -> SequencePair {
        self.floor
    }

    pub fn pending(&self) -> &BTreeMap<u64, PendingMessage> {
        &self.pending
    }

    /// Applies a change; false if it changes nothing: the message is not pending, or was done
    /// before.
    pub fn apply(&mut self, change: ConsumerChange) -> bool {
        match change {
            ConsumerChange::Delivered { stream_sequence, time_ns, needs_ack } => {
                self.deliver(stream_sequence, time_ns, needs_ack)
            }
            ConsumerChange::Acked { stream_sequence } => {
                let Some(done) = self.pending.remove(&stream_sequence) else { return false };
                // Otherwise a message before it is pending, and the floor stays below that.
                if self.pending.is_empty() || done.consumer_sequence == self.floor.consumer + 1 {
                    self.raise_floor();
                }
                true
            }
            ConsumerChange::AckedThrough { stream_sequence } => {
                let above = self.pending.split_off(&stream_sequence.saturating_add(1));
                let done = std::mem::replace(&mut self.pending, above);
                let Some((stream, last)) = done.last_key_value() else { return false };
                self.floor = SequencePair { consumer: last.consumer_sequence, stream: *stream };
                if self.pending.is_empty() {
                    self.raise_floor();
                }
                true
            }
            ConsumerChange::Postponed { stream_sequence, time_ns } => {
                let Some(pending) = self.pending.get_mut(&stream_sequence) else { return false };
                pending.time_ns = time_ns;
                true
            }
            ConsumerChange::Restarted { after } => {
                *self = Self::starting_after(after);
                true
            }
        }
    }

    fn deliver(&mut self, stream_sequence: u64, time_ns: i64, needs_ack: bool) -> bool {
        if let Some(pending) = self.pending.get_mut(&stream_sequence) {
            self.delivered.consumer += 1;
            pending.time_ns = time_ns;
            pending.redelivery_count += 1;
            return true;
        }
        if stream_sequence <= self.delivered.stream || stream_sequence > SEQUENCE_MAX {
            return false;
        }
        self.delivered.consumer += 1;
        self.delivered.stream = stream_sequence;
        if needs_ack {
            let consumer_sequence = self.delivered.consumer;
            let pending = PendingMessage { consumer_sequence, time_ns, redelivery_count: 0 };
            self.pending.insert(stream_sequence, pending);
        } else if self.pending.is_empty() {
            self.floor = self.delivered;
        }
        true
    }

    /// Moves the floor to just below the first message that is pending. Source: nats-server
    /// server/consumer.go processAckMsg.
    fn raise_floor(&mut self) {
        self.floor = match self.pending.first_key_value() {
            None => self.delivered,
            Some((stream_sequence, pending)) => SequencePair {
                consumer: pending.consumer_sequence - 1,
                stream: stream_sequence - 1,
            },
        };
    }

    fn keeps_invariants(&self) -> bool {
        let within = |(sequence, message): (&u64, &PendingMessage)| {
            *sequence > self.floor.stream
                && *sequence <= self.delivered.stream
                && (1..=self.delivered.consumer).contains(&message.consumer_sequence)
                && message.redelivery_count <= COUNT_MAX
        };
        self.floor.consumer <= self.delivered.consumer
            && self.floor.stream <= self.delivered.stream
            && self.delivered.consumer <= COUNT_MAX
            && self.delivered.stream <= SEQUENCE_MAX
            && self.pending.iter().all(within)
    }

    /// Asserts the invariants.
    pub fn check_invariants(&self) {
        assert!(self.keeps_invariants(), "{self:?}");
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    fn delivered(stream_sequence: u64) -> ConsumerChange {
        ConsumerChange::Delivered { stream_sequence, time_ns: 5, needs_ack: true }
    }

    #[test]
    fn floor_follows_the_first_that_is_pending() {
        let mut state = ConsumerState::starting_after(9);
        for sequence in [10, 12, 15] {
            assert!(state.apply(delivered(sequence)));
        }
        assert_eq!(state.floor(), SequencePair { consumer: 0, stream: 9 });
        assert!(state.apply(ConsumerChange::Acked { stream_sequence: 12 }));
        assert_eq!(state.floor(), SequencePair { consumer: 0, stream: 9 });
        assert!(state.apply(delivered(10)), "a redelivery");
        assert_eq!(state.delivered(), SequencePair { consumer: 4, stream: 15 });
        assert!(!state.apply(delivered(12)), "it is done with");
        assert!(!state.apply(ConsumerChange::Acked { stream_sequence: 12 }));
        assert!(state.apply(ConsumerChange::Acked { stream_sequence: 10 }));
        assert_eq!(state.floor(), SequencePair { consumer: 2, stream: 14 });
        assert!(state.apply(ConsumerChange::Acked { stream_sequence: 15 }));
        assert_eq!(state.floor(), state.delivered());
    }

    #[test]
    fn a_restart_forgets_what_was_delivered_and_a_postponed_message_stays_pending() {
        let mut state = ConsumerState::default();
        assert!(state.apply(delivered(3)));
        let postponed = ConsumerChange::Postponed { stream_sequence: 3, time_ns: 9 };
        assert!(state.apply(postponed));
        let message = PendingMessage { consumer_sequence: 1, time_ns: 9, redelivery_count: 0 };
        assert_eq!(state.pending().get(&3), Some(&message));
        assert!(state.apply(ConsumerChange::Restarted { after: 1 }));
        assert_eq!(state, ConsumerState::starting_after(1));
        assert!(!state.apply(postponed));
    }

    #[test]
    fn without_acknowledgements_the_floor_is_what_was_delivered() {
        let mut state = ConsumerState::default();
        let change = ConsumerChange::Delivered { stream_sequence: 7, time_ns: 0, needs_ack: false };
        assert!(state.apply(change));
        assert_eq!(state.floor(), SequencePair { consumer: 1, stream: 7 });
        assert!(state.pending().is_empty());
    }

    #[test]
    fn any_changes_keep_the_invariants_and_the_floor_never_falls() {
        for seed in 0..50 {
            let mut random = Rng::with_seed(seed);
            let mut state = ConsumerState::starting_after(random.u64(0..5));
            for _ in 0..500 {
                let stream_sequence = random.u64(0..state.delivered().stream + 4);
                let before = state.floor();
                let change = match random.u8(0..6) {
                    0..3 => ConsumerChange::Delivered {
                        stream_sequence,
                        time_ns: random.i64(0..100),
                        needs_ack: random.u8(0..8) > 0,
                    },
                    3 => ConsumerChange::Acked { stream_sequence },
                    4 => ConsumerChange::Postponed { stream_sequence, time_ns: 7 },
                    _ => ConsumerChange::AckedThrough { stream_sequence },
                };
                let untouched = state.clone();
                if !state.apply(change) {
                    assert_eq!(state, untouched);
                }
                state.check_invariants();
                assert_eq!(ConsumerState::decode(&state.encode()).as_ref(), Some(&state));
                assert!(state.floor().stream >= before.stream, "seed {seed}");
                assert!(state.floor().consumer >= before.consumer, "seed {seed}");
            }
        }
    }
}
