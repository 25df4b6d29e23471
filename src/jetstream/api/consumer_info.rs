//! The description of a consumer in answers.

use std::rc::Rc;

use serde::Serialize;

use super::super::consumer::machine::times::Facts;
use super::super::consumer_config::ConsumerConfig;
use super::super::consumer_ledger::{StateOf, state_of};
use super::super::consumers::{Consumer, Part};
use super::super::engine::Engine;
use super::super::json::encode::is_default;
use super::super::json::timestamp::Timestamp;
use super::super::stream::StreamHandle;
use super::super::versioning::add_server_facts;
use crate::base::limits::LOOKED_AT_PER_TURN_MAX;
use crate::storage::consumer_state::SequencePair;
use crate::storage::disk::Disk;

#[derive(Clone, Debug, Serialize)]
struct SequenceJson {
    consumer_seq: u64,
    stream_seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_active: Option<Timestamp>,
}

impl SequenceJson {
    fn new(pair: SequencePair, last_ns: Option<i64>) -> Self {
        Self {
            consumer_seq: pair.consumer,
            stream_seq: pair.stream,
            last_active: last_ns.map(Timestamp::from_unix_ns),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
struct PriorityGroupJson {
    group: String,
    #[serde(skip_serializing_if = "is_default")]
    pinned_client_id: String,
    pinned_ts: Timestamp,
}

/// A consumer in an answer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ConsumerJson {
    stream_name: String,
    name: String,
    created: Timestamp,
    config: ConsumerConfig,
    delivered: SequenceJson,
    ack_floor: SequenceJson,
    num_ack_pending: usize,
    num_redelivered: usize,
    num_waiting: usize,
    num_pending: u64,
    #[serde(skip_serializing_if = "is_default")]
    push_bound: bool,
    #[serde(skip_serializing_if = "is_default")]
    paused: bool,
    #[serde(skip_serializing_if = "is_default")]
    pause_remaining: i64,
    ts: Timestamp,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    priority_groups: Vec<PriorityGroupJson>,
}

impl<D: Disk> Engine<D> {
    /// The state of a consumer for reports; `None` if its stream is gone.
    pub(crate) async fn consumer_facts(
        &self,
        stream: &StreamHandle,
        consumer: &Rc<Consumer>,
    ) -> Option<Facts> {
        loop {
            let counted = {
                let mut part = consumer.part.borrow_mut();
                let Part { machine, filters, count, memory, .. } = &mut *part;
                if consumer.is_gone.get() {
                    return None;
                }
                {
                    let mut store = self.store.borrow_mut();
                    let first = store.streams().get(stream.id)?.stream.totals().first_sequence;
                    let mut state = StateOf::new(&mut store, stream.id, consumer.id, memory);
                    machine.purged(first, LOOKED_AT_PER_TURN_MAX, &mut state);
                }
                let store = self.store.borrow();
                let held = store.streams().get(stream.id)?;
                match count.catch_up(machine, filters, &held.stream) {
                    Ok(true) => {
                        machine.sweep(|subject| self.has_interest(stream, subject));
                        let state = state_of(&store, stream.id, consumer.id, memory);
                        return Some(machine.facts(state));
                    }
                    counted => counted,
                }
            };
            match counted {
                Ok(_) => self.host.yield_turn().await,
                Err(needed) => self.load(stream.id, needed).await,
            }
        }
    }

    /// Describes a consumer; with the server's version and level, unless `is_listed`.
    pub(crate) async fn describe_consumer(
        &self,
        stream: &StreamHandle,
        consumer: &Rc<Consumer>,
        is_listed: bool,
    ) -> Option<ConsumerJson> {
        let facts = self.consumer_facts(stream, consumer).await?;
        let mut config = ConsumerConfig::clone(&consumer.config());
        if !is_listed {
            add_server_facts(&mut config.metadata, &self.settings().version);
        }
        let now_ns = self.host.now_ns();
        let remaining_ns = facts.paused_until_ns.saturating_sub(now_ns).max(0);
        let pinned = facts.pinned.as_ref();
        let groups = config.priority_groups.iter().take(1).map(|group| PriorityGroupJson {
            group: group.clone(),
            pinned_client_id: pinned.map_or(String::new(), |(id, _)| id.to_string()),
            pinned_ts: pinned
                .map_or(Timestamp::ZERO, |(_, since_ns)| Timestamp::from_unix_ns(*since_ns)),
        });
        Some(ConsumerJson {
            stream_name: stream.name.to_string(),
            name: consumer.name.to_string(),
            created: consumer.created,
            priority_groups: groups.collect(),
            config,
            delivered: SequenceJson::new(facts.delivered, facts.last_delivered_ns),
            ack_floor: SequenceJson::new(facts.floor, facts.last_acked_ns),
            num_ack_pending: facts.ack_pending,
            num_redelivered: facts.redelivered,
            num_waiting: facts.waiting,
            num_pending: facts.pending,
            push_bound: facts.is_bound,
            paused: remaining_ns > 0,
            pause_remaining: remaining_ns,
            ts: Timestamp::from_unix_ns(now_ns),
        })
    }
}
