//! Floor 2: text to `Options`, pure.

pub mod options;
