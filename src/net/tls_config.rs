//! Builds what TLS handshakes need from the `tls` block: certificates, keys, suites, the peers'
//! authorities. Files are read once at start and at each reload, never for a connection.
//!
//! Texts are nats-server's if it has one for the cause, with the file's name appended.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, RootCertStore, ServerConfig, SupportedCipherSuite};
use sha2::{Digest, Sha256};

use crate::auth::certificate;
use crate::base::counters::RateWindow;
use crate::config::read_tls::{CIPHER_SUITES_INSECURE, CURVES_REFUSED};
use crate::config::tls_options::{
    CertificateOptions, HandshakeFirst, TlsOptions, TlsVersion, Verify,
};
use crate::net::client_certificate::ClientCertificates;
use crate::net::{server_key, signatures};

/// The TLS of a listener. Connections that began with one keep it when a reload brings another.
pub struct TlsServer {
    pub config: Arc<ServerConfig>,
    /// Time for a handshake.
    pub timeout: Duration,
    pub handshake_first: HandshakeFirst,
    /// True if peers may stay plain.
    pub allow_plain: bool,
    /// The policy on peers' certificates.
    pub verify: Verify,
    /// SHA-256 of the SubjectPublicKeyInfo of each peer that is let in, in lower-case hex; empty =
    /// all.
    pinned: BTreeSet<String>,
    rate: RateWindow,
    /// Expiry of the first certificate, if it has one.
    pub not_after: Option<SystemTime>,
    /// Differs if the server's certificates or the authorities differ.
    pub fingerprint: [u8; 32],
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TlsServer").field("verify", &self.verify).finish_non_exhaustive()
    }
}

/// The decision on a handshake that is about to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// `rejected_before`: the number rejected before, if it is to be logged now.
    Admitted {
        rejected_before: u32,
    },
    Rejected,
}

impl TlsServer {
    /// Reads all files of the block.
    ///
    /// # Errors
    /// The first file that is not what it should be, or a name that has no meaning here.
    pub fn build(options: &TlsOptions, allow_plain: bool) -> Result<Self, String> {
        let provider = Arc::new(provider(options)?);
        let versions: &[_] = match options.version_min {
            TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::V1_3 => &[&rustls::version::TLS13],
        };
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| format!("tls: {error}"))?;
        let authorities = options.certificate_authorities_file.as_deref().map(Authorities::read);
        let authorities = authorities.transpose()?;
        let mut fingerprint = Sha256::new();
        for trusted in authorities.iter().flat_map(|authorities| &authorities.certificates) {
            fingerprint.update(trusted);
        }
        let asks = options.verify != Verify::Never;
        let builder = if asks {
            let authorities = authorities.ok_or("tls: 'verify' needs a 'ca_file'")?;
            builder.with_client_cert_verifier(authorities.verifier(options.verify)?)
        } else {
            builder.with_no_client_auth()
        };
        let certificates = Certificates::read(&options.certificates)?;
        let first = certificates.0.first().and_then(|first| first.end_entity_cert().ok());
        let not_after = first.and_then(|der| certificate::not_after(der));
        for der in certificates.0.iter().flat_map(|one| &one.cert) {
            fingerprint.update(der);
        }
        let mut config = builder.with_cert_resolver(Arc::new(certificates));
        config.ignore_client_order = true;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if asks {
            // A resumed session would skip the check of the peer's certificate.
            config.send_tls13_tickets = 0;
        } else {
            config.ticketer = ring::Ticketer::new().map_err(|error| format!("tls: {error}"))?;
            config.send_tls13_tickets = 1;
        }
        Ok(Self {
            config: Arc::new(config),
            timeout: options.timeout(),
            handshake_first: options.handshake_first,
            allow_plain,
            verify: options.verify,
            pinned: options.pinned_certificates.clone(),
            rate: RateWindow::new(options.connection_rate_max),
            not_after,
            fingerprint: fingerprint.finalize().into(),
        })
    }

    /// Counts a handshake that is about to begin, `second` seconds after a fixed time.
    pub fn admit(&self, second: u64) -> Admission {
        match self.rate.admit(second) {
            Some(rejected_before) => Admission::Admitted { rejected_before },
            None => Admission::Rejected,
        }
    }

    /// Returns true if a peer with this certificate is let in.
    pub fn is_pinned(&self, certificate: Option<&[u8]>) -> bool {
        if self.pinned.is_empty() {
            return true;
        }
        let key_id = certificate.and_then(public_key_id);
        key_id.is_some_and(|id| self.pinned.contains(&id))
    }
}

/// Returns the SHA-256 of a certificate's SubjectPublicKeyInfo in lower-case hex.
pub(crate) fn public_key_id(certificate: &[u8]) -> Option<String> {
    let parsed = certificate::parse(certificate)?;
    let digest = Sha256::digest(parsed.public_key().raw);
    Some(data_encoding::HEXLOWER.encode(&digest))
}

/// Returns the suites and curves in force. As in Go the list of suites concerns TLS 1.2 only: those
/// of 1.3 are always on.
fn provider(options: &TlsOptions) -> Result<CryptoProvider, String> {
    // AES-128 first, as in Go on processors with AES instructions.
    let version_1_3 = [
        ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
        ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    let version_1_2 = [
        ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        ring::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        ring::cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        ring::cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    let mut suites = version_1_3.to_vec();
    if options.cipher_suites.is_empty() {
        suites.extend(version_1_2);
    }
    for name in &options.cipher_suites {
        let all = version_1_3.iter().chain(&version_1_2);
        let suite = all.copied().find(|suite| suite_name(suite) == *name).ok_or_else(|| {
            let why = if CIPHER_SUITES_INSECURE.contains(&name.as_str()) {
                "insecure cipher suites are not supported"
            } else {
                "cipher suites in CBC mode are not supported"
            };
            format!("tls: cipher suite {name}: {why}")
        })?;
        if !suites.contains(&suite) {
            suites.push(suite);
        }
    }
    let mut groups: Vec<&'static dyn SupportedKxGroup> = Vec::new();
    for name in &options.curve_preferences {
        groups.push(match name.as_str() {
            "X25519" => ring::kx_group::X25519,
            "CurveP256" => ring::kx_group::SECP256R1,
            "CurveP384" => ring::kx_group::SECP384R1,
            _ => {
                assert!(CURVES_REFUSED.contains(&name.as_str()), "configuration checks the names");
                return Err(format!("tls: curve preference {name} is not supported"));
            }
        });
    }
    let base = ring::default_provider();
    let kx_groups = if groups.is_empty() { base.kx_groups.clone() } else { groups };
    Ok(CryptoProvider { cipher_suites: suites, kx_groups, ..base })
}

/// Returns nats-server's name of a suite.
fn suite_name(suite: &SupportedCipherSuite) -> String {
    suite_text(suite.suite())
}

/// Returns Go's name of a suite; rustls marks those of TLS 1.3 differently.
pub(crate) fn suite_text(suite: CipherSuite) -> String {
    suite.as_str().map(|name| name.replacen("TLS13_", "TLS_", 1)).unwrap_or_default()
}

/// The authorities by which client certificates are verified.
struct Authorities {
    /// In webpki's form.
    roots: RootCertStore,
    certificates: Vec<CertificateDer<'static>>,
}

impl Authorities {
    fn read(path: &Path) -> Result<Self, String> {
        let text = server_key::read(path)?;
        // Go skips what it cannot parse too, as long as one certificate is left.
        let parsed = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok);
        let certificates: Vec<_> = parsed.filter(|der| certificate::parse(der).is_some()).collect();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        if roots.is_empty() {
            return Err(format!("failed to parse root ca certificate ({})", path.display()));
        }
        Ok(Self { roots, certificates })
    }

    fn verifier(self, verify: Verify) -> Result<Arc<dyn ClientCertVerifier>, String> {
        let provider = Arc::new(ring::default_provider());
        let mut webpki =
            WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots), provider);
        if verify == Verify::Optional {
            webpki = webpki.allow_unauthenticated();
        }
        let webpki = webpki.build().map_err(|error| format!("tls: {error}"))?;
        let algorithms = signatures::algorithms();
        Ok(Arc::new(ClientCertificates::new(webpki, self.certificates, algorithms)))
    }
}

/// The server's certificates; the first is for peers that fit none.
#[derive(Debug)]
struct Certificates(Vec<Arc<CertifiedKey>>);

impl Certificates {
    fn read(list: &[CertificateOptions]) -> Result<Self, String> {
        if list.is_empty() {
            return Err("missing 'cert_file' in TLS configuration".into());
        }
        let mut certificates = Vec::with_capacity(list.len());
        for (index, one) in list.iter().enumerate() {
            let certificate = server_key::read_pair(one).map_err(|reason| {
                let position = match list.len() {
                    1 => String::new(),
                    count => format!(" {}/{count}", index + 1),
                };
                format!("error parsing X509 certificate/key pair{position}: {reason}")
            })?;
            certificates.push(Arc::new(certificate));
        }
        Ok(Self(certificates))
    }
}

impl ResolvesServerCert for Certificates {
    /// Returns the first certificate that is valid for the requested name and that the peer can
    /// verify; else the very first. Source: Go crypto/tls Config.getCertificate.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let first = self.0.first()?;
        if self.0.len() == 1 {
            return Some(first.clone());
        }
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let fits = self.0.iter().find(|one| {
            one.key.choose_scheme(hello.signature_schemes()).is_some()
                && name.as_ref().is_none_or(|name| is_for(one, name))
        });
        Some(fits.unwrap_or(first).clone())
    }
}

fn is_for(certificate: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let parsed = certificate.end_entity_cert().and_then(ParsedCertificate::try_from);
    parsed.is_ok_and(|parsed| verify_server_name(&parsed, name).is_ok())
}

#[cfg(test)]
mod tests;
