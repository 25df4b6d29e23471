//! Tells systemd that the server is ready, alive, or stopping, by datagrams to the socket named in
//! `NOTIFY_SOCKET` (sd_notify). Without that variable nothing is sent.

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager's socket, if there is one.
#[derive(Debug)]
pub(crate) struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notify {
    pub(crate) fn from_environment() -> Self {
        let name = env::var_os("NOTIFY_SOCKET");
        let socket = name.and_then(|name| {
            let address = match name.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok()?,
                _ => SocketAddr::from_pathname(&name).ok()?,
            };
            let socket = UnixDatagram::unbound().ok()?;
            // A full queue must not hold up the server; the next sign of life comes soon.
            socket.set_nonblocking(true).ok()?;
            Some((socket, address))
        });
        let for_us = match env::var("WATCHDOG_PID") {
            Ok(pid) => pid == std::process::id().to_string(),
            Err(_) => true,
        };
        let microseconds = env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
        let watchdog = microseconds.filter(|_| for_us && socket.is_some());
        Self { socket, watchdog: watchdog.map(Duration::from_micros) }
    }

    /// Returns the interval of signs of life: half the time that the manager waits.
    pub(crate) fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|longest| longest / 2)
    }

    pub(crate) fn ready(&self) {
        self.send("READY=1");
    }

    pub(crate) fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1");
    }

    fn send(&self, state: &str) {
        if let Some((socket, address)) = &self.socket {
            // If nobody receives it, or not fast enough, the manager decides what that means.
            let _ = socket.send_to_addr(state.as_bytes(), address);
        }
    }
}
