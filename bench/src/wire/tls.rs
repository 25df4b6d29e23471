//! How TLS verifies the server and identifies us: files in, one shared configuration out.

use crate::Failure;
use crate::wire::stream::TlsSettings;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::sync::Arc;

/// Where common distributions keep the public authorities.
const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// The TLS flags.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// Authorities; None = those of the system.
    pub authorities: Option<String>,
    pub certificate: Option<String>,
    pub key: Option<String>,
    /// Accepts any certificate: encrypts without knowing for whom.
    pub insecure: bool,
}

/// Builds the configuration from files.
///
/// # Errors
/// If a file cannot be read or does not hold what it should.
pub fn settings(files: &TlsFiles) -> Result<TlsSettings, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::new(format!("TLS: {error}")))?;
    let builder = if files.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny(provider)))
    } else {
        builder.with_root_certificates(authorities(files.authorities.as_deref())?)
    };
    let config = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| Failure::new(format!("cannot read the key {key}: {error}")))?;
            builder
                .with_client_auth_cert(certificates(certificate)?, key)
                .map_err(|error| Failure::new(format!("TLS certificate and key: {error}")))?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err(Failure::new("--tls-cert and --tls-key go together")),
    };
    Ok(TlsSettings { config: Arc::new(config) })
}

fn authorities(path: Option<&str>) -> Result<rustls::RootCertStore, Failure> {
    let path = match path {
        Some(path) => path,
        None => SYSTEM_AUTHORITIES
            .into_iter()
            .find(|path| std::path::Path::new(path).exists())
            .ok_or_else(|| Failure::new("this system has no list of authorities: give --tls-ca"))?,
    };
    let mut store = rustls::RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(certificates(path)?);
    if added == 0 {
        return Err(Failure::new(format!("{path} holds no usable certificate")));
    }
    Ok(store)
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, Failure> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| Failure::new(format!("cannot read certificates of {path}: {error}")))
}

/// Accepts any certificate, but still verifies that the peer holds its key.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
