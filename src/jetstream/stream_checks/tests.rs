//! Requests with nats-server's answers, as `cases.txt` has them.

use super::*;
use crate::jetstream::json::encode::encode;
use crate::jetstream::versioning::add_server_facts;
use crate::storage::stream::StreamLimits;

const NONE: StreamRules = StreamRules {
    duplicate_window_ns_max: 0,
    is_bytes_max_required: false,
    file_bytes_max: 0,
    memory_bytes_max: 0,
};
const TIGHT: StreamRules = StreamRules {
    duplicate_window_ns_max: 60 * SECOND_NS,
    is_bytes_max_required: true,
    file_bytes_max: 2000,
    memory_bytes_max: 1000,
};

#[test]
fn streams_are_created_and_refused_as_by_nats_server() {
    let mut failures = Vec::new();
    let cases = include_str!("cases.txt").lines();
    for case in cases.filter(|line| !line.starts_with('#')) {
        let columns: Vec<&str> = case.split('\t').collect();
        let (&[heading, ref bodies @ ..], &expected) =
            (&columns[..columns.len() - 1], columns.last().expect("there is an answer"))
        else {
            panic!("no heading in {case}")
        };
        let heading: Vec<&str> = heading.split(' ').collect();
        let &[kind, rules, name] = &heading[..] else { panic!("no kind in {case}") };
        let rules = if rules == "tight" { &TIGHT } else { &NONE };
        let answer = answer(kind, rules, name, bodies);
        if answer != expected {
            failures.push(format!("{case}\n   own {answer}"));
        }
    }
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n"));
}

fn answer(kind: &str, rules: &StreamRules, name: &str, bodies: &[&str]) -> String {
    let result = match (kind, bodies) {
        ("create", &[body]) => create(rules, name, body),
        ("again", &[first, second]) => {
            let existing = create(rules, name, first).expect("the first can be created");
            create(rules, name, second).and_then(|config| match is_same(config, &existing) {
                true => Ok(existing),
                false => Err(ApiError::STREAM_NAME_IN_USE),
            })
        }
        ("update", &[first, ref updates @ ..]) => {
            let mut result = create(rules, name, first);
            for body in updates {
                let existing = result.expect("only the last is refused");
                result = update(&existing, rules, name, body);
            }
            result
        }
        _ => panic!("{kind} with {} bodies", bodies.len()),
    };
    match result {
        Ok(mut config) => {
            add_server_facts(&mut config.metadata, "2.15.3");
            format!("C {}", String::from_utf8(config.to_json()).expect("JSON is text"))
        }
        Err(error) => {
            // The answers in the table have no escapes for HTML.
            let json = String::from_utf8(encode(&error)).expect("JSON is text");
            let json = json.replace("\\u003c", "<").replace("\\u003e", ">");
            format!("E {}", json.replace("\\u0026", "&"))
        }
    }
}

fn request(body: &str) -> StreamConfigRequest {
    StreamConfigRequest::from_json(body.as_bytes(), true).expect("bodies are valid")
}

fn create(rules: &StreamRules, name: &str, body: &str) -> Checked<StreamConfig> {
    let mut request = request(body);
    check_names(&mut request, name)?;
    let config = with_defaults(request.config, rules, request.is_pedantic)?;
    check_replicas(&config)?;
    Ok(config)
}

fn update(
    existing: &StreamConfig,
    rules: &StreamRules,
    name: &str,
    body: &str,
) -> Checked<StreamConfig> {
    let request = request(body);
    let mut config = with_defaults(request.config, rules, request.is_pedantic)?;
    if config.name != name {
        return Err(ApiError::STREAM_MISMATCH);
    }
    note_level(&mut config);
    check_update(existing, config)
}

#[test]
fn metadata_is_bounded_with_what_the_server_adds() {
    let with = |size: usize| {
        let value = "v".repeat(size);
        create(&NONE, "S", &format!("{{\"name\":\"S\",\"metadata\":{{\"k\":\"{value}\"}}}}"))
    };
    let own_bytes = "k".len() + "_nats.req.level".len() + "0".len();
    assert!(with(ASSET_METADATA_BYTES_MAX - own_bytes).is_ok());
    let error = with(ASSET_METADATA_BYTES_MAX - own_bytes + 1).expect_err("it is too long");
    assert_eq!(error.err_code, 10052);
    assert_eq!(error.description, "stream metadata exceeds maximum size of 131072 bytes");
}

#[test]
fn features_that_are_not_built_yet_are_refused_by_name() {
    let cases = [
        ("\"mirror\":{\"name\":\"M\"}", "mirror"),
        ("\"sources\":[{\"name\":\"M\"}]", "sources"),
        ("\"allow_atomic\":true", "allow_atomic"),
        ("\"allow_batched\":true", "allow_batched"),
        ("\"allow_msg_counter\":true", "allow_msg_counter"),
        ("\"allow_msg_schedules\":true", "allow_msg_schedules"),
    ];
    let existing = create(&NONE, "S", "{\"name\":\"S\"}").expect("it is valid");
    for (field, name) in cases {
        let body = format!("{{\"name\":\"S\",{field}}}");
        let errors = [create(&NONE, "S", &body), update(&existing, &NONE, "S", &body)];
        for error in errors.map(|result| result.expect_err("it is not built")) {
            assert_eq!((error.code, error.err_code), (500, 10052));
            assert!(error.description.starts_with(name), "{}", error.description);
        }
    }
}

#[test]
fn limits_reach_the_store_and_absent_ones_are_zero() {
    let config = create(&NONE, "S", "{\"name\":\"S\"}").expect("it is valid");
    let limits = StreamLimits {
        duplicate_window_ns: DUPLICATE_WINDOW_NS_DEFAULT,
        ..StreamLimits::default()
    };
    assert_eq!(config.limits(), limits);
    let body = "{\"name\":\"S\",\"max_msgs\":1,\"max_bytes\":2,\"max_age\":300000000,
        \"max_msgs_per_subject\":4,\"discard\":\"new\",\"discard_new_per_subject\":true,
        \"storage\":\"memory\",\"duplicate_window\":100000000,
        \"subject_delete_marker_ttl\":1000000000}";
    let limits = StreamLimits {
        messages_max: 1,
        bytes_max: 2,
        age_ns_max: 300_000_000,
        messages_per_subject_max: 4,
        refuses_new: true,
        refuses_new_per_subject: true,
        is_memory: true,
        duplicate_window_ns: 100_000_000,
        has_times_to_live: true,
        has_rollups: true,
        marker_ttl_ns: SECOND_NS,
        is_async: false,
    };
    assert_eq!(create(&NONE, "S", body).expect("it is valid").limits(), limits);
}

#[test]
fn as_many_subjects_as_are_compared_in_one_go_and_no_more() {
    let with = |count: usize| {
        let subjects: Vec<String> = (0..count).map(|index| format!("\"s.{index}\"")).collect();
        create(&NONE, "S", &format!("{{\"name\":\"S\",\"subjects\":[{}]}}", subjects.join(",")))
    };
    let most = with(ASSET_SUBJECTS_MAX).expect("that many are allowed");
    assert_eq!(most.subjects.len(), ASSET_SUBJECTS_MAX);
    let refused = with(ASSET_SUBJECTS_MAX + 1).expect_err("one more is refused");
    assert_eq!(refused.description, "stream has more than 2048 subjects");
}
