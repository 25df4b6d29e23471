//! Clients that move between shards all the time: nothing is lost, doubled or reordered.
//! `MIDGE_MOVES_MESSAGES=1000000` publishes that many messages per run.

use futures_util::StreamExt;
use serde_json::Value;
use tokio::time::timeout;

use super::{connect_many, publish, round_trip, subscribe};
use crate::support::server::Server;
use crate::support::{WAIT_MAX, wait_until};

const MESSAGES: usize = 20_000;
const CLIENTS: usize = 4;

/// Messages published in a row by one client, before others are.
const BURST: usize = 100;

fn wandering(shards: usize) -> Server {
    // Each client is asked to move on every 25 ms.
    let config = "http: \"127.0.0.1:-1\"\nping_interval: \"100ms\"\nping_max: 1000000";
    Server::midge_with(shards, &["--balance", "wander"], config)
}

/// Returns how often clients moved.
fn moved(server: &Server) -> u64 {
    let body = server.monitor_get("/varz").expect("monitoring answers");
    let varz: Value = serde_json::from_slice(&body).expect("JSON");
    let shards = varz["midge"]["shards"].as_array().expect("there are shards");
    shards.iter().map(|shard| shard["moved_in"].as_u64().expect("a number")).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_between_clients_that_move_come_once_and_in_order() {
    let wanted = std::env::var("MIDGE_MOVES_MESSAGES");
    let wanted = wanted.map_or(MESSAGES, |text| text.parse().expect("a number"));
    for shards in [2, 4] {
        let server = wandering(shards);
        let clients = connect_many(&server, CLIENTS).await;
        let mut listeners = Vec::new();
        for client in &clients {
            let mut heard = subscribe(client, "all.*").await;
            listeners.push(tokio::spawn(async move {
                let mut next = [0; CLIENTS];
                while next.iter().sum::<usize>() < wanted {
                    let message = timeout(WAIT_MAX, heard.next()).await.expect("it comes in time");
                    let message = message.expect("it is subscribed");
                    let publisher: usize = message.subject[4..].parse().expect("a number");
                    let number = str::from_utf8(&message.payload).expect("ASCII").parse::<usize>();
                    assert_eq!(number, Ok(next[publisher]), "of publisher {publisher}");
                    next[publisher] += 1;
                }
                round_trip_is_silent(heard).await;
            }));
        }
        let mut publishers = Vec::new();
        for (number, client) in clients.iter().enumerate() {
            let client = client.clone();
            publishers.push(tokio::spawn(async move {
                for message in 0..wanted / CLIENTS {
                    publish(&client, &format!("all.{number}"), message.to_string()).await;
                    if message % BURST == 0 {
                        round_trip(&client).await;
                    }
                }
                round_trip(&client).await;
            }));
        }
        for publisher in publishers {
            publisher.await.expect("all is published");
        }
        for listener in listeners {
            listener.await.expect("all is heard");
        }
        println!("{shards} shards, {wanted} messages, {} moves", moved(&server));
        wait_until("clients to move often", || moved(&server) >= 20);
    }
}

/// Nothing comes twice, behind all others: unsubscribed, what is left is what was sent before.
async fn round_trip_is_silent(mut heard: async_nats::Subscriber) {
    heard.unsubscribe().await.expect("connected");
    assert!(timeout(WAIT_MAX, heard.next()).await.expect("it ends").is_none(), "one too many");
}

/// Each asks the next one: a question and its answer cross shards that both may have left since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_between_clients_that_move_are_answered_or_told_that_nobody_listens() {
    for shards in [2, 4] {
        let server = wandering(shards);
        let clients = connect_many(&server, CLIENTS).await;
        let mut asking = Vec::new();
        for (number, client) in clients.iter().enumerate() {
            let mut requests = subscribe(client, &format!("ask.{number}")).await;
            let answering = client.clone();
            tokio::spawn(async move {
                while let Some(request) = requests.next().await {
                    let reply = request.reply.expect("a request has a reply subject");
                    answering.publish(reply, request.payload).await.expect("connected");
                }
            });
        }
        for (number, client) in clients.iter().enumerate() {
            let client = client.clone();
            asking.push(tokio::spawn(async move {
                let subject = format!("ask.{}", (number + 1) % CLIENTS);
                for question in 0..MESSAGES / 40 {
                    let text = question.to_string();
                    let answer = client.request(subject.clone(), text.clone().into()).await;
                    assert_eq!(answer.expect("it is answered").payload, text);
                    if question % 8 == 0 {
                        let nobody = client.request("nobody", "".into()).await;
                        let error = nobody.expect_err("nobody listens");
                        let kind = async_nats::client::RequestErrorKind::NoResponders;
                        assert_eq!(error.kind(), kind);
                    }
                }
            }));
        }
        for one in asking {
            one.await.expect("all is answered");
        }
        wait_until("clients to move often", || moved(&server) >= 20);
    }
}
