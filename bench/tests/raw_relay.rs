//! The raw relay delivers every frame whole: the ceiling is measured with nothing missing.

mod support;

use midge_bench::load::throughput;
use midge_bench::progress::Progress;
use midge_bench::relay::{self, RelayPlan};
use midge_bench::wire::frames;
use std::net::TcpListener;
use support::{dialer, layout, throughput_plan};

fn received_through_relay(
    publishers: usize,
    subscribers: usize,
    payload_size: usize,
    queue: bool,
) -> u64 {
    let mut layout = layout(publishers, subscribers, payload_size);
    layout.queue = queue.then(|| "group".to_string());
    let (frame, _) = frames::frame(&layout.subjects()[0], None, payload_size, 1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let plan = RelayPlan { frame_size: frame.len(), queue };
    std::thread::spawn(move || relay::serve(&listener, plan).is_ok());
    let mut dialer = dialer(port);
    dialer.raw = true;
    let plan = throughput_plan(layout, 20_000);
    let result =
        throughput::run(&dialer, &plan, Err("a thread".into()), &Progress::new(true)).unwrap();
    assert!(result.valid, "{:?}", result.faults);
    let counts = result.counts.unwrap();
    assert_eq!((counts.lost, counts.doubled, counts.foreign), (0, 0, 0));
    if !queue {
        assert_eq!(counts.out_of_order, 0);
    }
    counts.received
}

#[test]
fn the_relay_loses_nothing_in_any_shape() {
    assert_eq!(received_through_relay(1, 1, 16, false), 20_000);
    assert_eq!(received_through_relay(3, 2, 33, false), 120_000);
    assert_eq!(received_through_relay(2, 3, 5000, true), 40_000);
}
