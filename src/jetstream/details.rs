//! The bytes that the store keeps with a stream: a line of JSON with a version, its account and its
//! time of creation, and behind it its configuration.

use serde::{Deserialize, Serialize};

use super::stream_config::StreamConfig;

/// The version that this program writes, and the only one it reads.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    account: String,
    created_ns: i64,
}

/// The details of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamDetails {
    pub account: String,
    pub created_ns: i64,
    pub config: StreamConfig,
}

impl StreamDetails {
    pub(super) fn encode(account: &str, created_ns: i64, config: &StreamConfig) -> Vec<u8> {
        let head = Head { version: VERSION, account: account.to_owned(), created_ns };
        let mut bytes = serde_json::to_vec(&head).expect("its parts can be encoded");
        bytes.push(b'\n');
        bytes.extend(config.to_json());
        bytes
    }

    /// # Errors
    /// The bytes are not those of a program that this one knows.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let end = memchr::memchr(b'\n', bytes).ok_or("a stream's details without an end")?;
        let head: Head =
            serde_json::from_slice(&bytes[..end]).map_err(|error| error.to_string())?;
        if head.version != VERSION {
            return Err(format!("version {} of a stream's details", head.version));
        }
        let config = StreamConfig::from_json(&bytes[end + 1..]).map_err(|error| error.0)?;
        Ok(Self { account: head.account, created_ns: head.created_ns, config })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_read_back_and_others_refused() {
        let config =
            StreamConfig { name: "S".into(), subjects: vec!["a<".into()], ..Default::default() };
        let bytes = StreamDetails::encode("$G", 7, &config);
        let read = StreamDetails::decode(&bytes).expect("it was written just now");
        assert_eq!(read, StreamDetails { account: "$G".into(), created_ns: 7, config });
        let newer = &b"{\"version\":2,\"account\":\"A\",\"created_ns\":0}\n{}"[..];
        for bytes in [&b""[..], b"{}", b"{}\n{}", newer] {
            assert!(StreamDetails::decode(bytes).is_err());
        }
        assert!(StreamDetails::decode(&bytes[..bytes.len() - 1]).is_err());
    }
}
