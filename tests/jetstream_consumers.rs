//! Consumers of JetStream with a real client library.

mod support;

use std::future::Future;
use std::time::Duration;

use async_nats::ConnectOptions;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull, push};
use async_nats::jetstream::{self, AckKind, Context, Message, kv, object_store, stream};
use futures_util::StreamExt;
use rustix::process::Signal;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use support::WAIT_MAX;
use support::server::{Directory, Server};

const SHARD_COUNTS: [usize; 2] = [1, 3];

/// Long enough for a message that should not come to come.
const SILENCE: Duration = Duration::from_millis(300);

async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match timeout(WAIT_MAX, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited in vain for: {what}"),
    }
}

fn serve(shard_count: usize, folder: &Directory) -> Server {
    let config = format!("jetstream {{ store_dir: {:?} }}\n", folder.display().to_string());
    Server::midge(shard_count, &config)
}

async fn connect(server: &Server) -> Context {
    let options = ConnectOptions::new().request_timeout(Some(WAIT_MAX));
    let client = options.connect(server.address().to_string()).await.expect("the server accepts");
    jetstream::new(client)
}

async fn make_stream(context: &Context, retention: stream::RetentionPolicy) -> stream::Stream {
    let config = stream::Config {
        name: "S".into(),
        subjects: vec!["s.>".into()],
        retention,
        ..Default::default()
    };
    within("a stream", context.create_stream(config)).await.expect("it is made")
}

async fn store(context: &Context, count: usize) {
    for number in 1..=count {
        let sent = context.publish(format!("s.{}", number % 3), number.to_string().into());
        let acknowledgement = within("a message to be sent", sent).await.expect("it is sent");
        within("its acknowledgement", acknowledgement.into_future()).await.expect("it is stored");
    }
}

fn explicit(name: &str) -> pull::Config {
    pull::Config {
        durable_name: Some(name.into()),
        ack_policy: AckPolicy::Explicit,
        ..Default::default()
    }
}

async fn take(
    messages: &mut (impl StreamExt<Item = Result<Message, impl std::fmt::Debug>> + Unpin),
) -> Message {
    within("a message", messages.next()).await.expect("the stream goes on").expect("a message")
}

fn payload(message: &Message) -> usize {
    std::str::from_utf8(&message.payload).expect("a number").parse().expect("a number")
}

#[tokio::test]
async fn pulled_messages_come_in_order_and_again_unless_they_are_acknowledged() {
    for shard_count in SHARD_COUNTS {
        let folder = Directory::new().expect("a folder can be made");
        let server = serve(shard_count, &folder);
        let context = connect(&server).await;
        let stream = make_stream(&context, stream::RetentionPolicy::Limits).await;
        store(&context, 500).await;
        let mut consumer = stream.create_consumer(explicit("c")).await.expect("a consumer");
        let mut messages = consumer.messages().await.expect("messages");
        let mut kept = None;
        for number in 1..=500 {
            let message = take(&mut messages).await;
            assert_eq!(payload(&message), number);
            let info = message.info().expect("an ack subject");
            assert_eq!((info.pending as usize, info.delivered), (500 - number, 1));
            match number {
                250 => kept = Some(message),
                _ => message.double_ack().await.expect("a confirmed acknowledgement"),
            }
        }
        kept.expect("one was kept").ack_with(AckKind::Nak(None)).await.expect("it is sent");
        let again = take(&mut messages).await;
        assert_eq!((payload(&again), again.info().expect("facts").delivered), (250, 2));
        again.double_ack().await.expect("a confirmed acknowledgement");
        let info = consumer.info().await.expect("the consumer is there");
        assert_eq!((info.ack_floor.stream_sequence, info.num_ack_pending), (500, 0));
        assert!(timeout(SILENCE, messages.next()).await.is_err(), "nothing else comes");
        let config = pull::Config { ack_wait: SILENCE, ..explicit("impatient") };
        let consumer = stream.create_consumer(config).await.expect("a consumer");
        for delivered in 1..=3 {
            let mut batch = consumer.fetch().max_messages(1).messages().await.expect("messages");
            let message = take(&mut batch).await;
            let info = message.info().expect("an ack subject");
            assert_eq!((info.stream_sequence, info.delivered), (1, delivered));
            tokio::time::sleep(2 * SILENCE).await;
        }
    }
}

#[tokio::test]
async fn confirmed_acknowledgements_survive_a_kill() {
    for shard_count in SHARD_COUNTS {
        let folder = Directory::new().expect("a folder can be made");
        let mut server = serve(shard_count, &folder);
        let context = connect(&server).await;
        let stream = make_stream(&context, stream::RetentionPolicy::Limits).await;
        store(&context, 100).await;
        let config = pull::Config { ack_wait: Duration::from_secs(1), ..explicit("c") };
        let consumer = stream.create_consumer(config).await.expect("a consumer");
        let mut batch = consumer.fetch().max_messages(60).messages().await.expect("messages");
        for number in 1..=60 {
            let message = take(&mut batch).await;
            assert_eq!(payload(&message), number);
            if number % 2 == 0 {
                message.double_ack().await.expect("a confirmed acknowledgement");
            }
        }
        server.signal(Signal::KILL).expect("it runs");
        server.wait_for_exit(WAIT_MAX).expect("it was killed");
        let server = serve(shard_count, &folder);
        let context = connect(&server).await;
        let consumer: PullConsumer =
            context.get_consumer_from_stream("c", "S").await.expect("it is there");
        let mut seen = Vec::new();
        let mut messages = consumer.messages().await.expect("messages");
        while seen.len() < 70 {
            let message = take(&mut messages).await;
            message.double_ack().await.expect("a confirmed acknowledgement");
            seen.push(payload(&message));
        }
        seen.sort_unstable();
        seen.dedup();
        let expected: Vec<usize> = (1..=100).filter(|it| *it > 60 || it % 2 == 1).collect();
        assert_eq!(seen, expected, "on {shard_count} shards");
    }
}

#[tokio::test]
async fn a_push_consumer_and_an_ordered_one_deliver_everything() {
    for shard_count in SHARD_COUNTS {
        let folder = Directory::new().expect("a folder can be made");
        let server = serve(shard_count, &folder);
        let context = connect(&server).await;
        let stream = make_stream(&context, stream::RetentionPolicy::Limits).await;
        store(&context, 300).await;
        let config = push::Config {
            deliver_subject: "to.me".into(),
            filter_subject: "s.1".into(),
            idle_heartbeat: Duration::from_secs(1),
            flow_control: true,
            ..Default::default()
        };
        let consumer = stream.create_consumer(config).await.expect("a consumer");
        let mut messages = consumer.messages().await.expect("messages");
        for number in (1..=300).filter(|number| number % 3 == 1) {
            assert_eq!(payload(&take(&mut messages).await), number);
        }
        let config = push::OrderedConfig {
            deliver_subject: context.client().new_inbox(),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: 100 },
            ..Default::default()
        };
        let consumer = stream.create_consumer(config).await.expect("a consumer");
        let mut messages = consumer.messages().await.expect("messages");
        for number in 100..=300 {
            assert_eq!(payload(&take(&mut messages).await), number);
        }
        let config = pull::OrderedConfig::default();
        let consumer = stream.create_consumer(config).await.expect("a consumer");
        let mut messages = consumer.messages().await.expect("messages");
        for number in 1..=300 {
            assert_eq!(payload(&take(&mut messages).await), number);
        }
    }
}

#[tokio::test]
async fn a_work_queue_loses_what_is_done_and_interest_what_nobody_needs() {
    for shard_count in SHARD_COUNTS {
        let folder = Directory::new().expect("a folder can be made");
        let server = serve(shard_count, &folder);
        let context = connect(&server).await;
        let mut stream = make_stream(&context, stream::RetentionPolicy::WorkQueue).await;
        store(&context, 10).await;
        let worker = stream.create_consumer(explicit("w")).await.expect("a consumer");
        stream.create_consumer(explicit("other")).await.expect_err("it has no part of its own");
        let mut batch = worker.fetch().max_messages(10).messages().await.expect("messages");
        for number in 1..=10 {
            let message = take(&mut batch).await;
            if number != 4 {
                message.double_ack().await.expect("a confirmed acknowledgement");
            }
        }
        let state = &stream.info().await.expect("the stream is there").state;
        assert_eq!((state.messages, state.first_sequence), (1, 4), "on {shard_count} shards");
        context.delete_stream("S").await.expect("it is there");

        let mut stream = make_stream(&context, stream::RetentionPolicy::Interest).await;
        store(&context, 3).await;
        let first = stream.create_consumer(explicit("a")).await.expect("a consumer");
        let second = stream.create_consumer(explicit("b")).await.expect("a consumer");
        store(&context, 5).await;
        let state = &stream.info().await.expect("the stream is there").state;
        assert_eq!((state.messages, state.last_sequence), (5, 8));
        for (consumer, left) in [(&first, 5), (&second, 2)] {
            let mut batch = consumer.fetch().max_messages(3).messages().await.expect("messages");
            for _ in 0..3 {
                let message = take(&mut batch).await;
                message.double_ack().await.expect("a confirmed acknowledgement");
            }
            let state = &stream.info().await.expect("the stream is there").state;
            assert_eq!(state.messages, left, "on {shard_count} shards");
        }
        stream.delete_consumer("b").await.expect("it is there");
        let mut batch = first.fetch().max_messages(2).messages().await.expect("messages");
        for _ in 0..2 {
            take(&mut batch).await.double_ack().await.expect("a confirmed acknowledgement");
        }
        let state = &stream.info().await.expect("the stream is there").state;
        assert_eq!(state.messages, 0, "on {shard_count} shards");
    }
}

#[tokio::test]
async fn a_gap_of_any_length_keeps_no_filtered_consumer_waiting() {
    let folder = Directory::new().expect("a folder can be made");
    let server = serve(1, &folder);
    let context = connect(&server).await;
    let stream = make_stream(&context, stream::RetentionPolicy::Limits).await;
    let config = pull::Config { filter_subject: "s.1".into(), ..explicit("c") };
    let consumer = stream.create_consumer(config).await.expect("a consumer");
    let mut messages = consumer.messages().await.expect("messages");
    assert!(timeout(SILENCE, messages.next()).await.is_err(), "nothing is stored yet");
    // Sequences go on from there, and nothing lies between.
    let far = 1 << 60;
    within("a purge", async { stream.purge().sequence(far).await }).await.expect("it is done");
    store(&context, 1).await;
    let message = take(&mut messages).await;
    assert_eq!(message.info().expect("an ack subject").stream_sequence, far);
    message.double_ack().await.expect("a confirmed acknowledgement");
}

#[tokio::test]
async fn key_value_buckets_are_watched_and_objects_come_back_whole() {
    for shard_count in SHARD_COUNTS {
        let folder = Directory::new().expect("a folder can be made");
        let server = serve(shard_count, &folder);
        let context = connect(&server).await;
        let config = kv::Config { bucket: "B".into(), history: 3, ..Default::default() };
        let bucket = within("a bucket", context.create_key_value(config)).await.expect("a bucket");
        for (key, value) in [("a", "1"), ("b", "2"), ("a", "3")] {
            bucket.put(key, value.into()).await.expect("it is stored");
        }
        let mut entries = bucket.watch_with_history(">").await.expect("a watch");
        let mut seen = Vec::new();
        let mut note = async |expected: (&str, &str, kv::Operation)| {
            let entry = within("an entry", entries.next()).await.expect("the watch goes on");
            let entry = entry.expect("an entry");
            let value = String::from_utf8(entry.value.to_vec()).expect("text");
            assert_eq!((&*entry.key, &*value, entry.operation), expected);
            seen.push(entry.revision);
        };
        note(("b", "2", kv::Operation::Put)).await;
        note(("a", "3", kv::Operation::Put)).await;
        bucket.delete("b").await.expect("it is there");
        note(("b", "", kv::Operation::Delete)).await;
        bucket.update("a", "4".into(), 3).await.expect("its revision is 3");
        bucket.update("a", "5".into(), 3).await.expect_err("its revision is another");
        note(("a", "4", kv::Operation::Put)).await;
        assert_eq!(seen, [2, 3, 4, 5]);
        let mut keys: Vec<String> = Vec::new();
        let mut listed = bucket.keys().await.expect("keys");
        while let Some(key) = within("a key", listed.next()).await {
            keys.push(key.expect("a key"));
        }
        assert_eq!(keys, ["a"], "on {shard_count} shards");

        let config = object_store::Config { bucket: "O".into(), ..Default::default() };
        let objects = within("a bucket", context.create_object_store(config)).await.expect("one");
        let whole: Vec<u8> = (0..700_000u32).map(|number| (number % 251) as u8).collect();
        objects.put("large", &mut whole.as_slice()).await.expect("it is stored");
        let mut object = objects.get("large").await.expect("it is there");
        let mut read = Vec::new();
        within("an object", object.read_to_end(&mut read)).await.expect("it is whole");
        assert!(read == whole, "on {shard_count} shards");
    }
}

#[tokio::test]
async fn new_limits_of_a_stream_hold_for_its_consumers() {
    let folder = Directory::new().expect("a folder can be made");
    let server = serve(3, &folder);
    let context = connect(&server).await;
    let stream = make_stream(&context, stream::RetentionPolicy::Limits).await;
    let config = pull::Config { max_ack_pending: 50, ..explicit("c") };
    stream.create_consumer(config).await.expect("a consumer");
    let limits = |max_ack_pending| stream::ConsumerLimits { max_ack_pending, ..Default::default() };
    let with = |max_ack_pending| stream::Config {
        consumer_limits: Some(limits(max_ack_pending)),
        ..stream.cached_info().config.clone()
    };
    let refused = context.update_stream(with(49)).await.expect_err("the consumer has 50");
    assert!(refused.to_string().contains("violates consumers: c"), "{refused}");
    within("an update", context.update_stream(with(50))).await.expect("the consumer has 50");
    let config = pull::Config { max_ack_pending: 51, ..explicit("d") };
    stream.create_consumer(config).await.expect_err("the stream allows 50");
}
