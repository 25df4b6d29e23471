//! Names of streams, subjects and consumers of a run, and the requests that make them.

use crate::jetstream::work::{AckPolicy, JetStreamPlan, Storage};
use serde_json::{Value, json};

/// Seconds after which an unacknowledged message is delivered again: far longer than a run, so that
/// only a fault makes it happen.
const ACK_WAIT_S: u64 = 600;
/// Seconds after which the server removes an ordered consumer that nobody uses any more.
const INACTIVE_S: u64 = 300;
const HEARTBEAT_S: u64 = 5;
const SECOND_NS: u64 = 1_000_000_000;

/// The shared consumer of a stream.
pub const CONSUMER: &str = "readers";

/// The names of one run, all with the same tag.
#[derive(Clone, Debug)]
pub struct StreamLayout {
    tag: String,
    key_value: bool,
    storage: Storage,
    pub stream_count: usize,
    subject_count: usize,
}

impl StreamLayout {
    /// Letters and digits, new for each run, so that streams an earlier run left behind do no harm.
    pub fn new(plan: &JetStreamPlan) -> StreamLayout {
        StreamLayout {
            tag: std::iter::repeat_with(fastrand::alphanumeric).take(8).collect(),
            key_value: plan.work.is_key_value(),
            storage: plan.storage,
            stream_count: plan.stream_count,
            subject_count: plan.subject_count,
        }
    }

    pub fn stream(&self, index: usize) -> String {
        let prefix = if self.key_value { "KV_" } else { "" };
        format!("{prefix}bench_{}_{index}", self.tag)
    }

    fn subject_prefix(&self, index: usize) -> String {
        match self.key_value {
            true => format!("$KV.bench_{}_{index}", self.tag),
            false => format!("bench.{}.{index}", self.tag),
        }
    }

    /// Returns the subjects of a stream, or of a bucket's keys.
    pub fn subjects(&self, index: usize) -> Vec<String> {
        let prefix = self.subject_prefix(index);
        (0..self.subject_count).map(|subject| format!("{prefix}.k{subject}")).collect()
    }

    /// Returns the inbox prefix of a client; its replies have one more token.
    pub fn inbox(&self, client: &str) -> String {
        format!("_INBOX.bench.{}.{client}", self.tag)
    }

    /// Returns the streams of a client when `client_count` of them share them out.
    pub fn streams_of(&self, client: usize, client_count: usize) -> Vec<usize> {
        if client_count >= self.stream_count {
            return vec![client % self.stream_count];
        }
        (client..self.stream_count).step_by(client_count).collect()
    }

    /// Returns the configuration of a stream: for a bucket the one that client libraries give it.
    pub fn stream_config(&self, index: usize) -> Value {
        let storage = match self.storage {
            Storage::File => "file",
            Storage::Memory => "memory",
        };
        let mut config = json!({
            "name": self.stream(index),
            "subjects": [format!("{}.>", self.subject_prefix(index))],
            "retention": "limits",
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": 0,
            "max_msg_size": -1,
            "storage": storage,
            "num_replicas": 1,
            "discard": "old",
            "allow_direct": true,
        });
        if self.key_value {
            config["max_msgs_per_subject"] = 1.into();
            config["discard"] = "new".into();
            config["allow_rollup_hdrs"] = true.into();
            config["deny_delete"] = true.into();
        }
        config
    }

    /// Returns the subject of the last value of a stored subject.
    pub fn direct_get_subject(&self, index: usize, subject: &str) -> String {
        format!("$JS.API.DIRECT.GET.{}.{subject}", self.stream(index))
    }
}

/// The body of a request that creates a consumer.
fn consumer_request(stream: &str, config: Value) -> Value {
    json!({ "stream_name": stream, "config": config, "action": "create" })
}

/// A pull consumer that several clients share.
pub fn pull_consumer(stream: &str, plan: &JetStreamPlan) -> Value {
    let mut config = json!({
        "name": CONSUMER,
        "durable_name": CONSUMER,
        "deliver_policy": "all",
        "replay_policy": "instant",
    });
    add_acks(&mut config, plan);
    consumer_request(stream, config)
}

/// A push consumer whose deliveries a queue group shares.
pub fn push_consumer(stream: &str, subject: &str, plan: &JetStreamPlan) -> Value {
    let mut config = json!({
        "name": CONSUMER,
        "durable_name": CONSUMER,
        "deliver_policy": "all",
        "replay_policy": "instant",
        "deliver_subject": subject,
        "flow_control": true,
        "idle_heartbeat": HEARTBEAT_S * SECOND_NS,
    });
    if plan.client_count > 1 {
        // A queue group can have neither flow control nor heartbeats.
        config["deliver_group"] = "group".into();
        config["flow_control"] = false.into();
        config["idle_heartbeat"] = 0.into();
    }
    add_acks(&mut config, plan);
    consumer_request(stream, config)
}

/// A consumer of one client that reads in order, as client libraries make it.
pub fn ordered_consumer(stream: &str, name: &str) -> Value {
    let config = json!({
        "name": name,
        "deliver_policy": "all",
        "replay_policy": "instant",
        "ack_policy": "none",
        "max_deliver": 1,
        "mem_storage": true,
        "num_replicas": 1,
        "inactive_threshold": INACTIVE_S * SECOND_NS,
    });
    consumer_request(stream, config)
}

fn add_acks(config: &mut Value, plan: &JetStreamPlan) {
    match plan.ack {
        AckPolicy::None => config["ack_policy"] = "none".into(),
        AckPolicy::Explicit => {
            config["ack_policy"] = "explicit".into();
            config["ack_wait"] = (ACK_WAIT_S * SECOND_NS).into();
            config["max_ack_pending"] = plan.ack_pending_max.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(stream_count: usize) -> StreamLayout {
        let tag = "t".to_string();
        StreamLayout {
            tag,
            key_value: false,
            storage: Storage::File,
            stream_count,
            subject_count: 2,
        }
    }

    #[test]
    fn clients_and_streams_share_each_other_out() {
        let streams = |count, clients| -> Vec<Vec<usize>> {
            (0..clients).map(|client| layout(count).streams_of(client, clients)).collect()
        };
        assert_eq!(streams(1, 3), [[0], [0], [0]]);
        assert_eq!(streams(2, 3), [[0], [1], [0]]);
        assert_eq!(streams(5, 2), [vec![0, 2, 4], vec![1, 3]]);
    }

    #[test]
    fn a_bucket_has_the_names_and_settings_of_the_convention() {
        let layout = StreamLayout { key_value: true, ..layout(1) };
        assert_eq!(layout.stream(0), "KV_bench_t_0");
        assert_eq!(layout.subjects(0), ["$KV.bench_t_0.k0", "$KV.bench_t_0.k1"]);
        let config = layout.stream_config(0);
        assert_eq!(config["subjects"][0], "$KV.bench_t_0.>");
        assert_eq!(config["max_msgs_per_subject"], 1);
        assert_eq!(config["allow_rollup_hdrs"], true);
        assert_eq!(
            layout.direct_get_subject(0, "$KV.bench_t_0.k1"),
            "$JS.API.DIRECT.GET.KV_bench_t_0.$KV.bench_t_0.k1"
        );
    }
}
