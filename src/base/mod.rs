//! Tools that know neither NATS nor sockets: limits, rings, clocks, histograms, pools, the log.

pub(crate) mod constant_time;
pub(crate) mod counters;
pub(crate) mod few_bytes;
pub(crate) mod files;
pub(crate) mod gate;
pub(crate) mod histogram;
pub(crate) mod huge_pages;
pub(crate) mod ids;
pub mod limits;
pub(crate) mod log;
pub(crate) mod pool;
pub(crate) mod ring;
mod ring_parts;
pub(crate) mod shrink;
pub(crate) mod table;
pub(crate) mod time_text;
pub(crate) mod time_zone;
pub(crate) mod turn_clock;
