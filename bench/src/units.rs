//! Sizes, durations, counts and core lists as people write and read them.

use crate::Failure;
use std::time::Duration;

/// Parses `16`, `1k`, `1KiB`, `2M`: binary multiples.
///
/// # Errors
/// If it is not such a number.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let lower = text.trim().to_ascii_lowercase();
    let digits_end = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let shift = match &lower[digits_end..] {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        unit => return Err(format!("'{unit}' is no unit of size: use k or m")),
    };
    let value: usize = lower[..digits_end].parse().map_err(|_| format!("'{text}' is no size"))?;
    value.checked_shl(shift).filter(|v| v >> shift == value).ok_or(format!("'{text}' is too large"))
}

/// Parses `500ms`, `5s`, `2m`, `1h`, `250us`; a bare number is seconds.
///
/// # Errors
/// If it is not such a duration.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let scale = match &text[digits_end..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        unit => return Err(format!("'{unit}' is no unit of time: use us, ms, s, m or h")),
    };
    let value: f64 = text[..digits_end].parse().map_err(|_| format!("'{text}' is no duration"))?;
    Duration::try_from_secs_f64(value * scale).map_err(|_| format!("'{text}' is no duration"))
}

/// Parses a duration as `parse_duration` does, but above zero.
///
/// # Errors
/// If it is not a duration, or zero.
pub fn parse_duration_above_zero(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err(format!("'{text}' is no time to measure in: above zero")),
        duration => Ok(duration),
    }
}

/// Parses `20000`, `20k`, `1.5M`: decimal multiples.
///
/// # Errors
/// If it is not such a number, or not above zero.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    let (digits, scale) = match text.trim().to_ascii_lowercase() {
        lower if lower.ends_with('k') => (lower[..lower.len() - 1].to_string(), 1e3),
        lower if lower.ends_with('m') => (lower[..lower.len() - 1].to_string(), 1e6),
        lower => (lower, 1.0),
    };
    match digits.parse::<f64>() {
        Ok(value) if value > 0.0 && value.is_finite() => Ok(value * scale),
        _ => Err(format!("'{text}' is no rate above zero")),
    }
}

/// A list of cores: `0`, `0-3`, `0,2,4-5`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreList(pub Vec<usize>);

impl CoreList {
    /// Parses a list of cores.
    ///
    /// # Errors
    /// If it is not such a list.
    pub fn parse(text: &str) -> Result<CoreList, String> {
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| {
                text.trim().parse::<usize>().map_err(|_| format!("'{part}' is no core"))
            };
            let (first, last) = (number(first)?, number(last)?);
            if last < first || last >= 1024 {
                return Err(format!("'{part}' is no range of cores"));
            }
            cores.extend(first..=last);
        }
        Ok(CoreList(cores))
    }
}

impl std::fmt::Display for CoreList {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        formatter.write_str(&texts.join(","))
    }
}

/// Formats as `128 B`, `16 KiB`.
pub fn size_text(size: u64) -> String {
    match size {
        size if size >= 1 << 20 && size.is_multiple_of(1 << 20) => format!("{} MiB", size >> 20),
        size if size >= 1 << 10 && size.is_multiple_of(1 << 10) => format!("{} KiB", size >> 10),
        size => format!("{size} B"),
    }
}

/// Formats three significant digits with a decimal multiple: `1.23 M`, `45.6 k`, `0.178`.
pub fn number_text(value: f64) -> String {
    let (value, unit) = match value.abs() {
        size if size >= 1e9 => (value / 1e9, " G"),
        size if size >= 1e6 => (value / 1e6, " M"),
        size if size >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let digits = match value.abs() {
        size if size == 0.0 || size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        _ => 3,
    };
    format!("{value:.digits$}{unit}")
}

/// Formats nanoseconds for people: `850 ns`, `12.3 us`, `4.56 ms`.
pub fn nanoseconds_text(value: f64) -> String {
    match value {
        value if value < 1e3 => format!("{value:.0} ns"),
        value if value < 1e6 => format!("{} us", number_text(value / 1e3)),
        value if value < 1e9 => format!("{} ms", number_text(value / 1e6)),
        value => format!("{} s", number_text(value / 1e9)),
    }
}

/// Splits a command line as a shell would: blanks separate words, quotes hold them together.
///
/// # Errors
/// If a quote is not closed or there is no word.
pub fn split_command_line(text: &str) -> Result<Vec<String>, Failure> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), character) if character == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(characters.next()),
            (None, character) if character.is_whitespace() => words.extend(word.take()),
            (_, character) => word.get_or_insert_default().push(character),
        }
    }
    if quote.is_some() {
        return Err(Failure::new(format!("a quote is not closed in: {text}")));
    }
    words.extend(word);
    if words.is_empty() {
        return Err(Failure::new("the command line is empty"));
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_durations_rates_and_cores_parse() {
        assert_eq!(parse_size("16"), Ok(16));
        assert_eq!(parse_size("1KiB"), Ok(1024));
        assert!(parse_size("1x").is_err());
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(parse_duration("3"), Ok(Duration::from_secs(3)));
        assert!(parse_duration("fast").is_err());
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        assert_eq!(parse_duration_above_zero("1us"), Ok(Duration::from_micros(1)));
        for none in ["0", "0ms", "0.0000000001s"] {
            assert!(parse_duration_above_zero(none).unwrap_err().contains("above zero"), "{none}");
        }
        assert_eq!(parse_rate("1.5M"), Ok(1_500_000.0));
        assert!(parse_rate("0").is_err());
        assert_eq!(CoreList::parse("0,2-4"), Ok(CoreList(vec![0, 2, 3, 4])));
        assert!(CoreList::parse("3-1").is_err());
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(number_text(12_345_678.0), "12.3 M");
        assert_eq!(number_text(0.178), "0.178");
        assert_eq!(number_text(999.6), "1000");
        assert_eq!(nanoseconds_text(850.0), "850 ns");
        assert_eq!(nanoseconds_text(12_340.0), "12.3 us");
        assert_eq!(size_text(16 * 1024), "16 KiB");
    }

    #[test]
    fn command_lines_split_as_in_a_shell() {
        let words = split_command_line("a 'b c' \"d\\\"e\" f\\ g ''").unwrap();
        assert_eq!(words, ["a", "b c", "d\"e", "f g", ""]);
        assert!(split_command_line("a 'b").is_err());
        assert!(split_command_line("  ").is_err());
    }
}
