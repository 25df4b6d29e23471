//! JetStream with a real client library: streams, and what an acknowledgement promises.

mod support;

use std::future::Future;
use std::time::Duration;

use async_nats::jetstream::{self, Context, ErrorCode, kv, stream};
use async_nats::{ConnectOptions, HeaderMap};
use futures_util::StreamExt;
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

/// Asks about a stream until its state is as `is_done` says.
async fn wait_for_state(
    context: &Context,
    name: &str,
    is_done: impl Fn(&stream::State) -> bool,
) -> stream::State {
    let deadline = std::time::Instant::now() + WAIT_MAX;
    loop {
        let stream = within("the stream", context.get_stream(name)).await.expect("it is there");
        let state = stream.cached_info().state.clone();
        if is_done(&state) {
            return state;
        }
        assert!(std::time::Instant::now() < deadline, "waited in vain: {state:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn messages_end_by_age_and_by_their_own_time() {
    let folder = Directory::new().expect("a folder can be made");
    let server = serve(2, &folder, "");
    let context = connect(&server).await;
    let aged = stream::Config { max_age: Duration::from_millis(200), ..named("A", &["a"]) };
    let aged = stream::Config { duplicate_window: Duration::from_millis(200), ..aged };
    within("a stream", context.create_stream(aged)).await.expect("it is made");
    let timed = stream::Config { allow_message_ttl: true, ..named("T", &["t"]) };
    within("a stream", context.create_stream(timed)).await.expect("it is made");
    store(&context, "a", "").await;
    let mut headers = HeaderMap::new();
    headers.insert("Nats-TTL", "1s");
    let sent = context.publish_with_headers("t", headers, "".into());
    let sent = within("a message to be sent", sent).await.expect("it is sent");
    within("an acknowledgement", sent.into_future()).await.expect("it is stored");
    store(&context, "t", "").await;
    let state = wait_for_state(&context, "A", |state| state.messages == 0).await;
    assert_eq!((state.first_sequence, state.last_sequence), (2, 1));
    let state = wait_for_state(&context, "T", |state| state.messages == 1).await;
    assert_eq!((state.first_sequence, state.last_sequence), (2, 2));
}

#[tokio::test]
async fn a_key_has_one_value_and_whoever_updates_it_knows_the_last() {
    for shard_count in SHARD_COUNTS {
        let folder = Directory::new().expect("a folder can be made");
        let mut server = serve(shard_count, &folder, "");
        let context = connect(&server).await;
        let config = kv::Config { bucket: "B".into(), history: 3, ..Default::default() };
        let bucket = within("a bucket", context.create_key_value(config)).await.expect("made");
        let first = within("a key", bucket.create("k", "1".into())).await.expect("it is new");
        assert!(within("a refusal", bucket.create("k", "2".into())).await.is_err());
        let second =
            within("an update", bucket.update("k", "2".into(), first)).await.expect("last");
        assert!(within("a refusal", bucket.update("k", "3".into(), first)).await.is_err());
        let value = within("a value", bucket.get("k")).await.expect("it can be read");
        assert_eq!(value.as_deref(), Some(&b"2"[..]));
        server.signal(Signal::KILL).expect("it runs");
        server.wait_for_exit(WAIT_MAX).expect("it was killed");
        let server = serve(shard_count, &folder, "");
        let context = connect(&server).await;
        let bucket = within("the bucket", context.get_key_value("B")).await.expect("it is there");
        let entry = within("an entry", bucket.entry("k")).await.expect("it can be read");
        assert_eq!(entry.map(|entry| entry.revision), Some(second));
        within("a purge", bucket.purge("k")).await.expect("it is there");
        let value = within("a value", bucket.get("k")).await.expect("it can be read");
        assert_eq!(value, None);
        assert_eq!(within("nothing", bucket.get("other")).await.expect("it can be read"), None);
    }
}

#[tokio::test]
async fn stored_messages_are_published_anew_under_their_new_subjects() {
    let folder = Directory::new().expect("a folder can be made");
    let server = serve(2, &folder, "");
    let context = connect(&server).await;
    let client = ConnectOptions::new().connect(server.address().to_string()).await.expect("served");
    let mut heard = client.subscribe("r.>").await.expect("it is connected");
    client.flush().await.expect("it is connected");
    let transform = stream::SubjectTransform { source: "s.*".into(), destination: "t.$1".into() };
    let republish =
        stream::Republish { source: "t.>".into(), destination: "r.>".into(), headers_only: false };
    let config = stream::Config {
        subject_transform: Some(transform),
        republish: Some(republish),
        ..named("S", &["s.*"])
    };
    within("a stream", context.create_stream(config)).await.expect("it is made");
    store(&context, "s.a", "one").await;
    store(&context, "s.a", "two").await;
    for (sequence, last, payload) in [("1", "0", "one"), ("2", "1", "two")] {
        let message = within("a message", heard.next()).await.expect("it is subscribed");
        assert_eq!((message.subject.as_str(), &message.payload[..]), ("r.a", payload.as_bytes()));
        let headers = message.headers.expect("they say where it is from");
        let value = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
        assert_eq!(value("Nats-Subject").as_deref(), Some("t.a"));
        assert_eq!(value("Nats-Sequence").as_deref(), Some(sequence));
        assert_eq!(value("Nats-Last-Sequence").as_deref(), Some(last));
    }
}

#[tokio::test]
async fn a_stream_in_memory_is_gone_after_a_restart() {
    let folder = Directory::new().expect("a folder can be made");
    let mut server = serve(1, &folder, "");
    let context = connect(&server).await;
    let config = stream::Config { storage: stream::StorageType::Memory, ..named("M", &["m"]) };
    within("a stream", context.create_stream(config)).await.expect("it is made");
    within("a stream", context.create_stream(named("F", &["f"]))).await.expect("it is made");
    assert_eq!(store(&context, "m", "").await, 1);
    assert_eq!(store(&context, "f", "").await, 1);
    server.signal(Signal::TERM).expect("it runs");
    server.wait_for_exit(WAIT_MAX).expect("it was told to end");
    let server = serve(1, &folder, "");
    let context = connect(&server).await;
    assert!(within("no stream", context.get_stream("M")).await.is_err());
    assert_eq!(store(&context, "f", "").await, 2);
}

#[tokio::test]
async fn a_domain_is_reached_under_its_name_and_told() {
    let folder = Directory::new().expect("a folder can be made");
    let text = folder.display().to_string();
    let config = format!("jetstream {{ store_dir: {text:?}, domain: hub }}");
    let server = Server::midge(2, &config);
    let client = ConnectOptions::new().connect(server.address().to_string()).await.expect("served");
    assert_eq!(client.server_info().domain.as_deref(), Some("hub"));
    let mut heard = client.subscribe("$JS.EVENT.ADVISORY.>").await.expect("it is connected");
    client.flush().await.expect("it is connected");
    let context = jetstream::with_domain(client, "hub");
    within("a stream", context.create_stream(named("S", &["s"]))).await.expect("it is made");
    let acknowledgement = within("an answer", context.publish("s", "".into())).await.expect("sent");
    let acknowledgement = within("an answer", acknowledgement.into_future()).await.expect("stored");
    assert_eq!((acknowledgement.domain.as_str(), acknowledgement.sequence), ("hub", 1));
    let created = within("an advisory", heard.next()).await.expect("it is subscribed");
    assert_eq!(created.subject.as_str(), "$JS.EVENT.ADVISORY.STREAM.CREATED.S");
    let audit = within("an advisory", heard.next()).await.expect("it is subscribed");
    assert_eq!(audit.subject.as_str(), "$JS.EVENT.ADVISORY.API");
    let text = String::from_utf8_lossy(&audit.payload);
    assert!(text.contains("$JS.API.STREAM.CREATE.S") && text.contains("api_audit"), "{text}");
}

#[tokio::test]
async fn monitoring_shows_streams_and_what_an_acknowledgement_is_worth() {
    let folder = Directory::new().expect("a folder can be made");
    let server = serve(2, &folder, "http: \"127.0.0.1:-1\"");
    let context = connect(&server).await;
    within("a stream", context.create_stream(named("S", &["s"]))).await.expect("it is made");
    store(&context, "s", "hello").await;
    let get = |path: &str| {
        let body = server.monitor_get(path).expect("it answers");
        serde_json::from_slice::<serde_json::Value>(&body).expect("it is JSON")
    };
    let jsz = get("/jsz?streams=1&config=1");
    assert_eq!((jsz["streams"].as_u64(), jsz["messages"].as_u64()), (Some(1), Some(1)));
    assert_eq!(jsz["config"]["sync_always"].as_bool(), Some(true));
    let stream = &jsz["account_details"][0]["stream_detail"][0];
    assert_eq!(
        (stream["name"].as_str(), stream["state"]["messages"].as_u64()),
        (Some("S"), Some(1))
    );
    assert_eq!(stream["config"]["subjects"][0].as_str(), Some("s"));
    let varz = get("/varz");
    assert_eq!(varz["jetstream"]["stats"]["storage"].as_u64(), jsz["storage"].as_u64());
    assert_eq!(get("/healthz?account=$G&stream=S")["status"].as_str(), Some("ok"));
    let missing = get("/healthz?account=$G&stream=NO");
    let expected = "JetStream stream \"NO\" not found on account \"$G\"";
    assert_eq!(missing["error"].as_str(), Some(expected));
}

#[tokio::test]
async fn accounts_of_a_reload_get_their_streams_back() {
    let folder = Directory::new().expect("a folder can be made");
    let accounts = |limits: &str| {
        let path = folder.display().to_string();
        format!(
            "jetstream {{ store_dir: {path:?} }}\naccounts {{
                A {{ {limits} users: [ {{user: a, password: p}} ] }}
                B {{ jetstream: enabled, users: [ {{user: b, password: p}} ] }}
            }}"
        )
    };
    let server = Server::midge(2, &format!("debug: true\n{}", accounts("jetstream: enabled,")));
    let options = ConnectOptions::with_user_and_password("a".into(), "p".into());
    let client = options.connect(server.address().to_string()).await.expect("it may log in");
    let context = jetstream::new(client);
    within("a stream", context.create_stream(named("S", &["s"]))).await.expect("it is made");
    assert_eq!(store(&context, "s", "").await, 1);
    let reload = async |limits: &str| {
        let from = server.log().line_count();
        server.rewrite_config(&accounts(limits)).expect("it can be written");
        server.signal(Signal::HUP).expect("it runs");
        let is_done = |line: &str| line.contains("Reloaded server configuration").then_some(());
        server.log().wait_for(from, WAIT_MAX, is_done).expect("it reloads");
    };
    reload("").await;
    let deadline = std::time::Instant::now() + WAIT_MAX;
    while within("an answer", context.get_stream("S")).await.is_ok() {
        assert!(std::time::Instant::now() < deadline, "the account has JetStream still");
    }
    reload("jetstream { max_streams: 1 },").await;
    let deadline = std::time::Instant::now() + WAIT_MAX;
    while within("an answer", context.get_stream("S")).await.is_err() {
        assert!(std::time::Instant::now() < deadline, "the stream is not back");
    }
    assert_eq!(store(&context, "s", "").await, 2);
    let refused = within("a refusal", context.create_stream(named("T", &["t"]))).await;
    assert!(refused.expect_err("one is all").to_string().contains("10027"));
}
