//! Peers that do not log in: many, at once, for as long as they are allowed to. For "memory before
//! login" in SECURITY.md.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use support::raw_client::RawClient;
use support::server::Server;
use support::{WAIT_MAX, allow_open_files};

/// Number of simultaneous connections in each round.
const STRANGERS: usize = 5_000;
/// Bytes of memory that one of them may cost, including the server's buffers and their share of
/// tables. A connection holds its smallest read buffer, what it has sent of a control line (4 KiB
/// at most), and its task.
const STRANGER_BYTES_MAX: u64 = 16 << 10;
/// Rounds for each kind of stranger.
const ROUNDS: usize = 5;
/// KiB by which the last round may exceed all before it.
const GROWTH_KIB_MAX: u64 = 12 << 10;

/// How far a stranger goes.
#[derive(Clone, Copy, Debug)]
enum Stops {
    /// It says nothing at all.
    AtOnce,
    /// In the middle of a CONNECT of almost the largest size.
    InConnect,
    /// In the middle of the first verb.
    InVerb,
    /// It gave a wrong password whose check takes some time, and sends more, which is not read.
    InPasswordCheck,
}

impl Stops {
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::AtOnce => Vec::new(),
            Self::InConnect => {
                let mut bytes = b"CONNECT {\"name\":\"".to_vec();
                bytes.resize(4000, b'x');
                bytes
            }
            Self::InVerb => b"CON".to_vec(),
            Self::InPasswordCheck => {
                let mut bytes =
                    b"CONNECT {\"user\":\"a\",\"pass\":\"wrong\"}\r\nPUB a 100000\r\n".to_vec();
                bytes.resize(1500, b'x');
                bytes
            }
        }
    }
}

fn arrive(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect_timeout(&address, WAIT_MAX).expect("the server listens");
    socket.set_read_timeout(Some(WAIT_MAX * 6)).expect("a timeout");
    // INFO has come: the connection has reached the server, not only the kernel.
    let mut first = [0; 1];
    socket.read_exact(&mut first).expect("INFO");
    socket.write_all(bytes).expect("the server takes it");
    socket
}

/// Reads until the server closes; returns the rest of what it said.
fn wait_for_the_end(socket: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    match socket.read_to_end(&mut rest) {
        Ok(_) => rest,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => rest,
        Err(error) => panic!("not closed: {error}"),
    }
}

#[test]
fn five_thousand_strangers_cost_little_and_leave_nothing_behind() {
    allow_open_files(STRANGERS + 100);
    // Cost 12 takes a quarter of a second: no check is finished during the round.
    let hash = bcrypt::hash("right", 12).expect("cost 12 is allowed");
    for stops in [Stops::AtOnce, Stops::InConnect, Stops::InVerb, Stops::InPasswordCheck] {
        let config = format!(
            "authorization {{ users: [ {{user: a, password: \"{hash}\"}}, {{user: b, password: b}} ], \
             timeout: 60 }}"
        );
        let server = Server::midge(2, &config);
        let mut friend = RawClient::connect(server.address()).expect("the server listens");
        friend
            .send(b"CONNECT {\"verbose\":false,\"user\":\"b\",\"pass\":\"b\"}\r\n")
            .expect("sent");
        friend.round_trip().expect("logged in");
        let empty = server.memory_kib("VmRSS");
        let bytes = stops.bytes();
        let mut held = Vec::new();
        for _ in 0..ROUNDS {
            let strangers: Vec<TcpStream> =
                (0..STRANGERS).map(|_| arrive(server.address(), &bytes)).collect();
            friend.round_trip().expect("others are served");
            held.push(server.memory_kib("VmRSS"));
            drop(strangers);
            support::wait_until("the strangers are gone", || {
                friend.round_trip().expect("others are served");
                open_sockets(&server) < 100
            });
        }
        println!("{stops:?}: KiB empty {empty}, in each round {held:?}");
        let most = held.iter().max().expect("there are rounds");
        let each = (most - empty) * 1024 / STRANGERS as u64;
        assert!(each < STRANGER_BYTES_MAX, "{stops:?}: {each} bytes each");
        // The first rounds show what the allocator keeps of each thread for good, and how much
        // rounds differ by themselves.
        let (last, earlier) = held.split_last().expect("there are rounds");
        let before = earlier.iter().max().expect("there are several");
        assert!(*last < before + GROWTH_KIB_MAX, "{stops:?}: it grows: {held:?}");
    }
}

fn open_sockets(server: &Server) -> usize {
    let path = format!("/proc/{}/fd", server.process_id());
    std::fs::read_dir(path).expect("the server runs").count()
}

#[test]
fn strangers_are_sent_away_at_the_timeout_all_of_them() {
    const COUNT: usize = 500;
    allow_open_files(STRANGERS + 100);
    let server = Server::midge(2, "authorization { token: planted, timeout: 1 }");
    let bytes = Stops::InConnect.bytes();
    let mut strangers: Vec<TcpStream> = (0..COUNT)
        .map(|index| arrive(server.address(), if index % 2 == 0 { &bytes } else { b"" }))
        .collect();
    for stranger in &mut strangers {
        let said = wait_for_the_end(stranger);
        let end = b"-ERR 'Authentication Timeout'\r\n";
        assert!(said.ends_with(end), "{}", said.escape_ascii());
    }
}

/// The time to log in is the client's: the time of the password check, and of the queue before it,
/// does not count.
#[test]
fn a_check_that_takes_longer_than_the_timeout_still_lets_in() {
    // All checks together take longer than the timeout. A single one, or the way of a CONNECT to
    // the server, is far below it even on a busy machine.
    let times = [(); 5].map(|()| {
        let before = Instant::now();
        let hash = bcrypt::hash("right", 9).expect("cost 9 is allowed");
        (before.elapsed(), hash)
    });
    let (check_time, hash) = times.iter().min().expect("there are five");
    let client_count = (2.0 / check_time.as_secs_f64()).ceil() as usize;
    let config =
        format!("authorization {{ users: [ {{user: a, password: \"{hash}\"}} ], timeout: 1 }}");
    let server = Server::midge(2, &config);
    let mut clients: Vec<RawClient> = (0..client_count)
        .map(|_| {
            let mut client = RawClient::connect(server.address()).expect("the server listens");
            let connect = "CONNECT {\"verbose\":false,\"user\":\"a\",\"pass\":\"right\"}\r\n";
            client.send(connect.as_bytes()).expect("sent");
            client
        })
        .collect();
    let before = Instant::now();
    for client in &mut clients {
        // Its turn may come last.
        client.round_trip_by(Instant::now() + 10 * WAIT_MAX).expect("logged in");
    }
    assert!(before.elapsed() > Duration::from_secs(1), "nobody had to wait for too long");
    // A client that says nothing has no such excuse.
    let mut silent = arrive(server.address(), b"");
    let said = wait_for_the_end(&mut silent);
    assert!(said.ends_with(b"-ERR 'Authentication Timeout'\r\n"), "{}", said.escape_ascii());
}
