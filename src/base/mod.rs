//! Floor 0: knows neither NATS nor sockets.

pub mod limits;
pub mod log;
