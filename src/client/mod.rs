//! Floor 7: the NATS client protocol over the broker's verbs.
//!
//! `session` holds the state, `receive` is what the connection calls; each file between them has one part of the
//! protocol, and uses only those that stand before it.

pub mod context;
mod publishing;
mod rights;

pub mod session;

mod complaints;
mod info;
mod traced;

mod connect;
mod open;
mod publish;
mod subscribe;

pub mod moving;
mod review;

mod receive;
