//! The harness's own small NATS client: blocking or non-blocking sockets, prebuilt frames, a tight
//! scanner. It exists so that the generator costs far less than any server it measures.

pub mod address;
pub mod connection;
pub mod credentials;
pub mod frames;
pub mod http;
pub mod message;
pub mod scanner;
pub mod stream;
pub mod tls;
pub mod websocket;
