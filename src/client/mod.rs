//! The NATS client protocol on top of the broker's verbs.
//!
//! `session` holds the state, `receive` is what the connection calls; each file between them holds
//! one part of the protocol, and uses only files above it in the list below.

pub(crate) mod guest;

pub(crate) mod context;
pub(crate) mod hosted;
mod publishing;
mod rights;

pub(crate) mod session;

mod complaints;
mod info;
mod told;
mod traced;

mod connect;
mod message_trace;
mod open;
mod publish;
mod subscribe;

pub(crate) mod moving;
mod review;

mod receive;
