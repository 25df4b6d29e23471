//! The part of a list that a request asks for.

use super::query::Query;

/// Entries of a list when nobody says how many.
pub(crate) const LIST_LIMIT_DEFAULT: usize = 1024;

/// `offset` and `limit`; what is negative or 0 means the default.
pub(crate) fn parse_window(query: &Query) -> Result<(usize, usize), String> {
    Ok(window(query.integer("offset")?, query.integer("limit")?))
}

/// The same of two numbers.
pub(super) fn window(offset: i64, limit: i64) -> (usize, usize) {
    let offset = usize::try_from(offset).unwrap_or(0);
    let limit = match usize::try_from(limit) {
        Ok(0) | Err(_) => LIST_LIMIT_DEFAULT,
        Ok(limit) => limit,
    };
    (offset, limit)
}
