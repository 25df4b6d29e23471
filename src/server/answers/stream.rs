//! A monitoring connection's bytes, plain or over TLS. Never blocks.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection};

use crate::base::limits::HTTP_IDLE_RECORDS_PER_PASS;
use crate::net::listener::canonical;
use crate::net::tls::failure_text;

/// The answer to plain HTTP on the HTTPS port. Source: Go net/http conn.serve.
const PLAIN_REFUSAL: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// A nonblocking socket. rustls bounds the memory of TLS: one handshake message, one unread record
/// each way, and what it holds of an answer (64 KiB).
pub(super) struct MonitorStream {
    socket: TcpStream,
    tls: Option<Box<ServerConnection>>,
    /// True once the first bytes were checked.
    begun: bool,
}

impl MonitorStream {
    /// Wraps a socket.
    ///
    /// # Errors
    /// If rustls cannot use the configuration.
    pub(super) fn new(socket: TcpStream, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let tls = tls.map(|config| ServerConnection::new(config).map(Box::new));
        let tls = tls.transpose().map_err(io::Error::other)?;
        Ok(Self { socket, begun: tls.is_none(), tls })
    }

    /// Reads like `Read::read`; 0 = the peer will send no more.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there, or if some records had no byte of a request: the socket is
    /// still readable then. Any other error ends the connection.
    pub(super) fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        if !self.begun {
            self.check_beginning()?;
        }
        let Self { socket, tls, .. } = self;
        let Some(tls) = tls else { return socket.read(chunk) };
        let mut records = 0;
        loop {
            match tls.reader().read(chunk) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => return other,
            }
            if records == HTTP_IDLE_RECORDS_PER_PASS {
                return Err(ErrorKind::WouldBlock.into());
            }
            records += 1;
            if tls.read_tls(socket)? == 0 {
                return Ok(0);
            }
            let is_handshaking = tls.is_handshaking();
            let processed = tls.process_new_packets();
            // Continues the handshake, or sends the alert that says why it failed.
            let flushed = flush(socket, tls);
            if let Err(error) = processed {
                if is_handshaking {
                    log_failure(socket, &failure_text(&error));
                }
                return Err(io::Error::other(error));
            }
            flushed?;
        }
    }

    /// Answers a peer that speaks plain HTTP; rustls would only send an alert.
    fn check_beginning(&mut self) -> io::Result<()> {
        let mut first = [0; 5];
        let size = self.socket.peek(&mut first)?;
        let methods = [&b"GET /"[..], b"HEAD ", b"POST ", b"PUT /", b"OPTIO"];
        if !methods.contains(&&first[..size]) {
            self.begun = true;
            return Ok(());
        }
        log_failure(&self.socket, "client sent an HTTP request to an HTTPS server");
        // Unread bytes would turn the close into a reset that destroys the answer.
        let mut chunk = [0; 4096];
        let _ = self.socket.read(&mut chunk);
        self.socket.write_all(PLAIN_REFUSAL)?;
        Err(ErrorKind::InvalidData.into())
    }

    /// Writes like `Write::write`. With TLS, bytes it has taken may still wait for `flush`.
    ///
    /// # Errors
    /// As for `read`.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.write(bytes) };
        if !flush(&mut self.socket, tls)? {
            return Err(ErrorKind::WouldBlock.into());
        }
        let taken = tls.writer().write(bytes)?;
        flush(&mut self.socket, tls)?;
        Ok(taken)
    }

    /// Sends what TLS holds; false = some of it waits for the socket.
    ///
    /// # Errors
    /// If the connection is gone.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        match &mut self.tls {
            Some(tls) => flush(&mut self.socket, tls),
            None => Ok(true),
        }
    }

    /// Returns true if something waits for the socket to take it.
    pub(super) fn wants_write(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Announces the end of the stream. Reads away a little of what the peer sent: unread bytes
    /// would turn the close into a reset that destroys the last answer.
    pub(super) fn finish(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // A courtesy: the answer is complete without it.
            let _ = flush(&mut self.socket, tls);
        }
        let mut chunk = [0; 4096];
        for _ in 0..16 {
            if !matches!(self.socket.read(&mut chunk), Ok(1..)) {
                break;
            }
        }
    }
}

impl AsFd for MonitorStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn flush(socket: &mut TcpStream, tls: &mut ServerConnection) -> io::Result<bool> {
    while tls.wants_write() {
        match tls.write_tls(socket) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Logs in the words of Go's net/http.
fn log_failure(socket: &TcpStream, text: &str) {
    let peer = socket.peer_addr().map(|peer| canonical(peer).to_string()).unwrap_or_default();
    tracing::error!("monitoring: TLS handshake error from {peer}: {text}");
}
