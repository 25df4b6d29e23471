//! The time zone of this host.

use tz::TimeZone;

/// Reads the local time zone: `TZ`, else the system's, else UTC.
pub(crate) fn local() -> TimeZone {
    let named = std::env::var("TZ").ok().and_then(|name| TimeZone::from_posix_tz(&name).ok());
    named.or_else(|| TimeZone::local().ok()).unwrap_or_else(TimeZone::utc)
}
