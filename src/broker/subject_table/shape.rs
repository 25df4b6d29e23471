//! The shape of a filter: where it has wildcards, and how long it is.

use smallvec::SmallVec;

/// The shape of one filter.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Shape {
    /// Positions of `*` tokens, ascending.
    pub stars: SmallVec<[u32; 4]>,
    /// Tokens, without the final `>`.
    pub token_count: u32,
    pub has_tail: bool,
}

impl Shape {
    pub(super) fn has_wildcard(&self) -> bool {
        self.has_tail || !self.stars.is_empty()
    }
}
