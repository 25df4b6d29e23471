//! `/metrics`, read by a parser of the OpenMetrics specification.

use openmetrics_parser::{MetricFamily, OpenMetricsType, OpenMetricsValue, openmetrics};

use std::time::Instant;

use super::support::server::Directory;
use super::{MIDGE, Monitored, WAIT_MAX, load};

type Exposition = openmetrics_parser::MetricsExposition<OpenMetricsType, OpenMetricsValue>;
type Family = MetricFamily<OpenMetricsType, OpenMetricsValue>;

/// The contents of one scrape.
struct Scraped(Exposition);

impl Scraped {
    fn of(monitored: &Monitored) -> Self {
        let answer = monitored.get("/metrics");
        let kind = answer.header("content-type").expect("a content type");
        assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
        let parsed = openmetrics::parse_openmetrics(&answer.body);
        Self(parsed.unwrap_or_else(|error| panic!("{error:?}\n{}", answer.body)))
    }

    fn family(&self, name: &str) -> &Family {
        self.0.families.get(name).unwrap_or_else(|| panic!("{name} is missing"))
    }

    /// Returns the sum of the samples that have all these labels.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let samples = self.family(name).iter_samples().filter(|sample| {
            let own = sample.get_labelset().expect("samples have labels");
            labels.iter().all(|(name, value)| own.get_label_value(name) == Some(*value))
        });
        let values = samples.map(|sample| match &sample.value {
            OpenMetricsValue::Counter(counter) => counter.value.as_f64(),
            OpenMetricsValue::Gauge(number) => number.as_f64(),
            OpenMetricsValue::Histogram(histogram) => histogram.count.expect("a count") as f64,
            other => panic!("{name} is {other:?}"),
        });
        let values: Vec<f64> = values.collect();
        assert!(!values.is_empty(), "{name} has no samples with {labels:?}");
        values.into_iter().sum()
    }
}

#[test]
fn metrics_are_well_formed_and_count_the_load() {
    let monitored = Monitored::start("");
    let _load = load(&monitored);
    monitored.json_when("/varz", |varz| varz["connections"] == 3);
    let scraped = Scraped::of(&monitored);
    for (name, family) in &scraped.0.families {
        assert!(name.starts_with("midge_"), "{name}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        assert!(!family.help.is_empty(), "{name} has no help");
        assert_ne!(family.family_type, OpenMetricsType::Unknown, "{name} has no type");
        assert!(family.unit.is_empty() || name.ends_with(&family.unit), "{name}: {}", family.unit);
    }
    let sum = |name: &str| scraped.sum(name, &[]);
    assert_eq!(sum("midge_received_messages"), 10.0);
    assert_eq!(sum("midge_received_bytes"), 50.0);
    assert_eq!(sum("midge_sent_messages"), 10.0);
    assert_eq!(sum("midge_connections"), 3.0);
    assert_eq!(sum("midge_subscriptions"), 3.0);
    assert_eq!(sum("midge_accepted_connections"), 4.0);
    assert_eq!(sum("midge_late_shards"), 0.0);
    assert_eq!(sum("midge_log_dropped_lines"), 0.0);
    assert!(sum("midge_turns") > 0.0);
    assert!(sum("midge_shard_cpu_seconds") > 0.0);
    let busy = sum("midge_shard_busy_ratio");
    assert!((0.0..=2.0).contains(&busy), "{busy}");
    for name in [
        "midge_lane_waiting_batches",
        "midge_lane_stalls",
        "midge_lane_wakes",
        "midge_pending_bytes",
        "midge_slow_consumers",
        "midge_unanswered_requests",
    ] {
        assert!(sum(name) >= 0.0);
    }
    let shards = |name: &str| scraped.family(name).iter_samples().count();
    assert_eq!(shards("midge_sent_messages"), 2);
    assert_eq!(shards("midge_delivery_latency_seconds"), 2);
}

#[test]
fn durations_are_histograms_of_what_was_sent_and_turned() {
    let monitored = Monitored::start("");
    let _load = load(&monitored);
    let scraped = Scraped::of(&monitored);
    for name in [
        "midge_delivery_latency_seconds",
        "midge_turn_duration_seconds",
        "midge_lane_transit_seconds",
    ] {
        for sample in scraped.family(name).iter_samples() {
            let OpenMetricsValue::Histogram(histogram) = &sample.value else {
                panic!("{name} is no histogram");
            };
            let bounds: Vec<f64> =
                histogram.buckets.iter().map(|bucket| bucket.upper_bound).collect();
            assert!(bounds.is_sorted() && bounds.len() > 20, "{bounds:?}");
            assert_eq!(bounds.last(), Some(&f64::INFINITY));
            let mut counts = histogram.buckets.iter().map(|bucket| bucket.count.as_f64());
            assert!(counts.clone().is_sorted());
            assert_eq!(counts.next_back(), histogram.count.map(|count| count as f64));
        }
    }
    // At least INFO and PONG for each of four clients, and at least ten messages in one send.
    let sends = scraped.sum("midge_delivery_latency_seconds", &[]);
    assert!(sends >= 9.0, "{sends}");
    assert!(scraped.sum("midge_turn_duration_seconds", &[]) >= 9.0);
    let batches = scraped.sum("midge_lane_received_batches", &[]);
    assert_eq!(scraped.sum("midge_lane_transit_seconds", &[]), batches);
    let latency = monitored.json("/varz")["midge"]["delivery_latency"].clone();
    let counts = latency["counts"].as_array().expect("a list");
    let total: u64 = counts.iter().map(|count| count.as_u64().expect("a number")).sum();
    assert_eq!(latency["count"], total);
    assert!(total as f64 >= sends);
    assert_eq!(latency["upper_bounds_ns"].as_array().map(Vec::len), Some(counts.len()));
    assert!(latency["p50_ns"].as_u64() <= latency["p999_ns"].as_u64());
}

#[test]
fn operations_of_the_driver_come_back() {
    let arguments = ["--shards", "1", "--no-pin"];
    let monitored = Monitored::start_program(MIDGE.as_ref(), &arguments, "");
    let load = load(&monitored);
    // Each of three clients waits in a read; nothing else is in flight when the shard answers.
    monitored.json_when("/varz", |varz| varz["connections"] == 3);
    let scraped = Scraped::of(&monitored);
    let of = |name: &str, operation: &str| scraped.sum(name, &[("operation", operation)]);
    let open = |operation: &str| {
        of("midge_io_submissions", operation) - of("midge_io_completions", operation)
    };
    assert_eq!(open("read"), 3.0);
    assert_eq!(open("write"), 0.0);
    assert_eq!(open("poll"), 1.0, "the listener; the bell was just heard");
    assert!(of("midge_io_completions", "read") >= 7.0);
    assert!(of("midge_io_completions", "write") >= 7.0);
    drop(load);
}

const ACCOUNTS: &str = r#"
accounts {
  A { users: [{ user: a, password: pa }] }
  'B "quoted"' { users: [{ user: b, password: pb }] }
}
no_auth_user: a
"#;

#[test]
fn accounts_have_numbers_of_their_own_that_never_go_back() {
    let monitored = Monitored::start(ACCOUNTS);
    let _load = load(&monitored);
    monitored.json_when("/varz", |varz| varz["connections"] == 3);
    let of = |name: &str, account: &str| Scraped::of(&monitored).sum(name, &[("account", account)]);
    // Taken at most once a second, so it may be from before the last client left.
    let deadline = std::time::Instant::now() + super::WAIT_MAX;
    while of("midge_account_connections", "A") != 3.0 {
        assert!(std::time::Instant::now() < deadline);
    }
    assert_eq!(of("midge_account_received_messages", "A"), 10.0);
    assert_eq!(of("midge_account_received_bytes", "A"), 50.0);
    assert_eq!(of("midge_account_sent_messages", "A"), 10.0);
    assert_eq!(of("midge_account_sent_bytes", "A"), 50.0);
    assert_eq!(of("midge_account_subscriptions", "A"), 3.0);
    assert_eq!(of("midge_account_slow_consumers", "A"), 0.0);
    // The parser keeps the escapes of a label.
    assert_eq!(of("midge_account_connections", r#"B \"quoted\""#), 0.0);
}

/// Every series of JetStream that the alert rules and the dashboards use is there, with it alone.
#[test]
fn jetstream_and_its_store_have_numbers() {
    let without = Scraped::of(&Monitored::start(""));
    let of_streams =
        |name: &&String| name.starts_with("midge_jetstream_") || name.starts_with("midge_store_");
    assert_eq!(without.0.families.keys().find(of_streams), None);
    let folder = Directory::new().expect("a folder can be made");
    let store = folder.display().to_string();
    let monitored = Monitored::start(&format!("jetstream {{ store_dir: {store:?} }}"));
    let mut client = monitored.client("publisher");
    client.send(b"SUB inbox.* 1\r\n").unwrap();
    let create = r#"{"name":"S","subjects":["s.*"]}"#;
    let request = |subject: &str, body: &str| {
        format!("PUB {subject} inbox.a {}\r\n{body}\r\n", body.len()).into_bytes()
    };
    let deadline = Instant::now() + WAIT_MAX;
    let mut ask = |subject: &str, body: &str| {
        client.send(&request(subject, body)).unwrap();
        while !client.take_line(deadline).expect("an answer comes").starts_with(b"MSG inbox.a ") {}
    };
    ask("$JS.API.STREAM.CREATE.S", create);
    ask("$JS.API.STREAM.INFO.NONE", "");
    (0..3).for_each(|_| ask("s.a", "hello"));
    let config =
        r#"{"stream_name":"S","config":{"name":"c","ack_policy":"explicit","durable_name":"c"}}"#;
    ask("$JS.API.CONSUMER.CREATE.S.c", config);
    client.send(&request("$JS.API.CONSUMER.MSG.NEXT.S.c", "")).unwrap();
    let delivered = loop {
        let line = client.take_line(deadline).expect("a message comes");
        if line.starts_with(b"MSG s.a 1 $JS.ACK.S.c.") {
            break String::from_utf8(line).expect("it is text");
        }
    };
    let reply = delivered.split(' ').nth(3).expect("it has a reply");
    client.send(&request(reply, "+ACK")).unwrap();
    while !client.take_line(deadline).expect("an answer comes").starts_with(b"MSG inbox.a ") {}
    let scraped = Scraped::of(&monitored);
    let sum = |name: &str| scraped.sum(name, &[]);
    assert_eq!(sum("midge_jetstream_streams"), 1.0);
    assert_eq!(sum("midge_jetstream_consumers"), 1.0);
    assert_eq!(sum("midge_jetstream_delivered_messages"), 1.0);
    assert_eq!(sum("midge_jetstream_redelivered_messages"), 0.0);
    assert_eq!(sum("midge_jetstream_acknowledged_messages"), 1.0);
    assert_eq!(sum("midge_jetstream_stored_messages"), 3.0);
    assert_eq!(sum("midge_jetstream_refused_messages"), 0.0);
    assert_eq!(sum("midge_jetstream_api_requests"), 3.0);
    assert_eq!(sum("midge_jetstream_api_errors"), 1.0);
    assert!(sum("midge_jetstream_file_bytes") > 15.0);
    let commits = sum("midge_store_commits");
    assert!(commits >= 4.0, "{commits}");
    assert!(sum("midge_store_commit_records") >= commits);
    assert_eq!(sum("midge_store_commit_duration_seconds"), commits);
    assert!(sum("midge_store_commit_bytes") >= 4096.0 * commits);
    assert!(sum("midge_store_disk_bytes") > 0.0 && sum("midge_store_journal_files") > 0.0);
    let (free, size) = (sum("midge_store_disk_free_bytes"), sum("midge_store_disk_size_bytes"));
    assert!(free > 0.0 && free <= size, "{free} of {size}");
    for trouble in ["short", "stopped", "checkpoint_failing", "lost_blocks", "write_failures"] {
        assert_eq!(sum(&format!("midge_store_{trouble}")), 0.0, "{trouble}");
    }
    // Nobody has to start a Prometheus to find a name that was misspelt.
    let rules = include_str!("../../scripts/grafana/midge-alerts.yml");
    let panels = include_str!("../../scripts/grafana/midge-dashboard.json");
    for text in [rules, panels] {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for word in words.filter(|word| of_streams(&&(*word).to_string())) {
            let family = word.trim_end_matches("_total").trim_end_matches("_bucket");
            assert!(scraped.0.families.contains_key(family), "{word} is not a series");
        }
    }
    let varz = monitored.json("/varz");
    let own = &varz["midge"]["jetstream"];
    assert_eq!((&own["stored"], &own["state"]), (&3.into(), &"ok".into()), "{own}");
}
