//! The kinds of runs by their names in results.

pub const THROUGHPUT: &str = "throughput";
pub const LATENCY: &str = "latency";
pub const CLOSED_LOOP: &str = "closed-loop";
pub const SWEEP: &str = "sweep";
pub const CONNECTIONS: &str = "connections";
pub const IDLE: &str = "idle";
pub const JETSTREAM: &str = "jetstream";
