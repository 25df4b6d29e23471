//! Floor 5: the store. What it acknowledges is on disk.
//!
//! `disk` is what the store asks of a disk. `thread_disk` is the real one; `memory_disk` lies in every way a disk may,
//! for the simulator.
//!
//! A `lane` is a `journal` on a disk, with group commit: records gather in a `frame` while the one before is written;
//! `position` counts them. `recovery` reads the journal's files (`journal_file`) after a start, and `verdict` says what each place of them
//! means.
//!
//! A `stream` is messages in `block`s and subjects in a `subject_index`; `consumer_state` is what is kept of a consumer.
//! `streams` holds them and makes them anew from the journal, where each change is a `record`; the `store` puts them over
//! a lane. A `folder` holds the lanes of a store, for one process at a time; `check` tells a person what is in it.
//!
//! Not here yet: data on disk apart from the journal, and so checkpoints: the journal grows, a start reads all of it,
//! and a stream is as large as its memory. A disk on a shard's own ring; compression and encryption. Of the server only
//! `midge store check` and `repair` use this floor so far.

pub mod block;
pub mod check;
pub mod consumer_state;
pub mod disk;
pub mod folder;
pub mod frame;
pub mod journal;
pub mod journal_file;
pub mod lane;
pub mod memory_disk;
pub mod position;
pub mod record;
pub mod recovery;
pub mod store;
pub mod stream;
pub mod streams;
pub mod subject_index;
pub mod thread_disk;
pub mod verdict;
mod wakes;
