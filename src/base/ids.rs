//! Newtypes for the numbers that name things, so that no two of them can be swapped.

use std::fmt;
use std::num::NonZeroU64;

/// One shard of this server, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

impl ShardId {
    /// # Panics
    /// There are not as many shards.
    pub fn of_index(index: usize) -> Self {
        Self(u16::try_from(index).expect("few shards"))
    }

    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A connection's id, unique over the whole server: `client_id` in INFO, `cid` in monitoring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A login of one shard that waits for another thread. Never reused, so the outcome of an abandoned
/// check is not taken for another's. Not zero: sessions hold an `Option` of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LoginId(NonZeroU64);

impl LoginId {
    pub fn new(number: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(number))
    }

    /// Returns the number that it was made of.
    pub fn number(self) -> u64 {
        self.0.get() - 1
    }

    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl Default for LoginId {
    fn default() -> Self {
        Self(NonZeroU64::MIN)
    }
}

/// An account's index, equal on all shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AccountId(pub u32);

impl AccountId {
    /// `$G`, where clients live unless configuration says otherwise.
    pub const GLOBAL: AccountId = AccountId(0);

    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A link's index within one shard: at present always a link to another shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u32);

impl LinkId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// An attached client of one shard's broker: its index there, which is reused after detach, below a
/// generation. A note to a client that has left thus names nobody, not the next one at its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientKey(pub u32);

impl ClientKey {
    const INDEX_BITS: u32 = 24;

    /// Of the generation only the lower eight bits count.
    ///
    /// # Panics
    /// The index is beyond 16 million, more than a process has descriptors.
    pub fn new(index: usize, generation: u32) -> Self {
        let index = u32::try_from(index).expect("fewer clients than descriptors");
        assert!(index < 1 << Self::INDEX_BITS);
        Self(index | generation << Self::INDEX_BITS)
    }

    pub fn index(self) -> usize {
        (self.0 & ((1 << Self::INDEX_BITS) - 1)) as usize
    }
}
