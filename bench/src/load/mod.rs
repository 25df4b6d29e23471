//! The workloads that are put on a server, and their counts.

pub mod closed_loop;
pub mod connections;
pub mod cores;
pub mod disturbance;
pub mod endpoints;
pub mod event_loop;
pub mod floor;
pub mod idle;
pub mod latency;
pub mod layout;
pub mod publisher;
pub mod run;
pub mod schedule;
pub mod shard_traffic;
pub mod shared;
pub mod subscriber;
pub mod sweep;
pub mod throughput;
pub mod tracker;
