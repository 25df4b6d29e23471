//! Floor 1: bytes to values and back. Pure: no clock, no socket, no state beyond a parser's own.

pub(crate) mod headers;
pub(crate) mod http;
pub(crate) mod json_fields;
pub(crate) mod message;
pub(crate) mod nats;
pub(crate) mod proxy;
pub(crate) mod subject;
pub(crate) mod websocket;
