//! Latency histograms: recorded in nanoseconds, stored whole (so that runs merge exactly) and as a
//! curve.

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

/// Longer latencies are recorded as this: a minute means that the server hung.
pub const LATENCY_NS_MAX: u64 = 60_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// The percentiles in every table, from the median to the maximum. Never only an average.
pub const PERCENTILES: [(&str, f64); 7] = [
    ("p50", 50.0),
    ("p90", 90.0),
    ("p99", 99.0),
    ("p99.9", 99.9),
    ("p99.99", 99.99),
    ("p99.999", 99.999),
    ("max", 100.0),
];

/// Returns an empty histogram of nanoseconds.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS)
        .expect("one to a minute with three digits is a valid range")
}

/// A histogram in a result file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Curve {
    pub count: u64,
    /// Percentile and nanoseconds, one per step of the curve.
    pub points: Vec<(f64, u64)>,
    /// The whole histogram: HdrHistogram V2, compressed, base64.
    pub histogram: String,
}

impl Curve {
    pub fn of(histogram: &Histogram<u64>) -> Curve {
        let mut bytes = Vec::new();
        let written = V2DeflateSerializer::new().serialize(histogram, &mut bytes);
        written.expect("writing to memory does not fail");
        Curve {
            count: histogram.len(),
            points: curve_points(histogram),
            histogram: data_encoding::BASE64.encode(&bytes),
        }
    }

    /// Restores the histogram from its text.
    ///
    /// # Errors
    /// If the file was damaged.
    pub fn decode(&self) -> Result<Histogram<u64>, crate::Failure> {
        let bytes = data_encoding::BASE64
            .decode(self.histogram.as_bytes())
            .map_err(|error| crate::Failure::new(format!("a histogram is damaged: {error}")))?;
        Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .map_err(|error| crate::Failure::new(format!("a histogram is damaged: {error}")))
    }

    pub fn at(&self, name: &str) -> Option<u64> {
        let wanted = PERCENTILES.iter().find(|(known, _)| *known == name)?.1;
        self.points.iter().find(|(percentile, _)| *percentile >= wanted).map(|(_, value)| *value)
    }
}

/// Returns percentiles on a scale whose resolution doubles each time the distance to 100 % halves,
/// including the named ones.
fn curve_points(histogram: &Histogram<u64>) -> Vec<(f64, u64)> {
    if histogram.is_empty() {
        return Vec::new();
    }
    let mut percentiles: Vec<f64> = PERCENTILES.iter().map(|(_, percentile)| *percentile).collect();
    let mut distance = 100.0f64;
    while distance > 100.0 / histogram.len() as f64 && distance > 1e-4 {
        percentiles.extend((0..5).map(|step| 100.0 - distance * (1.0 - f64::from(step) / 10.0)));
        distance /= 2.0;
    }
    percentiles.sort_by(f64::total_cmp);
    percentiles.dedup();
    let value = |percentile| histogram.value_at_quantile(percentile / 100.0);
    percentiles.into_iter().map(|percentile| (percentile, value(percentile))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_keeps_the_histogram_and_the_named_percentiles() {
        let mut histogram = new_histogram();
        for value in 1..=100_000u64 {
            histogram.saturating_record(value * 1000);
        }
        let curve = Curve::of(&histogram);
        assert_eq!(curve.count, 100_000);
        assert!(curve.decode().unwrap() == histogram);
        assert!(histogram.equivalent(curve.at("p50").unwrap(), 50_000_000));
        assert!(histogram.equivalent(curve.at("p99.99").unwrap(), 99_990_000));
        assert!(histogram.equivalent(curve.at("max").unwrap(), 100_000_000));
        assert!(curve.points.is_sorted());
    }

    #[test]
    fn an_empty_histogram_has_no_points() {
        assert!(Curve::of(&new_histogram()).points.is_empty());
    }
}
