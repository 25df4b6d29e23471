//! Heads of HTTP/1 requests: bytes in, a method, a target and headers out. The caller decides what
//! is allowed.
//!
//! Holds at most the bytes that the caller pushes before it asks for a head, and looks at each of
//! them a bounded number of times however small the pieces are that they come in. Never reads
//! beyond a head: what follows it, a body, the next request or frames of another protocol, stays
//! where it is.

/// Bounds of a head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    /// Bytes up to the end of the blank line.
    pub bytes_max: usize,
    /// Headers; at most `HEADERS_MAX`.
    pub headers_max: usize,
}

/// Headers that any caller may allow: the room for them is on the stack.
pub(crate) const HEADERS_MAX: usize = 256;

/// Why bytes are no head that may be answered otherwise than with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    Malformed,
    /// Longer than the limits, or with more headers.
    TooLarge,
}

/// The head of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub method: String,
    /// The target as it came: a path with its query, or a whole URL.
    pub target: String,
    /// HTTP/1.1, not HTTP/1.0.
    pub is_modern: bool,
    headers: Vec<(String, Vec<u8>)>,
}

impl Head {
    /// The values of all headers of this name, in the order they came.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let named = self.headers.iter().filter(move |header| header.0.eq_ignore_ascii_case(name));
        named.map(|header| header.1.as_slice())
    }

    /// The elements of a header that is a list, over all lines of its name.
    pub(crate) fn elements<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let all = self.all(name).flat_map(|value| value.split(|byte| *byte == b','));
        all.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
    }

    /// A list has this element, in any case.
    pub(crate) fn has_element(&self, name: &str, element: &str) -> bool {
        self.elements(name).any(|own| own.eq_ignore_ascii_case(element.as_bytes()))
    }

    /// The connection stays open after the answer, as far as the peer is concerned.
    pub(crate) fn keeps_alive(&self) -> bool {
        !self.has_element("connection", "close")
            && (self.is_modern || self.has_element("connection", "keep-alive"))
    }

    /// Bytes of the body that follows; 0 when nothing is said of one. What no number can hold is
    /// the largest.
    ///
    /// # Errors
    /// It is not made of digits alone, or there are two that differ: a way to smuggle a request
    /// past a proxy.
    pub(crate) fn content_length(&self) -> Result<u64, HeadError> {
        let mut found = None;
        for digits in self.all("content-length") {
            if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
                return Err(HeadError::Malformed);
            }
            let text = std::str::from_utf8(digits).expect("digits are ASCII");
            let size = text.parse().unwrap_or(u64::MAX);
            if found.is_some_and(|earlier: u64| earlier != size) {
                return Err(HeadError::Malformed);
            }
            found = Some(size);
        }
        Ok(found.unwrap_or(0))
    }
}

/// Bytes of one connection on their way to heads.
#[derive(Debug, Default)]
pub(crate) struct HeadReader {
    bytes: Vec<u8>,
    /// Bytes up to which no end of a head was found.
    searched: usize,
    /// Bytes of this head looked at for what is malformed in it, those that were looked at again
    /// too.
    looked_at: usize,
    /// Bytes from which on an unfinished head is looked at once it came in very many pieces.
    look_from: usize,
}

/// Pieces of a head up to which it is parsed with each piece, so that a malformed one is refused at
/// once. A head in more pieces is parsed each time it has doubled: each byte is examined about this
/// often.
const LOOKS_MAX: usize = 64;

impl HeadReader {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes held.
    pub(crate) fn held(&self) -> usize {
        self.bytes.len()
    }

    /// Takes up to so many bytes that follow the last head.
    pub(crate) fn discard(&mut self, size_max: usize) -> usize {
        let size = size_max.min(self.bytes.len());
        self.remove(size);
        size
    }

    /// The next whole head; none while it is not.
    ///
    /// # Errors
    /// There will be none: the bytes are no HTTP, or pass the limits.
    ///
    /// # Panics
    /// The limits allow more than `HEADERS_MAX` headers.
    pub(crate) fn next_head(&mut self, limits: HeadLimits) -> Result<Option<Head>, HeadError> {
        assert!(limits.headers_max <= HEADERS_MAX);
        self.drop_blank_lines();
        let held = self.bytes.len();
        let may_look = held >= self.look_from || self.looked_at < LOOKS_MAX * limits.bytes_max;
        if !self.has_end() && !may_look && held < limits.bytes_max {
            return Ok(None);
        }
        self.looked_at += held;
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut headers[..limits.headers_max]);
        let looked_at = &self.bytes[..held.min(limits.bytes_max)];
        let size = match parsed.parse(looked_at) {
            Ok(httparse::Status::Complete(size)) => size,
            Ok(httparse::Status::Partial) if held >= limits.bytes_max => {
                return Err(HeadError::TooLarge);
            }
            Ok(httparse::Status::Partial) => {
                self.look_from = held * 2;
                return Ok(None);
            }
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
            Err(_) => return Err(HeadError::Malformed),
        };
        let header =
            |header: &httparse::Header<'_>| (header.name.to_owned(), header.value.to_owned());
        let head = Head {
            method: parsed.method.unwrap_or_default().to_owned(),
            target: parsed.path.unwrap_or("/").to_owned(),
            is_modern: parsed.version == Some(1),
            headers: parsed.headers.iter().map(header).collect(),
        };
        self.remove(size);
        Ok(Some(head))
    }

    /// The bytes may hold a whole head. Looks at each byte once.
    fn has_end(&mut self) -> bool {
        // The end may have begun three bytes before.
        let from = self.searched.saturating_sub(3);
        let rest = &self.bytes[from..];
        let mut line_ends = memchr::memchr_iter(b'\n', rest);
        let is_blank_line = |at: usize| matches!(rest[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]);
        let found = line_ends.any(is_blank_line);
        if !found {
            self.searched = self.bytes.len();
        }
        found
    }

    /// Drops blank lines before a head, which do not end it.
    fn drop_blank_lines(&mut self) {
        let is_end = |byte: &&u8| matches!(byte, b'\r' | b'\n');
        let size = self.bytes.iter().take_while(is_end).count();
        if size > 0 {
            self.remove(size);
        }
    }

    fn remove(&mut self, size: usize) {
        self.bytes.drain(..size);
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
        self.start_over();
    }

    fn start_over(&mut self) {
        self.searched = 0;
        self.looked_at = 0;
        self.look_from = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes_max: 256, headers_max: 4 };

    fn read(bytes: &[u8]) -> Result<Option<Head>, HeadError> {
        let mut reader = HeadReader::default();
        reader.push(bytes);
        reader.next_head(LIMITS)
    }

    #[test]
    fn a_head_is_the_same_wherever_it_is_cut_and_what_follows_stays() {
        let bytes = b"GET /nats HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: x, Upgrade\r\n\r\n\x81\x00";
        let head = read(bytes).unwrap().expect("a whole head");
        assert_eq!((head.method.as_str(), head.target.as_str()), ("GET", "/nats"));
        assert!(head.is_modern && head.keeps_alive());
        assert!(head.has_element("connection", "upgrade"));
        assert!(head.has_element("Upgrade", "WebSocket"));
        assert!(!head.has_element("connection", "close"));
        for cut in 0..bytes.len() {
            let mut reader = HeadReader::default();
            reader.push(&bytes[..cut]);
            let first = reader.next_head(LIMITS).unwrap();
            assert_eq!(first.is_some(), cut >= bytes.len() - 2, "cut at {cut}");
            reader.push(&bytes[cut..]);
            let second = reader.next_head(LIMITS);
            assert_eq!(
                first.or_else(|| second.ok().flatten()).as_ref(),
                Some(&head),
                "cut at {cut}"
            );
            assert_eq!(reader.discard(usize::MAX), b"\x81\x00".len());
            assert_eq!(reader.held(), 0);
        }
    }

    #[test]
    fn byte_by_byte_the_head_is_the_same_and_looks_are_bounded() {
        let bytes = b"GET / HTTP/1.0\nHost: a\n\n";
        let mut reader = HeadReader::default();
        for (index, byte) in bytes.iter().enumerate() {
            reader.push(std::slice::from_ref(byte));
            let head = reader.next_head(LIMITS).unwrap();
            assert_eq!(head.is_some(), index + 1 == bytes.len());
        }
        let large = HeadLimits { bytes_max: 4096, ..LIMITS };
        let mut reader = HeadReader::default();
        reader.push(b"GET / HTTP/1.1\r\nX: ");
        while reader.held() < large.bytes_max - 1 {
            reader.push(b"x");
            assert_eq!(reader.next_head(large), Ok(None));
        }
        let most = (LOOKS_MAX + 3) * large.bytes_max;
        assert!(reader.looked_at <= most, "{} of {most}", reader.looked_at);
        assert!(reader.looked_at > LOOKS_MAX * large.bytes_max / 2);
    }

    /// With the piece that brings it, not only when the head ends.
    #[test]
    fn what_is_malformed_is_refused_at_once_however_it_is_cut() {
        let bytes = b"GET / HTTP/1.1\r\nA: b\r\nC\x01";
        for cut in 0..bytes.len() {
            let mut reader = HeadReader::default();
            reader.push(&bytes[..cut]);
            assert_eq!(reader.next_head(LIMITS), Ok(None), "cut at {cut}");
            reader.push(&bytes[cut..]);
            assert_eq!(reader.next_head(LIMITS), Err(HeadError::Malformed), "cut at {cut}");
        }
    }

    #[test]
    fn blank_lines_before_a_head_are_neither_held_nor_its_end() {
        let mut reader = HeadReader::default();
        for _ in 0..200 {
            reader.push(b"\r\n");
            assert_eq!(reader.next_head(LIMITS), Ok(None));
            assert_eq!(reader.held(), 0);
        }
        reader.push(b"GET / HTTP/1.1\r\n\r\n");
        let head = reader.next_head(LIMITS);
        assert_eq!(head.unwrap().map(|head| head.method), Some("GET".into()));
    }

    #[test]
    fn what_is_no_http_is_refused_before_it_ends() {
        assert_eq!(read(b"\x16\x03\x01\x02\x00"), Err(HeadError::Malformed));
        let mut reader = HeadReader::default();
        let mut refused = false;
        for piece in [&b"GET / HTTP/1.1\r\n"[..], b"\x00\x01: b\r\n", &[b'a'; 100]] {
            reader.push(piece);
            refused |= reader.next_head(LIMITS).is_err();
        }
        assert!(refused);
    }

    #[test]
    fn limits_hold_exactly() {
        let of_size = |size: usize| {
            let mut head = b"GET / HTTP/1.1\r\nX: ".to_vec();
            head.resize(size - 4, b'x');
            head.extend_from_slice(b"\r\n\r\n");
            head
        };
        assert!(read(&of_size(255)).unwrap().is_some());
        assert!(read(&of_size(256)).unwrap().is_some());
        assert_eq!(read(&of_size(257)), Err(HeadError::TooLarge));
        assert_eq!(read(&of_size(257)[..255]), Ok(None));
        assert_eq!(read(&of_size(257)[..256]), Err(HeadError::TooLarge));
        let of_headers =
            |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
        assert!(read(of_headers(4).as_bytes()).unwrap().is_some());
        assert_eq!(read(of_headers(5).as_bytes()), Err(HeadError::TooLarge));
    }

    #[test]
    fn lengths_of_bodies_are_digits_and_agree() {
        let length = |lines: &str| {
            let text = format!("GET / HTTP/1.1\r\n{lines}\r\n");
            read(text.as_bytes()).unwrap().expect("a whole head").content_length()
        };
        assert_eq!(length(""), Ok(0));
        assert_eq!(length("Content-Length: 70\r\ncontent-length: 70\r\n"), Ok(70));
        assert_eq!(length("Content-Length: 99999999999999999999999\r\n"), Ok(u64::MAX));
        for malformed in ["+4", "4 5", "-1", "0x4"] {
            let line = format!("Content-Length: {malformed}\r\n");
            assert_eq!(length(&line), Err(HeadError::Malformed), "{malformed}");
        }
        let two = "Content-Length: 70\r\ncontent-length: 71\r\n";
        assert_eq!(length(two), Err(HeadError::Malformed));
    }

    #[test]
    fn a_connection_stays_open_as_the_versions_have_it() {
        let keeps =
            |text: &str| read(text.as_bytes()).unwrap().expect("a whole head").keeps_alive();
        assert!(keeps("GET / HTTP/1.1\r\n\r\n"));
        assert!(!keeps("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n"));
        assert!(!keeps("GET / HTTP/1.0\r\n\r\n"));
        assert!(keeps("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
    }
}
