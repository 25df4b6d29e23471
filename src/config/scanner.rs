//! Reads the smallest pieces of a configuration file: characters, comments, and scalar values.
//!
//! Where a value ends, and what type it has, follows nats-server to the letter, even where that is
//! odd; `parser` combines the pieces.

use winnow::Parser as _;
use winnow::error::{ContextError, ErrMode};
use winnow::stream::{LocatingSlice, Location as _, Stream as _};
use winnow::token::{take_till, take_while};

/// The end of the text, or a NUL byte, which nats-server takes for the end.
pub(super) const END: char = '\0';

/// Why reading stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The text ended; whether that is an error depends on what came last.
    End,
    /// An error with its line number, worded as in nats-server.
    Error(String),
}

/// A value that is neither a list nor a map.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar<'a> {
    Text(Vec<u8>),
    /// Digits, with an optional sign and unit.
    Integer(&'a [u8]),
    Float(&'a [u8]),
    /// `true`, `yes`, `on` or one of their opposites, in any case.
    Toggle(&'a [u8]),
    Time(&'a [u8]),
    /// The name after the `$`.
    Variable(&'a [u8]),
}

impl Scalar<'_> {
    /// Returns the number that nats-server subtracts from the end of a value to get its column.
    fn size(&self) -> usize {
        match self {
            Scalar::Text(bytes) => bytes.len(),
            Scalar::Integer(bytes)
            | Scalar::Float(bytes)
            | Scalar::Toggle(bytes)
            | Scalar::Time(bytes)
            | Scalar::Variable(bytes) => bytes.len(),
        }
    }
}

/// A scalar and its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found<'a> {
    pub scalar: Scalar<'a>,
    pub line: usize,
    pub column: usize,
}

pub(super) struct Scanner<'a> {
    text: &'a [u8],
    input: LocatingSlice<&'a [u8]>,
    /// Offsets of all newlines, ascending.
    newlines: Vec<usize>,
}

pub(super) fn is_newline(character: char) -> bool {
    matches!(character, '\n' | '\r')
}

pub(super) fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t')
}

pub(super) fn is_key_separator(character: char) -> bool {
    matches!(character, '=' | ':')
}

fn is_unit(character: char) -> bool {
    matches!(character.to_ascii_lowercase(), 'k' | 'm' | 'g' | 't' | 'p' | 'e')
}

/// Returns true for a character that may follow an integer. `]` is missing as in nats-server, so
/// `[1]` holds the text `1]`.
fn ends_integer(character: char) -> bool {
    is_newline(character) || is_blank(character) || matches!(character, END | '}' | ';' | ',')
}

/// Formats a character for an error text.
pub(super) fn shown(character: char) -> String {
    if character == '\n' { "\\n".into() } else { character.to_string() }
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        let newlines = memchr::memchr_iter(b'\n', text).collect();
        Self { text, input: LocatingSlice::new(text), newlines }
    }

    pub(super) fn position(&self) -> usize {
        self.input.current_token_start()
    }

    pub(super) fn slice(&self, start: usize, end: usize) -> &'a [u8] {
        &self.text[start..end]
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.position() == self.text.len()
    }

    /// Returns the line of a position, from 1.
    pub(super) fn line(&self, position: usize) -> usize {
        self.newlines.partition_point(|&newline| newline < position) + 1
    }

    /// Returns the offset from which nats-server counts columns: that of the preceding newline, or
    /// of the first byte. Columns thus begin at 0 on the first line and at 1 on all others.
    pub(super) fn line_start(&self, position: usize) -> usize {
        let index = self.newlines.partition_point(|&newline| newline < position);
        index.checked_sub(1).map_or(0, |index| self.newlines[index])
    }

    pub(super) fn column(&self, position: usize) -> usize {
        position - self.line_start(position)
    }

    /// Returns an error at the current position.
    pub(super) fn error<T>(&self, reason: impl AsRef<str>) -> Result<T, Stop> {
        let line = self.line(self.position());
        Err(Stop::Error(format!("Parse error on line {line}: '{}'", reason.as_ref())))
    }

    /// Returns the next character without taking it; bytes that are not UTF-8 come one by one.
    pub(super) fn peek(&self) -> char {
        self.decode().0
    }

    /// Takes and returns the next character; `END` at the end.
    pub(super) fn next(&mut self) -> char {
        let (character, size) = self.decode();
        self.input.next_slice(size);
        character
    }

    /// Takes the next character and returns true if it is `wanted`; otherwise takes nothing.
    pub(super) fn next_is(&mut self, wanted: char) -> bool {
        let is_it = !self.is_at_end() && self.peek() == wanted;
        if is_it {
            self.next();
        }
        is_it
    }

    fn decode(&self) -> (char, usize) {
        let rest: &[u8] = &self.input;
        let Some(&first) = rest.first() else { return (END, 0) };
        if first.is_ascii() {
            return (char::from(first), 1);
        }
        let head = &rest[..rest.len().min(4)];
        let valid = head.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        match valid.chars().next() {
            Some(character) => (character, character.len_utf8()),
            None => (char::REPLACEMENT_CHARACTER, 1),
        }
    }

    /// Takes bytes as long as the condition holds.
    fn skip_while(&mut self, condition: impl Fn(u8) -> bool) -> &'a [u8] {
        let result: Result<&[u8], ErrMode<ContextError>> =
            take_while(0.., condition).parse_next(&mut self.input);
        result.unwrap_or_default()
    }

    /// Takes everything after `#` or `//`, up to the end of the line.
    pub(super) fn comment(&mut self) {
        let result: Result<&[u8], ErrMode<ContextError>> =
            take_till(0.., (b'\n', b'\r', b'\0')).parse_next(&mut self.input);
        debug_assert!(result.is_ok(), "taking nothing is fine too");
    }

    /// Reads a scalar. Blanks before it are skipped; the caller has handled `[` and `{`.
    pub(super) fn scalar(&mut self) -> Result<Found<'a>, Stop> {
        let before = self.position();
        match self.next() {
            '\'' => self.single_quoted(),
            '"' => {
                let start = self.position();
                self.escaped_text(start, true)
            }
            '-' => self.negative_number(),
            '(' => self.block_text(),
            digit if digit.is_ascii_digit() => self.number(before),
            '.' => self.error("Floats must start with a digit"),
            newline if is_newline(newline) => self.error("Expected value but found new line"),
            _ => {
                self.seek(before);
                self.escaped_text(before, false)
            }
        }
    }

    fn seek(&mut self, position: usize) {
        self.input = LocatingSlice::new(self.text);
        self.input.next_slice(position);
    }

    /// Returns a finished value; `start` is where its text began.
    fn found(&self, scalar: Scalar<'a>, start: usize) -> Result<Found<'a>, Stop> {
        let end = self.position();
        let column = end.saturating_sub(self.line_start(start) + scalar.size());
        Ok(Found { scalar, line: self.line(end), column })
    }

    /// Handles the end of the text inside quotes.
    fn end_in_quotes<T>(&self, start: usize) -> Result<T, Stop> {
        if self.position() > start { self.error("Unexpected EOF.") } else { Err(Stop::End) }
    }

    fn single_quoted(&mut self) -> Result<Found<'a>, Stop> {
        let start = self.position();
        self.skip_while(|byte| byte != b'\'' && byte != b'\0');
        let end = self.position();
        if self.peek() != '\'' {
            self.next();
            return self.end_in_quotes(start);
        }
        let found = self.found(Scalar::Text(self.slice(start, end).to_vec()), start);
        self.next();
        found
    }

    /// Reads text with escapes, in double quotes or bare. `first` is where its text begins.
    fn escaped_text(&mut self, first: usize, quoted: bool) -> Result<Found<'a>, Stop> {
        let mut done: Vec<u8> = Vec::new();
        let mut has_escapes = false;
        // If a number turned out to be text, the part read so far stays as it is.
        let mut start = first;
        loop {
            let before = self.position();
            match self.next() {
                '\\' => {
                    done.extend_from_slice(self.slice(start, before));
                    self.escape(&mut done)?;
                    has_escapes = true;
                    start = self.position();
                }
                '"' if quoted => {
                    done.extend_from_slice(self.slice(start, before));
                    self.seek(before);
                    let found = self.found(Scalar::Text(done), first);
                    self.next();
                    return found;
                }
                END if quoted => return self.end_in_quotes(start),
                '\'' if !quoted => {
                    done.extend_from_slice(self.slice(start, before));
                    self.seek(before);
                    let found = self.found(Scalar::Text(done), first);
                    self.next();
                    return found;
                }
                character if !quoted && (ends_integer(character) || character == ']') => {
                    done.extend_from_slice(self.slice(start, before));
                    self.seek(before);
                    let scalar =
                        if has_escapes { Scalar::Text(done) } else { self.bare(first, before) };
                    return self.found(scalar, first);
                }
                _ => {}
            }
        }
    }

    /// Determines the meaning of a bare word without escapes.
    fn bare(&self, start: usize, end: usize) -> Scalar<'a> {
        let word = self.slice(start, end);
        match word.to_ascii_lowercase().as_slice() {
            b"true" | b"yes" | b"on" | b"false" | b"no" | b"off" => Scalar::Toggle(word),
            _ => match word.strip_prefix(b"$") {
                Some(name) => Scalar::Variable(name),
                None => Scalar::Text(word.to_vec()),
            },
        }
    }

    /// Reads the rest of an escape, after its backslash.
    fn escape(&mut self, done: &mut Vec<u8>) -> Result<(), Stop> {
        match self.next() {
            't' => done.push(b'\t'),
            'n' => done.push(b'\n'),
            'r' => done.push(b'\r'),
            '"' => done.push(b'"'),
            '\\' => done.push(b'\\'),
            'x' => {
                for _ in 0..2 {
                    if is_newline(self.next()) {
                        return self.error(
                            "Expected two hexadecimal digits after '\\x', but hit end of line",
                        );
                    }
                }
                let end = self.position();
                let digits = self.slice(end - 2, end);
                let value = std::str::from_utf8(digits)
                    .ok()
                    .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
                    .and_then(|digits| u8::from_str_radix(digits, 16).ok());
                match value {
                    Some(value) => done.push(value),
                    None => {
                        let digits = String::from_utf8_lossy(digits);
                        return self.error(format!(
                            "Expected two hexadecimal digits after '\\x', but got '{digits}'"
                        ));
                    }
                }
            }
            other => {
                return self.error(format!(
                    "Invalid escape character '{}'. Only the following escape characters are \
                     allowed: \\xXX, \\t, \\n, \\r, \\\", \\\\.",
                    shown(other)
                ));
            }
        }
        Ok(())
    }

    /// Reads text between `(` and a `)` alone on its line.
    fn block_text(&mut self) -> Result<Found<'a>, Stop> {
        let start = self.position();
        loop {
            let before = self.position();
            match self.next() {
                END => return self.error("Unexpected EOF processing block."),
                ')' if self.text[before - 1] == b'\n' => {
                    // At the very end of the text the bracket itself becomes part of the value, as
                    // in nats-server.
                    let at_end = self.is_at_end();
                    if at_end || matches!(self.peek(), '\n' | END) {
                        let end = if at_end { self.position() } else { before };
                        self.seek(end);
                        let scalar = Scalar::Text(self.slice(start, end).to_vec());
                        let found = self.found(scalar, start);
                        self.next();
                        return found;
                    }
                }
                _ => {}
            }
        }
    }

    /// Reads a positive number, a date, an address, or text that begins with a digit. One digit has
    /// been taken.
    fn number(&mut self, start: usize) -> Result<Found<'a>, Stop> {
        self.skip_while(|byte| byte.is_ascii_digit());
        let before = self.position();
        match self.next() {
            '-' if before - start == 4 => self.time(start),
            '-' => self.error("All ISO8601 dates must be in full Zulu form."),
            '.' => self.float(start),
            unit if is_unit(unit) => self.number_with_unit(start),
            character if ends_integer(character) => {
                self.seek(before);
                self.found(Scalar::Integer(self.slice(start, before)), start)
            }
            _ => self.escaped_text(start, false),
        }
    }

    /// Reads `12k`, `12MiB`, or text that only begins like it, such as `12k3` or `2m30s`.
    fn number_with_unit(&mut self, start: usize) -> Result<Found<'a>, Stop> {
        self.skip_while(|byte| matches!(byte, b'b' | b'B' | b'i' | b'I'));
        if ends_integer(self.peek()) {
            return self.found(Scalar::Integer(self.slice(start, self.position())), start);
        }
        self.escaped_text(start, false)
    }

    fn negative_number(&mut self) -> Result<Found<'a>, Stop> {
        let start = self.position() - 1;
        match self.next() {
            digit if digit.is_ascii_digit() => {}
            '.' => return self.error("Floats must start with a digit, not '.'."),
            other => return self.error(format!("Expected a digit but got '{}'.", shown(other))),
        }
        self.skip_while(|byte| byte.is_ascii_digit());
        let before = self.position();
        match self.next() {
            '.' => self.float(start),
            unit if is_unit(unit) => self.number_with_unit(start),
            _ => {
                self.seek(before);
                self.found(Scalar::Integer(self.slice(start, before)), start)
            }
        }
    }

    /// Reads the digits after a decimal point; a second point makes it an address.
    fn float(&mut self, start: usize) -> Result<Found<'a>, Stop> {
        let first = self.next();
        if !first.is_ascii_digit() {
            return self.error(format!(
                "Floats must have a digit after the '.', but got '{}' instead.",
                shown(first)
            ));
        }
        self.skip_while(|byte| byte.is_ascii_digit());
        if self.peek() != '.' {
            return self.found(Scalar::Float(self.slice(start, self.position())), start);
        }
        self.skip_while(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b':' | b'-'));
        self.found(Scalar::Text(self.slice(start, self.position()).to_vec()), start)
    }

    /// Reads the rest of `2006-01-02T15:04:05Z`, whose year and first dash have been taken.
    fn time(&mut self, start: usize) -> Result<Found<'a>, Stop> {
        for expected in "00-00T00:00:00Z".chars() {
            let character = self.next();
            if expected == '0' {
                if !character.is_ascii_digit() {
                    return self.error(format!(
                        "Expected digit in ISO8601 datetime, but found '{}' instead.",
                        shown(character)
                    ));
                }
            } else if character != expected {
                return self.error(format!(
                    "Expected '{expected}' in ISO8601 datetime, but found '{}' instead.",
                    shown(character)
                ));
            }
        }
        self.found(Scalar::Time(self.slice(start, self.position())), start)
    }
}
