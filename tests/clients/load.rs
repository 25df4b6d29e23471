//! Amounts: order under load, full lanes, consumers that are too slow, memory that is given back.

use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use midge::testing::base::limits::{POOLED_BYTES_MAX, READ_BUFFER_BYTES};
use rustix::process::Signal;

use super::{SHARD_COUNTS, connect, next, publish, subscribe};
use crate::support::raw_client::{Fill, RawClient};
use crate::support::server::{Directory, Server};
use crate::support::{WAIT_MAX, allow_open_files, wait_until};

/// Time for one flood on a machine that is busy with something else.
const FLOOD_MAX: Duration = Duration::from_secs(120);

const CONNECT: &[u8] = b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n";

/// A raw connection that is past INFO and has subscribed.
fn subscriber(server: &Server, subject: &str) -> RawClient {
    let mut client = RawClient::connect(server.address()).unwrap();
    client.send(CONNECT).unwrap();
    client.send(format!("SUB {subject} 1\r\n").as_bytes()).unwrap();
    client.round_trip().unwrap();
    client
}

/// Publishes `count` messages of `size` bytes to `subject`; each payload begins with its number.
fn publisher(server: &Server, subject: String, count: usize, size: usize) -> JoinHandle<RawClient> {
    let mut client = RawClient::connect(server.address()).unwrap();
    client.send(CONNECT).unwrap();
    client.round_trip().unwrap();
    std::thread::spawn(move || {
        let mut batch = Vec::new();
        for number in 0..count {
            batch.extend_from_slice(format!("PUB {subject} {size}\r\n{number:08}").as_bytes());
            batch.resize(batch.len() + size - 8, b'.');
            batch.extend_from_slice(b"\r\n");
            if batch.len() > 64 << 10 {
                client.send_all(&batch, FLOOD_MAX).unwrap();
                batch.clear();
            }
        }
        client.send_all(&batch, FLOOD_MAX).unwrap();
        client
    })
}

/// Takes `MSG` lines with their payloads; passes publisher and number of each to `each`.
fn take_messages(client: &mut RawClient, count: usize, mut each: impl FnMut(&[u8], usize)) {
    let deadline = Instant::now() + FLOOD_MAX;
    let mut left = count;
    while left > 0 {
        let mut consumed = 0;
        while left > 0 {
            let unread = &client.unread()[consumed..];
            let Some(end) = unread.iter().position(|byte| *byte == b'\n') else { break };
            let line = &unread[..end];
            if !line.starts_with(b"MSG ") {
                assert!(line.starts_with(b"PING"), "{:?}", String::from_utf8_lossy(line));
                consumed += end + 1;
                client.answer_ping();
                break;
            }
            let mut words = line.trim_ascii_end().split(|byte| *byte == b' ');
            let subject = words.nth(1).expect("a subject");
            let size = words.next_back().expect("a size");
            let size: usize = str::from_utf8(size).unwrap().parse().unwrap();
            let Some(payload) = unread.get(end + 1..end + 1 + size + 2) else { break };
            assert_eq!(&payload[size..], b"\r\n");
            each(subject, str::from_utf8(&payload[..8]).unwrap().parse().unwrap());
            consumed += end + 1 + size + 2;
            left -= 1;
        }
        client.consume(consumed);
        if left > 0 {
            assert_eq!(client.fill(deadline), Fill::Grown, "{left} messages did not come");
        }
    }
}

/// Takes `count` messages of each publisher, and checks that each publisher's come in order, each
/// once, and that nothing comes after them.
fn check_order(client: &mut RawClient, publishers: usize, count: usize) {
    let mut expected = vec![0; publishers];
    take_messages(client, publishers * count, |subject, number| {
        let (_, publisher) = str::from_utf8(subject).unwrap().rsplit_once('.').unwrap();
        let expected = &mut expected[publisher.parse::<usize>().unwrap()];
        assert_eq!(number, *expected, "from publisher {publisher}");
        *expected += 1;
    });
    assert!(expected.iter().all(|next| *next == count));
    client.round_trip().expect("nothing but PONG comes after the last message");
}

fn order_is_kept(publishers: usize, subscribers: usize, count: usize, size: usize) {
    for shard_count in SHARD_COUNTS {
        println!("on {shard_count} shards");
        let server = Server::midge(shard_count, "max_pending: 1GB");
        let readers: Vec<_> = (0..subscribers)
            .map(|index| {
                let filter = if index % 2 == 0 { "order.*" } else { "order.>" };
                let mut client = subscriber(&server, filter);
                std::thread::spawn(move || check_order(&mut client, publishers, count))
            })
            .collect();
        let writers: Vec<_> = (0..publishers)
            .map(|index| publisher(&server, format!("order.{index}"), count, size))
            .collect();
        for writer in writers {
            writer.join().unwrap().round_trip().unwrap();
        }
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    }
}

#[test]
fn order_per_publisher_is_kept_for_small_messages() {
    order_is_kept(6, 6, 5_000, 16);
}

#[test]
fn order_per_publisher_is_kept_for_messages_of_100_kib() {
    order_is_kept(4, 4, 120, 100 << 10);
}

#[test]
fn a_subscription_is_in_force_everywhere_once_its_pong_came() {
    const PAIRS: usize = 10;
    const ROUNDS: usize = 1_000;
    for shard_count in SHARD_COUNTS {
        let server = Server::midge(shard_count, "");
        let pairs: Vec<_> = (0..PAIRS)
            .map(|pair| {
                let mut subscribing = subscriber(&server, "own");
                let mut publishing = subscriber(&server, "own");
                std::thread::spawn(move || {
                    for round in 0..ROUNDS {
                        let subject = format!("fence.{pair}.{round}");
                        let line = format!("SUB {subject} r{round}\r\n");
                        subscribing.send(line.as_bytes()).unwrap();
                        subscribing.round_trip().unwrap();
                        let message = format!("PUB {subject} 2\r\nhi\r\n");
                        publishing.send(message.as_bytes()).unwrap();
                        let deadline = Instant::now() + WAIT_MAX;
                        let line = subscribing.take_message_line(deadline);
                        assert_eq!(line, format!("MSG {subject} r{round} 2\r\n").as_bytes());
                        assert_eq!(subscribing.take_message_line(deadline), b"hi\r\n");
                        let line = format!("UNSUB r{round}\r\n");
                        subscribing.send(line.as_bytes()).unwrap();
                    }
                })
            })
            .collect();
        pairs.into_iter().for_each(|pair| pair.join().unwrap());
    }
}

/// One publisher, many subscribers: the subscribers' shards have far more to do than the
/// publisher's, so the lanes to them fill up and the publisher must be slowed down.
#[test]
fn nothing_is_lost_or_doubled_when_lanes_are_full() {
    order_is_kept(1, 16, 20_000, 1_000);
}

#[test]
fn fan_out_while_subscriptions_come_and_go_loses_nothing_for_those_that_stay() {
    for shard_count in SHARD_COUNTS {
        let server = Server::midge(shard_count, "");
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let mut client = subscriber(&server, "order.*");
                std::thread::spawn(move || check_order(&mut client, 1, 30_000))
            })
            .collect();
        let writer = publisher(&server, "order.0".into(), 30_000, 64);
        let mut restless = RawClient::connect(server.address()).unwrap();
        restless.send(CONNECT).unwrap();
        for sid in 0..500 {
            // The subscription may get messages, so its PONG is not the next line.
            restless.send(format!("SUB order.> {sid}\r\nUNSUB {sid}\r\n").as_bytes()).unwrap();
            restless.send(b"PING\r\n").unwrap();
            let deadline = Instant::now() + WAIT_MAX;
            while restless.take_line(deadline).expect("PONG") != b"PONG\r\n" {}
        }
        writer.join().unwrap();
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_consumer_is_closed_with_its_reason_and_nobody_else_is_harmed() {
    const PENDING_MIB_MAX: u64 = 8;
    const PAYLOAD: usize = 64 << 10;
    // The healthy one is never half of max_pending behind, however little CPU time its reader gets.
    const AHEAD: usize = (PENDING_MIB_MAX << 20) as usize / 2 / PAYLOAD;
    for shard_count in SHARD_COUNTS {
        println!("on {shard_count} shards");
        let config = format!("max_pending: {PENDING_MIB_MAX}MB");
        let server = Server::midge_with(shard_count, &["-D"], &config);
        let (publishing, healthy) = (connect(&server).await, connect(&server).await);
        let mut stuck: Vec<RawClient> = (0..3).map(|_| subscriber(&server, "flood")).collect();
        let mut received = subscribe(&healthy, "flood").await;
        let before_kib = server.memory_kib("VmRSS");
        // What the kernel buffers for a connection that does not read is in addition to
        // max_pending.
        let payload = vec![b'x'; PAYLOAD];
        for _ in 0..1_600 / AHEAD {
            for _ in 0..AHEAD {
                publish(&publishing, "flood", payload.clone()).await;
            }
            for _ in 0..AHEAD {
                assert_eq!(next(&mut received).await.payload.len(), PAYLOAD);
            }
        }
        for client in &stuck {
            let who = format!(":{} - cid:", client.local_port());
            let reason = "Client connection closed: Slow Consumer (Pending Bytes)";
            let closed = |line: &str| (line.contains(&who) && line.contains(reason)).then_some(());
            let found = server.log().wait_for(0, WAIT_MAX, closed);
            assert!(found.is_some(), "{}", server.log().lines().join("\n"));
        }
        let notice =
            format!("Slow Consumer Detected: MaxPending of {} Exceeded", PENDING_MIB_MAX << 20);
        let noticed = server.log().lines().iter().filter(|line| line.contains(&notice)).count();
        assert_eq!(noticed, stuck.len(), "{}", server.log().lines().join("\n"));
        for client in &mut stuck {
            // Bytes that the kernel had taken still come; an error text does not.
            let deadline = Instant::now() + WAIT_MAX;
            let mut tail = Vec::new();
            while client.fill(deadline) == Fill::Grown {
                tail.clear();
                tail.extend_from_slice(client.unread());
                client.consume(tail.len());
            }
            assert!(client.is_closed());
            assert!(!tail.windows(4).any(|window| window == b"-ERR"));
        }
        let peak_kib = server.memory_kib("VmHWM");
        // Four consumers with everything pending, and as much again for chunks in flight and what
        // the allocator keeps, are 64 MiB; then there is what may be on its way through the lanes.
        // All of it is far below the 400 MiB that were published to the four.
        let bound_kib = before_kib + (128 << 10);
        assert!(peak_kib < bound_kib, "{peak_kib} KiB at most, {bound_kib} KiB expected");
        publish(&publishing, "flood", "after").await;
        assert_eq!(&next(&mut received).await.payload[..], b"after");
    }
}

#[test]
fn a_consumer_that_takes_nothing_is_closed_at_the_write_deadline() {
    for driver in ["io_uring", "epoll"] {
        let config = "write_deadline: \"500ms\", max_pending: 64MB";
        let server = Server::midge_with(2, &["-D", "--io-driver", driver], config);
        let stuck = subscriber(&server, "flood");
        publisher(&server, "flood".into(), 200, 64 << 10).join().unwrap().round_trip().unwrap();
        let who = format!(":{} - cid:", stuck.local_port());
        let find = |line: &str| {
            let reason = "Client connection closed: Slow Consumer (Write Deadline)";
            (line.contains(&who) && line.contains(reason)).then_some(())
        };
        let found = server.log().wait_for(0, WAIT_MAX, find);
        assert!(found.is_some(), "{driver}: {}", server.log().lines().join("\n"));
        let notice = "Slow Consumer Detected: WriteDeadline of 500ms exceeded with ";
        assert!(server.log().lines().iter().any(|line| line.contains(notice)), "{driver}");
    }
}

/// A publisher whose consumer keeps up, though slowly, is slowed down, and the consumer is not
/// closed.
#[test]
fn a_consumer_that_moves_slows_its_publisher_instead_of_being_cut() {
    for shard_count in SHARD_COUNTS {
        let server = Server::midge(shard_count, "max_pending: 32MB");
        let mut reading = subscriber(&server, "order.0");
        let writer = publisher(&server, "order.0".into(), 100_000, 1_000);
        check_order(&mut reading, 1, 100_000);
        writer.join().unwrap().round_trip().unwrap();
    }
}

#[test]
fn memory_of_a_burst_is_given_back_when_connections_fall_idle() {
    const CONNECTIONS: u64 = 600;
    allow_open_files(2_000);
    for driver in ["io_uring", "epoll"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_midge"));
        command.args(["-a", "127.0.0.1", "-p", "-1", "--shards", "1", "--no-pin"]);
        // Freed memory must show at once: the allocator otherwise keeps it for a while.
        command.args(["--io-driver", driver]).env("MIMALLOC_PURGE_DELAY", "0");
        let server = Server::start_command(command, Directory::new().unwrap()).unwrap();
        let mut clients: Vec<RawClient> =
            (0..CONNECTIONS).map(|index| subscriber(&server, &format!("own.{index}"))).collect();
        let idle_kib = server.memory_kib("VmRSS");
        // A connection that reads this much at a time gets one of the larger buffers.
        let mut message = b"PUB nobody 130000\r\n".to_vec();
        message.resize(message.len() + 130_000, b'x');
        message.extend_from_slice(b"\r\n");
        for client in &mut clients {
            client.send_all(&message, WAIT_MAX).unwrap();
        }
        clients.iter_mut().for_each(|client| client.round_trip().unwrap());
        let peak_kib = server.memory_kib("VmHWM");
        assert!(peak_kib > idle_kib + CONNECTIONS * 48, "{driver}: {idle_kib}, {peak_kib} KiB");
        // Some free buffers of each class are kept for the next burst; 12 MiB are for the
        // allocator.
        let kept_bytes = POOLED_BYTES_MAX * READ_BUFFER_BYTES.len();
        let bound_kib = idle_kib + kept_bytes as u64 / 1024 + (12 << 10);
        wait_until(&format!("{driver}: fewer than {bound_kib} KiB, once {peak_kib} KiB"), || {
            server.memory_kib("VmRSS") < bound_kib
        });
        clients.iter_mut().for_each(|client| client.round_trip().unwrap());
    }
}

/// The memory of many connections that have gone is given back by a few remaining ones: the shards'
/// tables, their pools of buffers, the allocator.
#[test]
fn memory_of_a_burst_is_given_back_when_its_connections_are_gone() {
    const CONNECTIONS: usize = 900;
    // Fewer than are worth huge pages, which stay.
    const SUBSCRIPTIONS: usize = 40_000;
    allow_open_files(2_000);
    let mut command = Command::new(env!("CARGO_BIN_EXE_midge"));
    command.args(["-a", "127.0.0.1", "-p", "-1", "--shards", "2", "--no-pin"]);
    command.env("MIMALLOC_PURGE_DELAY", "0");
    let server = Server::start_command(command, Directory::new().unwrap()).unwrap();
    drop(subscriber(&server, "first"));
    let before_kib = server.memory_kib("RssAnon");
    let clients: Vec<RawClient> =
        (0..CONNECTIONS).map(|index| subscriber(&server, &format!("own.{index}"))).collect();
    let mut greedy = subscriber(&server, "greedy");
    let lines: String =
        (2..SUBSCRIPTIONS).map(|sid| format!("SUB greedy.{sid} {sid}\r\n")).collect();
    greedy.send_all(lines.as_bytes(), WAIT_MAX).unwrap();
    greedy.round_trip().unwrap();
    let grown_kib = server.memory_kib("RssAnon") - before_kib;
    assert!(grown_kib > 16 << 10, "{grown_kib} KiB");
    drop(clients);
    drop(greedy);
    // A quarter, most of which the allocator keeps: with more than this, something still holds its
    // memory.
    let bound_kib = before_kib + grown_kib / 4;
    wait_until(&format!("fewer than {bound_kib} KiB: {before_kib} and {grown_kib} more"), || {
        server.memory_kib("RssAnon") < bound_kib
    });
}

/// Partial commands cost the memory of what has arrived, not of what they announce.
#[test]
fn an_announced_payload_costs_no_memory_before_it_arrives() {
    let server = Server::midge(1, "max_payload: 64MB");
    let before_kib = server.memory_kib("VmRSS");
    let mut clients: Vec<RawClient> = (0..100)
        .map(|_| {
            let mut client = RawClient::connect(server.address()).unwrap();
            client.send(CONNECT).unwrap();
            client.round_trip().unwrap();
            client.send(b"PUB a 60000000\r\nabc").unwrap();
            client
        })
        .collect();
    let mut other = RawClient::connect(server.address()).unwrap();
    other.round_trip().unwrap();
    let peak_kib = server.memory_kib("VmHWM");
    assert!(peak_kib < before_kib + (20 << 10), "{before_kib} KiB became {peak_kib} KiB");
    clients.iter_mut().for_each(|client| client.send(b"d").unwrap());
    server.signal(Signal::TERM).unwrap();
}
