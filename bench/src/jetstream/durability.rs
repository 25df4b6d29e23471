//! The worth of a server's acknowledgement, in the server's own words: stored on the disk, or only
//! handed to the kernel.

use crate::jetstream::work::Storage;
use crate::units::nanoseconds_text;
use crate::wire::http;
use serde_json::Value;

/// The text if the server was not asked or does not say.
const UNKNOWN: &str = "durability unknown";

/// Returns a few words that stand beside a server's figures.
pub fn text(storage: Storage, monitor_port: Option<u16>) -> String {
    if storage == Storage::Memory {
        return "memory, not durable".to_string();
    }
    let body = monitor_port.and_then(|port| http::get(port, "/jsz?config=true").ok());
    body.and_then(|body| of_jsz(&body)).unwrap_or_else(|| UNKNOWN.to_string())
}

/// Returns advice if the server could not be asked.
pub fn advice(text: &str) -> Option<String> {
    (text == UNKNOWN).then(|| {
        "what an acknowledgement of this server is worth is not known: give --monitor, or in a \
         comparison {monitor}, so that /jsz can be read"
            .to_string()
    })
}

/// Both servers report `sync_always` if every message is on the disk before its acknowledgement,
/// and else the interval at which they sync.
fn of_jsz(body: &[u8]) -> Option<String> {
    let jsz: Value = serde_json::from_slice(body).ok()?;
    let config = jsz.get("config").filter(|config| config.is_object())?;
    if config["sync_always"] == true {
        return Some("durable before the ack".to_string());
    }
    let interval = config["sync_interval"].as_u64()?;
    Some(format!("synced every {}", nanoseconds_text(interval as f64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_words_become_ours() {
        let said = |config: &str| of_jsz(format!("{{\"config\":{config}}}").as_bytes());
        let always = r#"{"sync_interval":120000000000,"sync_always":true}"#;
        assert_eq!(said(always).as_deref(), Some("durable before the ack"));
        let default = r#"{"sync_interval":120000000000}"#;
        assert_eq!(said(default).as_deref(), Some("synced every 120 s"));
        assert_eq!(said("{}"), None);
        assert_eq!(of_jsz(b"nothing"), None);
        assert!(text(Storage::Memory, None).contains("not durable"));
        let unknown = text(Storage::File, None);
        assert!(advice(&unknown).is_some() && advice("synced every 2 s").is_none());
    }
}
