//! The number of messages that went from one shard of a server to another, by the server's own
//! count.
//!
//! Midge reports it in `/varz`. A server that does not, or whose monitoring port is not known, has
//! no such figure.

use crate::findings::result::{Better, RunResult};
use crate::wire::http;
use serde_json::Value;

pub const CROSSED_FIGURE: &str = "crossed_shards_share";
pub const WAKES_FIGURE: &str = "wakes_between_shards_per_message";

/// Sums over all shards since the server started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardTraffic {
    /// Messages that clients published.
    published: u64,
    /// Copies that one shard passed to another.
    crossed: u64,
    /// Times that one shard woke another's thread.
    wakes: u64,
}

impl ShardTraffic {
    /// Reads the sums; `None` if the server does not report them.
    pub fn read(monitor_port: Option<u16>) -> Option<ShardTraffic> {
        ShardTraffic::of_varz(&http::get(monitor_port?, "/varz").ok()?)
    }

    fn of_varz(body: &[u8]) -> Option<ShardTraffic> {
        let varz: Value = serde_json::from_slice(body).ok()?;
        let mut sums = ShardTraffic::default();
        for shard in varz["midge"]["shards"].as_array()? {
            sums.published += shard["in_msgs"].as_u64()?;
            sums.crossed += shard["lanes"]["messages_in"].as_u64()?;
            sums.wakes += shard["lanes"]["wakes"].as_u64()?;
        }
        Some(sums)
    }

    /// Records what a run added. A message wanted by several other shards crosses to each of them,
    /// so the share may exceed the whole.
    pub fn report_since(&self, before: &ShardTraffic, result: &mut RunResult) {
        let published = self.published.saturating_sub(before.published);
        if published == 0 {
            return;
        }
        let share = |now: u64, then: u64| now.saturating_sub(then) as f64 / published as f64;
        let crossed = share(self.crossed, before.crossed);
        result.figure(CROSSED_FIGURE, crossed, "", Better::Neither);
        let wakes = share(self.wakes, before.wakes);
        result.figure(WAKES_FIGURE, wakes, "wakes", Better::Neither);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VARZ: &[u8] = br#"{"in_msgs": 9, "midge": {"shards": [
        {"in_msgs": 6, "lanes": {"messages_in": 1, "wakes": 2}},
        {"in_msgs": 4, "lanes": {"messages_in": 3, "wakes": 0}}]}}"#;

    #[test]
    fn shares_are_of_what_the_run_added() {
        let after = ShardTraffic::of_varz(VARZ).unwrap();
        assert_eq!(after, ShardTraffic { published: 10, crossed: 4, wakes: 2 });
        let before = ShardTraffic { published: 2, crossed: 2, wakes: 2 };
        let mut result = RunResult::new("throughput", "x");
        after.report_since(&before, &mut result);
        assert_eq!(result.value("crossed_shards_share"), Some(0.25));
        assert_eq!(result.value("wakes_between_shards_per_message"), Some(0.0));
    }

    #[test]
    fn a_server_that_reports_nothing_has_no_figure() {
        assert_eq!(ShardTraffic::of_varz(br#"{"in_msgs": 9}"#), None);
        assert_eq!(ShardTraffic::of_varz(b"nothing"), None);
        assert_eq!(ShardTraffic::read(None), None);
        let mut result = RunResult::new("idle", "x");
        ShardTraffic::default().report_since(&ShardTraffic::default(), &mut result);
        assert!(result.figures.is_empty());
    }
}
