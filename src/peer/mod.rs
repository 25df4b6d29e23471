//! The parts that sessions of every kind of peer have in common, whatever protocol they speak.
//!
//! Each file holds one part of a session as a value of its own: bytes, a clock and the shard's
//! rules go in, a decision comes out. Nothing here writes to a peer; the speaker announces the
//! decision in its own protocol.

pub(crate) mod checks;
pub(crate) mod facts;
pub(crate) mod keep_alive;
pub(crate) mod login;
pub(crate) mod opening;
pub(crate) mod rare_lines;
pub(crate) mod state;
pub(crate) mod upgrade;
pub(crate) mod who;
