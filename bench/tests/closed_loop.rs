//! Closed-loop requests: one in flight per requester, every reply counted, and a result that says
//! what it measures.

mod support;

use midge_bench::findings::result::RunResult;
use midge_bench::load::closed_loop::{self, CURVE, ClosedLoopPlan};
use midge_bench::load::event_loop::Pacer;
use midge_bench::load::layout::Layout;
use midge_bench::progress::Progress;
use midge_bench::units::CoreList;
use midge_bench::wire::connection::Dialer;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::{Action, AnyServer, FakeServer, layout};

fn plan(requesters: usize, duration: Duration) -> ClosedLoopPlan {
    ClosedLoopPlan {
        layout: layout(requesters, 1, 32),
        shift: None,
        pacer: Pacer::Sleep,
        warmup: Duration::ZERO,
        duration,
        pin_load: CoreList::default(),
        load_threads: 1,
        seed: 1,
    }
}

fn run(dialer: &Dialer, plan: &ClosedLoopPlan) -> RunResult {
    closed_loop::run(dialer, plan, Err("not asked".into()), &Progress::new(true)).unwrap()
}

#[test]
fn a_stall_of_one_request_in_fifty_is_in_one_round_trip_of_fifty() {
    // With one requester the requests are the even messages and the replies the odd ones.
    let stall = Duration::from_millis(40);
    let server = FakeServer::start(move |number| match number % 100 {
        50 => Action::Stall(stall),
        _ => Action::Deliver,
    });
    let result = run(&server.dialer(), &plan(1, Duration::from_secs(2)));
    assert!(result.valid, "{:?}", result.faults);
    let round_trips = result.curves[CURVE].decode().unwrap();
    let slow = round_trips.len() - round_trips.count_between(0, 39_999_999);
    let all = result.counts.unwrap().received;
    assert_eq!(round_trips.len(), all, "every reply has its round trip");
    assert!(all > 25, "only {all} replies in 2 s");
    // Every 50th from the 26th on. The host may make others slow as well, but never fewer.
    assert!(slow >= (all + 24) / 50, "{slow} of {all}");
    assert!(result.value("round_trip_max_ns").unwrap() >= 40e6);
    let rate = result.value("requests_per_second").unwrap();
    assert!(
        // Whole replies: the quotient times the divisor may round to a little more than it came
        // from.
        (rate * result.seconds).round() <= all as f64,
        "{rate}/s for {} s, {all} replies",
        result.seconds
    );
    assert!(result.warnings.iter().any(|text| text.starts_with("closed loop:")));
}

#[test]
fn no_requester_ever_has_two_requests_in_flight() {
    // One thread and one responder: with six requesters the server never holds more than six
    // requests that have no reply yet. Requests and replies alternate in number only as far as the
    // six allow.
    let ahead_max = Arc::new(AtomicU64::new(0));
    let requests = Arc::new(AtomicU64::new(0));
    let server = {
        let (ahead_max, requests) = (Arc::clone(&ahead_max), Arc::clone(&requests));
        FakeServer::start_seeing(move |number, subject| {
            let seen = match subject.contains(".inbox.") {
                false => requests.fetch_add(1, Ordering::SeqCst) + 1,
                true => requests.load(Ordering::SeqCst),
            };
            let replies = number + 1 - seen;
            ahead_max.fetch_max(seen - replies, Ordering::SeqCst);
            Action::Deliver
        })
    };
    let result = run(&server.dialer(), &plan(6, Duration::from_millis(500)));
    assert!(result.valid, "{:?}", result.faults);
    assert!(requests.load(Ordering::SeqCst) > 6);
    // Fewer if the host lets one thread of the server answer before another has read.
    assert!((1..=6).contains(&ahead_max.load(Ordering::SeqCst)), "{ahead_max:?}");
    assert_eq!(result.value("requests_in_flight"), Some(6.0));
}

#[test]
fn every_request_is_answered_in_both_pacers_and_over_threads() {
    for (pacer, requesters, responders, threads) in
        [(Pacer::Spin, 1, 1, 1), (Pacer::Spin, 9, 2, 2), (Pacer::Sleep, 9, 3, 2)]
    {
        let server = AnyServer::start();
        let mut plan = plan(requesters, Duration::from_millis(400));
        plan.layout.subscriber_count = responders;
        plan.load_threads = threads;
        plan.pacer = pacer;
        // On a busy host nothing may run for as long as the test lasts: it is then repeated.
        let nothing_came =
            |result: &RunResult| result.counts.unwrap().received <= requesters as u64;
        let mut result = run(&server.dialer(), &plan);
        for _ in 0..5 {
            if !nothing_came(&result) {
                break;
            }
            plan.layout.subject_prefix.push('x');
            result = run(&server.dialer(), &plan);
        }
        assert!(result.valid, "{pacer:?}: {:?}", result.faults);
        let counts = result.counts.unwrap();
        assert!(counts.all_good(), "{counts:?}");
        assert!(counts.received > requesters as u64, "one and only one each: {counts:?}");
        // Where the load had to wait between the look at the clock and the send, a requester's last
        // request is sent after the end: it is answered and counts, but is not timed.
        let untimed = counts.received - result.curves[CURVE].count;
        assert!(untimed <= requesters as u64, "{untimed} of {counts:?}");
    }
}

#[test]
fn a_lost_reply_makes_the_run_invalid_and_a_doubled_one_starts_no_second_request() {
    let server = FakeServer::start(|number| match number {
        100 => Action::Double,
        _ => Action::Deliver,
    });
    let result = run(&server.dialer(), &plan(1, Duration::from_millis(300)));
    assert_eq!(result.counts.unwrap().doubled, 1, "request 50 came twice to the responder");
    assert_eq!(result.counts.unwrap().lost, 0);
    assert!(!result.valid);

    let server = FakeServer::start(|number| match number {
        101 => Action::Drop,
        _ => Action::Deliver,
    });
    let result = run(&server.dialer(), &plan(1, Duration::from_millis(300)));
    assert!(!result.valid);
    assert_eq!(result.counts.unwrap().lost, 1);
    assert!(
        result.faults.iter().any(|text| text.contains("1 replies were lost")),
        "{:?}",
        result.faults
    );
}

#[test]
fn partners_that_change_ask_every_responder_and_every_request_is_answered_once() {
    let asked = Arc::new(std::sync::Mutex::new(std::collections::BTreeMap::new()));
    let server = {
        let asked = Arc::clone(&asked);
        FakeServer::start_seeing(move |_, subject| {
            if !subject.contains(".inbox.") {
                *asked.lock().unwrap().entry(subject.to_string()).or_insert(0u64) += 1;
            }
            Action::Deliver
        })
    };
    let shift = Some(Duration::from_millis(100));
    let shape = Layout { subject_count: 3, paired: true, ..layout(3, 3, 32) };
    let plan = ClosedLoopPlan { layout: shape, shift, ..plan(3, Duration::from_millis(800)) };
    let result = run(&server.dialer(), &plan);
    assert!(result.valid, "{:?}", result.faults);
    assert!(result.counts.unwrap().all_good());
    assert!(result.workload.ends_with("partners change every 0.1 s"), "{}", result.workload);
    assert_eq!(asked.lock().unwrap().len(), 3, "{:?}", asked.lock().unwrap());
    // With a single responder there is none to change to.
    let alone = ClosedLoopPlan { layout: layout(3, 1, 32), ..plan };
    let progress = Progress::new(true);
    let refused = closed_loop::run(&server.dialer(), &alone, Err("not asked".into()), &progress);
    assert!(refused.unwrap_err().to_string().contains("partners"));
}
