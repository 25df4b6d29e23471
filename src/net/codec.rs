//! The layer between a socket and a session: nothing, or TLS. Pure, no I/O.
//!
//! The reader decrypts what it reads, the writer encrypts what it sends; both hold their
//! connection's codec, and neither keeps it borrowed over an await. Bytes leave in the order in
//! which they were encrypted.

use crate::base::limits::SEAL_BYTES_MAX;
use crate::base::pool::BufferPool;
use crate::net::tls::{TlsFailure, TlsPipe};

/// The layer of one connection.
#[derive(Default)]
pub(crate) enum Codec {
    #[default]
    Plain,
    Tls(Box<TlsPipe>),
}

/// A buffer for the socket, and the number of plaintext bytes in it.
pub(crate) struct Sealed {
    pub bytes: Vec<u8>,
    pub plain_bytes: usize,
}

impl Codec {
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Self::Plain)
    }

    /// Returns the pipe of a connection that speaks TLS.
    pub(crate) fn tls(&mut self) -> Option<&mut TlsPipe> {
        match self {
            Self::Plain => None,
            Self::Tls(pipe) => Some(pipe),
        }
    }

    /// Takes TLS's own records, then as much of `chunk` as is encrypted at a time. Only for a codec
    /// that is not plain.
    ///
    /// # Errors
    /// If nothing can be encrypted any more.
    pub(crate) fn seal(&mut self, chunk: &[u8], pool: &BufferPool) -> Result<Sealed, TlsFailure> {
        let Self::Tls(pipe) = self else { unreachable!("plain chunks are sent as they are") };
        let plain_bytes = chunk.len().min(SEAL_BYTES_MAX);
        let room = pipe.sealed_size_max(plain_bytes);
        let mut bytes = pool.take(room, 0);
        pipe.take_outgoing(&mut bytes);
        if plain_bytes > 0 {
            pipe.seal(&chunk[..plain_bytes], &mut bytes)?;
        }
        Ok(Sealed { bytes, plain_bytes })
    }

    /// Returns the last bytes: TLS's own remaining records and the end of the stream.
    pub(crate) fn finish(&mut self, pool: &BufferPool) -> Vec<u8> {
        let Self::Tls(pipe) = self else { return Vec::new() };
        let mut bytes = pool.take(pipe.sealed_size_max(0), 0);
        pipe.take_outgoing(&mut bytes);
        pipe.close_notify(&mut bytes);
        bytes
    }
}
