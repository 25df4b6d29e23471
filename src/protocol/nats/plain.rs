//! A quick look at plain PUBs, before the parser is asked: nearly all of what clients send.
//!
//! It sees a message whole, in the spelling every client library uses, or has no opinion. Messages
//! that follow each other on one subject make a run, which is routed in one go.

use super::parser::ParserLimits;
use crate::base::{few_bytes, limits};
use crate::protocol::message::{Message, Tail};

/// Bytes of a PUB line that are looked at one by one before the vectorised scans take over: most
/// lines end before it, and a call costs more than a short loop.
const SHORT_LINE_BYTES: usize = 64;

/// Bytes of arguments in the longest line that `plain_publish` and `repeated_publish` take: a
/// subject and what follows it. They do not look at the limit of a control line, so that must not
/// be lower.
pub(crate) const PLAIN_LINE_BYTES_MAX: usize = 2 * SHORT_LINE_BYTES;

/// The verb and the blank that a plain PUB begins with.
const PLAIN_VERB: &[u8; 4] = b"PUB ";

/// A whole PUB in the spelling client libraries use: one blank between arguments, a size without
/// excess, CRLF. With it the bytes it took. None = anything else, incomplete or wrong too:
/// `Parser::next` decides about that. Only for a parser that is not inside a skipped line.
#[inline(always)]
pub fn plain_publish<'a>(input: &'a [u8], limits: &ParserLimits) -> Option<(Message<'a>, usize)> {
    if !input.starts_with(PLAIN_VERB) {
        return None;
    }
    let line = &input[..input.len().min(SHORT_LINE_BYTES)];
    let subject_end = argument_end(line, PLAIN_VERB.len())?;
    if subject_end == PLAIN_VERB.len() || line[subject_end] != b' ' {
        return None;
    }
    plain_rest(input, subject_end, limits)
}

/// Does the work of `plain_publish` for a line that begins with `known`: the verb, the subject and
/// the blank of this connection's last plain line.
#[inline(always)]
pub(crate) fn repeated_publish<'a>(
    input: &'a [u8],
    known: &[u8],
    limits: &ParserLimits,
) -> Option<(Message<'a>, usize)> {
    // What comes in is nearly always longer than the line that is known.
    if known.is_empty() || input.len() < known.len() || input[..known.len()] != *known {
        return None;
    }
    plain_rest(input, known.len() - 1, limits)
}

/// Finds the messages that follow a first one, which `repeated_publish` read and which took
/// `consumed` bytes of `input`, and that differ from it in their payload only: at most
/// `messages_max` in all, and no further one once they are more than `RUN_BYTES_MAX`. Puts all of
/// them into `tails` and returns the bytes they take.
#[inline]
pub(crate) fn extend_run(
    input: &[u8],
    known: &[u8],
    first: &Message<'_>,
    consumed: usize,
    messages_max: usize,
    limits: &ParserLimits,
    tails: &mut Vec<Tail>,
) -> usize {
    tails.clear();
    let mut tail = Tail::new(known.len(), first.tail.len(), first.size_text.len());
    tails.push(tail);
    // Most are as long as the one before them: then their whole line is the same.
    let mut line = &input[..known.len() + first.size_text.len() + 2];
    let mut size = consumed;
    let mut at = consumed;
    while tails.len() < messages_max && at <= limits::RUN_BYTES_MAX {
        let rest = &input[at..];
        if rest.len() >= size
            && rest[size - 2..size] == *b"\r\n"
            && few_bytes::are_equal(&rest[..line.len()], line)
        {
            tail = tail.at(at + known.len());
        } else {
            let Some((message, consumed)) = repeated_publish(rest, known, limits) else { break };
            if !message.reply.is_empty() {
                break;
            }
            tail = Tail::new(at + known.len(), message.tail.len(), message.size_text.len());
            line = &rest[..known.len() + message.size_text.len() + 2];
            size = consumed;
        }
        tails.push(tail);
        at += size;
    }
    at
}

/// The part of a line read by `plain_publish` that `repeated_publish` compares: everything before
/// the tail.
#[inline]
pub(crate) fn known_part<'a>(input: &'a [u8], message: &Message<'_>) -> &'a [u8] {
    &input[..PLAIN_VERB.len() + message.subject.len() + 1]
}

/// A plain PUB from the blank behind its subject on.
#[inline(always)]
fn plain_rest<'a>(
    input: &'a [u8],
    subject_end: usize,
    limits: &ParserLimits,
) -> Option<(Message<'a>, usize)> {
    let rest = input.get(subject_end + 1..)?;
    let line = &rest[..rest.len().min(SHORT_LINE_BYTES)];
    let mut reply_end = 0;
    let mut size_start = 0;
    let (mut size, mut size_end) = leading_number(line);
    // No digit at all, or a name that only begins like a size: a reply.
    if *line.get(size_end)? > b' ' || (size_end > 0 && line[size_end] == b' ') {
        reply_end = argument_end(line, size_end)?;
        if line[reply_end] != b' ' {
            return None;
        }
        size_start = reply_end + 1;
        let digits;
        (size, digits) = leading_number(&line[size_start..]);
        size_end = size_start + digits;
    }
    let digits = size_end - size_start;
    if digits == 0 || digits > limits::SIZE_DIGITS_MAX || size as usize > limits.payload_bytes_max {
        return None;
    }
    let body_start = size_end + 2;
    let body_end = body_start + size as usize;
    if rest.get(size_end..body_start) != Some(b"\r\n")
        || rest.get(body_end..body_end + 2) != Some(b"\r\n")
    {
        return None;
    }
    let message = Message {
        subject: &input[PLAIN_VERB.len()..subject_end],
        reply: &rest[..reply_end],
        headers: &[],
        body: &rest[body_start..body_end],
        header_size_text: &[],
        size_text: &rest[size_start..size_end],
        tail: &rest[..body_end + 2],
    };
    Some((message, subject_end + 1 + body_end + 2))
}

/// The number that the digits at the start of `line` make, and how many they are. Of more than
/// nine, which no size has, only their count is right.
#[inline(always)]
fn leading_number(line: &[u8]) -> (u32, usize) {
    let (mut value, mut digits) = (0u32, 0);
    for byte in line {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        value = value.wrapping_mul(10).wrapping_add(u32::from(digit));
        digits += 1;
    }
    (value, digits)
}

/// The end of the argument that starts at `from`: a blank or a control character.
#[inline(always)]
fn argument_end(line: &[u8], from: usize) -> Option<usize> {
    line.get(from..)?.iter().position(|byte| *byte <= b' ').map(|length| from + length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::message::MessageRun;
    use crate::protocol::nats::command::Command;
    use crate::protocol::nats::parser::{Parsed, Parser};

    const LIMITS: ParserLimits =
        ParserLimits { control_line_bytes_max: 4096, payload_bytes_max: 1 << 20, headers: true };

    /// The quick look and the parser agree wherever the quick look has an opinion.
    #[test]
    fn the_quick_look_agrees_with_the_parser() {
        let mut random = fastrand::Rng::with_seed(7);
        let pieces: [&[u8]; 14] = [
            b"PUB", b"pub", b" ", b" ", b"  ", b"\t", b"foo", b"a.b.c", b"5", b"0", b"hello",
            b"\r\n", b"\r\n", b"\x01",
        ];
        let mut agreed = 0;
        for round in 0..200_000 {
            let mut input = Vec::new();
            if round % 2 == 0 {
                input.extend_from_slice(b"PUB foo ");
            }
            for _ in 0..random.usize(1..9) {
                input.extend_from_slice(pieces[random.usize(..pieces.len())]);
            }
            let plain = plain_publish(&input, &LIMITS);
            let known: &[u8] = if round % 4 == 0 { b"PUB foo " } else { b"PUB a.b.c " };
            let repeated = repeated_publish(&input, known, &LIMITS);
            let shown = String::from_utf8_lossy(&input).into_owned();
            match input.starts_with(known) {
                true => assert_eq!(format!("{repeated:?}"), format!("{plain:?}"), "{shown:?}"),
                false => assert!(repeated.is_none(), "{shown:?}"),
            }
            let Some((message, consumed)) = plain else { continue };
            agreed += 1;
            let Ok(Parsed::Command { command: Command::Publish(publish), consumed: expected }) =
                Parser::default().next(&input, &LIMITS)
            else {
                panic!("{shown:?}");
            };
            assert_eq!(consumed, expected, "{shown:?}");
            assert_eq!(message.subject, publish.subject.of(&input), "{shown:?}");
            assert_eq!(message.reply, publish.reply.of(&input), "{shown:?}");
            assert_eq!(message.body, publish.body.of(&input), "{shown:?}");
            assert_eq!(message.size_text, publish.size_text.of(&input), "{shown:?}");
            assert!(message.headers.is_empty() && message.header_size_text.is_empty());
            let known = known_part(&input, &message);
            assert_eq!([known, message.tail].concat(), input[..consumed], "{shown:?}");
        }
        assert!(agreed > 100, "{agreed}");
    }

    /// A run has the messages that the quick look finds one by one, up to the first that does not
    /// belong to it.
    #[test]
    fn a_run_holds_the_messages_that_come_one_by_one() {
        let mut random = fastrand::Rng::with_seed(8);
        let known = b"PUB a.b ";
        let (mut longest, mut cut_short) = (0, 0);
        for _ in 0..20_000 {
            let mut input = Vec::new();
            for _ in 0..random.usize(1..12) {
                let payload = vec![b'x'; [0, 1, 5, 5, 5, 5, 1500][random.usize(..7)]];
                let line = match random.usize(..40) {
                    0 => format!("PUB a.c {}\r\n", payload.len()),
                    1 => format!("PUB a.b r {}\r\n", payload.len()),
                    2 => format!("PUB a.b 00{}\r\n", payload.len()),
                    3 => format!("PUB a.b {}\n", payload.len()),
                    4 => format!("PUB a.b  {}\r\n", payload.len()),
                    5 => "PUB a.b 9999999\r\n".into(),
                    6 => "PING\r\n".into(),
                    _ => format!("PUB a.b {}\r\n", payload.len()),
                };
                input.extend_from_slice(line.as_bytes());
                input.extend_from_slice(&payload);
                input.extend_from_slice(if random.usize(..60) == 0 { b"\n\n" } else { b"\r\n" });
            }
            input.truncate(input.len() - random.usize(..3).min(input.len()));
            let Some((first, consumed)) = repeated_publish(&input, known, &LIMITS) else {
                continue;
            };
            if !first.reply.is_empty() {
                continue;
            }
            let messages_max = random.usize(1..12);
            let mut tails = Vec::new();
            let taken =
                extend_run(&input, known, &first, consumed, messages_max, &LIMITS, &mut tails);
            let run = MessageRun::new(first.subject, &input, &tails);
            let mut at = 0;
            for message in run.messages() {
                let (expected, consumed) =
                    repeated_publish(&input[at..], known, &LIMITS).expect("it is in the run");
                assert!(expected.reply.is_empty());
                assert_eq!(format!("{message:?}"), format!("{expected:?}"));
                at += consumed;
            }
            assert_eq!(at, taken);
            let bodies: usize = run.messages().map(|message| message.body.len()).sum();
            let tail_bytes: usize = run.messages().map(|message| message.tail.len()).sum();
            assert_eq!((run.body_bytes(), run.tail_bytes()), (bodies, tail_bytes));
            assert!(run.len() <= messages_max);
            let next = repeated_publish(&input[at..], known, &LIMITS);
            if run.len() < messages_max && at <= limits::RUN_BYTES_MAX {
                assert!(next.is_none_or(|(message, _)| !message.reply.is_empty()));
                cut_short += 1;
            }
            longest = longest.max(run.len());
        }
        assert!(longest == 11 && cut_short > 1000, "{longest} {cut_short}");
    }
}
