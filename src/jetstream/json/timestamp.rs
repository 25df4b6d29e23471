//! Times in requests and answers: RFC 3339 with nanoseconds and the offset that the client gave, as
//! Go's `time.Time` keeps it.

use serde::{Serialize, Serializer};
use tz::UtcDateTime;

use super::decode::{DecodeError, Decoded, Reader};

const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";

const NANOSECONDS_PER_SECOND: i128 = 1_000_000_000;

/// A time between the years 0 and 9999. The default is nanosecond 0 of the year 1 in UTC, which
/// stands for no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timestamp {
    unix_seconds: i64,
    nanoseconds: u32,
    offset_minutes: i16,
}

impl Timestamp {
    /// No time: `0001-01-01T00:00:00Z`.
    pub(crate) const ZERO: Timestamp =
        Timestamp { unix_seconds: -62_135_596_800, nanoseconds: 0, offset_minutes: 0 };

    pub(crate) fn from_unix_ns(unix_ns: i64) -> Timestamp {
        let unix_ns = i128::from(unix_ns);
        Timestamp {
            unix_seconds: unix_ns.div_euclid(NANOSECONDS_PER_SECOND) as i64,
            nanoseconds: unix_ns.rem_euclid(NANOSECONDS_PER_SECOND) as u32,
            offset_minutes: 0,
        }
    }

    /// Nanoseconds since 1970. Times before 1677 and after 2262 become the nearest that fits.
    pub(crate) fn unix_ns(self) -> i64 {
        let unix_ns =
            i128::from(self.unix_seconds) * NANOSECONDS_PER_SECOND + i128::from(self.nanoseconds);
        unix_ns.clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }

    /// The same time in UTC.
    pub(crate) fn to_utc(self) -> Timestamp {
        Timestamp { offset_minutes: 0, ..self }
    }

    /// True if this is [`Timestamp::ZERO`], in any offset.
    pub(crate) fn is_zero(self) -> bool {
        self.unix_seconds == Self::ZERO.unix_seconds && self.nanoseconds == 0
    }

    /// Parses RFC 3339 as leniently as Go.
    ///
    /// # Errors
    /// The text of Go's `time.Parse`.
    pub(crate) fn parse(text: &[u8]) -> Result<Timestamp, String> {
        Parser { text, rest: text }.parse()
    }

    /// Reads a string, and nothing for `null`.
    ///
    /// # Errors
    /// If it is no time; nothing behind it is read.
    pub(crate) fn read(&mut self, reader: &mut Reader<'_>) -> Decoded {
        match reader.take() {
            b"null" => {}
            [b'"', inner @ .., b'"'] => *self = Timestamp::parse(inner).map_err(DecodeError)?,
            _ => {
                return Err(DecodeError("Time.UnmarshalJSON: input is not a JSON string".into()));
            }
        }
        Ok(())
    }

    /// Reads a string, or `null` for none.
    ///
    /// # Errors
    /// As [`Timestamp::read`].
    pub(crate) fn read_optional(
        target: &mut Option<Timestamp>,
        reader: &mut Reader<'_>,
    ) -> Decoded {
        if reader.skip_null() {
            *target = None;
            return Ok(());
        }
        target.get_or_insert_default().read(reader)
    }
}

impl Default for Timestamp {
    fn default() -> Timestamp {
        Timestamp::ZERO
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let local_seconds = self.unix_seconds + i64::from(self.offset_minutes) * 60;
        let time = UtcDateTime::from_timespec(local_seconds, self.nanoseconds)
            .unwrap_or(UtcDateTime::UNIX_EPOCH);
        write!(
            formatter,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
            time.year(),
            time.month(),
            time.month_day(),
            time.hour(),
            time.minute(),
            time.second()
        )?;
        if self.nanoseconds > 0 {
            let fraction = format!(".{:09}", self.nanoseconds);
            formatter.write_str(fraction.trim_end_matches('0'))?;
        }
        if self.offset_minutes == 0 {
            return formatter.write_str("Z");
        }
        let sign = if self.offset_minutes < 0 { '-' } else { '+' };
        let minutes = self.offset_minutes.unsigned_abs();
        write!(formatter, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A walk along the layout.
struct Parser<'a> {
    text: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Parser<'a> {
    fn parse(mut self) -> Result<Timestamp, String> {
        let year = self.year()?;
        self.literal("-")?;
        let month = self.number("01", true, 1..=12, "month")?;
        self.literal("-")?;
        let day = self.number("02", true, 0..=99, "day")?;
        self.literal("T")?;
        let hour = self.number("15", false, 0..=23, "hour")?;
        self.literal(":")?;
        let minute = self.number("04", true, 0..=59, "minute")?;
        self.literal(":")?;
        let second = self.number("05", true, 0..=59, "second")?;
        let nanoseconds = self.fraction();
        let offset_minutes = self.offset()?;
        if !self.rest.is_empty() {
            return Err(self.message(&format!(": extra text: {}", quote(self.rest))));
        }
        let local = UtcDateTime::new(year, month, day, hour, minute, second, nanoseconds)
            .map_err(|_| self.message(": day out of range"))?;
        Ok(Timestamp {
            unix_seconds: local.unix_time() - i64::from(offset_minutes) * 60,
            nanoseconds,
            offset_minutes,
        })
    }

    fn year(&mut self) -> Result<i32, String> {
        let digits = self.rest.get(..4).filter(|digits| digits.iter().all(u8::is_ascii_digit));
        let Some(digits) = digits else { return Err(self.cannot(self.rest, "2006")) };
        let year = digits.iter().fold(0, |year, digit| year * 10 + i32::from(digit - b'0'));
        self.rest = &self.rest[4..];
        Ok(year)
    }

    fn literal(&mut self, expected: &str) -> Result<(), String> {
        match self.rest.strip_prefix(expected.as_bytes()) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => Err(self.cannot(self.rest, expected)),
        }
    }

    /// Reads two digits, or one where `is_fixed` is not set.
    fn number(
        &mut self,
        layout: &str,
        is_fixed: bool,
        range: std::ops::RangeInclusive<u8>,
        name: &str,
    ) -> Result<u8, String> {
        let digit = |at: usize| self.rest.get(at).filter(|byte| byte.is_ascii_digit());
        let (value, length) = match (digit(0), digit(1)) {
            (Some(tens), Some(ones)) => ((tens - b'0') * 10 + (ones - b'0'), 2),
            (Some(ones), None) if !is_fixed => (ones - b'0', 1),
            _ => return Err(self.cannot(self.rest, layout)),
        };
        self.rest = &self.rest[length..];
        if !range.contains(&value) {
            return Err(self.message(&format!(": {name} out of range")));
        }
        Ok(value)
    }

    /// Reads a point or comma with digits; those behind the ninth are dropped.
    fn fraction(&mut self) -> u32 {
        let [b'.' | b',', digits @ ..] = self.rest else { return 0 };
        let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 {
            return 0;
        }
        self.rest = &digits[count..];
        let padded = digits[..count].iter().copied().chain(std::iter::repeat(b'0'));
        padded.take(9).fold(0, |value, digit| value * 10 + u32::from(digit - b'0'))
    }

    fn offset(&mut self) -> Result<i16, String> {
        if let Some(rest) = self.rest.strip_prefix(b"Z") {
            self.rest = rest;
            return Ok(0);
        }
        let bad = self.cannot(self.rest, "Z07:00");
        let Some(&[sign, hour_tens, hour_ones, b':', tens, ones]) = self.rest.get(..6) else {
            return Err(bad);
        };
        if ![hour_tens, hour_ones, tens, ones].iter().all(u8::is_ascii_digit) {
            return Err(bad);
        }
        let two = |tens: u8, ones: u8| i16::from(tens - b'0') * 10 + i16::from(ones - b'0');
        let (hours, minutes) = (two(hour_tens, hour_ones), two(tens, ones));
        self.rest = &self.rest[6..];
        if minutes > 60 {
            return Err(self.message(": time zone offset minute out of range"));
        }
        // Go reads 24 hours too, and cannot write what it has read.
        if hours > 23 {
            return Err(self.message(": time zone offset hour out of range"));
        }
        match sign {
            b'+' => Ok(hours * 60 + minutes),
            b'-' => Ok(-(hours * 60 + minutes)),
            _ => Err(bad),
        }
    }

    fn cannot(&self, at: &[u8], layout: &str) -> String {
        let (text, at) = (quote(self.text), quote(at));
        format!("parsing time {text} as \"{LAYOUT}\": cannot parse {at} as \"{layout}\"")
    }

    fn message(&self, message: &str) -> String {
        format!("parsing time {}{message}", quote(self.text))
    }
}

/// Quotes as Go's package `time` does: bytes outside of ASCII by their value.
fn quote(text: &[u8]) -> String {
    let mut quoted = String::from("\"");
    for &byte in text {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(byte)]),
            b' '..0x80 => quoted.push(char::from(byte)),
            _ => quoted.push_str(&format!("\\x{byte:02x}")),
        }
    }
    quoted.push('"');
    quoted
}
