//! Names of a lane's numbered files: the prefix of their kind and sixteen digits, so that they sort
//! by number.

/// The largest number that a start goes on from. Numbers count up, and no store gets near it. The
/// rest of the numbers that sixteen digits hold is more than any store will use.
pub(super) const NUMBER_MAX: u64 = 999_999_999_999_999;

/// The largest number that a name holds.
pub(super) const NUMBER_HELD_MAX: u64 = 9_999_999_999_999_999;

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
