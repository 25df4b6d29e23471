//! Formats times as in nats-server's JSON, and as in HTTP.

use std::time::SystemTime;

use tz::UtcDateTime;

/// Formats as RFC 3339 in UTC, without trailing zeros in the fraction of a second.
pub(crate) fn timestamp(time: SystemTime) -> String {
    let Ok(t) = UtcDateTime::try_from(time) else { return "0001-01-01T00:00:00Z".into() };
    let mut text = format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
        t.year(),
        t.month(),
        t.month_day(),
        t.hour(),
        t.minute(),
        t.second()
    );
    if t.nanoseconds() > 0 {
        text.push_str(format!(".{:09}", t.nanoseconds()).trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// Formats as in HTTP's `Date` header.
pub(crate) fn http_date(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let t = UtcDateTime::try_from(time).unwrap_or(UtcDateTime::UNIX_EPOCH);
    let day = DAYS[usize::from(t.week_day()) % 7];
    let month = MONTHS[usize::from(t.month() - 1) % 12];
    let (d, y) = (t.month_day(), t.year());
    format!("{day}, {d:02} {month} {y:04} {:02}:{:02}:{:02} GMT", t.hour(), t.minute(), t.second())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timestamps_are_rfc3339_with_a_short_fraction() {
        let at = |seconds, nanos| SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
        assert_eq!(timestamp(at(0, 0)), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(at(951_826_154, 500_000_000)), "2000-02-29T12:09:14.5Z");
        assert_eq!(timestamp(at(1_795_413_226, 606_147_228)), "2026-11-23T05:53:46.606147228Z");
        assert_eq!(timestamp(at(1, 10)), "1970-01-01T00:00:01.00000001Z");
    }

    #[test]
    fn http_dates_name_day_and_month() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(http_date(at), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
