//! A client's receiving side: cuts the server's bytes into what they mean.

/// One thing that the server said.
#[derive(Debug)]
pub enum Heard {
    Message {
        sid: u32,
        subject: String,
        reply: String,
        /// True if the status line said that there are no responders.
        no_responders: bool,
        payload: Vec<u8>,
    },
    Pong,
    Info,
    Error(String),
}

/// Bytes that are not a whole line or message yet.
#[derive(Default)]
pub struct Ear {
    pending: Vec<u8>,
    start: usize,
}

impl Ear {
    pub fn hear(&mut self, bytes: &[u8]) {
        self.pending.drain(..std::mem::take(&mut self.start));
        self.pending.extend_from_slice(bytes);
    }

    /// Returns the next thing said, or an explanation of why the bytes make no sense.
    pub fn next(&mut self) -> Result<Option<Heard>, String> {
        let bytes = &self.pending[self.start..];
        let Some(end) = memchr::memmem::find(bytes, b"\r\n") else { return Ok(None) };
        let line = std::str::from_utf8(&bytes[..end]).map_err(|error| error.to_string())?;
        let after = end + 2;
        let words: Vec<&str> = line.split(' ').collect();
        let number = |text: &str| text.parse::<usize>().map_err(|_| format!("bad line {line:?}"));
        let (heard, used) = match words[..] {
            ["MSG", subject, sid, ref rest @ ..] => {
                let (reply, size) = match rest {
                    [size] => ("", size),
                    [reply, size] => (*reply, size),
                    _ => return Err(format!("bad line {line:?}")),
                };
                let size = number(size)?;
                if bytes.len() < after + size + 2 {
                    return Ok(None);
                }
                let heard = Heard::Message {
                    sid: number(sid)? as u32,
                    subject: subject.into(),
                    reply: reply.into(),
                    no_responders: false,
                    payload: bytes[after..after + size].to_vec(),
                };
                if &bytes[after + size..after + size + 2] != b"\r\n" {
                    return Err(format!("no end after {line:?}"));
                }
                (heard, after + size + 2)
            }
            ["HMSG", subject, sid, header_size, size] => {
                let (header_size, size) = (number(header_size)?, number(size)?);
                if bytes.len() < after + size + 2 {
                    return Ok(None);
                }
                let heard = Heard::Message {
                    sid: number(sid)? as u32,
                    subject: subject.into(),
                    reply: String::new(),
                    no_responders: bytes[after..].starts_with(b"NATS/1.0 503"),
                    payload: bytes[after + header_size..after + size].to_vec(),
                };
                (heard, after + size + 2)
            }
            ["PONG"] => (Heard::Pong, after),
            ["INFO", ..] => (Heard::Info, after),
            ["-ERR", ..] => (Heard::Error(line.into()), after),
            _ => return Err(format!("unknown line {line:?}")),
        };
        self.start += used;
        Ok(Some(heard))
    }
}
