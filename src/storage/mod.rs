//! Floor 5: the store. What it acknowledges is on disk.
//!
//! `disk` is what the store asks of a disk; `memory_disk` is one that lies in every way a disk may, for the
//! simulator.
//!
//! Not here yet: the journal, streams, consumers, the real disk. Nothing of the server uses this floor so far.

pub mod disk;
pub mod memory_disk;
