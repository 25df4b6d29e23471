//! What a replay knows about the protocol's lines: INFO objects, the sids of SUB, and how to show
//! bytes.

use crate::format::escape;

/// Returns the fields that a file compares, with the values that came; those that identify a server
/// stay open.
pub fn recorded_info(
    known: Option<&serde_json::Map<String, serde_json::Value>>,
    got: &serde_json::Map<String, serde_json::Value>,
) -> String {
    let by_default = ["proto", "headers", "max_payload", "connect_info", "remote_account", "ldm"];
    let names: Vec<&str> = match known {
        Some(fields) => fields.keys().map(String::as_str).collect(),
        None => by_default.to_vec(),
    };
    let mut fields = serde_json::Map::new();
    for name in names {
        let open = known.and_then(|fields| fields.get(name)).filter(|value| *value == "~");
        let value = open.or_else(|| got.get(name)).cloned().unwrap_or_default();
        fields.insert(name.to_owned(), value);
    }
    serde_json::Value::Object(fields).to_string()
}

/// Returns the object of an INFO line; nats-server puts a blank between it and the end of the line.
pub fn info_fields(line: &[u8]) -> Result<serde_json::Map<String, serde_json::Value>, String> {
    let json = line
        .strip_prefix(b"INFO ")
        .and_then(|rest| rest.strip_suffix(b" \r\n"))
        .ok_or("INFO {...} \\r\\n")?;
    serde_json::from_slice(json).map_err(|e| format!("INFO with an object ({e})"))
}

pub fn difference(peer: char, expected: &str, got: &[u8], then: &str) -> String {
    const SHOWN_MAX: usize = 400;
    let mut shown = escape(&got[..got.len().min(SHOWN_MAX)]);
    if got.len() > SHOWN_MAX {
        shown.push_str(" ...");
    }
    format!("connection {peer}\n  expected: {expected}\n  got:      {shown}{then}")
}

/// Returns the sids of every SUB line in `sent`.
pub fn subscribed(sent: &[u8]) -> Vec<&[u8]> {
    let mut sids = Vec::new();
    for line in sent.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        if line.len() > 4 && line[..3].eq_ignore_ascii_case(b"SUB") {
            sids.extend(line.rsplit(|byte| matches!(byte, b' ' | b'\t')).next());
        }
    }
    sids
}
