//! What a WebSocket server sends, as text: the head of its answer in a form that does not depend on
//! the order of headers, the payload of data frames as it is, control frames in brackets.

use super::web_client::{Payloads, whole_frame};

/// Headers that are not shown: they depend on the program or on the time.
const HIDDEN: [&str; 5] =
    ["date", "connection", "content-length", "content-type", "x-content-type-options"];

/// How far one connection is.
#[derive(Debug, Default)]
pub struct Unframed {
    raw: Vec<u8>,
    payloads: Payloads,
    /// True once the answer to the upgrade was taken.
    is_upgraded: bool,
    /// True if the answer is no upgrade: what follows is its body.
    is_refused: bool,
}

impl Unframed {
    /// Takes bytes, and appends what they mean.
    pub fn take(&mut self, bytes: &[u8], unread: &mut Vec<u8>) {
        self.raw.extend_from_slice(bytes);
        if !self.is_upgraded && !self.is_refused {
            let Some(end) = memchr::memmem::find(&self.raw, b"\r\n\r\n") else { return };
            let head = String::from_utf8_lossy(&self.raw[..end]).into_owned();
            self.raw.drain(..end + 4);
            self.is_upgraded = head.starts_with("HTTP/1.1 101 ");
            self.is_refused = !self.is_upgraded;
            unread.extend_from_slice(shown(&head).as_bytes());
        }
        if self.is_refused {
            unread.append(&mut self.raw);
            return;
        }
        while let Some((first, payload, size)) = whole_frame(&self.raw) {
            self.raw.drain(..size);
            match first & 0xf {
                0..=2 => self.payloads.take(first, payload, unread),
                8 => {
                    let status = payload.get(..2).map(|two| u16::from_be_bytes([two[0], two[1]]));
                    let status = status.map_or_else(String::new, |status| format!(" {status}"));
                    let words = payload.get(2..).unwrap_or_default();
                    unread.extend_from_slice(format!("[close{status} ").as_bytes());
                    unread.extend_from_slice(words);
                    unread.extend_from_slice(b"]\r\n");
                }
                kind => {
                    unread.extend_from_slice(format!("[{} ", name(kind)).as_bytes());
                    unread.extend(payload);
                    unread.extend_from_slice(b"]\r\n");
                }
            }
        }
    }
}

fn name(kind: u8) -> &'static str {
    match kind {
        9 => "ping",
        10 => "pong",
        _ => "unknown",
    }
}

fn shown(head: &str) -> String {
    let (status, lines) = head.split_once("\r\n").unwrap_or((head, ""));
    let mut lines: Vec<String> = lines
        .split("\r\n")
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            let name = name.to_ascii_lowercase();
            (!HIDDEN.contains(&name.as_str())).then(|| format!("{name}:{value}\r\n"))
        })
        .collect();
    lines.sort();
    format!("{status}\r\n{}\r\n", lines.concat())
}
