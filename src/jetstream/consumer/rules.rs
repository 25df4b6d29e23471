//! The part of a consumer's configuration that decides about deliveries, in the units of the
//! machine.

pub(crate) use crate::jetstream::consumer_config::{AckPolicy, PriorityPolicy};

/// A push consumer's settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PushRules {
    pub deliver_subject: Box<[u8]>,
    /// Nanoseconds; 0 = none.
    pub heartbeat_ns: i64,
    pub has_flow_control: bool,
    /// Bytes per second; 0 = no limit.
    pub bytes_per_second: f64,
    /// Bytes that may be delivered at once under that limit.
    pub burst_bytes: usize,
}

/// The settings of a consumer. Times are nanoseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rules {
    pub ack_policy: AckPolicy,
    /// 0 = a message is not delivered again because of time.
    pub ack_wait_ns: i64,
    /// The wait after each delivery, instead of `ack_wait_ns`; the last holds for all further ones.
    pub backoff_ns: Vec<i64>,
    /// 0 = no limit.
    pub deliveries_max: u64,
    /// 0 = no limit.
    pub pending_acks_max: usize,
    /// Pull requests that wait.
    pub waiting_max: usize,
    /// Limits of a pull request; 0 = none.
    pub batch_max: i64,
    pub expires_max_ns: i64,
    pub request_bytes_max: i64,
    pub headers_only: bool,
    /// Messages come in the rhythm in which they were stored.
    pub replays_original: bool,
    /// `None`: a pull consumer.
    pub push: Option<PushRules>,
    pub priority: PriorityPolicy,
    pub groups: Vec<Box<[u8]>>,
    pub pin_ns: i64,
    /// Percent of the acknowledgements that are reported.
    pub sample_percent: u8,
    /// The time without a client after which it ends; 0 = never.
    pub inactive_ns: i64,
    /// The stream removes messages that were acknowledged.
    pub tells_done: bool,
}

impl Rules {
    /// The wait for an acknowledgement of a message that was delivered again this often; `None` = for
    /// ever.
    pub(crate) fn wait_ns(&self, redelivery_count: u64) -> Option<i64> {
        let wait_ns = match self.backoff_ns.len().checked_sub(1) {
            None => self.ack_wait_ns,
            Some(last) => self.backoff_ns[last.min(redelivery_count as usize)],
        };
        (wait_ns > 0).then_some(wait_ns)
    }

    pub(crate) fn needs_acks(&self) -> bool {
        self.ack_policy != AckPolicy::None
    }
}
