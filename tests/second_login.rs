//! A client that logs in a second time, to another account: nothing of the first one reaches it any
//! more, and nothing it publishes reaches the first. On several shards, too, which no transcript
//! covers.

mod support;

use std::time::Instant;

use support::raw_client::RawClient;
use support::server::Server;

const CONFIG: &str = "accounts: {
    ONE: { users: [ { user: a, password: p } ] }
    TWO: { users: [ { user: b, password: p } ] }
}";

/// Returns a client that has logged in as `user` and executed `commands`.
fn client(server: &Server, user: &str, commands: &str) -> RawClient {
    let mut client = RawClient::connect(server.address()).expect("the server listens");
    log_in(&mut client, user, commands);
    client
}

fn log_in(client: &mut RawClient, user: &str, commands: &str) {
    let connect = format!(
        "CONNECT {{\"verbose\":false,\"pedantic\":false,\"user\":\"{user}\",\"pass\":\"p\"}}"
    );
    client.send(format!("{connect}\r\n{commands}").as_bytes()).expect("the server reads");
    client.round_trip().expect("it was let in");
}

#[test]
fn what_the_second_login_publishes_stays_in_its_account() {
    for shard_count in [1, 3] {
        let server = Server::midge(shard_count, CONFIG);
        let mut first = client(&server, "a", "SUB foo 1\r\n");
        // The other account has as many changes, so that a cached answer would look equally valid
        // there.
        let mut second = client(&server, "b", "SUB bar 1\r\n");
        let mut publisher = client(&server, "a", "PUB foo 1\r\n1\r\nPUB foo 1\r\n2\r\n");
        log_in(&mut publisher, "b", "PUB foo 1\r\n3\r\nPUB bar 1\r\n4\r\n");
        for (client, subject, payloads) in
            [(&mut first, "foo", &["1", "2"][..]), (&mut second, "bar", &["4"][..])]
        {
            let deadline = Instant::now() + support::WAIT_MAX;
            for payload in payloads {
                let head = client.take_message_line(deadline);
                assert_eq!(head, format!("MSG {subject} 1 1\r\n").into_bytes());
                let body = client.take_line(deadline).expect("the payload follows");
                assert_eq!(body, format!("{payload}\r\n").into_bytes());
            }
            client.round_trip().expect("nothing else came");
        }
    }
}
