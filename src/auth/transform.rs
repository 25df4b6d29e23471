//! A subject transform: a source filter and a destination with placeholders such as `$1` or
//! `{{partition(3,1)}}`, compiled to pieces that are written one after the other.
//!
//! Source of the behaviour: nats-server server/subject_transform.go. The partition of a literal
//! source is the hash of that source; nats-server hashes nothing or the source, depending on which
//! of its mappings it happened to try first.

use std::fmt;

use super::subject_set::has_empty_token;
use crate::protocol::nats::encode::decimal;
use crate::protocol::subject;

/// The compiled destination of one source.
#[derive(Clone, Debug)]
pub(crate) struct Transform {
    pieces: Vec<Piece>,
    /// Number of tokens of the source before its `>`; the rest of the subject is appended. None =
    /// no `>`.
    tail_from: Option<usize>,
}

/// The source of one token of the destination. Indexes are 0-based positions in the subject's
/// tokens; every subject that the source matches has them.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(Box<[u8]>),
    Wildcard(usize),
    /// No indexes = the whole subject.
    Partition {
        bucket_count: u32,
        token_indexes: Vec<usize>,
    },
    Random {
        bound: i32,
    },
    Split {
        token_index: usize,
        delimiter: Box<[u8]>,
    },
    /// Cuts a token in two; `size` <= 0 or too large leaves it whole.
    Cut {
        token_index: usize,
        size: i32,
        how: Cut,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    SplitFromLeft,
    SplitFromRight,
    SliceFromLeft,
    SliceFromRight,
    Left,
    Right,
}

/// Why a destination was refused; the words are nats-server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransformError {
    BadSubject,
    /// A token that a destination may not have; empty if there is no token to name.
    InvalidTransform(String),
    UnknownFunction(String),
    IndexOutOfRange(String),
    NotEnoughArguments(String),
    TooManyArguments(String),
    InvalidArgument(String),
    NotAvailable(String),
    /// Of an import: what cannot be undone.
    NotReversible(String),
    /// Of an import: the whole destination.
    UnusedWildcards(String),
}

impl fmt::Display for TransformError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, token) = match self {
            Self::BadSubject => return formatter.write_str("invalid subject"),
            Self::InvalidTransform(token) => ("invalid transform", token),
            Self::UnknownFunction(token) => ("unknown function", token),
            Self::IndexOutOfRange(token) => ("wildcard index out of range", token),
            Self::NotEnoughArguments(token) => {
                ("not enough arguments passed to the function", token)
            }
            Self::TooManyArguments(token) => ("too many arguments passed to the function", token),
            Self::InvalidArgument(token) => {
                ("function argument is invalid or in the wrong format", token)
            }
            Self::NotAvailable(token) => ("function is not available in this context", token),
            Self::NotReversible(token) => {
                ("the only mapping function allowed for import transforms is {{Wildcard()}}", token)
            }
            Self::UnusedWildcards(destination) => {
                ("not using all of the token wildcard(s)", destination)
            }
        };
        write!(formatter, "invalid mapping destination: {what}")?;
        if !token.is_empty() {
            write!(formatter, " in {token}")?;
        }
        Ok(())
    }
}

impl std::error::Error for TransformError {}

impl Transform {
    /// Compiles a destination.
    ///
    /// # Errors
    /// If the destination cannot be made from the source; the text tells the operator why.
    pub(crate) fn compile(source: &str, destination: &str) -> Result<Self, TransformError> {
        check_destination(destination)?;
        let source_tail = source == ">" || source.ends_with(".>");
        let destination_tail = destination == ">" || destination.ends_with(".>");
        let destination_star = destination.split('.').any(|token| token == "*");
        if !subject::is_valid_filter(source.as_bytes())
            || has_empty_token(destination.as_bytes())
            || destination_star
            || source_tail != destination_tail
        {
            return Err(TransformError::BadSubject);
        }
        let source_has_wildcard = subject::has_wildcard(source.as_bytes());
        let stars: Vec<usize> = source
            .split('.')
            .enumerate()
            .filter_map(|(index, token)| (token == "*").then_some(index))
            .collect();
        let mut pieces = Vec::new();
        for token in destination.split('.') {
            if token == ">" {
                break;
            }
            let function = Function::parse(token)?;
            pieces.push(function.resolve(token, &stars, source_has_wildcard)?);
        }
        let tail_from = source_tail.then(|| subject::token_count(source.as_bytes()) - 1);
        Ok(Self { pieces, tail_from })
    }

    /// Appends to `output` the destination of `subject`, whose tokens are `tokens`.
    pub(crate) fn apply(
        &self,
        subject: &[u8],
        tokens: &[&[u8]],
        random: &mut fastrand::Rng,
        output: &mut Vec<u8>,
    ) {
        for (index, piece) in self.pieces.iter().enumerate() {
            if index > 0 {
                output.push(b'.');
            }
            piece.write(subject, tokens, random, output);
        }
        if let Some(from) = self.tail_from {
            for (index, token) in tokens[from..].iter().enumerate() {
                if index > 0 || !self.pieces.is_empty() {
                    output.push(b'.');
                }
                output.extend_from_slice(token);
            }
        }
    }
}

/// A token of a destination that can be undone.
pub(super) enum ReversibleToken<'a> {
    /// `>` included.
    Literal(&'a str),
    /// The token of the source at this position.
    Copy(usize),
}

/// The tokens of the destination of an import: every star of the source is in it, and nothing that cannot be undone.
///
/// # Errors
/// The destination cannot be made from the source, or not be undone.
pub(super) fn reversible<'a>(
    source: &str,
    destination: &'a str,
) -> Result<Vec<ReversibleToken<'a>>, TransformError> {
    let has_tail = |subject: &str| subject == ">" || subject.ends_with(".>");
    if !subject::is_valid_filter(source.as_bytes())
        || !subject::is_valid_filter(destination.as_bytes())
        || destination.split('.').any(|token| token == "*")
        || has_tail(source) != has_tail(destination)
    {
        return Err(TransformError::BadSubject);
    }
    let tokens = source.split('.').enumerate();
    let stars: Vec<usize> =
        tokens.filter_map(|(index, token)| (token == "*").then_some(index)).collect();
    let mut copied_count = 0;
    let mut reversible = Vec::new();
    for token in destination.split('.') {
        reversible.push(match Function::parse(token)? {
            Function::Literal => ReversibleToken::Literal(token),
            Function::Wildcard(index) => {
                copied_count += 1;
                let star = usize::try_from(index).ok().and_then(|index| index.checked_sub(1));
                let Some(position) = star.and_then(|star| stars.get(star)) else {
                    let text = format!("{token}: [{index}]");
                    return Err(TransformError::IndexOutOfRange(text));
                };
                ReversibleToken::Copy(*position)
            }
            _ => return Err(TransformError::NotReversible(token.to_owned())),
        });
    }
    if copied_count < stars.len() {
        return Err(TransformError::UnusedWildcards(destination.to_owned()));
    }
    Ok(reversible)
}

/// Checks that do not need the source.
fn check_destination(destination: &str) -> Result<(), TransformError> {
    let mut after_tail = false;
    for token in destination.split('.') {
        if token.is_empty() || after_tail {
            return Err(TransformError::InvalidTransform(token.to_owned()));
        }
        after_tail = token == ">";
        let is_function = function_body(token).is_some();
        if !is_function && token.contains([' ', '\t', '\n', '\x0c', '\r']) {
            return Err(TransformError::InvalidTransform(String::new()));
        }
    }
    Ok(())
}

/// Returns the inside of `{{...}}`.
pub(super) fn function_body(token: &str) -> Option<&str> {
    token.strip_prefix("{{")?.strip_suffix("}}").filter(|body| !body.is_empty())
}

/// A token of the destination as written, with the 1-based indexes of wildcards in the source.
enum Function<'a> {
    Literal,
    Wildcard(i64),
    Partition { bucket_count: u32, indexes: Vec<i64> },
    Random(i32),
    Split(i64, &'a str),
    Cut(i64, i32, Cut),
}

impl<'a> Function<'a> {
    fn parse(token: &'a str) -> Result<Self, TransformError> {
        if let Some(number) = token.strip_prefix('$') {
            // Other tokens that begin with `$` are common, and literal.
            return Ok(number.parse().map_or(Self::Literal, Self::Wildcard));
        }
        let Some(body) = function_body(token) else { return Ok(Self::Literal) };
        let unknown = || TransformError::UnknownFunction(token.to_owned());
        let not_enough = || TransformError::NotEnoughArguments(token.to_owned());
        let too_many = || TransformError::TooManyArguments(token.to_owned());
        let invalid = || TransformError::InvalidArgument(token.to_owned());
        let (name, rest) = body.trim().split_once('(').ok_or_else(unknown)?;
        let text = rest.strip_suffix(')').ok_or_else(unknown)?;
        let name = name.trim_end();
        // Blanks after a comma belong to the comma.
        let arguments: Vec<&str> = text
            .split(',')
            .enumerate()
            .map(|(index, part)| if index == 0 { part } else { part.trim_start() })
            .collect();
        let index = |text: &str| text.trim_matches(' ').parse::<i64>().map_err(|_| invalid());
        let number = |text: &str| text.trim_matches(' ').parse::<i32>().map_err(|_| invalid());

        if is_named(name, "wildcard") {
            return match arguments[..] {
                [""] => Err(not_enough()),
                [only] => Ok(Self::Wildcard(index(only)?)),
                _ => Err(too_many()),
            };
        }
        if is_named(name, "partition") {
            let indexes =
                arguments[1..].iter().map(|text| index(text)).collect::<Result<_, _>>()?;
            // A negative count wraps, as in nats-server.
            let bucket_count = number(arguments[0])?.cast_unsigned();
            return Ok(Self::Partition { bucket_count, indexes });
        }
        if is_named(name, "random") {
            return match arguments[..] {
                [only] => Ok(Self::Random(number(only)?)),
                _ => Err(not_enough()),
            };
        }
        if is_named(name, "split") {
            return match arguments[..] {
                [token_index, delimiter] => {
                    let token_index = index(token_index)?;
                    // It has no dot, which would have ended the token.
                    match delimiter.contains(' ') {
                        true => Err(invalid()),
                        false => Ok(Self::Split(token_index, delimiter)),
                    }
                }
                [] | [_] => Err(not_enough()),
                _ => Err(too_many()),
            };
        }
        let how = match () {
            () if is_named(name, "splitFromLeft") => Cut::SplitFromLeft,
            () if is_named(name, "splitFromRight") => Cut::SplitFromRight,
            () if is_named(name, "sliceFromLeft") => Cut::SliceFromLeft,
            () if is_named(name, "sliceFromRight") => Cut::SliceFromRight,
            () if is_named(name, "left") => Cut::Left,
            () if is_named(name, "right") => Cut::Right,
            () => return Err(unknown()),
        };
        match arguments[..] {
            [token_index, size] => Ok(Self::Cut(index(token_index)?, number(size)?, how)),
            [] | [_] => Err(not_enough()),
            _ => Err(too_many()),
        }
    }

    /// Converts wildcard indexes to token positions.
    fn resolve(
        self,
        token: &str,
        stars: &[usize],
        source_has_wildcard: bool,
    ) -> Result<Piece, TransformError> {
        if !source_has_wildcard {
            return match self {
                Self::Literal => Ok(Piece::Literal(token.as_bytes().into())),
                Self::Random(bound) => Ok(Piece::Random { bound }),
                Self::Partition { bucket_count, .. } => {
                    Ok(Piece::Partition { bucket_count, token_indexes: Vec::new() })
                }
                _ => Err(TransformError::IndexOutOfRange(token.to_owned())),
            };
        }
        let position = |index: i64| match usize::try_from(index.saturating_sub(1)) {
            Ok(star) => match stars.get(star) {
                Some(&position) => Ok(position),
                None => Err(TransformError::IndexOutOfRange(format!("{token}: [{index}]"))),
            },
            // Zero and below mean the first token, as in nats-server.
            Err(_) => Ok(0),
        };
        Ok(match self {
            Self::Literal => Piece::Literal(token.as_bytes().into()),
            Self::Wildcard(index) => Piece::Wildcard(position(index)?),
            Self::Partition { bucket_count, indexes } => Piece::Partition {
                bucket_count,
                token_indexes: indexes.into_iter().map(position).collect::<Result<_, _>>()?,
            },
            Self::Random(bound) => Piece::Random { bound },
            Self::Split(index, delimiter) => Piece::Split {
                token_index: position(index)?,
                delimiter: delimiter.as_bytes().into(),
            },
            Self::Cut(index, size, how) => Piece::Cut { token_index: position(index)?, size, how },
        })
    }
}

/// Returns true if `name` is `expected`, with any case in the first letter of each word.
pub(super) fn is_named(name: &str, expected: &str) -> bool {
    name.len() == expected.len()
        && name.bytes().zip(expected.bytes()).enumerate().all(|(index, (got, want))| {
            got == want
                || ((index == 0 || want.is_ascii_uppercase()) && got.eq_ignore_ascii_case(&want))
        })
}

impl Piece {
    fn write(
        &self,
        subject: &[u8],
        tokens: &[&[u8]],
        random: &mut fastrand::Rng,
        output: &mut Vec<u8>,
    ) {
        match self {
            Self::Literal(text) => output.extend_from_slice(text),
            Self::Wildcard(index) => output.extend_from_slice(tokens[*index]),
            Self::Partition { bucket_count, token_indexes } => {
                let hash = if token_indexes.is_empty() {
                    fnv1a_32(std::iter::once(subject))
                } else {
                    fnv1a_32(token_indexes.iter().map(|&index| tokens[index]))
                };
                decimal(output, hash.checked_rem(*bucket_count).unwrap_or(0) as usize);
            }
            Self::Random { bound } => {
                let bound = bound.unsigned_abs();
                decimal(output, if bound == 0 { 0 } else { random.u32(..bound) as usize });
            }
            Self::Split { token_index, delimiter } => {
                write_split(tokens[*token_index], delimiter, output);
            }
            Self::Cut { token_index, size, how } => {
                let token = tokens[*token_index];
                match usize::try_from(*size) {
                    Ok(size) if size > 0 && size < token.len() => {
                        write_cut(token, size, *how, output);
                    }
                    _ => output.extend_from_slice(token),
                }
            }
        }
    }
}

/// FNV-1a with 32 bits over the concatenated parts.
fn fnv1a_32<'a>(parts: impl Iterator<Item = &'a [u8]>) -> u32 {
    let mut hash: u32 = 0x811c_9dc5;
    for byte in parts.flatten() {
        hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    }
    hash
}

/// Writes the pieces between delimiters as tokens, leaving out empty ones.
fn write_split(token: &[u8], delimiter: &[u8], output: &mut Vec<u8>) {
    let mut any = false;
    let mut piece_written = |piece: &[u8]| {
        if piece.is_empty() {
            return;
        }
        if any {
            output.push(b'.');
        }
        any = true;
        output.extend_from_slice(piece);
    };
    if delimiter.is_empty() {
        // Every character is a piece, and so is a byte that is not part of a character.
        for chunk in token.utf8_chunks() {
            for character in chunk.valid().chars() {
                piece_written(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            chunk.invalid().iter().for_each(|&byte| piece_written(&[byte]));
        }
        return;
    }
    let mut rest = token;
    while let Some(at) = memchr::memmem::find(rest, delimiter) {
        piece_written(&rest[..at]);
        rest = &rest[at + delimiter.len()..];
    }
    piece_written(rest);
}

/// `size` must be above 0 and below the token's length.
fn write_cut(token: &[u8], size: usize, how: Cut, output: &mut Vec<u8>) {
    let mut halves = |at: usize| {
        output.extend_from_slice(&token[..at]);
        output.push(b'.');
        output.extend_from_slice(&token[at..]);
    };
    match how {
        Cut::SplitFromLeft => halves(size),
        Cut::SplitFromRight => halves(token.len() - size),
        Cut::Left => output.extend_from_slice(&token[..size]),
        Cut::Right => output.extend_from_slice(&token[token.len() - size..]),
        Cut::SliceFromLeft => write_slices(token.chunks(size), output),
        Cut::SliceFromRight => {
            let (short, whole) = token.split_at(token.len() % size);
            let short = (!short.is_empty()).then_some(short);
            write_slices(short.into_iter().chain(whole.chunks(size)), output);
        }
    }
}

fn write_slices<'a>(slices: impl Iterator<Item = &'a [u8]>, output: &mut Vec<u8>) {
    for (index, slice) in slices.enumerate() {
        if index > 0 {
            output.push(b'.');
        }
        output.extend_from_slice(slice);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_hash_gives_the_published_values() {
        // Test vectors published by the authors of FNV.
        assert_eq!(fnv1a_32([&b""[..]].into_iter()), 0x811c_9dc5);
        assert_eq!(fnv1a_32([&b"a"[..]].into_iter()), 0xe40c_292c);
        assert_eq!(fnv1a_32([&b"foobar"[..]].into_iter()), 0xbf9c_f968);
        assert_eq!(fnv1a_32([&b"foo"[..], b"bar"].into_iter()), 0xbf9c_f968);
    }

    #[test]
    fn numbers_are_written_in_full() {
        for number in [0, 1, 9, 10, 4_245_442_695, u32::MAX] {
            let mut output = Vec::new();
            decimal(&mut output, number as usize);
            assert_eq!(output, number.to_string().as_bytes());
        }
    }

    #[test]
    fn function_names_may_vary_only_in_the_case_of_their_words_first_letters() {
        assert!(is_named("SliceFromLeft", "sliceFromLeft"));
        assert!(is_named("slicefromleft", "sliceFromLeft"));
        assert!(!is_named("SLICEFROMLEFT", "sliceFromLeft"));
        assert!(!is_named("slice", "sliceFromLeft"));
    }
}
