//! Reads a server's own certificate with its key, checks that they match, and names what cannot be
//! used.
//!
//! Source of the texts: Go crypto/tls X509KeyPair, except for what ring cannot sign with.

use std::path::Path;
use std::sync::Arc;

use p521::ecdsa::signature::Signer as _;
use p521::pkcs8::{DecodePrivateKey, EncodePublicKey};
use rustls::crypto::ring;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::public_key::PublicKey;

use crate::auth::certificate;
use crate::base::files::{self, Patience};
use crate::base::limits::TLS_FILE_BYTES_MAX;
use crate::config::surroundings::file_error_text;
use crate::config::tls_options::CertificateOptions;

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = files::read(path, TLS_FILE_BYTES_MAX, Patience::None);
    bytes.map_err(|error| file_error_text(path, &error))
}

/// Reads a certificate and its key.
///
/// # Errors
/// If a file is not what it should be, or holds something that is not supported.
pub(crate) fn read_pair(options: &CertificateOptions) -> Result<CertifiedKey, String> {
    let file = &options.certificate_file;
    let (certificate_text, key_text) = (read(file)?, read(&options.key_file)?);
    let in_file = |path: &Path, text: &str| format!("{text} ({})", path.display());
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&certificate_text) {
        let malformed = |error: PemError| in_file(file, &format!("tls: {error}"));
        chain.push(certificate.map_err(malformed)?);
    }
    let Some(leaf) = chain.first().cloned() else {
        let text = match PrivateKeyDer::from_pem_slice(&certificate_text) {
            Ok(_) => {
                "tls: failed to find certificate PEM data in certificate input, but did find a private \
                 key; PEM inputs may have been switched"
            }
            Err(_) => "tls: failed to find any PEM data in certificate input",
        };
        return Err(in_file(file, text));
    };
    let Some(parsed) = certificate::parse(&leaf) else {
        return Err(in_file(file, "x509: malformed certificate"));
    };
    let file = &options.key_file;
    let key = PrivateKeyDer::from_pem_slice(&key_text).map_err(|error| {
        let text = match error {
            PemError::NoItemsFound => no_key(&key_text),
            _ if key_text.windows(ENCRYPTED.len()).any(|part| part == ENCRYPTED) => {
                ENCRYPTED_KEY.to_owned()
            }
            other => format!("tls: failed to parse private key: {other}"),
        };
        in_file(file, &text)
    })?;
    let key = signing_key(&key).map_err(|error| {
        let text = unsupported(&parsed)
            .unwrap_or_else(|| format!("tls: failed to parse private key: {error}"));
        in_file(file, &text)
    })?;
    // A key that cannot give its public half is assumed to match.
    let fits = key.public_key().is_none_or(|key| key.as_ref() == parsed.public_key().raw);
    match fits {
        true => Ok(CertifiedKey::new(chain, key)),
        false => Err(in_file(file, "tls: private key does not match public key")),
    }
}

/// The header of an encrypted key in the format that OpenSSL wrote before PKCS #8.
const ENCRYPTED: &[u8] = b"Proc-Type: 4,ENCRYPTED";

const ENCRYPTED_KEY: &str = "tls: failed to parse private key: it is encrypted";

/// Says what a file has in which no key was found that can be read.
fn no_key(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let labels = text.lines().filter_map(|line| {
        line.trim_end().strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----"))
    });
    let labels: Vec<&str> = labels.collect();
    match &labels[..] {
        [] => "tls: failed to find any PEM data in key input".into(),
        labels if labels.contains(&"ENCRYPTED PRIVATE KEY") => ENCRYPTED_KEY.into(),
        labels if labels.iter().any(|label| label.ends_with("PRIVATE KEY")) => {
            "tls: failed to parse private key".into()
        }
        ["CERTIFICATE"] => {
            "tls: found a certificate rather than a key in the PEM for the private key".into()
        }
        labels => format!(
            "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after \
             skipping PEM blocks of the following types: [{}]",
            labels.join(" ")
        ),
    }
}

fn signing_key(key: &PrivateKeyDer<'_>) -> Result<Arc<dyn SigningKey>, rustls::Error> {
    ring::sign::any_supported_type(key).or_else(|error| match P521Key::read(key) {
        Some(key) => Ok(Arc::new(key)),
        None => Err(error),
    })
}

/// Names the kind of a certificate's key with which this server cannot sign. None = something else
/// is wrong.
fn unsupported(certificate: &X509Certificate<'_>) -> Option<String> {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) if !(2048..=4096).contains(&key.key_size()) => Some(format!(
            "tls: an RSA key of {} bits is not supported for the server's own certificate, only 2048 \
             to 4096",
            key.key_size()
        )),
        Ok(PublicKey::EC(point)) if ![256, 384, 521, 528].contains(&point.key_size()) => {
            Some(format!(
                "tls: an elliptic curve of {} bits is not supported, only P-256, P-384 and P-521",
                point.key_size()
            ))
        }
        _ => None,
    }
}

/// A P-521 key, which ring does not support.
struct P521Key {
    key: p521::ecdsa::SigningKey,
    public: SubjectPublicKeyInfoDer<'static>,
}

impl P521Key {
    fn read(key: &PrivateKeyDer<'_>) -> Option<Self> {
        let secret = match key {
            PrivateKeyDer::Pkcs8(der) => {
                p521::SecretKey::from_pkcs8_der(der.secret_pkcs8_der()).ok()?
            }
            PrivateKeyDer::Sec1(der) => {
                p521::SecretKey::from_sec1_der(der.secret_sec1_der()).ok()?
            }
            _ => return None,
        };
        let public = secret.public_key().to_public_key_der().ok()?.into_vec().into();
        let key = p521::ecdsa::SigningKey::from_bytes(&secret.to_bytes()).ok()?;
        Some(Self { key, public })
    }
}

/// Does not show the secret.
impl std::fmt::Debug for P521Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("P521Key").finish_non_exhaustive()
    }
}

impl SigningKey for P521Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = SignatureScheme::ECDSA_NISTP521_SHA512;
        offered.contains(&scheme).then(|| Box::new(P521Signer(self.key.clone())) as _)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(self.public.clone())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

struct P521Signer(p521::ecdsa::SigningKey);

/// Does not show the secret.
impl std::fmt::Debug for P521Signer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("P521Signer").finish_non_exhaustive()
    }
}

impl Signer for P521Signer {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let failed = |_| rustls::Error::General("signing failed".into());
        let signature: p521::ecdsa::Signature = self.0.try_sign(message).map_err(failed)?;
        Ok(signature.to_der().as_bytes().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP521_SHA512
    }
}

#[cfg(test)]
mod tests;
