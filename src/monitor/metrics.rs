//! `/metrics`: the server's numbers as OpenMetrics text, by shard, without an exporter.
//!
//! Names end in their unit; the encoder adds `_total` to counters. `scripts/grafana/` uses these
//! names.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::http::Response;
use super::snapshot::{AccountReport, Gathered, JetStreamSummary, OperationTotals, ShardSummary};
use super::varz::ServerFacts;
use crate::base::histogram::{Durations, upper_bound_ns};
use crate::base::limits::METRICS_ACCOUNTS_MAX;
use crate::base::log;

/// The content type of the format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One number of each `T`.
struct Series<T> {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    kind: Kind,
    of: fn(&T) -> u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Counter,
    Gauge,
}

const fn series<T>(
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    kind: Kind,
    of: fn(&T) -> u64,
) -> Series<T> {
    Series { name, help, unit, kind, of }
}

use Kind::{Counter, Gauge};

#[rustfmt::skip]
const SHARD_SERIES: [Series<ShardSummary>; 27] = [
    series("midge_received_messages", "Messages that clients published", None, Counter, |s| s.in_messages),
    series("midge_received", "Headers and payloads that clients published", Some(Unit::Bytes), Counter, |s| s.in_bytes),
    series("midge_sent_messages", "Messages queued for clients", None, Counter, |s| s.out_messages),
    series("midge_sent", "Headers and payloads queued for clients", Some(Unit::Bytes), Counter, |s| s.out_bytes),
    series("midge_connections", "Open client connections", None, Gauge, |s| s.connections as u64),
    series("midge_moved_connections", "Connections that came from a busy shard, after they had subscribed or published there", None, Counter, |s| s.moved_in),
    series("midge_subscriptions", "Subscriptions of clients", None, Gauge, |s| s.subscriptions as u64),
    series("midge_slow_consumers", "Clients closed because they did not keep up", None, Counter, |s| s.slow_consumers),
    series("midge_stale_connections", "Clients closed because they answered no PING", None, Counter, |s| s.stale_connections),
    series("midge_producer_stalls", "Times a producer was asked to wait for a consumer", None, Counter, |s| s.stalls),
    series("midge_dropped_messages", "Messages that slow clients missed because of no_fast_producer_stall", None, Counter, |s| s.dropped),
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
    series("midge_unanswered_requests", "Requests without responders whose requesters were not told: too many were waiting", None, Counter, |s| s.unanswered),
];

#[rustfmt::skip]
const ACCOUNT_SERIES: [Series<AccountReport>; 7] = [
    series("midge_account_connections", "Open client connections of the account", None, Gauge, |a| a.totals.connections as u64),
    series("midge_account_subscriptions", "Subscriptions of the account's clients", None, Gauge, |a| a.subscriptions as u64),
    series("midge_account_received_messages", "Messages that clients of the account published", None, Counter, |a| a.totals.in_messages),
    series("midge_account_received", "Headers and payloads that clients of the account published", Some(Unit::Bytes), Counter, |a| a.totals.in_bytes),
    series("midge_account_sent_messages", "Messages queued for clients of the account", None, Counter, |a| a.totals.out_messages),
    series("midge_account_sent", "Headers and payloads queued for clients of the account", Some(Unit::Bytes), Counter, |a| a.totals.out_bytes),
    series("midge_account_slow_consumers", "Clients of the account closed because they did not keep up", None, Counter, |a| a.totals.slow_consumers),
];

#[rustfmt::skip]
const JETSTREAM_SERIES: [Series<JetStreamSummary>; 23] = [
    series("midge_jetstream_streams", "Streams", None, Gauge, |j| j.store.streams),
    series("midge_jetstream_consumers", "Consumers", None, Gauge, |j| j.consumers),
    series("midge_jetstream_memory", "Messages of streams in memory", Some(Unit::Bytes), Gauge, |j| j.memory_bytes),
    series("midge_jetstream_file", "Messages of streams on disk", Some(Unit::Bytes), Gauge, |j| j.store_bytes),
    series("midge_jetstream_stored_messages", "Published messages that a stream took", None, Counter, |j| j.stored),
    series("midge_jetstream_duplicate_messages", "Published messages that a stream had already", None, Counter, |j| j.duplicates),
    series("midge_jetstream_refused_messages", "Published messages that a stream refused", None, Counter, |j| j.refused),
    series("midge_jetstream_delivered_messages", "Messages that consumers sent, redelivered ones too", None, Counter, |j| j.delivered),
    series("midge_jetstream_redelivered_messages", "Messages that consumers sent again", None, Counter, |j| j.redelivered),
    series("midge_jetstream_acknowledged_messages", "Messages that clients acknowledged", None, Counter, |j| j.acknowledged),
    series("midge_jetstream_api_requests", "Requests to the API that were answered", None, Counter, |j| j.api_requests),
    series("midge_jetstream_api_errors", "Requests to the API that were refused", None, Counter, |j| j.api_errors),
    series("midge_store_commits", "Writes of the journal that became durable", None, Counter, |j| j.store.commits),
    series("midge_store_commit_records", "Changes in these writes", None, Counter, |j| j.store.records),
    series("midge_store_commit", "What these writes wrote", Some(Unit::Bytes), Counter, |j| j.store.written_bytes),
    series("midge_store_write_failures", "Writes of the journal that failed", None, Counter, |j| j.store.write_failures),
    series("midge_store_journal_files", "Files of the journal that a start would read", None, Gauge, |j| j.store.journal_files),
    series("midge_store_disk", "The journal's files in use and all stored segments", Some(Unit::Bytes), Gauge, |j| j.store.disk_bytes),
    series("midge_store_checkpoints", "Checkpoints taken", None, Counter, |j| j.store.checkpoints),
    series("midge_store_checkpoint_failing", "1 if the last checkpoint was given up", None, Gauge, |j| j.store.is_checkpoint_failing.into()),
    series("midge_store_short", "1 if messages are refused for want of space", None, Gauge, |j| j.store.is_short.into()),
    series("midge_store_stopped", "1 if nothing can be written any more", None, Gauge, |j| j.store.is_stopped.into()),
    series("midge_store_lost_blocks", "Blocks of messages that could not be read and are lost", None, Gauge, |j| j.store.lost_blocks),
];

/// A histogram of each shard, with all of its bounds or every other one.
struct DurationSeries {
    name: &'static str,
    help: &'static str,
    bound_step: usize,
    of: fn(&ShardSummary) -> &Durations,
}

#[rustfmt::skip]
const DURATION_SERIES: [DurationSeries; 3] = [
    DurationSeries {
        name: "midge_delivery_latency_seconds",
        help: "For each send to a client: from the turn that read its first message, on this shard or another, to the kernel having taken it all",
        bound_step: 1,
        of: |s| &s.queued_durations,
    },
    DurationSeries {
        name: "midge_lane_transit_seconds",
        help: "For each batch from another shard: from the turn there that read its first message to the turn here that took it",
        bound_step: 2,
        of: |s| &s.lane_durations,
    },
    DurationSeries {
        name: "midge_turn_duration_seconds",
        help: "For each turn of the run loop that had something to do: from its first read to its end, without the kernel's work for it",
        bound_step: 2,
        of: |s| &s.turn_durations,
    },
];

/// Operations given to the driver, by kind.
type OperationsOf = fn(&OperationTotals) -> (u64, u64);
const OPERATIONS: [(&str, OperationsOf); 3] =
    [("read", |o| o.reads), ("write", |o| o.writes), ("poll", |o| o.polls)];

impl EncodeMetric for DurationSample<'_> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), Error> {
        let mut buckets: Vec<(f64, u64)> = Vec::new();
        let mut gathered = 0;
        for (index, count) in self.durations.told_counts().into_iter().enumerate() {
            gathered += count;
            let bound = upper_bound_ns(index);
            if bound.is_some() && !index.is_multiple_of(self.bound_step) {
                continue;
            }
            let seconds = bound.map_or(f64::INFINITY, |ns| ns as f64 / 1e9);
            buckets.push((seconds, std::mem::take(&mut gathered)));
        }
        let sum = self.durations.sum_ns as f64 / 1e9;
        encoder.encode_histogram::<NoLabelSet>(sum, self.durations.count(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

struct DurationSample<'a> {
    durations: &'a Durations,
    bound_step: usize,
}

#[derive(Debug)]
struct Snapshot {
    shards: Vec<ShardSummary>,
    accounts: Vec<AccountReport>,
    shard_cpu_seconds: Vec<f64>,
    shard_busy: Vec<f64>,
    log_dropped_lines: u64,
    late_shards: u64,
    connections_total: u64,
    memory_bytes: u64,
    open_files: Option<u64>,
    /// Bytes of the store's disk: free, and all.
    store_disk: Option<(u64, u64)>,
    start_seconds: f64,
    info: [(&'static str, String); 4],
}

impl Snapshot {
    fn encode_durations(
        &self,
        encoder: &mut DescriptorEncoder,
        series: &DurationSeries,
    ) -> Result<(), Error> {
        // The unit is part of the name: some readers accept no UNIT line for a histogram.
        let kind = MetricType::Histogram;
        let mut metric = encoder.encode_descriptor(series.name, series.help, None, kind)?;
        for summary in &self.shards {
            let labels = [("shard", summary.shard.to_string())];
            let sample =
                DurationSample { durations: (series.of)(summary), bound_step: series.bound_step };
            sample.encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// Encodes the numbers of JetStream; without it there are no such series.
    fn encode_jetstream(&self, encoder: &mut DescriptorEncoder) -> Result<(), Error> {
        let places = || {
            let place = |summary: &'_ ShardSummary| summary.shard.to_string();
            self.shards.iter().filter_map(move |s| Some((place(s), s.jetstream.as_deref()?)))
        };
        if places().next().is_none() {
            return Ok(());
        }
        for series in &JETSTREAM_SERIES {
            encode_series(encoder, series, "shard", places())?;
        }
        let (name, kind) = ("midge_store_commit_duration_seconds", MetricType::Histogram);
        let help =
            "For each write of the journal: from handing it to the disk until it was durable";
        let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
        for (shard, jetstream) in places() {
            let durations = &jetstream.store.commit_durations;
            let sample = DurationSample { durations, bound_step: 2 };
            sample.encode(metric.encode_family(&[("shard", shard)])?)?;
        }
        if let Some((free, size)) = self.store_disk {
            for (name, help, bytes) in [
                ("midge_store_disk_free", "Free space of the store's disk", free),
                ("midge_store_disk_size", "Size of the store's disk", size),
            ] {
                let unit = Some(&Unit::Bytes);
                let metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
                ConstGauge::new(bytes).encode(metric)?;
            }
        }
        Ok(())
    }

    fn encode_operations(&self, encoder: &mut DescriptorEncoder) -> Result<(), Error> {
        let submissions = "Operations handed to the shard's driver, io_uring or epoll";
        let completions = "Operations that the shard's driver gave back, cancelled ones too";
        for (name, help, is_submitted) in [
            ("midge_io_submissions", submissions, true),
            ("midge_io_completions", completions, false),
        ] {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for summary in &self.shards {
                for (operation, of) in OPERATIONS {
                    let (submitted, completed) = of(&summary.operations);
                    let shard = summary.shard.to_string();
                    let labels = [("shard", shard.as_str()), ("operation", operation)];
                    let value = if is_submitted { submitted } else { completed };
                    ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
                }
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
        let help = "Share of the last second that the shard's thread ran, busy polling and the kernel's work for it included";
        let mut busy =
            encoder.encode_descriptor("midge_shard_busy_ratio", help, None, MetricType::Gauge)?;
        for (shard, value) in self.shard_busy.iter().enumerate() {
            let labels = [("shard", shard.to_string())];
            ConstGauge::new(*value).encode(busy.encode_family(&labels)?)?;
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
        let help = "Accounts whose own numbers are left out because there are too many";
        let left_out = self.accounts.len().saturating_sub(METRICS_ACCOUNTS_MAX);
        gauge("midge_left_out_accounts", help, None, left_out as f64)?;
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
        let help = "Log lines dropped because they came faster than they could be written";
        let kind = MetricType::Counter;
        let metric = encoder.encode_descriptor("midge_log_dropped_lines", help, None, kind)?;
        ConstCounter::new(self.log_dropped_lines).encode(metric)?;
        // A gauge instead of OpenMetrics' own info type, so that readers of the older text format
        // know it too.
        let help = "This server; always 1";
        let mut info =
            encoder.encode_descriptor("midge_server_info", help, None, MetricType::Gauge)?;
        ConstGauge::new(1i64).encode(info.encode_family(&self.info)?)
    }
}

/// Replaces characters in a label's value that some readers take for the end of a line; the encoder
/// escapes the rest.
fn label_text(text: &str) -> String {
    let ends_line = |c: char| c != '\n' && (c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'));
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match ends_line(character) {
            true => safe.extend(character.escape_default()),
            false => safe.push(character),
        }
    }
    safe
}

/// Encodes one series, with the label that tells its items apart.
fn encode_series<'a, T: 'a>(
    encoder: &mut DescriptorEncoder,
    series: &Series<T>,
    label: &str,
    items: impl Iterator<Item = (String, &'a T)>,
) -> Result<(), Error> {
    let kind = match series.kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
    };
    let mut metric =
        encoder.encode_descriptor(series.name, series.help, series.unit.as_ref(), kind)?;
    for (name, item) in items {
        let value = (series.of)(item);
        let labels = [(label, name)];
        let labelled = metric.encode_family(&labels)?;
        match series.kind {
            Kind::Counter => ConstCounter::new(value).encode(labelled)?,
            Kind::Gauge => ConstGauge::new(value).encode(labelled)?,
        }
    }
    Ok(())
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        for series in &SHARD_SERIES {
            let shards = self.shards.iter().map(|summary| (summary.shard.to_string(), summary));
            encode_series(&mut encoder, series, "shard", shards)?;
        }
        for series in &DURATION_SERIES {
            self.encode_durations(&mut encoder, series)?;
        }
        self.encode_operations(&mut encoder)?;
        self.encode_jetstream(&mut encoder)?;
        for series in &ACCOUNT_SERIES {
            let accounts = self.accounts.iter().take(METRICS_ACCOUNTS_MAX);
            let accounts = accounts.map(|report| (label_text(&report.name), report));
            encode_series(&mut encoder, series, "account", accounts)?;
        }
        self.encode_server(&mut encoder)
    }
}

/// Answers `/metrics`. `accounts` are listed in the order given, as many as there is room for.
pub(crate) fn metrics(
    facts: &ServerFacts,
    shards: &Gathered<ShardSummary>,
    accounts: Vec<AccountReport>,
) -> Response {
    let since_epoch = facts.started.1.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let snapshot = Snapshot {
        shards: shards.answers.iter().map(|(_, summary)| summary.clone()).collect(),
        shard_cpu_seconds: facts.process.shard_cpu.iter().map(|time| time.as_secs_f64()).collect(),
        accounts,
        shard_busy: facts.process.shard_busy.clone(),
        log_dropped_lines: log::installed().map_or(0, log::Logger::dropped_lines),
        late_shards: shards.late_shards.len() as u64,
        connections_total: facts.connections_total,
        memory_bytes: facts.process.memory_bytes,
        open_files: facts.process.open_files,
        store_disk: facts.store_disk,
        start_seconds: since_epoch.as_secs_f64(),
        info: [
            ("server_id", facts.info.server_id.clone()),
            ("server_name", label_text(&facts.info.server_name)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_label_ends_its_line() {
        let safe = label_text("a\rb\u{85}c\u{2028}d\te\"f\\g\u{e9}\n");
        assert_eq!(safe, "a\\rb\\u{85}c\\u{2028}d\\te\"f\\g\u{e9}\n");
    }
}
