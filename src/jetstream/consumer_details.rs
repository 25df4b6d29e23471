//! The bytes that the store keeps with a consumer: a line of facts, and its configuration.

use serde::{Deserialize, Serialize};

use super::consumer_config::ConsumerConfig;
use super::json::encode::encode;

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    name: String,
    created_ns: i64,
    resume_after: u64,
}

/// A consumer as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConsumerDetails {
    /// One that the server made is no part of the configuration.
    pub name: String,
    pub created_ns: i64,
    /// For a consumer that begins with the last messages by subject: those up to this sequence.
    pub resume_after: u64,
    pub config: ConsumerConfig,
}

impl ConsumerDetails {
    pub(crate) fn encode(
        name: &str,
        created_ns: i64,
        resume_after: u64,
        config: &ConsumerConfig,
    ) -> Vec<u8> {
        let head = Head { version: VERSION, name: name.into(), created_ns, resume_after };
        [encode(&head), b"\n".to_vec(), config.to_json()].concat()
    }

    /// # Errors
    /// The bytes are damaged, or those of another version.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let end = memchr::memchr(b'\n', bytes).ok_or("a consumer's details have no head")?;
        let head: Head =
            serde_json::from_slice(&bytes[..end]).map_err(|error| error.to_string())?;
        if head.version != VERSION {
            return Err(format!("version {} of a consumer's details", head.version));
        }
        let config = ConsumerConfig::from_json(&bytes[end + 1..]).map_err(|error| error.0)?;
        let Head { name, created_ns, resume_after, .. } = head;
        Ok(Self { name, created_ns, resume_after, config })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_read_back_and_others_refused() {
        let config = ConsumerConfig { name: "c".into(), headers_only: true, ..Default::default() };
        let bytes = ConsumerDetails::encode("c", 7, 9, &config);
        let read = ConsumerDetails::decode(&bytes).expect("it was written just now");
        assert_eq!(
            read,
            ConsumerDetails { name: "c".into(), created_ns: 7, resume_after: 9, config }
        );
        let newer = &b"{\"version\":2,\"name\":\"c\",\"created_ns\":0,\"resume_after\":0}\n{}"[..];
        for bytes in [&b""[..], b"{}", b"{}\n{}", newer, &bytes[..bytes.len() - 1]] {
            assert!(ConsumerDetails::decode(bytes).is_err());
        }
    }
}
