//! Clients that do not keep up, with `no_fast_producer_stall` and `write_timeout`.

mod support;

use std::time::{Duration, Instant};

use support::raw_client::{Fill, RawClient};
use support::server::Server;
use support::{WAIT_MAX, wait_until};

/// Returns a client that has subscribed to `s` and reads nothing more by itself.
fn subscriber(server: &Server) -> RawClient {
    let mut client = RawClient::connect(server.address()).expect("a connection");
    client.send(b"CONNECT {\"verbose\":false}\r\nSUB s 1\r\n").expect("it is open");
    client.round_trip().expect("it is subscribed");
    client
}

/// Publishes to `s` and returns once the server has taken everything.
fn publish(server: &Server, count: usize, size: usize) {
    let mut client = RawClient::connect(server.address()).expect("a connection");
    client.send(b"CONNECT {\"verbose\":false}\r\n").expect("it is open");
    let mut message = format!("PUB s {size}\r\n").into_bytes();
    message.resize(message.len() + size, b'x');
    message.extend_from_slice(b"\r\n");
    for _ in 0..count {
        client.send_all(&message, WAIT_MAX).expect("the publisher stays");
    }
    client.round_trip().expect("all was taken");
}

/// Reads until the answer to a final PING, so nothing more can come. Returns the number of bytes
/// before it.
fn drain(client: &mut RawClient) -> usize {
    let deadline = Instant::now() + WAIT_MAX;
    let mut bytes = 0;
    client.send(b"PING\r\n").expect("it is open");
    loop {
        let unread = client.unread();
        if unread.ends_with(b"PONG\r\n") {
            bytes += unread.len() - b"PONG\r\n".len();
            client.consume(unread.len());
            return bytes;
        }
        // The end is kept, since the answer may come in parts.
        let done = unread.len().saturating_sub(16);
        bytes += done;
        client.consume(done);
        assert_ne!(client.fill(deadline), Fill::TimedOut, "{bytes} bytes came");
        assert!(!client.is_closed(), "{bytes} bytes came");
    }
}

fn counter(server: &Server, name: &str) -> u64 {
    let text = server.monitor_get("/metrics").expect("the monitoring port answers");
    let text = String::from_utf8(text).expect("metrics are text");
    let lines = text.lines().filter(|line| line.starts_with(name));
    let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
    values.sum()
}

/// With several shards, as the consumer may be on another one than the publisher.
#[test]
fn without_stalls_a_slow_consumer_misses_messages_and_stays_and_nobody_waits() {
    const COUNT: usize = 4_000;
    const SIZE: usize = 4096;
    for shards in [1, 2] {
        let server = Server::midge_with(
            shards,
            &["-m", "-1"],
            "max_pending: 4MB\nwrite_deadline: \"60s\"\nno_fast_producer_stall: true",
        );
        let mut slow = subscriber(&server);
        publish(&server, COUNT, SIZE);
        let frame = "MSG s 1 4096\r\n\r\n".len() + SIZE;
        let mut got = 0;
        // Messages to another shard may be on their way when the publisher has its PONG.
        wait_until("every message came or was dropped", || {
            got += drain(&mut slow);
            let dropped = counter(&server, "midge_dropped_messages_total") as usize;
            got / frame + dropped == COUNT
        });
        assert_eq!(got % frame, 0, "whole messages");
        assert!(got / frame < COUNT, "some are dropped");
        assert_eq!(counter(&server, "midge_producer_stalls_total"), 0);
        assert_eq!(counter(&server, "midge_slow_consumers_total"), 0);
        // It has caught up and misses nothing more.
        publish(&server, 10, SIZE);
        let mut more = 0;
        wait_until("the next messages come", || {
            more += drain(&mut slow);
            more == 10 * frame
        });
    }
}

#[test]
fn the_option_is_changed_by_a_reload() {
    let server = Server::midge_with(1, &["-m", "-1"], "max_pending: 4MB\nwrite_deadline: \"60s\"");
    let config = "max_pending: 4MB\nwrite_deadline: \"60s\"\nno_fast_producer_stall: true";
    server.rewrite_config(config).expect("the file can be written");
    let lines = server.log().line_count();
    server.signal(rustix::process::Signal::HUP).expect("it runs");
    let reloaded = server.log().wait_for(lines, WAIT_MAX, |line| {
        line.contains("Reloaded: fast producers will not be stalled").then_some(())
    });
    reloaded.expect("the reload is told");
    let mut slow = subscriber(&server);
    publish(&server, 4_000, 4096);
    assert!(counter(&server, "midge_dropped_messages_total") > 0);
    drain(&mut slow);
}

/// Reads a few bytes at a time until the log has a line with `text`.
fn drip_until(server: &Server, client: &mut RawClient, start_index: usize, text: &str) -> bool {
    let deadline = Instant::now() + WAIT_MAX;
    while Instant::now() < deadline && !client.is_closed() {
        let turn = Duration::from_millis(20);
        let told =
            server.log().wait_for(start_index, turn, |line| line.contains(text).then_some(()));
        if told.is_some() {
            return true;
        }
        client.fill(Instant::now());
        client.consume(client.unread().len());
    }
    false
}

#[test]
fn at_the_write_deadline_retry_keeps_clients_that_take_something_and_close_keeps_none() {
    const COUNT: usize = 16;
    const SIZE: usize = 1_000_000;
    for (policy, stays) in [("retry", true), ("close", false), ("default", false)] {
        let config = format!("write_deadline: \"1s\"\nwrite_timeout: {policy}\ndebug: true");
        let server = Server::midge_with(1, &["-m", "-1"], &config);
        let lines = server.log().line_count();
        let mut slow = subscriber(&server);
        publish(&server, COUNT, SIZE);
        let late = "Slow Consumer Detected: WriteDeadline of 1s exceeded with ";
        assert!(drip_until(&server, &mut slow, lines, late), "{policy}");
        if !stays {
            let reason = "Client connection closed: Slow Consumer (Write Deadline)";
            let closed =
                server.log().wait_for(lines, WAIT_MAX, |line| line.contains(reason).then_some(()));
            closed.expect("it is closed");
            continue;
        }
        assert!(drip_until(&server, &mut slow, lines, "Slow Consumer State: WriteDeadline of 1s"));
        drain(&mut slow);
        let recovered = server.log().wait_for(lines, WAIT_MAX, |line| {
            line.contains("Slow Consumer Recovered: Flush took ").then_some(())
        });
        recovered.expect("it has caught up");
        assert!(counter(&server, "midge_slow_consumers_total") >= 2, "each time is counted");
        slow.round_trip().expect("it stays");
    }
}

/// A client that takes nothing at all is closed in either case.
#[test]
fn retry_closes_clients_that_take_nothing() {
    let server = Server::midge(1, "write_deadline: \"300ms\"\nwrite_timeout: retry\ndebug: true");
    let lines = server.log().line_count();
    let _slow = subscriber(&server);
    publish(&server, 16, 1_000_000);
    let reason = "Client connection closed: Slow Consumer (Write Deadline)";
    let closed = server.log().wait_for(lines, WAIT_MAX, |line| line.contains(reason).then_some(()));
    closed.expect("it is closed");
}
