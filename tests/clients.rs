//! The everyday promises of NATS, tested with a real client library on 1, 2 and 4 shards.
//!
//! `clients/load.rs` is about amounts: order, full lanes, slow consumers, memory.
//! `clients/leaving.rs` is about the end of a connection: drain, restart, lame duck.
//! `clients/moving.rs` is about clients that move between shards all the time.

mod support;

#[path = "clients/leaving.rs"]
mod leaving;
#[path = "clients/load.rs"]
mod load;
#[path = "clients/moving.rs"]
mod moving;

use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::{Client, ConnectOptions, HeaderMap, Message, PublishErrorKind, Subscriber};
use futures_util::StreamExt;
use tokio::time::timeout;

use support::WAIT_MAX;
use support::server::Server;

/// What a client can observe must be the same with each of these.
const SHARD_COUNTS: [usize; 3] = [1, 2, 4];

/// Runs `test` against one fresh server per number of shards.
async fn on_shards(config: &str, test: impl AsyncFn(&Server)) {
    for shard_count in SHARD_COUNTS {
        // Shown if the test fails.
        println!("on {shard_count} shards");
        test(&Server::midge(shard_count, config)).await;
    }
}

/// Options of a client that keeps every message that arrives, however slowly the test takes them.
fn options() -> ConnectOptions {
    ConnectOptions::new().subscription_capacity(1 << 20).request_timeout(Some(WAIT_MAX))
}

async fn connect(server: &Server) -> Client {
    connect_with(server, options()).await
}

async fn connect_with(server: &Server, options: ConnectOptions) -> Client {
    options.connect(server.address().to_string()).await.expect("the server accepts")
}

/// Opens several connections: on several shards, as the kernel spreads them.
async fn connect_many(server: &Server, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(connect(server).await);
    }
    clients
}

async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match timeout(WAIT_MAX, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited in vain for: {what}"),
    }
}

async fn next(subscriber: &mut Subscriber) -> Message {
    within("a message", subscriber.next()).await.expect("the subscription is open")
}

async fn subscribe(client: &Client, subject: &str) -> Subscriber {
    let subscriber = client.subscribe(subject.to_owned()).await.expect("the client is connected");
    round_trip(client).await;
    subscriber
}

async fn publish(client: &Client, subject: &str, payload: impl Into<Vec<u8>>) {
    let payload = payload.into().into();
    client.publish(subject.to_owned(), payload).await.expect("the client is connected");
}

/// Waits until the server has handled everything sent by this client. The library's own `flush`
/// only writes to the socket, so this sends a message to itself.
async fn round_trip(client: &Client) {
    let subject = client.new_inbox();
    let mut own = client.subscribe(subject.clone()).await.expect("the client is connected");
    publish(client, &subject, "").await;
    next(&mut own).await;
}

#[tokio::test]
async fn a_message_reaches_literal_and_wildcard_subscriptions_and_no_others() {
    on_shards("", async |server| {
        let clients = connect_many(server, 8).await;
        let filters = ["a.b.c", "a.*.c", "a.>", ">", "*.b.*", "a.b", "*", "a.b.c.d", "b.>"];
        let matching = 5;
        let mut subscribers = Vec::new();
        for (index, filter) in filters.iter().enumerate() {
            subscribers.push(subscribe(&clients[index % clients.len()], filter).await);
        }
        for client in &clients {
            publish(client, "a.b.c", "x").await;
            publish(client, "end", "").await;
            publish(client, "a.b", "").await;
            publish(client, "a.b.c.d", "").await;
            publish(client, "b.end", "").await;
            round_trip(client).await;
        }
        for (subscriber, filter) in subscribers[..matching].iter_mut().zip(filters) {
            let mut received = 0;
            while received < clients.len() {
                let message = next(subscriber).await;
                if message.subject.as_str() == "a.b.c" {
                    assert_eq!(&message.payload[..], b"x");
                    received += 1;
                } else {
                    assert!(filter.contains('>'), "{filter} got {}", message.subject);
                }
            }
        }
        for (subscriber, filter) in subscribers[matching..].iter_mut().zip(&filters[matching..]) {
            for _ in &clients {
                let subject = next(subscriber).await.subject;
                assert_ne!(subject.as_str(), "a.b.c", "{filter}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_gets_its_reply_whichever_shards_the_two_are_on() {
    on_shards("", async |server| {
        let clients = connect_many(server, 10).await;
        let mut responders = Vec::new();
        for (index, client) in clients.iter().enumerate() {
            let mut requests = subscribe(client, &format!("echo.{index}")).await;
            let client = client.clone();
            responders.push(tokio::spawn(async move {
                while let Some(request) = requests.next().await {
                    let reply = request.reply.expect("a request has a reply subject");
                    client.publish(reply, request.payload).await.expect("connected");
                }
            }));
        }
        for (number, client) in clients.iter().enumerate() {
            for responder in 0..clients.len() {
                let payload = format!("{number} to {responder}");
                let request = client.request(format!("echo.{responder}"), payload.clone().into());
                let reply = within("a reply", request).await.expect("a responder");
                assert_eq!(&reply.payload[..], payload.as_bytes());
            }
        }
        responders.iter().for_each(|responder| responder.abort());
    })
    .await;
}

#[tokio::test]
async fn a_request_that_is_passed_on_gets_its_reply_from_a_third_client() {
    on_shards("", async |server| {
        // Client k passes a request on to k + 1; the last one answers the first directly.
        let clients = connect_many(server, 8).await;
        let mut relays = Vec::new();
        for (index, client) in clients.iter().enumerate() {
            let mut requests = subscribe(client, &format!("hop.{index}")).await;
            let (client, last) = (client.clone(), index == clients.len() - 1);
            relays.push(tokio::spawn(async move {
                while let Some(request) = requests.next().await {
                    let reply = request.reply.expect("a request has a reply subject");
                    if last {
                        client.publish(reply, request.payload).await.expect("connected");
                    } else {
                        let subject = format!("hop.{}", index + 1);
                        client
                            .publish_with_reply(subject, reply, request.payload)
                            .await
                            .expect("connected");
                    }
                }
            }));
        }
        for round in 0..200 {
            // A fresh connection's inbox subscription is announced with its first request.
            let asking = connect(server).await;
            let request = asking.request("hop.0", format!("{round}").into());
            let reply = within("a reply", request).await.expect("the last one answers");
            assert_eq!(&reply.payload[..], round.to_string().as_bytes());
        }
        relays.iter().for_each(|relay| relay.abort());
    })
    .await;
}

#[tokio::test]
async fn a_request_without_responders_fails_at_once() {
    on_shards("", async |server| {
        let clients = connect_many(server, 6).await;
        for client in &clients {
            let error = within("503", client.request("nobody.here", "".into())).await.unwrap_err();
            assert_eq!(error.kind(), RequestErrorKind::NoResponders);
        }
        // A responder that has left is no longer one, for a client on any shard.
        let mut responder = subscribe(&clients[0], "nobody.here").await;
        responder.unsubscribe().await.expect("connected");
        round_trip(&clients[0]).await;
        for client in &clients {
            let error = within("503", client.request("nobody.here", "".into())).await.unwrap_err();
            assert_eq!(error.kind(), RequestErrorKind::NoResponders);
        }
    })
    .await;
}

#[tokio::test]
async fn a_queue_group_gives_each_message_to_one_member_and_all_members_the_same_share() {
    const MEMBERS: usize = 24;
    const MESSAGES: usize = 12_000;
    on_shards("", async |server| {
        let clients = connect_many(server, MEMBERS).await;
        let mut members = Vec::new();
        for client in &clients {
            let member = client.queue_subscribe("work.*", "crew".into()).await.expect("connected");
            members.push(member);
        }
        let mut watcher = subscribe(&clients[0], "work.*").await;
        for client in &clients {
            round_trip(client).await;
        }
        for number in 0..MESSAGES {
            publish(&clients[number % 3], "work.item", number.to_string()).await;
        }
        for client in &clients[..3] {
            round_trip(client).await;
            publish(client, "work.end", "").await;
        }
        let mut seen = vec![0u32; MESSAGES];
        for _ in 0..MESSAGES {
            next(&mut watcher).await;
        }
        let mut shares = vec![0usize; MEMBERS];
        let mut left = MESSAGES + 3;
        let mut all = futures_util::stream::select_all(
            members
                .into_iter()
                .enumerate()
                .map(|(index, member)| Box::pin(member.map(move |message| (index, message)))),
        );
        while left > 0 {
            let (index, message) = within("a member's message", all.next()).await.expect("open");
            left -= 1;
            if message.subject.as_str() == "work.item" {
                let number: usize = str::from_utf8(&message.payload).unwrap().parse().unwrap();
                seen[number] += 1;
                shares[index] += 1;
            }
        }
        assert!(seen.iter().all(|count| *count == 1), "a message came twice or not at all");
        // 500 each with a deviation of 22: this is seven of them.
        let (low, high) = (MESSAGES / MEMBERS - 154, MESSAGES / MEMBERS + 154);
        assert!(shares.iter().all(|share| (low..=high).contains(share)), "{shares:?}");
    })
    .await;
}

#[tokio::test]
async fn queue_groups_and_plain_subscriptions_each_get_their_own_copy() {
    on_shards("", async |server| {
        let clients = connect_many(server, 12).await;
        let mut groups = [Vec::new(), Vec::new(), Vec::new()];
        for client in &clients {
            for (group, name) in groups.iter_mut().zip(["a", "b"]) {
                group.push(client.queue_subscribe("job", name.into()).await.expect("connected"));
            }
            groups[2].push(client.subscribe("job").await.expect("connected"));
            round_trip(client).await;
        }
        for client in &clients {
            for _ in 0..10 {
                publish(client, "job", "").await;
            }
            round_trip(client).await;
        }
        let published = clients.len() * 10;
        for (group, copies) in groups.into_iter().zip([published, published, published * 12]) {
            let mut all = futures_util::stream::select_all(group);
            for _ in 0..copies {
                within("a copy", all.next()).await.expect("open");
            }
            // Everything sent before this PONG would have arrived with it.
            for client in &clients {
                round_trip(client).await;
            }
            let more = timeout(Duration::from_millis(1), all.next()).await;
            assert!(more.is_err(), "a copy too many");
        }
    })
    .await;
}

#[tokio::test]
async fn headers_arrive_as_they_were_sent() {
    on_shards("", async |server| {
        let clients = connect_many(server, 6).await;
        for receiving in &clients {
            let mut subscriber = subscribe(receiving, "with.headers").await;
            for sending in &clients {
                let mut headers = HeaderMap::new();
                headers.insert("Trace-Id", "7f");
                headers.append("Many", "one");
                headers.append("Many", "two words");
                sending
                    .publish_with_headers("with.headers", headers.clone(), "body".into())
                    .await
                    .expect("connected");
                round_trip(sending).await;
                let message = next(&mut subscriber).await;
                assert_eq!(message.headers, Some(headers));
                assert_eq!(&message.payload[..], b"body");
            }
            subscriber.unsubscribe().await.expect("connected");
            round_trip(receiving).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_after_another_connections_flush_is_never_lost() {
    const PAIRS: usize = 10;
    const ROUNDS: usize = 1_000;
    on_shards("", async |server| {
        let mut pairs = Vec::new();
        for pair in 0..PAIRS {
            let (subscribing, publishing) = (connect(server).await, connect(server).await);
            pairs.push(tokio::spawn(async move {
                for round in 0..ROUNDS {
                    let subject = format!("fence.{pair}.{round}");
                    let mut subscriber = subscribe(&subscribing, &subject).await;
                    publish(&publishing, &subject, "").await;
                    let message = next(&mut subscriber).await;
                    assert_eq!(message.subject.as_str(), subject);
                    subscriber.unsubscribe().await.expect("connected");
                }
            }));
        }
        for pair in pairs {
            pair.await.expect("no message is lost");
        }
    })
    .await;
}

#[tokio::test]
async fn unsubscribe_after_stops_at_its_count() {
    on_shards("", async |server| {
        let clients = connect_many(server, 6).await;
        for client in &clients {
            let mut subscriber = subscribe(client, "limited").await;
            subscriber.unsubscribe_after(5).await.expect("connected");
            round_trip(client).await;
            for number in 0..4u8 {
                publish(&clients[0], "limited", vec![number]).await;
                publish(&clients[5], "limited", vec![number]).await;
            }
            let mut received = 0;
            while within("the end", subscriber.next()).await.is_some() {
                received += 1;
            }
            assert_eq!(received, 5);
        }
    })
    .await;
}

#[tokio::test]
async fn a_payload_of_max_payload_passes_and_one_byte_more_is_refused() {
    on_shards("max_payload: 100000", async |server| {
        let clients = connect_many(server, 4).await;
        for client in &clients {
            assert_eq!(client.server_info().max_payload, 100_000);
            let mut subscriber = subscribe(&clients[0], "large").await;
            publish(client, "large", vec![7; 100_000]).await;
            round_trip(client).await;
            assert_eq!(next(&mut subscriber).await.payload, vec![7; 100_000]);
            let refused = client.publish("large", vec![7; 100_001].into()).await.unwrap_err();
            assert_eq!(refused.kind(), PublishErrorKind::MaxPayloadExceeded);
        }
        // The library refuses it itself, so the server is asked without the library.
        let mut raw = support::raw_client::RawClient::connect(server.address()).unwrap();
        raw.send(b"CONNECT {\"verbose\":false}\r\nPUB large 100001\r\n").unwrap();
        let deadline = std::time::Instant::now() + WAIT_MAX;
        let lines: Vec<_> = std::iter::from_fn(|| raw.take_line(deadline)).collect();
        assert_eq!(lines.last().unwrap(), b"-ERR 'Maximum Payload Violation'\r\n");
        assert!(raw.is_closed());
    })
    .await;
}

#[tokio::test]
async fn echo_off_keeps_own_messages_away_and_no_others() {
    on_shards("", async |server| {
        let silent = connect_with(server, options().no_echo()).await;
        let others = connect_many(server, 6).await;
        let mut own = silent.subscribe("room").await.expect("connected");
        let mut other = subscribe(&others[0], "room").await;
        publish(&silent, "room", "mine").await;

        // Its own message would not come back.
        let error = within("503", silent.request("nobody.here", "".into())).await.unwrap_err();
        assert_eq!(error.kind(), RequestErrorKind::NoResponders);
        for client in &others {
            publish(client, "room", "theirs").await;
            round_trip(client).await;
        }
        assert_eq!(&next(&mut other).await.payload[..], b"mine");
        for _ in &others {
            assert_eq!(&next(&mut own).await.payload[..], b"theirs");
            assert_eq!(&next(&mut other).await.payload[..], b"theirs");
        }
    })
    .await;
}
