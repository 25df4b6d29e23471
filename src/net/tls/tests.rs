//! The pipe against rustls' client, connected by byte strings.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier as _;
use rustls::sign::SingleCertAndKey;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};

use super::*;
use crate::config::tls_options::{CertificateOptions, TlsOptions, TlsVersion, Verify};
use crate::net::client_certificate::ClientCertificates;
use crate::net::server_key::read_pair;
use crate::net::signatures::algorithms;
use crate::net::test_certificates::{Authority, Pair, Wanted};

/// Files of one test, removed with it.
pub(in crate::net) struct TestFiles(PathBuf);

impl TestFiles {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("midge-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn pair(&self, name: &str, pair: &Pair) -> CertificateOptions {
        CertificateOptions {
            certificate_file: self.write(&format!("{name}.pem"), &pair.certificate_pem),
            key_file: self.write(&format!("{name}.key"), &pair.key_pem),
        }
    }
}

impl Drop for TestFiles {
    fn drop(&mut self) {
        // At worst the files are left behind.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct World {
    files: TestFiles,
    authority: Authority,
}

impl World {
    fn new(name: &str) -> Self {
        Self { files: TestFiles::new(name), authority: Authority::new("test authority") }
    }

    fn options(&self) -> TlsOptions {
        let certificates = vec![self.files.pair("server", &self.authority.issue_local())];
        TlsOptions { certificates, ..TlsOptions::default() }
    }

    /// Options that ask clients for a certificate.
    fn mutual_options(&self) -> TlsOptions {
        TlsOptions {
            verify: Verify::Required,
            certificate_authorities_file: Some(self.files.write("ca.pem", &self.authority.pem)),
            ..self.options()
        }
    }

    fn client(
        &self,
        version: &'static SupportedProtocolVersion,
        own: Option<&Pair>,
    ) -> ClientConnection {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            Some(pair) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap(),
                )
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
    }
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

/// Returns the bytes that the client has to send now.
fn said(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn tell(client: &mut ClientConnection, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

fn hear(client: &mut ClientConnection, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    client.reader().read_exact(&mut bytes).unwrap();
    bytes
}

/// Feeds in pieces of at most `piece` bytes.
fn feed(pipe: &mut TlsPipe, bytes: &[u8], piece: usize) -> Result<Vec<u8>, TlsFailure> {
    let mut opened = Vec::new();
    for part in bytes.chunks(piece) {
        pipe.feed(&mut part.to_vec(), |bytes| opened.extend_from_slice(bytes))?;
    }
    Ok(opened)
}

fn outgoing(pipe: &mut TlsPipe) -> Vec<u8> {
    let mut bytes = Vec::new();
    pipe.take_outgoing(&mut bytes);
    bytes
}

fn shake(
    client: &mut ClientConnection,
    pipe: &mut TlsPipe,
    piece: usize,
) -> Result<(), TlsFailure> {
    for _ in 0..8 {
        let result = feed(pipe, &said(client), piece);
        // A refused handshake is an error on the client's side too.
        let told = tell(client, &outgoing(pipe));
        assert!(result.is_err() || told.is_ok(), "{told:?}");
        result?;
        if !pipe.is_handshaking() && !client.is_handshaking() {
            return Ok(());
        }
    }
    panic!("the handshake does not end");
}

fn server(options: &TlsOptions) -> TlsServer {
    TlsServer::build(options, false).unwrap()
}

fn connected(
    world: &World,
    version: &'static SupportedProtocolVersion,
) -> (ClientConnection, TlsPipe) {
    let mut client = world.client(version, None);
    let mut pipe = TlsPipe::new(&server(&world.options())).unwrap();
    shake(&mut client, &mut pipe, usize::MAX).unwrap();
    (client, pipe)
}

fn text(size: usize) -> Vec<u8> {
    (0..size).map(|index| (index * 31 % 251) as u8).collect()
}

#[test]
fn bytes_pass_both_ways_however_they_are_cut() {
    let world = World::new("tls-both-ways");
    for version in VERSIONS {
        for piece in [1, 7, 1400, 70_000] {
            let mut client = world.client(version, None);
            let mut pipe = TlsPipe::new(&server(&world.options())).unwrap();
            shake(&mut client, &mut pipe, piece).unwrap();
            let facts = pipe.facts();
            let expected = if version == &rustls::version::TLS13 {
                ("1.3", "TLS_AES_128_GCM_SHA256")
            } else {
                ("1.2", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")
            };
            assert_eq!((facts.version, facts.cipher_suite.as_str()), expected);
            assert!(facts.peer_certificates.is_empty());
            for size in [1, 100, RECORD_BYTES, RECORD_BYTES + 1, 200_000] {
                let sent = text(size);
                let mut sealed = Vec::new();
                let size_max = pipe.sealed_size_max(size);
                pipe.seal(&sent, &mut sealed).unwrap();
                assert!(sealed.len() <= size_max, "{} > {size_max}", sealed.len());
                let mut heard = Vec::new();
                for part in sealed.chunks(RECORD_BYTES) {
                    tell(&mut client, part).unwrap();
                    // An error means that there is nothing more for now.
                    let _ = client.reader().read_to_end(&mut heard);
                }
                assert_eq!(heard, sent);
                for part in sent.chunks(30_000) {
                    client.writer().write_all(part).unwrap();
                    assert_eq!(feed(&mut pipe, &said(&mut client), piece).unwrap(), part);
                }
                assert_eq!(pipe.unread_bytes(), 0);
            }
        }
    }
}

#[test]
fn what_comes_with_the_last_handshake_bytes_is_opened() {
    let world = World::new("tls-early");
    let mut client = world.client(&rustls::version::TLS13, None);
    let mut pipe = TlsPipe::new(&server(&world.options())).unwrap();
    feed(&mut pipe, &said(&mut client), usize::MAX).unwrap();
    tell(&mut client, &outgoing(&mut pipe)).unwrap();
    client.writer().write_all(b"CONNECT {}").unwrap();
    assert_eq!(feed(&mut pipe, &said(&mut client), usize::MAX).unwrap(), b"CONNECT {}");
    assert!(!pipe.is_handshaking());
}

#[test]
fn key_updates_of_either_side_are_followed() {
    let world = World::new("tls-key-update");
    let (mut client, mut pipe) = connected(&world, &rustls::version::TLS13);
    for round in 0..20 {
        // This asks the server for an update in return.
        client.refresh_traffic_keys().unwrap();
        client.writer().write_all(b"to the server").unwrap();
        let piece = if round % 2 == 0 { 3 } else { usize::MAX };
        assert_eq!(feed(&mut pipe, &said(&mut client), piece).unwrap(), b"to the server");
        let mut sealed = outgoing(&mut pipe);
        let size_max = pipe.sealed_size_max(10);
        pipe.seal(b"to clients", &mut sealed).unwrap();
        assert!(sealed.len() <= size_max);
        tell(&mut client, &sealed).unwrap();
        assert_eq!(hear(&mut client, 10), b"to clients");
    }
}

#[test]
fn sealing_while_a_record_is_half_read_disturbs_neither() {
    let world = World::new("tls-half-read");
    for version in VERSIONS {
        let (mut client, mut pipe) = connected(&world, version);
        for cut in [1, 4, 5, 6, 20, 60] {
            if version == &rustls::version::TLS13 {
                client.refresh_traffic_keys().unwrap();
            }
            client.writer().write_all(b"halves of a whole").unwrap();
            let bytes = said(&mut client);
            let (head, tail) = bytes.split_at(cut.min(bytes.len()));
            let mut opened = feed(&mut pipe, head, usize::MAX).unwrap();
            let mut sealed = outgoing(&mut pipe);
            pipe.seal(b"meanwhile", &mut sealed).unwrap();
            tell(&mut client, &sealed).unwrap();
            assert_eq!(hear(&mut client, 9), b"meanwhile");
            opened.extend(feed(&mut pipe, tail, usize::MAX).unwrap());
            assert_eq!(opened, b"halves of a whole");
        }
    }
}

#[test]
fn the_end_of_the_stream_is_announced_and_seen() {
    let world = World::new("tls-end");
    for version in VERSIONS {
        let (mut client, mut pipe) = connected(&world, version);
        client.writer().write_all(b"last words").unwrap();
        client.send_close_notify();
        assert_eq!(feed(&mut pipe, &said(&mut client), usize::MAX).unwrap(), b"last words");
        assert!(pipe.peer_closed());
        let mut sealed = Vec::new();
        pipe.seal(b"answer", &mut sealed).unwrap();
        pipe.close_notify(&mut sealed);
        tell(&mut client, &sealed).unwrap();
        assert_eq!(hear(&mut client, 6), b"answer");
        // The end of the stream, not just of the bytes that are there.
        assert_eq!(client.reader().read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn a_peer_without_tls_is_told_nothing() {
    let world = World::new("tls-plain-peer");
    let mut pipe = TlsPipe::new(&server(&world.options())).unwrap();
    let failure = feed(&mut pipe, b"CONNECT {}\r\n", usize::MAX).unwrap_err();
    assert_eq!(
        failure.to_string(),
        "TLS handshake error: tls: first record does not look like a TLS handshake"
    );
    assert!(!pipe.has_outgoing());
    let mut last = Vec::new();
    pipe.close_notify(&mut last);
    assert!(last.is_empty());
}

#[test]
fn a_clients_certificate_is_verified_and_shown() {
    let world = World::new("tls-mutual");
    let wanted = Wanted { common_name: "alice", client: true, ..Wanted::default() };
    let alice = world.authority.issue(wanted);
    let expired = world.authority.issue(Wanted { expired: true, ..wanted });
    let stranger = Authority::new("another").issue(wanted);
    let wrong_use = world.authority.issue(Wanted { client: false, ..wanted });
    let server = server(&world.mutual_options());
    for version in VERSIONS {
        let outcome = |own: Option<&Pair>| {
            let mut pipe = TlsPipe::new(&server).unwrap();
            shake(&mut world.client(version, own), &mut pipe, usize::MAX).map(|()| pipe.facts())
        };
        let facts = outcome(Some(&alice)).unwrap();
        let der = CertificateDer::from_pem_slice(alice.certificate_pem.as_bytes()).unwrap();
        assert_eq!(facts.peer_certificates.len(), 1);
        assert_eq!(&*facts.peer_certificates[0], der.as_ref());
        let words = |own| outcome(own).unwrap_err().to_string();
        assert_eq!(words(None), "TLS handshake error: tls: client didn't provide a certificate");
        let lead = "TLS handshake error: tls: failed to verify certificate: x509: certificate";
        for (own, expected) in [
            (&stranger, "signed by unknown authority (CN=alice SHA-256: "),
            (&expired, "has expired or is not yet valid: current time "),
            (&wrong_use, "specifies an incompatible key usage (CN=alice SHA-256: "),
        ] {
            let words = words(Some(own));
            assert!(words.starts_with(&format!("{lead} {expected}")), "{words}");
        }
    }
}

/// Trusts any server that signs with its certificate's key.
#[derive(Debug)]
struct Trusting(ClientCertificates);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _own: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[test]
fn odd_certificates_shake_hands_on_either_side() {
    let files = TestFiles::new("tls-odd");
    let odd = |name: &str, certificate: &str, key: &str| CertificateOptions {
        certificate_file: files.write(&format!("{name}.pem"), certificate),
        key_file: files.write(&format!("{name}.key"), key),
    };
    let key = include_str!("../server_key/leaf.key");
    let pairs = [
        odd("p521", include_str!("../server_key/p521.pem"), include_str!("../server_key/p521.key")),
        odd("v1", include_str!("../server_key/version_1.pem"), key),
        odd("self", include_str!("../server_key/self_signed.pem"), key),
    ];
    let authorities = ["p521.pem", "ca.pem", "self_signed.pem"].map(|name| match name {
        "p521.pem" => include_str!("../server_key/p521.pem"),
        "ca.pem" => include_str!("../server_key/ca.pem"),
        _ => include_str!("../server_key/self_signed.pem"),
    });
    let authorities_file = files.write("authorities.pem", &authorities.concat());
    for version in VERSIONS {
        for own in &pairs {
            let server = server(&TlsOptions {
                certificates: vec![own.clone()],
                verify: Verify::Required,
                certificate_authorities_file: Some(authorities_file.clone()),
                ..TlsOptions::default()
            });
            for of_client in &pairs {
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let mut roots = RootCertStore::empty();
                roots
                    .add(CertificateDer::from_pem_slice(authorities[1].as_bytes()).unwrap())
                    .unwrap();
                let webpki =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
                let verifier =
                    ClientCertificates::new(webpki.build().unwrap(), Vec::new(), algorithms());
                let config = ClientConfig::builder_with_provider(provider)
                    .with_protocol_versions(&[version])
                    .unwrap()
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(Trusting(verifier)))
                    .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(
                        read_pair(of_client).unwrap(),
                    )));
                let name = ServerName::try_from("localhost").unwrap();
                let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
                let mut pipe = TlsPipe::new(&server).unwrap();
                shake(&mut client, &mut pipe, usize::MAX).unwrap();
                assert_eq!(pipe.facts().peer_certificates.len(), 1, "{own:?} {of_client:?}");
            }
        }
    }
}

#[test]
fn only_pinned_keys_pass() {
    let world = World::new("tls-pinned");
    let wanted = Wanted { common_name: "alice", client: true, ..Wanted::default() };
    let (alice, bob) = (world.authority.issue(wanted), world.authority.issue(wanted));
    let options =
        TlsOptions { pinned_certificates: [alice.key_id.clone()].into(), ..world.mutual_options() };
    let server = server(&options);
    let der =
        |pair: &Pair| CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).unwrap();
    assert!(server.is_pinned(Some(der(&alice).as_ref())));
    assert!(!server.is_pinned(Some(der(&bob).as_ref())));
    assert!(!server.is_pinned(Some(b"no certificate")));
    assert!(!server.is_pinned(None));
}

#[test]
fn a_client_refuses_an_expired_certificate_and_the_server_hears_why() {
    let world = World::new("tls-server-expired");
    let wanted = Wanted { names: &["localhost"], expired: true, ..Wanted::default() };
    let certificates = vec![world.files.pair("expired", &world.authority.issue(wanted))];
    let options = TlsOptions { certificates, ..TlsOptions::default() };
    let mut client = world.client(&rustls::version::TLS13, None);
    let mut pipe = TlsPipe::new(&server(&options)).unwrap();
    feed(&mut pipe, &said(&mut client), usize::MAX).unwrap();
    tell(&mut client, &outgoing(&mut pipe)).unwrap_err();
    let failure = feed(&mut pipe, &said(&mut client), usize::MAX).unwrap_err();
    assert_eq!(failure.to_string(), "TLS handshake error: remote error: tls: expired certificate");
}

#[test]
fn the_lowest_version_is_kept() {
    let world = World::new("tls-version");
    let options = TlsOptions { version_min: TlsVersion::V1_3, ..world.options() };
    let mut pipe = TlsPipe::new(&server(&options)).unwrap();
    let mut client = world.client(&rustls::version::TLS12, None);
    let failure = shake(&mut client, &mut pipe, usize::MAX).unwrap_err();
    let text = "TLS handshake error: tls: client offered only unsupported versions: [303]";
    assert_eq!(failure.to_string(), text);
    let mut pipe = TlsPipe::new(&server(&options)).unwrap();
    shake(&mut world.client(&rustls::version::TLS13, None), &mut pipe, usize::MAX).unwrap();
}

#[test]
fn no_resumption_skips_a_clients_certificate() {
    let world = World::new("tls-no-tickets");
    let server = server(&world.mutual_options());
    assert!(!server.config.ticketer.enabled());
    assert_eq!(server.config.send_tls13_tickets, 0);
}

/// Returns the beginning of a hello that would be 65,280 bytes long, in full records.
fn endless_hello(size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < size {
        bytes.extend([HANDSHAKE_RECORD, 3, 3, 0x40, 0]);
        let begin = bytes.len();
        if begin == 5 {
            bytes.extend([1, 0, 0xff, 0]);
        }
        bytes.resize(begin + RECORD_BYTES, 0x5a);
    }
    bytes.truncate(size);
    bytes
}

#[test]
fn an_unfinished_hello_is_held_up_to_its_bound() {
    let world = World::new("tls-bound");
    let server = server(&world.options());
    const MAX: usize = TLS_UNREAD_HANDSHAKE_BYTES_MAX;
    for piece in [1000, usize::MAX] {
        for size in [MAX - 1, MAX, MAX + 1] {
            let mut pipe = TlsPipe::new(&server).unwrap();
            let result = feed(&mut pipe, &endless_hello(size), piece);
            if size <= MAX {
                assert_eq!(result, Ok(Vec::new()));
                assert_eq!(pipe.unread_bytes(), size);
            } else {
                assert_eq!(result, Err(TlsFailure::TooLarge));
                assert_eq!(pipe.unread_bytes(), 0);
            }
        }
    }
}

/// Random input before the handshake has ended: from noise to a valid handshake with a few bytes
/// changed.
#[test]
fn no_bytes_before_the_login_panic_or_pile_up() {
    let world = World::new("tls-fuzz");
    let wanted = Wanted { common_name: "alice", client: true, ..Wanted::default() };
    let alice = world.authority.issue(wanted);
    let servers = [server(&world.options()), server(&world.mutual_options())];
    for seed in 0..20_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let server = &servers[random.usize(..2)];
        let version = VERSIONS[random.usize(..2)];
        let mut pipe = TlsPipe::new(server).unwrap();
        let mut client = world.client(version, Some(&alice));
        let mut fed = 0;
        for _ in 0..6 {
            let mut bytes = said(&mut client);
            mutate(&mut random, &mut bytes);
            let piece = random.usize(1..3000);
            fed += bytes.len();
            let result = feed(&mut pipe, &bytes, piece);
            assert!(pipe.unread_bytes() <= TLS_UNREAD_BYTES_MAX, "seed {seed}");
            assert!(pipe.outgoing.len() <= 64 << 10, "seed {seed}");
            let answer = outgoing(&mut pipe);
            if !pipe.is_handshaking() && result.is_ok() {
                let mut sealed = Vec::new();
                // Refused once the peer's bytes were; either outcome is fine, a panic is not.
                let _ = pipe.seal(b"INFO {}", &mut sealed);
            }
            if result.is_err() || tell(&mut client, &answer).is_err() {
                break;
            }
            client.writer().write_all(&text(random.usize(..100))).unwrap();
        }
        assert!(fed < 1 << 20);
        pipe.close_notify(&mut Vec::new());
    }
}

/// After the handshake: records cut, mixed and damaged, with sealing in between.
#[test]
fn no_bytes_after_the_handshake_panic_or_pile_up() {
    let world = World::new("tls-fuzz-after");
    for seed in 0..400 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut client, mut pipe) = connected(&world, VERSIONS[random.usize(..2)]);
        for _ in 0..20 {
            client.writer().write_all(&text(random.usize(..40_000))).unwrap();
            if random.u8(..) < 60 && client.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
                client.refresh_traffic_keys().unwrap();
            }
            let mut bytes = said(&mut client);
            if random.u8(..) < 40 {
                mutate(&mut random, &mut bytes);
            }
            let mut failed = false;
            for part in bytes.chunks(random.usize(1..20_000)) {
                failed |= feed(&mut pipe, part, usize::MAX).is_err();
                assert!(pipe.unread_bytes() <= TLS_UNREAD_BYTES_MAX, "seed {seed}");
                let sealed = pipe.seal(b"MSG", &mut Vec::new());
                assert!(!failed || sealed.is_err(), "seed {seed}");
            }
            if failed {
                break;
            }
        }
    }
}

fn mutate(random: &mut fastrand::Rng, bytes: &mut Vec<u8>) {
    match random.u8(..6) {
        0 => {}
        1 => {
            let size = random.usize(..40_000);
            let first = if random.bool() { HANDSHAKE_RECORD } else { random.u8(..) };
            *bytes = (0..size).map(|_| random.u8(..)).collect();
            bytes.insert(0, first);
        }
        2 => bytes.truncate(random.usize(..=bytes.len())),
        // A handshake message that is announced as large and never ends.
        3 => {
            *bytes = vec![HANDSHAKE_RECORD, 3, 3, 0x40, 0, 1, 0, random.u8(0x40..), 0];
            bytes.resize(5 + 0x4000, random.u8(..));
            let whole = bytes.clone();
            (0..random.usize(..4)).for_each(|_| bytes.extend_from_slice(&whole));
        }
        _ => {
            for _ in 0..random.usize(1..5) {
                if !bytes.is_empty() {
                    let index = random.usize(..bytes.len());
                    bytes[index] = random.u8(..);
                }
            }
        }
    }
}

/// A ClientHello of that version, with these extensions.
fn client_hello(version: u16, extensions: &[u8]) -> Vec<u8> {
    let mut hello = version.to_be_bytes().to_vec();
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x13, 1, 0]);
    if !extensions.is_empty() {
        hello.extend((extensions.len() as u16).to_be_bytes());
        hello.extend(extensions);
    }
    let size = hello.len();
    let mut record = vec![HANDSHAKE_RECORD, 3, 1];
    record.extend((size as u16 + 4).to_be_bytes());
    record.extend([1, 0, (size >> 8) as u8, size as u8]);
    record.extend(hello);
    record
}

/// Expected texts are those of nats-server 2.15.3.
#[test]
fn versions_that_are_not_supported_are_named() {
    let world = World::new("tls-versions");
    let server = TlsServer::build(&world.options(), false).unwrap();
    for (hello, shown) in [
        (client_hello(0x0302, &[]), "[302 301]"),
        (client_hello(0x0301, &[]), "[301]"),
        (client_hello(0x0303, &[0, 43, 0, 5, 4, 3, 2, 3, 1]), "[302 301]"),
    ] {
        let mut pipe = TlsPipe::new(&server).unwrap();
        let failure = pipe.feed(&mut hello.clone(), |_| {}).unwrap_err();
        let expected =
            format!("TLS handshake error: tls: client offered only unsupported versions: {shown}");
        assert_eq!(failure.to_string(), expected);
        // Cut anywhere, it is no hello.
        for end in 0..hello.len() {
            assert_eq!(offered_versions(&hello[..end]), None, "{end}");
        }
    }
    assert_eq!(offered_versions(&[HANDSHAKE_RECORD, 3, 1, 0, 4, 2, 0, 0, 0]), None);
}
