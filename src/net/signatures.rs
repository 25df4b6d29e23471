//! Signature algorithms in addition to those that rustls takes from ring: PKCS #1 with RSA keys
//! from 1024 bits on, and the curve P-521. nats-server accepts certificates of both kinds.

use std::sync::LazyLock;

use p521::ecdsa::signature::hazmat::PrehashVerifier;
use ring::signature::{
    RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
    RsaParameters, UnparsedPublicKey,
};
use rustls::SignatureScheme;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{
    AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id,
};
use sha2::{Digest, Sha256, Sha384, Sha512};

type Algorithm = &'static dyn SignatureVerificationAlgorithm;

/// PKCS #1 signatures by keys of 1024 to 8192 bits.
#[derive(Debug)]
struct SmallRsa {
    signature: AlgorithmIdentifier,
    parameters: &'static RsaParameters,
}

static SMALL_RSA_SHA256: SmallRsa = SmallRsa {
    signature: alg_id::RSA_PKCS1_SHA256,
    parameters: &RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
};
static SMALL_RSA_SHA512: SmallRsa = SmallRsa {
    signature: alg_id::RSA_PKCS1_SHA512,
    parameters: &RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
};

impl SignatureVerificationAlgorithm for SmallRsa {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let key = UnparsedPublicKey::new(self.parameters, public_key);
        key.verify(message, signature).map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::RSA_ENCRYPTION
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }
}

/// ECDSA signatures by P-521 keys.
#[derive(Debug)]
struct P521 {
    signature: AlgorithmIdentifier,
    hash: fn(&[u8]) -> Vec<u8>,
}

static P521_SHA256: P521 =
    P521 { signature: alg_id::ECDSA_SHA256, hash: |message| Sha256::digest(message).to_vec() };
static P521_SHA384: P521 =
    P521 { signature: alg_id::ECDSA_SHA384, hash: |message| Sha384::digest(message).to_vec() };
static P521_SHA512: P521 =
    P521 { signature: alg_id::ECDSA_SHA512, hash: |message| Sha512::digest(message).to_vec() };

static P521_WITH_SHA512: [Algorithm; 1] = [&P521_SHA512];

/// Bytes of a number modulo the order of P-521.
const P521_FIELD_BYTES: usize = 66;

impl SignatureVerificationAlgorithm for P521 {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let bad = |_| InvalidSignature;
        let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(public_key).map_err(bad)?;
        let signature = p521::ecdsa::Signature::from_der(signature).map_err(bad)?;
        // `p521` refuses hashes shorter than half a field; leading zeros do not change the number.
        let hash = (self.hash)(message);
        let mut number = [0; P521_FIELD_BYTES];
        number[P521_FIELD_BYTES - hash.len()..].copy_from_slice(&hash);
        key.verify_prehash(&number, &signature).map_err(bad)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P521
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }
}

/// Returns the algorithms accepted in certificates and handshakes.
pub(crate) fn algorithms() -> WebPkiSupportedAlgorithms {
    static ALL: LazyLock<WebPkiSupportedAlgorithms> = LazyLock::new(|| {
        let base = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        // At the front: of several algorithms for one kind of key and signature the first decides.
        let mut all: Vec<Algorithm> =
            vec![&SMALL_RSA_SHA256, &SMALL_RSA_SHA512, &P521_SHA256, &P521_SHA384, &P521_SHA512];
        all.extend(base.all);
        let mut mapping: Vec<(SignatureScheme, &'static [Algorithm])> =
            vec![(SignatureScheme::ECDSA_NISTP521_SHA512, &P521_WITH_SHA512)];
        for (scheme, algorithms) in base.mapping {
            // TLS 1.2 does not tie the curve to the hash.
            let first: Option<Algorithm> = match scheme {
                SignatureScheme::RSA_PKCS1_SHA256 => Some(&SMALL_RSA_SHA256),
                SignatureScheme::RSA_PKCS1_SHA512 => Some(&SMALL_RSA_SHA512),
                _ => None,
            };
            let last: Option<Algorithm> = match scheme {
                SignatureScheme::ECDSA_NISTP256_SHA256 => Some(&P521_SHA256),
                SignatureScheme::ECDSA_NISTP384_SHA384 => Some(&P521_SHA384),
                _ => None,
            };
            let list: Vec<Algorithm> =
                first.into_iter().chain(algorithms.iter().copied()).chain(last).collect();
            mapping.push((*scheme, list.leak()));
        }
        WebPkiSupportedAlgorithms { all: all.leak(), mapping: mapping.leak() }
    });
    *ALL
}
