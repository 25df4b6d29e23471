//! Listening sockets of one shard: TCP with SO_REUSEPORT, and the Unix domain socket.
//!
//! The runtime only reports that a listener is readable; accepting is done here, without waiting.
//! So a burst of connections costs one wake-up, and closing a listener never leaves an accept in
//! flight.

use std::io;
use std::net::{
    Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener as StdTcpListener,
    TcpStream as StdTcpStream,
};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::net::operations::OperationCount;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Connections accepted in a row before other tasks get their turn.
const ACCEPTS_PER_TURN: usize = 64;

/// Pause after a listener was readable but had no connection.
const READABLE_FOR_NOTHING: Duration = Duration::from_millis(1);

/// The time to wait after a failed accept, which would fail again at once when descriptors are used
/// up: from ten milliseconds, doubling each time, to one second. Source: nats-server
/// server/server.go acceptError.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AcceptPause(Duration);

impl Default for AcceptPause {
    fn default() -> Self {
        Self(Duration::from_millis(10))
    }
}

impl AcceptPause {
    /// Returns the time to wait now, and lengthens the next.
    pub(crate) fn lengthen(&mut self) -> Duration {
        let now = self.0;
        self.0 = (now * 2).min(Duration::from_secs(1));
        now
    }

    /// To be called when a connection was accepted.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

/// An accepted socket, not yet known to the runtime.
pub(crate) struct Accepted {
    pub stream: StdTcpStream,
    pub peer: Peer,
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub enum Peer {
    Tcp(SocketAddr),
    Unix,
}

impl Peer {
    /// Returns the address alone, as in INFO's `client_ip`.
    pub fn host(&self) -> String {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().to_string(),
            Self::Unix => "unix".into(),
        }
    }

    /// Returns host and port as in log lines: `192.0.2.7:5`, `[2001:db8::7]:5`.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(address) => canonical(*address).to_string(),
            Self::Unix => format!("{}:{}", self.host(), self.port()),
        }
    }

    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp(address) => address.port(),
            Self::Unix => 0,
        }
    }
}

/// Converts an IPv4 address in IPv6 form, as a dual-stack socket has it, to IPv4.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Calls `bind` with the address that covers all that `address` means. An unspecified address, of
/// either family, means both: one IPv6 socket then accepts IPv4 peers too. On a host without IPv6
/// it is IPv4 alone.
///
/// # Errors
/// Those of `bind`.
pub(crate) fn bind_all_families<T>(
    address: SocketAddr,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> io::Result<T> {
    if !address.ip().is_unspecified() {
        return bind(address);
    }
    match bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, address.port()))) {
        Err(error) if is_without_ipv6(&error) => {
            bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
        }
        outcome => outcome,
    }
}

/// Returns true if the kernel was built without IPv6, or has it switched off.
fn is_without_ipv6(error: &io::Error) -> bool {
    let reasons = [Errno::AFNOSUPPORT, Errno::PROTONOSUPPORT, Errno::ADDRNOTAVAIL];
    reasons.iter().any(|reason| error.raw_os_error() == Some(reason.raw_os_error()))
}

/// Binds one of several sockets that share an address; the kernel spreads connections over them.
///
/// # Errors
/// If the address is in use by another program or may not be bound.
pub(crate) fn bind_tcp(address: SocketAddr) -> io::Result<StdTcpListener> {
    bind(address, true, true)
}

/// Binds like `bind_tcp`, but does not listen until `Listener::listen` is called; before that the
/// kernel gives it no connection.
///
/// # Errors
/// As `bind_tcp`.
pub(crate) fn bind_tcp_asleep(address: SocketAddr) -> io::Result<StdTcpListener> {
    bind(address, true, false)
}

/// Binds a socket that shares its address with no other.
///
/// # Errors
/// If the address is in use, by this program or another, or may not be bound.
pub(crate) fn bind_tcp_alone(address: SocketAddr) -> io::Result<StdTcpListener> {
    bind(address, false, true)
}

fn bind(address: SocketAddr, is_shared: bool, listens: bool) -> io::Result<StdTcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(is_shared)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if listens {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}

/// What a port is for: who is expected there, and what becomes of a connection. The monitoring port
/// is not among them: it has a thread of its own, which polls its socket itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Clients, wherever they are best served.
    Client,
    /// Clients that chose this shard by its own port, and stay there.
    ShardPort,
    /// Clients that speak WebSocket, wherever they are best served.
    WebSocket,
}

/// A listening socket of either kind.
enum ListeningSocket {
    Tcp(StdTcpListener),
    Unix(StdUnixListener),
}

/// A port that a shard serves.
pub(crate) struct Listener {
    socket: ListeningSocket,
    pub purpose: Purpose,
}

/// The signal of a listener's readiness, inside the runtime.
pub(crate) struct Readiness(monoio::net::TcpListener);

impl Purpose {
    /// Returns the name for whoever connects, as in log lines.
    pub(crate) fn who(self) -> &'static str {
        match self {
            Self::Client | Self::ShardPort => "Client",
            Self::WebSocket => "Websocket",
        }
    }
}

impl Listener {
    pub(crate) fn tcp(listener: StdTcpListener, purpose: Purpose) -> Self {
        Self { socket: ListeningSocket::Tcp(listener), purpose }
    }

    pub(crate) fn unix(listener: StdUnixListener, purpose: Purpose) -> Self {
        Self { socket: ListeningSocket::Unix(listener), purpose }
    }

    /// Returns the address it listens on; None for a Unix domain socket.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        match &self.socket {
            ListeningSocket::Tcp(listener) => listener.local_addr().ok(),
            ListeningSocket::Unix(_) => None,
        }
    }

    /// Begins to listen, if the socket was only bound; a Unix domain socket always listens.
    ///
    /// # Errors
    /// If the port was taken by a socket that does not share it.
    pub(crate) fn listen(&self) -> io::Result<()> {
        match &self.socket {
            ListeningSocket::Tcp(listener) => SockRef::from(listener).listen(BACKLOG),
            ListeningSocket::Unix(_) => Ok(()),
        }
    }

    fn try_clone_fd(&self) -> io::Result<OwnedFd> {
        match &self.socket {
            ListeningSocket::Tcp(listener) => listener.try_clone().map(OwnedFd::from),
            ListeningSocket::Unix(listener) => listener.try_clone().map(OwnedFd::from),
        }
    }

    fn accept(&self) -> io::Result<Accepted> {
        match &self.socket {
            ListeningSocket::Tcp(listener) => {
                let (stream, address) = listener.accept()?;
                SockRef::from(&stream).set_tcp_nodelay(true)?;
                Ok(Accepted { stream, peer: Peer::Tcp(address) })
            }
            ListeningSocket::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                // Both kinds are read and written with recv and send, so one type serves for both.
                Ok(Accepted { stream: StdTcpStream::from(OwnedFd::from(stream)), peer: Peer::Unix })
            }
        }
    }

    /// Stops listening at once: connections are refused from now on, and `serve` ends.
    pub(crate) fn stop(&self) {
        let result = match &self.socket {
            ListeningSocket::Tcp(listener) => SockRef::from(listener).shutdown(Shutdown::Both),
            ListeningSocket::Unix(listener) => SockRef::from(listener).shutdown(Shutdown::Both),
        };
        // Fails only if the socket no longer listens.
        let _ = result;
    }

    /// Returns the signal, inside the runtime, that a connection waits.
    ///
    /// # Errors
    /// If the socket could not be given to the runtime (out of descriptors).
    pub(crate) fn readiness(&self) -> io::Result<Readiness> {
        let listener = StdTcpListener::from(self.try_clone_fd()?);
        Ok(Readiness(monoio::net::TcpListener::from_std(listener)?))
    }

    /// Accepts forever, or until `stopped`, and gives each socket to `accepted`. A failed accept is
    /// reported to `failed` and tried again: it concerns one connection, or descriptors that may
    /// become free.
    pub(crate) async fn serve(
        &self,
        Readiness(readiness): Readiness,
        accepted: impl Fn(Accepted),
        failed: impl Fn(io::Error),
        stopped: impl Fn() -> bool,
        polls: &OperationCount,
    ) {
        let mut pause = AcceptPause::default();
        loop {
            // A stopped listener is readable too.
            polls.submit();
            let _ = readiness.readable(false).await;
            polls.complete();
            if stopped() {
                return;
            }
            for index in 0..ACCEPTS_PER_TURN {
                match self.accept() {
                    Ok(socket) => {
                        pause.reset();
                        accepted(socket);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if index == 0 {
                            // Another shard was faster, or has shut down the Unix socket they
                            // share: that one stays readable, and on epoll asking again at once
                            // would never yield the thread.
                            crate::net::runtime::sleep(READABLE_FOR_NOTHING).await;
                        }
                        break;
                    }
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => {
                        failed(error);
                        crate::net::runtime::sleep(pause.lengthen()).await;
                        break;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_of_either_family_means_both() {
        for text in ["0.0.0.0:4222", "[::]:4222"] {
            let bound = bind_all_families(text.parse().expect("an address"), Ok);
            assert_eq!(bound.expect("it is free").to_string(), "[::]:4222");
        }
        for text in ["127.0.0.1:4222", "[::1]:4222"] {
            let bound = bind_all_families(text.parse().expect("an address"), Ok);
            assert_eq!(bound.expect("it is free").to_string(), text);
        }
    }

    #[test]
    fn a_host_without_ipv6_listens_on_ipv4() {
        for reason in [Errno::AFNOSUPPORT, Errno::PROTONOSUPPORT, Errno::ADDRNOTAVAIL] {
            let bind = |address: SocketAddr| match address.is_ipv6() {
                true => Err(io::Error::from(reason)),
                false => Ok(address),
            };
            for text in ["0.0.0.0:4222", "[::]:4222"] {
                let bound = bind_all_families(text.parse().expect("an address"), bind);
                assert_eq!(bound.expect("it is free").to_string(), "0.0.0.0:4222");
            }
        }
    }

    /// Another program may hold the address for one family only.
    #[test]
    fn an_address_in_use_is_an_error_and_never_half_a_listener() {
        let refuse = |_| Err::<(), _>(io::Error::from(Errno::ADDRINUSE));
        let error = bind_all_families("0.0.0.0:1".parse().expect("an address"), refuse);
        assert_eq!(error.expect_err("it is taken").kind(), io::ErrorKind::AddrInUse);
        let ipv4 = StdTcpListener::bind("0.0.0.0:0").expect("a port is free");
        let taken = ipv4.local_addr().expect("it is bound");
        let error = bind_all_families(taken, bind_tcp_alone).expect_err("IPv4 has the port");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn an_ipv4_peer_of_a_dual_stack_socket_is_shown_as_ipv4() {
        let peer = Peer::Tcp("[::ffff:192.0.2.7]:5".parse().expect("an address"));
        assert_eq!((peer.host().as_str(), peer.port()), ("192.0.2.7", 5));
        assert_eq!(peer.address(), "192.0.2.7:5");
        let peer = Peer::Tcp("[2001:db8::7]:5".parse().expect("an address"));
        assert_eq!(
            (peer.host().as_str(), peer.address().as_str()),
            ("2001:db8::7", "[2001:db8::7]:5")
        );
    }

    #[test]
    fn pauses_double_up_to_a_second_and_begin_again_after_a_success() {
        let mut pause = AcceptPause::default();
        let pauses: Vec<u128> = (0..9).map(|_| pause.lengthen().as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        pause.reset();
        assert_eq!(pause.lengthen().as_millis(), 10);
    }
}
