//! Tools that know neither NATS nor sockets: limits, rings, clocks, histograms, pools, the log.

pub(crate) mod constant_time;
pub mod counters;
pub mod few_bytes;
pub(crate) mod files;
pub mod gate;
pub mod histogram;
pub mod huge_pages;
pub mod ids;
pub mod limits;
pub mod log;
pub mod pool;
pub mod ring;
mod ring_parts;
pub(crate) mod shrink;
pub(crate) mod table;
pub(crate) mod time_text;
pub mod turn_clock;
