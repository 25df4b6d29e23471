//! JSON as nats-server reads and writes it, with Go's rules and error texts.

pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod named;
pub(crate) mod scanner;
pub(crate) mod timestamp;

#[cfg(test)]
mod tests;
