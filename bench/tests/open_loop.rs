//! Latency counts from when a message was due: delays of waiting messages must show.

mod support;

use midge_bench::findings::result::RunResult;
use midge_bench::host::clock::now_ns;
use midge_bench::load::disturbance::Disturbance;
use midge_bench::load::endpoints::Mode;
use midge_bench::load::event_loop::{
    Common, LoadThread, Outgoing, Pacer, Receiver, ReceiverRole, Sender,
};
use midge_bench::load::latency::{self, LatencyPlan};
use midge_bench::load::run::Times;
use midge_bench::load::schedule::{Arrival, Schedule};
use midge_bench::load::tracker::OrderTracker;
use midge_bench::progress::Progress;
use midge_bench::relay::{self, RelayPlan};
use midge_bench::units::CoreList;
use midge_bench::wire::frames;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, AtomicUsize};
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
        // The tests run next to other work: only the percentiles are judged, not the host.
        late_limit: Duration::from_secs(1),
        late_share_max: 1.0,
        seed: 1,
        beside: None,
        pin_beside: CoreList::default(),
    }
}

fn milliseconds(result: &RunResult, percentile: &str) -> f64 {
    result.value(&format!("latency_{percentile}_ns")).unwrap() / 1e6
}

#[test]
fn a_stall_shows_in_every_message_that_was_due_meanwhile() {
    // 500 messages a second; every 500th holds everything up for 300 ms, in which 150 more are due.
    // So of each 500 messages 150 wait, from 300 ms down to nothing. A tool that waits for each
    // answer before it sends on would see one slow message in 500 and report a p99 of next to
    // nothing.
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
    // Waiting: 30 % of all, evenly from 0 to 300 ms. So p90 is at two thirds of them, 200 ms; p99
    // at 290.
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
fn a_misbehaving_client_beside_a_run_is_counted_apart_from_it() {
    let server = FakeServer::start(|_| Action::Deliver);
    for kind in [Disturbance::Flood, Disturbance::Large] {
        // It has the lowest priority: on a busy machine a run may end before its turn comes, and
        // says so.
        let disturbed = [0.5, 5.0, 50.0].into_iter().any(|seconds| {
            let plan = plan(100.0 / seconds, Duration::from_secs_f64(seconds));
            let plan = LatencyPlan { beside: Some(kind), ..plan };
            let result =
                latency::run(&server.dialer(), &plan, Err("fake".into()), &Progress::new(true))
                    .unwrap();
            assert!(result.counts.unwrap().all_good(), "{kind:?}");
            assert_eq!(result.counts.unwrap().received, 100, "{kind:?}");
            let disturbed = result.value("disturbing_messages").unwrap() > 0.0;
            assert_eq!(result.valid, disturbed, "{kind:?}: {:?}", result.faults);
            disturbed
        });
        assert!(disturbed, "{kind:?}");
    }
}

#[test]
fn a_rate_beyond_the_generator_is_marked_invalid() {
    // Through the raw relay, which takes bytes faster than any generator makes them, so that
    // nothing holds the generator back.
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
fn messages_sent_late_by_the_generator_are_late_in_the_latency_too() {
    // A thread that begins 100 ms after its schedule: all hundred messages are due at once, the
    // first of them since 100 ms. Latency from the moment of sending would show next to nothing.
    let server = AnyServer::start();
    let layout = layout(1, 1, 32);
    let mut receiver = server.dialer().connect("receiver", 0).unwrap();
    receiver.subscribe(&layout.subjects()[0], None, 1).unwrap();
    receiver.fence().unwrap();
    let sender = Sender {
        connection: server.dialer().connect("sender", 0).unwrap(),
        index: 0,
        frames: vec![frames::frame(&layout.subjects()[0], None, layout.payload_size, 1)],
        sequence: 0,
        outgoing: Outgoing::default(),
        held_back: false,
        due_ns: Vec::new(),
        tracker: None,
    };
    let role = ReceiverRole::Measure(OrderTracker::new(1, &[true]));
    let times = Times::from_now(0, Duration::ZERO, Duration::from_millis(100));
    let common = Common {
        times,
        pacer: Pacer::Spin,
        sent: vec![AtomicU64::new(0)],
        sending_threads: AtomicUsize::new(1),
    };
    while now_ns() < times.end_ns {
        std::thread::yield_now();
    }
    let schedule = Schedule::new(Arrival::Constant, 1000.0, times.start_ns, 1);
    let receivers = vec![Receiver { connection: receiver, role }];
    let measured = LoadThread::new(&common, Some(schedule), vec![sender], receivers).run();
    assert!(measured.failure.is_none(), "{:?}", measured.failure);
    assert_eq!((measured.sent_count, measured.held_back_count), (100, 0));
    for histogram in [&measured.latency, &measured.late] {
        assert_eq!(histogram.len(), 100);
        // Due 100, 99, ... 1 ms before; the histogram has three digits.
        assert!(histogram.max() >= 99_900_000, "{}", histogram.max());
        assert!(histogram.value_at_quantile(0.5) >= 49_900_000);
        assert!(histogram.min() >= 990_000, "{}", histogram.min());
    }
}

#[test]
fn messages_due_in_a_pause_are_late_and_in_order_and_none_is_missing() {
    // At this rate, next to other tests, more than one message is due in nearly every turn of the
    // thread. All of them must leave, each with the time at which it was due.
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
