//! Floor 5: the store. Acknowledged changes are on disk, unless an operator chose that
//! acknowledgements do not wait.
//!
//! `disk` is the interface that the store asks of a disk. `thread_disk` is the real one;
//! `ring_disk` is measured beside it. `memory_disk` fails in every way a disk may, for the
//! simulator.
//!
//! A `lane` is a `journal` on a disk, with group commit: records gather in a `frame` while the one
//! before is written; `position` counts them. `recovery` reads the journal's files (`journal_file`)
//! after a start, and `verdict` decides for each place of them what it means.
//!
//! A `stream` is messages in `block`s and subjects in a `subject_index`. `marks` are the headers
//! that it acts on, and `duplicates` remembers their message ids. `consumer_state` is the state of
//! a consumer. `streams` holds all streams; the `store` puts them over a lane, where each change is
//! a `record`. Its checkpoints store blocks in a `segment` and list everything in a `manifest`; the
//! journal before is used again. After a start an `image` is made of the manifest, and `replay`
//! applies the records that follow. Stored messages need not be in memory: `loads` has them read
//! when somebody needs them, and the `cache` decides which ones leave again. A `folder` holds the
//! lanes of a store, for one process at a time. `check` reports its contents to a person, and
//! `rehome` gives its streams another number of lanes.
//!
//! Not here yet: compression and encryption.

pub(crate) mod block;
mod cache;
pub(crate) mod check;
pub(crate) mod consumer_state;
pub(crate) mod disk;
pub(crate) mod duplicates;
mod fields;
pub(crate) mod figures;
mod file_name;
pub(crate) mod folder;
pub(crate) mod frame;
pub(crate) mod image;
pub(crate) mod journal;
pub(crate) mod journal_file;
pub(crate) mod lane;
mod loads;
pub(crate) mod manifest;
pub(crate) mod marks;
pub(crate) mod memory_disk;
pub(crate) mod position;
pub(crate) mod record;
pub(crate) mod recovery;
mod regular;
#[cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "all streams of a server lie in one lane until they have homes on several shards"
    )
)]
pub(crate) mod rehome;
pub(crate) mod replay;
pub(crate) mod ring_disk;
#[cfg(test)]
mod seeds;
pub(crate) mod segment;
pub(crate) mod store;
pub(crate) mod stream;
pub(crate) mod streams;
pub(crate) mod subject_index;
pub(crate) mod thread_disk;
pub(crate) mod turns;
pub(crate) mod verdict;
mod wakes;
