//! Hours of the day in which a user may be connected.
//!
//! Source of the behaviour: nats-server server/jwt.go validateTimesAt. Both bounds are exclusive,
//! and a range may cross midnight.

use tz::{TimeZone, TimeZoneRef, UtcDateTime};

use super::claims::TimeRange;

/// The name of the server's own time zone.
const LOCAL: &str = "Local";

const DAY: i64 = 24 * 60 * 60;

/// Returns the seconds since midnight of `15:04:05`; None if it is none.
pub(super) fn parse_time(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let mut part = |max: i64, digits: std::ops::RangeInclusive<usize>| {
        let part = parts.next()?;
        let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
        let number: i64 = part.parse().ok()?;
        (is_number && digits.contains(&part.len()) && number <= max).then_some(number)
    };
    // Go takes an hour of one digit, too.
    let time = part(23, 1..=2)? * 3600 + part(59, 2..=2)? * 60 + part(59, 2..=2)?;
    parts.next().is_none().then_some(time)
}

/// Returns true if there is a time zone of this name.
pub(super) fn is_zone(name: &str) -> bool {
    name == LOCAL || named_zone(name).is_some()
}

fn named_zone(name: &str) -> Option<&'static TimeZoneRef<'static>> {
    tzdb_data::find_tz(name.as_bytes())
}

/// Returns how many seconds from `now` (seconds since 1970) on a user may stay; None if it may not
/// be connected now. Without ranges there is no end: `i64::MAX`.
pub(crate) fn allowed_for(
    ranges: &[TimeRange],
    zone_name: &str,
    local: &TimeZone,
    now: i64,
) -> Option<i64> {
    if ranges.is_empty() {
        return Some(i64::MAX);
    }
    let zone = match zone_name {
        "" | LOCAL => local.as_ref(),
        name => *named_zone(name)?,
    };
    let since_midnight = seconds_of_day(zone, now)?;
    let mut longest = None;
    for range in ranges {
        let (start, end) = (parse_time(&range.start)?, parse_time(&range.end)?);
        longest = longest.max(left(start, end, since_midnight));
    }
    longest
}

fn seconds_of_day(zone: TimeZoneRef<'_>, now: i64) -> Option<i64> {
    let utc = UtcDateTime::from_timespec(now, 0).ok()?;
    let local = utc.project(zone).ok()?;
    Some(
        i64::from(local.hour()) * 3600
            + i64::from(local.minute()) * 60
            + i64::from(local.second()).min(59),
    )
}

/// Returns the seconds until the end of a range; None outside of it.
fn left(start: i64, end: i64, now: i64) -> Option<i64> {
    if start < now && now < end {
        return Some(end - now);
    }
    if start <= end {
        return None;
    }
    // It crosses midnight.
    if now < end {
        return Some(end - now);
    }
    (start < now).then_some(end + DAY - now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &str, end: &str) -> TimeRange {
        TimeRange { start: start.into(), end: end.into() }
    }

    /// 2024-07-01 10:00:00 UTC, in summer.
    const TEN: i64 = 1_719_828_000;

    #[test]
    fn bounds_are_exclusive_and_ranges_cross_midnight() {
        for (start, end, hour, expected) in [
            (10, 12, 10, None),
            (10, 12, 11, Some(3600)),
            (10, 12, 12, None),
            (22, 6, 23, Some(7 * 3600)),
            (22, 6, 5, Some(3600)),
            (22, 6, 6, None),
            (22, 6, 22, None),
            (10, 10, 10, None),
        ] {
            let found = left(start * 3600, end * 3600, hour * 3600);
            assert_eq!(found, expected, "{start}-{end} at {hour}");
        }
    }

    #[test]
    fn the_longest_of_several_ranges_counts_in_the_named_zone() {
        let utc = TimeZone::utc();
        let allowed = |ranges: &[TimeRange], zone: &str| allowed_for(ranges, zone, &utc, TEN);
        assert_eq!(allowed(&[], ""), Some(i64::MAX));
        let ranges = [range("09:00:00", "10:30:00"), range("09:30:00", "11:00:00")];
        assert_eq!(allowed(&ranges, ""), Some(3600));
        // There it is noon.
        assert_eq!(allowed(&ranges, "Europe/Berlin"), None);
        assert_eq!(allowed(&[range("11:00:00", "12:00:01")], "Europe/Berlin"), Some(1));
        assert_eq!(allowed(&ranges, "Nowhere/Land"), None);
        assert!(is_zone("America/New_York") && !is_zone("Nowhere/Land"));
    }

    #[test]
    fn only_times_of_the_day_are_read() {
        assert_eq!(parse_time("23:59:59"), Some(86_399));
        assert_eq!(parse_time("9:00:00"), Some(32_400));
        for bad in ["", "24:00:00", "10:00", "10:60:00", "+1:00:00", "10:0:00", "1:00:00:00"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }
}
