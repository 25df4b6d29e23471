//! The window of a list that a request asks for.

use super::query::Query;

/// Number of entries if the request gives no limit.
pub(crate) const LIST_LIMIT_DEFAULT: usize = 1024;

/// Parses `offset` and `limit`; negative or 0 means the default.
pub(crate) fn parse_window(query: &Query) -> Result<(usize, usize), String> {
    Ok(window(query.integer("offset")?, query.integer("limit")?))
}

/// Converts offset and limit in the same way.
pub(super) fn window(offset: i64, limit: i64) -> (usize, usize) {
    let offset = usize::try_from(offset).unwrap_or(0);
    let limit = match usize::try_from(limit) {
        Ok(0) | Err(_) => LIST_LIMIT_DEFAULT,
        Ok(limit) => limit,
    };
    (offset, limit)
}
