//! The parts of `ring`. The loom models include `ring` and the mesh over parts of their own.

pub(super) use rtrb;
pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
