//! The parts that `ring` is made of. The loom models include `ring` and the mesh on top of parts of
//! their own.

#[expect(clippy::single_component_path_imports, reason = "imported from here by `ring`")]
pub(super) use rtrb;
pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
