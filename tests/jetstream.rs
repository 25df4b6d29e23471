//! JetStream with a real client library: streams, and what an acknowledgement promises.

mod support;

use std::future::Future;

use async_nats::ConnectOptions;
use async_nats::jetstream::{self, Context, ErrorCode, stream};
use rustix::process::Signal;
use tokio::time::timeout;

use support::WAIT_MAX;
use support::server::{Directory, Server};

const SHARD_COUNTS: [usize; 2] = [1, 3];

async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match timeout(WAIT_MAX, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited in vain for: {what}"),
    }
}

/// Starts a server whose store lies in `folder`.
fn serve(shard_count: usize, folder: &Directory, config: &str) -> Server {
    let config = format!("jetstream {{ store_dir: {:?} }}\n{config}", folder.display().to_string());
    Server::midge(shard_count, &config)
}

async fn connect(server: &Server) -> Context {
    let options = ConnectOptions::new().request_timeout(Some(WAIT_MAX));
    let client = options.connect(server.address().to_string()).await.expect("the server accepts");
    jetstream::new(client)
}

fn named(name: &str, subjects: &[&str]) -> stream::Config {
    stream::Config {
        name: name.into(),
        subjects: subjects.iter().map(|subject| (*subject).into()).collect(),
        ..Default::default()
    }
}

/// Publishes a message and waits for its acknowledgement.
async fn store(context: &Context, subject: &str, payload: &str) -> u64 {
    let sent = context.publish(subject.to_owned(), payload.to_owned().into());
    let acknowledgement = within("a message to be sent", sent).await.expect("it is sent");
    within("an acknowledgement", acknowledgement.into_future())
        .await
        .expect("it is stored")
        .sequence
}

#[tokio::test]
async fn acknowledged_messages_survive_a_kill() {
    for shard_count in SHARD_COUNTS {
        let folder = Directory::new().expect("a folder can be made");
        let mut server = serve(shard_count, &folder, "");
        let context = connect(&server).await;
        within("a stream", context.create_stream(named("S", &["s.>"]))).await.expect("it is made");
        within("a stream", context.create_stream(named("T", &["t"]))).await.expect("it is made");
        for number in 1..=100 {
            let sequence = store(&context, &format!("s.{number}"), "payload").await;
            assert_eq!(sequence, number);
        }
        server.signal(Signal::KILL).expect("it runs");
        server.wait_for_exit(WAIT_MAX).expect("it was killed");
        let server = serve(shard_count, &folder, "");
        let context = connect(&server).await;
        let stream = within("the stream", context.get_stream("S")).await.expect("it is there");
        let state = &stream.cached_info().state;
        let totals = (state.messages, state.first_sequence, state.last_sequence);
        assert_eq!(totals, (100, 1, 100), "on {shard_count} shards");
        assert_eq!(store(&context, "s.next", "").await, 101);
        within("the end of a stream", context.delete_stream("S")).await.expect("it is there");
        let missing = within("no stream", context.get_stream("S")).await.expect_err("it is gone");
        assert!(missing.to_string().contains("10059"), "{missing}");
    }
}

#[tokio::test]
async fn a_stream_has_one_configuration_and_its_name_in_one_account() {
    let folder = Directory::new().expect("a folder can be made");
    let accounts = "accounts {
        A { jetstream: enabled, users: [ {user: a, password: p} ] }
        B { jetstream: enabled, users: [ {user: b, password: p} ] }
        C { users: [ {user: c, password: p} ] }
    }";
    let server = serve(2, &folder, accounts);
    let connect_as = async |user: &str| {
        let options = ConnectOptions::with_user_and_password(user.into(), "p".into());
        let client = options.connect(server.address().to_string()).await.expect("it may log in");
        jetstream::new(client)
    };
    let (a, b, c) = (connect_as("a").await, connect_as("b").await, connect_as("c").await);
    within("a stream", a.create_stream(named("S", &["s"]))).await.expect("it is made");
    within("the same", a.create_stream(named("S", &["s"]))).await.expect("it is there already");
    within("a stream", b.create_stream(named("S", &["s"]))).await.expect("another account's");
    let other = within("a refusal", a.create_stream(named("S", &["t"]))).await;
    let other = other.expect_err("it has another configuration");
    assert!(other.to_string().contains("10058"), "{other}");
    assert_eq!(store(&a, "s", "").await, 1);
    assert_eq!(store(&a, "s", "").await, 2);
    assert_eq!(store(&b, "s", "").await, 1, "accounts do not hear each other");
    let refused = within("a refusal", c.create_stream(named("S", &["s"]))).await;
    let refused = refused.expect_err("the account has no JetStream");
    assert!(refused.to_string().contains("10039"), "{refused}");
    assert_eq!(ErrorCode::STREAM_NAME_EXIST.0, 10058);
}
