//! Cuts what a server sends into messages and control lines. This is where the receiving side
//! spends its time, so the common case (the same header as the message before) is one comparison
//! and no parsing.
//!
//! `PUB` is treated like `MSG`: through the raw relay the publisher's own frames arrive.

use std::io;

/// A longer header line means a broken stream.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// Control lines that have arrived since the last call, beside messages.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct Control {
    pub ping_count: u32,
    pub pong_count: u32,
    /// The text of `-ERR`; of the last one, if there were several.
    pub error: Option<String>,
}

pub struct Scanner {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    last_header: Vec<u8>,
    last_payload_size: usize,
}

impl Scanner {
    /// `read_size`: bytes requested per read. Also the largest size of a message.
    pub fn new(read_size: usize) -> Scanner {
        Scanner {
            buffer: vec![0; read_size + LINE_BYTES_MAX],
            start: 0,
            end: 0,
            last_header: Vec::new(),
            last_payload_size: 0,
        }
    }

    /// Returns the free part of the buffer, for the next read.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.buffer[self.end..]
    }

    /// Records that `count` bytes were read into `space`.
    pub fn filled(&mut self, count: usize) {
        self.end += count;
        assert!(self.end <= self.buffer.len(), "more was read than there was space for");
    }

    /// Calls `on_message` with the header line (with its CRLF) and the payload of each whole
    /// message. The payload of `HMSG` begins with the headers: `message::Head` knows their size.
    ///
    /// # Errors
    /// If the stream violates the protocol, or a message does not fit the buffer.
    pub fn scan(
        &mut self,
        mut on_message: impl FnMut(&[u8], &[u8]),
        control: &mut Control,
    ) -> io::Result<()> {
        let data = &self.buffer[..self.end];
        let mut position = self.start;
        loop {
            let rest = &data[position..];
            let (header_size, payload_size) = if !self.last_header.is_empty()
                && rest.len() >= self.last_header.len()
                && rest[..self.last_header.len()] == self.last_header[..]
            {
                (self.last_header.len(), self.last_payload_size)
            } else {
                let Some(line_end) = memchr::memchr(b'\n', rest) else {
                    if rest.len() > LINE_BYTES_MAX {
                        return Err(broken("a line has no end"));
                    }
                    break;
                };
                let line = &rest[..=line_end];
                match line[0] {
                    // The relay passes on `PUB` lines; a server sends `MSG`.
                    b'M' | b'P' | b'H'
                        if line.starts_with(b"MSG ")
                            || line.starts_with(b"PUB ")
                            || line.starts_with(b"HMSG ") =>
                    {
                        let size = trailing_number(line)?;
                        self.last_header.clear();
                        self.last_header.extend_from_slice(line);
                        self.last_payload_size = size;
                        (line.len(), size)
                    }
                    _ => {
                        control_line(line, control)?;
                        position += line.len();
                        continue;
                    }
                }
            };
            let frame_size = header_size + payload_size + 2;
            if rest.len() < frame_size {
                if frame_size > self.buffer.len() {
                    return Err(broken("a message is larger than the read buffer"));
                }
                break;
            }
            if rest[frame_size - 2..frame_size] != *b"\r\n" {
                return Err(broken("a payload is not followed by CRLF"));
            }
            on_message(&rest[..header_size], &rest[header_size..header_size + payload_size]);
            position += frame_size;
        }
        self.start = position;
        Ok(())
    }
}

fn control_line(line: &[u8], control: &mut Control) -> io::Result<()> {
    if line.starts_with(b"PING") {
        control.ping_count += 1;
    } else if line.starts_with(b"PONG") {
        control.pong_count += 1;
    } else if line.starts_with(b"-ERR") {
        control.error = Some(String::from_utf8_lossy(line[4..].trim_ascii()).into_owned());
    } else if !line.starts_with(b"INFO") && !line.starts_with(b"+OK") {
        let shown = String::from_utf8_lossy(&line[..line.len().min(60)]).into_owned();
        return Err(broken(&format!("unknown line: {shown:?}")));
    }
    Ok(())
}

/// Returns the number before the CRLF of a message line.
fn trailing_number(line: &[u8]) -> io::Result<usize> {
    let line = line.trim_ascii_end();
    let mut value = 0usize;
    let mut scale = 1usize;
    let mut digits = 0;
    for byte in line.iter().rev().take_while(|byte| byte.is_ascii_digit()) {
        if digits == 9 {
            return Err(broken("a payload size has more than nine digits"));
        }
        value += scale * usize::from(byte - b'0');
        scale *= 10;
        digits += 1;
    }
    if digits == 0 {
        return Err(broken("a message line has no payload size"));
    }
    Ok(value)
}

fn broken(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the server's stream is broken: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b"INFO {}\r\nMSG a 1 3\r\nabc\r\nMSG a 1 3\r\ndef\r\nPING\r\nMSG bb 2 r 0\r\n\r\n\
        +OK\r\nHMSG a 1 12 15\r\nNATS/1.0\r\n\r\nhij\r\nPUB a 3\r\nghi\r\n-ERR 'Slow Consumer'\r\nPONG\r\n";

    fn scan_in_pieces(piece: usize) -> (Vec<Vec<u8>>, Control) {
        let mut scanner = Scanner::new(64);
        let mut control = Control::default();
        let mut payloads = Vec::new();
        for part in STREAM.chunks(piece) {
            scanner.space()[..part.len()].copy_from_slice(part);
            scanner.filled(part.len());
            scanner.scan(|_, payload| payloads.push(payload.to_vec()), &mut control).unwrap();
        }
        (payloads, control)
    }

    #[test]
    fn every_cut_of_the_stream_gives_the_same_messages() {
        for piece in 1..=64 {
            let (payloads, control) = scan_in_pieces(piece);
            let expected = [&b"abc"[..], b"def", b"", b"NATS/1.0\r\n\r\nhij", b"ghi"];
            assert_eq!(payloads, expected, "pieces of {piece}");
            assert_eq!((control.ping_count, control.pong_count), (1, 1));
            assert_eq!(control.error.as_deref(), Some("'Slow Consumer'"));
        }
    }

    #[test]
    fn broken_streams_are_errors() {
        for text in ["MSG a 1 x\r\n", "MSG a 1 1\r\nabc\r\n", "HELLO\r\n", "MSG a 1 99999999\r\n"] {
            let mut scanner = Scanner::new(64);
            scanner.space()[..text.len()].copy_from_slice(text.as_bytes());
            scanner.filled(text.len());
            assert!(scanner.scan(|_, _| {}, &mut Control::default()).is_err(), "{text:?}");
        }
    }
}
