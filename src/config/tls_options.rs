//! The `tls` block as plain data. Certificates are read and checked in `net`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::auth_options::Place;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct TlsOptions {
    /// `cert_file` with `key_file`, or the `certs` list.
    pub certificates: Vec<CertificateOptions>,
    pub certificate_authorities_file: Option<PathBuf>,
    /// The policy on client certificates.
    pub verify: Verify,
    /// True if the certificate also names the user.
    pub verify_and_map: bool,
    /// Has a meaning only where this server is the TLS client.
    pub insecure: bool,
    /// Time for the handshake; None = the default of `TlsOptions::timeout`.
    pub timeout: Option<Duration>,
    /// Names such as `TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256`; empty = the library's choice.
    pub cipher_suites: Vec<String>,
    pub allow_insecure_cipher_suites: bool,
    /// Names such as `CurveP256`; empty = the library's choice.
    pub curve_preferences: Vec<String>,
    pub version_min: TlsVersion,
    /// SHA-256 of the SubjectPublicKeyInfo of each peer that is let in, in lower-case hex; empty =
    /// all.
    pub pinned_certificates: BTreeSet<String>,
    pub handshake_first: HandshakeFirst,
    /// TLS handshakes begun per second; 0 = unlimited.
    pub connection_rate_max: u32,
    /// The block's place in the file, for errors; empty if it comes from flags.
    pub place: Place,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct CertificateOptions {
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
}

/// The policy on client certificates, which the authorities must have signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    #[default]
    Never,
    /// A client without a certificate is let in; one whose certificate does not verify is not.
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
    /// INFO in the clear, then the handshake.
    #[default]
    Never,
    Always,
    /// A client that stays silent this long gets INFO in the clear.
    Fallback(Duration),
}

impl TlsOptions {
    /// Returns the time for a handshake.
    pub fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(Duration::from_secs(2))
    }
}
