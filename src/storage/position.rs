//! Counts and places of a lane's journal, and places in its segments.

/// Counts the commits of a lane. Whatever must not be seen before a record is durable waits for its commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommitNumber(pub u64);

/// The largest count that is read from a file: of commits, ids or deliveries. Whatever counts on from it, even for as
/// long as a machine lasts, fits its word.
pub(crate) const COUNT_MAX: u64 = u64::MAX >> 1;

/// The largest that a start goes on from. Counts rise by one: only somebody's hand gets there, and a store that counted
/// on would write what the next start does not read.
pub(crate) const COUNT_STARTED_FROM_MAX: u64 = u64::MAX >> 2;

/// Where the next frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The journal file's number.
    pub file: u64,
    pub offset: u64,
}

/// Where a journal begins or goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub place: Place,
    /// The number of the next commit.
    pub next: CommitNumber,
    /// The checksum of the last frame's header.
    pub previous: u64,
}

/// Where a stored block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredPlace {
    pub segment: u64,
    pub offset: u64,
    /// Header and body.
    pub bytes: u32,
}
