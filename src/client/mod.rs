//! Floor 6: the NATS client protocol over the broker's verbs.

pub mod connect;
mod opening;
pub mod session;
