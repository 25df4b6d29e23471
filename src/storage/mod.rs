//! Floor 5: the store. What it acknowledges is on disk.
//!
//! `disk` is what the store asks of a disk; `memory_disk` is one that lies in every way a disk may, for the
//! simulator. A `lane` is a `journal` on a disk, with group commit: records gather in a `frame` while the one before
//! is written. `recovery` reads the journal's files (`journal_file`) after a start, and `verdict` says what each place
//! of them means.
//!
//! Not here yet: streams, consumers, checkpoints, the real disk. Nothing of the server uses this floor so far.

pub mod disk;
pub mod frame;
pub mod journal;
pub mod journal_file;
pub mod lane;
pub mod memory_disk;
pub mod recovery;
pub mod verdict;
