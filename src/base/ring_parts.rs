//! The parts that `ring` is made of. The loom models include `ring` and the mesh on top of parts of
//! their own.

pub(super) use rtrb;
pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
