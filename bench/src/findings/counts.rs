//! How many messages of a run were right, and how many wrong in which way.

use serde::{Deserialize, Serialize};

/// Numbers of messages received, and wrong in each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub received: u64,
    pub lost: u64,
    pub doubled: u64,
    pub out_of_order: u64,
    /// Messages whose stamp names no known publisher or subject, or that are too short for one.
    pub foreign: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.received += other.received;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.out_of_order += other.out_of_order;
        self.foreign += other.foreign;
    }

    pub fn all_good(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.out_of_order == 0 && self.foreign == 0
    }
}
