//! Compares two servers under the same workloads, in turns.

pub mod rounds;
pub mod statistics;
