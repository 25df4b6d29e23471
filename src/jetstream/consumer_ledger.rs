//! The state of a consumer in the store, as its machine changes it.

use super::consumer::ledger::Ledger;
use crate::storage::consumer_state::{ConsumerChange, ConsumerState};
use crate::storage::disk::Disk;
use crate::storage::journal::Urgency;
use crate::storage::position::CommitNumber;
use crate::storage::record::{ConsumerId, StreamId};
use crate::storage::store::Store;

/// The state of one consumer, for one call of its machine.
pub(super) enum StateOf<'a, D: Disk> {
    Store(StoredState<'a, D>),
    Memory(&'a mut ConsumerState),
}

/// A state that is stored.
pub(super) struct StoredState<'a, D: Disk> {
    store: &'a mut Store<D>,
    stream: StreamId,
    consumer: ConsumerId,
    after: CommitNumber,
}

impl<'a, D: Disk> StateOf<'a, D> {
    pub(super) fn new(
        store: &'a mut Store<D>,
        stream: StreamId,
        consumer: Option<ConsumerId>,
        memory: &'a mut ConsumerState,
    ) -> Self {
        match consumer {
            None => Self::Memory(memory),
            Some(consumer) => {
                Self::Store(StoredState { store, stream, consumer, after: CommitNumber(0) })
            }
        }
    }

    /// The commit that an answer about the last change waits for.
    pub(super) fn after(&self) -> CommitNumber {
        match self {
            Self::Store(stored) => stored.after,
            Self::Memory(_) => CommitNumber(0),
        }
    }
}

/// The state of a consumer, to be read.
pub(super) fn state_of<'a, D: Disk>(
    store: &'a Store<D>,
    stream: StreamId,
    consumer: Option<ConsumerId>,
    memory: &'a ConsumerState,
) -> &'a ConsumerState {
    let Some(consumer) = consumer else { return memory };
    let held = store.streams().get(stream).and_then(|held| held.consumers.get(&consumer));
    &held.expect("a consumer that is served is stored").state
}

impl<D: Disk> Ledger for StateOf<'_, D> {
    fn state(&self) -> &ConsumerState {
        match self {
            Self::Memory(state) => state,
            Self::Store(stored) => {
                let held = stored.store.streams().get(stored.stream);
                let held = held.and_then(|held| held.consumers.get(&stored.consumer));
                &held.expect("a consumer that is served is stored").state
            }
        }
    }

    fn change(&mut self, change: ConsumerChange, urgency: Urgency) -> bool {
        match self {
            Self::Memory(state) => state.apply(change),
            Self::Store(StoredState { store, stream, consumer, after }) => {
                match store.change_consumer(*stream, *consumer, change, urgency) {
                    Ok(answer) => {
                        *after = answer.after;
                        answer.value
                    }
                    // A store that stopped answers nobody, and on a full disk messages come again.
                    Err(_) => false,
                }
            }
        }
    }
}
