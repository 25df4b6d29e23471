//! Files and names of the `tls` block.

use rustls::pki_types::PrivateKeyDer;

use super::*;
use crate::config::tls_options::TlsOptions;
use crate::net::test_certificates::{Authority, Wanted};
use crate::net::tls::tests::TestFiles;

struct World {
    files: TestFiles,
    authority: Authority,
    good: CertificateOptions,
}

impl World {
    fn new(name: &str) -> Self {
        let (files, authority) = (TestFiles::new(name), Authority::new("test authority"));
        let good = files.pair("good", &authority.issue_local());
        Self { files, authority, good }
    }

    fn options(&self) -> TlsOptions {
        TlsOptions { certificates: vec![self.good.clone()], ..TlsOptions::default() }
    }
}

fn refusal(options: &TlsOptions) -> String {
    TlsServer::build(options, false).expect_err("refused")
}

fn refusal_of(certificate_file: &Path, key_file: &Path) -> String {
    let pair =
        CertificateOptions { certificate_file: certificate_file.into(), key_file: key_file.into() };
    refusal(&TlsOptions { certificates: vec![pair], ..TlsOptions::default() })
}

#[test]
fn an_error_in_a_file_is_reported_with_the_files_name() {
    let world = World::new("tls-files");
    let (certificate, key) = (&world.good.certificate_file, &world.good.key_file);
    let garbage = world.files.write("garbage.pem", "garbage");
    let broken = world
        .files
        .write("broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let other = world.files.pair("other", &world.authority.issue_local());
    let lead = "error parsing X509 certificate/key pair: ";
    let expect = |found: String, text: &str, file: &Path| {
        assert_eq!(found, format!("{lead}{text} ({})", file.display()));
    };
    let text = "tls: failed to find any PEM data in certificate input";
    expect(refusal_of(&garbage, key), text, &garbage);
    let text = "tls: failed to find certificate PEM data in certificate input, but did find a private \
                key; PEM inputs may have been switched";
    expect(refusal_of(key, certificate), text, key);
    expect(
        refusal_of(certificate, &garbage),
        "tls: failed to find any PEM data in key input",
        &garbage,
    );
    let text = "tls: found a certificate rather than a key in the PEM for the private key";
    expect(refusal_of(certificate, certificate), text, certificate);
    let text = "tls: private key does not match public key";
    expect(refusal_of(certificate, &other.key_file), text, &other.key_file);
    expect(refusal_of(&broken, key), "x509: malformed certificate", &broken);
    let absent = Path::new("/nonexistent/server.pem");
    let text = "open /nonexistent/server.pem: no such file or directory";
    assert_eq!(refusal_of(absent, key), format!("{lead}{text}"));

    let several = vec![
        world.good.clone(),
        CertificateOptions { certificate_file: garbage.clone(), key_file: key.clone() },
    ];
    let found = refusal(&TlsOptions { certificates: several, ..TlsOptions::default() });
    assert!(found.starts_with("error parsing X509 certificate/key pair 2/2: "), "{found}");

    let options =
        TlsOptions { certificate_authorities_file: Some(garbage.clone()), ..world.options() };
    let text = format!("failed to parse root ca certificate ({})", garbage.display());
    assert_eq!(refusal(&options), text);
    let options = TlsOptions { verify: Verify::Required, ..world.options() };
    assert_eq!(refusal(&options), "tls: 'verify' needs a 'ca_file'");
}

/// Made by `openssl genrsa -traditional 2048` and `openssl ecparam -name prime256v1 -genkey`; they
/// protect nothing.
const RSA_KEY: &str = include_str!("rsa_pkcs1.key");
const EC_KEY: &str = include_str!("ec_sec1.key");

#[test]
fn keys_are_read_in_every_pem_format() {
    for text in [RSA_KEY, EC_KEY] {
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).unwrap();
        ring::sign::any_supported_type(&key).unwrap();
    }
    assert!(RSA_KEY.contains("BEGIN RSA PRIVATE KEY") && EC_KEY.contains("BEGIN EC PRIVATE KEY"));
    let world = World::new("tls-wrappings");
    TlsServer::build(&world.options(), false).unwrap();
}

#[test]
fn suites_and_curves_have_gos_names() {
    let world = World::new("tls-names");
    let with_suites = |names: &[&str]| TlsOptions {
        cipher_suites: names.iter().map(|name| (*name).to_owned()).collect(),
        ..world.options()
    };
    let names = |options: &TlsOptions| -> Vec<String> {
        let suites = provider(options).unwrap().cipher_suites;
        suites.iter().map(suite_name).skip(3).collect()
    };
    assert_eq!(names(&world.options()).len(), 6);
    let chosen = ["TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"];
    assert_eq!(names(&with_suites(&chosen)), chosen);
    // As in Go, TLS 1.3 has its suites whatever the list says.
    assert!(names(&with_suites(&["TLS_AES_128_GCM_SHA256"])).is_empty());
    assert_eq!(
        refusal(&with_suites(&["TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"])),
        "tls: cipher suite TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA: cipher suites in CBC mode are not supported"
    );
    assert_eq!(
        refusal(&with_suites(&["TLS_RSA_WITH_RC4_128_SHA"])),
        "tls: cipher suite TLS_RSA_WITH_RC4_128_SHA: insecure cipher suites are not supported"
    );
    let with_curves = |names: &[&str]| TlsOptions {
        curve_preferences: names.iter().map(|name| (*name).to_owned()).collect(),
        ..world.options()
    };
    let groups = provider(&with_curves(&["CurveP384", "X25519"])).unwrap().kx_groups;
    let groups: Vec<_> = groups.iter().map(|group| group.name()).collect();
    assert_eq!(groups, [rustls::NamedGroup::secp384r1, rustls::NamedGroup::X25519]);
    for name in ["CurveP521", "X25519MLKEM768"] {
        let text = format!("tls: curve preference {name} is not supported");
        assert_eq!(refusal(&with_curves(&[name])), text);
    }
}

#[test]
fn a_certificate_is_for_the_names_in_it() {
    let authority = Authority::new("test authority");
    let files = TestFiles::new("tls-sni");
    let issue = |names| authority.issue(Wanted { names, ..Wanted::default() });
    let read = |name: &str, names| server_key::read_pair(&files.pair(name, &issue(names))).unwrap();
    let certificate = read("wild", &["*.example.com", "other.org"]);
    let is_for_name = |name: &str| is_for(&certificate, &ServerName::try_from(name).unwrap());
    assert!(is_for_name("a.example.com") && is_for_name("other.org"));
    assert!(!is_for_name("example.com") && !is_for_name("a.b.example.com"));
}
