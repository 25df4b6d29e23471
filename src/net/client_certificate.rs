//! Verifies client certificates: by webpki's rules first, then by the rules under which Go accepts
//! more.
//!
//! Go accepts some certificates that webpki refuses on principle: version 1, a client's own
//! certificate that claims to be an authority, one that is itself in `ca_file`. For these a chain
//! is built here; if an authority constrains the names it signs for, only webpki's verdict counts.
//! Invariant: whatever is accepted has a chain of verified signatures to a certificate in
//! `ca_file`, and every certificate in it is valid now and meant for clients. Source: Go
//! crypto/x509 verify.go.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved,
    SignatureScheme,
};
use sha2::{Digest, Sha256};
use x509_parser::asn1_rs::Any;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{OID_PKCS1_RSAENCRYPTION, OID_PKCS1_SHA1WITHRSA, OID_SIG_ED25519};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use crate::auth::{certificate, tls_map};
use crate::base::limits::{CHAIN_CERTIFICATES_MAX, CHAIN_SIGNATURES_MAX};
use crate::base::time_text::timestamp;

thread_local! {
    /// Why the last certificate on this thread was refused: errors of rustls cannot carry the text.
    static REFUSAL: Cell<Option<String>> = const { Cell::new(None) };
}

/// Takes the reason for which a certificate was refused since the last call, in nats-server's
/// words.
pub(crate) fn take_refusal() -> Option<String> {
    REFUSAL.take()
}

/// The verifier of client certificates, with the module's invariant.
#[derive(Debug)]
pub(crate) struct ClientCertificates {
    webpki: Arc<dyn ClientCertVerifier>,
    /// The certificates of `ca_file`.
    authorities: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertificates {
    pub(crate) fn new(
        webpki: Arc<dyn ClientCertVerifier>,
        authorities: Vec<CertificateDer<'static>>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Self {
        Self { webpki, authorities, algorithms }
    }

    /// Verifies a signature with at most `tries` of a scheme's algorithms.
    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
        tries: usize,
    ) -> Result<HandshakeSignatureValid, Error> {
        let bad = || Error::InvalidCertificate(CertificateError::BadEncoding);
        let parsed = Certificate::parse(certificate).ok_or_else(bad)?;
        let schemes = self.algorithms.mapping;
        let (_, algorithms) = schemes
            .iter()
            .find(|(scheme, _)| *scheme == signed.scheme)
            .ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        let algorithm = algorithms
            .iter()
            .take(tries)
            .find(|algorithm| *algorithm.public_key_alg_id() == *parsed.key_algorithm)
            .ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        match algorithm.verify_signature(parsed.key(), message, signed.signature()) {
            Ok(()) => Ok(HandshakeSignatureValid::assertion()),
            Err(_) => {
                if let Ok(PublicKey::RSA(key)) = parsed.parsed.public_key().parsed()
                    && key.key_size() < 2048
                {
                    let bits = key.key_size();
                    let text = format!(
                        "an RSA key of {bits} bits is not supported with PSS, as TLS 1.3 has it"
                    );
                    REFUSAL.set(Some(text));
                }
                Err(Error::InvalidCertificate(CertificateError::BadSignature))
            }
        }
    }
}

impl ClientCertVerifier for ClientCertificates {
    fn client_auth_mandatory(&self) -> bool {
        self.webpki.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if others.len() > CHAIN_CERTIFICATES_MAX {
            let text =
                format!("x509: more than {CHAIN_CERTIFICATES_MAX} intermediate certificates");
            return Err(refuse(Refusal::bad(&text), own, others));
        }
        if self.webpki.verify_client_cert(own, others, now).is_ok() {
            return Ok(ClientCertVerified::assertion());
        }
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let search = Search::new(&self.authorities, others, self.algorithms, now);
        search.and_then(|search| search.verify(own)).map_err(|refusal| refuse(refusal, own, others))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signed, usize::MAX)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !is_of_tls13(signed.scheme) {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        self.verify_signature(message, certificate, signed, 1)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Returns true for schemes of TLS 1.3, which has no PKCS #1 signatures and ties the curve to the
/// hash.
fn is_of_tls13(scheme: SignatureScheme) -> bool {
    matches!(
        scheme,
        SignatureScheme::ECDSA_NISTP256_SHA256
            | SignatureScheme::ECDSA_NISTP384_SHA384
            | SignatureScheme::ECDSA_NISTP521_SHA512
            | SignatureScheme::ED25519
            | SignatureScheme::RSA_PSS_SHA256
            | SignatureScheme::RSA_PSS_SHA384
            | SignatureScheme::RSA_PSS_SHA512
    )
}

fn refuse(refusal: Refusal, own: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Error {
    REFUSAL.set(Some(format!("{}{}", refusal.text, named(own, others))));
    Error::InvalidCertificate(refusal.error)
}

fn moment(seconds: i64) -> String {
    let size = Duration::from_secs(seconds.unsigned_abs());
    timestamp(if seconds < 0 { UNIX_EPOCH - size } else { UNIX_EPOCH + size })
}

/// Names the presented certificates for the log. Source: nats-server doTLSHandshake.
fn named(own: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> String {
    let name = |der: &CertificateDer<'_>| {
        let subject = certificate::subject(der).unwrap_or_default();
        let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(der));
        format!("{} SHA-256: {digest}", tls_map::subject_text(&subject))
    };
    let all = std::iter::once(own).chain(others.iter().take(CHAIN_CERTIFICATES_MAX));
    let names: Vec<String> = all.map(name).collect();
    format!(" ({})", names.join("; "))
}

/// Why there is no chain. The error determines the alert.
struct Refusal {
    text: String,
    error: CertificateError,
}

impl Refusal {
    /// A refusal for which the peer gets the alert `bad_certificate`.
    fn bad(text: &str) -> Self {
        Self { text: text.to_owned(), error: CertificateError::BadEncoding }
    }
}

/// A parsed certificate, with those of its bytes that signatures cover.
struct Certificate<'a> {
    der: &'a [u8],
    parsed: X509Certificate<'a>,
    key_algorithm: &'a [u8],
    signature_algorithm: &'a [u8],
}

impl<'a> Certificate<'a> {
    fn parse(der: &'a [u8]) -> Option<Self> {
        let parsed = certificate::parse(der)?;
        let (_, key) = Any::from_der(parsed.tbs_certificate.subject_pki.raw).ok()?;
        let (_, key_algorithm) = Any::from_der(key.data).ok()?;
        let (_, whole) = Any::from_der(der).ok()?;
        let (rest, _) = Any::from_der(whole.data).ok()?;
        let (_, signature_algorithm) = Any::from_der(rest).ok()?;
        let (key_algorithm, signature_algorithm) = (key_algorithm.data, signature_algorithm.data);
        Some(Self { der, parsed, key_algorithm, signature_algorithm })
    }

    fn key(&self) -> &[u8] {
        &self.parsed.public_key().subject_public_key.data
    }

    /// Returns true if the certificate claims to be an authority; None if it does not say.
    fn is_authority(&self) -> Option<bool> {
        let constraints = self.parsed.basic_constraints().ok()??;
        Some(constraints.value.ca)
    }

    /// Returns true if it may sign other certificates. A root of version 1 cannot say so.
    fn may_sign(&self) -> bool {
        let is_version_3 = self.parsed.version().0 == 2;
        let says = match self.is_authority() {
            Some(is_authority) => is_authority,
            None => !is_version_3,
        };
        says && match self.parsed.key_usage() {
            Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
            Err(_) => false,
        }
    }

    /// Returns true if it is meant for clients, or for nothing in particular.
    fn is_for_clients(&self) -> bool {
        match self.parsed.extended_key_usage() {
            Ok(usage) => usage.is_none_or(|usage| usage.value.any || usage.value.client_auth),
            Err(_) => false,
        }
    }

    fn limits_names(&self) -> bool {
        self.parsed.name_constraints().is_ok_and(|constraints| constraints.is_some())
            || self.parsed.name_constraints().is_err()
    }

    /// Checks one certificate of a chain at its place; `below` is the number of certificates below
    /// it.
    fn check(&self, place: Place, below: usize, now: i64) -> Result<(), Refusal> {
        let unknown = self.parsed.extensions().iter().any(|extension| {
            let is_known = matches!(
                extension.parsed_extension(),
                ParsedExtension::KeyUsage(_)
                    | ParsedExtension::BasicConstraints(_)
                    | ParsedExtension::SubjectAlternativeName(_)
                    | ParsedExtension::NameConstraints(_)
                    | ParsedExtension::ExtendedKeyUsage(_)
                    | ParsedExtension::CertificatePolicies(_)
                    | ParsedExtension::AuthorityKeyIdentifier(_)
                    | ParsedExtension::SubjectKeyIdentifier(_)
            );
            extension.critical && !is_known
        });
        if unknown {
            return Err(Refusal::bad("x509: unhandled critical extension"));
        }
        let validity = self.parsed.validity();
        let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        let outside = match () {
            () if now < from => Some(("before", from)),
            () if now > until => Some(("after", until)),
            () => None,
        };
        if let Some((side, end)) = outside {
            let (now, end) = (moment(now), moment(end));
            let text = format!(
                "x509: certificate has expired or is not yet valid: current time {now} is {side} {end}"
            );
            return Err(Refusal { text, error: CertificateError::Expired });
        }
        if place != Place::Own && self.limits_names() {
            let text = "x509: name constraints are not supported for this kind of certificate";
            return Err(Refusal::bad(text));
        }
        if place == Place::Intermediate && self.is_authority() != Some(true) {
            let text = "x509: certificate is not authorized to sign other certificates";
            return Err(Refusal::bad(text));
        }
        let length = self.parsed.basic_constraints().ok().flatten();
        let length = length.and_then(|constraints| constraints.value.path_len_constraint);
        if length.is_some_and(|max| below.saturating_sub(1) > max as usize) {
            let text = "x509: too many intermediates for path length constraint";
            return Err(Refusal::bad(text));
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Own,
    Intermediate,
    Authority,
}

/// Searches for a chain from a client's own certificate to an authority.
struct Search<'a> {
    authorities: Vec<Certificate<'a>>,
    intermediates: Vec<Certificate<'a>>,
    algorithms: WebPkiSupportedAlgorithms,
    /// Seconds since 1970.
    now: i64,
}

/// What a search came across.
#[derive(Default)]
struct Met {
    signature_count: usize,
    /// The first signature that did not verify, with the authority's name.
    hint: Option<(String, String)>,
    refusal: Option<Refusal>,
}

impl<'a> Search<'a> {
    fn new(
        authorities: &'a [CertificateDer<'_>],
        intermediates: &'a [CertificateDer<'_>],
        algorithms: WebPkiSupportedAlgorithms,
        now: i64,
    ) -> Result<Self, Refusal> {
        let authorities = authorities.iter().filter_map(|der| Certificate::parse(der)).collect();
        let malformed = || Refusal::bad("x509: malformed certificate");
        let intermediates = intermediates
            .iter()
            .map(|der| Certificate::parse(der).ok_or_else(malformed))
            .collect::<Result<_, _>>()?;
        Ok(Self { authorities, intermediates, algorithms, now })
    }

    fn verify(&self, own: &CertificateDer<'_>) -> Result<ClientCertVerified, Refusal> {
        let malformed = || Refusal::bad("x509: malformed certificate");
        let own = Certificate::parse(own).ok_or_else(malformed)?;
        own.check(Place::Own, 0, self.now)?;
        let mut chain = vec![&own];
        let mut met = Met::default();
        let is_authority = self.authorities.iter().any(|authority| authority.der == own.der);
        if !is_authority && !self.extend(&mut chain, &mut met) {
            return Err(met.into_refusal());
        }
        if chain.iter().any(|certificate| !certificate.is_for_clients()) {
            let text = "x509: certificate specifies an incompatible key usage";
            return Err(Refusal::bad(text));
        }
        Ok(ClientCertVerified::assertion())
    }

    /// Extends the chain, depth first, trying authorities before intermediates.
    fn extend<'s>(&'s self, chain: &mut Vec<&'s Certificate<'s>>, met: &mut Met) -> bool
    where
        'a: 's,
    {
        let last = chain[chain.len() - 1];
        let issuer = last.parsed.issuer().as_raw();
        let candidates = (self.authorities.iter().map(|one| (one, Place::Authority)))
            .chain(self.intermediates.iter().map(|one| (one, Place::Intermediate)));
        for (candidate, place) in candidates {
            let is_in_chain = chain.iter().any(|one| one.der == candidate.der);
            if candidate.parsed.subject().as_raw() != issuer || is_in_chain {
                continue;
            }
            met.signature_count += 1;
            if met.signature_count > CHAIN_SIGNATURES_MAX {
                let text = "x509: signature check attempts limit reached while verifying \
                            certificate chain";
                met.refusal = Some(Refusal::bad(text));
                return false;
            }
            if let Err(reason) = self.check_signature(last, candidate) {
                met.hint.get_or_insert_with(|| (reason, name_of(candidate)));
                continue;
            }
            if let Err(refusal) = candidate.check(place, chain.len(), self.now) {
                met.refusal = Some(refusal);
                continue;
            }
            chain.push(candidate);
            if place == Place::Authority || self.extend(chain, met) {
                return true;
            }
            chain.pop();
        }
        false
    }

    fn check_signature(&self, of: &Certificate<'_>, by: &Certificate<'_>) -> Result<(), String> {
        if !by.may_sign() {
            let text = "x509: invalid signature: parent certificate cannot sign this kind of \
                        certificate";
            return Err(text.into());
        }
        let algorithm = self.algorithms.all.iter().find(|algorithm| {
            *algorithm.signature_alg_id() == *of.signature_algorithm
                && *algorithm.public_key_alg_id() == *by.key_algorithm
        });
        let Some(algorithm) = algorithm else {
            let is_sha1 = of.parsed.signature_algorithm.algorithm == OID_PKCS1_SHA1WITHRSA;
            return Err(match is_sha1 {
                true => "x509: cannot verify signature: insecure algorithm SHA1-RSA".into(),
                false => "x509: cannot verify signature: algorithm unimplemented".into(),
            });
        };
        let signature = &of.parsed.signature_value.data;
        let signed = of.parsed.tbs_certificate.as_ref();
        algorithm.verify_signature(by.key(), signed, signature).map_err(|_| {
            let kind = &by.parsed.public_key().algorithm.algorithm;
            let text = match () {
                () if *kind == OID_PKCS1_RSAENCRYPTION => "crypto/rsa: verification error",
                () if *kind == OID_SIG_ED25519 => "x509: Ed25519 verification failure",
                () => "x509: ECDSA verification failure",
            };
            text.to_owned()
        })
    }
}

impl Met {
    fn into_refusal(self) -> Refusal {
        if let Some(refusal) = self.refusal {
            return refusal;
        }
        let mut text = "x509: certificate signed by unknown authority".to_owned();
        if let Some((reason, name)) = self.hint {
            text += &format!(
                " (possibly because of {reason:?} while trying to verify candidate authority \
                 certificate {name:?})"
            );
        }
        Refusal { text, error: CertificateError::UnknownIssuer }
    }
}

/// Returns the name that Go gives an authority in a hint.
fn name_of(certificate: &Certificate<'_>) -> String {
    let subject = certificate.parsed.subject();
    let first = subject.iter_common_name().chain(subject.iter_organization()).next();
    match first.and_then(|name| name.as_str().ok()) {
        Some(name) => name.to_owned(),
        None => format!("serial:{}", certificate.parsed.tbs_certificate.serial),
    }
}

#[cfg(test)]
mod tests;
