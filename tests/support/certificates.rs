//! Certificates made while a test runs: none in the repository can expire, and no key is committed.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, date_time_ymd,
};
use sha2::{Digest, Sha256};

/// Signs the certificates of one test.
pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Pair {
    pub certificate_pem: String,
    /// PKCS#8.
    pub key_pem: String,
    /// SHA-256 of the SubjectPublicKeyInfo in lower-case hex, as in `pinned_certs`.
    pub key_id: String,
}

/// The desired properties of a certificate.
#[derive(Clone, Copy, Default)]
pub struct Wanted<'a> {
    pub common_name: &'a str,
    /// DNS names and addresses.
    pub names: &'a [&'a str],
    /// True for a client's; else for a server's.
    pub client: bool,
    pub expired: bool,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name = distinguished_name(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).expect("signed").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    pub fn issue(&self, wanted: Wanted<'_>) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = wanted.names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("valid names");
        params.distinguished_name = distinguished_name(wanted.common_name);
        params.extended_key_usages = vec![if wanted.client {
            ExtendedKeyUsagePurpose::ClientAuth
        } else {
            ExtendedKeyUsagePurpose::ServerAuth
        }];
        if wanted.expired {
            params.not_before = date_time_ymd(2019, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let digest = Sha256::digest(key.subject_public_key_info());
        Pair {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            key_id: data_encoding::HEXLOWER.encode(&digest),
        }
    }

    /// Issues one for a server on this machine.
    pub fn issue_local(&self) -> Pair {
        let names = &["localhost", "127.0.0.1"];
        self.issue(Wanted { common_name: "local", names, ..Wanted::default() })
    }
}

fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}
