//! Clients that move to another shard at their first subscription or message: `--balance
//! next-shard` makes each one do so. `--balance wander` makes them move on at each tick besides. Nobody must notice, neither the client nor whoever looks at it
//! or ends it.

mod support;

use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;
use support::WAIT_MAX;
use support::certificates::Authority;
use support::raw_client::{Fill, RawClient};
use support::server::Server;
use support::tls_client::{Opening, TlsClient};

const CONNECT: &str = "CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":1}\r\n";
const DRIVERS: [&str; 2] = ["io_uring", "epoll"];

fn start(shards: usize, driver: &str, config: &str) -> Server {
    start_with("next-shard", shards, driver, config)
}

fn start_with(balance: &str, shards: usize, driver: &str, config: &str) -> Server {
    let arguments = ["--balance", balance, "--io-driver", driver];
    Server::midge_with(shards, &arguments, &format!("http: \"127.0.0.1:-1\"\n{config}"))
}

/// Starts a server that asks each client to move on twenty times a second.
fn wandering(shards: usize, driver: &str) -> Server {
    start_with("wander", shards, driver, "ping_interval: \"200ms\"\nping_max: 1000000")
}

/// Returns how often clients moved after they had been placed.
fn moved(server: &Server) -> u64 {
    let body = server.monitor_get("/varz").expect("monitoring answers");
    let varz: Value = serde_json::from_slice(&body).expect("JSON");
    let shards = varz["midge"]["shards"].as_array().expect("there are shards");
    shards.iter().map(|shard| shard["moved_in"].as_u64().expect("a number")).sum()
}

fn enter(server: &Server, connect: &str) -> RawClient {
    let mut client = RawClient::connect(server.address()).expect("the server listens");
    client.send(connect.as_bytes()).expect("the server reads");
    client.round_trip().expect("it was let in");
    client
}

/// Returns the next line that is not an INFO.
fn line(client: &mut RawClient) -> String {
    loop {
        let line = client.take_message_line(Instant::now() + WAIT_MAX);
        if !line.starts_with(b"INFO ") {
            return String::from_utf8_lossy(&line).trim_end().to_owned();
        }
    }
}

fn connections(server: &Server) -> Vec<Value> {
    let body = server.monitor_get("/connz?limit=1000").expect("monitoring answers");
    let answer: Value = serde_json::from_slice(&body).expect("JSON");
    answer["connections"].as_array().expect("a list").clone()
}

/// Returns the number of connections of each shard.
fn per_shard(server: &Server) -> Vec<u64> {
    let body = server.monitor_get("/metrics").expect("monitoring answers");
    let text = String::from_utf8_lossy(&body).into_owned();
    let of_shard = |line: &str| line.rsplit(' ').next()?.parse().ok();
    text.lines()
        .filter(|line| line.starts_with("midge_connections{shard="))
        .filter_map(of_shard)
        .collect()
}

#[test]
fn clients_that_moved_receive_each_others_messages_and_are_reported_once() {
    for driver in DRIVERS {
        let server = start(2, driver, "");
        // Enough that both shards have some, and an unequal number.
        let mut clients: Vec<RawClient> = (0..31).map(|_| enter(&server, CONNECT)).collect();
        let before = per_shard(&server);
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(format!("SUB all 1\r\nSUB own.{number} 2\r\n").as_bytes()).unwrap();
            client.round_trip().expect("it is served");
        }
        let mut after = per_shard(&server);
        after.reverse();
        assert_eq!(after, before, "each is on the other shard now");
        clients[0].send(b"PUB all 2\r\nhi\r\n").unwrap();
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!([line(client), line(client)], ["MSG all 1 2", "hi"]);
            client.send(format!("PUB own.{number} 3\r\nown\r\n").as_bytes()).unwrap();
            assert_eq!(
                [line(client), line(client)],
                [format!("MSG own.{number} 2 3"), "own".into()]
            );
        }
        let seen = connections(&server);
        let mut ids: Vec<u64> = seen.iter().map(|one| one["cid"].as_u64().unwrap()).collect();
        ids.sort_unstable();
        assert_eq!(ids, (5..5 + 31).collect::<Vec<u64>>());
        for one in &seen {
            let sent = if one["cid"] == 5 { 2 } else { 1 };
            assert_eq!(
                (one["in_msgs"].as_u64(), one["out_msgs"].as_u64()),
                (Some(sent), Some(2)),
                "{one}"
            );
            assert_eq!(one["subscriptions"], 2);
        }
        drop(clients);
        support::wait_until("all to be gone", || connections(&server).is_empty());
        assert_eq!(per_shard(&server), [0, 0]);
    }
}

#[test]
fn everything_that_was_read_goes_along_whatever_it_begins_with() {
    for driver in DRIVERS {
        let server = start(3, driver, "");
        let mut ear = enter(&server, CONNECT);
        ear.send(b"SUB > 1\r\n").unwrap();
        ear.round_trip().expect("it is served");
        let large = "x".repeat(300_000);
        for first in ["SUB s 9\r\nPING\r\n", "PING\r\nPUB a 1\r\na\r\n", ""] {
            let mut client = RawClient::connect(server.address()).unwrap();
            let text =
                format!("{CONNECT}{first}PUB b 300000\r\n{large}\r\nPUB c 1\r\nc\r\nPING\r\n");
            client.send(text.as_bytes()).unwrap();
            let pongs = text.matches("PING\r\n").count();
            (0..pongs).for_each(|_| assert_eq!(line(&mut client), "PONG"));
            if first.contains("PUB a") {
                assert_eq!([line(&mut ear), line(&mut ear)], ["MSG a 1 1", "a"]);
            }
            assert_eq!(line(&mut ear), "MSG b 1 300000");
            assert_eq!(line(&mut ear), large);
            assert_eq!([line(&mut ear), line(&mut ear)], ["MSG c 1 1", "c"]);
        }
    }
}

#[test]
fn tls_goes_along_in_both_versions() {
    let authority = Authority::new("test authority");
    let pair = authority.issue_local();
    let folder = support::server::Directory::new().expect("a folder");
    std::fs::write(folder.join("server.pem"), &pair.certificate_pem).unwrap();
    std::fs::write(folder.join("server.key"), &pair.key_pem).unwrap();
    let place = folder.display();
    let tls =
        format!("tls {{ cert_file: \"{place}/server.pem\", key_file: \"{place}/server.key\" }}");
    for driver in DRIVERS {
        let server = start(2, driver, &tls);
        for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
            let opening = Opening {
                authority_pem: &authority.pem,
                own: None,
                name: "localhost",
                versions,
                tls_first: false,
            };
            let mut client = TlsClient::connect(server.address(), &opening).expect("a handshake");
            client.log_in().expect("it is let in");
            for round in 0..3 {
                client
                    .send(
                        format!("SUB t.{round} {round}\r\nPUB t.{round} 5\r\nhello\r\n").as_bytes(),
                    )
                    .unwrap();
                assert_eq!(client.line().unwrap().trim_end(), format!("MSG t.{round} {round} 5"));
                assert_eq!(client.line().unwrap().trim_end(), "hello");
            }
            let seen = connections(&server);
            let version = seen[0]["tls_version"].as_str().map(str::to_owned);
            assert!(version.is_some_and(|version| version.starts_with("1.")), "{seen:?}");
            drop(client);
            support::wait_until("it to be gone", || connections(&server).is_empty());
        }
    }
}

/// Returns the next line that is neither an INFO nor a PING, and answers the latter.
fn answered(client: &mut RawClient) -> String {
    loop {
        let line = client.take_line(Instant::now() + WAIT_MAX).expect("a line comes");
        match &*line {
            b"PING\r\n" => client.answer_ping(),
            line if line.starts_with(b"INFO ") => {}
            line => return String::from_utf8_lossy(line).trim_end().to_owned(),
        }
    }
}

#[test]
fn publishers_that_move_again_and_again_lose_and_reorder_nothing_and_are_counted_once() {
    const PUBLISHERS: usize = 6;
    const BURST: usize = 40;
    for driver in DRIVERS {
        let server = wandering(3, driver);
        let mut ear = enter(&server, CONNECT);
        ear.send(b"SUB p.* 1\r\n").unwrap();
        ear.send(b"PING\r\n").unwrap();
        while answered(&mut ear) != "PONG" {}
        let mut publishers: Vec<RawClient> =
            (0..PUBLISHERS).map(|_| enter(&server, CONNECT)).collect();
        let (mut published, mut heard) = (0, [0; PUBLISHERS]);
        let deadline = Instant::now() + 4 * WAIT_MAX;
        while published < 10 * BURST || moved(&server) < 60 {
            assert!(Instant::now() < deadline, "{} moves", moved(&server));
            for (number, publisher) in publishers.iter_mut().enumerate() {
                let messages = published..published + BURST;
                let text: String = messages
                    .map(|message| format!("PUB p.{number} 8\r\n{message:08}\r\n"))
                    .collect();
                publisher.send(format!("{text}PING\r\n").as_bytes()).unwrap();
            }
            published += BURST;
            publishers.iter_mut().for_each(|one| while answered(one) != "PONG" {});
            for _ in 0..BURST * PUBLISHERS {
                let (head, body) = (answered(&mut ear), answered(&mut ear));
                let number: usize = head[6..7].parse().expect("a publisher's number");
                assert_eq!(head, format!("MSG p.{number} 1 8"));
                assert_eq!(body, format!("{:08}", heard[number]));
                heard[number] += 1;
            }
        }
        assert_eq!(heard, [published; PUBLISHERS]);
        let seen = connections(&server);
        let mut counts: Vec<u64> =
            seen.iter().map(|one| one["in_msgs"].as_u64().unwrap()).collect();
        counts.sort_unstable();
        assert_eq!(counts[0], 0);
        assert_eq!(counts[1..], [published as u64; PUBLISHERS]);
        drop(publishers);
        support::wait_until("publishers to be gone", || connections(&server).len() == 1);
        assert_eq!(per_shard(&server).iter().sum::<u64>(), 1);
    }
}

/// Each subscribes to what all publish, and publishes itself. The server reloads its configuration
/// meanwhile.
#[test]
fn subscribers_that_move_again_and_again_receive_everything_once_and_in_order() {
    const CLIENTS: usize = 5;
    const BURST: usize = 20;
    for (round, driver) in DRIVERS.into_iter().enumerate() {
        let server = wandering(2 + 2 * round, driver);
        let mut clients: Vec<RawClient> = (0..CLIENTS).map(|_| enter(&server, CONNECT)).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            let text = format!("SUB all.* 1\r\nSUB own.{number} 2\r\nPING\r\n");
            client.send(text.as_bytes()).unwrap();
            while answered(client) != "PONG" {}
        }
        let (mut published, mut heard) = (0, [[0; CLIENTS]; CLIENTS]);
        let deadline = Instant::now() + 4 * WAIT_MAX;
        while published < 10 * BURST || moved(&server) < 40 {
            assert!(Instant::now() < deadline, "{} moves", moved(&server));
            for (number, client) in clients.iter_mut().enumerate() {
                let messages = published..published + BURST;
                let text: String = messages
                    .map(|message| format!("PUB all.{number} 8\r\n{message:08}\r\n"))
                    .collect();
                client.send(format!("{text}PING\r\n").as_bytes()).unwrap();
            }
            if published % (8 * BURST) == 0 {
                server.signal(Signal::HUP).unwrap();
            }
            published += BURST;
            for (place, client) in clients.iter_mut().enumerate() {
                let (mut left, mut is_confirmed) = (BURST * CLIENTS, false);
                while left > 0 || !is_confirmed {
                    let head = answered(client);
                    if head == "PONG" {
                        is_confirmed = true;
                        continue;
                    }
                    let body = answered(client);
                    let number: usize = head[8..9].parse().expect("a publisher's number");
                    assert_eq!(head, format!("MSG all.{number} 1 8"));
                    assert_eq!(body, format!("{:08}", heard[place][number]), "client {place}");
                    heard[place][number] += 1;
                    left -= 1;
                }
            }
        }
        assert_eq!(heard, [[published; CLIENTS]; CLIENTS]);
        // What monitoring counts is the same wherever they are.
        for one in connections(&server) {
            assert_eq!(one["in_msgs"].as_u64(), Some(published as u64), "{one}");
            assert_eq!(one["out_msgs"].as_u64(), Some((published * CLIENTS) as u64), "{one}");
            assert_eq!(one["subscriptions"], 2, "{one}");
        }
        drop(clients);
        support::wait_until("all to be gone", || connections(&server).is_empty());
        assert_eq!(per_shard(&server).iter().sum::<u64>(), 0);
    }
}

/// Clients move while a lower limit closes the surplus: exactly as many stay as may.
#[test]
fn clients_that_move_during_a_reload_are_counted_once() {
    const CLIENTS: usize = 60;
    for round in 0..12 {
        let max = [20, 1, 0, 59][round % 4];
        let server = start(3, DRIVERS[round % 2], "max_connections: 100");
        let mut clients: Vec<RawClient> = (0..CLIENTS).map(|_| enter(&server, CONNECT)).collect();
        let config = format!("http: \"127.0.0.1:-1\"\nmax_connections: {max}");
        server.rewrite_config(&config).unwrap();
        // About half of them are on their way when the reload comes.
        let (first, second) = clients.split_at_mut(CLIENTS / 2);
        // Some may be closed already.
        let move_on = |client: &mut RawClient| drop(client.send(b"SUB x 1\r\n"));
        first.iter_mut().for_each(move_on);
        server.signal(Signal::HUP).unwrap();
        second.iter_mut().for_each(move_on);
        server
            .log()
            .wait_for(0, WAIT_MAX, |line| {
                line.contains("Reloaded server configuration").then_some(())
            })
            .unwrap();
        support::wait_until("the surplus to go", || connections(&server).len() <= max);
        let staying = clients.iter_mut().filter_map(|client| {
            let is_served = client.send(b"PING\r\n").is_ok() && client.round_trip().is_ok();
            is_served.then_some(())
        });
        assert_eq!(staying.count(), max, "round {round}");
    }
}

/// A client that goes to a shard that has not yet heard of a reload brings it along: no login there
/// is decided by the old rules. One of the shards is busy and hears of it late.
#[test]
fn no_client_that_moves_during_a_reload_logs_in_by_the_rules_before_it() {
    let users = |b: &str| {
        let busy = "{user: c, password: c, permissions: {subscribe: {deny: flood}}}";
        format!(
            "http: \"127.0.0.1:-1\"\naccounts {{ A {{ users: [{{user: a, password: a}}{b}] }}, \
             C {{ users: [{busy}] }} }}"
        )
    };
    let who = |user: &str| {
        format!("CONNECT {{\"verbose\":false,\"user\":\"{user}\",\"pass\":\"{user}\"}}\r\n")
    };
    for round in 0..6 {
        let server = start(2, DRIVERS[round % 2], &users(", {user: b, password: b}"));
        let mut clients: Vec<RawClient> = (0..60).map(|_| enter(&server, &who("a"))).collect();
        let mut pacer = enter(&server, &who("a"));
        let mut busy = enter(&server, &who("c"));
        let lines: String = (0..3_000).map(|sid| format!("SUB * {sid}\r\n")).collect();
        busy.send_all(lines.as_bytes(), WAIT_MAX).unwrap();
        busy.round_trip().expect("it is served");
        server.rewrite_config(&users("")).unwrap();
        // Each of these is looked at by all its subscriptions, and reaches none.
        busy.send_all("PUB flood 0\r\n\r\n".repeat(2_000).as_bytes(), WAIT_MAX).unwrap();
        server.signal(Signal::HUP).unwrap();
        for client in &mut clients {
            client.send(format!("SUB x 1\r\n{}", who("b")).as_bytes()).unwrap();
            pacer.round_trip().expect("it is served");
        }
        server
            .log()
            .wait_for(0, WAIT_MAX, |line| {
                line.contains("Reloaded server configuration").then_some(())
            })
            .unwrap();
        for client in &mut clients {
            assert!(client.round_trip().is_err(), "round {round}: a user who is gone is served");
        }
    }
}

#[test]
fn reload_kick_and_end_reach_clients_that_moved() {
    let accounts = "system_account: SYS\naccounts { SYS { users: [{user: s, password: s}] }, A { users: [{user: a, password: a}, {user: b, password: b}] } }";
    let mut server = start(2, "io_uring", accounts);
    let who = |user: &str| {
        format!("CONNECT {{\"verbose\":false,\"user\":\"{user}\",\"pass\":\"{user}\"}}\r\n")
    };
    let moved = |user: &str| {
        let mut client = enter(&server, &who(user));
        client.send(b"SUB x 1\r\n").unwrap();
        client.round_trip().expect("it is served");
        client
    };
    let (mut kicked, mut removed, mut stays, mut operator) =
        (moved("a"), moved("b"), moved("a"), moved("s"));
    let find = |port: u16| {
        let seen = connections(&server);
        let one = seen.iter().find(|one| one["port"] == port).expect("it is there");
        one["cid"].as_u64().expect("a number")
    };
    let body = server.monitor_get("/varz").expect("monitoring answers");
    let varz: Value = serde_json::from_slice(&body).expect("JSON");
    let request = format!("{{\"cid\":{}}}", find(kicked.local_port()));
    let subject = format!("$SYS.REQ.SERVER.{}.KICK", varz["server_id"].as_str().expect("a name"));
    operator
        .send(format!("PUB {subject} answer {}\r\n{request}\r\n", request.len()).as_bytes())
        .unwrap();
    let deadline = Instant::now() + WAIT_MAX;
    while kicked.fill(deadline) == Fill::Grown {}
    assert!(kicked.is_closed(), "kicked");

    let fewer = accounts.replace(", {user: b, password: b}", "");
    server.rewrite_config(&format!("http: \"127.0.0.1:-1\"\n{fewer}")).unwrap();
    server.signal(Signal::HUP).unwrap();
    while removed.fill(deadline) == Fill::Grown {}
    assert!(removed.is_closed(), "its user is gone");
    stays.round_trip().expect("its user is still there");

    server.signal(Signal::TERM).unwrap();
    while stays.fill(deadline) == Fill::Grown {}
    assert!(stays.is_closed(), "the server ends");
    assert!(server.wait_for_exit(WAIT_MAX).is_some());
}
