//! io_uring and epoll: the same server, and both are quiet when nothing happens.

use std::time::{Duration, Instant};

use super::*;

/// Checks that a message gets from a publisher to a subscriber.
fn publishes(server: &Server) {
    let mut subscriber = RawClient::connect(server.address()).unwrap();
    subscriber.send(b"CONNECT {\"verbose\":false}\r\nSUB foo 1\r\n").unwrap();
    subscriber.round_trip().unwrap();
    let mut publisher = RawClient::connect(server.address()).unwrap();
    publisher.send(b"CONNECT {\"verbose\":false}\r\nPUB foo 2\r\nhi\r\n").unwrap();
    let deadline = Instant::now() + WAIT_MAX;
    assert_eq!(subscriber.take_message_line(deadline), b"MSG foo 1 2\r\n");
    assert_eq!(subscriber.take_message_line(deadline), b"hi\r\n");
}

#[test]
fn each_driver_serves_and_is_named_in_the_log() {
    for (wanted, names) in
        [("epoll", &["epoll"][..]), ("io_uring", &["io_uring"]), ("auto", &["io_uring", "epoll"])]
    {
        let server = Server::midge_with(2, &["--io-driver", wanted], "");
        let text = log(&server);
        let named = names.iter().any(|name| text.contains(&format!("Shards:   2 on {name}")));
        assert!(named, "{wanted}: {text}");
        (0..10).for_each(|_| publishes(&server));
    }
}

#[test]
fn lame_duck_and_exit_work_on_both_drivers() {
    for driver in ["epoll", "io_uring"] {
        let config = "lame_duck_duration: 30s, lame_duck_grace_period: 100ms";
        let mut server = Server::midge_with(2, &["--io-driver", driver, "-D"], config);
        let mut client = RawClient::connect(server.address()).unwrap();
        client.send(b"CONNECT {\"verbose\":false,\"protocol\":1}\r\n").unwrap();
        client.round_trip().unwrap();
        server.signal(Signal::USR2).unwrap();
        let deadline = Instant::now() + WAIT_MAX;
        let lines: Vec<Vec<u8>> = std::iter::from_fn(|| client.take_line(deadline)).collect();
        let told = lines.iter().any(|line| String::from_utf8_lossy(line).contains("\"ldm\":true"));
        assert!(told && client.is_closed(), "{driver}: {lines:?}");
        assert_eq!(exit_code(&mut server), Some(0), "{driver}");
        assert!(log(&server).contains("Client connection closed: Server Shutdown"), "{driver}");
    }
}

#[test]
fn an_idle_server_with_100_connections_uses_almost_no_cpu() {
    for driver in ["io_uring", "epoll"] {
        let server = Server::midge_with(2, &["--io-driver", driver], "");
        let mut clients: Vec<RawClient> =
            (0..100).map(|_| RawClient::connect(server.address()).unwrap()).collect();
        clients.iter_mut().for_each(|client| client.round_trip().unwrap());
        let ticks = idle_ticks(&server, Duration::from_secs(2));
        // A tick is 10 ms, so a spinning shard would use 200.
        assert!(ticks <= 10, "{driver}: {ticks} ticks in two seconds");
    }
}

#[test]
fn a_busy_polling_server_serves_and_still_falls_asleep() {
    for driver in ["io_uring", "epoll"] {
        let arguments = ["--io-driver", driver, "--busy-poll", "50"];
        let server = Server::midge_with(2, &arguments, "");
        (0..10).for_each(|_| publishes(&server));
        let mut client = RawClient::connect(server.address()).unwrap();
        client.round_trip().unwrap();
        let ticks = idle_ticks(&server, Duration::from_secs(2));
        assert!(ticks <= 10, "{driver}: {ticks} ticks in two seconds");
        client.round_trip().unwrap();
    }
}

/// A shard that always has something to do must check its clock nevertheless.
#[test]
fn timers_fire_while_a_shard_is_never_idle() {
    for (driver, busy_poll) in
        [("io_uring", "0"), ("io_uring", "50"), ("epoll", "0"), ("epoll", "50")]
    {
        let arguments = ["--io-driver", driver, "--busy-poll", busy_poll];
        let server = Server::midge_with(1, &arguments, "ping_interval: 400ms, ping_max: 100");
        let mut quiet = RawClient::connect(server.address()).unwrap();
        quiet.send(b"CONNECT {\"verbose\":false}\r\n").unwrap();
        quiet.round_trip().unwrap();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let floods: Vec<_> = (0..2)
            .map(|_| {
                let mut client = RawClient::connect(server.address()).unwrap();
                let stop = stop.clone();
                client.send(b"CONNECT {\"verbose\":false}\r\n").unwrap();
                std::thread::spawn(move || {
                    let batch = b"PUB nobody 2\r\nhi\r\n".repeat(2000);
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        client.send_all(&batch, WAIT_MAX).unwrap();
                    }
                })
            })
            .collect();
        let mut arrivals = Vec::new();
        for _ in 0..4 {
            let line = quiet.take_line(Instant::now() + WAIT_MAX);
            let what =
                format!("{driver}, {busy_poll}, closed: {}: {}", quiet.is_closed(), log(&server));
            assert_eq!(line.as_deref(), Some(&b"PING\r\n"[..]), "{what}");
            arrivals.push(Instant::now());
            quiet.answer_ping();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        floods.into_iter().for_each(|flood| flood.join().unwrap());
        let took = arrivals[3] - arrivals[0];
        // Three intervals of 400 ms, on a machine that is busy with other things.
        assert!(took < Duration::from_secs(6), "{driver}, {busy_poll}: {took:?}");
    }
}
