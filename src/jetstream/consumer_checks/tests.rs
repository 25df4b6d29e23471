//! Requests with nats-server's answers, as `cases.txt` has them.

use std::collections::BTreeMap;

use super::*;
use crate::jetstream::json::encode::encode;
use crate::jetstream::stream_checks::{StreamRules, with_defaults};
use crate::jetstream::stream_config::StreamConfigRequest;
use crate::jetstream::versioning::add_server_facts;

/// nats-server's default.
const CONSUMERS_MAX: i64 = 1000;

const TIGHT: ConsumerRules = ConsumerRules {
    server_ack_pending_max: 200,
    account_ack_pending_max: 100,
    request_batch_max: 50,
};

#[test]
fn consumers_are_created_and_refused_as_by_nats_server() {
    let mut failures = Vec::new();
    let mut streams = BTreeMap::new();
    for case in include_str!("cases.txt").lines().filter(|line| !line.starts_with('#')) {
        let columns: Vec<&str> = case.split('\t').collect();
        let heading: Vec<&str> = columns[0].split(' ').collect();
        match heading[..] {
            ["stream", name] => {
                streams.insert(name, stream(columns[1]));
            }
            ["new", rules, stream] => {
                let rules = if rules == "tight" { TIGHT } else { ConsumerRules::default() };
                let (expected, requests) = columns[1..].split_last().expect("there is an answer");
                let answer = answer(&streams[stream], &rules, requests);
                if answer != *expected {
                    failures.push(format!("{case}\n   own {answer}"));
                }
            }
            _ => panic!("no kind in {case}"),
        }
    }
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n"));
}

fn stream(body: &str) -> StreamConfig {
    let request = StreamConfigRequest::from_json(body.as_bytes(), true).expect("it is valid");
    with_defaults(request.config, &StreamRules::default(), false).expect("it is valid")
}

/// The answer to the last of the requests, which are pairs of a subject and a body.
fn answer(stream: &StreamConfig, rules: &ConsumerRules, requests: &[&str]) -> String {
    let mut consumers = Vec::new();
    let mut last = Ok(ConsumerConfig::default());
    for request in requests.chunks(2) {
        last = create(stream, rules, &mut consumers, request[0], request[1]);
    }
    match last {
        Ok(mut config) => {
            add_server_facts(&mut config.metadata, "2.15.3");
            let json = String::from_utf8(config.to_json()).expect("JSON is text");
            format!("C {json}")
        }
        Err(error) => {
            // The answers in the table have no escapes for HTML.
            let json = String::from_utf8(encode(&error)).expect("JSON is text");
            let json = json.replace("\\u003c", "<").replace("\\u003e", ">");
            format!("E {}", json.replace("\\u0026", "&"))
        }
    }
}

fn create(
    stream: &StreamConfig,
    rules: &ConsumerRules,
    consumers: &mut Vec<ConsumerConfig>,
    subject: &str,
    body: &str,
) -> Checked<ConsumerConfig> {
    let mut request =
        CreateConsumerRequest::from_json(body.as_bytes(), true).expect("bodies are valid");
    let mut parts = subject.splitn(3, ' ');
    let mut part = || parts.next().unwrap_or("");
    let subject = match part() {
        "E" => CreateSubject::Ephemeral,
        "D" => CreateSubject::Durable(part()),
        _ => CreateSubject::Named(part(), part()),
    };
    check_names(&mut request, "S", subject)?;
    let mut config = request.config;
    let name = if config.is_durable() { &config.durable_name } else { &config.name };
    let place = consumers.iter().position(|known| &known.name == name);
    let existing = place.map(|place| consumers.remove(place));
    prepare(&mut config, existing.as_ref());
    set_defaults(&mut config, stream, rules, request.is_pedantic)?;
    check(&config, stream, rules)?;
    let others = consumers.iter();
    match &existing {
        Some(existing) => {
            check_existing(existing, &mut config, request.action, stream, others, false)?;
        }
        None => check_new(&config, request.action, stream, others, 0, CONSUMERS_MAX)?,
    }
    complete_threshold(&mut config, existing.as_ref());
    consumers.push(config.clone());
    Ok(config)
}

#[test]
fn name_of_an_ephemeral_consumer_is_as_long_as_a_durable_one_at_most() {
    let stream = stream("{\"name\":\"S\"}");
    let answer = |length: usize| {
        let subject = format!("N {}", "n".repeat(length));
        let body = "{\"stream_name\":\"S\",\"config\":{}}";
        create(&stream, &ConsumerRules::default(), &mut Vec::new(), &subject, body)
    };
    assert!(answer(ASSET_NAME_BYTES_MAX).is_ok());
    let error = answer(ASSET_NAME_BYTES_MAX + 1).expect_err("it is too long");
    assert_eq!((error.code, error.err_code), (400, 10102));
}

#[test]
fn as_many_filters_as_are_compared_in_one_go_and_no_more() {
    let stream = stream("{\"name\":\"S\"}");
    let answer = |count: usize| {
        let filters: Vec<String> = (0..count).map(|index| format!("\"s.{index}\"")).collect();
        let filters = filters.join(",");
        let body =
            format!("{{\"stream_name\":\"S\",\"config\":{{\"filter_subjects\":[{filters}]}}}}");
        create(&stream, &ConsumerRules::default(), &mut Vec::new(), "N c", &body)
    };
    assert!(answer(ASSET_SUBJECTS_MAX).is_ok());
    let error = answer(ASSET_SUBJECTS_MAX + 1).expect_err("it has one too many");
    assert_eq!(error.description, "consumer has more than 2048 filter subjects");
}
