//! Formats times as in nats-server's JSON.

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
}
