//! TLS on the client port, seen from outside: the real client, a raw one, and hostile peers.

mod support;

#[path = "tls/monitoring.rs"]
mod monitoring;

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_nats::ConnectOptions;
use futures_util::StreamExt;
use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use support::WAIT_MAX;
use support::certificates::{Authority, Pair, Wanted};
use support::raw_client::{Fill, RawClient};
use support::server::Server;
use support::tls_client::{Opening, TlsClient};

/// Certificates of one test, and files of them.
struct World {
    directory: PathBuf,
    authority: Authority,
    server: Pair,
}

impl World {
    fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("midge-tls-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let authority = Authority::new("test authority");
        let server = authority.issue_local();
        let world = Self { directory, server, authority };
        world.write("ca.pem", &world.authority.pem);
        world.write_pair("server", &world.server);
        world
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn write_pair(&self, name: &str, pair: &Pair) -> (PathBuf, PathBuf) {
        let certificate = self.write(&format!("{name}.pem"), &pair.certificate_pem);
        (certificate, self.write(&format!("{name}.key"), &pair.key_pem))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn client_certificate(&self, name: &str) -> Pair {
        self.authority.issue(Wanted { common_name: name, client: true, ..Wanted::default() })
    }

    /// Starts a server whose `tls` block has this in addition to its certificate.
    fn start(&self, shards: &str, tls: &str, config: &str) -> Server {
        let directory = self.directory.display();
        let tls = format!(
            "tls {{ cert_file: \"{directory}/server.pem\", key_file: \"{directory}/server.key\"\n{tls} }}"
        );
        start(shards, &format!("{tls}\n{config}"))
    }

    /// Returns the line of a `tls` block that requires client certificates.
    fn verify(&self) -> String {
        format!("ca_file: \"{}\", verify: true", self.path("ca.pem").display())
    }

    fn opening(&self) -> Opening<'_> {
        Opening {
            authority_pem: &self.authority.pem,
            own: None,
            name: "localhost",
            versions: rustls::ALL_VERSIONS,
            tls_first: false,
        }
    }

    fn connect(&self, server: &Server) -> TlsClient {
        let mut client = TlsClient::connect(server.address(), &self.opening()).unwrap();
        client.log_in().unwrap();
        client
    }

    fn nats_options(&self) -> ConnectOptions {
        ConnectOptions::new().require_tls(true).add_root_certificates(self.path("ca.pem"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // At worst they are left behind.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn start(shards: &str, config: &str) -> Server {
    let program = Path::new(env!("CARGO_BIN_EXE_midge"));
    Server::start(program, &["--no-pin", "--shards", shards], config).unwrap()
}

fn url(server: &Server) -> String {
    format!("tls://{}", server.address())
}

fn wait_for_log(server: &Server, text: &str) {
    let found = server.log().wait_for(0, WAIT_MAX, |line| line.contains(text).then_some(()));
    assert!(found.is_some(), "no {text:?} in the log:\n{}", server.log().lines().join("\n"));
}

fn deadline() -> Instant {
    Instant::now() + WAIT_MAX
}

/// Two clients exchange small and large messages.
async fn exchange(world: &World, server: &Server, first: bool) {
    let connect = || {
        let options = world.nats_options();
        let options = if first { options.tls_first() } else { options };
        options.connect(url(server))
    };
    let (left, right) = (connect().await.unwrap(), connect().await.unwrap());
    let mut subscription = right.subscribe("from.left").await.unwrap();
    let mut requests = right.subscribe("service").await.unwrap();
    // The library's flush does not wait for the server; a message to itself does.
    let mut echo = right.subscribe("echo").await.unwrap();
    right.publish("echo", "".into()).await.unwrap();
    tokio::time::timeout(WAIT_MAX, echo.next()).await.unwrap().unwrap();
    let large: Vec<u8> = (0..1 << 20).map(|index| (index % 253) as u8).collect();
    for payload in [&b"small"[..], &large[..], b"", &large[..100_000]] {
        left.publish("from.left", payload.to_vec().into()).await.unwrap();
    }
    for payload in [&b"small"[..], &large[..], b"", &large[..100_000]] {
        let message = tokio::time::timeout(WAIT_MAX, subscription.next()).await.unwrap().unwrap();
        assert_eq!(message.payload.len(), payload.len());
        assert!(message.payload == payload);
    }
    let answering = async {
        let request = requests.next().await.unwrap();
        right.publish(request.reply.unwrap(), request.payload).await.unwrap();
    };
    let asking = left.request("service", large.clone().into());
    let (answer, ()) = tokio::join!(asking, answering);
    assert!(answer.unwrap().payload == large);
}

#[tokio::test]
async fn the_real_client_speaks_tls_on_one_shard_and_on_two() {
    let world = World::new();
    for shards in ["1", "2"] {
        let server = world.start(shards, "", "");
        wait_for_log(&server, "TLS required for client connections");
        exchange(&world, &server, false).await;
    }
}

#[tokio::test]
async fn the_real_client_speaks_tls_over_epoll() {
    let world = World::new();
    let server = world.start("2", "", "midge { io_driver: epoll }");
    exchange(&world, &server, false).await;
}

#[tokio::test]
async fn the_handshake_may_come_first() {
    let world = World::new();
    let server = world.start("2", "handshake_first: true", "");
    wait_for_log(&server, "Clients that are not using \"TLS Handshake First\" option will fail");
    exchange(&world, &server, true).await;
    // INFO comes through TLS and says so.
    let opening = Opening { tls_first: true, ..world.opening() };
    let mut client = TlsClient::connect(server.address(), &opening).unwrap();
    let info = client.line().unwrap();
    assert!(info.starts_with("INFO {") && info.contains("\"tls_required\":true"), "{info}");
}

#[tokio::test]
async fn with_auto_a_silent_client_gets_info_first() {
    let world = World::new();
    for wait in ["auto", "\"200ms\""] {
        let server = world.start("1", &format!("handshake_first: {wait}"), "");
        exchange(&world, &server, true).await;
        exchange(&world, &server, false).await;
        let client = world.connect(&server);
        assert!(client.clear_info.contains("\"tls_required\":true"), "{}", client.clear_info);
    }
}

#[tokio::test]
async fn a_client_certificate_is_asked_for() {
    let world = World::new();
    let server = world.start("2", &world.verify(), "");
    let alice = world.client_certificate("alice");
    let (certificate, key) = world.write_pair("alice", &alice);
    let options = world.nats_options().add_client_certificate(certificate, key);
    let client = options.connect(url(&server)).await.unwrap();
    client.flush().await.unwrap();

    world.nats_options().connect(url(&server)).await.unwrap_err();
    wait_for_log(&server, "TLS handshake error: tls: client didn't provide a certificate");

    let stranger = Authority::new("another");
    let wanted = Wanted { common_name: "eve", client: true, ..Wanted::default() };
    let (certificate, key) = world.write_pair("eve", &stranger.issue(wanted));
    let options = world.nats_options().add_client_certificate(certificate, key);
    options.connect(url(&server)).await.unwrap_err();
    wait_for_log(&server, "x509: certificate signed by unknown authority");

    let expired = world.authority.issue(Wanted { expired: true, ..wanted });
    let (certificate, key) = world.write_pair("expired", &expired);
    let options = world.nats_options().add_client_certificate(certificate, key);
    options.connect(url(&server)).await.unwrap_err();
    wait_for_log(&server, "x509: certificate has expired or is not yet valid");

    let raw = RawClient::connect(server.address()).unwrap();
    let info = { raw }.take_line(deadline()).unwrap();
    let info = String::from_utf8(info).unwrap();
    assert!(info.contains("\"tls_required\":true,\"tls_verify\":true"), "{info}");
}

#[tokio::test]
async fn a_client_that_does_not_trust_the_server_leaves_and_the_server_stays() {
    let world = World::new();
    let server = world.start("1", "", "");
    let other = world.write("other.pem", &Authority::new("another").pem);
    let options = ConnectOptions::new().require_tls(true).add_root_certificates(other);
    options.connect(url(&server)).await.unwrap_err();
    wait_for_log(&server, "TLS handshake error: remote error: tls: ");
    world.connect(&server).round_trip().unwrap();
}

#[test]
fn a_plaintext_peer_is_dropped_without_a_word() {
    let world = World::new();
    let server = world.start("1", "", "debug: true");
    let mut client = RawClient::connect(server.address()).unwrap();
    let info = String::from_utf8(client.take_line(deadline()).unwrap()).unwrap();
    assert!(info.contains("\"tls_required\":true"), "{info}");
    client.send(b"CONNECT {}\r\nPING\r\n").unwrap();
    while client.fill(deadline()) == Fill::Grown {}
    assert!(client.is_closed());
    assert_eq!(client.unread(), b"");
    wait_for_log(
        &server,
        "TLS handshake error: tls: first record does not look like a TLS handshake",
    );
}

#[test]
fn a_peer_that_never_begins_is_closed_at_the_timeout_on_either_driver() {
    let world = World::new();
    for driver in ["auto", "epoll"] {
        let config = format!("debug: true, midge {{ io_driver: {driver} }}");
        let server = world.start("1", "timeout: \"300ms\"", &config);
        let mut client = RawClient::connect(server.address()).unwrap();
        assert!(client.take_line(deadline()).unwrap().starts_with(b"INFO "));
        assert_eq!(client.fill(deadline()), Fill::Closed);
        wait_for_log(&server, "TLS handshake timeout");
        // Slow, but steady: a byte from time to time does not make it wait forever either.
        let mut socket = TcpStream::connect(server.address()).unwrap();
        let begun = Instant::now();
        let mut byte = [0x16];
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        while socket.write_all(&byte).is_ok() && begun.elapsed() < WAIT_MAX {
            byte = [3];
            match socket.read(&mut [0; 1024]) {
                Ok(0) => break,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
                _ => {}
            }
        }
        assert!(begun.elapsed() < WAIT_MAX);
    }
}

#[test]
fn a_hello_that_does_not_wait_for_info_is_not_lost() {
    let world = World::new();
    let server = world.start("1", "", "");
    let config = support::tls_client::client_config(&world.opening());
    let name = "localhost".to_owned().try_into().unwrap();
    let mut tls = rustls::ClientConnection::new(config, name).unwrap();
    let mut socket = TcpStream::connect(server.address()).unwrap();
    socket.set_read_timeout(Some(WAIT_MAX)).unwrap();
    tls.write_tls(&mut socket).unwrap();
    let mut byte = [0];
    while byte[0] != b'\n' {
        socket.read_exact(&mut byte).unwrap();
    }
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).unwrap();
    }
    tls.writer().write_all(b"PING\r\n").unwrap();
    tls.complete_io(&mut socket).unwrap();
    let mut answer = [0; 6];
    rustls::Stream::new(&mut tls, &mut socket).read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"PONG\r\n");
}

#[test]
fn the_certificate_is_chosen_by_the_name_asked_for() {
    let world = World::new();
    let issue = |names| world.authority.issue(Wanted { names, ..Wanted::default() });
    let pairs = [issue(&["one.test"]), issue(&["*.two.test"])];
    let list: Vec<String> = pairs
        .iter()
        .enumerate()
        .map(|(index, pair)| {
            let (certificate, key) = world.write_pair(&format!("sni{index}"), pair);
            format!("{{ cert_file: {certificate:?}, key_file: {key:?} }}")
        })
        .collect();
    let server = start("1", &format!("tls {{ certs: [ {} ] }}", list.join(", ")));
    for (name, expected) in [("one.test", 0), ("a.two.test", 1), ("one.test", 0)] {
        let opening = Opening { name, ..world.opening() };
        let client = TlsClient::connect(server.address(), &opening).unwrap();
        let der = CertificateDer::from_pem_slice(pairs[expected].certificate_pem.as_bytes());
        assert_eq!(client.server_certificate(), der.unwrap().as_ref(), "{name}");
    }
}

#[test]
fn only_a_pinned_key_comes_in() {
    let world = World::new();
    let (alice, bob) = (world.client_certificate("alice"), world.client_certificate("bob"));
    let tls = format!("{}, pinned_certs: [\"{}\"]", world.verify(), alice.key_id);
    let server = world.start("1", &tls, "");
    let open = |own| {
        let opening = Opening { own: Some(own), ..world.opening() };
        TlsClient::connect(server.address(), &opening).and_then(|mut client| client.log_in())
    };
    open(&alice).unwrap();
    open(&bob).unwrap_err();
    wait_for_log(&server, "TLS handshake error: certificate not pinned");
}

#[tokio::test]
async fn plain_clients_may_be_let_in_too() {
    let world = World::new();
    let server = world.start("2", "", "allow_non_tls: true");
    wait_for_log(&server, "TLS available for client connections");
    exchange(&world, &server, false).await;
    let mut plain = RawClient::connect(server.address()).unwrap();
    let info = String::from_utf8(plain.take_line(deadline()).unwrap()).unwrap();
    assert!(info.contains("\"tls_available\":true") && !info.contains("tls_required"), "{info}");
    plain.send(b"CONNECT {\"verbose\":false}\r\nSUB both 1\r\n").unwrap();
    plain.round_trip().unwrap();
    let mut sealed = world.connect(&server);
    sealed.send(b"PUB both 5\r\nhello\r\n").unwrap();
    assert_eq!(plain.take_line(deadline()).unwrap(), b"MSG both 1 5\r\n");
    assert_eq!(plain.take_line(deadline()).unwrap(), b"hello\r\n");
}

#[test]
fn too_many_handshakes_a_second_are_turned_away() {
    let world = World::new();
    let server = world.start("2", "connection_rate_limit: 1", "");
    let mut refused = 0;
    let mut clients: Vec<RawClient> =
        (0..12).map(|_| RawClient::connect(server.address()).unwrap()).collect();
    // An admitted connection says nothing more: only what has come is checked.
    for client in &mut clients {
        assert!(client.take_line(deadline()).unwrap().starts_with(b"INFO "));
        if let Some(line) = client.take_line(Instant::now() + Duration::from_millis(200)) {
            let text = b"-ERR 'Connection throttling is active. Please try again later.'\r\n";
            assert_eq!(line, text);
            assert_eq!(client.fill(deadline()), Fill::Closed);
            refused += 1;
        }
    }
    assert!((6..12).contains(&refused), "{refused} of 12 refused");
}

#[test]
fn keys_change_and_streams_end_in_order() {
    let world = World::new();
    let server = world.start("1", "", "");
    let mut client = world.connect(&server);
    for _ in 0..10 {
        client.update_keys().unwrap();
        client.round_trip().unwrap();
    }
    client.send(b"NONSENSE\r\n").unwrap();
    assert_eq!(client.line_with("-ERR").unwrap(), "-ERR 'Unknown Protocol Operation'\r\n");
    assert!(client.ends_cleanly());

    // A peer that announces its end is let go, although its socket stays open.
    let mut client = world.connect(&server);
    client.send(b"PING\r\n").unwrap();
    client.send_close_notify().unwrap();
    client.line_with("PONG").unwrap();
    let mut byte = Vec::new();
    // It does not matter here whether the end comes as an alert or with the socket.
    let _ = client.bytes(1).map(|bytes| byte = bytes);
    assert!(byte.is_empty());
}

#[test]
fn a_slow_consumer_behind_tls_is_cut_and_others_go_on() {
    let world = World::new();
    let server = world.start("2", "", "max_pending: 2MB, max_payload: 1MB, debug: true");
    let mut slow = world.connect(&server);
    slow.send(b"SUB much 1\r\n").unwrap();
    slow.round_trip().unwrap();
    let mut publisher = world.connect(&server);
    let payload = vec![b'x'; 512 << 10];
    let until = deadline();
    let cut = |line: &str| line.contains("Slow Consumer").then_some(());
    while server.log().wait_for(0, Duration::ZERO, cut).is_none() {
        assert!(Instant::now() < until, "never cut:\n{}", server.log().lines().join("\n"));
        publisher.send(format!("PUB much {}\r\n", payload.len()).as_bytes()).unwrap();
        publisher.send(&payload).unwrap();
        publisher.send(b"\r\n").unwrap();
        publisher.round_trip().unwrap();
    }
    assert!(!slow.ends_cleanly());
    publisher.round_trip().unwrap();
}

/// Returns the process's resident memory in kilobytes.
fn resident_kb(server: &Server) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process_id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Reads until the server closes.
fn read_to_the_end(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    socket.set_read_timeout(Some(WAIT_MAX)).unwrap();
    match socket.read_to_end(&mut bytes) {
        Ok(_) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => bytes,
        Err(error) => panic!("not closed: {error}"),
    }
}

fn half_open(address: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    // The head of a hello of 4 KiB, and part of it.
    let mut bytes = vec![0x16, 3, 1, 0x10, 0, 1, 0, 0x0f, 0xfc, 3, 3];
    bytes.resize(2000, 0x5a);
    socket.write_all(&bytes).unwrap();
    socket
}

#[test]
fn a_thousand_half_open_handshakes_cost_little_and_end_at_the_timeout() {
    const COUNT: usize = 1000;
    let world = World::new();
    let server = world.start("2", "timeout: 1", "debug: true");
    let mut established = world.connect(&server);
    // The first rounds show what buffers and pools keep for good, on a busy host not all of it at
    // once; the last round must not add to it.
    let mut resident = Vec::new();
    for round in 0..3 {
        let mut sockets: Vec<TcpStream> = (0..COUNT).map(|_| half_open(server.address())).collect();
        established.round_trip().unwrap();
        let held = resident_kb(&server);
        for socket in &mut sockets {
            let said = read_to_the_end(socket);
            assert!(said.starts_with(b"INFO ") && !said.windows(5).any(|part| part == b"-ERR "));
        }
        resident.push((held, resident_kb(&server)));
        let left = Cell::new(COUNT * (round + 1));
        let all = server.log().wait_for(0, WAIT_MAX, |line| {
            left.set(left.get() - usize::from(line.contains("TLS handshake timeout")));
            (left.get() == 0).then_some(())
        });
        assert!(all.is_some(), "{} were not closed for the timeout", left.get());
    }
    established.round_trip().unwrap();
    world.connect(&server).round_trip().unwrap();
    let most =
        |rounds: &[(usize, usize)]| rounds.iter().map(|(held, after)| *held.max(after)).max();
    let (first, last) = (most(&resident[..2]).unwrap(), most(&resident[2..]).unwrap());
    assert!(last < first + 4096, "kB while open and after: {resident:?}");
    assert!(first < 128 << 10, "kB while open and after: {resident:?}");
}

#[test]
fn handshakes_in_a_storm_all_succeed_and_others_are_served() {
    let world = World::new();
    let server = world.start("2", "timeout: 10", "");
    let mut established = world.connect(&server);
    let address = server.address();
    std::thread::scope(|scope| {
        let storm: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..25 {
                        let mut client = TlsClient::connect(address, &world.opening()).unwrap();
                        client.log_in().unwrap();
                    }
                })
            })
            .collect();
        while !storm.iter().all(|thread| thread.is_finished()) {
            established.round_trip().unwrap();
        }
    });
}

#[test]
fn a_certificate_says_which_user_it_is() {
    let world = World::new();
    let tls = format!("{}, verify_and_map: true", world.verify());
    let users = "authorization { users: [ { user: \"CN=alice\", \
                 permissions: { publish: \"allowed\" } } ] }, debug: true";
    let server = world.start("2", &tls, users);
    let open = |name: &str| {
        let own = world.client_certificate(name);
        let opening = Opening { own: Some(&own), ..world.opening() };
        TlsClient::connect(server.address(), &opening).unwrap()
    };
    let mut alice = open("alice");
    alice.log_in().unwrap();
    alice.send(b"PUB denied 0\r\n\r\n").unwrap();
    let refusal = alice.line_with("-ERR").unwrap();
    assert_eq!(refusal, "-ERR 'Permissions Violation for Publish to \"denied\"'\r\n");
    wait_for_log(&server, "Using DistinguishedNameMatch for auth [\"CN=alice\"]");
    // The log names the user, although CONNECT did not.
    wait_for_log(&server, "- \"$G/user:CN=alice\" - Publish Violation - Subject \"denied\"");
    let mut bob = open("bob");
    bob.send(b"CONNECT {\"verbose\":false}\r\n").unwrap();
    assert_eq!(bob.line_with("-ERR").unwrap(), "-ERR 'Authorization Violation'\r\n");
    wait_for_log(&server, "DistinguishedNameMatch could not be used for auth [\"CN=bob\"]");
    wait_for_log(&server, "User in cert [\"CN=bob\"], not found");
    // A user in CONNECT counts for nothing, in the log either.
    let mut other = open("alice");
    other.send(b"CONNECT {\"user\":\"x\",\"pass\":\"planted\"}\r\n").unwrap();
    assert_eq!(other.line_with("-ERR").unwrap(), "-ERR 'Authorization Violation'\r\n");
    wait_for_log(&server, "[WRN] User \"x\" found in connect proto, but user required from cert");
    wait_for_log(&server, "authentication error - User \"CN=alice\"");
    wait_for_log(
        &server,
        "Login refused: CONNECT's password is not that of the certificate's user",
    );
}

#[test]
fn a_key_that_is_not_pinned_is_named_by_its_id() {
    let world = World::new();
    let tls = format!("{}, pinned_certs: [\"{}\"]", world.verify(), "a".repeat(64));
    let server = world.start("1", &tls, "debug: true");
    let own = world.client_certificate("alice");
    let opening = Opening { own: Some(&own), ..world.opening() };
    // With TLS 1.3 the client learns of it only after its handshake.
    let refused =
        TlsClient::connect(server.address(), &opening).and_then(|mut client| client.log_in());
    assert!(refused.is_err());
    wait_for_log(&server, "[DBG] 127.0.0.1");
    wait_for_log(&server, " - Failed pinned cert test for key id: ");
    wait_for_log(&server, " - TLS handshake error: certificate not pinned");
}

#[test]
fn a_silent_peer_that_may_be_plain_still_has_to_log_in() {
    let world = World::new();
    let config = "allow_non_tls: true, authorization { token: secret, timeout: 0.2 }";
    let server = world.start("1", "timeout: \"200ms\"", config);
    let mut client = RawClient::connect(server.address()).unwrap();
    assert!(client.take_line(deadline()).unwrap().starts_with(b"INFO "));
    assert_eq!(client.take_line(deadline()).unwrap(), b"-ERR 'Authentication Timeout'\r\n");
    assert_eq!(client.fill(deadline()), Fill::Closed);
}

#[test]
fn a_renewed_certificate_is_for_new_clients_and_old_ones_stay() {
    let world = World::new();
    let server = world.start("2", "", "");
    let mut old = world.connect(&server);
    let renewed = world.authority.issue_local();
    world.write_pair("server", &renewed);
    server.signal(Signal::HUP).unwrap();
    wait_for_log(&server, "Reloaded server configuration");
    wait_for_log(&server, "Reloaded: tls = enabled");
    let new = world.connect(&server);
    let der =
        |pair: &Pair| CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).unwrap();
    assert_eq!(new.server_certificate(), der(&renewed).as_ref());
    assert_eq!(old.server_certificate(), der(&world.server).as_ref());
    old.round_trip().unwrap();

    // A reload without a usable certificate changes nothing.
    world.write("server.key", "garbage");
    server.signal(Signal::HUP).unwrap();
    wait_for_log(&server, "error parsing X509");
    assert_eq!(world.connect(&server).server_certificate(), der(&renewed).as_ref());
    old.round_trip().unwrap();
}

#[test]
fn a_server_whose_certificate_is_unusable_does_not_start() {
    let world = World::new();
    world.write("server.key", &world.authority.issue_local().key_pem);
    let directory = world.directory.display();
    let config = format!(
        "tls {{ cert_file: \"{directory}/server.pem\", key_file: \"{directory}/server.key\" }}"
    );
    let program = Path::new(env!("CARGO_BIN_EXE_midge"));
    let file = world.write("test.conf", &config);
    let output =
        std::process::Command::new(program).arg("-t").arg("-c").arg(file).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("test.conf:1:0: error parsing X509 certificate/key pair: "), "{text}");
    let complaint = Server::start(program, &["--no-pin", "--shards", "1"], &config).err().unwrap();
    assert!(complaint.contains("tls: private key does not match public key"), "{complaint}");
}

#[test]
fn a_client_certificate_may_be_optional() {
    let world = World::new();
    let tls = format!("ca_file: \"{}\", verify: Optional", world.path("ca.pem").display());
    for shards in ["1", "2"] {
        let server = world.start(shards, &tls, "");
        let plain = world.connect(&server);
        assert!(plain.clear_info.contains("\"tls_required\":true,"), "{}", plain.clear_info);
        assert!(!plain.clear_info.contains("tls_verify"), "{}", plain.clear_info);
        let open = |authority: &Authority, version| {
            let own =
                authority.issue(Wanted { common_name: "x", client: true, ..Wanted::default() });
            let versions = &[version];
            let opening = Opening { own: Some(&own), versions, ..world.opening() };
            TlsClient::connect(server.address(), &opening)?.log_in()
        };
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            open(&world.authority, version).unwrap();
            let stranger = Authority::new("another");
            open(&stranger, version).unwrap_err();
            wait_for_log(&server, "x509: certificate signed by unknown authority");
        }
    }
}
