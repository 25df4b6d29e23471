//! The parts that sessions of every kind of peer have in common, whatever protocol they speak.
//!
//! Each file holds one part of a session as a value of its own: bytes, a clock and the shard's
//! rules go in, a decision comes out. Nothing here writes to a peer; the speaker announces the
//! decision in its own protocol.

pub mod checks;
pub mod facts;
pub mod keep_alive;
pub mod login;
pub mod opening;
pub mod rare_lines;
pub mod state;
pub mod who;
