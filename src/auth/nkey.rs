//! nkeys: public keys of all kinds that sign, and the check of a user's signature of the nonce.

use std::fmt;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use ed25519_dalek::{Signature, VerifyingKey};

/// Characters of an encoded public key.
const PUBLIC_KEY_LENGTH: usize = 56;
/// Number of characters of 64 bytes in base64, without and with padding.
const SIGNATURE_LENGTHS: [usize; 2] = [86, 88];
/// First byte of a decoded user key; it makes the text begin with `U`.
const USER_PREFIX: u8 = 20 << 3;
/// The same of a key that encrypts, `X`.
const CURVE_PREFIX: u8 = 23 << 3;

/// The kinds of keys that sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Account,
    Operator,
    Server,
    User,
}

impl KeyKind {
    fn of(prefix: u8) -> Option<Self> {
        match prefix {
            0 => Some(Self::Account),
            USER_PREFIX => Some(Self::User),
            prefix if prefix == 13 << 3 => Some(Self::Server),
            prefix if prefix == 14 << 3 => Some(Self::Operator),
            _ => None,
        }
    }
}

/// A public key of any kind that signs, checked.
#[derive(Clone, Debug)]
pub(crate) struct PublicKey {
    kind: KeyKind,
    key: VerifyingKey,
}

/// Not a public key: wrong length, checksum or kind, or a key that anybody can sign for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAPublicKey;

impl PublicKey {
    /// Parses an encoded public key.
    ///
    /// # Errors
    /// If the text is not a public key that can be trusted.
    pub(crate) fn parse(text: &str) -> Result<Self, NotAPublicKey> {
        let (prefix, bytes) = decode_public(text).ok_or(NotAPublicKey)?;
        let kind = KeyKind::of(prefix).ok_or(NotAPublicKey)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| NotAPublicKey)?;
        // A signature by a key of small order (such as all zeros) needs no secret.
        if key.is_weak() {
            return Err(NotAPublicKey);
        }
        Ok(Self { kind, key })
    }

    pub(crate) fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Returns true if `signature` is one of `message`.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let signature = Signature::from_slice(signature);
        signature.is_ok_and(|signature| self.key.verify_strict(message, &signature).is_ok())
    }
}

/// Returns true if `text` is a public key of this kind. Its bytes need not be a point on the curve,
/// as in nats-server: a key that cannot sign lets nobody in.
pub(crate) fn is_public_key(text: &str, kind: KeyKind) -> bool {
    decode_public(text).is_some_and(|(prefix, _)| KeyKind::of(prefix) == Some(kind))
}

/// Returns true if `text` is the public key of a pair that encrypts.
pub(crate) fn is_public_curve_key(text: &str) -> bool {
    decode_public(text).is_some_and(|(prefix, _)| prefix == CURVE_PREFIX)
}

/// Returns the first byte, which tells the kind, and the key itself.
fn decode_public(text: &str) -> Option<(u8, [u8; 32])> {
    if text.len() != PUBLIC_KEY_LENGTH {
        return None;
    }
    nkeys::from_public_key(text).ok()
}

/// A user's public key that has been checked.
#[derive(Clone, Debug)]
pub(crate) struct UserKey {
    key: VerifyingKey,
}

/// Not a public user key: wrong length, checksum or kind, or a key that anybody can sign for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAUserKey;

impl fmt::Display for NotAUserKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Not a valid public nkey for a user")
    }
}

impl std::error::Error for NotAUserKey {}

impl UserKey {
    /// Parses an encoded public user key.
    ///
    /// # Errors
    /// If the text is not a public user key that can be trusted.
    pub(crate) fn parse(text: &str) -> Result<Self, NotAUserKey> {
        match PublicKey::parse(text) {
            Ok(PublicKey { kind: KeyKind::User, key }) => Ok(Self { key }),
            _ => Err(NotAUserKey),
        }
    }

    /// Returns true if `signature`, in base64url without padding or in plain base64, is one of the
    /// bytes of `nonce`.
    pub(crate) fn verifies(&self, nonce: &[u8], signature: &str) -> bool {
        if nonce.is_empty() || !SIGNATURE_LENGTHS.contains(&signature.len()) {
            return false;
        }
        let decoded = BASE64URL_NOPAD
            .decode(signature.as_bytes())
            .or_else(|_| BASE64.decode(signature.as_bytes()));
        let Ok(Ok(signature)) = decoded.map(|bytes| Signature::from_slice(&bytes)) else {
            return false;
        };
        self.key.verify_strict(nonce, &signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nkeys::KeyPair;

    const NONCE: &[u8] = b"abcdefghijklmno";

    #[test]
    fn a_signature_over_the_nonce_is_accepted_in_both_alphabets() {
        let pair = KeyPair::new_user();
        let key = UserKey::parse(&pair.public_key()).expect("a user key");
        let signature = pair.sign(NONCE).expect("the pair has a seed");
        assert!(key.verifies(NONCE, &BASE64URL_NOPAD.encode(&signature)));
        assert!(key.verifies(NONCE, &BASE64.encode(&signature)));
        assert!(!key.verifies(b"another nonce!!", &BASE64URL_NOPAD.encode(&signature)));
        let stranger = KeyPair::new_user().sign(NONCE).expect("the pair has a seed");
        assert!(!key.verifies(NONCE, &BASE64URL_NOPAD.encode(&stranger)));
    }

    #[test]
    fn a_broken_signature_is_refused_and_never_panics() {
        let pair = KeyPair::new_user();
        let key = UserKey::parse(&pair.public_key()).expect("a user key");
        let good = pair.sign(NONCE).expect("the pair has a seed");
        let text = BASE64URL_NOPAD.encode(&good);
        for end in 0..text.len() {
            assert!(!key.verifies(NONCE, &text[..end]), "the first {end} characters");
        }
        assert!(!key.verifies(NONCE, &format!("{text}=")));
        assert!(!key.verifies(NONCE, &BASE64URL_NOPAD.encode(&[0; 64])));
        assert!(!key.verifies(NONCE, &"!".repeat(86)));
        assert!(!key.verifies(NONCE, &"\u{e9}".repeat(43)));
        for bit in 0..512 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.verifies(NONCE, &BASE64URL_NOPAD.encode(&bad)), "bit {bit}");
        }
        // A server that sent no nonce accepts no signature, not even a good one over nothing.
        let empty = pair.sign(b"").expect("the pair has a seed");
        assert!(!key.verifies(b"", &BASE64URL_NOPAD.encode(&empty)));
    }

    #[test]
    fn short_long_and_foreign_keys_are_refused() {
        let good = KeyPair::new_user().public_key();
        for length in 0..good.len() {
            assert!(UserKey::parse(&good[..length]).is_err(), "{length}");
        }
        assert!(UserKey::parse(&format!("{good}A")).is_err());
        assert!(UserKey::parse(&good.to_lowercase()).is_err());
        assert!(UserKey::parse(&"\u{e9}".repeat(28)).is_err());
        assert!(UserKey::parse(&KeyPair::new_account().public_key()).is_err());
        assert!(UserKey::parse(&KeyPair::new_server().public_key()).is_err());
        assert!(UserKey::parse(&KeyPair::new_user().seed().expect("has one")).is_err());
        let mut wrong_checksum = good.clone().into_bytes();
        wrong_checksum[20] = if wrong_checksum[20] == b'A' { b'B' } else { b'A' };
        assert!(UserKey::parse(&String::from_utf8(wrong_checksum).expect("text")).is_err());
    }

    /// Returns any 32 bytes encoded as `U...`, with a correct checksum.
    fn encode_user_key(bytes: [u8; 32]) -> String {
        let mut raw = vec![USER_PREFIX];
        raw.extend_from_slice(&bytes);
        // CRC-16/XMODEM, little endian.
        let mut checksum: u16 = 0;
        for byte in &raw {
            checksum ^= u16::from(*byte) << 8;
            for _ in 0..8 {
                let carry = checksum & 0x8000 != 0;
                checksum <<= 1;
                if carry {
                    checksum ^= 0x1021;
                }
            }
        }
        raw.extend_from_slice(&checksum.to_le_bytes());
        data_encoding::BASE32_NOPAD.encode(&raw)
    }

    #[test]
    fn keys_that_anybody_can_sign_for_are_refused() {
        let pair = KeyPair::new_user();
        let (_, bytes) = nkeys::from_public_key(&pair.public_key()).expect("a public key");
        assert_eq!(encode_user_key(bytes), pair.public_key(), "the encoder of this test is right");
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut minus_one = [0xff; 32];
        minus_one[0] = 0xec;
        minus_one[31] = 0x7f;
        for weak in [[0; 32], identity, minus_one] {
            let text = encode_user_key(weak);
            assert!(nkeys::from_public_key(&text).is_ok(), "the text itself is well formed");
            assert!(UserKey::parse(&text).is_err(), "{weak:?}");
        }
    }
}
