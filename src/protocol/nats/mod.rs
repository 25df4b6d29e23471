//! The NATS client protocol. Source: nats-server server/parser.go and server/client.go.

pub mod command;
pub(crate) mod complaint;
pub mod encode;
pub mod error;
pub mod handshake;
pub mod parser;
pub mod plain;
