//! Floor 6: the NATS client protocol over the broker's verbs.

mod complaints;
pub mod connect;
pub mod context;
pub mod facts;
mod opening;
mod publish;
pub mod rare_lines;
mod review;
pub mod session;
mod who;
