//! Stalls: the longest round trip of a PING of clients that do nothing else, while one client, a
//! reload or monitoring gives the server an extreme amount of work at once.
//!
//! `cases` is what is done to a server, `stage` the server with its probes, `rounds` the order of
//! all runs, `report` the table.

pub mod arguments;
pub mod cases;
pub mod crowd;
pub mod probe;
pub mod report;
pub mod rounds;
pub mod stage;
