//! The numbers of an engine that monitoring shows. Filling them takes the same time whatever the
//! engine holds.

use std::cell::Cell;

use super::account::Usage;
use crate::storage::figures::StoreFigures;

/// A count that only rises, or a number of things that are there.
#[derive(Debug, Default)]
pub(crate) struct Count(Cell<u64>);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.set(self.0.get().wrapping_add(more));
    }

    pub(crate) fn subtract(&self, fewer: u64) {
        self.0.set(self.0.get().saturating_sub(fewer));
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.get()
    }
}

/// Counts since the start of the engine.
#[derive(Debug, Default)]
pub(crate) struct EngineCounters {
    pub stored: Count,
    pub duplicates: Count,
    pub refused: Count,
    pub api_requests: Count,
    pub api_errors: Count,
    /// Consumers that are there.
    pub consumers: Count,
    /// Messages that consumers sent, those for the second time or more among them.
    pub delivered: Count,
    pub redelivered: Count,
    /// Messages that clients acknowledged.
    pub acknowledged: Count,
}

/// An engine in numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct EngineFigures {
    pub consumers: u64,
    /// Bytes of all streams, by the kind of their storage.
    pub usage: Usage,
    pub stored: u64,
    pub duplicates: u64,
    pub refused: u64,
    pub api_requests: u64,
    pub api_errors: u64,
    pub delivered: u64,
    pub redelivered: u64,
    pub acknowledged: u64,
    pub store: StoreFigures,
}

impl EngineCounters {
    /// The engine's numbers, without those that others count.
    pub(super) fn figures(&self) -> EngineFigures {
        EngineFigures {
            consumers: self.consumers.value(),
            stored: self.stored.value(),
            duplicates: self.duplicates.value(),
            refused: self.refused.value(),
            api_requests: self.api_requests.value(),
            api_errors: self.api_errors.value(),
            delivered: self.delivered.value(),
            redelivered: self.redelivered.value(),
            acknowledged: self.acknowledged.value(),
            ..EngineFigures::default()
        }
    }
}
