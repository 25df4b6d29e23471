//! Header blocks of messages: `NATS/1.0`, perhaps a status, lines of name and value, and an empty line.
//!
//! Blocks come from peers as they are: nothing here expects them to be well formed. A name is all that stands before a
//! line's first colon, a value what follows without the blanks around it; an empty value is none. Source: nats-server
//! server/msgtrace.go genHeaderMapIfTraceHeadersPresent, server/client.go.

/// How a block begins that has no status.
pub const FIRST_LINE: &[u8] = b"NATS/1.0\r\n";

const LINE_END: &[u8] = b"\r\n";

/// Status: a request that nobody listens to.
pub const NO_RESPONDERS: u16 = 503;

/// The names and values of a block, in order. A block whose first line is another than `FIRST_LINE` has none.
fn headers(block: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = block.strip_prefix(FIRST_LINE).unwrap_or_default();
    std::iter::from_fn(move || {
        let colon = memchr::memchr(b':', rest)?;
        let (name, after) = (&rest[..colon], &rest[colon + 1..]);
        let end = memchr::memmem::find(after, LINE_END)?;
        rest = &after[end + LINE_END.len()..];
        Some((name, trim(&after[..end])))
    })
    .filter(|(name, value)| !name.is_empty() && !value.is_empty())
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The first value of the header of this name, in its exact case.
pub fn find<'a>(block: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    headers(block).find(|(other, _)| *other == name).map(|(_, value)| value)
}

/// Appends a status line with its headers: a whole block.
pub fn status(out: &mut Vec<u8>, code: u16, headers: &[(&[u8], &[u8])]) {
    out.extend_from_slice(b"NATS/1.0 ");
    out.extend_from_slice(code.to_string().as_bytes());
    out.extend_from_slice(LINE_END);
    for (name, value) in headers {
        line(out, name, value);
    }
    out.extend_from_slice(LINE_END);
}

fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    debug_assert!(!name.contains(&b':') && memchr::memmem::find(value, LINE_END).is_none());
    for part in [name, b": ", value, LINE_END] {
        out.extend_from_slice(part);
    }
}

/// Adds a header behind those of a block; an empty block gets its first line. Name and value have no line end.
pub fn append(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    if block.is_empty() {
        block.extend_from_slice(FIRST_LINE);
    } else if block.ends_with(b"\r\n\r\n") {
        block.truncate(block.len() - LINE_END.len());
    }
    line(block, name, value);
    block.extend_from_slice(LINE_END);
}

/// True if `strip` would find something.
pub fn has(block: &[u8], name: &[u8]) -> bool {
    block.split(|byte| *byte == b'\n').any(|line| {
        memchr::memchr(b':', line)
            .is_some_and(|colon| trim(&line[..colon]).eq_ignore_ascii_case(name))
    })
}

/// Takes every header of this name out of a block, in whatever case it is spelt and on however many lines its value
/// stands: nobody may speak for the server.
pub fn strip(block: &mut Vec<u8>, name: &[u8]) {
    let (mut kept, mut at, mut stripping) = (Vec::with_capacity(block.len()), 0, false);
    while at < block.len() {
        let rest = &block[at..];
        let size = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
        let line = &rest[..size];
        let goes_on = matches!(line.first(), Some(b' ' | b'\t'));
        let own_name = memchr::memchr(b':', line).map(|colon| trim(&line[..colon]));
        let is_named = own_name.is_some_and(|own| own.eq_ignore_ascii_case(name));
        stripping = is_named || stripping && goes_on;
        if !stripping {
            kept.extend_from_slice(line);
        }
        at += size;
    }
    *block = kept;
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: &[u8] = b"NATS/1.0\r\nA: one\r\nEmpty:\r\nb:\t two \r\nA: three\r\n\r\n";

    #[test]
    fn the_first_value_of_an_exact_name_is_found() {
        assert_eq!(find(BLOCK, b"A"), Some(&b"one"[..]));
        assert_eq!(find(BLOCK, b"b"), Some(&b"two"[..]));
        for name in [&b"a"[..], b"B", b"Empty", b"C", b""] {
            assert_eq!(find(BLOCK, name), None, "{name:?}");
        }
        for block in [
            &b""[..],
            b"NATS/1.0\r\n",
            b"NATS/1.0\r\nA",
            b"NATS/1.0\r\nA: one",
            b"NATS/1.0 503\r\nA: one\r\n\r\n",
            b"A: one\r\n\r\n",
        ] {
            assert_eq!(find(block, b"A"), None, "{block:?}");
        }
    }

    #[test]
    fn what_is_appended_is_found() {
        let mut block = Vec::new();
        append(&mut block, b"A", b"1");
        assert_eq!(block, b"NATS/1.0\r\nA: 1\r\n\r\n");
        append(&mut block, b"B", b"2");
        assert_eq!(block, b"NATS/1.0\r\nA: 1\r\nB: 2\r\n\r\n");
        assert_eq!(find(&block, b"B"), Some(&b"2"[..]));
    }

    #[test]
    fn every_spelling_of_a_name_is_stripped_and_nothing_else() {
        let text = "NATS/1.0\r\na: 1\r\n go on\r\nB: 2\r\nA : 3\r\njunk\r\nA:4\r\nAB: 5\r\n\r\n";
        let mut block = text.as_bytes().to_vec();
        assert!(has(&block, b"A") && !has(&block, b"C"));
        strip(&mut block, b"A");
        assert_eq!(block, b"NATS/1.0\r\nB: 2\r\njunk\r\nAB: 5\r\n\r\n");
        let before = block.clone();
        strip(&mut block, b"C");
        assert_eq!(block, before);
    }

    #[test]
    fn a_status_has_its_headers() {
        let mut block = Vec::new();
        status(&mut block, NO_RESPONDERS, &[(b"Nats-Subject", b"a.b")]);
        assert_eq!(block, b"NATS/1.0 503\r\nNats-Subject: a.b\r\n\r\n");
    }
}
