//! Listening sockets of one shard: TCP with SO_REUSEPORT, and the Unix domain socket.
//!
//! The runtime only tells when a listener is readable; accepting is done here, without waiting, so that a
//! burst of connections costs one wake and closing a listener never leaves an accept in flight.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener as StdTcpListener, TcpStream as StdTcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::net::operations::OperationCount;

/// Connections waiting to be accepted.
const BACKLOG: i32 = 4096;

/// Connections accepted before other tasks get their turn.
const ACCEPTS_PER_TURN: usize = 64;

/// The pause after a listener was readable and had no connection.
const READABLE_FOR_NOTHING: Duration = Duration::from_millis(1);

/// An accepted socket, not yet known to the runtime.
pub struct Accepted {
    pub stream: StdTcpStream,
    pub peer: Peer,
}

/// Who connected.
#[derive(Clone, Debug)]
pub enum Peer {
    Tcp(SocketAddr),
    Unix,
}

impl Peer {
    /// The address alone, as INFO's `client_ip`.
    pub fn host(&self) -> String {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().to_string(),
            Self::Unix => "unix".into(),
        }
    }

    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp(address) => address.port(),
            Self::Unix => 0,
        }
    }
}

/// Binds one of several sockets that share an address; the kernel spreads connections over them.
///
/// # Errors
/// The address is in use by another program or may not be bound.
pub fn bind_tcp(address: SocketAddr) -> io::Result<StdTcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A listening socket of either kind.
pub enum Listener {
    Tcp(StdTcpListener),
    Unix(StdUnixListener),
}

/// See `Listener::readiness`.
pub struct Readiness(monoio::net::TcpListener);

impl Listener {
    /// Where it listens; none for a socket file.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    fn try_clone_fd(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(listener) => listener.try_clone().map(OwnedFd::from),
            Self::Unix(listener) => listener.try_clone().map(OwnedFd::from),
        }
    }

    fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept()?;
                SockRef::from(&stream).set_tcp_nodelay(true)?;
                Ok(Accepted { stream, peer: Peer::Tcp(address) })
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                // Both kinds are read and written with recv and send: one type serves.
                Ok(Accepted { stream: StdTcpStream::from(OwnedFd::from(stream)), peer: Peer::Unix })
            }
        }
    }

    /// Stops listening at once: from now on connections are refused, and `serve` ends.
    pub fn stop(&self) {
        let result = match self {
            Self::Tcp(listener) => SockRef::from(listener).shutdown(Shutdown::Both),
            Self::Unix(listener) => SockRef::from(listener).shutdown(Shutdown::Both),
        };
        // Fails only for a socket that no longer listens.
        let _ = result;
    }

    /// What tells that somebody waits, inside the runtime.
    ///
    /// # Errors
    /// The socket could not be given to the runtime: descriptors are out.
    pub fn readiness(&self) -> io::Result<Readiness> {
        let listener = StdTcpListener::from(self.try_clone_fd()?);
        Ok(Readiness(monoio::net::TcpListener::from_std(listener)?))
    }

    /// Accepts for ever, or until `stopped`; gives each socket to `accepted`. A failure to accept is told to
    /// `failed` and tried again: it is about one connection, or about descriptors that may come back.
    pub async fn serve(
        &self,
        Readiness(readiness): Readiness,
        accepted: impl Fn(Accepted),
        failed: impl Fn(io::Error),
        stopped: impl Fn() -> bool,
        polls: &OperationCount,
    ) {
        let mut pause = Duration::from_millis(10);
        loop {
            // A listener that was stopped is readable too; the accept then says why.
            polls.submit();
            let _ = readiness.readable(false).await;
            polls.complete();
            if stopped() {
                return;
            }
            for index in 0..ACCEPTS_PER_TURN {
                match self.accept() {
                    Ok(socket) => {
                        pause = Duration::from_millis(10);
                        accepted(socket);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if index == 0 {
                            // Another shard was faster, or has shut their common Unix socket down: that one
                            // stays readable, and on epoll asking again would never let go of the thread.
                            crate::net::runtime::sleep(READABLE_FOR_NOTHING).await;
                        }
                        break;
                    }
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => {
                        failed(error);
                        crate::net::runtime::sleep(pause).await;
                        pause = (pause * 2).min(Duration::from_secs(1));
                        break;
                    }
                }
            }
        }
    }
}
