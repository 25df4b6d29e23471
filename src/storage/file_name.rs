//! Names of a lane's numbered files: the prefix of their kind and sixteen digits, so that they sort by number.

/// Returns the name within the lane's folder.
pub(super) fn of(prefix: &str, number: u64) -> String {
    format!("{prefix}{number:016}")
}

/// Returns the number in a name that `of` made with this prefix.
pub(super) fn number(prefix: &str, name: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?;
    let is_plain = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_plain)
}
