//! Listening sockets of one shard: TCP with SO_REUSEPORT, and the Unix domain socket.
//!
//! The runtime only tells when a listener is readable; accepting is done here, without waiting, so
//! that a burst of connections costs one wake and closing a listener never leaves an accept in
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

/// Connections waiting to be accepted.
const BACKLOG: i32 = 4096;

/// Connections accepted before other tasks get their turn.
const ACCEPTS_PER_TURN: usize = 64;

/// The pause after a listener was readable and had no connection.
const READABLE_FOR_NOTHING: Duration = Duration::from_millis(1);

/// How long to wait after accepting failed, which it does again at once where descriptors are out:
/// from ten milliseconds, twice as long each time, to a second. Source: nats-server
/// server/server.go acceptError.
#[derive(Clone, Copy, Debug)]
pub struct AcceptPause(Duration);

impl Default for AcceptPause {
    fn default() -> Self {
        Self(Duration::from_millis(10))
    }
}

impl AcceptPause {
    /// The time to wait now; the next one is longer.
    pub fn lengthen(&mut self) -> Duration {
        let now = self.0;
        self.0 = (now * 2).min(Duration::from_secs(1));
        now
    }

    /// A connection was accepted.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

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

    /// Host and port, as log lines show them: `192.0.2.7:5`, `[2001:db8::7]:5`.
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

/// The address without the IPv6 form that an IPv4 peer of a socket for both has.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Calls `bind` with the address that listens to all that `address` means. An unspecified one, of
/// either family, means both: one IPv6 socket then takes IPv4 peers too. Where there is no IPv6,
/// IPv4 alone.
///
/// # Errors
/// Those of `bind`.
pub fn bind_all_families<T>(
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

/// The kernel was built without IPv6, or has it switched off.
fn is_without_ipv6(error: &io::Error) -> bool {
    let reasons = [Errno::AFNOSUPPORT, Errno::PROTONOSUPPORT, Errno::ADDRNOTAVAIL];
    reasons.iter().any(|reason| error.raw_os_error() == Some(reason.raw_os_error()))
}

/// Binds one of several sockets that share an address; the kernel spreads connections over them.
///
/// # Errors
/// The address is in use by another program or may not be bound.
pub fn bind_tcp(address: SocketAddr) -> io::Result<StdTcpListener> {
    bind(address, true, true)
}

/// As `bind_tcp`, for one that is to listen later, by `Listener::listen`: until then the kernel
/// gives it no connection.
///
/// # Errors
/// As `bind_tcp`.
pub(crate) fn bind_tcp_asleep(address: SocketAddr) -> io::Result<StdTcpListener> {
    bind(address, true, false)
}

/// Binds a socket that shares its address with no other.
///
/// # Errors
/// The address is in use, also by this program, or may not be bound.
pub fn bind_tcp_alone(address: SocketAddr) -> io::Result<StdTcpListener> {
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

/// What a port is for: who is expected there, and what becomes of a connection. Monitoring has its own thread, which
/// polls its socket itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Clients, wherever they are best served.
    Client,
    /// Clients that chose this shard by its own port, and stay.
    ShardPort,
}

/// A listening socket of either kind.
enum ListeningSocket {
    Tcp(StdTcpListener),
    Unix(StdUnixListener),
}

/// A port that a shard serves.
pub struct Listener {
    socket: ListeningSocket,
    pub purpose: Purpose,
}

/// See `Listener::readiness`.
pub struct Readiness(monoio::net::TcpListener);

impl Purpose {
    /// Who connects, as a line of the log names them.
    pub fn who(self) -> &'static str {
        match self {
            Self::Client | Self::ShardPort => "Client",
        }
    }
}

impl Listener {
    pub fn tcp(listener: StdTcpListener, purpose: Purpose) -> Self {
        Self { socket: ListeningSocket::Tcp(listener), purpose }
    }

    pub fn unix(listener: StdUnixListener, purpose: Purpose) -> Self {
        Self { socket: ListeningSocket::Unix(listener), purpose }
    }

    /// Where it listens; none for a socket file.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match &self.socket {
            ListeningSocket::Tcp(listener) => listener.local_addr().ok(),
            ListeningSocket::Unix(_) => None,
        }
    }

    /// Begins to listen, where the socket was only bound; a socket file always does.
    ///
    /// # Errors
    /// The port was taken by a socket that does not share it.
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
                // Both kinds are read and written with recv and send: one type serves.
                Ok(Accepted { stream: StdTcpStream::from(OwnedFd::from(stream)), peer: Peer::Unix })
            }
        }
    }

    /// Stops listening at once: from now on connections are refused, and `serve` ends.
    pub fn stop(&self) {
        let result = match &self.socket {
            ListeningSocket::Tcp(listener) => SockRef::from(listener).shutdown(Shutdown::Both),
            ListeningSocket::Unix(listener) => SockRef::from(listener).shutdown(Shutdown::Both),
        };
        // Fails only for a socket that no longer listens.
        let _ = result;
    }

    /// The signal, inside the runtime, that somebody waits.
    ///
    /// # Errors
    /// The socket could not be given to the runtime: descriptors are out.
    pub fn readiness(&self) -> io::Result<Readiness> {
        let listener = StdTcpListener::from(self.try_clone_fd()?);
        Ok(Readiness(monoio::net::TcpListener::from_std(listener)?))
    }

    /// Accepts for ever, or until `stopped`; gives each socket to `accepted`. A failure to accept
    /// is told to `failed` and tried again: it is about one connection, or about descriptors that
    /// may come back.
    pub async fn serve(
        &self,
        Readiness(readiness): Readiness,
        accepted: impl Fn(Accepted),
        failed: impl Fn(io::Error),
        stopped: impl Fn() -> bool,
        polls: &OperationCount,
    ) {
        let mut pause = AcceptPause::default();
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
                        pause.reset();
                        accepted(socket);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if index == 0 {
                            // Another shard was faster, or has shut their common Unix socket down:
                            // that one stays readable, and on epoll asking again would never let go
                            // of the thread.
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
    fn unspecified_address_of_either_family_means_both() {
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
    fn host_without_ipv6_listens_to_ipv4() {
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

    /// Another program may hold it for one family alone.
    #[test]
    fn address_that_is_taken_is_an_error_and_never_half_a_listener() {
        let refuse = |_| Err::<(), _>(io::Error::from(Errno::ADDRINUSE));
        let error = bind_all_families("0.0.0.0:1".parse().expect("an address"), refuse);
        assert_eq!(error.expect_err("it is taken").kind(), io::ErrorKind::AddrInUse);
        let ipv4 = StdTcpListener::bind("0.0.0.0:0").expect("a port is free");
        let taken = ipv4.local_addr().expect("it is bound");
        let error = bind_all_families(taken, bind_tcp_alone).expect_err("IPv4 has the port");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn ipv4_peer_of_a_socket_for_both_is_shown_as_ipv4() {
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
