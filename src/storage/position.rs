//! Counts and places of a lane's journal, and places in its segments.

/// The number of a commit within its lane. Anything that must not be seen before a record is
/// durable waits for its commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommitNumber(pub u64);

/// The largest count of commits, ids or deliveries that is accepted from a file. A machine that
/// counts on from it never reaches the end of its word.
pub(crate) const COUNT_MAX: u64 = u64::MAX >> 1;

/// The largest count that a start goes on from. Counts rise by one, so only a forged file has a
/// larger one, and a store that counted on from there would write files that the next start does
/// not read.
pub(crate) const COUNT_STARTED_FROM_MAX: u64 = u64::MAX >> 2;

/// The place of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The journal file's number.
    pub file: u64,
    pub offset: u64,
}

/// The place where a journal begins or goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub place: Place,
    /// The number of the next commit.
    pub next: CommitNumber,
    /// The checksum of the last frame's header.
    pub previous: u64,
}

/// The place of a stored block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredPlace {
    pub segment: u64,
    pub offset: u64,
    /// Bytes of the header and the body.
    pub bytes: u32,
}
