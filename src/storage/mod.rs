//! Floor 5: the store. What it acknowledges is on disk.
//!
//! `disk` is what the store asks of a disk. `thread_disk` is the real one, and `ring_disk` that of a thread with a ring
//! of io_uring; `memory_disk` lies in every way a disk may, for the simulator.
//!
//! A `lane` is a `journal` on a disk, with group commit: records gather in a `frame` while the one before is written;
//! `position` counts them. `recovery` reads the journal's files (`journal_file`) after a start, and `verdict` says what each place of them
//! means.
//!
//! A `stream` is messages in `block`s and subjects in a `subject_index`; `marks` are the headers that it acts on,
//! `duplicates` and `expiries` what it remembers of them. `consumer_state` is what is kept of a consumer.
//! `streams` holds them; the `store` puts them over a lane, where each change is a `record`. Its checkpoints store blocks
//! in a `segment` and say in a `manifest` what there is; the journal before is used again. After a start an `image` is
//! made of the manifest, and `replay` changes it by the records that follow. A `folder` holds the lanes of a store, for
//! one process at a time; `check` tells a person what is in it.
//!
//! Not here yet: streams larger than memory; compression and encryption. Of the server only
//! `midge store check` and `repair` use this floor so far.

pub mod block;
pub mod check;
pub mod consumer_state;
pub mod disk;
pub mod duplicates;
pub mod expiries;
mod fields;
mod file_name;
pub mod folder;
pub mod frame;
pub mod image;
pub mod journal;
pub mod journal_file;
pub mod lane;
pub mod manifest;
pub mod marks;
pub mod memory_disk;
pub mod position;
pub mod record;
pub mod recovery;
pub mod replay;
pub mod ring_disk;
pub mod segment;
pub mod store;
pub mod stream;
pub mod streams;
pub mod subject_index;
pub mod thread_disk;
mod turns;
pub mod verdict;
mod wakes;
