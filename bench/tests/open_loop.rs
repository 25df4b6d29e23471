//! Latency counts from when a message was due: what a server does to those that wait must show.

mod support;

use midge_bench::load::event_loop::Pacer;
use midge_bench::load::latency::{self, LatencyPlan, Mode};
use midge_bench::load::schedule::Arrival;
use midge_bench::output::progress::Progress;
use midge_bench::output::result::RunResult;
use midge_bench::relay::{self, RelayPlan};
use midge_bench::units::CoreList;
use midge_bench::wire::frames;
use std::net::TcpListener;
use std::time::Duration;
use support::{Action, AnyServer, FakeServer, layout};

fn plan(rate: f64, duration: Duration) -> LatencyPlan {
    LatencyPlan {
        layout: layout(1, 1, 32),
        mode: Mode::OneWay,
        rate,
        arrival: Arrival::Constant,
        pacer: Pacer::Sleep,
        warmup: Duration::ZERO,
        duration,
        pin_load: CoreList::default(),
        load_threads: 1,
        // The tests run beside other work: only the percentiles are judged, not the host.
        late_limit: Duration::from_secs(1),
        late_share_max: 1.0,
        seed: 1,
    }
}

fn milliseconds(result: &RunResult, percentile: &str) -> f64 {
    result.value(&format!("latency_{percentile}_ns")).unwrap() / 1e6
}

#[test]
fn a_stall_shows_in_every_message_that_was_due_meanwhile() {
    // 500 messages a second; every 500th holds everything up for 300 ms, in which 150 more are due. So of
    // each 500 messages 150 wait, from 300 ms down to nothing. A tool that waits for each answer before it
    // sends on would see one slow message in 500 and report a p99 of next to nothing.
    let stall = Duration::from_millis(300);
    let server = FakeServer::start(move |number| match number % 500 {
        250 => Action::Stall(stall),
        _ => Action::Deliver,
    });
    let plan = plan(500.0, Duration::from_secs(4));
    let result =
        latency::run(&server.dialer(), &plan, Err("fake".into()), &Progress::new(true)).unwrap();
    assert!(result.valid, "{:?}", result.faults);
    assert_eq!(result.counts.unwrap().received, 2000);
    assert!(result.counts.unwrap().all_good());
    // Waiting: 30 % of all, evenly from 0 to 300 ms. So p90 is at two thirds of them, 200 ms; p99 at 290.
    let near = |percentile: &str, expected: f64| {
        let value = milliseconds(&result, percentile);
        assert!((value - expected).abs() < 45.0, "{percentile} is {value} ms, not {expected}");
    };
    near("p90", 200.0);
    near("p99", 290.0);
    near("max", 300.0);
    assert!(milliseconds(&result, "max") >= 300.0);
    assert!(milliseconds(&result, "p50") < 45.0);
}

#[test]
fn a_rate_beyond_the_generator_is_marked_invalid() {
    // Through the raw relay, which takes bytes faster than any generator makes them: nothing holds it back.
    let mut plan = plan(30e6, Duration::from_millis(2));
    plan.late_limit = Duration::from_micros(100);
    plan.late_share_max = 0.01;
    let (frame, _) =
        frames::frame(&plan.layout.subjects()[0], None, plan.layout.payload_size, plan.seed);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut dialer = support::dialer(listener.local_addr().unwrap().port());
    dialer.raw = true;
    let relay = RelayPlan { frame_size: frame.len(), queue: false };
    std::thread::spawn(move || relay::serve(&listener, relay).is_ok());
    let result =
        latency::run(&dialer, &plan, Err("a thread".into()), &Progress::new(true)).unwrap();
    assert!(!result.valid);
    assert!(
        result.faults.iter().any(|text| text.contains("the generator was the bottleneck")),
        "{:?}",
        result.faults
    );
    assert!(result.curves["late"].count > 0);
}

#[test]
fn what_was_due_in_a_pause_is_late_and_in_order_and_none_is_missing() {
    // At this rate, beside other tests, more than one message is due at nearly every turn of the thread. All
    // of them must leave, each dated with when it was due.
    let server = AnyServer::start();
    let mut plan = plan(200_000.0, Duration::from_millis(300));
    plan.pacer = Pacer::Spin;
    let result =
        latency::run(&server.dialer(), &plan, Err("not asked".into()), &Progress::new(true))
            .unwrap();
    let counts = result.counts.unwrap();
    assert!(counts.all_good(), "{counts:?}");
    assert_eq!(counts.received, 60_000);
    let held_back = result.value("held_back_share").unwrap() * 60_000.0;
    assert_eq!(result.curves["late"].count + held_back.round() as u64, 60_000);
    assert_eq!(result.curves["latency"].count, 60_000);
}

#[test]
fn requests_are_answered_and_counted_in_both_pacers() {
    for pacer in [Pacer::Spin, Pacer::Sleep] {
        let server = AnyServer::start();
        let mut plan = plan(2000.0, Duration::from_millis(500));
        plan.layout.publisher_count = 7;
        plan.layout.subscriber_count = 2;
        plan.load_threads = 2;
        plan.mode = Mode::Request;
        plan.arrival = Arrival::Poisson;
        plan.pacer = pacer;
        let result =
            latency::run(&server.dialer(), &plan, Err("not asked".into()), &Progress::new(true))
                .unwrap();
        assert!(result.valid, "{pacer:?}: {:?}", result.faults);
        let counts = result.counts.unwrap();
        assert!(counts.all_good() && counts.received > 700, "{counts:?}");
        assert_eq!(result.curves["latency"].count, counts.received);
    }
}

#[test]
fn fan_out_over_several_subjects_and_threads_is_complete() {
    let server = AnyServer::start();
    let mut plan = plan(3000.0, Duration::from_millis(400));
    plan.layout.publisher_count = 3;
    plan.layout.subscriber_count = 4;
    plan.layout.subject_count = 2;
    plan.load_threads = 2;
    let result =
        latency::run(&server.dialer(), &plan, Err("not asked".into()), &Progress::new(true))
            .unwrap();
    assert!(result.valid, "{:?}", result.faults);
    // Each of 1200 messages goes to the two subscribers of its subject.
    assert_eq!(result.counts.unwrap().received, 2400);
}
