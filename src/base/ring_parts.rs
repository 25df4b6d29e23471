//! The parts of `ring`. The loom models include `ring` and the mesh over parts of their own.

pub use rtrb;
pub use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
