//! A TCP client that knows nothing of the protocol except lines: it sends bytes and keeps what
//! comes.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::unframed::Unframed;
use super::{WAIT_MAX, masked, web_client};

/// One connection. Received bytes stay in `unread` until they are taken.
pub struct RawClient {
    stream: TcpStream,
    unread: Vec<u8>,
    /// What is still to be masked; none = nothing is.
    unmasked: Option<Vec<u8>>,
    /// The last reply that was masked.
    reply: Vec<u8>,
    /// Present if what comes is to be taken out of frames.
    unframed: Option<Unframed>,
    closed: bool,
}

/// The outcome of a wait for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    Grown,
    Closed,
    TimedOut,
}

impl RawClient {
    /// Connects.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, WAIT_MAX)?;
        // Each write must leave as it is: the tests choose where the bytes are cut.
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WAIT_MAX))?;
        Ok(Self {
            stream,
            unread: Vec::new(),
            unmasked: None,
            reply: Vec::new(),
            unframed: None,
            closed: false,
        })
    }

    /// From now on what a server chooses by itself is masked.
    pub fn mask(&mut self) {
        self.unmasked = Some(Vec::new());
    }

    /// From now on what comes is an answer to an upgrade, then frames.
    pub fn unframe(&mut self) {
        self.unframed = Some(Unframed::default());
    }

    /// Sends whole lines: in a frame, if what comes is framed.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn send_lines(&mut self, lines: &[u8]) -> std::io::Result<()> {
        match self.unframed {
            Some(_) => self.send(&web_client::frame(0x82, lines)),
            None => self.send(lines),
        }
    }

    /// The last reply that was masked.
    pub fn last_reply(&self) -> &[u8] {
        &self.reply
    }

    /// Returns the port of this end, which servers name in their log.
    pub fn local_port(&self) -> u16 {
        self.stream.local_addr().map_or(0, |address| address.port())
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends to a server that may be slow to take it: it slows down a publisher by not reading.
    ///
    /// # Errors
    /// If the connection is gone, or nothing at all was taken for `timeout`.
    pub fn send_all(&mut self, bytes: &[u8], timeout: Duration) -> std::io::Result<()> {
        self.stream.set_write_timeout(Some(timeout))?;
        self.stream.write_all(bytes)
    }

    /// Answers the server's PING; if the connection is gone, the next read shows it.
    pub fn answer_ping(&mut self) {
        let _ = self.stream.write_all(b"PONG\r\n");
    }

    pub fn unread(&self) -> &[u8] {
        &self.unread
    }

    /// Returns true if the server has closed, as far as `fill` has seen.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Drops the first `size` unread bytes.
    pub fn consume(&mut self, size: usize) {
        self.unread.drain(..size);
    }

    /// Waits until `deadline` for at least one more byte, or the end.
    pub fn fill(&mut self, deadline: Instant) -> Fill {
        if self.closed {
            return Fill::Closed;
        }
        // A timeout of zero would mean none at all.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left)).expect("the timeout is not zero");
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.end(),
            Ok(size) => {
                if let Some(unframed) = &mut self.unframed {
                    unframed.take(&chunk[..size], &mut self.unread);
                    return Fill::Grown;
                }
                match &mut self.unmasked {
                    None => self.unread.extend_from_slice(&chunk[..size]),
                    Some(raw) => {
                        raw.extend_from_slice(&chunk[..size]);
                        masked::take(raw, &mut self.unread, &mut self.reply);
                    }
                }
                Fill::Grown
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Fill::TimedOut
            }
            // A read with a timeout is not resumed after a signal.
            Err(e) if e.kind() == ErrorKind::Interrupted => self.fill(deadline),
            // A reset is a close too: the server had not read everything that we sent.
            Err(_) => self.end(),
        }
    }

    /// Waits until `deadline` for one whole line and takes it, including its LF.
    pub fn take_line(&mut self, deadline: Instant) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                return Some(self.unread.drain(..=end).collect());
            }
            if self.fill(deadline) != Fill::Grown {
                return None;
            }
        }
    }

    /// Takes a line like `take_line`, but answers the server's PINGs.
    ///
    /// # Panics
    /// If nothing came in time.
    pub fn take_message_line(&mut self, deadline: Instant) -> Vec<u8> {
        loop {
            let line = self.take_line(deadline).expect("no line came in time");
            if line != b"PING\r\n" {
                return line;
            }
            self.answer_ping();
        }
    }

    /// Sends PING and waits for the PONG; answers the server's own PING meanwhile.
    ///
    /// # Errors
    /// If anything else came, or nothing in time.
    pub fn round_trip(&mut self) -> Result<(), String> {
        self.round_trip_by(Instant::now() + WAIT_MAX)
    }

    /// Makes a round trip whose answer may take longer.
    pub fn round_trip_by(&mut self, deadline: Instant) -> Result<(), String> {
        self.send(b"PING\r\n").map_err(|e| format!("cannot send PING: {e}"))?;
        loop {
            match self.take_line(deadline).as_deref() {
                Some(b"PONG\r\n") => return Ok(()),
                Some(b"PING\r\n") => {
                    self.send(b"PONG\r\n").map_err(|e| format!("cannot send PONG: {e}"))?;
                }
                Some(line) if line.starts_with(b"INFO ") => {}
                Some(line) => {
                    return Err(format!("{:?} in place of PONG", line.escape_ascii().to_string()));
                }
                None => return Err("no PONG".into()),
            }
        }
    }

    /// Closes our half and waits until the server has closed its own.
    pub fn close(&mut self) {
        // Fails if the server was first, which is just as good.
        let _ = self.stream.shutdown(Shutdown::Write);
        let deadline = Instant::now() + WAIT_MAX;
        while self.fill(deadline) == Fill::Grown {}
    }

    /// Ends the connection with a reset instead of an orderly close.
    pub fn reset(self) {
        // A linger time of zero makes the kernel send RST when the socket is dropped here. It can
        // fail only on a socket that is already dead.
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    fn end(&mut self) -> Fill {
        self.closed = true;
        Fill::Closed
    }
}
