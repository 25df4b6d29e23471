//! Log lines about bytes that are no command, in nats-server's words.
//!
//! Possible secrets of a CONNECT are never quoted: such a text ends at its first brace. Source:
//! nats-server server/parser.go parse and protoSnippet.

use super::error::quoted;
use super::parser::{is_blank, size_at_end};

/// nats-server's PROTO_SNIPPET_SIZE.
const SNIPPET_BYTES_MAX: usize = 32;
/// nats-server quotes a whole control line.
const ARGUMENTS_BYTES_MAX: usize = 256;

/// Every verb nats-server's parser knows of a client, and the numbers of its states: at the verb's
/// second byte, and at each one after it.
const STATES: [(&[u8], &[u8]); 11] = [
    (b"pub", &[29, 30, 31]),
    (b"ping", &[29, 34, 35, 36]),
    (b"pong", &[29, 37, 38, 39]),
    (b"hpub", &[18, 19, 20, 21]),
    (b"hmsg", &[18, 24, 25, 26]),
    (b"sub", &[43, 44, 45]),
    (b"unsub", &[59, 60, 61, 62, 63]),
    (b"connect", &[10, 11, 12, 13, 14, 15, 16]),
    (b"info", &[71, 72, 73, 74]),
    (b"-err", &[4, 5, 6, 7]),
    (b"+ok", &[1, 2, 3]),
];
/// States of nats-server's parser: at the CR behind a payload, and at the LF behind that.
const STATE_END_CR: u8 = 41;
const STATE_END_LF: u8 = 42;

/// The line about an unknown operation. `start` is where its command begins in `input`.
pub(crate) fn unknown_operation(input: &[u8], start: usize) -> String {
    let (state, offset) = state_and_offset(&input[start..]);
    let at = (start + offset).min(input.len());
    let end = match at + SNIPPET_BYTES_MAX {
        end if end <= input.len() => end,
        // nats-server loses the last byte here.
        _ => input.len().saturating_sub(1).max(at),
    };
    let shown = match input[start..end.max(start)].iter().position(|byte| *byte == b'{') {
        Some(brace) if start + brace <= at => String::from("\"[REDACTED]\""),
        Some(brace) => quoted(&input[at..(start + brace).max(at)]),
        None => quoted(&input[at.min(end)..end]),
    };
    format!("Client parser ERROR, state={state}, i={at}: proto='{shown}...'")
}

/// The state in which nats-server's parser stops, and the offset.
fn state_and_offset(command: &[u8]) -> (u8, usize) {
    let mut stopped = (0, 0);
    for (verb, states) in STATES {
        let same = command.iter().zip(verb).take_while(|(a, b)| a.eq_ignore_ascii_case(b)).count();
        if same > stopped.1 {
            stopped = (states[same - 1], same);
        }
        let is_publish = matches!(verb, b"pub" | b"hpub") && same == verb.len();
        if is_publish && command.get(same).copied().is_some_and(is_blank) {
            return payload_end(command).unwrap_or(stopped);
        }
    }
    stopped
}

/// The parser's state and the offset where the payload of a publish does not end as it should.
fn payload_end(command: &[u8]) -> Option<(u8, usize)> {
    let line = memchr::memchr(b'\n', command)?;
    let end = line + 1 + size_at_end(&command[..line])?;
    Some(match command.get(end) {
        Some(b'\r') => (STATE_END_LF, end + 1),
        _ => (STATE_END_CR, end),
    })
}

/// Returns the verb and the arguments of a refused command if nats-server traces its line before it
/// judges the arguments.
pub(crate) fn judged_line(command: &[u8]) -> Option<(&'static str, &[u8])> {
    let line = &command[..memchr::memchr(b'\n', command)?];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    ["PUB", "HPUB", "SUB", "UNSUB"].into_iter().find_map(|verb| {
        let (head, rest) = line.split_at_checked(verb.len())?;
        let blanks = rest.iter().take_while(|byte| is_blank(**byte)).count();
        let is_verb = head.eq_ignore_ascii_case(verb.as_bytes()) && blanks > 0;
        is_verb.then(|| (verb, &rest[blanks..]))
    })
}

/// Arguments of a verb that cannot be understood, between quotes.
pub(crate) fn arguments(arguments: &[u8]) -> String {
    let end = arguments.iter().position(|byte| *byte == b'{').unwrap_or(arguments.len());
    quoted(&arguments[..end.min(ARGUMENTS_BYTES_MAX)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_parser_stops_at_is_told_as_nats_server_tells_it() {
        let cases: [(&[u8], usize, &str); 14] = [
            (b"FOO\r\n", 0, r#"state=0, i=0: proto='"FOO\r"...'"#),
            (b"PING\r\nFOO\r\n", 6, r#"state=0, i=6: proto='"FOO\r"...'"#),
            (
                b"FOO bar baz this is a longer line than thirty two bytes\r\n",
                0,
                r#"state=0, i=0: proto='"FOO bar baz this is a longer lin"...'"#,
            ),
            (b"PINX\r\n", 0, r#"state=35, i=3: proto='"X\r"...'"#),
            (b"PUBX a 1\r\n", 0, r#"state=31, i=3: proto='"X a 1\r"...'"#),
            (b"PUB a 3\r\nabcdef\r\n", 0, r#"state=41, i=12: proto='"def\r"...'"#),
            (b"PUB a 3\r\nabc\rX\r\n", 0, r#"state=42, i=13: proto='"X\r"...'"#),
            (b"SUB\r\n", 0, r#"state=45, i=3: proto='"\r"...'"#),
            (b"-ERRX\r\n", 0, r#"state=7, i=4: proto='"X\r"...'"#),
            (b"+NO\r\n", 0, r#"state=1, i=1: proto='"NO\r"...'"#),
            (b"\xff\xfe\r\n", 0, r#"state=0, i=0: proto='"\xff\xfe\r"...'"#),
            (b"X", 0, r#"state=0, i=0: proto='""...'"#),
            (b"unsubx\r\n", 0, r#"state=63, i=5: proto='"x\r"...'"#),
            (b"CONNEXT\r\n", 0, r#"state=14, i=5: proto='"XT\r"...'"#),
        ];
        for (input, start, expected) in cases {
            let expected = format!("Client parser ERROR, {expected}");
            assert_eq!(unknown_operation(input, start), expected);
        }
    }

    #[test]
    fn only_a_whole_line_of_a_verb_with_arguments_is_judged() {
        type Line = Option<(&'static str, &'static [u8])>;
        let cases: [(&[u8], Line); 9] = [
            (b"PUB foo 2000\r\n", Some(("PUB", b"foo 2000"))),
            (b"hpub \t foo x 5\r\nNATS/1.0", Some(("HPUB", b"foo x 5"))),
            (b"SUB a b c d\n", Some(("SUB", b"a b c d"))),
            (b"UNSUB 1 2 3\r\n", Some(("UNSUB", b"1 2 3"))),
            (b"PUB foo 2000", None),
            (b"PUBX foo 1\r\n", None),
            (b"SUB\r\n", None),
            (b"CONNECT {}\r\n", None),
            (b"", None),
        ];
        for (command, expected) in cases {
            assert_eq!(judged_line(command), expected);
        }
    }

    #[test]
    fn a_misspelt_connect_is_not_quoted() {
        for (input, start) in [
            (&b"CONECT {\"pass\":\"planted\"}\r\n"[..], 0),
            (b"CONNECT{}\r\nFOO {\"pass\":\"planted\"}\r\n", 11),
            (b"FOO\r\nCONNECT {\"pass\":\"planted\"}\r\n", 0),
            (b"PUB x 12\r\nCONNECT {\"pass\":\"planted\"}\r\n", 0),
        ] {
            let line = unknown_operation(input, start);
            assert!(!line.contains("plant") && !line.contains("pass"), "{line}");
        }
        assert_eq!(arguments(b"a {\"pass\":\"planted\"} c d"), "\"a \"");
    }

    #[test]
    fn arguments_are_bounded_and_nothing_is_out_of_bounds() {
        assert_eq!(arguments(&[b'a'; 257]).len(), 258);
        assert_eq!(arguments(&[b'a'; 255]).len(), 257);
        let input = b"HPUB a 1 2\r\nabX\r\nhmsg -err unsub {";
        for start in 0..=input.len() {
            for end in start..=input.len() {
                let _ = unknown_operation(&input[..end], start);
            }
        }
    }
}
