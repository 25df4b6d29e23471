//! A logged-in NATS connection: handshake, subscriptions, fences, and its bytes in both directions.

use crate::Failure;
use crate::wire::address::{Address, ServerUrl, WebSocket};
use crate::wire::credentials::Credentials;
use crate::wire::scanner::{Control, Scanner};
use crate::wire::stream::{Stream, TlsSettings};
use serde_json::{Map, Value};
use std::time::{Duration, Instant};

/// Time for a server to send anything but messages: INFO, PONG.
const REPLY_WAIT_MAX: Duration = Duration::from_secs(10);
/// Smallest read buffer of a connection that only does the handshake.
const HANDSHAKE_READ_SIZE: usize = 64 * 1024;
/// Longest INFO line, in bytes.
const INFO_BYTES_MAX: usize = 64 * 1024;

/// Where the connections of a run are opened, and as whom.
#[derive(Clone)]
pub struct Dialer {
    pub address: Address,
    pub credentials: Credentials,
    /// The login of subscribers and responders, if it is another.
    pub subscriber_credentials: Option<Credentials>,
    pub tls: Option<TlsSettings>,
    /// True if the peer is the raw relay: no INFO, no verbs after the handshake.
    pub raw: bool,
    /// The ports of a Midge's shards, if they have their own, and which of them each connection
    /// takes.
    pub shards: Option<ShardPorts>,
    /// True if a connection gets its own messages when it subscribes to their subject.
    pub echo: bool,
    /// True if messages to a connection may have headers, and a request that nobody hears is
    /// answered with status 503: JetStream's clients need both.
    pub headers: bool,
    /// Congestion control of this side's TCP sockets; None = the host's.
    pub congestion: Option<String>,
    /// The server's monitoring port on this host, if known.
    pub monitor_port: Option<u16>,
}

/// Ports of the first two shards, and how a workload's connections are placed on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardPorts {
    pub first: u16,
    /// True if the i-th subscriber is on the shard next to the i-th publisher's; else on the same.
    pub apart: bool,
}

impl ShardPorts {
    fn port(&self, role: Role, index: usize) -> u16 {
        let next = self.apart && role == Role::Subscriber;
        self.first + u16::from((index + usize::from(next)) % 2 == 1)
    }
}

/// The use of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Publishes, or requests.
    Publisher,
    /// Subscribes, or responds.
    Subscriber,
}

/// The server, as it describes itself.
#[derive(Clone, Debug, Default)]
pub struct ServerInfo {
    pub name: String,
    pub version: String,
    pub payload_size_max: usize,
}

pub struct Connection {
    pub stream: Stream,
    pub scanner: Scanner,
    pub info: ServerInfo,
}

impl Dialer {
    /// Returns a plain dialer for a URL, with the URL's login.
    pub fn for_url(url: &ServerUrl) -> Dialer {
        let credentials = match (&url.user, &url.password) {
            (Some(user), Some(password)) => {
                Credentials::User { user: user.clone(), password: password.clone() }
            }
            (Some(token), None) => Credentials::Token(token.clone()),
            _ => Credentials::None,
        };
        Dialer {
            address: url.address.clone(),
            credentials,
            subscriber_credentials: None,
            tls: None,
            raw: false,
            shards: None,
            echo: true,
            headers: false,
            congestion: None,
            monitor_port: None,
        }
    }

    /// Connects with the login of its role, to the shard where the `index`-th connection of its kind
    /// belongs.
    ///
    /// # Errors
    /// As `connect`.
    pub fn connect_as(
        &self,
        role: Role,
        index: usize,
        name: &str,
        read_size: usize,
    ) -> Result<Connection, Failure> {
        let mut dialer = self.clone();
        if let (Role::Subscriber, Some(other)) = (role, &self.subscriber_credentials) {
            dialer.credentials = other.clone();
        }
        if let (Some(shards), Address::Tcp { port, .. }) = (self.shards, &mut dialer.address) {
            *port = shards.port(role, index);
        }
        dialer.connect(name, read_size)
    }

    /// Connects, upgrades to TLS if that is configured, logs in, and waits for the PONG that
    /// confirms it.
    ///
    /// # Errors
    /// If any step fails; the text includes the server's own words, if it sent some.
    pub fn connect(&self, name: &str, read_size: usize) -> Result<Connection, Failure> {
        let mut stream = Stream::connect(&self.address, REPLY_WAIT_MAX)?;
        if let (Some(name), Address::Tcp { .. }) = (&self.congestion, &self.address) {
            stream.set_congestion(name)?;
        }
        if let Address::Tcp { host, port, tls, web } = &self.address
            && *web != WebSocket::No
        {
            if *tls {
                stream.start_tls(self.tls_settings()?, host)?;
            }
            let place = format!("{host}:{port}");
            stream.start_web(&place, *web == WebSocket::Deflated)?;
        }
        let info = read_info_line(&mut stream)?;
        let wants_tls = matches!(self.address, Address::Tcp { tls: true, .. });
        let wants_tls = wants_tls || info["tls_required"] == Value::Bool(true);
        if wants_tls && !stream.is_tls() {
            let Address::Tcp { host, .. } = &self.address else {
                return Err(Failure::new("the server asks for TLS on a Unix socket"));
            };
            stream.start_tls(self.tls_settings()?, host)?;
        }
        let mut connect = Map::new();
        connect.insert("verbose".into(), false.into());
        connect.insert("pedantic".into(), false.into());
        connect.insert("tls_required".into(), stream.is_tls().into());
        connect.insert("name".into(), name.into());
        connect.insert("lang".into(), "rust".into());
        connect.insert("version".into(), env!("CARGO_PKG_VERSION").into());
        connect.insert("protocol".into(), 1.into());
        connect.insert("echo".into(), self.echo.into());
        if self.headers {
            connect.insert("headers".into(), true.into());
            connect.insert("no_responders".into(), true.into());
        }
        self.credentials.fill(&mut connect, info["nonce"].as_str())?;
        let connect = Value::Object(connect);
        stream.write_all(format!("CONNECT {connect}\r\nPING\r\n").as_bytes())?;
        let info = ServerInfo {
            name: info["server_name"].as_str().unwrap_or("").to_string(),
            version: info["version"].as_str().unwrap_or("").to_string(),
            payload_size_max: info["max_payload"].as_u64().unwrap_or(0) as usize,
        };
        let scanner = Scanner::new(read_size.max(HANDSHAKE_READ_SIZE));
        let mut connection = Connection { stream, scanner, info };
        connection.wait_for_pong(REPLY_WAIT_MAX, |_, _| {})?;
        Ok(connection)
    }
}

impl Dialer {
    fn tls_settings(&self) -> Result<&TlsSettings, Failure> {
        self.tls.as_ref().ok_or_else(|| {
            Failure::new("the server asks for TLS: give tls://, and --tls-ca if it is private")
        })
    }
}

impl Connection {
    /// Subscribes without waiting; a later `fence` makes sure that the server has it.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn subscribe(
        &mut self,
        subject: &str,
        queue: Option<&str>,
        sid: u64,
    ) -> Result<(), Failure> {
        let line = match queue {
            Some(queue) => format!("SUB {subject} {queue} {sid}\r\n"),
            None => format!("SUB {subject} {sid}\r\n"),
        };
        Ok(self.stream.write_all(line.as_bytes())?)
    }

    /// Sends PING and waits for its PONG: the server has then read everything sent before.
    ///
    /// # Errors
    /// If the connection broke, the server sent an error, or no PONG came in time.
    pub fn fence(&mut self) -> Result<(), Failure> {
        self.fence_within(REPLY_WAIT_MAX)
    }

    /// Fences with another time limit, for servers that have much to process.
    ///
    /// # Errors
    /// As `fence`.
    pub fn fence_within(&mut self, limit: Duration) -> Result<(), Failure> {
        self.stream.write_all(b"PING\r\n")?;
        self.wait_for_pong(limit, |_, _| {})
    }

    /// Fences; messages that come meanwhile are passed to `on_message`.
    ///
    /// # Errors
    /// As `fence`.
    pub fn fence_with(&mut self, on_message: impl FnMut(&[u8], &[u8])) -> Result<(), Failure> {
        self.stream.write_all(b"PING\r\n")?;
        self.wait_for_pong(REPLY_WAIT_MAX, on_message)
    }

    fn wait_for_pong(
        &mut self,
        limit: Duration,
        mut on_message: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Failure> {
        let until = Instant::now() + limit;
        while Instant::now() < until {
            if self.pump(&mut on_message)?.pong_count > 0 {
                return Ok(());
            }
        }
        Err(Failure::new(format!("no PONG within {} s", limit.as_secs())))
    }

    /// Does one blocking read (at most `READ_WAIT`), passes its messages to `on_message` and
    /// answers its PINGs.
    ///
    /// # Errors
    /// If the connection ended or broke, or the server sent `-ERR`.
    pub fn pump(&mut self, on_message: impl FnMut(&[u8], &[u8])) -> Result<Control, Failure> {
        let Some(count) = self.stream.read(self.scanner.space())? else {
            return Ok(Control::default());
        };
        self.digest(count, on_message)
    }

    /// Like `pump`, without waiting. The flag is true if anything was read.
    ///
    /// # Errors
    /// As `pump`.
    pub fn try_pump(
        &mut self,
        on_message: impl FnMut(&[u8], &[u8]),
    ) -> Result<(bool, Control), Failure> {
        let Some(count) = self.stream.try_read(self.scanner.space())? else {
            return Ok((false, Control::default()));
        };
        Ok((true, self.digest(count, on_message)?))
    }

    fn digest(
        &mut self,
        count: usize,
        on_message: impl FnMut(&[u8], &[u8]),
    ) -> Result<Control, Failure> {
        if count == 0 {
            return Err(Failure::new("the server closed the connection"));
        }
        self.scanner.filled(count);
        let mut control = Control::default();
        self.scanner.scan(on_message, &mut control)?;
        if let Some(text) = &control.error {
            return Err(Failure::new(format!("the server says: {text}")));
        }
        for _ in 0..control.ping_count {
            self.stream.write_all(b"PONG\r\n")?;
        }
        Ok(control)
    }
}

/// Reads INFO, which comes in the clear before TLS. Byte by byte, so that nothing after it is taken
/// away.
fn read_info_line(stream: &mut Stream) -> Result<Value, Failure> {
    let until = Instant::now() + REPLY_WAIT_MAX;
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') {
        match stream.read(&mut byte)? {
            Some(0) => return Err(Failure::new("the server closed the connection before INFO")),
            Some(_) => line.push(byte[0]),
            None if Instant::now() > until => {
                return Err(Failure::new("no INFO came: is this a NATS server?"));
            }
            None => {}
        }
        if line.len() > INFO_BYTES_MAX || (line.len() == 5 && line != b"INFO ") {
            return Err(Failure::new("the first line is not INFO: is this a NATS server?"));
        }
    }
    serde_json::from_slice(&line[4..])
        .map_err(|error| Failure::new(format!("INFO is not readable: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_share_a_shard_or_sit_on_neighbouring_ones() {
        let together = ShardPorts { first: 7000, apart: false };
        let apart = ShardPorts { apart: true, ..together };
        let ports = |places: ShardPorts, role| [0, 1, 2].map(|index| places.port(role, index));
        assert_eq!(ports(together, Role::Publisher), [7000, 7001, 7000]);
        assert_eq!(ports(together, Role::Subscriber), [7000, 7001, 7000]);
        assert_eq!(ports(apart, Role::Publisher), [7000, 7001, 7000]);
        assert_eq!(ports(apart, Role::Subscriber), [7001, 7000, 7001]);
    }
}
