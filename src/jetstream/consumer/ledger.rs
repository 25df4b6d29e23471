//! The durable state of a consumer, and the way in which it changes.

use crate::storage::consumer_state::{ConsumerChange, ConsumerState};
use crate::storage::journal::Urgency;

/// The place of a consumer's state: the store, or memory alone.
pub(crate) trait Ledger {
    fn state(&self) -> &ConsumerState;

    /// Applies a change; false if it changes nothing.
    fn change(&mut self, change: ConsumerChange, urgency: Urgency) -> bool;
}

/// A consumer that ends with the process keeps its state in memory.
impl Ledger for ConsumerState {
    fn state(&self) -> &ConsumerState {
        self
    }

    fn change(&mut self, change: ConsumerChange, _: Urgency) -> bool {
        self.apply(change)
    }
}
