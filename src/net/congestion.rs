//! The congestion control of TCP sockets to peers on this host.
//!
//! An algorithm that paces, such as BBR, holds back even traffic that never leaves the host. A
//! socket's congestion control paces what the socket sends: setting it here changes the direction
//! from the server to its peer, not the other one.

use std::net::{IpAddr, SocketAddr};

use rustix::net::sockopt::set_tcp_congestion;
use rustix::net::{AddressFamily, SocketType, socket};

use crate::net::listener::{Accepted, Peer};

/// Returns the first of these algorithms that the kernel has and lets this process use.
pub(crate) fn first_available<'a>(names: &[&'a str]) -> Option<&'a str> {
    let probe = socket(AddressFamily::INET, SocketType::STREAM, None).ok()?;
    names.iter().copied().find(|name| set_tcp_congestion(&probe, name).is_ok())
}

/// Sets the congestion control of an accepted socket whose peer is on this host. A socket that
/// cannot take it any more keeps the host's.
pub(crate) fn set_for_local_peer(accepted: &Accepted, name: &str) {
    let Peer::Tcp(peer) = accepted.peer else { return };
    if is_on_this_host(peer.ip(), accepted.stream.local_addr().ok()) {
        // Fails only if the kernel lost the algorithm since the start; the host's serves, too.
        let _ = set_tcp_congestion(&accepted.stream, name);
    }
}

/// Returns true for a peer on the loopback, and for one whose address is the one it connected to: a
/// host that connects to an address of its own does so from that address.
fn is_on_this_host(peer: IpAddr, own: Option<SocketAddr>) -> bool {
    let peer = peer.to_canonical();
    peer.is_loopback() || own.is_some_and(|own| own.ip().to_canonical() == peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_peer_is_on_this_host_by_loopback_or_by_one_address_at_both_ends() {
        for (peer, own, expected) in [
            ("127.0.0.1", "127.0.0.1:1", true),
            ("127.9.9.9", "127.0.0.1:1", true),
            ("::ffff:127.0.0.1", "[::ffff:127.0.0.1]:1", true),
            ("::1", "[::1]:1", true),
            ("192.0.2.7", "192.0.2.7:4222", true),
            ("::ffff:192.0.2.7", "192.0.2.7:4222", true),
            ("192.0.2.8", "192.0.2.7:4222", false),
            ("2001:db8::8", "[2001:db8::7]:4222", false),
        ] {
            let own = own.parse().expect("an address");
            let got = is_on_this_host(peer.parse().expect("an address"), Some(own));
            assert_eq!(got, expected, "{peer} {own}");
        }
        assert!(!is_on_this_host("192.0.2.8".parse().expect("an address"), None));
    }

    fn congestion_of(stream: &TcpStream) -> String {
        let name = socket2::SockRef::from(stream).tcp_congestion().expect("a TCP socket");
        String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned()
    }

    #[test]
    fn a_local_peer_gets_it_and_a_peer_on_the_network_keeps_the_hosts() {
        // Built into every kernel, and allowed for every user.
        assert_eq!(first_available(&["no-such", "reno"]), Some("reno"));
        assert_eq!(first_available(&["no-such"]), None);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let connect = || {
            let client = TcpStream::connect(listener.local_addr().expect("it is bound"));
            let (stream, peer) = listener.accept().expect("somebody connects");
            (client.expect("somebody accepts"), Accepted { stream, peer: Peer::Tcp(peer) })
        };
        let (_client, accepted) = connect();
        let host = congestion_of(&accepted.stream);
        set_for_local_peer(&accepted, "no-such");
        assert_eq!(congestion_of(&accepted.stream), host);
        set_for_local_peer(&accepted, "reno");
        assert_eq!(congestion_of(&accepted.stream), "reno");
        let (_client, accepted) = connect();
        let elsewhere = Peer::Tcp("192.0.2.8:5".parse().expect("an address"));
        let accepted = Accepted { peer: elsewhere, ..accepted };
        set_for_local_peer(&accepted, "reno");
        assert_eq!(congestion_of(&accepted.stream), host);
    }
}
