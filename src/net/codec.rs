//! The layers between a socket and a session: TLS, WebSocket frames inside it, either alone, or
//! nothing. Pure, no I/O.
//!
//! The reader decodes what it reads, the writer encodes what it sends; both hold their connection's
//! codec, and neither keeps it borrowed over an await. Bytes leave in the order in which they were
//! encoded. Sessions know nothing of it.

use crate::base::limits::SEAL_BYTES_MAX;
use crate::base::pool::BufferPool;
use crate::net::frames::{Deflaters, Frames};
use crate::net::tls::{TlsFailure, TlsPipe};
use crate::protocol::nats::error::CloseReason;

/// The layers of one connection.
#[derive(Default)]
pub(crate) struct Codec {
    tls: Option<Box<TlsPipe>>,
    frames: Option<Box<Frames>>,
}

/// A buffer for the socket, and the number of the session's bytes in it.
pub(crate) struct Sealed {
    pub bytes: Vec<u8>,
    pub plain_bytes: usize,
}

impl Codec {
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.tls.is_none() && self.frames.is_none()
    }

    pub(crate) fn set_tls(&mut self, pipe: TlsPipe) {
        self.tls = Some(Box::new(pipe));
    }

    pub(crate) fn set_frames(&mut self, frames: Frames) {
        self.frames = Some(Box::new(frames));
    }

    /// Returns the pipe of a connection that speaks TLS.
    pub(crate) fn tls(&mut self) -> Option<&mut TlsPipe> {
        self.tls.as_deref_mut()
    }

    /// Returns the frames of a WebSocket connection.
    pub(crate) fn frames(&mut self) -> Option<&mut Frames> {
        self.frames.as_deref_mut()
    }

    /// Returns true if a layer has something to send of itself.
    pub(crate) fn has_outgoing(&self) -> bool {
        self.tls.as_ref().is_some_and(|pipe| pipe.has_outgoing())
            || self.frames.as_ref().is_some_and(|frames| frames.has_outgoing())
    }

    /// Returns true if the peer has said, in a layer's own words, that it sends no more.
    pub(crate) fn peer_closed(&self) -> bool {
        self.tls.as_ref().is_some_and(|pipe| pipe.peer_closed())
            || self.frames.as_ref().is_some_and(|frames| frames.peer_closed())
    }

    /// Takes the layers' own bytes, then as much of `chunk` as is encoded at a time. Only for a
    /// codec that is not plain.
    ///
    /// # Errors
    /// If nothing can be encrypted any more.
    pub(crate) fn seal(
        &mut self,
        chunk: &[u8],
        pool: &BufferPool,
        deflaters: &Deflaters,
    ) -> Result<Sealed, TlsFailure> {
        let plain_bytes = chunk.len().min(SEAL_BYTES_MAX);
        let chunk = &chunk[..plain_bytes];
        let Some(frames) = &mut self.frames else {
            return Ok(Sealed { bytes: self.encrypt(chunk, pool)?, plain_bytes });
        };
        let mut framed = pool.take(frames.sealed_size_max(plain_bytes), 0);
        frames.take_outgoing(&mut framed);
        if plain_bytes > 0 {
            frames.seal(chunk, deflaters, &mut framed);
        }
        Ok(Sealed { bytes: self.encrypt_framed(framed, pool)?, plain_bytes })
    }

    /// Returns the last bytes: the layers' own remaining ones, and the end of each stream.
    pub(crate) fn finish(&mut self, reason: CloseReason, pool: &BufferPool) -> Vec<u8> {
        let mut last = Vec::new();
        if let Some(frames) = &mut self.frames {
            frames.finish(reason, &mut last);
        }
        let Some(pipe) = &mut self.tls else { return last };
        if reason.discards_pending() && last.is_empty() {
            return last;
        }
        let mut bytes = pool.take(pipe.sealed_size_max(last.len()), 0);
        pipe.take_outgoing(&mut bytes);
        // Fails only if nothing can be encrypted any more: then the peer sees the socket's end.
        if last.is_empty() || pipe.seal(&last, &mut bytes).is_ok() {
            pipe.close_notify(&mut bytes);
        }
        bytes
    }

    fn encrypt_framed(
        &mut self,
        framed: Vec<u8>,
        pool: &BufferPool,
    ) -> Result<Vec<u8>, TlsFailure> {
        if self.tls.is_none() {
            return Ok(framed);
        }
        let bytes = self.encrypt(&framed, pool);
        pool.give_back(framed);
        bytes
    }

    fn encrypt(&mut self, plain: &[u8], pool: &BufferPool) -> Result<Vec<u8>, TlsFailure> {
        let pipe = self.tls.as_deref_mut().expect("a codec that is not plain");
        let mut bytes = pool.take(pipe.sealed_size_max(plain.len()), 0);
        pipe.take_outgoing(&mut bytes);
        if !plain.is_empty() {
            pipe.seal(plain, &mut bytes)?;
        }
        Ok(bytes)
    }
}
