//! The `tls` block as plain data. Certificates are read and judged in `net::tls`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::auth_options::Place;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct TlsOptions {
    /// `cert_file` with `key_file`, or the `certs` list.
    pub certificates: Vec<CertificateOptions>,
    pub certificate_authorities_file: Option<PathBuf>,
    /// Clients' certificates.
    pub verify: Verify,
    /// The certificate also says which user it is.
    pub verify_and_map: bool,
    /// Only of meaning where this server is the TLS client.
    pub insecure: bool,
    /// Time for the handshake; None = `TlsOptions::timeout` decides.
    pub timeout: Option<Duration>,
    /// Names as `TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256`; empty = the library's own choice.
    pub cipher_suites: Vec<String>,
    pub allow_insecure_cipher_suites: bool,
    /// Names as `CurveP256`; empty = the library's own choice.
    pub curve_preferences: Vec<String>,
    pub version_min: TlsVersion,
    /// Lower-case hex SHA-256 of the SubjectPublicKeyInfo of peers let in; empty = all.
    pub pinned_certificates: BTreeSet<String>,
    pub handshake_first: HandshakeFirst,
    /// TLS handshakes begun per second; 0 = unlimited.
    pub connection_rate_max: u32,
    /// The block's place in the file, for the error when it cannot be used; empty when flags made
    /// it.
    pub place: Place,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct CertificateOptions {
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
}

/// When a client's certificate, which the authorities must have signed, is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    #[default]
    Never,
    /// A client without a certificate comes in; one with a certificate that is no good does not.
    Optional,
    Required,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    #[default]
    V1_2,
    V1_3,
}

/// The order of INFO and the TLS handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HandshakeFirst {
    /// INFO in clear, then the handshake.
    #[default]
    Never,
    Always,
    /// A client that stays silent this long gets INFO in clear.
    Fallback(Duration),
}

impl TlsOptions {
    /// How long a handshake may take.
    pub fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(Duration::from_secs(2))
    }
}
