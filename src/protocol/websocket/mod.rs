//! The WebSocket protocol, RFC 6455, from the server's side: frames and their masks, closing,
//! messages that are deflated (RFC 7692). The upgrade is part of a peer's opening.

pub(crate) mod close;
pub(crate) mod deflate;
pub(crate) mod frame;
pub(crate) mod mask;
