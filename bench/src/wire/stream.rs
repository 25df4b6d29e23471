//! One socket, TCP or Unix, plain, with TLS, and with WebSocket inside either. One thread owns it, so TLS needs no lock.
//!
//! The socket stays in blocking mode with a time limit in both directions; the non-blocking calls
//! pass `MSG_DONTWAIT`, so that a connection can serve either a blocking thread or an event loop.

use crate::Failure;
use crate::wire::address::Address;
use crate::wire::websocket::{self, Frames};
use rustix::net::{RecvFlags, SendFlags};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// A blocking write that makes no progress for this long fails: the server has stopped reading.
pub const WRITE_STALL_MAX: Duration = Duration::from_secs(20);
/// A blocking read returns after this time, so that its thread notices the end of the run.
pub const READ_WAIT: Duration = Duration::from_millis(100);

/// How TLS verifies the server.
#[derive(Clone)]
pub struct TlsSettings {
    pub config: Arc<rustls::ClientConfig>,
}

pub struct Stream {
    socket: OwnedFd,
    tls: Option<Box<rustls::ClientConnection>>,
    web: Option<Box<Web>>,
}

/// The frames of a WebSocket connection, and room for what they come in.
struct Web {
    frames: Frames,
    room: Vec<u8>,
}

/// Bytes read at a time to be taken out of frames.
const WEB_READ_SIZE: usize = 128 * 1024;
/// Bytes of the answer to an upgrade.
const WEB_HEAD_BYTES_MAX: usize = 16 * 1024;

/// Adapts the socket, with one set of flags, to the `Read` and `Write` that `rustls` needs.
struct Pipe<'a> {
    socket: BorrowedFd<'a>,
    recv: RecvFlags,
    send: SendFlags,
}

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (count, _) = rustix::net::recv(self.socket, buffer, self.recv)?;
        Ok(count)
    }
}

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.socket, bytes, self.send)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream {
    /// Connects; TLS, if any, is started later by `start_tls`.
    ///
    /// # Errors
    /// If the address does not resolve or nobody accepts.
    pub fn connect(address: &Address, deadline: Duration) -> Result<Stream, Failure> {
        let socket: OwnedFd = match address {
            Address::Tcp { host, port, .. } => {
                let targets: Vec<std::net::SocketAddr> =
                    std::net::ToSocketAddrs::to_socket_addrs(&(host.as_str(), *port))
                        .map_err(|error| Failure::new(format!("cannot resolve {host}: {error}")))?
                        .collect();
                let mut last = None;
                let mut connected = None;
                for target in targets {
                    match std::net::TcpStream::connect_timeout(&target, deadline) {
                        Ok(stream) => {
                            connected = Some(stream);
                            break;
                        }
                        Err(error) => last = Some(error),
                    }
                }
                let stream = connected.ok_or_else(|| {
                    let reason = last.map_or("no address".to_string(), |error| error.to_string());
                    Failure::new(format!("cannot connect to {address}: {reason}"))
                })?;
                stream.set_nodelay(true)?;
                stream.into()
            }
            Address::Unix { path } => std::os::unix::net::UnixStream::connect(path)
                .map_err(|error| Failure::new(format!("cannot connect to {address}: {error}")))?
                .into(),
        };
        let reference = socket2::SockRef::from(&socket);
        reference.set_write_timeout(Some(WRITE_STALL_MAX))?;
        reference.set_read_timeout(Some(READ_WAIT))?;
        Ok(Stream { socket, tls: None, web: None })
    }

    /// Sets the congestion control of a TCP socket, which then paces what the socket sends.
    ///
    /// # Errors
    /// If the kernel does not have it, or does not let this user set it.
    pub fn set_congestion(&self, name: &str) -> Result<(), Failure> {
        rustix::net::sockopt::set_tcp_congestion(&self.socket, name).map_err(|error| {
            Failure::new(format!(
                "congestion control '{name}': {error}; net.ipv4.tcp_allowed_congestion_control lists \
                 what every user may take"
            ))
        })
    }

    /// Performs the TLS handshake on the connected socket.
    ///
    /// # Errors
    /// If the handshake fails or takes longer than `WRITE_STALL_MAX`.
    pub fn start_tls(&mut self, settings: &TlsSettings, host: &str) -> Result<(), Failure> {
        let name = rustls_pki_types::ServerName::try_from(host.to_string())
            .map_err(|_| Failure::new(format!("'{host}' is no name TLS can check")))?;
        let mut tls = rustls::ClientConnection::new(settings.config.clone(), name)
            .map_err(|error| Failure::new(format!("TLS: {error}")))?;
        let until = std::time::Instant::now() + WRITE_STALL_MAX;
        while tls.is_handshaking() {
            let mut pipe = blocking(&self.socket);
            match tls.complete_io(&mut pipe) {
                Ok(_) => {}
                Err(error) if is_wait(&error) && std::time::Instant::now() < until => {}
                Err(error) => return Err(Failure::new(format!("TLS handshake: {error}"))),
            }
        }
        self.tls = Some(Box::new(tls));
        Ok(())
    }

    /// Upgrades the connection to WebSocket, inside TLS if that was started.
    ///
    /// # Errors
    /// If the server does not speak WebSocket, or does not answer within `WRITE_STALL_MAX`.
    pub fn start_web(&mut self, host: &str, deflates: bool) -> Result<(), Failure> {
        self.write_all(websocket::request(host, deflates).as_bytes())?;
        let until = std::time::Instant::now() + WRITE_STALL_MAX;
        // Byte by byte, so that nothing after it is taken away.
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            match self.read(&mut byte)? {
                Some(0) => return Err(Failure::new("the server closed instead of upgrading")),
                Some(_) => head.push(byte[0]),
                None if std::time::Instant::now() > until => {
                    return Err(Failure::new("no answer to the upgrade came"));
                }
                None => {}
            }
            if head.len() > WEB_HEAD_BYTES_MAX {
                return Err(Failure::new("the answer to the upgrade is no HTTP"));
            }
        }
        websocket::check_answer(&String::from_utf8_lossy(&head), deflates)?;
        let frames = Frames::new(deflates);
        self.web = Some(Box::new(Web { frames, room: vec![0; WEB_READ_SIZE] }));
        Ok(())
    }

    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Reads what there is, waiting up to `READ_WAIT`. `None`: nothing came. `Some(0)`: end of the
    /// stream.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        self.receive(buffer, RecvFlags::empty())
    }

    /// Reads without waiting; otherwise like `read`.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        self.receive(buffer, RecvFlags::DONTWAIT)
    }

    fn receive(&mut self, buffer: &mut [u8], flags: RecvFlags) -> io::Result<Option<usize>> {
        let Some(mut web) = self.web.take() else { return self.receive_bytes(buffer, flags) };
        let result = self.receive_frames(&mut web, buffer, flags);
        self.web = Some(web);
        result
    }

    fn receive_frames(
        &mut self,
        web: &mut Web,
        buffer: &mut [u8],
        flags: RecvFlags,
    ) -> io::Result<Option<usize>> {
        let Web { frames, room } = web;
        loop {
            let count = frames.read(buffer).map_err(io::Error::other)?;
            if count > 0 {
                return Ok(Some(count));
            }
            if frames.is_closed() {
                return Ok(Some(0));
            }
            match self.receive_bytes(room, flags)? {
                None => return Ok(None),
                Some(0) => return Ok(Some(0)),
                Some(count) => frames.received(&room[..count]),
            }
        }
    }

    fn receive_bytes(&mut self, buffer: &mut [u8], flags: RecvFlags) -> io::Result<Option<usize>> {
        let Some(tls) = &mut self.tls else {
            return wait_as_none(plain_receive(&self.socket, buffer, flags));
        };
        loop {
            match tls.reader().read(buffer) {
                Ok(count) => return Ok(Some(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The peer closed without close_notify: for the harness an end like any other.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Some(0)),
                Err(error) => return Err(error),
            }
            let socket = self.socket.as_fd();
            let mut pipe = Pipe { socket, recv: flags, send: SendFlags::NOSIGNAL };
            let Some(count) = wait_as_none(tls.read_tls(&mut pipe))? else { return Ok(None) };
            if count == 0 {
                return Ok(Some(0));
            }
            tls.process_new_packets().map_err(io::Error::other)?;
            while tls.wants_write() {
                tls.write_tls(&mut pipe)?;
            }
        }
    }

    /// Writes all of `bytes`, waiting as long as the server keeps taking some.
    ///
    /// # Errors
    /// If the connection broke, or nothing was taken for `WRITE_STALL_MAX`.
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(mut web) = self.web.take() else { return self.write_all_bytes(bytes) };
        let mut result = Ok(());
        let mut rest = bytes;
        loop {
            let outgoing = web.frames.outgoing();
            if !outgoing.is_empty() {
                let count = outgoing.len();
                result = self.write_all_bytes(outgoing);
                web.frames.sent(count);
            }
            if result.is_err() || rest.is_empty() {
                break;
            }
            let count = web.frames.frame(rest);
            rest = &rest[count..];
        }
        self.web = Some(web);
        result
    }

    fn write_all_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut pipe = blocking(&self.socket);
        match &mut self.tls {
            None => write_whole(&mut pipe, bytes),
            Some(tls) => {
                let mut rest = bytes;
                while !rest.is_empty() {
                    let taken = tls.writer().write(rest)?;
                    rest = &rest[taken..];
                    while tls.wants_write() {
                        stalled(tls.write_tls(&mut pipe))?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Writes what the socket takes at once and returns how many of `bytes` were taken.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(mut web) = self.web.take() else { return self.try_write_bytes(bytes) };
        let result = self.try_write_frames(&mut web.frames, bytes);
        self.web = Some(web);
        result
    }

    /// A frame counts as taken once it is made: the next call sends what is left of it first.
    fn try_write_frames(&mut self, frames: &mut Frames, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        loop {
            while !frames.outgoing().is_empty() {
                let count = self.try_write_bytes(frames.outgoing())?;
                if count == 0 {
                    return Ok(taken);
                }
                frames.sent(count);
            }
            if taken == bytes.len() {
                return Ok(taken);
            }
            taken += frames.frame(&bytes[taken..]);
        }
    }

    fn try_write_bytes(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let Some(tls) = &mut self.tls else {
            let sent =
                wait_as_none(rustix::net::send(&self.socket, bytes, flags).map_err(Into::into))?;
            return Ok(sent.unwrap_or(0));
        };
        let socket = self.socket.as_fd();
        let mut pipe = Pipe { socket, recv: RecvFlags::DONTWAIT, send: flags };
        // Ciphertext that is still waiting goes first, and plaintext is only taken once it is gone,
        // so that a slow server shows as bytes not taken instead of as memory.
        while tls.wants_write() {
            if wait_as_none(tls.write_tls(&mut pipe))?.is_none() {
                return Ok(0);
            }
        }
        let taken = tls.writer().write(bytes)?;
        while tls.wants_write() {
            if wait_as_none(tls.write_tls(&mut pipe))?.is_none() {
                break;
            }
        }
        Ok(taken)
    }

    /// Returns true if a layer holds what it made of bytes that it took; the next `try_write`, even
    /// of nothing, sends it.
    pub fn holds_bytes(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
            || self.web.as_ref().is_some_and(|web| !web.frames.outgoing().is_empty())
    }

    /// Tells the peer that nothing more comes from here.
    pub fn finish_writing(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write)?)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn blocking(socket: &OwnedFd) -> Pipe<'_> {
    Pipe { socket: socket.as_fd(), recv: RecvFlags::empty(), send: SendFlags::NOSIGNAL }
}

fn plain_receive(socket: &OwnedFd, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
    let (count, _) = rustix::net::recv(socket, buffer, flags)?;
    Ok(count)
}

fn write_whole(pipe: &mut Pipe<'_>, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let sent = stalled(pipe.write(rest))?;
        rest = &rest[sent..];
    }
    Ok(())
}

fn is_wait(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn wait_as_none(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if is_wait(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A blocking write that timed out means that the server has stopped reading; an interrupted one is
/// retried.
fn stalled(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("the server took no byte for {} s", WRITE_STALL_MAX.as_secs()),
        )),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::address::WebSocket;

    #[test]
    fn a_socket_takes_a_congestion_control_that_the_kernel_has_and_reports_one_it_lacks() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let address =
            Address::Tcp { host: "127.0.0.1".to_string(), port, tls: false, web: WebSocket::No };
        let stream = Stream::connect(&address, Duration::from_secs(10)).unwrap();
        // Built into every kernel, and allowed for every user.
        stream.set_congestion("reno").unwrap();
        let control = socket2::SockRef::from(&stream.socket).tcp_congestion().unwrap();
        assert!(control.starts_with(b"reno"), "{control:?}");
        let refused = stream.set_congestion("no-such").unwrap_err().to_string();
        assert!(refused.starts_with("congestion control 'no-such'"), "{refused}");
    }
}
