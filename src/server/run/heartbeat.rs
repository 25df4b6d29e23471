//! Signs of life for the service manager's watchdog: only while every shard responds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::server::answers::gather::Gatherer;
use crate::server::host::notify::Notify;
use crate::shard::{ShardHandle, ShardOrder};

/// Time to wait if there is no watchdog.
const UNWATCHED: Duration = Duration::from_secs(3600);

/// Sends the signs of life.
pub(crate) struct Heartbeat {
    pub notify: Notify,
    shards: Gatherer,
    due: Instant,
}

impl Heartbeat {
    pub(crate) fn new(notify: Notify, shards: Vec<ShardHandle>) -> Self {
        Self { notify, shards: Gatherer::new(shards, Arc::default()), due: Instant::now() }
    }

    /// Sends a sign of life when one is due; returns the time until the next one.
    pub(crate) fn beat(&mut self, now: Instant) -> Duration {
        let Some(interval) = self.notify.watchdog_interval() else { return UNWATCHED };
        if now >= self.due {
            let late_shards = self.shards.all(ShardOrder::Alive).late_shards;
            match late_shards.is_empty() {
                true => self.notify.alive(),
                false => tracing::error!("shards do not answer: {late_shards:?}"),
            }
            self.due = now + interval;
        }
        self.due.saturating_duration_since(now)
    }
}
