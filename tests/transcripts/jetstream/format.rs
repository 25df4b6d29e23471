//! The text of a conversation with JetStream.
//!
//! ```text
//! === name_says_the_law
//! config jetstream: enabled     a line of the server's configuration; without any: JetStream with small limits
//! user a                        connects as this user with its name as password
//! ? STREAM.INFO.S = {"a":1}     a request below $JS.API., headers before the body: | Name: value
//! > s.1 | Nats-Msg-Id: a = x    a message with a reply; `!` instead of `>`: without
//! sub in out.>                  subscribes under the name `in`; without a subject to an inbox of its own
//! ask in CONSUMER.MSG.NEXT.S.c  a request as above whose answers come to `in`
//! take in 2                     this many messages of `in`
//! last in = +ACK                answers the last message taken from `in`; `double in` waits for the answer
//! none in                       nothing more has come to `in`
//! silent STREAM.NOPE            a request that nobody answers, while later ones are
//! eventually STREAM.INFO.S      a request, again and again, until the answer is as expected
//! restart                       ends the server in good order and starts it again; `kill`: at once
//! : text                        what comes, masked: one line for each message
//! ```
//!
//! A message is written as `subject -> reply | Name: value = payload`; the answer to a request
//! without subject and reply. Line ends in payloads are `\n`, other bytes below blanks `\xHH`.

use std::ops::Range;

#[derive(Clone, Debug)]
pub struct Talk {
    pub name: String,
    pub config: Vec<String>,
    pub user: Option<String>,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub struct Step {
    pub verb: String,
    pub text: String,
    /// Indexes of the lines with what comes.
    pub answer_lines: Range<usize>,
    pub expected: Vec<String>,
}

/// Headers and body of a line, behind its subject.
pub struct Parts<'a> {
    pub subject: &'a str,
    pub headers: Vec<&'a str>,
    pub body: &'a str,
}

/// Reads the conversations of one file.
///
/// # Errors
/// A line that has no place.
pub fn parse(lines: &[String]) -> Result<Vec<Talk>, String> {
    let mut talks: Vec<Talk> = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (verb, text) = line.split_once(' ').unwrap_or((line, ""));
        if verb == "===" {
            talks.push(Talk {
                name: text.into(),
                config: Vec::new(),
                user: None,
                steps: Vec::new(),
            });
            continue;
        }
        let place = || format!("line {}: {line}", index + 1);
        let talk = talks.last_mut().ok_or_else(place)?;
        match verb {
            "config" => talk.config.push(text.into()),
            "user" => talk.user = Some(text.into()),
            ":" => {
                let step = talk.steps.last_mut().ok_or_else(place)?;
                step.expected.push(text.into());
                step.answer_lines.end = index + 1;
            }
            "?" | ">" | "!" | "sub" | "ask" | "take" | "last" | "double" | "none" | "silent"
            | "eventually" | "restart" | "kill" => talk.steps.push(Step {
                verb: verb.into(),
                text: text.into(),
                answer_lines: index + 1..index + 1,
                expected: Vec::new(),
            }),
            _ => return Err(place()),
        }
    }
    Ok(talks)
}

/// Splits `subject | Name: value = body`.
pub fn parts(text: &str) -> Parts<'_> {
    let (head, body) = match text.split_once(" = ") {
        Some((head, body)) => (head, body),
        None => (text.strip_suffix(" =").unwrap_or(text), ""),
    };
    let mut pieces = head.split(" | ");
    let subject = pieces.next().unwrap_or("").trim();
    Parts { subject, headers: pieces.collect(), body }
}
