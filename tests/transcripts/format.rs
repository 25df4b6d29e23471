//! The text of a transcript: conversations, their steps, and the escapes that make bytes readable.
//!
//! A file holds conversations; each starts with `=== name` and runs to the next. `#` starts a
//! comment line. Bytes are written with `\r \n \t \\ \xHH`, and `\*N{...}` repeats what stands in
//! the braces N times. Expected bytes may hold a choice of equal lengths, `\(1|2)`.
//!
//! ```text
//! === name_says_the_law
//! config max_payload: 16        one line of the server's configuration file
//! file users                    the server's configuration is tests/config/users.conf, on any free port
//! flags -m -1                   the server is started with these flags, too
//! ours why                      Midge does otherwise on purpose: not for nats-server, and not recorded
//! alone                         a server of its own, replayed once as written
//! masked                        what a server chooses in messages between accounts is masked: replies are `_R_.ID`,
//!                               times and numbers in `Nats-Request-Info` `N`
//! web                           connections go to the port for WebSocket, of which the configuration has one; what they
//!                               receive is the answer to an upgrade, its headers sorted, then what frames hold, control
//!                               frames in brackets; what they send is written with its frames. open upgrades first
//! quirk why                     nats-server answers otherwise when the input is cut: only Midge's is cut
//! A open                        connect and skip the first INFO
//! A connect                     connect and read nothing
//! A refused                     nobody listens any more
//! A >> PING\r\n                 send; neighbouring lines of one connection are one write
//! A << PONG\r\n                 receive exactly this
//! A <<* MSG a 1 0\r\n\r\n       neighbouring lines of this form come in any order
//! A|B << MSG a 1 0\r\n\r\n      exactly one of the connections receives this
//! A ~ INFO {"headers":true}     receive an INFO with these fields; null = absent, "~" = any value
//! A closed Stale Connection     the server closes, and logs this reason
//! A cut Stale Connection        the same, after any bytes
//! A away                        look at the connection no more
//! A drop Client Closed          close from our side; the server logs this reason
//! A reset Client Closed         the same with a TCP reset
//! A until >> PING\r\n           send again and again, until the answer is what the next lines say;
//!                               what is sent ends with a PING, the answer with its PONG
//! signal USR2                   send the server a signal
//! rewrite max_payload: 32       one line of a new configuration, beyond the listener
//! reload text                   put it in place of the old one, SIGHUP; what the log then says of it
//! get /varz {"/tags/0":"a"}     ask the monitoring port; the fields, or JSON pointers, must have these
//!                               values; null = absent, "~" = any value
//! ```
//!
//! Among the bytes that are sent `\sig{7}` is the signature of the connection's nonce by the nkey
//! whose seed is 32 bytes of 7.
//!
//! `\answer` is the last reply of the server's own that the connection received.
//!
//! At the end of a conversation every connection still open is asked for a PONG: bytes that nobody
//! expected fail it.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One file, kept line by line so that a recording changes nothing else.
pub struct TranscriptFile {
    pub path: PathBuf,
    pub lines: Vec<String>,
    pub conversations: Vec<Conversation>,
}

#[derive(Clone, Debug)]
pub struct Conversation {
    pub name: String,
    /// Lines of configuration beyond the listener, in order.
    pub config: Vec<String>,
    /// A file of `tests/config`, in place of `config`.
    pub file: Option<String>,
    pub flags: Vec<String>,
    pub alone: bool,
    pub quirk: bool,
    pub masked: bool,
    pub web: bool,
    /// Not what nats-server does.
    pub ours: bool,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub struct Step {
    /// Where it stands in the file: indexes of lines.
    pub lines: Range<usize>,
    pub action: Action,
}

#[derive(Clone, Debug)]
pub enum Action {
    Connect { peer: char, skip_info: bool },
    Refused { peer: char },
    Send { peer: char, bytes: Vec<u8> },
    Receive { peers: Vec<char>, expected: Vec<Expected> },
    Closed { peer: char, reason: String, after_anything: bool },
    Leave { peer: char, reason: String, reset: bool },
    Away { peer: char },
    Until { peer: char, bytes: Vec<u8>, expected: Pattern },
    Signal { name: String },
    Reload { config: Vec<String>, expected: String },
    Get { path: String, fields: serde_json::Map<String, serde_json::Value> },
}

#[derive(Clone, Debug)]
pub enum Expected {
    Bytes(Pattern),
    /// All of these, in any order.
    Unordered(Vec<Pattern>),
    Info(serde_json::Map<String, serde_json::Value>),
}

/// Bytes with places where one of several texts of equal length may stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(pub Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Literal(Vec<u8>),
    Choice(Vec<Vec<u8>>),
}

impl TranscriptFile {
    /// # Errors
    /// The file cannot be read, or a line is not of the form above.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let conversations = parse(&lines).map_err(|(index, problem)| {
            format!("{}:{}: {problem}: {:?}", path.display(), index + 1, lines[index])
        })?;
        Ok(Self { path: path.to_owned(), lines, conversations })
    }
}

fn parse(lines: &[String]) -> Result<Vec<Conversation>, (usize, String)> {
    let mut conversations: Vec<Conversation> = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let fail = |problem: &str| (index, problem.to_owned());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("=== ") {
            conversations.push(Conversation {
                name: name.to_owned(),
                config: Vec::new(),
                file: None,
                flags: Vec::new(),
                alone: false,
                quirk: false,
                masked: false,
                web: false,
                ours: false,
                steps: Vec::new(),
            });
            continue;
        }
        let conversation =
            conversations.last_mut().ok_or_else(|| fail("a step before the first name"))?;
        match line.split_once(' ').unwrap_or((line, "")) {
            ("config", option) => conversation.config.push(option.to_owned()),
            ("file", name) => conversation.file = Some(name.to_owned()),
            ("flags", flags) => {
                conversation.flags.extend(flags.split_whitespace().map(str::to_owned));
            }
            ("alone", "") => conversation.alone = true,
            ("masked", "") => conversation.masked = true,
            ("web", "") => conversation.web = true,
            ("ours", why) if !why.is_empty() => conversation.ours = true,
            ("quirk", why) if !why.is_empty() => conversation.quirk = true,
            ("signal", name) => {
                let action = Action::Signal { name: name.to_owned() };
                conversation.steps.push(Step { lines: index..index + 1, action });
            }
            (verb @ ("rewrite" | "reload"), text) => add_reload(conversation, index, verb, text),
            ("get", text) => {
                let (path, json) = text.split_once(' ').ok_or_else(|| fail("no object"))?;
                let fields = serde_json::from_str(json).map_err(|e| fail(&e.to_string()))?;
                let action = Action::Get { path: path.to_owned(), fields };
                conversation.steps.push(Step { lines: index..index + 1, action });
            }
            (peers, rest) => {
                add_step(conversation, index, peers, rest).map_err(|problem| fail(&problem))?
            }
        }
    }
    Ok(conversations)
}

/// One line of a new configuration, or the end of it.
fn add_reload(conversation: &mut Conversation, index: usize, verb: &str, text: &str) {
    let goes_on = conversation.steps.last().is_some_and(|step| {
        step.lines.end == index
            && matches!(&step.action, Action::Reload { expected, .. } if expected.is_empty())
    });
    if !goes_on {
        let action = Action::Reload { config: Vec::new(), expected: String::new() };
        conversation.steps.push(Step { lines: index..index, action });
    }
    let Some(Step { lines, action: Action::Reload { config, expected } }) =
        conversation.steps.last_mut()
    else {
        return;
    };
    lines.end = index + 1;
    match verb {
        "rewrite" => config.push(text.to_owned()),
        _ => *expected = text.to_owned(),
    }
}

/// One line of a connection: a new step, or more of the step before it.
fn add_step(
    conversation: &mut Conversation,
    index: usize,
    peers: &str,
    rest: &str,
) -> Result<(), String> {
    let peers: Vec<char> = peers
        .split('|')
        .map(|name| match name.as_bytes() {
            [letter] if letter.is_ascii_uppercase() => Ok(char::from(*letter)),
            _ => Err(format!("{name:?} names no connection")),
        })
        .collect::<Result<_, _>>()?;
    let peer = peers[0];
    let (verb, text) = rest.split_once(' ').unwrap_or((rest, ""));
    let last = conversation.steps.last_mut().filter(|step| step.lines.end == index);

    let action = match verb {
        "open" => Action::Connect { peer, skip_info: true },
        "connect" => Action::Connect { peer, skip_info: false },
        "refused" => Action::Refused { peer },
        "away" => Action::Away { peer },
        "drop" | "reset" => Action::Leave { peer, reason: text.to_owned(), reset: verb == "reset" },
        "closed" | "cut" => {
            Action::Closed { peer, reason: text.to_owned(), after_anything: verb == "cut" }
        }
        "until" => {
            let text = text.strip_prefix(">> ").ok_or("until wants >>")?;
            Action::Until { peer, bytes: unescape(text)?, expected: Pattern(Vec::new()) }
        }
        ">>" => {
            let more = unescape(text)?;
            match last {
                Some(Step { lines, action: Action::Send { peer: before, bytes } })
                    if *before == peer =>
                {
                    bytes.extend_from_slice(&more);
                    lines.end += 1;
                    return Ok(());
                }
                _ => Action::Send { peer, bytes: more },
            }
        }
        "<<" | "<<*" | "~" => {
            match last {
                Some(Step { lines, action: Action::Until { peer: before, expected, .. } })
                    if *before == peer && verb == "<<" =>
                {
                    expected.0.extend(Pattern::parse(text)?.0);
                    lines.end += 1;
                    return Ok(());
                }
                Some(Step { lines, action: Action::Receive { peers: before, expected } })
                    if *before == peers =>
                {
                    add_expected(expected, verb, text)?;
                    lines.end += 1;
                    return Ok(());
                }
                _ => {}
            }
            let mut expected = Vec::new();
            add_expected(&mut expected, verb, text)?;
            Action::Receive { peers, expected }
        }
        _ => return Err(format!("unknown step {verb:?}")),
    };
    conversation.steps.push(Step { lines: index..index + 1, action });
    Ok(())
}

fn add_expected(expected: &mut Vec<Expected>, verb: &str, text: &str) -> Result<(), String> {
    match (verb, expected.last_mut()) {
        ("<<*", Some(Expected::Unordered(patterns))) => patterns.push(Pattern::parse(text)?),
        ("<<*", _) => expected.push(Expected::Unordered(vec![Pattern::parse(text)?])),
        ("~", _) => {
            let json = text.strip_prefix("INFO ").ok_or("~ wants INFO and an object")?;
            let fields = serde_json::from_str(json).map_err(|e| e.to_string())?;
            expected.push(Expected::Info(fields));
        }
        _ => expected.push(Expected::Bytes(Pattern::parse(text)?)),
    }
    Ok(())
}

impl Pattern {
    /// # Errors
    /// A bad escape, or choices of unequal length.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("\\(") {
            let (choices, behind) = after.split_once(')').ok_or("a choice without its end")?;
            pieces.push(Piece::Literal(unescape(before)?));
            let choices: Vec<Vec<u8>> =
                choices.split('|').map(unescape).collect::<Result<_, _>>()?;
            if choices.iter().any(|choice| choice.len() != choices[0].len()) {
                return Err("choices of unequal length".into());
            }
            pieces.push(Piece::Choice(choices));
            rest = behind;
        }
        pieces.push(Piece::Literal(unescape(rest)?));
        Ok(Self(pieces))
    }

    pub fn size(&self) -> usize {
        self.0.iter().map(Piece::size).sum()
    }

    /// True if `bytes`, as far as they go, can be the start of this pattern.
    pub fn starts_like(&self, bytes: &[u8]) -> bool {
        let mut rest = &bytes[..bytes.len().min(self.size())];
        for piece in &self.0 {
            let (part, behind) = rest.split_at(piece.size().min(rest.len()));
            let fits = match piece {
                Piece::Literal(literal) => literal.starts_with(part),
                Piece::Choice(choices) => choices.iter().any(|choice| choice.starts_with(part)),
            };
            if !fits {
                return false;
            }
            rest = behind;
        }
        true
    }

    pub fn describe(&self) -> String {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Literal(literal) => text.push_str(&escape(literal)),
                Piece::Choice(choices) => {
                    let choices: Vec<String> = choices.iter().map(|c| escape(c)).collect();
                    write!(text, "\\({})", choices.join("|")).expect("a String takes all");
                }
            }
        }
        text
    }
}

impl Piece {
    fn size(&self) -> usize {
        match self {
            Self::Literal(literal) => literal.len(),
            Self::Choice(choices) => choices[0].len(),
        }
    }
}

/// What stands for a signature by key `number` until the nonce is known; as long as the signature.
pub fn signature_place(number: u8) -> [u8; SIGNATURE_SIZE] {
    let mut place = [b'@'; SIGNATURE_SIZE];
    place[..SIGNATURE_MARK.len()].copy_from_slice(SIGNATURE_MARK);
    place[SIGNATURE_MARK.len()] = number;
    place
}

/// 64 bytes in base64 without padding.
pub const SIGNATURE_SIZE: usize = 86;
/// What stands for a reply until it is known.
pub const ANSWER_MARK: &[u8] = b"@answer@";
pub const SIGNATURE_MARK: &[u8] = b"@signature ";

/// The bytes that `text` stands for.
///
/// # Errors
/// A backslash that starts none of the escapes.
pub fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        rest = behind;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let [kind, behind @ ..] = rest else { return Err("a backslash at the end".into()) };
        rest = behind;
        match kind {
            b'r' => bytes.push(b'\r'),
            b'n' => bytes.push(b'\n'),
            b't' => bytes.push(b'\t'),
            b'\\' => bytes.push(b'\\'),
            b'a' => {
                rest = rest.strip_prefix(b"nswer").ok_or("\\a wants nswer")?;
                bytes.extend_from_slice(ANSWER_MARK);
            }
            b'x' => {
                let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
                let value = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                bytes.push(value.ok_or("\\x wants two digits")?);
                rest = &rest[2..];
            }
            b's' => {
                let text = std::str::from_utf8(rest).map_err(|e| e.to_string())?;
                let number = text.strip_prefix("ig{").and_then(|text| text.split_once('}'));
                let (number, behind) = number.ok_or("\\s wants ig{number}")?;
                bytes.extend_from_slice(&signature_place(number.parse().map_err(|_| number)?));
                rest = behind.as_bytes();
            }
            b'*' => {
                let text = std::str::from_utf8(rest).map_err(|e| e.to_string())?;
                let (count, body) = text.split_once('{').ok_or("\\* wants a count and braces")?;
                let head_size = count.len() + 1;
                let count: usize = count.parse().map_err(|e| format!("\\*: {e}"))?;
                let (body, body_size) = braced(body).ok_or("\\* without its closing brace")?;
                bytes.extend(unescape(body)?.repeat(count));
                rest = &rest[head_size + body_size..];
            }
            other => return Err(format!("unknown escape \\{}", char::from(*other))),
        }
    }
    Ok(bytes)
}

/// What stands before the brace that closes an open one, and the size of that with the brace.
fn braced(text: &str) -> Option<(&str, usize)> {
    let mut depth = 1;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((&text[..index], index + 1));
        }
    }
    None
}

/// The text that stands for `bytes`; runs of one byte are written as a repetition.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut index = 0;
    while index < bytes.len() {
        let byte = bytes[index];
        let run = bytes[index..].iter().take_while(|next| **next == byte).count();
        let one = match byte {
            b'\r' => "\\r".to_owned(),
            b'\n' => "\\n".to_owned(),
            b'\t' => "\\t".to_owned(),
            b'\\' => "\\\\".to_owned(),
            0x20..0x7f => char::from(byte).to_string(),
            _ => format!("\\x{byte:02x}"),
        };
        if run >= 24 && !matches!(byte, b'{' | b'}') {
            write!(text, "\\*{run}{{{one}}}").expect("a String takes all");
            index += run;
        } else {
            text.push_str(&one);
            index += 1;
        }
    }
    text
}
