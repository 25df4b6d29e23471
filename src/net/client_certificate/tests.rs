//! The verdict on every kind of certificate, the same as nats-server's.

use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::{AlertDescription, RootCertStore};

use super::*;
use crate::net::signatures::algorithms;

/// In 2027, seconds since 1970: all certificates but one are valid.
const NOW: u64 = 1_800_000_000;

fn certificate(name: &str) -> CertificateDer<'static> {
    let all = include_str!("certificates.pem");
    let start = all.find(&format!("\n{name}\n")).unwrap_or_else(|| panic!("no certificate {name}"));
    CertificateDer::from_pem_slice(&all.as_bytes()[start..]).expect("PEM")
}

fn verifier(authorities: &[&str]) -> ClientCertificates {
    let authorities: Vec<_> = authorities.iter().map(|name| certificate(name)).collect();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities.iter().cloned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let webpki = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    ClientCertificates::new(webpki.build().expect("roots"), authorities, algorithms())
}

/// Returns the log's text, without the certificates' names, and the alert. None = accepted.
fn refusal(
    authorities: &[&str],
    own: &str,
    others: &[&str],
    now: u64,
) -> Option<(String, AlertDescription)> {
    let others: Vec<_> = others.iter().map(|name| certificate(name)).collect();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
    let own = certificate(own);
    match verifier(authorities).verify_client_cert(&own, &others, now) {
        Ok(_) => {
            assert_eq!(take_refusal(), None);
            None
        }
        Err(Error::InvalidCertificate(error)) => {
            let text = take_refusal().expect("a refusal has its words");
            let (text, names) = text.rsplit_once(" (CN=").expect("it names the certificates");
            assert_eq!(names.matches(" SHA-256: ").count(), 1 + others.len(), "{names}");
            Some((text.to_owned(), error.into()))
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn certificates_that_nats_server_accepts_are_accepted() {
    for (authority, own, others) in [
        ("ca", "version_1", &[][..]),
        ("ca", "authority", &[]),
        ("ca", "under_intermediate", &["intermediate"]),
        // Other certificates may accompany the chain, in any order.
        ("ca", "under_intermediate", &["under_intermediate", "self_signed", "intermediate"]),
        ("self_signed", "self_signed", &[]),
        ("no_signer", "no_signer", &[]),
        ("small_ca", "under_small", &[]),
        ("small_ca", "small_ca", &[]),
        ("p521_ca", "under_p521", &[]),
        ("p521_ca", "under_p521_sha512", &[]),
        ("p521_ca", "p521_ca", &[]),
        ("r8192", "under_big", &[]),
    ] {
        assert_eq!(refusal(&[authority], own, others, NOW), None, "{own} under {authority}");
        assert_eq!(refusal(&["sha1", authority], own, others, NOW), None, "{own} of several");
    }
}

#[test]
fn what_nats_server_refuses_is_refused_in_its_words() {
    use AlertDescription::{BadCertificate, CertificateExpired, UnknownCA};
    let unknown = "x509: certificate signed by unknown authority";
    let hint = |reason: &str, name: &str| {
        format!(
            "{unknown} (possibly because of \"{reason}\" while trying to verify candidate authority \
             certificate \"{name}\")"
        )
    };
    let wrong_key = hint("crypto/rsa: verification error", "ca");
    let insecure = hint("x509: cannot verify signature: insecure algorithm SHA1-RSA", "ca");
    let cannot_sign = hint(
        "x509: invalid signature: parent certificate cannot sign this kind of certificate",
        "nosign",
    );
    let not_authorized = "x509: certificate is not authorized to sign other certificates";
    for (authority, own, others, text, alert) in [
        ("ca", "self_signed", &[][..], unknown, UnknownCA),
        ("self_signed", "version_1", &[], unknown, UnknownCA),
        ("ca", "under_intermediate", &[], unknown, UnknownCA),
        ("ca", "other_key", &[], &wrong_key, UnknownCA),
        ("ca", "sha1", &[], &insecure, UnknownCA),
        ("no_signer", "under_no_signer", &[], &cannot_sign, UnknownCA),
        ("ca", "under_intermediate", &["intermediate_v1"], not_authorized, BadCertificate),
        (
            "ca",
            "for_servers",
            &[],
            "x509: certificate specifies an incompatible key usage",
            BadCertificate,
        ),
        ("ca", "critical", &[], "x509: unhandled critical extension", BadCertificate),
        (
            "ca",
            "expired",
            &[],
            "x509: certificate has expired or is not yet valid: current time 2027-01-15T08:00:00Z is \
             after 2026-11-28T11:27:29Z",
            CertificateExpired,
        ),
        (
            "short_ca",
            "under_short",
            &["intermediate_short"],
            "x509: too many intermediates for path length constraint",
            BadCertificate,
        ),
        // nats-server checks the names; here it is refused as a whole, so nothing gets through.
        (
            "constrained_ca",
            "under_constrained",
            &[],
            "x509: name constraints are not supported for this kind of certificate",
            BadCertificate,
        ),
    ] {
        let expected = Some((text.to_owned(), alert));
        assert_eq!(refusal(&[authority], own, others, NOW), expected, "{own} under {authority}");
    }
    let early = refusal(&["ca"], "version_1", &[], 1_000_000_000).expect("not yet valid");
    assert!(early.0.contains("current time 2001-09-09T01:46:40Z is before 20"), "{}", early.0);
}

#[test]
fn bytes_that_are_not_a_certificate_are_refused() {
    let verifier = verifier(&["ca"]);
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
    let whole = certificate("version_1");
    for size in 0..whole.len() {
        let cut = CertificateDer::from(&whole[..size]);
        verifier.verify_client_cert(&cut, &[], now).unwrap_err();
        verifier.verify_client_cert(&whole, &[cut], now).unwrap_err();
    }
    for index in 0..whole.len() {
        let mut damaged = whole.to_vec();
        damaged[index] ^= 0x41;
        verifier.verify_client_cert(&damaged.into(), &[], now).unwrap_err();
    }
    take_refusal();
}

/// Many certificates that all claim to be each other's issuer cost a bounded number of signatures.
#[test]
fn a_search_ends_at_its_bound() {
    let leaf = certificate("under_p521");
    let issuers = |count| vec![certificate("p521_ca"); count];
    let verifier = verifier(&["ca"]);
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
    for (count, expected) in [
        (CHAIN_CERTIFICATES_MAX, "x509: certificate signed by unknown authority"),
        (CHAIN_CERTIFICATES_MAX + 1, "x509: more than 10 intermediate certificates"),
    ] {
        verifier.verify_client_cert(&leaf, &issuers(count), now).unwrap_err();
        let text = take_refusal().expect("a refusal has its words");
        assert!(text.starts_with(expected), "{count}: {text}");
    }
    // More signatures that do not verify than the bound allows.
    let authorities = vec![certificate("ca"); CHAIN_SIGNATURES_MAX + 1];
    let search = Search::new(&authorities, &[], algorithms(), NOW as i64);
    let Ok(search) = search else { panic!("all are certificates") };
    let Err(refusal) = search.verify(&certificate("other_key")) else { panic!("the key is wrong") };
    assert!(refusal.text.starts_with("x509: signature check attempts limit"), "{}", refusal.text);
}
