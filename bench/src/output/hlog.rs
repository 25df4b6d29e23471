//! HdrHistogram V2 interval logs: one file per workload, server and histogram, one interval per
//! run, so that any tool that reads `.hlog` can merge them or draw them over time.

use crate::Failure;
use crate::findings::result::RunResult;
use crate::output::document::Document;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;
use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

/// The log's own maximum column is in milliseconds.
const NS_PER_MS: f64 = 1e6;

/// Returns file name and content of every log of the document.
///
/// # Errors
/// If a stored histogram is damaged.
pub fn logs(document: &Document) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let mut groups: BTreeMap<String, Vec<(&RunResult, &str)>> = BTreeMap::new();
    for run in document.runs.iter().filter(|run| run.valid) {
        for curve in run.curves.keys() {
            let name = format!("{}.{}.{}.hlog", slug(&run.workload), slug(&run.side), slug(curve));
            groups.entry(name.replace("..", ".")).or_default().push((run, curve));
        }
    }
    groups.into_iter().map(|(name, runs)| Ok((name, log(&runs)?))).collect()
}

fn log(runs: &[(&RunResult, &str)]) -> Result<Vec<u8>, Failure> {
    let begin_ms = runs.iter().map(|(run, _)| run.started_unix_ms).min().unwrap_or(0);
    let begin = UNIX_EPOCH + Duration::from_millis(begin_ms);
    let mut bytes = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut writer = IntervalLogWriterBuilder::new()
        .add_comment("[midge-bench; values in nanoseconds, maximum column in milliseconds]")
        .with_start_time(begin)
        .with_base_time(begin)
        .with_max_value_divisor(NS_PER_MS)
        .begin_log_with(&mut bytes, &mut serializer)?;
    for (run, curve) in runs {
        let since = Duration::from_millis(run.started_unix_ms - begin_ms);
        let length = Duration::from_secs_f64(run.seconds.max(0.0));
        let histogram = run.curves[*curve].decode()?;
        writer
            .write_histogram(&histogram, since, length, None)
            .map_err(|error| Failure::new(format!("cannot write a histogram log: {error:?}")))?;
    }
    Ok(bytes)
}

/// Reduces a text to letters, digits and dashes.
pub fn slug(text: &str) -> String {
    let mut slug = String::new();
    for character in text.chars() {
        match character.to_ascii_lowercase() {
            character if character.is_ascii_alphanumeric() => slug.push(character),
            _ if slug.ends_with('-') || slug.is_empty() => {}
            _ => slug.push('-'),
        }
    }
    slug.trim_end_matches('-').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::percentiles::{Curve, new_histogram};
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    #[test]
    fn a_log_holds_one_interval_per_run_and_they_merge() {
        let mut document = Document::default();
        let mut whole = new_histogram();
        for round in 0..3u64 {
            let mut histogram = new_histogram();
            for value in 1..100u64 {
                histogram.saturating_record(value * 1000 * (round + 1));
            }
            whole += &histogram;
            let mut run = RunResult::new("latency", "1x1 128 B at 10k/s");
            run.side = "A".to_string();
            run.seconds = 1.5;
            run.curves.insert("latency".to_string(), Curve::of(&histogram));
            document.runs.push(run);
        }
        let logs = logs(&document).unwrap();
        assert_eq!(logs.len(), 1);
        assert_eq!(logs[0].0, "latency-1x1-128-b-at-10k-s.a.latency.hlog");
        let mut merged = new_histogram();
        let mut count = 0;
        for entry in IntervalLogIterator::new(&logs[0].1) {
            if let LogEntry::Interval(interval) = entry.unwrap() {
                let bytes =
                    data_encoding::BASE64.decode(interval.encoded_histogram().as_bytes()).unwrap();
                let histogram: hdrhistogram::Histogram<u64> =
                    Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
                merged += histogram;
                assert_eq!(interval.duration(), Duration::from_millis(1500));
                count += 1;
            }
        }
        assert_eq!(count, 3);
        assert!(merged == whole);
    }
}
