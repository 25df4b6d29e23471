//! nkeys: a user's public key, and the check of its signature of the nonce.

use std::fmt;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use ed25519_dalek::{Signature, VerifyingKey};

/// Characters of an encoded public key.
const PUBLIC_KEY_LENGTH: usize = 56;
/// Number of characters of 64 bytes in base64, without and with padding.
const SIGNATURE_LENGTHS: [usize; 2] = [86, 88];
/// First byte of a decoded user key; it makes the text begin with `U`.
const USER_PREFIX: u8 = 20 << 3;

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
        if text.len() != PUBLIC_KEY_LENGTH {
            return Err(NotAUserKey);
        }
        let (prefix, bytes) = nkeys::from_public_key(text).map_err(|_| NotAUserKey)?;
        if prefix != USER_PREFIX {
            return Err(NotAUserKey);
        }
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| NotAUserKey)?;
        // A signature by a key of small order (such as all zeros) needs no secret.
        if key.is_weak() {
            return Err(NotAUserKey);
        }
        Ok(Self { key })
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
