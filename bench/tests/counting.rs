//! Every message is counted: what a server loses, doubles or reorders must be in the counts,
//! exactly.

mod support;

use midge_bench::findings::counts::Counts;
use midge_bench::findings::result::RunResult;
use midge_bench::load::throughput;
use midge_bench::progress::Progress;
use support::{Action, AnyServer, FakeServer, layout, throughput_plan};

fn run(server: &FakeServer, messages: u64) -> RunResult {
    let plan = throughput_plan(layout(1, 1, 16), messages);
    throughput::run(&server.dialer(), &plan, Err("fake".into()), &Progress::new(true)).unwrap()
}

#[test]
fn losses_doubles_and_swaps_are_in_the_counts() {
    let server = FakeServer::start(|number| match number {
        100..110 => Action::Drop,
        500 | 700 => Action::Double,
        900 | 950 | 990 => Action::Hold,
        4999 => Action::Drop,
        _ => Action::Deliver,
    });
    let result = run(&server, 5000);
    let expected = Counts { received: 4991, lost: 11, doubled: 2, out_of_order: 3, foreign: 0 };
    assert_eq!(result.counts, Some(expected));
    assert!(
        result.warnings.iter().any(|text| text.contains("11 were lost")),
        "{:?}",
        result.warnings
    );
}

#[test]
fn a_double_of_the_very_last_message_is_seen() {
    let server =
        FakeServer::start(|number| if number == 999 { Action::Double } else { Action::Deliver });
    assert_eq!(run(&server, 1000).counts.unwrap().doubled, 1);
}

#[test]
fn every_shape_is_complete_on_a_server_that_does_nothing_wrong() {
    let server = AnyServer::start();
    let shapes = [
        (1, 1, 1, false, false),
        (3, 2, 1, false, false),
        (2, 3, 10, false, false),
        (2, 5, 3, false, false),
        (2, 3, 10, true, false),
        (2, 3, 1, false, true),
        (2, 3, 4, false, true),
    ];
    for (publishers, subscribers, subjects, wildcard, queue) in shapes {
        for payload_size in [8, 16, 1000] {
            let mut layout = layout(publishers, subscribers, payload_size);
            layout.subject_count = subjects;
            layout.wildcard = wildcard;
            layout.queue = queue.then(|| "group".to_string());
            let label = layout.label();
            let plan = throughput_plan(layout, 3000);
            let result = throughput::run(
                &server.dialer(),
                &plan,
                Err("not asked".into()),
                &Progress::new(true),
            )
            .unwrap();
            assert!(result.valid, "{label}: {:?}", result.faults);
            let counts = result.counts.unwrap();
            assert!(counts.all_good(), "{label}: {counts:?}");
            let sent = 3000 * publishers as u64;
            let expected = match (queue, wildcard, subjects) {
                (true, ..) => sent,
                (_, true, _) => sent * subscribers as u64,
                (_, _, 1) => sent * subscribers as u64,
                // Ten subjects over three subscribers: each message to one. Five over three: 2, 2
                // and 1.
                (_, _, 10) => sent,
                _ => publishers as u64 * (1000 * 2 + 1000 * 2 + 1000),
            };
            assert_eq!(counts.received, expected, "{label}");
        }
    }
}

#[test]
fn payloads_too_short_for_a_sequence_are_counted_by_number() {
    let server = AnyServer::start();
    let plan = throughput_plan(layout(2, 2, 0), 500);
    let result =
        throughput::run(&server.dialer(), &plan, Err("not asked".into()), &Progress::new(true))
            .unwrap();
    assert_eq!(result.counts.unwrap().received, 2000);
    assert!(result.valid && result.counts.unwrap().all_good());
}
