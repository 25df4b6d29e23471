//! Formats numbers and times as Go does.

use std::time::Duration;

pub(crate) use crate::base::time_text::{http_date, timestamp};

/// Formats as `1y2d3h4m5s`, without leading units that are zero.
pub(crate) fn uptime(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    let (s, m, h, d) = (seconds % 60, minutes % 60, hours % 24, days % 365);
    match (years, days, hours, minutes) {
        (1.., ..) => format!("{years}y{d}d{h}h{m}m{s}s"),
        (_, 1.., ..) => format!("{d}d{h}h{m}m{s}s"),
        (_, _, 1.., _) => format!("{h}h{m}m{s}s"),
        (_, _, _, 1..) => format!("{m}m{s}s"),
        _ => format!("{s}s"),
    }
}

/// Formats a duration like Go's `Duration.String`: `703µs`, `201.674289ms`, `1m1.5s`, `0s`.
pub(crate) fn go_duration(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    if nanoseconds == 0 {
        return "0s".into();
    }
    if nanoseconds < 1_000 {
        return format!("{nanoseconds}ns");
    }
    if nanoseconds < 1_000_000 {
        return format!("{}µs", decimal(nanoseconds, 3));
    }
    if nanoseconds < 1_000_000_000 {
        return format!("{}ms", decimal(nanoseconds, 6));
    }
    let minutes = nanoseconds / 60_000_000_000;
    let seconds = decimal(nanoseconds % 60_000_000_000, 9);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// Formats a round-trip time as in `/connz`: whole microseconds below a millisecond.
pub(crate) fn round_trip(rtt: Duration) -> String {
    let nanoseconds = rtt.subsec_nanos();
    if rtt > Duration::from_micros(1) && rtt < Duration::from_millis(1) {
        return go_duration(Duration::from_micros(u64::from(nanoseconds / 1_000)));
    }
    go_duration(rtt)
}

/// Formats `value` divided by ten to the `digits`, without trailing zeros.
fn decimal(value: u128, digits: u32) -> String {
    let unit = 10u128.pow(digits);
    let fraction = format!("{:0width$}", value % unit, width = digits as usize);
    let fraction = fraction.trim_end_matches('0');
    match fraction.is_empty() {
        true => (value / unit).to_string(),
        false => format!("{}.{fraction}", value / unit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_leaves_out_leading_zero_units() {
        let cases = [
            (0, "0s"),
            (59, "59s"),
            (60, "1m0s"),
            (3_600, "1h0m0s"),
            (86_400, "1d0h0m0s"),
            (365 * 86_400 - 1, "364d23h59m59s"),
            (366 * 86_400 + 3_661, "1y1d1h1m1s"),
            (730 * 86_400, "2y0d0h0m0s"),
        ];
        for (seconds, text) in cases {
            assert_eq!(uptime(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn durations_are_as_go_prints_them() {
        let cases = [
            (0, "0s"),
            (1, "1ns"),
            (1_000, "1µs"),
            (1_500, "1.5µs"),
            (201_674_289, "201.674289ms"),
            (1_000_000_000, "1s"),
            (61_500_000_000, "1m1.5s"),
            (3_600_000_000_000, "1h0m0s"),
        ];
        for (nanoseconds, text) in cases {
            assert_eq!(go_duration(Duration::from_nanos(nanoseconds)), text);
        }
        assert_eq!(round_trip(Duration::from_nanos(703_999)), "703µs");
        assert_eq!(round_trip(Duration::from_nanos(1_703_999)), "1.703999ms");
        assert_eq!(round_trip(Duration::from_nanos(999)), "999ns");
    }
}
