//! The rate limit of a push consumer: a bucket of bytes that fills with time. A message larger than
//! the bucket passes at once when the bucket is full, and what it owes delays the next ones.

/// A bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateLimit {
    bytes_per_second: f64,
    burst_bytes: f64,
    /// Bytes in the bucket as of `filled_ns`; below zero what was taken in advance.
    bytes: f64,
    filled_ns: i64,
}

impl RateLimit {
    pub(crate) fn new(bytes_per_second: f64, burst_bytes: usize, now_ns: i64) -> Self {
        let burst_bytes = burst_bytes.max(1) as f64;
        Self { bytes_per_second, burst_bytes, bytes: burst_bytes, filled_ns: now_ns }
    }

    fn fill(&mut self, now_ns: i64) {
        let seconds = (now_ns - self.filled_ns).max(0) as f64 / 1e9;
        self.bytes = (self.bytes + seconds * self.bytes_per_second).min(self.burst_bytes);
        self.filled_ns = self.filled_ns.max(now_ns);
    }

    /// The time at which a message of this size may go; `None` = now.
    pub(crate) fn wait_until(&mut self, size: usize, now_ns: i64) -> Option<i64> {
        self.fill(now_ns);
        let missing = (size as f64).min(self.burst_bytes) - self.bytes;
        // A rounded wait must not end before the bytes are there.
        (missing > 1e-6)
            .then(|| now_ns.saturating_add((missing / self.bytes_per_second * 1e9).ceil() as i64))
    }

    pub(crate) fn take(&mut self, size: usize) {
        self.bytes -= size as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_burst_messages_go_at_the_rate() {
        let mut rate = RateLimit::new(1000.0, 1200, 0);
        assert_eq!(rate.wait_until(1000, 0), None);
        rate.take(1000);
        assert_eq!(rate.wait_until(1000, 0), Some(800_000_000));
        assert_eq!(rate.wait_until(1000, 500_000_000), Some(800_000_000));
        assert_eq!(rate.wait_until(1000, 800_000_000), None);
        rate.take(1000);
        // A message larger than the bucket waits for a full one, and the next for what it owes.
        assert_eq!(rate.wait_until(3000, 800_000_000), Some(2_000_000_000));
        rate.fill(2_000_000_000);
        rate.take(3000);
        assert_eq!(rate.wait_until(200, 2_000_000_000), Some(4_000_000_000));
    }
}
