//! A raw client that speaks TLS: lines in, bytes out, without any knowledge of the protocol except
//! INFO.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};

use super::WAIT_MAX;
use super::certificates::Pair;

/// One connection after its handshake.
pub struct TlsClient {
    stream: StreamOwned<ClientConnection, TcpStream>,
    /// The INFO that came in the clear before the handshake, if any.
    pub clear_info: String,
}

/// How a connection is opened.
pub struct Opening<'a> {
    pub authority_pem: &'a str,
    pub own: Option<&'a Pair>,
    pub name: &'a str,
    pub versions: &'a [&'static SupportedProtocolVersion],
    /// True to begin with TLS; else INFO is awaited.
    pub tls_first: bool,
}

/// Returns the configuration of what a client trusts and presents.
pub fn client_config(opening: &Opening<'_>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(opening.authority_pem.as_bytes()).expect("PEM");
    roots.add(root).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(opening.versions)
        .expect("versions that ring has")
        .with_root_certificates(roots);
    Arc::new(match opening.own {
        Some(pair) => {
            let chain = CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes());
            let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).expect("PEM");
            builder.with_client_auth_cert(vec![chain.expect("PEM")], key).expect("a pair")
        }
        None => builder.with_no_client_auth(),
    })
}

impl TlsClient {
    /// Connects and performs the handshake. With TLS 1.3 a server that refuses our certificate says
    /// so only later.
    ///
    /// # Errors
    /// If nobody listens, or the handshake fails.
    pub fn connect(address: SocketAddr, opening: &Opening<'_>) -> std::io::Result<Self> {
        let mut socket = TcpStream::connect_timeout(&address, WAIT_MAX)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(WAIT_MAX))?;
        socket.set_write_timeout(Some(WAIT_MAX))?;
        let clear_info = if opening.tls_first { String::new() } else { read_line(&mut socket)? };
        let name = ServerName::try_from(opening.name.to_owned()).expect("a name");
        let config = client_config(opening);
        let mut connection = ClientConnection::new(config, name).map_err(std::io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(Self { stream: StreamOwned::new(connection, socket), clear_info })
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Reads a line.
    ///
    /// # Errors
    /// If the connection ended, or nothing came in time.
    pub fn line(&mut self) -> std::io::Result<String> {
        read_line(&mut self.stream)
    }

    /// Takes lines until one begins with `start`.
    ///
    /// # Errors
    /// If none did before the connection ended, or nothing came in time.
    pub fn line_with(&mut self, start: &str) -> std::io::Result<String> {
        loop {
            let line = self.line()?;
            if line.starts_with(start) {
                return Ok(line);
            }
        }
    }

    /// Sends CONNECT and waits until it has taken effect.
    ///
    /// # Errors
    /// If the server ended the connection.
    pub fn log_in(&mut self) -> std::io::Result<()> {
        self.send(b"CONNECT {\"verbose\":false}\r\n")?;
        self.round_trip()
    }

    /// Sends PING and waits for the PONG.
    ///
    /// # Errors
    /// If no PONG came.
    pub fn round_trip(&mut self) -> std::io::Result<()> {
        self.send(b"PING\r\n")?;
        self.line_with("PONG").map(drop)
    }

    /// Reads exactly `size` bytes.
    ///
    /// # Errors
    /// If the connection ended, or they did not come in time.
    pub fn bytes(&mut self, size: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; size];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Returns true if the server ended the stream with a close_notify.
    pub fn ends_cleanly(&mut self) -> bool {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).is_ok()
    }

    /// Asks for new keys in both directions.
    ///
    /// # Errors
    /// If the connection is gone, or is not TLS 1.3.
    pub fn update_keys(&mut self) -> std::io::Result<()> {
        self.stream.conn.refresh_traffic_keys().map_err(std::io::Error::other)
    }

    /// Announces that no more will come, and does nothing else.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn send_close_notify(&mut self) -> std::io::Result<()> {
        self.stream.conn.send_close_notify();
        self.stream.flush()
    }

    /// Returns the server's own certificate as DER.
    pub fn server_certificate(&self) -> Vec<u8> {
        let presented = self.stream.conn.peer_certificates().unwrap_or_default();
        presented.first().map(|der| der.to_vec()).unwrap_or_default()
    }
}

/// Reads byte by byte, so that nothing after the line is taken.
fn read_line(source: &mut impl Read) -> std::io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') {
        match source.read(&mut byte) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}
