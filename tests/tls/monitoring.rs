//! Monitoring over HTTPS: the tls block of the client port, without its requirement of client
//! certificates.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::support::certificates::Authority;
use super::support::server::Server;
use super::support::tls_client::{Opening, TlsClient};
use super::support::{WAIT_MAX, allow_open_files};
use super::{World, wait_for_log};

const HTTPS: &str = "https: \"127.0.0.1:-1\"";

fn port_of(server: &Server) -> SocketAddr {
    let port = server.log().wait_for(0, WAIT_MAX, |line| {
        line.split_once("Starting https monitor on ")?.1.trim().parse().ok()
    });
    port.expect("the log names the monitoring port")
}

fn open(world: &World, address: SocketAddr) -> TlsClient {
    let opening = Opening { tls_first: true, ..world.opening() };
    TlsClient::connect(address, &opening).expect("a handshake")
}

/// Makes one request on a connection that stays open.
fn get(client: &mut TlsClient, path: &str) -> (String, Vec<u8>) {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
    let (mut head, mut size) = (String::new(), 0);
    loop {
        let line = client.line().unwrap();
        if let Some(text) = line.strip_prefix("Content-Length: ") {
            size = text.trim().parse().unwrap();
        }
        if line == "\r\n" {
            return (head, client.bytes(size).unwrap());
        }
        head.push_str(&line);
    }
}

#[test]
fn every_endpoint_is_served_over_tls_to_clients_without_a_certificate() {
    let world = World::new();
    let server = world.start("1", &world.verify(), HTTPS);
    let address = port_of(&server);
    let mut client = open(&world, address);
    let (head, body) = get(&mut client, "/varz");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let varz: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(varz["https_port"], address.port());
    assert_eq!(varz["http_port"], 0);
    assert_eq!(varz["tls_verify"], true);
    assert_eq!(varz["tls_required"], true);
    // rcgen's default.
    assert_eq!(varz["tls_cert_not_after"], "4096-01-01T00:00:00Z");
    for path in ["/", "/connz", "/dashboard", "/metrics", "/healthz"] {
        let (head, body) = get(&mut client, path);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && !body.is_empty(), "{path}: {head}");
    }
    assert!(get(&mut client, "/nope").0.starts_with("HTTP/1.1 404 "));
    client.send(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    assert!(client.ends_cleanly(), "the end is that of TLS");
}

#[test]
fn an_answer_larger_than_any_buffer_arrives_whole() {
    let world = World::new();
    let server = world.start("2", "", HTTPS);
    let mut subscriber = world.connect(&server);
    let lines: String = (0..20_000).map(|sid| format!("SUB a.{sid}.b {sid}\r\n")).collect();
    subscriber.send(lines.as_bytes()).unwrap();
    subscriber.round_trip().unwrap();
    let (_, body) = get(&mut open(&world, port_of(&server)), "/subsz?subs=1&limit=30000");
    assert!(body.len() > 1 << 20, "{}", body.len());
    let subsz: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(subsz["subscriptions_list"].as_array().map(Vec::len), Some(20_000));
}

#[test]
fn plain_http_is_told_so() {
    let world = World::new();
    let server = world.start("1", "", HTTPS);
    let mut socket = TcpStream::connect(port_of(&server)).unwrap();
    socket.set_read_timeout(Some(WAIT_MAX)).unwrap();
    std::io::Write::write_all(&mut socket, b"GET /varz HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert_eq!(
        answer,
        "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
    );
    let peer = socket.local_addr().unwrap();
    wait_for_log(
        &server,
        &format!(
            "[ERR] monitoring: TLS handshake error from {peer}: client sent an HTTP request to an HTTPS server"
        ),
    );
}

#[test]
fn garbage_and_silence_take_neither_the_port_nor_the_server() {
    const SOCKETS: usize = 600;
    allow_open_files(2 * SOCKETS);
    let world = World::new();
    let server = world.start("1", "", HTTPS);
    let address = port_of(&server);
    let mut open_sockets = Vec::new();
    for index in 0..SOCKETS {
        let mut socket = TcpStream::connect(address).unwrap();
        // Silence, no TLS, the head of a record, and a record that is not one.
        let bytes: &[u8] =
            [&b""[..], b"\x00\x01", b"\x16\x03", b"\x16\x03\x01\x00\x05hello"][index % 4];
        // A connection that was displaced already may refuse the bytes.
        let _ = std::io::Write::write_all(&mut socket, bytes);
        open_sockets.push(socket);
    }
    let (head, _) = get(&mut open(&world, address), "/healthz");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let stranger = Authority::new("somebody else");
    let opening = Opening { authority_pem: &stranger.pem, tls_first: true, ..world.opening() };
    assert!(TlsClient::connect(address, &opening).is_err());
    wait_for_log(&server, "remote error: tls: ");
}

#[test]
fn a_reload_renews_the_certificate_of_monitoring() {
    let world = World::new();
    let server = world.start("1", "", HTTPS);
    let address = port_of(&server);
    let mut before = open(&world, address);
    let renewed = world.authority.issue_local();
    world.write_pair("server", &renewed);
    server.signal(Signal::HUP).unwrap();
    wait_for_log(&server, "Reloaded server configuration");
    let after = open(&world, address);
    assert_ne!(before.server_certificate(), after.server_certificate());
    // The existing connection continues.
    assert!(get(&mut before, "/healthz").0.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[test]
fn flags_open_the_port_and_the_ports_file_names_it() {
    let world = World::new();
    let directory = world.path("ports");
    std::fs::create_dir_all(&directory).unwrap();
    let (certificate, key) = (world.path("server.pem"), world.path("server.key"));
    let flags = [
        "--no-pin",
        "--shards",
        "1",
        "-ms",
        "-1",
        "--tls",
        "--tlscert",
        certificate.to_str().unwrap(),
        "--tlskey",
        key.to_str().unwrap(),
        "--ports_file_dir",
        directory.to_str().unwrap(),
    ];
    let server = Server::start(env!("CARGO_BIN_EXE_midge").as_ref(), &flags, "").unwrap();
    let port = server
        .log()
        .wait_for(0, WAIT_MAX, |line| {
            let text = line.split_once("Starting https monitor on ")?.1;
            text.rsplit_once(':')?.1.trim().parse::<u16>().ok()
        })
        .expect("the log names the monitoring port");
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    assert!(get(&mut open(&world, address), "/healthz").0.starts_with("HTTP/1.1 200 OK\r\n"));
    wait_for_log(&server, "Server is ready");
    let file = directory.join(format!("midge_{}.ports", server.process_id()));
    let deadline = std::time::Instant::now() + WAIT_MAX;
    let text = loop {
        match std::fs::read_to_string(&file) {
            Ok(text) if text.ends_with('}') => break text,
            _ => assert!(std::time::Instant::now() < deadline, "no {}", file.display()),
        }
    };
    let ports: Value = serde_json::from_str(&text).unwrap();
    let url = ports["monitoring"][0].as_str().unwrap();
    assert!(url.starts_with("https://") && url.ends_with(&format!(":{port}")), "{text}");
}

#[test]
fn https_needs_tls_and_excludes_http() {
    let start = |config: &str| {
        let program = env!("CARGO_BIN_EXE_midge").as_ref();
        match Server::start(program, &["--no-pin", "--shards", "1"], config) {
            Ok(_) => panic!("it starts with {config}"),
            Err(error) => error,
        }
    };
    let error = start(HTTPS);
    assert!(error.contains("TLS cert and key required for HTTPS"), "{error}");
    let error = start("http_port: 8222, https_port: 8443");
    assert!(error.contains("can't specify both HTTP (8222) and HTTPs (8443) ports"), "{error}");
}

#[test]
fn connections_show_what_their_tls_agreed_on() {
    let world = World::new();
    for (block, tls_first) in [("", false), ("handshake_first: true", true)] {
        let server = world.start("2", block, HTTPS);
        let opening = Opening { tls_first, ..world.opening() };
        let mut client = TlsClient::connect(server.address(), &opening).unwrap();
        client.log_in().unwrap();
        let (_, body) = get(&mut open(&world, port_of(&server)), "/connz");
        let connz: Value = serde_json::from_slice(&body).unwrap();
        let connection = &connz["connections"][0];
        assert_eq!(connection["tls_version"], "1.3", "{connz}");
        let suite = connection["tls_cipher_suite"].as_str().unwrap();
        assert!(suite.starts_with("TLS_AES_") || suite.starts_with("TLS_CHACHA20_"), "{suite}");
        let said = if tls_first { Value::Bool(true) } else { Value::Null };
        assert_eq!(connection["tls_first"], said, "{connz}");
    }
}

/// Names and digests of a client's certificates are shown only with logins, and never for closed
/// connections.
#[test]
fn certificates_of_clients_are_named_when_logins_are_asked_for() {
    let world = World::new();
    let server = world.start("2", &world.verify(), HTTPS);
    let alice = world.client_certificate("alice, the first");
    let opening = Opening { own: Some(&alice), ..world.opening() };
    let mut client = TlsClient::connect(server.address(), &opening).unwrap();
    client.log_in().unwrap();
    let mut monitor = open(&world, port_of(&server));
    let mut connection = |path: &str| {
        let (_, body) = get(&mut monitor, path);
        let connz: Value = serde_json::from_slice(&body).unwrap();
        connz["connections"][0].clone()
    };
    let der = CertificateDer::from_pem_slice(alice.certificate_pem.as_bytes()).unwrap();
    let expected = serde_json::json!([{
        "subject": "CN=alice\\, the first",
        "spki_sha256": alice.key_id,
        "cert_sha256": data_encoding::HEXLOWER.encode(&Sha256::digest(&der)),
    }]);
    assert_eq!(connection("/connz?auth=1")["tls_peer_certs"], expected);
    assert_eq!(connection("/connz")["tls_peer_certs"], Value::Null);
    drop(client);
    let deadline = Instant::now() + WAIT_MAX;
    let path = "/connz?auth=1&state=closed";
    let closed = loop {
        let closed = connection(path);
        if !closed.is_null() {
            break closed;
        }
        assert!(Instant::now() < deadline, "it is never told to be closed");
    };
    assert_eq!(closed["tls_version"], "1.3", "{closed}");
    assert_eq!(closed["tls_peer_certs"], Value::Null, "{closed}");
}

/// As in nats-server, which keeps what it knew when the client left.
#[test]
fn a_closed_client_still_has_its_tls() {
    let world = World::new();
    let server = world.start("1", "", HTTPS);
    let mut client = world.connect(&server);
    client.send_close_notify().unwrap();
    drop(client);
    let mut monitor = open(&world, port_of(&server));
    let deadline = std::time::Instant::now() + WAIT_MAX;
    let connection = loop {
        let (_, body) = get(&mut monitor, "/connz?state=closed");
        let connz: Value = serde_json::from_slice(&body).unwrap();
        if connz["num_connections"] == 1 {
            break connz["connections"][0].clone();
        }
        assert!(std::time::Instant::now() < deadline, "{connz:#}");
    };
    assert_eq!(connection["tls_version"], "1.3");
    assert_eq!(connection["tls_cipher_suite"], "TLS_AES_128_GCM_SHA256");
}
