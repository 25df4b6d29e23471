//! `/metrics`: the same numbers in OpenMetrics text, by shard, without an exporter.
//!
//! Names end in their unit; counters get `_total` from the encoder. `scripts/grafana/` uses these names.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::http::Response;
use super::snapshot::{Gathered, ShardSummary};
use super::varz::ServerFacts;

/// What Prometheus is told the format is.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One number that every shard has.
struct ShardSeries {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    kind: Kind,
    of: fn(&ShardSummary) -> u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Counter,
    Gauge,
}

const fn series(
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    kind: Kind,
    of: fn(&ShardSummary) -> u64,
) -> ShardSeries {
    ShardSeries { name, help, unit, kind, of }
}

use Kind::{Counter, Gauge};

#[rustfmt::skip]
const SHARD_SERIES: [ShardSeries; 24] = [
    series("midge_received_messages", "Messages that clients published", None, Counter, |s| s.in_messages),
    series("midge_received", "Headers and payloads that clients published", Some(Unit::Bytes), Counter, |s| s.in_bytes),
    series("midge_sent_messages", "Messages queued for clients", None, Counter, |s| s.out_messages),
    series("midge_sent", "Headers and payloads queued for clients", Some(Unit::Bytes), Counter, |s| s.out_bytes),
    series("midge_connections", "Open client connections", None, Gauge, |s| s.connections as u64),
    series("midge_subscriptions", "Subscriptions of clients", None, Gauge, |s| s.subscriptions as u64),
    series("midge_slow_consumers", "Clients closed because they did not keep up", None, Counter, |s| s.slow_consumers),
    series("midge_stale_connections", "Clients closed because they answered no PING", None, Counter, |s| s.stale_connections),
    series("midge_producer_stalls", "Times a producer was asked to wait for a consumer", None, Counter, |s| s.stalls),
    series("midge_pending", "Bytes queued for clients and not yet taken by the kernel", Some(Unit::Bytes), Gauge, |s| s.pending_bytes),
    series("midge_pending_largest", "Pending bytes of the client with most of them", Some(Unit::Bytes), Gauge, |s| s.pending_bytes_largest),
    series("midge_turns", "Turns of the shard's run loop", None, Counter, |s| s.turns),
    series("midge_lane_received_messages", "Messages that came from other shards", None, Counter, |s| s.lanes.messages_in),
    series("midge_lane_received_batches", "Batches that came from other shards", None, Counter, |s| s.lanes.batches_in),
    series("midge_lane_sent_batches", "Batches sent to other shards", None, Counter, |s| s.lanes.batches_out),
    series("midge_lane_wakes", "Times another shard had to be woken", None, Counter, |s| s.lanes.wakes),
    series("midge_lane_stalls", "Times a batch found its lane full", None, Counter, |s| s.lanes.stalls),
    series("midge_lane_waiting_batches", "Batches on the lanes into the shard", None, Gauge, |s| s.lanes.waiting_batches as u64),
    series("midge_lane_waiting_interest", "Changes of interest on the lanes into the shard", None, Gauge, |s| s.lanes.waiting_interest as u64),
    series("midge_lane_staged", "Batches that wait for room on a lane", Some(Unit::Bytes), Gauge, |s| s.lanes.staged_bytes as u64),
    series("midge_interest_changes", "Changes of interest that came from other shards", None, Counter, |s| s.lanes.interest_in),
    series("midge_subject_lookups", "Subjects looked up in the match cache", None, Counter, |s| s.table.matches),
    series("midge_subject_cache_hits", "Subjects found in the match cache", None, Counter, |s| s.table.cache_hits),
    series("midge_queue_members_gone", "Queue messages whose members all left meanwhile", None, Counter, |s| s.queue_members_gone),
];

#[derive(Debug)]
struct Snapshot {
    shards: Vec<ShardSummary>,
    shard_cpu_seconds: Vec<f64>,
    late_shards: u64,
    connections_total: u64,
    memory_bytes: u64,
    open_files: Option<u64>,
    start_seconds: f64,
    info: [(&'static str, String); 4],
}

impl Snapshot {
    fn encode_shard(
        &self,
        encoder: &mut DescriptorEncoder,
        series: &ShardSeries,
    ) -> Result<(), Error> {
        let kind = match series.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
        };
        let mut metric =
            encoder.encode_descriptor(series.name, series.help, series.unit.as_ref(), kind)?;
        for summary in &self.shards {
            let value = (series.of)(summary);
            let labels = [("shard", summary.shard.to_string())];
            let labelled = metric.encode_family(&labels)?;
            match series.kind {
                Kind::Counter => ConstCounter::new(value).encode(labelled)?,
                Kind::Gauge => ConstGauge::new(value).encode(labelled)?,
            }
        }
        Ok(())
    }

    fn encode_server(&self, encoder: &mut DescriptorEncoder) -> Result<(), Error> {
        let help = "Processor time of the shard's thread";
        let seconds = Some(&Unit::Seconds);
        let mut cpu =
            encoder.encode_descriptor("midge_shard_cpu", help, seconds, MetricType::Counter)?;
        for (shard, value) in self.shard_cpu_seconds.iter().enumerate() {
            let labels = [("shard", shard.to_string())];
            ConstCounter::new(*value).encode(cpu.encode_family(&labels)?)?;
        }
        let mut gauge = |name: &str, help: &str, unit: Option<Unit>, value: f64| {
            let metric = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)
        };
        let help = "Resident memory of the process";
        gauge("midge_memory", help, Some(Unit::Bytes), self.memory_bytes as f64)?;
        let help = "Time at which the server started, since the epoch";
        gauge("midge_start_time", help, Some(Unit::Seconds), self.start_seconds)?;
        let help = "Shards that did not answer this scrape in time";
        gauge("midge_late_shards", help, None, self.late_shards as f64)?;
        if let Some(files) = self.open_files {
            gauge("midge_open_files", "Open file descriptors", None, files as f64)?;
        }
        let help = "Client connections accepted since the start";
        let metric = encoder.encode_descriptor(
            "midge_accepted_connections",
            help,
            None,
            MetricType::Counter,
        )?;
        ConstCounter::new(self.connections_total).encode(metric)?;
        // A gauge and not OpenMetrics' own info type: readers of the older text format know it too.
        let help = "This server; always 1";
        let mut info =
            encoder.encode_descriptor("midge_server_info", help, None, MetricType::Gauge)?;
        ConstGauge::new(1i64).encode(info.encode_family(&self.info)?)
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        for series in &SHARD_SERIES {
            self.encode_shard(&mut encoder, series)?;
        }
        self.encode_server(&mut encoder)
    }
}

pub fn metrics(facts: &ServerFacts, shards: &Gathered<ShardSummary>) -> Response {
    let since_epoch = facts.started.1.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let snapshot = Snapshot {
        shards: shards.answers.iter().map(|(_, summary)| summary.clone()).collect(),
        shard_cpu_seconds: facts.process.shard_cpu.iter().map(|time| time.as_secs_f64()).collect(),
        late_shards: shards.late_shards.len() as u64,
        connections_total: facts.connections_total,
        memory_bytes: facts.process.memory_bytes,
        open_files: facts.process.open_files,
        start_seconds: since_epoch.as_secs_f64(),
        info: [
            ("server_id", facts.info.server_id.clone()),
            ("server_name", facts.info.server_name.clone()),
            ("version", facts.version.to_owned()),
            ("nats_version", facts.info.version.clone()),
        ],
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(snapshot));
    let mut body = String::new();
    encode(&mut body, &registry).expect("writing to a String does not fail");
    Response { content_type: OPEN_METRICS, ..Response::text(200, body) }
}
