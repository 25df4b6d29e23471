//! JetStream workloads: publishing with acknowledgements, consumers of every kind, key-value puts
//! and gets.
//!
//! A run makes its streams and consumers by the server's API, stores what is to be read, measures,
//! checks that every acknowledged message is stored and that every message was consumed, and
//! deletes the streams. `asker` sends and awaits one answer each, `reader` consumes, `threads` runs
//! both, `layout` names streams and subjects, `run` puts a run together.

pub mod api;
pub mod asker;
pub mod durability;
pub mod layout;
pub mod reader;
pub mod report;
pub mod run;
pub mod threads;
pub mod work;
