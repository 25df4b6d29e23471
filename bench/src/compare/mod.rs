//! Compares two servers under the same workloads, in turns.

pub mod relay_process;
pub mod rounds;
pub mod statistics;
