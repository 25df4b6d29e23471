//! The header line of a message and the NATS headers in front of its payload, as far as the
//! harness reads them.

/// The words of `MSG subject sid [reply] size` or `HMSG subject sid [reply] header_size size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    pub subject: &'a [u8],
    pub sid: &'a [u8],
    pub reply: Option<&'a [u8]>,
    /// Bytes of headers at the start of the payload; 0 without headers.
    pub header_size: usize,
}

impl<'a> Head<'a> {
    /// Parses the line that the scanner passes on. `None` if it is no such line.
    pub fn parse(line: &'a [u8]) -> Option<Head<'a>> {
        let mut words = [&b""[..]; 6];
        let mut count = 0;
        for word in line.trim_ascii_end().split(|&byte| byte == b' ') {
            *words.get_mut(count)? = word;
            count += 1;
        }
        let (reply, header_size) = match (words[0], count) {
            (b"MSG", 4) => (None, None),
            (b"MSG", 5) => (Some(words[3]), None),
            (b"HMSG", 5) => (None, Some(words[3])),
            (b"HMSG", 6) => (Some(words[3]), Some(words[4])),
            _ => return None,
        };
        let header_size = header_size.map_or(Some(0), number)? as usize;
        Some(Head { subject: words[1], sid: words[2], reply, header_size })
    }
}

/// Returns the value of decimal digits and nothing else.
pub fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    digits.iter().try_fold(0, |value, byte| {
        byte.is_ascii_digit().then(|| value * 10 + u64::from(byte - b'0'))
    })
}

/// Returns the status of headers that begin with `NATS/1.0 404`, if they have one.
pub fn status(headers: &[u8]) -> Option<u64> {
    number(headers.strip_prefix(b"NATS/1.0 ")?.get(..3)?)
}

/// Returns the first line of headers without its version: the status and its text.
pub fn status_text(headers: &[u8]) -> String {
    let line = headers.split(|&byte| byte == b'\r').next().unwrap_or(b"");
    let line = line.strip_prefix(b"NATS/1.0").unwrap_or(line).trim_ascii();
    String::from_utf8_lossy(line).into_owned()
}

/// Returns the value of a header, by its exact name.
pub fn header<'a>(headers: &'a [u8], name: &str) -> Option<&'a [u8]> {
    headers.split(|&byte| byte == b'\n').find_map(|line| {
        let value = line.strip_prefix(name.as_bytes())?.strip_prefix(b":")?;
        Some(value.trim_ascii())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_forms_of_a_line_are_told_apart() {
        let head = |line: &'static str| Head::parse(line.as_bytes());
        let parsed =
            |reply, header_size| Some(Head { subject: b"a.b", sid: b"7", reply, header_size });
        assert_eq!(head("MSG a.b 7 3\r\n"), parsed(None, 0));
        assert_eq!(head("MSG a.b 7 r 3\r\n"), parsed(Some(&b"r"[..]), 0));
        assert_eq!(head("HMSG a.b 7 12 15\r\n"), parsed(None, 12));
        assert_eq!(head("HMSG a.b 7 r 12 15\r\n"), parsed(Some(&b"r"[..]), 12));
        for line in ["PUB a 3\r\n", "MSG a 3\r\n", "HMSG a 1 x 3\r\n", "MSG a b c d e f g\r\n"] {
            assert_eq!(head(line), None, "{line}");
        }
    }

    #[test]
    fn statuses_and_headers_are_read() {
        let headers = b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 12\r\n\r\n";
        assert_eq!(status(headers), Some(408));
        assert_eq!(status_text(headers), "408 Request Timeout");
        assert_eq!(header(headers, "Nats-Pending-Messages").and_then(number), Some(12));
        assert_eq!(header(headers, "nats-pending-messages"), None);
        assert_eq!(status(b"NATS/1.0\r\nA: b\r\n\r\n"), None);
        assert_eq!(number(b"18446744073709551616"), None);
    }
}
