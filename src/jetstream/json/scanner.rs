//! The grammar of JSON as Go's `encoding/json` reads it, with its words for what is wrong. It finds
//! the end of one value; nothing is decoded and nothing recurses, so that deep or long bodies cost
//! no stack.

use std::fmt;

use crate::base::limits::JSON_DEPTH_MAX;
use crate::config::go_text::quoted;

/// A byte that cannot stand where it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    text: String,
    /// The count of bytes read, including the wrong one.
    pub offset: usize,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// The result of a search for a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scan {
    /// The value begins and ends here.
    Value {
        start: usize,
        end: usize,
    },
    /// There are only blanks.
    Blank,
    /// The bytes end within the value.
    Unfinished,
    Wrong(SyntaxError),
}

/// The place in an open object or array.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nest {
    ObjectKey,
    ObjectValue,
    Array,
}

#[derive(Clone, Copy)]
enum State {
    BeginValue,
    BeginValueOrEmpty,
    BeginKey,
    BeginKeyOrEmpty,
    EndValue,
}

/// True if `byte` is a blank of JSON.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Finds the first value in `bytes` at or behind `from`.
pub(crate) fn scan(bytes: &[u8], from: usize) -> Scan {
    let Some(start) = (from..bytes.len()).find(|&at| !is_blank(bytes[at])) else {
        return Scan::Blank;
    };
    match (Scanner { bytes, at: start, nests: Vec::new() }).value_end() {
        Ok(end) => Scan::Value { start, end },
        Err(Stop::End) => Scan::Unfinished,
        Err(Stop::Wrong(context)) => Scan::Wrong(syntax_error(bytes, context)),
    }
}

enum Stop {
    End,
    /// The index of the wrong byte, and where it stands.
    Wrong((usize, &'static str)),
}

fn syntax_error(bytes: &[u8], (at, context): (usize, &'static str)) -> SyntaxError {
    let text = format!("invalid character {} {context}", quoted_byte(bytes[at]));
    SyntaxError { text, offset: at + 1 }
}

/// The text for a whole message that holds more than one value.
pub(super) fn after_top_level(bytes: &[u8], at: usize) -> SyntaxError {
    syntax_error(bytes, (at, "after top-level value"))
}

/// The text for a whole message that ends within a value, or holds none.
pub(super) fn unexpected_end(offset: usize) -> SyntaxError {
    SyntaxError { text: "unexpected end of JSON input".into(), offset }
}

fn quoted_byte(byte: u8) -> String {
    match byte {
        b'\'' => "'\\''".into(),
        b'"' => "'\"'".into(),
        _ => {
            let text = quoted(&char::from(byte).to_string());
            format!("'{}'", &text[1..text.len() - 1])
        }
    }
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    nests: Vec<Nest>,
}

impl Scanner<'_> {
    fn value_end(&mut self) -> Result<usize, Stop> {
        let mut state = State::BeginValue;
        loop {
            if self.nests.is_empty() && matches!(state, State::EndValue) {
                return Ok(self.at);
            }
            self.skip_blanks();
            let byte = self.peek()?;
            state = match state {
                State::BeginValueOrEmpty if byte == b']' => self.close(),
                State::BeginKeyOrEmpty if byte == b'}' => self.close(),
                State::BeginValue | State::BeginValueOrEmpty => self.begin_value(byte)?,
                State::BeginKey | State::BeginKeyOrEmpty => {
                    if byte != b'"' {
                        return self.wrong("looking for beginning of object key string");
                    }
                    self.string()?;
                    State::EndValue
                }
                State::EndValue => self.behind_value(byte)?,
            };
        }
    }

    fn begin_value(&mut self, byte: u8) -> Result<State, Stop> {
        match byte {
            b'{' => return self.open(Nest::ObjectKey, State::BeginKeyOrEmpty),
            b'[' => return self.open(Nest::Array, State::BeginValueOrEmpty),
            b'"' => self.string()?,
            b'-' | b'0'..=b'9' => self.number()?,
            b't' => self.literal("true")?,
            b'f' => self.literal("false")?,
            b'n' => self.literal("null")?,
            _ => return self.wrong("looking for beginning of value"),
        }
        Ok(State::EndValue)
    }

    fn open(&mut self, nest: Nest, inside: State) -> Result<State, Stop> {
        if self.nests.len() == JSON_DEPTH_MAX {
            return self.wrong("exceeded max depth");
        }
        self.nests.push(nest);
        self.at += 1;
        Ok(inside)
    }

    fn close(&mut self) -> State {
        self.nests.pop();
        self.at += 1;
        State::EndValue
    }

    fn behind_value(&mut self, byte: u8) -> Result<State, Stop> {
        let nest = self.nests.last_mut().expect("a value outside of all nests ends the scan");
        let (state, context) = match (*nest, byte) {
            (Nest::ObjectKey, b':') => {
                *nest = Nest::ObjectValue;
                (State::BeginValue, "")
            }
            (Nest::ObjectValue, b',') => {
                *nest = Nest::ObjectKey;
                (State::BeginKey, "")
            }
            (Nest::Array, b',') => (State::BeginValue, ""),
            (Nest::ObjectValue, b'}') | (Nest::Array, b']') => return Ok(self.close()),
            (Nest::ObjectKey, _) => (State::EndValue, "after object key"),
            (Nest::ObjectValue, _) => (State::EndValue, "after object key:value pair"),
            (Nest::Array, _) => (State::EndValue, "after array element"),
        };
        if !context.is_empty() {
            return self.wrong(context);
        }
        self.at += 1;
        Ok(state)
    }

    fn string(&mut self) -> Result<(), Stop> {
        self.at += 1;
        loop {
            let byte = self.peek()?;
            match byte {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => self.escape()?,
                0..0x20 => return self.wrong("in string literal"),
                _ => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<(), Stop> {
        self.at += 1;
        match self.peek()? {
            b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => self.at += 1,
            b'u' => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek()?.is_ascii_hexdigit() {
                        return self.wrong("in \\u hexadecimal character escape");
                    }
                    self.at += 1;
                }
            }
            _ => return self.wrong("in string escape code"),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Stop> {
        if self.bytes[self.at] == b'-' {
            self.at += 1;
        }
        match self.peek()? {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            _ => return self.wrong("in numeric literal"),
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            if !self.peek()?.is_ascii_digit() {
                return self.wrong("after decimal point in numeric literal");
            }
            self.digits();
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek()?, b'+' | b'-') {
                self.at += 1;
            }
            if !self.peek()?.is_ascii_digit() {
                return self.wrong("in exponent of numeric literal");
            }
            self.digits();
        }
        Ok(())
    }

    fn digits(&mut self) {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }

    fn literal(&mut self, word: &'static str) -> Result<(), Stop> {
        for (index, &expected) in word.as_bytes().iter().enumerate() {
            if self.peek()? != expected {
                return self.wrong(literal_context(word, index));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn skip_blanks(&mut self) {
        while self.bytes.get(self.at).is_some_and(|&byte| is_blank(byte)) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Result<u8, Stop> {
        self.bytes.get(self.at).copied().ok_or(Stop::End)
    }

    fn wrong<T>(&self, context: &'static str) -> Result<T, Stop> {
        Err(Stop::Wrong((self.at, context)))
    }
}

fn literal_context(word: &str, index: usize) -> &'static str {
    match (word, index) {
        ("true", 1) => "in literal true (expecting 'r')",
        ("true", 2) => "in literal true (expecting 'u')",
        ("true", _) => "in literal true (expecting 'e')",
        ("false", 1) => "in literal false (expecting 'a')",
        ("false", 2) => "in literal false (expecting 'l')",
        ("false", 3) => "in literal false (expecting 's')",
        ("false", _) => "in literal false (expecting 'e')",
        (_, 1) => "in literal null (expecting 'u')",
        (_, _) => "in literal null (expecting 'l')",
    }
}
