//! A consumer's configuration, as its machine takes it.

use super::consumer::rules::{PushRules, Rules};
use super::consumer_checks::sample_percent;
use super::consumer_config::{ConsumerConfig, ReplayPolicy};
use super::stream_config::{Retention, StreamConfig};

const BITS_PER_BYTE: f64 = 8.0;

/// The rules of a consumer of a stream. `payload_bytes_max` is the server's limit.
pub(super) fn rules_of(
    config: &ConsumerConfig,
    stream: &StreamConfig,
    payload_bytes_max: usize,
) -> Rules {
    let burst_bytes = match usize::try_from(stream.message_size_max) {
        Ok(bytes) if bytes > 0 => bytes,
        _ => payload_bytes_max,
    };
    let push = config.is_push().then(|| PushRules {
        deliver_subject: config.deliver_subject.as_bytes().into(),
        heartbeat_ns: config.heartbeat_ns,
        has_flow_control: config.flow_control,
        bytes_per_second: config.rate_limit_bits as f64 / BITS_PER_BYTE,
        burst_bytes,
    });
    let sample = sample_percent(&config.sample_frequency).ok().flatten().unwrap_or(0);
    Rules {
        ack_policy: config.ack_policy,
        ack_wait_ns: config.ack_wait_ns,
        backoff_ns: config.backoff_ns.clone(),
        deliveries_max: u64::try_from(config.deliveries_max).unwrap_or(0),
        pending_acks_max: usize::try_from(config.ack_pending_max).unwrap_or(0),
        waiting_max: usize::try_from(config.waiting_max).unwrap_or(0),
        batch_max: config.request_batch_max,
        expires_max_ns: config.request_expires_ns_max,
        request_bytes_max: config.request_bytes_max,
        headers_only: config.headers_only,
        replays_original: config.replay_policy == ReplayPolicy::Original,
        push,
        priority: config.priority_policy,
        groups: config.priority_groups.iter().map(|group| group.as_bytes().into()).collect(),
        pin_ns: config.pinned_ttl_ns,
        sample_percent: sample.min(100) as u8,
        inactive_ns: config.inactive_threshold_ns,
        tells_done: stream.retention != Retention::Limits,
    }
}
