//! The NATS client protocol. Source: nats-server server/parser.go and server/client.go.

pub(crate) mod command;
pub(crate) mod complaint;
pub(crate) mod encode;
pub(crate) mod error;
pub(crate) mod handshake;
pub(crate) mod parser;
pub(crate) mod plain;
