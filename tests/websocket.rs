//! The listener for WebSocket clients, seen from outside: upgrades, frames, logins, its end.

mod support;

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde_json::json;
use support::certificates::Authority;
use support::jwt::{account, account_claims, memory_config, mint, user_claims};
use support::raw_client::RawClient;
use support::server::Server;
use support::tls_client::{Opening, client_config};
use support::web_client::{WebClient, frame, request, socket};
use support::{WAIT_MAX, wait_until};

const DEFLATE: &str = "Sec-WebSocket-Extensions: permessage-deflate";

type Secured = StreamOwned<ClientConnection, TcpStream>;

/// Starts a server with these options in its `websocket` block, and these beside it.
fn start(shards: usize, web: &str, config: &str) -> Server {
    let web = format!("websocket {{ listen: \"127.0.0.1:-1\"\n{web}\n}}");
    Server::midge(shards, &format!("debug: true\nhttp: \"127.0.0.1:-1\"\n{web}\n{config}"))
}

fn start_plain(web: &str, config: &str) -> Server {
    start(1, &format!("no_tls: true\n{web}"), config)
}

fn address(server: &Server) -> SocketAddr {
    let found = server.log().wait_for(0, WAIT_MAX, |line| {
        line.split_once("Listening for websocket clients on ")?.1.split_once("://")?.1.parse().ok()
    });
    found.expect("the server tells where it listens")
}

fn connect(server: &Server, lines: &[&str]) -> WebClient<TcpStream> {
    WebClient::connect(address(server), lines).expect("the server answers")
}

fn client(server: &Server, lines: &[&str]) -> WebClient<TcpStream> {
    let mut client = connect(server, lines);
    assert!(client.head.starts_with("HTTP/1.1 101 "), "{}", client.head);
    client.line_with("INFO ");
    client
}

fn log_in(server: &Server, lines: &[&str]) -> WebClient<TcpStream> {
    let mut client = client(server, lines);
    client.log_in("");
    client
}

fn wait_for_log(server: &Server, text: &str) -> String {
    let found =
        server.log().wait_for(0, WAIT_MAX, |line| line.contains(text).then(|| line.to_owned()));
    found.unwrap_or_else(|| panic!("no {text:?} in the log:\n{}", server.log().lines().join("\n")))
}

fn monitor(server: &Server, path: &str) -> serde_json::Value {
    let body = server.monitor_get(path).expect("an answer");
    serde_json::from_slice(&body).expect("JSON")
}

/// Files with an authority and a server's certificate.
struct Certificates {
    directory: PathBuf,
    authority: Authority,
}

impl Certificates {
    fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("midge-websocket-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let certificates = Self { directory, authority: Authority::new("test authority") };
        certificates.renew();
        certificates
    }

    fn renew(&self) {
        let pair = self.authority.issue_local();
        std::fs::write(self.directory.join("server.pem"), &pair.certificate_pem).unwrap();
        std::fs::write(self.directory.join("server.key"), &pair.key_pem).unwrap();
    }

    fn block(&self) -> String {
        let directory = self.directory.display();
        format!(
            "tls {{ cert_file: \"{directory}/server.pem\", key_file: \"{directory}/server.key\" }}"
        )
    }

    fn handshake(&self, server: &Server) -> Secured {
        let opening = Opening {
            authority_pem: &self.authority.pem,
            own: None,
            name: "localhost",
            versions: rustls::ALL_VERSIONS,
            tls_first: true,
        };
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(client_config(&opening), name).unwrap();
        StreamOwned::new(connection, socket(address(server)).expect("the server listens"))
    }

    fn client(&self, server: &Server) -> WebClient<Secured> {
        WebClient::upgrade(self.handshake(server), &[]).expect("an answer")
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        // At worst they are left behind.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn clients_of_both_kinds_hear_each_other_on_any_number_of_shards() {
    for shards in [1, 3] {
        let server = start(shards, "no_tls: true", "");
        let mut web = log_in(&server, &[]);
        web.send(b"SUB a.* 1\r\nPING\r\n").unwrap();
        web.line_with("PONG");
        let mut tcp = RawClient::connect(server.address()).unwrap();
        tcp.send(b"CONNECT {\"verbose\":false}\r\nSUB b 2\r\n").unwrap();
        tcp.round_trip().unwrap();
        tcp.send(b"PUB a.b r 5\r\nhello\r\n").unwrap();
        assert_eq!(web.line_with("MSG"), "MSG a.b 1 r 5");
        assert_eq!(web.line().as_deref(), Some("hello"));
        // A message in three frames, with a ping in between.
        for bytes in [frame(2, b"PUB b"), frame(0x89, b"there?"), frame(0, b" 3\r\nabc")] {
            web.send_raw(&bytes).unwrap();
        }
        web.send_raw(&frame(0x80, b"\r\nPING\r\n")).unwrap();
        web.line_with("PONG");
        assert_eq!(web.pongs, [b"there?"]);
        let deadline = std::time::Instant::now() + WAIT_MAX;
        assert_eq!(tcp.take_message_line(deadline), b"MSG b 2 3\r\n");
        let large = vec![b'x'; 900_000];
        web.send(&[b"PUB a.large 900000\r\n", &large[..], b"\r\n"].concat()).unwrap();
        assert_eq!(web.line_with("MSG"), "MSG a.large 1 900000");
        assert_eq!(web.line().unwrap().len(), large.len());
    }
}

#[test]
fn the_close_frame_has_status_and_words_after_the_error() {
    let server = start_plain("", "max_payload: 100");
    for (sent, error, status, words) in [
        (
            "PUB a 101\r\n",
            "-ERR 'Maximum Payload Violation'",
            1009,
            "Maximum Message Payload Exceeded",
        ),
        ("NO SUCH VERB\r\n", "-ERR 'Unknown Protocol Operation'", 1002, "Protocol Violation"),
    ] {
        let mut client = log_in(&server, &[]);
        client.send(sent.as_bytes()).unwrap();
        // Before it, the INFO that follows the first PONG.
        assert_eq!(client.rest().last().map(String::as_str), Some(error));
        assert_eq!(client.close_words(), (status, words.into()));
    }
    let mut client = log_in(&server, &[]);
    client.send_raw(&frame(0x88, b"\x03\xe8bye")).unwrap();
    client.rest();
    assert_eq!(client.close_words(), (1000, "bye".into()));
    wait_for_log(&server, "Client connection closed: Client Closed");
}

#[test]
fn what_breaks_the_framing_is_told_and_logged() {
    let server = start_plain("", "");
    let mut client = log_in(&server, &[]);
    client.send_raw(b"\x82\x06PING\r\n").unwrap();
    client.rest();
    assert_eq!(client.close_words(), (1002, "mask bit missing".into()));
    let line = wait_for_log(&server, "read error: mask bit missing");
    assert!(line.contains(" - wid:"), "{line}");
}

#[test]
fn a_refused_upgrade_is_answered_and_is_no_connection_for_monitoring() {
    let server = start_plain("", "");
    let refused = connect(&server, &["Upgrade: no", "Sec-WebSocket-Version: 7"]);
    assert!(refused.head.starts_with("HTTP/1.1 101 "), "the first of each header counts");
    let mut raw = RawClient::connect(address(&server)).unwrap();
    raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    raw.close();
    let answer = String::from_utf8_lossy(raw.unread()).into_owned();
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nBad Request\n"), "{answer}");
    let line = wait_for_log(&server, "websocket handshake error:");
    assert!(line.ends_with(" - websocket handshake error: invalid value for header 'Upgrade'"));
    let closed = monitor(&server, "/connz?state=closed");
    assert_eq!(closed["total"], 0, "{closed}");
}

#[test]
fn a_peer_that_asks_for_nothing_is_sent_away() {
    let server = start_plain("handshake_timeout: \"100ms\"", "");
    for bytes in [&b""[..], b"GET / HTTP/1.1\r\nHost:"] {
        let mut raw = RawClient::connect(address(&server)).unwrap();
        raw.send(bytes).unwrap();
        wait_until("the server closes", || {
            raw.fill(std::time::Instant::now());
            raw.is_closed()
        });
        assert!(raw.unread().is_empty());
    }
    // Its time is that of the upgrade alone.
    let mut web = log_in(&server, &[]);
    wait_until("the time is over", || server.log().line_count() > 0);
    web.send(b"PING\r\n").unwrap();
    web.line_with("PONG");
}

#[test]
fn the_block_has_logins_of_its_own() {
    let server = start_plain(
        "authorization { user: web, password: w }",
        "authorization { user: top, password: t }",
    );
    let web = ",\"user\":\"web\",\"pass\":\"w\"";
    let top = ",\"user\":\"top\",\"pass\":\"t\"";
    client(&server, &[]).log_in(web);
    let mut refused = client(&server, &[]);
    refused.send(format!("CONNECT {{\"verbose\":false{top}}}\r\nPING\r\n").as_bytes()).unwrap();
    assert_eq!(refused.rest(), ["-ERR 'Authorization Violation'"]);
    assert_eq!(refused.close_words(), (1008, "Authentication Failure".into()));
    let mut tcp = RawClient::connect(server.address()).unwrap();
    tcp.send(format!("CONNECT {{\"verbose\":false{web}}}\r\n").as_bytes()).unwrap();
    tcp.close();
    assert!(tcp.unread().ends_with(b"-ERR 'Authorization Violation'\r\n"));
}

#[test]
fn a_token_or_a_stand_in_may_be_asked_for_there_alone() {
    let server = start_plain("authorization { token: s3cr3t }", "");
    let mut info = connect(&server, &[]);
    assert!(info.line_with("INFO ").contains("\"auth_required\":true"));
    client(&server, &[]).log_in(",\"auth_token\":\"s3cr3t\"");
    let mut refused = client(&server, &[]);
    refused.send(b"PING\r\n").unwrap();
    assert_eq!(refused.rest(), ["-ERR 'Authorization Violation'"]);
    let mut tcp = RawClient::connect(server.address()).unwrap();
    tcp.send(b"CONNECT {\"verbose\":false}\r\n").unwrap();
    tcp.round_trip().unwrap_or_else(|reason| assert!(reason.contains("INFO"), "{reason}"));

    let users = "authorization { users: [ {user: a, password: b}, {user: guest, password: g} ] }";
    let server = start_plain("no_auth_user: guest", users);
    log_in(&server, &[]);
    let connz = monitor(&server, "/connz?auth=1&state=all");
    assert_eq!(connz["connections"][0]["authorized_user"], "guest", "{connz}");
}

#[test]
fn cookies_stand_in_for_what_connect_leaves_out_one_by_one() {
    let server = start_plain(
        "user_cookie: u, pass_cookie: p, token_cookie: t",
        "authorization { users: [ {user: a, password: b}, {user: c, password: d} ] }",
    );
    log_in(&server, &["Cookie: u=a; p=b"]);
    client(&server, &["Cookie: p=d"]).log_in(",\"user\":\"c\"");
    let mut refused = client(&server, &["Cookie: p=b"]);
    refused.send(b"CONNECT {\"user\":\"c\"}\r\nPING\r\n").unwrap();
    assert_eq!(refused.rest(), ["-ERR 'Authorization Violation'"]);
    let lines = server.log().lines().join("\n");
    assert!(!lines.contains("p=b") && !lines.contains("p=d"));
}

#[test]
fn in_operator_mode_a_cookie_may_be_the_jwt() {
    let accounts = [account_claims(2, "A", json!({}))];
    let config = memory_config(&accounts, "");
    let server = start_plain("jwt_cookie: j", &config);
    let cookie = |nats| format!("Cookie: j={}", mint(user_claims(1, nats), &account(2)));
    let with_types =
        |kind: &str| cookie(json!({"bearer_token": true, "allowed_connection_types": [kind]}));
    log_in(&server, &[&cookie(json!({"bearer_token": true}))]);
    log_in(&server, &[&with_types("WEBSOCKET")]);
    for refused in ["Cookie: i=x".to_owned(), cookie(json!({})), with_types("STANDARD")] {
        let mut client = client(&server, &[&refused]);
        client.send(b"CONNECT {}\r\nPING\r\n").unwrap();
        assert_eq!(client.rest(), ["-ERR 'Authorization Violation'"], "{refused}");
    }
}

#[test]
fn users_are_bound_to_the_way_they_come() {
    let user = |name: &str, kind: &str| {
        format!("{{user: {name}, password: x, allowed_connection_types: [{kind}]}}")
    };
    let users = [user("w", "WEBSOCKET"), user("s", "STANDARD")].join(",");
    let server = start_plain("", &format!("authorization {{ users: [ {users} ] }}"));
    client(&server, &[]).log_in(",\"user\":\"w\",\"pass\":\"x\"");
    let mut refused = client(&server, &[]);
    refused.send(b"CONNECT {\"user\":\"s\",\"pass\":\"x\"}\r\nPING\r\n").unwrap();
    assert_eq!(refused.rest(), ["-ERR 'Authorization Violation'"]);
}

#[test]
fn origins_and_headers_are_as_configured() {
    let server = start_plain("same_origin: true, headers { X-Test: \"a b\" }", "");
    let good = connect(&server, &["Origin: http://localhost"]);
    assert!(good.head.contains("\r\nX-Test: a b\r\n"), "{}", good.head);
    let mut bad = RawClient::connect(address(&server)).unwrap();
    bad.send(request(&["Origin: http://evil.example"]).as_bytes()).unwrap();
    bad.close();
    assert!(bad.unread().starts_with(b"HTTP/1.1 403 Forbidden\r\n"));
    wait_for_log(&server, "websocket handshake error: origin not allowed: not same origin");
}

#[test]
fn monitoring_and_the_log_tell_the_kind_of_client() {
    let server = start_plain("compression: true, handshake_timeout: 3", "");
    let mut web = client(&server, &["X-Forwarded-For: 2001:db8::7"]);
    web.log_in(",\"name\":\"page\"");
    let connz = monitor(&server, "/connz");
    let shown = &connz["connections"][0];
    assert_eq!((&shown["kind"], &shown["type"]), (&"Client".into(), &"websocket".into()));
    assert_eq!(shown["ip"], "127.0.0.1");
    wait_for_log(&server, "[2001:db8::7]/127.0.0.1:");
    let varz = monitor(&server, "/varz");
    let port = address(&server).port();
    let expected = serde_json::json!({
        "host": "127.0.0.1", "port": port, "handshake_timeout": 3_000_000_000_u64,
        "no_tls": true, "compression": true
    });
    assert_eq!(varz["websocket"], expected);
    web.send_raw(&frame(0x88, b"")).unwrap();
    web.rest();
    let closed = monitor(&server, "/connz?state=closed");
    assert_eq!(closed["connections"][0]["type"], "websocket", "{closed}");
}

#[test]
fn over_tls_everything_is_the_same_and_certificates_are_renewed_by_a_reload() {
    let certificates = Certificates::new();
    let server = start(2, &certificates.block(), "");
    wait_for_log(&server, "Listening for websocket clients on wss://127.0.0.1:");
    let mut first = certificates.client(&server);
    let info = first.line_with("INFO ");
    assert!(info.contains("\"tls_required\":true,\"tls_available\":true"), "{info}");
    first.log_in("");
    first.send(b"SUB a 1\r\nPUB a 2\r\nhi\r\nPING\r\n").unwrap();
    assert_eq!(first.line_with("MSG"), "MSG a 1 2");
    first.line_with("PONG");
    let plain = WebClient::connect(address(&server), &[]);
    assert!(plain.is_err(), "it speaks no TLS");

    certificates.renew();
    let lines = server.log().line_count();
    server.signal(Signal::HUP).unwrap();
    let reloaded = server.log().wait_for(lines, WAIT_MAX, |line| {
        line.contains("Reloaded server configuration").then_some(())
    });
    assert!(reloaded.is_some(), "{}", server.log().lines().join("\n"));
    let mut second = certificates.client(&server);
    second.line_with("INFO ");
    second.log_in("");
    let large = vec![b'x'; 300_000];
    second.send(&[b"PUB a 300000\r\n", &large[..], b"\r\n"].concat()).unwrap();
    assert_eq!(first.line_with("MSG"), "MSG a 1 300000");
    assert_eq!(first.line().unwrap().len(), large.len());
    first.send_raw(&frame(0x88, b"\x03\xe8")).unwrap();
    first.rest();
    assert_eq!(first.close_words(), (1000, String::new()));
}

#[test]
fn a_server_that_is_full_says_so_to_a_client_not_to_a_request() {
    let server = start_plain("", "max_connections: 1");
    let _first = log_in(&server, &[]);
    let mut second = client(&server, &[]);
    assert_eq!(second.rest(), ["-ERR 'maximum connections exceeded'"]);
    assert_eq!(second.close_words(), (1008, "Maximum Connections Exceeded".into()));
}

#[test]
fn browsers_get_short_frames_and_deflated_messages_are_fragments_of_one() {
    let server = start_plain("compression: true", "");
    let large: Vec<u8> =
        (0..20_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for lines in [&["User-Agent: Mozilla/5.0"][..], &["User-Agent: Mozilla/5.0", DEFLATE]] {
        let mut page = log_in(&server, lines);
        page.send(b"SUB a 1\r\nPING\r\n").unwrap();
        page.line_with("PONG");
        let mut other = log_in(&server, &[]);
        other.send(&[b"PUB a 20000\r\n", &large[..], b"\r\n"].concat()).unwrap();
        let sizes = page.frame_sizes(18_000);
        assert!(sizes.iter().all(|size| *size <= 4096), "{sizes:?}");
    }
}

#[test]
fn lame_duck_mode_and_the_end_are_told_in_frames() {
    let server = start_plain("", "");
    let at = address(&server);
    let mut web = log_in(&server, &[]);
    server.signal(Signal::USR2).unwrap();
    let info = loop {
        let line = web.line_with("INFO ");
        if line.contains("\"ldm\":true") {
            break line;
        }
    };
    assert!(info.contains(&format!("\"port\":{}", at.port())), "{info}");
    assert!(TcpStream::connect(at).is_err(), "it listens no more");
    server.signal(Signal::TERM).unwrap();
    web.rest();
    assert_eq!(web.close_words(), (1001, "Server Shutdown".into()));
}

#[test]
fn what_a_reload_may_not_change_is_refused_as_by_nats_server() {
    let server = start_plain("", "");
    let web = "websocket { listen: \"127.0.0.1:-1\", no_tls: true, same_origin: true }";
    server.rewrite_config(&format!("http: \"127.0.0.1:-1\"\n{web}")).unwrap();
    server.signal(Signal::HUP).unwrap();
    wait_for_log(&server, "config reload not supported for Websocket: old=");
}
