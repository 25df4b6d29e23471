//! Counts and places of a lane's journal, and places in its segments.

/// Counts the commits of a lane. Whatever must not be seen before a record is durable waits for its commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommitNumber(pub u64);

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
pub struct StoredPlace {
    pub segment: u64,
    pub offset: u64,
    /// Header and body.
    pub bytes: u32,
}
