//! Messages to many in parts: the same to everybody as in one piece, and no turn that does more
//! than its share.

use std::future::Future;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::auth::permissions::{Permissions, SubscribeRight};
use crate::base::ids::{AccountId, ClientKey};
use crate::base::limits::{
    ADOPTED_FAN_OUT_BYTES_MAX, CHUNK_BYTES, SUBSCRIPTION_WORK, TOKEN_BYTES_PER_UNIT, TURN_WORK_MAX,
    UNHEARD_REQUESTS_MAX, WHOLE_WORK_SHARE,
};
use crate::base::pool::BufferPool;
use crate::broker::Broker;
use crate::broker::link::{Source, Unheard};
use crate::broker::message_trace::Ingress;
use crate::broker::outbox::Outbox;
use crate::broker::passage::Routed;
use crate::broker::route_cache::RouteCache;
use crate::broker::service::{Published, ServicePublisher};
use crate::broker::turn::Turn;
use crate::config::auth_options::{PermissionOptions, SubjectPermissionOptions};
use crate::protocol::message::MessageRun;

const ACCOUNT: AccountId = AccountId::GLOBAL;

struct Setting {
    broker: Broker,
    clients: Vec<(ClientKey, Rc<Outbox>)>,
    cache: RouteCache,
    turn: Turn,
}

impl Setting {
    /// The first client is the publisher.
    fn new(client_count: u64, turn_work_max: usize) -> Self {
        let mut broker = Broker::reproducible(4);
        broker.set_turn_work_max(turn_work_max);
        let pool = Rc::new(BufferPool::new(&CHUNK_BYTES, 1 << 20));
        let clients = (5..5 + client_count)
            .map(|number| {
                let id = ConnectionId(number);
                let outbox = Rc::new(Outbox::new(id, pool.clone(), 64 << 20));
                (broker.attach(ACCOUNT, outbox.clone()), outbox)
            })
            .collect();
        Self { broker, clients, cache: RouteCache::default(), turn: Turn::new(turn_work_max) }
    }

    fn subscribe(&mut self, client: usize, filter: &str, queue: &str, sid: &str) {
        let (key, [filter, queue, sid]) =
            (self.clients[client].0, [filter, queue, sid].map(str::as_bytes));
        self.broker.subscribe(key, filter, queue, sid, None);
    }

    fn begin_turn(&mut self) {
        self.broker.note_turn_work(self.turn.work());
        self.turn.begin(self.broker.turn_work_max());
    }

    /// Publishes as the first client; what one turn of it came to.
    fn publish(&mut self, subject: &str, reply: &str, echo: bool) -> Routed {
        let message = Message::without_headers(subject.as_bytes(), reply.as_bytes(), b"hi", b"2");
        self.begin_turn();
        self.publish_message(message, echo)
    }

    fn publish_message(&mut self, message: Message<'_>, echo: bool) -> Routed {
        let (client, outbox) = &self.clients[0];
        let origin = Origin::client(ACCOUNT, *client, (!echo).then_some(outbox.id), true);
        let run = MessageRun::one(message);
        self.broker.publish(&origin, &run, &mut self.cache, &mut self.turn)
    }

    /// Takes turns until the message is done, with `between` before each; how many it took.
    fn finish(&mut self, mut between: impl FnMut(&mut Self)) -> usize {
        let mut turns = 0;
        while let Some(fan_out) = self.turn.unfinished.take() {
            between(self);
            self.begin_turn();
            let _: Routed = self.broker.resume(fan_out, &mut self.turn);
            turns += 1;
        }
        self.begin_turn();
        turns
    }

    fn heard(&self, client: usize) -> String {
        let outbox = &self.clients[client].1;
        let mut bytes = Vec::new();
        while let Poll::Ready(Some(chunk)) =
            std::pin::pin!(outbox.next_chunk()).poll(&mut Context::from_waker(Waker::noop()))
        {
            bytes.extend_from_slice(&chunk);
        }
        String::from_utf8(bytes).expect("payloads are text")
    }

    /// No turn did more than it may: what it may begin as one piece comes on top.
    fn assert_short_turns(&self) {
        let done = self.broker.counters.turn_work_max;
        assert!(done <= TURN_WORK_MAX + TURN_WORK_MAX / WHOLE_WORK_SHARE, "{done} in one turn");
        assert!(done > TURN_WORK_MAX / 2, "{done} in one turn is not worth the while");
    }
}

fn denied(subject: &str) -> crate::auth::permissions::DeliveryFilter {
    let deny = SubjectPermissionOptions { allow: None, deny: Some(vec![subject.into()]) };
    let options = PermissionOptions { subscribe: Some(deny), ..PermissionOptions::default() };
    let permissions = Permissions::compile(&options, false).expect("a subject");
    match permissions.may_subscribe(b">", None) {
        SubscribeRight::AllowedWithDeliveryFilter(filter) => filter,
        _ => panic!("the filter reaches what is denied"),
    }
}

#[test]
fn a_message_in_parts_does_to_everybody_what_it_does_in_one_piece() {
    let mut random = fastrand::Rng::with_seed(12);
    let mut in_parts = 0;
    for _ in 0..500 {
        let client_count = random.u64(1..6);
        let wishes: Vec<(usize, &str, &str, u64, bool)> = (0..random.usize(0..40))
            .map(|_| {
                let client = random.usize(..client_count as usize);
                let filter = ["a.b", "a.*", ">", "*.b", "a.c"][random.usize(..5)];
                // One member each: with more the pick is random.
                let max = if random.usize(..4) == 0 { random.u64(1..4) } else { 0 };
                (client, filter, "", max, random.usize(..6) == 0)
            })
            .collect();
        let echo = random.bool();
        let run = |turn_work_max: usize| {
            let mut setting = Setting::new(client_count, turn_work_max);
            for (number, (client, filter, queue, max, denies)) in wishes.iter().enumerate() {
                let (key, sid) = (setting.clients[*client].0, number.to_string());
                let queue = if number % 7 == 0 { format!("q{number}") } else { (*queue).into() };
                let deny = denies.then(|| denied("a.b"));
                let broker = &mut setting.broker;
                broker.subscribe(key, filter.as_bytes(), queue.as_bytes(), sid.as_bytes(), deny);
                if *max > 0 {
                    broker.unsubscribe(key, sid.as_bytes(), *max);
                }
            }
            let mut turns = 0;
            for subject in ["a.b", "a.b", "c.b", "a.b", "a.d", "a.b"] {
                let _: Routed = setting.publish(subject, "", echo);
                turns += setting.finish(|_| {});
            }
            while setting.broker.work_off() {}
            let heard: Vec<String> = (0..client_count as usize)
                .map(|client| {
                    let count = setting.broker.subscription_count(setting.clients[client].0);
                    format!("{count} left, {}", sorted(&setting.heard(client)))
                })
                .collect();
            (heard, turns)
        };
        let (expected, turns) = run(TURN_WORK_MAX);
        assert_eq!(turns, 0);
        let (found, turns) = run(random.usize(1..12));
        assert_eq!(found, expected, "{wishes:?}");
        in_parts += usize::from(turns > 0);
    }
    assert!(in_parts > 300, "{in_parts}");
}

/// The messages of each subscription in their order: which subscription comes first is open.
fn sorted(heard: &str) -> String {
    let mut lines: Vec<&str> = heard.split_inclusive("hi\r\n").collect();
    lines.sort_by_key(|line| line.split(' ').nth(2).map(str::to_owned));
    lines.concat()
}

#[test]
fn a_message_to_many_queue_groups_of_its_own_publisher_takes_short_turns() {
    let mut setting = Setting::new(1, TURN_WORK_MAX);
    for number in 0..60_000 {
        setting.subscribe(0, "own", &format!("q{number}"), &number.to_string());
    }
    for _ in 0..2 {
        assert_eq!(setting.publish("own", "", false), Routed::Unfinished);
        assert!(setting.finish(|_| {}) >= 2);
    }
    assert_eq!(setting.heard(0), "");
    setting.assert_short_turns();
    // And with one group of as many members.
    let mut setting = Setting::new(1, TURN_WORK_MAX);
    for number in 0..60_000 {
        setting.subscribe(0, "own", "q", &number.to_string());
    }
    assert_eq!(setting.publish("own", "", false), Routed::Unfinished);
    setting.finish(|_| {});
    assert_eq!(setting.heard(0), "");
    setting.assert_short_turns();
}

#[test]
fn subscriptions_that_may_not_have_a_message_count_too() {
    let mut setting = Setting::new(2, TURN_WORK_MAX);
    for number in 0..30_000 {
        let key = setting.clients[1].0;
        let sid = number.to_string();
        setting.broker.subscribe(key, b">", b"", sid.as_bytes(), Some(denied("secret")));
    }
    assert_eq!(setting.publish("secret", "", true), Routed::Unfinished);
    setting.finish(|_| {});
    assert_eq!(setting.heard(1), "");
    setting.assert_short_turns();
}

#[test]
fn a_large_message_to_some_takes_as_many_turns_as_a_small_one_to_many() {
    let mut setting = Setting::new(60, TURN_WORK_MAX);
    for client in 1..60 {
        setting.subscribe(client, "large", "", "1");
    }
    let body = vec![b'x'; 1 << 20];
    let message = Message::without_headers(b"large", b"", &body, b"1048576");
    assert_eq!(setting.publish_message(message, true), Routed::Unfinished);
    assert!(setting.finish(|_| {}) >= 3);
    for client in 1..60 {
        assert_eq!(setting.clients[client].1.out_messages.get(), 1);
    }
    setting.assert_short_turns();
}

#[test]
fn a_subject_that_many_long_filters_fit_is_matched_in_short_turns() {
    let mut setting = Setting::new(2, TURN_WORK_MAX);
    let subject = vec!["a"; 500].join(".");
    for number in 0..3_000 {
        let mut tokens = vec!["*"; 500];
        tokens[number % 500] = "a";
        tokens[number / 500 * 80] = "a";
        setting.subscribe(1, &tokens.join("."), "", &number.to_string());
    }
    assert_eq!(setting.publish(&subject, "", true), Routed::Unfinished);
    assert!(setting.finish(|_| {}) >= 3);
    assert_eq!(setting.clients[1].1.out_messages.get(), 3_000);
    setting.assert_short_turns();
}

#[test]
fn who_leaves_meanwhile_is_skipped_and_who_comes_is_too_late() {
    let mut setting = Setting::new(401, 40);
    for client in 1..401 {
        setting.subscribe(client, "news", "", "1");
    }
    // The whole list is found before anybody has the message.
    assert_eq!(setting.publish("news", "", true), Routed::Unfinished);
    setting.finish(|setting| {
        let began = setting.clients.iter().any(|(_, outbox)| outbox.out_messages.get() > 0);
        if !began {
            return;
        }
        for client in 1..401 {
            let (key, outbox) = &setting.clients[client];
            if outbox.out_messages.get() == 0 && client % 2 == 0 {
                setting.broker.unsubscribe(*key, b"1", 0);
                setting.broker.subscribe(*key, b"news", b"", b"2", None);
            }
        }
    });
    let heard: Vec<String> = (1..401).map(|client| setting.heard(client)).collect();
    let message = "MSG news 1 2\r\nhi\r\n";
    assert!(heard.iter().all(|heard| heard.is_empty() || heard == message));
    let skipped = heard.iter().filter(|heard| heard.is_empty()).count();
    assert!((100..=200).contains(&skipped), "{skipped}");
    assert!(heard.iter().step_by(2).all(|heard| heard == message), "those that stayed");
}

#[test]
fn a_maximum_counts_in_every_part() {
    let mut setting = Setting::new(2, 16);
    for number in 0..200 {
        setting.subscribe(1, "news", "", &number.to_string());
        let key = setting.clients[1].0;
        setting.broker.unsubscribe(key, number.to_string().as_bytes(), 2);
    }
    for left in [200, 0, 0] {
        let _: Routed = setting.publish("news", "", true);
        setting.finish(|_| {});
        while setting.broker.work_off() {}
        assert_eq!(setting.broker.subscription_count(setting.clients[1].0), left);
    }
    assert_eq!(setting.clients[1].1.out_messages.get(), 400);
}

#[test]
fn a_request_that_nobody_takes_is_answered_after_its_last_part() {
    let mut setting = Setting::new(2, 10);
    for number in 0..100 {
        setting.subscribe(0, "ask", &format!("q{number}"), &format!("q{number}"));
        setting.subscribe(1, "inbox.*", "", &number.to_string());
    }
    setting.subscribe(0, "inbox.*", "", "mine");
    assert_eq!(setting.publish("ask", "inbox.1", false), Routed::Unfinished);
    assert!(setting.finish(|setting| assert_eq!(setting.heard(0), "")) > 10);
    let heard = setting.heard(0);
    assert!(heard.starts_with("HMSG inbox.1 mine") && heard.contains("503"), "{heard}");
    assert_eq!(setting.heard(1), "");
}

/// What is only traced is delivered to nobody, but its receivers are looked for as those of any
/// message.
#[test]
fn a_request_to_nobody_takes_short_turns_and_is_answered_if_nobody_wants_it() {
    const SHAPES: usize = 40_000;
    let mut setting = Setting::new(2, TURN_WORK_MAX);
    for number in 0..SHAPES {
        let token = |bit: usize| if number >> bit & 1 == 1 { "*" } else { "no" };
        let filter: Vec<&str> = (0..16).map(token).chain(["*"]).collect();
        setting.subscribe(1, &filter.join("."), "", &number.to_string());
    }
    setting.subscribe(0, "inbox", "", "mine");
    for (subject, answer) in [(["yes"; 17].join("."), "503"), (["no"; 17].join("."), "")] {
        let message = Message::without_headers(subject.as_bytes(), b"inbox", b"hi", b"2");
        let origin = Origin::client(ACCOUNT, setting.clients[0].0, None, true);
        setting.begin_turn();
        let ingress = Ingress::only(ACCOUNT, &message);
        let turn = &mut setting.turn;
        let routed = setting.broker.publish_traced(&origin, &message, ingress, turn);
        assert_eq!(routed, Routed::Unfinished, "{subject}");
        assert!(setting.finish(|_| {}) >= SHAPES / TURN_WORK_MAX, "{subject}");
        let heard = setting.heard(0);
        assert!(heard.contains(answer) && heard.is_empty() == answer.is_empty(), "{heard}");
    }
    assert_eq!(setting.heard(1), "");
    setting.assert_short_turns();
}

#[test]
fn what_comes_back_unheard_counts_in_the_turn_that_takes_it() {
    const RECEIVERS: usize = 1_000;
    let mut setting = Setting::new(2, TURN_WORK_MAX);
    setting.subscribe(0, "inbox", "", "mine");
    for number in 0..RECEIVERS {
        setting.subscribe(1, "inbox", "", &number.to_string());
    }
    let client = setting.clients[0].0;
    let (subject, reply) = (b"ask".to_vec(), b"inbox".to_vec());
    let unheard = Unheard { account: ACCOUNT, client, share: Source::WHOLE, subject, reply };
    for count in 1..=3 {
        setting.broker.link_unheard(&unheard, &mut setting.turn);
        assert!(setting.turn.work() > count * RECEIVERS, "{}", setting.turn.work());
    }
    assert_eq!(setting.heard(0).matches("503").count(), 3);
    // Shares of one request among many that wait for theirs.
    setting.begin_turn();
    for number in 0..UNHEARD_REQUESTS_MAX {
        let subject = format!("{number}.{}", "x".repeat(2_000)).into_bytes();
        let unheard = Unheard { share: 1, subject, ..unheard.clone() };
        setting.broker.link_unheard(&unheard, &mut setting.turn);
    }
    let done = setting.turn.work();
    assert!(done > UNHEARD_REQUESTS_MAX * 2_000 / TOKEN_BYTES_PER_UNIT, "{done}");
}

/// Services answer what clients ask for: together they do no more in one turn than one of them may.
#[test]
fn messages_of_services_share_the_work_of_a_turn() {
    const RECEIVERS: usize = 2_000;
    let mut setting = Setting::new(2, TURN_WORK_MAX);
    for number in 0..RECEIVERS {
        setting.subscribe(1, "many", "", &number.to_string());
    }
    let message = Message::without_headers(b"many", b"", b"hi", b"2");
    let mut publisher = ServicePublisher::default();
    let mut sent = 0;
    for _ in 0..64 {
        if let Published::Delivered =
            setting.broker.publish_service(&mut publisher, ACCOUNT, &message)
        {
            sent += 1;
        }
    }
    let at_once = setting.clients[1].1.out_messages.get() as usize;
    let whole_max = TURN_WORK_MAX / WHOLE_WORK_SHARE;
    assert!(at_once <= TURN_WORK_MAX + whole_max, "{at_once} in one turn");
    while setting.broker.work_off() {}
    assert_eq!(setting.clients[1].1.out_messages.get() as usize, sent * RECEIVERS);
}

#[test]
fn what_a_publisher_leaves_behind_is_delivered_all_the_same() {
    let mut setting = Setting::new(101, 20);
    for client in 1..101 {
        setting.subscribe(client, "last.words", "", "1");
    }
    assert_eq!(setting.publish("last.words", "", true), Routed::Unfinished);
    let fan_out = setting.turn.unfinished.take().expect("it is unfinished");
    setting.broker.adopt(fan_out);
    setting.broker.detach(setting.clients[0].0);
    while setting.broker.work_off() {}
    assert!((1..101).all(|client| setting.heard(client) == "MSG last.words 1 2\r\nhi\r\n"));
}

#[test]
fn messages_of_the_server_to_many_keep_their_order() {
    let mut setting = Setting::new(101, 20);
    for client in 1..101 {
        setting.subscribe(client, "many", "", "1");
    }
    setting.subscribe(1, "one", "", "2");
    let message =
        |subject: &'static str| Message::without_headers(subject.as_bytes(), b"", b"hi", b"2");
    let mut publisher = ServicePublisher::default();
    for subject in ["many", "one", "many"] {
        let message = message(subject);
        let published = setting.broker.publish_service(&mut publisher, ACCOUNT, &message);
        assert!(matches!(published, Published::Delivered));
    }
    while setting.broker.work_off() {}
    let expected = "MSG many 1 2\r\nhi\r\nMSG one 2 2\r\nhi\r\nMSG many 1 2\r\nhi\r\n";
    assert_eq!(setting.heard(1), expected);
    // What waits is bounded.
    let body = vec![b'x'; 1 << 20];
    let large = Message { body: &body, size_text: b"1048576", ..message("many") };
    let mut told = 0;
    let wait = loop {
        match setting.broker.publish_service(&mut publisher, ACCOUNT, &large) {
            Published::Delivered => told += 1,
            Published::NoInterest | Published::ReadFirst => panic!("many want it"),
            Published::Congested(wait) => break wait,
        }
    };
    assert!((2..6).contains(&told), "{told}");
    while wait.gate.value() < wait.until {
        assert!(setting.broker.work_off(), "what is waited for comes");
    }
    let published = setting.broker.publish_service(&mut publisher, ACCOUNT, &large);
    assert!(matches!(published, Published::Delivered), "there is room again");
    while setting.broker.work_off() {}
    assert_eq!(setting.clients[100].1.out_messages.get(), 2 + told + 1);
}

/// Peers that publish to many and are gone: what is left of their messages is bounded.
#[test]
fn messages_whose_publishers_are_gone_wait_within_a_bound() {
    let mut setting = Setting::new(1, 20);
    let body = vec![b'x'; 1 << 20];
    let message = Message::without_headers(b"many", b"", &body, b"1048576");
    let origin = Origin::client(ACCOUNT, setting.clients[0].0, None, true);
    let passage = Passage::new(&message, &origin, None);
    for _ in 0..100 {
        let began = setting.broker.cuts.token();
        setting.broker.adopt(FanOut::new(&passage, Stage::Matching(None), began));
    }
    let dropped = setting.broker.counters.orphans_dropped;
    assert_eq!(dropped, 100 - (ADOPTED_FAN_OUT_BYTES_MAX / (1 << 20)) as u64 + 1);
    while setting.broker.work_off() {}
    let began = setting.broker.cuts.token();
    setting.broker.adopt(FanOut::new(&passage, Stage::Matching(None), began));
    assert_eq!(setting.broker.counters.orphans_dropped, dropped);
}

#[test]
fn the_end_of_a_client_with_many_subscriptions_takes_short_turns() {
    const COUNT: usize = 50_000;
    let mut setting = Setting::new(2, TURN_WORK_MAX);
    for client in 0..2 {
        for number in 0..COUNT {
            setting.subscribe(client, &format!("s.{number}.*"), "", &number.to_string());
        }
    }
    // A second CONNECT: nothing of its own, all in its turns.
    let mut turns = 0;
    loop {
        setting.begin_turn();
        let dropped = setting.broker.unsubscribe_all(setting.clients[0].0, &mut setting.turn);
        if matches!(dropped, crate::broker::backlog::Dropped::All) {
            break;
        }
        turns += 1;
    }
    assert!(turns >= COUNT * SUBSCRIPTION_WORK / (TURN_WORK_MAX * 2), "{turns}");
    assert_eq!(setting.broker.subscription_count(setting.clients[0].0), 0);
    setting.subscribe(0, "again", "", "1");
    // An end: the rest goes behind.
    setting.broker.detach(setting.clients[1].0);
    let mut turns = 0;
    while setting.broker.work_off() {
        turns += 1;
    }
    assert!(turns >= COUNT * SUBSCRIPTION_WORK / (TURN_WORK_MAX * 2), "{turns}");
    assert_eq!(setting.broker.table_total(), 1);
    setting.assert_short_turns();
}

#[test]
fn the_end_of_a_client_with_long_filters_takes_short_turns() {
    const COUNT: usize = 200;
    let mut setting = Setting::new(2, TURN_WORK_MAX);
    for number in 0..COUNT {
        let sid = number.to_string();
        setting.subscribe(1, &format!("a.b.{}{number}", "*.".repeat(1_000)), "", &sid);
    }
    // Subjects that each of the filters is compared with.
    let compared = 30 * 2_000;
    for number in 0..30 {
        let subject = format!("a.b.{}s{number}", "x.".repeat(1_000));
        assert_eq!(setting.publish(&subject, "", true), Routed::Nobody);
    }
    setting.broker.take_change_work();
    setting.broker.detach(setting.clients[1].0);
    let mut turns = 0;
    while setting.broker.work_off() {
        turns += 1;
    }
    assert!(turns >= COUNT * compared / TOKEN_BYTES_PER_UNIT / TURN_WORK_MAX, "{turns}");
    assert_eq!(setting.broker.table_total(), 0);
    let done = setting.broker.counters.turn_work_max;
    assert!(done <= TURN_WORK_MAX + TURN_WORK_MAX / WHOLE_WORK_SHARE, "{done} in one turn");
}

#[test]
fn who_leaves_before_its_ended_subscriptions_are_taken_away_takes_nothing_with_it() {
    const COUNT: usize = 5_000;
    let mut setting = Setting::new(3, TURN_WORK_MAX);
    let leaver = setting.clients[1].0;
    for number in 0..COUNT {
        let sid = number.to_string();
        setting.subscribe(1, "last", "", &sid);
        setting.broker.unsubscribe(leaver, sid.as_bytes(), 1);
    }
    setting.subscribe(2, "last", "", "1");
    let _: Routed = setting.publish("last", "", true);
    setting.finish(|_| {});
    setting.broker.detach(leaver);
    while setting.broker.work_off() {}
    assert_eq!(setting.broker.table_total(), 1);
    let _: Routed = setting.publish("last", "", true);
    assert_eq!(setting.heard(2), "MSG last 1 2\r\nhi\r\n".repeat(2));
}

#[test]
fn long_lists_are_dropped_a_part_at_a_time() {
    let mut setting = Setting::new(2, TURN_WORK_MAX);
    for number in 0..40_000 {
        setting.subscribe(1, "many", "", &number.to_string());
    }
    let _: Routed = setting.publish("many", "", true);
    setting.finish(|_| {});
    // Another subscription makes the list a thing of the past.
    setting.subscribe(1, "many", "", "one more");
    let _: Routed = setting.publish("other", "", true);
    let mut turns = 0;
    while setting.broker.work_off() {
        turns += 1;
    }
    assert!(turns >= 40_000 / TURN_WORK_MAX, "{turns}");
    setting.assert_short_turns();
}

#[test]
fn a_cleared_match_cache_is_dropped_a_part_at_a_time() {
    const COUNT: usize = 6_000;
    const WORK_MAX: usize = 400;
    let mut setting = Setting::new(2, WORK_MAX);
    for number in 0..COUNT {
        let subject = format!("apart.{number}");
        setting.subscribe(1, &subject, "", &subject);
        let _: Routed = setting.publish(&subject, "", true);
    }
    assert_eq!(setting.broker.table_counts(ACCOUNT).cached, COUNT);
    assert!(!setting.broker.has_ready_work());
    let bytes = setting.broker.cached_bytes();
    // More of them would have to be looked at than one change may.
    setting.subscribe(1, "*.other", "", "*.other");
    assert_eq!(setting.broker.table_counts(ACCOUNT).cached, 0);
    assert_eq!(setting.broker.cached_bytes(), bytes, "they are still there");
    let mut turns = 0;
    while setting.broker.work_off() {
        turns += 1;
    }
    assert!(turns >= COUNT / WORK_MAX, "{turns}");
    assert_eq!(setting.broker.cached_bytes(), 0);
    assert!(setting.broker.counters.turn_work_max <= WORK_MAX);
}

/// Of a hundred thousand accounts those cost something that are used here.
#[test]
fn an_account_has_its_state_when_it_is_first_needed() {
    let mut setting = Setting::new(2, TURN_WORK_MAX);
    let last = AccountId(100_000);
    let (client, outbox) = setting.clients[1].clone();
    setting.broker.set_account(client, last);
    assert_eq!(setting.broker.account_count(), 100_001);
    assert_eq!(setting.broker.account_state_count(), 2);
    setting.subscribe(1, "far", "", "1");
    assert_eq!(setting.broker.table_total(), 1);
    setting.broker.set_account(setting.clients[0].0, last);
    let message = Message::without_headers(b"far", b"", b"", b"0");
    let origin = Origin::client(last, setting.clients[0].0, None, false);
    let run = MessageRun::one(message);
    let routed = setting.broker.publish(&origin, &run, &mut setting.cache, &mut setting.turn);
    assert_eq!((routed, outbox.out_messages.get()), (Routed::Delivered, 1));
    setting.broker.detach(client);
    assert_eq!(setting.broker.table_total(), 0);
}

#[test]
fn a_review_looks_at_every_subscription_whatever_comes_and_goes() {
    let mut random = fastrand::Rng::with_seed(14);
    for _ in 0..60 {
        let mut setting = Setting::new(1, TURN_WORK_MAX);
        let key = setting.clients[0].0;
        let before = random.usize(1..300);
        for number in 0..before {
            let filter = if number % 3 == 0 { "denied" } else { "open" };
            setting.subscribe(0, filter, "", &number.to_string());
        }
        let deny = SubjectPermissionOptions { allow: None, deny: Some(vec!["denied".into()]) };
        let options = PermissionOptions { subscribe: Some(deny), ..PermissionOptions::default() };
        let permissions = Permissions::compile(&options, false).expect("a subject");
        let at_most = random.usize(1..40);
        let (mut restarts, mut removed, mut next) = (true, 0, before);
        loop {
            let restarts = std::mem::take(&mut restarts);
            let review = setting.broker.review_subscriptions(key, &permissions, restarts, at_most);
            assert!(review.removed.len() <= at_most);
            removed += review.removed.len();
            if review.is_done {
                break;
            }
            // It goes on subscribing by its new permissions, and its table grows.
            for _ in 0..random.usize(..4).min(1000_usize.saturating_sub(next)) {
                setting.subscribe(0, "open", "", &next.to_string());
                next += 1;
            }
            if random.bool() {
                let sid = random.usize(..before).to_string();
                let had = setting.broker.subscription_count(key);
                setting.broker.unsubscribe(key, sid.as_bytes(), 0);
                let gone = had - setting.broker.subscription_count(key);
                removed += usize::from(gone > 0 && sid.parse::<usize>().unwrap() % 3 == 0);
            }
        }
        assert_eq!(removed, before.div_ceil(3));
        setting.broker.walk_subscriptions(key, 0, &mut usize::MAX.clone(), |subscription| {
            assert_eq!(subscription.filter(), b"open");
            true
        });
    }
}
