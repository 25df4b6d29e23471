//! Logins, seen from the server's side, and TLS under the client's stream.

mod support;

use midge_bench::host::certificates::{self, CertificateFiles, TemporaryFolder};
use midge_bench::wire::address::{Address, ServerUrl, WebSocket};
use midge_bench::wire::connection::Dialer;
use midge_bench::wire::credentials::Credentials;
use midge_bench::wire::stream::Stream;
use midge_bench::wire::tls::{self, TlsFiles};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;
use support::{Action, FakeServer, NONCE};

fn connect_object(credentials: Credentials) -> serde_json::Value {
    let server = FakeServer::start(|_| Action::Deliver);
    let dialer = Dialer { credentials, ..server.dialer() };
    dialer.connect("test", 0).unwrap();
    server.connects().remove(0)
}

#[test]
fn every_login_reaches_the_server() {
    let user = Credentials::User { user: "anna".into(), password: "secret".into() };
    let object = connect_object(user);
    assert_eq!((object["user"].as_str(), object["pass"].as_str()), (Some("anna"), Some("secret")));
    let object = connect_object(Credentials::Token("t0ken".into()));
    assert_eq!(object["auth_token"], "t0ken");

    let pair = nkeys::KeyPair::new_user();
    let seed = pair.seed().unwrap();
    let object = connect_object(Credentials::from_seed_or_file(&seed).unwrap());
    assert_eq!(object["nkey"], pair.public_key());
    let signature = object["sig"].as_str().unwrap().as_bytes();
    let signature = data_encoding::BASE64URL_NOPAD.decode(signature).unwrap();
    assert!(pair.verify(NONCE.as_bytes(), &signature).is_ok());

    let folder = std::env::temp_dir().join(format!("midge-bench-login-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("user.creds");
    let content = format!(
        "-----BEGIN NATS USER JWT-----\nthe.jwt\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    std::fs::write(&file, content).unwrap();
    let object =
        connect_object(Credentials::from_credentials_file(file.to_str().unwrap()).unwrap());
    assert_eq!(object["jwt"], "the.jwt");
    assert!(object["sig"].is_string());
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_login_of_a_url_is_used() {
    let url = ServerUrl::parse("nats://anna:secret@127.0.0.1").unwrap();
    assert!(matches!(Dialer::for_url(&url).credentials, Credentials::User { .. }));
    let url = ServerUrl::parse("nats://t0ken@127.0.0.1").unwrap();
    assert!(matches!(Dialer::for_url(&url).credentials, Credentials::Token(_)));
}

/// Makes certificates for localhost, in a folder that is removed with them.
fn made_certificates() -> (TemporaryFolder, CertificateFiles) {
    let folder = TemporaryFolder::new().unwrap();
    let files = certificates::make(&folder).unwrap();
    (folder, files)
}

/// Echoes everything over TLS; returns its port.
fn tls_echo_server(files: &CertificateFiles) -> u16 {
    let certificates = vec![CertificateDer::from_pem_file(&files.certificate).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap();
    let config = Arc::new(config);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, socket.unwrap());
            let mut bytes = [0; 16 * 1024];
            while let Ok(count) = stream.read(&mut bytes) {
                if count == 0 || stream.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
        }
    });
    port
}

#[test]
fn bytes_come_back_whole_through_tls() {
    let (_folder, made) = made_certificates();
    let port = tls_echo_server(&made);
    let address =
        Address::Tcp { host: "127.0.0.1".to_string(), port, tls: true, web: WebSocket::No };
    let files = TlsFiles { authorities: Some(made.authority.clone()), ..TlsFiles::default() };
    let mut stream = Stream::connect(&address, Duration::from_secs(5)).unwrap();
    stream.start_tls(&tls::settings(&files).unwrap(), "localhost").unwrap();
    assert!(stream.is_tls());
    let sent: Vec<u8> = (0..300_000u32).map(|number| (number % 251) as u8).collect();
    let mut received = Vec::new();
    let mut bytes = vec![0; 64 * 1024];
    let mut rest = &sent[..];
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while received.len() < sent.len() {
        assert!(std::time::Instant::now() < until, "only {} bytes came back", received.len());
        // In pieces: with everything at once the echo would block on its own answer.
        let piece = &rest[..rest.len().min(10_000)];
        if received.len() + 20_000 > sent.len() - rest.len() {
            let taken = stream.try_write(piece).unwrap();
            rest = &rest[taken..];
        } else if rest.len() == 1 {
            stream.write_all(rest).unwrap();
            rest = &[];
        }
        if let Some(count) = stream.read(&mut bytes).unwrap() {
            received.extend_from_slice(&bytes[..count]);
        }
        if rest.is_empty() {
            // What TLS still holds is sent by the next call, even of nothing.
            stream.try_write(&[]).unwrap();
        }
    }
    assert!(received == sent);
}

#[test]
fn a_certificate_of_an_unknown_authority_is_refused_unless_asked_otherwise() {
    let (_folder, made) = made_certificates();
    let port = tls_echo_server(&made);
    let address =
        Address::Tcp { host: "127.0.0.1".to_string(), port, tls: true, web: WebSocket::No };
    let handshake = |files: &TlsFiles, name: &str| {
        let mut stream = Stream::connect(&address, Duration::from_secs(5)).unwrap();
        stream.start_tls(&tls::settings(files).unwrap(), name)
    };
    let trusted = TlsFiles { authorities: Some(made.authority.clone()), ..TlsFiles::default() };
    assert!(handshake(&trusted, "localhost").is_ok());
    assert!(handshake(&trusted, "other.example").is_err());
    let insecure = TlsFiles { insecure: true, ..TlsFiles::default() };
    assert!(handshake(&insecure, "other.example").is_ok());
}

#[test]
fn a_unix_socket_carries_the_same_stream() {
    let path = std::env::temp_dir().join(format!("midge-bench-stream-{}.sock", std::process::id()));
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut bytes = [0; 4];
        socket.read_exact(&mut bytes).unwrap();
        socket.write_all(&bytes).unwrap();
    });
    let url = ServerUrl::parse(&format!("unix://{}", path.display())).unwrap();
    let mut stream = Stream::connect(&url.address, Duration::from_secs(5)).unwrap();
    assert_eq!(stream.try_read(&mut [0; 4]).unwrap(), None);
    stream.write_all(b"echo").unwrap();
    server.join().unwrap();
    let mut bytes = [0; 4];
    assert_eq!(stream.read(&mut bytes).unwrap(), Some(4));
    assert_eq!(&bytes, b"echo");
    assert_eq!(stream.read(&mut bytes).unwrap(), Some(0), "the end of the stream");
    std::fs::remove_file(&path).unwrap();
}
