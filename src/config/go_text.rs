//! Text forms that operators know from nats-server: Go's durations, quoted strings, integers and
//! booleans, as far as flags, configuration files and error texts need them.

use std::fmt;
use std::time::Duration;

const NANOSECONDS_PER_SECOND: u128 = 1_000_000_000;

/// A duration as Go represents it: signed, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SignedDuration(pub i64);

impl SignedDuration {
    /// Converts to a `Duration`; None if negative.
    pub fn to_duration(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }
}

fn unit_nanoseconds(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// Parses `1h30m`, `2.5s`, `-10ms`, `0`.
///
/// # Errors
/// The text that Go's `time.ParseDuration` gives.
pub(crate) fn parse_duration(text: &str) -> Result<SignedDuration, String> {
    let invalid = || format!("time: invalid duration {}", quoted(text));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(SignedDuration(0));
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let whole_end = digits_end(rest);
        let (whole, mut after) = rest.split_at(whole_end);
        let mut fraction = "";
        if let Some(behind_point) = after.strip_prefix('.') {
            let end = digits_end(behind_point);
            (fraction, after) = behind_point.split_at(end);
        }
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let unit_end = after
            .find(|character: char| character == '.' || character.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {}", quoted(text)));
        }
        let scale = u128::from(unit_nanoseconds(unit).ok_or_else(|| {
            format!("time: unknown unit {} in duration {}", quoted(unit), quoted(text))
        })?);
        let whole: u128 =
            if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        total = whole
            .checked_mul(scale)
            .and_then(|part| part.checked_add(fraction_nanoseconds(fraction, scale)))
            .and_then(|part| part.checked_add(total))
            .filter(|&sum| sum <= 1 << 63)
            .ok_or_else(invalid)?;
        rest = next;
    }
    let signed = if negative { -(total as i128) } else { total as i128 };
    i64::try_from(signed).map(SignedDuration).map_err(|_| invalid())
}

fn digits_end(text: &str) -> usize {
    text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len())
}

/// Returns the nanoseconds that digits after a decimal point stand for; digits too small to matter
/// are dropped.
fn fraction_nanoseconds(digits: &str, scale: u128) -> u128 {
    let kept = &digits[..digits.len().min(18)];
    let value: u128 = kept.parse().unwrap_or(0);
    value * scale / 10u128.pow(kept.len() as u32)
}

/// Formats as `1h30m0s`, `2.5s`, `10ms`, `0s`.
pub(crate) fn format_duration(duration: SignedDuration) -> String {
    let sign = if duration.0 < 0 { "-" } else { "" };
    let nanoseconds = u128::from(duration.0.unsigned_abs());
    if nanoseconds == 0 {
        return "0s".into();
    }
    if nanoseconds < NANOSECONDS_PER_SECOND {
        let (scale, unit) = match nanoseconds {
            0..1_000 => (1, "ns"),
            1_000..1_000_000 => (1_000, "\u{b5}s"),
            _ => (1_000_000, "ms"),
        };
        return format!("{sign}{}{unit}", decimal(nanoseconds, scale));
    }
    let seconds_total = nanoseconds / NANOSECONDS_PER_SECOND;
    let (hours, minutes) = (seconds_total / 3600, seconds_total / 60 % 60);
    let below_minute = nanoseconds - (hours * 3600 + minutes * 60) * NANOSECONDS_PER_SECOND;
    let seconds = decimal(below_minute, NANOSECONDS_PER_SECOND);
    match (hours, minutes) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, _) => format!("{sign}{minutes}m{seconds}s"),
        _ => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

fn decimal(value: u128, scale: u128) -> String {
    let (whole, rest) = (value / scale, value % scale);
    if rest == 0 {
        return whole.to_string();
    }
    let width = scale.ilog10() as usize;
    let digits = format!("{rest:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

/// Formats as a string in Go's double quotes (`%q`).
pub(crate) fn quoted(text: &str) -> String {
    let mut result = String::with_capacity(text.len() + 2);
    result.push('"');
    for character in text.chars() {
        match character {
            '"' => result.push_str("\\\""),
            '\\' => result.push_str("\\\\"),
            '\x07' => result.push_str("\\a"),
            '\x08' => result.push_str("\\b"),
            '\x0c' => result.push_str("\\f"),
            '\n' => result.push_str("\\n"),
            '\r' => result.push_str("\\r"),
            '\t' => result.push_str("\\t"),
            '\x0b' => result.push_str("\\v"),
            other if other < ' ' || other == '\x7f' => {
                result.push_str(&format!("\\x{:02x}", other as u32));
            }
            other if other.is_control() || (other != ' ' && other.is_whitespace()) => {
                result.push_str(&format!("\\u{:04x}", other as u32));
            }
            other => result.push(other),
        }
    }
    result.push('"');
    result
}

/// Why a number in a flag was refused, in Go's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NumberError {
    Syntax,
    Range,
}

impl NumberError {
    pub(crate) fn text(self) -> &'static str {
        match self {
            NumberError::Syntax => "parse error",
            NumberError::Range => "value out of range",
        }
    }
}

/// Parses an integer as Go parses a flag: `10`, `-1`, `0x10`, `0b1`, `0o7`, `017`, `1_000`.
///
/// # Errors
/// If the text is not a number, or is out of range.
pub(crate) fn parse_integer(text: &str) -> Result<i64, NumberError> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, body, prefixed) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..], true),
        [b'0', b'b', ..] => (2, &lower[2..], true),
        [b'0', b'o', ..] => (8, &lower[2..], true),
        [b'0', _, ..] => (8, &lower[1..], true),
        _ => (10, lower.as_str(), false),
    };
    let plain = without_underscores(body, prefixed).ok_or(NumberError::Syntax)?;
    if plain.is_empty() || !plain.chars().all(|digit| digit.is_digit(radix)) {
        return Err(NumberError::Syntax);
    }
    let magnitude = i128::from_str_radix(&plain, radix).map_err(|_| NumberError::Range)?;
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| NumberError::Range)
}

/// Removes underscores; they may stand between digits and after a prefix, nowhere else.
fn without_underscores(body: &str, prefixed: bool) -> Option<String> {
    let misplaced =
        body.ends_with('_') || body.contains("__") || (!prefixed && body.starts_with('_'));
    if misplaced {
        return None;
    }
    Some(body.replace('_', ""))
}

/// Parses a boolean as Go parses a flag's value.
pub(crate) fn parse_boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Why a text is not `host:port`, in Go's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SplitError {
    MissingPort,
    TooManyColons,
    MissingBracket,
    UnexpectedBracket(char),
}

impl fmt::Display for SplitError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingPort => formatter.write_str("missing port in address"),
            Self::TooManyColons => formatter.write_str("too many colons in address"),
            Self::MissingBracket => formatter.write_str("missing ']' in address"),
            Self::UnexpectedBracket(bracket) => {
                write!(formatter, "unexpected '{bracket}' in address")
            }
        }
    }
}

/// Splits `host:port`, `[::1]:port`, `:port`. Source: Go net SplitHostPort.
///
/// # Errors
/// If the text does not have that form.
pub(crate) fn split_host_port(text: &str) -> Result<(&str, &str), SplitError> {
    let (before, port) = text.rsplit_once(':').ok_or(SplitError::MissingPort)?;
    // The parts that must not contain further brackets.
    let (host, behind) = match text.strip_prefix('[') {
        Some(inner) => {
            let (host, behind) = inner.split_once(']').ok_or(SplitError::MissingBracket)?;
            match behind.strip_prefix(':') {
                Some(rest) if rest == port => (host, behind),
                Some(_) => return Err(SplitError::TooManyColons),
                None => return Err(SplitError::MissingPort),
            }
        }
        None if before.contains(':') => return Err(SplitError::TooManyColons),
        None => (before, text),
    };
    if host.contains('[') || behind.contains('[') {
        return Err(SplitError::UnexpectedBracket('['));
    }
    if behind.contains(']') {
        return Err(SplitError::UnexpectedBracket(']'));
    }
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn durations_read_as_go_reads_them() {
        let cases = [
            ("0", 0),
            ("5s", 5 * SECOND),
            ("1h30m", 5400 * SECOND),
            ("-1.5s", -1_500_000_000),
            ("+10ms", 10_000_000),
            (".5s", 500_000_000),
            ("1.s", SECOND),
            ("1\u{b5}s", 1_000),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
            ("0.000000001s", 1),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text), Ok(SignedDuration(expected)), "{text}");
        }
    }

    #[test]
    fn bad_durations_are_refused_in_gos_words() {
        let cases = [
            ("", "time: invalid duration \"\""),
            ("s", "time: invalid duration \"s\""),
            (".s", "time: invalid duration \".s\""),
            ("3", "time: missing unit in duration \"3\""),
            ("1d", "time: unknown unit \"d\" in duration \"1d\""),
            ("1 s", "time: unknown unit \" s\" in duration \"1 s\""),
            ("9223372036854775808ns", "time: invalid duration \"9223372036854775808ns\""),
            ("3000000h", "time: invalid duration \"3000000h\""),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text), Err(expected.to_string()));
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        let cases = [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5\u{b5}s"),
            (10_000_000, "10ms"),
            (2 * SECOND + 500_000_000, "2.5s"),
            (120 * SECOND, "2m0s"),
            (5400 * SECOND, "1h30m0s"),
            (3600 * SECOND, "1h0m0s"),
            (-SECOND, "-1s"),
        ];
        for (nanoseconds, expected) in cases {
            assert_eq!(format_duration(SignedDuration(nanoseconds)), expected);
        }
    }

    #[test]
    fn integers_read_as_go_reads_flags() {
        let cases = [
            ("0", Ok(0)),
            ("4222", Ok(4222)),
            ("-1", Ok(-1)),
            ("+7", Ok(7)),
            ("0x10", Ok(16)),
            ("0b11", Ok(3)),
            ("0o17", Ok(15)),
            ("017", Ok(15)),
            ("1_000", Ok(1000)),
            ("0x_10", Ok(16)),
            ("0_7", Ok(7)),
            ("", Err(NumberError::Syntax)),
            ("-", Err(NumberError::Syntax)),
            ("_1", Err(NumberError::Syntax)),
            ("1_", Err(NumberError::Syntax)),
            ("08", Err(NumberError::Syntax)),
            ("abc", Err(NumberError::Syntax)),
            ("1.5", Err(NumberError::Syntax)),
            ("9223372036854775807", Ok(i64::MAX)),
            ("9223372036854775808", Err(NumberError::Range)),
            ("-9223372036854775808", Ok(i64::MIN)),
            ("99999999999999999999999999999999999999999999", Err(NumberError::Range)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_integer(text), expected, "{text}");
        }
    }

    #[test]
    fn addresses_split_into_host_and_port() {
        let cases = [
            ("127.0.0.1:4222", Ok(("127.0.0.1", "4222"))),
            (":4222", Ok(("", "4222"))),
            ("[::1]:4222", Ok(("::1", "4222"))),
            ("localhost:", Ok(("localhost", ""))),
            ("::1:4222", Err(SplitError::TooManyColons)),
            ("localhost", Err(SplitError::MissingPort)),
            ("[::1]", Err(SplitError::MissingPort)),
            ("[::1", Err(SplitError::MissingBracket)),
            ("[::1]x:1", Err(SplitError::MissingPort)),
            ("[::1]:1:2", Err(SplitError::TooManyColons)),
            ("[a[b]:1", Err(SplitError::UnexpectedBracket('['))),
            ("a[b:1", Err(SplitError::UnexpectedBracket('['))),
            ("a]b:1", Err(SplitError::UnexpectedBracket(']'))),
            ("a:1]", Err(SplitError::UnexpectedBracket(']'))),
        ];
        for (text, expected) in cases {
            assert_eq!(split_host_port(text), expected, "{text}");
        }
    }
}
