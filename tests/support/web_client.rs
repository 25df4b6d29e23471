//! A raw WebSocket client: it upgrades, frames what it sends, and takes frames apart.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::WAIT_MAX;

/// What data frames hold, inflated where it is deflated.
#[derive(Debug, Default)]
pub struct Payloads {
    /// Payload of a deflated message that has not ended; none = there is no such message.
    deflated: Option<Vec<u8>>,
}

impl Payloads {
    /// Takes the payload of a data frame, and appends what it stands for.
    ///
    /// # Panics
    /// If it cannot be inflated.
    pub fn take(&mut self, first: u8, payload: Vec<u8>, unread: &mut Vec<u8>) {
        if first & 0xf != 0 && first & 0x40 != 0 {
            self.deflated = Some(Vec::new());
        }
        let Some(deflated) = &mut self.deflated else { return unread.extend(payload) };
        deflated.extend(payload);
        if first & 0x80 != 0 {
            let mut whole = self.deflated.take().expect("it is there");
            whole.extend_from_slice(&[0, 0, 0xff, 0xff]);
            let mut plain = Vec::with_capacity(4 << 20);
            flate2::Decompress::new(false)
                .decompress_vec(&whole, &mut plain, flate2::FlushDecompress::Sync)
                .expect("it is deflated");
            unread.extend(plain);
        }
    }
}

/// One connection after its upgrade, over any stream.
pub struct WebClient<S> {
    stream: S,
    /// Bytes that came and are in no frame taken yet.
    raw: Vec<u8>,
    /// Payload of data frames.
    unread: Vec<u8>,
    payloads: Payloads,
    /// The payload of the frame that closed the connection, once it came.
    pub closed: Option<Vec<u8>>,
    /// Payloads of pongs.
    pub pongs: Vec<Vec<u8>>,
    /// The answer to the upgrade.
    pub head: String,
}

/// Opens a socket with deadlines.
///
/// # Errors
/// If nobody listens there.
pub fn socket(address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, WAIT_MAX)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(WAIT_MAX))?;
    socket.set_write_timeout(Some(WAIT_MAX))?;
    Ok(socket)
}

/// Returns the request for an upgrade, with these further lines.
pub fn request(lines: &[&str]) -> String {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{lines}\r\n"
    )
}

/// Returns a frame as a client sends it.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | short as u8),
        length @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let key = [0x12, 0x34, 0x56, 0x78];
    bytes.extend_from_slice(&key);
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

impl WebClient<TcpStream> {
    /// Connects and upgrades, with these further lines in the request.
    ///
    /// # Errors
    /// If the connection ends before the answer.
    pub fn connect(address: SocketAddr, lines: &[&str]) -> std::io::Result<Self> {
        Self::upgrade(socket(address)?, lines)
    }
}

impl<S: Read + Write> WebClient<S> {
    /// Upgrades a connection.
    ///
    /// # Errors
    /// If it ends before the answer.
    pub fn upgrade(stream: S, lines: &[&str]) -> std::io::Result<Self> {
        let (raw, unread, head) = (Vec::new(), Vec::new(), String::new());
        let mut client = Self {
            stream,
            raw,
            unread,
            payloads: Payloads::default(),
            closed: None,
            pongs: Vec::new(),
            head,
        };
        client.send_raw(request(lines).as_bytes())?;
        let end = loop {
            if let Some(end) = memchr::memmem::find(&client.raw, b"\r\n\r\n") {
                break end + 4;
            }
            if client.fill()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        };
        client.head = String::from_utf8_lossy(&client.raw[..end]).into_owned();
        client.raw.drain(..end);
        Ok(client)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Sends one binary message.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn send(&mut self, payload: &[u8]) -> std::io::Result<()> {
        self.send_raw(&frame(0x82, payload))
    }

    fn fill(&mut self) -> std::io::Result<usize> {
        let mut chunk = [0; 16 << 10];
        let size = self.stream.read(&mut chunk)?;
        self.raw.extend_from_slice(&chunk[..size]);
        Ok(size)
    }

    /// Takes the whole frames that came.
    fn take_frames(&mut self) {
        while let Some((first, payload, size)) = whole_frame(&self.raw) {
            match first & 0xf {
                8 => self.closed = Some(payload),
                10 => self.pongs.push(payload),
                _ => self.payloads.take(first, payload, &mut self.unread),
            }
            self.raw.drain(..size);
        }
    }

    /// Returns the next line, without its end; None = the connection ended.
    ///
    /// # Panics
    /// If nothing came in time.
    pub fn line(&mut self) -> Option<String> {
        loop {
            self.take_frames();
            if let Some(end) = memchr::memmem::find(&self.unread, b"\r\n") {
                let line = String::from_utf8_lossy(&self.unread[..end]).into_owned();
                self.unread.drain(..end + 2);
                return Some(line);
            }
            match self.fill() {
                Ok(0) => return None,
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("no line came in time");
                }
                Err(_) => return None,
            }
        }
    }

    /// Takes lines until one begins with `start`.
    ///
    /// # Panics
    /// If none does before the connection ends.
    pub fn line_with(&mut self, start: &str) -> String {
        let mut before = Vec::new();
        loop {
            match self.line() {
                Some(line) if line.starts_with(start) => return line,
                Some(line) => before.push(line),
                None => panic!("no {start:?}, only {before:?} and {:?}", self.closed),
            }
        }
    }

    /// Sends CONNECT with these further fields, and PING; waits for PONG.
    ///
    /// # Panics
    /// If the server does not let it in.
    pub fn log_in(&mut self, fields: &str) {
        let connect = format!("CONNECT {{\"verbose\":false,\"protocol\":1{fields}}}\r\nPING\r\n");
        self.send(connect.as_bytes()).expect("the server listens");
        self.line_with("PONG");
    }

    /// Reads until the end, and returns the lines before it.
    pub fn rest(&mut self) -> Vec<String> {
        let lines = std::iter::from_fn(|| self.line()).collect();
        self.take_frames();
        lines
    }

    /// Returns status and words of the close frame.
    ///
    /// # Panics
    /// If none came.
    pub fn close_words(&self) -> (u16, String) {
        let payload = self.closed.as_ref().expect("a close frame came");
        let status = u16::from_be_bytes([payload[0], payload[1]]);
        (status, String::from_utf8_lossy(&payload[2..]).into_owned())
    }

    /// Returns the bytes of frames that came, as they are, until at least `size` of payload did.
    pub fn frame_sizes(&mut self, size: usize) -> Vec<usize> {
        let mut sizes = Vec::new();
        while sizes.iter().sum::<usize>() < size {
            while let Some((_, payload, taken)) = whole_frame(&self.raw) {
                sizes.push(payload.len());
                self.raw.drain(..taken);
            }
            if sizes.iter().sum::<usize>() < size && self.fill().unwrap_or(0) == 0 {
                break;
            }
        }
        sizes
    }
}

/// Returns first byte, payload and size of the frame that the bytes begin with.
pub fn whole_frame(raw: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let (first, second) = (*raw.first()?, *raw.get(1)?);
    assert_eq!(second & 0x80, 0, "a server does not mask");
    let (start, length) = match second {
        126 => (4, u64::from(u16::from_be_bytes(raw.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(raw.get(2..10)?.try_into().ok()?)),
        short => (2, u64::from(short)),
    };
    let end = start + usize::try_from(length).ok()?;
    Some((first, raw.get(start..end)?.to_vec(), end))
}
