//! Floor 1: bytes to values and back. Pure: no clock, no socket, no state beyond a parser's own.

pub mod headers;
pub mod http;
pub(crate) mod json_fields;
pub mod message;
pub mod nats;
pub mod subject;
