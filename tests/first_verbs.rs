//! Each kind of listener × each first verb × each kind of authorization: nothing is executed for a
//! peer that has not been let in. For "login bypass" in SECURITY.md. `NATS_SERVER=path` tests that
//! server in the same way over TCP and TLS.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use support::WAIT_MAX;
use support::certificates::Authority;
use support::server::{Directory, Server};
use support::tls_client::{Opening, TlsClient};

/// The authorization that a server requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Logins {
    None,
    Required,
    /// A client that does not log in is a user that may publish to one subject.
    Default,
}

const LOGINS: [(Logins, &str); 3] = [
    (Logins::None, ""),
    (Logins::Required, "authorization { user: a, password: p }"),
    (
        Logins::Default,
        "authorization { users: [ { user: a, password: p }, { user: n, password: q, \
         permissions: { publish: x, subscribe: { deny: \">\" } } } ] }\nno_auth_user: n",
    ),
];

impl Listener {
    const ALL: [Self; 6] =
        [Self::Tcp, Self::Unix, Self::Shard, Self::ShardTls, Self::Tls, Self::TlsFirst];

    fn is_encrypted(self) -> bool {
        matches!(self, Self::ShardTls | Self::Tls | Self::TlsFirst)
    }

    /// Returns true if nats-server has this kind too.
    fn is_known(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls | Self::TlsFirst)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listener {
    Tcp,
    Unix,
    /// The port of the first shard alone.
    Shard,
    /// The port of the first shard alone, with TLS.
    ShardTls,
    /// INFO in the clear, then the handshake.
    Tls,
    /// The handshake, then INFO.
    TlsFirst,
}

const MIDGE: &str = env!("CARGO_BIN_EXE_midge");

const VIOLATION: &str = "-ERR 'Authorization Violation'";
const UNKNOWN: &str = "-ERR 'Unknown Protocol Operation'";
const DENIED: &str = r#"-ERR 'Permissions Violation for Subscription to ">"'"#;

/// What is sent first, and the answers to it and to a PING after it: without authorization, and for
/// the default user. Answers that end without a PONG mean a closed connection. With authorization
/// the answer is always `VIOLATION`, unless the password is right.
const VERBS: [(&str, &[&str], &[&str]); 18] = [
    ("CONNECT {}\r\n", &["+OK", "PONG"], &["+OK", "PONG"]),
    ("CONNECT {\"user\":\"a\",\"pass\":\"p\"}\r\n", &["+OK", "PONG"], &["+OK", "PONG"]),
    ("PING\r\n", &["PONG", "PONG"], &["PONG", "PONG"]),
    ("PONG\r\n", &["PONG"], &["PONG"]),
    ("SUB > 1\r\n", &["+OK", "PONG"], &[DENIED, "PONG"]),
    ("UNSUB 1\r\n", &["+OK", "PONG"], &["+OK", "PONG"]),
    ("PUB x 1\r\ny\r\n", &["+OK", "PONG"], &["+OK", "PONG"]),
    ("HPUB x 12 13\r\nNATS/1.0\r\n\r\ny\r\n", &[], &[]),
    ("INFO {}\r\n", &["PONG"], &["PONG"]),
    ("+OK\r\n", &["PONG"], &["PONG"]),
    ("-ERR 'x'\r\n", &[], &[]),
    ("MSG x 1 1\r\ny\r\n", &[UNKNOWN], &[UNKNOWN]),
    ("RS+ $G x\r\n", &[UNKNOWN], &[UNKNOWN]),
    ("A+ $G\r\n", &[UNKNOWN], &[UNKNOWN]),
    ("\r\n", &[UNKNOWN], &[UNKNOWN]),
    ("x\r\n", &[UNKNOWN], &[UNKNOWN]),
    ("GET / HTTP/1.1\r\n\r\n", &[UNKNOWN], &[UNKNOWN]),
    ("\x16\x03\x01", &[UNKNOWN], &[UNKNOWN]),
];

const RIGHT: &str = "CONNECT {\"user\":\"a\",\"pass\":\"p\"}\r\n";

/// One connection, after INFO.
enum Peer {
    Plain(Box<dyn ReadWrite>),
    Tls(Box<TlsClient>),
}

trait ReadWrite: BufRead {
    fn output(&mut self) -> &mut dyn Write;
}

impl<T: Read + Write> ReadWrite for BufReader<T> {
    fn output(&mut self) -> &mut dyn Write {
        self.get_mut()
    }
}

impl Peer {
    fn send(&mut self, bytes: &[u8]) {
        match self {
            Self::Plain(stream) => stream.output().write_all(bytes),
            Self::Tls(client) => client.send(bytes),
        }
        .expect("the server reads");
    }

    /// Returns the next line; None at the end of the connection.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self {
            // A reset is an end too: the server does not read what follows a violation.
            Self::Plain(stream) => match stream.read_line(&mut line) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
                Err(error) => panic!("neither an answer nor an end: {error}"),
            },
            Self::Tls(client) => line = client.line().unwrap_or_default(),
        }
        line.ends_with("\r\n").then(|| line.trim_end().to_owned())
    }
}

struct World {
    directory: Directory,
    authority: Authority,
}

impl World {
    fn new() -> Self {
        let (directory, authority) = (Directory::new().unwrap(), Authority::new("test authority"));
        let own = authority.issue_local();
        std::fs::write(directory.join("own.pem"), &own.certificate_pem).unwrap();
        std::fs::write(directory.join("own.key"), &own.key_pem).unwrap();
        Self { directory, authority }
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn start(&self, program: &Path, listener: Listener, own_port: u16, logins: &str) -> Server {
        let files = [self.path("own.pem"), self.path("own.key")];
        let first = listener == Listener::TlsFirst;
        let tls = format!(
            "tls {{ cert_file: \"{}\", key_file: \"{}\", handshake_first: {first} }}\n",
            files[0], files[1]
        );
        let tls = if listener.is_encrypted() { &tls } else { "" };
        let socket = self.path("socket");
        let mut arguments = Vec::new();
        if program == Path::new(MIDGE) {
            arguments.extend(["--no-pin", "--shards", "1"]);
        }
        if listener == Listener::Unix {
            arguments.extend(["--unix", &socket]);
        }
        let port = own_port.to_string();
        if matches!(listener, Listener::Shard | Listener::ShardTls) {
            arguments.extend(["--shard-ports", &port]);
        }
        Server::start(program, &arguments, &format!("{tls}{logins}")).expect("it starts")
    }

    fn open(&self, server: &Server, listener: Listener, own_port: u16) -> Peer {
        let mut address = server.address();
        if matches!(listener, Listener::Shard | Listener::ShardTls) {
            address.set_port(own_port);
        }
        let mut peer = match listener {
            Listener::Tcp | Listener::Shard => {
                let socket = TcpStream::connect_timeout(&address, WAIT_MAX).unwrap();
                socket.set_read_timeout(Some(WAIT_MAX)).unwrap();
                Peer::Plain(Box::new(BufReader::new(socket)))
            }
            Listener::Unix => {
                let socket = UnixStream::connect(self.path("socket")).unwrap();
                socket.set_read_timeout(Some(WAIT_MAX)).unwrap();
                Peer::Plain(Box::new(BufReader::new(socket)))
            }
            Listener::ShardTls | Listener::Tls | Listener::TlsFirst => {
                let opening = Opening {
                    authority_pem: &self.authority.pem,
                    own: None,
                    name: "localhost",
                    versions: rustls::ALL_VERSIONS,
                    tls_first: listener == Listener::TlsFirst,
                };
                Peer::Tls(Box::new(TlsClient::connect(address, &opening).unwrap()))
            }
        };
        if !matches!(listener, Listener::Tls | Listener::ShardTls) {
            let info = peer.line().expect("INFO comes first");
            assert!(info.starts_with("INFO {"), "{info}");
        }
        peer
    }
}

/// Returns the answers to `verb` and a PING, up to the last PONG or the end.
fn answers(peer: &mut Peer, verb: &str) -> Vec<String> {
    peer.send(format!("{verb}PING\r\n").as_bytes());
    let pongs = 1 + usize::from(verb == "PING\r\n");
    let mut lines = Vec::new();
    while lines.iter().filter(|line| *line == "PONG").count() < pongs {
        match peer.line() {
            Some(line) => lines.push(line),
            None => break,
        }
    }
    lines
}

fn unused_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("it is bound").port()
}

fn check(world: &World, program: &Path, listener: Listener) {
    for (logins, config) in LOGINS {
        let own_port = unused_port();
        let server = world.start(program, listener, own_port, config);
        let mut witness = world.open(&server, listener, own_port);
        witness.send(RIGHT.as_bytes());
        assert_eq!(answers(&mut witness, "SUB x 1\r\n"), ["+OK", "+OK", "PONG"]);
        for (verb, without, by_default) in VERBS {
            let expected = match logins {
                Logins::None => without,
                Logins::Required if verb == RIGHT => without,
                Logins::Required => &[VIOLATION],
                Logins::Default => by_default,
            };
            let found = answers(&mut world.open(&server, listener, own_port), verb);
            assert_eq!(found, expected, "{listener:?} {logins:?} {verb:?}");
            // A peer's message is delivered exactly where it was let in.
            let heard = answers(&mut witness, "");
            let published = verb.starts_with("PUB") && logins != Logins::Required;
            let message = if published { &["MSG x 1 1", "y"][..] } else { &[] };
            assert_eq!(heard, [message, &["PONG"]].concat(), "{listener:?} {logins:?} {verb:?}");
        }
    }
}

#[test]
fn no_first_verb_passes_any_listener_without_a_login() {
    let world = World::new();
    for listener in Listener::ALL {
        check(&world, Path::new(MIDGE), listener);
        let original = std::env::var_os("NATS_SERVER");
        if let Some(original) = original.filter(|_| listener.is_known()) {
            check(&world, Path::new(&original), listener);
        }
    }
}
