//! The pid file and the ports file, which test harnesses and supervisors read.
//!
//! Formats and texts are nats-server's (server/server.go logPid, logPorts).

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::base::files::{self, Patience};
use crate::server::host::error_text::os_error_text;

const PID_FILE_MODE: u32 = 0o600;
const PORTS_FILE_MODE: u32 = 0o666;

/// Writes the decimal pid without a newline. The file stays when the process ends.
///
/// # Errors
/// The reason in nats-server's words: `open PATH: ...`.
pub(crate) fn write_pid_file(path: &Path) -> Result<(), String> {
    write_file(path, PID_FILE_MODE, std::process::id().to_string().as_bytes())
        .map_err(|error| format!("open {}: {}", path.display(), os_error_text(&error)))
}

/// The URLs at which a server can be reached; empty lists are left out of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Ports {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nats: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub monitoring: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cluster: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profile: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub websocket: Vec<String>,
}

/// Returns `scheme://address` for a listener's address. An unspecified address becomes every
/// address of every interface, IPv4 and IPv6, as in nats-server.
pub(crate) fn listener_urls(scheme: &str, address: SocketAddr) -> Vec<String> {
    if !address.ip().is_unspecified() {
        return vec![format!("{scheme}://{address}")];
    }
    urls_of(scheme, address.port(), interface_addresses())
}

fn urls_of(scheme: &str, port: u16, addresses: Vec<IpAddr>) -> Vec<String> {
    addresses.into_iter().map(|ip| format!("{scheme}://{}", SocketAddr::new(ip, port))).collect()
}

/// Returns the addresses of all interfaces, by interface, IPv4 before IPv6. Empty if the kernel
/// does not tell.
pub(crate) fn interface_addresses() -> Vec<IpAddr> {
    let mut interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    interfaces.sort_by_key(|interface| (interface.index, interface.ip().is_ipv6()));
    interfaces.into_iter().map(|interface| interface.ip()).collect()
}

/// The ports file of a running server; dropping it removes the file.
#[derive(Debug)]
pub(crate) struct PortsFile {
    path: PathBuf,
}

impl PortsFile {
    /// Writes `<directory>/<program>_<pid>.ports`; to be called once every listener is up.
    /// `program` is the file name of `argv[0]`.
    ///
    /// # Errors
    /// nats-server's text. It is logged as ERR, and the server keeps running.
    pub(crate) fn write(directory: &Path, program: &str, ports: &Ports) -> Result<Self, String> {
        let path = directory.join(format!("{program}_{}.ports", std::process::id()));
        let text = serde_json::to_string(ports).expect("lists of strings always serialize");
        write_file(&path, PORTS_FILE_MODE, text.as_bytes()).map_err(|error| {
            let shown = path.display();
            format!("Error writing ports file ({shown}): open {shown}: {}", os_error_text(&error))
        })?;
        Ok(Self { path })
    }
}

impl Drop for PortsFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            let shown = self.path.display();
            let text = os_error_text(&error);
            tracing::error!("Error cleaning up ports file {shown}: remove {shown}: {text}");
        }
    }
}

/// Returns the file name of `argv[0]`, by which this process calls itself in messages and in the
/// ports file.
pub(crate) fn program_name() -> String {
    let path = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| env!("CARGO_PKG_NAME").to_owned())
}

fn write_file(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    files::open(&mut options, path, Patience::None)?.write_all(content)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::server::host::temporary::TemporaryDirectory;

    #[test]
    fn the_pid_file_is_decimal_without_newline_and_private() {
        let directory = TemporaryDirectory::new();
        let path = directory.path().join("server.pid");
        std::fs::write(&path, "something longer that was there before").unwrap();
        std::fs::remove_file(&path).unwrap();
        write_pid_file(&path).unwrap();
        write_pid_file(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), std::process::id().to_string());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_pid_file_error_is_that_of_nats_server() {
        let error = write_pid_file(Path::new("/nonexistent/p.pid")).unwrap_err();
        assert_eq!(error, "open /nonexistent/p.pid: no such file or directory");
    }

    #[test]
    fn the_ports_file_has_only_what_listens_and_is_removed() {
        let directory = TemporaryDirectory::new();
        let address = "127.0.0.1:24511".parse().unwrap();
        let ports = Ports { nats: listener_urls("nats", address), ..Ports::default() };
        let file = PortsFile::write(directory.path(), "nats-server", &ports).unwrap();
        let expected = directory.path().join(format!("nats-server_{}.ports", std::process::id()));
        assert_eq!(file.path, expected);
        let text = std::fs::read_to_string(&expected).unwrap();
        assert_eq!(text, r#"{"nats":["nats://127.0.0.1:24511"]}"#);
        drop(file);
        assert!(!expected.exists());
    }

    #[test]
    fn a_ports_file_error_is_that_of_nats_server() {
        let directory = Path::new("/nonexistent");
        let error = PortsFile::write(directory, "nats-server", &Ports::default()).unwrap_err();
        let path = format!("/nonexistent/nats-server_{}.ports", std::process::id());
        let expected =
            format!("Error writing ports file ({path}): open {path}: no such file or directory");
        assert_eq!(error, expected);
    }

    #[test]
    fn a_wildcard_address_becomes_every_interface_address() {
        let addresses = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        let expected = ["nats://127.0.0.1:24512", "nats://[::1]:24512"];
        assert_eq!(urls_of("nats", 24512, addresses), expected);
        for wildcard in ["0.0.0.0:4222", "[::]:4222"] {
            let urls = listener_urls("tls", wildcard.parse().unwrap());
            assert!(urls.contains(&"tls://127.0.0.1:4222".to_owned()), "{urls:?}");
            assert!(urls.iter().all(|url| !url.contains("0.0.0.0") && !url.contains("[::]")));
        }
    }
}
