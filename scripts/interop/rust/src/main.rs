//! Interoperability cases of the Rust client (async-nats). See ../README.md for what each case
//! promises and for the lines a program exchanges with scripts/interop.sh.
//!
//! async-nats has no call that waits for a PONG: its `flush` ends when the bytes are on their way.
//! Where other clients flush, this program lets a message tell that the server has come that far.

use std::env;
use std::error::Error;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_nats::client::PublishErrorKind;
use async_nats::{Client, ConnectOptions, Event, HeaderMap, Message, RequestErrorKind, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

const WAIT_MAX: Duration = Duration::from_secs(10);
const QUEUE_MEMBERS: usize = 24;
const QUEUE_MESSAGES: usize = 2400;
const QUEUE_SHARE_MIN: usize = 50;
const QUEUE_SHARE_MAX: usize = 150;
const FENCE_ROUNDS: usize = 1000;
const FENCE_PAIRS: usize = 4;
const PUBLISHED_MESSAGES: usize = 1000;
const REQUEST_COUNT: usize = 100;
const DRAINED_MESSAGES: usize = 500;
const DRAIN_ROUNDS: usize = 10;
const NO_RESPONDERS_AGE_MAX: Duration = Duration::from_secs(2);

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

fn options() -> ConnectOptions {
    ConnectOptions::new().name("interop-rust").connection_timeout(WAIT_MAX)
}

async fn connect() -> Outcome<Client> {
    Ok(options().connect(env::var("NATS_URL")?).await?)
}

/// Returns from the case with this complaint unless the condition holds.
macro_rules! check {
    ($condition:expr, $($complaint:tt)+) => {
        if !$condition {
            return Err(format!($($complaint)+).into());
        }
    };
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> Outcome<T> {
    timeout(WAIT_MAX, future).await.map_err(|_| format!("no {what} within {WAIT_MAX:?}").into())
}

async fn next(subscriber: &mut Subscriber) -> Outcome<Message> {
    Ok(within("message", subscriber.next()).await?.ok_or("the subscription ended")?)
}

/// Asks the script to do something to the server and waits until it is done.
async fn control(verb: &str) -> Outcome {
    println!("CONTROL {verb}");
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    })
    .await??;
    check!(answer.trim_end() == "done", "the script answered {answer:?}");
    Ok(())
}

/// When this is over, what `client` has sent before is known to the server, wherever `other` is
/// connected: a message that follows it on the same connection has reached `other`.
async fn fence(client: &Client, other: &Client) -> Outcome {
    static SERIAL: AtomicUsize = AtomicUsize::new(0);
    let subject = format!("rust.fence_of.{}", SERIAL.fetch_add(1, Ordering::Relaxed));
    let mut meeting = other.subscribe(subject.clone()).await?;
    let deadline = Instant::now() + WAIT_MAX;
    // The first may be there before the subscription.
    while Instant::now() < deadline {
        client.publish(subject.clone(), Bytes::new()).await?;
        if timeout(Duration::from_millis(20), meeting.next()).await.is_ok() {
            return Ok(());
        }
    }
    Err(format!("two connections did not meet within {WAIT_MAX:?}").into())
}

async fn publish_subscribe() -> Outcome {
    let (subscriber, publisher) = (connect().await?, connect().await?);
    let mut subscription = subscriber.subscribe("rust.publish").await?;
    fence(&subscriber, &publisher).await?;
    for number in 0..PUBLISHED_MESSAGES {
        publisher.publish("rust.publish", format!("message {number}").into()).await?;
    }
    publisher.publish("rust.publish", Bytes::new()).await?;
    for number in 0..PUBLISHED_MESSAGES {
        let message = next(&mut subscription).await?;
        let expected = format!("message {number}");
        check!(message.payload == expected, "expected {expected}, got {:?}", message.payload);
    }
    let last = next(&mut subscription).await?;
    check!(last.payload.is_empty(), "expected an empty payload, got {:?}", last.payload);
    Ok(())
}

async fn wildcards() -> Outcome {
    let client = connect().await?;
    let star = client.subscribe("rust.wild.*.price").await?;
    let tail = client.subscribe("rust.wild.>").await?;
    for rest in ["", ".usd", ".usd.price", ".usd.eur.price", ".last.price"] {
        client.publish(format!("rust.wild{rest}"), Bytes::new()).await?;
    }
    expect_subjects(star, &[".usd.price", ".last.price"]).await?;
    expect_subjects(tail, &[".usd", ".usd.price", ".usd.eur.price", ".last.price"]).await
}

async fn expect_subjects(mut subscriber: Subscriber, endings: &[&str]) -> Outcome {
    let expected: Vec<String> = endings.iter().map(|ending| format!("rust.wild{ending}")).collect();
    let mut received = Vec::new();
    while received.last() != expected.last() {
        received.push(next(&mut subscriber).await?.subject.to_string());
    }
    check!(received == expected, "expected {expected:?}, got {received:?}");
    Ok(())
}

async fn request_reply() -> Outcome {
    let (responder, requester) = (connect().await?, connect().await?);
    let mut requests = responder.subscribe("rust.service").await?;
    fence(&responder, &requester).await?;
    let answering = tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let reply = [b"reply to ", request.payload.as_ref()].concat();
            if let Some(subject) = request.reply
                && responder.publish(subject, reply.into()).await.is_err()
            {
                break;
            }
        }
    });
    for number in 0..REQUEST_COUNT {
        let request = requester.request("rust.service", number.to_string().into());
        let reply = within("reply", request).await??;
        let expected = format!("reply to {number}");
        check!(reply.payload == expected, "expected {expected}, got {:?}", reply.payload);
    }
    answering.abort();
    Ok(())
}

async fn no_responders() -> Outcome {
    let client = connect().await?;
    let started = Instant::now();
    let answer = within("answer", client.request("rust.nobody", "anyone?".into())).await?;
    let kind = answer.err().map(|error| error.kind());
    check!(kind == Some(RequestErrorKind::NoResponders), "expected no responders, got {kind:?}");
    let age = started.elapsed();
    check!(age < NO_RESPONDERS_AGE_MAX, "no responders was reported only after {age:?}");
    Ok(())
}

fn count_into(mut subscriber: Subscriber, counter: Arc<AtomicUsize>) -> JoinHandle<()> {
    tokio::spawn(async move {
        while subscriber.next().await.is_some() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    })
}

async fn queue_groups() -> Outcome {
    let publisher = connect().await?;
    let mut members = Vec::new();
    let mut counts = Vec::new();
    let mut counting = Vec::new();
    for _ in 0..QUEUE_MEMBERS {
        let member = connect().await?;
        let count = Arc::new(AtomicUsize::new(0));
        let work = member.queue_subscribe("rust.work", "workers".into()).await?;
        counting.push(count_into(work, Arc::clone(&count)));
        fence(&member, &publisher).await?;
        members.push(member);
        counts.push(count);
    }
    let plain = Arc::new(AtomicUsize::new(0));
    counting.push(count_into(publisher.subscribe("rust.work").await?, Arc::clone(&plain)));
    for _ in 0..QUEUE_MESSAGES {
        publisher.publish("rust.work", "work".into()).await?;
    }
    let total = || counts.iter().map(|count| count.load(Ordering::Relaxed)).sum::<usize>();
    let deadline = Instant::now() + WAIT_MAX;
    while total().min(plain.load(Ordering::Relaxed)) < QUEUE_MESSAGES && Instant::now() < deadline {
        sleep(Duration::from_millis(1)).await;
    }
    // A second copy would be on its way before these.
    for member in &members {
        fence(&publisher, member).await?;
    }
    // A subscriber keeps its connection open, and so its place in the group.
    counting.iter().for_each(JoinHandle::abort);
    check!(total() == QUEUE_MESSAGES, "the group got {} of {QUEUE_MESSAGES}", total());
    let plain = plain.load(Ordering::Relaxed);
    check!(plain == QUEUE_MESSAGES, "a plain subscriber got {plain} of {QUEUE_MESSAGES}");
    for (index, count) in counts.iter().enumerate() {
        let count = count.load(Ordering::Relaxed);
        check!(
            (QUEUE_SHARE_MIN..=QUEUE_SHARE_MAX).contains(&count),
            "member {index} of {QUEUE_MEMBERS} got {count} of {QUEUE_MESSAGES} messages"
        );
    }
    Ok(())
}

async fn headers() -> Outcome {
    let (subscriber, publisher) = (connect().await?, connect().await?);
    let mut subscription = subscriber.subscribe("rust.headers").await?;
    fence(&subscriber, &publisher).await?;
    for payload in ["with a payload", ""] {
        let mut sent = HeaderMap::new();
        sent.append("Accept", "first");
        sent.append("Accept", "second");
        sent.insert("trace-ID", "a: b, c");
        publisher.publish_with_headers("rust.headers", sent.clone(), payload.into()).await?;
        let message = next(&mut subscription).await?;
        check!(message.payload == payload, "expected {payload:?}, got {:?}", message.payload);
        check!(message.headers.as_ref() == Some(&sent), "headers are {:?}", message.headers);
    }
    Ok(())
}

/// Without a flush that waits, the subscriber itself says that it has subscribed: the message that
/// answers must not overtake the subscription.
async fn flush_fence() -> Outcome {
    let mut subscribers = Vec::new();
    let mut publishers = Vec::new();
    for pair in 0..FENCE_PAIRS {
        let (subscriber, publisher) = (connect().await?, connect().await?);
        let ready = publisher.subscribe(format!("rust.ready.{pair}")).await?;
        subscribers.push(subscriber);
        publishers.push((publisher, ready));
    }
    for subscriber in &subscribers {
        for (publisher, _) in &publishers {
            fence(publisher, subscriber).await?;
        }
    }
    for round in 0..FENCE_ROUNDS {
        // Every subscriber meets every publisher.
        let subscriber = &subscribers[round % FENCE_PAIRS];
        let index = round / FENCE_PAIRS % FENCE_PAIRS;
        let (publisher, ready) = &mut publishers[index];
        let subject = format!("rust.fence.{round}");
        let mut subscription = subscriber.subscribe(subject.clone()).await?;
        subscriber.publish(format!("rust.ready.{index}"), Bytes::new()).await?;
        next(ready).await?;
        publisher.publish(subject, "x".into()).await?;
        let arrived = timeout(WAIT_MAX, subscription.next()).await;
        check!(matches!(arrived, Ok(Some(_))), "round {round}: the message was lost");
        subscription.unsubscribe().await?;
    }
    Ok(())
}

/// This client's drain does not wait for what is still on its way to it. So the drain begins when
/// the messages have come, before the application has taken any of them.
async fn drain() -> Outcome {
    for _ in 0..DRAIN_ROUNDS {
        drain_once().await?;
    }
    Ok(())
}

async fn drain_once() -> Outcome {
    let (mut watched, publisher) = (Watched::connect().await?, connect().await?);
    let mut subscription = watched.client.subscribe("rust.drain").await?;
    fence(&watched.client, &publisher).await?;
    for _ in 0..DRAINED_MESSAGES {
        publisher.publish("rust.drain", "x".into()).await?;
    }
    fence(&publisher, &watched.client).await?;
    watched.client.drain().await?;
    let mut received = 0;
    while within("end of the drained subscription", subscription.next()).await?.is_some() {
        received += 1;
    }
    check!(received == DRAINED_MESSAGES, "{received} of {DRAINED_MESSAGES} messages came");
    watched.wait_for(Event::Closed).await
}

async fn max_payload() -> Outcome {
    let (subscriber, publisher) = (connect().await?, connect().await?);
    let mut subscription = subscriber.subscribe("rust.large").await?;
    fence(&subscriber, &publisher).await?;
    let size = publisher.server_info().max_payload;
    let payload: Bytes = (0..size).map(|index| (index % 251) as u8).collect();
    publisher.publish("rust.large", payload.clone()).await?;
    let message = next(&mut subscription).await?;
    let received = message.payload.len();
    check!(message.payload == payload, "{size} bytes came back as {received} other bytes");
    let above = publisher.publish("rust.large", vec![0; size + 1].into()).await;
    let kind = above.err().map(|error| error.kind());
    check!(kind == Some(PublishErrorKind::MaxPayloadExceeded), "one byte more: {kind:?}");
    publisher.publish("rust.large", "still here".into()).await?;
    let message = next(&mut subscription).await?;
    check!(message.payload == "still here", "got {} bytes", message.payload.len());
    Ok(())
}

/// A connection whose events can be waited for.
struct Watched {
    client: Client,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Watched {
    async fn connect() -> Outcome<Watched> {
        let (sender, events) = mpsc::unbounded_channel();
        let client = options()
            .max_reconnects(None)
            .reconnect_delay_callback(|_| Duration::from_millis(100))
            .event_callback(move |event| {
                let sender = sender.clone();
                async move {
                    // Nobody listens any more when the case is over.
                    let _ = sender.send(event);
                }
            })
            .connect(env::var("NATS_URL")?)
            .await?;
        let mut watched = Watched { client, events };
        watched.wait_for(Event::Connected).await?;
        Ok(watched)
    }

    async fn wait_for(&mut self, expected: Event) -> Outcome {
        within(&format!("event '{expected}'"), async {
            while let Some(event) = self.events.recv().await {
                if event == expected {
                    return Ok(());
                }
            }
            Err(format!("the client ended before the event '{expected}'").into())
        })
        .await?
    }

    /// The script restarts the server; afterwards the old subscription must work again.
    async fn restart(mut self, subject: &'static str, mut subscription: Subscriber) -> Outcome {
        control("restart").await?;
        self.wait_for(Event::Disconnected).await?;
        self.wait_for(Event::Connected).await?;
        self.client.publish(subject, "again".into()).await?;
        let message = next(&mut subscription).await?;
        check!(message.payload == "again", "after the restart: got {:?}", message.payload);
        Ok(())
    }
}

async fn reconnect() -> Outcome {
    let watched = Watched::connect().await?;
    let subscription = watched.client.subscribe("rust.reconnect").await?;
    watched.restart("rust.reconnect", subscription).await
}

async fn lame_duck() -> Outcome {
    let mut watched = Watched::connect().await?;
    let subscription = watched.client.subscribe("rust.lame_duck").await?;
    control("lame_duck").await?;
    watched.wait_for(Event::LameDuckMode).await?;
    watched.restart("rust.lame_duck", subscription).await
}

/// This client has no close but the drain.
async fn close_callbacks() -> Outcome {
    let mut watched = Watched::connect().await?;
    watched.client.drain().await?;
    watched.wait_for(Event::Draining).await?;
    watched.wait_for(Event::Closed).await?;
    let published = watched.client.publish("rust.closed", Bytes::new()).await;
    check!(published.is_err(), "publishing on a closed connection raised no error");
    Ok(())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let names = env::var("INTEROP_CASES").unwrap_or_default();
    for name in names.split_whitespace() {
        let outcome = match name {
            "publish_subscribe" => publish_subscribe().await,
            "wildcards" => wildcards().await,
            "request_reply" => request_reply().await,
            "no_responders" => no_responders().await,
            "queue_groups" => queue_groups().await,
            "headers" => headers().await,
            "flush_fence" => flush_fence().await,
            "drain" => drain().await,
            "max_payload" => max_payload().await,
            "reconnect" => reconnect().await,
            "lame_duck" => lame_duck().await,
            "close_callbacks" => close_callbacks().await,
            _ => Err("this program has no such case".into()),
        };
        match outcome {
            Ok(()) => println!("RESULT {name} pass"),
            Err(error) => {
                println!("RESULT {name} fail {}", error.to_string().replace('\n', " "));
            }
        }
    }
}
