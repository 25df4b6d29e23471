//! The blocks of a lane that are in memory though they are stored.

use std::collections::VecDeque;

use super::record::StreamId;
use crate::base::limits::{CACHED_BLOCKS_MIN, CACHED_BYTES_MAX};

/// Blocks by their streams and bases with the bytes that they were counted with, in the order in
/// which they came.
#[derive(Debug)]
pub(super) struct Cache {
    pub(super) order: VecDeque<(StreamId, u64, usize)>,
    pub(super) bytes: usize,
    pub(super) bytes_max: usize,
    /// Bytes that are not stored yet. Stored blocks get so much less room.
    pub(super) tail_bytes: usize,
    /// The number of the latest blocks that stay whatever their size.
    pub(super) blocks_min: usize,
    /// A mistake for the simulator to find: a block that changed while it was stored counts as
    /// stored.
    #[cfg(test)]
    pub(super) believes_stale: bool,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            order: VecDeque::new(),
            bytes: 0,
            bytes_max: CACHED_BYTES_MAX,
            tail_bytes: 0,
            blocks_min: CACHED_BLOCKS_MIN,
            #[cfg(test)]
            believes_stale: false,
        }
    }
}
