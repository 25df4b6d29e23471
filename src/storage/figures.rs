//! The numbers of a store that monitoring shows. Filling them takes the same time whatever the
//! store holds.

use std::cell::Cell;
use std::time::Duration;

use crate::base::histogram::{DurationHistogram, Durations};

/// The counts of a lane since its start.
#[derive(Debug, Default)]
pub(super) struct LaneCounters {
    commits: Cell<u64>,
    records: Cell<u64>,
    bytes: Cell<u64>,
    failures: Cell<u64>,
    durations: DurationHistogram,
}

impl LaneCounters {
    /// Counts a commit that became durable within this time.
    pub(super) fn committed(&self, records: u32, bytes: usize, duration: Duration) {
        self.commits.set(self.commits.get() + 1);
        self.records.set(self.records.get() + u64::from(records));
        self.bytes.set(self.bytes.get() + bytes as u64);
        self.durations.record(duration);
    }

    /// Counts a write that failed.
    pub(super) fn failed(&self) {
        self.failures.set(self.failures.get() + 1);
    }

    pub(super) fn figures(&self) -> StoreFigures {
        StoreFigures {
            commits: self.commits.get(),
            records: self.records.get(),
            written_bytes: self.bytes.get(),
            write_failures: self.failures.get(),
            commit_durations: self.durations.durations(),
            ..StoreFigures::default()
        }
    }
}

/// One lane's store in numbers; counts are since its start.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct StoreFigures {
    pub streams: u64,
    /// Frames that became durable, the records in them, and their bytes.
    pub commits: u64,
    pub records: u64,
    pub written_bytes: u64,
    /// Writes to the journal that failed.
    pub write_failures: u64,
    /// Time from handing a frame to the disk until it was durable.
    pub commit_durations: Durations,
    /// Journal files in use, which the next start reads.
    pub journal_files: u64,
    /// Bytes of the journal files in use and of all segments.
    pub disk_bytes: u64,
    /// Bytes in segments of messages that are needed.
    pub needed_bytes: u64,
    pub checkpoints: u64,
    /// The last checkpoint was given up.
    pub is_checkpoint_failing: bool,
    /// Messages are refused for want of space.
    pub is_short: bool,
    /// The lane stopped: nothing is written any more.
    pub is_stopped: bool,
    /// Blocks of messages that could not be read and are lost.
    pub lost_blocks: u64,
}
