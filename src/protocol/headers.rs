//! Header blocks of messages: `NATS/1.0`, perhaps a status, lines of name and value, and an empty
//! line.
//!
//! Blocks come from peers as they are: nothing here expects them to be well formed. A name is all
//! that stands before a line's first colon, a value what follows without the blanks around it; an
//! empty value is none. Source: nats-server server/msgtrace.go genHeaderMapIfTraceHeadersPresent,
//! server/client.go.

use memchr::memmem;

/// The first line of a block without a status.
pub(crate) const FIRST_LINE: &[u8] = b"NATS/1.0\r\n";

const LINE_END: &[u8] = b"\r\n";

/// Status: a request that nobody listens to.
pub(crate) const NO_RESPONDERS: u16 = 503;

/// The name of a header to look for, in its exact case. A block without it is passed over in one
/// quick scan, however many lines it has. One whose first line is another than `FIRST_LINE` has no
/// headers.
pub struct HeaderName {
    /// For the end of a line, the name and its colon.
    start: memmem::Finder<'static>,
}

impl HeaderName {
    pub fn new(name: &str) -> Self {
        Self { start: memmem::Finder::new(&format!("\r\n{name}:")).into_owned() }
    }

    /// The first value of this header in a block.
    pub fn find<'a>(&self, block: &'a [u8]) -> Option<&'a [u8]> {
        if !block.starts_with(FIRST_LINE) {
            return None;
        }
        let starts = self.start.find_iter(block).filter(|at| begins_header(block, *at));
        let mut values = starts.filter_map(|at| {
            let after = &block[at + self.start.needle().len()..];
            let end =
                memchr::memchr_iter(b'\n', after).find(|end| after[..*end].ends_with(b"\r"))?;
            Some(trim(&after[..end - 1]))
        });
        values.find(|value| !value.is_empty())
    }

    /// Removes this header from a block and adds it behind the others. The value has no line end.
    /// Source: nats-server server/client.go setHeader.
    pub(crate) fn set(&self, block: &mut Vec<u8>, value: &[u8]) {
        let needle = self.start.needle();
        let mut from = 0;
        while let Some(at) = self.start.find(&block[from..]).map(|at| from + at) {
            let start = at + LINE_END.len();
            let Some(size) = memmem::find(&block[start..], LINE_END) else { break };
            block.drain(start..start + size + LINE_END.len());
            from = at;
        }
        append(block, &needle[LINE_END.len()..needle.len() - 1], value);
    }
}

/// Names and values of a block's headers, in order; those without a name or a value are left out.
/// None are found in a block whose first line is another than `FIRST_LINE`.
pub(crate) fn fields(block: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = block.strip_prefix(FIRST_LINE).unwrap_or_default();
    let all = std::iter::from_fn(move || {
        let colon = memchr::memchr(b':', rest)?;
        let (name, after) = (&rest[..colon], &rest[colon + 1..]);
        let end = memmem::find(after, LINE_END)?;
        rest = &after[end + LINE_END.len()..];
        Some((name, trim(&after[..end])))
    });
    all.filter(|(name, value)| !name.is_empty() && !value.is_empty())
}

/// True if a header begins behind the end of line that stands at this place: the line before it has
/// a colon, or is the block's first. Else that line is a part of the next name.
fn begins_header(block: &[u8], line_end: usize) -> bool {
    let before = &block[..line_end];
    let mut ends = memchr::memrchr_iter(b'\n', before);
    match ends.find(|end| before[..*end].ends_with(b"\r")) {
        Some(end) => memchr::memchr(b':', &before[end + 1..]).is_some(),
        None => true,
    }
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Returns true if the value of `traceparent` says that its message is sampled: four fields of which
/// the last is two hexadecimal digits, an odd number.
pub(crate) fn is_sampled_parent(value: &[u8]) -> bool {
    let fields: Vec<&[u8]> = value.split(|byte| *byte == b'-').take(5).collect();
    let [_, _, _, flags @ [high, low]] = fields[..] else { return false };
    // As in nats-server, a number beyond the range of a signed byte is none.
    let number = std::str::from_utf8(flags).ok().and_then(|text| i8::from_str_radix(text, 16).ok());
    high.is_ascii_hexdigit() && low.is_ascii_hexdigit() && number.is_some_and(|n| n & 1 == 1)
}

/// Appends a status line with its headers: a whole block.
pub(crate) fn status(out: &mut Vec<u8>, code: u16, headers: &[(&[u8], &[u8])]) {
    out.extend_from_slice(b"NATS/1.0 ");
    out.extend_from_slice(code.to_string().as_bytes());
    out.extend_from_slice(LINE_END);
    for (name, value) in headers {
        line(out, name, value);
    }
    out.extend_from_slice(LINE_END);
}

fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    debug_assert!(!name.contains(&b':') && memmem::find(value, LINE_END).is_none());
    for part in [name, b": ", value, LINE_END] {
        out.extend_from_slice(part);
    }
}

/// Adds a header behind those of a block; an empty block gets its first line. Name and value have
/// no line end.
pub fn append(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    if block.is_empty() {
        block.extend_from_slice(FIRST_LINE);
    } else if block.ends_with(b"\r\n\r\n") {
        block.truncate(block.len() - LINE_END.len());
    }
    line(block, name, value);
    block.extend_from_slice(LINE_END);
}

/// A header's name in any case, to be removed wherever it stands: nobody may speak for the server.
/// Looking through a block costs as many steps as it has bytes, however many lines these are.
pub(crate) struct AnyCaseName {
    name: Box<[u8]>,
    /// Index of the byte of the name to look for: one that is rare in headers.
    rare_at: usize,
}

impl AnyCaseName {
    pub(crate) fn new(name: &str) -> Self {
        let rare = |byte: &u8| b"qxzjkvwy".iter().position(|rare| rare.eq_ignore_ascii_case(byte));
        let places = name.bytes().enumerate();
        let rarest = places.min_by_key(|(_, byte)| rare(byte).unwrap_or(usize::MAX));
        Self { name: name.as_bytes().into(), rare_at: rarest.map_or(0, |(at, _)| at) }
    }

    /// Appends a block to `kept` without the headers of this name, even if their values stand on
    /// several lines.
    pub(crate) fn copy_without(&self, block: &[u8], kept: &mut Vec<u8>) {
        let mut from = 0;
        while let Some(start) = self.find(block, from) {
            kept.extend_from_slice(&block[from..start]);
            from = end_of_value(block, start);
        }
        kept.extend_from_slice(&block[from..]);
    }

    /// The start of the first line with this name, from `from` on, which is the start of a line.
    fn find(&self, block: &[u8], from: usize) -> Option<usize> {
        let rare = self.name[self.rare_at];
        let (lower, upper) = (rare.to_ascii_lowercase(), rare.to_ascii_uppercase());
        let rest = &block[from..];
        memchr::memchr2_iter(lower, upper, rest).find_map(|at| {
            let start = at.checked_sub(self.rare_at)?;
            let found = rest.get(start..start + self.name.len())?;
            if !found.eq_ignore_ascii_case(&self.name) {
                return None;
            }
            let after = skip_blanks(&rest[start + self.name.len()..]);
            let before = trim_end(&rest[..start]);
            let is_name =
                after.first() == Some(&b':') && before.last().is_none_or(|end| *end == b'\n');
            is_name.then_some(from + before.len())
        })
    }
}

/// The end of a header whose first line begins at `start`: behind that line and all further lines
/// that begin with a blank.
fn end_of_value(block: &[u8], start: usize) -> usize {
    let mut ends = memchr::memchr_iter(b'\n', &block[start..]).map(|end| start + end + 1);
    let end = ends.find(|end| !matches!(block.get(*end), Some(b' ' | b'\t')));
    end.unwrap_or(block.len())
}

fn skip_blanks(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    text
}

fn trim_end(mut text: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(block: &'a [u8], name: &str) -> Option<&'a [u8]> {
        HeaderName::new(name).find(block)
    }

    /// The naive twin: the names and values of a block, in order.
    fn headers(block: &[u8]) -> Vec<(&[u8], &[u8])> {
        let mut rest = block.strip_prefix(FIRST_LINE).unwrap_or_default();
        let all = std::iter::from_fn(|| {
            let colon = rest.iter().position(|byte| *byte == b':')?;
            let (name, after) = (&rest[..colon], &rest[colon + 1..]);
            let end = after.windows(2).position(|pair| pair == LINE_END)?;
            rest = &after[end + LINE_END.len()..];
            Some((name, trim(&after[..end])))
        });
        all.filter(|(name, value)| !name.is_empty() && !value.is_empty()).collect()
    }

    #[test]
    fn a_name_is_found_where_going_through_line_by_line_finds_it() {
        const PIECES: [&str; 9] = ["\r\n", "\r\n", "A", "A:", ":", " ", "v", "\n", "\r"];
        let mut random = fastrand::Rng::with_seed(3);
        let mut found = 0;
        for _ in 0..20_000 {
            let first = if random.u8(..10) == 0 { "NATS/1.0 1\r\n" } else { "NATS/1.0\r\n" };
            let pieces = (0..random.usize(..16)).map(|_| PIECES[random.usize(..PIECES.len())]);
            let block: String = std::iter::once(first).chain(pieces).collect();
            let all = headers(block.as_bytes());
            let expected = all.iter().find(|(name, _)| name == b"A").map(|(_, value)| *value);
            assert_eq!(find(block.as_bytes(), "A"), expected, "{block:?}");
            found += usize::from(expected.is_some());
        }
        assert!(found > 1_000, "{found}");
    }

    const BLOCK: &[u8] = b"NATS/1.0\r\nA: one\r\nEmpty:\r\nb:\t two \r\nA: three\r\n\r\n";

    #[test]
    fn the_first_value_of_an_exact_name_is_found() {
        assert_eq!(find(BLOCK, "A"), Some(&b"one"[..]));
        assert_eq!(find(BLOCK, "b"), Some(&b"two"[..]));
        for name in ["a", "B", "Empty", "C"] {
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
            assert_eq!(find(block, "A"), None, "{block:?}");
        }
    }

    #[test]
    fn what_is_appended_is_found() {
        let mut block = Vec::new();
        append(&mut block, b"A", b"1");
        assert_eq!(block, b"NATS/1.0\r\nA: 1\r\n\r\n");
        append(&mut block, b"B", b"2");
        assert_eq!(block, b"NATS/1.0\r\nA: 1\r\nB: 2\r\n\r\n");
        assert_eq!(find(&block, "B"), Some(&b"2"[..]));
    }

    #[test]
    fn a_header_is_set_behind_the_others_and_stands_once() {
        let set = |text: &str| {
            let mut block = text.as_bytes().to_vec();
            HeaderName::new("A").set(&mut block, b"new");
            String::from_utf8(block).expect("ASCII")
        };
        let (front, new) = ("NATS/1.0\r\n", "A: new\r\n\r\n");
        for (before, rest) in [
            ("A: 1\r\nB: 2\r\nA: 3\r\nA: 4\r\n\r\n", "B: 2\r\n"),
            ("A:1\r\n\r\n", ""),
            ("B: 2\r\n\r\n", "B: 2\r\n"),
            ("a: 2\r\nAA: 3\r\n\r\n", "a: 2\r\nAA: 3\r\n"),
        ] {
            assert_eq!(set(&format!("{front}{before}")), format!("{front}{rest}{new}"));
        }
    }

    #[test]
    fn an_odd_flag_of_two_digits_behind_three_fields_means_sampled() {
        for (value, expected) in [
            ("00-4bf92f-00f067-01", true),
            ("00-4bf92f-00f067-03", true),
            ("00-a-b-00", false),
            ("00-a-b-02", false),
            ("00-a-b-1", false),
            ("00-a-b-001", false),
            ("00-a-b-zz", false),
            ("00-a-b-+1", false),
            // 0x81 is no signed byte.
            ("00-a-b-81", false),
            ("a-b-01", false),
            ("a-b-c-d-01", false),
            ("", false),
        ] {
            assert_eq!(is_sampled_parent(value.as_bytes()), expected, "{value:?}");
        }
    }

    #[test]
    fn the_fields_of_a_block_are_those_that_going_through_it_finds() {
        assert_eq!(fields(BLOCK).collect::<Vec<_>>(), headers(BLOCK));
        assert_eq!(fields(BLOCK).count(), 3);
        assert_eq!(fields(b"NATS/1.0 503\r\nA: 1\r\n\r\n").count(), 0);
    }

    #[test]
    fn every_spelling_of_a_name_is_stripped_and_nothing_else() {
        let text = "NATS/1.0\r\na: 1\r\n go on\r\nB: 2\r\nA : 3\r\njunk\r\nA:4\r\nAB: 5\r\n\r\n";
        assert_eq!(without(text.as_bytes(), "A"), b"NATS/1.0\r\nB: 2\r\njunk\r\nAB: 5\r\n\r\n");
        assert_eq!(without(text.as_bytes(), "C"), text.as_bytes());
        for (block, expected) in [("", ""), ("A", "A"), ("A:", ""), (" \tA\t :x\n\n", "\n")] {
            assert_eq!(without(block.as_bytes(), "a"), expected.as_bytes(), "{block:?}");
        }
        assert_eq!(
            without(b"NATS/1.0\r\nNATS-REQUEST-INFO:x\r\n\r\n", "Nats-Request-Info"),
            b"NATS/1.0\r\n\r\n"
        );
    }

    fn without(block: &[u8], name: &str) -> Vec<u8> {
        let mut kept = Vec::new();
        AnyCaseName::new(name).copy_without(block, &mut kept);
        kept
    }

    /// The naive twin: line by line.
    fn without_by_lines(block: &[u8], name: &[u8]) -> Vec<u8> {
        let (mut kept, mut stripping) = (Vec::new(), false);
        for line in block.split_inclusive(|byte| *byte == b'\n') {
            let goes_on = matches!(line.first(), Some(b' ' | b'\t'));
            let own_name = memchr::memchr(b':', line).map(|colon| trim(&line[..colon]));
            let is_named = own_name.is_some_and(|own| own.eq_ignore_ascii_case(name));
            stripping = is_named || stripping && goes_on;
            if !stripping {
                kept.extend_from_slice(line);
            }
        }
        kept
    }

    #[test]
    fn a_name_in_any_case_is_stripped_where_going_through_line_by_line_strips_it() {
        const PIECES: [&str; 12] =
            ["\r\n", "\n", "Q-a", "q-A", "Q-A:", ":", " ", "\t", "q", "v", "\r", "-"];
        let mut random = fastrand::Rng::with_seed(3);
        let mut stripped = 0;
        for _ in 0..50_000 {
            let pieces = (0..random.usize(..20)).map(|_| PIECES[random.usize(..PIECES.len())]);
            let block: String = pieces.collect();
            let expected = without_by_lines(block.as_bytes(), b"Q-A");
            assert_eq!(without(block.as_bytes(), "Q-A"), expected, "{block:?}");
            stripped += usize::from(expected.len() < block.len());
        }
        assert!(stripped > 5_000, "{stripped}");
    }

    #[test]
    fn a_status_has_its_headers() {
        let mut block = Vec::new();
        status(&mut block, NO_RESPONDERS, &[(b"Nats-Subject", b"a.b")]);
        assert_eq!(block, b"NATS/1.0 503\r\nNats-Subject: a.b\r\n\r\n");
    }
}
