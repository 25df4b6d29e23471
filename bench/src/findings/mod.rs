//! The findings of a run, whatever they are then used for: figures, latency curves, counts.

pub mod counts;
pub mod kinds;
pub mod percentiles;
pub mod result;
