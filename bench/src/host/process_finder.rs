//! Finds the process that listens at an address, by the kernel's socket tables and the descriptors
//! of every process.

use crate::wire::address::Address;
use std::net::{IpAddr, ToSocketAddrs};

/// Returns the id of the process that listens at `address`, or why it cannot be found.
pub fn listener_process(address: &Address) -> Result<u32, String> {
    let inode = match address {
        Address::Tcp { host, port, .. } => {
            if !is_on_this_host(host) {
                return Err(format!("{host} is not this host; give --server-pid if it is"));
            }
            tcp_listener_inode(*port)
        }
        Address::Unix { path } => unix_listener_inode(path),
    }
    .ok_or_else(|| format!("no listening socket of {address} in /proc/net"))?;
    process_with_socket(inode).ok_or_else(|| {
        format!("the process behind {address} is not readable: run as its user or as root, or give --server-pid")
    })
}

/// Returns true if packets to `host` stay on this host.
pub fn is_on_this_host(host: &str) -> bool {
    (host, 0)
        .to_socket_addrs()
        .map(|mut targets| targets.any(|target| is_local(target.ip())))
        .unwrap_or(false)
}

/// Returns true for the loopback, and for an address to which a socket can be bound here.
fn is_local(address: IpAddr) -> bool {
    address.is_loopback() || std::net::UdpSocket::bind((address, 0)).is_ok()
}

fn tcp_listener_inode(port: u16) -> Option<u64> {
    ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().find_map(|table| {
        let content = std::fs::read_to_string(table).ok()?;
        content.lines().skip(1).find_map(|line| listener_of_row(line, port))
    })
}

/// Row: `sl local:port remote:port state tx:rx tr:when retransmits uid timeout inode`; state 0A
/// listens.
fn listener_of_row(row: &str, port: u16) -> Option<u64> {
    let mut fields = row.split_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    let local_port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    if state != "0A" || local_port != port {
        return None;
    }
    fields.nth(5)?.parse().ok()
}

fn unix_listener_inode(path: &str) -> Option<u64> {
    let content = std::fs::read_to_string("/proc/net/unix").ok()?;
    content.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // `Num RefCount Protocol Flags Type St Inode Path`; flag 00010000 is a listener.
        (fields.len() == 8 && fields[7] == path && fields[3] == "00010000")
            .then(|| fields[6].parse().ok())?
    })
}

fn process_with_socket(inode: u64) -> Option<u32> {
    let target = format!("socket:[{inode}]");
    let processes = std::fs::read_dir("/proc").ok()?;
    processes.filter_map(Result::ok).find_map(|entry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        let descriptors = std::fs::read_dir(entry.path().join("fd")).ok()?;
        descriptors
            .filter_map(Result::ok)
            .any(|fd| {
                std::fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == target.as_str())
            })
            .then_some(id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::address::WebSocket;

    #[test]
    fn a_listener_of_this_process_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let address =
            Address::Tcp { host: "127.0.0.1".to_string(), port, tls: false, web: WebSocket::No };
        assert_eq!(listener_process(&address), Ok(std::process::id()));
        drop(listener);
        assert!(listener_process(&address).is_err());
    }

    #[test]
    fn a_unix_listener_is_found_by_its_path() {
        let path = std::env::temp_dir().join(format!("midge-bench-{}.sock", std::process::id()));
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let address = Address::Unix { path: path.to_str().unwrap().to_string() };
        assert_eq!(listener_process(&address), Ok(std::process::id()));
        drop(listener);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_remote_host_is_reported_as_one() {
        let address = Address::Tcp {
            host: "192.0.2.1".to_string(),
            port: 4222,
            tls: false,
            web: WebSocket::No,
        };
        assert!(listener_process(&address).unwrap_err().contains("not this host"));
    }
}
