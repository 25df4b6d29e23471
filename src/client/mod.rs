//! Floor 6: the NATS client protocol over the broker's verbs.

pub mod connect;
pub mod facts;
mod opening;
pub mod rare_lines;
pub mod session;
mod who;
