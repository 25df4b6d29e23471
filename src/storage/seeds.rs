//! The seeds that the store's simulations play: `MIDGE_STORE_SEED` names a single one,
//! `MIDGE_STORE_SEEDS` how many.

use std::ops::Range;

/// The one that is named, or the first so many.
pub(super) fn all(default_count: u64) -> Range<u64> {
    match number("MIDGE_STORE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..count(default_count),
    }
}

pub(super) fn count(default_count: u64) -> u64 {
    number("MIDGE_STORE_SEEDS").unwrap_or(default_count)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}
