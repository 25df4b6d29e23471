//! Meanings of a configuration file's literals: numbers with units, times, and paths of includes.

use std::path::{Component, Path, PathBuf};

/// Returns the path of an included file: always below the directory of the including one, even if
/// it begins with `/`.
pub(super) fn included_path(including: &Path, name: &Path) -> PathBuf {
    let directory = including.parent().unwrap_or_else(|| Path::new(""));
    let relative: PathBuf =
        name.components().filter(|part| !matches!(part, Component::RootDir)).collect();
    let mut path = PathBuf::new();
    for part in directory.join(relative).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => match path.components().next_back() {
                Some(Component::Normal(_)) => {
                    path.pop();
                }
                Some(Component::RootDir) => {}
                _ => path.push(".."),
            },
            other => path.push(other),
        }
    }
    if path.as_os_str().is_empty() { PathBuf::from(".") } else { path }
}

/// Parses an integer with a unit; None if the unit does not exist.
pub(super) fn integer(text: &[u8]) -> Result<Option<i64>, String> {
    let text = String::from_utf8_lossy(text);
    let digits_end =
        text.find(|digit: char| !digit.is_ascii_digit() && digit != '-').unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let number: i64 =
        digits.parse().map_err(|_| format!("integer '{text}' is out of the range"))?;
    let scale = match unit.to_ascii_lowercase().as_str() {
        "" => 1,
        "k" => 1000,
        "m" => 1000_i64.pow(2),
        "g" => 1000_i64.pow(3),
        "t" => 1000_i64.pow(4),
        "p" => 1000_i64.pow(5),
        "e" => 1000_i64.pow(6),
        "kb" | "ki" | "kib" => 1 << 10,
        "mb" | "mi" | "mib" => 1 << 20,
        "gb" | "gi" | "gib" => 1 << 30,
        "tb" | "ti" | "tib" => 1 << 40,
        "pb" | "pi" | "pib" => 1 << 50,
        "eb" | "ei" | "eib" => 1 << 60,
        _ => return Ok(None),
    };
    // nats-server wraps around as well.
    Ok(Some(number.wrapping_mul(scale)))
}

pub(super) fn float(text: &[u8]) -> Result<f64, String> {
    let text = String::from_utf8_lossy(text);
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        Ok(_) => Err(format!("float '{text}' is out of the range")),
        Err(_) => Err(format!("expected float, but got '{text}'")),
    }
}

/// Parses a time. The scanner has seen digits in the right places; here they are checked against
/// the calendar.
pub(super) fn time(text: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(text).into_owned();
    let part = |range: std::ops::Range<usize>| -> u32 {
        text.get(range).and_then(|digits| digits.parse().ok()).unwrap_or(0)
    };
    let (year, month, day) = (part(0..4), part(5..7), part(8..10));
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if is_leap => 29,
        2 => 28,
        _ => 0,
    };
    let is_real = (1..=days).contains(&day) && part(11..13) < 24 && part(14..16) < 60;
    if is_real && part(17..19) < 60 {
        Ok(text)
    } else {
        Err(format!("expected Zulu formatted DateTime, but got '{text}'"))
    }
}
