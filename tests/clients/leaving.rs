//! How connections end: drained, with the server, and in lame duck mode.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_nats::Event;
use futures_util::StreamExt;
use rustix::process::Signal;
use tokio::sync::mpsc;

use super::*;
use crate::support::raw_client::RawClient;

/// Connects a client whose events the test can wait for.
async fn connect_watched(server: &Server) -> (Client, mpsc::UnboundedReceiver<Event>) {
    let (sender, events) = mpsc::unbounded_channel();
    let options = options().event_callback(move |event| {
        let sender = sender.clone();
        async move {
            // The test may have seen enough and gone.
            let _ = sender.send(event);
        }
    });
    (connect_with(server, options).await, events)
}

async fn wait_for_event(events: &mut mpsc::UnboundedReceiver<Event>, wanted: &Event) {
    loop {
        let event = within(&format!("{wanted}"), events.recv()).await.expect("the client lives");
        if &event == wanted {
            return;
        }
    }
}

/// The basis of every client library's drain: after UNSUB and PING, everything published before
/// comes before the PONG, and nothing after it. The bytes are our own, because async-nats ends its
/// drain without that PONG.
#[tokio::test]
async fn messages_published_before_an_unsubscribe_come_before_its_pong() {
    on_shards("", async |server| {
        for publisher in &connect_many(server, 6).await {
            let mut subscriber = RawClient::connect(server.address()).expect("the server listens");
            let connect = b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB drained 1\r\n";
            subscriber.send(connect).expect("the server reads");
            subscriber.round_trip().expect("it is let in");
            for number in 0..500 {
                publish(publisher, "drained", format!("{number:03}")).await;
            }
            round_trip(publisher).await;
            subscriber.send(b"UNSUB 1\r\nPING\r\n").expect("the server reads");
            let deadline = Instant::now() + WAIT_MAX;
            for number in 0..500 {
                assert_eq!(subscriber.take_message_line(deadline), b"MSG drained 1 3\r\n");
                let body = subscriber.take_line(deadline).expect("the payload follows");
                assert_eq!(body, format!("{number:03}\r\n").into_bytes());
            }
            assert_eq!(subscriber.take_message_line(deadline), b"PONG\r\n");
            // Interest is gone everywhere.
            let error = within("503", publisher.request("drained", "".into())).await.unwrap_err();
            assert_eq!(error.kind(), RequestErrorKind::NoResponders);
        }
    })
    .await;
}

#[tokio::test]
async fn a_drained_client_ends_and_its_subject_has_no_interest_any_more() {
    on_shards("", async |server| {
        let publisher = connect(server).await;
        for _ in 0..6 {
            let draining = connect(server).await;
            let mut subscriber = subscribe(&draining, "drained").await;
            draining.drain().await.expect("connected");
            assert!(within("the end", subscriber.next()).await.is_none());
            // The library does not wait for the server.
            within("503", async {
                let asked = async || publisher.request("drained", "".into()).await;
                let impatient = Duration::from_millis(200);
                while !matches!(timeout(impatient, asked()).await,
                    Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders)
                {
                }
            })
            .await;
        }
    })
    .await;
}

#[tokio::test]
async fn clients_reconnect_and_resubscribe_after_the_server_restarts() {
    for shard_count in SHARD_COUNTS {
        for signal in [Signal::TERM, Signal::KILL] {
            let mut server = Server::midge(shard_count, "");
            let port = server.address().port().to_string();
            let mut clients = Vec::new();
            for number in 0..6 {
                let (client, events) = connect_watched(&server).await;
                let subscriber = subscribe(&client, &format!("again.{number}")).await;
                clients.push((client, subscriber, events));
            }
            server.signal(signal).unwrap();
            server.wait_for_exit(WAIT_MAX).expect("the server ends");
            for (_, _, events) in &mut clients {
                wait_for_event(events, &Event::Disconnected).await;
            }
            drop(server);
            let _server = Server::midge_with(shard_count, &["-p", &port], "");
            for (client, _, events) in &mut clients {
                wait_for_event(events, &Event::Connected).await;
                round_trip(client).await;
            }
            let publishing = clients[0].0.clone();
            for (number, (_, subscriber, _)) in clients.iter_mut().enumerate() {
                publish(&publishing, &format!("again.{number}"), "hello").await;
                assert_eq!(&next(subscriber).await.payload[..], b"hello");
            }
        }
    }
}

#[tokio::test]
async fn lame_duck_tells_clients_then_closes_them_one_by_one_and_exits_with_0() {
    const CLIENTS: usize = 6;
    // Thirty seconds are the least that the option accepts; with few clients the pause of at most a
    // second between two of them decides.
    let config = "lame_duck_duration: 30s, lame_duck_grace_period: 300ms";
    for shard_count in [1, 4] {
        let mut server = Server::midge_with(shard_count, &["-D"], config);
        let (library_client, mut events) = connect_watched(&server).await;
        let mut subscriber = subscribe(&library_client, "still.works").await;
        let closed = Arc::new(Mutex::new(Vec::new()));
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let mut client = RawClient::connect(server.address()).unwrap();
            client.send(b"CONNECT {\"verbose\":false,\"protocol\":1}\r\n").unwrap();
            client.round_trip().unwrap();
            clients.push(client);
        }
        let silent = RawClient::connect(server.address()).unwrap();
        server.signal(Signal::USR2).unwrap();
        wait_for_event(&mut events, &Event::LameDuckMode).await;
        // New clients are refused from the first moment on, while present ones continue.
        assert!(RawClient::connect(server.address()).is_err());
        publish(&library_client, "still.works", "yes").await;
        assert_eq!(&next(&mut subscriber).await.payload[..], b"yes");
        // The library would try to come back forever.
        drop((library_client, subscriber));
        let started = Instant::now();
        let threads: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                let closed = closed.clone();
                std::thread::spawn(move || {
                    let deadline = Instant::now() + Duration::from_secs(30);
                    let mut told = false;
                    while let Some(line) = client.take_line(deadline) {
                        told |= line.starts_with(b"INFO ")
                            && String::from_utf8_lossy(&line).contains("\"ldm\":true");
                    }
                    assert!(client.is_closed(), "not closed in time");
                    closed.lock().unwrap().push(started.elapsed());
                    told
                })
            })
            .collect();
        for thread in threads {
            assert!(thread.join().unwrap(), "every client is told");
        }
        let status = server.wait_for_exit(Duration::from_secs(30)).expect("the server ends");
        assert_eq!(status.code(), Some(0));
        drop(silent);
        let closed = closed.lock().unwrap();
        let spread = *closed.iter().max().unwrap() - *closed.iter().min().unwrap();
        // Eight connections on one shard: seven pauses of a second between the first and the last.
        if shard_count == 1 {
            assert!(spread >= Duration::from_secs(4), "closed within {spread:?}");
        }
        let lines = server.log().lines().join("\n");
        assert!(lines.contains("Entering lame duck mode, stop accepting new clients"), "{lines}");
        assert!(lines.contains("Client connection closed: Server Shutdown"), "{lines}");
        assert!(lines.contains("Server Exiting.."), "{lines}");
    }
}

#[tokio::test]
async fn lame_duck_without_clients_ends_at_once() {
    let mut server = Server::midge(2, "");
    server.signal(Signal::USR2).unwrap();
    let status = server.wait_for_exit(Duration::from_secs(5)).expect("the server ends");
    assert_eq!(status.code(), Some(0));
}
