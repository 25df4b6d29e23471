//! The cases: each gives a server a lot of work at once, by means that every client, operator or
//! monitoring tool has.

use crate::Failure;
use crate::stalls::crowd::Crowd;
use crate::stalls::stage::{Settings, Stage, WAIT_MAX};
use crate::wire::connection::Connection;
use std::fmt::Write;
use std::time::Duration;

/// Number of messages in cases that provoke by publishing.
const MESSAGE_COUNT: usize = 10;
/// Tokens of the deep filters, and of the subject that they are matched with.
const DEEP_TOKENS: usize = 2_000;
/// Tokens of a deep filter that are either `*` or a letter: 16,384 filters.
const DEEP_CHOICES: usize = 14;
/// Bytes of `SUB` lines written at a time.
const WRITE_SIZE: usize = 256 << 10;
/// Time during which nothing is provoked, in the case that shows the host's own noise.
const IDLE_TIME: Duration = Duration::from_secs(2);
/// Most bytes of one message that answers a request for all accounts.
const ANSWER_SIZE: usize = 8 << 20;
/// The filter that is denied to the user `limited`.
const DENIED: &str = "stalls.denied.>";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Case {
    /// Nothing: what the host itself does to a PING
    Idle,
    /// 10 messages to 30,000 queue groups, all of the publisher itself, which gets none of its own
    /// messages
    QueueGroups,
    /// 10 messages that match 30,000 subscriptions of a client which may not have them
    Denied,
    /// One message to 100,000 subscriptions on 400 connections
    FanOut,
    /// 10 messages with subjects of 2,000 tokens, with 16,384 filters of that length
    DeepMatch,
    /// A client subscribes 400,000 times in one go
    ManySubs,
    /// A client with 400,000 subscriptions disconnects
    End400k,
    /// A client with 1,000,000 subscriptions disconnects
    End1m,
    /// A client with 400,000 subscriptions sends CONNECT again, which drops them
    SecondConnect,
    /// A reload denies a client its 400,000 subscriptions
    PermissionReload,
    /// A reload with 10,000 connections, changing the permissions of other users
    SessionsReload,
    /// A reload that has INFO sent to 10,000 connections
    Announce,
    /// A reload removes the user of 10,000 connections
    CloseByReload,
    /// 10,000 connections are closed by their clients at once
    CloseByPeers,
    /// Monitoring asks for all of 10,000 accounts, over HTTP and as the system account
    Accounts,
}

impl Case {
    pub fn all() -> &'static [Case] {
        <Case as clap::ValueEnum>::value_variants()
    }

    /// Returns the configuration from which it starts.
    pub fn settings(self, scale: f64) -> Settings {
        match self {
            Case::Denied => Settings { denied: Some(DENIED.to_string()), ..Settings::default() },
            Case::Accounts => {
                Settings { account_count: (10_000.0 * scale) as usize, ..Settings::default() }
            }
            _ => Settings::default(),
        }
    }

    /// Plays the case.
    ///
    /// # Errors
    /// If the server does not do what the case is about.
    pub fn play(self, stage: &mut Stage) -> Result<(), Failure> {
        match self {
            Case::Idle => stage.provoke(|_| {
                std::thread::sleep(IDLE_TIME);
                Ok(())
            }),
            Case::QueueGroups => queue_groups(stage),
            Case::Denied => denied(stage),
            Case::FanOut => fan_out(stage),
            Case::DeepMatch => deep_match(stage),
            Case::ManySubs => many_subscriptions(stage),
            Case::End400k => end(stage, 400_000),
            Case::End1m => end(stage, 1_000_000),
            Case::SecondConnect => second_connect(stage),
            Case::PermissionReload => permission_reload(stage),
            Case::SessionsReload => sessions_reload(stage),
            Case::Announce => announce(stage),
            Case::CloseByReload => close_by_reload(stage),
            Case::CloseByPeers => close_by_peers(stage),
            Case::Accounts => accounts(stage),
        }
    }
}

fn queue_groups(stage: &mut Stage) -> Result<(), Failure> {
    let mut dialer = stage.dialer("load", 0);
    dialer.echo = false;
    let mut client = dialer.connect("midge-bench stalls", 0)?;
    subscribe(&mut client, stage.scaled(30_000), |index| format!("stalls.own group{index}"))?;
    stage.provoke(|_| publish(&mut client, |_| "stalls.own".to_string()))
}

fn denied(stage: &mut Stage) -> Result<(), Failure> {
    let mut listener = stage.connect("limited", 0)?;
    subscribe(&mut listener, stage.scaled(30_000), |_| "stalls.*.one".to_string())?;
    let mut publisher = stage.connect("load", stage.last_shard())?;
    stage.provoke(|_| publish(&mut publisher, |_| "stalls.denied.one".to_string()))
}

fn fan_out(stage: &mut Stage) -> Result<(), Failure> {
    let connection_count = stage.scaled(400);
    let each = 250;
    let crowd = stage.crowd("crowd", connection_count, |connection| {
        subscribe(connection, each, |_| "stalls.all".to_string())
    })?;
    let before = crowd.line_count();
    let mut publisher = stage.connect("load", 0)?;
    stage.provoke(|stage| {
        publisher.stream.write_all(b"PUB stalls.all 2\r\nhi\r\n")?;
        let lines = 2 * (connection_count * each) as u64;
        stage.wait_until("everybody has the message", |_| Ok(crowd.line_count() >= before + lines))
    })
}

fn deep_match(stage: &mut Stage) -> Result<(), Failure> {
    let mut listener = stage.connect("load", 0)?;
    let same = "*.".repeat(DEEP_TOKENS - DEEP_CHOICES - 1);
    subscribe(&mut listener, stage.scaled(1 << DEEP_CHOICES), |index| {
        let choice = |place: usize| if index >> place & 1 == 1 { "a." } else { "*." };
        let choices: String = (0..DEEP_CHOICES).map(choice).collect();
        format!("{same}{choices}end")
    })?;
    let mut publisher = stage.connect("load", 0)?;
    let tokens = "a.".repeat(DEEP_TOKENS - 1);
    // Different each time, so that no server finds them in a cache.
    stage.provoke(|_| publish(&mut publisher, |index| format!("{tokens}{index}")))
}

fn many_subscriptions(stage: &mut Stage) -> Result<(), Failure> {
    let mut client = stage.connect("load", 0)?;
    stage.provoke(move |stage| {
        subscribe_apart(stage, &mut client, 400_000)?;
        Ok(client)
    })
}

fn end(stage: &mut Stage, subscription_count: usize) -> Result<(), Failure> {
    let left = stage.subscription_count()?;
    let mut client = stage.connect("load", 0)?;
    subscribe_apart(stage, &mut client, subscription_count)?;
    stage.provoke(|stage| {
        drop(client);
        wait_for_subscriptions(stage, left)
    })
}

fn second_connect(stage: &mut Stage) -> Result<(), Failure> {
    let left = stage.subscription_count()?;
    let mut client = stage.connect("load", 0)?;
    subscribe_apart(stage, &mut client, 400_000)?;
    let connect = br#"CONNECT {"verbose":false,"user":"load","pass":"stalls","protocol":1}"#;
    stage.provoke(|stage| {
        client.stream.write_all(connect)?;
        client.stream.write_all(b"\r\n")?;
        client.fence_within(WAIT_MAX)?;
        wait_for_subscriptions(stage, left)
    })
}

fn permission_reload(stage: &mut Stage) -> Result<(), Failure> {
    let left = stage.subscription_count()?;
    let mut client = stage.connect("limited", 0)?;
    subscribe_apart(stage, &mut client, 400_000)?;
    // It is told about each subscription that it loses.
    let crowd = Crowd::new(vec![client.stream])?;
    stage.provoke(|stage| {
        stage.reload(|settings| settings.denied = Some("stalls.apart.>".to_string()))?;
        wait_for_subscriptions(stage, left)?;
        Ok(crowd)
    })
}

fn sessions_reload(stage: &mut Stage) -> Result<(), Failure> {
    let crowd = idle_crowd(stage)?;
    stage.provoke(|stage| {
        stage.reload(|settings| settings.denied = Some(DENIED.to_string()))?;
        Ok(crowd)
    })
}

fn announce(stage: &mut Stage) -> Result<(), Failure> {
    let crowd = idle_crowd(stage)?;
    let before = crowd.line_count();
    let count = stage.scaled(10_000) as u64;
    stage.provoke(|stage| {
        stage.reload(|settings| settings.advertised = Some("127.0.0.1:4222".to_string()))?;
        stage.wait_until("everybody has the INFO", |_| Ok(crowd.line_count() >= before + count))?;
        Ok(crowd)
    })
}

fn close_by_reload(stage: &mut Stage) -> Result<(), Failure> {
    let crowd = idle_crowd(stage)?;
    let count = stage.scaled(10_000) as u64;
    stage.provoke(|stage| {
        stage.reload(|settings| settings.without_crowd = true)?;
        stage.wait_until("all are closed", |_| Ok(crowd.closed_count() == count))
    })
}

fn close_by_peers(stage: &mut Stage) -> Result<(), Failure> {
    let left = stage.connection_count()?;
    let crowd = idle_crowd(stage)?;
    stage.provoke(|stage| {
        drop(crowd);
        stage.wait_until("all are gone", |stage| Ok(stage.connection_count()? <= left))
    })
}

fn accounts(stage: &mut Stage) -> Result<(), Failure> {
    let mut system = stage.dialer("system", 0).connect("midge-bench stalls", ANSWER_SIZE)?;
    system.subscribe("stalls.answer", None, 1)?;
    stage.provoke(|stage| {
        for _ in 0..3 {
            for path in ["/accountz", "/accstatz?unused=1", "/varz"] {
                stage.get(path)?;
            }
            let request = r#"{"include_unused":true}"#;
            let subject = "$SYS.REQ.ACCOUNT.PING.STATZ";
            let size = request.len();
            let line = format!("PUB {subject} stalls.answer {size}\r\n{request}\r\n");
            system.stream.write_all(line.as_bytes())?;
            let mut answered = false;
            let until = std::time::Instant::now() + WAIT_MAX;
            while !answered {
                if std::time::Instant::now() > until {
                    return Err(Failure::new("no answer to the request for all accounts"));
                }
                system.pump(|_, _| answered = true)?;
            }
        }
        Ok(())
    })
}

/// Opens 10,000 connections with a subscription each.
fn idle_crowd(stage: &Stage) -> Result<Crowd, Failure> {
    stage.crowd("crowd", stage.scaled(10_000), |connection| {
        subscribe(connection, 1, |_| "stalls.idle".to_string())
    })
}

/// Subscribes `count` times, to `subject_and_queue` of each number, and waits until the server has
/// read everything.
fn subscribe(
    client: &mut Connection,
    count: usize,
    subject_and_queue: impl Fn(usize) -> String,
) -> Result<(), Failure> {
    let mut lines = String::new();
    for index in 0..count {
        // Infallible: a string grows.
        let _ = write!(lines, "SUB {} {}\r\n", subject_and_queue(index), index + 1);
        if lines.len() >= WRITE_SIZE {
            client.stream.write_all(lines.as_bytes())?;
            lines.clear();
        }
    }
    client.stream.write_all(lines.as_bytes())?;
    client.fence_within(WAIT_MAX)
}

/// Subscribes to `count` subjects. Other shards may still be processing what they are told about it
/// when this returns: that is part of what the window shows.
fn subscribe_apart(stage: &Stage, client: &mut Connection, count: usize) -> Result<(), Failure> {
    subscribe(client, stage.scaled(count), |index| format!("stalls.apart.{index}"))
}

fn wait_for_subscriptions(stage: &mut Stage, count: u64) -> Result<(), Failure> {
    stage.wait_until("its subscriptions are gone", |stage| Ok(stage.subscription_count()? <= count))
}

/// Publishes `MESSAGE_COUNT` empty messages in one write and waits until the server has routed
/// them.
fn publish(client: &mut Connection, subject: impl Fn(usize) -> String) -> Result<(), Failure> {
    let mut messages = String::new();
    for index in 0..MESSAGE_COUNT {
        // Infallible: a string grows.
        let _ = write!(messages, "PUB {} 0\r\n\r\n", subject(index));
    }
    client.stream.write_all(messages.as_bytes())?;
    client.fence_within(WAIT_MAX)
}
