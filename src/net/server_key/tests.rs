//! Keys of every kind that nats-server accepts: used, or refused by name.

use super::*;
use crate::net::tls::tests::TestFiles;

fn read_texts(name: &str, certificate: &str, key: &str) -> Result<CertifiedKey, String> {
    let files = TestFiles::new(name);
    let certificate_file = files.write("own.pem", certificate);
    let key_file = files.write("own.key", key);
    read_pair(&CertificateOptions { certificate_file, key_file })
}

#[test]
fn a_key_on_p521_and_a_certificate_of_version_1_are_used() {
    let p521 = (include_str!("p521.pem"), include_str!("p521.key"));
    let pair = read_texts("key-p521", p521.0, p521.1).expect("P-521 is supported");
    let offered = [SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ECDSA_NISTP521_SHA512];
    assert!(pair.key.choose_scheme(&offered[..1]).is_none());
    let signer = pair.key.choose_scheme(&offered).expect("it was offered");
    assert_eq!(signer.scheme(), SignatureScheme::ECDSA_NISTP521_SHA512);
    assert!(!format!("{:?} {signer:?}", pair.key).contains("Scalar"));

    let version_1 = (include_str!("version_1.pem"), include_str!("leaf.key"));
    read_texts("key-v1", version_1.0, version_1.1).expect("version 1 is supported");
    for (certificate, key) in [(version_1.0, p521.1), (p521.0, version_1.1)] {
        let refusal = read_texts("key-other", certificate, key).unwrap_err();
        assert!(refusal.starts_with("tls: private key does not match public key ("), "{refusal}");
    }
}

#[test]
fn a_key_that_cannot_be_used_is_refused_by_name() {
    for (certificate, key, expected) in [
        (
            include_str!("r1024.pem"),
            include_str!("r1024.key"),
            "tls: an RSA key of 1024 bits is not supported for the server's own certificate, only 2048 \
             to 4096 (",
        ),
        (
            include_str!("p224.pem"),
            include_str!("p224.key"),
            "tls: an elliptic curve of 224 bits is not supported, only P-256, P-384 and P-521 (",
        ),
    ] {
        let refusal = read_texts("key-refused", certificate, key).unwrap_err();
        assert!(refusal.starts_with(expected), "{refusal}");
        assert!(refusal.ends_with("own.key)"), "{refusal}");
    }
}

/// Go's words; the reason is Midge's.
#[test]
fn a_key_file_without_a_readable_key_is_named_for_what_it_has() {
    let block = |label: &str, body: &str| {
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
    };
    let old = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00112233445566778899AABBCCDDEEFF\n\n\
               c2VjcmV0";
    let certificate = include_str!("version_1.pem");
    for (key, expected) in [
        ("junk".to_owned(), "tls: failed to find any PEM data in key input ("),
        (
            block("ENCRYPTED PRIVATE KEY", "c2VjcmV0"),
            "tls: failed to parse private key: it is encrypted (",
        ),
        (block("RSA PRIVATE KEY", old), "tls: failed to parse private key: it is encrypted ("),
        (block("DSA PRIVATE KEY", "c2VjcmV0"), "tls: failed to parse private key ("),
        (
            certificate.to_owned(),
            "tls: found a certificate rather than a key in the PEM for the private key (",
        ),
        (
            certificate.to_owned() + certificate,
            "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after \
             skipping PEM blocks of the following types: [CERTIFICATE CERTIFICATE] (",
        ),
    ] {
        let refusal = read_texts("key-none", certificate, &key).unwrap_err();
        assert!(refusal.starts_with(expected), "{refusal}");
    }
}
