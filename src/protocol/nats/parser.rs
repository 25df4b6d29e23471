//! The incremental client parser: one command per call, spans into the input, no copies.
//!
//! A control line is found with one memchr; sizes are read backwards from its end, so a PUB needs
//! one more scan only, for the blank between subject and reply. Incomplete is a value, bad is an
//! error: two different things. The parser keeps no bytes; it only remembers that it is inside a
//! line it skips (PING, PONG and +OK may carry anything before their end of line, without limit).
//! Source of every rule: nats-server server/parser.go.

use memchr::{memchr, memchr3};

use super::command::{Command, Publish, Span};
use super::error::ProtocolError;
use crate::base::limits;

/// Bounds of one connection's commands.
#[derive(Clone, Copy, Debug)]
pub struct ParserLimits {
    pub control_line_bytes_max: usize,
    pub payload_bytes_max: usize,
    /// True if HPUB was negotiated.
    pub headers: bool,
}

/// One step of parsing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A command and how many bytes of the input it took.
    Command { command: Command, consumed: usize },
    /// Bytes of no further use; call again with the rest.
    Skip { consumed: usize },
    /// More input is needed: at least `needed` bytes counted from the start of this input, as far
    /// as known.
    Incomplete { needed: usize },
}

/// Remembers only whether the input starts inside a line that is being skipped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parser {
    skipping: Option<LineVerb>,
}

/// Verbs whose line carries nothing of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineVerb {
    Ping,
    Pong,
    Ok,
}

impl LineVerb {
    fn command(self) -> Command {
        match self {
            Self::Ping => Command::Ping,
            Self::Pong => Command::Pong,
            Self::Ok => Command::Ok,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Publish,
    PublishWithHeaders,
    Subscribe,
    Unsubscribe,
    Connect,
    Info,
    Error,
    Line(LineVerb),
}

/// Every verb, true if a blank must follow it, and its meaning.
const VERBS: [(&[u8], bool, Verb); 10] = [
    (b"pub", true, Verb::Publish),
    (b"hpub", true, Verb::PublishWithHeaders),
    (b"sub", true, Verb::Subscribe),
    (b"unsub", true, Verb::Unsubscribe),
    (b"connect", false, Verb::Connect),
    (b"info", true, Verb::Info),
    (b"-err", true, Verb::Error),
    (b"ping", false, Verb::Line(LineVerb::Ping)),
    (b"pong", false, Verb::Line(LineVerb::Pong)),
    (b"+ok", false, Verb::Line(LineVerb::Ok)),
];

impl Parser {
    /// True if the next input continues a line of which only the end matters.
    #[inline]
    pub fn is_skipping(&self) -> bool {
        self.skipping.is_some()
    }

    /// Parses the command at the start of `input`.
    ///
    /// # Errors
    /// The peer sent what it may not; the connection closes.
    #[inline]
    pub fn next(&mut self, input: &[u8], limits: &ParserLimits) -> Result<Parsed, ProtocolError> {
        // The verb that matters, in the spelling every client library uses.
        if let [first, second, third, b' ', ..] = input
            && (first | 0x20, second | 0x20, third | 0x20) == (b'p', b'u', b'b')
            && self.skipping.is_none()
        {
            return match self.control_line(input, 4, limits)? {
                Some((arguments, after)) => publish(input, arguments, after, limits),
                None => Ok(Parsed::Incomplete { needed: input.len() + 1 }),
            };
        }
        self.next_other(input, limits)
    }

    #[inline(never)]
    fn next_other(&mut self, input: &[u8], limits: &ParserLimits) -> Result<Parsed, ProtocolError> {
        if let Some(verb) = self.skipping {
            return Ok(match memchr(b'\n', input) {
                Some(end) => {
                    self.skipping = None;
                    Parsed::Command { command: verb.command(), consumed: end + 1 }
                }
                None if input.is_empty() => Parsed::Incomplete { needed: 1 },
                None => Parsed::Skip { consumed: input.len() },
            });
        }
        let Some((verb, verb_len)) = find_verb(input)? else {
            return Ok(Parsed::Incomplete { needed: input.len() + 1 });
        };
        if let Verb::Line(line) = verb {
            self.skipping = Some(line);
            return Ok(Parsed::Skip { consumed: verb_len });
        }
        let Some((arguments, after)) = self.control_line(input, verb_len, limits)? else {
            return Ok(Parsed::Incomplete { needed: input.len() + 1 });
        };
        let command = match verb {
            Verb::Publish => return publish(input, arguments, after, limits),
            Verb::PublishWithHeaders => {
                return publish_with_headers(input, arguments, after, limits);
            }
            Verb::Subscribe => subscribe(input, arguments)?,
            Verb::Unsubscribe => unsubscribe(input, arguments)?,
            Verb::Connect => Command::Connect { json: arguments },
            Verb::Info => Command::Info { json: arguments },
            Verb::Error => Command::Error { text: arguments },
            Verb::Line(_) => unreachable!("line verbs returned above"),
        };
        Ok(Parsed::Command { command, consumed: after })
    }

    /// The arguments of the line whose verb ended at `from`, and where the line ends. `None`: no
    /// end of line yet.
    #[inline]
    fn control_line(
        &self,
        input: &[u8],
        from: usize,
        limits: &ParserLimits,
    ) -> Result<Option<(Span, usize)>, ProtocolError> {
        // The limit counts from the first argument byte to the last, so leading blanks are not in
        // it.
        let blanks = input[from..].iter().take_while(|byte| is_blank(**byte)).count();
        let start = from + blanks;
        if start > limits.control_line_bytes_max + limits::VERB_BYTES_MAX {
            // Blanks without end are no way around the limit, in however many reads they come.
            return Err(ProtocolError::MaximumControlLine);
        }
        let Some(length) = memchr(b'\n', &input[start..]) else {
            let mut length = input.len() - start;
            if length > 0 && input[input.len() - 1] == b'\r' {
                length -= 1;
            }
            if length > limits.control_line_bytes_max {
                return Err(ProtocolError::MaximumControlLine);
            }
            return Ok(None);
        };
        let mut end = start + length;
        let after = end + 1;
        if end > start && input[end - 1] == b'\r' {
            end -= 1;
        }
        if end - start > limits.control_line_bytes_max {
            return Err(ProtocolError::MaximumControlLine);
        }
        Ok(Some((Span::new(start, end), after)))
    }
}

#[cold]
fn bad(what: &'static str, arguments: Span) -> ProtocolError {
    ProtocolError::BadArguments(what, Some(arguments))
}

/// The size at the end of a publish's control line.
pub(super) fn size_at_end(line: &[u8]) -> Option<usize> {
    let (_, size) = split_last(line, Span::new(0, line.len()));
    parse_size(size.of(line)).map(|size| size as usize)
}

#[inline]
pub(super) fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// The verb at the start of `input` and its length; `None` while the input is a prefix of one.
fn find_verb(input: &[u8]) -> Result<Option<(Verb, usize)>, ProtocolError> {
    let mut may_become_one = false;
    for (name, blank_follows, verb) in VERBS {
        let common = input.len().min(name.len());
        if !input[..common].eq_ignore_ascii_case(&name[..common]) {
            continue;
        }
        if input.len() < name.len() {
            may_become_one = true;
        } else if !blank_follows {
            return Ok(Some((verb, name.len())));
        } else {
            match input.get(name.len()) {
                None => may_become_one = true,
                Some(byte) if is_blank(*byte) => return Ok(Some((verb, name.len()))),
                Some(_) => return Err(ProtocolError::UnknownOperation),
            }
        }
    }
    if may_become_one { Ok(None) } else { Err(ProtocolError::UnknownOperation) }
}

/// A size argument: 1 to 9 digits.
#[inline]
fn parse_size(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > limits::SIZE_DIGITS_MAX {
        return None;
    }
    let mut value = 0u32;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        // At most nine digits: below 10^9, no overflow.
        value = value * 10 + u32::from(digit - b'0');
    }
    Some(value)
}

/// Splits the last argument off: the span before it (trailing blanks gone) and the argument.
#[inline]
fn split_last(input: &[u8], arguments: Span) -> (Span, Span) {
    let bytes = arguments.of(input);
    let start = arguments.start as usize;
    let mut end = bytes.len();
    while end > 0 && is_separator(bytes[end - 1]) {
        end -= 1;
    }
    let mut last = end;
    while last > 0 && !is_separator(bytes[last - 1]) {
        last -= 1;
    }
    let mut before = last;
    while before > 0 && is_separator(bytes[before - 1]) {
        before -= 1;
    }
    (Span::new(start, start + before), Span::new(start + last, start + end))
}

#[inline]
fn is_separator(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// `subject` or `subject reply`.
#[inline]
fn subject_and_reply(input: &[u8], names: Span) -> Option<(Span, Span)> {
    let bytes = names.of(input);
    if bytes.is_empty() {
        return None;
    }
    let start = names.start as usize;
    let Some(blank) = memchr3(b' ', b'\t', b'\r', bytes) else {
        let end = names.end as usize;
        return Some((names, Span::new(end, end)));
    };
    let mut reply = blank;
    while is_separator(bytes[reply]) {
        // `names` ends in an argument byte, so this ends before its end.
        reply += 1;
    }
    if memchr3(b' ', b'\t', b'\r', &bytes[reply..]).is_some() {
        return None;
    }
    Some((Span::new(start, start + blank), Span::new(start + reply, names.end as usize)))
}

#[inline]
fn publish(
    input: &[u8],
    arguments: Span,
    after: usize,
    limits: &ParserLimits,
) -> Result<Parsed, ProtocolError> {
    let (names, size_text) = split_last(input, arguments);
    let Some((subject, reply)) = subject_and_reply(input, names) else {
        return Err(bad("processPub Parse Error", arguments));
    };
    let Some(size) = parse_size(size_text.of(input)) else {
        return Err(bad("processPub Bad or Missing Size", arguments));
    };
    let header_size_text = Span::default();
    body(input, after, size, limits, |body| Publish {
        subject,
        reply,
        header_size: 0,
        body,
        header_size_text,
        size_text,
        arguments,
    })
}

fn publish_with_headers(
    input: &[u8],
    arguments: Span,
    after: usize,
    limits: &ParserLimits,
) -> Result<Parsed, ProtocolError> {
    if !limits.headers {
        return Err(ProtocolError::BadArguments("message headers not supported", None));
    }
    let (before, size_text) = split_last(input, arguments);
    let (names, header_size_text) = split_last(input, before);
    let Some((subject, reply)) = subject_and_reply(input, names) else {
        return Err(bad("processHeaderPub Parse Error", arguments));
    };
    let Some(header_size) = parse_size(header_size_text.of(input)) else {
        return Err(bad("processHeaderPub Bad or Missing Header Size", arguments));
    };
    let Some(total) = parse_size(size_text.of(input)) else {
        return Err(bad("processHeaderPub Bad or Missing Total Size", arguments));
    };
    if header_size > total {
        return Err(bad("processHeaderPub Header Size larger then TotalSize", arguments));
    }
    body(input, after, total, limits, |body| Publish {
        subject,
        reply,
        header_size,
        body,
        header_size_text,
        size_text,
        arguments,
    })
}

/// The payload after a control line: there whole, to be waited for, or refused.
#[inline]
fn body(
    input: &[u8],
    after: usize,
    size: u32,
    limits: &ParserLimits,
    publish: impl FnOnce(Span) -> Publish,
) -> Result<Parsed, ProtocolError> {
    if size as usize > limits.payload_bytes_max {
        return Err(ProtocolError::MaximumPayload { size });
    }
    let end = after + size as usize;
    if input.len() >= end + 2 {
        if input[end] != b'\r' || input[end + 1] != b'\n' {
            return Err(ProtocolError::UnknownOperation);
        }
        let command = Command::Publish(publish(Span::new(after, end)));
        return Ok(Parsed::Command { command, consumed: end + 2 });
    }
    if input.len() == end + 1 && input[end] != b'\r' {
        return Err(ProtocolError::UnknownOperation);
    }
    Ok(Parsed::Incomplete { needed: end + 2 })
}

/// Splits into at most `N` arguments; `None` when there are more.
fn split<const N: usize>(input: &[u8], arguments: Span) -> Option<([Span; N], usize)> {
    let bytes = arguments.of(input);
    let start = arguments.start as usize;
    let mut spans = [Span::default(); N];
    let mut count = 0;
    let mut position = 0;
    while position < bytes.len() {
        if is_separator(bytes[position]) {
            position += 1;
            continue;
        }
        let length = bytes[position..].iter().take_while(|byte| !is_separator(**byte)).count();
        if count == N {
            return None;
        }
        spans[count] = Span::new(start + position, start + position + length);
        count += 1;
        position += length;
    }
    Some((spans, count))
}

fn subscribe(input: &[u8], arguments: Span) -> Result<Command, ProtocolError> {
    match split::<3>(input, arguments) {
        Some(([subject, sid, _], 2)) => {
            Ok(Command::Subscribe { subject, queue: Span::default(), sid, arguments })
        }
        Some(([subject, queue, sid], 3)) => {
            Ok(Command::Subscribe { subject, queue, sid, arguments })
        }
        _ => Err(bad("processSub Parse Error", arguments)),
    }
}

fn unsubscribe(input: &[u8], arguments: Span) -> Result<Command, ProtocolError> {
    match split::<2>(input, arguments) {
        Some(([sid, _], 1)) => Ok(Command::Unsubscribe { sid, max: Span::default(), arguments }),
        Some(([sid, max], 2)) => Ok(Command::Unsubscribe { sid, max, arguments }),
        _ => Err(bad("processUnsub Parse Error", arguments)),
    }
}

/// The `max` of UNSUB: 0 = at once, also for anything that is no number. Source: nats-server
/// parseSize, whose -1 for bad input counts as "at once".
pub(crate) fn parse_unsubscribe_max(max: &[u8]) -> u64 {
    parse_size(max).map_or(0, u64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ParserLimits =
        ParserLimits { control_line_bytes_max: 4096, payload_bytes_max: 1 << 20, headers: true };

    /// Parses everything, cut into pieces that end at `cuts`, and shows what came out.
    fn transcript(input: &[u8], cuts: &[usize], limits: &ParserLimits) -> Vec<String> {
        let mut parser = Parser::default();
        let mut out = Vec::new();
        let mut start = 0;
        let ends = cuts.iter().copied().chain([input.len()]);
        for end in ends {
            loop {
                let pending = &input[start..end];
                match parser.next(pending, limits) {
                    Ok(Parsed::Incomplete { needed }) => {
                        assert!(needed > pending.len());
                        break;
                    }
                    Ok(Parsed::Skip { consumed }) => start += consumed,
                    Ok(Parsed::Command { command, consumed }) => {
                        out.push(show(command, pending));
                        start += consumed;
                    }
                    Err(ProtocolError::BadArguments(what, Some(arguments))) => {
                        let text = String::from_utf8_lossy(arguments.of(pending));
                        out.push(format!("{what}: {text}"));
                        return out;
                    }
                    Err(error) => {
                        out.push(format!("{error:?}"));
                        return out;
                    }
                }
            }
        }
        out
    }

    fn show(command: Command, input: &[u8]) -> String {
        let text = |span: Span| String::from_utf8_lossy(span.of(input)).into_owned();
        match command {
            Command::Publish(p) => format!(
                "pub {}|{}|{}|{}",
                text(p.subject),
                text(p.reply),
                p.header_size,
                text(p.body)
            ),
            Command::Subscribe { subject, queue, sid, .. } => {
                format!("sub {}|{}|{}", text(subject), text(queue), text(sid))
            }
            Command::Unsubscribe { sid, max, .. } => format!("unsub {}|{}", text(sid), text(max)),
            Command::Connect { json } => format!("connect {}", text(json)),
            Command::Info { json } => format!("info {}", text(json)),
            other => format!("{other:?}"),
        }
    }

    /// Found by the fuzzer: the limit on blanks held only while the end of the line had not come
    /// yet.
    #[test]
    fn blanks_before_arguments_are_limited_however_they_arrive() {
        for (blanks, refused) in [(4096 + 64 - 3, false), (4096 + 64 - 2, true)] {
            let line = format!("SUB{}a 1\r\n", " ".repeat(blanks)).into_bytes();
            let whole = transcript(&line, &[], &LIMITS);
            let split = transcript(&line, &[line.len() - 2], &LIMITS);
            assert_eq!(whole, split);
            assert_eq!(whole[0].contains("MaximumControlLine"), refused, "{whole:?}");
        }
    }

    #[test]
    fn commands_are_parsed_whole_and_cut_anywhere() {
        let table: [(&[u8], &[&str]); 27] = [
            (b"PUB foo 2\r\nhi\r\n", &["pub foo||0|hi"]),
            (b"pub\tfoo  bar \t 2 \nhi\r\n", &["pub foo|bar|0|hi"]),
            (b"PuB foo 000000002\r\nhi\r\n", &["pub foo||0|hi"]),
            (b"PUB foo 0\r\n\r\nPING\r\n", &["pub foo||0|", "Ping"]),
            (b"HPUB foo bar 3 5\r\nabcxy\r\n", &["pub foo|bar|3|abcxy"]),
            (b"HPUB foo 0 0\r\n\r\n", &["pub foo||0|"]),
            (b"SUB foo 1\r\nSUB foo q 2\r\n", &["sub foo||1", "sub foo|q|2"]),
            (b"UNSUB 1\r\nUNSUB 1 5\r\n", &["unsub 1|", "unsub 1|5"]),
            (b"CONNECT {\"a\":1}\r\n", &["connect {\"a\":1}"]),
            (b"CONNECT{}\r\n", &["connect {}"]),
            (b"PING anything\r\nPONG\n+OK x\r\n", &["Ping", "Pong", "Ok"]),
            (b"INFO {}\r\n", &["info {}"]),
            (b"\r\n", &["UnknownOperation"]),
            (b"PUB\r\n", &["UnknownOperation"]),
            (b"XYZ", &["UnknownOperation"]),
            (b"MSG a 1 1\r\n", &["UnknownOperation"]),
            (b"PUB foo -1\r\n", &["processPub Bad or Missing Size: foo -1"]),
            (b"PUB foo 1234567890\r\n", &["processPub Bad or Missing Size: foo 1234567890"]),
            (b"PUB a b c 1\r\n", &["processPub Parse Error: a b c 1"]),
            (b"PUB 1\r\n", &["processPub Parse Error: 1"]),
            (b"SUB a b c d\r\n", &["processSub Parse Error: a b c d"]),
            (b"UNSUB a b c \r\n", &["processUnsub Parse Error: a b c "]),
            (b"HPUB a b c 1 1\r\n", &["processHeaderPub Parse Error: a b c 1 1"]),
            (b"HPUB a x 1\r\n", &["processHeaderPub Bad or Missing Header Size: a x 1"]),
            (b"HPUB a 1 x\r\n", &["processHeaderPub Bad or Missing Total Size: a 1 x"]),
            (b"PUB foo 2\r\nhiXX", &["UnknownOperation"]),
            (b"PUB foo 1048577\r\n", &["MaximumPayload { size: 1048577 }"]),
        ];
        for (input, expected) in table {
            let shown = String::from_utf8_lossy(input).into_owned();
            assert_eq!(transcript(input, &[], &LIMITS), expected, "{shown}");
            for cut in 0..input.len() {
                assert_eq!(transcript(input, &[cut], &LIMITS), expected, "{shown} cut at {cut}");
            }
            let every: Vec<usize> = (0..input.len()).collect();
            assert_eq!(transcript(input, &every, &LIMITS), expected, "{shown} byte by byte");
        }
    }

    #[test]
    fn the_control_line_limit_counts_arguments_only() {
        for (length, refused) in [(4095, false), (4096, false), (4097, true)] {
            let line = format!("SUB   {} 1\r\n", "a".repeat(length - 2));
            let out = transcript(line.as_bytes(), &[], &LIMITS);
            assert_eq!(out[0] == "MaximumControlLine", refused, "{length}");
            let cut = line.len() - 1;
            assert_eq!(transcript(line.as_bytes(), &[cut], &LIMITS), out);
        }
        let endless = vec![b' '; 9000];
        let input = [b"SUB".as_slice(), &endless].concat();
        assert_eq!(transcript(&input, &[], &LIMITS), ["MaximumControlLine"]);
        let ping = [b"PING ".as_slice(), &endless, b"\r\n"].concat();
        assert_eq!(transcript(&ping, &[3000, 6000], &LIMITS), ["Ping"]);
    }

    #[test]
    fn headers_must_be_negotiated() {
        let limits = ParserLimits { headers: false, ..LIMITS };
        assert!(transcript(b"HPUB a 0 0\r\n\r\n", &[], &limits)[0].starts_with("BadArguments"));
    }

    #[test]
    fn unsubscribe_max_is_zero_for_anything_odd() {
        assert_eq!(parse_unsubscribe_max(b"5"), 5);
        for odd in ["", "0", "-1", "x", "12345678901"] {
            assert_eq!(parse_unsubscribe_max(odd.as_bytes()), 0, "{odd}");
        }
    }
}
