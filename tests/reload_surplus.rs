//! The clients that a lowered limit of connections closes, over several shards: exactly the
//! surplus.

mod support;

use std::time::Instant;

use rustix::process::Signal;
use support::WAIT_MAX;
use support::raw_client::RawClient;
use support::server::Server;

const CONNECT: &[u8] = b"CONNECT {\"verbose\":false,\"user\":\"a\",\"pass\":\"a\"}\r\n";

/// Connects `count` clients that are let in; each is on the shard that the kernel chose.
fn clients(server: &Server, count: usize) -> Vec<RawClient> {
    let enter = |_| {
        let mut client = RawClient::connect(server.address()).expect("the server listens");
        client.send(CONNECT).expect("the server reads");
        client.round_trip().expect("it was let in");
        client
    };
    (0..count).map(enter).collect()
}

fn reload(server: &Server, config: &str) -> Vec<String> {
    let start = server.log().line_count();
    server.rewrite_config(config).expect("the file can be written");
    server.signal(Signal::HUP).expect("the server runs");
    support::wait_until("the reload", || {
        server.log().lines()[start..]
            .iter()
            .any(|line| line.contains("eload") && line.contains("server configuration"))
    });
    server.log().lines().split_off(start)
}

/// Returns the number of clients still served, and what the others were told.
fn staying(clients: &mut [RawClient]) -> (usize, Vec<String>) {
    let mut told = Vec::new();
    let mut count = 0;
    for client in clients {
        // A write to a closed connection may fail; what was sent before is there.
        let _ = client.send(b"PING\r\n");
        let deadline = Instant::now() + WAIT_MAX;
        let line = loop {
            match client.take_line(deadline).unwrap_or_default() {
                line if line == b"PING\r\n" => {}
                line => break line,
            }
        };
        match line == b"PONG\r\n" {
            true => count += 1,
            false => told.push(String::from_utf8_lossy(&line).trim_end().to_owned()),
        }
    }
    (count, told)
}

#[test]
fn max_connections_keeps_as_many_as_fit_and_says_how_many_went() {
    for (shard_count, max, expected) in [(1, 4, 4), (3, 4, 4), (3, 1, 1), (3, 0, 0), (3, 20, 12)] {
        let server = Server::midge(shard_count, "max_connections: 100");
        let mut clients = clients(&server, 12);
        let lines = reload(&server, &format!("max_connections: {max}"));
        let closed = 12 - expected;
        let text = format!("Closed {closed} connections to fall within max_connections");
        let said = lines.iter().any(|line| line.ends_with(&text));
        assert_eq!(said, closed > 0, "{lines:?}");
        let (count, told) = staying(&mut clients);
        assert_eq!(count, expected, "{shard_count} shards, {max}");
        assert!(told.iter().all(|line| line == "-ERR 'maximum connections exceeded'"), "{told:?}");
    }
}

#[test]
fn an_account_keeps_as_many_connections_as_it_may() {
    let config = |limit: usize| {
        format!(
            "accounts {{ A {{ users: [ {{user: a, password: a}} ], \
             limits {{ max_connections: {limit} }} }} }}"
        )
    };
    for (shard_count, max) in [(1, 5), (3, 5), (3, 0)] {
        let server = Server::midge(shard_count, &config(100));
        let mut clients = clients(&server, 12);
        reload(&server, &config(max));
        let (count, told) = staying(&mut clients);
        assert_eq!(count, max, "{shard_count} shards");
        let text = "-ERR 'maximum account active connections exceeded'";
        assert!(told.iter().all(|line| line == text), "{told:?}");
    }
}

/// A client that goes for another reason does not count: the two that may stay do.
#[test]
fn clients_that_go_anyway_make_room() {
    let users = "{user: a, password: a}, {user: b, password: b}";
    let config = |users: &str, limit: usize| {
        format!("accounts {{ A {{ users: [ {users} ], limits {{ max_connections: {limit} }} }} }}")
    };
    let server = Server::midge(3, &config(users, 100));
    let mut others: Vec<RawClient> = Vec::new();
    for _ in 0..6 {
        let mut client = RawClient::connect(server.address()).expect("the server listens");
        client
            .send(b"CONNECT {\"verbose\":false,\"user\":\"b\",\"pass\":\"b\"}\r\n")
            .expect("the server reads");
        client.round_trip().expect("it was let in");
        others.push(client);
    }
    let mut two = clients(&server, 2);
    reload(&server, &config("{user: a, password: a}", 2));
    assert_eq!(staying(&mut two).0, 2);
    assert_eq!(staying(&mut others).0, 0);
}
